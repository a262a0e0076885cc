//! Repairs of damaged logs: the entries that are kept, the quarantine, and crashes at every step.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use stratawal::inspect::{self, Salvaged};
use stratawal::repair::{self, Done, Finding, Keep, Part, Remedy, RepairOptions, Repaired};
use stratawal::{Durability, ErrorKind, Options, StreamOptions, Wal};
use stratawal_storage::{Access, FileType, Storage};
use stratawal_testkit::{Crash, Disk, HookedStorage, Rng, SimStorage, Verdict};

const LOG: &str = "/log";
const QUARANTINE: &str = "/quarantine";

/// An offset within the payload of the fifth entry of a segment.
const IN_FIFTH: u64 = 5000;

fn options(journal: bool) -> Options {
    let streams = StreamOptions::new().segment_bytes(64 << 10).durability(Durability::Synced);
    Options::new().stream_defaults(streams).journal(journal).journal_mapped(false).maintenance_thread(false)
}

fn open(storage: &SimStorage, journal: bool) -> Wal {
    options(journal).open_on(Arc::new(storage.clone()), Path::new(LOG), false).unwrap()
}

fn entry(seq: u64) -> Vec<u8> {
    let mut entry = vec![b'-'; 1000];
    entry[..8].copy_from_slice(&seq.to_le_bytes());
    entry
}

/// A log with a stream "s" of four segments, and a small stream "other".
struct Built {
    storage: SimStorage,
    files: Vec<PathBuf>,
    /// The entries of each segment.
    seqs: Vec<Range<u64>>,
}

impl Built {
    fn new(journal: bool) -> Self {
        let storage = SimStorage::new(1);
        let wal = open(&storage, false);
        wal.stream("other").unwrap().append("sound").unwrap();
        let stream = wal.stream("s").unwrap();
        let mut begins = vec![0];
        while begins.len() < 4 || stream.next_seq() < begins[3] + 20 {
            let seq = stream.append(entry(stream.next_seq())).unwrap();
            if files_in(&storage, "streams/s").len() > begins.len() {
                begins.push(seq);
            }
        }
        wal.close().unwrap();
        let ends = begins.iter().skip(1).copied().chain([stream.next_seq()]);
        let seqs = begins.iter().copied().zip(ends).map(|(begin, end)| begin..end).collect();
        if journal {
            let wal = open(&storage, true);
            wal.stream("other").unwrap().append("in the journal").unwrap();
            let stream = wal.stream("s").unwrap();
            for _ in 0..3 {
                stream.append(entry(stream.next_seq())).unwrap();
            }
            wal.close_fast().unwrap();
        }
        Self { files: files_in(&storage, "streams/s"), seqs, storage }
    }

    fn flip(&self, file: &Path, at: u64) {
        let file = self.storage.open(file, Access::ReadWrite).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        file.sync_all().unwrap();
    }

    fn remove(&self, segment: usize) {
        self.storage.remove_file(&self.files[segment]).unwrap();
        self.storage.sync_dir(&Path::new(LOG).join("streams/s")).unwrap();
    }

    fn cut_file(&self, segment: usize, len: u64) {
        let file = self.storage.open(&self.files[segment], Access::ReadWrite).unwrap();
        file.set_len(len).unwrap();
        file.sync_all().unwrap();
    }
}

fn files_in(storage: &SimStorage, dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(LOG).join(dir);
    let files = storage.list(&dir).unwrap().into_iter().map(|entry| dir.join(entry.name));
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some()).collect();
    files.sort();
    files
}

/// A kind of damage to "s": damages the log, and returns what each choice keeps.
type Kind = (&'static str, fn(&Built) -> [Option<Range<u64>>; 2]);

fn around(built: &Built, lost: Range<u64>) -> [Option<Range<u64>>; 2] {
    let end = built.seqs[3].end;
    [0..lost.start, lost.end..end].map(|kept| Some(kept).filter(|kept| !kept.is_empty()))
}

const KINDS: [Kind; 12] = [
    ("a payload in the first file", |built| {
        built.flip(&built.files[0], IN_FIFTH);
        around(built, 4..5)
    }),
    ("a payload in a middle file", |built| {
        built.flip(&built.files[1], IN_FIFTH);
        let lost = built.seqs[1].start + 4;
        around(built, lost..lost + 1)
    }),
    ("a payload in the newest file", |built| {
        built.flip(&built.files[3], IN_FIFTH);
        let lost = built.seqs[3].start + 4;
        around(built, lost..lost + 1)
    }),
    ("the header of the first file", |built| {
        built.flip(&built.files[0], 20);
        around(built, built.seqs[0].clone())
    }),
    ("the header of a middle file", |built| {
        built.flip(&built.files[2], 20);
        around(built, built.seqs[2].clone())
    }),
    ("the header of the newest file", |built| {
        built.flip(&built.files[3], 20);
        around(built, built.seqs[3].clone())
    }),
    ("the first file is missing", |built| {
        built.remove(0);
        around(built, built.seqs[0].clone())
    }),
    ("a middle file is missing", |built| {
        built.remove(1);
        around(built, built.seqs[1].clone())
    }),
    ("the newest file is missing", |built| {
        built.remove(3);
        around(built, built.seqs[3].clone())
    }),
    ("the newest file is cut", |built| {
        built.cut_file(3, IN_FIFTH);
        around(built, built.seqs[3].start + 4..built.seqs[3].end)
    }),
    ("a middle file is cut", |built| {
        built.cut_file(1, IN_FIFTH);
        around(built, built.seqs[1].start + 4..built.seqs[1].end)
    }),
    ("two files are damaged", |built| {
        built.flip(&built.files[1], IN_FIFTH);
        built.flip(&built.files[2], 20);
        around(built, built.seqs[1].start + 4..built.seqs[2].end)
    }),
];

/// All files below `root` with their bytes, by their paths relative to it.
fn tree(storage: &SimStorage, root: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![PathBuf::from(root)];
    while let Some(dir) = dirs.pop() {
        for entry in storage.list(&dir).unwrap_or_default() {
            let path = dir.join(entry.name);
            if entry.file_type == FileType::Dir {
                dirs.push(path);
                continue;
            }
            let file = storage.open(&path, Access::Read).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            files.insert(path.strip_prefix(root).unwrap().to_owned(), bytes);
        }
    }
    files
}

/// The files of the log that hold its content.
fn content(storage: &SimStorage) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = tree(storage, LOG);
    files.retain(|path, _| path.starts_with("streams") || path.starts_with("journal") || path == Path::new("FORMAT"));
    files
}

