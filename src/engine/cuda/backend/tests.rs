mod streams;
mod wide;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::super::shim::{SCHEDULES, Schedule, Shim};
use super::*;
use crate::domain::{Clip, EventTime, Frame, StreamId};
use crate::engine::{Agreement, Engine, EngineOptions, SessionOptions};
use crate::model::{Model, ModelSpec, OnnxOptions, import_onnx, random_weights, usual_classes};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name)
}

fn goldens() -> Vec<String> {
    let folders = std::fs::read_dir(golden("")).unwrap();
    let names = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Networks that PyTorch exported, with what ours have not: means under windows,
/// and batch norm, sums and `ReLU` that follow no convolution.
fn imported() -> Vec<(String, Model)> {
    let scratch = tempfile::tempdir().unwrap();
    let import = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx");
        let clips = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
        let clips = safetensors::SafeTensors::deserialize(&clips).unwrap();
        let shape = clips.tensor("clips").unwrap().shape().to_vec();
        let classes = clips.tensor("logits").unwrap().shape()[1];
        let options = OnnxOptions {
            classes: usual_classes(classes).unwrap(),
            extent: [shape[2], shape[3], shape[4]],
            frames_per_second: None,
            mean: Vec::new(),
            std: Vec::new(),
            synthetic: true,
            note: String::new(),
        };
        let file = folder.join(format!("{name}.onnx"));
        let model = import_onnx(&file, &scratch.path().join(name), &options).unwrap();
        (name.to_owned(), model)
    };
    ["clips", "memory", "odd", "pictures"].map(import).into()
}

/// The CPU backend, which the card is held to.
fn on_cpu(model: &Model) -> Engine {
    let options = EngineOptions {
        device: crate::engine::Device::Cpu,
        precision: Precision::F32,
    };
    Engine::open(model, options).unwrap()
}

/// The same engine on other cards.
fn on(model: &Model, precision: Precision, open: Open) -> Result<Engine, CudaError> {
    let plan = Plan::compile(model.graph(), model.weights()).unwrap();
    let spec = model.spec();
    let backend = Backend::on(&plan, precision, &spec.input, open)?;
    Ok(Engine {
        backend: crate::engine::Backend::Cuda(Box::new(backend)),
        precision,
        input: spec.input.clone(),
        grey: crate::engine::grey_table(&spec.input),
        head: None,
        classes: spec.classes.len(),
    })
}

fn on_shim(model: &Model, precision: Precision, schedule: Schedule) -> Engine {
    on(
        model,
        precision,
        // Both kinds of cards: Hopper's for bfloat16, others for the rest.
        Box::new(move || {
            Ok(Arc::new(match precision {
                Precision::Bf16 => Shim::new(schedule),
                Precision::F16 | Precision::F32 => Shim::small(schedule),
            }))
        }),
    )
    .unwrap()
}

fn noise(seed: &mut u64) -> u8 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 56) as u8
}

/// A model whose weights are random.
fn with_random_weights(spec: &ModelSpec) -> Model {
    let weights = random_weights(&spec.graph().unwrap(), 3).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("model.toml"), toml::to_string(spec).unwrap()).unwrap();
    std::fs::write(file("weights.safetensors"), weights).unwrap();
    Model::load(folder.path()).unwrap()
}

/// Pictures that look like speckle, brighter from clip to clip.
fn grey_clips(model: &Model, count: usize) -> Vec<Clip> {
    let input = &model.spec().input;
    let mut seed = 5;
    let mut frame = |clip: usize, index: usize| Frame {
        index: index as u64,
        time: EventTime::from_nanos(index as u64),
        arrived: std::time::Instant::now(),
        discontinuity: false,
        skipped: 0,
        pixels: (0..input.height * input.width)
            .map(|place| noise(&mut seed) / 2 + (place % 64 + 32 * (clip % 3)) as u8)
            .collect(),
    };
    (0..count)
        .map(|clip| Clip {
            stream: StreamId(0),
            frames: (0..input.frames).map(|index| frame(clip, index)).collect(),
        })
        .collect()
}

fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 1e-5,
        Precision::F16 | Precision::Bf16 => 1e-2,
    }
}

/// Both ways in, of every reduced network, against the CPU.
fn networks_agree(precision: Precision, schedules: &[Schedule]) {
    let mut faults = Vec::new();
    let loaded = goldens().into_iter().map(|name| {
        let model = Model::load(&golden(&name)).unwrap();
        (name, model)
    });
    for (number, (name, model)) in loaded.chain(imported()).enumerate() {
        let schedule = schedules[number % schedules.len()];
        let cpu = on_cpu(&model);
        let card = on_shim(&model, precision, schedule);
        let (mut there, mut here) = (card.workspace(), cpu.workspace());
        let clips = grey_clips(&model, 2);
        let found = card.infer(&mut there, &clips).unwrap().concat();
        let expected = cpu.infer(&mut here, &clips).unwrap().concat();
        let classes = model.spec().classes.len();
        let from_grey = Agreement::of(&found, &expected, classes);

        let input = &model.spec().input;
        let shape = [1, input.channels, input.frames, input.height, input.width];
        let mut seed = 9;
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| (f32::from(noise(&mut seed)) - 127.5) / 64.0)
            .collect();
        let found = card.infer_tensor(&mut there, &values, &shape).unwrap();
        let expected = cpu.infer_tensor(&mut here, &values, &shape).unwrap();
        let from_values = Agreement::of(&found, &expected, classes);
        for (way, agreement) in [("grey", from_grey), ("values", from_values)] {
            println!("{name}, {precision}, {schedule:?}, {way}: {agreement:?}");
            if !agreement.within(tolerance(precision)) {
                faults.push(format!("{name}, {way}: {agreement:?}"));
            }
        }
        assert_eq!(card.health(), Health::default());
    }
    assert!(faults.is_empty(), "{precision}: {}", faults.join("\n"));
}

#[test]
fn whole_networks_agree_with_the_cpu_in_f32() {
    networks_agree(Precision::F32, &SCHEDULES[..1]);
}

#[test]
fn whole_networks_agree_with_the_cpu_in_f16() {
    networks_agree(Precision::F16, &SCHEDULES);
}

#[test]
fn whole_networks_agree_with_the_cpu_in_bf16() {
    networks_agree(Precision::Bf16, &SCHEDULES);
}

#[test]
fn a_clip_gives_the_same_bits_alone_and_in_a_batch() {
    for name in ["fibro3d_odd", "fibro2d_lstm"] {
        let model = Model::load(&golden(name)).unwrap();
        let card = on_shim(&model, Precision::F16, Schedule::Forward);
        let clips = grey_clips(&model, 3);
        let mut workspace = card.workspace();
        let together = card.infer(&mut workspace, &clips).unwrap();
        for (clip, expected) in clips.iter().zip(&together) {
            let alone = card
                .infer(&mut workspace, std::slice::from_ref(clip))
                .unwrap();
            assert_eq!(&alone[0], expected, "{name}");
        }
    }
}

#[test]
fn a_stem_that_a_block_cannot_hold_reads_pictures_that_are_laid_out() {
    let small = Model::load(&golden("fibro3d_stem")).unwrap();
    let mut spec = small.spec().clone();
    // 400 taps of 32 channels: 50 KiB of weights.
    spec.stem_frames = Some(16);
    spec.input.frames = 48;
    let model = with_random_weights(&spec);
    let clips = grey_clips(&model, 1);
    let expected = on_cpu(&model).infer_all(&clips).concat();
    for (kilobytes, reads_grey) in [(99, true), (48, false)] {
        let shim = Shim::small(Schedule::Forward).with_shared_bytes(kilobytes * 1024);
        let shim = Arc::new(shim);
        let same = Arc::clone(&shim);
        let card = on(&model, Precision::F16, Box::new(move || Ok(same.clone()))).unwrap();
        let found = card.infer_all(&clips).concat();
        let agreement = Agreement::of(&found, &expected, spec.classes.len());
        assert!(agreement.within(tolerance(Precision::F16)), "{agreement:?}");
        let launches = shim.launches.lock().unwrap();
        let is_stem = |kernel: &String| kernel.starts_with("stem");
        assert_eq!(launches.iter().any(is_stem), reads_grey, "{launches:?}");
    }
}

