// Hopper's tensor memory accelerator (PTX ISA 5.5 and 9.7.9.27, cp.async.bulk.tensor)
// and the barriers that its copies complete (9.7.13.15, mbarrier), for sm_90a only.
//
// One thread asks for a whole tile. What lies where is in a map that the host has
// made (`launch.rs`), so that no thread computes an address. The copy is over when
// as many bytes have come as its barrier was told to expect.
#pragma once

#include "ptx.cuh"

// What only the host's driver can write, and only copies can read.
struct alignas(128) TensorMap {
    uint64_t words[16];
};

// --- barriers in shared memory ---------------------------------------------------
//
// A barrier's phases end one after the other: each when `count` threads have arrived
// and all bytes have come that were expected. Phase n has the parity n % 2.

__device__ __forceinline__ void barrier_init(uint64_t* barrier, unsigned count) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
                 : "memory");
#else
    shim::barrier_init(barrier, count);
#endif
}

// Barriers that this thread has begun are seen by copies from here on; by other
// threads behind a `__syncthreads`.
__device__ __forceinline__ void show_barriers() {
#if defined(__CUDACC__)
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#else
    shim::barrier_arrive(barrier, 0);
#endif
}

// Arrives at the barrier that lies at this place in that block of a cluster of so many.
template <int BLOCKS>
__device__ __forceinline__ void barrier_arrive_in(unsigned block, uint64_t* barrier) {
    if constexpr (BLOCKS == 1) {
        barrier_arrive(barrier);
    } else {
#if defined(__CUDACC__)
        asm volatile(
            "{\n.reg .u32 to;\n"
            "mapa.shared::cluster.u32 to, %0, %1;\n"
            "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [to];\n}" ::"r"(shared_address(barrier)),
            "r"(block)
            : "memory");
#else
        shim::barrier_arrive_in(block, barrier);
#endif
    }
}

// Arrives, and has this phase wait for so many bytes more.
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, unsigned bytes) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
#else
    shim::barrier_arrive(barrier, bytes);
#endif
}

#if defined(__CUDACC__)
__device__ __forceinline__ uint64_t nanoseconds() {
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}
#endif

// Waits for the end of the latest phase of this parity. A copy that never comes
// would hold the card for ever: after ten seconds the kernel fails.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, unsigned parity) {
#if defined(__CUDACC__)
    const uint32_t address = shared_address(barrier);
    uint64_t began = 0;
    for (;;) {
        uint32_t done;
        asm volatile(
            "{\n"
            ".reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n"
            "}"
            : "=r"(done)
            : "r"(address), "r"(parity)
            : "memory");
        if (done) return;
        const uint64_t now = nanoseconds();
        if (!began) began = now;
        if (now - began > 10000000000ull) __trap();
    }
#else
    shim::barrier_wait(barrier, parity);
#endif
}

// A place in a ring of stages, and the parity of the round that it is in.
struct Turn {
    int slot = 0, parity = 0;

    __device__ __forceinline__ void next(int slots) {
        if (++slot == slots) slot = 0, parity ^= 1;
    }
};

// --- copies ------------------------------------------------------------------------
//
// Both fill rows of 128 bytes, 64 values of 16 bits, swizzled as `describe_matrix`
// wants them: `to` is a multiple of 1024 bytes.

// A tile of a matrix, as large as the map says: 64 columns from `column` on of the
// rows from `row` on; what lies behind the last column or row is zero.
__device__ __forceinline__ void copy_rows(void* to, const TensorMap* map, int column, int row,
                                          uint64_t* barrier) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
        "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
        : "memory");
#else
    shim::copy_rows(to, map, column, row, barrier);
#endif
}

// Where a convolution's kernel lies at its first position: of the input, in the
// padding less than zero.
struct Corner {
    int clip, t, h, w;
};

// 64 channels from `channel` on of as many positions as the map says, as a kernel
// sees them under one tap: the first with its corner at `corner`, then along the
// rows, the columns, the frames, the clips, in the map's strides. Padding is zero, and
// so is what lies behind the last channel or clip. In a cluster of `BLOCKS` it comes to
// this place of each of them, and counts at the barriers that lie where `barrier` does.
template <int BLOCKS>
__device__ __forceinline__ void copy_positions(void* to, const TensorMap* map, int channel,
                                               const Corner& corner, int tap_t, int tap_h, int tap_w,
                                               uint64_t* barrier) {
#if defined(__CUDACC__)
    if constexpr (BLOCKS == 1) {
        asm volatile(
            "cp.async.bulk.tensor.5d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
            "[%0], [%1, {%2, %3, %4, %5, %6}], [%7], {%8, %9, %10};" ::"r"(shared_address(to)),
            "l"(map), "r"(channel), "r"(corner.w), "r"(corner.h), "r"(corner.t), "r"(corner.clip),
            "r"(shared_address(barrier)), "h"(static_cast<uint16_t>(tap_w)),
            "h"(static_cast<uint16_t>(tap_h)), "h"(static_cast<uint16_t>(tap_t))
            : "memory");
    } else {
        constexpr uint16_t kAll = (1 << BLOCKS) - 1;
        asm volatile(
            "cp.async.bulk.tensor.5d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
            ".multicast::cluster "
            "[%0], [%1, {%2, %3, %4, %5, %6}], [%7], {%8, %9, %10}, %11;" ::"r"(shared_address(to)),
            "l"(map), "r"(channel), "r"(corner.w), "r"(corner.h), "r"(corner.t), "r"(corner.clip),
            "r"(shared_address(barrier)), "h"(static_cast<uint16_t>(tap_w)),
            "h"(static_cast<uint16_t>(tap_h)), "h"(static_cast<uint16_t>(tap_t)), "h"(kAll)
            : "memory");
    }
#else
    const int start[4] = {corner.w, corner.h, corner.t, corner.clip};
    const int taps[3] = {tap_w, tap_h, tap_t};
    shim::copy_positions(to, map, channel, start, taps, barrier, BLOCKS);
#endif
}

// 64 channels from `channel` on of a box of one frame, as many columns and rows as the
// map says: the first at `corner`. What lies outside is zero.
__device__ __forceinline__ void copy_box(void* to, const TensorMap* map, int channel, const Corner& corner,
                                         uint64_t* barrier) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(shared_address(to)),
        "l"(map), "r"(channel), "r"(corner.w), "r"(corner.h), "r"(corner.t), "r"(corner.clip),
        "r"(shared_address(barrier))
        : "memory");
#else
    const int start[4] = {corner.w, corner.h, corner.t, corner.clip};
    shim::copy_box(to, map, channel, start, barrier);
#endif
}

// The other way: a box from shared memory; what lies outside is left out.
__device__ __forceinline__ void store_box(const TensorMap* map, int channel, const Corner& corner,
                                          const void* from) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4, %5}], [%6];" ::"l"(map),
        "r"(channel), "r"(corner.w), "r"(corner.h), "r"(corner.t), "r"(corner.clip), "r"(shared_address(from))
        : "memory");
#else
    const int start[4] = {corner.w, corner.h, corner.t, corner.clip};
    shim::store_box(map, channel, start, from);
#endif
}

// Waits until this thread's stores have read what they store.
__device__ __forceinline__ void stores_wait() {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
#else
    shim::wait_for_stores();
#endif
}
