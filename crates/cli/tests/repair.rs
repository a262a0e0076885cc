//! `repair` shows what can be kept of a damaged log, and keeps exactly that.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::damaged::{Files, KINDS, entry};
use common::{Log, Ran, command, tree};
use serde_json::Value;
use stratawal::{Durability, Options};

fn repair(log: &Log, arguments: &[&str]) -> Ran {
    log.run("repair", arguments, b"")
}

fn findings(ran: &Ran) -> Vec<Value> {
    let lines = ran.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line.get("part").is_some()).collect()
}

fn as_text(first: u64, next: u64) -> Vec<u8> {
    (first..next).map(|seq| entry(seq) + "\n").collect::<String>().into_bytes()
}

/// The files of a journal.
fn journal_file(log: &Log) -> PathBuf {
    let files = fs::read_dir(log.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).max().unwrap()
}

#[test]
fn dry_run_shows_the_choices_and_changes_nothing() {
    for (kind, damage) in KINDS {
        let stream = Files::new();
        damage(&stream);
        let before = tree(&stream.log.path());
        let verified = stream.log.run("verify", [""; 0], b"");
        let ran = repair(&stream.log, &[]);
        assert_eq!(ran.code, 1, "{kind}: {ran:?}");
        // Damage is described in the same words as by `verify`.
        for line in verified.text().lines().filter(|line| line.starts_with("  ")) {
            assert!(ran.text().contains(line), "{kind}: {line} is not in {}", ran.text());
        }
        assert!(ran.text().contains("--keep before: ") || ran.text().contains("no repair: "), "{kind}: {ran:?}");
        let json = repair(&stream.log, &["--json"]);
        assert_eq!((json.code, &json.json()["applied"], &json.json()["left"]), (1, &false.into(), &1.into()), "{kind}");
        assert!(tree(&stream.log.path()) == before, "{kind}: the log was changed");
    }
}

#[test]
fn each_side_that_is_shown_can_be_kept() {
    for (kind, damage) in KINDS {
        for side in ["before", "after"] {
            let stream = Files::new();
            damage(&stream);
            let before = tree(&stream.log.path().join("streams"));
            let shown = findings(&repair(&stream.log, &["--json"])).remove(0)[side].clone();
            let quarantine = stream.log.beside("saved");
            let ran = repair(
                &stream.log,
                &["--apply", "--keep", side, "--quarantine", quarantine.to_str().unwrap(), "--json"],
            );
            let (Some(first), Some(last)) = (shown["first"].as_u64(), shown["last"].as_u64()) else {
                assert_eq!((ran.code, &ran.json()["quarantine"]), (1, &Value::Null), "{kind}, {side}: {ran:?}");
                assert!(tree(&stream.log.path().join("streams")) == before, "{kind}, {side}");
                continue;
            };
            assert_eq!((ran.code, &ran.json()["repaired"]), (0, &1.into()), "{kind}, {side}: {ran:?}");
            assert!(stream.log.cat("s") == as_text(first, last + 1), "{kind}, {side}");
            let verified = stream.log.run("verify", [""; 0], b"");
            assert_eq!(verified.code, 0, "{kind}, {side}: {}", verified.text());
            let inspected = stream.log.run("inspect", ["s"], b"");
            assert_eq!(inspected.code, 0, "{kind}, {side}: {}", inspected.text());
            for (path, bytes) in tree(&quarantine.join("streams/s")) {
                let name = path.file_name().unwrap();
                assert!(before[&stream.log.path().join("streams/s").join(name)] == bytes, "{kind}: {name:?}");
            }
            assert!(fs::read_dir(quarantine.join("streams/s")).unwrap().count() > 0, "{kind}");
            stream.log.append("s", b"new\n");
            let again = repair(&stream.log, &["--apply", "--keep", side]);
            assert!(again.code == 0 && again.text().contains("nothing to repair"), "{kind}, {side}: {again:?}");
        }
    }
}

#[test]
fn sound_log_is_not_changed() {
    let stream = Files::new();
    let before = tree(&stream.log.path());
    for arguments in [&[][..], &["--apply"], &["--apply", "--keep", "after"], &["--keep", "before", "s"]] {
        let ran = repair(&stream.log, arguments);
        assert!(ran.code == 0 && ran.text().starts_with("nothing to repair"), "{arguments:?}: {ran:?}");
        assert!(tree(&stream.log.path()) == before, "{arguments:?}");
    }
    assert_eq!(fs::read_dir(stream.log.path().parent().unwrap()).unwrap().count(), 1, "no quarantine");
}

