//! The page for operators, `crates/stratawal/docs/operations.md`: its examples print what it shows,
//! and it names every kind of error and of damage.
//!
//! The blocks marked `console` run in the order of the page, in one directory. Times, sizes, rates,
//! process ids and other numbers that differ from run to run are not compared.

// The examples use the tools of Linux.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::damaged::{Files, KINDS};
use regex::Regex;

const PAGE: &str = include_str!("../../stratawal/docs/operations.md");

/// The source that gives each kind its name.
const KINDS_OF_ERRORS: &str = include_str!("../../stream/src/error/kind.rs");

/// Before the output of each command, because no command prints it.
const MARK: char = '\u{1}';

/// A command of the page, and what it prints.
#[derive(Debug, PartialEq, Eq)]
struct Example {
    line: usize,
    command: String,
    output: String,
}

/// A fenced block of the page.
#[derive(Debug)]
struct Block {
    needs_root: bool,
    examples: Vec<Example>,
}

/// Returns the blocks marked `console`. A line that begins with a dollar sign is a command, and the
/// lines after it are its output.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open = None;
    for (index, line) in page.lines().enumerate() {
        match (&mut open, line) {
            (None, "```console" | "```console root") => {
                open = Some(Block { needs_root: line.ends_with("root"), examples: Vec::new() });
            }
            (None, _) => {}
            (Some(_), "```") => blocks.extend(open.take()),
            (Some(block), line) => match (line.strip_prefix("$ "), block.examples.last_mut()) {
                (Some(command), _) => {
                    let command = command.to_owned();
                    block.examples.push(Example { line: index + 1, command, output: String::new() });
                }
                (None, Some(example)) => example.output.push_str(&format!("{line}\n")),
                (None, None) => panic!("line {}: output without a command", index + 1),
            },
        }
    }
    assert!(open.is_none(), "a block has no end");
    blocks
}

