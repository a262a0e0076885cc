//! Lives of a log with a commit journal that generated workloads do not lead to. Each function
//! returns how the log breaks a promise.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use stratawal::{Batch, Durability, ErrorKind, Options, Stream, StreamOptions, Wal};
use stratawal_storage::{Access, Storage};
use stratawal_testkit::{Crash, Fault, Faults, Gate, HookedStorage, Operation, Rng, SimStorage, Verdict};

const ENTRY_LEN: usize = 500;

fn options(mapped: bool, journal_bytes: u64) -> Options {
    let streams = StreamOptions::new().segment_bytes(1 << 20).durability(Durability::Flushed);
    Options::new()
        .stream_defaults(streams)
        .journal(true)
        .journal_mapped(mapped)
        .journal_bytes(journal_bytes)
        .maintenance_thread(false)
}

fn open(storage: impl Storage + 'static, mapped: bool) -> Wal {
    open_with(storage, mapped, 64 << 10)
}

fn open_with(storage: impl Storage + 'static, mapped: bool, journal_bytes: u64) -> Wal {
    options(mapped, journal_bytes).open_on(Arc::new(storage), Path::new("/log"), false).expect("the log opens")
}

fn text(seq: u64, len: usize) -> Vec<u8> {
    let mut text = format!("entry {seq} ").into_bytes();
    text.resize(len, b'.');
    text
}

/// Appends `count` entries at this durability.
fn append(stream: &Stream, count: u64, durability: Durability) {
    let stream = stream.with_durability(durability);
    for _ in 0..count {
        stream.append(text(stream.next_seq(), ENTRY_LEN)).expect("an append without a fault");
    }
}

/// Appends three entries that are too long for the journal, so that the files have them.
fn append_large(stream: &Stream) {
    let large: Batch = (0..3).map(|seq| text(seq, 50_000)).collect();
    stream.with_durability(Durability::Synced).append_batch(&large).expect("an append without a fault");
}

/// Appends to another stream until every file of the journal was used again. Files of the journal
/// end with some room, which copies of short records can use.
fn fill_journal(wal: &Wal) {
    let stream = wal.stream("filler").expect("it opens").with_durability(Durability::Synced);
    for seq in 0..80 {
        stream.append(text(seq, 3000)).expect("an append without a fault");
    }
}

/// Checks that the stream has exactly the first `count` entries.
fn has(wal: &Wal, name: &str, count: u64) -> Result<(), String> {
    has_from(wal, name, 0, count)
}

/// Checks that the stream begins at the entry `first`, and has `end - first` entries.
fn has_from(wal: &Wal, name: &str, first: u64, end: u64) -> Result<(), String> {
    let stream = wal.stream(name).map_err(|error| error.to_string())?;
    if stream.first_seq() != first {
        return Err(format!("begins at {} and not at {first}", stream.first_seq()));
    }
    has_entries(&stream, end)
}

fn has_entries(stream: &Stream, count: u64) -> Result<(), String> {
    let mut seq = stream.first_seq();
    for entry in stream.iter(..) {
        let entry = entry.map_err(|error| error.to_string())?;
        if entry.data()[..] != text(seq, entry.data().len()) {
            return Err(format!("entry {seq} has other bytes"));
        }
        seq += 1;
    }
    if seq == count { Ok(()) } else { Err(format!("{seq} entries instead of {count}")) }
}

/// The machine after a crash now.
fn after(sim: &SimStorage, crash: Crash) -> SimStorage {
    SimStorage::on(sim.disk().crash(crash, &mut Rng::new(1)), 2)
}

/// After every kind of crash, the stream `s` has `count` entries.
fn survive(sim: &SimStorage, mapped: bool, count: u64) -> Result<(), String> {
    for crash in [Crash::Kill, Crash::Lost, Crash::Kept] {
        has(&open(after(sim, crash), mapped), "s", count).map_err(|what| format!("{crash:?}: {what}"))?;
    }
    Ok(())
}