fn plan(storage: &SimStorage) -> Vec<Finding> {
    repair::plan_on(storage, Path::new(LOG), None).unwrap()
}

fn apply(storage: &SimStorage, quarantine: &str, options: &RepairOptions) -> Repaired {
    repair::apply_on(storage, Path::new(LOG), Path::new(quarantine), options).unwrap()
}

fn is_repaired(repaired: &Repaired) -> bool {
    repaired.has_quarantine && repaired.findings.iter().all(|(_, done)| matches!(done, Done::Repaired))
}

/// Checks that the log is sound, and that "s" has exactly the entries of `seqs`.
fn check_kept(what: &str, storage: &SimStorage, journal: bool, seqs: &Range<u64>) {
    assert!(plan(storage).is_empty(), "{what}: {:?}", plan(storage));
    let wal = open(storage, journal);
    let stream = wal.stream("s").unwrap();
    assert_eq!(stream.first_seq()..stream.next_seq(), seqs.clone(), "{what}");
    for (found, seq) in stream.iter(..).zip(seqs.clone()) {
        let found = found.unwrap();
        assert!(found.seq() == seq && *found.data() == entry(seq), "{what}: entry {seq}");
    }
    assert_eq!(stream.append("new").unwrap(), seqs.end, "{what}");
    assert_eq!(wal.stream("other").unwrap().get(0).unwrap().unwrap().data(), "sound");
    wal.close().unwrap();
}

#[test]
fn each_choice_keeps_what_the_plan_states() {
    for (kind, damage) in KINDS {
        for (choice, keep) in [Keep::Before, Keep::After].into_iter().enumerate() {
            let built = Built::new(false);
            let expected = damage(&built);
            let before = content(&built.storage);
            let findings = plan(&built.storage);
            assert_eq!(content(&built.storage), before, "{kind}: the plan changed the log");
            assert_eq!(findings.len(), 1, "{kind}: {findings:?}");
            assert_eq!(findings[0].part, Part::Stream("s".to_owned()), "{kind}");
            let Remedy::Truncate { before: kept, after, .. } = &findings[0].remedy else {
                panic!("{kind}: {findings:?}");
            };
            assert_eq!([kept.clone(), after.clone()], expected, "{kind}");

            let unchosen = apply(&built.storage, QUARANTINE, &RepairOptions::new());
            assert!(!unchosen.has_quarantine && matches!(unchosen.findings[0].1, Done::NotChosen), "{kind}");
            let repaired = apply(&built.storage, QUARANTINE, &RepairOptions::new().keep(keep));
            let Some(seqs) = &expected[choice] else {
                assert!(!repaired.has_quarantine, "{kind}: {keep:?} keeps nothing");
                assert_eq!(content(&built.storage), before, "{kind}");
                continue;
            };
            assert!(is_repaired(&repaired), "{kind}, {keep:?}: {repaired:?}");
            for (path, bytes) in tree(&built.storage, QUARANTINE) {
                assert_eq!(before[&path], bytes, "{kind}: {path:?} in the quarantine");
            }
            check_kept(&format!("{kind}, {keep:?}"), &built.storage, false, seqs);
            let again = apply(&built.storage, "/second", &RepairOptions::new().keep(keep));
            assert!(!again.has_quarantine && again.findings.is_empty(), "{kind}: {again:?}");
        }
    }
}

/// The end of the files is lost, and the journal has later entries of the stream.
#[test]
fn entries_in_the_journal_go_with_those_that_are_dropped() {
    for (kind, damage) in KINDS.iter().filter(|(kind, _)| kind.starts_with("the ")) {
        let built = Built::new(true);
        let [before, after] = damage(&built);
        let end = built.seqs[3].end + 3;
        for (keep, kept) in [(Keep::Before, before), (Keep::After, after.map(|after| after.start..end))] {
            let Some(kept) = kept else { continue };
            let storage = SimStorage::on(built.storage.disk(), 2);
            let repaired = apply(&storage, QUARANTINE, &RepairOptions::new().keep(keep));
            assert!(is_repaired(&repaired), "{kind}, {keep:?}: {repaired:?}");
            check_kept(&format!("{kind}, {keep:?}"), &storage, true, &kept);
            let wal = open(&storage, true);
            assert_eq!(wal.stream("other").unwrap().get(1).unwrap().unwrap().data(), "in the journal");
        }
    }
}

