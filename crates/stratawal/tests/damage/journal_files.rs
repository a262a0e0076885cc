//! Damage of a commit journal of several files that are all needed: opening for writing refuses and
//! names the journal, or every acknowledged entry exists. Reading shows only entries that were
//! appended.
//!
//! Entries may be missing without an error in one case: a stretch of bytes is zeroed that reaches
//! from an entry to the end of the journal. Then no record is left that attests the entry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use stratawal::{Durability, ErrorKind, Options, StreamOptions, Wal};
use stratawal_frame::FormatFile;
use stratawal_journal::{FileHeader, HEADER_BLOCK_LEN, Image, Lsn};
use stratawal_storage::{MemoryStorage, Storage};
use stratawal_testkit::Rng;

use crate::all;
use crate::check::OWN;
use crate::layout::{change, copy, files, new, read, set_len, swap};

const DIR: &str = "/log/journal";
const NAMES: [&str; 4] = ["a", "b/B", "c", "idle"];
/// The length in bytes of a record's header, and of the header of a part.
const HEADS_LEN: u64 = 16 + 40;
/// The length in bytes of a file's header.
const FILE_HEADER_LEN: u64 = 128;

fn open(storage: &MemoryStorage, read_only: bool) -> stratawal::Result<Wal> {
    let streams = StreamOptions::new().segment_bytes(64 << 10);
    Options::new().stream_defaults(streams).journal(true).journal_bytes(64 << 10).maintenance_thread(false).open_on(
        Arc::new(storage.clone()),
        Path::new("/log"),
        read_only,
    )
}

/// An acknowledged entry.
#[derive(Clone, Debug)]
struct Kept {
    data: Vec<u8>,
    /// The end of the journal once the entry was acknowledged.
    end: Lsn,
}

/// The acknowledged entries of a stream.
#[derive(Clone, Debug, Default)]
struct Known {
    first: u64,
    next: u64,
    /// Also those that were dropped from the beginning.
    entries: BTreeMap<u64, Kept>,
}

/// A log that was killed, and what its streams must have.
struct Log {
    name: &'static str,
    storage: MemoryStorage,
    streams: [Known; 4],
}

fn image(storage: &MemoryStorage) -> Image {
    let format = FormatFile::decode(&read(storage, Path::new("/log/FORMAT"))).expect("a sound FORMAT");
    Image::read(storage, Path::new(DIR), format.wal_id).expect("a sound journal")
}

fn journal_files(storage: &MemoryStorage) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        storage.list(Path::new(DIR)).unwrap().into_iter().map(|entry| Path::new(DIR).join(entry.name)).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    paths.sort();
    paths
}

fn header(storage: &MemoryStorage, path: &Path) -> FileHeader {
    FileHeader::decode(&read(storage, path)).expect("a sound header")
}

/// The files that are needed, oldest first.
fn live_files(storage: &MemoryStorage) -> Vec<PathBuf> {
    let paths = journal_files(storage);
    let oldest = header(storage, paths.last().unwrap()).oldest;
    paths.into_iter().filter(|path| header(storage, path).number >= oldest).collect()
}

/// How many files have records that are needed. The newest one has several.
fn needed_files(storage: &MemoryStorage) -> usize {
    let image = image(storage);
    let firsts: Vec<Lsn> = live_files(storage).iter().map(|path| header(storage, path).first).collect();
    let newest = firsts.last().is_some_and(|first| image.end() - *first > 600);
    firsts.iter().skip(1).filter(|first| **first > image.trim()).count() + usize::from(newest)
}

impl Log {
    fn new(name: &'static str) -> Self {
        Self { name, storage: new(), streams: Default::default() }
    }

    fn append(&mut self, wal: &Wal, at: usize, len: usize, durability: Durability) {
        let known = &mut self.streams[at];
        let mut data = format!("{} {} at {} ", NAMES[at], known.next, image_end(&self.storage)).into_bytes();
        data.resize(data.len() + len, b'.');
        let stream = wal.stream(NAMES[at]).unwrap().with_durability(durability);
        assert_eq!(stream.append(&data[..]).unwrap(), known.next);
        known.entries.insert(known.next, Kept { data, end: image(&self.storage).end() });
        known.next += 1;
    }

