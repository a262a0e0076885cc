//! `inspect` shows files, frames and records, and where they are damaged.

mod common;

use std::fs;

use common::damaged::{Files, KINDS};
use common::{Log, Ran, tree};
use serde_json::Value;
use stratawal::{Durability, Options};

fn inspect(log: &Log, arguments: &[&str]) -> Ran {
    log.run("inspect", arguments, b"")
}

fn lines(ran: &Ran) -> Vec<Value> {
    ran.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn segments_have_their_entries_and_states() {
    let stream = Files::new();
    let before = tree(&stream.log.path());
    let ran = inspect(&stream.log, &["s", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let found = lines(&ran);
    let shown: Vec<_> =
        found.iter().map(|line| (line["first"].as_u64().unwrap(), line["next"].as_u64().unwrap())).collect();
    let expected: Vec<_> = stream.seqs.iter().map(|seqs| (seqs.start, seqs.end)).collect();
    assert_eq!(shown, expected);
    let states: Vec<&str> = found.iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["sealed", "sealed", "sealed", "closed"]);
    for (line, file) in found.iter().zip(&stream.files) {
        assert_eq!(line["bytes"], fs::metadata(file).unwrap().len());
        assert_eq!(line["segment"], file.file_name().unwrap().to_str().unwrap());
    }
    let ran = inspect(&stream.log, &["s"]);
    assert!(ran.text().lines().count() == 9 && ran.text().starts_with("SEGMENT"), "{}", ran.text());
    let ran = inspect(&stream.log, &[]);
    assert!(ran.text().ends_with("  ###|\n"), "{}", ran.text());
    assert!(tree(&stream.log.path()) == before);
}

#[test]
fn frames_cover_the_file_and_show_the_damage() {
    let stream = Files::new();
    let name = stream.files[1].file_name().unwrap().to_str().unwrap().to_owned();
    let sound = lines(&inspect(&stream.log, &["s", &name, "--json"]));
    let entries: u64 = sound.iter().map(|frame| frame["count"].as_u64().unwrap()).sum();
    assert_eq!(entries, stream.seqs[1].end - stream.seqs[1].start);
    assert_eq!(sound[0]["offset"], 128);
    for pair in sound.windows(2) {
        assert_eq!(pair[0]["offset"].as_u64().unwrap() + pair[0]["bytes"].as_u64().unwrap(), pair[1]["offset"]);
    }
    assert_eq!(sound.last().unwrap()["kind"], "seal");
    let ran = inspect(&stream.log, &["s", &name]);
    assert!(ran.code == 0 && ran.text().contains(" header\n") && ran.text().ends_with(" trailer\n"), "{ran:?}");
    assert!(ran.text().contains("index of "), "{}", ran.text());

    stream.damage(1, |bytes| bytes[5000] ^= 1);
    let ran = inspect(&stream.log, &["s", &name, "--json"]);
    let invalid: Vec<Value> = lines(&ran).into_iter().filter(|frame| frame["valid"] == false).collect();
    assert_eq!((ran.code, invalid.len()), (1, 1), "{ran:?}");
    assert_eq!(invalid[0]["first"], stream.seqs[1].start + 4);
    let ran = inspect(&stream.log, &["s", &name]);
    assert_eq!(ran.text().matches("  DAMAGED\n").count(), 1, "{}", ran.text());
    // A damaged header of a frame leaves bytes that are not a frame.
    let at = invalid[0]["offset"].as_u64().unwrap() as usize;
    stream.damage(1, |bytes| bytes[at + 4] ^= 1);
    let ran = inspect(&stream.log, &["s", &name]);
    assert!(ran.text().contains(" not a frame\n"), "{}", ran.text());
}

#[test]
fn damaged_files_are_marked() {
    for (kind, damage) in KINDS {
        let stream = Files::new();
        damage(&stream);
        let ran = inspect(&stream.log, &[]);
        let json = inspect(&stream.log, &["--json"]);
        let found = lines(&json);
        let marked = found.iter().filter(|line| line["state"] == "damaged").count();
        assert_eq!(ran.text().matches('x').count(), marked, "{kind}: {}", ran.text());
        assert_eq!(ran.code, i32::from(marked > 0), "{kind}");
        let is_seen = kind.starts_with("a bit") || kind.starts_with("the header") || kind.contains("a directory");
        assert!(!is_seen || marked == 1, "{kind}: {}", ran.text());
        assert!(found.iter().all(|line| (line["state"] == "damaged") == line["message"].is_string()), "{kind}");
    }
}

#[test]
fn damage_to_dropped_entries_is_not_shown() {
    let stream = Files::new();
    stream.damage(1, |bytes| bytes[5000] ^= 1);
    assert_eq!(inspect(&stream.log, &["s"]).code, 1);
    let seq = (stream.seqs[1].start + 5).to_string();
    assert_eq!(stream.log.run("truncate", ["s", "--before", &seq, "--yes"], b"").code, 0);
    let ran = inspect(&stream.log, &["s", "--json"]);
    assert_eq!((ran.code, &lines(&ran)[0]["state"]), (0, &"sealed".into()), "{ran:?}");
    assert_eq!(lines(&ran)[0]["next"], stream.seqs[1].end);
}

#[test]
fn records_of_a_stream_in_files_have_its_name() {
    let log = Log::new();
    log.append("s", b"one\n");
    let wal = Options::new().maintenance_thread(false).open(log.path()).unwrap();
    wal.stream("s").unwrap().with_durability(Durability::Synced).append("two").unwrap();
    let found = lines(&inspect(&log, &["--json"]));
    let data = found.iter().find(|line| line["kind"] == "data").unwrap();
    assert_eq!(data["streams"], serde_json::json!([{"stream": "s", "first": 1, "next": 2}]));
    wal.close().unwrap();
}

#[test]
fn journal_records_name_their_streams() {
    let log = Log::new();
    let wal = Options::new().maintenance_thread(false).open(log.path()).unwrap();
    let stream = wal.stream("a b").unwrap().with_durability(Durability::Synced);
    stream.append("one").unwrap();
    stream.append("two").unwrap();
    let found = lines(&inspect(&log, &["--json"]));
    let data: Vec<&Value> = found.iter().filter(|line| line["kind"] == "data").collect();
    assert_eq!(data.len(), 2, "{found:?}");
    assert_eq!(data[1]["streams"], serde_json::json!([{"stream": "a b", "first": 1, "next": 2}]));
    let ran = inspect(&log, &[]);
    assert!(ran.text().contains("  'a b' entry 1\n"), "{}", ran.text());
    wal.close().unwrap();
}

#[test]
fn picture_has_a_file_for_each_segment() {
    let stream = Files::new();
    stream.damage(1, |bytes| bytes[5000] ^= 1);
    let path = stream.log.beside("log.svg");
    let ran = inspect(&stream.log, &["--svg", path.to_str().unwrap()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let svg = fs::read_to_string(&path).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<title>").count(), 4);
    assert!(svg.contains(": damaged, ") && svg.contains(", from 20"), "{svg}");
    // An existing file is not replaced.
    let ran = inspect(&stream.log, &["--svg", path.to_str().unwrap(), "--json"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), svg);
}

#[test]
fn unknown_names_are_errors() {
    let stream = Files::new();
    for arguments in [&["none", "--json"][..], &["s", "none.seg", "--json"]] {
        let ran = inspect(&stream.log, arguments);
        assert_eq!((ran.code, &ran.error()["kind"]), (3, &"missing".into()), "{ran:?}");
        let ran = inspect(&stream.log, &arguments[..arguments.len() - 1]);
        assert_eq!((ran.code, ran.text()), (3, ""), "{ran:?}");
    }
}

#[test]
fn file_without_frames_has_its_header() {
    let stream = Files::new();
    stream.damage(3, |bytes| bytes.truncate(128));
    let name = stream.files[3].file_name().unwrap().to_str().unwrap();
    let ran = inspect(&stream.log, &["s", name]);
    assert_eq!(ran.text().lines().next(), Some("         0        128 header"), "{ran:?}");
}

#[test]
fn damage_to_dropped_entries_is_none() {
    let stream = Files::new();
    stream.damage(0, |bytes| bytes[5000] ^= 1);
    stream.damage(1, |bytes| bytes[5000] ^= 1);
    let files: Vec<_> = stream.files.iter().map(|file| fs::read(file).unwrap()).collect();
    let bound = stream.seqs[2].start.to_string();
    assert_eq!(stream.log.run("truncate", ["s", "--before", &bound, "--yes"], b"").code, 0);
    // A crash before the files are removed leaves them.
    (0..2).for_each(|i| fs::write(&stream.files[i], &files[i]).unwrap());
    let verified = stream.log.run("verify", [""; 0], b"");
    assert_eq!(verified.code, 0, "{}", verified.text());
    let ran = inspect(&stream.log, &["s"]);
    assert_eq!(ran.code, 0, "{}", ran.text());
}
