//! Mixes the files of two copies of one stream, both of which were continued. Each mixture is
//! either exactly one of the two streams, or damage. In the latter case the error names both
//! segments that do not fit together, and no file is changed.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use common::{DIR, location};
use stratawal_storage::{Access, MemoryStorage, Storage};
use stratawal_stream::{
    CheckState, DamageKind, Durability, Entry, Error, LogContext, Salvaged, StreamLog, StreamOptions, Visibility,
    salvage, verify,
};

/// A step of a copy. `Kill` and `Close` end one life and begin the next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Append(u64),
    /// Appends without a sync, so that nothing attests these entries.
    Flush(u64),
    Kill,
    Close,
    /// Drops this many entries from the end.
    CutLast(u64),
    /// Drops this many entries from the beginning.
    DropFirst(u64),
}
use Step::{Append, Close, CutLast, DropFirst, Flush, Kill};

/// Three entries fill a segment.
fn options() -> StreamOptions {
    StreamOptions::new().segment_bytes(64 << 10)
}

fn open(storage: &MemoryStorage, read_only: bool) -> Result<StreamLog, Error> {
    let context = LogContext::new(Arc::new(storage.clone())).read_only(read_only);
    StreamLog::open(Arc::new(context), location(), options())
}

/// An entry that only this copy appends. With `alike`, the last entry of each full segment is the
/// same in both copies.
fn entry(copy: u8, seq: u64, alike: bool) -> Vec<u8> {
    let copy = if alike && seq % 3 == 2 { b'=' } else { copy };
    let mut bytes = vec![copy; 20 << 10];
    bytes[..8].copy_from_slice(&seq.to_le_bytes());
    bytes
}

/// Continues a copy of `storage`, with its own random numbers, and with its own clock unless
/// `alike`. The copy is killed at the end, unless the last step is `Close`.
fn continued(storage: &MemoryStorage, copy: u8, steps: &[Step], alike: bool) -> MemoryStorage {
    let mut storage = storage.snapshot().with_seed(u64::from(copy));
    if !alike {
        storage = storage.with_clock(1_700_000_000_000_000 + u64::from(copy), 10);
    }
    for life in steps.split_inclusive(|step| matches!(step, Kill | Close)) {
        let log = open(&storage, false).unwrap();
        for step in life {
            match *step {
                Append(count) | Flush(count) => (0..count).for_each(|_| {
                    let is_synced = matches!(step, Append(_));
                    let durability = if is_synced { Durability::Synced } else { Durability::Flushed };
                    log.append(&entry(copy, log.next_seq(), alike), durability).unwrap();
                }),
                CutLast(count) => log.truncate_from(log.next_seq().saturating_sub(count).max(log.first_seq())).unwrap(),
                DropFirst(count) => log.truncate_before((log.first_seq() + count).min(log.next_seq())).unwrap(),
                Close => log.close().unwrap(),
                Kill => {}
            }
        }
        // Copied before the log is dropped, which would close it.
        storage = storage.snapshot();
    }
    storage
}

type Files = BTreeMap<OsString, Vec<u8>>;

