//! The work whose instructions `cargo xtask instructions` counts, under callgrind, which dumps what
//! it has counted when
//! [`counted`] ends. For each case that is twice: so often, and twice as often. The difference is free of what an
//! iterator, or the first use of anything, costs once. What is printed says which dumps are of
//! what.
//!
//! One thread, and the same work each time: nothing here goes by the clock or by chance. With the
//! beginning of a name for an argument, other cases are left out; which functions take the
//! instructions is then told by
//!
//! ```sh
//! valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*::counted' --callgrind-out-file=target/where \
//!     target/release/instructions "get, sealed" && callgrind_annotate target/where
//! ```
#![forbid(unsafe_code)]

use std::hint::black_box;

use stratawal::{Durability, Stream, StreamOptions};
use stratawal_benches::{Scratch, batch};

const ENTRY_LEN: usize = 128;

/// In a batch.
const BATCH: u64 = 100;

/// How often; twice as many in the second dump of each case.
const TIMES: u64 = 4_000;

/// What the logs have that are read: a chunk of the index and many frames.
const ENTRIES: u64 = 2 * TIMES;

/// Small enough that most of `ENTRIES` is sealed.
const SEGMENT_BYTES: u64 = 128 << 10;

fn main() {
    let cases = Cases { scratch: Scratch::new(), only: std::env::args().nth(1).unwrap_or_default() };
    cases.appends();
    cases.scans();
    cases.gets();
}

/// Does it so often, and is what callgrind counts; its name stands in xtask.
#[inline(never)]
fn counted(work: &mut dyn FnMut(u64), times: u64) {
    work(times);
    // A call at the very end would be a jump, and this would have ended before it.
    black_box(());
}

struct Cases {
    scratch: Scratch,
    /// How the names of those begin that are wanted.
    only: String,
}

impl Cases {
    /// One of them: the work of `times` operations.
    fn case(&self, name: &str, times: u64, mut work: impl FnMut(u64)) {
        if !name.starts_with(&self.only) {
            return;
        }
        // Buffers have their size by then.
        work(times);
        counted(&mut work, times);
        counted(&mut work, 2 * times);
        println!("{times} {name}");
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
                    sum += run.expect("reads").entries().map(|(_, data)| data.len()).sum::<usize>();
                }
                assert_eq!(sum, times as usize * ENTRY_LEN);
            });
        }
    }

    /// Of entries that were appended one by one, each flushed, and of those that waited and share
    /// frames of some 6 KiB.
    fn gets(&self) {
        for (name, durability) in [("single", Durability::Flushed), ("shared", Durability::Buffered)] {
            for (place, segment_bytes) in [("sealed", Some(SEGMENT_BYTES)), ("active", None)] {
                let stream = self.filled(&format!("get {name} {place}"), durability, 1, segment_bytes);
                // The segment that is written has less than the last quarter.
                let bound = if segment_bytes.is_some() { ENTRIES / 4 * 3 } else { ENTRIES };
                // Each span of a sealed segment is gone through at its first read.
                (0..bound).for_each(|seq| drop(stream.get(seq).expect("reads")));
                let mut seq = 0;
                self.case(&format!("get, {place}, {name}"), TIMES / 4, |times| {
                    for _ in 0..times {
                        // A prime step: neither in order nor in the same frame.
                        seq = (seq + 2_503) % bound;
                        let entry = stream.get(black_box(seq)).expect("reads").expect("is there");
                        assert_eq!(entry.data().len(), ENTRY_LEN);
                    }
                });
            }
        }
    }

    /// A stream of `ENTRIES`, appended so many at a time.
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
        // What is finished is sealed only once it is durable.
        stream.sync().expect("syncs");
        stream
    }
}
