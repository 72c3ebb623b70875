//! Training, against PyTorch and against itself.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hepaflow::domain::PatientId;
use hepaflow::engine::{Device, Engine, EngineOptions};
use hepaflow::model::{Architecture, InputSpec, Lstm, Model, ModelSpec, usual_classes};
use hepaflow::study::train::{
    Augmentation, Batch, Film, History, Network, Optimiser, Progress, Rule, Task, TrainConfig,
    TrainError, fit, publish,
};
use safetensors::SafeTensors;

const GOLDENS: [&str; 8] = [
    "fibro2d",
    "fibro2d_lstm",
    "fibro3d",
    "fibro3d_stem",
    "fibro3d_few",
    "resnet18",
    "resnet18_lstm",
    "r3d_18_deep",
];
/// PyTorch's are f64, rounded; ours are f32 and sum in another order.
const LOSS_TOLERANCE: f32 = 2e-4;
const WEIGHT_TOLERANCE: f32 = 1e-3;
/// Between trainer and engine: the engine folds batch norm.
const LOGIT_TOLERANCE: f32 = 1e-4;

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let named = stored.iter().map(|(name, view)| {
        let values = view.data().as_chunks::<4>().0.iter();
        let values = values.map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (name.to_owned(), (view.shape().to_vec(), values))
    });
    named.collect()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name)
}

/// `[N, C, T, H, W]` to `[N, T, C, H, W]`.
fn frames_first(shape: &[usize], clips: &[f32]) -> Vec<f32> {
    let [n, c, t, h, w] = *shape else {
        panic!("{shape:?}")
    };
    let mut turned = Vec::with_capacity(clips.len());
    for clip in 0..n {
        for frame in 0..t {
            for channel in 0..c {
                let from = ((clip * c + channel) * t + frame) * h * w;
                turned.extend_from_slice(&clips[from..from + h * w]);
            }
        }
    }
    turned
}

#[test]
fn six_steps_of_training_are_pytorchs() {
    for name in GOLDENS {
        let folder = golden(name);
        let model = Model::load(&folder).unwrap();
        let expected = tensors(&folder.join("training.safetensors"));
        let (shape, clips) = &tensors(&folder.join("clips.safetensors"))["clips"];
        let labels = expected["labels"].1.iter().map(|label| *label as usize);
        let batch = Batch {
            clips: frames_first(shape, clips),
            labels: labels.collect(),
        };
        let weights = &expected["weights"].1;
        for (rule, called, rate) in [(Rule::Sgd, "sgd", 0.05), (Rule::Adam, "adam", 0.005)] {
            let mut network = Network::from_model(&model).unwrap();
            let mut optimiser = Optimiser::new(rule, 0.01, &network);
            for (step, expected) in expected[&format!("{called}.losses")].1.iter().enumerate() {
                let (loss, gradients) = network.gradients(&batch, weights);
                assert!(
                    (loss - expected).abs() < LOSS_TOLERANCE,
                    "{name}, {called}, step {step}: loss {loss}, PyTorch {expected}"
                );
                optimiser.step(&mut network, &gradients, rate);
            }
            if rule == Rule::Adam {
                // Adam divides by the gradient's size: where that is noise,
                // parameters may differ that the loss does not feel.
                continue;
            }
            for parameter in network.parameters() {
                let (shape, after) = &expected[&format!("sgd.after.{}", parameter.name)];
                assert_eq!(&parameter.shape, shape, "{name}: {}", parameter.name);
                for (ours, theirs) in parameter.values.iter().zip(after) {
                    assert!(
                        (ours - theirs).abs() < WEIGHT_TOLERANCE * (1.0 + theirs.abs()),
                        "{name}: {} is {ours}, PyTorch {theirs}",
                        parameter.name
                    );
                }
            }
        }
    }
}

fn spec(architecture: Architecture) -> ModelSpec {
    ModelSpec {
        architecture,
        widths: vec![4, 6],
        depths: None,
        stem_frames: None,
        lstm: architecture.has_lstm().then_some(Lstm {
            hidden: 5,
            layers: 2,
        }),
        layers: Vec::new(),
        reference: None,
        classes: usual_classes(2).unwrap(),
        synthetic: true,
        note: String::new(),
        input: InputSpec {
            channels: 1,
            frames: 9,
            frames_per_second: None,
            height: 20,
            width: 24,
            mean: vec![0.5],
            std: vec![0.25],
        },
    }
}

/// Films that are lighter at the top (class 0) or at the bottom (class 1).
fn films(count: usize, seed: u32) -> Vec<Film> {
    let noise = |value: u32| (value.wrapping_mul(2_654_435_761) >> 25) as usize;
    let film = |number: usize| {
        let class = number % 2;
        let area = 20 * 24;
        let pixels = (0..12 * area).map(|pixel| {
            let row = pixel % area / 24;
            let light = if (row < 10) == (class == 0) { 90 } else { 30 };
            (light + noise(seed + (number * 12 * area + pixel) as u32)) as u8
        });
        Film::new(
            PatientId::new(format!("P{number}")),
            format!("{number}.mp4").into(),
            class,
            area,
            pixels.collect(),
            vec![12],
        )
    };
    (0..count).map(film).collect()
}

