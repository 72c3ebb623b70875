//! The one face that kernels are launched through.
//!
//! A [`Card`] has memory and runs kernels by name. The driver's card
//! (`driver.rs`) is a real one; in tests the host shim stands in for it, so that
//! what plans and launches is the same code in both.

use std::ffi::c_void;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::thread::ThreadId;

use super::CudaError;

/// What a card can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "what a card has, each tried by itself"
)]
pub(crate) struct Limits {
    /// Multiprocessors: blocks that run at once, at the least.
    pub(crate) multiprocessors: usize,
    /// Shared memory that a block may ask for, in bytes.
    pub(crate) shared_bytes: usize,
    /// Whether it has Hopper's products of whole warpgroups, and they conform.
    pub(crate) warpgroups: bool,
    /// Whether its tensor memory accelerator, too, does what the kernels rest on.
    pub(crate) tma: bool,
    /// And whether it brings and stores boxes, as `conv_halo.cu` wants them.
    pub(crate) boxes: bool,
    /// Whether blocks of a cluster write to each other's shared memory, and that conforms.
    pub(crate) clusters: bool,
    /// And whether the accelerator brings what two of them read to both.
    pub(crate) pairs: bool,
}

/// What the copies of `tma.cuh` read of memory, whose values have 16 bits: tiles of
/// rows of 64 values. Axes come in the order of memory, the one whose values lie side by
/// side first; pitches are bytes from one value of the next axes to the one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tiles {
    /// Of a matrix, columns by rows: 64 columns of `count` rows.
    Matrix {
        address: u64,
        extent: [usize; 2],
        pitch: usize,
        count: usize,
    },
    /// Of activations, channels by W, H, T and clips: 64 channels at `count` positions, as
    /// a convolution's kernel sees them under one of its taps, which moves along W, H and
    /// T.
    Positions {
        address: u64,
        extent: [usize; 5],
        pitch: [usize; 4],
        count: usize,
        stride: [usize; 3],
        /// Where the kernel's corner is first, along each axis: less than zero in the
        /// padding.
        lower: [i32; 3],
        /// Where it is last, less the place of the last value.
        upper: [i32; 3],
    },
    /// Of the same, 64 channels of a part of one frame: so many columns and rows.
    Boxes {
        address: u64,
        extent: [usize; 5],
        pitch: [usize; 4],
        columns: usize,
        rows: usize,
    },
}

/// The same for the card's own reading, as `TensorMap` of `tma.cuh`.
#[repr(C, align(128))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TensorMap(pub(crate) [u64; 16]);

/// A kernel's parameters: one struct, given by value.
#[derive(Clone, Copy)]
pub(crate) struct Parameters<'a> {
    pub(crate) pointer: *const c_void,
    /// The driver knows how many; the host shim checks that both sides agree.
    #[cfg_attr(not(test), expect(dead_code, reason = "checked in tests"))]
    pub(crate) bytes: usize,
    lifetime: PhantomData<&'a ()>,
}

impl<'a> Parameters<'a> {
    /// Of a struct that the kernel's source declares alike.
    pub(crate) fn of<P: Copy>(parameters: &'a P) -> Self {
        Self {
            pointer: std::ptr::from_ref(parameters).cast(),
            bytes: size_of::<P>(),
            lifetime: PhantomData,
        }
    }
}

/// Blocks that must run at once, since they wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Together {
    None,
    /// Rows of as many along x, which reach each other's shared memory.
    Clusters(usize),
    All,
}

/// One launch of a kernel.
#[derive(Clone, Copy)]
pub(crate) struct Launch<'a> {
    pub(crate) kernel: &'a str,
    /// Blocks.
    pub(crate) grid: [usize; 3],
    /// Threads in a block.
    pub(crate) block: usize,
    /// Shared memory of a block, in bytes.
    pub(crate) shared_bytes: usize,
    pub(crate) together: Together,
    pub(crate) parameters: Parameters<'a>,
}

/// A recorded sequence of launches; a card's own number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Recording(pub(crate) usize);

/// A device with memory that runs kernels: those of one thread one after the
/// other. What two threads begin is in no order, until one has waited for the
/// other ([`Card::wait_for`]) or for itself, by a download.
pub(crate) trait Card: Debug + Send + Sync {
    /// For people.
    fn name(&self) -> String;

    fn limits(&self) -> Limits;

    /// Memory of this many bytes, aligned to 256, with anything in it.
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError>;

    /// Gives memory back; nothing that was launched may still use it.
    fn free(&self, address: u64);

    /// Copies to the device, in order with this thread's launches.
    fn upload(&self, to: u64, from: &[u8]) -> Result<(), CudaError>;

    /// Copies from the device, when all that this thread began before has ended.
    fn download(&self, to: &mut [u8], from: u64) -> Result<(), CudaError>;

    /// Waits until what a thread has begun, this or another, has ended.
    fn wait_for(&self, thread: ThreadId) -> Result<(), CudaError>;

    /// Describes memory to the tensor memory accelerator; only where
    /// [`Limits::tma`] is so.
    fn map(&self, tiles: &Tiles) -> Result<TensorMap, CudaError>;

    /// Begins a kernel, in order with this thread's launches before.
    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError>;

    /// Records what `work` launches, to replay it as one; none where the card
    /// cannot, and then nothing was launched.
    fn record(
        &self,
        work: &mut dyn FnMut() -> Result<(), CudaError>,
    ) -> Result<Option<Recording>, CudaError>;

    /// Begins a recording, in order with this thread's launches before.
    fn replay(&self, recording: Recording) -> Result<(), CudaError>;

    /// Forgets a recording.
    fn forget(&self, recording: Recording);
}

/// Memory on a card, given back when dropped.
#[derive(Debug)]
pub(crate) struct Memory {
    card: Arc<dyn Card>,
    address: u64,
    bytes: usize,
}

impl Memory {
    pub(crate) fn new(card: &Arc<dyn Card>, bytes: usize) -> Result<Self, CudaError> {
        // An empty value still has an address.
        let bytes = bytes.max(16);
        Ok(Self {
            card: Arc::clone(card),
            address: card.allocate(bytes)?,
            bytes,
        })
    }

    /// Memory that holds these values.
    pub(crate) fn of(card: &Arc<dyn Card>, values: &[u8]) -> Result<Self, CudaError> {
        let memory = Self::new(card, values.len())?;
        memory.card.upload(memory.address, values)?;
        Ok(memory)
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn upload(&self, values: &[u8]) -> Result<(), CudaError> {
        assert!(values.len() <= self.bytes, "more than the memory holds");
        self.card.upload(self.address, values)
    }

    pub(crate) fn download(&self, values: &mut [u8]) -> Result<(), CudaError> {
        assert!(values.len() <= self.bytes, "more than the memory holds");
        self.card.download(values, self.address)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.card.free(self.address);
    }
}

/// Values as bytes, in the machine's order, which is the card's.
pub(crate) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect()
}

/// Bytes as values.
pub(crate) fn floats_of(bytes: &[u8]) -> Vec<f32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| f32::from_ne_bytes(*word)).collect()
}
