//! Entries are printed as they were appended: bytes, batches, ranges, JSON.

mod common;

use std::io::Write;

use common::{Log, Ran};

/// Returns lines of every awkward kind, about `len` bytes in total, without a newline at the end.
fn nasty(len: usize) -> Vec<u8> {
    let lines: [&[u8]; 8] =
        [b"plain", b"", b"with\rreturns\r", b"nul \0 within", b"\xff\xfe not UTF-8", "日本 🦀".as_bytes(), b"\0", b" "];
    let mut text = Vec::new();
    let mut i = 0_usize;
    while text.len() < len {
        text.extend_from_slice(lines[i * 7 % lines.len()]);
        text.extend_from_slice(i.to_string().as_bytes());
        if i.is_multiple_of(500) {
            text.extend(std::iter::repeat_n(b'x', 20_000));
        }
        text.push(b'\n');
        i += 1;
    }
    text.extend_from_slice(b"the end");
    text
}

fn with_newline(mut text: Vec<u8>) -> Vec<u8> {
    text.push(b'\n');
    text
}

#[test]
fn every_byte_but_the_final_newline_is_kept() {
    let text = nasty(1 << 20);
    for options in [
        &["s"][..],
        &["s", "--batch", "1000"],
        &["s", "--durability", "flushed", "--batch", "3"],
        &["s", "--durability", "buffered"],
    ] {
        let log = Log::new();
        let ran = log.run("append", options, &text);
        assert_eq!((ran.code, &ran.out[..]), (0, &b""[..]), "{}", ran.err);
        assert_eq!(log.cat("s"), with_newline(text.clone()), "{options:?}");
    }
}

#[test]
fn last_line_needs_no_newline() {
    let log = Log::new();
    let ran = log.append("s", b"");
    assert_eq!(log.run("cat", ["s"], b"").code, 3, "empty input appends nothing, so there is no stream");
    assert!(ran.err.contains("nothing to append, so stream s does not exist yet"), "{}", ran.err);
    log.append("s", b"a\n");
    let ran = log.append("s", b"");
    assert!(ran.err.contains("nothing to append, ") && !ran.err.contains("exist"), "{}", ran.err);
    log.append("s", b"\n");
    log.append("s", b"b");
    log.append("s", b"\n\n");
    assert_eq!(log.cat("s"), b"a\n\nb\n\n\n");
}

#[test]
fn input_files_are_read_in_order_and_dash_is_stdin() {
    let log = Log::new();
    let one = log.beside("one");
    let two = log.beside("two");
    std::fs::write(&one, b"1\nno newline").unwrap();
    std::fs::write(&two, b"2\n").unwrap();
    let ran = log.run("append", ["s".as_ref(), one.as_os_str(), "-".as_ref(), two.as_os_str()], b"in\n");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(log.cat("s"), b"1\nno newline\nin\n2\n");
}

