//! The maximum length of a line, and the memory it takes.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use common::{Log, command};

#[test]
fn endless_line_is_refused_at_the_bound() {
    let log = Log::new();
    let good = log.beside("good");
    fs::write(&good, "1\n2\n").unwrap();
    // If the system can limit memory, the process has enough for one such line. Without the refusal
    // it would never end.
    let limited = r#"ulimit -v 1310720 2>/dev/null; exec "$0" append "$1" s "$2" /dev/zero --json"#;
    let output = Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_stratawal")])
        .args([log.path(), good])
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), err.lines().count()), (Some(3), 1), "{err}");
    let error = &serde_json::from_str::<serde_json::Value>(&err).unwrap()["error"];
    assert_eq!((&error["kind"], &error["stream"]), (&"too_large".into(), &"s".into()));
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("/dev/zero, line 1: the line is longer than 1073741820 bytes"), "{message}");
    assert!(message.ends_with("entries 0 to 1 were appended before that"), "{message}");
    assert_eq!(log.cat("s"), b"1\n2\n");
}

#[test]
fn large_line_takes_little_more_than_its_memory() {
    const LINE_LEN: usize = 100_000_000;
    if !cfg!(target_os = "linux") {
        // Bypasses the test harness, which hides the output of a test that passes.
        let _ = writeln!(std::io::stderr(), "\nskipped: the memory of a process is read from Linux's /proc");
        return;
    }
    for options in [&["s"][..], &["s", "--batch", "1"]] {
        let log = Log::new();
        let mut child = command()
            .arg("append")
            .arg(log.path())
            .args(options)
            .args(["--ack", "--durability", "flushed"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut line = vec![b'x'; LINE_LEN];
        line.push(b'\n');
        stdin.write_all(&line).unwrap();
        let mut ack = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ack).unwrap();
        assert_eq!(ack, "0\n");
        // The command is now waiting for more input.
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak_kib: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success());
        assert!(peak_kib << 10 <= LINE_LEN / 5 * 6 + (16 << 20), "{options:?}: {peak_kib} KiB");
    }
}
