//! The maximum length of a line, and the memory it takes.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use common::{Log, command};
use stratawal::Options;

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
    assert_eq!(error["appended"], serde_json::json!({"first": 0, "last": 1}));
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
        let peak = peak_bytes(&child);
        drop(stdin);
        assert!(child.wait().unwrap().success());
        assert!(peak <= LINE_LEN / 5 * 6 + (16 << 20), "{options:?}: {peak} bytes");
    }
}

/// Returns the most memory that a running process has had.
fn peak_bytes(child: &Child) -> usize {
    try_peak_bytes(child).unwrap()
}

fn try_peak_bytes(child: &Child) -> Option<usize> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10)
}

/// Takes the output of a process, of at least `len` bytes, up to the last bytes, so that it is
/// still running, and returns the most memory that it has had.
fn peak_of_printing(child: &mut Child, len: usize) -> usize {
    // A pipe holds 64 KiB. The process waits until there is room for the rest.
    const REST: usize = 100 << 10;
    let mut out = child.stdout.take().unwrap();
    let mut block = vec![0; 1 << 20];
    let mut left = len - REST;
    while left > 0 {
        let n = left.min(block.len());
        out.read_exact(&mut block[..n]).unwrap();
        left -= n;
    }
    peak_bytes(child)
}

/// A log with `count` entries of `len` bytes in each of two streams, or `None` if the memory of a
/// process cannot be measured here.
fn log_of_long_entries(len: usize, count: u64) -> Option<Log> {
    if !cfg!(target_os = "linux") {
        let _ = writeln!(std::io::stderr(), "\nskipped: the memory of a process is read from Linux's /proc");
        return None;
    }
    let log = Log::new();
    let wal = Options::new().open(log.path()).unwrap();
    for name in ["s", "t"] {
        let stream = wal.stream(name).unwrap();
        (0..count).for_each(|_| _ = stream.append(vec![b'x'; len]).unwrap());
    }
    wal.close().unwrap();
    Some(log)
}

#[test]
fn verify_holds_one_long_entry_at_a_time() {
    const LEN: usize = 48 << 20;
    let Some(log) = log_of_long_entries(LEN, 4) else { return };
    let mut child = command().arg("verify").arg(log.path()).stdout(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        // A process that has just ended has no memory.
        peak = peak.max(try_peak_bytes(&child).unwrap_or(0));
    }
    // Two entries are more.
    assert!((LEN..=LEN / 5 * 6 + (20 << 20)).contains(&peak), "{peak} bytes");
}

#[test]
fn printing_takes_the_memory_of_one_entry() {
    const LEN: usize = 24 << 20;
    // Two entries are more.
    const BYTES_MAX: usize = LEN / 5 * 6 + (18 << 20);
    let Some(log) = log_of_long_entries(LEN, 3) else { return };
    let cases: [(&[&str], usize); 11] = [
        (&["cat", "s"], 3 * LEN),
        (&["cat", "s", "--json"], 3 * LEN),
        (&["cat", "s", "--format", "%b"], 4 * LEN),
        (&["cat", "s", "--length-prefixed"], 3 * LEN),
        (&["cat", "s", "--reverse"], 3 * LEN),
        (&["cat", "s", "--grep", "x$", "-n", "2"], 2 * LEN),
        (&["cat", "s", "--skip-damage"], 3 * LEN),
        (&["follow", "s"], 3 * LEN),
        (&["follow", "s", "t"], 6 * LEN),
        (&["follow", "--prefix", "", "--json"], 6 * LEN),
        (&["follow", "s", "t", "-n", "2", "--grep", "^x"], 4 * LEN),
    ];
    for (arguments, len) in cases {
        let mut child = command()
            .arg(arguments[0])
            .arg(log.path())
            .args(&arguments[1..])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let peak = peak_of_printing(&mut child, len);
        assert!(peak <= BYTES_MAX, "{arguments:?}: {peak} bytes");
        let _ = child.kill();
        child.wait().unwrap();
    }
}
