//! How much a stream holds, and what it has done.

use std::sync::Arc;
use std::time::Duration;

use stratawal_segment::Access;
use stratawal_sync::{Counter, DURATION_CLASSES, Durations, fence};

use crate::error::{Error, Result};
use crate::inner::Inner;
use crate::layout::segment_path;
use crate::read::snapshot::{SegmentState, Snapshot};

/// The state of a stream, and what it has done since it was opened. A call takes the stream's lock
/// for a moment, and opens no file.
///
/// Each number was exact at some moment during the call; not all of them were at the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStats {
    /// The seq of the first live entry, or of the next append if there is none.
    pub first_seq: u64,
    /// The seq of the next append.
    pub next_seq: u64,
    /// One past the last entry that survives the end of the process.
    pub flushed_seq: u64,
    /// One past the last entry that survives a power loss.
    pub durable_seq: u64,
    /// One past the last entry that is durable in the stream's own files. The entries from there on
    /// to `durable_seq` are in the commit journal.
    pub settled_seq: u64,
    /// The number of segment files with live entries, plus the active one.
    pub segments: u64,
    /// The length in bytes of the entries and frames in the newest segment file; 0 if the stream is
    /// closed or has none.
    pub active_bytes: u64,
    /// The bytes that are preallocated in the newest segment file and not written.
    pub reserved_bytes: u64,
    /// The bytes of memory allocated for entries that are not in the stream's files, or that the
    /// commit journal may still be needed for.
    pub tail_bytes: u64,
    /// The bytes from the oldest record that this stream needs to the end of the commit journal. It
    /// keeps that part of the journal from being used again.
    pub pinned_journal_bytes: u64,
    /// How often pending entries were written to the files. Those of one write are a group: appends
    /// that ran at the same time, or everything that the commit journal had of the stream.
    pub writes: u64,
    /// The entries of those writes. `written_entries / writes` is the mean group.
    pub written_entries: u64,
    /// The syncs of the stream's files.
    pub syncs: u64,
    /// How many appends since the stream was opened got a timestamp other than the clock's, because
    /// the clock had advanced over an hour more than the time elapsed since the last append. After
    /// a real correction of that size (a machine without a battery-backed clock, or a paused
    /// virtual machine), timestamps lag until the stream is reopened.
    pub clock_jumps: u64,
}

/// The disk space of a stream or of a log. Measuring it opens every file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskUsage {
    /// The number of segment files with live entries, plus the active one of each stream.
    pub segments: u64,
    /// The bytes of those files, including preallocated space.
    pub segment_bytes: u64,
    /// The bytes of the files of the commit journal, which are preallocated. 0 for one stream.
    pub journal_bytes: u64,
    /// The bytes that the log holds in reserve for truncating, deleting and closing on a full disk:
    /// 65,536 if the reserve is complete. It is restored when space is free again. 0 for one
    /// stream.
    pub reserve_bytes: u64,
}

/// How long syncs took.
///
/// They are counted in classes whose bounds are 1.4, 2, 2.8, 4, … µs, so a percentile is exact to a
/// factor of 1.42.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncTimes {
    classes: [u64; DURATION_CLASSES],
    sum: Duration,
    max: Duration,
}

impl Default for SyncTimes {
    fn default() -> Self {
        Self::of(&Durations::default())
    }
}

impl SyncTimes {
    pub(crate) fn of(durations: &Durations) -> Self {
        Self { classes: durations.classes(), sum: durations.sum(), max: durations.max() }
    }

    /// The number of syncs.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// The time of all syncs together.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        self.sum
    }

    /// The longest sync.
    #[must_use]
    pub const fn max(&self) -> Duration {
        self.max
    }

    /// The time within which `percent` (0 to 100) of the syncs ended, rounded up by at most 42 %.
    /// 0 if there was none.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        let count = self.count();
        if count == 0 {
            return Duration::ZERO;
        }
        let mut seen = 0;
        for (i, &of_class) in self.classes.iter().enumerate() {
            seen += of_class;
            // The counts are far below 2^52.
            #[allow(clippy::cast_precision_loss)]
            let is_reached = seen > 0 && seen as f64 >= count as f64 * percent / 100.0;
            if is_reached {
                return Durations::bound(i).min(self.max);
            }
        }
        self.max
    }

    /// The classes: how many syncs took less than each of these times, and not less than the one
    /// before it. The last class also has all longer ones.
    pub fn classes(&self) -> impl Iterator<Item = (Duration, u64)> {
        let classes = self.classes;
        (0..DURATION_CLASSES).map(move |i| (Durations::bound(i), classes[i]))
    }
}

