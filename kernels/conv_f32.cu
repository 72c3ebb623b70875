// Convolution in f32: the path for parity with the CPU, plain rather than fast.
//
// A block of 256 threads computes 64 positions by 64 channels, 4 x 4 a thread,
// 16 of k at a time. Sums run over k in one order whatever the batch; sixteen
// products are added on their own first, which loses fewer digits.
//
// weights: [k padded to 16, channels_out], f32. Shared memory: [16][68] of A and
// [16][64] of B.
#include "conv.cuh"

namespace {
constexpr int kTile = 64;
constexpr int kDepth = 16;
constexpr int kPitch = kTile + 4;  // against bank conflicts while A is transposed
}  // namespace

KERNEL(conv_f32, Conv, 256) {
    float* a = reinterpret_cast<float*>(shared_bytes());
    float* b = a + kDepth * kPitch;
    const int thread = threadIdx.x;
    const int m0 = blockIdx.x * kTile, n0 = blockIdx.y * kTile;
    const float* input = static_cast<const float*>(p.input);
    const float* weights = static_cast<const float*>(p.weights);

    // Loading: four threads take the 16 of k of one position.
    const int load_m = thread / 4, load_k = thread % 4 * 4;
    const Origin origin = origin_of(p, m0 + load_m);
    Tap tap = tap_at(p, load_k);
    const int load_row = thread / 16, load_n = n0 + thread % 16 * 4;

    const int row = thread / 16 * 4, column = thread % 16 * 4;
    float total[4][4] = {};
    for (int k0 = 0; k0 < p.k; k0 += kDepth) {
        float4 from_input = {}, from_weights = {};
        const long long place = input_under(p, origin, tap);
        if (place >= 0) from_input = *reinterpret_cast<const float4*>(input + place);
        if (load_n < p.channels_out) {
            from_weights = *reinterpret_cast<const float4*>(
                weights + static_cast<long long>(k0 + load_row) * p.channels_out + load_n);
        }
        advance(p, tap, kDepth);
        __syncthreads();  // the last round's tile has been read
        a[(load_k + 0) * kPitch + load_m] = from_input.x;
        a[(load_k + 1) * kPitch + load_m] = from_input.y;
        a[(load_k + 2) * kPitch + load_m] = from_input.z;
        a[(load_k + 3) * kPitch + load_m] = from_input.w;
        *reinterpret_cast<float4*>(b + load_row * kTile + thread % 16 * 4) = from_weights;
        __syncthreads();
        float sum[4][4] = {};
#pragma unroll
        for (int k = 0; k < kDepth; ++k) {
            const float4 x = *reinterpret_cast<const float4*>(a + k * kPitch + row);
            const float4 y = *reinterpret_cast<const float4*>(b + k * kTile + column);
            const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) sum[i][j] += xs[i] * ys[j];
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) total[i][j] += sum[i][j];
        }
    }

    const int n = n0 + column;
    if (n >= p.channels_out) return;
    const int positions = p.out[0] * p.out[1] * p.out[2];
    for (int i = 0; i < 4; ++i) {
        const int m = m0 + row + i;
        if (m >= p.clips * positions) return;
        const int clip = m / positions;
        const long long place = static_cast<long long>(m % positions) * p.channels_out + n;
        float value[4];
        for (int j = 0; j < 4; ++j) value[j] = total[i][j] + p.bias[n + j];
        if (p.residual) {
            const float* residual = static_cast<const float*>(p.residual) + clip * p.residual_clip + place;
            for (int j = 0; j < 4; ++j) value[j] += residual[j];
        }
        if (p.relu) {
            for (int j = 0; j < 4; ++j) value[j] = relu(value[j]);
        }
        float4 out;
        out.x = value[0], out.y = value[1], out.z = value[2], out.w = value[3];
        *reinterpret_cast<float4*>(static_cast<float*>(p.output) + clip * p.output_clip + place) = out;
    }
}
