#![no_main]

use hepaflow::model::Model;

// `model.toml` up to the first zero byte, `weights.safetensors` behind it.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let at = bytes.iter().position(|&byte| byte == 0);
    let (text, weights) = bytes.split_at(at.unwrap_or(bytes.len()));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).expect("a temporary file");
    };
    write("model.toml", text);
    write("weights.safetensors", weights.get(1..).unwrap_or_default());
    let _ = Model::load(folder.path());
});
