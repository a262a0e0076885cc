//! For each kind of damage, `cat --skip-damage` prints the entries around it, and the advice works.

mod common;

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use common::damaged::{Files, KINDS, Loss, entry};
use common::{Log, tree};
use serde_json::Value;

/// Returns the entries of `seqs` that are not lost.
fn left(seqs: Range<u64>, lost: Loss) -> Vec<u64> {
    let is_lost = |seq: u64| lost.is_some_and(|(first, last)| seq >= first && last.is_none_or(|last| seq <= last));
    seqs.filter(|&seq| !is_lost(seq)).collect()
}

fn as_text(seqs: &[u64]) -> String {
    seqs.iter().map(|&seq| entry(seq) + "\n").collect()
}

#[test]
fn skip_damage_prints_every_entry_that_is_left() {
    for (kind, damage) in KINDS {
        let stream = Files::new();
        let lost = damage(&stream);
        let before = tree(&stream.log.path());
        let left = left(0..stream.next(), lost);

        let ran = stream.cat(&["--skip-damage"]);
        assert_eq!(ran.code, i32::from(lost.is_some()), "{kind}: {}", ran.err);
        assert!(ran.text() == as_text(&left), "{kind}: other entries; {}", ran.err);
        let notes = ran.err.lines().filter(|line| line.contains(" lost"));
        assert_eq!(notes.count(), usize::from(lost.is_some()), "{kind}: {}", ran.err);
        assert!(ran.err.lines().all(|line| line.starts_with("stratawal: note: ")), "{kind}: {}", ran.err);

        let ran = stream.cat(&["--skip-damage", "--json"]);
        assert_eq!((ran.code, &ran.err[..]), (i32::from(lost.is_some()), ""), "{kind}");
        let lines: Vec<Value> = ran.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let seqs: Vec<u64> = lines.iter().filter_map(|line| line["seq"].as_u64()).collect();
        assert_eq!(seqs, left, "{kind}");
        let losses: Vec<&Value> = lines.iter().filter(|line| line.get("lost_first").is_some()).collect();
        assert_eq!(losses.len(), usize::from(lost.is_some()), "{kind}");
        if let Some((first, last)) = lost {
            assert_eq!(
                (losses[0]["lost_first"].as_u64(), losses[0]["lost_last"].as_u64()),
                (Some(first), last),
                "{kind}"
            );
            assert!(losses[0].get("segment").is_some(), "{kind}");
        }
        assert!(tree(&stream.log.path()) == before, "{kind}: reading changed the log");
    }
}

#[test]
fn skip_damage_takes_a_range_and_no_order() {
    let stream = Files::new();
    let first = stream.seqs[1].start;
    let last = stream.seqs[1].end - 1;
    stream.remove(1);
    for (from, to) in [(0, 10), (10, first), (last + 1, last + 3), (last + 1, u64::MAX)] {
        let ran = stream.cat(&["--skip-damage", "--from", &from.to_string(), "--to", &to.to_string()]);
        let seqs: Vec<u64> = (from..to.min(stream.next())).collect();
        assert_eq!((ran.code, &ran.err[..]), (0, ""), "{from}..{to}");
        assert!(ran.text() == as_text(&seqs), "{from}..{to}");
    }
    for (from, to) in [(first - 2, first + 1), (first - 2, last + 3), (first + 1, last), (last, last + 1)] {
        let ran = stream.cat(&["--skip-damage", "--from", &from.to_string(), "--to", &to.to_string()]);
        assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{from}..{to}: {}", ran.err);
        assert!(ran.text() == as_text(&left(from..to, Some((first, Some(last))))), "{from}..{to}");
    }
    for options in [&["--last", "3"][..], &["--reverse"]] {
        let ran = stream.cat(&[&["--skip-damage"], options].concat());
        assert_eq!((ran.code, ran.text(), ran.err.lines().count()), (2, "", 1), "{}", ran.err);
    }
    let missing = stream.log.run("cat", ["none", "--skip-damage", "--json"], b"");
    assert_eq!((missing.code, &missing.error()["kind"]), (3, &"missing".into()));
}

