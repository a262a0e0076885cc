//! Streams that only the commit journal knows: their first entries are in it, and they have no
//! directory yet.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stratawal::{Durability, ErrorKind, Options, Stream, StreamOptions, Wal};
use stratawal_frame::FormatFile;
use stratawal_journal::Image;
use stratawal_storage::Storage;
use stratawal_testkit::{Crash, Disk, Fault, Faults, HookedStorage, Operation, Rng, SimStorage};

const LOG: &str = "/log";
const CRASHES: [Crash; 5] = [Crash::Kill, Crash::Lost, Crash::Kept, Crash::Mixed(128), Crash::Prefix];

fn journaled() -> Options {
    let streams = StreamOptions::new().segment_bytes(1 << 20);
    Options::new().stream_defaults(streams).journal(true).journal_mapped(false).maintenance_thread(false)
}

fn open(storage: impl Storage + 'static, options: &Options) -> Wal {
    options.open_on(Arc::new(storage), Path::new(LOG), false).unwrap()
}

fn crashed(disk: &Disk, crash: Crash) -> SimStorage {
    SimStorage::on(disk.crash(crash, &mut Rng::new(1)), 2)
}

fn text(seq: u64) -> Vec<u8> {
    format!("entry {seq}").into_bytes()
}

fn append(stream: &Stream, seqs: std::ops::Range<u64>) {
    seqs.for_each(|seq| assert_eq!(stream.append(text(seq)).unwrap(), seq));
}

fn append_bytes(stream: &Stream, count: usize, byte: u8, len: usize) {
    for _ in 0..count {
        stream.append(vec![byte; len]).unwrap();
    }
}

fn texts(seqs: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    seqs.map(text).collect()
}

fn entries(stream: &Stream) -> Vec<Vec<u8>> {
    stream.iter(..).map(|entry| entry.unwrap().data().to_vec()).collect()
}

fn has_directory(disk: &Disk, stream: &str) -> bool {
    disk.files().iter().any(|(path, _)| path.starts_with(&format!("/log/streams/{stream}/")))
}

/// The disk before and after each of the changes that `act` makes.
fn disks_of(storage: &SimStorage, act: impl FnOnce()) -> Vec<Disk> {
    let disks = Arc::new(Mutex::new(vec![storage.disk()]));
    let seen = Arc::clone(&disks);
    storage.watch(move |disk| seen.lock().unwrap().push(disk.clone()));
    act();
    storage.unwatch();
    let mut disks = disks.lock().unwrap();
    std::mem::take(&mut *disks)
}

#[test]
fn first_append_needs_no_directory() {
    let storage = SimStorage::new(1);
    let hooked = HookedStorage::new(storage.clone());
    let wal = open(hooked.clone(), &journaled());
    let stream = wal.stream("s").unwrap();
    assert!(!stream.exists() && wal.streams().unwrap().is_empty());
    hooked.set(|_, path| {
        assert!(!path.starts_with("/log/streams"), "{}", path.display());
        Ok(())
    });
    append(&stream, 0..3);
    hooked.clear();
    assert!(stream.exists() && !has_directory(&storage.disk(), "s"));
    assert_eq!(wal.streams().unwrap(), ["s"]);
    assert_eq!((stream.next_seq(), stream.stable_seq()), (3, 3));
}

#[test]
fn readers_find_entries_of_a_stream_without_directory() {
    let storage = SimStorage::new(1);
    let wal = open(storage.clone(), &journaled());
    let stream = wal.stream("s").unwrap();
    for seq in 0..3 {
        append(&stream, seq..seq + 1);
        storage.let_pass(1_000_000);
    }
    assert_eq!(entries(&stream), texts(0..3));
    let back: Vec<_> = stream.iter(..).rev().map(|entry| entry.unwrap().data().to_vec()).collect();
    assert_eq!(back, texts(0..3).into_iter().rev().collect::<Vec<_>>());
    assert_eq!(*stream.get(1).unwrap().unwrap().data(), text(1)[..]);
    assert_eq!(*stream.last().unwrap().unwrap().data(), text(2)[..]);
    let time = |seq| stream.get(seq).unwrap().unwrap().timestamp();
    assert!(time(0) < time(1) && time(1) < time(2));
    for seq in 0..3 {
        assert_eq!(stream.seq_at(time(seq)).unwrap(), seq);
    }
    assert_eq!(stream.seq_at(time(2) + Duration::from_secs(1)).unwrap(), 3);
}

