#![no_main]

use hepaflow::model::{OnnxOptions, import_onnx, usual_classes};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("a.onnx");
    std::fs::write(&file, bytes).expect("a temporary file");
    let options = OnnxOptions {
        classes: usual_classes(2).expect("two classes"),
        extent: [4, 8, 8],
        frames_per_second: None,
        mean: Vec::new(),
        std: Vec::new(),
        synthetic: true,
        note: String::new(),
    };
    if let Err(error) = import_onnx(&file, &folder.path().join("model"), &options) {
        assert!(!error.to_string().is_empty());
    }
});
