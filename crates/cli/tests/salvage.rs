//! `salvage` copies the intact entries of a damaged stream, and changes nothing else.

mod common;

use std::ops::Range;
use std::path::PathBuf;

use common::damaged::{Files, KINDS, Loss, entry};
use common::{Log, Ran, tree};
use serde_json::Value;
use stratawal::{Batch, Options};

fn salvage(log: &Log, arguments: &[&str]) -> Ran {
    log.run("salvage", [&["s"], arguments].concat(), b"")
}

/// The lines of `--json` with this field.
fn lines_with(ran: &Ran, field: &str) -> Vec<Value> {
    let lines = ran.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line.get(field).is_some()).collect()
}

/// The directory of the damaged stream, with everything in it.
fn damaged_stream(log: &Log) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    tree(&log.path().join("streams/s"))
}

fn as_text(seqs: Range<u64>) -> Vec<u8> {
    seqs.map(|seq| entry(seq) + "\n").collect::<String>().into_bytes()
}

/// The runs of entries that damage leaves.
fn runs(next: u64, lost: Loss) -> Vec<Range<u64>> {
    let Some((first, last)) = lost else { return Vec::new() };
    let after = last.map_or(next, |last| last + 1);
    [0..first, after..next].into_iter().filter(|run| !run.is_empty()).collect()
}

#[test]
fn each_run_becomes_a_stream_with_its_seqs() {
    for (kind, damage) in KINDS {
        let stream = Files::new();
        let lost = damage(&stream);
        let expected = runs(stream.next(), lost);
        let before = damaged_stream(&stream.log);
        let ran = salvage(&stream.log, &["--json"]);
        assert!(damaged_stream(&stream.log) == before, "{kind}: the damaged stream was changed");
        let copied = lines_with(&ran, "stream");
        let is_all_lost = lost.is_some() && expected.is_empty();
        assert_eq!(ran.code, i32::from(is_all_lost), "{kind}: {ran:?}");
        // Uncertain entries have runs of their own.
        let mut next = expected.first().map_or(0, |run| run.start);
        for line in &copied {
            let first = line["first"].as_u64().unwrap();
            let last = line["last"].as_u64().unwrap();
            let name = format!("s.salvaged-{first}");
            assert_eq!((&line["stream"], &line["from_first"]), (&name.as_str().into(), &line["first"]), "{kind}");
            assert!(first == next || expected.iter().any(|run| run.start == first), "{kind}: {ran:?}");
            assert_eq!(stream.log.cat(&name), as_text(first..last + 1), "{kind}");
            next = last + 1;
        }
        let entries: u64 = copied.iter().map(|line| line["entries"].as_u64().unwrap()).sum();
        assert_eq!(entries, expected.iter().map(|run| run.end - run.start).sum::<u64>(), "{kind}");
        assert_eq!(lines_with(&ran, "lost_first").len(), usize::from(lost.is_some()), "{kind}");
        assert_eq!(ran.json()["entries"], entries, "{kind}");
    }
}

#[test]
fn repeating_a_salvage_changes_nothing() {
    let stream = Files::new();
    stream.remove(1);
    let first = salvage(&stream.log, &[]);
    assert_eq!(first.code, 0, "{first:?}");
    let before = tree(&stream.log.path().join("streams"));
    let again = salvage(&stream.log, &[]);
    assert_eq!((again.code, again.text()), (0, first.text()), "{again:?}");
    assert!(tree(&stream.log.path().join("streams")) == before);
    let line = format!("entries 0 to {} (", stream.seqs[0].end - 1);
    assert!(first.text().starts_with(&line) && first.text().contains(") -> s.salvaged-0\n"), "{}", first.text());
}

