// PTX instructions under names, each with two bodies: the instruction, and its
// meaning written out for the host. The PTX ISA manual's section is named at
// each. `probe.cu` compares both on a card.
#pragma once

#include "common.cuh"

#if defined(__CUDACC__)
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
#endif

// --- asynchronous copies (9.7.9.25, cp.async) -------------------------------

// Copies 16 bytes from global to shared memory, or zeros where `valid` is not
// so, some time before `copies_wait` returns. `from` is not read then.
__device__ __forceinline__ void copy_async_16(void* to, const void* from, bool valid) {
#if defined(__CUDACC__)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
#else
    shim::issue_copy(to, valid ? from : nullptr, 16);
#endif
}

// Ends a group of this thread's copies.
__device__ __forceinline__ void copies_commit() {
#if defined(__CUDACC__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    shim::commit_copies();
#endif
}

// Waits for this thread's groups, but for the latest N.
template <int N>
__device__ __forceinline__ void copies_wait() {
#if defined(__CUDACC__)
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#else
    shim::wait_for_copies(N);
#endif
}

// --- matrix products (9.7.14, mma and ldmatrix) ------------------------------

// Four 8 x 8 matrices of 16-bit values. Lane 8 i + r names row r of matrix i.
// Register i of lane l holds row l / 4 of matrix i, columns 2 (l % 4) and one more;
// turned over, column l / 4, rows 2 (l % 4) and one more.
template <bool kTurned = false>
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
#if defined(__CUDACC__)
    if constexpr (kTurned) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(shared_address(row))
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(shared_address(row))
                     : "memory");
    }
#else
    struct Slot {
        uint32_t* to;
        const unsigned char* row;
    } slot{to, static_cast<const unsigned char*>(row)};
    shim::check_shared(row, 16, 16, "ldmatrix");
    shim::gather_warp("ldmatrix", &slot, [](shim::Thread** lanes) {
        for (int l = 0; l < 32; ++l) {
            for (int i = 0; i < 4; ++i) {
                uint16_t pair[2];
                for (int odd = 0; odd < 2; ++odd) {
                    const int line = l / 4, place = 2 * (l % 4) + odd;
                    const int row = kTurned ? place : line, column = kTurned ? line : place;
                    memcpy(&pair[odd], static_cast<Slot*>(lanes[8 * i + row]->slot)->row + 2 * column, 2);
                }
                memcpy(&static_cast<Slot*>(lanes[l]->slot)->to[i], pair, 4);
            }
        }
    });
#endif
}

#if !defined(__CUDACC__)
struct MmaSlot {
    float* c;
    const uint32_t* a;
    const uint32_t* b;
};

template <typename E>
inline void mma_on_host(shim::Thread** lanes) {
    float a[16][16], b[16][8], c[16][8];
    auto low = [](uint32_t word) { E half; half.bits = word & 0xffff; return to_float(half); };
    auto high = [](uint32_t word) { E half; half.bits = word >> 16; return to_float(half); };
    for (int l = 0; l < 32; ++l) {
        const auto* slot = static_cast<const MmaSlot*>(lanes[l]->slot);
        const int g = l / 4, q = 2 * (l % 4);
        for (int i = 0; i < 4; ++i) {
            a[g + 8 * (i % 2)][q + 8 * (i / 2)] = low(slot->a[i]);
            a[g + 8 * (i % 2)][q + 8 * (i / 2) + 1] = high(slot->a[i]);
            c[g + 8 * (i / 2)][q + i % 2] = slot->c[i];
        }
        for (int i = 0; i < 2; ++i) {
            b[q + 8 * i][g] = low(slot->b[i]);
            b[q + 8 * i + 1][g] = high(slot->b[i]);
        }
    }
    for (int m = 0; m < 16; ++m) {
        for (int k = 0; k < 16; ++k) {
            for (int n = 0; n < 8; ++n) c[m][n] += a[m][k] * b[k][n];
        }
    }
    for (int l = 0; l < 32; ++l) {
        const auto* slot = static_cast<const MmaSlot*>(lanes[l]->slot);
        const int g = l / 4, q = 2 * (l % 4);
        for (int i = 0; i < 4; ++i) slot->c[i] = c[g + 8 * (i / 2)][q + i % 2];
    }
}
#endif

// c += a b, where a is 16 x 16, b is 16 x 8, c is 16 x 8, sums in f32. Lane l,
// with g = l / 4 and q = 2 (l % 4), holds of
//   a: (g, q), (g + 8, q), (g, q + 8), (g + 8, q + 8), each with one column more;
//   b: (q, g), (q + 8, g), each with one row more;
//   c: (g, q), (g, q + 1), (g + 8, q), (g + 8, q + 1).
template <typename E>
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]);

