//! A reader that looks again while another process writes sees the same as a reader that looks for
//! the first time, but reads only the new entries.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stratawal::{Durability, Entry, ErrorKind, Iter, Options, Stream, StreamOptions, Wal};
use stratawal_storage::{Access, Storage, UnixStorage};
use stratawal_testkit::{HookedStorage, Operation, Rng, SimStorage};

const LOG: &str = "/log";
/// After this time a file whose timestamp is the same is known to be unchanged.
const SETTLED_MICROS: u64 = 3_100_000;

/// Looks at the journal are in another file.
fn without_journal() -> Options {
    Options::new().journal(false)
}

fn small() -> Options {
    let streams = StreamOptions::new().segment_bytes(64 << 10).frame_bytes(500);
    without_journal().stream_defaults(streams.unsynced_bytes_max(1 << 30).unsynced_segments_max(5))
}

fn reader(disk: &SimStorage) -> Stream {
    small().open_on(Arc::new(disk.clone()), Path::new(LOG), true).unwrap().stream("s").unwrap()
}

/// An entry that differs from all others.
fn text(number: u64) -> Vec<u8> {
    let len = 8 + usize::try_from(number * 37 % 900).unwrap();
    number.to_le_bytes().into_iter().cycle().take(len).collect()
}

fn entries(stream: &Stream) -> (u64, Vec<Vec<u8>>) {
    (stream.first_seq(), stream.iter(..).map(|entry| entry.unwrap().into_data().to_vec()).collect())
}

/// An iterator, the entries that it still has to return, and the seq of the first of them.
struct Held(Iter, Vec<Vec<u8>>, u64);

/// A reader that looks many times and is compared with a reader that looks for the first time.
struct Follower {
    disk: SimStorage,
    stream: Option<Stream>,
    held: Vec<Held>,
    rng: Rng,
    looks: u64,
    unchanged: u64,
}

impl Follower {
    fn look(&mut self) {
        // Some looks fall into the same tick of the files' clock; others are far apart.
        self.disk.let_pass([0, 100, 12_000, 60_000, SETTLED_MICROS][self.rng.index(5)]);
        let Ok(wal) = small().open_on(Arc::new(self.disk.clone()), Path::new(LOG), true) else {
            assert!(self.stream.is_none(), "the stream existed");
            return;
        };
        let fresh = wal.stream("s").unwrap();
        let stream = self.stream.get_or_insert_with(|| reader(&self.disk));
        let before = stream.first_seq()..stream.next_seq();
        stream.reopen().unwrap();
        assert_eq!(stream.exists(), fresh.exists());
        assert_eq!(stream.first_seq()..stream.next_seq(), fresh.first_seq()..fresh.next_seq(), "was {before:?}");
        self.looks += 1;
        self.unchanged += u64::from(stream.report().scanned_bytes == 0);
        if self.rng.chance(64) {
            let expected = entries(&fresh);
            assert!(entries(stream) == expected);
            let mut backwards: Vec<_> =
                stream.iter(..).rev().map(|entry| entry.unwrap().into_data().to_vec()).collect();
            backwards.reverse();
            assert!(backwards == expected.1);
            for (seq, entry) in (expected.0..).zip(&expected.1).step_by(7) {
                assert_eq!(stream.get(seq).unwrap().unwrap().data(), entry);
            }
            if self.held.len() < 8 {
                self.held.push(Held(stream.iter(..), expected.1, expected.0));
            }
        }
        self.read_on();
    }

    /// Checks that an iterator returns the entries that existed when it was created, or an error if
    /// they have been dropped.
    fn read_on(&mut self) {
        let rng = &mut self.rng;
        self.held.retain_mut(|Held(iter, entries, first)| {
            for _ in 0..rng.below(6) {
                match iter.next() {
                    Some(Ok(entry)) => {
                        assert_eq!((entry.seq(), entry.data()), (*first, &entries.remove(0)[..].to_vec().into()));
                        *first += 1;
                    }
                    Some(Err(error)) => {
                        let kind = error.kind();
                        assert!(matches!(kind, ErrorKind::Truncated { .. } | ErrorKind::Cut { .. }), "{error}");
                        return false;
                    }
                    None => {
                        assert!(entries.is_empty(), "{} did not come", entries.len());
                        return false;
                    }
                }
            }
            true
        });
    }
}

