//! A session's answers are those of whole clips, bit by bit.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hepaflow::domain::{Clip, EventTime, Frame, StreamId};
use hepaflow::engine::{
    ClipByClip, Device, Engine, EngineError, EngineOptions, Precision, SessionOptions, SessionPlan,
};
use hepaflow::model::Model;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name)
}

fn engine(name: &str) -> (Model, Engine) {
    engine_in(Precision::F32, name)
}

fn engine_in(precision: Precision, name: &str) -> (Model, Engine) {
    let model = Model::load(&golden(name)).unwrap();
    let options = EngineOptions {
        device: Device::Cpu,
        precision,
    };
    let engine = Engine::open(&model, options).unwrap();
    (model, engine)
}

/// Pictures of which no two are alike.
fn video(model: &Model, frames: u64) -> Vec<Frame> {
    let input = &model.spec().input;
    let area = (input.height * input.width) as u64;
    let grey = |index: u64, place: u64| {
        let mixed = (index * area + place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 56) as u8
    };
    (0..frames)
        .map(|index| Frame {
            index,
            time: EventTime::from_nanos(index * 33_000_000),
            arrived: Instant::now(),
            discontinuity: false,
            skipped: 0,
            pixels: (0..area).map(|place| grey(index, place)).collect(),
        })
        .collect()
}

fn clip(frames: &[Frame]) -> Clip {
    Clip {
        stream: StreamId(0),
        frames: frames.to_vec(),
    }
}

/// The logits of every window, each scored by itself.
fn by_clips(engine: &Engine, video: &[Frame], length: usize, stride: usize) -> Vec<Vec<f32>> {
    let mut workspace = engine.workspace();
    let windows = video.windows(length).step_by(stride);
    windows
        .flat_map(|frames| engine.infer(&mut workspace, &[clip(frames)]).unwrap())
        .collect()
}

fn plan(engine: &Engine, stride: usize, early: bool) -> SessionPlan {
    engine.session_plan(SessionOptions {
        stride,
        early,
        attention: false,
    })
}

#[test]
fn every_window_of_a_long_video_has_the_bits_of_the_whole_clip() {
    windows_have_the_bits_of_clips(Precision::F32);
}

#[test]
fn every_window_in_bfloat16_has_the_bits_of_the_whole_clip() {
    windows_have_the_bits_of_clips(Precision::Bf16);
}

fn windows_have_the_bits_of_clips(precision: Precision) {
    let mut shared = 0;
    for folder in fs::read_dir(golden("")).unwrap() {
        let folder = folder.unwrap().file_name();
        let name = folder.to_str().unwrap();
        let (model, engine) = engine_in(precision, name);
        let length = model.spec().input.frames;
        let video = video(&model, 3 * length as u64 + 5);
        // One workspace for all: what others left in it must not matter.
        let mut workspace = engine.workspace();
        for stride in 1..=length + 2 {
            let expected = by_clips(&engine, &video, length, stride);
            for early in [false, true] {
                let plan = plan(&engine, stride, early);
                shared += usize::from(plan.clip_by_clip().is_none());
                let mut session = engine.session(&plan);
                // A second time after a reset, in the memory of the first.
                for _ in 0..2 {
                    let mut found = Vec::new();
                    for frame in &video {
                        found.extend(session.push(&engine, &mut workspace, frame).unwrap());
                        assert!(session.bytes() <= plan.session_bytes(), "{name}, {stride}");
                    }
                    assert_eq!(found, expected, "{name}, stride {stride}, early {early}");
                    session.reset();
                }
                // Clips that were assembled elsewhere.
                let clips = video.windows(length).step_by(stride);
                let found: Vec<_> = clips
                    .map(|frames| {
                        session
                            .score(&engine, &mut workspace, &clip(frames))
                            .unwrap()
                    })
                    .collect();
                assert_eq!(found, expected, "{name}, stride {stride}, clips");
            }
        }
    }
    assert!(shared > 0, "no network shared anything");
}

