//! A card that is none: the kernels compiled by the host's C++ compiler and run
//! by the shim in `kernels/host/`. Tests only.
//!
//! As on a real card, every thread has a stream of its own: what it uploads and
//! launches waits there, in order, until somebody waits for that thread. So a
//! thread that relies on another one's work without waiting finds memory that was
//! never written, which is not a number.

mod library;

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};
use std::sync::{LazyLock, Mutex};
use std::thread::ThreadId;

use super::CudaError;
use super::launch::{Card, Launch, Limits, Recording, TensorMap, Tiles, Together};
pub(crate) use library::Patch;

/// In what order the shim lets threads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    Forward,
    Reverse,
    Random(u64),
}

/// The schedules that every kernel is tested under.
pub(crate) const SCHEDULES: [Schedule; 4] = [
    Schedule::Forward,
    Schedule::Reverse,
    Schedule::Random(1),
    Schedule::Random(2),
];

#[repr(C)]
struct ShimLaunch {
    name: *const c_char,
    grid: [u32; 3],
    block: u32,
    shared_bytes: u32,
    together: u32,
    is_cluster: u32,
    parameters: *const c_void,
    parameter_bytes: u32,
    order: u32,
    seed: u64,
}

/// `shim::Map` of `shim.hpp`.
#[repr(C)]
#[derive(Default)]
struct Map {
    address: u64,
    pitch: [u64; 4],
    extent: [u32; 5],
    lower: [i8; 3],
    upper: [i8; 3],
    stride: [u8; 3],
    kind: Kind,
    across: u8,
    down: u8,
    count: u32,
    _end: [u32; 13],
}

/// `shim::Kind`.
#[repr(u8)]
#[derive(Default)]
enum Kind {
    #[default]
    Positions,
    Matrix,
    Boxes,
}

type LaunchFunction = unsafe extern "C" fn(*const ShimLaunch, *mut c_char, u32) -> i32;

/// Bytes around every allocation, to see what writes beside it. None where a
/// sanitizer watches, which sees reads as well.
static GUARD: LazyLock<usize> = LazyLock::new(|| {
    let flags = std::env::var("HEPAFLOW_SHIM_FLAGS").unwrap_or_default();
    if flags.contains("sanitize") { 0 } else { 256 }
});
const GUARD_BYTE: u8 = 0xa5;

/// One allocation: guard, values, guard.
struct Allocation {
    bytes: Box<[u128]>,
    len: usize,
}

/// The shim, as a card.
pub(crate) struct Shim {
    library: libloading::Library,
    schedule: Schedule,
    limits: Limits,
    memory: Mutex<HashMap<u64, Allocation>>,
    /// What each thread has begun, and nobody has waited for.
    begun: Mutex<HashMap<ThreadId, Vec<Work>>>,
    /// What threads record just now: nothing of it is begun.
    recording: Mutex<HashMap<ThreadId, Vec<OwnedLaunch>>>,
    recordings: Mutex<Vec<Option<Vec<OwnedLaunch>>>>,
    /// An error of work that was performed where it could not be told.
    broken: Mutex<Option<CudaError>>,
    /// What the next launch after so many does: nothing, or fail.
    pub(crate) fault: Mutex<Option<(usize, CudaError)>>,
    /// Allocations that would exceed this many bytes in all fail.
    pub(crate) capacity: Mutex<usize>,
    /// Kernels that were begun, by themselves or in a recording.
    pub(crate) launches: Mutex<Vec<String>>,
}

/// Something in a thread's stream.
enum Work {
    Upload { to: u64, bytes: Vec<u8> },
    Launch(OwnedLaunch),
}

/// A launch with its parameters copied, as a driver copies them.
#[derive(Clone)]
struct OwnedLaunch {
    kernel: String,
    grid: [usize; 3],
    block: usize,
    shared_bytes: usize,
    together: Together,
    parameters: Vec<Aligned>,
    parameter_bytes: usize,
}

