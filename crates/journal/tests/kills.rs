//! Kills a process with SIGKILL at some moment. Every record whose `put` the process had reported
//! is in the journal afterwards, whether files were mapped or written.
//!
//! `JOURNAL_KILLS=N` kills that many processes of each kind.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{env, thread};

use stratawal_frame::{SeqNo, StreamId, WalId};
use stratawal_journal::{Image, Journal, JournalOptions, Lsn, Part, Record};
use stratawal_storage::{Storage, UnixStorage};

const WAL: WalId = WalId(9);

/// The variable that makes this process the child. It holds the directory, and whether files are
/// mapped.
const CHILD: &str = "STRATAWAL_JOURNAL_CHILD";

fn options(is_mapped: bool) -> JournalOptions {
    JournalOptions::default().bytes(256 << 10).first_file_bytes(16 << 10).mapped(is_mapped)
}

/// Puts one record after another, prints the count after each, and settles so that files are
/// recycled.
fn run_child(dir: &Path, is_mapped: bool) {
    let storage: Arc<dyn Storage> = Arc::new(UnixStorage::new());
    let journal = Journal::create(&storage, dir, WAL, options(is_mapped)).expect("it is new");
    let mut out = std::io::stdout().lock();
    for seq in 0.. {
        let part = Part {
            stream: StreamId(1),
            name: Some("s".into()),
            first: SeqNo(seq),
            count: 1,
            timestamp: 0,
            firm: false,
            body: format!("entry {seq}").into_bytes().repeat(20).into(),
        };
        let position = journal.append(&Record::Data(vec![part])).expect("there is room");
        writeln!(out, "{}", seq + 1).expect("the parent reads");
        out.flush().expect("the parent reads");
        // The last hundred records are kept.
        if seq % 50 == 49 {
            let kept = 100 * (position.end - position.lsn);
            journal.release(Lsn(position.lsn.0.saturating_sub(kept))).expect("the disk works");
        }
    }
}

/// The test that the child process runs. In the parent it does nothing.
#[test]
fn child_of_the_kills() {
    if let Some(arguments) = env::var_os(CHILD) {
        let arguments = arguments.into_string().expect("the parent has written it");
        let (kind, dir) = arguments.split_once(' ').expect("the parent has written it");
        run_child(Path::new(dir), kind == "mapped");
    }
}

fn kill_one(is_mapped: bool, after: Duration) {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("journal");
    let kind = if is_mapped { "mapped" } else { "written" };
    let mut child = Command::new(env::current_exe().expect("this test"))
        .args(["child_of_the_kills", "--exact", "--nocapture", "--quiet"])
        .env(CHILD, format!("{kind} {}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test can be started again");
    let out = BufReader::new(child.stdout.take().expect("it is piped"));
    let counts = thread::spawn(move || out.lines().filter_map(|line| line.ok()?.parse::<u64>().ok()).last());
    thread::sleep(after);
    child.kill().expect("it runs until it is killed");
    child.wait().expect("it was killed");
    let acknowledged = counts.join().expect("the thread does not panic").unwrap_or(0);
    let storage = UnixStorage::new();
    let image = match Image::read(&storage, &dir, WAL) {
        Ok(image) => image,
        // The child was killed before it created the journal.
        Err(_) if acknowledged == 0 => return,
        Err(error) => panic!("{kind}, {acknowledged} acknowledged: {error}"),
    };
    assert!(image.damage().is_none(), "{kind}: {:?}", image.damage());
    let needed = image.needed();
    let Some(stream) = needed.streams.get(&StreamId(1)) else {
        assert_eq!(acknowledged, 0);
        return;
    };
    let first = stream.parts[0].part.first;
    let tail = stream.tail_after(first).expect("no promise rests on them");
    assert!(tail.end.0 >= acknowledged, "{kind}: {} of {acknowledged} are left", tail.end);
    assert!(tail.end.0 <= acknowledged + 1, "{kind}: {} where {acknowledged} were put", tail.end);
    for (_, located) in &tail.parts {
        let expected = format!("entry {}", located.part.first).into_bytes().repeat(20);
        assert_eq!(&located.part.body[..], expected, "{kind}");
    }
}

#[test]
fn killed_process_loses_no_record_that_was_put() {
    let kills = env::var("JOURNAL_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(10);
    for i in 0..kills {
        for is_mapped in [true, false] {
            kill_one(is_mapped, Duration::from_millis(20 + 13 * (i % 23)));
        }
    }
}
