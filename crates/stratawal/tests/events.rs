//! The `tracing` events when a stream or the commit journal is opened, and when the journal fails.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use stratawal::{Durability, ErrorKind, Options, Wal};
use stratawal_storage::{Access, MemoryStorage, Storage};
use stratawal_testkit::{HookedStorage, Operation};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

type Seen = Arc<Mutex<Vec<(Level, BTreeMap<String, String>)>>>;

/// Collects this crate's events.
struct Collect(Seen);

impl Subscriber for Collect {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "stratawal"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.0.lock().unwrap().push((*event.metadata().level(), fields.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

#[test]
fn every_opening_is_an_event() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let seen = Seen::default();
    tracing::subscriber::with_default(Collect(Arc::clone(&seen)), || {
        let options = Options::new().journal(false);
        let wal = options.open(dir.path().join("log")).unwrap();
        let stream = wal.stream("s").unwrap();
        for i in 0..100 {
            stream.append(format!("entry {i}")).unwrap();
        }
        assert!(seen.lock().unwrap().is_empty(), "a missing stream is not an event");
        // The files as a killed process leaves them.
        for part in ["", "streams", "streams/s"] {
            std::fs::create_dir_all(copy.path().join(part)).unwrap();
            for entry in std::fs::read_dir(dir.path().join("log").join(part)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    std::fs::copy(entry.path(), copy.path().join(part).join(entry.file_name())).unwrap();
                }
            }
        }
        let report = options.open(copy.path()).unwrap().stream("s").unwrap().report();
        let (level, fields) = seen.lock().unwrap().pop().unwrap();
        assert_eq!(level, Level::INFO);
        let expected = [
            ("stream", "\"s\"".to_owned()),
            ("message", "opened".to_owned()),
            ("clean", "false".to_owned()),
            ("next_seq", "100".to_owned()),
            ("scanned_bytes", report.scanned_bytes.to_string()),
            ("rewritten_bytes", report.rewritten_bytes.to_string()),
        ];
        for (name, value) in expected {
            assert_eq!(fields.get(name), Some(&value), "{name} in {fields:?}");
        }

        drop(stream);
        wal.close().unwrap();
        drop(wal);
        let segment = std::fs::read_dir(dir.path().join("log/streams/s")).unwrap().next().unwrap().unwrap().path();
        std::fs::remove_file(segment).unwrap();
        let wal = options.open(dir.path().join("log")).unwrap();
        assert_eq!(wal.stream("s").unwrap_err().kind(), ErrorKind::Damaged);
        let (level, fields) = seen.lock().unwrap().pop().unwrap();
        assert_eq!(level, Level::ERROR);
        assert!(fields["message"].contains("damaged"), "{fields:?}");
    });
}

fn open_with_journal(storage: impl Storage + 'static) -> Wal {
    let options = Options::new().journal_bytes(64 << 10).maintenance_thread(false);
    options.open_on(Arc::new(storage), Path::new("/log"), false).unwrap()
}

/// Takes the events with this message.
fn take(seen: &Seen, message: &str) -> Vec<(Level, BTreeMap<String, String>)> {
    seen.lock().unwrap().extract_if(.., |(_, fields)| fields["message"].starts_with(message)).collect()
}

#[test]
fn journal_reports_its_opening_in_an_event() {
    let seen = Seen::default();
    tracing::subscriber::with_default(Collect(Arc::clone(&seen)), || {
        let memory = MemoryStorage::new();
        let wal = open_with_journal(memory.clone());
        assert!(!wal.journal_report().unwrap().existed);
        assert_eq!(take(&seen, "the journal was opened").len(), 1);
        for name in ["a", "b"] {
            wal.stream(name).unwrap().append("an entry").unwrap();
        }
        let stream = wal.stream("a").unwrap().with_durability(Durability::Flushed);
        stream.append("the first that a power loss may take").unwrap();
        stream.append("the second").unwrap();
        let killed = memory.snapshot();
        // The power loss took a sector of the first, and none of the second.
        let path = Path::new("/log/journal/00000000000000000001.jnl");
        let file = killed.open(path, Access::ReadWrite).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let at = bytes.windows(9).position(|bytes| bytes == b"the first").unwrap();
        file.write_all_at(&[0; 9], at as u64).unwrap();
        let after = open_with_journal(killed);
        let report = after.journal_report().unwrap();
        assert!(report.existed && !report.clean, "{report:?}");
        assert_eq!((report.files, report.records, report.bytes, report.streams), (1, 2, 16, 2), "{report:?}");
        assert_eq!((report.cut_records, report.deletions), (1, 0), "{report:?}");
        let (level, fields) = take(&seen, "the journal was opened").pop().unwrap();
        assert_eq!(level, Level::INFO);
        let shown = ["existed", "clean", "records", "bytes", "streams", "cut_records"].map(|name| &fields[name][..]);
        assert_eq!(shown, ["true", "false", "2", "16", "2", "1"]);
        let report = after.stream("a").unwrap().report();
        assert_eq!((report.next_seq, report.journal_entries), (1, 1), "{report:?}");
        let (_, fields) = take(&seen, "entries were taken from the journal").pop().unwrap();
        assert_eq!(["stream", "journal_entries", "next_seq"].map(|name| &fields[name][..]), ["\"a\"", "1", "1"]);

        wal.close().unwrap();
        let wal = open_with_journal(memory);
        let report = wal.journal_report().unwrap();
        assert!(report.clean && report.records == 0 && report.streams == 0, "{report:?}");
        let without = Options::new().journal(false).open(tempfile::tempdir().unwrap().path()).unwrap();
        assert!(without.journal_report().is_none());
    });
}

#[test]
fn damage_of_the_journal_is_an_event() {
    let seen = Seen::default();
    tracing::subscriber::with_default(Collect(Arc::clone(&seen)), || {
        let memory = MemoryStorage::new();
        let wal = open_with_journal(memory.clone());
        wal.stream("a").unwrap().append("an entry").unwrap();
        let killed = memory.snapshot();
        let path = Path::new("/log/journal/00000000000000000001.jnl");
        killed.open(path, Access::ReadWrite).unwrap().write_all_at(&[7; 64], 4096).unwrap();
        let options = Options::new().journal_bytes(64 << 10);
        let error = options.open_on(Arc::new(killed), Path::new("/log"), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        let (level, fields) = seen.lock().unwrap().pop().unwrap();
        assert_eq!((level, fields.get("file").map(|file| &file[..])), (Level::ERROR, Some("1")), "{fields:?}");
    });
}

#[test]
fn failure_restart_and_release_of_the_journal_are_events() {
    let seen = Seen::default();
    tracing::subscriber::with_default(Collect(Arc::clone(&seen)), || {
        let hooked = HookedStorage::new(MemoryStorage::new());
        let wal = open_with_journal(hooked.clone());
        let stream = wal.stream("a").unwrap();
        stream.append("an entry").unwrap();
        hooked.set(|operation, _| match operation {
            Operation::Sync => Err(io::Error::other("a fault")),
            _ => Ok(()),
        });
        stream.append("not durable").unwrap_err();
        stream.append("refused").unwrap_err();
        hooked.clear();
        let failed = take(&seen, "the journal has failed");
        assert_eq!((failed.len(), failed[0].0), (1, Level::ERROR), "once for each failure: {failed:?}");
        assert!(failed[0].1["message"].contains("a fault"), "{failed:?}");
        stream.reopen().unwrap();
        let restarted = take(&seen, "the journal was restarted");
        assert_eq!((restarted.len(), restarted[0].0), (1, Level::INFO), "{restarted:?}");

        for _ in 0..40 {
            stream.append([b'.'; 1000]).unwrap();
        }
        let released = take(&seen, "the journal was released");
        assert!(released.iter().all(|(level, _)| *level == Level::DEBUG) && !released.is_empty(), "{released:?}");
    });
}

#[test]
fn panic_in_a_callback_is_an_event() {
    let dir = tempfile::tempdir().unwrap();
    let seen = Seen::default();
    tracing::subscriber::with_default(Collect(Arc::clone(&seen)), || {
        let wal = Wal::open(dir.path()).unwrap();
        // Callbacks are then called in this thread, which has the subscriber.
        wal.drive_tickets();
        let stream = wal.stream("s").unwrap();
        seen.lock().unwrap().clear();
        stream.submit(&["a"].into_iter().collect()).unwrap().on_done(|_| panic!("as intended"));
        assert!(wal.drive_tickets());
        let (level, fields) = seen.lock().unwrap().pop().unwrap();
        assert_eq!((level, fields.get("stream").map(String::as_str)), (Level::ERROR, Some("\"s\"")));
        assert_eq!(fields["message"], "the callback of a ticket panicked");
    });
}
