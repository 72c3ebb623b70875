//! How busy this machine's NVIDIA cards are, asked of the driver's management
//! library (NVML), which takes no memory of the card as a CUDA context would.

use std::ffi::{c_int, c_uint, c_void};
use std::path::Path;
use std::ptr;

use libloading::Library;

/// Where the driver puts it.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// What a card does at one moment, for whomever.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// The driver's number for the card.
    pub card: usize,
    /// Its memory, in bytes.
    pub memory: u64,
    /// How much of that is in use.
    pub memory_used: u64,
    /// Share of the last sample period, a sixth of a second to a second, in which it
    /// computed: 0 to 1.
    pub utilization: f64,
}

/// `nvmlDevice_t`.
type Device = *mut c_void;
/// `nvmlReturn_t`; 0 is success.
type Status = c_int;
type Init = unsafe extern "C" fn() -> Status;
type Count = unsafe extern "C" fn(*mut c_uint) -> Status;
type Handle = unsafe extern "C" fn(c_uint, *mut Device) -> Status;
type GetMemory = unsafe extern "C" fn(Device, *mut Memory) -> Status;
type GetUtilization = unsafe extern "C" fn(Device, *mut Utilization) -> Status;

/// `nvmlMemory_t`, in bytes.
#[repr(C)]
#[derive(Default)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// `nvmlUtilization_t`, in percent.
#[repr(C)]
#[derive(Default)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

/// The management library, ready to be asked.
#[derive(Debug)]
pub struct Nvml(Library);

impl Nvml {
    /// Loads it; nothing, where there is no driver or it does not work.
    pub fn open() -> Option<Self> {
        Self::load(Path::new(LIBRARY))
    }

    fn load(library: &Path) -> Option<Self> {
        // SAFETY: the driver's library; its initialisers expect nothing of us.
        let library = unsafe { Library::new(library) }.ok()?;
        let nvml = Self(library);
        // SAFETY: the symbol has this type in every version of NVML since 5.
        let status = unsafe { nvml.0.get::<Init>(b"nvmlInit_v2\0").ok()?() };
        (status == 0).then_some(nvml)
    }

    /// All cards that answer.
    pub fn usage(&self) -> Vec<Usage> {
        let mut count = 0;
        // SAFETY: the symbol has this type; it writes one number.
        let status = unsafe {
            let Ok(ask) = self.0.get::<Count>(b"nvmlDeviceGetCount_v2\0") else {
                return Vec::new();
            };
            ask(&raw mut count)
        };
        if status != 0 {
            return Vec::new();
        }
        (0..count).filter_map(|card| self.usage_of(card)).collect()
    }

    fn usage_of(&self, card: c_uint) -> Option<Usage> {
        let mut device = ptr::null_mut();
        let (mut memory, mut utilization) = (Memory::default(), Utilization::default());
        // SAFETY: the symbols have these types, and write only what they are given,
        // which is laid out as nvml.h has it; the device is one that the library gave.
        let answered = unsafe {
            let handle = self.0.get::<Handle>(b"nvmlDeviceGetHandleByIndex_v2\0");
            let get_memory = self.0.get::<GetMemory>(b"nvmlDeviceGetMemoryInfo\0");
            let get_use = self
                .0
                .get::<GetUtilization>(b"nvmlDeviceGetUtilizationRates\0");
            let (handle, get_memory, get_use) = (handle.ok()?, get_memory.ok()?, get_use.ok()?);
            handle(card, &raw mut device) == 0
                && get_memory(device, &raw mut memory) == 0
                && get_use(device, &raw mut utilization) == 0
        };
        answered.then(|| Usage {
            card: card as usize,
            memory: memory.total,
            memory_used: memory.used,
            utilization: f64::from(utilization.gpu) / 100.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A stand-in for the driver's library, by the declarations of nvml.h.
    const STAND_IN: &str = r"
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
static int devices[3];
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    *device = &devices[index]; return 0; }
int nvmlDeviceGetMemoryInfo(void *device, nvmlMemory_t *memory) {
    memory->total = 80ull << 30; memory->used = 5ull << 30;
    memory->free = memory->total - memory->used; return 0; }
/* The second is lost: NVML_ERROR_GPU_IS_LOST. */
int nvmlDeviceGetUtilizationRates(void *device, nvmlUtilization_t *use) {
    use->gpu = 40; use->memory = 7; return device == &devices[1] ? 15 : 0; }
";

    #[test]
    fn cards_are_asked_by_the_driver_s_own_declarations_and_a_lost_one_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("nvml.c"), folder.path().join("nvml.so"));
        std::fs::write(&source, STAND_IN).unwrap();
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status();
        assert!(compiled.unwrap().success());
        let usage = Nvml::load(&library).unwrap().usage();
        let cards: Vec<_> = usage.iter().map(|usage| usage.card).collect();
        assert_eq!(cards, [0, 2]);
        let expected = Usage {
            card: 0,
            memory: 80 << 30,
            memory_used: 5 << 30,
            utilization: 0.4,
        };
        assert_eq!(usage[0], expected);
        assert!(Nvml::load(&folder.path().join("none.so")).is_none());
    }
}