/// After every kind of crash, the stream `s` begins at the entry `first` and ends at `end`.
fn survive_from(sim: &SimStorage, mapped: bool, first: u64, end: u64) -> Result<(), String> {
    for crash in [Crash::Kill, Crash::Lost, Crash::Kept] {
        let found = has_from(&open(after(sim, crash), mapped), "s", first, end);
        found.map_err(|what| format!("{crash:?}: {what}"))?;
    }
    Ok(())
}

/// A log whose stream `s` has three entries, which are settled. Only the journal knows that the
/// first of them is dropped.
fn log_with_start(sim: &SimStorage, mapped: bool) -> Wal {
    let wal = open(sim.clone(), mapped);
    let stream = wal.stream("s").unwrap();
    append_large(&stream);
    stream.truncate_before(1).unwrap();
    wal
}

/// A START that frees no file is in the journal alone.
pub(crate) fn start_survives_a_crash(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let _wal = log_with_start(&sim, mapped);
    survive_from(&sim, mapped, 1, 3)
}

pub(crate) fn start_survives_a_release(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let wal = log_with_start(&sim, mapped);
    fill_journal(&wal);
    survive_from(&sim, mapped, 1, 3)
}

pub(crate) fn start_survives_a_restart(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let wal = log_with_start(&sim, mapped);
    restart_journal(&sim, &wal);
    survive_from(&sim, mapped, 1, 3)
}

/// Each process after the first leaves the stream alone until its journal was used up, or was
/// restarted.
pub(crate) fn start_of_stream_not_looked_up_survives(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let _first = log_with_start(&sim, mapped);
    let sim = after(&sim, Crash::Lost);
    let second = open(sim.clone(), mapped);
    fill_journal(&second);
    survive_from(&sim, mapped, 1, 3)?;
    // Other random numbers, because both processes create streams.
    let sim = SimStorage::on(sim.disk().crash(Crash::Lost, &mut Rng::new(1)), 5);
    let third = open(sim.clone(), mapped);
    restart_journal(&sim, &third);
    survive_from(&sim, mapped, 1, 3)
}

/// The START frame that frees a file is written, and its sync fails.
pub(crate) fn start_survives_a_failed_frame(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let hooked = HookedStorage::new(sim.clone());
    let wal = open(hooked.clone(), mapped);
    let stream = wal.stream_with("s", StreamOptions::new().segment_bytes(64 << 10)).unwrap();
    append_large(&stream);
    append_large(&stream);
    hooked.set(|operation, path| {
        let fails = operation == Operation::Sync && path.extension().is_some_and(|extension| extension == "seg");
        if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    });
    let failed = stream.truncate_before(3).is_err();
    hooked.clear();
    assert!(failed, "the START frees a file");
    fill_journal(&wal);
    for crash in [Crash::Kill, Crash::Lost, Crash::Kept] {
        let stream = open(after(&sim, crash), mapped).stream("s").map_err(|error| error.to_string())?;
        if (stream.first_seq(), stream.next_seq()) != (3, 6) {
            return Err(format!("{crash:?}: begins at {} and ends at {}", stream.first_seq(), stream.next_seq()));
        }
    }
    Ok(())
}

/// The files have lost everything below the START, and entries from there on are in the journal. A
/// crash may come at any time while the stream restarts at the START.
pub(crate) fn entries_survive_a_restart_at_start(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), mapped);
    let stream = wal.stream("s").unwrap();
    append_large(&stream);
    append(&stream, 3, Durability::Synced);
    stream.truncate_before(3).unwrap();
    let sim = after(&sim, Crash::Kill);
    empty_segments(&sim);
    let images = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&images);
    sim.watch(move |disk| seen.lock().unwrap().push(disk.clone()));
    has_from(&open(sim.clone(), mapped), "s", 3, 6)?;
    sim.unwatch();
    for disk in images.lock().unwrap().iter() {
        for crash in [Crash::Kill, Crash::Lost] {
            let sim = SimStorage::on(disk.crash(crash, &mut Rng::new(1)), 3);
            has_from(&open(sim, mapped), "s", 3, 6).map_err(|what| format!("{crash:?}: {what}"))?;
        }
    }
    Ok(())
}

