//! The directory of a log: its creation, the files in it that belong to the log, and the file
//! systems it may be on.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use stratawal::{DamageKind, Durability, ErrorKind, Options, Wal, inspect};
use stratawal_testkit::{Crash, HookedStorage, Operation, Rng, SimStorage};

const DIR: &str = "STRATAWAL_TEST_ROOT_DIR";

/// The body of tests that need their own process: opens the log named in the environment, appends,
/// and prints the result.
#[test]
fn in_a_process_of_its_own() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
    match Wal::open(&dir) {
        Ok(wal) => {
            wal.stream("s").unwrap().append("1").unwrap();
            println!("\nopened");
            // Holds the log until the input ends.
            io::stdin().read_line(&mut line).unwrap();
        }
        Err(error) => println!("\n{:?}: {error}", error.kind()),
    }
}

fn in_process(dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["in_a_process_of_its_own", "--exact", "--nocapture"]).env(DIR, dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn printed(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line =
        text.lines().find(|line| ["opened", "Locked", "Io", "Missing", "Damaged"].iter().any(|w| line.starts_with(w)));
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[test]
fn creation_by_several_processes_has_one_winner() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a/b/log");
        let mut children: Vec<_> = (0..6).map(|_| in_process(&log).spawn().unwrap()).collect();
        let mut inputs: Vec<_> = children.iter_mut().map(|child| child.stdin.take().unwrap()).collect();
        // All processes start at the same time.
        inputs.iter_mut().for_each(|input| input.write_all(b"\n").unwrap());
        // The winner holds the log until the others are refused.
        let mut outcomes = Vec::new();
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(inputs);
        for child in children {
            outcomes.push(printed(&child.wait_with_output().unwrap().stdout));
        }
        let winners = outcomes.iter().filter(|said| *said == "opened").count();
        assert!(winners >= 1, "{outcomes:?}");
        assert!(outcomes.iter().all(|said| said == "opened" || said.starts_with("Locked")), "{outcomes:?}");
        assert_eq!(Wal::open(&log).unwrap().stream("s").unwrap().next_seq(), winners as u64);
    }
}