/// As any struct of the kernels wants it.
#[repr(C, align(128))]
#[derive(Clone, Copy)]
struct Aligned([u8; 128]);

impl OwnedLaunch {
    fn of(launch: &Launch<'_>) -> Self {
        let bytes = launch.parameters.bytes;
        let mut parameters = vec![Aligned([0; 128]); bytes.div_ceil(128)];
        // SAFETY: the parameters are a struct of so many bytes, and the copy has
        // room for them.
        unsafe {
            std::ptr::copy_nonoverlapping(
                launch.parameters.pointer.cast::<u8>(),
                parameters.as_mut_ptr().cast::<u8>(),
                bytes,
            );
        }
        Self {
            kernel: launch.kernel.to_owned(),
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            together: launch.together,
            parameters,
            parameter_bytes: bytes,
        }
    }
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Shim").field(&self.schedule).finish()
    }
}

/// One launch at a time in a process: the shim is not for several threads.
static TURN: Mutex<()> = Mutex::new(());

impl Shim {
    pub(crate) fn new(schedule: Schedule) -> Self {
        Self::with_patches(schedule, &[])
    }

    /// With bugs planted.
    pub(crate) fn with_patches(schedule: Schedule, patches: &[Patch]) -> Self {
        let path = library::compiled(patches);
        // SAFETY: the library is ours; its initialisers only fill a map.
        let library = unsafe { libloading::Library::new(&path) }.unwrap();
        Self {
            library,
            schedule,
            // As many as give every path of the planning some work.
            limits: Limits {
                multiprocessors: 4,
                shared_bytes: 227 * 1024,
                warpgroups: true,
                tma: true,
                boxes: true,
                clusters: true,
                pairs: true,
            },
            memory: Mutex::default(),
            begun: Mutex::default(),
            recording: Mutex::default(),
            recordings: Mutex::default(),
            broken: Mutex::default(),
            fault: Mutex::default(),
            capacity: Mutex::new(usize::MAX),
            launches: Mutex::default(),
        }
    }
}

impl Shim {
    /// As cards for workstations are: no warpgroups, and less shared memory.
    pub(crate) fn small(schedule: Schedule) -> Self {
        let mut shim = Self::new(schedule);
        shim.limits.shared_bytes = 99 * 1024;
        shim.limits.warpgroups = false;
        shim.limits.tma = false;
        shim.limits.clusters = false;
        shim
    }

    /// With fewer multiprocessors.
    pub(crate) fn with_multiprocessors(mut self, multiprocessors: usize) -> Self {
        self.limits.multiprocessors = multiprocessors;
        self
    }

    /// With less shared memory.
    pub(crate) fn with_shared_bytes(mut self, bytes: usize) -> Self {
        self.limits.shared_bytes = bytes;
        self
    }

    /// Bytes allocated.
    pub(crate) fn used(&self) -> usize {
        let memory = self.memory.lock().unwrap();
        memory.values().map(|allocation| allocation.len).sum()
    }

    /// Recordings that were not forgotten.
    pub(crate) fn recorded(&self) -> usize {
        self.recordings.lock().unwrap().iter().flatten().count()
    }

    fn begin(&self, work: Work) {
        let mut begun = self.begun.lock().unwrap();
        begun
            .entry(std::thread::current().id())
            .or_default()
            .push(work);
    }

    fn begin_launch(&self, launch: OwnedLaunch) -> Result<(), CudaError> {
        if let Some((after, error)) = self.fault.lock().unwrap().as_mut() {
            if *after == 0 {
                return Err(error.clone());
            }
            *after -= 1;
        }
        self.launches.lock().unwrap().push(launch.kernel.clone());
        self.begin(Work::Launch(launch));
        Ok(())
    }

