//! Random damage to logs of different histories: a repair keeps what its plan states, and drops
//! nothing that can be read without counting it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal::inspect::{self, Salvaged};
use stratawal::repair::{self, Done, Finding, Keep, Part, Remedy, RepairOptions, Repaired};
use stratawal::{Durability, ErrorKind, Options, StreamOptions, Wal};
use stratawal_storage::{Access, Storage};
use stratawal_testkit::{Crash, Rng, SimStorage};

const LOG: &str = "/log";
const QUARANTINE: &str = "/quarantine";

/// Entries by seq.
type Entries = BTreeMap<u64, Vec<u8>>;

fn open(storage: &SimStorage) -> Wal {
    let streams = StreamOptions::new().segment_bytes(128 << 10).durability(Durability::Synced);
    let options = Options::new().stream_defaults(streams).journal_mapped(false).maintenance_thread(false);
    options.open_on(Arc::new(storage.clone()), Path::new(LOG), false).unwrap()
}

/// A step in the history of a log. Each begins by opening the log.
#[derive(Clone, Copy)]
enum Step {
    /// Appends entries of this length to a stream, and closes the log.
    Close(&'static str, u64, usize),
    /// Appends entries of this length to a stream, and dies.
    Die(&'static str, u64, usize),
    /// Drops the last entries of a stream, and closes the log.
    Truncate(&'static str, u64),
    /// Drops the first entries of a stream, and dies.
    Begin(&'static str, u64),
    /// Deletes a stream, and dies.
    Delete(&'static str),
}

const HISTORIES: [&[Step]; 12] = [
    &[Step::Close("s", 30, 30), Step::Close("t", 5, 300)],
    &[Step::Die("s", 20, 30), Step::Die("t", 7, 3), Step::Die("s", 9, 300)],
    &[Step::Close("s", 30, 30), Step::Die("s", 9, 30), Step::Die("t", 4, 30), Step::Die("s", 12, 300)],
    &[
        Step::Close("s", 20, 30),
        Step::Die("s", 1, 90_000),
        Step::Die("s", 5, 30),
        Step::Die("s", 1, 90_000),
        Step::Die("s", 5, 30),
        Step::Close("t", 5, 30),
        Step::Die("t", 3, 30),
    ],
    &[
        Step::Die("s", 5, 30),
        Step::Die("s", 1, 90_000),
        Step::Die("s", 6, 30),
        Step::Die("s", 1, 80_000),
        Step::Die("s", 6, 30),
        Step::Die("t", 2, 30),
    ],
    &[Step::Die("s", 5, 70_000), Step::Die("s", 3, 30), Step::Die("t", 3, 30)],
    &[Step::Close("s", 20, 30), Step::Die("s", 25, 7000), Step::Die("t", 4, 30)],
    &[Step::Close("s", 12, 30), Step::Truncate("s", 4), Step::Die("s", 6, 30), Step::Die("t", 3, 30)],
    &[
        Step::Close("s", 20, 30),
        Step::Die("s", 9, 30),
        Step::Begin("s", 5),
        Step::Die("s", 5, 300),
        Step::Die("t", 3, 30),
    ],
    &[
        Step::Die("s", 2, 70_000),
        Step::Begin("s", 2),
        Step::Die("s", 9, 30),
        Step::Begin("s", 6),
        Step::Die("t", 3, 30),
    ],
    &[Step::Die("s", 5, 30), Step::Delete("s"), Step::Die("s", 3, 30), Step::Die("t", 3, 30)],
    &[
        Step::Close("s", 5, 30),
        Step::Delete("s"),
        Step::Die("s", 1, 90_000),
        Step::Die("s", 3, 30),
        Step::Die("t", 3, 30),
    ],
];

/// A log, and the entries of its streams.
struct Built {
    storage: SimStorage,
    truth: BTreeMap<&'static str, Entries>,
}

fn build(history: &[Step], rng: &mut Rng) -> Built {
    let mut storage = SimStorage::new(1);
    let mut truth: BTreeMap<&str, Entries> = BTreeMap::new();
    for step in history {
        let wal = open(&storage);
        match *step {
            Step::Close(name, count, len) | Step::Die(name, count, len) => {
                let stream = wal.stream(name).unwrap();
                for _ in 0..count {
                    // No two entries are the same.
                    let entry: Vec<u8> = (0..len.max(3)).map(|_| b'a' + rng.below(26) as u8).collect();
                    let seq = stream.append(&entry).unwrap();
                    truth.entry(name).or_default().insert(seq, entry);
                }
            }
            Step::Truncate(name, count) => {
                let stream = wal.stream(name).unwrap();
                let end = stream.next_seq() - count;
                stream.truncate_from(end).unwrap();
                truth.entry(name).or_default().retain(|seq, _| *seq < end);
            }
            Step::Begin(name, count) => {
                let stream = wal.stream(name).unwrap();
                let first = stream.first_seq() + count;
                stream.truncate_before(first).unwrap();
                truth.entry(name).or_default().retain(|seq, _| *seq >= first);
            }
            Step::Delete(name) => {
                wal.delete_stream(name).unwrap();
                truth.remove(name);
            }
        }
        if matches!(step, Step::Close(..) | Step::Truncate(..)) {
            wal.close().unwrap();
        }
        storage = SimStorage::on(storage.disk().crash(Crash::Kill, rng), 2);
    }
    Built { storage, truth }
}

fn files(storage: &SimStorage) -> Vec<PathBuf> {
    let list = |dir: PathBuf| storage.list(&dir).unwrap_or_default().into_iter().map(move |entry| dir.join(entry.name));
    let dirs = list(Path::new(LOG).join("streams")).chain([Path::new(LOG).join("journal")]);
    let mut files: Vec<PathBuf> = dirs.flat_map(list).collect();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "seg" || kind == "jnl"));
    files.sort();
    files
}

/// Damages one to three files. Also returns whether a file is missing, and another may have lost
/// the SEAL that names it.
fn damage(storage: &SimStorage, rng: &mut Rng) -> (String, bool) {
    let mut what = String::new();
    let count = 1 + rng.below(3);
    let mut is_missing = false;
    for _ in 0..count {
        let files = files(storage);
        if files.is_empty() {
            break;
        }
        let path = &files[rng.below(files.len() as u64) as usize];
        let file = storage.open(path, Access::ReadWrite).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |at| at + 1) as u64;
        let at = rng.below(used);
        let zeros = |at: u64, len: u64| file.write_all_at(&vec![0; len as usize], at).unwrap();
        let left = bytes.len() as u64 - at;
        let kind = rng.below(8);
        what += &format!("{} at {at} of {}; ", kind, path.display());
        match kind {
            0..=2 => file.write_all_at(&[bytes[at as usize] ^ (1 << rng.below(8))], at).unwrap(),
            3 => file.write_all_at(&[bytes[at as usize % 128] ^ 1], at % 128).unwrap(),
            4 => zeros(at, left.min(64)),
            5 => zeros(at / 512 * 512, left.min(512)),
            6 => zeros(at, left),
            _ if rng.below(2) == 0 => file.set_len(at).unwrap(),
            _ => {
                is_missing = true;
                storage.remove_file(path).unwrap();
                storage.sync_dir(path.parent().unwrap()).unwrap();
            }
        }
        file.sync_all().unwrap();
    }
    (what, is_missing && count > 1)
}

/// The bytes of all segments and files of the journal.
fn content(storage: &SimStorage) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |path: PathBuf| {
        let file = storage.open(&path, Access::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        (path, bytes)
    };
    files(storage).into_iter().map(read).collect()
}

/// That every file which a repair has changed or removed is in the quarantine as it was.
fn check_quarantine(what: &str, storage: &SimStorage, before: &BTreeMap<PathBuf, Vec<u8>>) {
    let after = content(storage);
    for (path, bytes) in before.iter().filter(|(path, bytes)| after.get(*path) != Some(bytes)) {
        let saved = storage.open(&Path::new(QUARANTINE).join(path.strip_prefix(LOG).unwrap()), Access::Read);
        let saved = saved.unwrap_or_else(|e| panic!("{what}: {} has changed: {e}", path.display()));
        let mut found = vec![0; saved.len().unwrap() as usize];
        saved.read_exact_at(&mut found, 0).unwrap();
        assert!(found == *bytes, "{what}: {}", path.display());
    }
}

/// The entries of a stream that can be read.
fn readable(storage: &SimStorage, name: &str) -> Entries {
    let Ok(items) = inspect::salvage_on(storage, Path::new(LOG), name) else { return Entries::new() };
    let entry = |item| match item {
        Ok(Salvaged::Entry(entry) | Salvaged::Uncertain(entry)) => Some((entry.seq(), entry.data().to_vec())),
        _ => None,
    };
    items.filter_map(entry).collect()
}

/// What a repair has to keep of a stream.
fn check_stream(name: &str, case: &Case<'_>, repaired: &Repaired) -> usize {
    let truth = &case.truth[name];
    let after = readable(case.storage, name);
    let finding = repaired.findings.iter().find(|(finding, _)| finding.part == Part::Stream(name.to_owned()));
    let remedy = finding.map(|(finding, _)| &finding.remedy);
    let kept = match (remedy, case.keep) {
        (Some(Remedy::Truncate { before: Some(kept), .. }), Some(Keep::Before))
        | (Some(Remedy::Truncate { after: Some(kept), .. }), Some(Keep::After))
        | (Some(Remedy::Recover { seqs: kept }), _) => Some(kept.clone()),
        _ => None,
    };
    let is_warned = case.is_unknown || matches!(remedy, Some(Remedy::Truncate { uncertain: Some(_), .. }));
    let others: Vec<u64> =
        after.iter().filter(|(seq, data)| truth.get(seq) != Some(*data)).map(|(seq, _)| *seq).collect();
    assert!(others.is_empty() || is_warned, "{}: {name} has entries {others:?} that were dropped", case.what);
    if let Some(kept) = kept {
        assert_eq!(after.keys().copied().collect::<Vec<_>>(), kept.collect::<Vec<_>>(), "{}: {name}", case.what);
        return 0;
    }
    if let Some(Remedy::Truncate { after, intact, .. }) = remedy {
        // No choice was made, or none that is possible: the next repair has the same entries.
        let again = repair::plan_on(case.storage, Path::new(LOG), Some(name)).unwrap();
        let is_same = |finding: &Finding| match &finding.remedy {
            Remedy::Truncate { after: later, intact: left, .. } => (later, left) == (after, intact),
            _ => false,
        };
        assert!(again.iter().all(is_same) && !again.is_empty(), "{}: {remedy:?}, then {again:?}", case.what);
    }
    let is_lost = |seq: &&u64| case.before[name].get(seq) == truth.get(seq) && !after.contains_key(seq);
    case.before[name].keys().filter(is_lost).count()
}

/// A damaged log before its repair.
struct Case<'a> {
    what: &'a str,
    storage: &'a SimStorage,
    truth: &'a BTreeMap<&'static str, Entries>,
    before: BTreeMap<&'static str, Entries>,
    keep: Option<Keep>,
    /// Whether no file or record may be left that shows what a truncation has dropped.
    is_unknown: bool,
}

/// Repairs a damaged log. Returns whether anything was repaired.
fn check(built: &Built, storage: &SimStorage, what: &str, keep: Option<Keep>, is_unknown: bool) -> bool {
    let before = built.truth.keys().map(|name| (*name, readable(storage, name))).collect();
    let plan = match repair::plan_on(storage, Path::new(LOG), None) {
        Ok(plan) => plan,
        Err(error) if error.kind() == ErrorKind::NewerFormat => return false,
        Err(error) => panic!("{what}: {error}"),
    };
    let files_before = content(storage);
    let options = keep.map_or_else(RepairOptions::new, |keep| RepairOptions::new().keep(keep));
    let repaired = repair::apply_on(storage, Path::new(LOG), Path::new(QUARANTINE), &options).unwrap();
    check_quarantine(what, storage, &files_before);
    let shown = |findings: Vec<&Finding>| format!("{findings:?}");
    let same = shown(plan.iter().collect()) == shown(repaired.findings.iter().map(|(finding, _)| finding).collect());
    assert!(same, "{what}: {plan:?}, then {repaired:?}");
    for (finding, done) in &repaired.findings {
        assert!(!matches!(done, Done::Failed(_)), "{what}: {finding:?}: {done:?}");
    }
    let of_journal = plan.iter().find(|finding| finding.part == Part::Journal);
    let dropped = match of_journal.map(|finding| &finding.remedy) {
        Some(Remedy::ReplaceJournal { dropped, .. }) => *dropped,
        _ => 0,
    };
    let case =
        Case { what, storage, truth: &built.truth, before, keep, is_unknown: is_unknown || of_journal.is_some() };
    let lost: usize = built.truth.keys().map(|name| check_stream(name, &case, &repaired)).sum();
    assert!(lost as u64 <= dropped, "{what}: {lost} entries are lost, and {dropped} were to be dropped: {plan:?}");
    repaired.has_quarantine
}

#[test]
fn repair_keeps_what_the_plan_states() {
    let cases = if cfg!(debug_assertions) { 120 } else { 400 };
    let mut rng = Rng::new(19);
    let built: Vec<Built> = HISTORIES.iter().map(|history| build(history, &mut rng)).collect();
    let mut repaired = 0;
    for case in 0..cases {
        let mut rng = Rng::new(1000 + case);
        let history = rng.below(built.len() as u64) as usize;
        let built = &built[history];
        let storage = SimStorage::on(built.storage.disk(), 3);
        let keep = [None, Some(Keep::Before), Some(Keep::After)][rng.below(3) as usize];
        let (damage, is_unknown) = damage(&storage, &mut rng);
        let what = format!("case {case}, history {history}, {keep:?}: {damage}");
        repaired += u64::from(check(built, &storage, &what, keep, is_unknown));
    }
    assert!(repaired > cases / 2, "{repaired} of {cases}");
}