    /// Appends until at least `count` files of the journal are needed. The last entry is synced, so
    /// that the end of the journal is attested.
    fn grow(&mut self, wal: &Wal, count: usize, rng: &mut Rng) {
        for _ in 0..400 {
            let at = rng.index(3);
            let durability = if rng.chance(128) { Durability::Synced } else { Durability::Flushed };
            let len = usize::try_from(rng.below(900)).unwrap();
            self.append(wal, at, len, durability);
            if durability == Durability::Synced && needed_files(&self.storage) >= count {
                return;
            }
        }
        panic!("{} does not grow", self.name);
    }

    fn killed(mut self) -> Self {
        self.storage = self.storage.snapshot();
        assert!(needed_files(&self.storage) >= 3, "{}", self.name);
        self
    }
}

fn image_end(storage: &MemoryStorage) -> u64 {
    if storage.list(Path::new(DIR)).is_ok() { image(storage).end().0 } else { 0 }
}

/// Only appends: the journal has everything.
fn appended() -> Log {
    let mut log = Log::new("appended");
    let wal = open(&log.storage, false).unwrap();
    log.append(&wal, 3, 500, Durability::Synced);
    log.grow(&wal, 3, &mut Rng::new(1));
    log.killed()
}

/// Several lives with truncations, deletions and syncs, in which the files of the journal were used
/// again.
fn lived() -> Log {
    let mut log = appended();
    log.name = "lived";
    let mut rng = Rng::new(2);
    for life in 0..3 {
        log.storage = log.storage.snapshot();
        let wal = open(&log.storage, false).unwrap();
        log.grow(&wal, 2, &mut rng);
        wal.sync().unwrap();
        let known = &mut log.streams[1];
        known.first += (known.next - known.first) / 2;
        wal.stream(NAMES[1]).unwrap().truncate_before(known.first).unwrap();
        let known = &mut log.streams[2];
        known.next -= 2;
        wal.stream(NAMES[2]).unwrap().truncate_from(known.next).unwrap();
        wal.stream(&format!("deleted in {life}")).unwrap().append("to be deleted").unwrap();
        wal.delete_stream(&format!("deleted in {life}")).unwrap();
        log.append(&wal, 2, 10, Durability::Flushed);
        log.grow(&wal, 3, &mut rng);
    }
    log.killed()
}

fn logs() -> [Log; 2] {
    [appended(), lived()]
}

/// The number of damaged logs that were opened, and the number that were refused.
#[derive(Default)]
struct Outcomes {
    opened: AtomicUsize,
    refused: AtomicUsize,
}

impl Log {
    /// Checks a damaged copy of this log. Entries that were acknowledged once the journal ended
    /// after `silent_from` may be missing. If `deep`, checks also that nothing is changed, and that
    /// the log works on.
    fn check(&self, what: &str, storage: &MemoryStorage, silent_from: Lsn, deep: bool, outcomes: &Outcomes) {
        let what = format!("{OWN}{}: {what}", self.name);
        let before = if deep { files(storage) } else { Vec::new() };
        self.check_reader(&what, storage);
        let unchanged = || assert!(!deep || files(storage) == before, "{what}: files were changed");
        unchanged();
        match open(storage, false) {
            Err(error) => {
                let kinds = [ErrorKind::Damaged, ErrorKind::NewerFormat];
                assert!(kinds.contains(&error.kind()) && error.to_string().contains(DIR), "{what}: {error}");
                unchanged();
                outcomes.refused.fetch_add(1, Ordering::Relaxed);
            }
            Ok(wal) => {
                outcomes.opened.fetch_add(1, Ordering::Relaxed);
                for (name, known) in NAMES.iter().zip(&self.streams) {
                    known.check(&format!("{what}: {name}"), &wal, name, silent_from);
                }
                if deep {
                    self.check_again(&what, wal, storage);
                }
            }
        }
    }

    /// A reader shows a part of the log, or an error.
    fn check_reader(&self, what: &str, storage: &MemoryStorage) {
        let allowed = |error: &stratawal::Error| {
            let kinds = [ErrorKind::Damaged, ErrorKind::NewerFormat];
            assert!(kinds.contains(&error.kind()), "{what}: {error}");
        };
        let wal = match open(storage, true) {
            Ok(wal) => wal,
            Err(error) => return allowed(&error),
        };
        for (name, known) in NAMES.iter().zip(&self.streams) {
            match wal.stream(name) {
                Ok(stream) => {
                    assert!(stream.next_seq() <= known.next, "{what}: {name} ends at {}", stream.next_seq());
                    for (seq, found) in (stream.first_seq()..).zip(stream.iter(..)) {
                        let found = found.unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
                        let same = known.entries.get(&seq).is_some_and(|kept| kept.data == found.data()[..]);
                        assert!(same && found.seq() == seq, "{what}: {name}: another entry {seq}");
                    }
                }
                Err(error) => allowed(&error),
            }
        }
    }