#[test]
fn parent_that_may_not_be_listed_holds_a_log() {
    if !rustix::process::geteuid().is_root() {
        let _ = writeln!(io::stderr(), "\nskipped: a parent that may not be listed: not root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let parent = dir.path().join("drop-box");
    fs::create_dir(&parent).unwrap();
    // The other process may create names in the directory, and may open files whose names it knows.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o733)).unwrap();
    // The test program must be in a directory that this user may read.
    let program = dir.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["in_a_process_of_its_own", "--exact", "--nocapture"]).env(DIR, parent.join("log"));
    let child = command.uid(65534).gid(65534).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(printed(&child.wait_with_output().unwrap().stdout), "opened", "the first time");
}

#[test]
fn name_in_an_unlistable_parent_is_durable() {
    let disk = SimStorage::new(1);
    let storage = HookedStorage::new(disk.clone());
    storage.set(|operation, path| {
        let parent = path == Path::new("/");
        if operation == Operation::SyncDir && parent { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
    });
    let log = Path::new("/log");
    let wal = Options::new().open_on(Arc::new(storage), log, false).unwrap();
    wal.stream("s").unwrap().append("kept").unwrap();
    let after = SimStorage::on(disk.disk().crash(Crash::Lost, &mut Rng::new(1)), 2);
    let wal = Options::new().open_on(Arc::new(after), log, false).unwrap();
    assert_eq!(wal.stream("s").unwrap().next_seq(), 1);
}

#[test]
fn foreign_names_do_not_block_opening() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let at = |name: &str| log.join(name);
    // This exists before the log does.
    fs::create_dir_all(at("streams/lost+found")).unwrap();
    fs::create_dir_all(at(".tmp-FORMAT")).unwrap();
    fs::create_dir_all(at("notes/deep")).unwrap();
    fs::write(at("streams/README.TXT"), "foreign").unwrap();
    let append = || {
        let wal = Wal::open(&log).unwrap();
        let seq = wal.stream("s").unwrap().append("x").unwrap();
        assert_eq!(wal.streams().unwrap(), ["s"]);
        wal.close().unwrap();
        seq
    };
    assert_eq!(append(), 0);
    // This is next to the log's files.
    fs::write(at(".tmp-FORMAT-0123456789abcdef"), "ours").unwrap();
    fs::write(at(".tmp-thesis"), "foreign").unwrap();
    fs::create_dir(at(".tmp-dir")).unwrap();
    fs::create_dir(at("streams/.new-x")).unwrap();
    fs::create_dir(at("streams/.new-x/foreign")).unwrap();
    fs::write(at("streams/s/notes.txt"), "foreign").unwrap();
    fs::create_dir(at("streams/s/backup")).unwrap();
    assert_eq!(append(), 1);
    assert_eq!(append(), 2);
    assert!(!at(".tmp-FORMAT-0123456789abcdef").exists(), "a file that was being written is removed");
    for kept in ["streams/lost+found", ".tmp-FORMAT", "notes/deep", "streams/README.TXT", ".tmp-dir", ".tmp-thesis"] {
        assert!(at(kept).exists(), "{kept} is not ours");
    }
    assert!(at("streams/s/notes.txt").exists() && at("streams/s/backup").exists());
}

#[test]
fn link_under_a_streams_name_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let wal = Wal::open(&log).unwrap();
    wal.stream("target").unwrap().append("1").unwrap();
    wal.close().unwrap();
    let wal = Wal::open(&log).unwrap();
    symlink("target", log.join("streams/link")).unwrap();
    symlink("nothing", log.join("streams/nowhere")).unwrap();
    fs::write(log.join("streams/file"), "text").unwrap();
    let names = ["file", "link", "nowhere"];
    assert_eq!(wal.streams().unwrap(), ["file", "link", "nowhere", "target"]);
    let read_only = Options::new().open_read_only(&log).unwrap();
    for name in names {
        for wal in [&wal, &read_only] {
            let error = wal.stream(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{name}: {error}");
            assert!(error.to_string().contains("a link or a file"), "{error}");
        }
        assert_eq!(wal.delete_stream(name).unwrap_err().kind(), ErrorKind::Damaged, "{name}");
        assert!(inspect::segment_files(&log, name).unwrap().is_empty());
    }
    let checks = inspect::verify(&log, None).unwrap().map(Result::unwrap);
    let damaged: Vec<_> = checks.filter_map(|check| Some((check.stream, check.damage.first()?.damage()))).collect();
    assert_eq!(damaged, names.map(|name| (name.to_owned(), Some(DamageKind::Directory))));
    assert!(log.join("streams/file").exists() && log.join("streams/target").exists());
}

#[test]
fn format_and_lock_must_be_plain_files() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let open = || Wal::open(&log).map(drop);
    open().unwrap();
    let replace = |name: &str, with: &dyn Fn(&Path)| {
        let kept = log.join(name).with_extension("kept");
        fs::rename(log.join(name), &kept).unwrap();
        with(&log.join(name));
        let error = open().unwrap_err();
        assert!(error.to_string().contains("not a plain file"), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        let _ = fs::remove_file(log.join(name)).or_else(|_| fs::remove_dir(log.join(name)));
        fs::rename(&kept, log.join(name)).unwrap();
        error.kind()
    };
    let link = |path: &Path| symlink(path.with_extension("kept"), path).unwrap();
    let directory = |path: &Path| fs::create_dir(path).unwrap();
    assert_eq!(replace("FORMAT", &link), ErrorKind::Damaged);
    assert_eq!(replace("FORMAT", &directory), ErrorKind::Damaged);
    assert_eq!(replace("LOCK", &link), ErrorKind::Io);
    assert_eq!(replace("LOCK", &directory), ErrorKind::Io);
    open().unwrap();
}

#[test]
fn a_log_inside_another_is_opened_but_not_created() {
    let dir = tempfile::tempdir().unwrap();
    let outer = dir.path().join("outer");
    let moved = dir.path().join("moved");
    for path in [&outer, &moved] {
        Wal::open(path).unwrap().close().unwrap();
    }
    for name in ["new", "streams", "streams/s", "new/deep", "none/../new", "streams/none/deep/../../new"] {
        let error = Wal::open(outer.join(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Nested, "{name}: {error}");
        assert!(error.to_string().contains(&*outer.canonicalize().unwrap().display().to_string()), "{error}");
        assert_eq!(outer.join(name).exists(), name == "streams", "nothing is created");
    }
    // Not even a log that is damaged or of a newer version.
    let format = fs::read(outer.join("FORMAT")).unwrap();
    fs::write(outer.join("FORMAT"), [&format[..100], &vec![0; format.len() - 100]].concat()).unwrap();
    assert_eq!(Wal::open(outer.join("new")).unwrap_err().kind(), ErrorKind::Nested);
    fs::rename(&moved, outer.join("moved")).unwrap();
    Wal::open(outer.join("moved")).unwrap();
    // Another program's file of this name does not make a log.
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("FORMAT"), "the format of my files").unwrap();
    Wal::open(other.join("log")).unwrap();
}

#[test]
fn locked_log_names_only_a_process_that_exists() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let text = || Wal::open(dir.path()).unwrap_err().to_string();
    assert!(text().contains("locked by this process"), "{}", text());
    // The lock file names a process that has ended, while another process holds the lock.
    fs::write(dir.path().join("LOCK"), "4194305\n").unwrap();
    let holder = if cfg!(target_os = "linux") { "locked by this process" } else { "locked by an unknown process" };
    assert!(text().contains(holder) && !text().contains("4194305"), "{}", text());
    drop(wal);
}

