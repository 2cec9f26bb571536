#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meshwire_fuzz::run("streams", data));
