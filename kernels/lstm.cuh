// The recurrence of an LSTM, persistent: one launch for all frames.
//
//   i, f, g, o = gates[t] + W_hh h;  c = sigmoid(f) c + sigmoid(i) tanh(g);
//   h = sigmoid(o) tanh(c)
//
// `gates` holds W_ih x + b of all frames, by one matrix product beforehand. A
// block owns `units` hidden units of a group of clips: its rows of W_hh stay with
// it from the first frame to the last, and so do its cells. Where it owns all
// units, it needs no other block. Where not, the blocks of the same clips exchange
// h after each frame: in a cluster by writing it to each other's shared memory, else
// through global memory, where they wait for each other at a counter; then all blocks
// of a launch must run together.
//
// Sums run over h in one order, whatever the batch, and however h was exchanged.
#pragma once

#include "cluster.cuh"

struct Lstm {
    const float* gates;     // [clips, frames, 4 hidden]
    const void* recurrent;  // W_hh: as each kernel says
    void* state;            // [2][clips][hidden] words: h of this frame and the last one
    void* sequence;         // [clips, frames, hidden] of E: h of every frame, or null
    float* output;          // [clips, hidden]: h of the last frame, or null
    unsigned* counters;     // [groups of clips][2], zero before and after
    int clips, frames, hidden, units;
    int first_group;
};