#[test]
fn without_a_choice_no_entry_is_dropped() {
    let stream = Files::new();
    stream.remove(1);
    let before = tree(&stream.log.path().join("streams"));
    let ran = repair(&stream.log, &["--apply"]);
    assert!(ran.code == 1 && ran.text().contains("choose --keep before or --keep after"), "{ran:?}");
    assert!(tree(&stream.log.path().join("streams")) == before);
}

#[test]
fn quarantine_is_beside_the_log_and_never_in_it() {
    let stream = Files::new();
    stream.remove(1);
    let inside = stream.log.path().join("saved");
    let ran = repair(&stream.log, &["--apply", "--keep", "after", "--quarantine", inside.to_str().unwrap(), "--json"]);
    assert_eq!((ran.code, &ran.error()["kind"]), (2, &"usage".into()), "{ran:?}");
    let existing = stream.log.beside("existing");
    fs::create_dir(&existing).unwrap();
    let ran =
        repair(&stream.log, &["--apply", "--keep", "after", "--quarantine", existing.to_str().unwrap(), "--json"]);
    assert_eq!((ran.code, &ran.error()["kind"]), (3, &"io".into()), "{ran:?}");
    assert!(ran.error()["message"].as_str().unwrap().contains("nothing was changed"), "{ran:?}");
    assert_eq!(stream.log.run("verify", [""; 0], b"").code, 1);
    let ran = repair(&stream.log, &["--apply", "--keep", "after", "--json"]);
    let quarantine = PathBuf::from(ran.json()["quarantine"].as_str().unwrap());
    let name = quarantine.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("log.quarantine-2") && name.ends_with('Z'), "{name}");
    assert_eq!(quarantine.parent(), stream.log.path().canonicalize().unwrap().parent());
    assert!(quarantine.join("FORMAT").exists() && quarantine.join("streams/s").exists());
}

#[test]
fn repair_of_a_log_that_is_open_is_refused() {
    let stream = Files::new();
    stream.remove(1);
    let wal = Options::new().journal(false).open(stream.log.path()).unwrap();
    let ran = repair(&stream.log, &["--apply", "--keep", "after", "--json"]);
    assert_eq!((ran.code, &ran.error()["kind"]), (3, &"locked".into()), "{ran:?}");
    assert_eq!(repair(&stream.log, &[]).code, 1, "a dry run works beside a writer");
    wal.close().unwrap();
}