#[test]
fn a_card_without_room_gets_smaller_batches() {
    let model = Model::load(&golden("fibro2d_lstm")).unwrap();
    let clips = grey_clips(&model, 5);
    let expected = on_shim(&model, Precision::F16, Schedule::Forward).infer_all(&clips);
    let shim = Arc::new(Shim::small(Schedule::Forward));
    let same = Arc::clone(&shim);
    let card = on(&model, Precision::F16, Box::new(move || Ok(same.clone()))).unwrap();
    // Room for the weights, which are there, and for one clip.
    let crate::engine::Backend::Cuda(backend) = &card.backend else {
        unreachable!()
    };
    *shim.capacity.lock().unwrap() = shim.used() + 2 * backend.workspace_bytes() + 20_000;
    assert_eq!(card.infer_all(&clips), expected);
    let health = card.health();
    assert!(health.batches_halved > 0 && !health.fell_back, "{health:?}");
    assert_eq!(health.engines_rebuilt, 0);
}

#[test]
fn an_engine_that_failed_is_rebuilt_and_no_clip_is_lost() {
    let model = Model::load(&golden("fibro3d")).unwrap();
    let clips = grey_clips(&model, 3);
    let expected = on_shim(&model, Precision::F16, Schedule::Forward).infer_all(&clips);
    let first = AtomicBool::new(true);
    let open: Open = Box::new(move || {
        let shim = Shim::small(Schedule::Forward);
        if first.swap(false, Relaxed) {
            *shim.fault.lock().unwrap() = Some((4, sticky()));
        }
        Ok(Arc::new(shim))
    });
    let card = on(&model, Precision::F16, open).unwrap();
    assert_eq!(card.infer_all(&clips), expected);
    let health = Health {
        engines_rebuilt: 1,
        ..Health::default()
    };
    assert_eq!(card.health(), health);
}

fn sticky() -> CudaError {
    CudaError::Launch {
        problem: "CUDA_ERROR_ILLEGAL_ADDRESS".to_owned(),
    }
}

#[test]
fn a_card_that_keeps_failing_is_given_up_for_the_cpu() {
    let model = Model::load(&golden("fibro3d")).unwrap();
    let clips = grey_clips(&model, 3);
    let expected = on_cpu(&model).infer_all(&clips);
    let open: Open = Box::new(|| {
        let shim = Shim::small(Schedule::Forward);
        *shim.fault.lock().unwrap() = Some((4, sticky()));
        Ok(Arc::new(shim))
    });
    let card = on(&model, Precision::F16, open).unwrap();
    assert_eq!(card.infer_all(&clips), expected);
    assert!(card.health().fell_back);
    assert_eq!(card.health().engines_rebuilt, PATIENCE);
    assert!(
        card.description().starts_with("cpu"),
        "{}",
        card.description()
    );
}

#[test]
fn weights_that_half_precision_cannot_hold_are_refused() {
    let card: Arc<dyn Card> = Arc::new(Shim::small(Schedule::Forward));
    let model = Model::load(&golden("fibro3d")).unwrap();
    let mut plan = Plan::compile(model.graph(), model.weights()).unwrap();
    let crate::engine::plan::Kernel::Conv(conv) = &mut plan.steps[1].kernel else {
        unreachable!()
    };
    conv.weights[3] = 1e5;
    let input = &model.spec().input;
    let build = |plan: &Plan, precision| Network::new(&card, precision, plan, input).map(drop);
    assert_eq!(build(&plan, Precision::Bf16), Ok(()));
    let error = build(&plan, Precision::F16).unwrap_err();
    assert!(error.to_string().contains("f16"), "{error}");
    let crate::engine::plan::Kernel::Conv(conv) = &mut plan.steps[1].kernel else {
        unreachable!()
    };
    conv.weights[3] = f32::NAN;
    assert!(build(&plan, Precision::F32).is_err());
}