#[test]
fn damaged_journal_keeps_records_without_a_gap() {
    let built = Built::new(true);
    let journal = files_in(&built.storage, "journal").pop().unwrap();
    let end = built.seqs[3].end;
    let bytes = tree(&built.storage, LOG)[journal.strip_prefix(LOG).unwrap()].clone();
    let second = (end + 1).to_le_bytes();
    let at = bytes.windows(8).position(|found| found == second).unwrap() as u64;
    built.flip(&journal, at + 100);
    let findings = plan(&built.storage);
    let Remedy::ReplaceJournal { kept, dropped, is_unreadable: false } = findings[0].remedy else {
        panic!("{findings:?}");
    };
    assert_eq!((findings.len(), &findings[0].part, kept, dropped), (1, &Part::Journal, 2, 1), "{findings:?}");
    let repaired = apply(&built.storage, QUARANTINE, &RepairOptions::new());
    assert!(is_repaired(&repaired), "{repaired:?}");
    check_kept("journal", &built.storage, true, &(0..end + 1));
    assert_eq!(tree(&built.storage, QUARANTINE)[journal.strip_prefix(LOG).unwrap()].len(), bytes.len());

    // Without its header, no record of a journal can be read.
    let built = Built::new(true);
    let journal = files_in(&built.storage, "journal").pop().unwrap();
    built.flip(&journal, 40);
    let findings = plan(&built.storage);
    assert!(matches!(findings[0].remedy, Remedy::ReplaceJournal { is_unreadable: true, .. }), "{findings:?}");
    assert!(is_repaired(&apply(&built.storage, QUARANTINE, &RepairOptions::new())));
    check_kept("journal header", &built.storage, true, &(0..end));
}

/// Damages the file where `bytes` are found, `after` bytes later.
fn flip_after(storage: &SimStorage, path: &Path, bytes: &[u8], after: usize) {
    let file = storage.open(path, Access::ReadWrite).unwrap();
    let mut all = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut all, 0).unwrap();
    let at = all.windows(bytes.len()).position(|found| found == bytes).unwrap() + after;
    file.write_all_at(&[all[at] ^ 1], at as u64).unwrap();
    file.sync_all().unwrap();
}

/// The record of a truncation is lost. Later entries, which have the seqs of those that it dropped,
/// can still be read.
#[test]
fn truncated_entries_do_not_replace_later_ones() {
    let storage = SimStorage::new(1);
    let wal = open(&storage, true);
    let stream = wal.stream("s").unwrap();
    for seq in 0..20 {
        stream.append(format!("old entry {seq}")).unwrap();
    }
    stream.truncate_from(10).unwrap();
    for seq in 10..12 {
        stream.append(format!("new entry {seq}")).unwrap();
    }
    let storage = SimStorage::on(storage.disk().crash(Crash::Kill, &mut Rng::new(1)), 2);
    let journal = files_in(&storage, "journal").pop().unwrap();
    // SETTLED follows the last old entry.
    flip_after(&storage, &journal, b"old entry 19", 60);
    let findings = plan(&storage);
    let remedy = Remedy::ReplaceJournal { kept: 2, dropped: 0, is_unreadable: false };
    assert_eq!((findings.len(), &findings[0].remedy), (1, &remedy), "{findings:?}");
    let expected: Vec<String> =
        (0..12).map(|seq| format!("{} entry {seq}", if seq < 10 { "old" } else { "new" })).collect();
    let salvaged = inspect::salvage_on(&storage, Path::new(LOG), "s").unwrap();
    let found: Vec<String> = salvaged
        .filter_map(|item| match item.unwrap() {
            Salvaged::Entry(entry) | Salvaged::Uncertain(entry) => {
                Some(String::from_utf8_lossy(entry.data()).into_owned())
            }
            _ => None,
        })
        .collect();
    assert_eq!(found, expected, "salvaged");
    assert!(is_repaired(&apply(&storage, QUARANTINE, &RepairOptions::new())));
    let wal = open(&storage, true);
    let found = wal.stream("s").unwrap().iter(..).map(|found| found.unwrap().data().to_vec()).collect::<Vec<_>>();
    assert_eq!(found, expected.iter().map(|entry| entry.as_bytes().to_vec()).collect::<Vec<_>>());
}

/// The other files of the journal can be read.
#[test]
fn a_lost_file_of_the_journal_costs_its_entries_alone() {
    const STREAMS: u64 = 30;
    let storage = SimStorage::new(1);
    let wal = open(&storage, true);
    for i in 0..STREAMS {
        wal.stream(&format!("s{i}")).unwrap().append(vec![7; 50_000]).unwrap();
    }
    let storage = SimStorage::on(storage.disk().crash(Crash::Kill, &mut Rng::new(1)), 2);
    drop(wal);
    let files = files_in(&storage, "journal");
    let files: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|kind| kind == "jnl")).collect();
    assert!(files.len() > 2);
    let mut all_kept = 0;
    for (path, is_missing) in files.iter().flat_map(|path| [(path, true), (path, false)]) {
        let storage = SimStorage::on(storage.disk(), 3);
        if is_missing {
            storage.remove_file(path).unwrap();
            storage.sync_dir(&Path::new(LOG).join("journal")).unwrap();
        } else {
            let mut bytes = [0; 8];
            storage.open(path, Access::Read).unwrap().read_exact_at(&mut bytes, 48).unwrap();
            flip_after(&storage, path, &bytes, 0);
        }
        let findings = plan(&storage);
        let Remedy::ReplaceJournal { kept, dropped: 0, is_unreadable: false } = findings[0].remedy else {
            panic!("{findings:?}");
        };
        let is_whole = |i: &u64| {
            let mut items = inspect::salvage_on(&storage, Path::new(LOG), &format!("s{i}")).unwrap();
            items.any(|item| matches!(item.unwrap(), Salvaged::Uncertain(entry) if entry.data().len() == 50_000))
        };
        let salvaged = (0..STREAMS).filter(is_whole).count();
        assert_eq!(salvaged as u64, kept);
        assert!(is_repaired(&apply(&storage, QUARANTINE, &RepairOptions::new())));
        let wal = open(&storage, true);
        let found = (0..STREAMS).filter(|i| wal.stream(&format!("s{i}")).unwrap().next_seq() == 1).count();
        assert_eq!(found as u64, kept, "{path:?}, missing: {is_missing}");
        all_kept += kept;
    }
    // Each file is lost twice.
    assert_eq!(all_kept, 2 * STREAMS * (files.len() as u64 - 1));
}

