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

// Four matrices of 8 x 8 values of 16 bits to shared memory, each turned over: lane
// 8 i + r names where column r of matrix i goes, 16 bytes; registers are those of
// `load_matrices<true>` (PTX ISA 9.7.15.5.16, stmatrix).
__device__ __forceinline__ void store_matrices_turned(void* row, const uint32_t (&from)[4]) {
#if defined(__CUDACC__)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
                 : "memory");
#else
    struct Slot {
        const uint32_t* from;
        unsigned char* row;
    } slot{from, static_cast<unsigned char*>(row)};
    shim::check_shared(row, 16, 16, "stmatrix");
    shim::gather_warp("stmatrix", &slot, [](shim::Thread** lanes) {
        for (int l = 0; l < 32; ++l) {
            for (int i = 0; i < 4; ++i) {
                for (int odd = 0; odd < 2; ++odd) {
                    const auto* slot = static_cast<const Slot*>(lanes[l]->slot);
                    const uint16_t bits = static_cast<uint16_t>(slot->from[i] >> 16 * odd);
                    unsigned char* to = static_cast<Slot*>(lanes[8 * i + l % 4 * 2 + odd]->slot)->row;
                    memcpy(to + l / 4 * 2, &bits, 2);
                }
            }
        }
    });
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

// The instruction's operands: its sums, by number and by name.
#if defined(__CUDACC__)
#define SUMS_OF_1(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define SUMS_OF_4(j) SUMS_OF_1(j), SUMS_OF_1(j + 1), SUMS_OF_1(j + 2), SUMS_OF_1(j + 3)
#define NUMBERS_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SUMS_64 \
    SUMS_OF_4(0), SUMS_OF_4(4)
#define NUMBERS_128 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, " \
    "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, " \
    "%60, %61, %62, %63"
#define SUMS_128 \
    SUMS_OF_4(0), SUMS_OF_4(4), SUMS_OF_4(8), SUMS_OF_4(12)
#define NUMBERS_240 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, " \
    "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, " \
    "%60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, " \
    "%100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119"
#define SUMS_240 \
    SUMS_OF_4(0), SUMS_OF_4(4), SUMS_OF_4(8), SUMS_OF_4(12), SUMS_OF_4(16), SUMS_OF_4(20), \
    SUMS_OF_4(24), SUMS_OF_1(28), SUMS_OF_1(29)
#define PRODUCT(E, N, A, B)                                                        \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #E "." #E " {" \
                 NUMBERS_##N "}, " A ", " B ", 1, 1, 1, 0, 0;"                    \
                 : SUMS_##N                                                        \
                 : "l"(a), "l"(b))
#else
#define PRODUCT(E, N, A, B) shim::issue_product(&c[0][0], N, a, b, values_on_host<E>())
#endif

#define PRODUCT_GROUP(E, N, A, B)                                                               \
    template <>                                                                                 \
    struct ProductGroup<E, N> {                                                                 \
        static __device__ __forceinline__ void multiply_add(float (&c)[N / 8][4], uint64_t a, uint64_t b) { \
            PRODUCT(E, N, A, B);                                                                \
        }                                                                                       \
    }

// With the numbers of a and b, behind those of the sums.
PRODUCT_GROUP(f16, 64, "%32", "%33");
PRODUCT_GROUP(bf16, 64, "%32", "%33");
PRODUCT_GROUP(f16, 128, "%64", "%65");
PRODUCT_GROUP(bf16, 128, "%64", "%65");
PRODUCT_GROUP(f16, 240, "%120", "%121");
PRODUCT_GROUP(bf16, 240, "%120", "%121");
