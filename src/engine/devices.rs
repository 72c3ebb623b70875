//! What could execute a model on this machine.
//!
//! Looking never fails: a machine without an NVIDIA driver is a plain answer,
//! with the reason, and so is a driver that does not work.

use std::num::NonZero;

use cudarc::driver::{CudaContext, sys};
use serde::Serialize;

/// All that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Devices {
    /// The processor.
    pub cpu: Cpu,
    /// NVIDIA cards, or why there are none.
    pub cuda: Cuda,
}

/// The processor.
#[derive(Clone, Debug, Serialize)]
pub struct Cpu {
    /// Threads that this process may run at once.
    pub threads: usize,
    /// Instruction sets that the CPU backend could use.
    pub features: Vec<&'static str>,
}

/// NVIDIA cards, or why there are none.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cuda {
    /// There is no usable driver or no card.
    Unavailable {
        /// Why, and what to do.
        reason: String,
    },
    /// The cards of this machine.
    Available {
        /// In the driver's order.
        cards: Vec<Card>,
    },
}

/// One card.
#[derive(Clone, Debug, Serialize)]
pub struct Card {
    /// The driver's number for it.
    pub ordinal: usize,
    /// Its product name.
    pub name: String,
    /// Major and minor.
    pub compute_capability: (i32, i32),
    /// Device memory in all.
    pub memory_bytes: usize,
}

/// Looks at the processor and asks the driver, if there is one.
pub fn list() -> Devices {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    Devices {
        cpu: Cpu {
            threads,
            features: cpu_features(),
        },
        cuda: cuda(),
    }
}

fn cuda() -> Cuda {
    let unavailable = |reason: String| Cuda::Unavailable { reason };
    // SAFETY: only tries to load the driver's library and looks up symbols; no
    // other thread unloads it, since nothing in this program does.
    if !unsafe { sys::is_culib_present() } {
        return unavailable("there is no NVIDIA driver (libcuda.so.1 was not found)".to_owned());
    }
    let cards: Result<Vec<_>, _> =
        CudaContext::device_count().and_then(|count| (0..count).map(card).collect());
    match cards {
        Ok(cards) if cards.is_empty() => unavailable("the NVIDIA driver sees no card".to_owned()),
        Ok(cards) => Cuda::Available { cards },
        Err(error) => unavailable(format!("the NVIDIA driver does not work: {error}")),
    }
}

fn card(ordinal: i32) -> Result<Card, cudarc::driver::DriverError> {
    let ordinal = ordinal.unsigned_abs() as usize;
    let context = CudaContext::new(ordinal)?;
    Ok(Card {
        ordinal,
        name: context.name()?,
        compute_capability: context.compute_capability()?,
        memory_bytes: context.total_mem()?,
    })
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("amx-bf16", super::cpu::has_tiles()),
    ];
    found
        .into_iter()
        .filter(|(_, found)| *found)
        .map(|(name, _)| name)
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<&'static str> {
    vec![std::env::consts::ARCH]
}