#[test]
fn acknowledgements_rise_and_the_summary_adds_up() {
    let log = Log::new();
    let ran = log.run("append", ["s", "--batch", "3", "--ack"], b"a\nb\nc\nd\ne\n");
    assert_eq!(ran.text(), "2\n4\n");
    assert!(ran.err.contains("5 entries"), "{}", ran.err);
    let ran = log.run("append", ["s", "--batch", "2", "--ack", "--json"], b"f\ng\nh\n");
    let lines: Vec<&str> = ran.text().lines().collect();
    assert_eq!(lines[..2], [r#"{"first":5,"last":6}"#, r#"{"first":7,"last":7}"#]);
    let summary = ran.json();
    assert_eq!((&summary["stream"], &summary["entries"], &summary["bytes"]), (&"s".into(), &3.into(), &3.into()));
    assert_eq!((&summary["first"], &summary["last"]), (&5.into(), &7.into()));
    assert!(summary["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0));
    let none = log.run("append", ["s", "--json"], b"").json();
    assert_eq!((&none["entries"], &none["first"], &none["last"]), (&0.into(), &().into(), &().into()));
}

#[test]
fn cat_prints_ranges_in_both_directions() {
    let log = Log::new();
    let text: String = (0..20).map(|i| format!("{i}\n")).collect();
    log.append("s", text.as_bytes());
    let cat = |options: &[&str]| -> Ran { log.run("cat", [&["s"], options].concat(), b"") };
    let numbers = |options: &[&str]| -> Vec<u64> { cat(options).text().lines().map(|l| l.parse().unwrap()).collect() };
    assert_eq!(numbers(&["--from", "17"]), [17, 18, 19]);
    assert_eq!(numbers(&["--to", "2"]), [0, 1]);
    assert_eq!(numbers(&["--from", "5", "--to", "8", "--last", "2"]), [6, 7]);
    assert_eq!(numbers(&["--from", "5", "--to", "8", "--last", "2", "--reverse"]), [7, 6]);
    assert_eq!(numbers(&["--last", "100"]).len(), 20);
    assert_eq!(numbers(&["--from", "30"]), [0; 0]);
    assert_eq!(log.run("truncate", ["s", "--before", "10", "--yes"], b"").code, 0);
    let below = cat(&["--from", "3", "--to", "12"]);
    assert_eq!((below.text(), below.code), ("10\n11\n", 0));
    assert!(below.err.contains("10"), "it says where it starts: {:?}", below.err);
    assert_eq!(log.run("truncate", ["s", "--from", "10", "--yes"], b"").code, 0);
    let empty = cat(&[]);
    assert_eq!((empty.text(), empty.code), ("", 0), "a stream that is empty is no error");
}

#[test]
fn json_entries_are_text_or_base64() {
    let log = Log::new();
    log.append("s", b"quote \" and \\ and \xe6\x97\xa5\n\xff\xfe\n");
    let ran = log.run("cat", ["s", "--json"], b"");
    let lines: Vec<serde_json::Value> = ran.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["seq"], &lines[0]["text"]), (&0.into(), &"quote \" and \\ and 日".into()));
    assert_eq!((&lines[1]["seq"], &lines[1]["base64"]), (&1.into(), &"//4=".into()));
    let time = lines[0]["time"].as_str().unwrap();
    assert!(time.len() == "2025-01-01T00:00:00.000000Z".len() && time.ends_with('Z'), "{time}");
    assert!(lines[1].get("text").is_none() && lines[0].get("base64").is_none());
}

#[test]
fn streams_and_verify_list_every_stream() {
    let log = Log::new();
    for (stream, text) in [("b", "1\n2\n"), ("a/b", "x\n"), ("A", "y\n")] {
        log.append(stream, text.as_bytes());
    }
    let names: Vec<String> = log.run("streams", [""; 0], b"").text().lines().map(ToOwned::to_owned).collect();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!((names.len(), &names), (3, &sorted), "escaped, sorted by bytes");
    let ran = log.run("streams", ["--json"], b"");
    let b = ran.text().lines().find(|line| line.contains(r#""stream":"b""#)).unwrap();
    let b: serde_json::Value = serde_json::from_str(b).unwrap();
    assert_eq!((&b["state"], &b["first"], &b["next"]), (&"ok".into(), &0.into(), &2.into()));
    assert_eq!(b["segments"], 1);
    assert!(b["disk_bytes"].as_u64().unwrap() > 0);
    let ran = log.run("verify", ["--json"], b"");
    assert_eq!((ran.code, ran.text().lines().count()), (0, 5), "three streams, the journal, and the sum");
    let sum = ran.json();
    for (field, value) in [("streams", 3), ("sound", 3), ("torn", 0), ("damaged", 0), ("reserve_bytes", 65536)] {
        assert_eq!(sum[field], value, "{sum}");
    }
    let one = log.run("verify", ["b", "--json"], b"");
    let line: serde_json::Value = serde_json::from_str(one.text().lines().next().unwrap()).unwrap();
    assert_eq!((&line["state"], &line["next"], &line["damage"]), (&"sound".into(), &2.into(), &serde_json::json!([])));
}

#[test]
fn real_logs_come_back_byte_for_byte() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let Ok(files) = std::fs::read_dir(&data) else {
        // Bypasses the test harness, which hides the output of a test that passes.
        let _ = writeln!(std::io::stderr(), "\nskipped: there are no real logs at {}", data.display());
        return;
    };
    let log = Log::new();
    let logs = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "log"));
    for path in logs {
        let mut text = std::fs::read(&path).unwrap();
        let stream = path.file_name().unwrap().to_str().unwrap();
        let ran = log.run("append", [stream.as_ref(), path.as_os_str()], b"");
        assert_eq!(ran.code, 0, "{}", ran.err);
        if text.last() != Some(&b'\n') {
            text.push(b'\n');
        }
        assert!(log.cat(stream) == text, "{stream} differs");
    }
}
