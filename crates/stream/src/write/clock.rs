//! The timestamps of entries. The system's clock may be wrong.
//!
//! Invariants: times never go backwards within a segment. A time is at most an hour ahead of the
//! previous one plus the time elapsed since then, as measured by a clock that is never set. So a
//! clock that is briefly wrong does not affect every later entry. If a stream's times are far ahead
//! of the clock when it is opened, its next segment begins at the present time.

use stratawal_storage::Storage;

/// How far the clock may move beyond the elapsed time, in microseconds: an hour.
const JUMP_MAX: u64 = 3600 * 1_000_000;

/// How far a stream's times may be ahead of the clock when it is opened, in microseconds: a day.
const AHEAD_MAX: u64 = 24 * JUMP_MAX;

/// Whether times have to restart, because `time`, the last time of a stream, is far ahead of the
/// clock, which reads `now`.
pub(crate) const fn is_far_ahead(time: u64, now: u64) -> bool {
    time > now.saturating_add(AHEAD_MAX)
}

/// The clock of one stream. Times and readings are microseconds since 1970.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// The last reading of the coarse clock.
    reading: Option<u64>,
    /// The time of the last append. Before the first append, the earliest time that it can have.
    time: u64,
    /// The reading of the clock that is never set, taken at that time.
    elapsed: u64,
    /// Whether the last reading was too far ahead, so that `time` was used instead.
    replaced: bool,
    /// How many appends got a time other than the clock's for that reason.
    jumps: u64,
}

impl Clock {
    /// The clock of a stream that is opened when the system's clock reads `now`. The stream's last
    /// time is `last`.
    pub(crate) fn new(storage: &dyn Storage, now: u64, last: u64) -> Self {
        let time = if is_far_ahead(last, now) { now } else { last.max(now) };
        Self { time, elapsed: storage.elapsed_micros(), ..Self::default() }
    }

    /// Returns this clock with the count of jumps of an earlier clock of the same stream.
    pub(crate) const fn counting_on(self, earlier: &Self) -> Self {
        Self { jumps: earlier.jumps, ..self }
    }

    /// Returns the time of an append that follows one at `last`. Within one tick of the coarse
    /// clock, reads no other clock.
    pub(crate) fn time(&mut self, storage: &dyn Storage, last: u64) -> u64 {
        self.time_at(storage.coarse_now_micros(), || storage.elapsed_micros(), last)
    }

    fn time_at(&mut self, reading: u64, elapsed: impl FnOnce() -> u64, last: u64) -> u64 {
        if self.reading != Some(reading) {
            let elapsed = elapsed();
            let expected = self.time.saturating_add(elapsed.saturating_sub(self.elapsed));
            self.replaced = reading > expected.saturating_add(JUMP_MAX);
            self.time = if self.replaced { expected } else { reading }.max(last);
            self.reading = Some(reading);
            self.elapsed = elapsed;
        }
        self.jumps += u64::from(self.replaced);
        self.time
    }

    /// How many appends got a time other than the clock's, because the clock was too far ahead.
    pub(crate) const fn jumps(&self) -> u64 {
        self.jumps
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000_000;
    const YEARS: u64 = 30 * 365 * AHEAD_MAX;

    #[test]
    fn within_one_tick_the_second_clock_is_not_read() {
        let mut clock = Clock { time: NOW, ..Clock::default() };
        assert_eq!(clock.time_at(NOW + 5, || 5, 0), NOW + 5);
        assert_eq!(clock.time_at(NOW + 5, || panic!("read again"), NOW + 5), NOW + 5);
        assert_eq!(clock.time_at(NOW + 9, || 9, NOW + 5), NOW + 9);
        assert_eq!(clock.jumps(), 0);
    }

    #[test]
    fn a_jump_is_replaced_by_the_time_that_has_passed() {
        let mut clock = Clock { time: NOW, ..Clock::default() };
        assert_eq!(clock.time_at(NOW + YEARS, || 10, 0), NOW + 10);
        assert_eq!(clock.time_at(NOW + YEARS, || panic!("read again"), NOW + 10), NOW + 10);
        assert_eq!(clock.time_at(NOW + YEARS + 3, || 13, NOW + 10), NOW + 13);
        assert_eq!(clock.jumps(), 3, "appends are counted");
        assert_eq!(clock.time_at(NOW + 20, || 20, NOW + 13), NOW + 20, "the clock is right again");
        assert_eq!(clock.jumps(), 3);
    }

    #[test]
    fn an_hour_ahead_is_believed_and_more_is_not() {
        let ahead = |by: u64| {
            let mut clock = Clock { time: NOW, ..Clock::default() };
            clock.time_at(NOW + 50 + by, || 50, 0)
        };
        assert_eq!(ahead(JUMP_MAX), NOW + 50 + JUMP_MAX);
        assert_eq!(ahead(JUMP_MAX + 1), NOW + 50);
    }

    #[test]
    fn a_long_sleep_of_the_machine_is_not_a_jump() {
        let mut clock = Clock { time: NOW, ..Clock::default() };
        assert_eq!(clock.time_at(NOW + YEARS, || YEARS, 0), NOW + YEARS);
        assert_eq!(clock.jumps(), 0);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_lower_times() {
        let mut clock = Clock { time: NOW, ..Clock::default() };
        assert_eq!(clock.time_at(NOW - YEARS, || 10, NOW), NOW);
        assert_eq!(clock.time_at(u64::MAX, || u64::MAX, NOW), u64::MAX, "and no sum overflows");
        assert_eq!(clock.time_at(0, || 0, u64::MAX), u64::MAX);
    }
}
