use std::path::Path;
use std::time::Instant;

use super::*;
use crate::domain::EventTime;
use crate::engine::plan::Plan;
use crate::engine::{Device, EngineOptions, Precision};
use crate::model::Model;

fn open(precision: Precision, name: &str) -> (Model, Engine) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let model = Model::load(&golden.join(name)).unwrap();
    let options = EngineOptions {
        device: Device::Cpu,
        precision,
    };
    let engine = Engine::open(&model, options).unwrap();
    (model, engine)
}

fn plan(engine: &Engine, stride: usize, early: bool) -> SessionPlan {
    engine.session_plan(SessionOptions {
        stride,
        early,
        attention: true,
    })
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

/// Streams that begin at other times than each other, of two strides: whatever is due
/// at the same time, each has the bits, and the map, that its windows have alone.
#[test]
fn streams_that_are_computed_together_answer_as_they_do_alone() {
    for name in ["fibro2d_lstm", "fibro3d", "r2plus1d_18", "resnet18"] {
        for (precision, tiles) in [
            (Precision::F32, false),
            (Precision::Bf16, false),
            (Precision::Bf16, true),
        ] {
            let (model, mut engine) = open(precision, name);
            // Slowly, so that there are fewer.
            let streams = if tiles { 6 } else { 19 };
            if tiles {
                // As on a processor that has them: some values stay in bfloat16.
                let plan = Plan::compile(model.graph(), model.weights()).unwrap();
                engine.backend = Backend::Cpu(cpu::Program::with_plain_tiles(plan));
            }
            assert!(engine.streams() > 1, "they are not computed together");
            let length = model.spec().input.frames;
            let plans = [plan(&engine, 2, false), plan(&engine, 3, true)];
            let plan_of = |stream: usize| &plans[usize::from(stream.is_multiple_of(5))];
            let video = video(&model, (2 * length + 4 + streams) as u64);
            let (mut workspace, mut alone) = (engine.workspace(), engine.workspace());
            let mut sessions: Vec<_> = (0..streams)
                .map(|stream| engine.session(plan_of(stream)))
                .collect();
            let mut windows = vec![0; streams];
            for turn in 0..2 * length + 4 {
                let (mut numbers, mut arrivals) = (Vec::new(), Vec::new());
                for (stream, session) in sessions.iter_mut().enumerate() {
                    // Most begin together; all of them look at other pictures.
                    let begins = if stream.is_multiple_of(4) {
                        stream % 3
                    } else {
                        0
                    };
                    if turn >= begins {
                        numbers.push(stream);
                        arrivals.push((session, &video[turn - begins + stream]));
                    }
                }
                let answers = engine.push_all(&mut workspace, &mut arrivals);
                for (stream, answer) in numbers.into_iter().zip(answers) {
                    let Some(logits) = answer.unwrap() else {
                        continue;
                    };
                    let first = stream + windows[stream] * plan_of(stream).options().stride;
                    let clip = Clip {
                        stream: StreamId(0),
                        frames: video[first..first + length].to_vec(),
                    };
                    let (expected, map) = engine.explain(&mut alone, &clip, None).unwrap();
                    assert_eq!(logits, expected, "{name}, stream {stream}");
                    assert_eq!(sessions[stream].attention(), Some(&map), "{name}");
                    windows[stream] += 1;
                }
            }
            assert!(windows.iter().all(|windows| *windows > 2), "{windows:?}");
        }
    }
}