namespace {

// What is infinite, because half precision could not hold it, must not come out
// of a sigmoid as an ordinary number: it becomes not a number, and shows.
__device__ __forceinline__ float finite(float x) { return x + 0.0f * x; }

// All blocks of a group have come here for the `round`th time: what they wrote
// before can be read, past the first-level cache.
__device__ __forceinline__ void meet(unsigned* arrived, unsigned round) {
    __syncthreads();
    if (threadIdx.x == 0) {
        add_at(arrived, 1);
        wait_for_counter(arrived, gridDim.x * round);
    }
    __syncthreads();
}

// The last block to leave puts the counters back.
__device__ __forceinline__ void leave(unsigned* arrived) {
    __syncthreads();
    if (threadIdx.x == 0 && add_at(arrived + 1, 1) == gridDim.x - 1) {
        arrived[0] = 0;
        arrived[1] = 0;
    }
}

// Of a group: a product has eight columns, and a clip takes two.
constexpr int kClips = 4;
// Steps of 16 of k whose weights stay in registers; those behind them stay in
// shared memory.
constexpr int kHeld = 8;

__device__ __forceinline__ float fast_sigmoid(float x) {
    return reciprocal(1.0f + power_of_two(-1.442695041f * x));
}

// Within some 1e-7: small values have fewer digits, which no sum of many shows.
__device__ __forceinline__ float fast_tanh(float x) { return 2.0f * fast_sigmoid(2.0f * x) - 1.0f; }

// One step of k: its first eight, and its second.
__device__ __forceinline__ void multiply_step(float (&sum)[2][4], const uint32_t (&tile0)[4],
                                              const uint32_t (&tile1)[4], uint32_t first,
                                              uint32_t second) {
    const uint32_t right[2] = {first, second};
    multiply_add<f16>(sum[0], tile0, right);
    multiply_add<f16>(sum[1], tile1, right);
}

// Puts h of a group, which all its blocks have written, where products read it: four
// units of a clip at once.
__device__ __forceinline__ void fetch_state(const Lstm& p, const uint32_t* state, int clip0, f16* fresh, int pitch) {
    for (int i = threadIdx.x; i < kClips * p.hidden / 4; i += blockDim.x) {
        const int from = i % kClips, first = i / kClips * 4;
        if (clip0 + from >= p.clips) continue;
        const uint4 pairs = load_fresh(reinterpret_cast<const uint4*>(
            state + static_cast<long long>(clip0 + from) * p.hidden + first));
        uint32_t* highs = reinterpret_cast<uint32_t*>(fresh + 2 * from * pitch + first);
        uint32_t* lows = highs + pitch / 2;
        highs[0] = (pairs.x & 0xffff) | pairs.y << 16;
        highs[1] = (pairs.z & 0xffff) | pairs.w << 16;
        lows[0] = pairs.x >> 16 | (pairs.y & 0xffff0000);
        lows[1] = pairs.z >> 16 | (pairs.w & 0xffff0000);
    }
}

// Products in f16 with sums in f32, whatever E, the type of the sequence: W_hh is
// rounded, more finely than to bfloat16, and h is not. It comes in two parts,
// h = high + low, which hold 22 bits of it as h lies between -1 and 1, and each is
// a column of its own.
//
// A warp owns eight units; a thread owns the cell of unit g = lane / 4 and clip
// c = lane % 4. Rows are ordered so that the sums of its four gates come out in its
// own registers, and nothing but h ever leaves them:
//
//                      column 2 c: high   column 2 c + 1: low
//   tile 0, row g      sum[0][0]        + sum[0][1]             = (W_i h)[g]
//   tile 0, row g + 8  sum[0][2]        + sum[0][3]             = (W_f h)[g]
//   tile 1, row g      sum[1][0]        + sum[1][1]             = (W_g h)[g]
//   tile 1, row g + 8  sum[1][2]        + sum[1][3]             = (W_o h)[g]
//
// W_hh: [hidden / 8][steps][2 tiles][32 lanes][8] of f16, what `multiply_add` wants
// of each lane. `steps` of 16 cover h, padded to a multiple of 32, and fill the
// registers at the least.
//
// Shared memory: h, [2 frames][4 clips][high, low][pitch] of f16, where an odd
// number of chunks of 16 bytes lets eight rows share no bank; W_hh as far as it is
// not in registers, [warps][steps - kHeld][2][32][8], each thread's own.
//
// In a cluster every block's h is written to all of them, and nothing else is shared.
template <typename E, bool kCluster>
__device__ __forceinline__ void lstm_mma(const Lstm& p) {
    const int needed = (p.hidden + 31) / 32 * 2;
    const int steps = needed < kHeld ? kHeld : needed;
    const int pitch = 16 * steps + 8;
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    f16* h = reinterpret_cast<f16*>(shared_bytes());
    uint4* others = reinterpret_cast<uint4*>(h + 4 * kClips * pitch) + warp * (steps - kHeld) * 64 + lane;

    const int group = p.first_group + blockIdx.y;
    const int unit0 = blockIdx.x * p.units + 8 * warp, unit = unit0 + lane / 4;
    const int clip0 = group * kClips, clip = clip0 + lane % 4;
    // The last warps of the last block may own nothing.
    const bool has_units = unit0 < p.hidden;
    const bool has_cell = has_units && clip < p.clips;
    const bool is_alone = gridDim.x == 1;
    unsigned* arrived = p.counters + 2 * group;

    uint32_t held[kHeld][2][4] = {};
    if (has_units) {
        const uint4* mine = static_cast<const uint4*>(p.recurrent) + static_cast<long long>(unit0 / 8) * steps * 64 + lane;
#pragma unroll
        for (int i = 0; i < 2 * kHeld; ++i) {
            const uint4 words = mine[32 * i];
            uint32_t(&to)[4] = held[i / 2][i % 2];
            to[0] = words.x, to[1] = words.y, to[2] = words.z, to[3] = words.w;
        }
        for (int i = 2 * kHeld; i < 2 * steps; ++i) others[32 * (i - 2 * kHeld)] = mine[32 * i];
    }
    // Before the first frame; behind the last unit, and of clips that are none, for
    // ever.
    for (int i = thread; i < 2 * kClips * pitch; i += blockDim.x) reinterpret_cast<uint32_t*>(h)[i] = 0;
    if constexpr (kCluster) {
        gather_cluster();  // from here on others may write to it
    } else {
        __syncthreads();
    }

    // Of this clip's next frame. Whoever has no cell reads another's.
    const long long first_frame = static_cast<long long>(has_cell ? clip : clip0) * p.frames;
    const float* gates = p.gates + first_frame * 4 * p.hidden + (has_units ? unit : 0);
    const long long place = static_cast<long long>(clip) * p.hidden + unit;
    E* sequence = static_cast<E*>(p.sequence) + first_frame * p.hidden + unit;
    float next[4], cell = 0.0f, value = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) next[i] = gates[i * p.hidden];
    for (int t = 0; t < p.frames; ++t) {
        const float gate[4] = {next[0], next[1], next[2], next[3]};
        // On their way while this frame is computed.
        if (t + 1 < p.frames) gates += 4 * p.hidden;
#pragma unroll
        for (int i = 0; i < 4; ++i) next[i] = gates[i * p.hidden];

        // Lane 8 i + r names column r, and eight of k from 8 i on: two steps at once.
        const f16* column = h + (t % 2 * 2 * kClips + lane % 8) * pitch + lane / 8 * 8;
        float sum[2][4] = {};
        uint32_t right[kHeld / 2][4];
#pragma unroll
        for (int i = 0; i < kHeld / 2; ++i) load_matrices(right[i], column + 32 * i);
#pragma unroll
        for (int i = 0; i < kHeld / 2; ++i) {
            multiply_step(sum, held[2 * i][0], held[2 * i][1], right[i][0], right[i][1]);
            multiply_step(sum, held[2 * i + 1][0], held[2 * i + 1][1], right[i][2], right[i][3]);
        }
#pragma unroll 2
        for (int step = kHeld; step < steps; step += 2) {
            load_matrices(right[0], column + 16 * step);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const uint4* from = others + 64 * (step + half - kHeld);
                const uint4 a = from[0], b = from[32];
                const uint32_t tile0[4] = {a.x, a.y, a.z, a.w}, tile1[4] = {b.x, b.y, b.z, b.w};
                multiply_step(sum, tile0, tile1, right[0][2 * half], right[0][2 * half + 1]);
            }
        }

