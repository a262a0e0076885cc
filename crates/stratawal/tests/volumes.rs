//! Fills real file systems to the last block. Acknowledged entries are kept, dropping entries makes
//! room, and appends continue.
//!
//! Each file system is filled by a log without a commit journal, with one that is mapped where the
//! file system allows it, and with one that is written.
//!
//! The tests mount file systems, which needs root. Without it, or without the tool that creates
//! one, a test prints a line and passes.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use stratawal::{Durability, ErrorKind, Options, Stream, StreamOptions, Wal};
use stratawal_storage::{Storage, UnixStorage};
use tempfile::TempDir;

/// A file system, unmounted when this is dropped.
struct Volume {
    dir: TempDir,
}

impl Volume {
    /// Creates a file system of `mib` MiB; `kind` is its name for `mount`. If that is not possible,
    /// prints a line with the reason and returns `None`.
    fn mount(kind: &str, mib: u64) -> Option<Self> {
        let skip = |why: &str| {
            // Bypasses the test harness, which hides the output of passing tests.
            let _ = writeln!(std::io::stderr(), "\nskipped: a full {kind}: {why}");
            None
        };
        if Command::new("id").arg("-u").output().ok()?.stdout != b"0\n" {
            return skip("not root");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        let mut mount = Command::new("mount");
        if kind == "tmpfs" {
            mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "none"]);
        } else {
            let image = dir.path().join("image");
            fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
            let made =
                Command::new(format!("mkfs.{kind}")).arg(&image).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if !made.is_ok_and(|status| status.success()) {
                return skip(&format!("mkfs.{kind} is missing or fails"));
            }
            mount.args(["-t", kind, "-o", "loop"]).arg(image);
        }
        let output = mount.arg(dir.path().join("mnt")).output().ok()?;
        if !output.status.success() {
            return skip(String::from_utf8_lossy(&output.stderr).trim());
        }
        Some(Self { dir })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// Fills the file system, leaving about `left` bytes of room.
    fn fill_up_to(&self, left: u64) {
        let mut file = fs::File::create(self.path().join("filler")).unwrap();
        while self.free() > left {
            if file.write_all(&[1; 256 << 10]).and_then(|()| file.sync_data()).is_err() {
                break;
            }
        }
    }

    /// Gives the space of the filler back.
    fn empty_filler(&self) {
        let filler = fs::File::create(self.path().join("filler")).unwrap();
        filler.sync_all().unwrap();
    }