    /// Does what a thread has begun.
    fn perform(&self, thread: ThreadId) -> Result<(), CudaError> {
        let begun = self.begun.lock().unwrap().remove(&thread);
        for work in begun.into_iter().flatten() {
            match work {
                Work::Upload { to, bytes } => {
                    let mut memory = self.memory.lock().unwrap();
                    let allocation = memory.get_mut(&to).unwrap();
                    allocation.all()[*GUARD..][..bytes.len()].copy_from_slice(&bytes);
                }
                Work::Launch(launch) => self.run(&launch)?,
            }
        }
        match self.broken.lock().unwrap().take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Does what all threads have begun.
    fn perform_all(&self) {
        let threads: Vec<_> = self.begun.lock().unwrap().keys().copied().collect();
        for thread in threads {
            if let Err(error) = self.perform(thread) {
                *self.broken.lock().unwrap() = Some(error);
            }
        }
    }

    fn run(&self, launch: &OwnedLaunch) -> Result<(), CudaError> {
        let name = CString::new(launch.kernel.as_str()).unwrap();
        let (order, seed) = match self.schedule {
            Schedule::Forward => (0, 0),
            Schedule::Reverse => (1, 0),
            Schedule::Random(seed) => (2, seed),
        };
        let together = match launch.together {
            Together::None => 1,
            Together::Clusters(blocks) => blocks,
            Together::All => launch.grid.iter().product(),
        };
        let asked = ShimLaunch {
            name: name.as_ptr(),
            grid: launch.grid.map(|blocks| u32::try_from(blocks).unwrap()),
            block: launch.block as u32,
            shared_bytes: launch.shared_bytes as u32,
            together: u32::try_from(together).unwrap(),
            is_cluster: u32::from(matches!(launch.together, Together::Clusters(_))),
            parameters: launch.parameters.as_ptr().cast(),
            parameter_bytes: launch.parameter_bytes as u32,
            order,
            seed,
        };
        let mut text = [0_u8; 512];
        let turn = TURN
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: the symbol has this type in `shim.cpp`; the parameters live
        // until the call returns, and addresses inside them are allocations of
        // ours, as far as the kernel is right.
        let status = unsafe {
            let function = self
                .library
                .get::<LaunchFunction>(b"shim_launch\0")
                .unwrap();
            function(
                &raw const asked,
                text.as_mut_ptr().cast(),
                text.len() as u32,
            )
        };
        drop(turn);
        if status == 0 {
            return Ok(());
        }
        let end = text.iter().position(|byte| *byte == 0).unwrap();
        Err(CudaError::Launch {
            problem: String::from_utf8_lossy(&text[..end]).into_owned(),
        })
    }
}

impl Card for Shim {
    fn name(&self) -> String {
        format!("host shim, {:?}", self.schedule)
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        if self.used() + bytes > *self.capacity.lock().unwrap() {
            return Err(CudaError::OutOfMemory { bytes });
        }
        // With a guard before, a multiple of 16 from there, and a guard behind;
        // what is not written is not a number.
        let mut memory = self.memory.lock().unwrap();
        let words = (2 * *GUARD + bytes).div_ceil(16);
        let mut allocation = Allocation {
            bytes: vec![u128::MAX; words].into_boxed_slice(),
            len: bytes,
        };
        let all = allocation.all();
        all[..*GUARD].fill(GUARD_BYTE);
        all[*GUARD + bytes..].fill(GUARD_BYTE);
        let address = all[*GUARD..].as_ptr() as u64;
        memory.insert(address, allocation);
        Ok(address)
    }

    fn free(&self, address: u64) {
        // As the driver does: after whatever still uses it.
        self.perform_all();
        let mut allocation = self.memory.lock().unwrap().remove(&address).unwrap();
        let len = allocation.len;
        let all = allocation.all();
        let mut guards = all[..*GUARD].iter().chain(&all[*GUARD + len..]);
        assert!(
            std::thread::panicking() || guards.all(|byte| *byte == GUARD_BYTE),
            "a kernel wrote beside an allocation of {len} bytes"
        );
    }

    fn upload(&self, to: u64, from: &[u8]) -> Result<(), CudaError> {
        let len = self.memory.lock().unwrap()[&to].len;
        assert!(from.len() <= len);
        let bytes = from.to_vec();
        self.begin(Work::Upload { to, bytes });
        Ok(())
    }

