//! Model directories and the CPU engine, held to PyTorch's numbers.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hepaflow::domain::{Clip, EventTime, Frame, StreamId};
use hepaflow::engine::{
    Agreement, Device, Engine, EngineError, EngineOptions, Precision, Workspace,
};
use hepaflow::model::{Model, ModelError, OnnxOptions, import_onnx, to_onnx, usual_classes};
use safetensors::SafeTensors;
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name)
}

fn tensor(file: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = fs::read(file).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let view = stored.tensor(name).unwrap();
    let values = view
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|v| f32::from_le_bytes(*v))
        .collect();
    (view.shape().to_vec(), values)
}

/// Relative to the largest logit of all, as they matter by their differences.
fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected
        .iter()
        .fold(0.0_f32, |scale, logit| scale.max(logit.abs()));
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max) / scale
}

#[test]
fn logits_are_pytorchs() {
    for folder in fs::read_dir(golden("")).unwrap() {
        let folder = folder.unwrap().file_name();
        let name = folder.to_str().unwrap();
        let model = Model::load(&golden(name)).unwrap();
        let engine = Engine::open(&model, EngineOptions::default()).unwrap();
        let (shape, clips) = tensor(&golden(name).join("clips.safetensors"), "clips");
        let (_, expected) = tensor(&golden(name).join("logits.safetensors"), "logits");
        let mut workspace = engine.workspace();
        let logits = engine.infer_tensor(&mut workspace, &clips, &shape).unwrap();
        let difference = largest_difference(&logits, &expected);
        assert!(difference < 1e-5, "{name}: {difference:e}");

        // Once more in the same workspace, and clip by clip: the same bits.
        assert_eq!(
            engine.infer_tensor(&mut workspace, &clips, &shape).unwrap(),
            logits
        );
        let one = [&[1], &shape[1..]].concat();
        let alone: Vec<f32> = clips
            .chunks_exact(clips.len() / shape[0])
            .flat_map(|clip| {
                engine
                    .infer_tensor(&mut engine.workspace(), clip, &one)
                    .unwrap()
            })
            .collect();
        assert_eq!(alone, logits);
    }
}

#[test]
fn logits_in_bfloat16_are_near_pytorchs_and_the_same_on_any_number_of_threads() {
    let options = EngineOptions {
        device: Device::Cpu,
        precision: Precision::Bf16,
    };
    for folder in fs::read_dir(golden("")).unwrap() {
        let folder = folder.unwrap().file_name();
        let name = folder.to_str().unwrap();
        let model = Model::load(&golden(name)).unwrap();
        let engine = Engine::open(&model, options).unwrap();
        let (shape, clips) = tensor(&golden(name).join("clips.safetensors"), "clips");
        let (_, expected) = tensor(&golden(name).join("logits.safetensors"), "logits");
        let score = |workspace: &mut Workspace, clips: &[f32], count: usize| {
            let shape = [&[count], &shape[1..]].concat();
            engine.infer_tensor(workspace, clips, &shape).unwrap()
        };
        let logits = score(&mut engine.workspace(), &clips, shape[0]);
        let difference = largest_difference(&logits, &expected);
        // A rounding is off by 1 in 512 at most, and networks this narrow average over
        // few of them in each of their layers, up to 37.
        assert!(difference < 2e-2, "{name}: {difference:e}");

        let mut workspace = engine.workspace_of(3).unwrap();
        assert_eq!(score(&mut workspace, &clips, shape[0]), logits);
        let one = clips.chunks_exact(clips.len() / shape[0]);
        let alone: Vec<f32> = one
            .flat_map(|clip| score(&mut engine.workspace(), clip, 1))
            .collect();
        assert_eq!(alone, logits);
    }
}

