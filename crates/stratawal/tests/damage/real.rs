//! Damage to real files: links, which only a real file system has, and reading through mappings.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use stratawal::ErrorKind;

use crate::check::{Depth, OWN, Read};
use crate::layout::{DamagedLog, Layout, Real, files, layouts};

/// A way to harm a file or directory. `aside` is an unused path in the same file system, and
/// `other` is the corresponding file of another stream.
type Act = (&'static str, fn(path: &Path, aside: &Path, other: &Path));

const ACTS: [Act; 6] = [
    ("a link to its own content", |path, aside, _| {
        fs::rename(path, aside).unwrap();
        symlink(aside, path).unwrap();
    }),
    ("a link to another's", |path, aside, other| {
        fs::rename(path, aside).unwrap();
        symlink(other, path).unwrap();
    }),
    ("removed", |path, _, _| remove(path)),
    ("emptied", |path, _, _| {
        let dir = path.is_dir();
        remove(path);
        if dir { fs::create_dir(path).unwrap() } else { fs::write(path, "").unwrap() }
    }),
    ("doubled", |path, _, _| copy(path, &beside(path))),
    ("renamed", |path, _, _| fs::rename(path, beside(path)).unwrap()),
];

fn remove(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

/// Returns another name of the same form in the same directory.
fn beside(path: &Path) -> PathBuf {
    let segment = path.extension().is_some_and(|extension| extension == "seg");
    if segment { path.with_file_name("00000000000000000003-000000ff.seg") } else { path.with_extension("copy") }
}

/// Empties `root`, then puts the layout's files into it.
fn write(layout: &Layout, root: &Path) {
    for old in fs::read_dir(root).unwrap() {
        let old = old.unwrap().path();
        if old.is_symlink() { fs::remove_file(&old).unwrap() } else { remove(&old) }
    }
    for (path, bytes) in files(&layout.storage) {
        let path = root.join(path.strip_prefix("/").unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Whether the harm may also make the stream disappear without an error. No file lists the streams.
fn is_stated(what: &str, act: &str) -> bool {
    match what {
        "log/streams/s" => matches!(act, "removed" | "renamed"),
        "log/streams" => act == "emptied",
        _ => false,
    }
}

#[test]
fn link_or_missing_file_loses_nothing_silently() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let mut refused = 0;
    let mut whole = 0;
    for layout in layouts() {
        let segments = layout.segments();
        let mut targets: Vec<PathBuf> =
            segments.iter().map(|path| path.strip_prefix("/").unwrap().to_owned()).collect();
        let roots = ["log/FORMAT", "log/LOCK", "log/RESERVE", "log/streams/s", "log/streams"];
        targets.extend(roots.into_iter().map(PathBuf::from));
        for target in &targets {
            for (act, damage) in ACTS {
                write(&layout, root);
                let path = root.join(target);
                if !path.exists() {
                    fs::write(&path, "").unwrap();
                }
                let others = fs::read_dir(root.join("log/streams/other")).unwrap().next().unwrap().unwrap().path();
                let other = if path.is_dir() { root.join("log/streams/other") } else { others };
                damage(&path, &root.join("aside"), &other);
                let name = target.to_str().unwrap();
                let what = format!("{name} {act}");
                match check(&layout, &what, &Real { root, mapped: false }, is_stated(name, act)) {
                    Some(Read::All) => whole += 1,
                    _ => refused += 1,
                }
            }
        }
    }
    println!("refused {refused}, whole {whole}");
    assert!(refused > 100 && whole > 50, "{refused} refused, {whole} whole");
}

/// Checks that the log returns either all entries, or a typed error that leaves the files
/// unchanged, or, if `may_be_gone`, that the stream is missing.
fn check(layout: &Layout, what: &str, log: &Real<'_>, may_be_gone: bool) -> Option<Read> {
    let what = format!("{OWN}{}: {what}", layout.name);
    let before = log.files();
    for read_only in [true, false] {
        let typed = |error: &stratawal::Error| {
            let refused = matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Io | ErrorKind::Missing);
            assert!(refused, "{what}: {error:?}");
        };
        let wal = match log.open_log(read_only) {
            Ok(wal) => wal,
            Err(error) => {
                typed(&error);
                assert!(error.to_string().contains("log"), "{what}: names no file: {error}");
                assert!(log.files() == before, "{what}: files were changed");
                if read_only { continue } else { return None }
            }
        };
        let stream = match wal.stream("s") {
            Ok(stream) => stream,
            Err(error) => {
                typed(&error);
                assert_eq!(error.stream(), Some("s"), "{what}: {error}");
                let of_stream = |files: Vec<(PathBuf, Vec<u8>)>| -> Vec<_> {
                    files.into_iter().filter(|file| file.0.starts_with("/log/streams/s")).collect()
                };
                assert!(of_stream(log.files()) == of_stream(before.clone()), "{what}: files were changed");
                if read_only { continue } else { return Some(Read::Refused) }
            }
        };
        if may_be_gone && !stream.exists() {
            continue;
        }
        drop(stream);
        assert_eq!(layout.read(&what, &wal, u64::MAX, Depth::Deep), Read::All, "{what}");
    }
    Some(Read::All)
}

/// Damages a sample of bits and pages, and reads with positioned reads and through mappings.
#[test]
fn damaged_real_files_lose_nothing_silently() {
    let dir = tempfile::tempdir().unwrap();
    let step = if crate::all() { 61 } else { 311 };
    for layout in layouts() {
        for path in layout.segments() {
            let bytes = layout.bytes(&path);
            let used = bytes.iter().rposition(|&b| b != 0).unwrap();
            let file = dir.path().join(path.strip_prefix("/").unwrap());
            let bits =
                (0..used + 16).step_by(step).filter(|at| !crate::VERSION.contains(&(*at as u64)) && *at < bytes.len());
            let bits = bits.map(|at| (at..at + 1, false));
            let pages = (0..bytes.len()).step_by(4096).map(|at| (at..(at + 4096).min(bytes.len()), true));
            for (at, zeroed) in bits.chain(pages) {
                for mapped in [false, true] {
                    write(&layout, dir.path());
                    let mut bytes = bytes.clone();
                    if zeroed {
                        bytes[at.clone()].fill(0)
                    } else {
                        bytes[at.start] ^= 1 << (at.start % 8)
                    }
                    fs::write(&file, &bytes).unwrap();
                    let silent_from = layout.silent_from(&path, &(at.start as u64..at.end as u64));
                    let what = format!("{at:?} of {}, mapped: {mapped}", file.display());
                    layout.check(&what, &Real { root: dir.path(), mapped }, silent_from, Depth::Deep);
                }
            }
        }
    }
}
