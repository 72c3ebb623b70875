// Pooling, channels last: [N, T, H, W, C], C a multiple of eight.
#include "common.cuh"

struct WindowPool {
    const void* input;
    void* output;
    long long input_clip, output_clip;  // values from one clip's to the next one's
    int clips, channels;
    int in[3], out[3];     // frames, rows, columns
    int kernel[3], stride[3], padding[3];
};

// output[n, p, c] = max or mean over the window around p of input[n, .., c]. For
// the largest value padding does not count, and what is not a number wins; for
// the mean padding counts as zeros.
//
// A thread computes eight channels of one position.
template <typename E, bool MEAN>
__device__ __forceinline__ void window_pool(const WindowPool& p) {
    const int chunks = p.channels / 8;
    const int item = blockIdx.x * blockDim.x + threadIdx.x;
    const int positions = p.out[0] * p.out[1] * p.out[2];
    if (item >= p.clips * positions * chunks) return;
    const int chunk = item % chunks;
    const int row = item / chunks;
    const int clip = row / positions;
    int place = row % positions;
    int at[3];
    at[2] = place % p.out[2], place /= p.out[2];
    at[1] = place % p.out[1];
    at[0] = place / p.out[1];
    int begin[3], end[3];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        const int first = at[axis] * p.stride[axis] - p.padding[axis];
        const int last = first + p.kernel[axis];
        begin[axis] = first < 0 ? 0 : first;
        end[axis] = last > p.in[axis] ? p.in[axis] : last;
    }
    const E* input = static_cast<const E*>(p.input) + clip * p.input_clip + chunk * 8;
    Eight result;
#pragma unroll
    for (int i = 0; i < 8; ++i) result.value[i] = MEAN ? 0.0f : negative_infinity();
    const long long frame = static_cast<long long>(p.in[1]) * p.in[2];
    for (int t = begin[0]; t < end[0]; ++t) {
        for (int h = begin[1]; h < end[1]; ++h) {
            const E* from = input + (t * frame + h * p.in[2] + begin[2]) * p.channels;
            // Not unrolled: the window's extent is known at run time only.
#pragma unroll 1
            for (int w = begin[2]; w < end[2]; ++w, from += p.channels) {
                const Eight here = load_eight(from);
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    const float x = here.value[i];
                    if (MEAN) {
                        result.value[i] += x;
                    } else if (x > result.value[i] || x != x) {
                        result.value[i] = x;
                    }
                }
            }
        }
    }
    if (MEAN) {
        const float count = static_cast<float>(p.kernel[0] * p.kernel[1] * p.kernel[2]);
#pragma unroll
        for (int i = 0; i < 8; ++i) result.value[i] /= count;
    }
    const long long to = static_cast<long long>(row % positions) * p.channels + chunk * 8;
    store_eight(static_cast<E*>(p.output) + clip * p.output_clip + to, result);
}

KERNEL(max_pool_f32, WindowPool, 256) { window_pool<float, false>(p); }
KERNEL(max_pool_f16, WindowPool, 256) { window_pool<f16, false>(p); }
KERNEL(max_pool_bf16, WindowPool, 256) { window_pool<bf16, false>(p); }
KERNEL(average_pool_f32, WindowPool, 256) { window_pool<float, true>(p); }
KERNEL(average_pool_f16, WindowPool, 256) { window_pool<f16, true>(p); }
KERNEL(average_pool_bf16, WindowPool, 256) { window_pool<bf16, true>(p); }

struct MeanPool {
    const void* input;
    void* output;
    long long input_clip, output_clip;
    int clips;
    int groups;     // frames that are averaged apart, or 1
    int positions;  // in a group
    int channels;
    int output_is_f32;
};

// output[n, g, c] = mean over the positions of group g of input[n, g, .., c].
//
// A block of 256 threads takes 64 channels of one group: eight threads side by
// side read one position, 32 positions at a time; the 32 sums are added in one
// order, so that the answer has the same bits whatever the batch.
// Shared memory: [32][64] sums.
template <typename E>
__device__ __forceinline__ void mean_pool(const MeanPool& p) {
    float* sums = reinterpret_cast<float*>(shared_bytes());
    const int row = blockIdx.x;
    const int channel = blockIdx.y * 64 + threadIdx.x % 8 * 8;
    const int lane = threadIdx.x / 8;
    const E* input = static_cast<const E*>(p.input) + row / p.groups * p.input_clip +
                     static_cast<long long>(row % p.groups) * p.positions * p.channels + channel;
    Eight sum = {};
    if (channel < p.channels) {
        for (int position = lane; position < p.positions; position += 32) {
            const Eight here = load_eight(input + static_cast<long long>(position) * p.channels);
#pragma unroll
            for (int i = 0; i < 8; ++i) sum.value[i] += here.value[i];
        }
    }
    store_eight(sums + lane * 64 + threadIdx.x % 8 * 8, sum);
    __syncthreads();
    const int mine = blockIdx.y * 64 + threadIdx.x;
    if (threadIdx.x >= 64 || mine >= p.channels) return;
    float total = 0.0f;
    for (int i = 0; i < 32; ++i) total += sums[i * 64 + threadIdx.x];
    total /= static_cast<float>(p.positions);
    const long long to = row / p.groups * p.output_clip + static_cast<long long>(row % p.groups) * p.channels + mine;
    if (p.output_is_f32) {
        static_cast<float*>(p.output)[to] = total;
    } else {
        static_cast<E*>(p.output)[to] = from_float<E>(total);
    }
}

KERNEL(mean_pool_f32, MeanPool, 256) { mean_pool<float>(p); }
KERNEL(mean_pool_f16, MeanPool, 256) { mean_pool<f16>(p); }
KERNEL(mean_pool_bf16, MeanPool, 256) { mean_pool<bf16>(p); }