fn change(wal: &Wal, number: &mut u64, rng: &mut Rng) {
    let stream = wal.stream("s").unwrap();
    let kept = [Durability::Synced, Durability::Flushed, Durability::Buffered][rng.index(3)];
    let first = stream.first_seq();
    let next = stream.next_seq();
    let any = |rng: &mut Rng| first + rng.below(next - first + 1);
    match rng.below(40) {
        0 => stream.truncate_before(any(rng)).unwrap(),
        1 => stream.truncate_before(next + 3).unwrap(),
        2 => stream.truncate_from(any(rng)).unwrap(),
        3 if rng.chance(64) => drop(wal.delete_stream("s")),
        4..8 => stream.sync().unwrap(),
        8 => stream.flush().unwrap(),
        _ => {
            for _ in 0..=rng.below(12) {
                *number += 1;
                let text = if rng.chance(8) { text(*number).repeat(40) } else { text(*number) };
                stream.with_durability(kept).append(text).unwrap();
            }
        }
    }
}

#[test]
fn second_look_sees_the_same_as_a_first_look() {
    let mut looks = 0;
    let mut unchanged = 0;
    for seed in 0..6 {
        let disk = SimStorage::new(seed);
        let storage = HookedStorage::new(disk.clone());
        let follower = Follower {
            disk: disk.clone(),
            stream: None,
            held: Vec::new(),
            rng: Rng::new(seed << 8),
            looks: 0,
            unchanged: 0,
        };
        let follower = Arc::new(Mutex::new(follower));
        let looks_at = Arc::clone(&follower);
        // Looks before each operation of the writer that may change a file.
        storage.set(move |operation, path| {
            if path.starts_with(LOG) && operation != Operation::Open {
                looks_at.lock().unwrap().look();
            }
            Ok(())
        });
        let mut number = 0;
        let mut rng = Rng::new(seed);
        for _ in 0..4 {
            let wal = small().open_on(Arc::new(storage.clone()), Path::new(LOG), false).unwrap();
            for _ in 0..25 {
                change(&wal, &mut number, &mut rng);
                let mut follower = follower.lock().unwrap();
                follower.look();
                follower.look();
            }
            if rng.chance(128) {
                // Nothing is closed, so the files are as after a kill.
                storage.set(|_, _| Err(io::Error::from_raw_os_error(5)));
                drop(wal);
                let looks_at = Arc::clone(&follower);
                storage.set(move |operation, path| {
                    if path.starts_with(LOG) && operation != Operation::Open {
                        looks_at.lock().unwrap().look();
                    }
                    Ok(())
                });
            } else {
                wal.close().unwrap();
            }
            follower.lock().unwrap().look();
        }
        let follower = follower.lock().unwrap();
        looks += follower.looks;
        unchanged += follower.unchanged;
    }
    println!("volume: {looks} looks, {unchanged} of them without anything new");
    assert!(looks > 2_000 && unchanged > 200, "{looks} looks, {unchanged} without anything new");
}

/// A log whose stream has a segment of 12 MB, and a reader whose reads are counted.
fn twelve_megabytes(dir: &Path) -> (Stream, Stream, HookedStorage) {
    let stream = without_journal().open(dir).unwrap().stream("s").unwrap();
    let buffered = stream.with_durability(Durability::Buffered);
    for i in 0..60_000_u64 {
        buffered.append(i.to_le_bytes().repeat(25)).unwrap();
    }
    stream.sync().unwrap();
    let storage = HookedStorage::new(UnixStorage::new());
    let wal = Options::new().open_on(Arc::new(storage.clone()), dir, true).unwrap();
    (stream, wal.stream("s").unwrap(), storage)
}

/// Returns how many bytes a look reads.
fn read_by_a_look(reader: &Stream, storage: &HookedStorage) -> u64 {
    let before = storage.read_bytes();
    reader.reopen().unwrap();
    storage.read_bytes() - before
}

/// Looks until the reader knows that no file has changed.
fn settle(reader: &Stream) {
    for _ in 0..3 {
        reader.reopen().unwrap();
        std::thread::sleep(Duration::from_millis(70));
    }
    reader.reopen().unwrap();
}

