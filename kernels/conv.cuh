// A convolution as a matrix product that is never written out (implicit GEMM):
//
//   output[m, n] = relu?(sum over k of A[m, k] B[k, n] + bias[n] + residual[m, n])
//
// m counts the output positions of all clips, n the channels out, k the taps
// times the channels in, channels innermost. A[m, k] is the input under tap
// k / C of position m, or zero where that lies in the padding. Activations are
// [N, T, H, W, C], and C is padded to a multiple of eight with zeros.
#pragma once

#include "ptx.cuh"

struct Conv {
    const void* input;
    const void* weights;
    const float* bias;     // [channels_out]
    const void* residual;  // or null
    void* output;
    float* partial;        // [segments, M, channels_out], where the sum is split
    long long input_clip, residual_clip, output_clip;  // values between clips
    int clips;
    int channels, channels_out;
    int in[3], out[3];     // frames, rows, columns
    int kernel[3], stride[3], padding[3];
    int k;                 // taps times channels, padded as the kernel wants
    int segment;           // of k, summed on its own
    int segments;
    int is_split;          // each segment by a block of its own
    int relu;
    int output_is_f32;
    int centre;            // the stem's: grey level that becomes zero
};

// Where an output position begins to read.
struct Origin {
    long long clip;  // offset of its clip's values, or -1 behind the last one
    int t, h, w;
};

__device__ __forceinline__ Origin origin_of(const Conv& p, int m) {
    const int positions = p.out[0] * p.out[1] * p.out[2];
    const int clip = m / positions;
    if (clip >= p.clips) return {-1, 0, 0, 0};
    int place = m % positions;
    const int w = place % p.out[2];
    place /= p.out[2];
    const int h = place % p.out[1];
    const int t = place / p.out[1];
    return {clip * p.input_clip, t * p.stride[0] - p.padding[0], h * p.stride[1] - p.padding[1],
            w * p.stride[2] - p.padding[2]};
}

// A place in k, moved along without divisions.
struct Tap {
    int channel, t, h, w;
};

__device__ __forceinline__ Tap tap_at(const Conv& p, int k) {
    Tap tap;
    tap.channel = k % p.channels;
    int place = k / p.channels;
    tap.w = place % p.kernel[2];
    place /= p.kernel[2];
    tap.h = place % p.kernel[1];
    tap.t = place / p.kernel[1];
    return tap;
}

__device__ __forceinline__ void advance(const Conv& p, Tap& tap, int k) {
    tap.channel += k;
    while (tap.channel >= p.channels) {
        tap.channel -= p.channels;
        if (++tap.w == p.kernel[2]) {
            tap.w = 0;
            if (++tap.h == p.kernel[1]) {
                tap.h = 0;
                ++tap.t;
            }
        }
    }
}

// Which of k this block sums: all, or its own segment.
struct Share {
    int begin, end;
};

__device__ __forceinline__ Share share_of_block(const Conv& p) {
    if (!p.is_split) return {0, p.k};
    const int begin = static_cast<int>(blockIdx.z) * p.segment;
    return {begin, begin + p.segment < p.k ? begin + p.segment : p.k};
}

// Leaves this block's share to conv_reduce, for two channels beside each other.
__device__ __forceinline__ void leave(const Conv& p, int m, int n, float x, float y) {
    const long long rows = static_cast<long long>(p.clips) * p.out[0] * p.out[1] * p.out[2];
    float* partial = p.partial + (blockIdx.z * rows + m) * p.channels_out + n;
    partial[0] = x;
    partial[1] = y;
}

// The same for eight.
__device__ __forceinline__ void leave(const Conv& p, int m, int n, const Eight& sums) {
    const long long rows = static_cast<long long>(p.clips) * p.out[0] * p.out[1] * p.out[2];
    store_eight(p.partial + (blockIdx.z * rows + m) * p.channels_out + n, sums);
}

// Offset of the input under a tap, or -1 in the padding and behind the end.
__device__ __forceinline__ long long input_under(const Conv& p, const Origin& origin, const Tap& tap) {
    const int t = origin.t + tap.t, h = origin.h + tap.h, w = origin.w + tap.w;
    const bool inside = origin.clip >= 0 && tap.t < p.kernel[0] && t >= 0 && t < p.in[0] && h >= 0 &&
                        h < p.in[1] && w >= 0 && w < p.in[2];
    if (!inside) return -1;
    const long long position = (static_cast<long long>(t) * p.in[1] + h) * p.in[2] + w;
    return origin.clip + position * p.channels + tap.channel;
}

// What follows the sum, for two channels beside each other.
template <typename E>
__device__ __forceinline__ void finish(const Conv& p, int m, int n, float x, float y) {
    const int positions = p.out[0] * p.out[1] * p.out[2];
    const int clip = m / positions;
    const long long place = static_cast<long long>(m % positions) * p.channels_out + n;
    x += p.bias[n];
    y += p.bias[n + 1];
    if (p.residual) {
        const uint32_t pair = *reinterpret_cast<const uint32_t*>(
            static_cast<const E*>(p.residual) + clip * p.residual_clip + place);
        float low, high;
        unpack<E>(pair, low, high);
        x += low;
        y += high;
    }
    if (p.relu) x = relu(x), y = relu(y);
    const long long to = clip * p.output_clip + place;
    if (p.output_is_f32) {
        float* output = static_cast<float*>(p.output) + to;
        output[0] = x;
        output[1] = y;
    } else {
        *reinterpret_cast<uint32_t*>(static_cast<E*>(p.output) + to) = pack<E>(x, y);
    }
}

// The same for eight, which come and go at once; `place` is theirs in the clip.
template <typename E>
__device__ __forceinline__ void finish(const Conv& p, int clip, long long place, const Eight& bias,
                                       Eight sums) {
#pragma unroll
    for (int i = 0; i < 8; ++i) sums.value[i] += bias.value[i];
    if (p.residual) {
        const E* from = static_cast<const E*>(p.residual) + clip * p.residual_clip + place;
        const Eight residual = load_eight(from);
#pragma unroll
        for (int i = 0; i < 8; ++i) sums.value[i] += residual.value[i];
    }
    if (p.relu) {
#pragma unroll
        for (int i = 0; i < 8; ++i) sums.value[i] = relu(sums.value[i]);
    }
    const long long to = clip * p.output_clip + place;
    if (p.output_is_f32) {
        store_eight(static_cast<float*>(p.output) + to, sums);
    } else {
        store_eight(static_cast<E*>(p.output) + to, sums);
    }
}

template <typename E>
__device__ __forceinline__ void finish(const Conv& p, int m, int n, const Eight& sums) {
    const int positions = p.out[0] * p.out[1] * p.out[2];
    const long long place = static_cast<long long>(m % positions) * p.channels_out + n;
    finish<E>(p, m / positions, place, load_eight(p.bias + n), sums);
}
