//! The kernels and the shim as a shared library, by the host's C++ compiler.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use sha2::{Digest, Sha256};

use super::super::compile::hex;

/// A change to a source, to plant a bug.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patch {
    pub(crate) file: &'static str,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
}

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// The shared library of the shim and all kernels, compiled where it is not
/// there already. `HEPAFLOW_SHIM_FLAGS` adds to the compiler's flags.
pub(super) fn compiled(patches: &[Patch]) -> PathBuf {
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
        hex(&hash.finalize()[..8])
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
