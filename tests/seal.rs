//! A model directory's sums and their signature: made and read by other people's
//! tools, and no byte of the model can be another one.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use hepaflow::model::Model;
use tempfile::TempDir;

const FILES: [&str; 3] = ["model.toml", "weights.safetensors", "SHA256SUMS"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program must end well.
fn run(program: &str, args: &[&str], folder: &Path) {
    let output = Command::new(program)
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// The demonstration model, and two keys; one of them has signed it.
fn signed() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for name in FILES {
        fs::copy(root().join("models/demo").join(name), model.join(name)).unwrap();
    }
    for name in ["ours", "other"] {
        let (secret, public) = (format!("{name}.key"), format!("{name}.pem"));
        let make = ["genpkey", "-algorithm", "ed25519", "-out", &secret];
        run("openssl", &make, folder.path());
        let show = ["pkey", "-in", &secret, "-pubout", "-out", &public];
        run("openssl", &show, folder.path());
    }
    // The words of README.md.
    let sign =
        "pkeyutl -sign -inkey ours.key -rawin -in model/SHA256SUMS -out model/SHA256SUMS.sig";
    let sign: Vec<_> = sign.split(' ').collect();
    run("openssl", &sign, folder.path());
    (folder, model)
}

#[test]
fn every_flipped_byte_of_a_signed_model_is_refused() {
    let (folder, model) = signed();
    let key = folder.path().join("ours.pem");
    run("sha256sum", &["--check", "--strict", "SHA256SUMS"], &model);
    let load = || Model::load_signed(&model, &key);
    load().unwrap();
    for name in [
        "model.toml",
        "weights.safetensors",
        "SHA256SUMS",
        "SHA256SUMS.sig",
    ] {
        let file = model.join(name);
        let whole = fs::read(&file).unwrap();
        // All bytes of what is small, some of the weights.
        for at in (0..whole.len()).step_by(1.max(whole.len() / 300)) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&file, &flipped).unwrap();
            let error = load().unwrap_err().to_string();
            assert!(error.contains("SHA256SUMS"), "{name}, byte {at}: {error}");
        }
        for cut in [0, whole.len() - 1] {
            fs::write(&file, &whole[..cut]).unwrap();
            load().unwrap_err();
        }
        fs::write(&file, &whole).unwrap();
    }
    load().unwrap();
    for (key, says) in [
        ("other.pem", "not that of the key"),
        ("ours.key", "no Ed25519 public key"),
        ("none.pem", "No such file"),
    ] {
        let error = Model::load_signed(&model, &folder.path().join(key));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(says), "{key}: {error}");
    }
}

#[test]
fn sums_hold_without_a_key_and_a_key_insists_on_them() {
    let (folder, model) = signed();
    let key = folder.path().join("ours.pem");
    fs::remove_file(model.join("SHA256SUMS.sig")).unwrap();
    Model::load(&model).unwrap();
    Model::load_signed(&model, &key).unwrap_err();
    let weights = fs::read(model.join("weights.safetensors")).unwrap();
    let mut flipped = weights.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(model.join("weights.safetensors"), flipped).unwrap();
    let error = Model::load(&model).unwrap_err().to_string();
    assert!(
        error.contains("weights.safetensors has another sum"),
        "{error}"
    );
    fs::write(model.join("weights.safetensors"), weights).unwrap();
    for (sums, says) in [
        ("hello", "no list of sums"),
        ("", "does not name model.toml"),
        ("\u{e9}  model.toml", "no list of sums"),
    ] {
        fs::write(model.join("SHA256SUMS"), sums).unwrap();
        let error = Model::load(&model).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    // As every model once was.
    fs::remove_file(model.join("SHA256SUMS")).unwrap();
    Model::load(&model).unwrap();
    let error = Model::load_signed(&model, &key).unwrap_err().to_string();
    assert!(error.contains("there is none"), "{error}");
}

#[test]
fn what_is_imported_has_its_sums_and_a_run_insists_on_the_key_that_it_names() {
    let (folder, model) = signed();
    let made = folder.path().join("made");
    let import = "model import --architecture fibro3d --classes 2 --frames 63 --output made \
                  --weights model/weights.safetensors";
    let import: Vec<_> = import.split_whitespace().collect();
    run(
        cargo_bin!("hepaflow").to_str().unwrap(),
        &import,
        folder.path(),
    );
    Model::load(&model).unwrap();
    run("sha256sum", &["--check", "--strict", "SHA256SUMS"], &made);

    let start = |path: &str| {
        let text = format!(
            "[model]\npath = '{path}'\nsigned_by = 'ours.pem'\n[serve]\n\
             listen = '127.0.0.1:0'\n[[source]]\nname = 'a'\npath = 'none/*.mp4'\n\
             patient = 'P'\n"
        );
        fs::write(folder.path().join("p.toml"), text).unwrap();
        let output = Command::new(cargo_bin!("hepaflow"))
            .args(["run", "p.toml"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        // There is nothing to read either, which is found out later.
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let error = start("made");
    assert!(error.contains("SHA256SUMS.sig"), "{error}");
    let error = start("model");
    assert!(
        !error.contains("SHA256SUMS") && error.contains("no file"),
        "{error}"
    );
}
