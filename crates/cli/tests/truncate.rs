//! Truncating and deleting: nothing is dropped without consent.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use common::{Log, Ran, tree};
use serde_json::{Value, json};

/// A log whose stream `s` has the entries 0 to 119, in segments that begin at 0, 50 and 80.
fn log() -> Log {
    let log = Log::new();
    for (first, next) in [(0, 60), (50, 100), (80, 120)] {
        if first > 0 {
            let ran = log.run("truncate", ["s", "--from", &first.to_string(), "--yes"], b"");
            assert_eq!(ran.code, 0, "{}", ran.err);
        }
        let lines: String = (first..next).map(|i| format!("entry {i:04}\n")).collect();
        log.append("s", lines.as_bytes());
    }
    log
}

fn files(log: &Log) -> BTreeMap<PathBuf, Vec<u8>> {
    tree(log.path().parent().unwrap())
}

/// Runs the command without and with --dry-run, and checks that nothing changes.
fn preview(log: &Log, name: &str, arguments: &[&str]) -> Ran {
    // A refusal before this one may have left none.
    let _ = fs::remove_file(log.path().join("LOCK"));
    let before = files(log);
    let refused = log.run(name, [arguments, &["--json"]].concat(), b"");
    assert_eq!((refused.code, &refused.error()["kind"]), (2, &"usage".into()), "{}", refused.err);
    assert!(refused.err.contains("nothing was changed") && refused.err.contains("--yes"), "{}", refused.err);
    let dry = log.run(name, [arguments, &["--dry-run", "--json"]].concat(), b"");
    assert_eq!((dry.code, &dry.err[..], dry.text()), (0, "", refused.text()), "the same is shown");
    let both = log.run(name, [arguments, &["--yes", "--dry-run", "--json"]].concat(), b"");
    assert_eq!((both.code, both.text()), (0, dry.text()));
    let text = log.run(name, arguments, b"");
    assert_eq!((text.code, text.err.lines().count()), (2, 1), "{}", text.err);
    assert!(!text.text().is_empty());
    assert!(files(log) == before, "{arguments:?} changed something");
    dry
}

#[test]
fn truncate_drops_what_it_showed_and_only_with_yes() {
    for (arguments, first, last, range) in [
        (["s", "--before", "0"], None, None, (0, 120)),
        (["s", "--before", "1"], Some(0), Some(0), (1, 120)),
        (["s", "--before", "49"], Some(0), Some(48), (49, 120)),
        (["s", "--before", "50"], Some(0), Some(49), (50, 120)),
        (["s", "--before", "90"], Some(0), Some(89), (90, 120)),
        (["s", "--before", "120"], Some(0), Some(119), (120, 120)),
        (["s", "--from", "120"], None, None, (0, 120)),
        (["s", "--from", "119"], Some(119), Some(119), (0, 119)),
        (["s", "--from", "50"], Some(50), Some(119), (0, 50)),
        (["s", "--from", "0"], Some(0), Some(119), (0, 0)),
    ] {
        let log = log();
        let shown = preview(&log, "truncate", &arguments).json();
        let count = last.map_or(0, |last| last + 1 - first.unwrap());
        let drops = &shown["drops"];
        assert_eq!((&shown["first"], &shown["next"]), (&range.0.into(), &range.1.into()), "{arguments:?}: {shown}");
        assert_eq!((&drops["first"], &drops["last"]), (&json!(first), &json!(last)), "{arguments:?}: {shown}");
        assert_eq!((&drops["entries"], &drops["bytes"]), (&count.into(), &(count * 10).into()), "{shown}");
        assert_eq!((&drops["lost"], &shown["truncated"]), (&0.into(), &false.into()), "{shown}");
        let before = log.segments("s");
        let done = log.run("truncate", [&arguments[..], &["--yes", "--json"]].concat(), b"");
        assert_eq!((done.code, &done.err[..]), (0, ""));
        assert_eq!(done.json(), json!({"stream": "s", "first": range.0, "next": range.1}), "{arguments:?}");
        let left: String = (range.0..range.1).map(|i| format!("entry {i:04}\n")).collect();
        assert_eq!(log.cat("s"), left.as_bytes(), "{arguments:?}");
        if range.0 < range.1 {
            // The last file of an empty stream may be kept for the next entries.
            let gone = before.iter().filter(|file| !file.exists()).count();
            assert_eq!(drops["segments"].as_u64(), Some(gone as u64), "{arguments:?}: {shown}");
        }
    }
}

