//! Errors: their exit codes and single lines, that they create no file, and damage.

mod common;

use std::fs;
use std::io::Write;

use common::{Log, command, tree};
use serde_json::Value;

#[test]
fn exit_codes_are_those_of_the_contract() {
    let log = Log::new();
    for arguments in [&["--help"][..], &["--version"], &["append", "--help"]] {
        assert_eq!(command().args(arguments).output().unwrap().status.code(), Some(0), "{arguments:?}");
    }
    assert_eq!(command().output().unwrap().status.code(), Some(2));
    for arguments in [&["frobnicate"][..], &["cat"], &["cat", "--from", "x"], &["truncate", "l", "s"]] {
        let ran = command().args(arguments).output().unwrap();
        let err = String::from_utf8(ran.stderr).unwrap();
        assert_eq!((ran.status.code(), err.lines().count()), (Some(2), 1), "{arguments:?}: {err}");
        assert!(err.starts_with("stratawal: ") && err.ends_with("; see --help\n"), "{err}");
    }
    for (name, arguments) in
        [("cat", vec!["s"]), ("streams", vec![]), ("verify", vec![]), ("delete", vec!["s", "--yes"])]
    {
        let ran = log.run(name, arguments, b"");
        assert_eq!((ran.code, ran.err.lines().count()), (3, 1), "{name}: {}", ran.err);
    }
    assert!(!log.path().exists(), "nothing was created");
    log.append("s", b"x\n");
    for name in ["cat", "verify"] {
        let ran = log.run(name, ["missing", "--json"], b"");
        assert_eq!(ran.code, 3);
        assert_eq!((&ran.error()["kind"], &ran.error()["stream"]), (&"missing".into(), &"missing".into()));
    }
    let usage = command().args(["cat", "--json"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
    assert!(String::from_utf8(usage.stderr).unwrap().starts_with(r#"{"error":{"kind":"usage""#));
}

#[test]
fn unreadable_input_file_keeps_earlier_lines() {
    let log = Log::new();
    let good = log.beside("good");
    fs::write(&good, "1\n2\n").unwrap();
    for bad in [log.beside("missing"), log.beside("")] {
        let ran = log.run("append", ["s".as_ref(), good.as_os_str(), bad.as_os_str()], b"");
        assert_eq!((ran.code, ran.err.lines().count()), (3, 1), "{}", ran.err);
        assert!(ran.err.contains(bad.to_str().unwrap()), "{}", ran.err);
    }
    let seen = log.run("cat", ["s"], b"");
    assert!(seen.out.is_empty() || seen.out == b"1\n2\n1\n2\n", "whole files or nothing: {:?}", seen.text());
}

#[test]
fn any_name_is_a_distinct_stream_or_an_error() {
    let log = Log::new();
    let names = ["a/b", "a_b", "a:b", "user/1", "日本", "中国", "CON", "..", ".", "A", "a", "-x", "..-", "a b", "%"];
    for _ in 0..2 {
        for name in names {
            let ran = log.run("append", ["--", name], format!("{name}\n").as_bytes());
            assert_eq!(ran.code, 0, "{name}: {}", ran.err);
        }
    }
    for name in names {
        let ran = log.run("cat", ["--", name], b"");
        assert_eq!(ran.text(), format!("{name}\n{name}\n"));
    }
    let listed = log.run("streams", [""; 0], b"");
    assert_eq!(listed.text().lines().count(), names.len());
    let long = "x".repeat(5000);
    for (name, words) in [("", "character"), (&long, "5000")] {
        let ran = log.run("append", [name], b"x\n");
        assert!(ran.code == 2 || ran.code == 3, "{}", ran.code);
        assert!(ran.err.lines().count() == 1 && ran.err.contains(words), "{}", ran.err);
    }
    // No file was moved out of the root.
    let beside: Vec<_> = fs::read_dir(log.path().parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside, ["log"]);
}

#[test]
fn closed_output_pipe_is_not_an_error() {
    let log = Log::new();
    let text: Vec<u8> = (0..100_000).flat_map(|i| format!("{i}\n").into_bytes()).collect();
    log.append("s", &text);
    let mut child = command()
        .arg("cat")
        .arg(log.path())
        .arg("s")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
}

#[test]
fn entries_before_damage_are_printed() {
    let log = Log::new();
    let text: Vec<u8> = (0..2000).flat_map(|i| format!("entry {i}\n").into_bytes()).collect();
    let ran = log.run("append", ["s", "--batch", "10"], &text);
    assert_eq!(ran.code, 0, "{}", ran.err);
    log.append("sound", b"x\n");
    let file = log.segments("s").pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let before = tree(&log.path());

    let ran = log.run("cat", ["s"], b"");
    assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{}", ran.err);
    assert!(text.starts_with(&ran.out) && !ran.out.is_empty() && ran.out.len() < text.len());
    assert!(ran.err.contains(file.file_name().unwrap().to_str().unwrap()), "{}", ran.err);
    let error = log.run("cat", ["s", "--json"], b"");
    let error: Value = serde_json::from_str(error.err.lines().last().unwrap()).unwrap();
    assert_eq!((&error["error"]["kind"], &error["error"]["stream"]), (&"damaged".into(), &"s".into()));
    assert!(error["error"]["offset"].as_u64().is_some_and(|at| at <= middle as u64), "{error}");

    let verify = log.run("verify", ["--json"], b"");
    assert_eq!((verify.code, &verify.json()["damaged"], &verify.json()["sound"]), (1, &1.into(), &1.into()));
    let line: Value = serde_json::from_str(verify.text().lines().next().unwrap()).unwrap();
    assert_eq!((&line["stream"], &line["state"]), (&"s".into(), &"damaged".into()));
    let damage = &line["damage"][0];
    let lost = |name: &str| damage[name].as_u64().unwrap();
    assert!(lost("lost_first") <= lost("lost_last") && lost("lost_last") < 2000, "{damage}");
    assert_eq!(log.run("cat", ["sound"], b"").text(), "x\n");
    assert!(tree(&log.path()) == before, "looking changed the log");
}

#[test]
fn damage_below_is_truncated_away() {
    let log = Log::new();
    let lines: String = (0..100).map(|i| format!("line {i}\n")).collect();
    log.append("s", lines.as_bytes());
    // Another segment begins at 50.
    assert_eq!(log.run("truncate", ["s", "--from", "50", "--yes"], b"").code, 0);
    log.append("s", b"line 50\nline 51\n");
    let first = log.segments("s").swap_remove(0);
    let mut bytes = std::fs::read(&first).unwrap();
    bytes[50] ^= 1;
    std::fs::write(&first, bytes).unwrap();
    let before = tree(&log.path().join("streams"));
    for too_low in ["0", "49"] {
        let ran = log.run("truncate", ["s", "--before", too_low, "--yes"], b"");
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert_eq!(tree(&log.path().join("streams")), before, "nothing has changed");
    }
    let ran = log.run("truncate", ["s", "--before", "50", "--yes", "--json"], b"");
    assert_eq!(
        (ran.code, &ran.json()),
        (0, &serde_json::json!({"stream": "s", "first": 50, "next": 52})),
        "{}",
        ran.err
    );
    assert_eq!(log.cat("s"), b"line 50\nline 51\n");
    let unknown = log.run("truncate", ["other", "--before", "1", "--yes"], b"");
    assert_eq!(unknown.code, 3, "{}", unknown.err);
}

#[test]
fn torn_tail_is_not_damage() {
    let log = Log::new();
    log.append("s", b"1\n2\n3\n");
    // The file of a process that died during a write: no CLOSE, and half a frame.
    let file = log.segments("s").pop().unwrap();
    let bytes = fs::read(&file).unwrap();
    let mut torn = bytes[..128].to_vec();
    torn.extend_from_slice(&[7; 100]);
    torn.resize(16384 + 8, 0);
    fs::write(&file, torn).unwrap();
    let ran = log.run("verify", ["--json"], b"");
    assert_eq!((ran.code, &ran.json()["torn"]), (0, &1.into()), "{}", ran.text());
    let line: Value = serde_json::from_str(ran.text().lines().next().unwrap()).unwrap();
    assert_eq!((&line["torn"]["offset"], &line["torn"]["bytes"]), (&128.into(), &100.into()));
    assert_eq!(log.run("cat", ["s"], b"").code, 0);
}

#[test]
fn file_size_limit_appends_nothing_twice() {
    let log = Log::new();
    let text: String = (0..60_000).map(|i| format!("line {i}, and some more of it\n")).collect();
    let input = log.beside("input");
    fs::write(&input, &text).unwrap();
    let limited = r#"ulimit -f 1000 && exec "$0" append "$1" s "$2" --batch 10 --ack --durability flushed"#;
    let ran = std::process::Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_stratawal")])
        .args([log.path(), input])
        .output()
        .unwrap();
    let err = String::from_utf8(ran.stderr).unwrap();
    assert_eq!((ran.status.code(), err.lines().count()), (Some(3), 1), "{err}");
    let acknowledged: usize = String::from_utf8(ran.stdout).unwrap().lines().last().unwrap().parse().unwrap();
    assert!(acknowledged > 100 && err.contains(&format!("entries 0 to {acknowledged} were appended")), "{err}");
    let read = log.run("cat", ["s"], b"");
    assert_eq!(read.code, 0, "{}", read.err);
    assert!(text.as_bytes().starts_with(&read.out), "something else than what was given, or twice");
    assert!(read.text().lines().count() > acknowledged);
}

#[test]
fn invalid_name_creates_nothing() {
    let log = Log::new();
    assert_eq!(log.run("append", [""], b"x\n").code, 2);
    assert!(!log.path().exists());
}

#[test]
fn unreadable_stream_does_not_hide_the_others() {
    let log = Log::new();
    for name in ["a", "b", "c"] {
        log.append(name, b"x\n");
    }
    let of_newer = |name: &str| {
        let file = log.segments(name).pop().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        // The version, which follows the magic, and the checksum.
        bytes[8] = 99;
        bytes[124] ^= 1;
        fs::write(file, bytes).unwrap();
    };
    of_newer("b");
    let names = |text: &str| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["stream"].clone()).collect()
    };
    let ran = log.run("verify", ["--json"], b"");
    assert_eq!((ran.code, &ran.error()["kind"], &ran.error()["stream"]), (3, &"newer_format".into(), &"b".into()));
    assert_eq!(
        names(ran.text()),
        ["a".into(), "b".into(), "c".into(), Value::Null, Value::Null],
        "the last two are of the journal and of all"
    );
    assert!(ran.text().contains(r#"{"stream":"b","state":"unread","first":null,"#), "{}", ran.text());
    let counts = ["streams", "sound", "torn", "damaged", "unread"].map(|field| ran.json()[field].as_u64());
    assert_eq!(counts, [3, 2, 0, 0, 1].map(Some));
    let ran = log.run("verify", [""; 0], b"");
    assert_eq!(
        (ran.code, ran.text().lines().count(), ran.err.lines().count()),
        (3, 5, 1),
        "{} {}",
        ran.text(),
        ran.err
    );
    assert!(ran.err.starts_with("stratawal: stream b: "), "{}", ran.err);

    let ran = log.run("streams", ["--json"], b"");
    assert_eq!((ran.code, &ran.error()["kind"], &ran.error()["stream"]), (3, &"newer_format".into(), &"b".into()));
    assert_eq!(names(ran.text()), ["a", "c"]);
    // The names are all that can be listed.
    let ran = log.run("streams", [""; 0], b"");
    assert_eq!((ran.code, ran.text()), (0, "a\nb\nc\n"), "{}", ran.err);

    // The exit code is that of the damage to another stream.
    let file = log.segments("c").pop().unwrap();
    let bytes = fs::read(&file).unwrap();
    fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
    for name in ["verify", "streams"] {
        let ran = log.run(name, ["--json"], b"");
        assert_eq!((ran.code, ran.err.lines().count()), (1, 1), "{name}: {} {}", ran.text(), ran.err);
    }
}

#[test]
fn deleted_name_begins_at_0_again() {
    let log = Log::new();
    log.append("s", b"1\n2\n");
    log.append("other", b"x\n");
    let ran = log.run("delete", ["s"], b"");
    assert_eq!((ran.code, &log.cat("s")[..]), (2, &b"1\n2\n"[..]), "not without --yes: {}", ran.err);
    let ran = log.run("delete", ["s", "--yes", "--json"], b"");
    assert_eq!((ran.code, ran.text()), (0, "{\"stream\":\"s\",\"deleted\":true}\n"), "{}", ran.err);
    assert!(!log.path().join("streams").join("s").exists());
    assert_eq!(log.run("streams", [""; 0], b"").text(), "other\n");
    for (name, arguments) in [("cat", vec!["s"]), ("delete", vec!["s", "--yes"])] {
        assert_eq!(log.run(name, arguments, b"").code, 3, "{name}");
    }
    let ran = log.run("append", ["s", "--json"], b"3\n");
    assert_eq!((ran.code, &ran.json()["first"]), (0, &0.into()), "{}", ran.err);
    let ran = log.run("delete", ["s", "--yes"], b"");
    assert_eq!((ran.code, ran.text(), &ran.err[..]), (0, "", "stream s was deleted\n"));
    assert_eq!(log.cat("other"), b"x\n");
}

/// Runs `script` in a shell, with the command as `$S`, the log as `$L` and a file of two lines as
/// `$F`.
fn shell(log: &Log, script: &str) -> (Option<i32>, String) {
    let file = log.beside("lines");
    fs::write(&file, "1\n2\n").unwrap();
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .env("S", env!("CARGO_BIN_EXE_stratawal"))
        .env("L", log.path())
        .env("F", file)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn system_errors_name_path_cause_and_remedy() {
    if !cfg!(target_os = "linux") {
        // Bypasses the test harness, which hides the output of a test that passes.
        let _ = writeln!(std::io::stderr(), "\nskipped: the files that fail are Linux's");
        return;
    }
    let log = Log::new();
    log.append("s", b"0\n");
    for (script, path, cause, remedy) in [
        ("$S append $L s $F /proc/self/mem", "/proc/self/mem (at line 1)", "os error 5", "the system's log"),
        ("$S append $L s - </proc/self/mem", "standard input (at line 1)", "os error 5", "the system's log"),
        ("$S append $L s - <$L", "standard input (at line 1)", "os error 21", "give a file"),
        ("$S append $L s $L", "log", "is a directory", "give a file"),
        ("$S append $L s $L/none", "log/none", "os error 2", "give a path"),
        ("$S append /proc/none/log s $F", "/proc/none/log", "os error 2", "where a directory can be created"),
        ("$S append $L s $F --ack >/dev/full", "standard output", "os error 28", "free some space"),
        ("$S append $L s $F --json >/dev/full", "standard output", "os error 28", "free some space"),
        ("$S cat $L s >/dev/full", "standard output", "os error 28", "free some space"),
        ("$S cat $L s --json >/dev/full", "standard output", "os error 28", "free some space"),
        ("$S verify $L >/dev/full", "standard output", "os error 28", "free some space"),
        ("$S streams $L >/dev/full", "standard output", "os error 28", "free some space"),
        ("$S help >/dev/full", "standard output", "os error 28", "free some space"),
        ("$S cat --help >/dev/full", "standard output", "os error 28", "free some space"),
        ("$S --version >/dev/full", "standard output", "os error 28", "free some space"),
        ("$S truncate $L s --before 0 --yes --json >/dev/full", "standard output", "os error 28", "free some space"),
        ("$S cat $F s", "lines", "is a file", "give the directory, or a new name"),
    ] {
        let (code, err) = shell(&log, script);
        assert_eq!((code, err.lines().count()), (Some(3), 1), "{script}: {err}");
        for part in [path, cause, remedy] {
            assert!(err.contains(part), "{script}: {err} lacks {part:?}");
        }
    }
}

#[test]
fn lack_of_descriptors_names_path_and_remedy() {
    let log = Log::new();
    // The entries after a truncation are in a second segment.
    log.append("s", b"0\n1\n");
    assert_eq!(log.run("truncate", ["s", "--from", "1", "--yes"], b"").code, 0);
    let mut refused = 0;
    let mut below_root = 0;
    for command in ["append $L s $F", "cat $L s", "streams $L --json", "verify $L", "truncate $L s --before 1 --yes"] {
        // With fewer than four, no process starts.
        for files in 4..16 {
            let (code, err) = shell(&log, &format!("ulimit -n {files}; exec $S {command}"));
            if code == Some(0) {
                continue;
            }
            assert_eq!((code, err.lines().count()), (Some(3), 1), "{command}: {err}");
            assert!(err.contains("os error 24") && err.contains("`ulimit -n`"), "{command}: {err}");
            assert_eq!((err.matches("ulimit -n").count(), err.matches("; path").count() <= 1), (1, true), "{err}");
            let path = log.path().display().to_string();
            // If a thread of the log had a file open for a moment, the input was one too many.
            let is_named = [&path, "/lines: ", "cannot watch for interrupts"].iter().any(|part| err.contains(*part));
            assert!(is_named, "{command}: {err}");
            refused += 1;
            below_root += u32::from(err.contains(&format!("{path}/streams")));
        }
    }
    assert!(refused > 10 && below_root > 0, "{refused} refused, {below_root} of them below the root");
    assert_eq!(log.run("verify", [""; 0], b"").code, 0);
}

#[cfg(unix)]
#[test]
fn all_commands_refuse_a_file_as_log() {
    let log = Log::new();
    log.append("real", b"x\n");
    let streams = log.path().join("streams");
    std::os::unix::fs::symlink("real", streams.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", streams.join("dangling")).unwrap();
    fs::write(streams.join("file"), "x").unwrap();
    assert_eq!(log.run("streams", [""; 0], b"").text(), "dangling\nfile\nlink\nreal\n");
    for command in ["streams", "verify"] {
        let ran = log.run(command, ["--json"], b"");
        assert_eq!(ran.code, 1, "{command}: {}", ran.err);
        let states: Vec<Value> = ran.text().lines().take(4).map(|line| serde_json::from_str(line).unwrap()).collect();
        for (state, name) in states.iter().zip(["dangling", "file", "link"]) {
            assert_eq!((&state["stream"], &state["state"]), (&name.into(), &"damaged".into()), "{command}");
        }
        assert_eq!(states[3]["stream"], "real", "{command}");
        assert_ne!(states[3]["state"], "damaged", "{command}");
    }
    for name in ["dangling", "file", "link"] {
        for (command, arguments) in [
            ("cat", vec![]),
            ("append", vec![]),
            ("truncate", vec!["--before", "1", "--yes"]),
            ("truncate", vec!["--from", "0", "--yes"]),
            ("delete", vec!["--yes"]),
        ] {
            let ran = log.run(command, [vec![name, "--json"], arguments].concat(), b"y\n");
            let error = ran.error();
            assert_eq!((ran.code, &error["kind"]), (1, &"damaged".into()), "{command} {name}: {error}");
            let message = error["message"].as_str().unwrap();
            let path = streams.join(name).display().to_string();
            assert!(message.contains("is a link or a file") && message.contains(&path), "{command} {name}: {message}");
        }
    }
    assert_eq!(log.cat("real"), b"x\n");
    assert_eq!(fs::read_link(streams.join("link")).unwrap(), std::path::Path::new("real"));
    assert_eq!(fs::read(streams.join("file")).unwrap(), b"x");
}

#[test]
fn a_single_lost_entry_is_not_a_range() {
    let log = Log::new();
    for entry in ["1", "2", "3"] {
        log.append("s", format!("{}\n", entry.repeat(5000)).as_bytes());
    }
    let file = log.segments("s").swap_remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(100).position(|bytes| bytes == [b'2'; 100]).unwrap();
    bytes[at + 100] ^= 1;
    fs::write(&file, bytes).unwrap();
    let shown = [log.run("cat", ["s"], b"").err, log.run("cat", ["s", "--skip-damage"], b"").err];
    for text in shown.iter().map(String::as_str).chain([log.run("verify", [""; 0], b"").text()]) {
        assert!(text.contains("entry 1 is lost"), "{text}");
    }
}

/// The library recommends its own calls; the command recommends commands.
#[test]
fn messages_name_no_call_of_the_library() {
    let log = Log::new();
    log.append("s", b"x\n");
    let file = log.segments("s").pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    // The version of the format, and the checksum.
    bytes[8] = 2;
    bytes[124] ^= 1;
    fs::write(&file, bytes).unwrap();
    let newer = log.run("cat", ["s"], b"");
    assert!(newer.code == 3 && newer.err.contains("`salvage` copies the other entries"), "{newer:?}");
    for entry in fs::read_dir(log.path().join("journal")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let journal = log.run("append", ["s"], b"x\n");
    assert!(journal.code == 1 && journal.err.contains("`cat` prints the entries in the segment files"), "{journal:?}");
    assert!(journal.err.ends_with("; or `repair` shows what can be kept\n"), "{journal:?}");
    for ran in [newer, journal] {
        assert!(!ran.err.contains("inspect::") && !ran.err.contains("Options::"), "{}", ran.err);
    }
}