#[test]
fn look_reads_only_new_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, reader, storage) = twelve_megabytes(dir.path());
    assert!(storage.read_bytes() > 12 << 20, "the first look reads all");
    settle(&reader);
    for _ in 0..10 {
        let read = read_by_a_look(&reader, &storage);
        assert!(read < 1 << 10, "{read} bytes, and nothing is new");
        assert_eq!(reader.report().scanned_bytes, 0);
    }
    for count in [1, 10, 100, 1000] {
        let entries = (0..count).map(|_| [7; 200]);
        let batch: Vec<_> = entries.collect();
        for entry in &batch {
            writer.with_durability(Durability::Flushed).append(entry).unwrap();
        }
        writer.sync().unwrap();
        let read = read_by_a_look(&reader, &storage);
        assert_eq!(reader.next_seq(), writer.next_seq());
        let new = count * 280;
        assert!(read < 2 * new + (40 << 10), "{read} bytes for {count} entries");
        assert!(reader.report().scanned_bytes < 2 * new + (40 << 10), "{:?}", reader.report());
    }
    // If a file may have changed within one tick of its clock, a look reads a few KiB.
    let read = read_by_a_look(&reader, &storage);
    assert!(read < 40 << 10, "{read} bytes");
    settle(&reader);
    assert!(read_by_a_look(&reader, &storage) < 1 << 10);
}

#[test]
fn look_at_a_closed_stream_reads_a_header() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _, _) = twelve_megabytes(dir.path());
    drop(writer);
    let storage = HookedStorage::new(UnixStorage::new());
    let wal = Options::new().open_on(Arc::new(storage.clone()), dir.path(), true).unwrap();
    let reader = wal.stream("s").unwrap();
    assert!(reader.report().clean);
    settle(&reader);
    let read = read_by_a_look(&reader, &storage);
    assert!(read < 1 << 10, "{read} bytes");
    assert!(reader.report().clean && reader.next_seq() == 60_000);
    // Entries appended now are seen.
    let writer = without_journal().open(dir.path()).unwrap().stream("s").unwrap();
    writer.append("more").unwrap();
    reader.reopen().unwrap();
    assert_eq!(reader.last().unwrap().map(Entry::into_data).as_deref(), Some(&b"more"[..]));
}

#[test]
fn shown_entries_are_not_synced_again() {
    let disk = SimStorage::new(7);
    let wal = small().open_on(Arc::new(disk.clone()), Path::new(LOG), false).unwrap();
    let writer = wal.stream("s").unwrap().with_durability(Durability::Flushed);
    writer.append(text(1)).unwrap();
    let storage = HookedStorage::new(disk);
    let reader = small().open_on(Arc::new(storage.clone()), Path::new(LOG), true).unwrap().stream("s").unwrap();
    let syncs = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&syncs);
    storage.set(move |operation, _| {
        *counted.lock().unwrap() += u64::from(operation == Operation::Sync);
        Ok(())
    });
    for number in 2..10 {
        for _ in 0..4 {
            reader.reopen().unwrap();
        }
        writer.append(text(number)).unwrap();
        reader.reopen().unwrap();
        assert_eq!(reader.next_seq(), number);
        assert_eq!(*syncs.lock().unwrap(), number - 1, "one for each new entry");
    }
    // Finished segments that the writer has not synced yet are also not synced again.
    while writer.stats().unwrap().segments < 4 {
        writer.append(vec![7; 5_000]).unwrap();
    }
    reader.reopen().unwrap();
    *syncs.lock().unwrap() = 0;
    writer.append("one more").unwrap();
    reader.reopen().unwrap();
    assert_eq!(reader.next_seq(), writer.next_seq());
    assert_eq!(*syncs.lock().unwrap(), 1);
}