/// Fails the journal by an append to another stream, and has it restarted.
fn restart_journal(sim: &SimStorage, wal: &Wal) {
    let other = wal.stream("other").unwrap();
    append(&other, 1, Durability::Synced);
    sim.set_faults(Some(Faults { after: 0, fault: Fault::Io, forever: false }));
    let failed = other.with_durability(Durability::Synced).append("fails").unwrap_err();
    sim.set_faults(None);
    assert_eq!(failed.kind(), ErrorKind::Poisoned, "{failed}");
    other.reopen().unwrap();
    append(&other, 1, Durability::Synced);
}

/// Overwrites everything in the segments of the stream `s` except their headers.
fn empty_segments(sim: &SimStorage) {
    const HEADER_LEN: u64 = 128;
    let files = sim.disk().files().into_iter();
    for (path, len) in files.filter(|(path, _)| path.starts_with("/log/streams/s/") && path.ends_with(".seg")) {
        let zeros = vec![0; usize::try_from(len - HEADER_LEN).unwrap()];
        let file = sim.open(&PathBuf::from(path), Access::ReadWrite).unwrap();
        file.write_all_at(&zeros, HEADER_LEN).unwrap();
    }
}

/// Synced entries are in the journal and, not durable, in the files when the journal is released.
pub(crate) fn synced_entries_survive_a_release(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), mapped);
    append(&wal.stream("s").unwrap(), 40, Durability::Synced);
    fill_journal(&wal);
    survive(&sim, mapped, 40)
}

/// Like the life before, with entries that a sync finds in the journal.
pub(crate) fn entries_synced_later_survive_a_release(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), mapped);
    let stream = wal.stream("s").unwrap();
    // Too many to be copied, and too few to be released before the sync.
    append(&stream, 18, Durability::Flushed);
    stream.sync().unwrap();
    fill_journal(&wal);
    survive(&sim, mapped, 18)
}

/// A synced entry follows flushed ones that the journal has released.
pub(crate) fn synced_entry_after_released_ones_survives(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), mapped);
    let stream = wal.stream("s").unwrap();
    append(&stream, 40, Durability::Flushed);
    fill_journal(&wal);
    append(&stream, 1, Durability::Synced);
    survive(&sim, mapped, 41)
}

/// The second process never looks the stream up, and releases the journal.
pub(crate) fn stream_not_looked_up_survives_a_release(mapped: bool) -> Result<(), String> {
    let sim = killed_with_stream(mapped);
    let wal = open(sim.clone(), mapped);
    fill_journal(&wal);
    survive(&sim, mapped, CARRIED)
}

/// So few entries of a stream that was not looked up are copied forward, and not settled.
const CARRIED: u64 = 6;

/// A log whose process was killed with entries of the stream `s` in the journal alone.
fn killed_with_stream(mapped: bool) -> SimStorage {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), mapped);
    append(&wal.stream("s").unwrap(), CARRIED, Durability::Synced);
    after(&sim, Crash::Lost)
}

/// The second process never looks the stream up, and its journal fails.
pub(crate) fn stream_not_looked_up_survives_a_restart(mapped: bool) -> Result<(), String> {
    let sim = killed_with_stream(mapped);
    // It stays open, because closing it settles the stream.
    let wal = open(sim.clone(), mapped);
    restart_journal(&sim, &wal);
    survive(&sim, mapped, CARRIED)
}

/// The directory of a deleted stream cannot be removed until the journal was released.
pub(crate) fn unfinished_deletion_survives_a_release(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let hooked = HookedStorage::new(sim.clone());
    let wal = open(hooked.clone(), mapped);
    append_large(&wal.stream("s").unwrap());
    keep_directory(&hooked, |_| true);
    assert!(wal.delete_stream("s").is_err());
    fill_journal(&wal);
    survive(&sim, mapped, 0)
}

