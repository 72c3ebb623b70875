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
// A block has two warpgroups. Of 64 channels in, each computes a tile of its own of the
// same 64 channels out; of 128, both the same tile, 64 channels out each. One thread
// brings the boxes, two for each frame under the kernel, another the weights, tap by
// tap; both through rings of their own:
//
//   boxes     [2 stages][2 boxes][38 KiB]
//   weights   [slots][64 or 128 rows][128 bytes]
//   barriers  of each stage and slot: full, empty
//
// What is computed leaves through a stage of boxes, too: the residual is brought there,
// each value is replaced by what becomes of it, and the box is stored as a whole. So
// blocks are as many as multiprocessors, and fetch for their next tiles meanwhile.
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
    TensorMap input;     // boxes of 30 x 10
    TensorMap rows;      // of the weights, 64 or 128 at a time
    TensorMap residual;  // boxes of 28 x 8
    TensorMap output;
};

namespace {

constexpr int kRowBytes = 128;
constexpr int kColumns = 28, kRows = 8;          // of a tile
constexpr int kBoxColumns = kColumns + 2;
constexpr int kBoxBytes = kBoxColumns * (kRows + 2) * kRowBytes;
constexpr int kTileBytes = kColumns * kRows * kRowBytes;
// Positions of the last row lie beside it under the last taps.
constexpr int kRoom = 38 * 1024;
constexpr int kStages = 2;
constexpr int kPositions = kBoxColumns * kRows;  // columns of the product
constexpr int kFragments = kPositions / 8;
constexpr int kWarps = 8;  // that multiply

// A ring's place, and how often it went round.
template <int N>
struct Turn {
    int slot = 0, parity = 0;

    __device__ __forceinline__ void next() {
        if (++slot == N) slot = 0, parity ^= 1;
    }
};

// A tile, by number: columns fastest, then rows, frames, clips.
__device__ __forceinline__ Corner corner_of(const Conv& p, int tile) {
    const int across = (p.out[2] + kColumns - 1) / kColumns, down = (p.out[1] + kRows - 1) / kRows;
    const int w = tile % across;
    tile /= across;
    const int h = tile % down;
    tile /= down;
    return {tile / p.out[0], tile % p.out[0], h * kRows, w * kColumns};
}

// One of the pieces of work that a block does: tiles, channels out, and which taps in
// time meet frames.
template <bool WIDE>
struct Work {
    static constexpr int kChannels = WIDE ? 128 : 64;  // in, and of a block out
    static constexpr int kBlocks = kChannels / 64;     // of channels in
    Corner corner[2];
    int n0, first, last;

    __device__ __forceinline__ Work(const Conv& p, int number) {
        const int groups = (p.channels_out + kChannels - 1) / kChannels;
        n0 = number % groups * kChannels;
        const int tile = number / groups;
        corner[0] = corner_of(p, WIDE ? tile : 2 * tile);
        corner[1] = WIDE ? corner[0] : corner_of(p, 2 * tile + 1);
        const int earlier = corner[0].t < corner[1].t ? corner[0].t : corner[1].t;
        const int later = corner[0].t < corner[1].t ? corner[1].t : corner[0].t;
        first = p.padding[0] - later > 0 ? p.padding[0] - later : 0;
        last = p.in[0] + p.padding[0] - earlier < p.kernel[0] ? p.in[0] + p.padding[0] - earlier
                                                              : p.kernel[0];
    }

