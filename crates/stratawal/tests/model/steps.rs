//! The steps of a program, and the strategies that choose them.

use std::ops::{Bound, Range};

use proptest::prelude::*;
use stratawal::{Durability, Options, StreamOptions, Visibility};
use stratawal_testkit::StreamModel;

use Durability::{Buffered, Flushed, Synced};
use Visibility::{Accepted, Stable};

use crate::NAMES;

/// A step of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Append {
        to: usize,
        durability: Durability,
        shape: BatchShape,
    },
    /// Appends if the next seq is the expected one.
    AppendIf {
        to: usize,
        durability: Durability,
        shape: BatchShape,
        expected: Position,
    },
    /// Appends several batches without waiting, and then waits for all of them.
    Submit {
        to: usize,
        durability: Durability,
        shapes: [BatchShape; 4],
    },
    Flush {
        of: usize,
    },
    Sync {
        of: usize,
    },
    SyncAll,
    Get {
        of: usize,
        seen: Visibility,
        at: Position,
    },
    GetMany {
        of: usize,
        seen: Visibility,
        at: [Position; 5],
    },
    Iterate {
        of: usize,
        seen: Visibility,
        from: Bound<Position>,
        to: Bound<Position>,
        turns: u64,
    },
    FindTime {
        of: usize,
        seen: Visibility,
        at: Position,
    },
    /// Creates an iterator and holds it.
    Hold {
        of: usize,
        seen: Visibility,
        from: Position,
    },
    /// Reads from the oldest held iterator, and makes it the newest.
    Pull {
        count: usize,
        turns: u64,
    },
    /// Takes events from every follower in the process.
    Follow {
        count: usize,
    },
    /// Replaces a follower.
    FollowFrom {
        of: usize,
        seen: Visibility,
        from: Position,
    },
    /// Has the followers of single streams in a log opened for reading return what they have not.
    FollowBeside(Setup),
    /// Has the follower of all streams in a log opened for reading return what it has not.
    FollowPrefixBeside(Setup),
    TruncateBefore {
        of: usize,
        at: Position,
    },
    TruncateFrom {
        of: usize,
        at: Position,
    },
    Delete {
        of: usize,
    },
    CloseStream {
        of: usize,
    },
    Close(Setup),
    /// Drops all handles without closing.
    Leave(Setup),
    /// Continues with a copy of the directory, as after `kill -9`.
    Kill(Setup),
    /// Opens a copy of the directory read-only.
    Copy(Setup),
    /// Reads while the writer is open, with the last reader or a new one.
    Beside {
        again: bool,
        setup: Setup,
    },
}

/// The shape of a batch: how many entries it has, and how long they may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchShape {
    pub(crate) count: u64,
    pub(crate) len_max: u64,
}

/// A position in a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Position {
    /// This many 65,536ths of the way from the first entry to the end.
    Live(u16),
    First,
    Last,
    Next,
    Before(u8),
    Beyond(u16),
}

/// How the log keeps its commit journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journal {
    Without,
    Mapped,
    Written,
}

/// The options of the log until it is reopened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) durability: Durability,
    frame: usize,
    buffer: usize,
    index_every: u64,
    unsynced_segments: usize,
    small_cache: bool,
    map: bool,
    journal: Journal,
}

impl Position {
    /// The seq of the position in a stream.
    pub(crate) fn seq(self, model: &StreamModel) -> u64 {
        let first = model.first_seq();
        let next = model.next_seq();
        match self {
            Self::Live(part) => first + (((next - first + 1) * u64::from(part)) >> 16),
            Self::First => first,
            Self::Last => next.saturating_sub(1),
            Self::Next => next,
            Self::Before(by) => first.saturating_sub(1 + u64::from(by)),
            Self::Beyond(by) => next + 1 + u64::from(by),
        }
    }
}

/// The bound of a range in a stream.
pub(crate) fn bound_of(bound: Bound<Position>, model: &StreamModel) -> Bound<u64> {
    bound.map(|position| position.seq(model))
}

impl Setup {
    pub(crate) fn has_journal(self) -> bool {
        self.journal != Journal::Without
    }

    pub(crate) fn options(self) -> Options {
        let streams = StreamOptions::new()
            .durability(self.durability)
            .segment_bytes(64 << 10)
            .frame_bytes(self.frame)
            .buffer_bytes(self.buffer)
            .index_interval_bytes(self.index_every)
            .unsynced_bytes_max(1 << 20)
            .unsynced_segments_max(self.unsynced_segments);
        let options = Options::new()
            .stream_defaults(streams)
            .journal(self.journal != Journal::Without)
            .journal_mapped(self.journal == Journal::Mapped)
            .journal_bytes(64 << 10)
            // A kill continues with a copy of the directory.
            .adopt_copy(true)
            // Nothing changes a file while it is copied.
            .maintenance_thread(false);
        let options = if self.small_cache { options.cache_bytes(0).cache_files(1).active_files(1) } else { options };
        if self.map { mapped(options) } else { options }
    }
}

