//! The decoder of frames and batches, on any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| stratawal_frame::properties::decode_any(data));
