//! The forms of input: where its entries end.

mod common;

use common::Log;

/// Entries that lines cannot hold.
const ENTRIES: [&[u8]; 6] = [b"one\nof two lines", b"", b"\n", b"\xff\xfe", b"a;b", b"last\n"];

fn framed(entry: &[u8]) -> Vec<u8> {
    [&(entry.len() as u32).to_le_bytes(), entry].concat()
}

/// Returns the entries of a stream, with their lengths before them.
fn stored(log: &Log, stream: &str) -> Vec<u8> {
    let ran = log.run("cat", [stream, "--length-prefixed"], b"");
    assert_eq!(ran.code, 0, "{}", ran.err);
    ran.out
}

fn all() -> Vec<u8> {
    ENTRIES.iter().flat_map(|entry| framed(entry)).collect()
}

#[test]
fn output_of_cat_is_taken_in_the_same_form() {
    let log = Log::new();
    let ran = log.run("append", ["s", "--length-prefixed"], &all());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(stored(&log, "s"), all());
    for (print, take) in [("--print0", "--null"), ("--length-prefixed", "--length-prefixed")] {
        let printed = log.run("cat", ["s", print], b"").out;
        for options in [&[][..], &["--batch", "4"]] {
            let stream = format!("{take} {options:?}");
            let ran = log.run("append", [&[take, "--json"], options, &["--", &stream]].concat(), &printed);
            assert_eq!((ran.code, &ran.json()["entries"]), (0, &ENTRIES.len().into()), "{}", ran.err);
            let copied = log.run("cat", ["--length-prefixed", "--", &stream], b"").out;
            assert_eq!(copied, all(), "{take} {options:?}");
        }
    }
}

#[test]
fn each_byte_can_end_an_entry() {
    for (byte, delimiter) in [(0, r"\0"), (b';', ";"), (b'\t', r"\t"), (0x1e, r"\x1e"), (0xff, r"\xff"), (b'-', "-")] {
        let log = Log::new();
        let input = [b"a\nb", &[byte][..], &[byte], b"c"].concat();
        let ran = log.run("append", ["s", &format!("--delimiter={delimiter}")], &input);
        assert_eq!(ran.code, 0, "{delimiter}: {}", ran.err);
        assert_eq!(stored(&log, "s"), [framed(b"a\nb"), framed(b""), framed(b"c")].concat(), "{delimiter}");
    }
    let log = Log::new();
    for other in ["", "ab", "é", r"\x1"] {
        let ran = log.run("append", ["s", "--delimiter", other], b"x");
        assert_eq!((ran.code, ran.err.lines().count()), (2, 1), "{other}: {}", ran.err);
        assert!(ran.err.contains("one ASCII character"), "{}", ran.err);
    }
    assert!(!log.path().exists());
}

#[test]
fn each_file_can_be_an_entry() {
    let log = Log::new();
    let mut arguments = vec!["s".into(), "--file-per-entry".into()];
    for (i, entry) in ENTRIES.iter().enumerate() {
        let file = log.beside(&format!("file-{i}"));
        std::fs::write(&file, entry).unwrap();
        arguments.push(file.into_os_string());
    }
    let ran = log.run("append", [&arguments[..], &["--ack".into()]].concat(), b"");
    assert_eq!((ran.code, ran.text()), (0, "0\n1\n2\n3\n4\n5\n"), "{}", ran.err);
    assert_eq!(stored(&log, "s"), all());
    let batch = log.run("append", [&arguments[..], &["--ack".into(), "--batch".into(), "4".into()]].concat(), b"");
    assert_eq!((batch.code, batch.text()), (0, "9\n11\n"), "{}", batch.err);
    for (i, input) in [&b""[..], b"from\nstandard input"].into_iter().enumerate() {
        let stream = i.to_string();
        assert_eq!(log.run("append", [&stream, "--file-per-entry"], input).code, 0);
        assert_eq!(stored(&log, &stream), framed(input));
    }
    let large = vec![b'x'; 1 << 20];
    assert_eq!(log.run("append", ["large", "--file-per-entry", "-"], &large).code, 0);
    assert_eq!(stored(&log, "large"), framed(&large));
}

#[test]
fn only_one_form_can_be_chosen() {
    let log = Log::new();
    let forms = ["--null", "--delimiter=;", "--length-prefixed", "--file-per-entry"];
    for (i, one) in forms.iter().enumerate() {
        for other in &forms[i + 1..] {
            let ran = log.run("append", ["s", one, other], b"x");
            assert_eq!((ran.code, ran.err.lines().count()), (2, 1), "{one} {other}: {}", ran.err);
        }
    }
    assert!(!log.path().exists());
}

#[test]
fn length_prefixed_input_that_is_cut_keeps_the_whole_entries() {
    let whole = [framed(b"first"), framed(b"second")].concat();
    for (options, cut) in
        [(&[][..], "\x09\0"), (&[], "\x09\0\0\0"), (&[], "\x09\0\0\0only8byt"), (&["--batch", "5"], "\x09")]
    {
        let log = Log::new();
        let input = [&whole, cut.as_bytes()].concat();
        let ran = log.run("append", [&["s", "--length-prefixed", "--json"], options].concat(), &input);
        let error = ran.error();
        assert_eq!((ran.code, &error["kind"]), (3, &"cut_input".into()), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("standard input, entry 3") && message.contains("entries 0 to 1 were"), "{message}");
        assert_eq!(error["appended"], serde_json::json!({"first": 0, "last": 1}));
        assert_eq!(stored(&log, "s"), whole);
        // Nothing was appended before this one.
        let ran = log.run("append", ["s", "--length-prefixed", "--json"], cut.as_bytes());
        assert!(ran.error().get("appended").is_none(), "{}", ran.err);
    }
}

#[test]
fn too_great_a_length_is_refused_before_its_entry_is_read() {
    let log = Log::new();
    // A text that is not length-prefixed.
    let ran = log.run("append", ["s", "--length-prefixed", "--json"], &[&framed(b"x"), &b"some text\n"[..]].concat());
    let error = ran.error();
    assert_eq!((ran.code, &error["kind"]), (3, &"too_large".into()), "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("standard input, entry 2: the entry is longer than 1073741820 bytes"), "{message}");
    assert_eq!(stored(&log, "s"), framed(b"x"));
}