#[allow(unsafe_code)]
fn mapped(options: Options) -> Options {
    // SAFETY: only the library touches these logs' files; they are copied, never shortened.
    unsafe { options.map_reads() }
}

fn of() -> impl Strategy<Value = usize> {
    0..NAMES.len()
}

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Buffered), Just(Flushed), Just(Synced)]
}

fn seen() -> impl Strategy<Value = Visibility> {
    prop_oneof![Just(Stable), Just(Accepted)]
}

fn position() -> impl Strategy<Value = Position> {
    prop_oneof![
        12 => any::<u16>().prop_map(Position::Live),
        2 => Just(Position::First),
        2 => Just(Position::Last),
        2 => Just(Position::Next),
        1 => any::<u8>().prop_map(Position::Before),
        1 => (0..2000_u16).prop_map(Position::Beyond),
    ]
}

fn bound() -> impl Strategy<Value = Bound<Position>> {
    prop_oneof![position().prop_map(Bound::Included), position().prop_map(Bound::Excluded), Just(Bound::Unbounded)]
}

fn shape() -> impl Strategy<Value = BatchShape> {
    let of = |counts: Range<u64>, lens: Range<u64>| {
        (counts, lens).prop_map(|(count, len_max)| BatchShape { count, len_max }).boxed()
    };
    // Batches of a few bytes, a tenth of a segment, a segment, and several segments.
    prop_oneof![
        1 => of(0..1, 0..1),
        8 => of(1..2, 0..300),
        8 => of(1..200, 0..50),
        4 => of(1..50, 0..3000),
        2 => of(1..3, 40_000..70_000),
        1 => of(1..3000, 0..150),
    ]
}

pub(crate) fn setup() -> impl Strategy<Value = Setup> {
    let frame = prop_oneof![Just(1_usize), Just(300), Just(6 << 10), Just(1 << 20)];
    let buffer = prop_oneof![Just(1_usize), Just(5000), Just(256 << 10)];
    let index_every = prop_oneof![Just(1_u64), Just(500), Just(4 << 10), Just(1 << 20)];
    let journal = prop_oneof![Just(Journal::Mapped), Just(Journal::Written), Just(Journal::Without)];
    (durability(), frame, buffer, index_every, 0..4_usize, any::<bool>(), any::<bool>(), journal).prop_map(
        |(durability, frame, buffer, index_every, unsynced_segments, small_cache, map, journal)| Setup {
            durability,
            frame,
            buffer,
            index_every,
            unsynced_segments,
            small_cache,
            map,
            journal,
        },
    )
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (of(), durability(), shape()).prop_map(|(to, durability, shape)| Step::Append { to, durability, shape }),
        6 => (of(), durability(), shape(), prop_oneof![Just(Position::Next), position()])
            .prop_map(|(to, durability, shape, expected)| Step::AppendIf { to, durability, shape, expected }),
        6 => (of(), durability(), [shape(), shape(), shape(), shape()])
            .prop_map(|(to, durability, shapes)| Step::Submit { to, durability, shapes }),
        2 => of().prop_map(|of| Step::Flush { of }),
        2 => of().prop_map(|of| Step::Sync { of }),
        1 => Just(Step::SyncAll),
        4 => (of(), seen(), position()).prop_map(|(of, seen, at)| Step::Get { of, seen, at }),
        4 => (of(), seen(), [position(), position(), position(), position(), position()]).prop_map(|(of, seen, at)| Step::GetMany { of, seen, at }),
        6 => (of(), seen(), bound(), bound(), any::<u64>())
            .prop_map(|(of, seen, from, to, turns)| Step::Iterate { of, seen, from, to, turns }),
        2 => (of(), seen(), position()).prop_map(|(of, seen, at)| Step::FindTime { of, seen, at }),
        4 => (of(), seen(), position()).prop_map(|(of, seen, from)| Step::Hold { of, seen, from }),
        4 => (0..300_usize, any::<u64>()).prop_map(|(count, turns)| Step::Pull { count, turns }),
        6 => prop_oneof![1..9_usize, 0..300_usize, Just(usize::MAX)].prop_map(|count| Step::Follow { count }),
        2 => (of(), seen(), position()).prop_map(|(of, seen, from)| Step::FollowFrom { of, seen, from }),
        3 => setup().prop_map(Step::FollowBeside),
        1 => setup().prop_map(Step::FollowPrefixBeside),
        5 => (of(), position()).prop_map(|(of, at)| Step::TruncateBefore { of, at }),
        5 => (of(), position()).prop_map(|(of, at)| Step::TruncateFrom { of, at }),
        1 => of().prop_map(|of| Step::Delete { of }),
        3 => of().prop_map(|of| Step::CloseStream { of }),
        2 => setup().prop_map(Step::Close),
        1 => setup().prop_map(Step::Leave),
        4 => setup().prop_map(Step::Kill),
        2 => setup().prop_map(Step::Copy),
        3 => (any::<bool>(), setup()).prop_map(|(again, setup)| Step::Beside { again, setup }),
    ]
}
