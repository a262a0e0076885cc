//! The forms in which entries are printed, and the options that select them.

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::Log;
use stratawal::{Batch, Options};
use stratawal_testkit::SimStorage;

fn cat(log: &Log, options: &[&str]) -> String {
    let ran = log.run("cat", options, b"");
    assert_eq!((ran.code, &ran.err[..]), (0, ""), "{options:?}");
    String::from_utf8(ran.out).unwrap()
}

/// A log with entries that contain newlines, a NUL, and bytes that are not UTF-8; the last two are
/// a batch.
fn with_bytes() -> Log {
    let log = Log::new();
    let wal = Options::new().open(log.path()).unwrap();
    let stream = wal.stream("a b").unwrap();
    stream.append("one\ntwo\n").unwrap();
    stream.append([0xff, 0]).unwrap();
    let batch: Batch = ["", "%n"].into_iter().collect();
    stream.append_batch(&batch).unwrap();
    wal.close().unwrap();
    log
}

/// A log whose stream `s` has one entry in each of ten seconds, beginning at 2025-06-15T15:06:40Z,
/// which is 1750000000.
fn with_times() -> Log {
    let log = Log::new();
    let disk = SimStorage::new(1);
    let wal = Options::new().open_on(Arc::new(disk.clone()), "/log".as_ref(), false).unwrap();
    let stream = wal.stream("s").unwrap();
    let now = stream_time(&stream);
    disk.let_pass(1_750_000_000_000_000 - now);
    for i in 0..10 {
        stream.append(format!("entry {i}")).unwrap();
        disk.let_pass(1_000_000);
    }
    stream.truncate_before(1).unwrap();
    wal.close().unwrap();
    common::copy(&disk.disk(), "/log", &log.path());
    log
}

/// Appends an entry and returns its time in microseconds.
fn stream_time(stream: &stratawal::Stream) -> u64 {
    stream.append("").unwrap();
    let time = stream.last().unwrap().unwrap().timestamp();
    time.duration_since(UNIX_EPOCH).unwrap().as_micros().try_into().unwrap()
}

#[test]
fn format_prints_every_part_of_an_entry() {
    let log = with_bytes();
    let printed = cat(&log, &["a b", "--format", r"%n|%s|%S|%b|%l|%e|%%\t\\", "--from", "1"]);
    let expected = "1|'a b'|a b|/wA=|2|1|%\t\\\n2|'a b'|a b||0|0|%\t\\\n3|'a b'|a b|JW4=|2|1|%\t\\\n";
    assert_eq!(printed, expected);
    // The bytes of an entry are not a format themselves.
    assert_eq!(cat(&log, &["a b", "--format", "<%d>", "--last", "2"]), "<>\n<%n>\n");
    let times = cat(&log, &["a b", "--format", "%t %u", "-n", "1"]);
    let json = log.run("cat", ["a b", "-n", "1", "--json"], b"").json();
    let (time, micros) = times.trim_end().split_once(' ').unwrap();
    assert_eq!(json["time"], time);
    let micros: u64 = micros.parse().unwrap();
    let passed = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_micros(micros)).unwrap();
    assert!(passed < Duration::from_secs(600), "{micros}");
}

#[test]
fn unknown_letter_of_a_format_is_refused() {
    let log = with_bytes();
    for format in ["%x", r"\q", "%"] {
        let ran = log.run("cat", ["a b", "--format", format], b"");
        assert_eq!((ran.code, ran.out.len(), ran.err.lines().count()), (2, 0, 1), "{}", ran.err);
        assert!(ran.err.contains("--format"), "{}", ran.err);
    }
    for other in ["--json", "--length-prefixed"] {
        assert_eq!(log.run("cat", ["a b", "--format", "%n", other], b"").code, 2);
    }
}

#[test]
fn entries_with_newlines_can_be_told_apart() {
    let log = with_bytes();
    let entries: [&[u8]; 4] = [b"one\ntwo\n", &[0xff, 0], b"", b"%n"];
    let prefixed = log.run("cat", ["a b", "--length-prefixed"], b"").out;
    let lens =
        entries.iter().flat_map(|entry| [&u32::try_from(entry.len()).unwrap().to_le_bytes()[..], *entry].concat());
    assert_eq!(prefixed, lens.collect::<Vec<u8>>());
    let ended = log.run("cat", ["a b", "--print0"], b"").out;
    assert_eq!(ended, entries.iter().flat_map(|entry| [entry, &b"\0"[..]].concat()).collect::<Vec<u8>>());
    // The output of one log is an input of another one. A NUL within an entry would end it.
    let copy = Log::new();
    assert_eq!(copy.run("append", ["a", "--length-prefixed"], &prefixed).code, 0);
    assert_eq!(copy.run("cat", ["a", "--length-prefixed"], b"").out, prefixed);
    let ended = log.run("cat", ["a b", "--print0", "--from", "2"], b"").out;
    assert_eq!(copy.run("append", ["b", "--null"], &ended).code, 0);
    assert_eq!(copy.run("cat", ["b", "--print0"], b"").out, ended);
    let both = log.run("cat", ["a b", "--print0", "--format", "%n", "--reverse"], b"").out;
    assert_eq!(both, b"3\x002\x001\x000\0");
}

