// Convolution in f16 and bf16 with sums in f32, for Hopper (sm_90a), where the
// channels in are a multiple of 64.
//
// The tiling of `conv_wgmma.cu`, with the stages filled by the tensor memory
// accelerator: 64 of k are 64 channels under one tap, which is one copy of positions
// and one of weights. A ninth warp asks for them and does nothing else; the two
// warpgroups only multiply. Each stage has two barriers:
//
//   full:  the stage's bytes have come        the copies -> eight warps
//   empty: its products have ended            eight warps -> the ninth
//
// Sums are those of `conv_wgmma.cu`, bit by bit.
//
// weights: [channels_out, k], k innermost.
#include "conv_group.cuh"
#include "tma.cuh"

struct ConvTma {
    Conv conv;
    TensorMap positions;  // of the input, 128 at a time
    TensorMap rows;       // of the weights, BN at a time
};

namespace {

constexpr int kWarps = 8;  // that multiply

template <typename E, int BN>
__device__ __forceinline__ void conv_tma(const ConvTma& q) {
    constexpr int kStageBytes = (BM + BN) * kRowBytes;
    const Conv& p = q.conv;
    unsigned char* shared = shared_bytes();
    uint64_t* full = reinterpret_cast<uint64_t*>(shared + kStages * kStageBytes);
    uint64_t* empty = full + kStages;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int m0 = blockIdx.x * BM, n0 = blockIdx.y * BN;
    const Share share = share_of_block(p);
    const int tiles = (share.end - share.begin) / BK;
    const int tiles_in_segment = p.segment / BK;
    if (threadIdx.x == 0) {
        for (int slot = 0; slot < kStages; ++slot) {
            barrier_init(full + slot, 1);
            barrier_init(empty + slot, kWarps);
        }
        show_barriers();
    }
    __syncthreads();

    if (warp == kWarps) {
        if (lane != 0) return;
        const int positions = p.out[0] * p.out[1] * p.out[2];
        const Origin origin = origin_of(p, m0);
        const Corner corner = {m0 / positions, origin.t, origin.h, origin.w};
        Tap tap = tap_at(p, share.begin);
        for (int tile = 0; tile < tiles; ++tile) {
            const int slot = tile % kStages;
            // The stage's last products are those of the round before.
            if (tile >= kStages) barrier_wait(empty + slot, (tile / kStages - 1) % 2);
            unsigned char* stage = shared + slot * kStageBytes;
            barrier_expect(full + slot, kStageBytes);
            copy_positions(stage, &q.positions, tap.channel, corner, tap.t, tap.h, tap.w, full + slot);
            copy_rows(stage + BM * kRowBytes, &q.rows, share.begin + tile * BK, n0, full + slot);
            advance(p, tap, BK);
        }
        return;
    }

    GroupSums<E, BN> sums;
    auto release = [&](int tile) {
        __syncwarp();
        if (lane == 0) barrier_arrive(empty + tile % kStages);
    };
    for (int tile = 0; tile < tiles; ++tile) {
        if (!p.is_split && tile && tile % tiles_in_segment == 0) {
            sums.template wait<0>();
            sums.end_segment();
        }
        barrier_wait(full + tile % kStages, tile / kStages % 2);
        sums.multiply_add(shared + tile % kStages * kStageBytes);
        // The products of the tile before have ended while these began.
        sums.template wait<1>();
        if (tile) release(tile - 1);
    }
    sums.template wait<0>();
    sums.store(p, m0, n0);
}

}  // namespace

KERNEL(tma64_f16, ConvTma, 288) { conv_tma<f16, 64>(p); }
KERNEL(tma64_bf16, ConvTma, 288) { conv_tma<bf16, 64>(p); }
KERNEL(tma128_f16, ConvTma, 288) { conv_tma<f16, 128>(p); }
KERNEL(tma128_bf16, ConvTma, 288) { conv_tma<bf16, 128>(p); }
