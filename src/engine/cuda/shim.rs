//! A card that is none: the kernels compiled by the host's C++ compiler and run
//! by the shim in `kernels/host/`. Tests only.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{LazyLock, Mutex};

use sha2::{Digest, Sha256};

use super::CudaError;
use super::launch::{Card, Launch, Limits, Recording};

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

/// A change to a source, to plant a bug.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patch {
    pub(crate) file: &'static str,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
}

#[repr(C)]
struct ShimLaunch {
    name: *const c_char,
    grid: [u32; 3],
    block: u32,
    shared_bytes: u32,
    together: u32,
    parameters: *const c_void,
    parameter_bytes: u32,
    order: u32,
    seed: u64,
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
    /// What the next launch after so many does: nothing, or fail.
    pub(crate) fault: Mutex<Option<(usize, CudaError)>>,
    /// Allocations that would exceed this many bytes in all fail.
    pub(crate) capacity: Mutex<usize>,
    pub(crate) launches: Mutex<Vec<String>>,
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
        let path = compiled(patches);
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
            },
            memory: Mutex::default(),
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
        shim
    }

    /// Bytes allocated.
    pub(crate) fn used(&self) -> usize {
        let memory = self.memory.lock().unwrap();
        memory.values().map(|allocation| allocation.len).sum()
    }
}

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// The shared library of the shim and all kernels, compiled where it is not
/// there already. `HEPAFLOW_SHIM_FLAGS` adds to the compiler's flags.
fn compiled(patches: &[Patch]) -> PathBuf {
    let mut files = Vec::new();
    for folder in [kernels(), kernels().join("host")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.strip_prefix(kernels()).unwrap().to_owned();
                files.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort();
    for patch in patches {
        let (_, text) = files
            .iter_mut()
            .find(|(name, _)| name == Path::new(patch.file))
            .unwrap();
        assert!(text.contains(patch.from), "{patch:?} fits nowhere");
        *text = text.replacen(patch.from, patch.to, 1);
    }
    let flags = std::env::var("HEPAFLOW_SHIM_FLAGS").unwrap_or_default();
    let hash = |texts: &[&str]| -> String {
        let mut hash = Sha256::new();
        for text in texts {
            hash.update(text);
        }
        super::compile::hex(&hash.finalize()[..8])
    };
    // An object is made of a source, and of whatever it may include.
    let is_source = |name: &Path| {
        matches!(
            name.extension().and_then(|extension| extension.to_str()),
            Some("cu" | "cpp")
        )
    };
    let (sources, headers): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|(name, _)| is_source(name));
    let headers_hash = hash(
        &headers
            .iter()
            .map(|(_, text)| text.as_str())
            .collect::<Vec<_>>(),
    );
    let objects: Vec<_> = sources
        .iter()
        .map(|(name, text)| {
            let hash = hash(&[&flags, &headers_hash, text]);
            (
                name,
                text,
                format!("{}-{hash}", name.file_stem().unwrap().display()),
            )
        })
        .collect();
    let all: Vec<_> = objects
        .iter()
        .map(|(_, _, object)| object.as_str())
        .collect();

    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/shim");
    fs::create_dir_all(&target).unwrap();
    let library = target.join(format!("{}.so", hash(&all)));
    // Tests of other processes may want the same.
    let lock = File::create(target.join("lock")).unwrap();
    lock.lock().unwrap();
    if library.exists() {
        return library;
    }
    let folder = target.join("build");
    fs::create_dir_all(folder.join("host")).unwrap();
    for (name, text) in headers.iter().chain(&sources) {
        fs::write(folder.join(name), text).unwrap();
    }
    let object_file = |object: &str| target.join(object).with_extension("o");
    let mut compilers: Vec<(String, Child)> = Vec::new();
    let finish = |compilers: &mut Vec<(String, Child)>| {
        let (object, mut compiler) = compilers.remove(0);
        assert!(compiler.wait().unwrap().success(), "{object}");
        fs::rename(folder.join(&object), object_file(&object)).unwrap();
    };
    for (name, _, object) in &objects {
        if object_file(object).exists() {
            continue;
        }
        let compiler = Command::new("g++")
            .args([
                "-std=c++17",
                "-O2",
                "-fPIC",
                "-g1",
                "-Wall",
                "-Wextra",
                "-Werror",
            ])
            .args(["-Wno-unknown-pragmas", "-Wno-unused", "-I."])
            .args(flags.split_whitespace())
            .args(["-x", "c++", "-c"])
            .arg(name)
            .args(["-o", object])
            .current_dir(&folder)
            .spawn()
            .unwrap();
        compilers.push((object.clone(), compiler));
        if compilers.len() == 2 {
            finish(&mut compilers);
        }
    }
    while !compilers.is_empty() {
        finish(&mut compilers);
    }
    let partial = folder.join("library.so");
    let linked = Command::new("g++")
        .arg("-shared")
        .args(flags.split_whitespace())
        .args(all.iter().map(|object| object_file(object)))
        .arg("-o")
        .arg(&partial)
        .status()
        .unwrap();
    assert!(linked.success());
    fs::rename(partial, &library).unwrap();
    library
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
        let mut memory = self.memory.lock().unwrap();
        let allocation = memory.get_mut(&to).unwrap();
        assert!(from.len() <= allocation.len);
        allocation.all()[*GUARD..][..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn download(&self, to: &mut [u8], from: u64) -> Result<(), CudaError> {
        let mut memory = self.memory.lock().unwrap();
        let allocation = memory.get_mut(&from).unwrap();
        to.copy_from_slice(&allocation.all()[*GUARD..][..to.len()]);
        Ok(())
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        if let Some((after, error)) = self.fault.lock().unwrap().as_mut() {
            if *after == 0 {
                return Err(error.clone());
            }
            *after -= 1;
        }
        self.launches.lock().unwrap().push(launch.kernel.to_owned());
        let name = CString::new(launch.kernel).unwrap();
        let (order, seed) = match self.schedule {
            Schedule::Forward => (0, 0),
            Schedule::Reverse => (1, 0),
            Schedule::Random(seed) => (2, seed),
        };
        let asked = ShimLaunch {
            name: name.as_ptr(),
            grid: launch.grid.map(|blocks| u32::try_from(blocks).unwrap()),
            block: launch.block as u32,
            shared_bytes: launch.shared_bytes as u32,
            together: u32::from(launch.together),
            parameters: launch.parameters.pointer,
            parameter_bytes: launch.parameters.bytes as u32,
            order,
            seed,
        };
        assert!(
            launch.shared_bytes <= self.limits.shared_bytes,
            "{}",
            launch.kernel
        );
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

    fn record(
        &self,
        _: &mut dyn FnMut() -> Result<(), CudaError>,
    ) -> Result<Option<Recording>, CudaError> {
        Ok(None)
    }

    fn replay(&self, _: Recording) -> Result<(), CudaError> {
        unreachable!("nothing was recorded")
    }

    fn forget(&self, _: Recording) {}
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
