//! Damage of every kind to logs of every shape. The answer is all that was acknowledged, or an error that says what is
//! lost, with the files as they were.
//!
//! Fewer entries in silence are allowed in one case: where nothing outside of the damaged bytes attests those that are
//! missing, which cannot be told from a torn tail. That is worked out here anew, from what the undamaged files say.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal::{Batch, Durability, ErrorKind, Options, StreamOptions, Wal};
use stratawal_segment::{Access, SegmentFile, SegmentId};
use stratawal_storage::{MemoryStorage, Storage};

const HEADER_LEN: u64 = 128;
/// Where the version stands in a header.
const VERSION: Range<u64> = 8..12;

fn open(storage: &MemoryStorage, read_only: bool) -> stratawal::Result<Wal> {
    let options = Options::new().stream_defaults(StreamOptions::new().frame_bytes(200).segment_bytes(64 << 10));
    options.open_on(Arc::new(storage.clone()), Path::new("/log"), read_only)
}

/// A log with one stream `s` that damage is done to, and one `other` that has to stay well.
struct Layout {
    name: &'static str,
    storage: MemoryStorage,
    first: u64,
    entries: Vec<Vec<u8>>,
    /// Whether the stream was closed cleanly.
    closed: bool,
}

fn entry(seq: u64) -> Vec<u8> {
    let mut bytes = format!("entry {seq} ").into_bytes();
    bytes.resize(bytes.len() + usize::try_from(seq * 13 % 60).unwrap(), b'.');
    bytes
}

/// One life of the log: appends to `s`, and ends as told.
fn live(storage: &MemoryStorage, appends: u64, act: impl FnOnce(&stratawal::Stream), close: bool) -> MemoryStorage {
    let wal = open(storage, false).unwrap();
    let (stream, other) = (wal.stream("s").unwrap(), wal.stream("other").unwrap());
    other.append("of the other").unwrap();
    for i in 0..appends {
        let next = stream.next_seq();
        if i % 3 == 0 {
            let batch: Batch = (next..next + 4).map(entry).collect();
            stream.append_batch(&batch).unwrap();
        } else {
            stream.append(entry(next)).unwrap();
        }
    }
    act(&stream);
    if close {
        wal.close().unwrap();
    }
    // Copied before the log is dropped, which would close it.
    storage.snapshot()
}

fn new() -> MemoryStorage {
    MemoryStorage::new().with_seed(1).with_clock(1_000_000, 10)
}

fn nothing(_: &stratawal::Stream) {}

fn layout(name: &'static str, storage: MemoryStorage, first: u64, closed: bool) -> Layout {
    let next = open(&storage.snapshot(), true).unwrap().stream("s").unwrap().next_seq();
    Layout { name, storage, first, entries: (first..next).map(entry).collect(), closed }
}

/// Segments that follow each other because they are full: too long to damage bit by bit.
fn rotated() -> [Layout; 2] {
    let rotated = |close| live(&new(), 1500, nothing, close);
    [layout("rotated, closed", rotated(true), 0, true), layout("rotated, killed", rotated(false), 0, false)]
}

fn layouts() -> Vec<Layout> {
    let one_closed = live(&new(), 12, nothing, true);
    let one_killed = live(&new(), 12, nothing, false);
    // Each recovery begins a segment.
    let many = |close| (0..3).fold(new(), |storage, life| live(&storage, 6, nothing, close && life == 2));
    let cut = |close| {
        let storage = (0..2).fold(new(), |storage, _| live(&storage, 8, nothing, false));
        let truncate = |stream: &stratawal::Stream| {
            stream.truncate_before(5).unwrap();
            stream.truncate_from(stream.next_seq() - 3).unwrap();
            stream.append(entry(stream.next_seq())).unwrap();
        };
        live(&storage, 4, truncate, close)
    };
    vec![
        layout("one segment, closed", one_closed, 0, true),
        layout("one segment, killed", one_killed, 0, false),
        layout("many segments, closed", many(true), 0, true),
        layout("many segments, killed", many(false), 0, false),
        layout("cut on both sides, closed", cut(true), 5, true),
        layout("cut on both sides, killed", cut(false), 5, false),
    ]
}

const DIR: &str = "/log/streams/s";