/// The journal is damaged elsewhere. Its entries of a stream whose files are damaged follow them.
#[test]
fn damaged_files_do_not_cost_entries_in_the_journal() {
    let built = Built::new(true);
    built.remove(1);
    let journal = files_in(&built.storage, "journal").pop().unwrap();
    flip_after(&built.storage, &journal, b"in the journal", 0);
    let findings = plan(&built.storage);
    let remedy = Remedy::ReplaceJournal { kept: 3, dropped: 0, is_unreadable: false };
    assert_eq!((findings.len(), &findings[0].remedy), (2, &remedy), "{findings:?}");
    assert!(is_repaired(&apply(&built.storage, QUARANTINE, &RepairOptions::new().keep(Keep::After))));
    check_kept("both", &built.storage, true, &(built.seqs[2].start..built.seqs[3].end + 3));
}

/// What another process appended after the quarantine was made would be in neither.
#[test]
fn no_other_process_writes_during_a_repair() {
    for damaged in [1, 3] {
        let built = Built::new(false);
        built.flip(&built.files[damaged], IN_FIFTH);
        let hooked = HookedStorage::new(built.storage.clone());
        let (storage, refused) = (built.storage.clone(), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&refused);
        hooked.intercept(move |_| {
            if storage.list(Path::new(QUARANTINE)).is_ok() {
                let opened = options(false).open_on(Arc::new(storage.clone()), Path::new(LOG), false);
                assert_eq!(opened.map(drop).unwrap_err().kind(), ErrorKind::Locked);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Verdict::Proceed
        });
        let options = RepairOptions::new().keep(Keep::Before);
        let repaired = repair::apply_on(&hooked, Path::new(LOG), Path::new(QUARANTINE), &options).unwrap();
        assert!(is_repaired(&repaired) && refused.load(Ordering::Relaxed) > 10, "{repaired:?}");
    }
}

#[test]
fn format_is_written_as_the_other_files_show() {
    for journal in [false, true] {
        let built = Built::new(journal);
        let format = Path::new(LOG).join("FORMAT");
        let before = content(&built.storage);
        built.storage.remove_file(&format).unwrap();
        built.storage.sync_dir(Path::new(LOG)).unwrap();
        let findings = plan(&built.storage);
        assert_eq!((&findings[0].part, &findings[0].remedy), (&Part::Format, &Remedy::WriteFormat));
        assert!(is_repaired(&apply(&built.storage, QUARANTINE, &RepairOptions::new())));
        if !journal {
            // Only FORMAT stated that the log has no journal.
            assert_eq!(findings[0].damage.len(), 2, "{findings:?}");
            assert_eq!(plan(&built.storage)[0].part, Part::Journal);
            assert!(is_repaired(&apply(&built.storage, "/second", &RepairOptions::new())));
            open(&built.storage, false).close().unwrap();
        }
        assert_eq!(content(&built.storage), before);
    }
}

#[test]
fn lost_copy_in_format_is_written_again() {
    let built = Built::new(true);
    let format = Path::new(LOG).join("FORMAT");
    let before = content(&built.storage);
    for at in [10, 4120] {
        built.flip(&format, at);
        let findings = plan(&built.storage);
        assert_eq!((&findings[0].part, &findings[0].remedy), (&Part::Format, &Remedy::WriteFormat), "{at}");
        assert!(is_repaired(&apply(&built.storage, &format!("/saved-{at}"), &RepairOptions::new())), "{at}");
        assert!(content(&built.storage) == before, "{at}");
    }
}

/// Only FORMAT stated that the log has a journal.
#[test]
fn missing_journal_is_damage_after_format_is_written() {
    let built = Built::new(true);
    let journal = Path::new(LOG).join("journal");
    let end = built.seqs[3].end;
    built.storage.rename(&journal, Path::new("/moved")).unwrap();
    built.storage.remove_file(&Path::new(LOG).join("FORMAT")).unwrap();
    let findings = plan(&built.storage);
    assert_eq!((findings[0].damage.len(), &findings[0].remedy), (2, &Remedy::WriteFormat), "{findings:?}");
    assert!(is_repaired(&apply(&built.storage, QUARANTINE, &RepairOptions::new())));
    let findings = plan(&built.storage);
    let remedy = Remedy::ReplaceJournal { kept: 0, dropped: 0, is_unreadable: true };
    assert_eq!((findings.len(), &findings[0].remedy), (1, &remedy), "{findings:?}");
    let both = SimStorage::on(built.storage.disk(), 2);
    both.rename(Path::new("/moved"), &journal).unwrap();
    check_kept("the journal was moved back", &both, true, &(0..end + 3));
    assert!(is_repaired(&apply(&built.storage, "/second", &RepairOptions::new())));
    check_kept("the journal is lost", &built.storage, true, &(0..end));
}

/// No stream has a directory.
#[test]
fn lost_format_of_a_journal_is_not_replaced_by_a_new_log() {
    let storage = SimStorage::new(1);
    let wal = open(&storage, true);
    wal.stream("s").unwrap().append(entry(0)).unwrap();
    let storage = SimStorage::on(storage.disk().crash(Crash::Kill, &mut Rng::new(1)), 2);
    drop(wal);
    let format = Path::new(LOG).join("FORMAT");
    storage.remove_file(&format).unwrap();
    assert!(files_in(&storage, "streams").is_empty());
    for read_only in [true, false] {
        let opened = options(true).open_on(Arc::new(storage.clone()), Path::new(LOG), read_only);
        let error = opened.map(drop).unwrap_err();
        assert!(error.kind() == ErrorKind::Damaged && error.to_string().contains("FORMAT is missing"), "{error}");
        storage.open(&format, Access::Read).unwrap_err();
    }
    assert!(is_repaired(&apply(&storage, QUARANTINE, &RepairOptions::new())));
    let wal = open(&storage, true);
    assert_eq!(*wal.stream("s").unwrap().get(0).unwrap().unwrap().data(), entry(0));
}

#[test]
fn format_is_not_written_if_the_journal_is_unlisted() {
    let built = Built::new(true);
    let journal = Path::new(LOG).join("journal");
    built.storage.rename(&journal, Path::new("/moved")).unwrap();
    built.storage.create_new(&journal).unwrap();
    built.storage.remove_file(&Path::new(LOG).join("FORMAT")).unwrap();
    let before = content(&built.storage);
    assert_eq!(plan(&built.storage)[0].remedy, Remedy::ByHand);
    let repaired = apply(&built.storage, QUARANTINE, &RepairOptions::new());
    assert!(!is_repaired(&repaired) && !repaired.has_quarantine, "{repaired:?}");
    assert_eq!(content(&built.storage), before);
}

#[test]
fn quarantine_must_be_new_and_outside() {
    let built = Built::new(false);
    built.remove(1);
    let before = content(&built.storage);
    built.storage.create_dir(Path::new("/exists")).unwrap();
    for quarantine in ["/exists", "/log/quarantine"] {
        let options = RepairOptions::new().keep(Keep::After);
        repair::apply_on(&built.storage, Path::new(LOG), Path::new(quarantine), &options).unwrap_err();
        assert_eq!(content(&built.storage), before, "{quarantine}");
    }
}

#[test]
fn another_stream_is_left_alone() {
    let built = Built::new(false);
    built.remove(1);
    let before = content(&built.storage);
    let options = RepairOptions::new().keep(Keep::After).stream("other");
    let repaired = apply(&built.storage, QUARANTINE, &options);
    assert!(!repaired.has_quarantine && repaired.findings.is_empty());
    assert_eq!(content(&built.storage), before);
}

/// Repairs a log, and returns the disk after every change.
fn disks_of(storage: &SimStorage, options: &RepairOptions) -> Vec<Disk> {
    let disks = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&disks);
    storage.watch(move |disk| seen.lock().unwrap().push(disk.clone()));
    let repaired = apply(storage, QUARANTINE, options);
    storage.unwatch();
    assert!(is_repaired(&repaired), "{repaired:?}");
    let disks = std::mem::take(&mut *disks.lock().unwrap());
    assert!(disks.len() > 20);
    disks
}