    /// Appends to each stream, and opens the log once more without a close.
    fn check_again(&self, what: &str, wal: Wal, storage: &MemoryStorage) {
        let ends = NAMES.map(|name| wal.stream(name).unwrap().append("after the damage").unwrap());
        let killed = storage.snapshot();
        drop(wal);
        let wal = open(&killed, false).unwrap_or_else(|error| panic!("{what}: the second opening: {error}"));
        for (name, end) in NAMES.iter().zip(ends) {
            let stream = wal.stream(name).unwrap();
            let last = stream.iter(..).last().unwrap().unwrap();
            assert_eq!((last.seq(), stream.next_seq()), (end, end + 1), "{what}: {name} loses a new entry");
            assert_eq!(&last.data()[..], b"after the damage", "{what}: {name}");
        }
    }
}

impl Known {
    fn check(&self, what: &str, wal: &Wal, name: &str, silent_from: Lsn) {
        let stream = wal.stream(name).unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut seq = stream.first_seq();
        assert_eq!(seq, self.first, "{what}: the first entry");
        for found in stream.iter(..) {
            let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
            let kept = self.entries.get(&seq).filter(|_| seq < self.next);
            let same = kept.is_some_and(|kept| kept.data == found.data()[..]);
            assert!(same && found.seq() == seq, "{what}: another entry {seq}");
            seq += 1;
        }
        let lost = self.entries.range(seq..self.next).next();
        assert!(lost.is_none_or(|(_, lost)| lost.end > silent_from), "{what}: {seq} of {} entries", self.next);
    }
}