template <>
__device__ __forceinline__ void multiply_add<f16>(float (&c)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    MmaSlot slot{c, a, b};
    shim::gather_warp("mma f16", &slot, mma_on_host<f16>);
#endif
}

template <>
__device__ __forceinline__ void multiply_add<bf16>(float (&c)[4], const uint32_t (&a)[4],
                                                   const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    MmaSlot slot{c, a, b};
    shim::gather_warp("mma bf16", &slot, mma_on_host<bf16>);
#endif
}

// --- functions (9.7.3.13 and 9.7.3.21, rcp and ex2) ------------------------------
//
// Within some 2^-22 of what they are called, subnormal numbers taken for zero; the
// host is exact. Infinities and what is not a number go through as they should.

__device__ __forceinline__ float reciprocal(float x) {
#if defined(__CUDACC__)
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#else
    return 1.0f / x;
#endif
}

__device__ __forceinline__ float power_of_two(float x) {
#if defined(__CUDACC__)
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#else
    return std::exp2(x);
#endif
}

// --- within a warp (9.7.9.6, shfl) -------------------------------------------

// The value of the lane whose number differs in the bits of `mask`.
__device__ __forceinline__ float exchange(float value, int mask) {
#if defined(__CUDACC__)
    return __shfl_xor_sync(0xffffffffu, value, mask);
#else
    struct Slot {
        float value;
        int mask;
        float result;
    } slot{value, mask, 0.0f};
    shim::gather_warp("shfl", &slot, [](shim::Thread** lanes) {
        for (int l = 0; l < 32; ++l) {
            auto* slot = static_cast<Slot*>(lanes[l]->slot);
            slot->result = static_cast<Slot*>(lanes[l ^ slot->mask]->slot)->value;
        }
    });
    return slot.result;
#endif
}

// The sum over all lanes, the same bits in each.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int mask = 16; mask; mask /= 2) value += exchange(value, mask);
    return value;
}

// Of four lanes beside each other that hold four pairs each, lane q gets pair q of all
// four, in the order of the lanes.
__device__ __forceinline__ void exchange_pairs(Eight& pairs) {
#pragma unroll
    for (int bit = 1; bit < 4; bit *= 2) {
        const bool is_upper = threadIdx.x & bit;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if (i / 2 & bit) continue;
            float &low = pairs.value[i], &high = pairs.value[i + 2 * bit];
            const float other = exchange(is_upper ? low : high, bit);
            if (is_upper) {
                low = other;
            } else {
                high = other;
            }
        }
    }
}

// Keeps the compiler from computing these values early, and what depends on them,
// where a long unrolled loop would hold more of them than there are registers. Costs
// no instruction.
__device__ __forceinline__ void compute_here(int& x, int& y) {
#if defined(__CUDACC__)
    asm volatile("" : "+r"(x), "+r"(y)::"memory");
#endif
}

// --- barriers ------------------------------------------------------------------

// Waits for `count` threads of the block at one of its barriers, 1 to 15; 0 is
// that of `__syncthreads`.
__device__ __forceinline__ void gather_threads(int barrier, int count) {
#if defined(__CUDACC__)
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(count) : "memory");
#else
    shim::gather_block("bar.sync", barrier, count);
#endif
}

// --- between blocks that run together ------------------------------------------

// Reads past the first-level cache, which other blocks do not write through.
__device__ __forceinline__ float load_fresh(const float* from) {
#if defined(__CUDACC__)
    float value;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(value) : "l"(from) : "memory");
    return value;
#else
    return *from;
#endif
}

__device__ __forceinline__ uint4 load_fresh(const uint4* from) {
#if defined(__CUDACC__)
    uint4 words;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "l"(from)
                 : "memory");
    return words;
#else
    return *from;
#endif
}

__device__ __forceinline__ unsigned add_at(unsigned* counter, unsigned value) {
#if defined(__CUDACC__)
    unsigned before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(value)
                 : "memory");
    return before;
#else
    const unsigned before = *counter;
    *counter += value;
    return before;
#endif
}

// Waits until the counter has come to `target`.
__device__ __forceinline__ void wait_for_counter(const unsigned* counter, unsigned target) {
#if defined(__CUDACC__)
    unsigned value;
    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
    } while (value < target);
#else
    struct Wait {
        const unsigned* counter;
        unsigned target;
    } wait{counter, target};
    shim::wait_until(
        "a counter",
        [](const void* p) {
            const auto* wait = static_cast<const Wait*>(p);
            return *wait->counter >= wait->target;
        },
        &wait);
#endif
}
