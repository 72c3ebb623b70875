// Convolution in f16 and bf16 with sums in f32, for Hopper (sm_90a): any number of
// channels.
//
// The tiling of `conv_mma.cu` with the products of Hopper's warpgroups, whose stages
// cp.async fills. The products of a tile run while the next tiles are fetched: nothing
// goes through registers on its way to the tensor cores.
//
// Segments of k are as in `conv_mma.cu`: the same bits whatever the batch.
//
// weights: [channels_out, k], k innermost, padded to 64 with zeros.
#include "conv_group.cuh"

namespace {

__device__ __forceinline__ int chunk_at(int row, int chunk) {
    return row * kRowBytes + (chunk ^ row % 8) * 16;
}

template <typename E, int BN>
__device__ __forceinline__ void conv_wgmma(const Conv& p) {
    constexpr int kStageBytes = (BM + BN) * kRowBytes;
    unsigned char* shared = shared_bytes();
    const int thread = threadIdx.x;
    const int m0 = blockIdx.x * BM, n0 = blockIdx.y * BN;
    const Share share = share_of_block(p);
    const int tiles = (share.end - share.begin) / BK;
    const int tiles_in_segment = p.segment / BK;

    // Loading: eight threads take the eight chunks of a row, of every 32nd row.
    const int load_row = thread / 8, load_chunk = thread % 8;
    Origin origin[BM / 32];
#pragma unroll
    for (int i = 0; i < BM / 32; ++i) origin[i] = origin_of(p, m0 + load_row + 32 * i);
    Tap tap = tap_at(p, share.begin + load_chunk * 8);
    int k = share.begin;
    auto load = [&](int slot) {
        unsigned char* stage = shared + slot * kStageBytes;
        if (k < share.end) {
            const E* input = static_cast<const E*>(p.input);
#pragma unroll
            for (int i = 0; i < BM / 32; ++i) {
                const long long place = input_under(p, origin[i], tap);
                copy_async_16(stage + chunk_at(load_row + 32 * i, load_chunk),
                              input + (place < 0 ? 0 : place), place >= 0);
            }
            advance(p, tap, BK);
            const E* weights = static_cast<const E*>(p.weights);
#pragma unroll
            for (int i = 0; i < BN / 32; ++i) {
                const int row = load_row + 32 * i, n = n0 + row;
                const bool valid = n < p.channels_out;
                const long long place = static_cast<long long>(valid ? n : 0) * p.k + k + load_chunk * 8;
                copy_async_16(stage + BM * kRowBytes + chunk_at(row, load_chunk), weights + place, valid);
            }
            k += BK;
        }
        copies_commit();
    };

    GroupSums<E, BN> sums;
#pragma unroll
    for (int slot = 0; slot < kStages - 1; ++slot) load(slot);
    for (int tile = 0; tile < tiles; ++tile) {
        if (!p.is_split && tile && tile % tiles_in_segment == 0) sums.end_segment();
        copies_wait<kStages - 2>();
        show_to_products();
        __syncthreads();  // this tile has come for all, and all have left the last one
        sums.multiply_add(shared + tile % kStages * kStageBytes);
        load((tile + kStages - 1) % kStages);
        sums.template wait<0>();
    }
    sums.store(p, m0, n0);
}

}  // namespace

KERNEL(hopper64_f16, Conv, 256) { conv_wgmma<f16, 64>(p); }
KERNEL(hopper64_bf16, Conv, 256) { conv_wgmma<bf16, 64>(p); }
KERNEL(hopper128_f16, Conv, 256) { conv_wgmma<f16, 128>(p); }
KERNEL(hopper128_bf16, Conv, 256) { conv_wgmma<bf16, 128>(p); }

struct Probe {
    const uint32_t* input;
    uint32_t* output;
};

// Conformance: one tile of 64 x 64 x 64. input: A and then B, both [64][64] of E,
// k innermost; output [64][64] in f32.
template <typename E>
__device__ __forceinline__ void probe_products(const Probe& p) {
    unsigned char* shared = shared_bytes();
    for (int i = threadIdx.x; i < 2 * 64 * 8; i += 128) {
        const int row = i / 8, chunk = i % 8;
        reinterpret_cast<uint4*>(shared + chunk_at(row, chunk))[0] =
            reinterpret_cast<const uint4*>(p.input)[i];
    }
    show_to_products();
    __syncthreads();
    float sum[8][4] = {};
    settle(sum);
    products_begin();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
        ProductGroup<E, 64>::multiply_add(sum, describe_matrix(shared + 32 * step),
                                          describe_matrix(shared + 64 * kRowBytes + 32 * step));
    }
    products_commit();
    products_wait<0>();
    settle(sum);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* output = reinterpret_cast<float*>(p.output);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const int row = 16 * warp + lane / 4 + 8 * (r / 2);
            output[row * 64 + 8 * j + lane % 4 * 2 + r % 2] = sum[j][r];
        }
    }
}

KERNEL(probe_products_f16, Probe, 128) { probe_products<f16>(p); }
KERNEL(probe_products_bf16, Probe, 128) { probe_products<bf16>(p); }

// Four matrices: input [32 lanes][4 registers], output [32 rows][4 words].
KERNEL(probe_store_matrices_turned, Probe, 32) {
    uint32_t* shared = reinterpret_cast<uint32_t*>(shared_bytes());
    uint32_t registers[4];
    for (int i = 0; i < 4; ++i) registers[i] = p.input[threadIdx.x * 4 + i];
    store_matrices_turned(shared + threadIdx.x * 4, registers);
    __syncwarp();
    for (int i = 0; i < 4; ++i) p.output[threadIdx.x * 4 + i] = shared[threadIdx.x * 4 + i];
}
