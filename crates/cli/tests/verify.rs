//! `verify` reads streams and segments in several threads, and puts its findings in words.

mod common;

use std::fs;

use common::Log;
use common::damaged::{Files, KINDS};
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
