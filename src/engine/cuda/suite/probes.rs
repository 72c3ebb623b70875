//! Conformance: single instructions, whose registers must hold what the PTX
//! manual says, bit by bit.

use std::sync::Arc;

use half::{bf16, f16};

use super::super::CudaError;
use super::super::kernels;
use super::super::launch::{Card, Memory};
use super::{Case, clusters_conform, copies_conform};

/// Runs a probe of one warp on words; gives `[32][4]` words.
fn run(card: &Arc<dyn Card>, kernel: &str, input: &[u32]) -> Result<Vec<u32>, CudaError> {
    run_block(card, kernel, 32, 32 * 16, input, 32 * 4)
}

fn run_block(
    card: &Arc<dyn Card>,
    kernel: &str,
    threads: usize,
    shared_bytes: usize,
    input: &[u32],
    words: usize,
) -> Result<Vec<u32>, CudaError> {
    let bytes: Vec<u8> = input.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let input = Memory::of(card, &bytes)?;
    let output = Memory::new(card, words * 4)?;
    let (from, to) = (input.address(), output.address());
    kernels::probe(card.as_ref(), kernel, threads, shared_bytes, from, to)?;
    let mut bytes = vec![0; words * 4];
    output.download(&mut bytes)?;
    let (words, _) = bytes.as_chunks::<4>();
    Ok(words.iter().map(|word| u32::from_ne_bytes(*word)).collect())
}

/// Words that differ.
fn differences(found: &[u32], expected: &[u32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).filter(|(a, b)| a != b).count() as f64
}

fn exact(name: &str, check: fn(&Arc<dyn Card>) -> Result<f64, CudaError>) -> Case {
    Case {
        name: format!("probe: {name}"),
        tolerance: 0.0,
        check: Box::new(check),
    }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        exact("ldmatrix", |card| load_matrices(card, "straight", [0, 1])),
        exact("ldmatrix.trans", |card| {
            load_matrices(card, "turned", [1, 0])
        }),
        exact("stmatrix.trans", store_matrices),
        exact("cp.async", copy_async),
        exact("mma.sync f16", |card| {
            multiply_add(card, "f16", |x| f16::from_f32(x).to_bits())
        }),
        exact("mma.sync bf16", |card| {
            multiply_add(card, "bf16", |x| bf16::from_f32(x).to_bits())
        }),
        exact("conversions", conversions),
        exact("wgmma", |card| {
            conforms(card, card.limits().warpgroups, products_conform)
        }),
        exact("a cluster", |card| {
            conforms(card, card.limits().clusters, clusters_conform)
        }),
        exact("TMA", |card| {
            conforms(card, card.limits().tma, copies_conform)
        }),
    ]
}

