//! The command on logs that have a commit journal.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Log, command, tree};
use stratawal::{Durability, Options, inspect};

/// A log with a journal whose last process died: the entries of the stream "s" are only in the
/// journal. The journal's files are as they were when the process died.
fn log_of_a_dead_process() -> Log {
    let log = Log::new();
    let wal = Options::new().maintenance_thread(false).open(log.path()).unwrap();
    let stream = wal.stream("s").unwrap().with_durability(Durability::Synced);
    for i in 0..10 {
        stream.append(format!("entry {i}")).unwrap();
    }
    let journal = log.path().join("journal");
    let files: Vec<_> = fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path()).collect();
    let saved: Vec<_> = files.iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    wal.close().unwrap();
    for (path, bytes) in saved {
        fs::write(path, bytes).unwrap();
    }
    log
}

#[test]
fn verify_reports_the_journal_and_its_damage() {
    let log = log_of_a_dead_process();
    let ran = log.run("verify", [""; 0], b"");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.text().contains("commit journal: sound, 10 records, 1 stream may need them"), "{}", ran.text());
    let file = fs::read_dir(log.path().join("journal")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    bytes[4096 + 40] ^= 1;
    fs::write(&file, bytes).unwrap();
    let ran = log.run("verify", ["--json"], b"");
    assert_eq!(ran.code, 1, "{ran:?}");
    let line: serde_json::Value = serde_json::from_str(ran.text().lines().nth(1).unwrap()).unwrap();
    assert_eq!(line["journal"], "damaged");
    let ran = log.run("repair", ["--adopt-copy", "--json"], b"");
    assert_ne!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.error()["kind"], "damaged", "{ran:?}");
    assert!(Options::new().open(log.path()).is_err());
}

