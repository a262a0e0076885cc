//! Opening a journal on a disk that has no room for a new file.

mod common;

use std::path::Path;

use common::full_disk::{DIR, WAL, after, count, create, data, file, files, fill, open, options, shared, with_a_gap};
use stratawal_frame::StreamId;
use stratawal_journal::{Image, Journal, JournalOptions, Record};
use stratawal_testkit::{Crash, Fault, Faults, SimStorage};

#[test]
fn records_in_the_page_cache_become_durable() {
    common::full_disk::records_in_the_cache_become_durable().unwrap();
}

#[test]
fn records_after_lost_ones_never_come_back() {
    common::full_disk::records_after_lost_ones_stay_away().unwrap();
}

#[test]
fn interrupted_opening_changes_nothing() {
    common::full_disk::interrupted_opening_changes_nothing().unwrap();
}

#[test]
fn file_that_got_its_name_is_not_overlooked() {
    common::full_disk::file_that_got_its_name_is_not_overlooked().unwrap();
}

#[test]
fn appends_fail_on_a_full_disk_and_go_on_with_room() {
    let sim = SimStorage::new(1);
    create(&sim, false).append(&data(0, 500)).expect("there is room");
    let sim = after(&sim, Crash::Kill);
    fill(&sim);
    let (journal, _) = open(&sim, false).expect("it goes on in its file");
    let mut seq = 1;
    let full = loop {
        match journal.append(&data(seq, 500)) {
            Ok(_) => seq += 1,
            Err(error) => break error,
        }
    };
    assert!(full.is_full() && journal.failure().is_none(), "{full}");
    assert!(seq > 10, "{seq} entries");
    let drop = Record::Drop { stream: StreamId(2), name: "other".into() };
    journal.append(&drop).expect("a record that frees space has room");
    sim.set_faults(None);
    journal.append(&data(seq, 500)).expect("there is room again");
    journal.release(journal.end()).expect("no fault");
    journal.sync().expect("no fault");
    assert_eq!(count(&after(&sim, Crash::Lost)).unwrap(), 0, "all is released");
}

#[test]
fn rotation_on_a_nearly_full_disk_takes_a_short_file() {
    let sim = SimStorage::new(1);
    let options = JournalOptions::default().mapped(false);
    let journal = Journal::create(&shared(&sim), Path::new(DIR), WAL, options).expect("it is new");
    let room = sim.disk().used() + (20 << 10);
    sim.set_faults(Some(Faults { after: room, fault: Fault::Capacity, forever: true }));
    let mut seq = 0;
    while files(&sim).len() < 2 {
        journal.append(&data(seq, 500)).expect("there is room for a short file");
        seq += 1;
    }
}

#[test]
fn closed_journal_opens_on_a_full_disk() {
    let sim = SimStorage::new(1);
    let journal = create(&sim, false);
    journal.append(&data(0, 20)).expect("there is room");
    journal.close().expect("no fault");
    for round in 0..4 {
        fill(&sim);
        let (journal, needed) = open(&sim, false).expect("it goes on in its file");
        assert!(needed.is_empty(), "round {round}");
        let position = journal.append(&data(0, 20)).expect("there is room");
        journal.sync_to(position).expect("no fault");
        assert_eq!(count(&after(&sim, Crash::Lost)).unwrap(), 1);
        journal.close().expect("no fault");
    }
}

/// A spare that a killed process has left is removed, and its space taken.
#[test]
fn space_of_a_spare_is_enough_to_open() {
    let sim = SimStorage::new(1);
    let journal = create(&sim, false);
    journal.append(&data(0, 500)).expect("there is room");
    journal.prepare().expect("there is room");
    let sim = after(&sim, Crash::Kill);
    let used = sim.disk().used();
    sim.set_faults(Some(Faults { after: used, fault: Fault::Capacity, forever: true }));
    open(&sim, false).expect("it opens");
    assert_eq!(files(&sim), [file(2)]);
    assert_eq!(count(&after(&sim, Crash::Lost)).unwrap(), 1);
}

/// While nothing is released, entries leave one spare for the records that free space.
#[test]
fn a_growing_journal_takes_prepared_files() {
    for mapped in [true, false] {
        let sim = SimStorage::new(1);
        let limits = JournalOptions::default().bytes(1 << 20).first_file_bytes(16 << 10).mapped(mapped);
        let journal = Journal::create(&shared(&sim), Path::new(DIR), WAL, limits).expect("it is new");
        let named = || files(&sim).iter().filter(|name| !name.contains("spare")).count();
        for seq in 0..1_000 {
            journal.prepare().expect("there is room");
            if named() == 4 {
                break;
            }
            if named() > 1 {
                // Nothing can be created from now on.
                let used = sim.disk().used();
                sim.set_faults(Some(Faults { after: used, fault: Fault::Capacity, forever: true }));
            }
            journal.append(&data(seq, 500)).expect("a file is ready");
            sim.set_faults(None);
        }
        assert_eq!(named(), 4, "mapped: {mapped}");
    }
}

/// Each operation of an opening fails in turn. The opening may be repeated, whether or not the
/// process dies in between.
#[test]
fn opening_that_fails_at_any_operation_can_be_repeated() {
    for (lost, fault) in [(0, Fault::Io), (2, Fault::Io), (2, Fault::Full), (2, Fault::IoAfterEffect)] {
        for after_ops in 0.. {
            let sim = with_a_gap(false, lost);
            let held = count(&sim).unwrap();
            sim.set_faults(Some(Faults { after: after_ops, fault, forever: fault == Fault::Full }));
            let opened = Image::read(&sim, Path::new(DIR), WAL)
                .and_then(|image| Journal::open(&shared(&sim), Path::new(DIR), WAL, options(false), image, |_| true));
            let failed = sim.failed();
            sim.set_faults(None);
            for crash in [Crash::Kill, Crash::Lost, Crash::Kept] {
                let sim = after(&sim, crash);
                assert_eq!(count(&sim).unwrap(), held, "{fault:?} after {after_ops} operations, {crash:?}, {opened:?}");
                fill(&sim);
                drop(open(&sim, false).expect("it opens"));
                assert_eq!(count(&after(&sim, Crash::Lost)).unwrap(), held);
            }
            if failed == 0 {
                break;
            }
        }
    }
}

/// A disk that writes elsewhere needs space to overwrite.
#[test]
fn disk_that_cannot_overwrite_either_is_full() {
    let sim = with_a_gap(false, 1);
    let held = count(&sim).unwrap();
    sim.set_faults(Some(Faults { after: 0, fault: Fault::Full, forever: true }));
    let full = open(&sim, false).expect_err("nothing can be written");
    assert!(full.is_full(), "{full}");
    sim.set_faults(None);
    assert_eq!(count(&sim).unwrap(), held);
}
