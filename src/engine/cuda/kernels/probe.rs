//! Single instructions, for conformance: `probe.cu`.

use super::super::CudaError;
use super::super::launch::Card;
use super::run;

/// `struct Probe` of `probe.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Probe {
    input: u64,
    output: u64,
}

/// Runs one of the conformance probes, a single block.
pub(crate) fn probe(
    card: &dyn Card,
    kernel: &str,
    threads: usize,
    shared_bytes: usize,
    input: u64,
    output: u64,
) -> Result<(), CudaError> {
    let parameters = Probe { input, output };
    run(card, kernel, [1, 1, 1], threads, shared_bytes, &parameters)
}
