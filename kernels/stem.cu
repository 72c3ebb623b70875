// The stem: a convolution that reads grey pictures, one byte a position, and
// normalises them on the way in. In f16 and bf16 with sums in f32, for cards from
// sm_80 on.
//
// All channels of a grey picture are the same picture, each with a mean and a
// deviation of its own. So two channels carry everything: the grey level less
// `centre`, over 64, which is exact in either type, and a one wherever there is
// a picture, whose weight takes up the means. In the padding both are zero, as
// padding after normalising asks for. A place of the input is such a pair, one
// register; and k counts two to a tap.
//
// A block computes tiles of output frames, one after the other. A tile is some
// rows of some octets, which are eight positions beside each other. All that its
// taps reach of the input, the patch, is brought to shared memory as pairs first:
// bounds are looked at once a place, not once a tap of each position.
//
//   | weights [CHANNELS][k + 8] | places of taps [k / 16][4][2] | patch [frames][rows][pitch] |
//
// mma.sync takes sixteen positions by sixteen of k, eight taps. It wants in lane
// 4 g + q, for positions g of two octets, the pairs under taps q and q + 4: four
// words of the patch, each at the position's place plus the tap's. So nothing is
// gathered: lanes load their operands straight from the patch.
//
// Taps of four lanes lie side by side, and where a row of the kernel ends, one row
// further. Eight positions reach kernel + 7 strides of a row; with a pitch of as
// many words, but for multiples of 32, the next row goes on in the banks behind,
// and lanes whose taps lie in two rows do not meet.
//
// weights: [channels_out, k], k innermost, padded to 16 with zeros.
#include "conv.cuh"

struct Stem {
    Conv conv;
    int rows, octets;  // of a tile: so many octets a row
    int pitch;         // words from one row of the patch to the next
};

namespace {

// Of sixteen positions, that a warp sums: each matrix of weights is loaded once
// for all.
constexpr int kFragments = 2;
constexpr int kOctets = 2 * kFragments;

// Rows and columns of the patch.
__device__ __forceinline__ int patch_rows(const Stem& s) {
    return (s.rows - 1) * s.conv.stride[1] + s.conv.kernel[1];
}

__device__ __forceinline__ int patch_columns(const Stem& s) {
    return (8 * s.octets - 1) * s.conv.stride[2] + s.conv.kernel[2];
}

// A tap's place in the patch, in bytes. Those behind the last one have weights of
// zero, and read what the first one reads.
__device__ __forceinline__ uint32_t place_of_tap(const Stem& s, int tap) {
    const int* kernel = s.conv.kernel;
    if (tap >= kernel[0] * kernel[1] * kernel[2]) return 0;
    const int w = tap % kernel[2], h = tap / kernel[2] % kernel[1], t = tap / kernel[2] / kernel[1];
    return static_cast<uint32_t>((t * patch_rows(s) + h) * s.pitch + w) * 4;
}

__device__ __forceinline__ uint32_t pair_at(const unsigned char* position, uint32_t tap) {
    return *reinterpret_cast<const uint32_t*>(position + tap);
}

// The channel whose weights lie in a row of shared memory. A lane's sums are two
// neighbouring columns of each product; with this order, those of four products
// are eight channels side by side, which are written at once:
//
//   product       0     1     2     3      columns 2 q and 2 q + 1 of each
//   channel      0 1   2 3   4 5   6 7     + 8 q
__device__ __forceinline__ int channel_of_row(int row) {
    return row / 32 * 32 + row % 8 / 2 * 8 + row / 8 % 4 * 2 + row % 2;
}

// Rows are padded by a chunk of 16 bytes: their number of chunks is odd, and eight
// rows of one chunk cover all banks once.
template <typename E, int CHANNELS>
__device__ __forceinline__ void bring_weights(const Conv& p, unsigned char* to, int n0) {
    const E* weights = static_cast<const E*>(p.weights);
    const int chunks = p.k / 8;
    for (int i = threadIdx.x; i < CHANNELS * chunks; i += blockDim.x) {
        const int row = i / chunks, chunk = i % chunks, n = n0 + channel_of_row(row);
        const bool valid = n < p.channels_out;
        const long long place = static_cast<long long>(valid ? n : 0) * p.k + 8 * chunk;
        copy_async_16(to + (row * (chunks + 1) + chunk) * 16, weights + place, valid);
    }
    copies_commit();
}

// The patch from (t0, h0, w0) of a clip on; a warp takes a row, and 128 columns of
// it at a time, so that four loads are under way at once.
template <typename E>
__device__ __forceinline__ void fill(const Stem& s, uint32_t* patch, const uint8_t* clip, int t0,
                                     int h0, int w0) {
    const Conv& p = s.conv;
    const int rows = patch_rows(s), columns = patch_columns(s);
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
    auto is_within = [](int place, int extent) { return place >= 0 && place < extent; };
    for (int t = 0; t < p.kernel[0]; ++t) {
        const long long frame = static_cast<long long>(t0 + t) * p.in[1];
        for (int h = warp; h < rows; h += warps) {
            const bool inside = is_within(t0 + t, p.in[0]) && is_within(h0 + h, p.in[1]);
            const long long line = (frame + h0 + h) * p.in[2] + w0;
            uint32_t* to = patch + (t * rows + h) * s.pitch;
            for (int column = lane; column < columns; column += 128) {
                bool is_there[4];
                int grey[4] = {};
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    is_there[i] = inside && is_within(w0 + column + 32 * i, p.in[2]);
                    if (is_there[i]) grey[i] = clip[line + column + 32 * i];
                }
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float level = static_cast<float>(grey[i] - p.centre) * (1.0f / 64.0f);
                    const uint32_t pair = is_there[i] ? pack<E>(level, 1.0f) : 0;
                    if (column + 32 * i < columns) to[column + 32 * i] = pair;
                }
            }
        }
    }
}