#[test]
fn damaged_journal_and_format_are_written_anew() {
    let log = Log::new();
    log.append("s", b"one\ntwo\n");
    let file = journal_file(&log);
    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_eq!(log.run("append", ["s"], b"three\n").code, 1);
    let ran = repair(&log, &[]);
    assert!(ran.code == 1 && ran.text().starts_with("journal:\n"), "{ran:?}");
    let ran = repair(&log, &["--apply"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    log.append("s", b"three\n");
    fs::write(log.path().join("FORMAT"), b"x").unwrap();
    let ran = repair(&log, &["--json"]);
    assert_eq!((ran.code, &findings(&ran)[0]["remedy"]), (1, &"write".into()), "{ran:?}");
    assert_eq!(repair(&log, &["--apply", "--quarantine", log.beside("second").to_str().unwrap()]).code, 0);
    assert_eq!(log.cat("s"), b"one\ntwo\nthree\n");
    assert_eq!(fs::read(log.beside("second").join("FORMAT")).unwrap(), b"x");
}

#[test]
fn one_stream_is_repaired_and_the_others_are_not() {
    let stream = Files::new();
    stream.log.append("other", b"x\n");
    stream.remove(1);
    let file = stream.log.segments("other").pop().unwrap();
    fs::remove_file(file).unwrap();
    let ran = repair(&stream.log, &["--apply", "--keep", "before", "s", "--json"]);
    assert_eq!((ran.code, &ran.json()["findings"]), (0, &1.into()), "{ran:?}");
    let ran = repair(&stream.log, &["--json"]);
    assert_eq!((&findings(&ran)[0]["stream"], &findings(&ran)[0]["remedy"]), (&"other".into(), &"none".into()));
    let missing = repair(&stream.log, &["none", "--json"]);
    assert_eq!((missing.code, &missing.error()["kind"]), (3, &"missing".into()));
}

/// A log that was not closed could not be copied.
#[test]
fn repaired_log_can_be_copied() {
    let log = Log::new();
    log.append("other", b"x\n");
    log.append("s", b"0\n");
    log.append("s", b"1\n");
    let file = log.segments("s").pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.iter().rposition(|byte| *byte == b'1').unwrap();
    bytes[at] ^= 2;
    fs::write(&file, bytes).unwrap();
    let shown = repair(&log, &[]);
    assert!(shown.text().ends_with("repeat the command with --apply and a --keep that is possible\n"), "{shown:?}");
    let quarantine = log.beside("saved");
    let arguments = ["--apply", "--keep", "before", "--quarantine", quarantine.to_str().unwrap()];
    let ran = repair(&log, &arguments);
    assert_eq!(ran.code, 0, "{ran:?}");
    let copy = log.beside("copy");
    assert!(Command::new("cp").arg("-r").arg(log.path()).arg(&copy).status().unwrap().success());
    let appended = command().arg("append").arg(&copy).args(["s", "/dev/null"]).output().unwrap();
    assert_eq!(appended.status.code(), Some(0), "{appended:?}");
}

/// Runs a program that must succeed.
fn run(program: &str, arguments: &[&Path]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// Does what the help text states: moves what the quarantine has out of the log, and copies the
/// quarantine into it.
fn go_back(log: &Log, quarantine: &Path, aside: &Path) {
    fs::create_dir_all(aside.join("streams")).unwrap();
    let streams = fs::read_dir(quarantine.join("streams")).into_iter().flatten();
    let streams = streams.map(|entry| Path::new("streams").join(entry.unwrap().file_name()));
    for path in streams.chain(["FORMAT", "journal"].map(PathBuf::from)) {
        if quarantine.join(&path).exists() {
            fs::rename(log.path().join(&path), aside.join(&path)).unwrap();
        }
    }
    run("cp", &[Path::new("-a"), &quarantine.join("."), &log.path()]);
}

#[test]
fn repair_can_be_undone_and_made_otherwise() {
    let stream = Files::new();
    stream.remove(1);
    let readable = stream.cat(&["--skip-damage"]).out;
    let saved = stream.log.beside("saved");
    let ran = repair(&stream.log, &["--apply", "--keep", "before", "--quarantine", saved.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    stream.log.append("s", b"new\n");
    go_back(&stream.log, &saved, &stream.log.beside("aside"));
    assert!(stream.cat(&["--skip-damage"]).out == readable);
    assert_eq!(repair(&stream.log, &["--apply", "--keep", "after"]).code, 0);
    assert!(stream.log.cat("s") == as_text(stream.seqs[2].start, stream.next()));
}

/// A log whose process died, with ten entries of "s" in the journal alone, and with a damaged byte
/// in the sixth.
fn damaged_journal() -> Log {
    let log = Log::new();
    let wal = Options::new().maintenance_thread(false).open(log.path()).unwrap();
    let stream = wal.stream("s").unwrap().with_durability(Durability::Synced);
    for i in 0..10 {
        stream.append(format!("entry {i}")).unwrap();
    }
    let copy = log.beside("copy");
    run("cp", &[Path::new("-r"), &log.path(), &copy]);
    wal.close().unwrap();
    drop(wal);
    // The bytes of the time of its death, in the files that name their own inodes.
    for (path, bytes) in tree(&copy.join("journal")) {
        fs::write(log.path().join("journal").join(path.file_name().unwrap()), bytes).unwrap();
    }
    fs::remove_dir_all(log.path().join("streams/s")).unwrap();
    fs::remove_dir_all(copy).unwrap();
    damage_journal(&log, |bytes| {
        let at = bytes.windows(7).position(|found| found == b"entry 5").unwrap();
        bytes[at] ^= 1;
    });
    log
}

fn damage_journal(log: &Log, damage: impl Fn(&mut Vec<u8>)) {
    let file = journal_file(log);
    let mut bytes = fs::read(&file).unwrap();
    damage(&mut bytes);
    fs::write(file, bytes).unwrap();
}

/// In the log, the file from before the repair is a copy.
#[test]
fn repair_of_a_journal_can_be_undone() {
    let log = damaged_journal();
    let readable = log.run("cat", ["s", "--skip-damage"], b"").out;
    assert_eq!(String::from_utf8_lossy(&readable).lines().count(), 9);
    let saved = log.beside("saved");
    let ran = repair(&log, &["--apply", "--quarantine", saved.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let kept = log.cat("s");
    assert_eq!(String::from_utf8_lossy(&kept).lines().count(), 5);
    go_back(&log, &saved, &log.beside("aside"));
    assert!(log.run("cat", ["s", "--skip-damage"], b"").out == readable);
    let again = log.beside("again");
    let ran = repair(&log, &["--adopt-copy", "--apply", "--quarantine", again.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(log.cat("s") == kept && again.join("journal").exists());
}

#[test]
fn damaged_copy_is_repaired_if_it_is_adopted() {
    let original = damaged_journal();
    let log = Log::new();
    run("cp", &[Path::new("-r"), &original.path(), &log.path()]);
    let before = tree(&log.path());
    let shown = repair(&log, &[]);
    assert!(shown.code == 1 && shown.text().contains("5 entries that only the journal has are kept"), "{shown:?}");
    assert!(shown.text().contains("with --adopt-copy, --apply"), "{shown:?}");
    let refused = repair(&log, &["--apply", "--json"]);
    assert_eq!((refused.code, &refused.error()["kind"]), (3, &"copied".into()), "{refused:?}");
    assert!(refused.err.contains("`stratawal repair --adopt-copy --apply`"), "{refused:?}");
    assert!(tree(&log.path()) == before, "the copy was changed");
    let refused = repair(&log, &["--adopt-copy"]);
    assert!(refused.code == 1 && refused.err.contains("`repair --adopt-copy --apply`"), "{refused:?}");
    let ran = repair(&log, &["--adopt-copy", "--apply"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(log.cat("s"), b"entry 0\nentry 1\nentry 2\nentry 3\nentry 4\n");
    log.append("s", b"new\n");
    assert_eq!(log.run("verify", [""; 0], b"").code, 0);
}

#[test]
fn sound_copy_is_adopted_before_it_is_repaired() {
    let original = damaged_journal();
    damage_journal(&original, |bytes| {
        let at = bytes.windows(7).position(|found| found == b"dntry 5").unwrap();
        bytes[at] ^= 1;
    });
    for json in [false, true] {
        let log = Log::new();
        run("cp", &[Path::new("-r"), &original.path(), &log.path()]);
        let arguments = [&["--adopt-copy", "--apply"][..], if json { &["--json"] } else { &[] }].concat();
        let ran = repair(&log, &arguments);
        assert_eq!(ran.code, 0, "{ran:?}");
        let shown = if json { ran.text() } else { &ran.err };
        assert!(shown.contains(if json { "{\"adopted\":true}\n" } else { ": adopted\n" }), "{ran:?}");
        assert!(!ran.text().contains("nothing was changed"), "{ran:?}");
        log.append("s", b"new\n");
    }
}

#[test]
fn damaged_version_of_a_journal_loses_nothing() {
    let log = damaged_journal();
    damage_journal(&log, |bytes| {
        let at = bytes.windows(7).position(|found| found == b"dntry 5").unwrap();
        bytes[at] ^= 1;
        bytes[10] ^= 0x58;
    });
    let verified = log.run("verify", [""; 0], b"");
    assert_eq!(verified.code, 1, "{verified:?}");
    // The header still shows the id of the log.
    fs::remove_file(log.path().join("FORMAT")).unwrap();
    let ran = repair(&log, &["--apply", "--quarantine", log.beside("first").to_str().unwrap(), "--json"]);
    assert_eq!((ran.code, &ran.json()["repaired"]), (1, &1.into()), "{ran:?}");
    let ran = repair(&log, &["--apply", "--json"]);
    assert_eq!((ran.code, &findings(&ran)[0]["kept"]), (0, &10.into()), "{ran:?}");
    let kept = log.cat("s");
    assert_eq!(String::from_utf8_lossy(&kept).lines().count(), 10);
}

#[test]
fn format_is_repaired_alone_and_the_rest_is_shown() {
    let log = damaged_journal();
    let format = fs::read(log.path().join("FORMAT")).unwrap();
    fs::remove_file(log.path().join("FORMAT")).unwrap();
    let content = |log: &Log| ["journal", "streams"].map(|dir| tree(&log.path().join(dir)));
    let before = content(&log);
    let quarantine = log.beside("saved");
    let ran = repair(&log, &["--apply", "--quarantine", quarantine.to_str().unwrap(), "--json"]);
    assert_eq!((ran.code, &ran.json()["findings"], &ran.json()["repaired"]), (1, &2.into(), &1.into()), "{ran:?}");
    assert_eq!((&findings(&ran)[0]["done"], &findings(&ran)[1]["part"]), (&"repaired".into(), &"journal".into()));
    assert_eq!(findings(&ran)[1]["done"], Value::Null);
    assert!(content(&log) == before, "files that are not in the quarantine were changed");
    assert_eq!(fs::read(log.path().join("FORMAT")).unwrap(), format);
    let ran = repair(&log, &["--apply"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn remains_of_a_quarantine_are_named() {
    let stream = Files::new();
    KINDS[0].1(&stream);
    let quarantine = stream.log.beside("saved");
    let partial = stream.log.beside("saved.partial");
    let arguments = ["--apply", "--keep", "before", "--quarantine", quarantine.to_str().unwrap()];
    let refused = |reason: &str| {
        let ran = repair(&stream.log, &arguments);
        assert!(ran.code == 3 && ran.err.contains("nothing was changed") && ran.err.contains(reason), "{ran:?}");
    };
    fs::create_dir(&partial).unwrap();
    refused("saved.partial exists");
    fs::remove_dir(&partial).unwrap();
    std::os::unix::fs::symlink("nowhere", &quarantine).unwrap();
    refused("saved already exists");
    fs::remove_file(&quarantine).unwrap();
    fs::write(&quarantine, "a file").unwrap();
    refused("saved already exists");
    assert!(!partial.exists());
}

#[test]
fn quarantine_that_exists_is_refused_with_the_reason() {
    let stream = Files::new();
    KINDS[0].1(&stream);
    let quarantine = stream.log.beside("saved");
    fs::create_dir(&quarantine).unwrap();
    let before = tree(&stream.log.path().join("streams"));
    let ran = repair(&stream.log, &["--apply", "--keep", "before", "--quarantine", quarantine.to_str().unwrap()]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("already exists; give another name for it"), "{ran:?}");
    assert!(tree(&stream.log.path().join("streams")) == before, "the log was changed");
}

/// The files of other streams are not in the quarantine.
#[test]
fn journal_repair_changes_no_file_of_a_stream() {
    let log = Log::new();
    log.append("s", b"closed\n");
    let wal = Options::new().open(log.path()).unwrap();
    for name in ["s", "t"] {
        wal.stream(name).unwrap().append("in the journal").unwrap();
    }
    wal.stream("s").unwrap().append("damaged").unwrap();
    wal.close_fast().unwrap();
    let file = journal_file(&log);
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(7).position(|found| found == b"damaged").unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let before = tree(&log.path().join("streams"));
    let ran = repair(&log, &["--apply"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(tree(&log.path().join("streams")) == before);
    assert_eq!((log.cat("s"), log.cat("t")), (b"closed\nin the journal\n".to_vec(), b"in the journal\n".to_vec()));
}

#[test]
fn entries_that_may_be_truncated_are_shown() {
    let log = Log::new();
    let wal = Options::new().open(log.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    for (count, end) in [(20, 10), (5, 5), (2, 7)] {
        for seq in 0..count {
            stream.append(format!("entry {seq}")).unwrap();
        }
        stream.truncate_from(end).unwrap();
    }
    wal.close().unwrap();
    fs::remove_file(log.segments("s").pop().unwrap()).unwrap();
    let ran = repair(&log, &[]);
    let shown = ran.text();
    assert!(shown.contains("a truncation may have dropped entries 0 to 9"), "{shown}");
    let json = findings(&repair(&log, &["--json"])).remove(0);
    assert_eq!(json["uncertain"], serde_json::json!({"first": 0, "last": 9}), "{json}");
}

#[test]
fn stream_without_entries_is_recovered() {
    let log = Log::new();
    let wal = Options::new().journal(false).open(log.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    stream.append_batch(&["zero", "one", "two"].into_iter().collect()).unwrap();
    stream.truncate_before(1).unwrap();
    stream.truncate_from(1).unwrap();
    wal.close().unwrap();
    let file = log.segments("s").remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[..100].fill(0);
    fs::write(file, bytes).unwrap();
    let ran = repair(&log, &["--apply", "--json"]);
    assert_eq!((ran.code, &ran.json()["repaired"]), (0, &1.into()), "{ran:?}");
    assert_eq!(log.run("verify", [""; 0], b"").code, 0);
    log.append("s", b"new\n");
    let found = log.run("cat", ["s", "--json"], b"");
    assert!(found.text().starts_with(r#"{"seq":1,"#), "{found:?}");
}
