//! The command in a pseudo-terminal: colours, width, Ctrl-C, and readers that stop or go away.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Log, command};
use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};

/// The maximum time for anything that takes far less.
const TIME_MAX: Duration = Duration::from_secs(60);

/// A command whose input, output and errors are a terminal.
struct Terminal {
    pty: Arc<Pty>,
    child: Child,
    printed: Arc<Mutex<Vec<u8>>>,
}

/// Returns the command with the environment of a plain terminal and these variables.
fn in_terminal(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let command = Command::new(env!("CARGO_BIN_EXE_stratawal")).args(arguments).env("TERM", "xterm");
    let command = command.env_remove("NO_COLOR").env_remove("CLICOLOR").env_remove("CLICOLOR_FORCE");
    command.envs(variables.iter().copied())
}

impl Terminal {
    /// Starts a command in a terminal of this width, and reads its output.
    fn start(command: Command, columns: u16) -> Self {
        let terminal = Self::start_unread(command, columns);
        terminal.read();
        terminal
    }

    /// Starts a command in a terminal whose output is not read.
    fn start_unread(command: Command, columns: u16) -> Self {
        let (pty, pts) = open().unwrap();
        pty.resize(Size::new(24, columns)).unwrap();
        let child = command.spawn(pts).unwrap();
        Self { pty: Arc::new(pty), child, printed: Arc::default() }
    }

    fn read(&self) {
        let (pty, printed) = (Arc::clone(&self.pty), Arc::clone(&self.printed));
        thread::spawn(move || {
            let mut some = [0; 4096];
            // An error is the end: no process has the terminal any more.
            while let Ok(n @ 1..) = (&*pty).read(&mut some) {
                printed.lock().unwrap().extend_from_slice(&some[..n]);
            }
        });
    }

    fn printed(&self) -> String {
        String::from_utf8(self.printed.lock().unwrap().clone()).unwrap()
    }

