//! `info`, the log in one screen.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use common::{Log, command, tree};
use serde_json::Value;
use stratawal::Options;

fn info(log: &Log) -> Value {
    let ran = log.run("info", ["--json"], b"");
    assert_eq!((ran.code, &ran.err[..], ran.text().lines().count()), (0, "", 1));
    ran.json()
}

/// Returns the text after a word at the beginning of a line.
fn line(text: &str, word: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(word)).expect(word);
    line.trim().to_owned()
}

#[test]
fn info_shows_format_size_journal_reserve_and_limits() {
    let log = Log::new();
    log.append("s", b"1\n2\n");
    log.append("a b", b"x\n");
    let facts = info(&log);
    assert_eq!((&facts["format"], &facts["writable"]), (&1.into(), &true.into()));
    assert_eq!((&facts["streams"], &facts["segments"]), (&2.into(), &2.into()));
    let files = ["s", "a%20b"].map(|name| log.segments(name)).concat();
    let bytes: u64 = files.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert_eq!(facts["segment_bytes"], bytes);
    let journal: u64 =
        fs::read_dir(log.path().join("journal")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert_eq!((&facts["journal"], &facts["journal_bytes"]), (&"sound".into(), &journal.into()));
    assert_eq!((&facts["streams_that_need_it"], &facts["reserve_bytes"]), (&0.into(), &65536.into()));
    assert!(facts["free_bytes"].as_u64().unwrap() > 0);
    assert_eq!((&facts["writer"], &facts["limits"]["entry_bytes"]), (&Value::Null, &1_073_741_820.into()));
    assert_eq!(facts["id"].as_str().map(str::len), Some(32));
    let text = log.run("info", [""; 0], b"");
    assert_eq!((text.code, &text.err[..]), (0, ""));
    assert!(text.text().lines().count() <= 24, "{}", text.text());
    assert!(line(text.text(), "streams").starts_with("2 in 2 segment files, "), "{}", text.text());
    assert!(line(text.text(), "journal").starts_with("sound, "), "{}", text.text());
    assert_eq!(line(text.text(), "reserve"), "64 KiB, for a full disk");
    assert!(line(text.text(), "writer").starts_with("none"), "{}", text.text());
}

#[test]
fn info_names_the_process_that_writes() {
    let log = Log::new();
    log.append("s", b"x\n");
    let mut child = command()
        .arg("append")
        .arg(log.path())
        .args(["s", "--ack"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "y").unwrap();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let facts = info(&log);
    assert_eq!(facts["writer"]["process"], child.id());
    assert_eq!(facts["streams_that_need_it"], 1, "its entries are still in the journal alone");
    if cfg!(target_os = "linux") {
        assert_eq!((&facts["writer"]["command"], &facts["writer"]["certain"]), (&"stratawal".into(), &true.into()));
    }
    let text = log.run("info", [""; 0], b"");
    assert!(line(text.text(), "writer").starts_with(&format!("process {}", child.id())), "{}", text.text());
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert_eq!(info(&log)["writer"], Value::Null);
}

#[test]
fn info_changes_nothing() {
    for journal in [true, false] {
        let log = Log::new();
        let wal = Options::new().journal(journal).open(log.path()).unwrap();
        wal.stream("s").unwrap().append("x").unwrap();
        wal.close().unwrap();
        drop(wal);
        // A copy of a log need not have the lock file.
        fs::remove_file(log.path().join("LOCK")).unwrap();
        let before = tree(&log.path());
        let facts = info(&log);
        assert_eq!(facts["journal"].is_null(), !journal);
        assert!(tree(&log.path()) == before, "looking changed the log");
    }
    let missing = Log::new();
    let ran = missing.run("info", ["--json"], b"");
    assert_eq!((ran.code, &ran.error()["kind"]), (3, &"missing".into()));
    assert!(!missing.path().exists());
}

#[test]
fn info_shows_a_damaged_journal() {
    let log = Log::new();
    // The process is killed, so the journal is needed.
    let mut child = command()
        .arg("append")
        .arg(log.path())
        .args(["s", "--ack"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acks = BufReader::new(child.stdout.take().unwrap());
    let mut stdin = child.stdin.take().unwrap();
    for i in 0..3 {
        writeln!(stdin, "{i}{}", "x".repeat(200)).unwrap();
        acks.read_line(&mut String::new()).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let sound = info(&log);
    assert_eq!((&sound["journal"], &sound["journal_records"]), (&"sound".into(), &3.into()));
    // Another file may be ready for later records.
    let files = fs::read_dir(log.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let entry_in = |bytes: &[u8]| bytes.windows(20).position(|bytes| bytes == [b'x'; 20]);
    let (file, at) = files.filter_map(|file| entry_in(&fs::read(&file).unwrap()).map(|at| (file, at))).next().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let ran = log.run("info", ["--json"], b"");
    assert_eq!((ran.code, &ran.json()["journal"]), (1, &"damaged".into()));
    let ran = log.run("info", [""; 0], b"");
    assert!(ran.code == 1 && line(ran.text(), "journal").starts_with("damaged"), "{}", ran.text());
}
