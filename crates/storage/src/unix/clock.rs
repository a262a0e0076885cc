//! The clocks of the machine.

use rustix::time::ClockId;

/// Microseconds since 1970.
pub(crate) fn now_micros() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn coarse_now_micros() -> u64 {
    micros_of(ClockId::RealtimeCoarse)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn coarse_now_micros() -> u64 {
    now_micros()
}

/// Microseconds since some point in the past, including time that the machine slept.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn elapsed_micros() -> u64 {
    micros_of(ClockId::Boottime)
}

/// Microseconds since some point in the past.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn elapsed_micros() -> u64 {
    micros_of(ClockId::Monotonic)
}

#[inline]
fn micros_of(clock: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1_000
}