/// The directory of the stream `s` cannot be renamed, and the files for which `keeps` is true
/// cannot be removed.
fn keep_directory(storage: &HookedStorage, keeps: impl Fn(&Path) -> bool + Send + Sync + 'static) {
    storage.intercept(move |call| {
        let is_of_s = |path: &Path| path.starts_with("/log/streams/s");
        let fails = match call.operation {
            Operation::Rename => call.from.as_deref() == Some(Path::new("/log/streams/s")),
            Operation::Remove => is_of_s(&call.path) && keeps(&call.path),
            _ => false,
        };
        if fails { Verdict::Fail(io::ErrorKind::CrossesDevices.into()) } else { Verdict::Proceed }
    });
}

/// A stream with several segments.
fn append_segments(wal: &Wal) {
    let stream = wal.stream_with("s", StreamOptions::new().segment_bytes(64 << 10)).unwrap();
    for _ in 0..4 {
        append_large(&stream);
    }
}

/// A settled stream is deleted while its files cannot be read, and a new stream gets its name. The
/// journal still has records of the first.
pub(crate) fn stream_that_cannot_be_read_stays_deleted(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let hooked = HookedStorage::new(sim.clone());
    let wal = open(hooked.clone(), mapped);
    let stream = wal.stream("s").unwrap();
    append(&stream, 3, Durability::Synced);
    stream.close().map_err(|error| error.to_string())?;
    hooked.intercept(|call| {
        let is_of_s = call.operation == Operation::Open && call.path.starts_with("/log/streams/s");
        if is_of_s { Verdict::Fail(io::Error::other("a bad sector")) } else { Verdict::Proceed }
    });
    wal.delete_stream("s").map_err(|error| error.to_string())?;
    hooked.clear();
    append(&wal.stream("s").unwrap(), 2, Durability::Synced);
    survive(&sim, mapped, 2)
}

/// Some files of a deleted stream are removed where they are, and others cannot be.
pub(crate) fn half_removed_stream_stays_deleted(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let hooked = HookedStorage::new(sim.clone());
    let wal = open(hooked.clone(), mapped);
    append_segments(&wal);
    let count = AtomicUsize::new(0);
    keep_directory(&hooked, move |_| count.fetch_add(1, Ordering::Relaxed) == 1);
    assert!(wal.delete_stream("s").is_err());
    keep_directory(&hooked, |_| true);
    if wal.stream("s").is_ok() {
        return Err("the name is given away".to_owned());
    }
    fill_journal(&wal);
    survive(&sim, mapped, 0)?;
    // Each look-up tries again.
    keep_directory(&hooked, |_| false);
    has(&wal, "s", 0)?;
    append(&wal.stream("s").unwrap(), 2, Durability::Synced);
    survive(&sim, mapped, 2)
}

/// A crash comes at any time while a stream is deleted whose directory cannot be renamed, neither
/// before the crash nor after it. The stream is there as a whole, or not at all.
pub(crate) fn deletion_without_a_rename_is_atomic(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let hooked = HookedStorage::new(sim.clone());
    let wal = open(hooked.clone(), mapped);
    append_segments(&wal);
    keep_directory(&hooked, |_| false);
    let images = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&images);
    sim.watch(move |disk| seen.lock().unwrap().push(disk.clone()));
    wal.delete_stream("s").map_err(|error| error.to_string())?;
    sim.unwatch();
    if sim.list(Path::new("/log/streams/s")).is_ok() {
        return Err("the directory is still there".to_owned());
    }
    for disk in images.lock().unwrap().iter() {
        for crash in [Crash::Kill, Crash::Lost, Crash::Kept] {
            let after = HookedStorage::new(SimStorage::on(disk.crash(crash, &mut Rng::new(1)), 3));
            keep_directory(&after, |_| false);
            let wal = open(after, mapped);
            let stream = match wal.stream("s") {
                // The last file is gone, and the directory is not.
                Err(error) if error.to_string().contains("delete it again") => {
                    wal.delete_stream("s").map_err(|error| error.to_string())?;
                    wal.stream("s")
                }
                other => other,
            };
            let next = stream.map_err(|error| format!("{crash:?}: {error}"))?.next_seq();
            if ![0, 12].contains(&next) {
                return Err(format!("{crash:?}: {next} entries"));
            }
        }
    }
    survive(&sim, mapped, 0)
}

