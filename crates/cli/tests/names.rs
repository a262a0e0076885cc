//! Names as they are printed: every command accepts them from a shell.

mod common;

use std::process::{Command, Stdio};

use common::{Log, Ran};
use stratawal::inspect::escape_name;

const NAMES: [&str; 17] = [
    "orders",
    "HDFS",
    "user/1",
    "a b",
    "tab\t",
    "-x",
    "--json",
    "-\n",
    "it's",
    "$HOME `id` \"!!\" \\",
    "~",
    "=ls",
    "a\u{1b}[31m\u{7}1",
    "日本",
    "a\u{202e}b\u{a0}",
    "%41",
    "*",
];

/// A log with a stream for each name, which contains its name.
fn log() -> Log {
    let log = Log::new();
    for name in NAMES {
        let ran = log.run("append", ["--", name], format!("{name}\n").as_bytes());
        assert_eq!(ran.code, 0, "{name:?}: {}", ran.err);
    }
    log
}

/// Runs `stratawal COMMAND DIR OPTIONS NAME` in bash, with the name as it was printed.
fn in_shell(log: &Log, command: &str, name: &str, input: &'static [u8]) -> Ran {
    let script = command.replace("DIR", r#""$1""#).replace("NAME", name);
    let mut child = Command::new("bash")
        .args(["-c", &format!(r#""$0" {script}"#), env!("CARGO_BIN_EXE_stratawal")])
        .arg(log.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its input closes it.
    drop(std::io::Write::write_all(&mut stdin, input));
    drop(stdin);
    child.wait_with_output().unwrap().into()
}

/// The commands that take a name.
const COMMANDS: [&str; 7] = [
    "append DIR NAME",
    "cat DIR --last 1 NAME",
    // It ends with its reader.
    "follow DIR --last 1 NAME | grep -m 1 more",
    "salvage DIR --dry-run NAME",
    "verify DIR NAME",
    "truncate DIR --before 1 --yes NAME",
    "delete DIR --yes NAME",
];

#[test]
fn every_printed_name_is_accepted_from_a_shell() {
    let log = log();
    let printed = log.run("streams", [""; 0], b"");
    assert_eq!(printed.text().lines().count(), NAMES.len(), "{}", printed.text());
    for name in printed.text().lines() {
        let read = in_shell(&log, "cat DIR NAME", name, b"");
        assert_eq!(read.code, 0, "{name}: {}", read.err);
        let is_its_own = |other: &&str| format!("{other}\n") == read.text();
        assert!(NAMES.iter().any(is_its_own), "{name} is another stream's: {:?}", read.text());
        for command in COMMANDS {
            let ran = in_shell(&log, command, name, b"more\n");
            assert_eq!(ran.code, 0, "{command}, {name}: {}", ran.err);
        }
    }
    assert_eq!(log.run("streams", [""; 0], b"").text(), "", "each delete removed the stream that was named");
}

#[test]
fn every_escaped_name_is_accepted_after_escaped() {
    let log = log();
    let printed = log.run("streams", ["--escaped"], b"");
    let mut dirs: Vec<_> = std::fs::read_dir(log.path().join("streams"))
        .unwrap()
        .map(|dir| dir.unwrap().file_name().into_string().unwrap())
        .collect();
    dirs.sort();
    assert_eq!(printed.text().lines().collect::<Vec<_>>(), dirs);
    for name in printed.text().lines() {
        for command in COMMANDS {
            let command = command.replace("NAME", "--escaped -- NAME");
            let ran = in_shell(&log, &command, name, b"more\n");
            assert_eq!(ran.code, 0, "{command}, {name}: {}", ran.err);
        }
    }
    assert_eq!(log.run("streams", [""; 0], b"").text(), "");
}

#[test]
fn another_spelling_of_an_escaped_name_is_refused() {
    let log = Log::new();
    for name in ["A", "%2F", "a b", "%", "%zz", "bad%ff%fe"] {
        let ran = log.run("append", ["--escaped", name], b"x\n");
        assert_eq!((ran.code, ran.err.lines().count()), (2, 1), "{name}: {}", ran.err);
        assert!(ran.err.contains("streams --escaped") && ran.err.contains("UTF-8"), "{}", ran.err);
    }
    assert!(!log.path().exists());
}

#[test]
fn a_dash_without_the_two_before_it_is_explained() {
    let log = log();
    let ran = log.run("cat", ["-x"], b"");
    assert_eq!((ran.code, ran.err.lines().count()), (2, 1), "{}", ran.err);
    assert!(ran.err.contains("a name that begins with a dash comes after --"), "{}", ran.err);
    let other = log.run("cat", ["orders", "another"], b"");
    assert!(other.code == 2 && !other.err.contains("dash"), "{}", other.err);
}

/// Returns what follows `before` and precedes `after` in a text.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {text}")).1;
    rest.split_once(after).unwrap_or_else(|| panic!("no {after:?} in {text}")).0
}

#[test]
fn names_in_messages_are_accepted_from_a_shell() {
    for name in ["orders", "a b", "tab\t", "-x", "it's \"\u{1b}"] {
        let log = Log::new();
        let nothing = log.run("append", ["--", name], b"");
        let of_append = between(&nothing.err, "so stream ", " does not exist");
        assert_eq!(in_shell(&log, "append DIR NAME", of_append, b"1\n2\n").code, 0, "{}", nothing.err);
        let accepted = |shown: &str, text: &str| {
            let read = in_shell(&log, "cat DIR NAME", shown, b"");
            assert!(read.out.starts_with(b"1\n") || read.code == 1, "{text}: {}", read.err);
        };
        accepted(of_append, &nothing.err);

        let sound = log.run("verify", [""; 0], b"");
        accepted(between(sound.text(), "", ": sound"), sound.text());

        // The header of the newest segment.
        let file = log.segments(&escape_name(name).unwrap()).pop().unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let damaged = log.run("cat", ["--", name], b"");
        assert_eq!(damaged.code, 1, "{}", damaged.err);
        accepted(between(&damaged.err, "stratawal: stream ", ": damaged"), &damaged.err);
        let damaged = log.run("verify", [""; 0], b"");
        accepted(between(damaged.text(), "  stream ", ": damaged"), damaged.text());
        let around = log.run("cat", ["--skip-damage", "--", name], b"");
        accepted(between(&around.err, "note: stream ", ": damaged"), &around.err);
        let deleted = log.run("delete", ["--yes", "--", name], b"");
        assert_eq!(deleted.code, 0, "{}", deleted.err);

        let unknown = log.run("cat", ["--", name], b"");
        let shown = between(&unknown.err, "there is no stream ", " in ");
        assert_eq!(in_shell(&log, "append DIR NAME", shown, b"1\n").code, 0);
        accepted(shown, &unknown.err);
    }
}
