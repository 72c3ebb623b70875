// Hopper's products of a whole warpgroup (PTX ISA 9.7.15, wgmma), for sm_90a
// only. Both operands lie in shared memory; the sums stay in registers, and may
// not be touched between issue and wait.
#pragma once

#include "ptx.cuh"

// Before the first product, and whenever the sums were touched.
__device__ __forceinline__ void products_begin() {
#if defined(__CUDACC__)
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Ends a group of products.
__device__ __forceinline__ void products_commit() {
#if defined(__CUDACC__)
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    shim::commit_products();
#endif
}

// Waits for this warpgroup's groups, but for the latest N.
template <int N>
__device__ __forceinline__ void products_wait() {
#if defined(__CUDACC__)
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#else
    shim::wait_for_products(N);
#endif
}

// The sums may be read and written from here on, and hold what was written to
// them before: to the compiler a wait is no reader and no writer of them, so
// without this it may move what touches them into the time of the products.
// Costs no instruction.
template <int N>
__device__ __forceinline__ void settle(float (&sums)[N][4]) {
#if defined(__CUDACC__)
#pragma unroll
    for (int j = 0; j < N; ++j) {
        asm volatile("" : "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3])::"memory");
    }
#endif
}

// What this thread wrote to shared memory, its asynchronous copies included, is
// seen by products from here on. The products of other threads need a barrier
// after it.
__device__ __forceinline__ void show_to_products() {
#if defined(__CUDACC__)
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Describes a matrix of 64 columns of 16-bit values, k innermost: rows of 128
// bytes, eight rows an atom of 1024 bytes; chunk c of row r lies at c ^ (r % 8).
// `at` is where column 0 of row 0 lies, or 32 bytes on for each 16 columns.
__device__ __forceinline__ uint64_t describe_matrix(const void* at) {
#if defined(__CUDACC__)
    const uint64_t address = shared_address(at);
#else
    shim::check_shared(at, 16, 32, "wgmma");
    const uint64_t address = static_cast<const unsigned char*>(at) - shim::shared_memory();
#endif
    // Bits 0..13: the address over 16; 16..29: unused with a swizzle, 1; 32..45:
    // bytes from one atom to the next over 16; 62..63: the swizzle of 128 bytes.
    return (address & 0x3ffff) >> 4 | 1ull << 16 | (1024ull >> 4) << 32 | 1ull << 62;
}

// c += a b, where a is 64 x 16, b is 16 x N (given as N rows of k), sums in f32.
// Warp w of the warpgroup, lane l, with g = 16 w + l / 4 and q = 2 (l % 4), holds
// of c for every j: (g, 8 j + q), (g, 8 j + q + 1), (g + 8, ..), (g + 8, ..).
template <typename E, int N>
struct ProductGroup;

#if !defined(__CUDACC__)
// What each pattern of bits means.
template <typename E>
inline const float* values_on_host() {
    static const float* values = [] {
        auto* values = new float[65536];
        for (int bits = 0; bits < 65536; ++bits) {
            E value;
            value.bits = static_cast<uint16_t>(bits);
            values[bits] = to_float(value);
        }
        return values;
    }();
    return values;
}
#endif

template <>
struct ProductGroup<f16, 64> {
    static __device__ __forceinline__ void multiply_add(float (&c)[8][4], uint64_t a, uint64_t b) {
#if defined(__CUDACC__)
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, "
            "%8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, "
            "%24, %25, %26, %27, %28, %29, %30, %31"
            "}, %32, %33, 1, 1, 1, 0, 0;"
            : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]),
            "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
            "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
            "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]),
            "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]),
            "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
            "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
            "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
            : "l"(a), "l"(b));
#else
        shim::issue_product(&c[0][0], 64, a, b, values_on_host<f16>());
#endif
    }
};