#[test]
fn preview_has_the_times_and_sizes_of_what_goes() {
    let log = log();
    let time = |seq: u64| entry_time(&log, seq);
    let shown = preview(&log, "truncate", &["s", "--before", "80"]).json();
    assert_eq!((&shown["drops"]["first_time"], &shown["drops"]["last_time"]), (&time(0), &time(79)));
    let bytes: u64 = log.segments("s")[..2].iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!((&shown["drops"]["segments"], &shown["drops"]["disk_bytes"]), (&2.into(), &bytes.into()));
    let text = log.run("truncate", ["s", "--before", "80", "--dry-run"], b"");
    let first = time(0);
    let last = time(79);
    let expected = [
        "stream s: truncate would drop entries 0 to 79".to_owned(),
        format!("  80 entries, 800 B, from {} to {}", first.as_str().unwrap(), last.as_str().unwrap()),
        "  segment files that go: 2 of 3, ".to_owned(),
        "  what stays: entries 80 to 119".to_owned(),
    ];
    assert_eq!(text.text().lines().count(), expected.len(), "{}", text.text());
    for (line, expected) in text.text().lines().zip(&expected) {
        assert!(line.starts_with(expected), "{line}, not {expected}");
    }
    let all = log.run("truncate", ["s", "--before", "120", "--dry-run"], b"");
    assert!(all.text().ends_with("what stays: no entries, the next is 120\n"), "{}", all.text());
    let one = log.run("truncate", ["s", "--from", "119", "--dry-run"], b"");
    assert!(one.text().starts_with("stream s: truncate would drop entry 119\n  1 entry, 10 B, "), "{}", one.text());
    let none = log.run("truncate", ["s", "--from", "120", "--dry-run"], b"");
    assert!(none.text().starts_with("stream s: truncate would drop no entries\n"), "{}", none.text());
}

/// A truncation that frees no space names the least one that does.
#[test]
fn preview_names_the_least_seq_that_frees_space() {
    let log = log();
    let shown = |arguments: &[&str]| log.run("truncate", [arguments, &["--dry-run"]].concat(), b"").text().to_owned();
    let least = "segment files that go: none of 3, so this frees no space; --before 50 is the least that does\n";
    assert!(shown(&["s", "--before", "49"]).contains(least), "{}", shown(&["s", "--before", "49"]));
    assert!(shown(&["s", "--before", "50"]).contains("segment files that go: 1 of 3, "));
    let end = shown(&["s", "--from", "119"]);
    assert!(end.contains("so this frees no space\n"), "{end}");
}

#[test]
fn deletion_is_reported() {
    let log = log();
    let ran = log.run("delete", ["s", "--yes"], b"");
    assert_eq!((ran.code, ran.text(), &ran.err[..]), (0, "", "stream s was deleted\n"));
}

/// A deletion needs to read nothing of the stream, and neither does its preview.
#[test]
fn stream_of_a_newer_version_is_shown_and_deleted() {
    let log = log();
    let newer = |i: usize| {
        let file = log.segments("s").remove(i);
        let mut bytes = fs::read(&file).unwrap();
        // The version, which follows the magic, and the checksum.
        bytes[8] = 2;
        bytes[124] ^= 1;
        fs::write(&file, bytes).unwrap();
    };
    newer(1);
    let shown = preview(&log, "delete", &["s"]).json();
    let drops = &shown["drops"];
    // Those from 50 to 79 are in the file that is not read.
    assert_eq!((&drops["first"], &drops["last"], &drops["entries"]), (&0.into(), &119.into(), &90.into()), "{shown}");
    assert_eq!((&drops["lost"], &drops["unread"], &drops["segments"]), (&0.into(), &true.into(), &3.into()), "{shown}");
    let ran = log.run("truncate", ["s", "--before", "90"], b"");
    assert_eq!((ran.code, ran.text()), (3, ""), "{}", ran.err);
    newer(0);
    newer(2);
    let ran = log.run("delete", ["s", "--dry-run"], b"");
    assert!(ran.text().starts_with("stream s: delete would drop entries that cannot be read\n"), "{}", ran.text());
    assert!(ran.text().contains("\n  some are not counted: a newer version wrote "), "{}", ran.text());
    assert_eq!(log.run("delete", ["s", "--yes"], b"").code, 0);
    assert_eq!(log.run("verify", [""; 0], b"").code, 0);
}

fn entry_time(log: &Log, seq: u64) -> Value {
    let to = (seq + 1).to_string();
    log.run("cat", ["s", "--from", &seq.to_string(), "--to", &to, "--json"], b"").json()["time"].clone()
}

#[test]
fn a_seq_beyond_the_end_needs_beyond_end() {
    let log = log();
    let before = files(&log);
    for yes in [&[][..], &["--yes"], &["--dry-run"]] {
        for place in ["121", "99999999999"] {
            let ran = log.run("truncate", [&["s", "--before", place], yes].concat(), b"");
            assert_eq!((ran.code, ran.err.lines().count(), ran.text()), (2, 1, ""), "{}", ran.err);
            for part in
                [&format!("--before {place} is beyond the end"), "entries 0 to 119", "up to 120", "--beyond-end"]
            {
                assert!(ran.err.contains(part), "{} lacks {part}", ran.err);
            }
        }
        // Entries cannot be dropped where none are.
        let ran = log.run("truncate", [&["s", "--from", "121", "--json"], yes].concat(), b"");
        assert_eq!((ran.code, &ran.error()["kind"]), (2, &"out_of_range".into()), "{}", ran.err);
    }
    assert!(files(&log) == before);
    let shown = preview(&log, "truncate", &["s", "--before", "500", "--beyond-end"]).json();
    assert_eq!((&shown["first"], &shown["next"], &shown["drops"]["last"]), (&500.into(), &500.into(), &119.into()));
    let done = log.run("truncate", ["s", "--before", "500", "--beyond-end", "--yes"], b"");
    assert_eq!((done.code, &done.err[..]), (0, "stream s now has no entries, the next is 500\n"));
    let from = log.run("truncate", ["s", "--from", "500", "--beyond-end"], b"");
    assert_eq!(from.code, 2, "{}", from.err);
    assert_eq!(log.run("append", ["s", "--json"], b"x\n").json()["first"], 500);
    let below = log.run("truncate", ["s", "--from", "499", "--yes"], b"");
    assert_eq!(below.code, 2, "{}", below.err);
    assert!(below.err.contains("entry 500"), "{}", below.err);
}