impl Layout {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = self.storage.list(Path::new(DIR)).unwrap();
        entries.into_iter().map(|entry| Path::new(DIR).join(entry.name)).collect()
    }

    fn len(&self, path: &Path) -> u64 {
        self.storage.open(path, Access::Read).unwrap().len().unwrap()
    }

    /// How far anything attests that entries were durable, where these bytes of this file say nothing any more.
    fn attested(&self, damaged: &Path, bytes: &Range<u64>) -> u64 {
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let mut attested = 0;
        for path in self.segments() {
            let id = SegmentId::parse(path.file_name().unwrap()).unwrap();
            let file = SegmentFile::open(&storage, Path::new(DIR), id, Access::Read).unwrap();
            let hit = |at: Range<u64>| path == damaged && at.start < bytes.end && bytes.start < at.end;
            if !hit(0..HEADER_LEN) {
                attested = attested.max(file.header().durable.0);
            }
            let mut frames = Vec::new();
            let chain =
                file.walk(&mut |at, frame| frames.push((at.0..at.0 + frame.frame_len(), frame.attests))).unwrap();
            // The MARK behind the chain.
            let mark = file.attestations(chain.end).unwrap().attested;
            frames.push((chain.end.0..chain.end.0 + 48, Some(mark)));
            for (at, attests) in frames {
                if !hit(at) {
                    attested = attested.max(attests.map_or(0, |seq| seq.0));
                }
            }
        }
        attested
    }

    /// Holds what the log with this damage answers against what it has to. `silent_from`: entries from there on may be
    /// missing in silence.
    fn judge(&self, what: &str, storage: &MemoryStorage, silent_from: u64) {
        let what = format!("{}: {what}", self.name);
        let before = files(storage);
        // Another process, and verify, which share what they see; they change nothing.
        let looked = open(storage, true).map(|wal| self.read(&what, &wal, silent_from));
        assert!(files(storage) == before, "{what}: reading changed files");
        let wal = match open(storage, false) {
            Ok(wal) => wal,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {error}");
                return;
            }
        };
        let found = self.read(&what, &wal, silent_from);
        assert_eq!(looked.ok(), Some(found), "{what}: another process sees something else");
        // Fresh copies from here on: opening may have gone on behind the damage.
        if found == Read::Refused {
            let now = files(storage);
            let of_stream = |files: &[(PathBuf, Vec<u8>)]| {
                files.iter().filter(|file| file.0.starts_with(DIR)).cloned().collect::<Vec<_>>()
            };
            assert!(of_stream(&now) == of_stream(&before), "{what}: a damaged stream was changed");
        }
        if let Read::All = found {
            let stream = wal.stream("s").unwrap();
            let seq = stream.append("after").unwrap();
            assert!(seq >= self.next().min(silent_from), "{what}: {seq} was acknowledged before");
        }
        let other = wal.stream("other").unwrap();
        assert!(other.append("goes on").is_ok(), "{what}: the other stream is held up");
    }

    fn read(&self, what: &str, wal: &Wal, silent_from: u64) -> Read {
        let damaged = |error: &stratawal::Error| {
            assert_eq!((error.kind(), error.stream()), (ErrorKind::Damaged, Some("s")), "{what}: {error}");
            if let Some((first, last)) = error.lost() {
                assert!(first <= last, "{what}: {error}");
            }
        };
        let stream = match wal.stream("s") {
            Ok(stream) => stream,
            Err(error) => {
                damaged(&error);
                return Read::Refused;
            }
        };
        let mut next = stream.first_seq();
        assert!(next <= self.first.max(silent_from.min(self.first)), "{what}: begins at {next}");
        for found in stream.iter(..) {
            match found {
                Ok(found) => {
                    assert_eq!(found.seq(), next, "{what}");
                    if next >= self.first {
                        assert_eq!(found.data()[..], entry(next), "{what}: entry {next}");
                    }
                    next += 1;
                }
                Err(error) => {
                    damaged(&error);
                    assert!(error.segment().is_some() && error.offset().is_some(), "{what}: {error:?}");
                    return Read::Part;
                }
            }
        }
        assert!(next >= self.next().min(silent_from), "{what}: {next} of {} entries, in silence", self.next());
        Read::All
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    All,
    /// Up to an error.
    Part,
    /// The stream did not open.
    Refused,
}

fn files(storage: &MemoryStorage) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from("/log")];
    while let Some(dir) = dirs.pop() {
        for entry in storage.list(&dir).unwrap() {
            let path = dir.join(entry.name);
            match storage.open(&path, Access::Read) {
                Ok(file) => {
                    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
                    file.read_exact_at(&mut bytes, 0).unwrap();
                    found.push((path, bytes));
                }
                Err(_) => dirs.push(path),
            }
        }
    }
    found.sort();
    found
}