template <>
struct ProductGroup<f16, 128> {
    static __device__ __forceinline__ void multiply_add(float (&c)[16][4], uint64_t a, uint64_t b) {
#if defined(__CUDACC__)
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, "
            "%8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, "
            "%24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, "
            "%40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, "
            "%56, %57, %58, %59, %60, %61, %62, %63"
            "}, %64, %65, 1, 1, 1, 0, 0;"
            : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]),
            "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
            "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
            "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]),
            "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]),
            "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
            "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
            "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3]),
            "+f"(c[8][0]), "+f"(c[8][1]), "+f"(c[8][2]), "+f"(c[8][3]),
            "+f"(c[9][0]), "+f"(c[9][1]), "+f"(c[9][2]), "+f"(c[9][3]),
            "+f"(c[10][0]), "+f"(c[10][1]), "+f"(c[10][2]), "+f"(c[10][3]),
            "+f"(c[11][0]), "+f"(c[11][1]), "+f"(c[11][2]), "+f"(c[11][3]),
            "+f"(c[12][0]), "+f"(c[12][1]), "+f"(c[12][2]), "+f"(c[12][3]),
            "+f"(c[13][0]), "+f"(c[13][1]), "+f"(c[13][2]), "+f"(c[13][3]),
            "+f"(c[14][0]), "+f"(c[14][1]), "+f"(c[14][2]), "+f"(c[14][3]),
            "+f"(c[15][0]), "+f"(c[15][1]), "+f"(c[15][2]), "+f"(c[15][3])
            : "l"(a), "l"(b));
#else
        shim::issue_product(&c[0][0], 128, a, b, values_on_host<f16>());
#endif
    }
};

template <>
struct ProductGroup<bf16, 64> {
    static __device__ __forceinline__ void multiply_add(float (&c)[8][4], uint64_t a, uint64_t b) {
#if defined(__CUDACC__)
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, "
            "%8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, "
            "%24, %25, %26, %27, %28, %29, %30, %31"
            "}, %32, %33, 1, 1, 1, 0, 0;"
            : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]),
            "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
            "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
            "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]),
            "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]),
            "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
            "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
            "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
            : "l"(a), "l"(b));
#else
        shim::issue_product(&c[0][0], 64, a, b, values_on_host<bf16>());
#endif
    }
};

template <>
struct ProductGroup<bf16, 128> {
    static __device__ __forceinline__ void multiply_add(float (&c)[16][4], uint64_t a, uint64_t b) {
#if defined(__CUDACC__)
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, "
            "%8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, "
            "%24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, "
            "%40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, "
            "%56, %57, %58, %59, %60, %61, %62, %63"
            "}, %64, %65, 1, 1, 1, 0, 0;"
            : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]),
            "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
            "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
            "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]),
            "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]),
            "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
            "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
            "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3]),
            "+f"(c[8][0]), "+f"(c[8][1]), "+f"(c[8][2]), "+f"(c[8][3]),
            "+f"(c[9][0]), "+f"(c[9][1]), "+f"(c[9][2]), "+f"(c[9][3]),
            "+f"(c[10][0]), "+f"(c[10][1]), "+f"(c[10][2]), "+f"(c[10][3]),
            "+f"(c[11][0]), "+f"(c[11][1]), "+f"(c[11][2]), "+f"(c[11][3]),
            "+f"(c[12][0]), "+f"(c[12][1]), "+f"(c[12][2]), "+f"(c[12][3]),
            "+f"(c[13][0]), "+f"(c[13][1]), "+f"(c[13][2]), "+f"(c[13][3]),
            "+f"(c[14][0]), "+f"(c[14][1]), "+f"(c[14][2]), "+f"(c[14][3]),
            "+f"(c[15][0]), "+f"(c[15][1]), "+f"(c[15][2]), "+f"(c[15][3])
            : "l"(a), "l"(b));
#else
        shim::issue_product(&c[0][0], 128, a, b, values_on_host<bf16>());
#endif
    }
};
