//! Interrupts, including that of a command whose output has no reader.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Log, command};
use stratawal::{Durability, Options};

/// The maximum time that a process may take to end. It takes far less.
const END_TIME_MAX: Duration = Duration::from_secs(30);

fn send(signal: &str, child: &Child) {
    let kill = format!("kill -{signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Waits for the process and returns its exit status. Kills the process if it does not end.
fn end_of(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    while began.elapsed() < END_TIME_MAX {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap()
}

/// Waits until `count` has been the same for a while, and returns it.
fn settled(mut count: impl FnMut() -> usize) -> usize {
    let mut last = count();
    let mut same = 0;
    while same < 5 {
        thread::sleep(Duration::from_millis(100));
        let now = count();
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
    }
    last
}

#[test]
fn one_signal_ends_an_append_without_a_reader() {
    let input: String = (0..100_000).map(|i| format!("{i}\n")).collect();
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        for durability in ["flushed", "synced"] {
            let log = Log::new();
            let file = log.beside("input");
            std::fs::write(&file, &input).unwrap();
            let mut child = command()
                .arg("append")
                .arg(log.path())
                .args(["s", "--batch", "1", "--ack", "--json", "--durability", durability])
                .arg(&file)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // The pipe is full, so the write of an acknowledgement blocks.
            let appended = settled(|| log.run("cat", ["s"], b"").out.iter().filter(|&&b| b == b'\n').count());
            assert!(appended < 100_000, "the acknowledgements fitted into the pipe");
            send(signal, &child);
            assert_eq!(end_of(&mut child).code(), Some(code), "{signal} {durability}");
            let acks = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let acknowledged = acks.filter(|ack| ack.ends_with('}')).count();
            let kept = log.cat("s");
            assert!(input.as_bytes().starts_with(&kept));
            assert_eq!(kept.iter().filter(|&&b| b == b'\n').count(), appended);
            assert!(acknowledged > 100 && acknowledged <= appended, "{acknowledged} of {appended}");
            // The log was closed: in an open log, the file would end 8 bytes past a block.
            let segment = log.segments("s").pop().unwrap();
            assert!(!(std::fs::metadata(segment).unwrap().len() - 8).is_multiple_of(4096), "the log was not closed");
        }
    }
}

#[test]
fn interrupted_append_prints_its_summary() {
    for json in [false, true] {
        let log = Log::new();
        let mut child = command()
            .arg("append")
            .arg(log.path())
            .args(["s", "--ack"])
            .args(json.then_some("--json"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut ack = String::new();
        for line in ["one", "two"] {
            writeln!(stdin, "{line}").unwrap();
            out.read_line(&mut ack).unwrap();
        }
        send("INT", &child);
        assert_eq!(end_of(&mut child).code(), Some(130));
        let rest: Vec<String> = out.lines().map_while(Result::ok).collect();
        let err: Vec<String> = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok).collect();
        if json {
            let summary: serde_json::Value = serde_json::from_str(&rest[0]).unwrap();
            assert_eq!((&summary["entries"], &summary["bytes"], &summary["last"]), (&2.into(), &6.into(), &1.into()));
            assert_eq!((rest.len(), err.len()), (1, 0), "{err:?}");
        } else {
            assert!(err[0].starts_with("interrupted: 2 entries, 6 bytes, entries 0 to 1, "), "{err:?}");
            assert_eq!((rest.len(), err.len()), (0, 1), "{err:?}");
        }
        assert_eq!(log.cat("s"), b"one\ntwo\n");
    }
}

#[test]
fn signal_at_the_end_of_an_append_prints_one_summary() {
    let log = Log::new();
    for run in 0..40 {
        let mut child = command()
            .arg("append")
            .arg(log.path())
            .args(["s", "--ack", "--json", "--durability", "flushed"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        writeln!(stdin, "{run}").unwrap();
        out.read_line(&mut String::new()).unwrap();
        // Both end the command.
        let id = child.id().to_string();
        let mut kill = Command::new("kill").args(["-TERM", &id]).spawn().unwrap();
        thread::sleep(Duration::from_micros(100 * run));
        drop(stdin);
        kill.wait().unwrap();
        let code = end_of(&mut child).code();
        assert!([Some(0), Some(143)].contains(&code), "run {run}: {code:?}");
        let rest: Vec<String> = out.lines().map_while(Result::ok).collect();
        assert_eq!(rest.len(), 1, "run {run}, {code:?}: {rest:?}");
        assert!(rest[0].contains("\"seconds\""), "run {run}: {rest:?}");
    }
}

#[test]
fn interrupted_salvage_says_that_it_can_be_repeated() {
    let log = Log::new();
    // Without a journal, each entry is in a segment at once, in a frame of its own.
    let wal = Options::new().journal(false).open(log.path()).unwrap();
    let stream = wal.stream("s").unwrap().with_durability(Durability::Flushed);
    (0..4000).for_each(|_| _ = stream.append("x".repeat(100)).unwrap());
    wal.close().unwrap();
    let file = log.segments("s").pop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let starts: Vec<usize> = (0..bytes.len() - 100).filter(|&at| bytes[at..at + 100] == [b'x'; 100]).collect();
    starts.iter().step_by(2).for_each(|&at| bytes[at + 50] ^= 1);
    std::fs::write(&file, bytes).unwrap();
    for (option, note) in [("--dry-run", "nothing was changed"), ("--into=copy", "repeat the command; if it finds")] {
        let mut child = command()
            .arg("salvage")
            .arg(log.path())
            .args(["s", option])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The runs and the lost ranges do not fit into the pipe.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        send("INT", &child);
        assert_eq!(end_of(&mut child).code(), Some(130));
        let err: Vec<String> = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok).collect();
        assert!(err.len() == 1 && err[0].starts_with(&format!("stratawal: note: interrupted; {note}")), "{err:?}");
    }
}

#[test]
fn one_signal_ends_a_command_at_a_full_pipe() {
    let log = Log::new();
    log.append("s", "a line of some length\n".repeat(20_000).as_bytes());
    for options in [&[][..], &["--json"], &["--reverse"]] {
        let mut child =
            command().arg("cat").arg(log.path()).arg("s").args(options).stdout(Stdio::piped()).spawn().unwrap();
        let mut first = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
        send("TERM", &child);
        assert_eq!(end_of(&mut child).code(), Some(143), "{options:?}");
    }
}

#[test]
fn initially_ignored_signal_stays_ignored() {
    if !cfg!(target_os = "linux") {
        // Bypasses the test harness, which hides the output of a test that passes.
        let _ = writeln!(std::io::stderr(), "\nskipped: only Linux shows what a process ignores");
        return;
    }
    let log = Log::new();
    let ignoring = r#"trap '' INT TERM; exec "$0" append "$1" s --ack"#;
    let mut child = Command::new("sh")
        .args(["-c", ignoring, env!("CARGO_BIN_EXE_stratawal")])
        .arg(log.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut acks = BufReader::new(child.stdout.take().unwrap());
    let mut ack = String::new();
    for line in 0..5 {
        writeln!(stdin, "{line}").unwrap();
        ack.clear();
        acks.read_line(&mut ack).unwrap();
        assert_eq!(ack, format!("{line}\n"));
        send("INT", &child);
        send("TERM", &child);
    }
    drop(stdin);
    assert_eq!(end_of(&mut child).code(), Some(0));
    assert_eq!(log.cat("s"), b"0\n1\n2\n3\n4\n");
}