/// A long video's frames, numbered.
fn video(model: &Model, frames: usize, first: usize) -> Vec<Frame> {
    let clips = grey_clips(model, (first + frames).div_ceil(model.spec().input.frames));
    let all = clips.into_iter().flat_map(|clip| clip.frames);
    let all = all.enumerate().map(|(index, frame)| Frame {
        index: index as u64,
        ..frame
    });
    all.skip(first).take(frames).collect()
}

fn options(stride: usize, early: bool) -> SessionOptions {
    SessionOptions {
        stride,
        early,
        attention: false,
    }
}

/// Every window's logits, each by itself.
fn by_clips(card: &Engine, video: &[Frame], length: usize, stride: usize) -> Vec<Vec<f32>> {
    let clips = video.windows(length).step_by(stride).map(|frames| Clip {
        stream: StreamId(0),
        frames: frames.to_vec(),
    });
    card.infer_all(&clips.collect::<Vec<_>>())
}

/// Of every architecture, a video's windows by a session and one by one.
fn sessions_are_exact(precision: Precision, strides: &[usize]) {
    let mut shared = Vec::new();
    for (number, name) in goldens().into_iter().enumerate() {
        let model = Model::load(&golden(&name)).unwrap();
        let length = model.spec().input.frames;
        let card = on_shim(&model, precision, SCHEDULES[number % SCHEDULES.len()]);
        let mut workspace = card.workspace();
        for &stride in strides.iter().filter(|stride| **stride < length) {
            let early = stride % 2 == 0;
            let plan = card.session_plan(options(stride, early));
            if plan.clip_by_clip().is_some() && !early {
                // Whole clips: nothing new.
                continue;
            }
            let video = video(&model, length + 3 * stride, 0);
            let expected = by_clips(&card, &video, length, stride);
            if plan.clip_by_clip().is_none() {
                shared.push((name.clone(), stride));
            }
            let mut session = card.session(&plan);
            let mut found = Vec::new();
            for frame in &video {
                found.extend(session.push(&card, &mut workspace, frame).unwrap());
                assert!(session.bytes() <= plan.session_bytes(), "{name}, {stride}");
            }
            assert_eq!(found, expected, "{name}, {precision}, stride {stride}");
        }
        assert_eq!(card.health(), Health::default());
    }
    let of = |name: &str| shared.iter().filter(|(of, _)| of == name).count();
    for name in ["fibro3d", "fibro2d", "fibro2d_lstm", "resnet18_lstm"] {
        assert!(of(name) > 0, "{name} shares nothing: {shared:?}");
    }
}

#[test]
fn sessions_have_the_bits_of_whole_clips_in_f32() {
    sessions_are_exact(Precision::F32, &[1, 3]);
}

#[test]
fn sessions_have_the_bits_of_whole_clips_in_f16() {
    sessions_are_exact(Precision::F16, &[1, 2]);
}

#[test]
fn sessions_have_the_bits_of_whole_clips_in_bf16() {
    sessions_are_exact(Precision::Bf16, &[2, 3]);
}