fn change(storage: &MemoryStorage, path: &Path, at: u64, change: impl Fn(&mut [u8]), len: usize) {
    let file = storage.open(path, Access::ReadWrite).unwrap();
    let mut bytes = vec![0; len];
    let n = file.read_at(&mut bytes, at).unwrap();
    change(&mut bytes[..n]);
    file.write_all_at(&bytes[..n], at).unwrap();
}

/// All bits where `STRATAWAL_ALL_BITS` is set (`cargo xtask sweep`); else one in every fifth byte, and of the zeros behind
/// the last frame a sample.
#[test]
fn a_flipped_bit_loses_nothing_in_silence() {
    let all = std::env::var_os("STRATAWAL_ALL_BITS").is_some();
    for layout in layouts() {
        for path in layout.segments() {
            let bytes = files(&layout.storage).into_iter().find(|file| file.0 == path).unwrap().1;
            let used = bytes.iter().rposition(|&b| b != 0).unwrap() as u64;
            for at in 0..layout.len(&path) {
                let passed_over = at > used + 16 && at % 509 != 0 || at > HEADER_LEN && at % 5 != 0;
                if passed_over && !all || VERSION.contains(&at) {
                    continue;
                }
                let bits = if all { 0..8 } else { at * 5 % 8..at * 5 % 8 + 1 };
                // Nothing but these bytes is damaged, and what they attested is taken from that alone.
                let silent_from = if layout.closed { u64::MAX } else { layout.attested(&path, &(at..at + 1)) };
                for bit in bits {
                    let storage = layout.storage.snapshot();
                    change(&storage, &path, at, |bytes| bytes[0] ^= 1 << bit, 1);
                    layout.judge(&format!("bit {bit} of {at} in {}", path.display()), &storage, silent_from);
                }
            }
        }
    }
}

/// The version is looked at before the checksum, so that a newer format can have another one.
#[test]
fn a_damaged_version_is_refused_as_newer_or_as_damage() {
    for layout in layouts() {
        for path in layout.segments() {
            for at in VERSION {
                let storage = layout.storage.snapshot();
                change(&storage, &path, at, |bytes| bytes[0] ^= 0x10, 1);
                let before = files(&storage);
                for read_only in [true, false] {
                    let error = open(&storage, read_only).unwrap().stream("s").unwrap_err();
                    assert!(matches!(error.kind(), ErrorKind::NewerFormat | ErrorKind::Damaged), "{error}");
                    assert_eq!(error.stream(), Some("s"));
                }
                let of_stream = |files: Vec<(PathBuf, Vec<u8>)>| -> Vec<_> {
                    files.into_iter().filter(|file| file.0.starts_with(DIR)).collect()
                };
                assert!(of_stream(files(&storage)) == of_stream(before));
            }
        }
    }
}

#[test]
fn a_zeroed_page_or_sector_loses_nothing_in_silence() {
    for layout in layouts() {
        for path in layout.segments() {
            for (step, len) in [(4096, 4096), (512, 512), (2048, 4096)] {
                for at in (0..layout.len(&path)).step_by(step) {
                    let bytes = at..at + len as u64;
                    let silent_from = if layout.closed { u64::MAX } else { layout.attested(&path, &bytes) };
                    let storage = layout.storage.snapshot();
                    change(&storage, &path, at, |bytes| bytes.fill(0), len);
                    layout.judge(&format!("{bytes:?} zeroed in {}", path.display()), &storage, silent_from);
                }
            }
        }
    }
}

#[test]
fn a_cut_file_loses_nothing_in_silence() {
    for layout in layouts() {
        for path in layout.segments() {
            let len = layout.len(&path);
            let near = |at: u64| at.saturating_sub(2)..(at + 3).min(len);
            let borders = (0..len).step_by(512).chain([HEADER_LEN, len]).flat_map(near);
            for cut in borders.chain((0..len).step_by(97)) {
                // The rule of Length tells a cut newest file, wherever its chain ends, but at one length in 4,096.
                let lawful = cut % 4096 == 8;
                let silent_from = if lawful { layout.attested(&path, &(cut..len)) } else { u64::MAX };
                let storage = layout.storage.snapshot();
                storage.open(&path, Access::ReadWrite).unwrap().set_len(cut).unwrap();
                layout.judge(&format!("{} cut to {cut} of {len}", path.display()), &storage, silent_from);
            }
        }
    }
}

