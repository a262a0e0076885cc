//! The operating system's random numbers.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Read;

use super::clock::now_micros;

/// Returns a random number for identities.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if read.is_ok() {
        return u64::from_le_bytes(bytes);
    }
    // No descriptor is left, or the system has no /dev. The standard library's hash keys are also
    // seeded by the operating system.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(now_micros());
    hasher.write_u32(std::process::id());
    hasher.finish()
}
