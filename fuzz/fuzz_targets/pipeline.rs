#![no_main]

use hepaflow::config::Pipeline;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(error) = Pipeline::parse("p.toml".as_ref(), text) {
        assert!(!error.to_string().is_empty());
    }
});
