//! Histories of streams that several threads write through the commit journal, and the promises
//! that must hold. The model checker runs each scenario in every interleaving of its threads;
//! otherwise real threads run it many times.
//!
//! A scenario looks for the entries that recovery would find if the process died now, or if the
//! power failed now. It reads the journal's bytes, and does not trust the state of the stream.

use std::io;
use std::path::Path;
use std::sync::Arc;

use stratawal_frame::{SeqNo, StreamId, WalId};
use stratawal_journal::{Image, JournalOptions, Lsn, NeededStream, Record};
use stratawal_storage::{MemoryStorage, Storage};
use stratawal_sync::atomic::{AtomicBool, Ordering};
use stratawal_sync::model::explore_bounded;
use stratawal_sync::thread::spawn;
use stratawal_testkit::{HookedStorage, Operation};

use super::LogJournal;
use crate::{Durability, Location, LogContext, StreamLog, StreamOptions, Visibility};

const DIR: &str = "/journal";

/// The preemptions of a model. Each append passes the locks of the stream and those of the journal,
/// so three preemptions give too many interleavings.
const PREEMPTIONS: usize = 3;

/// An entry so long that two of them do not fit into a file of the journal.
const LARGE: &[u8] = &[7; 7000];

fn journal_options() -> JournalOptions {
    JournalOptions::default().bytes(64 << 10).first_file_bytes(16 << 10)
}

/// A log with a small commit journal.
#[derive(Clone)]
struct Watched {
    context: Arc<LogContext>,
}

impl Watched {
    fn new() -> Self {
        Self::on(MemoryStorage::new().with_clock(1, 1).with_seed(1))
    }

    fn on(storage: impl Storage + 'static) -> Self {
        let storage: Arc<dyn Storage> = Arc::new(storage);
        storage.create_dir(Path::new("/streams")).expect("memory");
        let journal = LogJournal::create(&storage, Path::new(DIR), WalId(0), journal_options()).expect("memory");
        Self { context: Arc::new(LogContext::new(storage).journal(Arc::new(journal))) }
    }

    /// Opens a stream. It has one entry, which is settled.
    fn stream(&self, name: &str, durability: Durability) -> Stream {
        let options = StreamOptions::new().durability(durability);
        let location = Location::new("/streams", name);
        let log = StreamLog::open(Arc::clone(&self.context), location, options).expect("opens");
        log.append(b"0", Durability::Buffered).expect("appends");
        log.inner.settle_files().expect("memory");
        Stream { log, watched: self.clone() }
    }

    fn journal(&self) -> &LogJournal {
        self.context.log_journal().expect("it has one")
    }

    /// The journal as it is now. Watermarks that are loaded afterwards cover the records that were
    /// released from it.
    fn image(&self) -> Image {
        let image = Image::read(&**self.context.storage(), Path::new(DIR), WalId(0)).expect("it is sound");
        // The model checker does not see that the bytes came from other threads. This takes the
        // lock under which they were written.
        drop(self.journal().failure());
        image
    }
}

#[derive(Clone)]
struct Stream {
    log: StreamLog,
    watched: Watched,
}

impl Stream {
    fn append(&self, entry: &[u8], durability: Durability) -> u64 {
        self.log.append(entry, durability).expect("appends")
    }

    /// Writes everything pending to the stream's files, as the thread that leads would.
    fn drain(&self) {
        self.log.inner.group.commit_now(Durability::Flushed).expect("memory");
    }

    /// The records of the stream that are whole below `end`.
    fn needed_below(&self, image: &Image, end: Lsn) -> NeededStream {
        let state = self.log.inner.group.lock();
        let id = state.tail.journaled.as_ref().and_then(|journaled| journaled.known_stream()).expect("it exists");
        drop(state);
        let mut needed = image.needed().streams.remove(&id).unwrap_or_default();
        needed.parts.retain(|located| located.end <= end);
        let firm = image.records().iter().filter(|located| located.end() <= end).map(|located| match located.record {
            Record::Firm { stream, seq } if stream == id => seq,
            _ => SeqNo(0),
        });
        needed.firm = firm.max().unwrap_or_default();
        needed
    }

    /// One past the last entry that recovery finds if the process dies now.
    fn end_after_a_kill(&self) -> u64 {
        let image = self.watched.image();
        let drained = self.log.inner.shared.watermarks.drained();
        let tail = self.needed_below(&image, image.end()).tail_after(SeqNo(drained));
        tail.expect("no promised entry is missing").end.0
    }