#[test]
fn stream_without_directory_survives_crashes() {
    let storage = SimStorage::new(1);
    let wal = open(storage.clone(), &journaled());
    append(&wal.stream("s").unwrap(), 0..3);
    for crash in CRASHES {
        let second = crashed(&storage.disk(), crash);
        let wal = open(second.clone(), &journaled());
        assert_eq!(wal.streams().unwrap(), ["s"], "{crash:?}");
        let stream = wal.stream("s").unwrap();
        assert!(stream.exists() && stream.report().existed && stream.report().next_seq == 3);
        assert_eq!(entries(&stream), texts(0..3), "{crash:?}");
        append(&stream, 3..5);
        assert_eq!(wal.streams().unwrap(), ["s"]);
        let third = open(crashed(&second.disk(), crash), &journaled());
        assert_eq!(entries(&third.stream("s").unwrap()), texts(0..5), "{crash:?}");
    }
}

/// Each way to create the directory is interrupted by a crash at each of its changes.
#[test]
fn crash_while_the_directory_is_created_loses_nothing() {
    let long = || vec![b'x'; 70 << 10];
    type Act = fn(&Wal, &Stream);
    let acts: [(&str, Act); 5] = [
        ("a long append", |_, stream| append_bytes(stream, 1, b'x', 70 << 10)),
        ("the close", |wal, _| wal.close().unwrap()),
        ("a truncation of the beginning", |_, stream| stream.truncate_before(0).unwrap()),
        ("many appends", |_, stream| append_bytes(stream, 80, b'y', 900)),
        ("releases", |wal, _| append_bytes(&wal.stream("filler").unwrap(), 80, b'f', 3000)),
    ];
    let options = journaled().journal_bytes(64 << 10);
    for (name, act) in acts {
        let storage = SimStorage::new(1);
        let wal = open(storage.clone(), &options);
        let stream = wal.stream("s").unwrap();
        append(&stream, 0..20);
        let disks = disks_of(&storage, || act(&wal, &stream));
        let mut seed = Rng::new(3);
        // The creation is within the first changes of all but the last way.
        for (at, disk) in disks.iter().enumerate().filter(|(at, _)| *at < 30 || at % 7 == 0) {
            for crash in [Crash::Kill, Crash::Lost, Crash::Mixed(128)] {
                let after = SimStorage::on(disk.crash(crash, &mut seed), 5);
                let wal = open(after.clone(), &options);
                let stream = wal.stream("s").unwrap();
                let found = entries(&stream);
                assert_eq!(found[..20], texts(0..20), "{name}: change {at} of {}, {crash:?}", disks.len());
                let next = stream.next_seq();
                assert!(next == 20 || found[20] == long() || found[20][0] == b'y', "{name}");
                stream.append("later").unwrap();
                drop((wal, stream));
                let wal = open(crashed(&after.disk(), Crash::Lost), &options);
                assert_eq!(wal.stream("s").unwrap().next_seq(), next + 1, "{name}: {at}, {crash:?}");
            }
        }
    }
}

/// The way back: an opening without a journal creates the directories.
#[test]
fn crash_while_the_journal_is_given_up_loses_no_new_stream() {
    let storage = SimStorage::new(1);
    let wal = open(storage.clone(), &journaled());
    for name in ["a", "b"] {
        append(&wal.stream(name).unwrap(), 0..3);
    }
    let storage = crashed(&storage.disk(), Crash::Lost);
    let plain = journaled().journal(false);
    let disks = disks_of(&storage, || drop(open(storage.clone(), &plain)));
    assert!(disks.len() > 20 && has_directory(&storage.disk(), "a") && has_directory(&storage.disk(), "b"));
    for disk in disks.iter().step_by(2) {
        for crash in CRASHES {
            for next in [&plain, &journaled()] {
                let wal = open(SimStorage::on(disk.crash(crash, &mut Rng::new(1)), 3), next);
                for name in ["a", "b"] {
                    assert_eq!(entries(&wal.stream(name).unwrap()), texts(0..3), "{crash:?}");
                }
            }
        }
    }
}

