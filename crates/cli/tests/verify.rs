//! `verify` reads streams and segments in several threads, and puts its findings in words.

mod common;

use std::fs;

use common::Log;
use common::damaged::{Files, KINDS, flip, flip_header};
use serde_json::Value;
use stratawal::{Options, StreamOptions};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn message_in_json_is_that_of_the_text() {
    for (kind, damage) in KINDS {
        let stream = Files::new();
        damage(&stream);
        let text = stream.log.run("verify", [""; 0], b"");
        let json = stream.log.run("verify", ["--json"], b"");
        assert_eq!((text.code, json.code), (1, 1), "{kind}");
        let found = lines(json.text()).remove(0)["damage"].clone();
        let messages: Vec<&str> =
            found.as_array().unwrap().iter().map(|damage| damage["message"].as_str().unwrap()).collect();
        let printed: Vec<&str> = text.text().lines().filter_map(|line| line.strip_prefix("  ")).collect();
        assert!(!messages.is_empty() && messages == printed, "{kind}: {messages:?}, {printed:?}");
    }
}

#[test]
fn findings_come_in_the_order_of_streams_and_files() {
    const STREAMS: usize = 20;
    let log = Log::new();
    let wal = Options::new().journal(false).open(log.path()).unwrap();
    let name = |i: usize| format!("stream-{i:02}");
    let small = StreamOptions::new().segment_bytes(64 << 10);
    for i in 0..STREAMS {
        let stream = wal.stream_with(&name(i), small.clone()).unwrap();
        for _ in 0..if i == 7 { 1000 } else { 20 } {
            stream.append(vec![b'x'; 1000]).unwrap();
        }
    }
    wal.close().unwrap();
    let files = log.segments(&name(7));
    assert!(files.len() > 10);
    for file in &files {
        let mut bytes = fs::read(file).unwrap();
        bytes[5000] ^= 1;
        fs::write(file, bytes).unwrap();
    }
    let ran = log.run("verify", ["--json"], b"");
    assert_eq!(ran.code, 1, "{}", ran.err);
    let found = lines(ran.text());
    let names: Vec<&str> = found.iter().filter_map(|line| line["stream"].as_str()).collect();
    assert_eq!(names, (0..STREAMS).map(name).collect::<Vec<_>>());
    let damaged: Vec<&str> =
        found[7]["damage"].as_array().unwrap().iter().map(|damage| damage["segment"].as_str().unwrap()).collect();
    let expected: Vec<&str> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(damaged, expected);
    assert!((0..STREAMS).all(|i| (found[i]["state"] == "damaged") == (i == 7)));
}

