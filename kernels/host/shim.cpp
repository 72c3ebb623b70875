// See shim.hpp. One launch at a time; the caller holds a lock.
#include "shim.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace shim {

Thread* current;
Dim3 grid_size;
Dim3 block_size;

struct Copy {
    void* target;
    const void* source;
    int bytes;
    int group;
};

// A thread's asynchronous copies, oldest first.
struct Copies {
    std::vector<Copy> pending;
    int open_group = 0;
};

struct Product {
    float* sums;
    int columns;
    uint64_t a, b;
    const float* values;  // what each of 65,536 patterns of bits means
    int group;
};

// A thread's asynchronous products, oldest first, and what the sums were before
// they were poisoned.
struct Products {
    std::vector<Product> pending;
    std::map<float*, std::vector<float>> saved;
    int open_group = 0;
};

// A copy of a tile, row by row: where each comes from, or null for zeros. A row's first
// `bytes` are there, and zeros follow.
struct TileCopy {
    unsigned char* to;
    int bytes;
    std::vector<const unsigned char*> rows;
};

// A copy of a tile to memory: where each row goes to, or null.
struct TileStore {
    const unsigned char* from;
    std::vector<unsigned char*> rows;
    int bytes;
};

// A thread's stores of tiles, not yet performed.
struct Stores {
    std::vector<TileStore> pending;
};

// A barrier in shared memory, whose own bytes nobody reads.
struct Phased {
    unsigned count = 0;
    unsigned pending = 0;  // arrivals that this phase waits for
    long long bytes = 0;   // and bytes
    unsigned phase = 0;
    std::vector<TileCopy> copies;  // not yet performed, oldest first
};

