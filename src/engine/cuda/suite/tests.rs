mod bugs;

use std::process::Command;
use std::sync::Arc;

use super::super::launch::Card;
use super::super::shim::{Patch, SCHEDULES, Schedule, Shim};
use bugs::{BUGS, Bug};

/// Runs all cases under a schedule; gives what failed.
fn failures(card: &Arc<dyn Card>, wanted: fn(&str) -> bool) -> Vec<String> {
    super::all()
        .into_iter()
        .filter(|case| wanted(&case.name))
        .filter_map(|case| match (case.check)(card) {
            Ok(difference) if difference <= case.tolerance => None,
            Ok(difference) => Some(format!(
                "{}: {difference:e}, more than {:e}",
                case.name, case.tolerance
            )),
            Err(error) => Some(format!("{}: {error}", case.name)),
        })
        .collect()
}

fn every_kernel_is_right(schedule: Schedule) {
    let card: Arc<dyn Card> = Arc::new(Shim::new(schedule));
    let failures = failures(&card, |_| true);
    assert!(
        failures.is_empty(),
        "{schedule:?}:\n{}",
        failures.join("\n")
    );
}

#[test]
fn every_kernel_is_right_when_threads_run_forward() {
    every_kernel_is_right(SCHEDULES[0]);
}

#[test]
fn every_kernel_is_right_when_threads_run_backward() {
    every_kernel_is_right(SCHEDULES[1]);
}

#[test]
fn every_kernel_is_right_when_threads_run_at_random() {
    every_kernel_is_right(SCHEDULES[2]);
    every_kernel_is_right(SCHEDULES[3]);
}

#[test]
fn sums_are_split_on_a_larger_card_too() {
    let shim = Arc::new(Shim::new(SCHEDULES[3]).with_multiprocessors(8));
    let card: Arc<dyn Card> = Arc::clone(&shim) as _;
    let failures = failures(&card, |name| name.contains("in segments, "));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let launches = shim.launches.lock().unwrap();
    let adds_up = |of: &[String]| of[0] == "pair128_f16" && of[1] == "conv_reduce_f16";
    assert!(launches.windows(2).any(adds_up), "{launches:?}");
}

/// Whether a schedule shows the bug, be it by a wrong answer or by an error.
fn shows(bug: &Bug, schedule: Schedule) -> bool {
    let card: Arc<dyn Card> = Arc::new(Shim::with_patches(schedule, &[bug.patch]));
    let cases = super::all();
    let mut seen = cases.iter().filter(|case| case.name.contains(bug.cases));
    seen.any(|case| match (case.check)(&card) {
        Ok(difference) => difference > case.tolerance,
        Err(_) => true,
    })
}

#[test]
fn the_shim_sees_planted_bugs() {
    let unseen: Vec<_> = BUGS
        .iter()
        .filter(|bug| !SCHEDULES.iter().any(|&schedule| shows(bug, schedule)))
        .map(|bug| bug.name)
        .collect();
    assert!(unseen.is_empty(), "unseen: {unseen:#?}");
}

const OVERRUN: Patch = Patch {
    file: "pool.cu",
    from: "store_eight(sums + lane * 64",
    to: "store_eight(sums + (lane + 1) * 64",
};

/// Runs a test of this file in a process of its own, with the kernels and the
/// shim under `AddressSanitizer`; gives whether it passed, and what it said.
fn under_address_sanitizer(test: &str) -> (bool, String) {
    let library = Command::new("g++")
        .arg("-print-file-name=libasan.so")
        .output()
        .unwrap();
    let library = String::from_utf8(library.stdout).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--include-ignored", "--nocapture"])
        .arg(format!("engine::cuda::suite::tests::{test}"))
        .env(
            "HEPAFLOW_SHIM_FLAGS",
            "-fsanitize=address -fno-omit-frame-pointer",
        )
        .env("LD_PRELOAD", library.trim())
        .env(
            "ASAN_OPTIONS",
            "detect_leaks=0:detect_stack_use_after_return=0",
        )
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn no_kernel_reads_or_writes_beside_its_memory() {
    let (passed, said) = under_address_sanitizer("every_kernel_on_tiny_shapes");
    assert!(passed, "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn the_sanitizer_sees_a_planted_overrun() {
    let (passed, said) = under_address_sanitizer("a_kernel_with_an_overrun");
    assert!(!passed, "{said}");
    assert!(
        said.contains("AddressSanitizer: heap-buffer-overflow"),
        "{said}"
    );
}

#[test]
#[ignore = "slow but under a sanitizer: no_kernel_reads_or_writes_beside_its_memory runs it"]
fn every_kernel_on_tiny_shapes() {
    let card: Arc<dyn Card> = Arc::new(Shim::new(Schedule::Forward));
    // The types of 16 bits share their addresses, and large shapes add none.
    let wanted = |name: &str| !name.contains("bf16") && !name.contains("batch");
    let failures = failures(&card, wanted);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
#[ignore = "fails by design: the_sanitizer_sees_a_planted_overrun runs it"]
fn a_kernel_with_an_overrun() {
    let card: Arc<dyn Card> = Arc::new(Shim::with_patches(Schedule::Forward, &[OVERRUN]));
    let cases = super::all();
    let case = cases
        .iter()
        .find(|case| case.name.starts_with("mean_pool"))
        .unwrap();
    let _ = (case.check)(&card);
}
