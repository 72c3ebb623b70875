// Convolution in f16 and bf16 with sums in f32, for Hopper (sm_90a), where nine taps
// across and down are one value apart and channels in are few: 64 or 128.
//
// There, `conv_tma.cu` waits for its values: each goes to shared memory once for every
// tap. Here a frame's values go there once for its nine taps. What is brought is a box
// of 30 columns and 10 rows, a tile of 28 x 8 positions with a rim of one:
//
//     0 1 2       29
//   0 r r r . . . r      Row of the box by row, a position's 64 channels are a row of
//   1 r p p . . . r      128 bytes. Positions from (0, 0) on, 30 a row, are 240 rows of
//   2 r p p . . . r      a matrix; under tap (h, w) it begins 30 h + w rows further on.
//   . . . . . . . .      The last two positions of each row are none: what is summed
//   9 r r r . . . r      for them is left out.
//
// So positions are the columns of the product and channels out its rows:
//
//   sum[n, m] += weights[n, k] input[m, k]     64 x 240, a warpgroup's
//
// A block has two warpgroups, which share the work in one of three ways:
//
//   tiles     of 64 channels in: each has a tile of its own, and the same 64 channels out
//   channels  of 128 channels in: both the same tile, 64 channels out each
//   rows      likewise, where there is too little work for a card: both the same 64
//             channels out, two rows each of a tile of 28 x 4
//
// One thread brings the boxes, two for each frame under the kernel, another the weights,
// tap by tap; both through rings of their own:
//
//   boxes     [2 stages][2 boxes]
//   weights   [slots][64 or 128 rows][128 bytes]
//   barriers  of each stage and slot: full, empty
//
// What is computed leaves through a stage of boxes, too: the residual is brought there,
// each value is replaced by what becomes of it, and a warpgroup's tile is stored as a
// whole. So blocks are as many as multiprocessors, and fetch for their next tiles
// meanwhile.
//
// Sums are those of `conv_tma.cu`, bit by bit: frames in the padding, which are left out
// here, add zeros there.
//
// weights: [channels_out, k], k innermost.
#include "conv.cuh"
#include "hopper.cuh"
#include "tma.cuh"

struct ConvHalo {
    Conv conv;
    TensorMap input;     // boxes, a tile with its rim
    TensorMap rows;      // of the weights, as many as a block has channels out
    TensorMap residual;  // a warpgroup's tiles
    TensorMap output;
};

namespace {

enum Sharing { kTiles, kChannels, kRows };

constexpr int kRowBytes = 128;
constexpr int kColumns = 28;  // of a tile
constexpr int kBoxColumns = kColumns + 2;
constexpr int kStages = 2;
constexpr int kWarps = 8;  // that multiply

template <Sharing SHARING>
struct Shape {
    static constexpr int kBlocks = SHARING == kTiles ? 1 : 2;  // of 64 channels in
    static constexpr int kChannels = SHARING == Sharing::kChannels ? 128 : 64;  // out, of a block
    static constexpr int kTileRows = SHARING == Sharing::kRows ? 2 : 8;         // a warpgroup's
    static constexpr int kDown = SHARING == Sharing::kRows ? 4 : 8;             // a block's
    static constexpr int kBoxBytes = kBoxColumns * (kDown + 2) * kRowBytes;
    static constexpr int kTileBytes = kColumns * kTileRows * kRowBytes;
    // Columns of the product.
    static constexpr int kPositions = (kBoxColumns * kTileRows + 15) / 16 * 16;
    // From one box to the next: under the last taps, positions that are none lie behind it.
    static constexpr int kReach = (kDown - kTileRows + 2) * kBoxColumns + 2 + kPositions;
    static constexpr int kRoom = (kReach * kRowBytes + 1023) / 1024 * 1024;
    static constexpr int kFragments = kPositions / 8;
    static constexpr int kSlots = SHARING == Sharing::kChannels ? 4 : 8;
    static constexpr int kSlotBytes = kChannels * kRowBytes;
};

// A tile, by number: columns fastest, then rows, frames, clips.
template <int DOWN>
__device__ __forceinline__ Corner corner_of(const Conv& p, int tile) {
    const int across = (p.out[2] + kColumns - 1) / kColumns, down = (p.out[1] + DOWN - 1) / DOWN;
    const int w = tile % across;
    tile /= across;
    const int h = tile % down;
    tile /= down;
    return {tile / p.out[0], tile % p.out[0], h * DOWN, w * kColumns};
}

// One of the pieces of work that a block does: where its two boxes lie, its channels
// out, and which taps in time meet frames.
template <Sharing SHARING>
struct Work {
    Corner corner[2];
    int n0, first, last;

