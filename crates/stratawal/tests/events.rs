//! The `tracing` events when a stream is opened.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use stratawal::{ErrorKind, Wal};
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
        let wal = Wal::open(dir.path().join("log")).unwrap();
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
        let report = Wal::open(copy.path()).unwrap().stream("s").unwrap().report();
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
        let wal = Wal::open(dir.path().join("log")).unwrap();
        assert_eq!(wal.stream("s").unwrap_err().kind(), ErrorKind::Damaged);
        let (level, fields) = seen.lock().unwrap().pop().unwrap();
        assert_eq!(level, Level::ERROR);
        assert!(fields["message"].contains("damaged"), "{fields:?}");
    });
}
