//! Generated workloads.

use crate::model::Level;
use crate::rng::{Choose, Rng};

/// The limits of generated workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The number of streams is 1 to this many.
    pub streams_max: u64,
    /// The number of steps is a quarter of this to this many.
    pub steps_max: u64,
    /// The length of the log's segments. Batches are up to several times as long.
    pub segment_len: u64,
    /// No entry is longer.
    pub entry_len_max: u64,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Append a batch: the tag and length of each entry.
    Append {
        /// The stream.
        stream: usize,
        /// The level.
        level: Level,
        /// Its entries.
        entries: Vec<(u64, usize)>,
        /// How they are appended.
        how: How,
    },
    /// Flush a stream.
    Flush(usize),
    /// Sync a stream.
    Sync(usize),
    /// Drop the beginning of a stream, up to a seq derived from the number.
    TruncateBefore(usize, u64),
    /// Drop the end of a stream, from a seq derived from the number on.
    TruncateFrom(usize, u64),
    /// Delete a stream.
    Delete(usize),
    /// Close a stream, which the next step on it opens again.
    Close(usize),
    /// Close the log and open it again.
    Restart,
}

/// How a batch is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By an append that waits.
    Waiting,
    /// By a conditional append that expects a wrong seq, which is refused, and then by one that
    /// expects the right seq.
    Conditional,
    /// As two batches, by appends that do not wait, and then one wait for both.
    Submitted,
}

/// Steps on some streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The names of the streams.
    pub streams: Vec<String>,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

impl Workload {
    /// Generates the workload of a seed.
    #[must_use]
    pub fn generate(seed: u64, shape: &Shape) -> Self {
        let mut rng = Rng::new(seed);
        let streams = 1 + rng.below(shape.streams_max);
        let steps = shape.steps_max / 4 + rng.below(shape.steps_max * 3 / 4 + 1);
        // Some workloads sync everything, some nearly nothing.
        let synced = [32, 128, 255][rng.index(3)];
        let streams = (0..streams).map(|i| format!("stream/{i}")).collect::<Vec<_>>();
        let steps = (0..steps).map(|_| step(&mut rng, streams.len(), synced, shape)).collect();
        Self { streams, steps }
    }

    /// Generates further steps, for a log that continues after a crash.
    #[must_use]
    pub fn more(rng: &mut Rng, streams: usize, steps: u64, shape: &Shape) -> Vec<Step> {
        (0..steps).map(|_| step(rng, streams, 128, shape)).collect()
    }
}

pub(crate) fn step(rng: &mut impl Choose, streams: usize, synced: u64, shape: &Shape) -> Step {
    let stream = rng.index(streams);
    match rng.below(24) {
        0 => Step::Flush(stream),
        1 => Step::Sync(stream),
        2 => Step::Restart,
        3 | 4 => Step::TruncateBefore(stream, rng.next_u64()),
        5 | 6 => Step::TruncateFrom(stream, rng.next_u64()),
        7 if rng.chance(128) => Step::Delete(stream),
        7 => Step::Close(stream),
        _ => {
            let level = match () {
                () if rng.chance(synced) => Level::Synced,
                () if rng.chance(128) => Level::Flushed,
                () => Level::Buffered,
            };
            let entries = batch(rng, shape);
            let how = match entries[0].0 % 4 {
                0 => How::Conditional,
                1 => How::Submitted,
                _ => How::Waiting,
            };
            Step::Append { stream, level, entries, how }
        }
    }
}

fn batch(rng: &mut impl Choose, shape: &Shape) -> Vec<(u64, usize)> {
    let count = match rng.below(8) {
        0 => 1 + rng.below(40),
        1..=3 => 1 + rng.below(6),
        _ => 1,
    };
    // Most batches with many entries have small entries. About one batch in forty is longer than a
    // segment.
    let len_max = match rng.below(40) {
        0 => shape.segment_len * 3 / count,
        1..=4 => shape.segment_len / count,
        5..=9 => 16 << 10,
        10..=18 => 2 << 10,
        _ => 200,
    };
    let len_max = len_max.min(shape.entry_len_max);
    let mut one = || (rng.next_u64(), usize::try_from(rng.below(len_max + 1)).expect("small"));
    (0..count).map(|_| one()).collect()
}

/// The seq before which a stream is truncated: mostly within the stream, sometimes at its start, at
/// its end or beyond.
pub(crate) const fn place_before(start: u64, end: u64, pick: u64) -> u64 {
    match pick % 8 {
        0 => end,
        1 => end + 1 + pick / 8 % 50,
        2 => start,
        _ => start + pick / 8 % (end - start + 1),
    }
}

/// The seq from which a stream is truncated: mostly within the stream, sometimes at its start, at
/// its end, or beyond (which is refused).
pub(crate) const fn place_from(start: u64, end: u64, pick: u64) -> u64 {
    match pick % 8 {
        0 => end,
        1 => start,
        2 => end + 1 + pick / 8 % 3,
        _ => start + pick / 8 % (end - start + 1),
    }
}

/// The bytes of an entry. Different tags give different bytes, unless the entry is too short.
#[must_use]
pub fn entry(tag: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut rng = Rng::new(tag);
    let block: Vec<u8> = (0..8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    bytes.extend_from_slice(&tag.to_le_bytes());
    while bytes.len() < len {
        let more = (len - bytes.len()).min(block.len());
        bytes.extend_from_slice(&block[..more]);
        // No two blocks of an entry are equal, so that a lost or moved part is noticed.
        let at = bytes.len() - more;
        bytes[at] ^= u8::try_from((at / 64) % 251).expect("small");
    }
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_determines_the_workload() {
        let shape = Shape { streams_max: 3, steps_max: 40, segment_len: 64 << 10, entry_len_max: u64::MAX };
        assert_eq!(Workload::generate(5, &shape), Workload::generate(5, &shape));
        assert_ne!(Workload::generate(5, &shape), Workload::generate(6, &shape));
        let all: Vec<_> = (0..200).map(|seed| Workload::generate(seed, &shape)).collect();
        let steps = || all.iter().flat_map(|w| &w.steps);
        assert!(steps().any(|s| matches!(s, Step::Restart)));
        assert!(steps().any(|s| matches!(s, Step::Append { entries, .. }
            if entries.iter().map(|e| e.1).sum::<usize>() > 64 << 10)));
        assert!(steps().any(|s| matches!(s, Step::Append { entries, .. } if entries.iter().any(|e| e.1 == 0))));
    }

    #[test]
    fn entries_have_their_length_and_differ() {
        for len in [0, 1, 8, 63, 64, 65, 1000] {
            assert_eq!(entry(1, len).len(), len);
        }
        assert_ne!(entry(1, 40), entry(2, 40));
        let long = entry(3, 1 << 10);
        assert_ne!(long[8 + 64..8 + 128], long[8 + 128..8 + 192]);
    }
}
