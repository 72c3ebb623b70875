// Conformance: single instructions, their registers dumped. A card must give
// what the host's emulation gives, byte by byte, before any other kernel's
// answer on it is worth reading.
#include "ptx.cuh"

struct Probe {
    const uint32_t* input;
    uint32_t* output;
};

// Four matrices: input [32 rows][4 words], output [32 lanes][4 registers].
template <bool kTurned>
__device__ __forceinline__ void probe_load_matrices(const Probe& p) {
    uint32_t* shared = reinterpret_cast<uint32_t*>(shared_bytes());
    for (int i = 0; i < 4; ++i) shared[threadIdx.x * 4 + i] = p.input[threadIdx.x * 4 + i];
    __syncwarp();
    uint32_t registers[4];
    load_matrices<kTurned>(registers, shared + threadIdx.x * 4);
    for (int i = 0; i < 4; ++i) p.output[threadIdx.x * 4 + i] = registers[i];
}

KERNEL(probe_load_matrices_straight, Probe, 32) { probe_load_matrices<false>(p); }
KERNEL(probe_load_matrices_turned, Probe, 32) { probe_load_matrices<true>(p); }

// One product: input [32 lanes][a0..a3, b0, b1, c0..c3], output [32 lanes][4].
template <typename E>
__device__ __forceinline__ void probe_multiply_add(const Probe& p) {
    const uint32_t* input = p.input + threadIdx.x * 10;
    uint32_t a[4], b[2];
    float c[4];
    for (int i = 0; i < 4; ++i) a[i] = input[i];
    for (int i = 0; i < 2; ++i) b[i] = input[4 + i];
    for (int i = 0; i < 4; ++i) c[i] = reinterpret_cast<const float*>(input)[6 + i];
    multiply_add<E>(c, a, b);
    for (int i = 0; i < 4; ++i) reinterpret_cast<float*>(p.output)[threadIdx.x * 4 + i] = c[i];
}

KERNEL(probe_multiply_add_f16, Probe, 32) { probe_multiply_add<f16>(p); }
KERNEL(probe_multiply_add_bf16, Probe, 32) { probe_multiply_add<bf16>(p); }

// Copies for lanes with an even number, zeros for the others: input and output
// [32 lanes][4 words].
KERNEL(probe_copy_async, Probe, 32) {
    uint32_t* shared = reinterpret_cast<uint32_t*>(shared_bytes());
    copy_async_16(shared + threadIdx.x * 4, p.input + threadIdx.x * 4, threadIdx.x % 2 == 0);
    copies_commit();
    copies_wait<0>();
    __syncwarp();
    const int other = threadIdx.x ^ 3;
    for (int i = 0; i < 4; ++i) p.output[threadIdx.x * 4 + i] = shared[other * 4 + i];
}

// Conversions: input [32] floats, output [32][f16, bf16, and both back again].
KERNEL(probe_conversions, Probe, 32) {
    const float value = reinterpret_cast<const float*>(p.input)[threadIdx.x];
    const f16 half = from_float<f16>(value);
    const bf16 brain = from_float<bf16>(value);
    uint32_t* output = p.output + threadIdx.x * 4;
    output[0] = half.bits;
    output[1] = brain.bits;
    reinterpret_cast<float*>(output)[2] = to_float(half);
    reinterpret_cast<float*>(output)[3] = to_float(brain);
}