#[test]
fn grep_matches_the_bytes_of_an_entry() {
    let log = with_bytes();
    let seqs = |pattern: &str| cat(&log, &["a b", "--format", "%n", "--grep", pattern]);
    assert_eq!(seqs("^one"), "0\n");
    assert_eq!(seqs("^two"), "", "an entry is one text, whatever lines it has");
    assert_eq!(seqs("(?m)^two$"), "0\n");
    assert_eq!(seqs("^$"), "2\n");
    assert_eq!(seqs(r"(?-u)\xff\x00"), "1\n");
    assert_eq!(seqs("-x"), "", "a pattern may begin with a dash");
    let last = cat(&log, &["a b", "--format", "%n", "--grep", "n", "-n", "1"]);
    assert_eq!(last, "3\n");
    let last = cat(&log, &["a b", "--format", "%n", "--grep", "n", "-n", "5", "--to", "3"]);
    assert_eq!(last, "0\n");
    let ran = log.run("cat", ["a b", "--grep", "("], b"");
    assert_eq!((ran.code, ran.err.lines().count()), (2, 1), "{}", ran.err);
    assert!(ran.err.contains("unclosed group"), "{}", ran.err);
}

#[test]
fn times_select_from_since_to_before_until() {
    let log = with_times();
    let seqs = |options: &[&str]| {
        let printed = cat(&log, &[&["s", "--format", "%n"], options].concat());
        printed.lines().map(|line| line.parse().unwrap()).collect::<Vec<u64>>()
    };
    // The entry with the seq n is of the second 1749999999 + n.
    assert_eq!(seqs(&["--since", "@1750000002"]), [3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(seqs(&["--until", "2025-06-15T15:06:42Z"]), [1, 2]);
    assert_eq!(seqs(&["--since", "2025-06-15 15:06:42", "--until", "2025-06-15T17:06:44+02:00"]), [3, 4]);
    assert_eq!(seqs(&["--since", "@1750000002", "-n", "2"]), [9, 10]);
    assert_eq!(seqs(&["--until", "@1750000004", "-n", "2"]), [3, 4]);
    assert_eq!(seqs(&["--since", "@1750000002", "--from", "8"]), [8, 9, 10]);
    assert_eq!(seqs(&["--until", "@1750000002.000001", "--reverse"]), [3, 2, 1]);
    assert_eq!(seqs(&["--until", "1h"]).len(), 10);
    let around = log.run("cat", ["s", "--skip-damage", "--since", "@1750000002", "--until", "@1750000004"], b"");
    assert_eq!((around.code, around.text()), (0, "entry 2\nentry 3\n"));
    for time in ["yesterday", "2025-13-01", "-2h", ""] {
        let ran = log.run("cat", ["s", "--since", time], b"");
        assert_eq!((ran.code, ran.err.lines().count()), (2, 1), "{time}: {}", ran.err);
    }
}

#[test]
fn range_that_holds_nothing_gets_a_note() {
    let log = with_times();
    for options in [
        &["--from", "11"][..],
        &["--from", "5", "--to", "3"],
        &["--to", "1"],
        &["--since", "1h"],
        &["--until", "@1750000000"],
        &["--since", "@1750000004", "--until", "@1750000002"],
    ] {
        let ran = log.run("cat", [&["s"], options].concat(), b"");
        assert_eq!((ran.code, ran.out.len(), ran.err.lines().count()), (0, 0, 1), "{options:?}: {}", ran.err);
        assert!(ran.err.contains("the stream has entries 1 to 10"), "{options:?}: {}", ran.err);
        assert!(ran.err.contains("2025-06-15T15:06:49."), "{options:?}: {}", ran.err);
    }
    assert_eq!(cat(&log, &["s", "-n", "0"]), "");
}

#[test]
fn negative_number_names_the_way_to_count_from_the_end() {
    let log = with_times();
    for option in ["--from", "--to", "-n", "--last"] {
        let ran = log.run("cat", ["s", option, "-5"], b"");
        assert_eq!((ran.code, ran.err.lines().count()), (2, 1), "{}", ran.err);
        assert!(ran.err.contains("-n 5 selects the last 5"), "{}", ran.err);
        let is_a_seq = ["--from", "--to"].contains(&option);
        assert_eq!(ran.err.contains("entries are numbered from 0"), is_a_seq, "{}", ran.err);
    }
}

#[test]
fn negative_number_is_refused_with_the_range() {
    let log = with_times();
    let whole = "it is not a whole number from";
    for (arguments, words) in [
        (&["truncate", "s", "--before", "-3"][..], whole),
        (&["truncate", "s", "--before=-3"], whole),
        (&["truncate", "s", "--from", "-1"], whole),
        (&["append", "s", "--batch", "-1"], whole),
        (&["append", "s", "--batch", "0"], whole),
        (&["streams", "--min-size", "-5"], "is not a number of bytes"),
        (&["streams", "--min-size=-5 KiB"], "is not a number of bytes"),
    ] {
        let ran = log.run(arguments[0], &arguments[1..], b"");
        assert_eq!((ran.code, ran.err.lines().count()), (2, 1), "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(words) && !ran.err.contains("dash"), "{arguments:?}: {}", ran.err);
    }
}
