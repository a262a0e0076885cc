#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratawal_fuzz::run("journal_replay", data));