fn files(storage: &MemoryStorage) -> Files {
    let read = |name: OsString| {
        let file = storage.open(&Path::new(DIR).join(&name), Access::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        (name, bytes)
    };
    storage.list(Path::new(DIR)).unwrap().into_iter().map(|found| read(found.name)).collect()
}

fn with_files(files: &Files) -> MemoryStorage {
    let storage = MemoryStorage::new().with_seed(99);
    storage.create_dir(Path::new("/streams")).unwrap();
    storage.create_dir(Path::new(DIR)).unwrap();
    for (name, bytes) in files {
        storage.create_new(&Path::new(DIR).join(name)).unwrap().write_all_at(bytes, 0).unwrap();
    }
    storage
}

/// The first seq, and every entry.
type Content = (u64, Vec<Vec<u8>>);

fn content(storage: &MemoryStorage, read_only: bool) -> Result<Content, Error> {
    let log = open(storage, read_only)?;
    let entries: Result<Vec<_>, _> = log.iter(.., Visibility::Stable).map(|e| e.map(|e| e.data().to_vec())).collect();
    Ok((log.first_seq(), entries?))
}

#[derive(Default, Debug)]
struct Found {
    mixtures: usize,
    /// Mixtures refused as two histories.
    histories: usize,
    wrong: Vec<String>,
}

impl Found {
    /// Tries all mixtures of the files of two copies. Each name gets the file from one copy or the
    /// other, or no file if that copy has none.
    fn mix(&mut self, what: &str, copies: &[MemoryStorage; 2]) {
        let sides = [files(&copies[0]), files(&copies[1])];
        let lawful = [content(&copies[0], true).unwrap(), content(&copies[1], true).unwrap()];
        let names: BTreeSet<&OsString> = sides.iter().flat_map(Files::keys).collect();
        let differ: Vec<_> = names.iter().filter(|name| sides[0].get(**name) != sides[1].get(**name)).collect();
        for choice in 0..1_u32 << differ.len() {
            let mut mixed = sides[0].clone();
            let from_other = (0..).zip(&differ).filter(|(i, _)| choice >> i & 1 == 1);
            for (_, name) in from_other {
                match sides[1].get(**name) {
                    Some(bytes) => mixed.insert((**name).clone(), bytes.clone()),
                    None => mixed.remove(**name),
                };
            }
            self.try_one(&format!("{what}, choice {choice:b} of {differ:?}"), &mixed, &lawful);
        }
    }

    fn try_one(&mut self, what: &str, mixed: &Files, lawful: &[Content; 2]) {
        self.mixtures += 1;
        let storage = with_files(mixed);
        let sound = content(&storage, true).is_ok();
        let context = Arc::new(LogContext::new(Arc::new(storage)).read_only(true));
        let check = verify(&context, &location(), &options()).unwrap().unwrap();
        if sound != (check.state != CheckState::Damaged) {
            self.wrong.push(format!("{what}: verify finds {check:?}, and reading every entry succeeds: {sound}"));
        }
        self.look_before_damage(what, &context, lawful);
        self.open_both_ways(what, mixed, lawful);
    }

    /// Reads a mixture that is refused as two histories: the entries before the damage, and the
    /// entries that salvage is certain of.
    fn look_before_damage(&mut self, what: &str, context: &Arc<LogContext>, lawful: &[Content; 2]) {
        let (log, damage) = StreamLog::open_before_damage(Arc::clone(context), location(), options()).unwrap();
        if !damage.is_some_and(|error| error.damage() == Some(DamageKind::History)) {
            return;
        }
        let readable = log.iter(.., Visibility::Stable).map_while(Result::ok);
        if !is_of_one(readable, lawful) {
            self.wrong.push(format!("{what}: what precedes the damage is of both"));
        }
        let certain =
            salvage(context, &location(), &options()).unwrap().unwrap().filter_map(|item| match item.unwrap() {
                Salvaged::Entry(entry) => Some(entry),
                _ => None,
            });
        if !is_of_one(certain, lawful) {
            self.wrong.push(format!("{what}: salvage is certain of entries of both"));
        }
    }

    fn open_both_ways(&mut self, what: &str, mixed: &Files, lawful: &[Content; 2]) {
        for read_only in [true, false] {
            let storage = with_files(mixed);
            match content(&storage, read_only) {
                Ok(found) if lawful.contains(&found) => {}
                Ok(found) => self.wrong.push(format!("{what}: opens with {} entries of neither", found.1.len())),
                Err(error) => {
                    self.histories += usize::from(error.damage() == Some(DamageKind::History));
                    if let Some(why) = fault_of(&error, mixed) {
                        self.wrong.push(format!("{what}: {why}: {error}"));
                    }
                    if open(&storage, false).is_err() && files(&storage) != *mixed {
                        self.wrong.push(format!("{what}: refused, and files were changed: {error}"));
                    }
                }
            }
        }
    }
}

/// Whether all of these entries belong to one of the two streams. They may include entries that
/// this stream has dropped from its beginning, because the file with that START may not be read.
fn is_of_one(entries: impl Iterator<Item = Entry>, lawful: &[Content; 2]) -> bool {
    let found: Vec<_> = entries.collect();
    lawful.iter().any(|(first, entries)| {
        found.iter().filter(|found| found.seq() >= *first).all(|found| {
            let at = usize::try_from(found.seq() - first).unwrap();
            entries.get(at).is_some_and(|entry| entry[..] == found.data()[..])
        })
    })
}

/// Returns the reason why the error itself is wrong, if it is.
fn fault_of(error: &Error, mixed: &Files) -> Option<&'static str> {
    match error.damage() {
        Some(DamageKind::History) => {
            let text = error.to_string();
            let named = mixed.keys().filter(|name| text.contains(name.to_str().unwrap())).count();
            (named != 2 || error.segment().is_none()).then_some("does not name both segments")
        }
        Some(_) => None,
        None => Some("is not damage"),
    }
}