#[test]
fn networks_without_padding_in_time_pay_for_new_frames_only() {
    for name in ["fibro3d", "fibro2d", "fibro2d_lstm", "resnet18_lstm"] {
        let (model, engine) = engine(name);
        let length = model.spec().input.frames as f64;
        let plan = plan(&engine, 1, false);
        assert_eq!(plan.clip_by_clip(), None);
        for (layer, cost) in plan.layers() {
            assert!(cost.window <= cost.dense, "{name}, {layer}: {cost:?}");
        }
        let ratio = plan.cost().ratio();
        // A recurrence is not shared.
        assert!(ratio < 1.5 / length + 0.1, "{name}: {ratio}");
    }
}

#[test]
fn a_session_says_where_the_network_looked() {
    for folder in fs::read_dir(golden("")).unwrap() {
        let folder = folder.unwrap().file_name();
        let name = folder.to_str().unwrap();
        let (model, engine) = engine(name);
        let length = model.spec().input.frames;
        let video = video(&model, 2 * length as u64 + 3);
        let mut workspace = engine.workspace();
        for (stride, early) in [(1, false), (2, true), (3, false), (length, true)] {
            let windows = video.windows(length).step_by(stride);
            let expected: Vec<_> = windows
                .map(|frames| {
                    let clip = clip(frames);
                    engine.explain(&mut workspace, &clip, None).unwrap()
                })
                .collect();
            let plan = engine.session_plan(SessionOptions {
                stride,
                early,
                attention: true,
            });
            let mut session = engine.session(&plan);
            let mut found = Vec::new();
            for frame in &video {
                if let Some(logits) = session.push(&engine, &mut workspace, frame).unwrap() {
                    found.push((logits, session.attention().unwrap().clone()));
                } else {
                    assert_eq!(session.attention(), None);
                }
                assert!(session.bytes() <= plan.session_bytes());
            }
            assert_eq!(found, expected, "{name}, stride {stride}, early {early}");
        }
    }
}

#[test]
fn gaps_seeks_and_strangers_begin_anew() {
    let (model, engine) = engine("fibro3d");
    let length = model.spec().input.frames;
    let plan = plan(&engine, 2, true);
    let video = video(&model, 4 * length as u64);
    let mut workspace = engine.workspace();
    let mut session = engine.session(&plan);
    let mut ends = Vec::new();
    let lost = length + 3;
    for frame in video[..lost].iter().chain(&video[lost + 1..]) {
        if let Some(logits) = session.push(&engine, &mut workspace, frame).unwrap() {
            let end = frame.index as usize + 1;
            assert_eq!(
                logits,
                by_clips(&engine, &video[end - length..end], length, 1)[0]
            );
            ends.push(end);
        }
    }
    assert!(
        ends.contains(&length) && ends.contains(&(lost + 1 + length)),
        "{ends:?}"
    );
    assert!(
        !ends
            .iter()
            .any(|end| (lost + 1..lost + 1 + length).contains(end)),
        "{ends:?}"
    );

    // Another stream's clip that would follow by its numbers.
    session.reset();
    let first = session
        .score(&engine, &mut workspace, &clip(&video[..length]))
        .unwrap();
    assert_eq!(first, by_clips(&engine, &video[..length], length, 1)[0]);
    let mut others = video[2..2 + length].to_vec();
    for frame in &mut others {
        frame.pixels = frame.pixels.iter().map(|grey| !grey).collect();
    }
    let found = session
        .score(&engine, &mut workspace, &clip(&others))
        .unwrap();
    assert_eq!(found, by_clips(&engine, &others, length, 1)[0]);

    let mut misshapen = video[0].clone();
    misshapen.pixels = [0; 3].into();
    let error = session
        .push(&engine, &mut workspace, &misshapen)
        .unwrap_err();
    assert!(matches!(error, EngineError::Shape { .. }), "{error}");
}

#[test]
fn the_plan_says_why_windows_share_nothing() {
    let (model, engine) = engine("r3d_18");
    let length = model.spec().input.frames;
    let reason = |stride| plan(&engine, stride, false).clip_by_clip();
    assert_eq!(reason(length), Some(ClipByClip::Apart));
    assert_eq!(reason(length - 1), Some(ClipByClip::PaddedInTime));
}
