//! Memory in cache lines: a vector of as many bytes crosses none, if it begins a whole
//! number of vectors from the beginning. One that does is loaded as two.

use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::MmapMut;

/// Values of one line.
pub(super) const LINE: usize = 16;

/// A cache line.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([f32; LINE]);

/// The same of bfloat16, the upper halves of f32.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct HalfLine(pub(super) [u16; 2 * LINE]);

/// Vectors on the stack.
#[repr(align(64))]
pub(super) struct OnLines<T>(pub(super) T);

/// Bytes from which memory is asked for in huge pages: a clip's values lie on more pages of
/// the usual size than a processor knows the addresses of at a time.
const HUGE: usize = 1 << 20;

/// Values in whole lines.
#[derive(Debug)]
pub(super) enum Lines {
    Few(Vec<Line>),
    /// Pages, which the system gives when they are touched, and not before.
    Many(MmapMut),
}

impl Default for Lines {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Lines {
    /// Zeros.
    pub(super) fn zeroed(len: usize) -> Self {
        let lines = len.div_ceil(LINE);
        let bytes = lines * size_of::<Line>();
        if bytes >= HUGE
            && let Ok(pages) = MmapMut::map_anon(bytes)
        {
            // A wish: on other pages, everything is the same and takes longer.
            #[cfg(target_os = "linux")]
            let _ = pages.advise(Advice::HugePage);
            return Self::Many(pages);
        }
        Self::Few(bytemuck::zeroed_vec(lines))
    }

    /// Sees to it that there are so many values; new ones are zeros.
    pub(super) fn reserve(&mut self, len: usize) {
        if self.len() < len {
            let mut more = Self::zeroed(len);
            more[..self.len()].copy_from_slice(self);
            *self = more;
        }
    }
}

impl Deref for Lines {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Few(lines) => bytemuck::cast_slice(lines),
            Self::Many(pages) => bytemuck::cast_slice(pages),
        }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Few(lines) => bytemuck::cast_slice_mut(lines),
            Self::Many(pages) => bytemuck::cast_slice_mut(pages),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_on_lines_and_stay_when_there_are_more_of_them() {
        let huge = HUGE / size_of::<f32>();
        let seven = 7.0_f32.to_bits();
        let mut lines = Lines::default();
        let mut before = 0;
        for len in [1, 100, huge - LINE, huge, 3 * huge + 1] {
            lines.reserve(len);
            assert!(lines.len() >= len);
            assert_eq!(lines.as_ptr().addr() % 64, 0);
            assert!(
                lines[..before].iter().all(|value| value.to_bits() == seven),
                "{len}"
            );
            assert!(
                lines[before..].iter().all(|value| value.to_bits() == 0),
                "{len}"
            );
            assert_eq!(matches!(lines, Lines::Many(_)), len >= huge, "{len}");
            before = lines.len();
            lines.fill(7.0);
        }
    }
}
