// What every kernel needs: the three types of values, the launch face, and the
// two ways to compile, for a card and for the host (see host/shim.hpp).
//
// No header of CUDA's is included, so that NVRTC alone compiles the kernels.
#pragma once

#if defined(__CUDACC__)
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#else
#include "host/shim.hpp"
#endif

// KERNEL(name, Parameters, threads) { ... p.member ... }
//
// A kernel takes one struct by value, and has at most `threads` threads a block. On
// Hopper and later cards its blocks may come while the kernel before still runs (see
// `launch` in driver.rs): they let the next one's come likewise, and wait until all
// that was begun before has ended and can be seen.
#if defined(__CUDACC__)
__device__ __forceinline__ void wait_for_the_kernel_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
#endif
}

#define KERNEL(name, Parameters, threads)                                                             \
    static __device__ __forceinline__ void body_of_##name(const Parameters& p);                       \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Parameters p) { \
        wait_for_the_kernel_before();                                                                 \
        body_of_##name(p);                                                                            \
    }                                                                                                 \
    static __device__ __forceinline__ void body_of_##name(const Parameters& p)
#else
#define KERNEL(name, Parameters, threads)                                          \
    static void name(const Parameters& p);                                         \
    static const shim::Kernel registered_##name(#name, sizeof(Parameters), threads, \
        [](const void* p) { name(*static_cast<const Parameters*>(p)); });          \
    static void name(const Parameters& p)
#endif

// The block's shared memory, as many bytes as the launch asks for.
__device__ __forceinline__ unsigned char* shared_bytes() {
#if defined(__CUDACC__)
    extern __shared__ __align__(1024) unsigned char shared[];
    return shared;
#else
    return shim::shared_memory();
#endif
}

// IEEE half precision.
struct f16 {
    uint16_t bits;
};
// bfloat16: the upper half of a float.
struct bf16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_float(float value) { return value; }

__device__ __forceinline__ float to_float(f16 value) {
#if defined(__CUDACC__)
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
#else
    return shim::half_to_float(value.bits);
#endif
}

__device__ __forceinline__ float to_float(bf16 value) {
#if defined(__CUDACC__)
    return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
#else
    const uint32_t word = static_cast<uint32_t>(value.bits) << 16;
    float result;
    memcpy(&result, &word, 4);
    return result;
#endif
}

// Rounds to nearest, ties to even.
template <typename E>
__device__ __forceinline__ E from_float(float value);

template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}

template <>
__device__ __forceinline__ f16 from_float<f16>(float value) {
    f16 result;
#if defined(__CUDACC__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    result.bits = shim::float_to_half(value);
#endif
    return result;
}

template <>
__device__ __forceinline__ bf16 from_float<bf16>(float value) {
    bf16 result;
#if defined(__CUDACC__)
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    uint32_t word;
    memcpy(&word, &value, 4);
    if (value != value) {
        result.bits = 0x7fff;
    } else {
        result.bits = static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
    }
#endif
    return result;
}

// Two values as a register holds them, the first in the lower half.
template <typename E>
__device__ __forceinline__ uint32_t pack(float low, float high) {
    return from_float<E>(low).bits | static_cast<uint32_t>(from_float<E>(high).bits) << 16;
}

// And apart again.
template <typename E>
__device__ __forceinline__ void unpack(uint32_t pair, float& low, float& high) {
    E first, second;
    first.bits = static_cast<uint16_t>(pair);
    second.bits = static_cast<uint16_t>(pair >> 16);
    low = to_float(first);
    high = to_float(second);
}

// NVRTC has no <math.h>.
__device__ __forceinline__ float negative_infinity() {
#if defined(__CUDACC__)
    return __int_as_float(static_cast<int>(0xff800000u));
#else
    return -INFINITY;
#endif
}

// `max(x, 0)`, but not a number stays so: a fault must show in the answer.
__device__ __forceinline__ float relu(float x) { return x < 0.0f ? 0.0f : x; }

// Eight channels of one position: how all kernels read and write activations,
// whose channels are padded to a multiple of eight.
struct Eight {
    float value[8];
};

__device__ __forceinline__ Eight load_eight(const float* from) {
    const float4 a = reinterpret_cast<const float4*>(from)[0];
    const float4 b = reinterpret_cast<const float4*>(from)[1];
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

template <typename E>
__device__ __forceinline__ Eight load_eight(const E* from) {
    const uint4 words = *reinterpret_cast<const uint4*>(from);
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
    Eight result;
#pragma unroll
    for (int i = 0; i < 4; ++i) unpack<E>(word[i], result.value[2 * i], result.value[2 * i + 1]);
    return result;
}

__device__ __forceinline__ void store_eight(float* to, const Eight& eight) {
    const float* v = eight.value;
    float4 a, b;
    a.x = v[0], a.y = v[1], a.z = v[2], a.w = v[3];
    b.x = v[4], b.y = v[5], b.z = v[6], b.w = v[7];
    reinterpret_cast<float4*>(to)[0] = a;
    reinterpret_cast<float4*>(to)[1] = b;
}

template <typename E>
__device__ __forceinline__ void store_eight(E* to, const Eight& eight) {
    const float* v = eight.value;
    uint4 words;
    words.x = pack<E>(v[0], v[1]);
    words.y = pack<E>(v[2], v[3]);
    words.z = pack<E>(v[4], v[5]);
    words.w = pack<E>(v[6], v[7]);
    *reinterpret_cast<uint4*>(to) = words;
}
