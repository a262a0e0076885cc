//! Words that were probably meant, the list of streams, completions and the manual.

mod common;

use std::fs;
use std::thread;
use std::time::Duration;

use common::{Log, command, tree};
use serde_json::Value;
use stratawal::{Options, StreamOptions};

fn mistake(arguments: &[&str]) -> String {
    let ran = command().args(arguments).output().unwrap();
    let err = String::from_utf8(ran.stderr).unwrap();
    assert_eq!((ran.status.code(), err.lines().count()), (Some(2), 1), "{arguments:?}: {err}");
    err
}

#[test]
fn mistyped_word_is_answered_with_the_one_that_was_meant() {
    for (arguments, meant) in [
        (&["stream", "log"][..], "did you mean streams?"),
        (&["apend", "log", "s"], "did you mean append?"),
        (&["cat", "log", "s", "--frm", "1"], "did you mean --from?"),
        (&["append", "log", "s", "--durability", "syncd"], "did you mean synced?"),
    ] {
        let err = mistake(arguments);
        assert!(err.contains(meant) && err.ends_with("; see --help\n"), "{err}");
    }
    assert!(!mistake(&["xyz"]).contains("did you mean"));
}

#[test]
fn following_nothing_names_the_option_for_all() {
    let log = Log::new();
    let err = mistake(&["follow", log.path().to_str().unwrap()]);
    assert!(err.contains("--prefix '' follows all streams") && err.ends_with("; see --help\n"), "{err}");
}

#[test]
fn unknown_stream_is_answered_with_a_near_one() {
    let log = Log::new();
    log.append("orders", b"x\n");
    log.append("a b", b"x\n");
    for (command, name, meant) in [
        ("cat", "ordres", "did you mean orders?"),
        ("cat", "Orders", "did you mean orders?"),
        ("cat", "a%20b", "did you mean 'a b'?"),
        ("truncate", "order", "did you mean orders?"),
        ("verify", "orderz", "did you mean orders?"),
    ] {
        let more: &[&str] = if command == "truncate" { &["--before", "1", "--yes"] } else { &[] };
        let ran = log.run(command, [&[name], more].concat(), b"");
        assert_eq!((ran.code, ran.err.lines().count()), (3, 1), "{}", ran.err);
        assert!(ran.err.contains(meant), "{command} {name}: {}", ran.err);
    }
    let ran = log.run("cat", ["payments"], b"");
    assert!(ran.code == 3 && !ran.err.contains("did you mean"), "{}", ran.err);
}

/// A log with four streams: `one` is the one with the most entries, `two` is the largest, `two-a`
/// was appended to last, and `empty` has no entries.
fn log() -> Log {
    let log = Log::new();
    let options = Options::new().stream_defaults(StreamOptions::new().segment_bytes(64 << 10));
    let wal = options.open(log.path()).unwrap();
    let empty = wal.stream("empty").unwrap();
    empty.append("x").unwrap();
    empty.truncate_before(1).unwrap();
    let one = wal.stream("one").unwrap();
    (0..9).for_each(|_| _ = one.append("x").unwrap());
    one.truncate_before(2).unwrap();
    // The clock may be as coarse as 10 ms.
    let pause = || thread::sleep(Duration::from_millis(30));
    pause();
    let two = wal.stream("two").unwrap();
    (0..3).for_each(|_| _ = two.append(vec![b'x'; 40_000]).unwrap());
    pause();
    wal.stream("two-a").unwrap().append("x").unwrap();
    wal.close().unwrap();
    log
}