    /// Waits until the command has printed `text`.
    fn wait_for(&self, text: &str) {
        let began = Instant::now();
        while !self.printed().contains(text) {
            assert!(began.elapsed() < TIME_MAX, "{text} is not in {}", self.printed());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn press_ctrl_c(&self) {
        (&*self.pty).write_all(b"\x03").unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        end(&mut self.child)
    }

    /// Waits for the end of the command, and returns its exit code and everything it has printed.
    fn finish(mut self) -> (Option<i32>, String) {
        let code = self.end().code();
        // The output of a process that has ended is read to its end.
        let mut before = usize::MAX;
        while before != self.printed().len() {
            before = self.printed().len();
            thread::sleep(Duration::from_millis(50));
        }
        (code, self.printed())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn end(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    while began.elapsed() < TIME_MAX {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("it does not end");
}

/// Returns what a terminal shows of `text`, without colours.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |shown, part| shown + part.split_once('m').expect("only colours").1)
}

fn path(log: &Log) -> String {
    log.path().into_os_string().into_string().unwrap()
}

/// A log with two streams.
fn log() -> Log {
    let log = Log::new();
    log.append("orders", b"1\n2\n3\n");
    log.append("a b", b"x\n");
    log
}

#[test]
fn colours_are_only_for_a_terminal_and_by_no_color() {
    let log = log();
    let path = path(&log);
    let cases: [(&[&str], i32); 6] = [
        (&["streams", &path], 0),
        (&["cat", &path, "none"], 3),
        (&["cat", &path, "orders", "--to", "0"], 0),
        (&["--help"], 0),
        (&["streams"], 2),
        (&[], 2),
    ];
    for (arguments, code) in cases {
        let run = |variables: &[(&str, &str)]| {
            let (ended, printed) = Terminal::start(in_terminal(arguments, variables), 100).finish();
            assert_eq!(ended, Some(code), "{printed}");
            assert!(!printed.is_empty());
            printed
        };
        let coloured = run(&[]);
        assert!(coloured.contains("\x1b["), "{arguments:?}: {coloured:?}");
        assert!(run(&[("NO_COLOR", "")]).contains("\x1b["), "{arguments:?}");
        let plain: [&[_]; 3] =
            [&[("NO_COLOR", "1")], &[("TERM", "dumb")], &[("TERM", "dumb"), ("CI", "1"), ("CLICOLOR_FORCE", "1")]];
        for variables in plain {
            let plain = run(variables);
            assert!(!plain.contains('\x1b'), "{arguments:?} {variables:?}: {plain:?}");
            // The ages of entries may differ.
            let coloured = without_colours(&coloured);
            assert_eq!(plain.split_whitespace().next(), coloured.split_whitespace().next());
        }
        let piped = command().args(arguments).env("TERM", "xterm").output().unwrap();
        assert!(!piped.stdout.contains(&0x1b) && !piped.stderr.contains(&0x1b), "{arguments:?}");
    }
}

#[test]
fn table_is_for_a_terminal_and_names_are_for_a_pipe() {
    let log = log();
    let (code, printed) = Terminal::start(in_terminal(&["streams", &path(&log)], &[("NO_COLOR", "1")]), 100).finish();
    assert_eq!(code, Some(0));
    let lines: Vec<_> = printed.lines().collect();
    let words: Vec<Vec<&str>> = lines.iter().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["STREAM", "ENTRIES", "FIRST", "LAST", "SEGMENTS", "SIZE", "STATE"]);
    assert!(lines[1].starts_with("'a b'") && lines[1].ends_with("ok"), "{printed}");
    assert!(lines[2].starts_with("orders        3  0 (") && lines[2].contains("  2 ("), "{printed}");
    assert_eq!(lines.len(), 3);
    assert_eq!(log.run("streams", [""; 0], b"").text(), "'a b'\norders\n");
    let table = log.run("streams", ["--table"], b"");
    assert_eq!((table.code, table.text().lines().next()), (0, Some(lines[0])));
}

#[test]
fn table_is_never_wider_than_the_terminal() {
    let log = log();
    let path = path(&log);
    let mut headings = Vec::new();
    for columns in [20, 40, 60, 80, 200] {
        let (_, printed) = Terminal::start(in_terminal(&["streams", &path], &[]), columns).finish();
        let shown = without_colours(&printed);
        assert!(shown.lines().all(|line| line.chars().count() <= columns.into()), "{columns}: {shown}");
        assert!(shown.contains("'a b'") && shown.contains("orders"), "{shown}");
        headings.push(shown.lines().next().unwrap().split_whitespace().count());
    }
    assert!(headings.is_sorted(), "{headings:?}");
    assert_eq!((headings[0], headings[4]), (2, 7), "{headings:?}");
}

/// Returns what a terminal shows at the end, in lines.
fn screen(printed: &str) -> Vec<String> {
    let mut lines = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    let mut rest = printed;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\r' => column = 0,
            '\n' => row += 1,
            '\x1b' => {
                let end = rest.find(|c: char| c.is_ascii_alphabetic()).expect("a whole sequence");
                let number: usize = rest[1..end].trim_matches('?').parse().unwrap_or(1);
                match &rest[end..=end] {
                    "A" => row -= number,
                    "B" => row += number,
                    "K" => lines[row].clear(),
                    "m" | "h" | "l" => {}
                    other => panic!("an unexpected sequence ends with {other}: {printed:?}"),
                }
                rest = &rest[end + 1..];
            }
            c => {
                if lines[row].len() <= column {
                    lines[row].resize(column + 1, ' ');
                }
                lines[row][column] = c;
                column += 1;
            }
        }
        if lines.len() <= row {
            lines.resize(row + 1, Vec::new());
        }
    }
    lines.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn progress_is_only_for_a_terminal_and_is_removed() {
    let log = log();
    log.append("long", "a line of some length\n".repeat(50_000).as_bytes());
    let path = path(&log);
    for columns in [60, 100] {
        let (code, printed) = Terminal::start(in_terminal(&["verify", &path], &[]), columns).finish();
        assert_eq!(code, Some(0), "{printed}");
        assert!(printed.contains("verifying ["), "{printed:?}");
        let drawn = printed.split(['\r', '\n']).filter(|line| line.contains("verifying ["));
        assert!(drawn.map(without_controls).all(|line| line.chars().count() <= columns.into()), "{printed:?}");
        let shown = screen(&printed);
        assert!(!shown.iter().any(|line| line.contains("verifying")), "{shown:?}");
        let piped = log.run("verify", [""; 0], b"");
        assert!(shown.iter().any(|line| line.starts_with("long: sound")), "{shown:?}");
        assert_eq!(shown.iter().filter(|line| !line.is_empty()).count(), piped.text().lines().count(), "{shown:?}");
        assert!(!piped.err.contains("verifying") && !piped.text().contains("verifying"));
    }
    // The line needs a terminal that can remove it, and standard error may be another one.
    let (_, printed) = Terminal::start(in_terminal(&["verify", &path], &[("TERM", "dumb")]), 80).finish();
    assert!(!printed.contains("verifying"), "{printed:?}");
    let command = in_terminal(&["verify", &path], &[]).stderr(Stdio::null());
    let (_, printed) = Terminal::start(command, 80).finish();
    assert!(!printed.contains("verifying") && printed.contains("long: sound"), "{printed:?}");
    let mut command = in_terminal(&["verify", &path], &[]).stdout(Stdio::null());
    command = command.env("NO_COLOR", "1");
    let (_, printed) = Terminal::start(command, 80).finish();
    assert!(printed.contains("verifying ["), "{printed:?}");
}

/// Returns a line without the sequences that control a terminal.
fn without_controls(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |shown, part| {
        shown + part.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or("")
    })
}

#[test]
fn help_fits_the_terminal() {
    for columns in [60, 90, 200] {
        let (code, printed) = Terminal::start(in_terminal(&["cat", "--help"], &[]), columns).finish();
        assert_eq!(code, Some(0));
        let shown = without_colours(&printed);
        // A word that is too long is not cut.
        let is_word = |line: &str| !line.trim().contains(' ');
        let wide = shown.lines().find(|line| line.chars().count() > columns.min(120).into() && !is_word(line));
        assert_eq!(wide, None);
    }
    let piped = command().args(["cat", "--help"]).output().unwrap();
    let piped = String::from_utf8(piped.stdout).unwrap();
    assert_eq!(piped.lines().map(|line| line.chars().count()).max(), Some(120));
}

#[test]
fn ctrl_c_ends_a_follower_with_a_summary() {
    let log = log();
    let mut terminal = Terminal::start(in_terminal(&["follow", &path(&log), "orders"], &[]), 80);
    terminal.wait_for("3\r\n");
    terminal.press_ctrl_c();
    assert_eq!(terminal.end().code(), Some(130));
    terminal.wait_for("3 entries, 3 B, ");
    terminal.wait_for(" from 1 stream; the next is 3\r\n");
}

#[test]
fn ctrl_c_ends_a_command_whose_terminal_is_not_read() {
    let log = log();
    log.append("long", "a line of some length\n".repeat(50_000).as_bytes());
    for name in ["cat", "follow"] {
        let mut terminal = Terminal::start_unread(in_terminal(&[name, &path(&log), "long"], &[]), 80);
        // The terminal takes some kilobytes and then no more.
        (&*terminal.pty).read_exact(&mut [0; 100]).unwrap();
        thread::sleep(Duration::from_millis(300));
        assert!(terminal.child.try_wait().unwrap().is_none(), "{name}: everything fitted into the terminal");
        terminal.press_ctrl_c();
        assert_eq!(terminal.end().code(), Some(130), "{name}");
    }
}

#[test]
fn ctrl_c_notes_how_much_was_printed() {
    let log = log();
    log.append("long", "a line of some length\n".repeat(50_000).as_bytes());
    // Standard output is a pipe that nothing reads, and standard error is the terminal.
    let command = in_terminal(&["cat", &path(&log), "long"], &[("NO_COLOR", "1")]).stdout(Stdio::piped());
    let mut terminal = Terminal::start(command, 80);
    let mut out = BufReader::with_capacity(1, terminal.child.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    terminal.press_ctrl_c();
    assert_eq!(terminal.end().code(), Some(130));
    terminal.wait_for("stratawal: note: interrupted after ");
    terminal.wait_for(" entries\r\n");
}

#[test]
fn closed_pipe_is_silent_on_a_terminal() {
    let log = log();
    log.append("long", "a line of some length\n".repeat(50_000).as_bytes());
    for arguments in [["cat", &path(&log), "long"], ["follow", &path(&log), "long"], ["follow", &path(&log), "orders"]]
    {
        let mut terminal = Terminal::start(in_terminal(&arguments, &[]).stdout(Stdio::piped()), 80);
        let mut out = BufReader::with_capacity(1, terminal.child.stdout.take().unwrap());
        out.read_line(&mut String::new()).unwrap();
        drop(out);
        let (code, printed) = terminal.finish();
        assert_eq!((code, &printed[..]), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn closed_terminal_ends_a_follower() {
    const SIGHUP: i32 = 1;
    let log = log();
    let terminal = Terminal::start_unread(in_terminal(&["follow", &path(&log), "orders"], &[]), 80);
    (&*terminal.pty).read_exact(&mut [0; 3]).unwrap();
    let (pty, pts) = open().unwrap();
    drop(pts);
    let mut terminal = terminal;
    drop(std::mem::replace(&mut terminal.pty, Arc::new(pty)));
    assert_eq!(terminal.end().signal(), Some(SIGHUP));
}
