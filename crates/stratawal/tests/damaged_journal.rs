//! Reading a log whose commit journal is damaged: no look-up hides that entries may be lost, and
//! tools read everything that is left.

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
    let salvaged = |name: &str| -> Vec<String> {
        let shown = |item| match item {
            Salvaged::Entry(entry) => text(entry.data()),
            Salvaged::Uncertain(entry) => format!("{}?", text(entry.data())),
            Salvaged::Lost(lost) => {
                assert_eq!(lost.error.damage(), Some(DamageKind::Journal));
                format!("lost {} to {:?}", lost.first_seq, lost.next_seq)
            }
            other => panic!("{other:?}"),
        };
        inspect::salvage(dir.path(), name).unwrap().map(|item| shown(item.unwrap())).collect()
    };
    assert_eq!(salvaged("old"), ["filed", "second?", "lost 2 to None"]);
    assert_eq!(salvaged("new"), ["first?", "lost 1 to Some(2)", "third?", "lost 3 to None"]);
    assert_eq!(salvaged("settled"), ["filed, too", "lost 1 to None"]);
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