/// Runs the commands of a block in one shell. Returns what each has printed, on standard output and
/// standard error.
fn run(block: &Block, dir: &Path) -> Vec<String> {
    let mut script = String::from("exec 2>&1; code=0\n");
    for example in &block.examples {
        // `$?` is the exit code of the command before, as in a shell that a person uses.
        script.push_str(&format!("printf '\\001'; (exit $code)\n{}\ncode=$?\n", example.command));
    }
    let ran = Command::new("bash")
        .args(["-c", &script])
        .current_dir(dir)
        .env("PATH", path_with_the_command())
        .env("LC_ALL", "C")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(ran.stderr.is_empty(), "{:?}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout).unwrap();
    text.split(MARK).skip(1).map(ToOwned::to_owned).collect()
}

fn path_with_the_command() -> OsString {
    let command = Path::new(env!("CARGO_BIN_EXE_stratawal"));
    let own = command.parent().unwrap().to_owned();
    let others = env::var_os("PATH").unwrap_or_default();
    env::join_paths([own].into_iter().chain(env::split_paths(&others))).unwrap()
}

/// Replaces what differs from run to run.
fn loosely(output: &str) -> String {
    const DIFFERING: [(&str, &str); 15] = [
        (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
        (r"\((now|just now|\d+ ?(s|min|h)( ago)?)\)", "(AGE)"),
        (r"\b[\d.]+ (ns|us|ms|s|min)\b", "DURATION"),
        (r"\b[\d.]+ (B|KiB|MiB|GiB|TiB|bytes)\b", "SIZE"),
        (r"\b\d+ entries/s", "RATE"),
        // On a full disk, the number of entries that found room.
        (r"\b\d{6}\b", "N"),
        (r"\bprocess \d+", "process ID"),
        (r"\binode \d+", "inode N"),
        (r"\bjournal file \d+", "journal file N"),
        (r"\boffset \d+", "offset N"),
        (r"\b(\d+|no) records?\b", "RECORDS"),
        (r"/\S*/\.tmp\w+/", "/…/"),
        (r"\b[0-9a-f]{32}\b", "ID"),
        (r"\b\d+ open files here", "FILES"),
        (r" +", " "),
    ];
    DIFFERING.iter().fold(output.trim_end().to_owned(), |text, (pattern, name)| {
        Regex::new(pattern).unwrap().replace_all(&text, *name).into_owned()
    })
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

#[test]
fn the_examples_print_what_the_page_shows() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = blocks(PAGE);
    assert!(blocks.len() > 10, "{} blocks", blocks.len());
    let mut wrong = Vec::new();
    for block in &blocks {
        if block.needs_root && !is_root() {
            eprintln!("skipped, needs root: the block at line {}", block.examples[0].line);
            continue;
        }
        let printed = run(block, dir.path());
        assert_eq!(printed.len(), block.examples.len(), "{block:?}: {printed:?}");
        for (example, printed) in block.examples.iter().zip(printed) {
            let Example { line, command, output } = example;
            if loosely(output) != loosely(&printed) {
                wrong.push(format!("line {line}: $ {command}\n--- the page\n{output}--- printed\n{printed}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} examples differ:\n\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_loose_comparison_finds_other_words() {
    assert_eq!(loosely("entry 7, 0.112 s, 12.1 KiB (now)"), loosely("entry 7,  3 ms, 9 B (4s)"));
    assert_ne!(loosely("entries 0 to 9, 1 s"), loosely("entries 0 to 8, 1 s"));
    assert_ne!(loosely("sound, 3 records"), loosely("damaged, 3 records"));
}

/// Returns the rows of the page's tables whose first cell is this word.
fn rows(word: &str) -> Vec<&'static str> {
    PAGE.lines().filter(|line| line.starts_with(&format!("| `{word}` |"))).collect()
}

#[test]
fn each_kind_of_error_and_damage_has_a_row() {
    let names = Regex::new(r#"Self::\w+(?: \{ \.\. \})? => "(\w+)""#).unwrap();
    let names: Vec<&str> = names.captures_iter(KINDS_OF_ERRORS).map(|found| found.get(1).unwrap().as_str()).collect();
    assert!(names.len() >= 35, "{names:?}");
    for name in names {
        assert_eq!(rows(name).len(), 1, "rows for {name}");
    }
}

#[test]
fn each_kind_of_error_of_the_command_has_a_row() {
    let kind = Regex::new(r#"(?:(?:Failure|Self)::new\(\w+, |of_kind\()"(\w+)""#).unwrap();
    let sources = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let text: String = sources.map(|source| fs::read_to_string(source.unwrap().path()).unwrap()).collect();
    let kinds: BTreeSet<&str> = kind.captures_iter(&text).map(|found| found.get(1).unwrap().as_str()).collect();
    assert!(kinds.contains("cut_input") && kinds.len() >= 6, "{kinds:?}");
    for kind in kinds {
        assert_eq!(rows(kind).len(), 1, "rows for {kind}");
    }
}

/// Returns the sentence of a message of damage that its kind decides.
fn sentence(message: &str) -> &str {
    let (_, rest) = message.split_once("damaged: ").unwrap();
    rest.split([';', '(', ',']).next().unwrap().trim_end()
}

#[test]
fn the_page_has_the_words_of_each_damage() {
    for (damage, make) in KINDS {
        let files = Files::new();
        make(&files);
        let ran = files.log.run("verify", ["--json"], b"");
        let line = ran.text().lines().find(|line| line.contains(r#""stream":"s""#)).unwrap();
        let check: serde_json::Value = serde_json::from_str(line).unwrap();
        for found in check["damage"].as_array().unwrap() {
            let kind = found["kind"].as_str().unwrap();
            let words = sentence(found["message"].as_str().unwrap());
            let row = rows(kind);
            assert!(row[0].contains(words), "{damage}: {kind}: {words:?} is not in {row:?}");
        }
    }
}

#[test]
fn each_file_of_a_log_is_in_the_table() {
    let files = Files::new();
    let log = files.log.path();
    let mut dirs: Vec<PathBuf> = vec![log.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                dirs.push(entry);
                continue;
            }
            let path = entry.strip_prefix(&log).unwrap().display().to_string();
            let shown = if path.starts_with("streams/") { "streams/NAME/*.seg".to_owned() } else { path };
            assert_eq!(rows(&shown).len(), 1, "rows for {shown}");
        }
    }
}