    /// One past the last entry that recovery finds if the power fails now, and whose loss it would
    /// report.
    fn end_after_a_power_failure(&self) -> u64 {
        let image = self.watched.image();
        let durable = self.watched.journal().journal.durable();
        let settled = self.log.inner.shared.watermarks.settled();
        let needed = self.needed_below(&image, durable);
        needed.tail_after(SeqNo(settled)).expect("no promised entry is missing");
        let firm = needed.parts.iter().filter(|located| located.part.firm).map(|located| located.part.end());
        firm.fold(needed.firm, SeqNo::max).0.max(settled)
    }

    /// The first live seq that recovery finds if the power fails now.
    fn start_after_a_power_failure(&self) -> u64 {
        let id = self.log.inner.shared.stream_id().expect("it exists");
        let image = self.watched.image();
        let durable = self.watched.journal().journal.durable();
        let records = image.records().iter().filter(|located| located.end() <= durable);
        let starts = records.filter_map(|located| match located.record {
            Record::Start { stream, seq, .. } if stream == id => Some(seq.0),
            _ => None,
        });
        starts.max().unwrap_or(0).max(self.log.inner.shared.watermarks.start_in_files())
    }

    /// Appends an entry, which must survive the death of the process.
    fn append_flushed(&self, entry: &[u8]) {
        let seq = self.append(entry, Durability::Flushed);
        assert!(self.end_after_a_kill() > seq, "acknowledged, and lost by a kill");
    }

    /// Appends an entry, which must survive a power failure.
    fn append_synced(&self, entry: &[u8]) {
        let seq = self.append(entry, Durability::Synced);
        assert!(self.end_after_a_power_failure() > seq, "acknowledged, and lost by a power failure");
    }

    /// Syncs the stream, whose entries below `end` must then survive a power failure.
    fn sync(&self, end: u64) {
        self.log.sync().expect("syncs");
        assert!(self.end_after_a_power_failure() >= end, "synced, and lost by a power failure");
    }

    fn check_watermarks(&self) {
        let durable = self.log.durable_seq();
        assert!(self.end_after_a_power_failure() >= durable, "shown as durable, and lost by a power failure");
        assert!(self.end_after_a_kill() >= self.log.inner.shared.watermarks.flushed());
    }
}

#[test]
fn entries_acknowledged_by_the_journal_survive() {
    explore_bounded(PREEMPTIONS, || {
        let stream = Watched::new().stream("s", Durability::Flushed);
        let other = stream.clone();
        let thread = spawn(move || {
            other.append_flushed(b"a");
            other.sync(2);
        });
        stream.append_synced(b"b");
        thread.join().expect("no panic");
        assert_eq!(stream.log.durable_seq(), 3);
    });
}

/// A drain takes an entry that is not in the journal while a later entry is put there.
#[test]
fn no_acknowledged_entry_rests_on_one_being_drained() {
    explore_bounded(PREEMPTIONS, || {
        let stream = Watched::new().stream("s", Durability::Flushed);
        stream.append(b"1", Durability::Buffered);
        let other = stream.clone();
        let thread = spawn(move || other.drain());
        stream.append_flushed(b"2");
        stream.append_synced(b"3");
        thread.join().expect("no panic");
        stream.check_watermarks();
    });
}

/// The journal has room for some of the frames that an append puts. A thread that waits for an
/// earlier entry then raises the durable watermark over those frames.
#[test]
fn no_entry_is_durable_before_it_is_flushed() {
    explore_bounded(PREEMPTIONS, || {
        let stream = Watched::new().stream("s", Durability::Flushed);
        let other = stream.clone();
        let thread = spawn(move || {
            other.append(&LARGE[..3500], Durability::Buffered);
            other.append(&LARGE[..3500], Durability::Synced);
        });
        stream.append(&LARGE[..2000], Durability::Synced);
        let durable = stream.log.durable_seq();
        assert!(stream.log.inner.shared.watermarks.flushed() >= durable);
        thread.join().expect("no panic");
        stream.check_watermarks();
    });
}