#[test]
fn deletion_without_directory_is_one_record() {
    let storage = SimStorage::new(1);
    let wal = open(storage.clone(), &journaled());
    let stream = wal.stream("s").unwrap();
    append(&stream, 0..3);
    wal.delete_stream("s").unwrap();
    assert_eq!(wal.delete_stream("s").unwrap_err().kind(), ErrorKind::Missing);
    assert!(wal.streams().unwrap().is_empty() && !stream.exists());
    assert_eq!(stream.append("late").unwrap_err().kind(), ErrorKind::Missing);
    for crash in CRASHES {
        let wal = open(crashed(&storage.disk(), crash), &journaled());
        assert!(wal.streams().unwrap().is_empty(), "{crash:?}");
        assert!(!wal.stream("s").unwrap().exists(), "{crash:?}");
    }
    // Another process deletes a stream that it never looked up.
    append(&wal.stream("t").unwrap(), 0..3);
    let second = crashed(&storage.disk(), Crash::Lost);
    let wal = open(second.clone(), &journaled());
    wal.delete_stream("t").unwrap();
    assert!(wal.streams().unwrap().is_empty());
    assert!(open(crashed(&second.disk(), Crash::Lost), &journaled()).streams().unwrap().is_empty());
}

/// The crash comes at any change, from the deletion to the first entry of the next stream.
#[test]
fn stream_created_again_has_only_its_own_entries() {
    for directory in [false, true] {
        let storage = SimStorage::new(1);
        let wal = open(storage.clone(), &journaled());
        append(&wal.stream("s").unwrap(), 0..5);
        if directory {
            wal.stream("s").unwrap().append(vec![b'x'; 70 << 10]).unwrap();
        }
        let old = entries(&wal.stream("s").unwrap());
        let disks = disks_of(&storage, || {
            wal.delete_stream("s").unwrap();
            wal.stream("s").unwrap().append("new").unwrap();
        });
        for disk in &disks {
            for crash in CRASHES {
                let wal = open(crashed(disk, crash), &journaled());
                let found = entries(&wal.stream("s").unwrap());
                assert!(found == old || found.is_empty() || found == [b"new"], "{crash:?}: {} entries", found.len());
            }
        }
        let wal = open(crashed(&storage.disk(), Crash::Lost), &journaled());
        assert_eq!(entries(&wal.stream("s").unwrap()), [b"new"]);
    }
}

#[test]
fn truncations_of_a_stream_without_directory_hold() {
    for (at, before) in [(0, false), (2, false), (2, true), (4, true), (5, true), (9, true)] {
        let storage = SimStorage::new(1);
        let wal = open(storage.clone(), &journaled());
        let stream = wal.stream("s").unwrap();
        append(&stream, 0..5);
        let (start, end) = if before { (at, at.max(5)) } else { (0, at) };
        if before {
            stream.truncate_before(at).unwrap()
        } else {
            stream.truncate_from(at).unwrap()
        };
        let expected = texts(start..end.min(5));
        for crash in CRASHES {
            let wal = open(crashed(&storage.disk(), crash), &journaled());
            let stream = wal.stream("s").unwrap();
            let found = (stream.first_seq(), stream.next_seq(), entries(&stream));
            assert_eq!(found, (start, end, expected.clone()), "{at} {before} {crash:?}");
        }
        assert_eq!(stream.append("next").unwrap(), end);
    }
}

