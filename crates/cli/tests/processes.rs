//! Several processes at once, and processes that are killed.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use common::{Log, command, tree};

/// A running `append` that gets its input line by line.
struct Writer {
    child: Child,
    stdin: ChildStdin,
    acks: BufReader<ChildStdout>,
}

impl Writer {
    fn start(log: &Log, options: &[&str]) -> Self {
        let mut child = command()
            .arg("append")
            .arg(log.path())
            .args(options)
            .arg("--ack")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let acks = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, acks }
    }

    /// Writes a line, waits for its acknowledgement and returns the seq in it.
    fn write(&mut self, line: &str) -> u64 {
        writeln!(self.stdin, "{line}").unwrap();
        let mut ack = String::new();
        self.acks.read_line(&mut ack).unwrap();
        ack.trim_end().parse().unwrap()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn lines(count: usize, from: usize) -> Vec<u8> {
    (from..from + count).flat_map(|i| format!("line {i} {}\n", "-".repeat(i % 70)).into_bytes()).collect()
}

/// Returns the last complete line of the acknowledgements.
fn last_ack(printed: &[u8]) -> Option<u64> {
    let whole = &printed[..printed.iter().rposition(|&b| b == b'\n')? + 1];
    std::str::from_utf8(whole).unwrap().lines().last()?.parse().ok()
}

#[test]
fn kill_keeps_acknowledged_lines() {
    for durability in ["flushed", "synced"] {
        let log = Log::new();
        let mut kept = Vec::new();
        let mut in_the_middle = 0;
        for life in 0..20_usize {
            let mut input = Vec::new();
            for i in 0..20_000 {
                input.extend_from_slice(format!("{life} {i} {}\n", "x".repeat((i * 37) % 200)).as_bytes());
            }
            let mut writer = Writer::start(&log, &["s", "--durability", durability, "--batch", "10"]);
            // The process is killed after some acknowledgements, at a different point each time,
            // while it gets more input.
            let mut acked = Vec::new();
            std::thread::scope(|scope| {
                let stdin = &mut writer.stdin;
                let input = &input;
                scope.spawn(move || drop(stdin.write_all(input)));
                let mut some = [0; 512];
                while acked.len() < 200 + life * 150 {
                    match writer.acks.read(&mut some).unwrap() {
                        0 => break,
                        n => acked.extend_from_slice(&some[..n]),
                    }
                }
                writer.child.kill().unwrap();
                writer.acks.read_to_end(&mut acked).unwrap();
            });
            writer.child.wait().unwrap();
            let last = last_ack(&acked).expect("it acknowledged some");
            let found = log.cat("s");
            assert!(found.starts_with(&kept), "life {life}: what an earlier life had is not as it was");
            let new = &found[kept.len()..];
            assert!(input.starts_with(new), "life {life}: not a prefix of what went in");
            let count = found.iter().filter(|&&b| b == b'\n').count() as u64;
            assert!(count > last, "life {life}: {count} entries, {last} was acknowledged");
            let new_count = new.iter().filter(|&&b| b == b'\n').count();
            assert_eq!(new_count % 10, 0, "life {life}: a batch is whole or absent");
            in_the_middle += u32::from(new.len() < input.len());
            kept = found;
        }
        assert!(in_the_middle >= 5, "only {in_the_middle} of 20 kills came in the middle");
    }
}

#[test]
fn second_writer_error_names_the_lock() {
    let log = Log::new();
    let mut writer = Writer::start(&log, &["s"]);
    writer.write("first");
    for arguments in [&["other"][..], &["s", "--json"]] {
        let ran = log.run("append", arguments, b"x\n");
        assert_eq!(ran.code, 3, "{}", ran.err);
        let holder =
            format!("by process {} (stratawal), lock file {}", writer.child.id(), log.path().join("LOCK").display());
        let holder = if cfg!(target_os = "linux") { holder } else { writer.child.id().to_string() };
        assert!(ran.err.contains(&holder), "{}", ran.err);
        assert_eq!(ran.err.lines().count(), 1);
    }
    assert_eq!(log.run("append", ["s", "--json"], b"x\n").error()["kind"], "locked");
    for command in ["truncate", "delete"] {
        let arguments = if command == "delete" { vec!["s", "--yes"] } else { vec!["s", "--before", "0", "--yes"] };
        assert_eq!(log.run(command, arguments.iter(), b"").code, 3);
        // Looking needs no lock.
        let shown = log.run(command, arguments.iter().chain(&["--dry-run"]), b"");
        assert_eq!((shown.code, shown.text().contains("no entries")), (0, command == "truncate"), "{}", shown.err);
    }
    // The commands that the error names work beside the writer.
    let named = log.run("append", ["s"], b"x\n").err;
    for (command, arguments) in [("cat", &["s"][..]), ("streams", &[]), ("info", &[]), ("verify", &[])] {
        assert!(named.contains(&format!("`{command}`")), "{named}");
        assert_eq!(log.run(command, arguments, b"").code, 0, "{command}");
    }
    drop(writer.stdin);
    assert!(writer.child.wait().unwrap().success());
    assert_eq!(log.append("s", b"second\n").code, 0);
    assert_eq!(log.cat("s"), b"first\nsecond\n");
}

#[cfg(target_os = "linux")]
#[test]
fn unknown_holder_of_the_lock_is_not_named() {
    let log = Log::new();
    log.append("s", b"x\n");
    // The process that takes the lock ends, and another one has inherited it.
    let script = "exec 3<&0 9<>\"$0\"; flock 9; cat <&3 >/dev/null &";
    let mut shell = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(log.path().join("LOCK"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = shell.stdin.take();
    assert!(shell.wait().unwrap().success());
    let refused = log.run("append", ["s"], b"y\n");
    assert_eq!((refused.code, refused.err.lines().count()), (3, 1), "{}", refused.err);
    assert!(refused.err.contains("by an unknown process") && refused.err.contains("LOCK"), "{}", refused.err);
    assert!(refused.err.contains("find what has that file open"), "{}", refused.err);
    drop(stdin);
}

/// The files of the log once its writer, which has no more to append, has made everything durable.
fn files_at_rest(log: &Log) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    for _ in 0..20 {
        let before = tree(&log.path());
        // Longer than the interval in which the writer syncs.
        std::thread::sleep(std::time::Duration::from_millis(1200));
        if tree(&log.path()) == before {
            return before;
        }
    }
    panic!("an idle writer changes its files again and again");
}

#[test]
fn readers_beside_an_idle_writer_change_nothing() {
    let log = Log::new();
    for durability in ["flushed", "synced"] {
        let mut writer = Writer::start(&log, &[durability, "--durability", durability]);
        for i in 0..50 {
            writer.write(&i.to_string());
        }
        let before = files_at_rest(&log);
        let seen = log.cat(durability);
        assert_eq!(seen.iter().filter(|&&b| b == b'\n').count(), 50);
        for command in ["streams", "verify"] {
            assert_eq!(log.run(command, ["--json"], b"").code, 0);
        }
        assert!(tree(&log.path()) == before, "reading changed the log");
        writer.kill();
        let before = tree(&log.path());
        assert_eq!(log.cat(durability), seen);
        assert_eq!(log.run("verify", [durability], b"").code, 0);
        assert!(tree(&log.path()) == before, "reading changed what a killed writer left");
    }
}

#[test]
fn readers_beside_a_busy_writer_see_acknowledged() {
    for durability in ["flushed", "synced"] {
        let log = Log::new();
        let mut writer = Writer::start(&log, &["s", "--durability", durability, "--batch", "1"]);
        let input = lines(20_000, 0);
        std::thread::scope(|scope| {
            let stdin = &mut writer.stdin;
            let text = &input;
            scope.spawn(move || drop(stdin.write_all(text)));
            let mut ack = String::new();
            for _ in 0..15 {
                for _ in 0..40 {
                    ack.clear();
                    writer.acks.read_line(&mut ack).unwrap();
                }
                let acked: usize = ack.trim_end().parse().unwrap();
                let seen = log.cat("s");
                assert!(input.starts_with(&seen), "not what went in");
                let count = seen.iter().filter(|&&b| b == b'\n').count();
                assert!(count > acked, "{durability}: {count} seen, {acked} was acknowledged");
            }
            writer.child.kill().unwrap();
            drop(writer.acks);
        });
        writer.child.wait().unwrap();
    }
}

#[test]
fn interrupt_exits_with_130_and_keeps_acknowledged() {
    let log = Log::new();
    let mut writer = Writer::start(&log, &["s"]);
    let last = (0..30).map(|i| writer.write(&i.to_string())).last().unwrap();
    let interrupt = format!("kill -INT {}", writer.child.id());
    let killed = std::process::Command::new("sh").args(["-c", &interrupt]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    assert_eq!(writer.child.wait().unwrap().code(), Some(130));
    assert_eq!(log.cat("s").iter().filter(|&&b| b == b'\n').count() as u64, last + 1);
}

#[test]
fn many_short_runs_leave_few_files() {
    let log = Log::new();
    for i in 0..200 {
        log.append("s", format!("{i}\n").as_bytes());
    }
    let expected: String = (0..200).map(|i| format!("{i}\n")).collect();
    assert_eq!(log.cat("s"), expected.as_bytes());
    assert!(log.segments("s").len() <= 3, "{:?}", log.segments("s"));
}

#[test]
fn real_logs_survive_a_kill_up_to_the_acks() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let Ok(files) = std::fs::read_dir(&data) else {
        // Bypasses the test harness, which hides the output of a test that passes.
        let _ = writeln!(std::io::stderr(), "\nskipped: there are no real logs at {}", data.display());
        return;
    };
    let log = Log::new();
    let logs = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "log"));
    for path in logs {
        let text = std::fs::read(&path).unwrap();
        let stream = path.file_name().unwrap().to_str().unwrap();
        let mut writer =
            Writer::start(&log, &[stream, path.to_str().unwrap(), "--durability", "flushed", "--batch", "1"]);
        let mut ack = String::new();
        for _ in 0..500 {
            ack.clear();
            writer.acks.read_line(&mut ack).unwrap();
        }
        writer.child.kill().unwrap();
        let mut rest = ack.into_bytes();
        writer.acks.read_to_end(&mut rest).unwrap();
        writer.child.wait().unwrap();
        let seen = log.cat(stream);
        assert!(text.starts_with(&seen), "{stream} is not a prefix");
        let count = seen.iter().filter(|&&b| b == b'\n').count() as u64;
        assert!(count > last_ack(&rest).unwrap(), "{stream}: {count}");
    }
}