#[test]
fn an_interrupted_salvage_continues() {
    let stream = Files::new();
    stream.remove(0);
    let first = stream.seqs[1].start;
    let name = format!("s.salvaged-{first}");
    // What a crash leaves: the stream begins at its seq, and has some of the entries.
    let wal = Options::new().open(stream.log.path()).unwrap();
    wal.truncate_before(&name, first).unwrap();
    wal.stream(&name).unwrap().append(entry(first)).unwrap();
    wal.close().unwrap();
    let ran = salvage(&stream.log, &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(stream.log.cat(&name), as_text(first..stream.next()));
}

#[test]
fn a_stream_with_other_entries_is_never_overwritten() {
    let stream = Files::new();
    stream.remove(1);
    for (name, content) in [("s.salvaged-0", "other\n".to_owned()), ("mine", "other\n".to_owned())] {
        stream.log.append(name, content.as_bytes());
    }
    for arguments in [&["--json"][..], &["--json", "--into", "mine"]] {
        let ran = salvage(&stream.log, arguments);
        assert_eq!((ran.code, &ran.error()["kind"]), (3, &"exists".into()), "{ran:?}");
    }
    // One with more entries than the run is not a copy of it either.
    let longer = Files::new();
    longer.remove(1);
    assert_eq!(salvage(&longer.log, &[]).code, 0);
    longer.log.append("s.salvaged-0", b"more\n");
    let ran = salvage(&longer.log, &["--json"]);
    assert_eq!((ran.code, &ran.error()["kind"]), (3, &"exists".into()), "{ran:?}");
    assert_eq!(stream.log.cat("mine"), b"other\n");
    assert_eq!(stream.log.cat("s.salvaged-0"), b"other\n");
    let ran = salvage(&stream.log, &["--json", "--into", "s"]);
    assert_eq!((ran.code, &ran.error()["kind"]), (2, &"usage".into()), "{ran:?}");
}

/// Which stream it is, the first entries do not show.
#[test]
fn into_a_stream_with_the_first_entries_is_refused() {
    let stream = Files::new();
    stream.remove(1);
    stream.log.append("mine", &as_text(0..2));
    assert_eq!(salvage(&stream.log, &[]).code, 0);
    let before = tree(&stream.log.path().join("streams"));
    for name in ["mine", "s.salvaged-0"] {
        let ran = salvage(&stream.log, &["--json", "--into", name]);
        assert_eq!((ran.code, &ran.error()["kind"]), (3, &"exists".into()), "{name}: {ran:?}");
        assert!(tree(&stream.log.path().join("streams")) == before, "{name}");
    }
}

#[test]
fn into_one_stream_renumbers_and_prints_the_mapping() {
    let stream = Files::new();
    stream.remove(1);
    let lost = stream.seqs[1].clone();
    let ran = salvage(&stream.log, &["--into", "saved", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let mapped = lines_with(&ran, "stream");
    let fields = |line: &Value| ["from_first", "from_last", "first", "last"].map(|field| line[field].as_u64().unwrap());
    assert_eq!(fields(&mapped[0]), [0, lost.start - 1, 0, lost.start - 1]);
    let shift = lost.end - lost.start;
    assert_eq!(fields(&mapped[1]), [lost.end, stream.next() - 1, lost.start, stream.next() - 1 - shift]);
    assert_eq!(mapped.len(), 2);
    let saved = [as_text(0..lost.start), as_text(lost.end..stream.next())].concat();
    assert!(stream.log.cat("saved") == saved);
    assert_eq!(salvage(&stream.log, &["--into", "saved"]).code, 0, "it is there already");
    assert!(stream.log.cat("saved") == saved);
}

#[test]
fn batches_stay_whole() {
    let log = Log::new();
    let wal = Options::new().journal(false).open(log.path()).unwrap();
    let batch: Batch = ["one", "two", "three"].into_iter().collect();
    wal.stream("s").unwrap().append_batch(&batch).unwrap();
    wal.stream("s").unwrap().append("damaged").unwrap();
    wal.stream("s").unwrap().append("end").unwrap();
    wal.close().unwrap();
    let file = log.segments("s").remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(7).position(|found| found == b"damaged").unwrap();
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
    assert_eq!(salvage(&log, &[]).code, 0);
    let wal = Options::new().open_read_only(log.path()).unwrap();
    let copy = wal.stream("s.salvaged-0").unwrap();
    let ends: Vec<bool> = copy.iter(..).map(|entry| entry.unwrap().ends_batch()).collect();
    assert_eq!(ends, [false, false, true]);
    assert_eq!(log.cat("s.salvaged-4"), b"end\n");
}

#[test]
fn a_dry_run_or_a_sound_stream_changes_nothing() {
    let stream = Files::new();
    let before = tree(&stream.log.path());
    let ran = salvage(&stream.log, &[]);
    assert!(ran.code == 0 && ran.err.contains("nothing to salvage"), "{ran:?}");
    let ran = salvage(&stream.log, &["--json"]);
    assert_eq!((ran.code, &ran.json()["runs"]), (0, &0.into()), "{ran:?}");
    assert!(tree(&stream.log.path()) == before, "a sound stream");

    stream.remove(1);
    let before = tree(&stream.log.path());
    let ran = salvage(&stream.log, &["--dry-run", "--json"]);
    assert_eq!((ran.code, &ran.json()["runs"], &ran.json()["dry_run"]), (0, &2.into(), &true.into()), "{ran:?}");
    let ran = salvage(&stream.log, &["--dry-run"]);
    assert!(ran.text().contains("nothing was copied"), "{ran:?}");
    assert!(tree(&stream.log.path()) == before, "a dry run");
    let missing = stream.log.run("salvage", ["none", "--json"], b"");
    assert_eq!((missing.code, &missing.error()["kind"]), (3, &"missing".into()));
}

/// The entries of the damaged stream that are in the journal stay there, and are copied.
#[test]
fn entries_in_the_journal_are_copied() {
    let stream = Files::new();
    let wal = Options::new().maintenance_thread(false).open(stream.log.path()).unwrap();
    wal.stream("s").unwrap().append("in the journal").unwrap();
    std::mem::forget(wal);
    stream.remove(1);
    let before = damaged_stream(&stream.log);
    // The forgotten handle holds the lock of this process, so the copy is another log.
    let log = Log::new();
    for (path, bytes) in tree(&stream.log.path()) {
        let to = log.path().join(path.strip_prefix(stream.log.path()).unwrap());
        if path.is_dir() {
            std::fs::create_dir_all(to).unwrap()
        } else {
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, bytes).unwrap();
        }
    }
    assert_eq!(log.run("repair", ["--adopt-copy"], b"").code, 0);
    let ran = salvage(&log, &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let name = format!("s.salvaged-{}", stream.seqs[2].start);
    let expected = [as_text(stream.seqs[2].start..stream.next()), b"in the journal\n".to_vec()].concat();
    assert!(log.cat(&name) == expected);
    let after = damaged_stream(&log);
    assert!(before.values().eq(after.values()), "the damaged stream was changed");
}

/// All files of the stream are gone, but not all of its entries.
#[test]
fn entries_in_the_journal_outlive_all_files() {
    let stream = Files::new();
    let next = stream.next();
    let wal = Options::new().maintenance_thread(false).open(stream.log.path()).unwrap();
    wal.stream("s").unwrap().append("in the journal").unwrap();
    std::mem::forget(wal);
    (0..4).for_each(|segment| stream.remove(segment));
    let ran = salvage(&stream.log, &["--dry-run", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let runs = lines_with(&ran, "stream");
    assert_eq!((runs.len(), &runs[0]["first"], &runs[0]["last"]), (1, &next.into(), &next.into()), "{ran:?}");
    let cat = stream.cat(&["--skip-damage"]);
    assert_eq!((cat.code, cat.text()), (1, "in the journal\n"), "{cat:?}");
    let delete = stream.log.run("delete", ["s", "--dry-run"], b"");
    assert!(delete.text().contains("  1 entry, 14 B, "), "{delete:?}");
    let verified = stream.log.run("verify", [""; 0], b"");
    assert!(verified.text().contains("prints the entries that the journal still has"), "{verified:?}");
    let repair = stream.log.run("repair", [""; 0], b"");
    let kept = format!("--keep after: entry {next} ");
    assert!(repair.text().contains(&kept), "{repair:?}");
}