    __device__ __forceinline__ Work(const Conv& p, int number) {
        constexpr int kChannels = Shape<SHARING>::kChannels, kDown = Shape<SHARING>::kDown;
        const int groups = (p.channels_out + kChannels - 1) / kChannels;
        n0 = number % groups * kChannels;
        const int tile = number / groups;
        corner[0] = corner_of<kDown>(p, SHARING == kTiles ? 2 * tile : tile);
        corner[1] = SHARING == kTiles ? corner_of<kDown>(p, 2 * tile + 1) : corner[0];
        const int earlier = corner[0].t < corner[1].t ? corner[0].t : corner[1].t;
        const int later = corner[0].t < corner[1].t ? corner[1].t : corner[0].t;
        first = p.padding[0] - later > 0 ? p.padding[0] - later : 0;
        last = p.in[0] + p.padding[0] - earlier < p.kernel[0] ? p.in[0] + p.padding[0] - earlier
                                                              : p.kernel[0];
    }

    // Of a warpgroup's tile.
    __device__ __forceinline__ int channel(int group) const {
        return SHARING == kChannels ? n0 + 64 * group : n0;
    }
    __device__ __forceinline__ Corner place(int group) const {
        Corner place = corner[group];
        if (SHARING == kRows) place.h += Shape<SHARING>::kTileRows * group;
        return place;
    }
};

// What follows the sums of two positions beside each other.
template <typename E>
__device__ __forceinline__ uint32_t finish_pair(const Conv& p, float x, float y, float bias, uint32_t residual) {
    x += bias;
    y += bias;
    if (p.residual) {
        float low, high;
        unpack<E>(residual, low, high);
        x += low;
        y += high;
    }
    if (p.relu) x = relu(x), y = relu(y);
    return pack<E>(x, y);
}

template <typename E, Sharing SHARING>
__device__ __forceinline__ void conv_halo(const ConvHalo& q) {
    using S = Shape<SHARING>;
    const Conv& p = q.conv;
    unsigned char* boxes = shared_bytes();
    unsigned char* weights = boxes + kStages * 2 * S::kRoom;
    uint64_t* full = reinterpret_cast<uint64_t*>(weights + S::kSlots * S::kSlotBytes);
    uint64_t* empty = full + kStages;
    uint64_t* weights_full = empty + kStages;
    uint64_t* weights_empty = weights_full + S::kSlots;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int slot = 0; slot < kStages; ++slot) {
            barrier_init(full + slot, 1);
            barrier_init(empty + slot, kWarps);
        }
        for (int slot = 0; slot < S::kSlots; ++slot) {
            barrier_init(weights_full + slot, 1);
            barrier_init(weights_empty + slot, kWarps);
        }
        show_barriers();
    }
    __syncthreads();
    const int tiles = p.clips * p.out[0] * ((p.out[1] + S::kDown - 1) / S::kDown) *
                      ((p.out[2] + kColumns - 1) / kColumns);
    const int works = (SHARING == kTiles ? (tiles + 1) / 2 : tiles) *
                      ((p.channels_out + S::kChannels - 1) / S::kChannels);
    Turn stage, slot;

    if (warp == kWarps) {
        if (lane != 0) return;
        for (int number = blockIdx.x; number < works; number += gridDim.x) {
            const Work<SHARING> work(p, number);
            for (int t = work.first; t < work.last; ++t, stage.next(kStages)) {
                barrier_wait(empty + stage.slot, stage.parity ^ 1);
                barrier_expect(full + stage.slot, 2 * S::kBoxBytes);
                for (int box = 0; box < 2; ++box) {
                    Corner corner = work.corner[box];
                    corner.t += t - p.padding[0];
                    corner.h -= p.padding[1];
                    corner.w -= p.padding[2];
                    copy_box(boxes + (2 * stage.slot + box) * S::kRoom, &q.input,
                             SHARING == kTiles ? 0 : 64 * box, corner, full + stage.slot);
                }
            }
            barrier_wait(empty + stage.slot, stage.parity ^ 1);
            if (p.residual) {
                barrier_expect(full + stage.slot, 2 * S::kTileBytes);
                for (int group = 0; group < 2; ++group) {
                    copy_box(boxes + (2 * stage.slot + group) * S::kRoom, &q.residual, work.channel(group),
                             work.place(group), full + stage.slot);
                }
            } else {
                barrier_arrive(full + stage.slot);
            }
            stage.next(kStages);
        }
        return;
    }
    if (warp == kWarps + 1) {
        if (lane != 0) return;
        for (int number = blockIdx.x; number < works; number += gridDim.x) {
            const Work<SHARING> work(p, number);
            const int end = 9 * work.last * p.channels;
            for (int k = 9 * work.first * p.channels; k < end; k += 64, slot.next(S::kSlots)) {
                barrier_wait(weights_empty + slot.slot, slot.parity ^ 1);
                barrier_expect(weights_full + slot.slot, S::kSlotBytes);
                copy_rows(weights + slot.slot * S::kSlotBytes, &q.rows, k, work.n0, weights_full + slot.slot);
            }
        }
        return;
    }

    const int group = warp / 4;
    auto release = [&](uint64_t* barrier) {
        __syncwarp();
        if (lane == 0) barrier_arrive(barrier);
    };
    for (int number = blockIdx.x; number < works; number += gridDim.x) {
        const Work<SHARING> work(p, number);
        float sum[S::kFragments][4] = {};
        for (int t = work.first; t < work.last; ++t, stage.next(kStages)) {
            barrier_wait(full + stage.slot, stage.parity);
            const unsigned char* box = boxes + 2 * stage.slot * S::kRoom +
                                       (SHARING == kTiles ? group * S::kRoom : 0) +
                                       (SHARING == kRows ? group * S::kTileRows * kBoxColumns * kRowBytes : 0);
            int before = -1;  // the slot whose products may still run
            for (int tap = 0; tap < 9; ++tap) {
#pragma unroll
                for (int block = 0; block < S::kBlocks; ++block) {
                    barrier_wait(weights_full + slot.slot, slot.parity);
                    const unsigned char* a = weights + slot.slot * S::kSlotBytes +
                                             (SHARING == kChannels ? group * 64 * kRowBytes : 0);
                    const unsigned char* b =
                        box + block * S::kRoom + (tap / 3 * kBoxColumns + tap % 3) * kRowBytes;
                    settle(sum);
                    products_begin();
#pragma unroll
                    for (int step = 0; step < 4; ++step) {
                        ProductGroup<E, S::kPositions>::multiply_add(sum, describe_matrix(a + 32 * step),
                                                                     describe_matrix(b + 32 * step));
                    }
                    products_commit();
                    products_wait<1>();
                    settle(sum);
                    if (before >= 0) release(weights_empty + before);
                    before = slot.slot;
                    slot.next(S::kSlots);
                }
            }
            products_wait<0>();
            settle(sum);
            release(weights_empty + before);
            release(empty + stage.slot);
        }

        // A warp has 16 channels, two chunks of eight. Of 16 positions at a time, which
        // are two fragments, lane 8 i + r names position r of fragment i / 2, of chunk
        // i % 2. Positions that are none go behind the tile.
        barrier_wait(full + stage.slot, stage.parity);
        unsigned char* tile = boxes + (2 * stage.slot + group) * S::kRoom;
        const int n = work.channel(group) + warp % 4 * 16 + lane / 4;
        const float bias[2] = {n < p.channels_out ? p.bias[n] : 0.0f,
                               n + 8 < p.channels_out ? p.bias[n + 8] : 0.0f};
        const int chunk = warp % 4 * 2 + lane / 8 % 2;
        int column = lane / 16 * 8 + lane % 8, row = 0;  // of the box
#pragma unroll
        for (int j = 0; j < S::kFragments; j += 2) {
            const bool is_one = column < kColumns && row < S::kTileRows;
            const int place = is_one ? row * kColumns + column : S::kTileRows * kColumns + lane % 8;
            unsigned char* at = tile + place * kRowBytes + (chunk ^ place % 8) * 16;
            uint32_t pairs[4] = {};
            if (p.residual) load_matrices<true>(pairs, at);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float(&from)[4] = sum[j + i / 2];
                pairs[i] = finish_pair<E>(p, from[i % 2 * 2], from[i % 2 * 2 + 1], bias[i % 2], pairs[i]);
            }
            store_matrices_turned(at, pairs);
            column += 16;
            if (column >= kBoxColumns) column -= kBoxColumns, ++row;
            compute_here(column, row);
        }
        show_to_products();
        gather_threads(1 + group, 128);
        if (warp % 4 == 0 && lane == 0) {
            store_box(&q.output, work.channel(group), work.place(group), tile);
            stores_wait();
        }
        release(empty + stage.slot);
        stage.next(kStages);
    }
}

}  // namespace

KERNEL(halo_tiles_f16, ConvHalo, 320) { conv_halo<f16, kTiles>(p); }
KERNEL(halo_tiles_bf16, ConvHalo, 320) { conv_halo<bf16, kTiles>(p); }
KERNEL(halo_channels_f16, ConvHalo, 320) { conv_halo<f16, kChannels>(p); }
KERNEL(halo_channels_bf16, ConvHalo, 320) { conv_halo<bf16, kChannels>(p); }
KERNEL(halo_rows_f16, ConvHalo, 320) { conv_halo<f16, kRows>(p); }
KERNEL(halo_rows_bf16, ConvHalo, 320) { conv_halo<bf16, kRows>(p); }