// sum[i][j] += sixteen positions i by eight rows j of the weights, over all of k.
template <typename E, int CHANNELS>
__device__ __forceinline__ void multiply(const Conv& p, float (&sum)[kFragments][CHANNELS / 8][4],
                                         const unsigned char* const (&position)[kOctets],
                                         const uint64_t* taps, const unsigned char* weights) {
    const int lane = threadIdx.x % 32;
    // Matrices 0 and 1 are eight rows by sixteen of k, 2 and 3 the next eight rows.
    const int row_bytes = (p.k + 8) * 2;
    const unsigned char* matrix =
        weights + (lane / 16 * 8 + lane % 8) * row_bytes + lane / 8 % 2 * 16;
    for (int step = 0; step < p.k / 16; ++step) {
        const uint64_t both = taps[4 * step + lane % 4];
        const uint32_t near = static_cast<uint32_t>(both), far = static_cast<uint32_t>(both >> 32);
        uint32_t left[kFragments][4];
#pragma unroll
        for (int i = 0; i < kFragments; ++i) {
            left[i][0] = pair_at(position[2 * i], near);
            left[i][1] = pair_at(position[2 * i + 1], near);
            left[i][2] = pair_at(position[2 * i], far);
            left[i][3] = pair_at(position[2 * i + 1], far);
        }
#pragma unroll
        for (int j = 0; j < CHANNELS / 8; j += 2) {
            uint32_t right[4];
            load_matrices(right, matrix + 8 * j * row_bytes + 32 * step);
            const uint32_t lower[2] = {right[0], right[1]}, upper[2] = {right[2], right[3]};
#pragma unroll
            for (int i = 0; i < kFragments; ++i) {
                multiply_add<E>(sum[i][j], left[i], lower);
                multiply_add<E>(sum[i][j + 1], left[i], upper);
            }
        }
    }
}

template <typename E, int CHANNELS>
__device__ __forceinline__ void stem(const Stem& s) {
    const Conv& p = s.conv;
    unsigned char* weights = shared_bytes();
    uint64_t* taps = reinterpret_cast<uint64_t*>(weights + CHANNELS * (p.k + 8) * 2);
    uint32_t* patch = reinterpret_cast<uint32_t*>(taps + p.k / 4);
    const int n0 = blockIdx.y * CHANNELS;
    bring_weights<E, CHANNELS>(p, weights, n0);
    for (int i = threadIdx.x; i < p.k / 4; i += blockDim.x) {
        const int tap = i / 4 * 8 + i % 4;
        taps[i] = place_of_tap(s, tap) | static_cast<uint64_t>(place_of_tap(s, tap + 4)) << 32;
    }

    // This lane's positions: one of each of its warp's octets. A warp may have
    // octets behind the tile's last one; it sums them as its first, for nobody.
    const int lane = threadIdx.x % 32;
    const int first = threadIdx.x / 32 * kOctets, octets = s.rows * s.octets;
    const unsigned char* position[kOctets];
    int row[kOctets];
#pragma unroll
    for (int i = 0; i < kOctets; ++i) {
        const int octet = first + i < octets ? first + i : 0;
        row[i] = octet / s.octets;
        const int column = (octet - row[i] * s.octets) * 8 + lane / 4;
        const int word = row[i] * p.stride[1] * s.pitch + column * p.stride[2];
        position[i] = reinterpret_cast<const unsigned char*>(patch + word);
    }

    const int down = (p.out[1] + s.rows - 1) / s.rows;
    const int across = (p.out[2] + 8 * s.octets - 1) / (8 * s.octets);
    const int tiles = p.clips * p.out[0] * down * across;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int frame = tile / across / down;
        const int clip = frame / p.out[0], t = frame % p.out[0];
        const int h0 = tile / across % down * s.rows, w0 = tile % across * s.octets * 8;
        const long long begin = static_cast<long long>(t) * p.out[1] * p.out[2] * p.channels_out;
        const uint8_t* grey = static_cast<const uint8_t*>(p.input) + clip * p.input_clip;
        fill<E>(s, patch, grey, t * p.stride[0] - p.padding[0], h0 * p.stride[1] - p.padding[1],
                w0 * p.stride[2] - p.padding[2]);
        copies_wait<0>();
        __syncthreads();  // the patch is full; and the first time, weights and taps are there
        float sum[kFragments][CHANNELS / 8][4] = {};
        multiply<E, CHANNELS>(p, sum, position, taps, weights);
        __syncthreads();  // all have left the patch

#pragma unroll
        for (int group = 0; group < CHANNELS / 32; ++group) {
            const int n = n0 + 32 * group + lane % 4 * 8;
            if (n >= p.channels_out) continue;
            const Eight bias = load_eight(p.bias + n);
#pragma unroll
            for (int i = 0; i < kOctets; ++i) {
                const int h = h0 + row[i];
                const int w = w0 + (first + i - row[i] * s.octets) * 8 + lane / 4;
                if (first + i >= octets || h >= p.out[1] || w >= p.out[2]) continue;
                Eight x;
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    x.value[j] = sum[i / 2][4 * group + j / 2][i % 2 * 2 + j % 2];
                }
                const int place = (h * p.out[2] + w) * p.channels_out + n;
                finish<E>(p, clip, begin + place, bias, x);
            }
        }
    }
}

}  // namespace

KERNEL(stem32_f16, Stem, 256) { stem<f16, 32>(p); }
KERNEL(stem32_bf16, Stem, 256) { stem<bf16, 32>(p); }
KERNEL(stem64_f16, Stem, 256) { stem<f16, 64>(p); }
KERNEL(stem64_bf16, Stem, 256) { stem<bf16, 64>(p); }