#[test]
fn maps_of_attention_are_pytorchs() {
    for folder in fs::read_dir(golden("")).unwrap() {
        let folder = folder.unwrap().file_name();
        let name = folder.to_str().unwrap();
        let model = Model::load(&golden(name)).unwrap();
        let engine = Engine::open(&model, EngineOptions::default()).unwrap();
        let (shape, clips) = tensor(&golden(name).join("clips.safetensors"), "clips");
        let mut workspace = engine.workspace();
        let classes = model.spec().classes.len();
        for (key, class) in [("first", 0), ("last", classes - 1)] {
            let path = golden(name).join("attention.safetensors");
            let (expected_shape, expected) = tensor(&path, key);
            let mut found = Vec::new();
            for clip in clips.chunks_exact(clips.len() / shape[0]) {
                let explained = engine.explain_tensor(&mut workspace, clip, Some(class));
                let (_, attention) = explained.unwrap();
                assert_eq!(attention.shape, expected_shape[1..], "{name}");
                assert_eq!(attention.class, class);
                found.extend(attention.values);
            }
            // All of a map may lie below zero.
            if expected.iter().all(|value| *value == 0.0) {
                assert_eq!(found, expected, "{name}, {key}");
                continue;
            }
            let difference = largest_difference(&found, &expected);
            assert!(difference < 1e-5, "{name}, {key}: {difference:e}");
        }
        let clip = &clips[..clips.len() / shape[0]];
        let error = engine
            .explain_tensor(&mut workspace, clip, Some(classes))
            .unwrap_err();
        assert!(matches!(error, EngineError::Class { .. }), "{error}");
    }
}

fn grey_clip(frames: usize, area: usize) -> Clip {
    let frame = |index: usize| Frame {
        index: index as u64,
        time: EventTime::from_nanos(index as u64),
        arrived: Instant::now(),
        discontinuity: false,
        skipped: 0,
        pixels: (0..area)
            .map(|place| (index * 31 + place * 7) as u8)
            .collect(),
    };
    Clip {
        stream: StreamId(0),
        frames: (0..frames).map(frame).collect(),
    }
}

#[test]
fn grey_pictures_are_normalised_as_the_model_says() {
    let model = Model::load(&golden("fibro3d_odd")).unwrap();
    let engine = Engine::open(&model, EngineOptions::default()).unwrap();
    let input = &model.spec().input;
    let clip = grey_clip(input.frames, input.height * input.width);
    let normalised: Vec<f32> = input
        .mean
        .iter()
        .zip(&input.std)
        .flat_map(|(mean, std)| {
            let pixels = clip.frames.iter().flat_map(|frame| frame.pixels.iter());
            pixels.map(move |&grey| (f32::from(grey) / 255.0 - mean) / std)
        })
        .collect();
    let shape = [1, input.channels, input.frames, input.height, input.width];
    let mut workspace = engine.workspace();
    let expected = engine
        .infer_tensor(&mut workspace, &normalised, &shape)
        .unwrap();
    assert_eq!(engine.infer(&mut workspace, &[clip]).unwrap(), [expected]);
}

#[test]
fn clips_of_another_shape_are_refused() {
    let model = Model::load(&golden("fibro3d")).unwrap();
    let engine = Engine::open(&model, EngineOptions::default()).unwrap();
    let mut workspace = engine.workspace();
    let refused = |error: EngineError| {
        assert!(matches!(error, EngineError::Shape { .. }), "{error}");
        assert!(error.to_string().contains("[N, 1, 9, 28, 28]"), "{error}");
    };
    refused(
        engine
            .infer(&mut workspace, &[grey_clip(8, 28 * 28)])
            .unwrap_err(),
    );
    refused(
        engine
            .infer(&mut workspace, &[grey_clip(9, 27 * 28)])
            .unwrap_err(),
    );
    refused(
        engine
            .infer_tensor(&mut workspace, &[0.0; 784], &[1, 1, 1, 28, 28])
            .unwrap_err(),
    );
    refused(
        engine
            .infer_tensor(&mut workspace, &[], &[1, 1, 9, 28, 28])
            .unwrap_err(),
    );
    refused(engine.infer_tensor(&mut workspace, &[], &[]).unwrap_err());
}

#[test]
fn what_the_engine_cannot_do_is_said() {
    let model = Model::load(&golden("fibro3d")).unwrap();
    let cuda = EngineOptions {
        device: Device::Cuda,
        ..Default::default()
    };
    match Engine::open(&model, cuda) {
        Err(EngineError::NoCuda(_)) => {}
        // On a machine with a card.
        Ok(engine) => assert!(engine.description().starts_with("cuda")),
        Err(error) => panic!("{error}"),
    }
    let half = EngineOptions {
        device: Device::Cpu,
        precision: Precision::F16,
    };
    assert!(
        Engine::open(&model, half)
            .unwrap_err()
            .to_string()
            .contains("f16")
    );
}

