//! The program whose instructions `cargo xtask instructions` counts. It runs under callgrind, which
//! dumps its counts when [`counted`] ends. Each case runs twice: with [`TIMES`] operations, and
//! with twice as many. The difference between the two counts excludes costs that occur only once,
//! such as creating an iterator or a first use. The program prints the case of each pair of dumps.
//!
//! The work is done by one thread and is the same in each run: it does not depend on the clock or
//! on chance. So the logs have no maintenance thread, whose instructions would count. Each case is
//! counted in a log with a commit journal, which is the default, and in one without. An argument
//! selects the cases whose names begin with it. This command shows the instructions of each
//! function:
//!
//! ```sh
//! valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*::counted' --callgrind-out-file=target/where \
//!     target/release/instructions "get, sealed" && callgrind_annotate target/where
//! ```
#![forbid(unsafe_code)]

use std::hint::black_box;

use stratawal::{Durability, Options, Stream, StreamOptions};
use stratawal_benches::{Scratch, batch};

const ENTRY_LEN: usize = 128;

/// The number of entries in a batch.
const BATCH: u64 = 100;

/// The operations of a case in its first dump. The second dump has twice as many.
const TIMES: u64 = 4_000;

/// The entries of the logs that are read: enough for a chunk of the index and many frames.
const ENTRIES: u64 = 2 * TIMES;

/// Small enough that most of the entries are in sealed segments.
const SEGMENT_BYTES: u64 = 128 << 10;

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    for (journal, suffix) in [(true, ""), (false, ", no journal")] {
        let scratch = Scratch::with(&Options::new().journal(journal).maintenance_thread(false));
        let cases = Cases { scratch, suffix, only: only.clone() };
        cases.appends();
        cases.scans();
        cases.gets();
    }
}

/// Does the work `times` times. Callgrind counts the instructions of this function, whose name
/// xtask knows.
#[inline(never)]
fn counted(work: &mut dyn FnMut(u64), times: u64) {
    work(times);
    // A call at the very end would become a jump, and this function would end before the work does.
    black_box(());
}

struct Cases {
    scratch: Scratch,
    /// What follows the name of each case.
    suffix: &'static str,
    /// The prefix of the names of the cases to run.
    only: String,
}

impl Cases {
    /// Runs one case: the work of `times` operations.
    fn case(&self, name: &str, times: u64, mut work: impl FnMut(u64)) {
        if !name.starts_with(&self.only) {
            return;
        }
        // This gives buffers their final size.
        work(times);
        counted(&mut work, times);
        counted(&mut work, 2 * times);
        println!("{times} {name}{}", self.suffix);
    }

    fn appends(&self) {
        let entry = [7; ENTRY_LEN];
        for (name, durability) in [("buffered", Durability::Buffered), ("flushed", Durability::Flushed)] {
            let stream = self.scratch.stream(name, durability);
            self.case(&format!("append, {name}"), TIMES, |times| {
                for _ in 0..times {
                    stream.append(black_box(entry)).expect("appends");
                }
            });
        }
        let stream = self.scratch.stream("batches", Durability::Flushed);
        let hundred = batch(BATCH as usize, ENTRY_LEN);
        self.case("batch of 100, flushed", TIMES / BATCH, |times| {
            for _ in 0..times {
                stream.append_batch(black_box(&hundred)).expect("appends");
            }
        });
    }

    fn scans(&self) {
        for (name, per_batch) in [("single", 1), ("batches", BATCH)] {
            let stream = self.filled(&format!("scan {name}"), Durability::Flushed, per_batch, None);
            self.case(&format!("scan, {name}"), TIMES, |times| {
                let entries = stream.iter(..times).map(|entry| entry.expect("reads").data().len());
                assert_eq!(entries.sum::<usize>(), times as usize * ENTRY_LEN);
            });
            self.case(&format!("scan by runs, {name}"), TIMES, |times| {
                let mut entries = stream.iter(..times);
                let mut sum = 0;
                while let Some(run) = entries.next_run() {
                    sum += run.expect("reads").entries().map(|entry| entry.data.len()).sum::<usize>();
                }
                assert_eq!(sum, times as usize * ENTRY_LEN);
            });
        }
    }

    /// Gets of entries that were appended one by one, each flushed, and of entries that share
    /// frames of about 6 KiB.
    fn gets(&self) {
        for (name, durability) in [("single", Durability::Flushed), ("shared", Durability::Buffered)] {
            for (place, segment_bytes) in [("sealed", Some(SEGMENT_BYTES)), ("active", None)] {
                let stream = self.filled(&format!("get {name} {place}"), durability, 1, segment_bytes);
                // The active segment contains less than the last quarter.
                let bound = if segment_bytes.is_some() { ENTRIES / 4 * 3 } else { ENTRIES };
                // The first read of each span of a sealed segment reads the whole span.
                (0..bound).for_each(|seq| drop(stream.get(seq).expect("reads")));
                let mut seq = 0;
                self.case(&format!("get, {place}, {name}"), TIMES / 4, |times| {
                    for _ in 0..times {
                        // The step is prime, so that the gets are neither in order nor in the same
                        // frame.
                        seq = (seq + 2_503) % bound;
                        let entry = stream.get(black_box(seq)).expect("reads").expect("is there");
                        assert_eq!(entry.data().len(), ENTRY_LEN);
                    }
                });
            }
        }
    }

    /// Returns a stream of `ENTRIES` entries, appended `per_batch` at a time.
    fn filled(&self, name: &str, each: Durability, per_batch: u64, segment_bytes: Option<u64>) -> Stream {
        let mut options = StreamOptions::new().durability(Durability::Flushed);
        if let Some(bytes) = segment_bytes {
            options = options.segment_bytes(bytes);
        }
        let stream = self.scratch.wal.stream_with(name, options).expect("opens");
        let appending = stream.with_durability(each);
        let entries = batch(per_batch as usize, ENTRY_LEN);
        for _ in 0..ENTRIES / per_batch {
            if per_batch == 1 {
                appending.append([7; ENTRY_LEN]).expect("appends");
            } else {
                appending.append_batch(&entries).expect("appends");
            }
        }
        // A finished segment is sealed only once it is durable.
        stream.sync().expect("syncs");
        stream
    }
}