/// The journal fails while it takes the deletion of a stream that has entries in its files and
/// others in the journal. The stream is deleted as a whole.
pub(crate) fn failed_deletion_takes_the_whole_stream(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), mapped);
    let stream = wal.stream("s").unwrap();
    append_large(&stream);
    append(&stream, 3, Durability::Synced);
    sim.set_faults(Some(Faults { after: 0, fault: Fault::Io, forever: false }));
    let failed = wal.delete_stream("s").is_err();
    sim.set_faults(None);
    assert!(failed, "the journal fails");
    has(&wal, "s", 0)?;
    survive(&sim, mapped, 0)?;
    append(&wal.stream("s").unwrap(), 2, Durability::Synced);
    survive(&sim, mapped, 2)
}

/// The write-back of the journal fails, and that of the file to which entries were drained. Another
/// stream has the journal restarted.
pub(crate) fn drained_entries_survive_two_failures(mapped: bool) -> Result<(), String> {
    const COUNT: u64 = 6;
    let sim = SimStorage::new(1);
    let wal = open_with(sim.clone(), mapped, 1 << 20);
    let other = wal.stream("other").unwrap();
    append(&other, 1, Durability::Synced);
    let stream = wal.stream("s").unwrap().with_durability(Durability::Synced);
    for seq in 0..COUNT {
        stream.append(text(seq, 50_000)).unwrap();
    }
    sim.set_faults(Some(Faults { after: 0, fault: Fault::WriteBack, forever: false }));
    let failed = other.with_durability(Durability::Synced).append("fails").is_err();
    sim.set_faults(None);
    assert!(failed, "the write-back fails");
    other.reopen().map_err(|error| format!("does not restart: {error}"))?;
    survive(&sim, mapped, COUNT)
}

/// The files of a stream have lost everything, and attest nothing. Only the journal proves that
/// they held entries: it has a copy of later ones.
pub(crate) fn promise_in_the_journal_shows_lost_files(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), mapped);
    let stream = wal.stream("s").unwrap().with_durability(Durability::Synced);
    append_large(&stream);
    append(&stream, 3, Durability::Synced);
    fill_journal(&wal);
    let after = after(&sim, Crash::Kill);
    empty_segments(&after);
    match open(after, mapped).stream("s") {
        Err(error) if error.kind() == ErrorKind::Damaged && error.lost() == Some(0..3) => Ok(()),
        Err(error) => Err(format!("an error of another kind: {error}: {:?}", error.lost())),
        Ok(stream) => Err(format!("opens with {} entries", stream.next_seq())),
    }
}

/// A thread that has appended is about to drain its stream, and the log is closed. The thread
/// continues once the files may belong to another process.
pub(crate) fn fast_close_stops_a_drain(_mapped: bool) -> Result<(), String> {
    let hooked = HookedStorage::new(SimStorage::new(1));
    let wal = open_with(hooked.clone(), false, 16 << 20);
    let stream = wal.stream("s").unwrap();
    append(&stream, 1, Durability::Flushed);
    // The fifth of these finds no room in the first file of the journal, then prepares another
    // file, and then drains.
    let append = |seq| stream.append(text(seq, 60 << 10)).expect("an append without a fault");
    for seq in 1..5 {
        append(seq);
    }
    let gate = Gate::new();
    let passes = gate.clone();
    let created = AtomicUsize::new(0);
    hooked.set(move |operation, _| {
        if operation == Operation::Create && created.fetch_add(1, Ordering::SeqCst) == 1 {
            passes.pass();
        }
        Ok(())
    });
    let written = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let appender = scope.spawn(|| append(5));
        gate.await_one();
        wal.close_fast().expect("a close without a fault");
        let seen = Arc::clone(&written);
        hooked.set(move |_, path| {
            seen.fetch_add(usize::from(path.starts_with("/log/streams")), Ordering::SeqCst);
            Ok(())
        });
        gate.open();
        appender.join().expect("the append ends");
    });
    hooked.clear();
    drop((stream, wal));
    has(&open(hooked, false), "s", 6)?;
    match written.load(Ordering::SeqCst) {
        0 => Ok(()),
        count => Err(format!("{count} operations on a stream after the close")),
    }
}