#[test]
fn entries_that_may_have_been_dropped_are_marked() {
    let stream = Files::new();
    // With the newest file gone, nothing shows whether entries of the file before it were dropped.
    stream.remove(3);
    let uncertain = stream.seqs[2].clone();
    let ran = stream.cat(&["--skip-damage"]);
    let note = format!("entries {} to {} may have been dropped", uncertain.start, uncertain.end - 1);
    assert!(ran.code == 1 && ran.err.contains(&note), "{}", ran.err);
    let ran = stream.cat(&["--skip-damage", "--json"]);
    for line in ran.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        if let Some(seq) = line["seq"].as_u64() {
            assert_eq!(line.get("uncertain").is_some(), uncertain.contains(&seq), "{seq}");
        }
    }
}

/// Returns the `N` of each `truncate --before N` in a text.
fn truncations(text: &str) -> Vec<u64> {
    let parts = text.split("`truncate --before ").skip(1);
    parts.filter_map(|part| part.split('`').next()?.parse().ok()).collect()
}

/// Creates a freshly damaged stream, to try one remedy that the advice names.
fn damaged(damage: fn(&Files) -> Loss) -> Files {
    let stream = Files::new();
    damage(&stream);
    stream
}

/// Checks that a truncation fails, names the misplaced file and changes nothing; then moves the
/// file away.
fn move_misplaced_away(kind: &str, stream: &Files, seq: u64) {
    let dir = stream.files[0].parent().unwrap();
    let before = tree(dir);
    let ran = stream.log.run("truncate", ["s", "--before", &seq.to_string(), "--yes"], b"");
    assert!(ran.code == 1 && ran.err.contains("in the wrong place"), "{kind}: {}", ran.err);
    assert!(tree(dir) == before, "{kind}: the truncation changed the stream");
    let misplaced = |path: &&PathBuf| ran.err.contains(path.file_name().unwrap().to_str().unwrap());
    let path = stream.files.iter().find(misplaced).unwrap();
    fs::rename(path, stream.log.beside("moved")).unwrap();
}

/// Checks that `salvage` saves every entry that is not lost.
fn salvage_saves_the_rest(kind: &str, stream: &Files, lost: Loss) {
    let ran = stream.log.run("salvage", ["s", "--json"], b"");
    assert_eq!(ran.code, 0, "{kind}: {}", ran.err);
    let lines = ran.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let names: Vec<String> = lines.filter_map(|line| line["stream"].as_str().map(ToOwned::to_owned)).collect();
    let saved: Vec<u8> = names.iter().flat_map(|name| stream.log.cat(name)).collect();
    assert_eq!(saved, as_text(&left(0..stream.next(), lost)).into_bytes(), "{kind}: in {names:?}");
}

/// Checks that a truncation ends the damage and loses no entry from `seq` on.
fn truncation_helps(kind: &str, stream: &Files, seq: u64) {
    let ran = stream.log.run("truncate", ["s", "--before", &seq.to_string(), "--yes"], b"");
    assert_eq!(ran.code, 0, "{kind}: truncate --before {seq}: {}", ran.err);
    let all: Vec<u64> = (seq..stream.next()).collect();
    assert_eq!(stream.log.cat("s"), as_text(&all).into_bytes(), "{kind}");
    let ran = stream.log.run("verify", ["s"], b"");
    assert_eq!(ran.code, 0, "{kind}: {}", ran.text());
    stream.log.append("s", b"new\n");
}

