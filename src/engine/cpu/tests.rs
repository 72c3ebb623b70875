//! Every way to compute a convolution against its definition, in f64; and what values are
//! kept in on the way through a network.

use std::path::Path;

use proptest::prelude::*;

use super::bf16::Unit;
use super::conv::{Convolution, Epilogue, Geometry, Way};
use super::lines::Lines;
use super::product::{Isa, Panels, Rows, Storage, Sums, Task, multiply};
use super::team::{Helpers, Team};
use super::values::{Format, Kept};
use super::winograd::Winograd;
use super::work::{Batch, TimeWindow, Work};
use super::{Buffers, Program};
use crate::engine::Agreement;
use crate::engine::plan::Plan;
use crate::model::Model;

/// Values without a pattern, in -1..1.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// `sum over taps and channels`, in f64, and of the terms' magnitudes.
fn definition(geometry: &Geometry, input: &[f32], weights: &[f32]) -> Vec<(f64, f64)> {
    let Geometry {
        kernel,
        stride,
        padding,
        channels,
        filters,
        ..
    } = *geometry;
    let mut sums = Vec::new();
    let [frames, rows, columns] = geometry.output;
    for position in 0..frames * rows * columns {
        let at = [
            position / (rows * columns),
            position / columns % rows,
            position % columns,
        ];
        for filter in 0..filters {
            let (mut sum, mut size) = (0.0, 0.0);
            for tap in 0..kernel.iter().product::<usize>() {
                let k = [
                    tap / (kernel[1] * kernel[2]),
                    tap / kernel[2] % kernel[1],
                    tap % kernel[2],
                ];
                let place: [_; 3] =
                    std::array::from_fn(|a| (at[a] * stride[a] + k[a]).wrapping_sub(padding[a]));
                if (0..3).any(|axis| place[axis] >= geometry.input[axis]) {
                    continue;
                }
                let begin =
                    (place[0] * geometry.input[1] + place[1]) * geometry.input[2] + place[2];
                for channel in 0..channels {
                    let product = f64::from(input[begin * channels + channel])
                        * f64::from(weights[(tap * channels + channel) * filters + filter]);
                    sum += product;
                    size += product.abs();
                }
            }
            sums.push((sum, size));
        }
    }
    sums
}

/// As bfloat16 holds them.
fn rounded(values: &[f32]) -> Vec<f32> {
    let round = |value: &f32| half::bf16::from_f32(*value).to_f32();
    values.iter().map(round).collect()
}

fn window(geometry: &Geometry) -> TimeWindow {
    TimeWindow {
        kernel: geometry.kernel[0],
        stride: geometry.stride[0],
        padding: geometry.padding[0],
    }
}

/// What a convolution reads, and what its output is kept in.
#[derive(Clone, Copy)]
struct Ends<'a> {
    input: &'a [f32],
    residual: Option<&'a [f32]>,
    /// Of input, residual and output.
    formats: [Format; 3],
}

/// Memory that keeps these values.
fn kept(values: &[f32], format: Format) -> Vec<f32> {
    match format {
        Kept::F32(()) => values.to_vec(),
        Kept::Bf16(()) => {
            let mut memory = vec![0.0; values.len().div_ceil(2)];
            let bits: &mut [u16] = bytemuck::cast_slice_mut(&mut memory);
            for (to, value) in bits.iter_mut().zip(values) {
                *to = half::bf16::from_f32(*value).to_bits();
            }
            memory
        }
    }
}

/// So many values that memory keeps.
fn values_in(memory: &[f32], format: Format, len: usize) -> Vec<f32> {
    match format.of(memory) {
        Kept::F32(values) => values[..len].to_vec(),
        Kept::Bf16(bits) => {
            let widen = |bits: &u16| half::bf16::from_bits(*bits).to_f32();
            bits[..len].iter().map(widen).collect()
        }
    }
}