/// Mounts an image of `log` on a read-only file system. If that is not possible, prints a line and
/// returns `None`.
fn mount_unchangeable(kind: &str, log: &Path, dir: &Path) -> Option<PathBuf> {
    let skip = |why: &str| {
        let _ = writeln!(io::stderr(), "\nskipped: a log on {kind}: {why}");
        None
    };
    if !rustix::process::geteuid().is_root() {
        return skip("not root");
    }
    let image = dir.join("image");
    let mounted = dir.join("mounted");
    fs::create_dir(&mounted).unwrap();
    let mut make = Command::new(if kind == "squashfs" { "mksquashfs" } else { "mkfs.erofs" });
    if kind == "squashfs" {
        make.arg(log).arg(&image).arg("-quiet")
    } else {
        make.arg(&image).arg(log)
    };
    if !make.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return skip("the program that makes one is missing or fails");
    }
    let mount = Command::new("mount").args(["-t", kind, "-o", "loop,ro"]).arg(&image).arg(&mounted).output();
    match mount {
        Ok(output) if output.status.success() => Some(mounted),
        Ok(output) => skip(String::from_utf8_lossy(&output.stderr).trim()),
        Err(e) => skip(&e.to_string()),
    }
}

#[test]
fn unclean_log_is_read_from_read_only_media() {
    for kind in ["squashfs", "erofs"] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let wal = Wal::open(&log).unwrap();
        wal.stream("s").unwrap().with_durability(Durability::Flushed).append("unclean").unwrap();
        // A copy of the log as after a kill: its newest entries are not attested.
        let Some(mounted) = mount_unchangeable(kind, &log, dir.path()) else { continue };
        let read = || -> Result<u64, stratawal::Error> {
            let stream = Options::new().open_read_only(&mounted)?.stream("s")?;
            stream.iter(..).try_for_each(|entry| entry.map(drop))?;
            Ok(stream.next_seq())
        };
        let seen = read();
        assert!(Command::new("umount").arg(&mounted).status().unwrap().success());
        assert_eq!(seen.unwrap(), 1, "{kind}");
    }
}

/// The only segment file of a stream.
fn segment_of(log: &Path, stream: &str) -> PathBuf {
    fs::read_dir(log.join("streams").join(stream)).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn misplaced_valid_segment_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let made = |name: &str| {
        let log = dir.path().join(name);
        let wal = Wal::open(&log).unwrap();
        for stream in ["s", "t"] {
            wal.stream(stream).unwrap().append("x").unwrap();
        }
        wal.close().unwrap();
        log
    };
    let log = made("log");
    let other = made("other");
    let own = fs::read(segment_of(&log, "s")).unwrap();
    let report = |bytes: &[u8], name: Option<&str>| {
        let path = segment_of(&log, "s");
        fs::write(&path, bytes).unwrap();
        if let Some(name) = name {
            fs::rename(&path, path.with_file_name(name)).unwrap();
        }
        let error = Wal::open(&log).unwrap().stream("s").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        assert!(
            error.to_string().contains("in the wrong place") && !error.to_string().contains("not valid"),
            "{error}"
        );
        error.to_string()
    };
    assert!(report(&fs::read(segment_of(&log, "t")).unwrap(), None).contains("another name"));
    assert!(report(&fs::read(segment_of(&other, "s")).unwrap(), None).contains("another log"));
    let renamed = report(&own, Some("00000000000000000000-00000007.seg"));
    assert!(renamed.contains("00000000000000000000-00000001.seg"), "{renamed}");
}

#[test]
fn io_errors_name_path_cause_and_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let wal = Wal::open(&log).unwrap();
    let streams = log.join("streams");
    fs::rename(&streams, log.join("moved")).unwrap();
    fs::create_dir(&streams).unwrap();
    // The system refuses the streams' directory, which is a loop of links.
    fs::remove_dir(&streams).unwrap();
    symlink("streams", &streams).unwrap();
    for error in [wal.stream("s").map(drop).unwrap_err(), wal.delete_stream("s").unwrap_err()] {
        let text = error.to_string();
        assert!(text.contains(&*streams.join("s").to_string_lossy()), "{text}");
        assert!(text.contains("symbolic links"), "{text}");
    }
    // One of the directories in the path is a file.
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for (path, named) in [(file.join("log"), &file), (file.clone(), &file)] {
        let text = Wal::open(&path).unwrap_err().to_string();
        assert!(text.contains(&*named.to_string_lossy()), "{text}");
    }
}

#[test]
fn foreign_file_named_as_the_reserve_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let reserve = dir.path().join("RESERVE");
    fs::write(&reserve, "a list of reserved rooms").unwrap();
    let wal = Wal::open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    stream.append("x").unwrap();
    stream.truncate_before(1).unwrap();
    wal.close().unwrap();
    assert_eq!(fs::read(&reserve).unwrap(), b"a list of reserved rooms");
    assert_eq!(inspect::reserve_bytes(dir.path()).unwrap(), 0, "it holds no space for the log");
}
