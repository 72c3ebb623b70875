//! Who does the work of one clip: the calling thread, or several.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

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
    helpers: Option<Arc<Helpers>>,
    /// One for each thread; locked by that thread only.
    scratch: Vec<Mutex<Scratch>>,
    /// Multiplications and additions of the step at hand, as long as they take in f32.
    work: AtomicU64,
}

/// Threads that help whoever works, if nobody else does.
#[derive(Debug)]
pub(in crate::engine) struct Helpers {
    pool: rayon::ThreadPool,
    /// Teams that are at work.
    busy: AtomicUsize,
}

/// A team is at work while this lives.
pub(super) struct AtWork(Option<Arc<Helpers>>);

impl Drop for AtWork {
    fn drop(&mut self) {
        if let Some(helpers) = &self.0 {
            helpers.busy.fetch_sub(1, Relaxed);
        }
    }
}

/// Multiplications and additions below which sharing a step costs more than it
/// saves: some tens of microseconds.
const WORTH_SHARING: u64 = 1_000_000;

impl Helpers {
    /// So many threads; none for one.
    ///
    /// # Errors
    /// If they cannot be started.
    pub(in crate::engine) fn start(
        threads: usize,
    ) -> Result<Option<Arc<Self>>, rayon::ThreadPoolBuildError> {
        if threads <= 1 {
            return Ok(None);
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("engine-{number}"))
            .build()?;
        Ok(Some(Arc::new(Self {
            pool,
            busy: AtomicUsize::new(0),
        })))
    }
}

impl Team {
    /// The calling thread alone.
    pub(in crate::engine) fn alone() -> Self {
        Self::with(None)
    }

    /// The calling thread; and helpers, whom other teams may ask as well.
    pub(in crate::engine) fn with(helpers: Option<Arc<Helpers>>) -> Self {
        let threads = helpers
            .as_ref()
            .map_or(1, |helpers| helpers.pool.current_num_threads());
        Self {
            helpers,
            scratch: (0..threads).map(|_| Mutex::default()).collect(),
            work: AtomicU64::new(0),
        }
    }

    /// Says that the team is at work on a clip.
    pub(super) fn begin(&self) -> AtWork {
        if let Some(helpers) = &self.helpers {
            helpers.busy.fetch_add(1, Relaxed);
        }
        AtWork(self.helpers.clone())
    }

    /// Says how much there is to do for all tasks that follow: multiplications and
    /// additions, as long as they take in f32.
    pub(super) fn expect(&self, work: u64) {
        self.work.store(work, Relaxed);
    }

    /// Who helps: those who have nothing else to do.
    fn helpers(&self) -> Option<&Helpers> {
        let helpers = self.helpers.as_deref()?;
        let is_alone = helpers.busy.load(Relaxed) <= 1;
        (is_alone && self.work.load(Relaxed) >= WORTH_SHARING).then_some(helpers)
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
        match self.helpers() {
            None => {
                let mut scratch = match self.scratch[0].lock() {
                    Ok(scratch) => scratch,
                    Err(poisoned) => poisoned.into_inner(),
                };
                (0..count).for_each(|number| task(number, &mut scratch));
            }
            Some(helpers) => helpers
                .pool
                .install(|| (0..count).into_par_iter().with_max_len(1).for_each(one)),
        }
    }
}

/// A slice that tasks write different parts of.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a, T = f32> {
    pointer: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: a pointer into a slice that is borrowed exclusively for `'a`; what
// keeps two threads from one place is the contract of `part`.
unsafe impl<T: Send> Send for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
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
    pub(super) unsafe fn part(&self, begin: usize, len: usize) -> &mut [T] {
        assert!(
            begin <= self.len && len <= self.len - begin,
            "a part outside the slice"
        );
        // SAFETY: inside the slice, as was just checked; exclusive by contract.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(begin), len) }
    }
}

/// Parts of a slice as long as each other, as far from each other.
pub(super) struct Spaced<'a, const COUNT: usize> {
    pointer: *mut f32,
    stride: usize,
    len: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

impl<'a> Parts<'a> {
    /// So many parts of `len` values, `stride` from one to the next; checked once.
    ///
    /// # Safety
    /// No two parts that live at the same time may overlap.
    #[inline(always)]
    pub(super) unsafe fn spaced<const COUNT: usize>(
        &self,
        begin: usize,
        stride: usize,
        len: usize,
    ) -> Spaced<'a, COUNT> {
        let end = begin + (COUNT - 1) * stride + len;
        assert!(len <= stride && end <= self.len, "parts outside the slice");
        Spaced {
            // SAFETY: inside the slice, as was just checked.
            pointer: unsafe { self.pointer.add(begin) },
            stride,
            len,
            lifetime: PhantomData,
        }
    }
}

impl<const COUNT: usize> Spaced<'_, COUNT> {
    /// A part, to write.
    #[inline(always)]
    pub(super) fn part(&mut self, number: usize) -> &mut [f32] {
        assert!(number < COUNT, "there are not so many parts");
        // SAFETY: inside the slice, as was checked; exclusive by the contract of
        // `spaced`, and while this is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(number * self.stride), self.len) }
    }
}
