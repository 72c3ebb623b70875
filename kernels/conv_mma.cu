// Convolution in f16 and bf16 with sums in f32, for cards from sm_80 on.
//
// A block of 256 threads computes 128 positions by BN = 64 or 128 channels, 32
// of k at a time, through a ring of four stages in shared memory: cp.async fills
// a stage while ldmatrix and mma.sync read another. Warps lie 4 x 2 (BN = 64) or
// 2 x 4 (BN = 128) over the tile, 32 channels wide each.
//
// Where a layer has too few tiles for a card, k is cut into segments. Each is
// summed from zero and the segments are added in order, by one block or, where
// each segment has a block of its own, by `conv_reduce`: the same bits either
// way, and so whatever the batch.
//
// A stage holds rows of 64 bytes, four chunks of eight values. Chunk c of row r
// lies at c ^ (r / 2 % 4): eight rows of one chunk then cover all banks once.
//
// weights: [channels_out, k], k innermost, padded to 32 with zeros.
#include "conv.cuh"

namespace {

constexpr int BM = 128;
constexpr int BK = 32;
constexpr int kStages = 4;
constexpr int kRowBytes = BK * 2;

__device__ __forceinline__ int chunk_at(int row, int chunk) {
    return row * kRowBytes + (chunk ^ (row / 2 % 4)) * 16;
}

// Activations, by cp.async: four threads take the four chunks of a row.
template <typename E>
struct ActivationLoader {
    Origin origin[2];
    Tap tap;

    __device__ __forceinline__ ActivationLoader(const Conv& p, int m0, int k0) {
        const int row = threadIdx.x / 4;
        origin[0] = origin_of(p, m0 + row);
        origin[1] = origin_of(p, m0 + row + 64);
        tap = tap_at(p, k0 + threadIdx.x % 4 * 8);
    }

    __device__ __forceinline__ void load(const Conv& p, unsigned char* stage) {
        const E* input = static_cast<const E*>(p.input);
        const int row = threadIdx.x / 4, chunk = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const long long place = input_under(p, origin[i], tap);
            copy_async_16(stage + chunk_at(row + 64 * i, chunk), input + (place < 0 ? 0 : place),
                          place >= 0);
        }
        advance(p, tap, BK);
    }
};

template <typename E, int BN, bool SEGMENTED>
__device__ __forceinline__ void conv_mma(const Conv& p) {
    constexpr int kWarpsN = BN / 32;
    constexpr int kWarpRows = BM * kWarpsN / 8;
    constexpr int MI = kWarpRows / 16;
    constexpr int kStageBytes = (BM + BN) * kRowBytes;
    unsigned char* shared = shared_bytes();
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int m0 = blockIdx.x * BM, n0 = blockIdx.y * BN;
    const Share share = share_of_block(p);
    const int tiles = (share.end - share.begin) / BK;
    const int tiles_in_segment = p.segment / BK;

    ActivationLoader<E> loader(p, m0, share.begin);
    int k = share.begin;
    auto load = [&](int slot) {
        unsigned char* stage = shared + slot * kStageBytes;
        if (k < share.end) {
            loader.load(p, stage);
            const E* weights = static_cast<const E*>(p.weights);
#pragma unroll
            for (int i = 0; i < BN / 64; ++i) {
                const int row = thread / 4 + 64 * i, n = n0 + row;
                const bool valid = n < p.channels_out;
                const long long place = static_cast<long long>(valid ? n : 0) * p.k + k + thread % 4 * 8;
                copy_async_16(stage + BM * kRowBytes + chunk_at(row, thread % 4), weights + place, valid);
            }
            k += BK;
        }
        copies_commit();
    };

    float sum[MI][4][4] = {};
    float total[SEGMENTED ? MI : 1][4][4] = {};
#pragma unroll
    for (int slot = 0; slot < kStages - 1; ++slot) load(slot);

    const int row0 = warp / kWarpsN * kWarpRows, column0 = warp % kWarpsN * 32;
    for (int tile = 0; tile < tiles; ++tile) {
        if (SEGMENTED && !p.is_split && tile && tile % tiles_in_segment == 0) {
#pragma unroll
            for (int i = 0; i < MI; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
#pragma unroll
                    for (int r = 0; r < 4; ++r) total[i][j][r] += sum[i][j][r], sum[i][j][r] = 0.0f;
                }
            }
        }
        copies_wait<kStages - 2>();
        __syncthreads();  // this tile has come for all, and all have left the last one
        load((tile + kStages - 1) % kStages);
        const unsigned char* a = shared + tile % kStages * kStageBytes;
        const unsigned char* b = a + BM * kRowBytes;
#pragma unroll
        for (int step = 0; step < BK / 16; ++step) {
            uint32_t left[MI][4], right[2][4];
#pragma unroll
            for (int i = 0; i < MI; ++i) {
                load_matrices(left[i], a + chunk_at(row0 + 16 * i + lane % 16, 2 * step + lane / 16));
            }
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const int row = column0 + 16 * j + lane / 16 * 8 + lane % 8;
                load_matrices(right[j], b + chunk_at(row, 2 * step + lane / 8 % 2));
            }
#pragma unroll
            for (int i = 0; i < MI; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const uint32_t fragment[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
                    multiply_add<E>(sum[i][j], left[i], fragment);
                }
            }
        }
    }

    const int rows = p.clips * p.out[0] * p.out[1] * p.out[2];
#pragma unroll
    for (int i = 0; i < MI; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int m = m0 + row0 + 16 * i + 8 * half + lane / 4;
            if (m >= rows) continue;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int n = n0 + column0 + 8 * j + lane % 4 * 2;
                if (n >= p.channels_out) continue;
                float x = sum[i][j][2 * half], y = sum[i][j][2 * half + 1];
                if (SEGMENTED && p.is_split) {
                    leave(p, m, n, x, y);
                    continue;
                }
                if (SEGMENTED) {
                    x += total[i][j][2 * half];
                    y += total[i][j][2 * half + 1];
                }
                finish<E>(p, m, n, x, y);
            }
        }
    }
}

// Adds the segments that blocks of their own have summed; a thread takes two
// channels of one position.
template <typename E>
__device__ __forceinline__ void conv_reduce(const Conv& p) {
    const long long rows = static_cast<long long>(p.clips) * p.out[0] * p.out[1] * p.out[2];
    const long long item = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int pairs = p.channels_out / 2;
    if (item >= rows * pairs) return;
    const int m = static_cast<int>(item / pairs), n = static_cast<int>(item % pairs) * 2;
    float x = 0.0f, y = 0.0f;
    for (int segment = 0; segment < p.segments; ++segment) {
        const float* partial = p.partial + (segment * rows + m) * p.channels_out + n;
        x += partial[0];
        y += partial[1];
    }
    finish<E>(p, m, n, x, y);
}

}  // namespace

KERNEL(conv64_f16, Conv, 256) { conv_mma<f16, 64, true>(p); }
KERNEL(conv64_bf16, Conv, 256) { conv_mma<bf16, 64, true>(p); }
KERNEL(conv128_f16, Conv, 256) { conv_mma<f16, 128, false>(p); }
KERNEL(conv128_bf16, Conv, 256) { conv_mma<bf16, 128, false>(p); }
KERNEL(conv_reduce_f16, Conv, 256) { conv_reduce<f16>(p); }
KERNEL(conv_reduce_bf16, Conv, 256) { conv_reduce<bf16>(p); }