/// What a convolution gives on one thread, and on three.
fn on_threads(conv: &Convolution, isa: Isa, geometry: &Geometry, ends: Ends<'_>) -> [Vec<f32>; 2] {
    let [read, added, written] = ends.formats;
    let input = kept(ends.input, read);
    let residual = ends.residual.map(|residual| kept(residual, added));

    let whole = Work::whole(window(geometry), geometry.input[0], geometry.output[0]);
    let len = geometry.output.iter().product::<usize>() * geometry.filters;
    [1, 3].map(|threads| {
        let mut output = kept(&vec![f32::NAN; len], written);
        // Whatever lies in scratch memory must not matter.
        let whole = Batch::of_one(&whole);
        let mut scratch = Lines::default();
        scratch.reserve(conv.scratch_len(whole));
        scratch.fill(f32::NAN);
        let team = Team::with(Helpers::start(threads).unwrap());
        team.expect(u64::MAX);
        conv.run(
            isa,
            &team,
            whole,
            read.of(&input),
            residual.as_deref().map(|residual| added.of(residual)),
            written.of_mut(&mut output),
            &mut scratch,
        );
        values_in(&output, written, len)
    })
}

/// What it gives for a clip between two others: its frames of even number at once,
/// and then the rest.
fn in_company(conv: &Convolution, isa: Isa, geometry: &Geometry, ends: Ends<'_>) -> Vec<f32> {
    let [read, added, written] = ends.formats;
    let frames = geometry.output[0];
    let len = frames * geometry.output_frame_len();
    let pitch = ends.input.len().max(len) + 7;
    // What lies between clips is nobody's.
    let between = |values: &[f32], format| {
        let mut all = vec![f32::NAN; 3 * pitch];
        let others: Vec<_> = values.iter().rev().map(|value| value * 3.0).collect();
        for (clip, values) in [&others, values, &others].into_iter().enumerate() {
            all[clip * pitch..][..values.len()].copy_from_slice(values);
        }
        kept(&all, format)
    };
    let input = between(ends.input, read);
    let residual = ends.residual.map(|residual| between(residual, added));
    let mut output = kept(&vec![f32::NAN; 3 * pitch], written);
    let mut scratch = Lines::default();
    let team = Team::alone();
    for frames in [(0..frames).step_by(2), (1..frames).step_by(2)] {
        for work in &Work::some(window(geometry), geometry.input[0], frames) {
            let batch = Batch {
                work,
                clips: 3,
                pitch,
            };
            conv.run(
                isa,
                &team,
                batch,
                read.of(&input),
                residual.as_deref().map(|residual| added.of(residual)),
                written.of_mut(&mut output),
                &mut scratch,
            );
        }
    }
    let output = values_in(&output, written, 3 * pitch);
    assert!(
        output[len..pitch].iter().all(|value| value.is_nan()),
        "written between clips"
    );
    output[pitch..][..len].to_vec()
}

/// Of up to some millions of products.
fn geometries() -> impl Strategy<Value = Geometry> {
    all_geometries().prop_filter("takes too long", |geometry| {
        let sizes = [geometry.output, geometry.kernel].into_iter().flatten();
        sizes.product::<usize>() * geometry.channels * geometry.filters < 8_000_000
    })
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Any,
    /// What Winograd's method is for.
    Three,
    /// A single row and column.
    Point,
}

fn all_geometries() -> impl Strategy<Value = Geometry> {
    let axis = || (1..=4usize, 1..=3usize, 0..=3usize, 1..=14usize);
    let kind = prop::sample::select(vec![Shape::Any, Shape::Three, Shape::Any, Shape::Point]);
    let channels = prop::sample::select(vec![1usize, 3, 8, 9, 16, 21, 32, 40, 64, 96]);
    let filters = prop::sample::select(vec![1usize, 2, 8, 13, 16, 33, 64]);
    ([axis(), axis(), axis()], kind, channels, filters).prop_map(
        |(mut axes, kind, channels, filters)| {
            for axis in &mut axes[1..] {
                match kind {
                    Shape::Any => {}
                    Shape::Three => (axis.0, axis.1) = (3, 1),
                    Shape::Point => axis.0 = 1,
                }
            }
            let part = |part: fn(&(usize, usize, usize, usize)) -> usize| {
                [part(&axes[0]), part(&axes[1]), part(&axes[2])]
            };
            let (kernel, stride) = (part(|axis| axis.0), part(|axis| axis.1));
            let mut padding = part(|axis| axis.2.min(axis.0 - 1));
            // In time, a window may lie in the padding alone.
            padding[0] = axes[0].2;
            // As large as the kernel, at least.
            let input = part(|axis| axis.3.max(axis.0));
            let output =
                std::array::from_fn(|a| (input[a] + 2 * padding[a] - kernel[a]) / stride[a] + 1);
            Geometry {
                kernel,
                stride,
                padding,
                input,
                output,
                channels,
                filters,
            }
        },
    )
}