#[test]
fn late_frames_in_an_older_segment_are_seen() {
    let disk = SimStorage::new(8);
    let wal = small().open_on(Arc::new(disk.clone()), Path::new(LOG), false).unwrap();
    let writer = wal.stream("s").unwrap().with_durability(Durability::Flushed);
    writer.append(text(0)).unwrap();
    let first = segment(&disk);
    while writer.stats().unwrap().segments == 1 {
        writer.append(text(writer.next_seq())).unwrap();
    }
    let next = writer.next_seq();
    // The second segment exists before the last frames of the first.
    let bytes = disk.disk().bytes(&first).unwrap();
    let file = disk.open(&first, Access::ReadWrite).unwrap();
    file.write_all_at(&vec![0; bytes.len() - 60_000], 60_000).unwrap();
    let reader = reader(&disk);
    for _ in 0..4 {
        disk.let_pass(SETTLED_MICROS);
        reader.reopen().unwrap();
        assert!((50..next - 2).contains(&reader.next_seq()));
    }
    file.write_all_at(&bytes[60_000..], 60_000).unwrap();
    reader.reopen().unwrap();
    assert_eq!(reader.next_seq(), next);
    let entries = entries(&reader).1;
    assert!(entries.iter().zip(0..).all(|(entry, number)| *entry == text(number)));
}

#[test]
fn log_restored_from_a_copy_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let streams = StreamOptions::new().segment_bytes(64 << 10);
    let options = without_journal().stream_defaults(streams);
    let append = |byte: u8, entries: u64| {
        let wal = options.open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        for _ in 0..entries {
            stream.append([byte; 5_000]).unwrap();
        }
        wal.close().unwrap();
    };
    let stream_dir = dir.path().join("streams").join("s");
    let files = || fs::read_dir(&stream_dir).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>();
    append(b'a', 20);
    let copy: Vec<_> = files().into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    append(b'b', 40);
    let reader = options.open_read_only(dir.path()).unwrap().stream("s").unwrap();
    assert_eq!(entries(&reader).1.len(), 60);
    files().into_iter().for_each(|path| fs::remove_file(path).unwrap());
    copy.into_iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    // The new stream's segments have the same names, and there is one more.
    append(b'c', 60);
    reader.reopen().unwrap();
    let entries = entries(&reader).1;
    assert_eq!(entries.len(), 80);
    assert!(entries.iter().enumerate().all(|(i, entry)| entry[0] == if i < 20 { b'a' } else { b'c' }));
}

/// The only segment file of the stream.
fn segment(disk: &SimStorage) -> PathBuf {
    let files = disk.disk().files().into_iter().map(|(path, _)| PathBuf::from(path));
    let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
    assert_eq!(segments.len(), 1, "{segments:?}");
    segments.remove(0)
}

#[test]
fn damage_to_new_entries_is_reported() {
    // A frame after the damaged one, near or far, attests it. The frame before the damaged one may
    // or may not be valid.
    for (len, is_valid_before) in [(100, false), (100, true), (40_000, false), (40_000, true)] {
        let disk = SimStorage::new(len);
        let options = without_journal().stream_defaults(StreamOptions::new().segment_bytes(1 << 20));
        let wal = options.open_on(Arc::new(disk.clone()), Path::new(LOG), false).unwrap();
        let writer = wal.stream("s").unwrap();
        for number in 0..20 {
            writer.append(text(number)).unwrap();
        }
        let reader = reader(&disk);
        let look = || {
            disk.let_pass(SETTLED_MICROS);
            reader.reopen()
        };
        (0..4).for_each(|_| look().unwrap());
        if is_valid_before {
            writer.append("valid").unwrap();
        }
        let len = usize::try_from(len).unwrap();
        for byte in [b'd', b'a'] {
            writer.append(vec![byte; len]).unwrap();
        }
        let bytes = disk.disk().bytes(&segment(&disk)).unwrap();
        let at = bytes.windows(20).position(|window| window == [b'd'; 20]).unwrap() as u64;
        disk.open(&segment(&disk), Access::ReadWrite).unwrap().write_all_at(b"rotten", at).unwrap();
        let seen: Vec<_> = (0..4).map(|_| look().map_err(|error| error.kind())).collect();
        assert_eq!(seen[3], Err(ErrorKind::Damaged), "{len} {is_valid_before}: {seen:?}");
        // Without a new valid frame, only damage can explain the change of the file.
        assert!(is_valid_before || seen[0].is_err(), "{len}: {seen:?}");
        let error = look().unwrap_err();
        let seq = 20 + u64::from(is_valid_before);
        assert_eq!(error.lost(), Some(seq..seq + 1), "{error}");
        // The reader still has the entries that it saw.
        assert_eq!(reader.get(19).unwrap().map(Entry::into_data).as_deref(), Some(&text(19)[..]));
    }
}
