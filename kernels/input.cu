// What comes in, laid out as the convolutions want it: channels last and padded
// to a multiple of eight with zeros.
#include "common.cuh"

struct InputParameters {
    const void* input;
    void* output;  // [N, positions, stride], clips `output_clip` values apart
    const float* table;  // [channels, 256]: what each grey level becomes
    long long output_clip;
    int clips, positions, channels, stride;
};

// From grey pictures, [N, positions] bytes: normalised, channel by channel.
template <typename E>
__device__ __forceinline__ void normalise(const InputParameters& p) {
    const long long item = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (item >= static_cast<long long>(p.clips) * p.positions) return;
    const int grey = static_cast<const uint8_t*>(p.input)[item];
    E* output = static_cast<E*>(p.output) + item / p.positions * p.output_clip + item % p.positions * p.stride;
    for (int first = 0; first < p.stride; first += 8) {
        Eight eight = {};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if (first + i < p.channels) eight.value[i] = p.table[(first + i) * 256 + grey];
        }
        store_eight(output + first, eight);
    }
}

KERNEL(normalise_f32, InputParameters, 256) { normalise<float>(p); }
KERNEL(normalise_f16, InputParameters, 256) { normalise<f16>(p); }
KERNEL(normalise_bf16, InputParameters, 256) { normalise<bf16>(p); }

// From values that are normalised already, [N, channels, positions] in f32.
template <typename E>
__device__ __forceinline__ void channels_last(const InputParameters& p) {
    const long long item = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (item >= static_cast<long long>(p.clips) * p.positions) return;
    const long long clip = item / p.positions;
    const long long position = item % p.positions;
    const float* input = static_cast<const float*>(p.input) + clip * p.channels * p.positions + position;
    E* output = static_cast<E*>(p.output) + clip * p.output_clip + position * p.stride;
    for (int first = 0; first < p.stride; first += 8) {
        Eight eight = {};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if (first + i < p.channels) {
                eight.value[i] = input[static_cast<long long>(first + i) * p.positions];
            }
        }
        store_eight(output + first, eight);
    }
}

KERNEL(channels_last_f32, InputParameters, 256) { channels_last<float>(p); }
KERNEL(channels_last_f16, InputParameters, 256) { channels_last<f16>(p); }
KERNEL(channels_last_bf16, InputParameters, 256) { channels_last<bf16>(p); }