fn golden(name: &str) -> Model {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    Model::load(&goldens.join(name)).unwrap()
}

#[test]
fn values_stay_in_bfloat16_between_those_who_take_it() {
    let model = golden("resnet18");
    let plan = || Plan::compile(model.graph(), model.weights()).unwrap();
    let program = Program::with_plain_tiles(plan());
    let of = |name: &str| program.steps.iter().find(|step| step.name == name).unwrap();
    let (f32, bf16): (Format, Format) = (Kept::F32(()), Kept::Bf16(()));
    // From the first convolution to the largest of its values to the next one.
    assert_eq!(of("conv1").input.format, f32);
    assert_eq!(of("conv1").output.format, bf16);
    assert_eq!(of("maxpool").input.format, bf16);
    assert_eq!(of("maxpool").output.format, bf16);
    // What was read as input is added as it is kept.
    let last = of("layer1.0.conv2");
    assert_eq!(last.residual.unwrap().format, bf16);
    // A mean, and a map of attention, take f32.
    let last = of("layer4.1.conv2");
    assert_eq!(last.input.format, bf16);
    assert_eq!(last.output.format, f32);
    // And take less room.
    let in_f32 = Program::new(plan(), Storage::F32);
    assert!(in_f32.steps.iter().all(|step| step.output.format == f32));
    let sums = [&program, &in_f32].map(|program| program.buffers.iter().sum::<usize>());
    assert!(sums[0] < sums[1], "{sums:?}");
}

#[test]
fn networks_by_tiles_are_near_those_in_f32() {
    let names = [
        "fibro2d_lstm",
        "fibro3d_odd",
        "mc3_18",
        "r2plus1d_18",
        "resnet18",
    ];
    for name in names {
        let model = golden(name);
        let plan = || Plan::compile(model.graph(), model.weights()).unwrap();
        let score = |program: &Program| {
            let mut buffers = Buffers::new(program, Team::alone());
            let input = buffers.input_mut(program);
            input.copy_from_slice(&noise(input.len(), 7));
            program.run(&mut buffers).to_vec()
        };
        let right = score(&Program::new(plan(), Storage::F32));
        let found = score(&Program::with_plain_tiles(plan()));
        let off = Agreement::of(&found, &right, right.len()).largest_error;
        // As in `tests/model.rs`.
        assert!(off > 0.0 && off < 2e-2, "{name}: {off:e}");
    }
}