#[test]
fn a_file_that_is_missing_or_another_loses_nothing_in_silence() {
    for layout in layouts().into_iter().chain(rotated()) {
        let segments = layout.segments();
        let judge = |what: String, act: &dyn Fn(&MemoryStorage)| {
            let storage = layout.storage.snapshot();
            act(&storage);
            layout.judge(&what, &storage, u64::MAX);
        };
        let others = layout.storage.list(Path::new("/log/streams/other")).unwrap();
        let other = Path::new("/log/streams/other").join(&others.last().unwrap().name);
        for path in &segments {
            judge(format!("{} removed", path.display()), &|storage| storage.remove_file(path).unwrap());
            judge(format!("{} a folder", path.display()), &|storage| {
                storage.remove_file(path).unwrap();
                storage.create_dir(path).unwrap();
            });
            let renamed = Path::new(DIR).join("00000000000000000003-000000ff.seg");
            judge(format!("{} renamed", path.display()), &|storage| storage.rename(path, &renamed).unwrap());
            judge(format!("{} doubled", path.display()), &|storage| copy(storage, path, &renamed));
            judge(format!("{} is the other stream's", path.display()), &|storage| {
                storage.remove_file(path).unwrap();
                copy(storage, &other, path);
            });
            for with in segments.iter().filter(|with| *with != path) {
                judge(format!("{} swapped with {}", path.display(), with.display()), &|storage| {
                    let aside = Path::new("/log/aside");
                    storage.rename(path, aside).unwrap();
                    storage.rename(with, path).unwrap();
                    storage.rename(aside, with).unwrap();
                });
            }
        }
    }
}

fn copy(storage: &MemoryStorage, from: &Path, to: &Path) {
    let bytes = files(storage).into_iter().find(|file| file.0 == from).unwrap().1;
    storage.create_new(to).unwrap().write_all_at(&bytes, 0).unwrap();
}

#[test]
fn a_lost_or_damaged_format_file_is_an_error_unless_a_copy_is_whole() {
    for layout in layouts() {
        let path = Path::new("/log/FORMAT");
        let len = layout.len(path);
        for at in 0..len {
            let storage = layout.storage.snapshot();
            change(&storage, path, at, |bytes| bytes[0] ^= 4, 1);
            // One copy of two is whole.
            let wal = open(&storage, false).unwrap_or_else(|e| panic!("byte {at}: {e}"));
            assert_eq!(layout.read(&format!("byte {at} of FORMAT"), &wal, u64::MAX), Read::All);
        }
        let lose = |storage: &MemoryStorage| storage.remove_file(Path::new("/log/FORMAT"));
        let empty = |storage: &MemoryStorage| {
            storage.open(Path::new("/log/FORMAT"), Access::ReadWrite).and_then(|file| file.set_len(0))
        };
        for act in [&lose as &dyn Fn(&MemoryStorage) -> std::io::Result<()>, &empty] {
            let storage = layout.storage.snapshot();
            act(&storage).unwrap();
            let before = files(&storage);
            for read_only in [false, true] {
                assert_eq!(open(&storage, read_only).unwrap_err().kind(), ErrorKind::Damaged);
            }
            assert!(files(&storage) == before);
        }
        let storage = layout.storage.snapshot();
        storage.remove_file(Path::new("/log/LOCK")).unwrap();
        assert_eq!(layout.read("LOCK lost", &open(&storage, false).unwrap(), u64::MAX), Read::All);
    }
}

/// The limit that is stated: told from nothing, a torn tail.
#[test]
fn a_zeroed_end_that_nothing_attests_looks_like_a_torn_tail() {
    let layout = layouts().swap_remove(1);
    let path = layout.segments().pop().unwrap();
    let storage = layout.storage.snapshot();
    let len = usize::try_from(layout.len(&path)).unwrap();
    change(&storage, &path, 400, |bytes| bytes.fill(0), len);
    let wal = open(&storage, false).unwrap();
    let stream = wal.stream("s").unwrap();
    assert!(stream.next_seq() < layout.next(), "nothing is left that says there was more");
    assert_eq!(stream.with_durability(Durability::Synced).append("x").unwrap() + 1, stream.next_seq());
}

/// The sweeps find what they are there for.
#[cfg(stratawal_faults)]
mod seeded {
    use std::panic::catch_unwind;

    use stratawal_stream::faults::{Fault, seed};

    fn is_found_by(fault: Fault, sweep: fn()) {
        seed(Some(fault));
        let tried = catch_unwind(sweep);
        seed(None);
        assert!(tried.is_err(), "{fault:?} is not found");
    }

    #[test]
    fn zeros_that_are_taken_for_the_end_are_found() {
        is_found_by(Fault::ZerosAreTheEnd, super::a_zeroed_page_or_sector_loses_nothing_in_silence);
    }

    #[test]
    fn a_seal_that_names_no_successor_is_found() {
        is_found_by(Fault::SealNamesNone, super::a_file_that_is_missing_or_another_loses_nothing_in_silence);
    }
}