fn new() -> MemoryStorage {
    let storage = MemoryStorage::new().with_seed(1).with_clock(1_600_000_000_000_000, 0);
    storage.create_dir(Path::new("/streams")).unwrap();
    storage
}

/// Every pair of these lives, after each of the earlier lives.
fn all_pairs() -> Found {
    let before: [&[Step]; 4] = [
        &[Append(2), Kill],
        &[Append(5), Close],
        &[Append(4), Kill, Append(2), Kill],
        &[Append(7), CutLast(2), Append(1), Kill],
    ];
    let lives: [&[Step]; 13] = [
        &[Append(1)],
        &[Append(5)],
        &[Append(6), Close],
        &[Kill, Append(2)],
        &[Append(2), Kill, Kill, Append(2), Close],
        &[CutLast(1), Append(3)],
        &[Append(2), CutLast(4), Append(1), Close, Append(3)],
        &[DropFirst(4), Append(4), Close],
        &[Append(3), CutLast(3), Append(5)],
        &[Append(1), Close, Append(1), Close],
        &[Flush(5)],
        &[Flush(1), DropFirst(2), Flush(1)],
        &[Flush(4), Kill, Flush(2)],
    ];
    let mut found = Found::default();
    for common in before {
        let common = continued(&new(), b'-', common, false);
        for (i, one) in lives.iter().enumerate() {
            for other in &lives[i..] {
                let copies = [continued(&common, b'a', one, false), continued(&common, b'b', other, false)];
                found.mix(&format!("{one:?} and {other:?}"), &copies);
            }
        }
    }
    found
}

/// Both copies fill the same segments, and the last frame of each segment is the same in both, to
/// the microsecond. Only salts distinguish the segments.
fn pairs_alike() -> Found {
    let mut found = Found::default();
    let common = continued(&new(), b'-', &[Append(1), Close], true);
    for (one, other) in [(4, 4), (7, 7), (7, 10)] {
        let copies =
            [continued(&common, b'a', &[Append(one)], true), continued(&common, b'b', &[Append(other), Close], true)];
        found.mix(&format!("{one} and {other} entries"), &copies);
    }
    found
}

#[test]
fn mixed_files_are_one_history_or_damage() {
    let found = all_pairs();
    println!("volume: {} mixtures, {} of them refused as two histories", found.mixtures, found.histories);
    assert!(
        found.wrong.is_empty(),
        "{} are wrong; some: {:#?}",
        found.wrong.len(),
        &found.wrong[..found.wrong.len().min(4)]
    );
    assert!(found.histories > 1000, "{found:?}");
}

#[test]
fn salts_distinguish_copies_that_end_alike() {
    let found = pairs_alike();
    assert!(
        found.wrong.is_empty(),
        "{} are wrong; some: {:#?}",
        found.wrong.len(),
        &found.wrong[..found.wrong.len().min(4)]
    );
    assert!(found.histories > 10, "{found:?}");
}

#[cfg(stratawal_faults)]
#[test]
fn seeded_salts_not_compared_are_found() {
    stratawal_stream::FailPoint::SaltsIgnored.activate();
    let found = pairs_alike();
    stratawal_stream::FailPoint::deactivate();
    assert!(!found.wrong.is_empty(), "{found:?}");
}
