//! Convolutions: which method, and what both have in common.

use pulp::Simd;

use super::bf16::{Bf16, Unit};
use super::direct::Direct;
use super::product::{Isa, Storage};
use super::team::{Parts, Team};
use super::winograd::Winograd;
use super::work::Work;

/// Extents of a convolution; pictures lie `[T, H, W, C]`.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    pub(super) kernel: [usize; 3],
    pub(super) stride: [usize; 3],
    pub(super) padding: [usize; 3],
    /// Frames, rows, columns.
    pub(super) input: [usize; 3],
    pub(super) output: [usize; 3],
    /// Channels in.
    pub(super) channels: usize,
    /// Channels out.
    pub(super) filters: usize,
}

/// What happens to a sum before it is stored.
#[derive(Debug)]
pub(super) struct Epilogue {
    /// `[C']`.
    pub(super) bias: Vec<f32>,
    pub(super) relu: bool,
}

impl Epilogue {
    /// `output = relu?(sums + bias + residual?)` from channel `first` on; `sums`
    /// is a whole panel.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(
        &self,
        simd: S,
        first: usize,
        sums: &[f32],
        residual: Option<&[f32]>,
        output: &mut [f32],
    ) {
        let bias = &self.bias[first..][..output.len()];
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let (vectors, rest) = S::as_mut_simd_f32s(output);
        if !rest.is_empty() {
            for i in 0..output.len() {
                let other = residual.map_or(0.0, |residual| residual[i]);
                output[i] = (sums[i] + bias[i] + other).max(floor);
            }
            return;
        }
        let floor = simd.splat_f32s(floor);
        let (sums, bias) = (S::as_simd_f32s(sums).0, S::as_simd_f32s(bias).0);
        let residual = residual.map(|residual| S::as_simd_f32s(residual).0);
        for (i, output) in vectors.iter_mut().enumerate() {
            let mut value = simd.add_f32s(sums[i], bias[i]);
            if let Some(residual) = residual {
                value = simd.add_f32s(value, residual[i]);
            }
            *output = simd.max_f32s(value, floor);
        }
    }
}

/// Where a convolution's sums go, and what is done to them on the way.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) epilogue: &'a Epilogue,
    pub(super) residual: Option<&'a [f32]>,
    pub(super) output: Parts<'a>,
}

/// A convolution, ready to be executed.
#[derive(Debug)]
pub(super) struct Convolution {
    epilogue: Epilogue,
    method: Method,
}

#[derive(Debug)]
enum Method {
    Direct(Direct),
    Winograd(Winograd),
    Bf16(Bf16),
}

/// What numbers are kept in and multiplied with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arithmetic {
    pub(super) isa: Isa,
    pub(super) storage: Storage,
    /// What multiplies in bfloat16, if anything does.
    pub(super) bf16: Option<Unit>,
}

/// A way to compute a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// In f32, products one by one.
    Direct,
    /// In f32; it must fit.
    Winograd,
    /// In bfloat16, products one by one.
    Bf16(Unit),
}

impl Geometry {
    /// Positions of one output frame.
    pub(super) fn area(&self) -> usize {
        self.output[1] * self.output[2]
    }

    /// Values of one input frame.
    pub(super) fn input_frame_len(&self) -> usize {
        self.input[1] * self.input[2] * self.channels
    }
}

impl Convolution {
    /// `weights` are `[kt, kh, kw, C, C']`.
    pub(super) fn new(
        arithmetic: Arithmetic,
        geometry: Geometry,
        weights: &[f32],
        epilogue: Epilogue,
    ) -> Self {
        let isa = arithmetic.isa;
        let winograd = Winograd::fits(isa, &geometry) && Winograd::pays(&geometry);
        let way = match arithmetic.bf16 {
            Some(unit) if Bf16::pays(&geometry) && (unit.beats_winograd() || !winograd) => {
                Way::Bf16(unit)
            }
            _ if winograd => Way::Winograd,
            _ => Way::Direct,
        };
        Self::by(way, isa, arithmetic.storage, geometry, weights, epilogue)
    }

    /// In a certain way.
    pub(super) fn by(
        way: Way,
        isa: Isa,
        storage: Storage,
        geometry: Geometry,
        weights: &[f32],
        epilogue: Epilogue,
    ) -> Self {
        let method = match way {
            Way::Direct => Method::Direct(Direct::new(isa, storage, geometry, weights)),
            Way::Winograd => Method::Winograd(Winograd::new(isa, storage, geometry, weights)),
            Way::Bf16(unit) => Method::Bf16(Bf16::new(unit, geometry, weights)),
        };
        Self { epilogue, method }
    }

    /// Values of scratch memory for some work, shared by the threads.
    pub(super) fn scratch_len(&self, work: &Work) -> usize {
        match &self.method {
            Method::Direct(_) => 0,
            Method::Winograd(winograd) => winograd.scratch_len(work),
            Method::Bf16(bf16) => bf16.scratch_len(work),
        }
    }

    /// Bytes of packed weights.
    pub(super) fn weight_bytes(&self) -> usize {
        match &self.method {
            Method::Direct(direct) => direct.weight_bytes(),
            Method::Winograd(winograd) => winograd.weight_bytes(),
            Method::Bf16(bf16) => bf16.weight_bytes(),
        }
    }

    /// Products in the time that one takes in f32, about.
    pub(super) fn speed(&self) -> u64 {
        match &self.method {
            Method::Direct(_) | Method::Winograd(_) => 1,
            Method::Bf16(bf16) => bf16.speed(),
        }
    }

    pub(super) fn method(&self) -> &'static str {
        match &self.method {
            Method::Direct(_) => "direct",
            Method::Winograd(_) => "Winograd",
            Method::Bf16(bf16) => bf16.method(),
        }
    }

    /// `output = relu?(conv(input) + bias + residual?)`, all `[T, H, W, C]`, for
    /// the output frames that `work` lists.
    #[allow(
        clippy::too_many_arguments,
        reason = "two inputs, two outputs, and who does what"
    )]
    pub(super) fn run(
        &self,
        isa: Isa,
        team: &Team,
        work: &Work,
        input: &[f32],
        residual: Option<&[f32]>,
        output: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        let target = Target {
            epilogue: &self.epilogue,
            residual,
            output: Parts::new(output),
        };
        let len = self.scratch_len(work);
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        let scratch = &mut scratch[..len];
        match &self.method {
            Method::Direct(direct) => direct.run(team, work, input, target),
            Method::Winograd(winograd) => winograd.run(isa, team, work, input, target, scratch),
            Method::Bf16(bf16) => bf16.run(isa, team, work, input, target, scratch),
        }
    }
}
