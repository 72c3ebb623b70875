//! What threads leave to each other, recordings, and cards without room.

use super::*;

/// An engine on a shim that the test can look into.
fn on_one_shim(model: &Model, precision: Precision) -> (Engine, Arc<Shim>) {
    let shim = Arc::new(Shim::small(Schedule::Forward));
    let same = Arc::clone(&shim);
    let card = on(model, precision, Box::new(move || Ok(same.clone()))).unwrap();
    (card, shim)
}

#[test]
fn what_one_thread_prepares_is_there_for_another() {
    let model = Model::load(&golden("fibro3d")).unwrap();
    let clips = grey_clips(&model, 1);
    let expected = on_cpu(&model).infer_all(&clips);
    // Nothing has waited for this thread's uploads but the opening itself.
    let card = on_shim(&model, Precision::F32, Schedule::Forward);
    let found = std::thread::scope(|scope| scope.spawn(|| card.infer_all(&clips)).join().unwrap());
    let classes = model.spec().classes.len();
    let agreement = Agreement::of(&found.concat(), &expected.concat(), classes);
    assert!(agreement.within(tolerance(Precision::F32)), "{agreement:?}");
}

#[test]
fn the_shim_sees_a_thread_that_does_not_wait_for_another() {
    let card: Arc<dyn Card> = Arc::new(Shim::small(Schedule::Forward));
    let bytes = [1, 2, 3, 4];
    let memory = super::super::super::launch::Memory::of(&card, &bytes).unwrap();
    let read = || {
        let mut found = [0; 4];
        memory.download(&mut found).unwrap();
        found
    };
    let elsewhere = || std::thread::scope(|scope| scope.spawn(read).join().unwrap());
    assert_ne!(elsewhere(), bytes);
    card.wait_for(std::thread::current().id()).unwrap();
    assert_eq!(elsewhere(), bytes);
}

#[test]
fn a_session_and_a_workspace_may_change_threads_between_frames() {
    let model = Model::load(&golden("fibro3d")).unwrap();
    let length = model.spec().input.frames;
    let video = video(&model, length + 6, 0);
    let card = on_shim(&model, Precision::F16, Schedule::Forward);
    let expected = by_clips(&card, &video, length, 2);
    for both in [false, true] {
        // With stages of their own for frames that come early: most stages give no
        // answer, so nobody waits for them.
        let plan = card.session_plan(options(2, true));
        assert_eq!(plan.clip_by_clip(), None);
        // Both stay: giving memory back waits for everything.
        let (mut workspace, mut other) = (card.workspace(), card.workspace());
        let mut session = card.session(&plan);
        let mut found = Vec::new();
        for (number, frame) in video.iter().enumerate() {
            let answer = if number % 2 == 0 {
                session.push(&card, &mut workspace, frame)
            } else {
                let workspace = if both { &mut workspace } else { &mut other };
                let elsewhere = || session.push(&card, workspace, frame);
                std::thread::scope(|scope| scope.spawn(elsewhere).join().unwrap())
            };
            found.extend(answer.unwrap());
        }
        assert_eq!(found, expected, "both {both}");
    }
}

#[test]
fn launches_are_recorded_once_a_shape_and_replayed_to_the_same_bits() {
    let model = Model::load(&golden("fibro2d_lstm")).unwrap();
    let (card, shim) = on_one_shim(&model, Precision::F16);
    let clips = grey_clips(&model, 3);
    let mut workspace = card.workspace();
    let mut first = Vec::new();
    for turn in 0..4 {
        // Other clips each time, so that an old answer would show.
        for count in [3, 1] {
            let clips = &clips[turn % (4 - count)..][..count];
            let found = card.infer(&mut workspace, clips).unwrap();
            if turn == 0 {
                first.push(found);
            } else if turn % (4 - count) == 0 {
                assert_eq!(found, first[usize::from(count == 1)], "turn {turn}");
            } else {
                assert_eq!(found, card.infer_all(clips), "turn {turn}");
            }
        }
        let shapes = if turn == 0 { 0 } else { 2 };
        assert_eq!(shim.recorded(), shapes, "turn {turn}");
    }
    drop(workspace);
    assert_eq!(shim.recorded(), 0);
}