#[test]
fn streams_are_sorted_and_selected() {
    let log = log();
    let names = |options: &[&str]| {
        let ran = log.run("streams", options, b"");
        assert_eq!((ran.code, &ran.err[..]), (0, ""));
        let text = ran.text().to_owned();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["empty", "one", "two", "two-a"]);
    assert_eq!(names(&["--sort", "name"]), ["empty", "one", "two", "two-a"]);
    assert_eq!(names(&["--sort", "entries"]), ["one", "two", "two-a", "empty"]);
    assert_eq!(names(&["--sort", "bytes"])[0], "two");
    assert_eq!(names(&["--sort", "last"]), ["two-a", "two", "one", "empty"]);
    assert_eq!(names(&["--prefix", "two"]), ["two", "two-a"]);
    assert_eq!(names(&["--prefix", "three"]), [""; 0]);
    assert_eq!(names(&["--min-size", "64KiB"]), ["two"]);
    assert_eq!(names(&["--min-size", "0"]).len(), 4);
    let refused = log.run("streams", ["--min-size", "large"], b"");
    assert!(refused.code == 2 && refused.err.contains("is not a number of bytes"), "{}", refused.err);
    let json = names(&["--prefix", "two", "--sort", "last", "--json"]);
    let json: Vec<Value> = json.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&json[0]["stream"], &json[1]["stream"], &json[1]["next"]), (&"two-a".into(), &"two".into(), &3.into()));
    let table = names(&["--table", "--sort", "entries"]);
    let words: Vec<&str> = table[1].split_whitespace().collect();
    assert_eq!((words[0], words[1], words[2]), ("one", "7", "2"), "{table:?}");
    assert_eq!(table[1].matches("(just now)").count() + table[1].matches(" s ago)").count(), 2, "{table:?}");
    let words: Vec<&str> = table[4].split_whitespace().collect();
    assert_eq!(words[..4], ["empty", "0", "-", "-"], "{table:?}");
    let two = table.iter().find(|line| line.starts_with("two ")).unwrap();
    let (segments, size) = (json[1]["segments"].as_u64().unwrap(), json[1]["disk_bytes"].as_u64().unwrap());
    assert!(segments > 1 && two.contains(&format!("  {segments}  ")), "{two}");
    assert!(two.contains(&format!("{:.0} KiB", size as f64 / 1024.0)) || two.contains(" KiB  ok"), "{two}");
    assert_eq!(log.run("streams", ["--table", "--json"], b"").code, 2);
    let none = log.run("streams", ["--table", "--prefix", "three"], b"");
    assert!(none.code == 0 && none.out.is_empty() && none.err.contains("the log has no such streams"), "{}", none.err);
}

#[test]
fn table_shows_damage() {
    let log = log();
    let file = log.segments("one").remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[20] ^= 1;
    fs::write(&file, bytes).unwrap();
    let ran = log.run("streams", ["--table"], b"");
    assert_eq!(ran.code, 1, "{}", ran.err);
    let line = ran.text().lines().find(|line| line.starts_with("one ")).unwrap().to_owned();
    assert!(line.ends_with("damaged"), "{line}");
    let sound = ran.text().lines().filter(|line| line.ends_with("  ok")).count();
    assert_eq!(sound, 3, "{}", ran.text());
}

#[test]
fn listing_changes_nothing_without_a_journal_too() {
    for journal in [true, false] {
        let log = Log::new();
        let wal = Options::new().journal(journal).open(log.path()).unwrap();
        wal.stream("s").unwrap().append("x").unwrap();
        wal.close().unwrap();
        let before = tree(&log.path());
        for options in [&[][..], &["--table"], &["--json"]] {
            assert_eq!(log.run("streams", options, b"").code, 0);
        }
        assert!(tree(&log.path()) == before, "looking changed the log");
    }
}

#[test]
fn completions_know_every_command_and_option() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = command().args(["completions", shell]).output().unwrap();
        assert_eq!((ran.status.code(), ran.stderr.len()), (Some(0), 0), "{shell}");
        let script = String::from_utf8(ran.stdout).unwrap();
        for word in ["append", "follow", "streams", "completions", "skip-damage", "length-prefixed"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    assert!(mistake(&["completions", "csh"]).contains("bash"));
}

#[test]
fn manual_has_a_page_for_every_command() {
    let ran = command().arg("man").output().unwrap();
    assert_eq!(ran.status.code(), Some(0));
    let page = String::from_utf8(ran.stdout).unwrap();
    assert!(page.contains(".TH stratawal 1") && page.contains("Exit codes"), "{page}");
    let dir = tempfile::tempdir().unwrap();
    let ran = command().arg("man").arg(dir.path()).output().unwrap();
    assert_eq!((ran.status.code(), ran.stdout.len(), ran.stderr.len()), (Some(0), 0, 0));
    let help = command().arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names: Vec<&str> =
        commands.filter_map(|line| line.split_whitespace().next()).filter(|&name| name != "help").collect();
    assert!(names.contains(&"cat") && names.contains(&"man"), "{names:?}");
    for name in names {
        let page = fs::read_to_string(dir.path().join(format!("stratawal-{name}.1"))).unwrap();
        assert!(page.contains(".SH NAME"), "{name}");
    }
    let missing = dir.path().join("missing");
    let ran = command().arg("man").arg(&missing).output().unwrap();
    assert_eq!(ran.status.code(), Some(3));
    assert!(!missing.exists());
}