    fn download(&self, to: &mut [u8], from: u64) -> Result<(), CudaError> {
        self.perform(std::thread::current().id())?;
        let mut memory = self.memory.lock().unwrap();
        let allocation = memory.get_mut(&from).unwrap();
        to.copy_from_slice(&allocation.all()[*GUARD..][..to.len()]);
        Ok(())
    }

    fn wait_for(&self, thread: ThreadId) -> Result<(), CudaError> {
        self.perform(thread)
    }

    fn map(&self, tiles: &Tiles) -> Result<TensorMap, CudaError> {
        assert!(self.limits.tma);
        let short = |value: usize| u32::try_from(value).unwrap();
        let corner = |axes: [i32; 3]| axes.map(|axis| i8::try_from(axis).unwrap());
        let map = match *tiles {
            Tiles::Matrix {
                address,
                extent: [columns, rows],
                pitch,
                count,
            } => Map {
                address,
                pitch: [pitch as u64, 0, 0, 0],
                extent: [short(columns), short(rows), 0, 0, 0],
                kind: Kind::Matrix,
                count: short(count),
                ..Map::default()
            },
            Tiles::Positions {
                address,
                extent,
                pitch,
                count,
                stride,
                lower,
                upper,
            } => Map {
                address,
                pitch: pitch.map(|it| it as u64),
                extent: extent.map(short),
                lower: corner(lower),
                upper: corner(upper),
                stride: stride.map(|axis| u8::try_from(axis).unwrap()),
                kind: Kind::Positions,
                count: short(count),
                ..Map::default()
            },
            Tiles::Boxes {
                address,
                extent,
                pitch,
                columns,
                rows,
            } => Map {
                address,
                pitch: pitch.map(|it| it as u64),
                extent: extent.map(short),
                kind: Kind::Boxes,
                across: u8::try_from(columns).unwrap(),
                down: u8::try_from(rows).unwrap(),
                ..Map::default()
            },
        };
        // SAFETY: both are 128 bytes, and every pattern of bits is one of `u64`; there is
        // no padding in `Map`.
        Ok(TensorMap(unsafe {
            std::mem::transmute::<Map, [u64; 16]>(map)
        }))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        assert!(
            launch.shared_bytes <= self.limits.shared_bytes,
            "{}",
            launch.kernel
        );
        let owned = OwnedLaunch::of(launch);
        let mut recording = self.recording.lock().unwrap();
        match recording.get_mut(&std::thread::current().id()) {
            Some(recording) => {
                recording.push(owned);
                Ok(())
            }
            None => self.begin_launch(owned),
        }
    }

    fn record(
        &self,
        work: &mut dyn FnMut() -> Result<(), CudaError>,
    ) -> Result<Option<Recording>, CudaError> {
        let thread = std::thread::current().id();
        self.recording.lock().unwrap().insert(thread, Vec::new());
        let worked = work();
        let recorded = self.recording.lock().unwrap().remove(&thread).unwrap();
        if worked.is_err() {
            return Ok(None);
        }
        let mut recordings = self.recordings.lock().unwrap();
        recordings.push(Some(recorded));
        Ok(Some(Recording(recordings.len() - 1)))
    }

    fn replay(&self, Recording(number): Recording) -> Result<(), CudaError> {
        let recorded = self.recordings.lock().unwrap()[number].clone();
        let mut launches = recorded.expect("it was not forgotten").into_iter();
        launches.try_for_each(|launch| self.begin_launch(launch))
    }

    fn forget(&self, Recording(number): Recording) {
        self.recordings.lock().unwrap()[number] = None;
    }
}

impl Allocation {
    fn all(&mut self) -> &mut [u8] {
        // SAFETY: initialised memory, read and written as bytes; the lengths agree.
        unsafe {
            std::slice::from_raw_parts_mut(self.bytes.as_mut_ptr().cast(), self.bytes.len() * 16)
        }
        .get_mut(..2 * *GUARD + self.len)
        .unwrap()
    }
}
