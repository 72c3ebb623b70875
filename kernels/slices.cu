// Slices of a session: from where they are held to where a window is computed,
// and back, of several streams at once.
#include "common.cuh"

// One slice. Channels are padded to eight, so that slices are whole chunks of
// sixteen bytes.
struct Slice {
    const uint4* from;
    uint4* to;
    long long chunks;
};

struct Slices {
    const Slice* slices;
    int count;
};

// A row of blocks copies a slice; its blocks take turns.
KERNEL(copy_slices, Slices, 256) {
    const Slice slice = p.slices[blockIdx.y];
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < slice.chunks; i += step) {
        slice.to[i] = slice.from[i];
    }
}