/// Runs `one` on each item, on two threads.
fn each<T: Sync>(items: &[T], one: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            one(item);
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(run);
        run();
        other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// The bits of a file to flip: all of its header, of the heads of its records and of the records
/// without entries; a sample of the others. `path` is a live file.
fn bits_to_flip(log: &Log, path: &Path) -> Vec<(u64, u64)> {
    let header = header(&log.storage, path);
    let offset = |lsn: Lsn| HEADER_BLOCK_LEN + (lsn - header.first);
    let heads: Vec<u64> = image(&log.storage)
        .records()
        .iter()
        .filter(|located| located.lsn >= header.first)
        .map(|located| offset(located.lsn))
        .filter(|at| *at < header.file_len)
        .collect();
    let is_head = |at: u64| at < FILE_HEADER_LEN || heads.iter().any(|head| (*head..*head + HEADS_LEN).contains(&at));
    let used = read(&log.storage, path).iter().rposition(|&byte| byte != 0).unwrap() as u64;
    let mut bits = Vec::new();
    for at in 0..header.file_len {
        let one_in = if at > used + 16 { 509 } else { 13 };
        if is_head(at) && all() {
            bits.extend((0..8).map(|bit| (at, bit)));
        } else if if is_head(at) { at % 5 == 0 } else { at % one_in == 0 && (all() || at % 5 == 0) } {
            bits.push((at, at * 5 % 8));
        }
    }
    bits
}

#[test]
fn flipped_bit_of_any_journal_file_is_not_silent() {
    let outcomes = Outcomes::default();
    let logs = logs();
    let mut cases = Vec::new();
    for log in &logs {
        for path in live_files(&log.storage) {
            cases.extend(bits_to_flip(log, &path).into_iter().map(|(at, bit)| (log, path.clone(), at, bit)));
        }
    }
    each(&cases, |(log, path, at, bit)| {
        let storage = log.storage.snapshot();
        change(&storage, path, *at, |bytes| bytes[0] ^= 1 << bit, 1);
        let what = format!("bit {bit} of {at} in {}", path.display());
        log.check(&what, &storage, Lsn(u64::MAX), (at + bit) % 61 == 0, &outcomes);
    });
    let Outcomes { opened, refused } = outcomes;
    let counts = (opened.into_inner(), refused.into_inner());
    println!("volume: {} bits of the files of two journals flipped, {} refused", cases.len(), counts.1);
    assert!(counts.0 > 20 && counts.1 > 500, "{counts:?}");
}

#[test]
pub(crate) fn zeroed_part_of_any_journal_file_is_not_silent() {
    let outcomes = Outcomes::default();
    for log in logs() {
        let end = image(&log.storage).end();
        for path in live_files(&log.storage) {
            let header = header(&log.storage, &path);
            let is_newest = Some(&path) == live_files(&log.storage).last();
            let one_in = if all() || is_newest { 1 } else { 3 };
            for (step, len) in [(512, 512), (4096, 4096), (2048, 4096)] {
                for at in (0..header.file_len).step_by(one_in * step) {
                    let storage = log.storage.snapshot();
                    change(&storage, &path, at, |bytes| bytes.fill(0), len);
                    let reached = header.first + (at + len as u64).saturating_sub(HEADER_BLOCK_LEN);
                    let from = header.first + at.saturating_sub(HEADER_BLOCK_LEN);
                    let silent_from = if is_newest && reached > end { from } else { Lsn(u64::MAX) };
                    let what = format!("{len} zeros at {at} in {}", path.display());
                    log.check(&what, &storage, silent_from, at % 3 == 0, &outcomes);
                }
            }
        }
    }
    assert!(outcomes.refused.into_inner() > 30);
}

#[test]
fn lost_or_cut_files_of_the_journal_are_not_silent() {
    let outcomes = Outcomes::default();
    for log in logs() {
        let paths = live_files(&log.storage);
        for some in 1..1u32 << paths.len() {
            let storage = log.storage.snapshot();
            for (_, path) in paths.iter().enumerate().filter(|(i, _)| some >> i & 1 == 1) {
                storage.remove_file(path).unwrap();
            }
            log.check(&format!("lost files {some:b}"), &storage, Lsn(u64::MAX), true, &outcomes);
        }
        for path in &paths {
            let len = header(&log.storage, path).file_len;
            let cuts = (0..len).step_by(if all() { 64 } else { 2048 });
            for cut in cuts.chain([1, 127, 128, 4095, 4097, len - 1, len + 1, len + 4096]) {
                let storage = log.storage.snapshot();
                set_len(&storage, path, cut);
                log.check(
                    &format!("{} cut to {cut}", path.display()),
                    &storage,
                    Lsn(u64::MAX),
                    cut % 512 == 0,
                    &outcomes,
                );
            }
        }
    }
    assert!(outcomes.refused.into_inner() > 50);
}

fn replace(storage: &MemoryStorage, path: &Path, bytes: &[u8]) {
    let _ = storage.remove_file(path);
    let file = storage.create_new(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

#[test]
fn mixed_up_files_of_the_journal_are_not_silent() {
    let outcomes = Outcomes::default();
    let other = appended_elsewhere();
    for log in logs() {
        let paths = live_files(&log.storage);
        let check = |what: &str, damage: &dyn Fn(&MemoryStorage)| {
            let storage = log.storage.snapshot();
            damage(&storage);
            log.check(what, &storage, Lsn(u64::MAX), true, &outcomes);
        };
        let newest = header(&log.storage, paths.last().unwrap()).number;
        let named = |number: u64| Path::new(DIR).join(format!("{number:020}.jnl"));
        for (i, one) in paths.iter().enumerate() {
            for two in &paths[i + 1..] {
                check("two files swapped", &|storage| swap(storage, one, two));
                check("a copy of the later", &|storage| replace(storage, one, &read(storage, two)));
                check("a copy of the earlier", &|storage| replace(storage, two, &read(storage, one)));
            }
            check("a duplicate after the newest", &|storage| copy(storage, one, &named(newest + 1)));
            check("a duplicate far after", &|storage| copy(storage, one, &named(newest + 7)));
            check("a duplicate as a spare", &|storage| {
                copy(storage, one, &Path::new(DIR).join(".spare-0000000000000abc"))
            });
            check("a duplicate under a foreign name", &|storage| copy(storage, one, &Path::new(DIR).join("1.jnl.bak")));
            for of_other in live_files(&other.storage) {
                let bytes = read(&other.storage, &of_other);
                check("a file of another log", &|storage| replace(storage, one, &bytes));
                check("a file of another log after", &|storage| replace(storage, &named(newest + 1), &bytes));
            }
            check("an empty file after the newest", &|storage| replace(storage, &named(newest + 1), b""));
            check("an emptied file", &|storage| replace(storage, one, b""));
        }
        // A file with a lower number than the oldest holds nothing that is needed.
        let oldest = header(&log.storage, &paths[0]).number;
        if oldest > 1 {
            check("garbage before the oldest", &|storage| replace(storage, &named(oldest - 1), b"garbage"));
        }
    }
    let counts = (outcomes.opened.into_inner(), outcomes.refused.into_inner());
    assert!(counts.0 > 5 && counts.1 > 50, "{counts:?}");
}

fn remove_dir(storage: &MemoryStorage, dir: &Path) {
    for entry in storage.list(dir).unwrap() {
        storage.remove_file(&dir.join(entry.name)).unwrap();
    }
    storage.remove_dir(dir).unwrap();
}

/// The directory of a stream is lost, and the journal still has all of the stream's records.
#[test]
pub(crate) fn lost_directory_of_a_stream_with_records_is_not_silent() {
    for (large, again) in [(false, false), (true, false), (true, true)] {
        let mut storage = new();
        let mut wal = open(&storage, false).unwrap();
        for seq in 0..5 {
            wal.stream("s").unwrap().append(format!("entry {seq}")).unwrap();
        }
        if again {
            storage = storage.snapshot();
            wal = open(&storage, false).unwrap();
        }
        let stream = wal.stream("s").unwrap();
        if large {
            // Too large for the journal: only the files have it.
            stream.append([b'.'; 100_000]).unwrap();
        }
        let count = stream.next_seq();
        let killed = storage.snapshot();
        let parent = Path::new("/log/streams");
        let dirs: Vec<PathBuf> =
            killed.list(parent).unwrap().into_iter().map(|entry| parent.join(entry.name)).collect();
        assert!(!large || !dirs.is_empty(), "the files have the large entry");
        dirs.iter().for_each(|dir| remove_dir(&killed, dir));
        match open(&killed, false).and_then(|wal| wal.stream("s")) {
            Ok(stream) => assert_eq!(stream.next_seq(), count, "{OWN}entries are lost without an error"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged, "{OWN}{error}"),
        }
    }
}

/// The stream gets its directory when a file of the journal is full to any degree.
#[test]
fn lost_directory_beside_a_full_journal_file_is_not_silent() {
    for len in (7800..8300).step_by(8) {
        let storage = new();
        let wal = open(&storage, false).unwrap();
        let stream = wal.stream("s").unwrap();
        stream.append("small").unwrap();
        wal.stream("filler").unwrap().append(vec![b'.'; len]).unwrap();
        // Too large for the journal: only the files have it.
        stream.append([b'.'; 100_000]).unwrap();
        let killed = storage.snapshot();
        remove_dir(&killed, Path::new("/log/streams/s"));
        let found = open(&killed, false).and_then(|wal| wal.stream("s")).map(|stream| stream.next_seq());
        let kind = found.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::Damaged), "{OWN}after a record of {len} bytes");
    }
}

/// Another log with the same names and seqs.
fn appended_elsewhere() -> Log {
    let mut log = Log { storage: MemoryStorage::new().with_seed(77), ..Log::new("elsewhere") };
    let wal = open(&log.storage, false).unwrap();
    log.grow(&wal, 3, &mut Rng::new(1));
    log.killed()
}

/// An older file of the journal as it was earlier: the disk has lost the writes since then.
#[test]
fn outdated_file_of_the_journal_is_not_silent() {
    let outcomes = Outcomes::default();
    let mut log = Log::new("outdated");
    let wal = open(&log.storage, false).unwrap();
    let mut rng = Rng::new(1);
    let mut states = Vec::new();
    while needed_files(&log.storage) < 3 {
        log.append(&wal, rng.index(3), 300, Durability::Synced);
        let path = live_files(&log.storage).pop().unwrap();
        states.push((path.clone(), read(&log.storage, &path)));
    }
    let log = log.killed();
    let live = live_files(&log.storage);
    states.retain(|(path, _)| live[..2].contains(path));
    for (path, bytes) in &states {
        let storage = log.storage.snapshot();
        replace(&storage, path, bytes);
        log.check("an outdated file", &storage, Lsn(u64::MAX), true, &outcomes);
    }
    let refused = outcomes.refused.into_inner();
    assert!(refused > states.len() / 2, "{refused} of {}", states.len());
}