#[test]
fn a_release_keeps_what_is_not_in_the_files() {
    explore_bounded(PREEMPTIONS, || {
        let stream = Watched::new().stream("s", Durability::Flushed);
        let watched = stream.watched.clone();
        let thread = spawn(move || watched.journal().release(0).expect("there is room"));
        stream.append_flushed(b"1");
        stream.append_synced(b"2");
        thread.join().expect("no panic");
        stream.check_watermarks();
    });
}

#[test]
fn a_release_of_little_keeps_the_newest_records() {
    explore_bounded(PREEMPTIONS, || {
        let stream = Watched::new().stream("s", Durability::Flushed);
        stream.append(b"1", Durability::Flushed);
        let watched = stream.watched.clone();
        let thread = spawn(move || watched.journal().release(64 << 10).expect("there is room"));
        stream.append_synced(b"2");
        thread.join().expect("no panic");
        stream.check_watermarks();
    });
}

/// Short records are copied to the end of the journal, and the originals are released.
#[test]
fn a_copy_of_a_record_keeps_its_promise() {
    explore_bounded(PREEMPTIONS, || {
        let watched = Watched::new();
        let [stream, filler] = ["s", "t"].map(|name| watched.stream(name, Durability::Flushed));
        stream.append(b"1", Durability::Flushed);
        stream.sync(2);
        filler.append(&[7; 1000], Durability::Flushed);
        filler.log.inner.settle_files().expect("memory");
        let thread = spawn(move || watched.journal().release(512).expect("there is room"));
        stream.append_synced(b"2");
        thread.join().expect("no panic");
        stream.check_watermarks();
        assert!(stream.log.inner.shared.watermarks.settled() < 3, "its records were not copied");
    });
}

/// Each thread makes room, for which it needs the locks of both streams.
#[test]
fn two_appends_to_a_full_journal_both_end() {
    explore_bounded(PREEMPTIONS, || {
        let watched = Watched::new();
        let streams = ["s", "t"].map(|name| watched.stream(name, Durability::Flushed));
        while watched.journal().journal.reserve_len(LARGE.len() as u64 + 100).is_ok() {
            streams[0].append(LARGE, Durability::Flushed);
        }
        let settled = || streams.iter().map(|stream| stream.log.inner.shared.watermarks.settled()).sum::<u64>();
        assert_eq!(settled(), 2);
        let other = streams[1].clone();
        let thread = spawn(move || other.append(LARGE, Durability::Flushed));
        streams[0].append(LARGE, Durability::Flushed);
        thread.join().expect("no panic");
        streams.iter().for_each(Stream::check_watermarks);
    });
}

