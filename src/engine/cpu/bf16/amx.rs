//! Tiles of the processor: Intel's Advanced Matrix Extensions (AMX).
//!
//! Eight registers hold a tile each, 16 rows of 64 bytes. `TDPBF16PS` adds the
//! product of a left tile, 16 rows by 32 values of K, and a right tile, 16 pairs of
//! K by 16 columns, to 16 x 16 sums in f32: 8192 products in one instruction, 16
//! cycles apart. Whatever a tile is short of is computed nonetheless, so that all
//! are whole.
//!
//! ```text
//!            right 0   right 1                  right 0
//!             tmm6      tmm7                     tmm7
//! left 0 tmm4 tmm0      tmm1         left 0 tmm4 tmm0     four left tiles take
//! left 1 tmm5 tmm2      tmm3           ...  tmm4 ...      turns in tmm4 and tmm5
//!                                    left 3 tmm5 tmm3
//! ```
//!
//! Each loaded tile is used twice; loading takes half the time of multiplying.
//!
//! Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter
//! 18; Linux, `Documentation/arch/x86/xstate.rst`.

#![allow(
    clippy::unused_self,
    reason = "who holds it has asked for the instructions, or set them up"
)]

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::{Left, Sums};

/// Proof that this process may use tiles.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cpu) struct Amx(());

/// Tiles of this thread are set up while this lives; it cannot leave the thread.
pub(super) struct Tiles(PhantomData<*mut ()>);

/// What `LDTILECFG` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Eight tiles of 16 rows of 64 bytes.
static WHOLE_TILES: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Amx {
    /// Looks at the processor and asks the operating system, once a process.
    pub(super) fn try_new() -> Option<Self> {
        static PERMITTED: OnceLock<bool> = OnceLock::new();
        PERMITTED
            .get_or_init(|| has_instructions() && ask_permission())
            .then_some(Self(()))
    }

    /// Sets up this thread's tiles.
    pub(super) fn prepare(self) -> Tiles {
        // SAFETY: the processor has the instruction and the process the permission,
        // or there were no `Amx`. It writes no memory.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE_TILES, options(nostack, readonly));
        }
        Tiles(PhantomData)
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // While tiles are in use, a switch of threads saves eight kilobytes more.
        // SAFETY: they were set up by `prepare`, on this thread.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

fn has_instructions() -> bool {
    // Narrowing is done in AVX-512; every processor with tiles has that too.
    if !is_x86_feature_detected!("avx512bf16") || !is_x86_feature_detected!("avx512f") {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    // AMX-BF16 and AMX-TILE.
    if features & 1 << 22 == 0 || features & 1 << 24 == 0 {
        return false;
    }
    // SAFETY: the operating system switches AVX-512's registers, which it can say
    // only where it has XGETBV turned on.
    let switched = unsafe { _xgetbv(0) };
    // The tiles' configuration and their data.
    switched & 0b11 << 17 == 0b11 << 17
}

/// Linux gives the room that tiles take in every thread's saved state only to
/// processes that ask for it.
#[cfg(target_os = "linux")]
fn ask_permission() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers, touches no memory of ours, and fails
    // where it is not known.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        )
    };
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn ask_permission() -> bool {
    false
}

impl Tiles {
    /// Two tiles by two panels: `sums [2][16][32]`.
    #[inline(always)]
    pub(super) fn square(
        &self,
        left: Left<'_>,
        tiles: [usize; 2],
        panels: [&[u16]; 2],
        sums: &mut Sums,
    ) {
        left.check(&tiles, &panels);
        let rows = tiles.map(|tile| left.picture[tile..].as_ptr());
        let steps = left.steps.as_ptr_range();
        let sums = sums.0.as_mut_ptr();
        // SAFETY: the tiles are set up, since `self` lives. What is loaded lies in
        // the picture and the panels, which `check` made sure of, and what is
        // stored fills `sums`: 2 x 16 rows of 32 values. `Ready` sees to it that
        // there is a step.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "mov {second}, [{step}]",
                "lea {first}, [{rows0} + 2*{second}]",
                "lea {second}, [{rows1} + 2*{second}]",
                "tileloadd tmm6, [{panel0} + {line}]",
                "tileloadd tmm4, [{first} + {pitch}]",
                "tileloadd tmm7, [{panel1} + {line}]",
                "tileloadd tmm5, [{second} + {pitch}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {step}, 8",
                "add {panel0}, 1024",
                "add {panel1}, 1024",
                "cmp {step}, {end}",
                "jne 2b",
                "add {line}, {line}",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 64], tmm1",
                "tilestored [{sums} + {line} + 2048], tmm2",
                "tilestored [{sums} + {line} + 2112], tmm3",
                first = out(reg) _,
                second = out(reg) _,
                step = inout(reg) steps.start => _,
                end = in(reg) steps.end,
                rows0 = in(reg) rows[0],
                rows1 = in(reg) rows[1],
                pitch = in(reg) 2 * left.pitch,
                panel0 = inout(reg) panels[0].as_ptr() => _,
                panel1 = inout(reg) panels[1].as_ptr() => _,
                line = inout(reg) 64_usize => _,
                sums = in(reg) sums,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// Four tiles by one panel: `sums [4][16][16]`.
    #[inline(always)]
    pub(super) fn tall(&self, left: Left<'_>, tiles: [usize; 4], panel: &[u16], sums: &mut Sums) {
        left.check(&tiles, &[panel]);
        let rows = tiles.map(|tile| left.picture[tile..].as_ptr());
        let steps = left.steps.as_ptr_range();
        let sums = sums.0.as_mut_ptr();
        // SAFETY: as in `square`; 4 x 16 rows of 16 values are stored.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "mov {second}, [{step}]",
                "tileloadd tmm7, [{panel} + {line}]",
                "lea {first}, [{rows0} + 2*{second}]",
                "tileloadd tmm4, [{first} + {pitch}]",
                "lea {first}, [{rows1} + 2*{second}]",
                "tileloadd tmm5, [{first} + {pitch}]",
                "tdpbf16ps tmm0, tmm4, tmm7",
                "lea {first}, [{rows2} + 2*{second}]",
                "tileloadd tmm4, [{first} + {pitch}]",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "lea {first}, [{rows3} + 2*{second}]",
                "tileloadd tmm5, [{first} + {pitch}]",
                "tdpbf16ps tmm2, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {step}, 8",
                "add {panel}, 1024",
                "cmp {step}, {end}",
                "jne 2b",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 1024], tmm1",
                "tilestored [{sums} + {line} + 2048], tmm2",
                "tilestored [{sums} + {line} + 3072], tmm3",
                first = out(reg) _,
                second = out(reg) _,
                step = inout(reg) steps.start => _,
                end = in(reg) steps.end,
                rows0 = in(reg) rows[0],
                rows1 = in(reg) rows[1],
                rows2 = in(reg) rows[2],
                rows3 = in(reg) rows[3],
                pitch = in(reg) 2 * left.pitch,
                panel = inout(reg) panel.as_ptr() => _,
                line = in(reg) 64_usize,
                sums = in(reg) sums,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
