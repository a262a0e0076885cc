//! Reading a log whose commit journal is damaged, or whose files are while the journal is sound: no
//! look-up hides that entries may be lost, and tools read everything that is left.

use std::fs;
use std::path::{Path, PathBuf};

use stratawal::inspect::{self, CheckState, Salvaged};
use stratawal::{DamageKind, Durability, Options, Wal};

fn options() -> Options {
    Options::new().journal(true).journal_mapped(false).maintenance_thread(false)
}

fn append(wal: &Wal, name: &str, entries: &[&str]) {
    let stream = wal.stream(name).unwrap().with_durability(Durability::Synced);
    for entry in entries {
        stream.append(entry).unwrap();
    }
}

/// A log whose process was killed. The files of the stream "old" have one entry. The journal has
/// two more, of which the second is damaged, and all three entries of "new", also with a damaged
/// one. A stream "settled" is in its files alone.
fn damaged_log(dir: &Path) {
    let wal = options().open(dir).unwrap();
    append(&wal, "old", &["filed"]);
    append(&wal, "settled", &["filed, too"]);
    wal.close().unwrap();
    let wal = options().open(dir).unwrap();
    append(&wal, "old", &["second"]);
    append(&wal, "new", &["first"]);
    append(&wal, "old", &["damaged one"]);
    append(&wal, "new", &["damaged two", "third"]);
    // The process ends without a close.
    std::mem::forget(wal);
    let path = journal_file(dir);
    let mut bytes = fs::read(&path).unwrap();
    for text in ["damaged one", "damaged two"] {
        let at = bytes.windows(text.len()).position(|found| found == text.as_bytes()).unwrap();
        bytes[at] = b'D';
    }
    fs::write(path, bytes).unwrap();
}

fn journal_file(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).max().unwrap()
}

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// The result of a salvage, in words. An uncertain entry has a question mark.
fn salvaged(dir: &Path, name: &str) -> Vec<String> {
    let shown = |item| match item {
        Salvaged::Entry(entry) => text(entry.data()),
        Salvaged::Uncertain(entry) => format!("{}?", text(entry.data())),
        Salvaged::Lost(lost) => {
            format!("lost {} to {:?}: {:?}", lost.first_seq, lost.next_seq, lost.error.damage().unwrap())
        }
        other => panic!("{other:?}"),
    };
    inspect::salvage(dir, name).unwrap().map(|item| shown(item.unwrap())).collect()
}

#[test]
fn look_up_beside_a_damaged_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    let reader = options().open_read_only(dir.path()).unwrap();
    for name in ["old", "new", "settled", "unknown"] {
        let error = reader.stream(name).unwrap_err();
        assert_eq!(error.damage(), Some(DamageKind::Journal), "{name}: {error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("readable")), "{name}");
    }
}

#[test]
fn held_handle_reports_a_journal_damaged_later() {
    let dir = tempfile::tempdir().unwrap();
    let wal = options().open(dir.path()).unwrap();
    append(&wal, "s", &["first", "second"]);
    let held = options().open_read_only(dir.path()).unwrap().stream("s").unwrap();
    std::mem::forget(wal);
    let path = journal_file(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    // The header.
    bytes[40] ^= 1;
    fs::write(path, bytes).unwrap();
    assert_eq!(held.reopen().unwrap_err().damage(), Some(DamageKind::Journal));
}

#[test]
fn entries_in_files_are_readable_beside_a_damaged_journal() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    for (name, entries) in [("old", &["filed"][..]), ("settled", &["filed, too"]), ("new", &[])] {
        let inspect::Readable { stream, damage, .. } = inspect::readable(dir.path(), name).unwrap();
        let found: Vec<String> = stream.iter(..).map(|entry| text(entry.unwrap().data())).collect();
        assert_eq!(found, entries, "{name}");
        assert_eq!(damage.and_then(|damage| damage.damage()), Some(DamageKind::Journal), "{name}");
    }
}