#[test]
fn streams_that_are_due_together_are_computed_together_to_the_same_bits() {
    for (name, stride) in [("fibro3d", 2), ("fibro2d_lstm", 1)] {
        let model = Model::load(&golden(name)).unwrap();
        let length = model.spec().input.frames;
        let shim = Arc::new(Shim::small(Schedule::Forward));
        let same = Arc::clone(&shim);
        let card = on(&model, Precision::F16, Box::new(move || Ok(same.clone()))).unwrap();
        let plan = card.session_plan(options(stride, false));
        let mut workspace = card.workspace();
        let videos = [0, 5, 9].map(|first| video(&model, length + 12 * stride, first));
        let clip = |video: &[Frame], window: usize| Clip {
            stream: StreamId(0),
            frames: video[window * stride..][..length].to_vec(),
        };
        let mut sessions = [0; 3].map(|_| card.session(&plan));
        let mut launches = 0;
        // The third stream comes two windows later.
        for turn in 0..=12 {
            let streams = if turn < 2 { 2 } else { 3 };
            let clips: Vec<_> = (0..streams)
                .map(|stream| clip(&videos[stream], if stream < 2 { turn } else { turn - 2 }))
                .collect();
            let mut work: Vec<_> = sessions.iter_mut().zip(&clips).collect();
            shim.launches.lock().unwrap().clear();
            let found = card.score_all(&mut workspace, &mut work);
            launches = shim.launches.lock().unwrap().len();
            for (clip, found) in clips.iter().zip(found) {
                let expected = card.infer_all(std::slice::from_ref(clip));
                assert_eq!(found.unwrap(), expected[0], "{name}, turn {turn}");
            }
        }
        // What the first window left is behind all of them: as many launches for
        // three as for one.
        let mut alone = card.session(&plan);
        for turn in 0..=12 {
            shim.launches.lock().unwrap().clear();
            let clip = clip(&videos[0], turn);
            alone.score(&card, &mut workspace, &clip).unwrap();
        }
        let of_one = shim.launches.lock().unwrap().len();
        // Slices of the 3D network lie on a grid: the third may be in another phase.
        let phases = if name == "fibro3d" { 2 } else { 1 };
        assert!(launches <= phases * of_one, "{name}: {launches}, {of_one}");
    }
}

#[test]
fn a_session_outlives_the_failure_of_its_card() {
    let model = Model::load(&golden("fibro3d")).unwrap();
    let length = model.spec().input.frames;
    let video = video(&model, length + 8, 0);
    for early in [false, true] {
        let expected = by_clips(
            &on_shim(&model, Precision::F16, Schedule::Forward),
            &video,
            length,
            2,
        );
        // While the second window, or the third, is computed.
        let openings = AtomicUsize::new(0);
        let open: Open = Box::new(move || {
            let shim = Shim::small(Schedule::Forward);
            if openings.fetch_add(1, Relaxed) == 0 {
                *shim.fault.lock().unwrap() = Some((60, sticky()));
            }
            Ok(Arc::new(shim))
        });
        let card = on(&model, Precision::F16, open).unwrap();
        let plan = card.session_plan(options(2, early));
        assert_eq!(plan.clip_by_clip(), None);
        let (mut workspace, mut session) = (card.workspace(), card.session(&plan));
        let mut found = Vec::new();
        for frame in &video {
            found.extend(session.push(&card, &mut workspace, frame).unwrap());
        }
        assert_eq!(found, expected, "early {early}");
        assert_eq!(card.health().engines_rebuilt, 1, "early {early}");
    }
}

#[test]
fn a_session_whose_card_is_given_up_is_scored_on_the_cpu() {
    let model = Model::load(&golden("fibro2d_lstm")).unwrap();
    let length = model.spec().input.frames;
    let video = video(&model, length + 3, 0);
    let openings = AtomicUsize::new(0);
    let open: Open = Box::new(move || {
        let shim = Shim::small(Schedule::Forward);
        *shim.fault.lock().unwrap() = Some((4, sticky()));
        openings.fetch_add(1, Relaxed);
        Ok(Arc::new(shim))
    });
    let card = on(&model, Precision::F16, open).unwrap();
    let plan = card.session_plan(options(1, false));
    let (mut workspace, mut session) = (card.workspace(), card.session(&plan));
    let expected = by_clips(&on_cpu(&model), &video, length, 1);
    let mut found = Vec::new();
    for frame in &video {
        found.extend(session.push(&card, &mut workspace, frame).unwrap());
    }
    assert_eq!(found, expected);
    assert!(card.health().fell_back);
}

impl Engine {
    fn infer_all(&self, clips: &[Clip]) -> Vec<Vec<f32>> {
        self.infer(&mut self.workspace(), clips).unwrap()
    }
}