#[test]
fn delete_shows_the_stream_and_deletes_it_with_yes() {
    let log = log();
    log.append("other", b"x\n");
    let shown = preview(&log, "delete", &["s"]).json();
    let drops = &shown["drops"];
    assert_eq!((&drops["first"], &drops["last"], &drops["entries"]), (&0.into(), &119.into(), &120.into()));
    assert_eq!((&drops["bytes"], &drops["segments"]), (&1200.into(), &log.segments("s").len().into()));
    assert_eq!((&drops["first_time"], &drops["last_time"]), (&entry_time(&log, 0), &entry_time(&log, 119)));
    assert_eq!(shown["deleted"], false);
    let text = log.run("delete", ["s", "--dry-run"], b"");
    assert!(text.text().starts_with("stream s: delete would drop entries 0 to 119\n"), "{}", text.text());
    assert_eq!(log.run("delete", ["s", "--yes", "--json"], b"").json(), json!({"stream": "s", "deleted": true}));
    assert_eq!(log.run("streams", [""; 0], b"").text(), "other\n");
    let before = files(&log);
    for arguments in [&["s"][..], &["s", "--yes"], &["s", "--dry-run"]] {
        let ran = log.run("delete", arguments, b"");
        assert_eq!((ran.code, ran.text()), (3, ""), "{}", ran.err);
        let ran = log.run("truncate", [arguments, &["--before", "1"]].concat(), b"");
        assert_eq!((ran.code, ran.text()), (3, ""), "{}", ran.err);
    }
    assert!(files(&log) == before, "no lock was taken for a stream that does not exist");
}

#[test]
fn preview_of_a_damaged_stream_counts_what_is_left() {
    for missing in [0, 1] {
        let log = log();
        let lost = [50, 30][missing];
        std::fs::remove_file(log.segments("s").swap_remove(missing)).unwrap();
        assert_eq!(log.run("append", ["s"], b"x\n").code, 1, "the stream cannot be opened");
        let shown = preview(&log, "truncate", &["s", "--before", "80"]).json();
        let drops = &shown["drops"];
        assert_eq!((&drops["entries"], &drops["lost"]), (&(80 - lost).into(), &lost.into()), "{shown}");
        assert_eq!((&shown["first"], &shown["next"]), (&80.into(), &120.into()));
        let text = log.run("truncate", ["s", "--before", "80", "--dry-run"], b"");
        assert!(text.text().contains(&format!("\n  {lost} entries are already lost\n")), "{}", text.text());
        // The damage does not go, so the truncation is refused, and so is the look at it.
        let before = files(&log);
        for yes in ["--yes", "--dry-run"] {
            let ran = log.run("truncate", ["s", "--before", "20", yes], b"");
            assert_eq!((ran.code, ran.text()), (1, ""), "{}", ran.err);
        }
        assert!(tree(&log.path().join("streams")) == tree_of(&before, &log), "nothing was dropped");
        let beyond = log.run("truncate", ["s", "--before", "121", "--yes"], b"");
        assert_eq!(beyond.code, 2, "{}", beyond.err);
        let all = preview(&log, "delete", &["s"]).json();
        assert_eq!((&all["drops"]["entries"], &all["drops"]["lost"]), (&(120 - lost).into(), &lost.into()));
        let done = log.run("truncate", ["s", "--before", "80", "--yes", "--json"], b"");
        assert_eq!(done.json(), json!({"stream": "s", "first": 80, "next": 120}), "{}", done.err);
    }
}

/// The files of the streams among all files.
fn tree_of(files: &BTreeMap<PathBuf, Vec<u8>>, log: &Log) -> BTreeMap<PathBuf, Vec<u8>> {
    let streams = log.path().join("streams");
    let is_below = |path: &PathBuf| path.starts_with(&streams) && *path != streams;
    files.iter().filter(|(path, _)| is_below(path)).map(|(path, bytes)| (path.clone(), bytes.clone())).collect()
}

#[test]
fn damaged_frames_in_what_goes_are_counted() {
    let log = log();
    let file = log.segments("s").swap_remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(10).position(|bytes| bytes == b"entry 0010").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let shown = preview(&log, "truncate", &["s", "--before", "60"]).json();
    let drops = &shown["drops"];
    assert_eq!(drops["entries"].as_u64().unwrap() + drops["lost"].as_u64().unwrap(), 60, "{shown}");
    assert!(drops["lost"].as_u64().unwrap() > 0, "{shown}");
}