/// A crash at any point of a repair leaves a log that can be repaired again, to the same result,
/// and a whole quarantine as soon as anything is changed.
#[test]
fn interrupted_repair_is_repeated() {
    // Unoptimized, each repair takes many times as long.
    let step = if cfg!(debug_assertions) { 23 } else { 3 };
    let mut rng = Rng::new(7);
    for (kind, damage) in &KINDS[1..] {
        for journal in [false, true] {
            for (choice, keep) in [Keep::Before, Keep::After].into_iter().enumerate() {
                let built = Built::new(journal);
                let Some(mut kept) = damage(&built)[choice].clone() else { continue };
                let has_journal_entries = keep == Keep::After && journal;
                kept.end += if has_journal_entries { 3 } else { 0 };
                let what = format!("{kind}, {keep:?}, journal: {journal}");
                // The length of a closed file may not be durable yet.
                let storage = SimStorage::on(built.storage.disk().crash(Crash::Kept, &mut rng), 2);
                let before = content(&storage);
                let options = RepairOptions::new().keep(keep);
                let disks = disks_of(&storage, &options);
                for disk in disks.iter().step_by(step) {
                    let crash = [Crash::Kill, Crash::Lost, Crash::any(&mut rng)][rng.below(3) as usize];
                    let after = SimStorage::on(disk.crash(crash, &mut rng), 3);
                    check_after_crash(&what, &after, &before);
                    let again = apply(&after, "/again", &options);
                    assert!(again.findings.is_empty() || is_repaired(&again), "{what}: {again:?}");
                    check_kept(&what, &after, journal, &kept);
                }
            }
        }
    }
}

