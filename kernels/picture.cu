// Pictures: into the network, and out of it.
#include "ptx.cuh"

struct Resize {
    const uint8_t* input;  // [frames, rows, pitch]
    uint8_t* output;       // [frames, out_rows, out_columns]
    int frames, rows, pitch;
    int left, top, width, height;  // the crop
    int out_rows, out_columns;
};

// What part of an axis an output place is made of: a triangle as wide as the
// step between places, or as one input place where the picture grows.
struct Support {
    float centre, scale;
    int begin, end;
};

__device__ __forceinline__ Support support_of(int place, int from, int to) {
    const float step = static_cast<float>(from) / static_cast<float>(to);
    Support s;
    s.scale = step > 1.0f ? step : 1.0f;
    s.centre = (static_cast<float>(place) + 0.5f) * step;
    const int begin = static_cast<int>(floorf(s.centre - s.scale));
    const int end = static_cast<int>(ceilf(s.centre + s.scale));
    s.begin = begin < 0 ? 0 : begin;
    s.end = end > from ? from : end;
    return s;
}

__device__ __forceinline__ float weight_at(const Support& s, int place) {
    const float distance = fabsf(static_cast<float>(place) + 0.5f - s.centre) / s.scale;
    return distance < 1.0f ? 1.0f - distance : 0.0f;
}

// Crops and resizes with antialiasing: the triangle filter that Pillow calls
// bilinear. A thread computes one output place; rounds to nearest.
KERNEL(resize, Resize, 256) {
    const int item = blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= p.frames * p.out_rows * p.out_columns) return;
    const int column = item % p.out_columns;
    const int row = item / p.out_columns % p.out_rows;
    const int frame = item / p.out_columns / p.out_rows;
    const Support h = support_of(row, p.height, p.out_rows);
    const Support w = support_of(column, p.width, p.out_columns);
    const uint8_t* input = p.input + (static_cast<long long>(frame) * p.rows + p.top) * p.pitch + p.left;
    float sum = 0.0f, weight = 0.0f;
    for (int y = h.begin; y < h.end; ++y) {
        float across = 0.0f, weight_across = 0.0f;
        for (int x = w.begin; x < w.end; ++x) {
            const float here = weight_at(w, x);
            across += here * static_cast<float>(input[static_cast<long long>(y) * p.pitch + x]);
            weight_across += here;
        }
        const float here = weight_at(h, y);
        sum += here * (across / weight_across);
        weight += here;
    }
    p.output[item] = static_cast<uint8_t>(sum / weight + 0.5f);
}

struct GradCam {
    const void* activations;  // [clips, positions, channels]
    const float* weights;     // [clips, channels]: the class's gradient, averaged
    float* output;            // [clips, positions]
    long long input_clip;
    int clips, positions, channels;
};

// output[n, p] = max(0, sum over c of weights[n, c] activations[n, p, c]).
//
// A warp computes one value.
template <typename E>
__device__ __forceinline__ void grad_cam(const GradCam& p) {
    const int item = blockIdx.x * 8 + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (item >= p.clips * p.positions) return;
    const int clip = item / p.positions;
    const E* activations = static_cast<const E*>(p.activations) + clip * p.input_clip +
                           static_cast<long long>(item % p.positions) * p.channels;
    const float* weights = p.weights + static_cast<long long>(clip) * p.channels;
    float sum = 0.0f;
    for (int c = 8 * lane; c < p.channels; c += 256) {
        const Eight here = load_eight(activations + c);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum += weights[c + i] * here.value[i];
    }
    sum = warp_sum(sum);
    if (lane == 0) p.output[item] = relu(sum);
}

KERNEL(grad_cam_f32, GradCam, 256) { grad_cam<float>(p); }
KERNEL(grad_cam_f16, GradCam, 256) { grad_cam<f16>(p); }
KERNEL(grad_cam_bf16, GradCam, 256) { grad_cam<bf16>(p); }
