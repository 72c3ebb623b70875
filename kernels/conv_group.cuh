// What the convolutions of Hopper's warpgroups have in common: the tile, and what
// becomes of its sums.
//
// Two warpgroups compute 128 positions by BN = 64 or 128 channels, 64 of k at a time,
// from a ring of stages in shared memory. A stage holds rows of 128 bytes, eight
// chunks of eight values: those of the positions, then those of the channels. Chunk c
// of row r lies at c ^ (r % 8), which is the swizzle that `describe_matrix` names; so
// every stage begins at a multiple of 1024 bytes.
#pragma once

#include "conv.cuh"
#include "hopper.cuh"

constexpr int BM = 128;
constexpr int BK = 64;
constexpr int kStages = 4;
constexpr int kRowBytes = BK * 2;

// One block's sums, as `ProductGroup` spreads them over threads.
template <typename E, int BN>
struct GroupSums {
    static constexpr int kFragments = BN / 8;
    float sum[kFragments][4] = {};
    // Of the segments before, where one block adds several.
    float total[kFragments][4] = {};

    // The products of one stage, begun and not waited for: of all its k, or of fewer
    // steps of 16. Each number of steps has its own code: a branch between two products
    // would have the first end before the second begins.
    template <int STEPS = BK / 16>
    __device__ __forceinline__ void multiply_add(const unsigned char* stage, int steps = BK / 16) {
        if constexpr (STEPS > 1) {
            if (steps < STEPS) {
                multiply_add<STEPS - 1>(stage, steps);
                return;
            }
        }
        const unsigned char* a = stage + threadIdx.x / 128 * 64 * kRowBytes;
        const unsigned char* b = stage + BM * kRowBytes;
        settle(sum);
        products_begin();
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            ProductGroup<E, BN>::multiply_add(sum, describe_matrix(a + 32 * step),
                                              describe_matrix(b + 32 * step));
        }
        products_commit();
    }

    // Waits for the products that were begun, but for the latest N stages'.
    template <int N>
    __device__ __forceinline__ void wait() {
        products_wait<N>();
        settle(sum);
    }

    // Ends a segment; its products have ended.
    __device__ __forceinline__ void end_segment() {
#pragma unroll
        for (int j = 0; j < kFragments; ++j) {
#pragma unroll
            for (int r = 0; r < 4; ++r) total[j][r] += sum[j][r], sum[j][r] = 0.0f;
        }
    }

    // Stores the tile at (m0, n0); all products have ended. A lane holds two channels of
    // each fragment. Four lanes exchange theirs, so that each has the eight of one: 16
    // bytes to read and to write, 64 beside each other.
    __device__ __forceinline__ void store(const Conv& p, int m0, int n0) const {
        const int rows = p.clips * p.out[0] * p.out[1] * p.out[2];
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int m = m0 + 16 * warp + 8 * half + lane / 4;
#pragma unroll
            for (int j = 0; j < kFragments; j += 4) {
                Eight sums;
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    const int r = 2 * half + i % 2;
                    sums.value[i] = sum[j + i / 2][r] + total[j + i / 2][r];
                }
                exchange_pairs(sums);
                const int n = n0 + 8 * (j + lane % 4);
                if (m >= rows || n >= p.channels_out) continue;
                if (p.is_split) {
                    leave(p, m, n, sums);
                } else {
                    finish<E>(p, m, n, sums);
                }
            }
        }
    }
};
