//! Copies of a log with a commit journal. A copy that was made before the log was closed is noticed
//! when it is opened for writing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use stratawal::{Durability, ErrorKind, Options, Stream, Wal, inspect};

/// Options with a small journal, so that its files are renamed and used again.
fn journaled() -> Options {
    Options::new().journal(true).journal_bytes(64 << 10).maintenance_thread(false)
}

fn text(seq: u64) -> String {
    format!("entry {seq} {}", "x".repeat(usize::try_from(seq * 31 % 900).unwrap()))
}

/// Appends `count` entries to the stream `s`.
fn append(wal: &Wal, count: u64) {
    let stream = wal.stream("s").unwrap().with_durability(Durability::Synced);
    for _ in 0..count {
        stream.append(text(stream.next_seq())).unwrap();
    }
}

fn has(wal: &Wal, count: u64) {
    let stream = wal.stream("s").unwrap();
    assert_eq!(stream.next_seq(), count);
    has_only(&stream);
}

/// Checks that the entries are those that were appended.
fn has_only(stream: &Stream) {
    for entry in stream.iter(..) {
        let entry = entry.unwrap();
        assert_eq!(entry.data(), text(entry.seq()).as_bytes());
    }
}

fn run(program: &str, arguments: &[&Path]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.unwrap_or_else(|e| panic!("{program}: {e}")).success(), "{program} {arguments:?}");
}

fn cp(from: &Path, to: &Path) {
    run("cp", &[Path::new("-r"), from, to]);
}

/// The bytes of all files of a log, except those of its lock and its reserve.
fn content(log: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![log.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else if entry.file_name() != "LOCK" && entry.file_name() != "RESERVE" {
                found.push((entry.path(), fs::read(entry.path()).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Checks that the copy is refused for writing and that nothing in it changes.
fn is_refused(copy: &Path) {
    let before = content(copy);
    for options in [journaled(), journaled().journal(false), journaled().journal_mapped(false)] {
        let error = options.open(copy).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Copied, "{error}");
        for part in ["close the original and copy it again", "repair --adopt-copy", "journal"] {
            assert!(error.to_string().contains(part), "{part} is missing: {error}");
        }
    }
    let check = inspect::verify_journal(copy).unwrap().unwrap();
    assert_eq!(check.damage.map(|error| error.kind()), Some(ErrorKind::Copied));
    assert!(content(copy) == before, "nothing has changed");
    // A reader is served, unless the files lack entries that the journal proves.
    match journaled().open_read_only(copy).unwrap().stream("s") {
        Ok(stream) => has_only(&stream),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged, "{error}"),
    }
}

/// In either order of copying, and although the log was written in between.
#[test]
fn copy_of_an_open_log_is_refused_for_writing() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let wal = journaled().open(&log).unwrap();
    for (number, order) in [["journal", "streams"], ["streams", "journal"]].into_iter().enumerate() {
        // The files of the journal are renamed while the streams are copied.
        for between in [0, 1, 500] {
            append(&wal, 100);
            let copy = dir.path().join(format!("copy {number} {between}"));
            fs::create_dir(&copy).unwrap();
            cp(&log.join("FORMAT"), &copy);
            cp(&log.join(order[0]), &copy);
            append(&wal, between);
            cp(&log.join(order[1]), &copy);
            is_refused(&copy);
        }
    }
    append(&wal, 1);
    wal.close().unwrap();
}

/// A copy that was made while a file of the journal got its name has the older files alone.
#[test]
fn copy_without_the_newest_file_of_the_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let copy = dir.path().join("copy");
    let wal = journaled().open(&log).unwrap();
    append(&wal, 40);
    cp(&log, &copy);
    let files = || fs::read_dir(copy.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let named: Vec<PathBuf> = files().filter(|path| path.extension().is_some_and(|e| e == "jnl")).collect();
    assert!(named.len() > 1, "{named:?}");
    fs::remove_file(named.iter().max().unwrap()).unwrap();
    is_refused(&copy);
    let error = journaled().adopt_copy(true).open(&copy).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
}

#[test]
fn copies_of_a_closed_log_open_without_question() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let wal = journaled().open(at("log")).unwrap();
    append(&wal, 100);
    wal.close().unwrap();
    cp(&at("log"), &at("cp"));
    run("tar", &[Path::new("-cf"), &at("tar.tar"), Path::new("-C"), &at("log"), Path::new(".")]);
    fs::create_dir(at("tar")).unwrap();
    run("tar", &[Path::new("-xf"), &at("tar.tar"), Path::new("-C"), &at("tar")]);
    cp(&at("log"), &at("moved"));
    let mut copies = vec![at("cp"), at("tar")];
    // A move to another file system copies.
    let other = tempfile::tempdir_in("/dev/shm").ok();
    if let Some(other) = &other
        && fs::metadata(other.path()).unwrap().dev() != fs::metadata(dir.path()).unwrap().dev()
    {
        run("mv", &[&at("moved"), other.path()]);
        copies.push(other.path().join("moved"));
    }
    for copy in copies {
        let check = inspect::verify_journal(&copy).unwrap().unwrap();
        assert!(check.damage.is_none(), "{:?}", check.damage);
        for round in 0..2 {
            let wal = journaled().open(&copy).unwrap();
            has(&wal, 100 + round);
            append(&wal, 1);
            wal.close().unwrap();
        }
        journaled().journal(false).open(&copy).unwrap().close().unwrap();
    }
}

/// Nothing was copied: the log has another path.
#[test]
fn log_that_was_renamed_before_it_was_closed_opens() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let wal = journaled().open(at("log")).unwrap();
    append(&wal, 100);
    cp(&at("log"), &at("copy"));
    // The copied journal is put back, file by file, as it was before the close.
    let saved = content(&at("copy").join("journal"));
    wal.close().unwrap();
    drop(wal);
    for (path, bytes) in saved {
        fs::write(at("log").join("journal").join(path.file_name().unwrap()), bytes).unwrap();
    }
    run("mv", &[&at("log"), &at("renamed")]);
    has(&journaled().open(at("renamed")).unwrap(), 100);
}

#[test]
fn adopted_copy_has_every_entry_and_names_its_own_files() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let wal = journaled().open(at("log")).unwrap();
    append(&wal, 100);
    // Nothing is written at the same time, as after the death of the process.
    cp(&at("log"), &at("copy"));
    is_refused(&at("copy"));
    let adopted = journaled().adopt_copy(true).open(at("copy")).unwrap();
    assert!(inspect::verify_journal(at("copy")).unwrap().unwrap().damage.is_none(), "it is a log of its own");
    has(&adopted, 100);
    append(&adopted, 1);
    cp(&at("copy"), &at("second"));
    is_refused(&at("second"));
    adopted.close().unwrap();
    drop(adopted);
    let again = journaled().open(at("copy")).unwrap();
    has(&again, 101);
}
