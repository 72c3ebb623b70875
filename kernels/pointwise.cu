// What happens to each value by itself, where no convolution takes it in.
#include "common.cuh"

struct Pointwise {
    const void* input;
    const void* other;   // or null
    void* output;
    const float* scale;  // [channels], zero in the padding
    const float* shift;
    long long input_clip, other_clip, output_clip;  // values from one clip's to the next one's
    int clips, positions, channels;
    int relu;
};

// output[n, p, c] = relu?(input[n, p, c] scale[c] + shift[c] + other[n, p, c]).
//
// A thread computes eight channels of one position.
template <typename E>
__device__ __forceinline__ void pointwise(const Pointwise& p) {
    const long long item = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int chunks = p.channels / 8;
    if (item >= static_cast<long long>(p.clips) * p.positions * chunks) return;
    const int channel = static_cast<int>(item % chunks) * 8;
    const long long row = item / chunks;
    const long long clip = row / p.positions;
    const long long place = row % p.positions * p.channels + channel;
    Eight value = load_eight(static_cast<const E*>(p.input) + clip * p.input_clip + place);
    const Eight scale = load_eight(p.scale + channel), shift = load_eight(p.shift + channel);
#pragma unroll
    for (int i = 0; i < 8; ++i) value.value[i] = value.value[i] * scale.value[i] + shift.value[i];
    if (p.other) {
        const Eight other = load_eight(static_cast<const E*>(p.other) + clip * p.other_clip + place);
#pragma unroll
        for (int i = 0; i < 8; ++i) value.value[i] += other.value[i];
    }
    if (p.relu) {
#pragma unroll
        for (int i = 0; i < 8; ++i) value.value[i] = relu(value.value[i]);
    }
    store_eight(static_cast<E*>(p.output) + clip * p.output_clip + place, value);
}

KERNEL(pointwise_f32, Pointwise, 256) { pointwise<float>(p); }
KERNEL(pointwise_f16, Pointwise, 256) { pointwise<f16>(p); }
KERNEL(pointwise_bf16, Pointwise, 256) { pointwise<bf16>(p); }