/// A sync of the journal fails while both threads use it. A thread whose append fails recovers its
/// stream, which restarts the journal.
#[test]
fn acknowledged_entries_survive_a_restart_of_the_journal() {
    explore_bounded(PREEMPTIONS, || {
        let storage = HookedStorage::new(MemoryStorage::new().with_clock(1, 1).with_seed(1));
        let watched = Watched::on(storage.clone());
        let streams = ["s", "t"].map(|name| watched.stream(name, Durability::Flushed));
        let has_failed = AtomicBool::new(false);
        storage.set(move |operation, path| {
            let fails =
                operation == Operation::Sync && path.starts_with(DIR) && !has_failed.swap(true, Ordering::SeqCst);
            if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
        streams.iter().for_each(|stream| assert_eq!(stream.append(b"1", Durability::Flushed), 1));
        let act = |stream: &Stream| match stream.log.append(b"2", Durability::Synced) {
            Ok(seq) => assert!(stream.end_after_a_power_failure() > seq, "acknowledged, and lost"),
            Err(_) => stream.log.reopen().expect("the sync fails once"),
        };
        let other = streams[1].clone();
        let thread = spawn(move || act(&other));
        act(&streams[0]);
        thread.join().expect("no panic");
        streams.iter().for_each(Stream::check_watermarks);
        assert!(watched.journal().failure().is_none());
        for stream in &streams {
            assert!(stream.log.end_seq(Visibility::Accepted) >= 2, "a flushed entry is lost");
        }
    });
}

/// A START is released only once another one is durable, in the journal or in the files. The other
/// thread appends, drains and frees the journal.
#[test]
fn a_release_keeps_the_start_beside_appends() {
    explore_bounded(PREEMPTIONS, || {
        let stream = Watched::new().stream("s", Durability::Flushed);
        stream.append(b"1", Durability::Flushed);
        let other = stream.clone();
        let thread = spawn(move || {
            other.append_flushed(b"2");
            other.drain();
            other.watched.journal().release(0).expect("there is room");
        });
        stream.log.truncate_before(1).expect("there is room");
        assert!(stream.start_after_a_power_failure() >= 1, "dropped, and back after a power failure");
        stream.log.inner.read_entry(0).expect_err("no reader sees a dropped entry");
        thread.join().expect("no panic");
        assert!(stream.start_after_a_power_failure() >= 1, "released");
        stream.check_watermarks();
    });
}

/// The record of the smaller START may not be durable when the greater one is put.
#[test]
fn two_truncations_are_both_durable() {
    explore_bounded(PREEMPTIONS, || {
        let stream = Watched::new().stream("s", Durability::Flushed);
        stream.append(b"1", Durability::Flushed);
        let other = stream.clone();
        let truncate = |stream: &Stream, first| {
            stream.log.truncate_before(first).expect("there is room");
            assert!(stream.start_after_a_power_failure() >= first, "acknowledged, and not durable");
        };
        let thread = spawn(move || truncate(&other, 1));
        truncate(&stream, 2);
        thread.join().expect("no panic");
        truncate(&stream, 1);
    });
}

#[test]
fn flushed_entries_can_be_read_while_they_are_drained() {
    explore_bounded(PREEMPTIONS, || {
        let stream = Watched::new().stream("s", Durability::Flushed);
        stream.append(b"1", Durability::Flushed);
        let other = stream.clone();
        let thread = spawn(move || {
            other.drain();
            other.append(b"2", Durability::Flushed);
        });
        for _ in 0..2 {
            for seq in 0..stream.log.inner.shared.watermarks.flushed() {
                let entry = stream.log.inner.read_entry(seq).expect("what is flushed can be read");
                assert_eq!(entry.data()[..], [b'0' + u8::try_from(seq).expect("small")]);
            }
        }
        thread.join().expect("no panic");
    });
}

/// The entry that waits for the journal may be dropped before the thread raises the watermark.
#[test]
fn no_entry_becomes_durable_by_one_that_was_dropped() {
    explore_bounded(PREEMPTIONS, || {
        let stream = Watched::new().stream("s", Durability::Flushed);
        let other = stream.clone();
        let thread = spawn(move || other.append(b"1", Durability::Synced));
        stream.log.truncate_from(0).expect("cuts");
        stream.append(b"x", Durability::Buffered);
        thread.join().expect("no panic");
        stream.check_watermarks();
    });
}

/// The threads take the locks of both streams and those of the journal.
#[test]
fn a_release_and_a_sync_of_all_streams_both_end() {
    explore_bounded(PREEMPTIONS, || {
        let watched = Watched::new();
        let streams = ["s", "t"].map(|name| watched.stream(name, Durability::Flushed));
        for stream in &streams {
            stream.append(b"1", Durability::Flushed);
        }
        let other = watched.clone();
        let thread = spawn(move || other.journal().release(0).expect("there is room"));
        watched.journal().sync_streams().expect("syncs");
        for stream in &streams {
            assert!(stream.end_after_a_power_failure() >= 2, "synced, and lost by a power failure");
        }
        thread.join().expect("no panic");
        streams.iter().for_each(Stream::check_watermarks);
    });
}

/// A log whose earlier process has left a stream with two entries, of which only the journal has
/// the second. The stream is not open.
fn after_a_process(storage: &HookedStorage) -> Watched {
    let before = Watched::on(storage.clone());
    let stream = before.stream("s", Durability::Synced);
    stream.append(b"1", Durability::Synced);
    stream.log.close_fast().expect("memory");
    before.journal().close_fast().expect("memory");
    drop((stream, before));
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    let journal = LogJournal::open(&storage, Path::new(DIR), WalId(0), journal_options(), |_| true).expect("memory");
    Watched { context: Arc::new(LogContext::new(storage).journal(Arc::new(journal))) }
}

/// Looks up the stream of [`after_a_process`].
fn look_up(watched: &Watched) -> Stream {
    let options = StreamOptions::new().durability(Durability::Synced);
    let log = StreamLog::open(Arc::clone(&watched.context), Location::new("/streams", "s"), options).expect("opens");
    Stream { log, watched: watched.clone() }
}

#[test]
fn a_release_beside_a_look_up_keeps_the_records() {
    explore_bounded(2, || {
        let watched = after_a_process(&HookedStorage::new(MemoryStorage::new().with_clock(1, 1).with_seed(1)));
        let other = watched.clone();
        let thread = spawn(move || other.journal().release(0).expect("there is room"));
        let stream = look_up(&watched);
        assert_eq!(stream.log.durable_seq(), 2);
        stream.check_watermarks();
        thread.join().expect("no panic");
        stream.check_watermarks();
    });
}

/// The release frees space without copying the records of the stream.
#[test]
fn a_release_of_little_beside_a_look_up_keeps_the_records() {
    explore_bounded(2, || {
        let watched = after_a_process(&HookedStorage::new(MemoryStorage::new().with_clock(1, 1).with_seed(1)));
        let other = watched.clone();
        let thread = spawn(move || other.journal().release(1 << 20).expect("there is room"));
        let stream = look_up(&watched);
        thread.join().expect("no panic");
        stream.check_watermarks();
    });
}

#[test]
fn a_restart_beside_a_look_up_keeps_the_records() {
    explore_bounded(2, || {
        let storage = HookedStorage::new(MemoryStorage::new().with_clock(1, 1).with_seed(1));
        let watched = after_a_process(&storage);
        storage.set(|operation, path| {
            let fails = operation == Operation::Sync && path.starts_with(DIR);
            if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
        let record = Record::Firm { stream: StreamId(7), seq: SeqNo(1) };
        let put = watched.journal().journal.append(&record).expect("there is room");
        watched.journal().journal.sync_to(put).expect_err("the journal fails");
        storage.clear();
        let other = watched.clone();
        let thread = spawn(move || other.journal().restart().expect("the storage works again"));
        let stream = look_up(&watched);
        thread.join().expect("no panic");
        assert_eq!(stream.log.durable_seq(), 2);
        stream.check_watermarks();
    });
}

/// Threads append to a stream without a directory, and release the journal, which creates the
/// directory.
#[test]
fn a_release_keeps_a_stream_without_a_directory() {
    explore_bounded(2, || {
        let watched = Watched::new();
        let options = StreamOptions::new().durability(Durability::Synced);
        let location = Location::new("/streams", "s");
        let log = StreamLog::open(Arc::clone(&watched.context), location, options).expect("opens");
        let stream = Stream { log, watched: watched.clone() };
        let other = stream.clone();
        let thread = spawn(move || {
            other.append(b"0", Durability::Flushed);
            other.watched.journal().release(0).expect("there is room");
        });
        stream.append_synced(b"1");
        thread.join().expect("no panic");
        stream.check_watermarks();
    });
}

#[cfg(all(stratawal_loom, stratawal_faults))]
mod fail_points_are_found {
    stratawal_sync::found_by_scenarios! {
        firm_not_written: FirmNotWritten by entries_acknowledged_by_the_journal_survive;
        flushed_left_behind: FlushedLeftBehind by no_entry_is_durable_before_it_is_flushed;
        drain_overtaken: DrainOvertaken by no_acknowledged_entry_rests_on_one_being_drained;
        firm_above_file_only: FirmAboveFileOnly by no_acknowledged_entry_rests_on_one_being_drained;
        claims_read_early: ClaimsReadEarly by a_release_of_little_beside_a_look_up_keeps_the_records;
        handed_over_in_restart: HandedOverInRestart by a_restart_beside_a_look_up_keeps_the_records;
        end_read_late: EndReadLate by a_release_keeps_what_is_not_in_the_files;
        copy_becomes_loose: CopyBecomesLoose by a_copy_of_a_record_keeps_its_promise;
        needed_ignored: NeededIgnored by a_release_of_little_keeps_the_newest_records;
        room_made_under_lock: RoomMadeUnderLock by two_appends_to_a_full_journal_both_end;
        watermark_first: WatermarkFirst by flushed_entries_can_be_read_while_they_are_drained;
        epoch_not_checked: EpochNotChecked by no_entry_becomes_durable_by_one_that_was_dropped;
        start_not_claimed: StartNotClaimed by a_release_keeps_the_start_beside_appends;
    }

    /// A fail point of the journal.
    #[test]
    fn failure_forgotten() {
        let fail_point = stratawal_journal::fail_points::FailPoint::FailureForgotten;
        assert!(fail_point.is_found_by(super::acknowledged_entries_survive_a_restart_of_the_journal));
    }
}
