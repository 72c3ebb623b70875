// The recurrence of an LSTM (see lstm.cuh) for Hopper, by a cluster of blocks: the grid
// is as wide as a cluster.
#include "lstm.cuh"

KERNEL(lstm_cluster_f16, Lstm, 512) { lstm_mma<f16, true>(p); }
KERNEL(lstm_cluster_bf16, Lstm, 512) { lstm_mma<bf16, true>(p); }
