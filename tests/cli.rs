//! The commands that need no video: what they print, and how they refuse.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use safetensors::SafeTensors;
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name)
}

fn hepaflow<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    Command::new(cargo_bin!("hepaflow"))
        .args(args)
        .output()
        .unwrap()
}

#[track_caller]
fn refused<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> String {
    let output = hepaflow(args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    errors
}

#[track_caller]
fn printed<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> String {
    let output = hepaflow(args);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn logits(file: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = fs::read(file).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let view = stored.tensor("logits").unwrap();
    let values = view
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|v| f32::from_le_bytes(*v))
        .collect();
    (view.shape().to_vec(), values)
}

#[test]
fn imported_weights_answer_as_pytorch_does() {
    for folder in fs::read_dir(golden("")).unwrap() {
        let folder = folder.unwrap().path();
        let toml: toml::Table = fs::read_to_string(folder.join("model.toml"))
            .unwrap()
            .parse()
            .unwrap();
        let input = toml["input"].as_table().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let (model, output) = (
            scratch.path().join("model"),
            scratch.path().join("out.safetensors"),
        );
        let classes = toml["classes"].as_array().unwrap().len().to_string();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        printed([
            "model".to_owned(),
            "import".to_owned(),
            format!("--architecture={}", toml["architecture"].as_str().unwrap()),
            format!("--classes={classes}"),
            format!("--weights={}", text(&folder.join("weights.safetensors"))),
            format!("--output={}", text(&model)),
            format!("--frames={}", input["frames"]),
            format!("--height={}", input["height"]),
            format!("--width={}", input["width"]),
        ]);
        printed([
            "infer".to_owned(),
            format!("--model={}", text(&model)),
            format!("--input={}", text(&folder.join("clips.safetensors"))),
            format!("--output={}", text(&output)),
        ]);
        let (shape, found) = logits(&output);
        let (expected_shape, expected) = logits(&folder.join("logits.safetensors"));
        assert_eq!(shape, expected_shape, "{}", folder.display());
        let scale = expected
            .iter()
            .fold(0.0_f32, |scale, logit| scale.max(logit.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() < 1e-5 * scale,
                "{}",
                folder.display()
            );
        }
    }
}

#[test]
fn import_refuses_what_it_cannot_make_sense_of_and_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("model");
    let import = |architecture: &str, weights: &Path, classes: &str| {
        refused([
            "model".into(),
            "import".into(),
            format!("--architecture={architecture}"),
            format!("--classes={classes}"),
            format!("--weights={}", weights.display()),
            format!("--output={}", output.display()),
        ])
    };
    let weights = golden("r3d_18").join("weights.safetensors");
    let error = import("fibro3d", &weights, "2");
    assert!(error.contains("no tensor `stem.conv.weight`"), "{error}");
    let error = import("mc3_18", &weights, "2");
    assert!(
        error.contains(
            "layer2.0.conv1.0.weight has shape [6, 4, 3, 3, 3]: expected [6, 4, 1, 3, 3]"
        ),
        "{error}"
    );
    let error = import("r3d_18", &weights, "5");
    assert!(
        error.contains("fc.bias has shape [2]: expected [5]"),
        "{error}"
    );
    assert!(import("r3d_18", &weights, "7").contains("name the ranges"));
    assert!(import("r3d_18", &weights, "F2-F4,F0-F1").contains("rise and not overlap"));
    assert!(import("vgg", &weights, "2").contains("possible values"));
    assert!(import("r3d_18", Path::new("nowhere"), "2").contains("cannot read nowhere"));
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    fs::create_dir(&output).unwrap();
    assert!(import("r3d_18", &weights, "2").contains("exists already"));
}

#[test]
fn infer_refuses_clips_that_do_not_fit() {
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("out.safetensors");
    let infer = |input: &Path, more: &str| {
        refused([
            "infer".into(),
            format!("--model={}", golden("fibro3d").display()),
            format!("--input={}", input.display()),
            format!("--output={}", output.display()),
            more.into(),
        ])
    };
    let clips = golden("fibro2d").join("clips.safetensors");
    let error = infer(&clips, "--device=auto");
    assert!(
        error.contains("[2, 1, 3, 29, 30] do not fit: the model takes [N, 1, 9, 28, 28]"),
        "{error}"
    );
    let error = infer(
        &golden("fibro3d").join("logits.safetensors"),
        "--device=cpu",
    );
    assert!(
        error.contains("no tensor `clips`; it has: logits"),
        "{error}"
    );
    let error = infer(&golden("fibro3d").join("model.toml"), "--device=cpu");
    assert!(error.contains("no whole safetensors file"), "{error}");
    assert!(infer(&clips, "--device=cuda").contains("use \"auto\" or \"cpu\""));
    assert!(!output.exists());
}