#[test]
fn advice_for_each_kind_of_damage_works() {
    for (kind, damage) in KINDS {
        let stream = Files::new();
        let lost = damage(&stream);
        let verified = stream.log.run("verify", ["s"], b"");
        assert_eq!(verified.code, 1, "{kind}: {}", verified.text());
        let advice: String = verified.text().lines().filter(|line| line.starts_with("  ")).collect();
        let appends = damaged(damage).log.run("append", ["s"], b"x\n");
        // Other commands give no other advice.
        for ran in [stream.cat(&[]), appends].iter().filter(|ran| ran.code != 0) {
            assert_eq!(ran.code, 1, "{kind}: {}", ran.err);
            let parts = ran.err.split("; ").filter(|part| part.contains('`') || part.contains("restore"));
            let same = parts.map(|part| advice.contains(part.trim_end())).collect::<Vec<_>>();
            assert!(same.iter().all(|&same| same), "{kind}: {} is not in {advice}", ran.err);
            assert!(!same.is_empty() || ran.err.contains("move it back"), "{kind}: {}", ran.err);
        }

        let mut helped = false;
        if advice.contains("and `append` works") {
            damaged(damage).log.append("s", b"x\n");
        }
        if let Some(&seq) = truncations(&advice).iter().max() {
            assert_eq!(Some(seq - 1), lost.and_then(|(_, last)| last), "{kind}: {advice}");
            let stream = damaged(damage);
            if advice.contains("move this one away first") {
                move_misplaced_away(kind, &stream, seq);
            }
            assert!(advice.contains("so `salvage` those first"), "{kind}: {advice}");
            salvage_saves_the_rest(kind, &stream, lost);
            truncation_helps(kind, &stream, seq);
            helped = true;
        }
        if advice.contains("`truncate --before` an entry of a later file") {
            truncation_helps(kind, &damaged(damage), stream.seqs[2].start);
            helped = true;
        }
        if advice.contains("since it is not known where the stream ended") {
            // No other remedy helps.
            for (command, place) in [
                ("append", vec![]),
                ("truncate", vec!["--before".to_owned(), stream.next().to_string(), "--yes".to_owned()]),
            ] {
                let arguments: Vec<String> = ["s".to_owned()].into_iter().chain(place).collect();
                assert_eq!(stream.log.run(command, arguments, b"x\n").code, 1, "{kind}: {command} works");
            }
            let saved = stream.cat(&["--skip-damage"]).out;
            salvage_saves_the_rest(kind, &stream, lost);
            let ran = stream.log.run("repair", ["--apply", "--keep", "before"], b"");
            assert_eq!(ran.code, 0, "{kind}: {}", ran.text());
            assert!(stream.log.cat("s") == saved, "{kind}");
            assert_eq!(stream.log.run("verify", [""; 0], b"").code, 0, "{kind}");
            helped = true;
        }
        if advice.contains("restore the files from a copy, or `delete` the stream") {
            assert_eq!(stream.cat(&["--skip-damage"]).out, b"", "{kind}: something is left");
            assert_eq!(stream.log.run("delete", ["s", "--yes"], b"").code, 0, "{kind}");
            helped = true;
        }
        // Such a message already names the directory to which the file belongs.
        assert!(helped || advice.contains("move it back"), "{kind}: {advice}");
    }
}

#[test]
fn damaged_root_is_restored_only_from_a_copy() {
    for (name, is_needed) in [("FORMAT", true), ("streams", true), ("LOCK", false)] {
        let log = Log::new();
        log.append("s", b"1\n");
        let path = log.path().join(name);
        let copy = log.beside("copy");
        fs::rename(&path, &copy).unwrap();
        for (command, arguments) in
            [("cat", vec!["s"]), ("verify", vec![]), ("streams", vec![]), ("cat", vec!["s", "--skip-damage"])]
        {
            let ran = log.run(command, arguments, b"");
            assert_eq!(ran.code, i32::from(is_needed), "{name} {command}: {}", ran.err);
            let stated = [path.to_str().unwrap(), "restore ", " from a copy"].iter().all(|part| ran.err.contains(part));
            assert_eq!(stated, is_needed, "{name} {command}: {}", ran.err);
        }
        let ran = log.run("append", ["s"], b"2\n");
        assert_eq!(ran.code, i32::from(is_needed), "{name}: {}", ran.err);
        if is_needed {
            fs::rename(&copy, &path).unwrap();
            log.append("s", b"2\n");
        }
        assert_eq!(log.cat("s"), b"1\n2\n", "{name}");
    }
}
