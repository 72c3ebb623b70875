//! A network as wide as those that the tensor memory accelerator serves.

use super::*;

/// The small 3D network with 64 channels in every layer.
fn model() -> Model {
    let small = Model::load(&golden("fibro3d")).unwrap();
    with_random_weights(&ModelSpec {
        widths: vec![64; 2],
        ..small.spec().clone()
    })
}

#[test]
fn a_wide_network_agrees_with_the_cpu_and_is_brought_by_the_accelerator() {
    let model = model();
    let cpu = on_cpu(&model);
    let shim = Arc::new(Shim::new(Schedule::Random(5)));
    let same = Arc::clone(&shim);
    let card = on(&model, Precision::F16, Box::new(move || Ok(same.clone()))).unwrap();
    let clips = grey_clips(&model, 2);
    let found = card.infer(&mut card.workspace(), &clips).unwrap().concat();
    let expected = cpu.infer(&mut cpu.workspace(), &clips).unwrap().concat();
    let agreement = Agreement::of(&found, &expected, model.spec().classes.len());
    assert!(agreement.within(tolerance(Precision::F16)), "{agreement:?}");
    let launches = shim.launches.lock().unwrap();
    let brought = launches.iter().filter(|kernel| kernel.starts_with("tma"));
    let copied = launches
        .iter()
        .filter(|kernel| kernel.starts_with("hopper"));
    // Two blocks of two convolutions and a shortcut each; the stem reads grey pictures.
    assert_eq!((brought.count(), copied.count()), (6, 0), "{launches:?}");
}