/// The journal is released again and again, and some streams never get a directory.
#[test]
fn releases_keep_streams_without_directories() {
    let options = journaled().journal_bytes(64 << 10);
    for durability in [Durability::Flushed, Durability::Synced] {
        let storage = SimStorage::new(1);
        let wal = open(storage.clone(), &options);
        let names: Vec<String> = (0..30).map(|i| format!("s{i}")).collect();
        let mut counts = vec![0; names.len()];
        for round in 0..400_u64 {
            let i = usize::try_from(round * round % 30).unwrap();
            let stream = wal.stream(&names[i]).unwrap().with_durability(durability);
            stream.append([text(counts[i]), vec![b'.'; 300]].concat()).unwrap();
            counts[i] += 1;
        }
        let has_none = |name: &&String| !has_directory(&storage.disk(), name);
        assert!(names.iter().filter(has_none).count() > 3, "some streams have none");
        let wal = open(crashed(&storage.disk(), Crash::Kill), &options);
        for (name, count) in names.iter().zip(counts) {
            let stream = wal.stream(name).unwrap();
            assert_eq!(stream.next_seq(), count, "{name}");
            for entry in stream.iter(..).map(Result::unwrap) {
                assert!(entry.data().starts_with(&text(entry.seq())));
            }
        }
    }
}