        const float in = fast_sigmoid(finite(gate[0] + (sum[0][0] + sum[0][1])));
        const float forget = fast_sigmoid(finite(gate[1] + (sum[0][2] + sum[0][3])));
        const float update = fast_tanh(finite(gate[2] + (sum[1][0] + sum[1][1])));
        const float out = fast_sigmoid(finite(gate[3] + (sum[1][2] + sum[1][3])));
        cell = forget * cell + in * update;
        value = out * fast_tanh(cell);
        if (has_cell && p.sequence) sequence[t * p.hidden] = from_float<E>(value);
        if (t + 1 == p.frames) break;

        const f16 high = from_float<f16>(value), low = from_float<f16>(value - to_float(high));
        // Others still read this frame's h while the next one's is written.
        f16* fresh = h + (t + 1) % 2 * 2 * kClips * pitch;
        f16* row = fresh + lane % 4 * 2 * pitch + unit;
        if constexpr (kCluster) {
            for (unsigned block = 0; has_cell && block < gridDim.x; ++block) {
                store_to_block(block, row, high.bits);
                store_to_block(block, row + pitch, low.bits);
            }
            gather_cluster();  // all blocks' h has come
        } else {
            if (is_alone) {
                if (has_cell) row[0] = high, row[pitch] = low;
            } else {
                uint32_t* state = static_cast<uint32_t*>(p.state) + static_cast<long long>(t % 2) * p.clips * p.hidden;
                if (has_cell) state[place] = high.bits | static_cast<uint32_t>(low.bits) << 16;
                meet(arrived, t + 1);
                fetch_state(p, state, clip0, fresh, pitch);
            }
            __syncthreads();  // the next frame's h has come
        }
    }
    if (has_cell && p.output) p.output[place] = value;
    if (!kCluster && !is_alone) leave(arrived);
}

}  // namespace