/// What a convolution of random values is made of.
struct Sample {
    /// Products of a sum.
    depth: usize,
    input: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl Sample {
    fn new(geometry: &Geometry, seed: u64) -> Self {
        let product = |extent: [usize; 3]| extent.iter().product::<usize>();
        let depth = product(geometry.kernel) * geometry.channels;
        Self {
            depth,
            input: noise(product(geometry.input) * geometry.channels, seed),
            weights: noise(depth * geometry.filters, seed ^ 1),
            bias: noise(geometry.filters, seed ^ 2),
            residual: noise(product(geometry.output) * geometry.filters, seed ^ 3),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn convolutions_are_what_they_are_defined_to_be(
        geometry in geometries(),
        relu: bool,
        with_residual: bool,
        seed in 1..u64::MAX,
    ) {
        let Sample { depth, input, weights, bias, residual } = Sample::new(&geometry, seed);
        let residual = with_residual.then_some(residual.as_slice());
        let sums = definition(&geometry, &input, &weights);
        let ends = Ends { input: &input, residual, formats: [Kept::F32(()); 3] };
        let largest = sums.iter().fold(0.0, |largest: f64, (_, size)| largest.max(*size));

        for isa in Isa::all() {
            for way in [Way::Direct, Way::Winograd] {
                if matches!(way, Way::Winograd) && !Winograd::fits(isa, &geometry) {
                    continue;
                }
                let epilogue = Epilogue { bias: bias.clone(), relu };
                let conv = Convolution::by(way, isa, Storage::F32, geometry.clone(), &weights, epilogue);
                let outputs = on_threads(&conv, isa, &geometry, ends);
                prop_assert_eq!(&outputs[0], &outputs[1], "threads changed bits");
                let found = in_company(&conv, isa, &geometry, ends);
                prop_assert_eq!(&outputs[0], &found, "company changed bits");
                for (place, (&found, &(sum, size))) in outputs[0].iter().zip(&sums).enumerate() {
                    let mut expected = sum + f64::from(bias[place % geometry.filters]);
                    expected += residual.map_or(0.0, |residual| f64::from(residual[place]));
                    if relu {
                        expected = expected.max(0.0);
                    }
                    // Winograd's method spreads a tile's rounding over all of it, and its
                    // points cost about a digit; twice that where `mul_add` rounds twice.
                    // Else rounding grows as the root of the number of products (Higham and
                    // Mary, "A new approach to probabilistic rounding error analysis", 2019).
                    let unit = f64::from(f32::EPSILON) / 2.0;
                    let bound = if matches!(way, Way::Winograd) {
                        let roundings = if matches!(isa, Isa::Portable) { 2.0 } else { 1.0 };
                        roundings * 2e-6 * (largest + 2.0)
                    } else {
                        (5.0 + (depth as f64).sqrt()) * unit * (size + 2.0)
                    };
                    let error = (f64::from(found) - expected).abs();
                    prop_assert!(
                        error <= bound,
                        "{} {} at {place}: {found} for {expected}, {geometry:?}", isa.name(), conv.method()
                    );
                }
            }
        }
    }

    #[test]
    fn convolutions_in_bfloat16_are_those_of_rounded_values(
        geometry in geometries(),
        relu: bool,
        with_residual: bool,
        seed in 1..u64::MAX,
    ) {
        let Sample { depth, input, weights, bias, residual } = Sample::new(&geometry, seed);
        let residual = with_residual.then_some(residual.as_slice());
        let sums = definition(&geometry, &rounded(&input), &rounded(&weights));
        let ends = Ends { input: &input, residual, formats: [Kept::F32(()); 3] };

        let isa = Isa::detect();
        for unit in Unit::all() {
            let epilogue = Epilogue { bias: bias.clone(), relu };
            let conv = Convolution::by(Way::Bf16(unit), isa, Storage::Bf16, geometry.clone(), &weights, epilogue);
            let outputs = on_threads(&conv, isa, &geometry, ends);
            prop_assert_eq!(&outputs[0], &outputs[1], "threads changed bits");
            let found = in_company(&conv, isa, &geometry, ends);
            prop_assert_eq!(&outputs[0], &found, "company changed bits");
            for (place, (&found, &(sum, size))) in outputs[0].iter().zip(&sums).enumerate() {
                let mut expected = sum + f64::from(bias[place % geometry.filters]);
                expected += residual.map_or(0.0, |residual| f64::from(residual[place]));
                if relu {
                    expected = expected.max(0.0);
                }
                // Products of bfloat16 are exact in f32: sums round as they do there.
                let unit = f64::from(f32::EPSILON) / 2.0;
                let bound = (5.0 + 2.0 * (depth as f64).sqrt()) * unit * (size + 2.0);
                let error = (f64::from(found) - expected).abs();
                prop_assert!(
                    error <= bound,
                    "{} at {place}: {found} for {expected}, {geometry:?}", conv.method()
                );
            }
        }
    }

    #[test]
    fn values_that_stay_in_bfloat16_are_those_that_would_be_rounded(
        geometry in geometries(),
        relu: bool,
        with_residual: bool,
        in_bf16: [bool; 3],
        seed in 1..u64::MAX,
    ) {
        let Sample { input, weights, bias, residual, .. } = Sample::new(&geometry, seed);
        let residual = rounded(&residual);
        let residual = with_residual.then_some(residual.as_slice());
        let formats = in_bf16.map(|is| if is { Kept::Bf16(()) } else { Kept::F32(()) });
        let ends = Ends { input: &input, residual, formats };

        let isa = Isa::detect();
        for unit in Unit::all().into_iter().filter(|unit| unit.has_tiles()) {
            let epilogue = Epilogue { bias: bias.clone(), relu };
            let conv = Convolution::by(Way::Bf16(unit), isa, Storage::Bf16, geometry.clone(), &weights, epilogue);
            let in_f32 = Ends { formats: [Kept::F32(()); 3], ..ends };
            let [mut expected, _] = on_threads(&conv, isa, &geometry, in_f32);
            if in_bf16[2] {
                expected = rounded(&expected);
            }
            for found in on_threads(&conv, isa, &geometry, ends) {
                prop_assert_eq!(&found, &expected, "{}", conv.method());
            }
            let found = in_company(&conv, isa, &geometry, ends);
            prop_assert_eq!(&found, &expected, "company changed bits");
        }
    }

    #[test]
    fn products_of_scattered_rows_are_right(
        (rows, segments, run, columns) in (1..40usize, 1..5usize, 1..70usize, 1..50usize),
        first in 0..3usize,
        storage in prop::sample::select(vec![Storage::F32, Storage::Bf16]),
        seed in 1..u64::MAX,
    ) {
        let input = noise(4096, seed);
        let places = noise(rows + segments, seed ^ 1);
        let place = |value: f32| ((value + 1.0) * 1000.0) as usize;
        let bases: Vec<_> = places[..rows].iter().map(|value| place(*value)).collect();
        let deltas: Vec<_> = places[rows..].iter().map(|value| place(*value)).collect();
        let depth = (first + segments) * run;
        let mut matrix = noise(depth * columns, seed ^ 2);
        if storage == Storage::Bf16 {
            // As it is kept: products are of these values.
            for value in &mut matrix {
                *value = half::bf16::from_f32(*value).to_f32();
            }
        }
        for isa in Isa::all() {
            let panels = Panels::pack(isa, storage, depth, columns, |k, n| matrix[k * columns + n]);
            let mut found = vec![f32::NAN; rows * columns];
            let left = Rows { input: &input, bases: &bases, deltas: &deltas, run };
            panels.isa().run(Multiply { rows: left, panels: &panels, first: first * run, output: &mut found });
            for (place, found) in found.iter().enumerate() {
                let (row, column) = (place / columns, place % columns);
                let (mut sum, mut size) = (0.0, 0.0);
                for (segment, delta) in deltas.iter().enumerate() {
                    for k in 0..run {
                        let right = matrix[((first + segment) * run + k) * columns + column];
                        let product = f64::from(input[bases[row] + delta + k]) * f64::from(right);
                        sum += product;
                        size += product.abs();
                    }
                }
                prop_assert!((f64::from(*found) - sum).abs() <= 1e-6 * (size + 1.0), "{}", isa.name());
            }
        }
    }
}

struct Multiply<'a> {
    rows: Rows<'a>,
    panels: &'a Panels,
    first: usize,
    output: &'a mut [f32],
}

impl Task for Multiply<'_> {
    type Output = ();

    fn run<S: pulp::Simd, const MR: usize, const NV: usize>(self, simd: S) {
        for panel in 0..self.panels.count() {
            let columns = self.panels.columns_of(panel);
            let sink = |first: usize, sums: &[[S::f32s; NV]]| {
                for (row, sums) in (first..).zip(sums) {
                    let sums: &[f32] = bytemuck::cast_slice(sums);
                    let begin = row * self.panels.columns() + columns.start;
                    self.output[begin..][..columns.len()].copy_from_slice(&sums[..columns.len()]);
                }
            };
            multiply::<S, MR, NV>(
                simd,
                self.rows,
                self.panels,
                panel,
                self.first,
                &mut Sums::default(),
                sink,
            );
        }
    }
}
