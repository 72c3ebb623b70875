//! A network as wide as those that the tensor memory accelerator serves.

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::super::super::launch::bytes_of;
use super::*;
use crate::model::ModelSpec;

/// The small 3D network with 64 channels in every layer.
fn model() -> Model {
    let small = Model::load(&golden("fibro3d")).unwrap();
    let spec = ModelSpec {
        widths: vec![64; 2],
        ..small.spec().clone()
    };
    let mut seed = 3;
    let mut uniform = || (f32::from(noise(&mut seed)) - 127.5) / 127.5;
    let tensors = spec.graph().unwrap().parameters();
    let tensors = tensors.into_iter().map(|(name, shape)| {
        let fan_in: usize = shape[1..].iter().product();
        let bound = (6.0 / fan_in as f32).sqrt();
        let is_scale = shape.len() == 1 && !name.contains("mean") && !name.contains("bias");
        let value = || match (shape.len(), is_scale) {
            (1, true) => 1.0,
            (1, false) => 0.1 * uniform(),
            _ => bound * uniform(),
        };
        let values: Vec<f32> = std::iter::repeat_with(value)
            .take(shape.iter().product())
            .collect();
        (name, shape, bytes_of(&values))
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(name, shape, values)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), values).unwrap();
        (name, view)
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("model.toml"),
        toml::to_string(&spec).unwrap(),
    )
    .unwrap();
    safetensors::serialize_to_file(views, None, &folder.path().join("weights.safetensors"))
        .unwrap();
    Model::load(folder.path()).unwrap()
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