/// A log whose process was killed with `count` entries of the stream `s` in the journal alone. The
/// journal is so large that the next opening does not settle them.
fn killed_with_entries(mapped: bool, count: u64, durability: Durability) -> SimStorage {
    let sim = SimStorage::new(1);
    let wal = open_with(sim.clone(), mapped, LARGE_JOURNAL);
    append(&wal.stream("s").unwrap(), count, durability);
    after(&sim, Crash::Kill)
}

const LARGE_JOURNAL: u64 = 256 << 10;

/// The second process looks the stream up, and releases the journal.
pub(crate) fn joined_entries_survive_a_release(mapped: bool) -> Result<(), String> {
    for count in [10, 40] {
        let sim = killed_with_entries(mapped, count, Durability::Synced);
        let wal = open_with(sim.clone(), mapped, LARGE_JOURNAL);
        has(&wal, "s", count)?;
        (0..5).for_each(|_| fill_journal(&wal));
        survive(&sim, mapped, count)?;
    }
    Ok(())
}

/// The second process syncs entries that were flushed by the first, and that are too many to be
/// copied.
pub(crate) fn joined_entries_that_are_synced_survive(mapped: bool) -> Result<(), String> {
    let sim = killed_with_entries(mapped, 40, Durability::Flushed);
    let wal = open_with(sim.clone(), mapped, LARGE_JOURNAL);
    wal.stream("s").unwrap().sync().unwrap();
    (0..5).for_each(|_| fill_journal(&wal));
    survive(&sim, mapped, 40)
}

/// Opens the stream `s` as another process does.
fn beside(storage: impl Storage + 'static) -> Stream {
    let wal = Options::new().open_on(Arc::new(storage), Path::new("/log"), true).expect("the log opens");
    wal.stream("s").expect("the stream opens")
}

/// A reader has looked at the journal when the writer drops entries that only the journal had.
pub(crate) fn reader_beside_a_cut_sees_a_state(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), mapped);
    let stream = wal.stream("s").unwrap();
    append_large(&stream);
    append(&stream, 5, Durability::Synced);
    let hooked = HookedStorage::new(sim);
    let cut = std::sync::Once::new();
    hooked.set(move |operation, path| {
        if operation == Operation::Open && path.extension().is_some_and(|extension| extension == "seg") {
            cut.call_once(|| stream.truncate_from(4).expect("a cut without a fault"));
        }
        Ok(())
    });
    has_entries(&beside(hooked), 4)
}

/// The journal has lost an entry of a stream that also has files. A reader does not show the files
/// alone.
pub(crate) fn damage_of_the_journal_is_no_silence(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), mapped);
    let stream = wal.stream("s").unwrap();
    append_large(&stream);
    append(&stream, 2, Durability::Synced);
    // This record attests those before it.
    append(&wal.stream("other").unwrap(), 1, Durability::Synced);
    let sim = after(&sim, Crash::Lost);
    let is_journal = |(path, _): &(String, u64)| path.starts_with("/log/journal/");
    let (path, _) = sim.disk().files().into_iter().rfind(is_journal).expect("the log has a journal");
    let path = PathBuf::from(path);
    let bytes = sim.disk().bytes(&path).expect("it is there");
    let at = bytes.windows(8).position(|found| found == b"entry 4 ").expect("the journal has the entry");
    let file = sim.open(&path, Access::ReadWrite).expect("it is there");
    file.write_all_at(b"E", at as u64).expect("no fault");
    let wal = Options::new().open_on(Arc::new(sim), Path::new("/log"), true).expect("the log opens");
    match wal.stream("s") {
        Err(error) if error.kind() == ErrorKind::Damaged => Ok(()),
        Err(error) => Err(format!("an error of another kind: {error}")),
        Ok(stream) => Err(format!("opens with {} entries", stream.next_seq())),
    }
}