/// The file before the damage was never synced. A power loss during the repair may take its
/// entries, but the log can be repaired again.
#[test]
fn cut_attests_no_entry_that_was_never_synced() {
    let storage = SimStorage::new(1);
    let wal = open(&storage, false);
    let stream = wal.stream("s").unwrap().with_durability(Durability::Flushed);
    stream.append(entry(0)).unwrap();
    while files_in(&storage, "streams/s").len() < 2 {
        stream.append(entry(stream.next_seq())).unwrap();
    }
    let storage = SimStorage::on(storage.disk().crash(Crash::Kill, &mut Rng::new(1)), 2);
    let file = storage.open(&files_in(&storage, "streams/s")[1], Access::ReadWrite).unwrap();
    file.write_all_at(&[0xff; 4], 20).unwrap();
    file.sync_all().unwrap();
    let options = RepairOptions::new().keep(Keep::Before);
    let Remedy::Truncate { before: Some(kept), .. } = plan(&storage)[0].remedy.clone() else { panic!() };
    let mut were_lost = 0;
    for disk in disks_of(&storage, &options) {
        let after = SimStorage::on(disk.crash(Crash::Lost, &mut Rng::new(1)), 3);
        let is_cut = |path: &PathBuf| path.to_str().unwrap().ends_with("-00000003.seg");
        if !files_in(&after, "streams/s").iter().any(is_cut) {
            continue;
        }
        let again = apply(&after, "/again", &options);
        assert!(again.findings.is_empty() || is_repaired(&again), "{again:?}");
        assert!(plan(&after).is_empty(), "{:?}", plan(&after));
        let end = open(&after, false).stream("s").unwrap().next_seq();
        assert!(end <= kept.end, "{end}");
        were_lost += u64::from(end < kept.end);
    }
    assert!(were_lost > 0, "no power loss took an entry");
    assert_eq!(open(&storage, false).stream("s").unwrap().next_seq(), kept.end);
}

/// Nothing is changed before the quarantine has its name, and then it is whole.
fn check_after_crash(what: &str, storage: &SimStorage, before: &BTreeMap<PathBuf, Vec<u8>>) {
    if content(storage) == *before {
        return;
    }
    let saved = tree(storage, QUARANTINE);
    let is_of_s = |path: &PathBuf| path.starts_with("streams/s") || path.starts_with("journal");
    for (path, bytes) in before.iter().filter(|(path, _)| is_of_s(path)) {
        assert!(saved.get(path) == Some(bytes), "{what}: {path:?} is not in the quarantine");
    }
}

/// The beginning of the entry `seq` that [`append_and_die`] appends to "s", or to the stream of
/// this name.
fn marked(seq: u64) -> [u8; 9] {
    marked_in("s", seq)
}

fn marked_in(name: &str, seq: u64) -> [u8; 9] {
    let mut bytes = [name.as_bytes()[0]; 9];
    bytes[..8].copy_from_slice(&seq.to_le_bytes());
    bytes
}

/// Appends entries of these lengths to a stream, and kills the process.
fn append_and_die(storage: &SimStorage, name: &str, lens: &[usize]) -> SimStorage {
    let wal = open(storage, true);
    append_to(&wal, name, lens);
    SimStorage::on(storage.disk().crash(Crash::Kill, &mut Rng::new(1)), 2)
}

fn append_to(wal: &Wal, name: &str, lens: &[usize]) {
    let stream = wal.stream(name).unwrap();
    for len in lens {
        let mut bytes = vec![b'-'; *len];
        bytes[..9].copy_from_slice(&marked_in(name, stream.next_seq()));
        stream.append(bytes).unwrap();
    }
}

/// The entries of "s", of which each begins with its seq.
fn entries_of_s(storage: &SimStorage) -> Range<u64> {
    let wal = open(storage, true);
    let stream = wal.stream("s").unwrap();
    let seqs = stream.first_seq()..stream.next_seq();
    for (found, seq) in stream.iter(..).zip(seqs.clone()) {
        assert_eq!(found.unwrap().data()[..8], seq.to_le_bytes(), "entry {seq}");
    }
    wal.close().unwrap();
    assert!(plan(storage).is_empty(), "{:?}", plan(storage));
    seqs
}

/// The choices for "s", and the remedy for the journal, if it is damaged.
fn choices(storage: &SimStorage) -> ([Option<Range<u64>>; 2], Option<Remedy>) {
    let findings = plan(storage);
    let of_part = |part: &Part| findings.iter().find(|finding| finding.part == *part).map(|found| found.remedy.clone());
    match of_part(&Part::Stream("s".to_owned())) {
        Some(Remedy::Truncate { before, after, .. }) => ([before, after], of_part(&Part::Journal)),
        _ => panic!("{findings:?}"),
    }
}

/// Applies each choice to a copy of the disk, and checks that it keeps what the plan states.
fn check_choices(storage: &SimStorage, expected: [Option<Range<u64>>; 2]) {
    assert_eq!(choices(storage).0, expected);
    for (keep, kept) in [Keep::Before, Keep::After].into_iter().zip(expected) {
        let storage = SimStorage::on(storage.disk(), 3);
        let repaired = apply(&storage, QUARANTINE, &RepairOptions::new().keep(keep));
        let Some(kept) = kept else { continue };
        assert!(is_repaired(&repaired), "{keep:?}: {repaired:?}");
        assert_eq!(entries_of_s(&storage), kept, "{keep:?}");
    }
}

