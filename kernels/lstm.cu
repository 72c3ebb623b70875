// The recurrence of an LSTM, persistent: one launch for all frames.
//
//   i, f, g, o = gates[t] + W_hh h;  c = sigmoid(f) c + sigmoid(i) tanh(g);
//   h = sigmoid(o) tanh(c)
//
// `gates` holds W_ih x + b of all frames, by one matrix product beforehand. A
// block owns `units` hidden units and 16 clips: its rows of W_hh stay in shared
// memory from the first frame to the last, and so do its cells in registers.
// After each frame the blocks of the same clips exchange h through global
// memory, and wait for each other at a counter; so all blocks of a launch must
// run together.
//
// Sums run over h in one order, whatever the batch.
//
// Shared memory: W_hh, [4 units][pitch] of E; h, [16][hidden] in f32; the
// gates, [16][4 units] in f32.
#include "ptx.cuh"

struct Lstm {
    const float* gates;     // [clips, frames, 4 hidden]
    const void* recurrent;  // [hidden / units][4 units][hidden]: gate by gate
    float* state;           // [2][clips][hidden]: h of this frame and the last one
    void* sequence;         // [clips, frames, hidden] of E: h of every frame, or null
    float* output;          // [clips, hidden]: h of the last frame, or null
    unsigned* counters;     // [groups of 16 clips][2], zero before and after
    int clips, frames, hidden, units;
    int first_group;        // of 16 clips
};

// What is infinite, because half precision could not hold it, must not come out
// of a sigmoid as an ordinary number: it becomes not a number, and shows.
__device__ __forceinline__ float finite(float x) { return x + 0.0f * x; }

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Two values of a row of W_hh.
__device__ __forceinline__ void load_two(const float* from, float& x, float& y) {
    x = from[0];
    y = from[1];
}

template <typename E>
__device__ __forceinline__ void load_two(const E* from, float& x, float& y) {
    const uint32_t pair = *reinterpret_cast<const uint32_t*>(from);
    E low, high;
    low.bits = static_cast<uint16_t>(pair);
    high.bits = static_cast<uint16_t>(pair >> 16);
    x = to_float(low);
    y = to_float(high);
}

template <typename E>
__device__ __forceinline__ void lstm(const Lstm& p) {
    constexpr int kClips = 16;
    // An odd number of words: lanes that read a column of rows share no bank.
    const int pitch = p.hidden + (sizeof(E) == 4 ? 1 : 2);
    const int rows = 4 * p.units;
    E* weights = reinterpret_cast<E*>(shared_bytes());
    float* h = reinterpret_cast<float*>(shared_bytes() + (rows * pitch * sizeof(E) + 15) / 16 * 16);
    float* sums = h + kClips * p.hidden;

    const int thread = threadIdx.x;
    const int group = p.first_group + blockIdx.y;
    const int clip0 = group * kClips;
    const int unit0 = blockIdx.x * p.units;
    unsigned* arrived = p.counters + 2 * group;
    const unsigned blocks = gridDim.x;

    const E* mine = static_cast<const E*>(p.recurrent) + static_cast<long long>(blockIdx.x) * rows * p.hidden;
    for (int i = thread; i < rows * p.hidden; i += blockDim.x) {
        weights[i / p.hidden * pitch + i % p.hidden] = mine[i];
    }
    for (int i = thread; i < kClips * p.hidden; i += blockDim.x) h[i] = 0.0f;
    __syncthreads();

    // For the products: a row, and some of the clips. 256 threads cover `rows`
    // rows `256 / rows` times.
    const int row = thread % rows;
    const int shares = 256 / rows;
    const int clips_each = kClips / shares;
    const int first = thread / rows * clips_each;
    // For the cells: a unit of a clip.
    const int unit = thread % p.units, clip = thread / p.units;
    const bool has_cell = clip < kClips && clip0 + clip < p.clips;
    float cell = 0.0f;

    for (int t = 0; t < p.frames; ++t) {
        float sum[4] = {};
        for (int k = 0; k < p.hidden; k += 2) {
            float x, y;
            load_two(weights + row * pitch + k, x, y);
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                if (c < clips_each) {
                    const float* state = h + (first + c) * p.hidden + k;
                    sum[c] += x * state[0];
                    sum[c] += y * state[1];
                }
            }
        }
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            if (c < clips_each) sums[(first + c) * rows + row] = sum[c];
        }
        __syncthreads();
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
            p.state[static_cast<long long>(t % 2) * p.clips * p.hidden + place] = value;
            if (p.sequence) {
                static_cast<E*>(p.sequence)[frame * p.hidden + unit0 + unit] = from_float<E>(value);
            }
            if (p.output && t + 1 == p.frames) p.output[place] = value;
        }
        if (t + 1 == p.frames) break;
        // All blocks of these clips have written h of this frame.
        __threadfence();
        __syncthreads();
        if (thread == 0) {
            add_at(arrived, 1);
            wait_for_counter(arrived, blocks * (t + 1));
        }
        __syncthreads();
        const float* fresh = p.state + static_cast<long long>(t % 2) * p.clips * p.hidden;
        for (int i = thread; i < kClips * p.hidden; i += blockDim.x) {
            const int from = clip0 + i / p.hidden;
            h[i] = from < p.clips ? load_fresh(fresh + static_cast<long long>(from) * p.hidden + i % p.hidden) : 0.0f;
        }
        __syncthreads();
    }
    // The last block to leave puts the counters back.
    __syncthreads();
    if (thread == 0 && add_at(arrived + 1, 1) == blocks - 1) {
        arrived[0] = 0;
        arrived[1] = 0;
    }
}

KERNEL(lstm_f32, Lstm, 256) { lstm<float>(p); }
KERNEL(lstm_f16, Lstm, 256) { lstm<f16>(p); }
KERNEL(lstm_bf16, Lstm, 256) { lstm<bf16>(p); }