    fn free(&self) -> u64 {
        UnixStorage::new().free_space(&self.path()).unwrap()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

/// How the log keeps its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journal {
    Without,
    Mapped,
    Written,
}

fn open(volume: &Volume, journal: Journal) -> stratawal::Result<Wal> {
    let streams = StreamOptions::new().segment_bytes(256 << 10);
    Options::new()
        .stream_defaults(streams)
        .journal(journal != Journal::Without)
        .journal_mapped(journal == Journal::Mapped)
        .journal_bytes(256 << 10)
        .open(volume.path().join("log"))
}

/// Runs `act` on the full disk. If the log has a journal, `act` may need space: then nothing has
/// changed, and it succeeds once there is space.
fn with_room<T>(volume: &Volume, journal: Journal, act: impl Fn() -> stratawal::Result<T>) -> T {
    match act() {
        Err(error) if is_full(&error) && journal != Journal::Without => {
            println!("volume: made room for the journal: {error}");
            volume.empty_filler();
            act().unwrap()
        }
        other => other.unwrap(),
    }
}

/// Opens the log and its streams on the full disk. The commit journal needs space only where
/// overwriting a block takes a new one.
fn open_full(volume: &Volume, kind: &str, journal: Journal) -> (Wal, Stream, Stream) {
    let wal = if kind == "btrfs" {
        with_room(volume, journal, || open(volume, journal))
    } else {
        open(volume, journal).unwrap()
    };
    let a = wal.stream("a").unwrap();
    let b = wal.stream("b").unwrap();
    (wal, a, b)
}

/// Truncates `stream` on the full disk, like [`with_room`].
fn truncate_with_room(
    volume: &Volume,
    journal: Journal,
    stream: &Stream,
    truncate: impl Fn() -> stratawal::Result<()>,
) {
    with_room(volume, journal, || match truncate() {
        // A truncation does not recover a stream that a full disk stopped, but a sync does.
        Err(error) if error.kind() == ErrorKind::Poisoned && is_full(&error) => {
            stream.sync()?;
            truncate()
        }
        other => other,
    });
}

/// Whether a full disk is the cause. A copy-on-write file system may turn out to be full during a
/// write. The next append that has room recovers the stream; its entries are then known.
fn is_full(error: &stratawal::Error) -> bool {
    error.kind() == ErrorKind::Full
        || error.kind() == ErrorKind::Poisoned && error.to_string().contains("a full disk stopped")
}

fn entry(seq: u64, len: usize) -> Vec<u8> {
    let mut bytes = seq.to_le_bytes().to_vec();
    bytes.resize(len.max(8), seq.to_le_bytes()[0]);
    bytes
}

/// Appends ever shorter entries until even the shortest does not fit. Returns one past the last
/// acknowledged seq.
fn append_until_full(stream: &Stream) -> u64 {
    let mut end = stream.next_seq();
    for len in [20_000, 3000, 300, 8] {
        loop {
            match stream.append(entry(stream.next_seq(), len)) {
                Ok(seq) => end = seq + 1,
                Err(error) => {
                    assert!(is_full(&error), "{error}");
                    break;
                }
            }
        }
    }
    end
}

/// Checks that at least the entries `first..acknowledged` exist. Returns one past the last entry.
fn assert_entries(stream: &Stream, first: u64, acknowledged: u64) -> u64 {
    assert_eq!(stream.first_seq(), first);
    let mut seq = first;
    for found in stream.iter(..) {
        let found = found.unwrap();
        assert_eq!(found.data()[..], entry(seq, found.data().len()), "{seq}");
        seq += 1;
    }
    assert!((acknowledged..=stream.next_seq()).contains(&seq), "{seq} of {acknowledged}");
    seq
}

fn seen_beside(volume: &Volume, stream: &str, first: u64, acknowledged: u64) {
    let wal = Options::new().open_read_only(volume.path().join("log")).unwrap();
    assert_entries(&wal.stream(stream).unwrap(), first, acknowledged);
}

fn fill_and_truncate(kind: &str, mib: u64, left: u64, journal: Journal) {
    let Some(volume) = Volume::mount(kind, mib) else { return };
    let wal = open(&volume, journal).unwrap();
    let a = wal.stream("a").unwrap();
    let b = wal.stream("b").unwrap().with_durability(Durability::Flushed);
    b.append(entry(0, 100)).unwrap();
    volume.fill_up_to(left);
    let end_a = append_until_full(&a);
    let end_b = append_until_full(&b);
    println!("volume: {kind}, {journal:?}, full with {end_a} and {end_b} entries, {} bytes free", volume.free());
    assert!(end_a > 50, "{end_a}");
    assert_entries(&a, 0, end_a);
    seen_beside(&volume, "a", 0, end_a);
    // The log is opened again on the full disk, and read.
    drop((a, b, wal));
    let (wal, a, b) = open_full(&volume, kind, journal);
    let end_a = assert_entries(&a, 0, end_a);
    assert_entries(&b, 0, end_b);
    volume.fill_up_to(0);
    // Entries can be dropped while the disk is full; this makes room.
    let first = end_a / 2;
    truncate_with_room(&volume, journal, &a, || a.truncate_before(first));
    assert_entries(&a, first, end_a);
    // The files of the dropped entries may not be removed yet. The append does that if it has to.
    a.append(entry(end_a, 3000)).unwrap();
    // Once the disk is full again, all entries are dropped: the last from the end, the others from
    // the beginning.
    volume.fill_up_to(0);
    append_until_full(&a);
    truncate_with_room(&volume, journal, &a, || a.truncate_before(a.next_seq() - 1));
    truncate_with_room(&volume, journal, &a, || a.truncate_from(a.next_seq() - 1));
    let end_a = a.next_seq();
    assert_eq!(assert_entries(&a, end_a, end_a), end_a);
    volume.fill_up_to(0);
    let end_b = append_until_full(&b);
    let _ = wal.close();
    drop((a, b, wal));
    // Now the disk has room.
    fs::remove_file(volume.path().join("filler")).unwrap();
    let wal = open(&volume, journal).unwrap();
    let a = wal.stream("a").unwrap();
    let b = wal.stream("b").unwrap();
    assert_entries(&a, end_a, end_a);
    let end_b = assert_entries(&b, 0, end_b);
    for i in 0..100 {
        assert_eq!(a.append(entry(end_a + i, 1000)).unwrap(), end_a + i);
        assert_eq!(b.append(entry(end_b + i, 1000)).unwrap(), end_b + i);
    }
    wal.close().unwrap();
    seen_beside(&volume, "a", end_a, end_a + 100);
    seen_beside(&volume, "b", 0, end_b + 100);
}

/// The variable with the directory of the file system; it makes this process the child.
const CHILD: &str = "STRATAWAL_VOLUMES_CHILD";

/// Reads through mappings, both as the writer and as another process, while the disk fills up.
fn maps_while_it_fills(path: &Path) {
    let streams = StreamOptions::new().segment_bytes(256 << 10);
    // Without a journal, so that the entries are in segments from the start.
    let options = Options::new().journal(false).stream_defaults(streams);
    // SAFETY: the file system belongs to this test, and no other process uses its files.
    #[allow(unsafe_code)]
    let options = unsafe { options.map_reads() };
    let wal = options.open(path.join("log")).unwrap();
    let stream = wal.stream("s").unwrap();
    let held: Vec<Stream> = (0..3)
        .map(|_| {
            for _ in 0..100 {
                stream.append(entry(stream.next_seq(), 3000)).unwrap();
            }
            options.open_read_only(path.join("log")).unwrap().stream("s").unwrap()
        })
        .collect();
    let done = AtomicBool::new(false);
    let end = thread::scope(|scope| {
        for reader in held.iter().chain([&stream]) {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_entries(reader, 0, 0);
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_entries(&options.open_read_only(path.join("log")).unwrap().stream("s").unwrap(), 0, 0);
            }
        });
        let end = append_until_full(&stream);
        // Keeps reading while the disk stays full.
        thread::sleep(Duration::from_millis(200));
        done.store(true, Ordering::Relaxed);
        end
    });
    for reader in held.iter().chain([&stream]) {
        assert_entries(reader, 0, reader.next_seq().min(end));
    }
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.contains(".seg"), "nothing was mapped");
}

