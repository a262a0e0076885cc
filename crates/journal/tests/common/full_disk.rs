//! Lives of a journal that is opened on a disk without room for a new file. Each function returns
//! how the journal breaks a promise.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use stratawal_frame::{SeqNo, StreamId, WalId};
use stratawal_journal::{Error, Image, Journal, JournalOptions, Needed, Part, Record};
use stratawal_storage::{Access, Storage};
use stratawal_testkit::{Crash, Disk, Fault, Faults, HookedStorage, Operation, Rng, SimStorage};

pub(crate) const WAL: WalId = WalId(3);
pub(crate) const DIR: &str = "/journal";

pub(crate) fn options(mapped: bool) -> JournalOptions {
    JournalOptions::default().bytes(64 << 10).first_file_bytes(16 << 10).mapped(mapped)
}

pub(crate) fn data(seq: u64, len: usize) -> Record {
    let name = Some("stream".into());
    let body = vec![7; len].into();
    Record::Data(vec![Part { stream: StreamId(1), name, first: SeqNo(seq), count: 1, timestamp: 0, firm: true, body }])
}

pub(crate) fn shared(sim: &SimStorage) -> Arc<dyn Storage> {
    Arc::new(sim.clone())
}

pub(crate) fn create(sim: &SimStorage, mapped: bool) -> Journal {
    Journal::create(&shared(sim), Path::new(DIR), WAL, options(mapped)).expect("it is new")
}

/// From now on no file can grow.
pub(crate) fn fill(sim: &SimStorage) {
    sim.set_faults(Some(Faults { after: 0, fault: Fault::Capacity, forever: true }));
}

pub(crate) fn read(sim: &SimStorage) -> Result<Image, Error> {
    Image::read(sim, Path::new(DIR), WAL)
}

pub(crate) fn open(sim: &SimStorage, mapped: bool) -> Result<(Journal, Needed), Error> {
    Journal::open(&shared(sim), Path::new(DIR), WAL, options(mapped), read(sim)?, |_| true)
}

pub(crate) fn after(sim: &SimStorage, crash: Crash) -> SimStorage {
    SimStorage::on(sim.disk().crash(crash, &mut Rng::new(1)), sim.random_u64())
}

/// The number of entries that the journal holds.
pub(crate) fn count(sim: &SimStorage) -> Result<u64, String> {
    let image = read(sim).map_err(|error| error.to_string())?;
    if let Some(damage) = image.damage() {
        return Err(damage.to_string());
    }
    let needed = image.needed();
    let Some(stream) = needed.streams.get(&StreamId(1)) else { return Ok(0) };
    stream.tail_after(SeqNo(0)).map(|tail| tail.end.0).map_err(|gap| format!("{gap:?}"))
}

fn must_be(found: Result<u64, String>, expected: u64, when: &str) -> Result<(), String> {
    if found == Ok(expected) { Ok(()) } else { Err(format!("{when}: {found:?} entries, expected {expected}")) }
}

/// Opens on the full disk, puts an entry of this length, and crashes.
fn go_on(sim: &SimStorage, mapped: bool, held: u64, len: usize) -> Result<SimStorage, String> {
    fill(sim);
    let (journal, _) = open(sim, mapped).map_err(|error| error.to_string())?;
    must_be(count(&after(sim, Crash::Lost)), held, "opened")?;
    let put = journal.append(&data(held, len)).and_then(|position| journal.sync_to(position));
    put.map_err(|error| error.to_string())?;
    let sim = after(sim, Crash::Lost);
    must_be(count(&sim), held + 1, "one more")?;
    Ok(sim)
}

pub(crate) fn file(number: u64) -> String {
    format!("{DIR}/{number:020}.jnl")
}

pub(crate) fn files(sim: &SimStorage) -> Vec<String> {
    sim.disk().files().into_iter().map(|(path, _)| path).collect()
}

/// A journal with 20 entries in two files, which are in the page cache alone. If `failed`, a sync
/// has failed, so that no later sync writes them.
fn in_the_cache(mapped: bool, failed: bool) -> Result<SimStorage, String> {
    let sim = SimStorage::new(1);
    let journal = create(&sim, mapped);
    for seq in 0..20 {
        journal.append(&data(seq, 500)).expect("there is room");
    }
    if failed {
        sim.set_faults(Some(Faults { after: 0, fault: Fault::WriteBack, forever: false }));
        if journal.sync().is_ok() {
            return Err("a failed write-back is not reported".to_owned());
        }
    }
    Ok(after(&sim, Crash::Kill))
}

pub(crate) fn records_in_the_cache_become_durable() -> Result<(), String> {
    for mapped in [true, false] {
        for failed in [true, false] {
            let sim = in_the_cache(mapped, failed)?;
            let names = files(&sim);
            let sim =
                go_on(&sim, mapped, 20, 500).map_err(|what| format!("mapped {mapped}, failed {failed}: {what}"))?;
            assert_eq!(files(&sim), names, "the journal goes on in its files");
        }
    }
    Ok(())
}

