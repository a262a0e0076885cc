//! Conditional appends: the comparison, several writers, and repeating an append of unknown
//! outcome.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stratawal::{Batch, Durability, Error, ErrorKind, Options, Stream, Wal};
use stratawal_testkit::{Crash, Fault, Faults, Rng, SimStorage};

/// A log without and one with a journal.
const JOURNAL: [bool; 2] = [false, true];

fn options(journal: bool) -> Options {
    Options::new().journal(journal).journal_mapped(false).maintenance_thread(false)
}

fn batch(entries: &[&str]) -> Batch {
    entries.iter().collect()
}

fn conflict(error: &Error) -> Option<(u64, u64)> {
    match error.kind() {
        ErrorKind::Conflict { expected_next_seq, next_seq } => Some((expected_next_seq, next_seq)),
        _ => None,
    }
}

#[test]
fn append_that_expects_another_seq_is_refused() {
    for journal in JOURNAL {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        assert_eq!(conflict(&stream.append_if(1, &batch(&["early"])).unwrap_err()), Some((1, 0)));
        assert!(!stream.exists(), "a refused append creates nothing");
        for durability in [Durability::Synced, Durability::Flushed, Durability::Buffered] {
            let stream = stream.with_durability(durability);
            let next = stream.next_seq();
            assert_eq!(stream.append_if(next, &batch(&["a", "b"])).unwrap(), next..next + 2);
            for wrong in [next, next + 1, next + 3, u64::MAX] {
                let error = stream.append_if(wrong, &batch(&["c"])).unwrap_err();
                assert_eq!(conflict(&error), Some((wrong, next + 2)));
                assert_eq!(error.stream(), Some("s"));
                let numbers = [wrong, next + 2].map(|seq| error.to_string().contains(&seq.to_string()));
                assert_eq!(numbers, [true; 2], "{error}");
            }
            assert_eq!(stream.append_if(next + 2, &Batch::new()).unwrap(), next + 2..next + 2);
            assert_eq!(conflict(&stream.append_if(next, &Batch::new()).unwrap_err()), Some((next, next + 2)));
        }
        assert_eq!(stream.next_seq(), 6);
        stream.truncate_before(10).unwrap();
        assert_eq!(conflict(&stream.append_if(6, &batch(&["old"])).unwrap_err()), Some((6, 10)));
        assert_eq!(stream.append_if(10, &batch(&["new"])).unwrap(), 10..11);
        wal.close().unwrap();
        assert_eq!(stream.append_if(11, &batch(&["late"])).unwrap_err().kind(), ErrorKind::Closed);
    }
}

/// A batch over 1 MiB takes another path than a short one.
#[test]
fn long_batches_are_compared_too() {
    for journal in JOURNAL {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        let long: Batch = [vec![b'x'; 2 << 20]].into_iter().collect();
        assert_eq!(stream.append_if(0, &long).unwrap(), 0..1);
        assert_eq!(conflict(&stream.append_if(0, &long).unwrap_err()), Some((0, 1)));
        assert_eq!(stream.append_if(1, &long).unwrap(), 1..2);
        assert_eq!(stream.next_seq(), 2);
    }
}

#[test]
fn each_seq_goes_to_one_of_many_writers() {
    const THREADS: u64 = 4;
    const SEQS: u64 = 200;
    for journal in JOURNAL {
        let dir = tempfile::tempdir().unwrap();
        let wal = options(journal).open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap().with_durability(Durability::Flushed);
        let won = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for writer in 0..THREADS {
                let (stream, won) = (stream.clone(), &won);
                scope.spawn(move || {
                    let mut seq = 0;
                    while seq < SEQS {
                        let entry = format!("{writer} expects {seq}");
                        match stream.append_if(seq, &batch(&[&entry])) {
                            Ok(seqs) => {
                                assert_eq!(seqs, seq..seq + 1);
                                won.fetch_add(1, Ordering::Relaxed);
                                seq += 1;
                            }
                            Err(error) => {
                                let (expected, next) = conflict(&error).expect("a conflict");
                                assert!(expected == seq && next > seq, "{error}");
                                seq = next;
                            }
                        }
                    }
                });
            }
        });
        assert_eq!((stream.next_seq(), won.into_inner()), (SEQS, SEQS));
        for entry in stream.iter(..) {
            let entry = entry.unwrap();
            let text = String::from_utf8_lossy(entry.data());
            assert!(text.ends_with(&format!("expects {}", entry.seq())), "{text} is entry {}", entry.seq());
        }
    }
}

/// The recipe in the documentation of `append_if`.
fn append_once(stream: &Stream, seq: u64, event: &[u8]) -> stratawal::Result<bool> {
    stream.reopen()?;
    let batch: Batch = [event].into_iter().collect();
    match stream.append_if(seq, &batch) {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::Conflict { next_seq, .. } if next_seq > seq => {
                stream.sync()?;
                Ok(stream.get(seq)?.is_some_and(|entry| entry.data() == event))
            }
            _ => Err(error),
        },
    }
}

fn open(sim: &SimStorage, journal: bool) -> Wal {
    options(journal).open_on(Arc::new(sim.clone()), Path::new("/log"), false).unwrap()
}

fn count(stream: &Stream, event: &[u8]) -> usize {
    stream.iter(..).filter(|entry| entry.as_ref().unwrap().data() == event).count()
}

/// The `k`th operation on the disk fails within the append. Then the same process repeats the
/// append, or the machine crashes and the next process does.
#[test]
fn append_of_unknown_outcome_is_repeated_once() {
    let mut unknown = 0;
    for journal in JOURNAL {
        for fault in [Fault::Io, Fault::WriteBack] {
            for k in 1..20 {
                for crash in [None, Some(Crash::Kill), Some(Crash::Lost)] {
                    let sim = SimStorage::new(k);
                    let wal = open(&sim, journal);
                    let stream = wal.stream("s").unwrap();
                    stream.append("first").unwrap();
                    sim.set_faults(Some(Faults { after: k, fault, forever: false }));
                    let appended = stream.append_if(1, &batch(&["id 7"]));
                    sim.set_faults(None);
                    unknown += u32::from(appended.is_err());
                    let was_acknowledged = appended.is_ok();
                    let (sim, wal, stream) = match crash {
                        None => (sim, wal, stream),
                        Some(crash) => {
                            let sim = SimStorage::on(sim.disk().crash(crash, &mut Rng::new(k)), k);
                            let wal = open(&sim, journal);
                            let stream = wal.stream("s").unwrap();
                            (sim, wal, stream)
                        }
                    };
                    let what = format!("{journal} {fault:?} {k} {crash:?}");
                    assert!(!was_acknowledged || stream.next_seq() == 2, "{what}");
                    assert!(append_once(&stream, 1, b"id 7").unwrap(), "{what}");
                    assert!(!append_once(&stream, 1, b"id 8").unwrap(), "{what}");
                    assert_eq!((count(&stream, b"id 7"), stream.next_seq()), (1, 2), "{what}");
                    drop(wal);
                    let lost = SimStorage::on(sim.disk().crash(Crash::Lost, &mut Rng::new(1)), 2);
                    assert_eq!(count(&open(&lost, journal).stream("s").unwrap(), b"id 7"), 1, "{what}");
                }
            }
        }
    }
    assert!(unknown > 8, "{unknown}");
}