#[test]
fn inspect_shows_what_a_model_is_and_costs() {
    let text = printed(["model", "inspect", golden("fibro3d").to_str().unwrap()]);
    insta::assert_snapshot!(text);
    let text = printed([
        "model",
        "inspect",
        "--json",
        golden("r3d_18").to_str().unwrap(),
    ]);
    let report: Value = serde_json::from_str(&text).unwrap();
    let layers = report["layers"].as_array().unwrap();
    let sum: u64 = layers
        .iter()
        .map(|layer| layer["parameters"].as_u64().unwrap())
        .sum();
    // Every parameter belongs to one layer.
    assert_eq!(report["parameters"], sum);
    assert_eq!(report["spec"]["architecture"], "r3d_18");
}

#[test]
fn inspect_shows_what_overlapping_windows_share() {
    for name in ["fibro3d", "r3d_18"] {
        let directory = golden(name);
        let directory = directory.to_str().unwrap();
        let text = printed(["model", "inspect", directory, "--stride", "4"]);
        insta::assert_snapshot!(format!("inspect_stride_{name}"), text);
        let text = printed(["model", "inspect", directory, "--stride", "4", "--json"]);
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["clip_by_clip"].is_null(), name == "fibro3d");
        let (dense, window) = (report["dense"].as_u64(), report["window"].as_u64());
        assert_eq!(window < dense, name == "fibro3d");
    }
}

#[test]
fn check_says_that_a_file_is_right_or_everything_that_is_wrong() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("p.toml");
    let model = golden("fibro3d");
    let source = "[[source]]\nname = 'a'\nkind = 'launch'\nline = 'videotestsrc'\npatient = 'p'\n";
    fs::write(
        &file,
        format!("[model]\npath = '{}'\n{source}", model.display()),
    )
    .unwrap();
    let text = printed(["check", file.to_str().unwrap()]);
    assert!(
        text.contains("no mistakes") && text.contains("9 frames of 28x28"),
        "{text}"
    );

    let missing = "[model]\npath = 'm'\n[[source]]\nname = 'a'\npath = 'x/*.mp4'\n\
                   [[source]]\nname = 'b'\nkind = 'cohort'\npath = 'c'\n";
    fs::write(&file, missing).unwrap();
    let errors = refused(["check", file.to_str().unwrap()]);
    for says in [
        "m holds no model.toml",
        "no file at",
        "c holds no videos.csv",
        "p.toml:5:8",
    ] {
        assert!(errors.contains(says), "{says} in {errors}");
    }
    assert!(
        refused(["check", "nowhere.toml"]).contains("cannot read the pipeline file nowhere.toml")
    );
    assert!(printed(["check", "--defaults"]).contains("[[source]]"));
}

#[test]
fn results_without_a_store_say_so() {
    let errors = refused(["results", "patients", "--store", "nowhere.sqlite"]);
    assert!(errors.contains("no results at nowhere.sqlite"), "{errors}");
    assert!(refused(["results", "patients"]).contains("--pipeline"));
}

#[test]
fn devices_are_listed_with_or_without_a_card() {
    assert!(printed(["devices"]).starts_with("cpu "));
    let found: Value = serde_json::from_str(&printed(["devices", "--json"])).unwrap();
    assert!(found["cpu"]["threads"].as_u64().unwrap() > 0);
    assert!(found["cuda"].is_object());
}

#[test]
fn numerics_say_what_a_precision_costs() {
    let model = golden("fibro3d_odd");
    let clips = model.join("clips.safetensors");
    let scratch = tempfile::tempdir().unwrap();
    let of = |precision: &str| {
        let output = scratch.path().join(precision);
        let mut args = vec!["infer".into(), "--model".into(), model.clone()];
        args.extend(["--input".into(), clips.clone()]);
        args.extend(["--output".into(), output.clone(), "--precision".into()]);
        printed(args.into_iter().chain([precision.into()]));
        logits(&output).1
    };
    let (right, found) = (of("f32"), of("bf16"));
    let largest = |values: &[f32]| values.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    let off: Vec<f32> = right.iter().zip(&found).map(|(a, b)| a - b).collect();
    let expected = f64::from(largest(&off) / largest(&right));
    assert!(expected > 0.0);

    let mut args = vec!["model".into(), "numerics".into(), model.clone()];
    args.extend(["--input".into(), clips.clone(), "--json".into()]);
    let report: Value = serde_json::from_str(&printed(&args)).unwrap();
    let agreement = &report["agreement"];
    assert_eq!(agreement["clips"], 2);
    let found = agreement["largest_error"].as_f64().unwrap();
    assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    assert_eq!(report["clips_are_noise"], false);

    let text = printed([Path::new("model"), Path::new("numerics"), &model]);
    assert!(text.contains("32 clips of noise"), "{text}");
    args[2] = golden("fibro3d");
    let error = refused(&args);
    assert!(
        error.contains("the model takes [N, 1, 9, 28, 28]"),
        "{error}"
    );
}
