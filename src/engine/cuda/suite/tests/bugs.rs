//! Bugs that kernels like these have had, or could have.

use crate::engine::cuda::shim::Patch;

/// A bug, and the cases that must see it.
pub(super) struct Bug {
    pub(super) name: &'static str,
    pub(super) patch: Patch,
    pub(super) cases: &'static str,
}

pub(super) const BUGS: [Bug; 46] = [
    Bug {
        name: "a stage is replaced while products still read it",
        patch: Patch {
            file: "conv_wgmma.cu",
            from: "sums.template wait<0>();",
            to: "sums.template wait<1>();",
        },
        cases: "conv",
    },
    Bug {
        name: "sums are read before the products have ended",
        patch: Patch {
            file: "conv_tma.cu",
            from: "        sums.template wait<0>();\n        leave_pair",
            to: "        leave_pair",
        },
        cases: "64 channels",
    },
    Bug {
        name: "products begin before all threads have brought the tile",
        patch: Patch {
            file: "conv_wgmma.cu",
            from: "__syncthreads();  // this tile has come",
            to: "// this tile has come",
        },
        cases: "conv",
    },
    Bug {
        name: "products begin before the copies have ended",
        patch: Patch {
            file: "conv_wgmma.cu",
            from: "copies_wait<kStages - 2>();",
            to: "copies_wait<kStages - 1>();",
        },
        cases: "conv",
    },
    Bug {
        name: "rows are swizzled otherwise than described",
        patch: Patch {
            file: "conv_wgmma.cu",
            from: "(chunk ^ row % 8)",
            to: "(chunk ^ row / 2 % 8)",
        },
        cases: "conv",
    },
    Bug {
        name: "a descriptor is off by one step",
        patch: Patch {
            file: "conv_group.cuh",
            from: "describe_matrix(b + 32 * step)",
            to: "describe_matrix(b + 32 * (step ^ 1))",
        },
        cases: "conv",
    },
    Bug {
        name: "a stage is filled again while products still read it",
        patch: Patch {
            file: "conv_tma.cu",
            from: "barrier_wait(empty + turn.slot, turn.parity ^ 1);",
            to: "",
        },
        cases: "64 channels",
    },
    Bug {
        name: "a stage is released before its products have ended",
        patch: Patch {
            file: "conv_tma.cu",
            from: "if (tile) release(before);",
            to: "release(turn.slot);",
        },
        cases: "64 channels",
    },
    Bug {
        name: "the phase of the wrong parity is waited for",
        patch: Patch {
            file: "conv_tma.cu",
            from: "barrier_wait(full + turn.slot, turn.parity);",
            to: "barrier_wait(full + turn.slot, turn.parity ^ 1);",
        },
        cases: "64 channels",
    },
    Bug {
        name: "a stage is full before all of it has come",
        patch: Patch {
            file: "conv_tma.cu",
            from: "barrier_expect(arrived, kStageBytes);",
            to: "barrier_expect(arrived, BM * kRowBytes);",
        },
        cases: "64 channels",
    },
    Bug {
        name: "the last channels' products are left out",
        patch: Patch {
            file: "conv_tma.cu",
            from: "(tiles_of_tap - 1) * BK + 15) / 16",
            to: "(tiles_of_tap - 1) * BK) / 16",
        },
        cases: "40 channels",
    },
    Bug {
        name: "four lanes exchange their channels in another order",
        patch: Patch {
            file: "ptx.cuh",
            from: "exchange(is_upper ? low : high, bit)",
            to: "exchange(is_upper ? low : high, 3 - bit)",
        },
        cases: "64 channels",
    },
    Bug {
        name: "a box is filled again while products still read it",
        patch: Patch {
            file: "conv_halo.cu",
            from: "barrier_wait(empty + stage.slot, stage.parity ^ 1);\n                barrier_expect",
            to: "barrier_expect",
        },
        cases: "in tiles",
    },
    Bug {
        name: "weights are released before their products have ended",
        patch: Patch {
            file: "conv_halo.cu",
            from: "products_wait<1>();",
            to: "products_wait<2>();",
        },
        cases: "in tiles",
    },
    Bug {
        name: "a tap is off by the rim",
        patch: Patch {
            file: "conv_halo.cu",
            from: "tap / 3 * kBoxColumns",
            to: "tap / 3 * kColumns",
        },
        cases: "in tiles",
    },
    Bug {
        name: "a tile is stored before all of it is there",
        patch: Patch {
            file: "conv_halo.cu",
            from: "gather_threads(1 + group, 128);",
            to: "",
        },
        cases: "in tiles",
    },
    Bug {
        name: "positions that are none are stored beside others",
        patch: Patch {
            file: "conv_halo.cu",
            from: "const bool is_one = column < kColumns && row < S::kTileRows;",
            to: "const bool is_one = row < S::kTileRows;",
        },
        cases: "in tiles",
    },
    Bug {
        name: "a stage is given back before its tile is stored",
        patch: Patch {
            file: "conv_halo.cu",
            from: "            stores_wait();\n",
            to: "",
        },
        cases: "in tiles",
    },
    Bug {
        name: "a tile is read before all have brought it, and replaced while it is read",
        patch: Patch {
            file: "conv_mma.cu",
            from: "__syncthreads();  // this tile has come",
            to: "// this tile has come",
        },
        cases: "conv",
    },
    Bug {
        name: "a tile is read before its copies have ended",
        patch: Patch {
            file: "conv_mma.cu",
            from: "copies_wait<kStages - 2>();",
            to: "copies_wait<kStages - 1>();",
        },
        cases: "conv",
    },
    Bug {
        name: "a stage is released while it is still read",
        patch: Patch {
            file: "conv_mma.cu",
            from: "load((tile + kStages - 1) % kStages);",
            to: "load((tile + kStages) % kStages);",
        },
        cases: "conv",
    },
    Bug {
        name: "the wrong stage is read",
        patch: Patch {
            file: "conv_mma.cu",
            from: "shared + tile % kStages * kStageBytes",
            to: "shared + (tile + 1) % kStages * kStageBytes",
        },
        cases: "conv",
    },
    Bug {
        name: "a matrix is loaded from the wrong row",
        patch: Patch {
            file: "conv_mma.cu",
            from: "lane / 16 * 8 + lane % 8;",
            to: "lane / 8 % 2 * 8 + lane % 8;",
        },
        cases: "conv",
    },
    Bug {
        name: "chunks are written in one order and read in another",
        patch: Patch {
            file: "conv_mma.cu",
            from: "load_matrices(left[i], a + chunk_at(row0 + 16 * i + lane % 16, 2 * step + lane / 16))",
            to: "load_matrices(left[i], a + (row0 + 16 * i + lane % 16) * kRowBytes + 16 * (2 * step + lane / 16))",
        },
        cases: "conv",
    },
    Bug {
        name: "the padding is not zero",
        patch: Patch {
            file: "stem.cu",
            from: "is_there[i] ? pack<E>(level, 1.0f) : 0",
            to: "pack<E>(is_there[i] ? level : 0.0f, 1.0f)",
        },
        cases: "stem",
    },
    Bug {
        name: "a patch is read before it is full",
        patch: Patch {
            file: "stem.cu",
            from: "__syncthreads();  // the patch is full",
            // Places of taps must be there, or memory far off is read.
            to: "if (tile < static_cast<int>(gridDim.x)) __syncthreads();  // the patch is full",
        },
        cases: "many tiles",
    },
    Bug {
        name: "a patch is replaced while it is read",
        patch: Patch {
            file: "stem.cu",
            from: "__syncthreads();  // all have left",
            to: "// all have left",
        },
        cases: "many tiles",
    },
    Bug {
        name: "the stem's weights are read before they have come",
        patch: Patch {
            file: "stem.cu",
            from: "copies_wait<0>();",
            to: "",
        },
        cases: "stem",
    },
    Bug {
        name: "the stem's channels are written in another order",
        patch: Patch {
            file: "stem.cu",
            from: "row % 8 / 2 * 8 + row / 8 % 4 * 2",
            to: "row / 8 % 4 * 8 + row % 8 / 2 * 2",
        },
        cases: "stem",
    },
    Bug {
        name: "a segment is left out",
        patch: Patch {
            file: "conv_mma.cu",
            from: "segment < p.segments",
            to: "segment + 1 < p.segments",
        },
        cases: "segments",
    },
    Bug {
        name: "a tile is replaced while it is read",
        patch: Patch {
            file: "conv_f32.cu",
            from: "__syncthreads();  // the last round",
            to: "// the last round",
        },
        cases: "conv",
    },
    Bug {
        name: "blocks do not wait for each other",
        patch: Patch {
            file: "lstm.cuh",
            from: "wait_for_counter(arrived, gridDim.x * round);",
            to: "",
        },
        cases: "lstm",
    },
    Bug {
        name: "a frame's state takes the place of what others still read",
        patch: Patch {
            file: "lstm.cuh",
            from: "static_cast<uint32_t*>(p.state) + static_cast<long long>(t % 2)",
            to: "static_cast<uint32_t*>(p.state) + static_cast<long long>(0)",
        },
        cases: "lstm",
    },
    Bug {
        name: "a frame begins before the last one's state has come",
        patch: Patch {
            file: "lstm.cuh",
            from: "__syncthreads();  // the next frame's h has come",
            to: "// the next frame's h has come",
        },
        cases: "lstm",
    },
    Bug {
        name: "the state is replaced while products still read it",
        patch: Patch {
            file: "lstm.cuh",
            from: "f16* fresh = h + (t + 1) % 2 * 2 * kClips * pitch;",
            to: "f16* fresh = h + t % 2 * 2 * kClips * pitch;",
        },
        cases: "lstm",
    },
    Bug {
        name: "the state is rounded to half precision",
        patch: Patch {
            file: "lstm.cuh",
            from: ", row[pitch] = low",
            to: "",
        },
        cases: "lstm",
    },
    Bug {
        name: "weights that registers do not hold are another step's",
        patch: Patch {
            file: "lstm.cuh",
            from: "others + 64 * (step + half - kHeld)",
            to: "others + 64 * (step - kHeld)",
        },
        cases: "lstm",
    },
    Bug {
        name: "a pair's stage is empty when one block says so",
        patch: Patch {
            file: "conv_tma.cu",
            from: "if (lane < kBlocks) barrier_arrive_in<kBlocks>(lane, empty + slot);",
            to: "if (lane < kBlocks) barrier_arrive_in<1>(lane, empty + slot);",
        },
        cases: "conv 1x3x3 of 64 to",
    },
    Bug {
        name: "a block of a pair ends while the other one speaks to it",
        patch: Patch {
            file: "conv_tma.cu",
            from: "        if constexpr (kPair) gather_cluster();",
            to: "",
        },
        cases: "conv 1x3x3 of 64 to",
    },
    Bug {
        name: "both blocks of a pair bring the same positions",
        patch: Patch {
            file: "conv_tma.cu",
            from: "first = m0 + part * (BM / 2);",
            to: "first = m0;",
        },
        cases: "conv 1x3x3 of 64 to",
    },
    Bug {
        name: "blocks of a cluster do not wait for each other",
        patch: Patch {
            file: "lstm.cuh",
            from: "gather_cluster();  // all blocks' h has come",
            to: "__syncthreads();",
        },
        cases: "lstm",
    },
    Bug {
        name: "a block writes to another one that may not have begun",
        patch: Patch {
            file: "lstm.cuh",
            from: "gather_cluster();  // from here on others may write to it",
            to: "__syncthreads();",
        },
        cases: "lstm",
    },
    Bug {
        name: "a block of a cluster keeps its h to itself",
        patch: Patch {
            file: "lstm.cuh",
            from: "store_to_block(block, row, high.bits);",
            to: "store_to_block(blockIdx.x, row, high.bits);",
        },
        cases: "lstm",
    },
    Bug {
        name: "the counters are not put back",
        patch: Patch {
            file: "lstm.cuh",
            from: "arrived[0] = 0;",
            to: "",
        },
        cases: "lstm",
    },
    Bug {
        name: "sums are read before they are written",
        patch: Patch {
            file: "pool.cu",
            from: "    __syncthreads();\n",
            to: "",
        },
        cases: "mean_pool",
    },
    Bug {
        name: "some threads never come to a barrier",
        patch: Patch {
            file: "pool.cu",
            from: "    __syncthreads();\n",
            to: "    if (channel < p.channels) __syncthreads();\n",
        },
        cases: "mean_pool",
    },
];
