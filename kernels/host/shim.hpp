// CUDA on the host, for tests: the kernels of this directory, compiled as
// ordinary C++, run here with one fiber per CUDA thread.
//
// What it is for: to run every kernel without a GPU, through the same launch
// code, under several schedules, so that a missing barrier, a slot released
// too early, a wrong parity or a wrong offset gives a wrong answer or an error
// here and not on a card.
//
// - A warp runs as far as it can; then the next one does, in an order that the
//   schedule sets. Warp-wide instructions gather their lanes; barriers gather
//   their threads; whoever can never be woken is reported as a deadlock.
// - Shared memory is one arena per block of exactly the bytes that the launch
//   asks for, filled with NaNs when the block begins.
// - Asynchronous copies poison their target with NaNs when they are issued and
//   are performed as late as the rules allow; those that complete a barrier, when
//   somebody waits for it.
// - Blocks of a cluster run together, and write to each other's shared memory once they
//   have met, until they end.
//
// What it is not: a model of time, of caches, or of memory ordering between
// blocks.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__
#define __grid_constant__
#define __launch_bounds__(...)

struct Dim3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

namespace shim {

constexpr int kWarp = 32;

struct Thread;
using Combine = void (*)(Thread** lanes);

// A CUDA thread. Kernels see the first two members only.
struct Thread {
    Dim3 index;
    Dim3 block;
    unsigned linear;         // in the block
    unsigned resident;       // number of its block among the resident ones
    void* stack_pointer;     // of the fiber while it is not running
    void* slot;              // operands of a warp-wide instruction
    const char* waiting_for; // for the report of a deadlock
    bool (*condition)(const void*);
    const void* condition_argument;
    struct Copies* copies;   // asynchronous ones, not yet performed
    struct Products* products;  // of a warpgroup, likewise
    struct Stores* stores;      // of boxes, likewise
};

extern Thread* current;
extern Dim3 grid_size;
extern Dim3 block_size;

// The block's shared memory, and its length.
unsigned char* shared_memory();

// Every lane of the warp gives `slot`; the last to arrive combines them.
void gather_warp(const char* what, void* slot, Combine combine);
// Every thread of the block, or `count` threads under a barrier's number.
void gather_block(const char* what, int barrier, int count);
// Every thread of the cluster.
void gather_cluster(const char* what);
// Writes to the shared memory of a block of the cluster, where `at` lies in one's own.
void store_to_block(unsigned block, void* at, const void* from, int bytes);
// Waits until the condition holds.
void wait_until(const char* what, bool (*condition)(const void*), const void* argument);

void issue_copy(void* target, const void* source, int bytes);
void commit_copies();
void wait_for_copies(int groups_left_pending);

// Asynchronous products of this thread's part of a 64 x `columns` matrix, see
// `multiply_add_group` in hopper.cuh.
// `values` says what each pattern of 16 bits means.
void issue_product(float* sums, int columns, uint64_t a, uint64_t b, const float* values);
void commit_products();
void wait_for_products(int groups_left_pending);

// Barriers in shared memory, and the copies of whole tiles that complete them, see
// tma.cuh. `TensorMap` in tma.cuh has the words of a `Map`.
struct Map {
    uint64_t address;    // of the values, 16 bits each
    uint64_t pitch[4];   // bytes from one to the next along each axis but the first
    uint32_t extent[5];  // of a matrix: columns, rows; else channels, W, H, T, clips
    int8_t lower[3], upper[3];  // corners, for W, H, T
    uint8_t stride[3];
    uint8_t kind;
    uint8_t across, down;  // columns and rows of a box
    uint32_t count;      // rows or positions of a tile
};
// What a map describes.
enum Kind : uint8_t { kPositions, kMatrix, kBoxes };
static_assert(sizeof(Map) <= 128, "a map is 128 bytes");

void barrier_init(uint64_t* barrier, unsigned count);
void barrier_arrive(uint64_t* barrier, unsigned bytes);
void barrier_arrive_in(unsigned block, uint64_t* barrier);
void barrier_wait(uint64_t* barrier, unsigned parity);
void copy_rows(void* to, const void* map, int column, int row, uint64_t* barrier);
void copy_positions(void* to, const void* map, int channel, const int (&start)[4],
                    const int (&taps)[3], uint64_t* barrier, int blocks);
void copy_box(void* to, const void* map, int channel, const int (&start)[4], uint64_t* barrier);
void store_box(const void* map, int channel, const int (&start)[4], const void* from);
void wait_for_stores();

// Ends the launch with an error; does not return.
[[noreturn]] void fail(const char* format, ...);

// Fails unless the `bytes` at `pointer` lie in the block's shared memory and
// begin at a multiple of `alignment`.
void check_shared(const void* pointer, int bytes, int alignment, const char* what);

float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);

// Registers a kernel under its name.
struct Kernel {
    Kernel(const char* name, unsigned parameter_bytes, unsigned threads, void (*run)(const void*));
};

}  // namespace shim

#define threadIdx (shim::current->index)
#define blockIdx (shim::current->block)
#define blockDim (shim::block_size)
#define gridDim (shim::grid_size)

inline void __syncthreads() { shim::gather_block("__syncthreads", 0, 0); }
inline void __syncwarp() {
    shim::gather_warp("__syncwarp", nullptr, [](shim::Thread**) {});
}
inline void __threadfence() {}

// Not `fmaxf` and friends by name clash: host <cmath> has them.
inline float __expf(float x) { return std::exp(x); }
