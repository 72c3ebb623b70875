// The recurrence of an LSTM (see lstm.cuh): the plain path, for parity, and by tensor
// cores for any card.
#include "lstm.cuh"

namespace {

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// W_hh: [hidden / units][4 units][hidden], gate by gate. Groups have 16 clips.
//
// Shared memory, in f32: W_hh, [4 units][hidden + 1], so that lanes that read a
// column of rows share no bank; h, [16][hidden]; the gates, [16][4 units].
__device__ __forceinline__ void lstm_plain(const Lstm& p) {
    constexpr int kGroup = 16;
    const int pitch = p.hidden + 1;
    const int rows = 4 * p.units;
    float* weights = reinterpret_cast<float*>(shared_bytes());
    float* h = weights + (rows * pitch + 3) / 4 * 4;
    float* sums = h + kGroup * p.hidden;

    const int thread = threadIdx.x;
    const int group = p.first_group + blockIdx.y;
    const int clip0 = group * kGroup;
    const int unit0 = blockIdx.x * p.units;
    unsigned* arrived = p.counters + 2 * group;

    const float* mine = static_cast<const float*>(p.recurrent) + static_cast<long long>(blockIdx.x) * rows * p.hidden;
    for (int i = thread; i < rows * p.hidden; i += blockDim.x) {
        weights[i / p.hidden * pitch + i % p.hidden] = mine[i];
    }
    for (int i = thread; i < kGroup * p.hidden; i += blockDim.x) h[i] = 0.0f;
    __syncthreads();

    // For the products: a row, and some of the clips. 256 threads cover `rows`
    // rows `256 / rows` times.
    const int row = thread % rows;
    const int shares = 256 / rows;
    const int clips_each = kGroup / shares;
    const int first = thread / rows * clips_each;
    // For the cells: a unit of a clip.
    const int unit = thread % p.units, clip = thread / p.units;
    const bool has_cell = clip < kGroup && clip0 + clip < p.clips;
    float cell = 0.0f;

    for (int t = 0; t < p.frames; ++t) {
        float sum[4] = {};
        for (int k = 0; k < p.hidden; ++k) {
            const float weight = weights[row * pitch + k];
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                if (c < clips_each) sum[c] += weight * h[(first + c) * p.hidden + k];
            }
        }
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            if (c < clips_each) sums[(first + c) * rows + row] = sum[c];
        }
        __syncthreads();
        float* state = static_cast<float*>(p.state) + static_cast<long long>(t % 2) * p.clips * p.hidden;
        if (has_cell) {
            const long long frame = static_cast<long long>(clip0 + clip) * p.frames + t;
            const float* gates = p.gates + frame * 4 * p.hidden + unit0 + unit;
            const float* own = sums + clip * rows + unit;
            const float in = sigmoid(finite(gates[0] + own[0]));
            const float forget = sigmoid(finite(gates[p.hidden] + own[p.units]));
            const float update = tanhf(finite(gates[2 * p.hidden] + own[2 * p.units]));
            const float out = sigmoid(finite(gates[3 * p.hidden] + own[3 * p.units]));
            cell = forget * cell + in * update;
            const float value = out * tanhf(cell);
            const long long place = static_cast<long long>(clip0 + clip) * p.hidden + unit0 + unit;
            state[place] = value;
            if (p.sequence) static_cast<float*>(p.sequence)[frame * p.hidden + unit0 + unit] = value;
            if (p.output && t + 1 == p.frames) p.output[place] = value;
        }
        if (t + 1 == p.frames) break;
        meet(arrived, t + 1);
        for (int i = thread; i < kGroup * p.hidden; i += blockDim.x) {
            const int from = clip0 + i / p.hidden;
            h[i] = from < p.clips ? load_fresh(state + static_cast<long long>(from) * p.hidden + i % p.hidden) : 0.0f;
        }
        __syncthreads();
    }
    leave(arrived);
}

}  // namespace

KERNEL(lstm_f32, Lstm, 256) { lstm_plain(p); }
KERNEL(lstm_f16, Lstm, 512) { lstm_mma<f16, false>(p); }
KERNEL(lstm_bf16, Lstm, 512) { lstm_mma<bf16, false>(p); }