/// The entries are in the journal alone, and the stream has no directory.
#[test]
fn commands_show_entries_of_a_journal_that_is_open() {
    let log = Log::new();
    let wal = Options::new().maintenance_thread(false).open(log.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    let before = {
        stream.append("one apple").unwrap();
        stream.append("two pears").unwrap();
        stream.append("three plums").unwrap();
        stream.truncate_before(1).unwrap();
        tree(&log.path())
    };
    assert!(!log.path().join("streams/s").exists());
    assert_eq!(log.cat("s"), b"two pears\nthree plums\n");
    assert!(log.run("streams", [""; 0], b"").text().contains('s'));
    let ran = log.run("verify", ["--json"], b"");
    assert_eq!(ran.code, 0, "{ran:?}");
    let line: serde_json::Value = serde_json::from_str(ran.text().lines().next().unwrap()).unwrap();
    assert_eq!((line["first"].as_u64(), line["next"].as_u64()), (Some(1), Some(3)), "{line}");
    assert!(tree(&log.path()) == before, "nothing was written");
    let found: Vec<_> = inspect::salvage(log.path(), "s").unwrap().map(Result::unwrap).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    wal.delete_stream("s").unwrap();
    assert_eq!(log.run("cat", ["s"], b"").code, 3);
    assert_eq!(log.run("streams", [""; 0], b"").text(), "");
}

#[test]
fn salvage_works_once_the_journal_is_repaired() {
    let log = log_of_a_dead_process();
    let lines: String = (0..2000).map(|i| format!("line {i}\n")).collect();
    assert_eq!(log.run("append", ["s", "--batch", "10"], lines.as_bytes()).code, 0);
    let damage = |file: &Path, at: usize| {
        let mut bytes = fs::read(file).unwrap();
        bytes[at] ^= 1;
        fs::write(file, bytes).unwrap();
    };
    damage(&log.segments("s")[0], 5000);
    let damaged = fs::read(&log.segments("s")[0]).unwrap();
    // The last file of the journal: its header is before the first record.
    let files = fs::read_dir(log.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let file = files.filter(|path| path.extension().is_some_and(|e| e == "jnl")).max().unwrap();
    damage(&file, 4096 + 40);
    let refused = log.run("salvage", ["s", "--json"], b"");
    assert_eq!((refused.code, &refused.error()["kind"]), (1, &"damaged".into()), "{refused:?}");
    let repaired = log.run("repair", ["--apply", "--json"], b"");
    assert_eq!((repaired.code, &repaired.json()["repaired"]), (1, &1.into()), "the stream is left: {repaired:?}");
    assert_eq!(fs::read(&log.segments("s")[0]).unwrap(), damaged);
    let salvaged = log.run("salvage", ["s", "--json"], b"");
    assert_eq!((salvaged.code, &salvaged.json()["runs"]), (0, &2.into()), "{salvaged:?}");
}

#[test]
fn append_keeps_the_journal_of_a_log() {
    let log = log_of_a_dead_process();
    let ran = log.run("append", ["s"], b"one more\n");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(inspect::has_journal(log.path()).unwrap());
    let wal = Options::new().open(log.path()).unwrap();
    assert_eq!(wal.stream("s").unwrap().next_seq(), 11);
}

#[test]
fn new_log_gets_a_small_journal() {
    let log = Log::new();
    log.append("s", b"one line\n");
    assert!(inspect::has_journal(log.path()).unwrap());
    let bytes: usize = tree(&log.path()).values().map(Vec::len).sum();
    assert!(bytes < 1 << 20, "{bytes} bytes for one entry");
    // It is closed, so it can be copied.
    let copied = Command::new("cp").arg("-r").arg(log.path()).arg(log.beside("copy")).status().unwrap();
    assert!(copied.success());
    let copy = Options::new().open(log.beside("copy")).unwrap();
    assert_eq!(copy.stream("s").unwrap().next_seq(), 1);
}

#[test]
fn commands_add_no_journal_to_a_log() {
    let log = Log::new();
    Options::new().journal(false).open(log.path()).unwrap().close().unwrap();
    log.append("s", b"one\ntwo\n");
    assert_eq!(log.run("truncate", ["s", "--before", "1", "--yes"], b"").code, 0);
    assert!(!inspect::has_journal(log.path()).unwrap());
    assert_eq!(log.cat("s"), b"two\n");
}

/// Copies the log, and returns the exit code of an append to the copy.
fn append_to_a_copy(log: &Log) -> i32 {
    let copy = log.beside("another");
    assert!(Command::new("cp").arg("-r").arg(log.path()).arg(&copy).status().unwrap().success());
    command().arg("append").arg(&copy).args(["s", "/dev/null"]).status().unwrap().code().unwrap()
}

#[test]
fn repair_adopts_a_copy_of_a_log_that_was_not_closed() {
    let log = log_of_a_dead_process();
    let ran = log.run("repair", ["--adopt-copy", "--json"], b"");
    assert_eq!((ran.code, ran.text()), (0, "{\"adopted\":false}\n"), "the original: {ran:?}");
    let original = log.beside("original");
    fs::rename(log.path(), &original).unwrap();
    let copied = Command::new("cp").arg("-r").arg(&original).arg(log.path()).status().unwrap();
    assert!(copied.success());
    let ran = log.run("append", ["s", "--json"], b"one more\n");
    let error = ran.error();
    assert_eq!((ran.code, error["kind"].as_str()), (3, Some("copied")), "{ran:?}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("`stratawal repair --adopt-copy`") && !message.contains("Options::"), "{message}");
    let ran = log.run("verify", ["--json"], b"");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.text().contains(r#"{"journal":"copied","#), "{}", ran.text());
    let info = log.run("info", [""; 0], b"");
    assert!(info.code == 1 && info.text().contains("copied before the log was closed"), "{info:?}");
    let refused = log.run("repair", [""; 0], b"");
    assert_eq!((refused.code, refused.err.contains("--adopt-copy")), (3, true), "{refused:?}");
    let ran = log.run("repair", ["--adopt-copy"], b"");
    assert_eq!((ran.code, ran.err.contains("adopted")), (0, true), "{ran:?}");
    // It was closed, so a copy of it is a log.
    assert_eq!(append_to_a_copy(&log), 0);
    let ran = log.run("append", ["s"], b"one more\n");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(log.run("cat", ["s"], b"").text().lines().count(), 11);
}

/// A log with streams "s" and "t", of which ten entries of "s" are in its file, and ten only in the
/// journal.
fn log_of_two_halves() -> Log {
    let log = Log::new();
    log.append("t", b"t\n");
    log.append("s", b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    let wal = Options::new().maintenance_thread(false).open(log.path()).unwrap();
    let stream = wal.stream("s").unwrap().with_durability(Durability::Synced);
    for i in 10..20 {
        stream.append(format!("{i}")).unwrap();
    }
    wal.close_fast().unwrap();
    log
}

#[test]
fn damage_to_another_stream_is_a_note_of_a_change() {
    let log = log_of_two_halves();
    let file = log.segments("s").remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[20] ^= 1;
    fs::write(&file, bytes).unwrap();
    let ran = log.run("append", ["t"], b"u\n");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("note: not settled") && ran.err.contains("stream s: damaged"), "{}", ran.err);
    assert_eq!(log.cat("t"), b"t\nu\n");
    let ran = log.run("truncate", ["t", "--before", "1", "--yes"], b"");
    assert!(ran.code == 0 && ran.err.contains("note: not settled"), "{}", ran.err);
    let ran = log.run("delete", ["t", "--yes"], b"");
    assert!(ran.code == 0 && ran.err.contains("note: not settled"), "{}", ran.err);
    let ran = log.run("append", ["s"], b"x\n");
    assert_eq!(ran.code, 1, "{}", ran.err);
    let ran = log.run("cat", ["s", "--skip-damage"], b"");
    assert_eq!(ran.text(), "10\n11\n12\n13\n14\n15\n16\n17\n18\n19\n");
}

#[test]
fn journal_outlives_the_directory_of_streams() {
    let log = log_of_two_halves();
    let streams = log.path().join("streams");
    fs::remove_dir_all(&streams).unwrap();
    let ran = log.run("append", ["s"], b"x\n");
    assert!(ran.code == 1 && ran.err.contains("create this directory again, empty"), "{}", ran.err);
    fs::create_dir(&streams).unwrap();
    let ran = log.run("repair", ["--apply", "--keep", "after"], b"");
    assert_eq!(ran.code, 0, "{}", ran.text());
    let ran = log.run("cat", ["s"], b"");
    assert_eq!(ran.text(), "10\n11\n12\n13\n14\n15\n16\n17\n18\n19\n");
}

#[test]
fn salvage_of_two_damages_begins_with_the_journal() {
    let log = log_of_two_halves();
    let file = log.segments("s").remove(0);
    let journal = fs::read_dir(log.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let journal = journal.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).max().unwrap();
    // The entry 15 in the journal, and the header of the segment.
    let at = fs::read(&journal).unwrap().windows(2).position(|bytes| bytes == b"15").unwrap();
    for (path, at) in [(file, 20), (journal, at)] {
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let ran = log.run("salvage", ["s"], b"");
    assert!(ran.code == 1 && ran.err.contains("first `repair --apply` without --keep"), "{ran:?}");
    let ran = log.run("repair", [""; 0], b"");
    assert!(ran.text().contains("with --apply alone, which cuts no stream"), "{}", ran.text());
    log.run("repair", ["--apply"], b"");
    let ran = log.run("salvage", ["s"], b"");
    assert_eq!(ran.code, 0, "{}{}", ran.text(), ran.err);
    assert!(ran.text().contains("s.salvaged-"), "{}", ran.text());
}