#[test]
fn salvage_reads_what_a_damaged_journal_still_has() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    let salvaged = |name| salvaged(dir.path(), name);
    assert_eq!(salvaged("old"), ["filed", "second?", "lost 2 to None: Journal"]);
    assert_eq!(salvaged("new"), ["first?", "lost 1 to Some(2): Journal", "third?", "lost 3 to None: Journal"]);
    assert_eq!(salvaged("settled"), ["filed, too", "lost 1 to None: Journal"]);
}

/// Damage to the files of the stream in a directory.
type FileDamage = fn(&Path);

/// The only segment file in `dir`.
fn segment_file(dir: &Path) -> PathBuf {
    fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
}

fn change(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let path = segment_file(dir);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// All files of a stream are lost, and the journal has its newest entries.
const LOST_FILES: [(DamageKind, FileDamage); 4] = [
    (DamageKind::NoSegment, |dir| fs::remove_dir_all(dir).unwrap()),
    (DamageKind::NoSegment, |dir| fs::remove_file(segment_file(dir)).unwrap()),
    (DamageKind::Header, |dir| change(dir, |bytes| bytes.truncate(60))),
    (DamageKind::Header, |dir| change(dir, |bytes| bytes[..100].fill(0))),
];

/// The entries 0 and 1 of "s" are in its files. The journal alone has the other two.
fn half_in_the_journal(dir: &Path) {
    let wal = options().open(dir).unwrap();
    append(&wal, "s", &["zero", "one"]);
    wal.close().unwrap();
    let wal = options().open(dir).unwrap();
    append(&wal, "s", &["two", "three"]);
    std::mem::forget(wal);
}

#[test]
fn entries_in_the_journal_outlive_lost_files() {
    for (kind, damage) in LOST_FILES {
        let dir = tempfile::tempdir().unwrap();
        half_in_the_journal(dir.path());
        damage(&dir.path().join("streams/s"));
        let lost = format!("lost 0 to Some(2): {kind:?}");
        let end = format!("lost 4 to None: {kind:?}");
        assert_eq!(salvaged(dir.path(), "s"), [&lost[..], "two", "three", &end]);
        assert!(inspect::verify_journal(dir.path()).unwrap().unwrap().damage.is_none());
    }
}

#[test]
fn damaged_journal_outlives_lost_files() {
    for (kind, damage) in LOST_FILES {
        let dir = tempfile::tempdir().unwrap();
        half_in_the_journal(dir.path());
        damage(&dir.path().join("streams/s"));
        let path = journal_file(dir.path());
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(5).rposition(|found| found == b"three").unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
        let found = salvaged(dir.path(), "s");
        assert_eq!(found[1..], ["two?", "lost 3 to None: Journal"], "{kind:?}: {found:?}");
        assert!(found[0].starts_with("lost 0 to Some(2): "), "{kind:?}: {found:?}");
    }
}

#[test]
fn entries_in_the_journal_fill_damaged_files() {
    let dir = tempfile::tempdir().unwrap();
    let wal = options().open(dir.path()).unwrap();
    append(&wal, "s", &["zero", "one", "two"]);
    // The files have the entries, and so does the journal until it needs room.
    wal.stream("s").unwrap().close().unwrap();
    std::mem::forget(wal);
    let streams = dir.path().join("streams/s");
    let at = |bytes: &[u8]| bytes.windows(3).position(|found| found == b"one");
    change(&streams, |bytes| {
        let at = at(bytes).unwrap();
        bytes[at] ^= 1;
    });
    assert_eq!(salvaged(dir.path(), "s"), ["zero", "one", "two"]);
    let path = journal_file(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    let at = at(&bytes).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
    let found = salvaged(dir.path(), "s");
    assert!(found.iter().any(|item| item.starts_with("lost 1 to Some(2): ")), "{found:?}");
    assert_eq!(found.last().unwrap(), "lost 3 to None: Journal");
    assert_eq!(found.len(), 4, "{found:?}");
}

/// The lost entries of an error are those that no part of the stream has.
#[test]
fn error_names_only_entries_that_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    half_in_the_journal(dir.path());
    fs::remove_dir_all(dir.path().join("streams/s")).unwrap();
    let reader = options().open_read_only(dir.path()).unwrap();
    let error = reader.stream("s").unwrap_err();
    assert_eq!((error.damage(), error.lost()), (Some(DamageKind::NoSegment), Some(0..2)), "{error}");
    let inspect::Readable { stream, damage, .. } = inspect::readable(dir.path(), "s").unwrap();
    assert_eq!(stream.iter(..).count(), 0);
    assert_eq!(damage.and_then(|damage| damage.damage()), Some(DamageKind::NoSegment));
}

/// The end of a stream whose last file is missing is that of its last truncation.
#[test]
fn missing_last_file_is_missing_from_the_cut_on() {
    let dir = tempfile::tempdir().unwrap();
    let wal = options().journal(false).open(dir.path()).unwrap();
    append(&wal, "s", &["zero", "one", "two", "three"]);
    wal.stream("s").unwrap().truncate_from(2).unwrap();
    append(&wal, "s", &["new"]);
    wal.close().unwrap();
    let mut files = inspect::segment_files(dir.path(), "s").unwrap();
    fs::remove_file(dir.path().join("streams/s").join(files.pop().unwrap().name)).unwrap();
    assert_eq!(files.len(), 1);
    let error = options().journal(false).open_read_only(dir.path()).unwrap().stream("s").unwrap_err();
    assert_eq!(error.damage(), Some(DamageKind::SuccessorMissing));
    assert!(error.to_string().contains("entries from 2 on may be lost"), "{error}");
    assert_eq!(salvaged(dir.path(), "s"), ["zero?", "one?", "lost 2 to None: SuccessorMissing"]);
}

/// The last records of a closed journal are those of a truncation and a deletion.
#[test]
fn lost_sector_of_a_closed_journal_is_noticed() {
    const SECTOR: usize = 512;
    let dir = tempfile::tempdir().unwrap();
    let wal = options().open(dir.path()).unwrap();
    let long = |text: &str| format!("{text}{}", "-".repeat(SECTOR));
    append(&wal, "s", &[&long("kept"), &long("dropped")]);
    append(&wal, "deleted", &[&long("dropped")]);
    wal.stream("s").unwrap().truncate_from(1).unwrap();
    wal.delete_stream("deleted").unwrap();
    wal.close().unwrap();
    let path = journal_file(dir.path());
    let sound = fs::read(&path).unwrap();
    let mut tried = 0;
    for at in (4096..sound.len()).step_by(SECTOR) {
        let sector = at..at + SECTOR;
        if sound[sector.clone()].iter().all(|byte| *byte == 0) {
            continue;
        }
        tried += 1;
        let mut bytes = sound.clone();
        bytes[sector].fill(0);
        fs::write(&path, bytes).unwrap();
        if inspect::verify_journal(dir.path()).unwrap().unwrap().damage.is_none() {
            let reader = options().open_read_only(dir.path()).unwrap();
            assert_eq!(reader.streams().unwrap(), ["s"], "the sector at {at}");
            assert_eq!(reader.stream("s").unwrap().next_seq(), 1, "the sector at {at}");
        }
    }
    assert!(tried > 3, "{tried} sectors");
}

#[test]
fn verify_reads_the_files_and_reports_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    let checks: Vec<_> = inspect::verify(dir.path(), None).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(checks.iter().map(|check| &check.stream[..]).collect::<Vec<_>>(), ["old", "settled"]);
    for check in checks {
        assert_eq!((check.state, check.next_seq), (CheckState::Damaged, Some(1)), "{check:?}");
        assert!(matches!(&check.damage[..], [damage] if damage.damage() == Some(DamageKind::Journal)), "{check:?}");
    }
    let journal = inspect::verify_journal(dir.path()).unwrap().unwrap();
    assert!(journal.damage.is_some());
}