/// A journal of two files with entries that nothing attests. Of the records before the end of the
/// first file, or with `in_newest` of the second, the `lost`th last was lost in a power loss.
pub(crate) fn with_a_gap(in_newest: bool, lost: usize) -> SimStorage {
    let sim = SimStorage::new(1);
    let journal = create(&sim, false);
    for seq in 0..22 {
        journal.append(&data(seq, 500)).expect("there is room");
    }
    let records = read(&sim).expect("it is sound").records().to_vec();
    let next = records.iter().position(|located| located.record == Record::Next).expect("the first file has one");
    let (number, first, last) =
        if in_newest { (2, records[next].end(), records.len() - 1) } else { (1, records[0].lsn, next) };
    let sim = after(&sim, Crash::Kill);
    let gap = sim.open(Path::new(&file(number)), Access::ReadWrite).expect("it exists");
    gap.write_all_at(&[0; 16], 4096 + (records[last - lost].lsn - first)).expect("memory");
    for path in files(&sim) {
        sim.open(Path::new(&path), Access::ReadWrite).and_then(|file| file.sync_all()).expect("no fault");
    }
    sim
}

pub(crate) fn records_after_lost_ones_stay_away() -> Result<(), String> {
    for (in_newest, lost) in [(false, 0), (false, 1), (false, 3), (true, 1), (true, 2)] {
        let sim = with_a_gap(in_newest, lost);
        let held = count(&sim)?;
        let failed = |what| format!("gap in the newest file {in_newest}, {lost} lost: {what}");
        let sim = go_on(&sim, false, held, 500).map_err(failed)?;
        go_on(&sim, false, held + 1, 300).map_err(failed)?;
    }
    Ok(())
}

/// The process dies, or the machine, at any change of an opening. The next opening finds the same.
pub(crate) fn interrupted_opening_changes_nothing() -> Result<(), String> {
    for (in_newest, lost) in [(false, 0), (false, 2), (true, 1)] {
        let sim = with_a_gap(in_newest, lost);
        let held = count(&sim)?;
        let disks: Arc<Mutex<Vec<Disk>>> = Arc::default();
        let seen = Arc::clone(&disks);
        fill(&sim);
        sim.watch(move |disk| seen.lock().expect("no panic").push(disk.clone()));
        drop(open(&sim, false).map_err(|error| error.to_string())?);
        sim.unwatch();
        let disks = std::mem::take(&mut *disks.lock().expect("no panic"));
        for (change, disk) in disks.iter().enumerate() {
            let mut rng = Rng::new(change as u64);
            for crash in [Crash::Kill, Crash::Lost, Crash::Kept, Crash::any(&mut rng), Crash::any(&mut rng)] {
                let sim = SimStorage::on(disk.crash(crash, &mut rng), 3);
                let failed = |what| {
                    format!("gap in the newest file {in_newest}, {lost} lost, change {change}, {crash:?}: {what}")
                };
                must_be(count(&sim), held, "crashed").map_err(failed)?;
                go_on(&sim, false, held, 500).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// The new file gets its name, although syncs of the directory report a full disk.
pub(crate) fn file_that_got_its_name_is_not_overlooked() -> Result<(), String> {
    for failing in 0..6 {
        let sim = in_the_cache(false, false)?;
        let hooked = HookedStorage::new(sim.clone());
        let syncs = AtomicU64::new(0);
        hooked.set(move |operation, path| {
            let is_sync = operation == Operation::SyncDir && path == Path::new(DIR);
            let fails = is_sync && syncs.fetch_add(1, Ordering::SeqCst) < failing;
            if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        });
        let storage: Arc<dyn Storage> = Arc::new(hooked);
        let image = read(&sim).map_err(|error| error.to_string())?;
        let opened = Journal::open(&storage, Path::new(DIR), WAL, options(false), image, |_| true);
        let mut held = 20;
        if let Ok((journal, _)) = &opened {
            let put = journal.append(&data(held, 500)).and_then(|position| journal.sync_to(position));
            held += u64::from(put.is_ok());
        }
        let failed = |what| format!("{failing} syncs fail: {what}");
        must_be(count(&after(&sim, Crash::Kill)), held, "killed").map_err(failed)?;
        if opened.is_ok() {
            must_be(count(&after(&sim, Crash::Lost)), held, "power lost").map_err(failed)?;
        }
    }
    Ok(())
}

pub(crate) fn all() -> Result<(), String> {
    records_in_the_cache_become_durable()?;
    records_after_lost_ones_stay_away()?;
    interrupted_opening_changes_nothing()?;
    file_that_got_its_name_is_not_overlooked()
}