/// A reader holds a look at entries that only the journal had. The writer replaces them, and uses
/// the journal again.
pub(crate) fn held_entries_are_never_replaced(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), mapped);
    let stream = wal.stream("s").unwrap().with_durability(Durability::Synced);
    append(&stream, 10, Durability::Synced);
    let held = beside(sim);
    stream.truncate_from(2).unwrap();
    for seq in 2..10 {
        stream.append(vec![b'x'; text(seq, ENTRY_LEN).len()]).unwrap();
    }
    fill_journal(&wal);
    for seq in 2..10 {
        match held.get(seq) {
            Err(error) if matches!(error.kind(), ErrorKind::Cut { .. }) => {}
            Err(error) => return Err(format!("an error of another kind: {error}")),
            Ok(entry) if entry.as_ref().is_some_and(|entry| entry.data()[..] == text(seq, ENTRY_LEN)) => {}
            Ok(_) => return Err(format!("entry {seq} was replaced")),
        }
    }
    Ok(())
}

/// A reader holds looks at entries that only the journal had. The writer moves them to the files,
/// and uses the journal again.
pub(crate) fn held_entries_are_found_in_the_files(mapped: bool) -> Result<(), String> {
    let sim = SimStorage::new(1);
    let wal = open(sim.clone(), mapped);
    append(&wal.stream("s").unwrap(), 10, Durability::Synced);
    let held = beside(sim.clone());
    let held_over_close = beside(sim);
    fill_journal(&wal);
    has_entries(&held, 10)?;
    wal.close().map_err(|error| error.to_string())?;
    let iter = held.iter(..);
    held.reopen().map_err(|error| error.to_string())?;
    let found: Result<Vec<_>, _> = iter.collect();
    if found.map_err(|error| error.to_string())?.len() != 10 {
        return Err("an iterator ended early".to_owned());
    }
    has_entries(&held, 10)?;
    has_entries(&held_over_close, 10)
}

macro_rules! lives {
    ($($test:ident: $life:ident,)+) => {
        $(
            #[test]
            fn $test() {
                for mapped in [true, false] {
                    $life(mapped).unwrap_or_else(|what| panic!("mapped {mapped}: {what}"));
                }
            }
        )+
    };
}

lives! {
    release_keeps_synced_entries: synced_entries_survive_a_release,
    release_keeps_entries_that_were_synced_later: entries_synced_later_survive_a_release,
    synced_entry_after_released_ones_is_kept: synced_entry_after_released_ones_survives,
    release_keeps_streams_that_were_not_looked_up: stream_not_looked_up_survives_a_release,
    restart_keeps_streams_that_were_not_looked_up: stream_not_looked_up_survives_a_restart,
    release_keeps_entries_that_were_looked_up: joined_entries_survive_a_release,
    sync_of_entries_that_were_looked_up_is_kept: joined_entries_that_are_synced_survive,
    release_keeps_unfinished_deletions: unfinished_deletion_survives_a_release,
    failed_deletion_leaves_no_part_of_a_stream: failed_deletion_takes_the_whole_stream,
    failed_write_back_takes_no_drained_entry: drained_entries_survive_two_failures,
    drain_after_a_fast_close_writes_nothing: fast_close_stops_a_drain,
    promise_in_the_journal_reveals_lost_files: promise_in_the_journal_shows_lost_files,
    crash_keeps_a_start: start_survives_a_crash,
    release_keeps_a_start: start_survives_a_release,
    restart_of_the_journal_keeps_a_start: start_survives_a_restart,
    start_of_a_stream_at_rest_is_kept: start_of_stream_not_looked_up_survives,
    start_is_kept_if_its_frame_is_not_synced: start_survives_a_failed_frame,
    reader_looks_again_after_a_cut: reader_beside_a_cut_sees_a_state,
    reader_keeps_what_it_looked_at: held_entries_are_never_replaced,
    reader_follows_entries_to_the_files: held_entries_are_found_in_the_files,
    entries_from_the_start_on_are_kept: entries_survive_a_restart_at_start,
    half_removed_stream_is_not_found: half_removed_stream_stays_deleted,
    deletion_of_a_stream_that_cannot_be_read_is_kept: stream_that_cannot_be_read_stays_deleted,
    deletion_in_place_is_atomic: deletion_without_a_rename_is_atomic,
    damaged_journal_is_no_silence: damage_of_the_journal_is_no_silence,
}