    // Channel of a box of what comes out.
    __device__ __forceinline__ int channel(int box) const { return WIDE ? n0 + 64 * box : n0; }
};

// What follows the sum, where the residual lies.
template <typename E>
__device__ __forceinline__ void finish_in_place(const Conv& p, unsigned char* at, float x) {
    E* value = reinterpret_cast<E*>(at);
    if (p.residual) x += to_float(*value);
    if (p.relu) x = relu(x);
    *value = from_float<E>(x);
}

template <typename E, bool WIDE>
__device__ __forceinline__ void conv_halo(const ConvHalo& q) {
    constexpr int kSlots = WIDE ? 4 : 8;
    constexpr int kSlotBytes = Work<WIDE>::kChannels * kRowBytes;
    const Conv& p = q.conv;
    unsigned char* boxes = shared_bytes();
    unsigned char* weights = boxes + kStages * 2 * kRoom;
    uint64_t* full = reinterpret_cast<uint64_t*>(weights + kSlots * kSlotBytes);
    uint64_t* empty = full + kStages;
    uint64_t* weights_full = empty + kStages;
    uint64_t* weights_empty = weights_full + kSlots;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int slot = 0; slot < kStages; ++slot) {
            barrier_init(full + slot, 1);
            barrier_init(empty + slot, kWarps);
        }
        for (int slot = 0; slot < kSlots; ++slot) {
            barrier_init(weights_full + slot, 1);
            barrier_init(weights_empty + slot, kWarps);
        }
        show_barriers();
    }
    __syncthreads();
    const int tiles = p.clips * p.out[0] * ((p.out[1] + kRows - 1) / kRows) *
                      ((p.out[2] + kColumns - 1) / kColumns);
    const int works = (WIDE ? tiles : (tiles + 1) / 2) *
                      ((p.channels_out + Work<WIDE>::kChannels - 1) / Work<WIDE>::kChannels);
    Turn<kStages> stage;
    Turn<kSlots> slot;

    if (warp == kWarps) {
        if (lane != 0) return;
        for (int number = blockIdx.x; number < works; number += gridDim.x) {
            const Work<WIDE> work(p, number);
            for (int t = work.first; t < work.last; ++t, stage.next()) {
                barrier_wait(empty + stage.slot, stage.parity ^ 1);
                barrier_expect(full + stage.slot, 2 * kBoxBytes);
                for (int box = 0; box < 2; ++box) {
                    Corner corner = work.corner[box];
                    corner.t += t - p.padding[0];
                    corner.h -= p.padding[1];
                    corner.w -= p.padding[2];
                    copy_box(boxes + (2 * stage.slot + box) * kRoom, &q.input, WIDE ? 64 * box : 0, corner,
                             full + stage.slot);
                }
            }
            barrier_wait(empty + stage.slot, stage.parity ^ 1);
            if (p.residual) {
                barrier_expect(full + stage.slot, 2 * kTileBytes);
                for (int box = 0; box < 2; ++box) {
                    copy_box(boxes + (2 * stage.slot + box) * kRoom, &q.residual, work.channel(box),
                             work.corner[box], full + stage.slot);
                }
            } else {
                barrier_arrive(full + stage.slot);
            }
            stage.next();
        }
        return;
    }
    if (warp == kWarps + 1) {
        if (lane != 0) return;
        for (int number = blockIdx.x; number < works; number += gridDim.x) {
            const Work<WIDE> work(p, number);
            const int end = 9 * work.last * p.channels;
            for (int k = 9 * work.first * p.channels; k < end; k += 64, slot.next()) {
                barrier_wait(weights_empty + slot.slot, slot.parity ^ 1);
                barrier_expect(weights_full + slot.slot, kSlotBytes);
                copy_rows(weights + slot.slot * kSlotBytes, &q.rows, k, work.n0, weights_full + slot.slot);
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
        const Work<WIDE> work(p, number);
        float sum[kFragments][4] = {};
        for (int t = work.first; t < work.last; ++t, stage.next()) {
            barrier_wait(full + stage.slot, stage.parity);
            const unsigned char* box = boxes + 2 * stage.slot * kRoom;
            int before = -1;  // the slot whose products may still run
            for (int tap = 0; tap < 9; ++tap) {
#pragma unroll
                for (int block = 0; block < Work<WIDE>::kBlocks; ++block) {
                    barrier_wait(weights_full + slot.slot, slot.parity);
                    const unsigned char* a =
                        weights + slot.slot * kSlotBytes + (WIDE ? group * 64 * kRowBytes : 0);
                    const unsigned char* b = box + (WIDE ? block : group) * kRoom +
                                             (tap / 3 * kBoxColumns + tap % 3) * kRowBytes;
                    settle(sum);
                    products_begin();
#pragma unroll
                    for (int step = 0; step < 4; ++step) {
                        ProductGroup<E, kPositions>::multiply_add(sum, describe_matrix(a + 32 * step),
                                                                  describe_matrix(b + 32 * step));
                    }
                    products_commit();
                    products_wait<1>();
                    settle(sum);
                    if (before >= 0) release(weights_empty + before);
                    before = slot.slot;
                    slot.next();
                }
            }
            products_wait<0>();
            settle(sum);
            release(weights_empty + before);
            release(empty + stage.slot);
        }

        // Lane l of a warp has channels l / 4 and 8 more, of every eight positions those
        // from 2 (l % 4) on.
        barrier_wait(full + stage.slot, stage.parity);
        unsigned char* tile = boxes + (2 * stage.slot + group) * kRoom;
        const int chunk = warp % 4 * 2, n = work.channel(group) + 8 * chunk + lane / 4;
        const float bias[2] = {n < p.channels_out ? p.bias[n] : 0.0f,
                               n + 8 < p.channels_out ? p.bias[n + 8] : 0.0f};
        int column = lane % 4 * 2, row = 0;  // of the box
#pragma unroll
        for (int j = 0; j < kFragments; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int place = row * kColumns + column + i % 2;
                unsigned char* at = tile + place * kRowBytes + ((chunk + i / 2) ^ place % 8) * 16 + lane / 4 * 2;
                if (column < kColumns) finish_in_place<E>(p, at, sum[j][i] + bias[i / 2]);
            }
            column += 8;
            if (column >= kBoxColumns) column -= kBoxColumns, ++row;
            compute_here(column, row);
        }
        show_to_products();
        gather_threads(1 + group, 128);
        if (warp % 4 == 0 && lane == 0) {
            store_box(&q.output, work.channel(group), work.corner[group], tile);
            stores_wait();
        }
        release(empty + stage.slot);
        stage.next();
    }
}

}  // namespace

KERNEL(halo64_f16, ConvHalo, 320) { conv_halo<f16, false>(p); }
KERNEL(halo64_bf16, ConvHalo, 320) { conv_halo<bf16, false>(p); }
KERNEL(halo128_f16, ConvHalo, 320) { conv_halo<f16, true>(p); }
KERNEL(halo128_bf16, ConvHalo, 320) { conv_halo<bf16, true>(p); }