/// The journal fails, and the directories cannot be created either.
#[test]
fn restart_of_the_journal_keeps_streams_without_directories() {
    for creation_fails in [false, true] {
        let sim = SimStorage::new(1);
        let storage = HookedStorage::new(sim.clone());
        let wal = open(storage.clone(), &journaled());
        let names = ["a", "b"];
        for name in names {
            append(&wal.stream(name).unwrap(), 0..3);
        }
        storage.set(move |operation, path| {
            let of_journal = path.starts_with("/log/journal") && operation == Operation::Sync;
            let of_streams = creation_fails && path.starts_with("/log/streams") && operation == Operation::CreateDir;
            if of_journal || of_streams { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
        assert_eq!(wal.stream("a").unwrap().append("fails").unwrap_err().kind(), ErrorKind::Poisoned);
        storage.set(move |operation, path| {
            let of_streams = creation_fails && path.starts_with("/log/streams") && operation == Operation::CreateDir;
            if of_streams { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
        wal.stream("b").unwrap().reopen().unwrap();
        append(&wal.stream("b").unwrap(), 3..5);
        assert_eq!(has_directory(&sim.disk(), "b"), !creation_fails);
        storage.clear();
        for crash in [Crash::Kill, Crash::Lost] {
            let wal = open(crashed(&sim.disk(), crash), &journaled());
            assert_eq!(entries(&wal.stream("b").unwrap()), texts(0..5), "{crash:?}");
            assert_eq!(entries(&wal.stream("a").unwrap())[..3], texts(0..3), "{crash:?}");
        }
        wal.stream("a").unwrap().reopen().unwrap();
        assert_eq!(entries(&wal.stream("a").unwrap())[..3], texts(0..3));
    }
}

/// A creation fails in every one of its operations, in every way.
#[test]
fn failed_creation_loses_nothing() {
    for fault in [Fault::Io, Fault::Full, Fault::IoAfterEffect] {
        for after in 0.. {
            let sim = SimStorage::new(1);
            let wal = open(sim.clone(), &journaled());
            let stream = wal.stream("s").unwrap();
            append(&stream, 0..3);
            sim.set_faults(Some(Faults { after, fault, forever: false }));
            let cut = stream.truncate_from(2);
            let has_failed = sim.failed() > 0;
            sim.set_faults(None);
            assert_eq!(entries(&stream), texts(0..stream.next_seq()), "{fault:?} {after}: {cut:?}");
            for crash in [Crash::Kill, Crash::Lost] {
                let wal = open(crashed(&sim.disk(), crash), &journaled());
                let found = entries(&wal.stream("s").unwrap());
                assert!(found == texts(0..3) || found == texts(0..2), "{fault:?} {after} {crash:?}: {found:?}");
            }
            stream.reopen().unwrap();
            let next = stream.append(text(3)).unwrap();
            assert!(next >= 2 && entries(&stream).len() as u64 == next + 1, "{fault:?} {after}");
            if !has_failed {
                assert!(after >= 5, "{after} operations");
                break;
            }
        }
    }
}

/// A disk without room for a directory: short entries go to the journal, and a long one is refused
/// as a whole.
#[test]
fn full_disk_refuses_a_new_stream_only_its_directory() {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), &journaled());
    let stream = wal.stream("s").unwrap();
    let used = sim.disk().used();
    sim.set_faults(Some(Faults { after: used, fault: Fault::Capacity, forever: true }));
    append(&stream, 0..3);
    let refused = stream.append(vec![b'x'; 70 << 10]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full, "{refused}");
    append(&stream, 3..5);
    assert_eq!(entries(&stream), texts(0..5));
    sim.set_faults(None);
    assert_eq!(stream.append(vec![b'x'; 70 << 10]).unwrap(), 5);
    let wal = open(crashed(&sim.disk(), Crash::Lost), &journaled());
    assert_eq!(entries(&wal.stream("s").unwrap())[..5], texts(0..5));
}

fn parts_with_names(disk: &Disk) -> Vec<(u64, bool)> {
    let format = FormatFile::decode(&disk.bytes(Path::new("/log/FORMAT")).unwrap()).unwrap();
    let storage = SimStorage::on(disk.clone(), 9);
    let image = Image::read(&storage, Path::new("/log/journal"), format.wal_id).unwrap();
    let parts = image.records().iter().flat_map(|located| located.record.parts());
    parts.map(|part| (part.first.0, part.name.is_some())).collect()
}

#[test]
fn every_part_has_the_name_until_there_is_a_directory() {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), &journaled());
    let stream = wal.stream("s").unwrap();
    append(&stream, 0..3);
    stream.append(vec![b'x'; 70 << 10]).unwrap();
    append(&stream, 4..6);
    let expected = [(0, true), (1, true), (2, true), (4, false), (5, false)];
    assert_eq!(parts_with_names(&sim.disk()), expected);
}

fn remove_directory(sim: &SimStorage, stream: &str) {
    let dir = Path::new("/log/streams").join(stream);
    for entry in sim.list(&dir).unwrap() {
        sim.remove_file(&dir.join(entry.name)).unwrap();
    }
    sim.remove_dir(&dir).unwrap();
}

/// The records of the stream show that it had a directory: one of them lacks the name.
#[test]
fn removed_directory_is_not_taken_for_a_new_stream() {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), &journaled());
    let stream = wal.stream("s").unwrap().with_durability(Durability::Flushed);
    append(&stream, 0..3);
    stream.append(vec![b'x'; 70 << 10]).unwrap();
    append(&stream, 4..6);
    let sim = crashed(&sim.disk(), Crash::Kill);
    remove_directory(&sim, "s");
    let wal = open(sim.clone(), &journaled());
    assert_eq!(wal.stream("s").unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(wal.streams().unwrap(), ["s"]);
    wal.delete_stream("s").unwrap();
    assert_eq!(wal.stream("s").unwrap().append("new").unwrap(), 0);
    let wal = open(crashed(&sim.disk(), Crash::Lost), &journaled());
    assert_eq!(entries(&wal.stream("s").unwrap()), [b"new"]);
}

/// The directory of another stream of the same name was put in place.
#[test]
fn directory_with_another_id_does_not_hide_a_new_stream() {
    let sim = SimStorage::new(1);
    drop(open(sim.clone(), &journaled()));
    let [other, sim] = [11, 12].map(|seed| SimStorage::on(sim.disk(), seed));
    append_bytes(&open(other.clone(), &journaled()).stream("s").unwrap(), 1, b'x', 70 << 10);
    let wal = open(sim.clone(), &journaled());
    append(&wal.stream("s").unwrap(), 0..3);
    let sim = crashed(&sim.disk(), Crash::Kill);
    let (path, _) = other.disk().files().into_iter().find(|(path, _)| path.starts_with("/log/streams/s/")).unwrap();
    sim.create_dir(Path::new("/log/streams/s")).unwrap();
    let file = sim.create_new(Path::new(&path)).unwrap();
    file.write_all_at(&other.disk().bytes(Path::new(&path)).unwrap(), 0).unwrap();
    let wal = open(sim.clone(), &journaled());
    assert_eq!(wal.stream("s").unwrap_err().kind(), ErrorKind::Damaged);
    wal.delete_stream("s").unwrap();
    assert!(!wal.stream("s").unwrap().exists());
}
