//! What lies between two steps: values in f32, or in bfloat16.
//!
//! Where tiles multiply (`bf16`), a convolution's input is rounded to bfloat16 in any
//! case. If everybody who reads a value can take it so, it is kept so: half the way from
//! and to memory. What is left in f32 is what others read, the last pictures before the
//! mean and whatever an attention map is made of among them.

use super::conv::Convolution;
use super::pool::Of;
use super::step::{Kind, Operation};
use super::team::Parts;
use crate::engine::plan::Value;

/// One of two, by what values are kept in; of bfloat16 the upper halves of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept<F, B> {
    F32(F),
    Bf16(B),
}

/// What values are kept in.
pub(super) type Format = Kept<(), ()>;
/// Values to read.
pub(super) type Values<'a> = Kept<&'a [f32], &'a [u16]>;
/// Values to write.
pub(super) type ValuesMut<'a> = Kept<&'a mut [f32], &'a mut [u16]>;
/// Values that tasks write different parts of.
pub(super) type Room<'a> = Kept<Parts<'a>, Parts<'a, u16>>;

/// A value, and what it is kept in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) value: Value,
    pub(super) format: Format,
}

impl<F, B> Kept<F, B> {
    /// What is kept in f32.
    ///
    /// # Panics
    /// If it is not: [`choose`] gives bfloat16 to nobody who does not take it.
    #[inline(always)]
    pub(super) fn f32(self) -> F {
        match self {
            Self::F32(values) => values,
            Self::Bf16(_) => panic!("values in bfloat16 for a step that takes f32"),
        }
    }
}

impl Format {
    /// Memory read as what it keeps.
    pub(super) fn of(self, memory: &[f32]) -> Values<'_> {
        match self {
            Self::F32(()) => Kept::F32(memory),
            Self::Bf16(()) => Kept::Bf16(bytemuck::cast_slice(memory)),
        }
    }

    pub(super) fn of_mut(self, memory: &mut [f32]) -> ValuesMut<'_> {
        match self {
            Self::F32(()) => Kept::F32(memory),
            Self::Bf16(()) => Kept::Bf16(bytemuck::cast_slice_mut(memory)),
        }
    }

    /// Bytes of so many values.
    pub(super) fn bytes(self, values: usize) -> usize {
        match self {
            Self::F32(()) => values * size_of::<f32>(),
            Self::Bf16(()) => values * size_of::<u16>(),
        }
    }
}

impl<'a> Values<'a> {
    /// So many of them from one on.
    #[inline(always)]
    pub(super) fn part(self, begin: usize, len: usize) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[begin..][..len]),
            Self::Bf16(values) => Self::Bf16(&values[begin..][..len]),
        }
    }

    /// All from one on.
    pub(super) fn behind(self, begin: usize) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[begin..]),
            Self::Bf16(values) => Self::Bf16(&values[begin..]),
        }
    }

    pub(super) fn bytes(self) -> &'a [u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::Bf16(values) => bytemuck::cast_slice(values),
        }
    }
}

impl<'a> ValuesMut<'a> {
    /// So many of them from one on.
    pub(super) fn part(self, begin: usize, len: usize) -> Self {
        match self {
            Self::F32(values) => Self::F32(&mut values[begin..][..len]),
            Self::Bf16(values) => Self::Bf16(&mut values[begin..][..len]),
        }
    }

    pub(super) fn bytes(self) -> &'a mut [u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice_mut(values),
            Self::Bf16(values) => bytemuck::cast_slice_mut(values),
        }
    }

    /// For tasks.
    pub(super) fn room(self) -> Room<'a> {
        match self {
            Self::F32(values) => Kept::F32(Parts::new(values)),
            Self::Bf16(values) => Kept::Bf16(Parts::new(values)),
        }
    }
}

/// The step that wrote what another one, the `before`th, finds there.
pub(super) fn writer(steps: &[Operation], value: Value, before: usize) -> Option<usize> {
    // Buffers serve several values; the last one written is meant.
    (0..before)
        .rev()
        .find(|step| steps[*step].output.value.buffer == value.buffer)
}

/// What the `before`th step finds a value kept in.
pub(super) fn format(steps: &[Operation], value: Value, before: usize) -> Format {
    let writer = writer(steps, value, before);
    writer.map_or(Kept::F32(()), |writer| steps[writer].output.format)
}

/// Decides what each step's output is kept in.
pub(super) fn choose(steps: &mut [Operation]) {
    let is_conv = |kind: &Kind| match kind {
        Kind::Conv { conv, .. } => Convolution::keeps_bf16(conv),
        _ => false,
    };
    let is_largest =
        |kind: &Kind| matches!(kind, Kind::Pool(pool) if matches!(pool.of, Of::Largest));
    // Whether anybody reads it, and whether all who do take bfloat16.
    let (mut read, mut taken) = (vec![false; steps.len()], vec![true; steps.len()]);
    for number in (0..steps.len()).rev() {
        let step = &steps[number];
        // The largest of values is one of them, and is kept as they are. Its own readers
        // come behind it, and have been asked.
        let takes = is_conv(&step.kind) || is_largest(&step.kind) && read[number] && taken[number];
        for place in [Some(step.input), step.residual].into_iter().flatten() {
            if let Some(writer) = writer(steps, place.value, number) {
                read[writer] = true;
                taken[writer] &= takes;
            }
        }
    }
    for number in 0..steps.len() {
        let found = |place: Place| format(steps, place.value, number);
        let input = found(steps[number].input);
        let residual = steps[number].residual.map(found);
        let step = &mut steps[number];
        let gives = is_conv(&step.kind) || is_largest(&step.kind) && input == Kept::Bf16(());
        if gives && read[number] && taken[number] {
            step.output.format = Kept::Bf16(());
        }
        step.input.format = input;
        if let (Some(place), Some(format)) = (&mut step.residual, residual) {
            place.format = format;
        }
    }
}
