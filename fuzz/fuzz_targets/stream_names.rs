#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratawal_fuzz::run("stream_names", data));