#[test]
fn a_network_that_a_card_has_no_room_for_says_so() {
    let model = Model::load(&golden("fibro3d")).unwrap();
    let shim = Arc::new(Shim::small(Schedule::Forward));
    *shim.capacity.lock().unwrap() = 5000;
    let error = on(&model, Precision::F16, Box::new(move || Ok(shim.clone()))).unwrap_err();
    assert!(matches!(error, CudaError::OutOfMemory { .. }), "{error}");
    assert!(error.to_string().contains("no room"), "{error}");
}

#[test]
fn clips_that_a_card_has_no_room_for_are_computed_on_the_cpu() {
    let model = Model::load(&golden("fibro3d")).unwrap();
    let clips = grey_clips(&model, 2);
    let expected = on_cpu(&model).infer_all(&clips);
    let (card, shim) = on_one_shim(&model, Precision::F16);
    // The weights, which are there, and not half a clip.
    let crate::engine::Backend::Cuda(backend) = &card.backend else {
        unreachable!()
    };
    *shim.capacity.lock().unwrap() = shim.used() + backend.workspace_bytes() / 2;
    assert_eq!(card.infer_all(&clips), expected);
    let health = card.health();
    assert!(health.fell_back && health.batches_halved > 0, "{health:?}");
}

#[test]
fn weights_that_become_infinite_in_bfloat16_are_refused() {
    let card: Arc<dyn Card> = Arc::new(Shim::small(Schedule::Forward));
    let model = Model::load(&golden("fibro3d")).unwrap();
    let mut plan = Plan::compile(model.graph(), model.weights()).unwrap();
    let crate::engine::plan::Kernel::Conv(conv) = &mut plan.steps[1].kernel else {
        unreachable!()
    };
    // A float, but more than the largest bfloat16.
    conv.weights[3] = 3.4e38;
    let input = &model.spec().input;
    let build = |precision| Network::new(&card, precision, &plan, input).map(drop);
    let error = build(Precision::Bf16).unwrap_err();
    assert!(error.to_string().contains("bf16"), "{error}");
    assert_eq!(build(Precision::F32), Ok(()));
}

#[test]
fn recurrent_weights_beyond_half_precision_are_refused() {
    let card: Arc<dyn Card> = Arc::new(Shim::small(Schedule::Forward));
    let model = Model::load(&golden("fibro2d_lstm")).unwrap();
    let mut plan = Plan::compile(model.graph(), model.weights()).unwrap();
    let layers = plan
        .steps
        .iter_mut()
        .find_map(|step| match &mut step.kernel {
            crate::engine::plan::Kernel::Lstm(layers) => Some(layers),
            _ => None,
        });
    // A bfloat16, but more than the largest half.
    layers.unwrap()[0].recurrent[5] = 65_536.0;
    let input = &model.spec().input;
    let build = |precision| Network::new(&card, precision, &plan, input).map(drop);
    let error = build(Precision::Bf16).unwrap_err();
    assert!(error.to_string().contains("bf16"), "{error}");
    assert_eq!(build(Precision::F32), Ok(()));
}

#[test]
fn an_lstm_that_a_card_cannot_compute_at_once_is_refused() {
    let model = Model::load(&golden("fibro2d_lstm")).unwrap();
    let shim = Shim::small(Schedule::Forward).with_multiprocessors(0);
    let shim = Arc::new(shim);
    let error = on(&model, Precision::F16, Box::new(move || Ok(shim.clone()))).unwrap_err();
    assert!(error.to_string().contains("LSTM"), "{error}");
}
