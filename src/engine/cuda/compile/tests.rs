use super::super::kernels::HOPPER;
use super::*;

/// What a kernel takes of a multiprocessor, as the assembler reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Usage {
    kernel: String,
    registers: usize,
    /// Bytes written to and read from local memory for want of registers.
    spilled_bytes: usize,
}

/// Reads the assembler's report (`--ptxas-options=-v`).
fn usages(log: &str) -> Vec<Usage> {
    let number_before = |line: &str, what: &str| -> Option<usize> {
        let (before, _) = line.split_once(what)?;
        before.split_whitespace().next_back()?.parse().ok()
    };
    let mut usages: Vec<Usage> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            usages.push(Usage {
                kernel: rest.split('\'').next().unwrap_or_default().to_owned(),
                registers: 0,
                spilled_bytes: 0,
            });
        }
        let Some(usage) = usages.last_mut() else {
            continue;
        };
        if let Some(registers) = line
            .split_once("Used ")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        {
            usage.registers = registers;
        }
        let stores = number_before(line, " bytes spill stores");
        let loads = number_before(line, " bytes spill loads");
        usage.spilled_bytes += stores.unwrap_or(0) + loads.unwrap_or(0);
    }
    usages
}

/// Registers at most, with which a kernel's blocks still fit a multiprocessor as
/// often as its shared memory lets them: 65,536 in all, 256 threads a block, or 288 in
/// `conv_tma.cu`.
fn budget(kernel: &str) -> usize {
    match kernel {
        // One block in 64 KiB of shared memory and more: two fit by registers.
        name if name.starts_with("conv128") => 128,
        name if name.starts_with("conv64") => 128,
        // Two blocks of up to eight warps, and three of seven; `kernels/stem.rs` counts
        // on it.
        name if name.starts_with("stem64") => 128,
        name if name.starts_with("stem32") => 96,
        name if name.starts_with("hopper64") => 128,
        // A ninth warp: 288 threads a block.
        name if name.starts_with("tma64") || name.starts_with("pair64") => 112,
        // One block in 128 KiB: only one fits.
        name if name.starts_with("hopper128") => 255,
        name if name.starts_with("tma128") || name.starts_with("pair128") => 224,
        // One block: its sums are most of its registers.
        name if name.starts_with("halo") => 168,
        name if name.starts_with("conv_f32") => 96,
        // One block of 512 threads, which hold its weights.
        "lstm_f16" | "lstm_bf16" | "lstm_cluster_f16" | "lstm_cluster_bf16" => 128,
        _ => 64,
    }
}

/// NVRTC, or none where this machine lacks it and could not fetch it.
///
/// `scripts/fetch-nvrtc.sh` puts it where it is looked for first.
fn nvrtc() -> Option<Nvrtc> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cache");
    let folders = fs::read_dir(cache).into_iter().flatten().flatten();
    let fetched = folders
        .map(|folder| folder.path().join("libnvrtc.so.12"))
        .find(|library| library.exists());
    let loaded = match fetched {
        Some(library) => Nvrtc::open(&library).ok_or_else(|| library.display().to_string()),
        None => Nvrtc::load().map_err(|error| error.to_string()),
    };
    if let Err(error) = &loaded {
        assert!(
            std::env::var_os("HEPAFLOW_REQUIRE_NVRTC").is_none(),
            "NVRTC was to be there: {error}"
        );
        eprintln!("SKIPPED: no kernel was compiled for a card, since there is no NVRTC: {error}");
    }
    loaded.ok()
}

#[test]
fn every_kernel_compiles_for_every_card_within_its_registers() {
    let Some(nvrtc) = nvrtc() else {
        return;
    };
    let compile = |architecture: &str| {
        let mut faults = Vec::new();
        for source in sources_for(architecture) {
            let (cubin, log) = nvrtc.compile(source, architecture).unwrap();
            // Said where sums are touched between issue and wait.
            assert!(!log.contains("serialized"), "{log}");
            assert_eq!(
                &cubin[..4],
                b"\x7fELF",
                "{} for {architecture}",
                source.name
            );
            let usages = usages(&log);
            let declared = source.text.matches("KERNEL(").count();
            assert_eq!(usages.len(), declared, "{}: {log}", source.name);
            for usage in usages {
                println!("{architecture} {usage:?}");
                assert!(usage.registers > 0, "{log}");
                // Two words before its loops: the assembler's price for having
                // as many threads at once as there can be.
                let spills = if usage.kernel.contains("_pool_") {
                    16
                } else {
                    0
                };
                if usage.registers > budget(&usage.kernel) || usage.spilled_bytes > spills {
                    faults.push(format!("{architecture}: {usage:?}"));
                }
            }
        }
        faults
    };
    let faults: Vec<_> = std::thread::scope(|scope| {
        let compile = &compile;
        let architectures = ["sm_80", "sm_86", "sm_90a"];
        let threads = architectures.map(|architecture| scope.spawn(move || compile(architecture)));
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_kernel_that_does_not_compile_says_why() {
    let Some(nvrtc) = nvrtc() else {
        return;
    };
    let source = Source {
        name: "broken.cu",
        text: "#include \"common.cuh\"\nint f() { return undeclared; }",
    };
    let error = nvrtc.compile(source, "sm_80").unwrap_err().to_string();
    assert!(
        error.contains("broken.cu") && error.contains("undeclared"),
        "{error}"
    );
}

#[test]
fn a_cached_kernel_that_was_cut_short_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path().join("kernels"));
    let source = SOURCES[0];
    assert_eq!(cache.get(source, "sm_80"), None);
    cache.put(source, "sm_80", b"machine code");
    assert_eq!(cache.get(source, "sm_80").unwrap(), b"machine code");
    assert_eq!(cache.get(source, "sm_86"), None);

    let file = cache.file(source, "sm_80");
    let whole = fs::read(&file).unwrap();
    for len in 0..whole.len() {
        fs::write(&file, &whole[..len]).unwrap();
        assert_eq!(
            cache.get(source, "sm_80"),
            None,
            "{len} bytes of {}",
            whole.len()
        );
    }
    let mut changed = whole;
    changed[3] ^= 1;
    fs::write(&file, &changed).unwrap();
    assert_eq!(cache.get(source, "sm_80"), None);
    cache.put(source, "sm_80", b"again");
    assert_eq!(cache.get(source, "sm_80").unwrap(), b"again");
}

#[test]
fn modules_come_from_a_filled_cache_without_a_compiler() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    for source in sources_for("sm_99") {
        cache.put(source, "sm_99", source.name.as_bytes());
    }
    let modules = modules(&cache, "sm_99").unwrap();
    assert_eq!(modules.len(), SOURCES.len() - HOPPER.len());
    for module in modules {
        assert_eq!(module.cubin, module.source.as_bytes());
    }
}

#[test]
fn the_assemblers_report_is_read() {
    let log = "ptxas info    : 0 bytes gmem\n\
        ptxas info    : Compiling entry function 'conv64_f16' for 'sm_86'\n\
        ptxas info    : Function properties for conv64_f16\n    \
        8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n\
        ptxas info    : Used 128 registers, used 1 barriers, 536 bytes cmem[0]\n";
    let expected = Usage {
        kernel: "conv64_f16".to_owned(),
        registers: 128,
        spilled_bytes: 28,
    };
    assert_eq!(usages(log), [expected]);
}