/// Long entries are in the files alone. So the records before and after one have a gap, although no
/// entry is lost there.
#[test]
fn entries_in_damaged_files_are_no_gap() {
    const LONG: usize = 90_000;
    let mut storage = SimStorage::new(1);
    for lens in [&[100; 3][..], &[LONG], &[100; 3], &[LONG], &[100; 3]] {
        storage = append_and_die(&storage, "s", lens);
    }
    let storage = append_and_die(&storage, "t", &[100; 3]);
    let file = storage.open(&file_with(&storage, 7).unwrap(), Access::ReadWrite).unwrap();
    file.set_len(70_000).unwrap();
    file.sync_all().unwrap();
    let journal = files_in(&storage, "journal").pop().unwrap();
    flip_after(&storage, &journal, &marked_in("t", 1), 9);
    let (_, of_journal) = choices(&storage);
    let Some(Remedy::ReplaceJournal { kept: 4, dropped: 1, .. }) = of_journal else { panic!("{of_journal:?}") };
    check_choices(&storage, [Some(0..7), Some(8..11)]);
}

/// A stream of which entries 21 to 30 are in its files and in the journal, 31 in its files alone,
/// and 32 to 41 in the journal.
fn half_in_files() -> SimStorage {
    let storage = append_and_die(&SimStorage::new(1), "s", &[100; 21]);
    open(&storage, true).close().unwrap();
    let streams = StreamOptions::new().segment_bytes(1 << 20).durability(Durability::Synced);
    let wal = options(true).stream_defaults(streams).open_on(Arc::new(storage.clone()), Path::new(LOG), false).unwrap();
    append_to(&wal, "s", &[&[7000; 10][..], &[90_000], &[100; 10]].concat());
    let storage = SimStorage::on(storage.disk().crash(Crash::Kill, &mut Rng::new(1)), 2);
    assert!(file_with(&storage, 31).is_some() && file_with(&storage, 41).is_none());
    storage
}

/// The segment that has this entry of "s".
fn file_with(storage: &SimStorage, seq: u64) -> Option<PathBuf> {
    let all = tree(storage, LOG);
    let has_entry = |path: &PathBuf| all[path.strip_prefix(LOG).unwrap()].windows(9).any(|found| found == marked(seq));
    files_in(storage, "streams/s").into_iter().find(has_entry)
}

/// Entries that are in the files and in the journal are damaged in both, at different places.
#[test]
fn record_of_an_entry_in_the_files_is_no_gap() {
    let storage = half_in_files();
    let journal = files_in(&storage, "journal").pop().unwrap();
    flip_after(&storage, &journal, &marked(24), 9);
    flip_after(&storage, &file_with(&storage, 21).unwrap(), &marked(21), 9);
    let ([before, after], _) = choices(&storage);
    let after = after.unwrap();
    assert!(after.start < 32 && after.end == 42, "{after:?}");
    check_choices(&storage, [before, Some(after)]);
    // Without a choice, the journal keeps everything.
    let repaired = apply(&storage, QUARANTINE, &RepairOptions::new());
    let is_done = |(finding, done): &(Finding, Done)| finding.part != Part::Journal || matches!(done, Done::Repaired);
    assert!(repaired.findings.iter().all(is_done), "{repaired:?}");
    assert_eq!(choices(&storage).0[1].as_ref().unwrap().end, 42);
}

/// A way to lose the files of a stream, and its name.
type Loss<'a> = (&'static str, &'a dyn Fn(&SimStorage));

/// The journal alone has entries of a stream whose files are lost.
#[test]
fn entries_in_the_journal_outlive_the_files() {
    let built = append_and_die(&SimStorage::new(1), "s", &[100; 30]);
    open(&built, true).close().unwrap();
    let built = append_and_die(&built, "s", &[100; 6]);
    let path = files_in(&built, "streams/s").pop().unwrap();
    let dir = path.parent().unwrap().to_owned();
    let kinds: [Loss<'_>; 4] = [
        ("no file", &|storage| storage.remove_file(&path).unwrap()),
        ("no directory", &|storage| {
            storage.remove_file(&path).unwrap();
            storage.remove_dir(&dir).unwrap();
        }),
        ("a short file", &|storage| storage.open(&path, Access::ReadWrite).unwrap().set_len(260).unwrap()),
        ("a header", &|storage| storage.open(&path, Access::ReadWrite).unwrap().write_all_at(&[0; 128], 0).unwrap()),
    ];
    for (kind, damage) in kinds {
        let storage = SimStorage::on(built.disk(), 2);
        damage(&storage);
        let storage = SimStorage::on(storage.disk().crash(Crash::Kept, &mut Rng::new(1)), 2);
        let findings = plan(&storage);
        let Remedy::Truncate { before: None, after, intact: 6, .. } = &findings[0].remedy else {
            panic!("{kind}: {findings:?}");
        };
        assert_eq!((findings.len(), after), (1, &Some(30..36)), "{kind}: {findings:?}");
        let unchosen = apply(&storage, QUARANTINE, &RepairOptions::new());
        assert!(!unchosen.has_quarantine, "{kind}");
        let options = RepairOptions::new().keep(Keep::After);
        let disks = disks_of(&storage, &options);
        assert_eq!(entries_of_s(&storage), 30..36, "{kind}");
        for disk in disks.iter().step_by(5) {
            let storage = SimStorage::on(disk.crash(Crash::Lost, &mut Rng::new(1)), 3);
            let again = apply(&storage, "/again", &options);
            assert!(again.findings.is_empty() || is_repaired(&again), "{kind}: {again:?}");
            assert_eq!(entries_of_s(&storage), 30..36, "{kind}");
        }
    }
}

