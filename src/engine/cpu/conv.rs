//! Convolutions: which method, and what both have in common.

use std::ops::Range;

use pulp::Simd;

use super::bf16::{Bf16, Unit};
use super::direct::Direct;
use super::lines::Lines;
use super::product::{Isa, Storage};
use super::team::{Parts, Team};
use super::values::{Kept, Room, Values, ValuesMut};
use super::winograd::Winograd;
use super::work::Batch;

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

/// Where a convolution's sums go, and what is done to them on the way.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) epilogue: &'a Epilogue,
    pub(super) residual: Option<Values<'a>>,
    pub(super) output: Room<'a>,
}

/// The most vectors of a panel: 32 columns in vectors of eight.
const VECTORS: usize = 4;

/// What is done to the sums of some filters, at hand.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a, S: Simd> {
    residual: Option<&'a [f32]>,
    output: Parts<'a>,
    /// From one position to the next.
    pitch: usize,
    first: usize,
    filters: usize,
    bias: [S::f32s; VECTORS],
    floor: S::f32s,
}

impl<'a> Target<'a> {
    /// For the sums of these filters, those of one panel, in f32.
    #[inline(always)]
    pub(super) fn of<S: Simd>(self, simd: S, filters: Range<usize>) -> Finish<'a, S> {
        let zero = simd.splat_f32s(0.0);
        let mut bias = [zero; VECTORS];
        let values = self.epilogue.bias[filters.clone()].chunks(S::F32_LANES);
        for (bias, values) in bias.iter_mut().zip(values) {
            *bias = simd.partial_load_f32s(values);
        }
        let floor = if self.epilogue.relu {
            zero
        } else {
            simd.splat_f32s(f32::NEG_INFINITY)
        };
        Finish {
            residual: self.residual.map(Kept::f32),
            output: self.output.f32(),
            pitch: self.epilogue.bias.len(),
            first: filters.start,
            filters: filters.len(),
            bias,
            floor,
        }
    }
}

impl<S: Simd> Finish<'_, S> {
    /// `output = relu?(sums + bias + residual?)` at a position whose values begin at
    /// `place`; `sums` are a whole panel's, of which the last ones may be of no filter.
    ///
    /// # Safety
    /// Nobody else may finish the same filters there at the same time.
    #[inline(always)]
    pub(super) unsafe fn put(&self, simd: S, place: usize, sums: &[S::f32s]) {
        let begin = place + self.first;
        let full = sums.len() * S::F32_LANES;
        // SAFETY: as the caller says.
        unsafe {
            // Where a panel is full, its length is a constant.
            if self.filters == full {
                self.store(simd, begin, full, sums);
            } else {
                self.store(simd, begin, self.filters, sums);
            }
        }
    }

    /// The same of several positions, whose values begin at `places`.
    ///
    /// # Safety
    /// Nobody else may finish any filters there at the same time.
    #[inline(always)]
    pub(super) unsafe fn put_all<const NV: usize>(
        &self,
        simd: S,
        places: &[usize],
        sums: &[[S::f32s; NV]],
    ) {
        let full = NV * S::F32_LANES;
        let pitch = self.pitch;
        let (first, last) = (places[0], places[places.len() - 1]);
        // Positions side by side, as they nearly always are.
        if self.filters == full && last - first == (places.len() - 1) * pitch {
            let (begin, len) = (first + self.first, last - first + full);
            // SAFETY: as the caller says.
            let output = unsafe { self.output.part(begin, len) };
            let residual = self.residual.map(|values| &values[begin..][..len]);
            for (i, sums) in sums.iter().enumerate() {
                let (output, _) = S::as_mut_simd_f32s(&mut output[i * pitch..][..full]);
                let residual = residual.map(|values| S::as_simd_f32s(&values[i * pitch..][..full]));
                for j in 0..NV {
                    let residual = residual.map(|(vectors, _)| vectors[j]);
                    output[j] = self.value(simd, j, sums[j], residual);
                }
            }
        } else {
            for (&place, sums) in places.iter().zip(sums) {
                // SAFETY: as the caller says.
                unsafe { self.put(simd, place, sums) };
            }
        }
    }

    #[inline(always)]
    unsafe fn store(&self, simd: S, begin: usize, len: usize, sums: &[S::f32s]) {
        let residual = self
            .residual
            .map(|residual| S::as_simd_f32s(&residual[begin..][..len]));
        // SAFETY: as the caller says.
        let output = unsafe { self.output.part(begin, len) };
        let (vectors, rest) = S::as_mut_simd_f32s(output);
        let whole = vectors.len();
        for i in 0..whole {
            let residual = residual.map(|(vectors, _)| vectors[i]);
            vectors[i] = self.value(simd, i, sums[i], residual);
        }
        if !rest.is_empty() {
            let residual = residual.map(|(_, rest)| simd.partial_load_f32s(rest));
            let value = self.value(simd, whole, sums[whole], residual);
            simd.partial_store_f32s(rest, value);
        }
    }

    /// What becomes of a sum, those of vector `number` of the panel.
    #[inline(always)]
    fn value(&self, simd: S, number: usize, sum: S::f32s, residual: Option<S::f32s>) -> S::f32s {
        let mut value = simd.add_f32s(sum, self.bias[number]);
        if let Some(residual) = residual {
            value = simd.add_f32s(value, residual);
        }
        simd.max_f32s(value, self.floor)
    }
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

    /// Values of one output frame.
    pub(super) fn output_frame_len(&self) -> usize {
        self.area() * self.filters
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
            // Winograd's method has a fourth of the products, tiles an eighth of their
            // time, vectors half of it. Where there are tiles they compute everything, so
            // that values stay in bfloat16.
            Some(unit) if unit.has_tiles() || Bf16::pays(&geometry) && !winograd => Way::Bf16(unit),
            _ if winograd => Way::Winograd,
            _ => Way::Direct,
        };
        // Widening the others' weights again and again takes longer than reading them.
        let storage = match arithmetic.bf16 {
            Some(_) => Storage::F32,
            None => arithmetic.storage,
        };
        Self::by(way, isa, storage, geometry, weights, epilogue)
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
    pub(super) fn scratch_len(&self, batch: Batch<'_>) -> usize {
        match &self.method {
            Method::Direct(direct) => direct.scratch_len(batch),
            Method::Winograd(winograd) => winograd.scratch_len(batch),
            Method::Bf16(bf16) => bf16.scratch_len(batch),
        }
    }

    /// Whether it reads and writes values in bfloat16, too.
    pub(super) fn keeps_bf16(&self) -> bool {
        matches!(&self.method, Method::Bf16(bf16) if bf16.has_tiles())
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
    /// the output frames that the batch lists.
    #[allow(
        clippy::too_many_arguments,
        reason = "two inputs, two outputs, and who does what"
    )]
    pub(super) fn run(
        &self,
        isa: Isa,
        team: &Team,
        batch: Batch<'_>,
        input: Values<'_>,
        residual: Option<Values<'_>>,
        output: ValuesMut<'_>,
        scratch: &mut Lines,
    ) {
        let target = Target {
            epilogue: &self.epilogue,
            residual,
            output: output.room(),
        };
        let len = self.scratch_len(batch);
        scratch.reserve(len);
        let scratch = &mut scratch[..len];
        match &self.method {
            Method::Direct(direct) => direct.run(team, batch, input.f32(), target, scratch),
            Method::Winograd(winograd) => {
                winograd.run(isa, team, batch, input.f32(), target, scratch);
            }
            Method::Bf16(bf16) => bf16.run(isa, team, batch, input, target, scratch),
        }
    }
}
