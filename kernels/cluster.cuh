// A cluster: blocks that run at once and reach each other's shared memory (PTX ISA,
// mapa and barrier.cluster), from sm_90 on. Here blocks beside each other along x.
#pragma once

#include "ptx.cuh"

// All threads of all blocks have come here, and what they wrote to shared memory before,
// their own or another block's, can be read. The first time it also says that all blocks
// have begun, before which nobody may write to them. A block must not end before what
// others write to it has come.
__device__ __forceinline__ void gather_cluster() {
#if defined(__CUDACC__)
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#else
    shim::gather_cluster("barrier.cluster");
#endif
}

// Writes to that block's shared memory, where `at` lies in this block's.
__device__ __forceinline__ void store_to_block(unsigned block, void* at, uint16_t bits) {
#if defined(__CUDACC__)
    asm volatile(
        "{\n.reg .u32 to;\n"
        "mapa.shared::cluster.u32 to, %0, %1;\n"
        "st.shared::cluster.u16 [to], %2;\n}" ::"r"(shared_address(at)),
        "r"(block), "h"(bits)
        : "memory");
#else
    shim::store_to_block(block, at, &bits, sizeof bits);
#endif
}