fn config() -> TrainConfig {
    TrainConfig {
        batch: 4,
        epochs: 4,
        rate: 0.01,
        ..TrainConfig::default()
    }
}

fn trained(
    spec: &ModelSpec,
    config: &TrainConfig,
    folder: &Path,
    observer: &mut (dyn FnMut(Progress<'_>) -> ControlFlow<()> + Send),
) -> Result<(Network, History), TrainError> {
    let (training, validation) = (films(9, 1), films(4, 500));
    let task = Task {
        spec,
        config,
        training: &training.iter().collect::<Vec<_>>(),
        validation: &validation.iter().collect::<Vec<_>>(),
        folder,
    };
    fit(&task, observer)
}

fn onwards(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn each_kind_learns_and_the_engine_gives_the_trainers_logits() {
    for kind in [
        Architecture::Fibro2d,
        Architecture::Fibro2dLstm,
        Architecture::Fibro3d,
    ] {
        let spec = spec(kind);
        let folder = tempfile::tempdir().unwrap();
        let (network, history) = trained(&spec, &config(), folder.path(), &mut onwards).unwrap();
        let (first, best) = (&history.epochs[0], &history.epochs[history.kept - 1]);
        assert!(
            best.validation_loss < first.validation_loss,
            "{kind} learns nothing: {history:?}"
        );

        let validation = films(4, 500);
        let model = publish(
            &network,
            &validation.iter().collect::<Vec<_>>(),
            folder.path(),
        )
        .unwrap();
        let described = model.spec().clone();
        let reference = described.reference.clone().unwrap();
        assert_eq!((reference.patients, reference.windows), (4, 4));
        assert_eq!(
            described,
            ModelSpec {
                reference: Some(reference),
                ..spec
            }
        );
        let options = EngineOptions {
            device: Device::Cpu,
            ..EngineOptions::default()
        };
        let engine = Engine::open(&model, options).unwrap();
        let shape = [3, 1, 9, 20, 24];
        let clips: Vec<f32> = (0..3 * 9 * 20 * 24)
            .map(|value| (value as f32 * 0.37).sin() * 2.0)
            .collect();
        let batch = Batch {
            clips: frames_first(&shape, &clips),
            labels: vec![0; 3],
        };
        let ours = network.logits(&batch);
        let engines = engine
            .infer_tensor(&mut engine.workspace(), &clips, &shape)
            .unwrap();
        for (ours, engines) in ours.iter().zip(&engines) {
            assert!(
                (ours - engines).abs() < LOGIT_TOLERANCE,
                "{kind}: trainer {ours}, engine {engines}"
            );
        }
    }
}

/// Area under the curve of how likely `network` finds class 1, by counting pairs.
fn auc(network: &Network, films: &[Film], class: impl Fn(usize) -> usize) -> f64 {
    let scores: Vec<(f32, usize)> = films
        .iter()
        .enumerate()
        .map(|(number, film)| {
            let pixels = (0..9).flat_map(|time| film.frame(time));
            let batch = Batch {
                clips: pixels
                    .map(|&pixel| f32::from(pixel) / 255.0 / 0.25 - 2.0)
                    .collect(),
                labels: vec![0],
            };
            let logits = network.logits(&batch);
            (logits[1] - logits[0], class(number))
        })
        .collect();
    let of = |class| scores.iter().filter(move |(_, of)| *of == class);
    let (mut won, mut pairs) = (0.0, 0.0);
    for (case, _) in of(1) {
        for (control, _) in of(0) {
            won += match case.total_cmp(control) {
                Ordering::Less => 0.0,
                Ordering::Equal => 0.5,
                Ordering::Greater => 1.0,
            };
            pairs += 1.0;
        }
    }
    won / pairs
}

/// Of what is dealt out by chance nothing can be known about a patient who was not
/// learnt from. A trainer or a judge that finds more has let the answer leak.
#[test]
fn labels_dealt_out_by_chance_cannot_be_learnt_and_true_ones_can() {
    // A hash's bit: it knows nothing of what the films show.
    let chance = |seed: u32| {
        move |number: usize| {
            let mixed = (number as u32 ^ seed).wrapping_mul(0x85eb_ca6b);
            ((mixed ^ mixed >> 13).wrapping_mul(0xc2b2_ae35) >> 30 & 1) as usize
        }
    };
    let unseen = films(160, 40_000);
    for kind in [
        Architecture::Fibro2d,
        Architecture::Fibro2dLstm,
        Architecture::Fibro3d,
    ] {
        for is_random in [false, true] {
            let (mut training, mut validation) = (films(24, 1), films(8, 9_000));
            if is_random {
                for (number, film) in training.iter_mut().enumerate() {
                    film.class = chance(1)(number);
                }
                for (number, film) in validation.iter_mut().enumerate() {
                    film.class = chance(2)(number);
                }
            }
            let folder = tempfile::tempdir().unwrap();
            let task = Task {
                spec: &spec(kind),
                config: &config(),
                training: &training.iter().collect::<Vec<_>>(),
                validation: &validation.iter().collect::<Vec<_>>(),
                folder: folder.path(),
            };
            let (network, _) = fit(&task, &mut onwards).unwrap();
            if is_random {
                // The standard error of 160 is 0.046.
                let auc = auc(&network, &unseen, chance(3));
                assert!(
                    (0.35..0.65).contains(&auc),
                    "{kind} on random labels: {auc}"
                );
            } else {
                let auc = auc(&network, &unseen, |number| number % 2);
                assert!(auc > 0.95, "{kind} on true labels: {auc}");
            }
        }
    }
}

#[test]
fn a_run_that_was_killed_ends_as_one_that_was_not() {
    let spec = spec(Architecture::Fibro3d);
    let whole = tempfile::tempdir().unwrap();
    let (expected, history) = trained(&spec, &config(), whole.path(), &mut onwards).unwrap();

    let broken = tempfile::tempdir().unwrap();
    // Once in the middle of the second epoch, once behind the third.
    let mut in_an_epoch = |progress: Progress<'_>| match progress {
        Progress::Step {
            epoch: 2, step: 2, ..
        } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let mut behind_one = |progress: Progress<'_>| match progress {
        Progress::Epoch(history) if history.epochs.len() == 3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    for _ in 0..2 {
        let stopped = trained(&spec, &config(), broken.path(), &mut in_an_epoch);
        assert!(matches!(stopped, Err(TrainError::Stopped)));
    }
    let stopped = trained(&spec, &config(), broken.path(), &mut behind_one);
    assert!(matches!(stopped, Err(TrainError::Stopped)));
    let (resumed, resumed_history) =
        trained(&spec, &config(), broken.path(), &mut onwards).unwrap();
    assert_eq!(resumed_history, history);
    assert_eq!(resumed.parameters(), expected.parameters());
}

#[test]
fn another_runs_checkpoint_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    trained(
        &spec(Architecture::Fibro3d),
        &config(),
        folder.path(),
        &mut onwards,
    )
    .unwrap();
    let file = folder.path().join("checkpoint.safetensors");
    let before = fs::read(&file).unwrap();

    let refused = |spec: &ModelSpec, config: &TrainConfig, what: &str| {
        let error = trained(spec, config, folder.path(), &mut onwards).unwrap_err();
        assert!(matches!(error, TrainError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(fs::read(&file).unwrap(), before);
    };
    refused(&spec(Architecture::Fibro2d), &config(), "architecture");
    let other = TrainConfig {
        seed: 8,
        ..config()
    };
    refused(&spec(Architecture::Fibro3d), &other, "settings");

    fs::write(&file, &before[..before.len() - 5]).unwrap();
    let error = trained(
        &spec(Architecture::Fibro3d),
        &config(),
        folder.path(),
        &mut onwards,
    )
    .unwrap_err();
    assert!(error.to_string().contains("no whole file"), "{error}");
}

#[test]
fn a_loss_that_is_no_number_ends_training_and_keeps_the_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let apart = TrainConfig {
        rate: 1e30,
        rule: Rule::Sgd,
        augmentation: Augmentation::NONE,
        ..config()
    };
    let error = trained(
        &spec(Architecture::Fibro3d),
        &apart,
        folder.path(),
        &mut onwards,
    )
    .unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { .. }), "{error}");
    assert!(!folder.path().join("model.toml").exists());
}

#[test]
fn what_cannot_be_learnt_from_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (spec, config) = (spec(Architecture::Fibro3d), config());
    let all = films(8, 1);
    let of_one_class: Vec<_> = all.iter().filter(|film| film.class == 0).collect();
    let short = Film::new(
        PatientId::new("P"),
        "short.mp4".into(),
        1,
        480,
        vec![0; 12 * 480],
        vec![6, 6],
    );
    let with_short: Vec<_> = all.iter().chain([&short]).collect();
    let enough: Vec<_> = all.iter().collect();
    for (training, validation, says) in [
        (&of_one_class, &enough, "class 1"),
        (&with_short, &enough, "short.mp4"),
        (&enough, &Vec::new(), "validat"),
    ] {
        let task = Task {
            spec: &spec,
            config: &config,
            training,
            validation,
            folder: folder.path(),
        };
        let error = fit(&task, &mut onwards).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}
