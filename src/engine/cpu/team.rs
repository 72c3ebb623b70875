//! Who does the work of one clip: the calling thread, or several.

use std::marker::PhantomData;
use std::sync::Mutex;

use rayon::prelude::*;

use super::product::Sums;

/// Scratch memory of one thread; grows once, then stays.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Sums of a panel.
    pub(super) sums: Sums,
    /// Where rows begin.
    pub(super) bases: Vec<usize>,
    /// How far behind, each segment of a row.
    pub(super) deltas: Vec<usize>,
    /// Where each row's results go.
    pub(super) places: Vec<usize>,
    /// The same of rows that do not lie in the input as they are.
    pub(super) edge: Edge,
}

/// Rows of a product that reach over the picture's edge: copied, with zeros.
#[derive(Debug, Default)]
pub(super) struct Edge {
    pub(super) values: Vec<f32>,
    pub(super) bases: Vec<usize>,
    pub(super) deltas: Vec<usize>,
    pub(super) places: Vec<usize>,
}

/// Threads that share the steps of a clip.
#[derive(Debug)]
pub(in crate::engine) struct Team {
    pool: Option<rayon::ThreadPool>,
    /// One for each thread; locked by that thread only.
    scratch: Vec<Mutex<Scratch>>,
}

impl Team {
    /// The calling thread alone.
    pub(in crate::engine) fn alone() -> Self {
        Self {
            pool: None,
            scratch: vec![Mutex::default()],
        }
    }

    pub(in crate::engine) fn of(threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        if threads <= 1 {
            return Ok(Self::alone());
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("engine-{number}"))
            .build()?;
        let scratch = (0..threads).map(|_| Mutex::default()).collect();
        Ok(Self {
            pool: Some(pool),
            scratch,
        })
    }

    /// Does every task of `0..count`, in no order.
    pub(super) fn each(&self, count: usize, task: impl Fn(usize, &mut Scratch) + Sync) {
        let one = |number| {
            let thread = rayon::current_thread_index().unwrap_or(0);
            // A poisoned lock means that a task panicked: scratch holds nothing
            // that the next one relies on.
            let mut scratch = match self.scratch[thread].lock() {
                Ok(scratch) => scratch,
                Err(poisoned) => poisoned.into_inner(),
            };
            task(number, &mut scratch);
        };
        match &self.pool {
            None => {
                let mut scratch = match self.scratch[0].lock() {
                    Ok(scratch) => scratch,
                    Err(poisoned) => poisoned.into_inner(),
                };
                (0..count).for_each(|number| task(number, &mut scratch));
            }
            Some(pool) => pool.install(|| (0..count).into_par_iter().with_max_len(1).for_each(one)),
        }
    }
}

/// A slice that tasks write different parts of.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pointer: *mut f32,
    len: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: a pointer into a slice that is borrowed exclusively for `'a`; what
// keeps two threads from one place is the contract of `part`.
unsafe impl Send for Parts<'_> {}
// SAFETY: as above.
unsafe impl Sync for Parts<'_> {}

impl<'a> Parts<'a> {
    pub(super) fn new(slice: &'a mut [f32]) -> Self {
        Self {
            pointer: slice.as_mut_ptr(),
            len: slice.len(),
            lifetime: PhantomData,
        }
    }

    /// A part of the slice, to write.
    ///
    /// # Safety
    /// No two parts that live at the same time may overlap.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the contract says who holds what")]
    pub(super) unsafe fn part(&self, begin: usize, len: usize) -> &mut [f32] {
        assert!(
            begin <= self.len && len <= self.len - begin,
            "a part outside the slice"
        );
        // SAFETY: inside the slice, as was just checked; exclusive by contract.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(begin), len) }
    }
}