/// The journal has the damaged entry, and those after it up to one that is in the files alone.
#[test]
fn damaged_entries_that_the_journal_has_are_kept() {
    let storage = half_in_files();
    flip_after(&storage, &file_with(&storage, 21).unwrap(), &marked(21), 9);
    let ([before, after], _) = choices(&storage);
    assert_eq!(before, Some(0..31));
    assert!(matches!(plan(&storage)[0].remedy, Remedy::Truncate { intact: 42, .. }));
    check_choices(&storage, [before, after]);
}

/// The file that shows which entries a truncation has dropped is missing.
#[test]
fn entries_that_may_be_truncated_are_stated() {
    let storage = SimStorage::new(1);
    let wal = open(&storage, false);
    let stream = wal.stream("s").unwrap();
    for (count, end) in [(20, 10), (5, 5), (2, 7)] {
        for _ in 0..count {
            stream.append(entry(stream.next_seq())).unwrap();
        }
        stream.truncate_from(end).unwrap();
    }
    wal.close().unwrap();
    let newest = files_in(&storage, "streams/s")
        .into_iter()
        .max_by_key(|path| path.to_str().unwrap().split('-').next_back().unwrap().to_owned());
    storage.remove_file(&newest.unwrap()).unwrap();
    storage.sync_dir(&Path::new(LOG).join("streams/s")).unwrap();
    let findings = plan(&storage);
    let Remedy::Truncate { before: Some(before), uncertain: Some(uncertain), .. } = &findings[0].remedy else {
        panic!("{findings:?}");
    };
    // Entries 5 to 9 were dropped.
    assert!(before.end == 10 && uncertain.start <= 5 && uncertain.end == 10, "{findings:?}");
}

/// A newer version has written the file, with a checksum of its own.
#[test]
fn file_of_a_newer_version_stops_no_other_repair() {
    for journal in [false, true] {
        let built = Built::new(journal);
        let [before, _] = KINDS[1].1(&built);
        let other = files_in(&built.storage, "streams/other").pop().unwrap();
        let unchanged = tree(&built.storage, "/log/streams/other");
        [10, 124].iter().for_each(|&at| built.flip(&other, at));
        let damaged = tree(&built.storage, "/log/streams/other");
        assert_ne!(damaged, unchanged);
        let findings = plan(&built.storage);
        assert_eq!(findings[0].part, Part::Stream("other".to_owned()), "{findings:?}");
        assert_eq!((findings[0].damage[0].kind(), &findings[0].remedy), (ErrorKind::NewerFormat, &Remedy::ByHand));
        let repaired = apply(&built.storage, QUARANTINE, &RepairOptions::new().keep(Keep::Before));
        assert!(matches!(&repaired.findings[..], [(_, Done::Nothing), (_, Done::Repaired)]), "{repaired:?}");
        assert_eq!(tree(&built.storage, "/log/streams/other"), damaged);
        [10, 124].iter().for_each(|&at| built.flip(&other, at));
        check_kept("newer", &built.storage, journal, &before.unwrap());
    }
}

/// All files that a repair changes are in the quarantine.
#[test]
fn files_of_other_streams_are_not_changed() {
    let built = Built::new(true);
    KINDS[1].1(&built);
    let journal = files_in(&built.storage, "journal").pop().unwrap();
    flip_after(&built.storage, &journal, &entry(built.seqs[3].end + 2)[..9], 9);
    let before = content(&built.storage);
    for keep in [None, Some(Keep::After)] {
        let storage = SimStorage::on(built.storage.disk(), 2);
        let options = keep.map_or_else(RepairOptions::new, |keep| RepairOptions::new().keep(keep));
        assert!(apply(&storage, QUARANTINE, &options).has_quarantine);
        let now = content(&storage);
        let saved = tree(&storage, QUARANTINE);
        for (path, bytes) in &before {
            assert!(now.get(path) == Some(bytes) || saved.get(path) == Some(bytes), "{keep:?}: {path:?}");
        }
        let wal = open(&storage, true);
        assert_eq!(wal.stream("other").unwrap().get(1).unwrap().unwrap().data(), "in the journal");
    }
}

/// The record of a deletion is lost, and a later stream has the name.
#[test]
fn deleted_stream_does_not_replace_a_later_one() {
    let storage = SimStorage::new(1);
    let wal = open(&storage, true);
    wal.stream("s").unwrap().append("the last entry").unwrap();
    wal.delete_stream("s").unwrap();
    // A long entry creates the directory at once.
    wal.stream("s").unwrap().append([&marked(0)[..], &[7; 90_000]].concat()).unwrap();
    let storage = SimStorage::on(storage.disk().crash(Crash::Kill, &mut Rng::new(1)), 2);
    drop(wal);
    let journal = files_in(&storage, "journal").pop().unwrap();
    // DROP follows the entry.
    flip_after(&storage, &journal, b"the last entry", 60);
    let findings = plan(&storage);
    let remedy = Remedy::ReplaceJournal { kept: 0, dropped: 1, is_unreadable: false };
    assert_eq!((findings.len(), &findings[0].remedy), (1, &remedy), "{findings:?}");
    assert!(is_repaired(&apply(&storage, QUARANTINE, &RepairOptions::new())));
    assert_eq!(entries_of_s(&storage), 0..1);
}