namespace {

constexpr size_t kStack = 128 * 1024;
constexpr int kBarriers = 16;

struct Entry {
    unsigned parameter_bytes;
    unsigned threads;
    void (*run)(const void*);
};

std::map<std::string, Entry>& kernels() {
    static std::map<std::string, Entry> map;
    return map;
}

enum class Order { Forward, Reverse, Random };

struct Warp {
    uint32_t ready = 0;    // lanes that could run now
    uint32_t finished = 0;
    int arrived = 0;
    const char* what = nullptr;
    Thread* lanes[kWarp];
};

struct Barrier {
    int arrived = 0;
    int expected = 0;
    std::vector<Thread*> waiting;
};

struct Block {
    unsigned char* shared = nullptr;
    Barrier barriers[kBarriers];
    std::map<uint64_t*, Phased> phased;
    int finished = 0;
};

// Everything about the launch under way.
struct Launch {
    const Entry* kernel;
    const void* parameters;
    Order order;
    uint64_t random;
    int threads;  // of one block
    unsigned shared_bytes;
    std::vector<Block> blocks;  // resident ones
    std::vector<Thread> fibers;
    std::vector<Copies> copies;
    std::vector<Products> products;
    std::vector<Stores> stores;
    std::vector<Warp> warps;
    std::vector<Thread*> waiting;  // with a condition
    bool is_cluster = false;       // what the resident blocks are
    bool has_met = false;
    Barrier cluster;
    int warp = 0;                  // that runs
    int unfinished = 0;
    bool failed = false;
    std::string error;
};

Launch* launch;
char* stacks;
size_t stacks_count;

#if defined(__x86_64__)
void* main_stack_pointer;

// Saves what the ABI asks a callee to keep, then goes on where `to` stopped.
extern "C" void shim_switch(void** from, void* to);
asm(R"(
.text
.type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch, .-shim_switch
)");

void fiber_main();

void prepare(Thread& thread, char* stack) {
    auto top = reinterpret_cast<void**>(stack + kStack);
    // As after a call: the stack pointer is 8 off a multiple of 16.
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    thread.stack_pointer = top;
}

void switch_fiber(Thread* from, Thread* to) {
    shim_switch(from ? &from->stack_pointer : &main_stack_pointer,
                to ? to->stack_pointer : main_stack_pointer);
}
#else
ucontext_t main_context;
std::vector<ucontext_t> contexts;

void fiber_main();

void prepare(Thread& thread, char* stack) {
    const size_t number = &thread - launch->fibers.data();
    if (contexts.size() < launch->fibers.size()) contexts.resize(launch->fibers.size());
    ucontext_t& context = contexts[number];
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = kStack;
    context.uc_link = nullptr;
    makecontext(&context, fiber_main, 0);
    thread.stack_pointer = &context;
}

void switch_fiber(Thread* from, Thread* to) {
    swapcontext(from ? static_cast<ucontext_t*>(from->stack_pointer) : &main_context,
                to ? static_cast<ucontext_t*>(to->stack_pointer) : &main_context);
}
#endif

uint64_t draw() {
    // SplitMix64.
    uint64_t z = (launch->random += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

int warp_of(const Thread* thread) {
    return (thread->resident * launch->threads + thread->linear) / kWarp;
}
int lane_of(const Thread* thread) { return thread->linear % kWarp; }

void wake(Thread* thread) {
    launch->warps[warp_of(thread)].ready |= 1u << lane_of(thread);
}

Thread* pick_lane(Warp& warp) {
    uint32_t ready = warp.ready;
    int lane;
    switch (launch->order) {
        case Order::Forward: lane = __builtin_ctz(ready); break;
        case Order::Reverse: lane = 31 - __builtin_clz(ready); break;
        default: {
            int skip = draw() % __builtin_popcount(ready);
            while (skip--) ready &= ready - 1;
            lane = __builtin_ctz(ready);
        }
    }
    return warp.lanes[lane];
}

// Wakes those whose condition has come to hold.
bool poll() {
    bool any = false;
    auto& waiting = launch->waiting;
    for (size_t i = 0; i < waiting.size();) {
        if (waiting[i]->condition(waiting[i]->condition_argument)) {
            wake(waiting[i]);
            waiting.erase(waiting.begin() + i);
            any = true;
        } else {
            ++i;
        }
    }
    return any;
}

std::string deadlock() {
    std::map<std::string, int> counts;
    for (const Thread& thread : launch->fibers) {
        const Warp& warp = launch->warps[warp_of(&thread)];
        if (!(warp.finished >> lane_of(&thread) & 1)) ++counts[thread.waiting_for];
    }
    std::string text = "deadlock: ";
    for (const auto& [what, count] : counts) {
        text += std::to_string(count) + " threads wait at " + what + "; ";
    }
    return text + std::to_string(launch->fibers.size() - launch->unfinished) + " have ended";
}

// The thread to run next, or none when all have finished or none ever can.
Thread* next() {
    const int count = static_cast<int>(launch->warps.size());
    if (launch->unfinished == 0 || launch->failed) return nullptr;
    for (;;) {
        if (launch->order == Order::Random && draw() % 8 == 0) {
            launch->warp = draw() % count;
            poll();
        }
        for (int step = 0; step < count; ++step) {
            const int offset = launch->order == Order::Reverse ? count - step : step;
            const int number = (launch->warp + offset) % count;
            if (launch->warps[number].ready) {
                launch->warp = number;
                return pick_lane(launch->warps[number]);
            }
        }
        if (!poll()) {
            launch->failed = true;
            launch->error = deadlock();
            return nullptr;
        }
    }
}

// Gives way; comes back when woken.
void yield() {
    Thread* self = current;
    Thread* to = next();
    if (to == self) return;
    current = to;
    switch_fiber(self, to);
}

void block_and_yield(const char* what) {
    current->waiting_for = what;
    launch->warps[warp_of(current)].ready &= ~(1u << lane_of(current));
    yield();
}

void fiber_main() {
    launch->kernel->run(launch->parameters);
    Warp& warp = launch->warps[warp_of(current)];
    warp.ready &= ~(1u << lane_of(current));
    warp.finished |= 1u << lane_of(current);
    --launch->unfinished;
    ++launch->blocks[current->resident].finished;
    yield();
    std::abort();
}

void perform(const Copy& copy) {
    if (copy.source) {
        std::memcpy(copy.target, copy.source, copy.bytes);
    } else {
        std::memset(copy.target, 0, copy.bytes);
    }
}

}  // namespace

unsigned char* shared_memory() { return launch->blocks[current->resident].shared; }

void fail(const char* format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    launch->failed = true;
    launch->error = text;
    Thread* self = current;
    current = nullptr;
    switch_fiber(self, nullptr);
    std::abort();
}

void check_shared(const void* pointer, int bytes, int alignment, const char* what) {
    const auto* begin = shared_memory();
    const auto* at = static_cast<const unsigned char*>(pointer);
    if (at < begin || at + bytes > begin + launch->shared_bytes) {
        fail("%s: %d bytes at offset %ld of shared memory, which has %u", what, bytes,
             static_cast<long>(at - begin), launch->shared_bytes);
    }
    if ((at - begin) % alignment) {
        fail("%s: offset %ld of shared memory is no multiple of %d", what,
             static_cast<long>(at - begin), alignment);
    }
}

void gather_warp(const char* what, void* slot, Combine combine) {
    Warp& warp = launch->warps[warp_of(current)];
    if (warp.arrived && warp.what != what) {
        fail("lanes of one warp at %s and at %s", warp.what, what);
    }
    warp.what = what;
    current->slot = slot;
    if (++warp.arrived < kWarp) {
        block_and_yield(what);
        return;
    }
    warp.arrived = 0;
    combine(warp.lanes);
    warp.ready = ~0u;
    yield();
}

// Waits for as many threads as the barrier expects; true in the last one.
static bool gather(const char* what, Barrier& barrier) {
    if (++barrier.arrived < barrier.expected) {
        barrier.waiting.push_back(current);
        block_and_yield(what);
        return false;
    }
    barrier.arrived = 0;
    for (Thread* thread : barrier.waiting) wake(thread);
    barrier.waiting.clear();
    return true;
}

void gather_block(const char* what, int number, int count) {
    Barrier& barrier = launch->blocks[current->resident].barriers[number];
    const int expected = count ? count : launch->threads;
    if (barrier.arrived && barrier.expected != expected) {
        fail("%s: threads expect %d and %d at barrier %d", what, barrier.expected, expected, number);
    }
    barrier.expected = expected;
    if (gather(what, barrier)) yield();
}

void gather_cluster(const char* what) {
    if (!launch->is_cluster) fail("%s: this block is in no cluster", what);
    launch->cluster.expected = static_cast<int>(launch->fibers.size());
    if (gather(what, launch->cluster)) {
        launch->has_met = true;
        yield();
    }
}

void wait_until(const char* what, bool (*condition)(const void*), const void* argument) {
    if (condition(argument)) return;
    current->condition = condition;
    current->condition_argument = argument;
    launch->waiting.push_back(current);
    block_and_yield(what);
}

void issue_copy(void* target, const void* source, int bytes) {
    check_shared(target, bytes, bytes, "cp.async");
    if (source && reinterpret_cast<uintptr_t>(source) % bytes) {
        fail("cp.async: its source is not aligned to %d bytes", bytes);
    }
    std::memset(target, 0xff, bytes);
    current->copies->pending.push_back({target, source, bytes, current->copies->open_group});
}

void commit_copies() { ++current->copies->open_group; }

void wait_for_copies(int groups_left_pending) {
    Copies& copies = *current->copies;
    const int done = copies.open_group - groups_left_pending;
    auto& pending = copies.pending;
    auto end = std::find_if(pending.begin(), pending.end(),
                            [&](const Copy& copy) { return copy.group >= done; });
    std::for_each(pending.begin(), end, perform);
    pending.erase(pending.begin(), end);
    // The hardware is free to be early, too.
    if (launch->order == Order::Random && draw() % 2) {
        std::for_each(pending.begin(), pending.end(), perform);
        pending.clear();
    }
}

void issue_product(float* sums, int columns, uint64_t a, uint64_t b, const float* values) {
    Products& products = *current->products;
    if (!products.saved.count(sums)) {
        products.saved[sums].assign(sums, sums + columns / 2);
        std::memset(sums, 0xff, sizeof(float) * columns / 2);
    }
    products.pending.push_back({sums, columns, a, b, values, products.open_group});
}

void commit_products() { ++current->products->open_group; }

// Row r of a matrix whose rows are 128 bytes, eight rows an atom, chunks of 16
// bytes swizzled (PTX ISA 9.7.15.5.1, 128-byte swizzle): sixteen columns.
static void read_row(const Product& product, uint64_t descriptor, int r, float (&row)[16]) {
    const uint32_t start = (descriptor & 0x3fff) << 4;
    const uint32_t stride = (descriptor >> 32 & 0x3fff) << 4;
    if (descriptor >> 62 != 1) fail("wgmma: the matrix is not swizzled by 128 bytes");
    for (int chunk = 0; chunk < 2; ++chunk) {
        uint32_t at = start + r / 8 * stride + r % 8 * 128 + chunk * 16;
        at ^= (at >> 7 & 7) << 4;
        const unsigned char* from = shared_memory() + at;
        check_shared(from, 16, 16, "wgmma");
        uint16_t bits[8];
        std::memcpy(bits, from, 16);
        for (int i = 0; i < 8; ++i) row[8 * chunk + i] = product.values[bits[i]];
    }
}

void wait_for_products(int groups_left_pending) {
    Products& products = *current->products;
    auto& pending = products.pending;
    const int done = products.open_group - groups_left_pending;
    // Warp w of the four has rows 16 w to 16 w + 15, lane l of them l / 4 and
    // l / 4 + 8, columns 2 (l % 4) and one more of every eight.
    const int lane = current->linear % 32, warp = current->linear / 32 % 4;
    size_t count = 0;
    for (; count < pending.size() && pending[count].group < done; ++count) {
        const Product& product = pending[count];
        std::vector<float>& sums = products.saved[product.sums];
        float a[2][16];
        for (int half = 0; half < 2; ++half) {
            read_row(product, product.a, 16 * warp + lane / 4 + 8 * half, a[half]);
        }
        for (int j = 0; j < product.columns / 8; ++j) {
            for (int odd = 0; odd < 2; ++odd) {
                float b[16];
                read_row(product, product.b, 8 * j + lane % 4 * 2 + odd, b);
                for (int half = 0; half < 2; ++half) {
                    float& sum = sums[4 * j + 2 * half + odd];
                    for (int k = 0; k < 16; ++k) sum += a[half][k] * b[k];
                }
            }
        }
    }
    pending.erase(pending.begin(), pending.begin() + count);
    for (auto saved = products.saved.begin(); saved != products.saved.end();) {
        const bool used = std::any_of(pending.begin(), pending.end(), [&](const Product& product) {
            return product.sums == saved->first;
        });
        if (used) {
            ++saved;
            continue;
        }
        std::copy(saved->second.begin(), saved->second.end(), saved->first);
        saved = products.saved.erase(saved);
    }
}

// Another block of the cluster, which others may reach.
static Block& block_of_cluster(const char* what, unsigned number) {
    if (number >= launch->blocks.size()) fail("%s: there is no block %u", what, number);
    if (!launch->has_met) fail("%s: block %u may not have begun", what, number);
    Block& block = launch->blocks[number];
    if (block.finished == launch->threads) fail("%s: block %u has ended", what, number);
    return block;
}

// What lies in a block where `at` does in one's own.
static unsigned char* place_in(const Block& block, const void* at) {
    return block.shared + (static_cast<const unsigned char*>(at) - shared_memory());
}

void store_to_block(unsigned number, void* at, const void* from, int bytes) {
    const char* what = "st.shared::cluster";
    check_shared(at, bytes, bytes, what);
    std::memcpy(place_in(block_of_cluster(what, number), at), from, bytes);
}

static Phased& phased(Block& block, uint64_t* barrier) {
    const auto found = block.phased.find(reinterpret_cast<uint64_t*>(place_in(block, barrier)));
    if (found == block.phased.end()) fail("mbarrier: there is none at this place");
    return found->second;
}

static Phased& phased(uint64_t* barrier) { return phased(launch->blocks[current->resident], barrier); }

static void end_phase_if_over(Phased& barrier) {
    if (barrier.pending == 0 && barrier.bytes == 0) {
        barrier.pending = barrier.count;
        ++barrier.phase;
    }
}

constexpr int kRow = 128;  // bytes

static void perform_oldest(Phased& barrier) {
    const TileCopy copy = barrier.copies.front();
    barrier.copies.erase(barrier.copies.begin());
    for (size_t r = 0; r < copy.rows.size(); ++r) {
        unsigned char row[kRow] = {};
        if (copy.rows[r]) std::memcpy(row, copy.rows[r], copy.bytes);
        for (unsigned chunk = 0; chunk < kRow / 16; ++chunk) {
            std::memcpy(copy.to + r * kRow + (chunk ^ r % 8) * 16, row + chunk * 16, 16);
        }
    }
    barrier.bytes -= static_cast<long long>(copy.rows.size()) * kRow;
    end_phase_if_over(barrier);
}

void barrier_init(uint64_t* barrier, unsigned count) {
    check_shared(barrier, 8, 8, "mbarrier");
    auto& all = launch->blocks[current->resident].phased;
    if (all.count(barrier)) fail("mbarrier: begun twice");
    all[barrier].count = all[barrier].pending = count;
}

static void arrive(Phased& barrier, unsigned bytes) {
    if (barrier.pending == 0) fail("mbarrier: more arrivals than a phase waits for");
    --barrier.pending;
    barrier.bytes += bytes;
    end_phase_if_over(barrier);
    // Others may see it before this thread goes on.
    if (launch->order == Order::Random && draw() % 2) yield();
}

void barrier_arrive(uint64_t* at, unsigned bytes) { arrive(phased(at), bytes); }

void barrier_arrive_in(unsigned block, uint64_t* at) {
    arrive(phased(block_of_cluster("mbarrier.arrive", block), at), 0);
}

void barrier_wait(uint64_t* at, unsigned parity) {
    struct Wait {
        Phased* barrier;
        unsigned parity;
    } wait{&phased(at), parity};
    wait_until(
        "an mbarrier",
        [](const void* p) {
            const auto* wait = static_cast<const Wait*>(p);
            Phased& barrier = *wait->barrier;
            while (barrier.phase % 2 == wait->parity && !barrier.copies.empty()) {
                perform_oldest(barrier);
            }
            return barrier.phase % 2 != wait->parity;
        },
        &wait);
}

static void issue_tile(TileCopy copy, Block& block, uint64_t* at) {
    const int bytes = static_cast<int>(copy.rows.size()) * kRow;
    check_shared(copy.to, bytes, 1024, "cp.async.bulk.tensor");
    Phased& barrier = phased(block, at);
    copy.to = place_in(block, copy.to);
    std::memset(copy.to, 0xff, bytes);
    barrier.copies.push_back(std::move(copy));
    // The hardware is free to be early.
    if (launch->order == Order::Random && draw() % 2) perform_oldest(barrier);
}

static void issue_tile(TileCopy copy, uint64_t* at) {
    issue_tile(std::move(copy), launch->blocks[current->resident], at);
}

// Bytes of a row that are there, of values of 16 bits from `first` on; behind the
// `extent` there are none.
static int bytes_within(const char* what, int first, uint32_t extent) {
    if (first < 0) fail("cp.async.bulk.tensor: %s from %d on", what, first);
    return std::clamp((static_cast<int>(extent) - first) * 2, 0, kRow);
}

static Map read_map(const void* words, Kind kind) {
    Map map;
    std::memcpy(&map, words, sizeof map);
    if (map.kind != kind) fail("cp.async.bulk.tensor: a map of the other kind");
    if (map.address % 16) fail("cp.async.bulk.tensor: the values are not aligned to 16 bytes");
    for (int axis = 0; axis < (kind == kMatrix ? 1 : 4); ++axis) {
        if (map.pitch[axis] % 16) fail("cp.async.bulk.tensor: a pitch is no multiple of 16 bytes");
    }
    return map;
}

void copy_rows(void* to, const void* words, int column, int row, uint64_t* barrier) {
    const Map map = read_map(words, kMatrix);
    TileCopy copy{static_cast<unsigned char*>(to), bytes_within("columns", column, map.extent[0]), {}};
    const auto* values = reinterpret_cast<const unsigned char*>(map.address);
    for (unsigned i = 0; i < map.count; ++i) {
        const bool inside = row + i < map.extent[1];
        copy.rows.push_back(inside ? values + (row + i) * map.pitch[0] + column * 2 : nullptr);
    }
    issue_tile(std::move(copy), barrier);
}

// PTX ISA 5.5.4, im2col mode: the box of first corners goes from `lower` to the
// extent less one plus `upper`, on each axis; positions follow each other within it.
void copy_positions(void* to, const void* words, int channel, const int (&start)[4],
                    const int (&taps)[3], uint64_t* barrier, int blocks) {
    const Map map = read_map(words, kPositions);
    TileCopy copy{static_cast<unsigned char*>(to), bytes_within("channels", channel, map.extent[0]), {}};
    int at[4] = {start[0], start[1], start[2], start[3]};
    int last[3];
    for (int axis = 0; axis < 3; ++axis) {
        last[axis] = static_cast<int>(map.extent[axis + 1]) - 1 + map.upper[axis];
        if (at[axis] < map.lower[axis] || at[axis] > last[axis]) {
            fail("cp.async.bulk.tensor: begins at %d, beside a box from %d to %d", at[axis],
                 map.lower[axis], last[axis]);
        }
        if (taps[axis] < 0 || taps[axis] > 31) fail("cp.async.bulk.tensor: a tap of %d", taps[axis]);
    }
    for (unsigned i = 0; i < map.count; ++i) {
        bool inside = at[3] < static_cast<int>(map.extent[4]);
        const auto* from = reinterpret_cast<const unsigned char*>(map.address) + channel * 2 +
                           at[3] * map.pitch[3];
        for (int axis = 0; axis < 3; ++axis) {
            const int place = at[axis] + taps[axis];
            inside = inside && place >= 0 && place < static_cast<int>(map.extent[axis + 1]);
            from += static_cast<long long>(place) * static_cast<long long>(map.pitch[axis]);
        }
        copy.rows.push_back(inside ? from : nullptr);
        for (int axis = 0;; ++axis) {
            if (axis == 3) {
                ++at[3];
                break;
            }
            at[axis] += map.stride[axis];
            if (at[axis] <= last[axis]) break;
            at[axis] = map.lower[axis];
        }
    }
    if (blocks == 1) {
        issue_tile(std::move(copy), barrier);
        return;
    }
    for (int block = 0; block < blocks; ++block) {
        issue_tile(copy, block_of_cluster("cp.async.bulk.tensor", block), barrier);
    }
}

// Where the rows of a box lie, or null, and how many of their bytes there are.
static std::vector<unsigned char*> rows_of_box(const Map& map, int channel, const int (&start)[4],
                                               int& bytes) {
    const auto inside = [&](int place, int axis) {
        return place >= 0 && place < static_cast<int>(map.extent[axis + 1]);
    };
    bytes = bytes_within("channels", channel, map.extent[0]);
    std::vector<unsigned char*> rows;
    for (int down = 0; down < map.down; ++down) {
        for (int across = 0; across < map.across; ++across) {
            const int at[4] = {start[0] + across, start[1] + down, start[2], start[3]};
            auto* from = reinterpret_cast<unsigned char*>(map.address) + channel * 2;
            bool is_there = bytes > 0;
            for (int axis = 0; axis < 4; ++axis) {
                is_there = is_there && inside(at[axis], axis);
                from += static_cast<long long>(at[axis]) * static_cast<long long>(map.pitch[axis]);
            }
            rows.push_back(is_there ? from : nullptr);
        }
    }
    return rows;
}

void copy_box(void* to, const void* words, int channel, const int (&start)[4], uint64_t* barrier) {
    const Map map = read_map(words, kBoxes);
    TileCopy copy{static_cast<unsigned char*>(to), 0, {}};
    for (unsigned char* row : rows_of_box(map, channel, start, copy.bytes)) copy.rows.push_back(row);
    issue_tile(std::move(copy), barrier);
}

void store_box(const void* words, int channel, const int (&start)[4], const void* from) {
    const Map map = read_map(words, kBoxes);
    TileStore store{static_cast<const unsigned char*>(from), {}, 0};
    store.rows = rows_of_box(map, channel, start, store.bytes);
    check_shared(from, static_cast<int>(store.rows.size()) * kRow, 1024, "cp.async.bulk.tensor");
    current->stores->pending.push_back(std::move(store));
}

void wait_for_stores() {
    for (const TileStore& store : current->stores->pending) {
        for (size_t r = 0; r < store.rows.size(); ++r) {
            for (int chunk = 0; chunk < kRow / 16; ++chunk) {
                const int bytes = std::min(store.bytes - chunk * 16, 16);
                const unsigned char* from = store.from + r * kRow + (chunk ^ r % 8) * 16;
                if (store.rows[r] && bytes > 0) std::memcpy(store.rows[r] + chunk * 16, from, bytes);
            }
        }
    }
    current->stores->pending.clear();
}

float half_to_float(uint16_t bits) {
    const uint32_t sign = (bits & 0x8000u) << 16;
    const uint32_t exponent = bits >> 10 & 31;
    const uint32_t mantissa = bits & 0x3ff;
    uint32_t word;
    if (exponent == 31) {
        word = sign | 0x7f800000u | mantissa << 13;
    } else if (exponent) {
        word = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        const float value = std::ldexp(static_cast<float>(mantissa), -24);
        return sign ? -value : value;
    }
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

uint16_t float_to_half(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    const uint16_t sign = word >> 16 & 0x8000;
    if (value != value) return sign | 0x7fff;
    const float magnitude = std::fabs(value);
    if (magnitude >= 65520.0f) return sign | 0x7c00;
    // The spacing of halves around the magnitude; rint rounds ties to even.
    const int exponent = std::max(std::ilogb(magnitude == 0 ? 1e-10f : magnitude), -14);
    const auto units = static_cast<uint32_t>(std::rint(std::ldexp(magnitude, 10 - exponent)));
    // A carry out of the mantissa moves into the exponent, as it should.
    return sign | (units + ((exponent + 14) << 10));
}

Kernel::Kernel(const char* name, unsigned parameter_bytes, unsigned threads,
               void (*run)(const void*)) {
    kernels()[name] = Entry{parameter_bytes, threads, run};
}

}  // namespace shim

using namespace shim;

namespace {

// Runs blocks `first .. first + count` together. Shared memory ends where its
// allocation does, so that AddressSanitizer sees what runs over.
void run_blocks(unsigned first, unsigned count) {
    Launch& l = *launch;
    const size_t fibers = static_cast<size_t>(count) * l.threads;
    if (stacks_count < fibers) {
        if (stacks) munmap(stacks, stacks_count * kStack);
        stacks = static_cast<char*>(mmap(nullptr, fibers * kStack, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (stacks == MAP_FAILED) {
            stacks = nullptr;
            stacks_count = 0;
            l.failed = true;
            l.error = "no memory for the stacks of the threads";
            return;
        }
        stacks_count = fibers;
    }
    l.blocks.assign(count, Block());
    l.fibers.assign(fibers, Thread());
    l.copies.assign(fibers, Copies());
    l.products.assign(fibers, Products());
    l.stores.assign(fibers, Stores());
    l.warps.assign(fibers / kWarp, Warp());
    l.waiting.clear();
    l.has_met = false;
    l.cluster = Barrier();
    l.unfinished = static_cast<int>(fibers);
    l.warp = l.order == Order::Reverse ? static_cast<int>(l.warps.size()) - 1 : 0;
    for (unsigned b = 0; b < count; ++b) {
        const unsigned linear = first + b;
        void* shared = nullptr;
        if (posix_memalign(&shared, 1024, std::max(l.shared_bytes, 1u))) std::abort();
        l.blocks[b].shared = static_cast<unsigned char*>(shared);
        std::memset(l.blocks[b].shared, 0xff, l.shared_bytes);
        for (int t = 0; t < l.threads; ++t) {
            const size_t number = static_cast<size_t>(b) * l.threads + t;
            Thread& thread = l.fibers[number];
            thread.index = {static_cast<unsigned>(t), 0, 0};
            thread.block = {linear % grid_size.x, linear / grid_size.x % grid_size.y,
                            linear / grid_size.x / grid_size.y};
            thread.linear = t;
            thread.resident = b;
            thread.waiting_for = "its turn";
            thread.copies = &l.copies[number];
            thread.products = &l.products[number];
            thread.stores = &l.stores[number];
            prepare(thread, stacks + number * kStack);
            Warp& warp = l.warps[number / kWarp];
            warp.lanes[t % kWarp] = &thread;
            warp.ready = ~0u;
        }
    }
    current = next();
    if (current) switch_fiber(nullptr, current);
    if (!l.failed && l.cluster.arrived) {
        l.failed = true;
        l.error = "threads were left behind at a cluster's barrier";
    }
    for (Block& block : l.blocks) {
        for (const Barrier& barrier : block.barriers) {
            if (!l.failed && barrier.arrived) {
                l.failed = true;
                l.error = "threads were left behind at a barrier";
            }
        }
        for (const auto& [at, barrier] : block.phased) {
            if (!l.failed && !barrier.copies.empty()) {
                l.failed = true;
                l.error = "a copy was under way when its block ended";
            }
        }
        free(block.shared);
    }
}

}  // namespace

extern "C" {

struct ShimLaunch {
    const char* name;
    unsigned grid[3];
    unsigned block;
    unsigned shared_bytes;
    unsigned together;  // blocks that run at once: one, a cluster's, or all
    unsigned is_cluster;
    const void* parameters;
    unsigned parameter_bytes;
    unsigned order;     // 0 forward, 1 reverse, 2 random
    uint64_t seed;
};

// Gives 0, or 1 with a text in `error`.
int shim_launch(const ShimLaunch* asked, char* error, unsigned error_bytes) {
    auto refuse = [&](const std::string& text) {
        snprintf(error, error_bytes, "%s: %s", asked->name, text.c_str());
        return 1;
    };
    const auto found = kernels().find(asked->name);
    if (found == kernels().end()) return refuse("there is no such kernel");
    const Entry& entry = found->second;
    if (entry.parameter_bytes != asked->parameter_bytes) {
        return refuse("takes " + std::to_string(entry.parameter_bytes) + " bytes of parameters, not " +
                      std::to_string(asked->parameter_bytes));
    }
    if (asked->block == 0 || asked->block % kWarp || asked->block > entry.threads) {
        return refuse("cannot run with " + std::to_string(asked->block) + " threads a block");
    }
    if (asked->shared_bytes > 227 * 1024) return refuse("asks for more shared memory than there is");
    const uint64_t blocks =
        static_cast<uint64_t>(asked->grid[0]) * asked->grid[1] * asked->grid[2];
    if (blocks == 0 || asked->grid[1] > 65535 || asked->grid[2] > 65535) {
        return refuse("has an impossible grid");
    }
    if (asked->together == 0 || blocks % asked->together) return refuse("has blocks left over");
    if (asked->is_cluster && (asked->grid[0] % asked->together || asked->together > 8)) {
        return refuse("has an impossible cluster");
    }
    Launch state{};
    state.kernel = &entry;
    state.parameters = asked->parameters;
    state.order = static_cast<Order>(asked->order);
    state.random = asked->seed;
    state.threads = static_cast<int>(asked->block);
    state.is_cluster = asked->is_cluster;
    state.shared_bytes = asked->shared_bytes;
    launch = &state;
    grid_size = {asked->grid[0], asked->grid[1], asked->grid[2]};
    block_size = {asked->block, 1, 1};
    const uint64_t rounds = blocks / asked->together;
    for (uint64_t i = 0; i < rounds && !state.failed; ++i) {
        const uint64_t number = state.order == Order::Reverse ? rounds - 1 - i : i;
        run_blocks(static_cast<unsigned>(number * asked->together), asked->together);
    }
    launch = nullptr;
    return state.failed ? refuse(state.error) : 0;
}

}  // extern "C"
