// The head of a network: linear layers and softmax. Small, so in f32.
#include "ptx.cuh"

struct Linear {
    const float* input;    // [clips, rows, stride]
    const float* weights;  // [classes, features]
    const float* bias;     // [classes]
    float* output;         // [clips, rows, output_stride], zeros behind the classes
    long long input_clip, output_clip;  // values from one clip's to the next one's
    int clips, rows, features, stride, classes, output_stride;
};

// output[r, k] = sum over c of weights[k, c] input[r, c], + bias[k].
//
// A warp computes one value.
KERNEL(linear, Linear, 256) {
    const int item = blockIdx.x * 8 + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (item >= p.clips * p.rows * p.output_stride) return;
    const long long clip = item / p.output_stride / p.rows, row = item / p.output_stride % p.rows;
    const int k = item % p.output_stride;
    float sum = 0.0f;
    if (k < p.classes) {
        const float* input = p.input + clip * p.input_clip + row * p.stride;
        const float* weights = p.weights + static_cast<long long>(k) * p.features;
        for (int c = lane; c < p.features; c += 32) sum += weights[c] * input[c];
    }
    sum = warp_sum(sum);
    if (lane == 0) {
        p.output[clip * p.output_clip + row * p.output_stride + k] = k < p.classes ? sum + p.bias[k] : 0.0f;
    }
}

struct LogMeanSoftmax {
    const float* input;  // [clips, frames, stride]
    float* output;       // [clips, stride]
    int clips, frames, classes, stride;
};

// output[n, k] = log(mean over t of softmax(input[n, t])[k]).
//
// A block of one warp takes a clip. Shared memory: the sums of probabilities.
KERNEL(log_mean_softmax, LogMeanSoftmax, 32) {
    float* sums = reinterpret_cast<float*>(shared_bytes());
    const int lane = threadIdx.x;
    const int clip = blockIdx.x;
    for (int k = lane; k < p.classes; k += 32) sums[k] = 0.0f;
    for (int t = 0; t < p.frames; ++t) {
        const float* row = p.input + (static_cast<long long>(clip) * p.frames + t) * p.stride;
        float largest = negative_infinity();
        for (int k = lane; k < p.classes; k += 32) largest = fmaxf(largest, row[k]);
#pragma unroll
        for (int mask = 16; mask; mask /= 2) largest = fmaxf(largest, exchange(largest, mask));
        float total = 0.0f;
        for (int k = lane; k < p.classes; k += 32) total += expf(row[k] - largest);
        total = warp_sum(total);
        // A lane adds to sums of its own only.
        for (int k = lane; k < p.classes; k += 32) sums[k] += expf(row[k] - largest) / total;
    }
    for (int k = lane; k < p.stride; k += 32) {
        p.output[static_cast<long long>(clip) * p.stride + k] =
            k < p.classes ? logf(sums[k] / static_cast<float>(p.frames)) : 0.0f;
    }
}