/// A copy of a golden model, to be spoilt.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["model.toml", "weights.safetensors"] {
        fs::copy(golden(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn replace(folder: &TempDir, from: &str, to: &str) -> ModelError {
    let file = folder.path().join("model.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from));
    fs::write(&file, text.replacen(from, to, 1)).unwrap();
    Model::load(folder.path()).unwrap_err()
}

#[test]
fn a_model_toml_that_is_wrong_is_explained() {
    for (from, to, says) in [
        (
            "\"fibro3d\"",
            "\"fibro4d\"",
            "unknown variant `fibro4d`, expected one of `fibro2d`",
        ),
        ("synthetic", "sinthetic", "unknown field `sinthetic`"),
        ("frames = 9", "frames = 2", "input.frames = 2 is too few"),
        (
            "frames = 9",
            "frames = 99999999999",
            "input.frames = 99999999999 is not possible",
        ),
        (
            "height = 28",
            "height = 0",
            "input.height = 0 is not possible",
        ),
        (
            "frames = 9",
            "frames = 9\nframes_per_second = 0.5",
            "input.frames_per_second = 0.5 is not possible",
        ),
        ("std = [0.2]", "std = [0.0]", "std above 0"),
        (
            "mean = [0.3]",
            "mean = [0.3, 0.3]",
            "expected one a channel",
        ),
        ("\"F0-F1\"", "\"F0-F2\"", "rise and not overlap"),
        ("\"F0-F1\"", "\"F9\"", "`F9` is no METAVIR stage"),
        ("[4, 6]", "[]", "widths"),
        ("[4, 6]", "[4, 0]", "widths: 0 is not possible"),
    ] {
        let error = replace(&copy("fibro3d"), from, to).to_string();
        assert!(
            error.contains(says) && error.contains("model.toml"),
            "{from} {to}: {error}"
        );
    }
}

#[test]
fn weights_that_do_not_fit_are_named_all_at_once() {
    let folder = copy("fibro3d");
    let error = replace(&folder, "[4, 6]", "[4, 5]").to_string();
    for says in [
        "weights.safetensors does not fit its model.toml",
        "blocks.1.conv1.weight has shape [6, 4, 3, 3, 3]: expected [5, 4, 3, 3, 3]",
        "blocks.1.shortcut.norm.bias has shape [6]: expected [5]",
        "head.weight has shape [2, 6]: expected [2, 5]",
    ] {
        assert!(error.contains(says), "{says} in {error}");
    }
    let error = replace(&copy("fibro3d"), "[4, 6]", "[4]").to_string();
    assert!(
        error.contains("blocks.1.conv1.weight is not part of the network"),
        "{error}"
    );
    let error = replace(&copy("fibro3d_odd"), "[5, 3, 7]", "[5, 3, 7, 9]").to_string();
    assert!(
        error.contains("blocks.3.conv1.weight is missing"),
        "{error}"
    );
}

#[test]
fn weights_cut_short_lying_or_not_finite_are_refused() {
    let folder = copy("fibro3d");
    let file = folder.path().join("weights.safetensors");
    let whole = fs::read(&file).unwrap();
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&(2_u64 << 30).to_le_bytes());
    let cases = [
        &whole[..whole.len() - 1],
        &whole[..20],
        &whole[..3],
        &[],
        &lying,
    ];
    for bytes in cases {
        fs::write(&file, bytes).unwrap();
        let error = Model::load(folder.path()).unwrap_err();
        assert!(matches!(error, ModelError::Format { .. }), "{error}");
        assert!(error.to_string().contains("weights.safetensors"));
    }
    let mut spoilt = whole.clone();
    let end = spoilt.len();
    spoilt[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, &spoilt).unwrap();
    let error = Model::load(folder.path()).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");

    spoilt[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&file, &spoilt).unwrap();
    let error = Model::load(folder.path()).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");

    fs::remove_file(&file).unwrap();
    assert!(matches!(
        Model::load(folder.path()),
        Err(ModelError::Read { .. })
    ));
}

#[test]
fn a_header_of_two_gigabytes_is_refused_before_it_is_read() {
    let folder = copy("fibro3d");
    let file = folder.path().join("weights.safetensors");
    // Room for all that the header claims, and more than this machine may have: a
    // file of holes, which costs no disk.
    let holes = fs::File::create(&file).unwrap();
    holes.set_len(1 << 40).unwrap();
    for (claimed, says) in [
        (
            2_u64 << 30,
            "claims 2147483648 bytes, and a header has at most",
        ),
        (u64::MAX, "claims 18446744073709551615 bytes"),
    ] {
        std::os::unix::fs::FileExt::write_all_at(&holes, &claimed.to_le_bytes(), 0).unwrap();
        let error = Model::load(folder.path()).unwrap_err();
        assert!(matches!(error, ModelError::Format { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    // As much as a header may have, in a file that has less.
    holes.set_len(1000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, &5000_u64.to_le_bytes(), 0).unwrap();
    let error = Model::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("the whole file has 1000"), "{error}");
}

/// The golden weights with the first tensor changed: its type, and its bytes.
fn first_tensor_as(dtype: safetensors::Dtype, bytes: &[u8]) -> (TempDir, String) {
    let folder = copy("fibro3d");
    let file = folder.path().join("weights.safetensors");
    let whole = fs::read(&file).unwrap();
    let stored = SafeTensors::deserialize(&whole).unwrap();
    let mut tensors = stored.tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let name = tensors[0].0.clone();
    let shape = tensors[0].1.shape().to_vec();
    tensors[0].1 = safetensors::tensor::TensorView::new(dtype, shape, bytes).unwrap();
    let changed = safetensors::serialize(tensors, None).unwrap();
    fs::write(&file, changed).unwrap();
    (folder, name)
}

#[test]
fn weights_of_another_type_are_taken_if_they_are_floats_and_named_if_not() {
    let whole = fs::read(golden("fibro3d").join("weights.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&whole).unwrap();
    let mut tensors = stored.tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let len = tensors[0].1.data().len() / 4;
    for (dtype, size) in [
        (safetensors::Dtype::I32, 4),
        (safetensors::Dtype::U8, 1),
        (safetensors::Dtype::BOOL, 1),
    ] {
        let (folder, name) = first_tensor_as(dtype, &vec![1; len * size]);
        let error = Model::load(folder.path()).unwrap_err();
        assert!(matches!(error, ModelError::Weights { .. }), "{error}");
        let says = format!("{name} holds {dtype:?}: expected F32, F16, BF16 or F64");
        assert!(error.to_string().contains(&says), "{error}");
    }
    let doubles: Vec<u8> = (0..len)
        .flat_map(|place| (place as f64 / 7.0).to_le_bytes())
        .collect();
    let (folder, name) = first_tensor_as(safetensors::Dtype::F64, &doubles);
    let model = Model::load(folder.path()).unwrap();
    let values = &model.weights().get(&name).unwrap().values;
    let third = (3.0_f64 / 7.0) as f32;
    assert_eq!(values[3].to_bits(), third.to_bits());
    // A double that no float can hold is infinite as a float.
    let huge = vec![1e300_f64.to_le_bytes(); len].concat();
    let (folder, _) = first_tensor_as(safetensors::Dtype::F64, &huge);
    let error = Model::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
}

#[test]
fn the_hash_changes_with_every_byte_of_the_directory() {
    let first = Model::load(&golden("fibro3d")).unwrap().hash();
    assert_eq!(Model::load(copy("fibro3d").path()).unwrap().hash(), first);
    let folder = copy("fibro3d");
    let file = folder.path().join("model.toml");
    fs::write(&file, fs::read_to_string(&file).unwrap() + "\n").unwrap();
    assert_ne!(Model::load(folder.path()).unwrap().hash(), first);
}

proptest::proptest! {
    #[test]
    fn no_damage_to_the_weights_makes_the_reader_panic(
        place in 0_usize..6000,
        value: u8,
        cut in proptest::option::of(0_usize..9000),
    ) {
        let folder = copy("fibro3d");
        let file = folder.path().join("weights.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let place = place % bytes.len();
        bytes[place] = value;
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        fs::write(&file, &bytes).unwrap();
        // Refused or, where only a weight changed, taken; never a panic.
        drop(Model::load(folder.path()));
    }
}

fn onnx_options(classes: usize, extent: [usize; 3]) -> OnnxOptions {
    OnnxOptions {
        classes: usual_classes(classes).unwrap(),
        extent,
        frames_per_second: None,
        mean: Vec::new(),
        std: Vec::new(),
        synthetic: true,
        note: String::new(),
    }
}

#[test]
fn networks_that_pytorch_exported_answer_as_in_pytorch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx");
    let scratch = TempDir::new().unwrap();
    for name in ["clips", "memory", "odd", "pictures"] {
        let file = folder.join(format!("{name}.safetensors"));
        let (shape, clips) = tensor(&file, "clips");
        let (answers, expected) = tensor(&file, "logits");
        let options = onnx_options(answers[1], [shape[2], shape[3], shape[4]]);
        let file = folder.join(format!("{name}.onnx"));
        let model = import_onnx(&file, &scratch.path().join(name), &options).unwrap();
        let engine = Engine::open(&model, EngineOptions::default()).unwrap();
        let mut workspace = engine.workspace();
        let logits = engine.infer_tensor(&mut workspace, &clips, &shape).unwrap();
        let difference = largest_difference(&logits, &expected);
        assert!(difference < 1e-5, "{name}: {difference:e}");
    }
}

/// The golden model `name`, and what is exported of it into `folder`.
fn exported(name: &str, folder: &Path) -> (Model, PathBuf) {
    let model = Model::load(&golden(name)).unwrap();
    let file = folder.join(format!("{name}.onnx"));
    fs::write(&file, to_onnx(&model)).unwrap();
    (model, file)
}

#[test]
fn what_is_exported_can_be_imported_and_answers_the_same() {
    let scratch = TempDir::new().unwrap();
    for folder in fs::read_dir(golden("")).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        let (model, file) = exported(&name, scratch.path());
        let mut options = onnx_options(2, [1, 1, 1]);
        options.classes.clone_from(&model.spec().classes);
        let again = import_onnx(&file, &scratch.path().join(&name), &options).unwrap();
        let (shape, clips) = tensor(&golden(&name).join("clips.safetensors"), "clips");
        let logits = [&model, &again].map(|model| {
            let engine = Engine::open(model, EngineOptions::default()).unwrap();
            let mut workspace = engine.workspace();
            engine.infer_tensor(&mut workspace, &clips, &shape).unwrap()
        });
        let difference = largest_difference(&logits[1], &logits[0]);
        assert!(difference < 2e-6, "{name}: {difference:e}");
    }
}

/// Logits of ONNX Runtime, which is fetched by a script and not a part of this
/// project.
fn by_onnx_runtime(folder: &Path, onnx: &Path, shape: &[usize], clips: &[f32]) -> Vec<f32> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let runtime = root.join("tests/data/cache/onnxruntime-1.32.0");
    assert!(
        runtime.exists(),
        "ONNX Runtime is not here: scripts/fetch-onnxruntime.sh fetches it"
    );
    let (input, output) = (folder.join("clips.bin"), folder.join("logits.bin"));
    let bytes: Vec<u8> = clips.iter().flat_map(|value| value.to_le_bytes()).collect();
    fs::write(&input, bytes).unwrap();
    let done = std::process::Command::new("python3")
        .arg(root.join("tests/support/onnx_peer.py"))
        .args([onnx, &input, &output])
        .args(shape.iter().map(ToString::to_string))
        .env("PYTHONPATH", runtime)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {said}", onnx.display());
    let bytes = fs::read(&output).unwrap();
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

#[test]
fn what_is_exported_answers_the_same_in_onnx_runtime() {
    let scratch = TempDir::new().unwrap();
    for folder in fs::read_dir(golden("")).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        let (_, file) = exported(&name, scratch.path());
        let (shape, clips) = tensor(&golden(&name).join("clips.safetensors"), "clips");
        let (_, expected) = tensor(&golden(&name).join("logits.safetensors"), "logits");
        let logits = by_onnx_runtime(scratch.path(), &file, &shape, &clips);
        let difference = largest_difference(&logits, &expected);
        assert!(difference < 1e-5, "{name}: {difference:e}");
        // And with another number of clips than the last.
        let one = [&[1], &shape[1..]].concat();
        let clip = &clips[..clips.len() / shape[0]];
        let alone = by_onnx_runtime(scratch.path(), &file, &one, clip);
        let difference = largest_difference(&alone, &expected[..alone.len()]);
        assert!(difference < 1e-5, "{name}, one clip: {difference:e}");
    }
}

#[test]
fn agreement_counts_what_is_off_and_what_is_decided_otherwise() {
    let right = [4.0, 1.0, 0.5, 1.0, 1.0, 3.0];
    let same = Agreement::of(&right, &right, 2);
    assert_eq!((same.clips, same.changed), (3, 0));
    assert!(same.within(0.0));
    // The second clip flips, which led by 0.5 of 4; the first loses a quarter.
    let found = [3.0, 1.0, 1.0, 0.75, 1.0, 3.0];
    let other = Agreement::of(&found, &right, 2);
    let expected = Agreement {
        clips: 3,
        largest_logit: 4.0,
        largest_error: 0.25,
        mean_error: (1.0 + 0.5 + 0.25) / 4.0 / 6.0,
        changed: 1,
        clearest_change: 0.125,
    };
    assert_eq!(other, expected);
    assert!(other.within(0.25) && !other.within(0.24));
    let lost = Agreement::of(&[f32::NAN, 1.0], &[0.5, 1.0], 2);
    assert!(!lost.within(1e9), "{lost:?}");
}

#[test]
fn an_onnx_file_that_cannot_be_used_says_why_and_leaves_nothing_behind() {
    let scratch = TempDir::new().unwrap();
    let whole =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx/odd.onnx")).unwrap();
    let options = onnx_options(4, [1, 1, 1]);
    let refuse = |bytes: &[u8]| {
        let file = scratch.path().join("network.onnx");
        fs::write(&file, bytes).unwrap();
        let directory = scratch.path().join("model");
        let error = import_onnx(&file, &directory, &options).unwrap_err();
        assert!(!directory.exists());
        error.to_string()
    };
    // Names of one length, so that the file stays well formed.
    let replaced = |from: &[u8], to: &[u8]| {
        let mut bytes = whole.clone();
        let place = bytes.windows(from.len()).position(|part| part == from);
        bytes[place.unwrap()..][..to.len()].copy_from_slice(to);
        bytes
    };
    let error = refuse(&replaced(b"\"\x07MaxPool", b"\"\x07MixPool"));
    assert!(
        error.contains("MixPool `/5/MaxPool`: this operation is") && error.contains("not known"),
        "{error}"
    );
    for len in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        refuse(&whole[..len]);
    }
    refuse(b"no network at all");
}

/// Bytes of one of the networks that PyTorch exported.
fn from_pytorch(network: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx");
    fs::read(folder.join(network).with_extension("onnx")).unwrap()
}

const EXPORTED: [&str; 4] = ["clips", "memory", "odd", "pictures"];

#[test]
fn weights_in_onnx_that_are_no_floating_point_values_are_refused() {
    let scratch = TempDir::new().unwrap();
    for network in EXPORTED {
        let bytes = from_pytorch(network);
        // The field `data_type` of a tensor: FLOAT becomes INT8.
        let places = (1..bytes.len()).filter(|&place| bytes[place - 1..=place] == [0x10, 1]);
        let mut refused = 0;
        for place in places {
            let mut bytes = bytes.clone();
            bytes[place] = 3;
            let file = scratch.path().join("network.onnx");
            fs::write(&file, bytes).unwrap();
            let model = scratch.path().join("model");
            match import_onnx(&file, &model, &onnx_options(3, [6, 11, 13])) {
                Ok(_) => fs::remove_dir_all(model).unwrap(),
                Err(error) => {
                    refused += usize::from(format!("{error:#}").contains("floating-point"));
                }
            }
        }
        assert!(refused > 0, "{network}");
    }
}

proptest::proptest! {
    #[test]
    fn no_damage_to_an_onnx_file_makes_the_reader_panic(
        network in proptest::sample::select(&EXPORTED[..]),
        place: proptest::sample::Index,
        value: u8,
        cut in proptest::option::of(proptest::prelude::any::<proptest::sample::Index>()),
    ) {
        let mut bytes = from_pytorch(network);
        let place = place.index(bytes.len());
        bytes[place] = value;
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let scratch = TempDir::new().unwrap();
        let file = scratch.path().join("network.onnx");
        fs::write(&file, bytes).unwrap();
        // Either is right, as long as it comes back.
        let _ = import_onnx(&file, &scratch.path().join("model"), &onnx_options(3, [6, 11, 13]));
    }
}