/// Whether Hopper's products of whole warpgroups do what the kernels rest on.
pub(crate) fn products_conform(card: &Arc<dyn Card>) -> Result<bool, CudaError> {
    for (suffix, bits) in [
        ("f16", (|x| f16::from_f32(x).to_bits()) as fn(f32) -> u16),
        ("bf16", |x| bf16::from_f32(x).to_bits()),
    ] {
        let a = |m: usize, k: usize| ((m * 7 + k * 3) % 13) as f32 - 6.0;
        let b = |k: usize, n: usize| ((k * 5 + n * 11) % 9) as f32 - 4.0;
        let places = || (0..64).flat_map(|row| (0..64).map(move |k| (row, k)));
        let mut halves: Vec<u16> = places().map(|(m, k)| bits(a(m, k))).collect();
        halves.extend(places().map(|(n, k)| bits(b(k, n))));
        let (pairs, _) = halves.as_chunks::<2>();
        let pack = |[low, high]: &[u16; 2]| u32::from(*low) | u32::from(*high) << 16;
        let input: Vec<u32> = pairs.iter().map(pack).collect();
        let expected: Vec<u32> = places()
            .map(|(m, n)| (0..64).map(|k| a(m, k) * b(k, n)).sum::<f32>().to_bits())
            .collect();
        let kernel = format!("probe_products_{suffix}");
        let found = run_block(card, &kernel, 128, 2 * 64 * 128, &input, 64 * 64)?;
        if differences(&found, &expected) > 0.0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Nothing to see on a card that lacks it.
fn conforms(
    card: &Arc<dyn Card>,
    is_there: bool,
    probe: fn(&Arc<dyn Card>) -> Result<bool, CudaError>,
) -> Result<f64, CudaError> {
    Ok(if is_there && !probe(card)? { 1.0 } else { 0.0 })
}

/// Two values of 16 bits in each of 128 words, no two alike.
fn numbered() -> Vec<u32> {
    let word = |word: u32| 0x0001_0000 * (2 * word + 1) + 2 * word;
    (0..128).map(word).collect()
}

/// Value `column` of line `line`, which has eight, in lines of four words.
fn value_of(words: &[u32], line: usize, column: usize) -> u32 {
    words[4 * line + column / 2] >> (16 * (column % 2)) & 0xffff
}

/// Register `i` of lane `l` holds row `l / 4` of matrix `i`, columns `2 (l % 4)`
/// and one more, or with row and column exchanged; row `r` of matrix `i` is what lane
/// `8 i + r` names. `order` says which of the two is the row.
fn load_matrices(card: &Arc<dyn Card>, how: &str, order: [usize; 2]) -> Result<f64, CudaError> {
    let input = numbered();
    let expected: Vec<u32> = (0..32)
        .flat_map(|lane| (0..4).map(move |matrix| (lane, matrix)))
        .map(|(lane, matrix)| {
            let value = |odd| {
                let places = [lane / 4, 2 * (lane % 4) + odd];
                let [row, column] = order.map(|place| places[place]);
                value_of(&input, 8 * matrix + row, column)
            };
            value(0) | value(1) << 16
        })
        .collect();
    let kernel = format!("probe_load_matrices_{how}");
    Ok(differences(&run(card, &kernel, &input)?, &expected))
}

/// What `ldmatrix.trans` reads, written: nothing to see on a card without it.
fn store_matrices(card: &Arc<dyn Card>) -> Result<f64, CudaError> {
    if !card.limits().warpgroups {
        return Ok(0.0);
    }
    let input = numbered();
    // Column `c` of row `r` of matrix `i` is in lane `4 c + r / 2`, in register `i`.
    let value = |matrix: usize, row: usize, column: usize| {
        value_of(&input, 4 * column + row / 2, 2 * matrix + row % 2)
    };
    let expected: Vec<u32> = (0..32)
        .flat_map(|line| (0..4).map(move |word| (line / 8, line % 8, 2 * word)))
        .map(|(matrix, row, column)| {
            value(matrix, row, column) | value(matrix, row, column + 1) << 16
        })
        .collect();
    let found = run(card, "probe_store_matrices_turned", &input)?;
    Ok(differences(&found, &expected))
}

fn copy_async(card: &Arc<dyn Card>) -> Result<f64, CudaError> {
    let input: Vec<u32> = (1..=128).collect();
    let expected: Vec<u32> = (0..32_usize)
        .flat_map(|lane| (0..4).map(move |word| (lane ^ 3, word)))
        .map(|(from, word)| {
            if from % 2 == 0 {
                input[from * 4 + word]
            } else {
                0
            }
        })
        .collect();
    Ok(differences(
        &run(card, "probe_copy_async", &input)?,
        &expected,
    ))
}

/// Small whole numbers: every sum is exact, in whatever order.
fn multiply_add(
    card: &Arc<dyn Card>,
    suffix: &str,
    bits: fn(f32) -> u16,
) -> Result<f64, CudaError> {
    let a = |m: usize, k: usize| ((m * 7 + k * 3) % 13) as f32 - 6.0;
    let b = |k: usize, n: usize| ((k * 5 + n * 11) % 9) as f32 - 4.0;
    let c = |m: usize, n: usize| (m * 8 + n) as f32;
    let pair = |low: f32, high: f32| u32::from(bits(low)) | u32::from(bits(high)) << 16;
    let mut input = Vec::new();
    let mut expected = Vec::new();
    for lane in 0..32 {
        let (g, q) = (lane / 4, lane % 4 * 2);
        for (m, k) in [(g, q), (g + 8, q), (g, q + 8), (g + 8, q + 8)] {
            input.push(pair(a(m, k), a(m, k + 1)));
        }
        for k in [q, q + 8] {
            input.push(pair(b(k, g), b(k + 1, g)));
        }
        for (m, n) in [(g, q), (g, q + 1), (g + 8, q), (g + 8, q + 1)] {
            input.push(c(m, n).to_bits());
            let sum: f32 = (0..16).map(|k| a(m, k) * b(k, n)).sum();
            expected.push((sum + c(m, n)).to_bits());
        }
    }
    let found = run(card, &format!("probe_multiply_add_{suffix}"), &input)?;
    Ok(differences(&found, &expected))
}

/// Rounding to nearest, ties to even, at every kind of place: ties both ways,
/// the largest and smallest values, subnormal ones, zeros, infinities.
fn conversions(card: &Arc<dyn Card>) -> Result<f64, CudaError> {
    let mut values = vec![
        0.0,
        -0.0,
        1.0,
        -1.0,
        1.0 / 3.0,
        -2.0 / 3.0,
        65504.0,
        65519.0,
        65520.0,
        -1e6,
        1e-4,
        6e-5,
        6.1e-5,
        6e-8,
        2.9e-8,
        3e-8,
        1e-30,
        f32::INFINITY,
        f32::NEG_INFINITY,
        255.0,
        257.0,
        259.0,
        2049.0,
        2051.0,
        1.003_906_3,
        1.011_718_8,
        3.4e38,
        1e-39,
        0.1,
        100.7,
    ];
    values.resize(32, 0.7);
    let input: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
    let expected: Vec<u32> = values
        .iter()
        .flat_map(|&value| {
            let (half, brain) = (f16::from_f32(value), bf16::from_f32(value));
            [
                u32::from(half.to_bits()),
                u32::from(brain.to_bits()),
                half.to_f32().to_bits(),
                brain.to_f32().to_bits(),
            ]
        })
        .collect();
    Ok(differences(
        &run(card, "probe_conversions", &input)?,
        &expected,
    ))
}
