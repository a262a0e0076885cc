//! Where a log is created, and where not.

mod common;

use std::fs;
use std::path::Path;

use common::{Log, Ran, command, tree};

fn append(dir: &Path) -> Ran {
    let input = std::process::Stdio::from(fs::File::open("/dev/null").unwrap());
    command().arg("append").arg(dir).args(["s", "--json"]).stdin(input).output().unwrap().into()
}

/// Checks that a log is not created in `dir`, and that nothing is changed.
fn refused(log: &Log, dir: &Path, kind: &str, named: &Path) {
    let above = log.path().parent().unwrap().to_owned();
    let before = tree(&above);
    let ran = append(dir);
    let error = ran.error();
    assert_eq!((ran.code, &error["kind"]), (3, &kind.into()), "{}: {error}", dir.display());
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&named.display().to_string()), "{message} does not name {}", named.display());
    assert!(tree(&above) == before, "{} was changed", dir.display());
}

#[test]
fn directory_with_other_files_is_not_made_a_log() {
    for name in ["notes.txt", ".hidden", "streams/.file", "journal/x", "FORMAT.old"] {
        let log = Log::new();
        let dir = log.path();
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        fs::write(dir.join(name), "x").unwrap();
        let first = Path::new(name).components().next().unwrap();
        refused(&log, &dir, "not_a_log", Path::new(&first));
        assert!(append(&dir).err.contains("a new or an empty one"));
        for (command, arguments) in [
            ("cat", vec!["s"]),
            ("streams", vec![]),
            ("verify", vec![]),
            ("info", vec![]),
            ("delete", vec!["s", "--yes"]),
        ] {
            let ran = log.run(command, [arguments, vec!["--json"]].concat(), b"");
            let error = ran.error();
            assert_eq!((ran.code, &error["kind"]), (3, &"not_a_log".into()), "{command} {name}: {error}");
            assert!(!ran.err.contains("appending") && !ran.err.contains("new or"), "{command} {name}: {error}");
        }
    }
}

#[test]
fn empty_or_interrupted_directory_becomes_a_log() {
    for names in [&[][..], &["lost+found"], &["LOCK"], &["LOCK", "streams", ".tmp-FORMAT-0123456789abcdef"]] {
        let log = Log::new();
        fs::create_dir(log.path()).unwrap();
        for name in names {
            let path = log.path().join(name);
            match *name {
                "streams" | "lost+found" => fs::create_dir(path).unwrap(),
                _ => fs::write(path, "").unwrap(),
            }
        }
        log.append("s", b"x\n");
        assert_eq!(log.cat("s"), b"x\n", "{names:?}");
        // Files that are added to a log do not matter.
        fs::write(log.path().join("notes.txt"), "x").unwrap();
        log.append("s", b"y\n");
    }
}

#[test]
fn no_log_is_created_inside_another() {
    let log = Log::new();
    log.append("live", b"x\n");
    log.append("removed", b"x\n");
    assert_eq!(log.run("delete", ["removed", "--yes"], b"").code, 0);
    let link = log.beside("link");
    std::os::unix::fs::symlink(log.path().join("streams"), &link).unwrap();
    let dir = log.path();
    let real = dir.canonicalize().unwrap();
    for inside in ["streams/live", "streams/removed", "streams", "new", "new/deep/er", "journal", "streams/../other"] {
        refused(&log, &dir.join(inside), "nested", &real);
    }
    refused(&log, &link.join("new"), "nested", &real);
    // Relative paths, from a working directory inside the log.
    for (within, path) in [("streams", "new"), ("streams/live", "."), ("streams/live", "../new")] {
        let ran: Ran =
            command().current_dir(dir.join(within)).args(["append", path, "s", "/dev/null"]).output().unwrap().into();
        assert_eq!(ran.code, 3, "{within}: {}", ran.err);
    }
    // The message has the arguments to give.
    for (command, kind) in [("append", "nested"), ("cat", "missing")] {
        let ran: Ran =
            self::command().arg(command).arg(dir.join("streams/live")).args(["x", "--json"]).output().unwrap().into();
        assert_eq!(ran.error()["kind"], kind);
        assert!(ran.err.contains(&format!("give {} live", real.display())), "{}", ran.err);
    }
    // Beside the log, one is created.
    assert_eq!(append(&log.beside("beside")).code, 0);
    assert_eq!(log.run("verify", [""; 0], b"").code, 0);
}

#[test]
fn log_that_was_put_into_another_is_opened() {
    let log = Log::new();
    let inner = log.beside("inner");
    assert_eq!(append(&inner).code, 0);
    log.append("s", b"x\n");
    let moved = log.path().join("kept");
    fs::rename(&inner, &moved).unwrap();
    assert_eq!(append(&moved).code, 0);
}