/// The state of the commit journal of a log, and what it has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalStats {
    /// The position at which the next record begins: the bytes of all records that were ever put.
    pub end_lsn: u64,
    /// The records before this position are durable.
    pub durable_lsn: u64,
    /// The bytes from the oldest record that may be needed to the end.
    pub needed_bytes: u64,
    /// The bytes of records that the journal can hold.
    pub capacity_bytes: u64,
    /// How long its syncs took. Each sync is for all streams.
    pub sync_times: SyncTimes,
    /// How often space was freed: by settling streams, or by copying their records forward.
    pub releases: u64,
    /// How often an append found no room, and freed some itself or waited for it.
    pub waits_for_room: u64,
}

/// What a stream has done since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    pub(crate) writes: Counter,
    pub(crate) written_entries: Counter,
    pub(crate) syncs: Counter,
}

impl Inner {
    /// See [`StreamLog::stats`](crate::StreamLog::stats).
    pub(crate) fn stats(&self) -> Result<StreamStats> {
        self.check_process()?;
        let watermarks = &self.shared.watermarks;
        // In this order, so that no end is shown beyond a later one.
        let (settled_seq, durable_seq) = (watermarks.settled(), watermarks.durable());
        let (flushed_seq, next_seq) = (watermarks.flushed(), watermarks.accepted());
        let snapshot = self.shared.snapshot.load();
        let active_bytes = match snapshot.segments.last().map(|segment| &segment.state) {
            Some(SegmentState::Live(live)) => live.end(),
            _ => 0,
        };
        let meters = &self.shared.meters;
        let journal_end = self.shared.context.log_journal().map_or(0, |log| log.journal.end().0);
        let state = self.group.lock();
        let tail = &state.tail;
        let preallocated = tail.reservation.as_ref().map_or(0, |reservation| reservation.preallocation.preallocated());
        let journaled = tail.journaled.as_ref();
        let needed_from = journaled.and_then(|journaled| journaled.claim().lsn());
        Ok(StreamStats {
            first_seq: watermarks.start(),
            next_seq,
            flushed_seq,
            durable_seq,
            settled_seq,
            segments: snapshot.segments.len() as u64,
            active_bytes,
            reserved_bytes: preallocated.saturating_sub(active_bytes),
            tail_bytes: tail.memory() as u64,
            pinned_journal_bytes: needed_from.map_or(0, |lsn| journal_end.saturating_sub(lsn.0)),
            writes: meters.writes.get(),
            written_entries: meters.written_entries.get(),
            syncs: meters.syncs.get(),
            clock_jumps: tail.clock.jumps(),
        })
    }

    /// See [`StreamLog::disk_usage`](crate::StreamLog::disk_usage).
    pub(crate) fn disk_usage(&self) -> Result<DiskUsage> {
        self.check_process()?;
        let shared = &self.shared;
        loop {
            let snapshot = shared.snapshot.load();
            let usage = self.measure(&snapshot)?;
            let is_complete = usage.segments == snapshot.segments.len() as u64;
            fence();
            // A deletion renames the directory and then publishes its snapshot, both under this
            // lock.
            drop(self.group.lock());
            // If a file was missing and the snapshot is unchanged, another process has removed it.
            if is_complete || Arc::ptr_eq(&snapshot, &shared.snapshot.load()) {
                return Ok(usage);
            }
        }
    }

    /// Measures the files of `snapshot` that exist.
    fn measure(&self, snapshot: &Snapshot) -> Result<DiskUsage> {
        let shared = &self.shared;
        let mut usage = DiskUsage::default();
        for segment in &snapshot.segments {
            let path = segment_path(&shared.location.dir(), segment.id());
            let file = shared.context.storage().open(&path, Access::Read);
            match file.and_then(|file| file.len()) {
                Ok(len) => {
                    usage.segments += 1;
                    usage.segment_bytes += len;
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(&shared.location, e)),
            }
        }
        Ok(usage)
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_bounds_of_their_classes() {
        let durations = Durations::default();
        assert_eq!(SyncTimes::of(&durations).percentile(50.0), Duration::ZERO);
        (1..=100).for_each(|micros| durations.add(Duration::from_micros(micros)));
        let times = SyncTimes::of(&durations);
        for (percent, micros) in [(1.0, 1.0), (50.0, 50.0), (90.0, 90.0), (99.0, 99.0), (100.0, 100.0)] {
            let found = times.percentile(percent).as_secs_f64() * 1e6;
            assert!((micros..=micros * 1.42).contains(&found), "{percent}: {found}");
        }
        assert_eq!(times.percentile(100.0), times.max());
        assert_eq!(times.classes().map(|(_, count)| count).sum::<u64>(), times.count());
    }
}