#[test]
fn totals_count_entries_bytes_and_the_journal() {
    let log = Log::new();
    log.append("a", b"one\ntwo\n");
    log.append("b", b"three\n");
    let ran = log.run("verify", ["--json"], b"");
    let totals = ran.json();
    assert_eq!(
        (ran.code, &totals["streams"], &totals["entries"], &totals["journal"]),
        (0, &2.into(), &3.into(), &"sound".into())
    );
    let segments = ["a", "b"].iter().flat_map(|name| log.segments(name));
    let journal = fs::read_dir(log.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let journal = journal.filter(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    let bytes: u64 = segments.chain(journal).map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(totals["bytes"], bytes);
    let text = log.run("verify", [""; 0], b"");
    assert!(
        text.text().contains("0 damaged, journal sound; ") && text.text().contains("3 entries, "),
        "{}",
        text.text()
    );

    let without = Files::new();
    let totals = without.log.run("verify", ["--json"], b"").json();
    assert_eq!((&totals["journal"], &totals["entries"]), (&Value::Null, &without.next().into()));
}

#[test]
fn damaged_journal_is_in_the_totals_and_in_words() {
    let log = Log::new();
    log.append("a", b"one\n");
    let journal = fs::read_dir(log.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let file = journal.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).max().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 1;
    fs::write(&file, bytes).unwrap();
    let ran = log.run("verify", ["--json"], b"");
    assert_eq!((ran.code, &ran.json()["journal"]), (1, &"damaged".into()), "{ran:?}");
    let found = lines(ran.text());
    let journal = found.iter().find(|line| line.get("records").is_some()).unwrap();
    let message = journal["message"].as_str().unwrap();
    let text = log.run("verify", [""; 0], b"");
    assert!(text.text().contains(&format!("\n  {message}\n")), "{}", text.text());
}

#[test]
fn entries_are_those_that_were_read() {
    let stream = Files::new();
    // Two entries of one file, which is one finding, and one of another.
    flip(&stream, 1);
    stream.damage(1, |bytes| bytes[9000] ^= 1);
    flip(&stream, 3);
    let ran = stream.log.run("verify", ["--json"], b"");
    let found = lines(ran.text());
    assert_eq!((ran.code, found[0]["damage"].as_array().unwrap().len()), (1, 2), "{}", ran.text());
    assert_eq!(
        (&found[0]["entries"], &found[1]["entries"]),
        (&(stream.next() - 3).into(), &(stream.next() - 3).into())
    );

    // The stream does not open now.
    flip_header(&stream, 2);
    let left = stream.next() - 3 - (stream.seqs[2].end - stream.seqs[2].start);
    let ran = stream.log.run("verify", ["--json"], b"");
    let found = lines(ran.text());
    let damage = found[0]["damage"].as_array().unwrap();
    let kinds: Vec<&str> = damage.iter().map(|damage| damage["kind"].as_str().unwrap()).collect();
    assert_eq!((kinds, &found[0]["next"]), (vec!["frame", "header", "frame"], &Value::Null), "{}", ran.text());
    assert_eq!((&found[0]["entries"], &found[1]["entries"]), (&left.into(), &left.into()));
    let ran = stream.log.run("verify", ["s"], b"");
    assert!(ran.text().starts_with(&format!("s: damaged, {left} entries can be read, 4 segments\n")), "{}", ran.text());
}

/// A truncation that leaves damage in the newest file would be refused.
#[test]
fn advice_for_several_damaged_files_works() {
    for in_newest in [false, true] {
        let stream = Files::new();
        stream.damage(0, |bytes| *bytes.iter_mut().rev().nth(9).unwrap() ^= 1);
        flip_header(&stream, 1);
        let last = if in_newest { 3 } else { 2 };
        let end = flip(&stream, last).unwrap().0 + 1;
        for name in ["verify", "repair"] {
            let ran = stream.log.run(name, ["s"], b"");
            let found: Vec<&str> =
                ran.text().lines().filter(|line| line.starts_with("  stream s: damaged: ")).collect();
            assert_eq!((ran.code, found.len()), (1, 3), "{}", ran.text());
            assert!(found[0].ends_with("; no entry is lost by this"), "{name}: {}", found[0]);
            assert!(found[1].ends_with("; `cat --skip-damage` prints the other entries"), "{name}: {}", found[1]);
            let drop =
                format!("`truncate --before {end}` drops it and every entry before it, so `salvage` those first");
            assert!(found[2].contains(&drop), "{name}: {}", found[2]);
            let json = stream.log.run(name, ["s", "--json"], b"");
            let damage = lines(json.text())[0]["damage"].clone();
            let messages = damage.as_array().unwrap().iter().map(|damage| damage["message"].as_str().unwrap());
            assert_eq!(
                messages.collect::<Vec<_>>(),
                found.iter().map(|line| line.trim()).collect::<Vec<_>>(),
                "{name}"
            );
        }
        let ran = stream.log.run("truncate", ["s", "--before", &end.to_string(), "--yes"], b"");
        assert_eq!(ran.code, 0, "{}", ran.err);
        stream.log.append("s", b"new\n");
        assert_eq!(stream.log.run("verify", [""; 0], b"").code, 0);
    }
}

#[test]
fn advice_for_a_stream_with_nothing_left_works() {
    let log = Log::new();
    log.append("s", b"one\ntwo\n");
    log.append("other", b"three\n");
    let file = log.segments("s").pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[20] ^= 1;
    fs::write(&file, bytes).unwrap();
    let ran = log.run("verify", ["s"], b"");
    let advice = "; no entry of the stream can be read; restore the files from a copy, or `delete` the stream\n";
    assert!(ran.code == 1 && ran.text().contains(advice), "{}", ran.text());
    assert!(!ran.text().contains("`cat") && !ran.text().contains("`repair"), "{}", ran.text());
    let json = log.run("verify", ["s", "--json"], b"");
    let message = lines(json.text())[0]["damage"][0]["message"].as_str().unwrap().to_owned();
    assert!(ran.text().contains(&message) && message.ends_with(advice.trim_end()), "{message}");

    // Other commands do not read the whole stream, and name this as the last way.
    for name in ["cat", "repair", "salvage"] {
        let ran = log.run(name, ["s"], b"");
        assert!(ran.code == 1 && (ran.err + &String::from_utf8_lossy(&ran.out)).contains("or `delete` the stream"));
    }
    let shown = log.run("delete", ["s", "--dry-run"], b"");
    assert!(shown.text().starts_with("stream s: delete would drop entries that cannot be read\n"), "{}", shown.text());
    assert_eq!(log.run("delete", ["s", "--yes"], b"").code, 0);
    assert_eq!(log.run("verify", [""; 0], b"").code, 0);
}

/// Damage to a SEAL loses no entry, and needs no repair.
#[test]
fn advice_for_a_damaged_seal_is_to_do_nothing() {
    let stream = Files::new();
    stream.damage(0, |bytes| *bytes.iter_mut().rev().nth(9).unwrap() ^= 1);
    let verified = stream.log.run("verify", ["s"], b"");
    assert!(verified.code == 1 && verified.text().contains("so nothing has to be done"), "{}", verified.text());
    let repair = stream.log.run("repair", ["s"], b"");
    assert!(
        repair.code == 1 && repair.text().contains("\n  no repair: nothing has to be done; see above\n"),
        "{repair:?}"
    );
    stream.log.append("s", b"new\n");
    assert_eq!(stream.cat(&["--to", "1"]).code, 0);
}