#[test]
fn mapped_readers_on_a_full_tmpfs_get_no_sigbus() {
    if let Some(path) = std::env::var_os(CHILD) {
        return maps_while_it_fills(Path::new(&path));
    }
    const SIGBUS: i32 = 7;
    let Some(volume) = Volume::mount("tmpfs", 8) else { return };
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "mapped_readers_on_a_full_tmpfs_get_no_sigbus", "--test-threads=1"])
        .env(CHILD, volume.path())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert_ne!(status.signal(), Some(SIGBUS), "reading a mapping on a full disk ended the process by SIGBUS");
    assert!(status.success(), "{status}");
}

#[test]
fn full_tmpfs_keeps_acknowledged() {
    fill_and_truncate("tmpfs", 4, 3 << 20, Journal::Without);
}

#[test]
fn full_tmpfs_keeps_acknowledged_with_a_journal() {
    fill_and_truncate("tmpfs", 4, 3 << 20, Journal::Mapped);
}

#[test]
fn full_tmpfs_keeps_acknowledged_with_a_written_journal() {
    fill_and_truncate("tmpfs", 4, 3 << 20, Journal::Written);
}

#[test]
fn full_ext4_keeps_acknowledged() {
    fill_and_truncate("ext4", 32, 6 << 20, Journal::Without);
}

#[test]
fn full_ext4_keeps_acknowledged_with_a_journal() {
    fill_and_truncate("ext4", 32, 6 << 20, Journal::Mapped);
}

#[test]
fn full_ext4_keeps_acknowledged_with_a_written_journal() {
    fill_and_truncate("ext4", 32, 6 << 20, Journal::Written);
}

#[test]
fn full_xfs_keeps_acknowledged() {
    fill_and_truncate("xfs", 320, 6 << 20, Journal::Without);
}

#[test]
fn full_xfs_keeps_acknowledged_with_a_journal() {
    fill_and_truncate("xfs", 320, 6 << 20, Journal::Mapped);
}

#[test]
fn full_xfs_keeps_acknowledged_with_a_written_journal() {
    fill_and_truncate("xfs", 320, 6 << 20, Journal::Written);
}

#[test]
fn full_btrfs_keeps_acknowledged() {
    fill_and_truncate("btrfs", 115, 24 << 20, Journal::Without);
}

#[test]
fn full_btrfs_keeps_acknowledged_with_a_journal() {
    fill_and_truncate("btrfs", 115, 24 << 20, Journal::Mapped);
}
