// Convolution in f16 and bf16 with sums in f32, for Hopper (sm_90a), with the stages
// filled by the tensor memory accelerator.
//
// The tiling of `conv_wgmma.cu`, but that a stage holds 64 channels under one tap: one
// copy of positions and one of weights. Where the channels end within the 64, positions
// are zero from there on, and weights those of the next tap, which meet zeros; what is
// zero altogether is not multiplied. A ninth warp asks for the copies and does nothing
// else; the two warpgroups only multiply. Each stage has two barriers:
//
//   full:  the stage's bytes have come        the copies -> eight warps
//   empty: its products have ended            eight warps -> the ninth
//
// Two blocks beside each other along channels out read the same positions. As a pair, a
// cluster of two, each asks for half of them, and they come to both, which halves what
// the accelerator has to look up:
//
//              block 0                        block 1
//   positions  0 ..  63 by 0, to 0 and 1      the same
//             64 .. 127 by 1, to 0 and 1
//   weights    by 0                           by 1
//
// A stage is empty, then, when the warps of both blocks say so.
//
// Sums are those of `conv_wgmma.cu`, bit by bit, where the channels in are a multiple of
// 64; of 16, where there is one segment. Else the order differs.
//
// weights: [channels_out, k], k innermost.
#include "cluster.cuh"
#include "conv_group.cuh"
#include "tma.cuh"

struct ConvTma {
    Conv conv;
    int tiles_in_segment;  // a tile is what a stage holds of k
    int stages;            // of the ring
    TensorMap positions;   // of the input, 128 at a time; 64 by each of a pair
    TensorMap rows;        // of the weights, BN at a time
};

namespace {

constexpr int kWarps = 8;  // that multiply

template <typename E, int BN, bool kPair>
__device__ __forceinline__ void conv_tma(const ConvTma& q) {
    constexpr int kStageBytes = (BM + BN) * kRowBytes;
    constexpr int kBlocks = kPair ? 2 : 1;
    const Conv& p = q.conv;
    unsigned char* shared = shared_bytes();
    uint64_t* full = reinterpret_cast<uint64_t*>(shared + q.stages * kStageBytes);
    uint64_t* empty = full + q.stages;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // The blocks of a pair lie beside each other along x.
    const int m0 = (kPair ? blockIdx.y : blockIdx.x) * BM, n0 = (kPair ? blockIdx.x : blockIdx.y) * BN;
    const int tiles_of_tap = (p.channels + BK - 1) / BK;
    const int all = p.kernel[0] * p.kernel[1] * p.kernel[2] * tiles_of_tap;
    const int begin = p.is_split ? static_cast<int>(blockIdx.z) * q.tiles_in_segment : 0;
    const int tiles = p.is_split && begin + q.tiles_in_segment < all ? q.tiles_in_segment : all - begin;
    if (threadIdx.x == 0) {
        for (int slot = 0; slot < q.stages; ++slot) {
            barrier_init(full + slot, 1);
            barrier_init(empty + slot, kBlocks * kWarps);
        }
        show_barriers();
    }
    if constexpr (kPair) {
        gather_cluster();
    } else {
        __syncthreads();
    }
    // Until here the other block says in this one which stages are empty.
    auto leave_pair = [] {
        if constexpr (kPair) gather_cluster();
    };
    Turn turn;

    if (warp == kWarps) {
        if (lane == 0) {
            const int part = kPair ? blockIdx.x % 2 : 0, first = m0 + part * (BM / 2);
            const int positions = p.out[0] * p.out[1] * p.out[2];
            // Behind the last clip, too, the corner is one of a clip's.
            const Origin origin = origin_of(p, first % positions);
            const Corner corner = {first / positions, origin.t, origin.h, origin.w};
            int k = begin / tiles_of_tap * p.channels + begin % tiles_of_tap * BK;
            Tap tap = tap_at(p, k);
            for (int tile = 0; tile < tiles; ++tile, turn.next(q.stages)) {
                // The stage's last products are those of the round before; of the first
                // round there were none.
                barrier_wait(empty + turn.slot, turn.parity ^ 1);
                unsigned char* stage = shared + turn.slot * kStageBytes;
                uint64_t* arrived = full + turn.slot;
                barrier_expect(arrived, kStageBytes);
                copy_positions<kBlocks>(stage + part * (BM / 2) * kRowBytes, &q.positions, tap.channel,
                                        corner, tap.t, tap.h, tap.w, arrived);
                copy_rows(stage + BM * kRowBytes, &q.rows, k, n0, arrived);
                const int left = p.channels - tap.channel, taken = left < BK ? left : BK;
                advance(p, tap, taken);
                k += taken;
            }
        }
        leave_pair();
    } else {
        GroupSums<E, BN> sums;
        const int last_steps = (p.channels - (tiles_of_tap - 1) * BK + 15) / 16;
        auto release = [&](int slot) {
            __syncwarp();
            if (lane < kBlocks) barrier_arrive_in<kBlocks>(lane, empty + slot);
        };
        int before = 0;  // the slot of the tile before
        for (int tile = 0; tile < tiles; ++tile) {
            if (!p.is_split && tile && tile % q.tiles_in_segment == 0) {
                sums.template wait<0>();
                sums.end_segment();
            }
            const bool is_last = (begin + tile + 1) % tiles_of_tap == 0;
            barrier_wait(full + turn.slot, turn.parity);
            sums.multiply_add(shared + turn.slot * kStageBytes, is_last ? last_steps : BK / 16);
            // The products of the tile before have ended while these began.
            sums.template wait<1>();
            if (tile) release(before);
            before = turn.slot;
            turn.next(q.stages);
        }
        sums.template wait<0>();
        leave_pair();
        sums.store(p, m0, n0);
    }
}

}  // namespace

KERNEL(tma64_f16, ConvTma, 288) { conv_tma<f16, 64, false>(p); }
KERNEL(tma64_bf16, ConvTma, 288) { conv_tma<bf16, 64, false>(p); }
KERNEL(tma128_f16, ConvTma, 288) { conv_tma<f16, 128, false>(p); }
KERNEL(tma128_bf16, ConvTma, 288) { conv_tma<bf16, 128, false>(p); }
KERNEL(pair64_f16, ConvTma, 288) { conv_tma<f16, 64, true>(p); }
KERNEL(pair64_bf16, ConvTma, 288) { conv_tma<bf16, 64, true>(p); }
KERNEL(pair128_f16, ConvTma, 288) { conv_tma<f16, 128, true>(p); }
KERNEL(pair128_bf16, ConvTma, 288) { conv_tma<bf16, 128, true>(p); }
