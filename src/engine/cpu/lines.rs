//! Memory in cache lines: a vector of as many bytes crosses none, if it begins a whole
//! number of vectors from the beginning. One that does is loaded as two.

use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// Values of one line.
pub(super) const LINE: usize = 16;

/// A cache line.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// The same of bfloat16, the upper halves of f32.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct HalfLine(pub(super) [u16; 2 * LINE]);

/// Vectors on the stack.
#[repr(align(64))]
pub(super) struct OnLines<T>(pub(super) T);

/// Values in whole lines.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<Line>);

impl Lines {
    /// Zeros. The system gives them when they are touched, and not before.
    pub(super) fn zeroed(len: usize) -> Self {
        Self(bytemuck::zeroed_vec(len.div_ceil(LINE)))
    }

    /// Sees to it that there are so many values; new ones are zeros.
    pub(super) fn reserve(&mut self, len: usize) {
        let lines = len.div_ceil(LINE);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; LINE]));
        }
    }
}

impl Deref for Lines {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
