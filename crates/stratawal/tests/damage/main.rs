//! Damage of every kind to logs of every shape. The log returns all acknowledged entries, or an
//! error that names the lost ones, and leaves the files unchanged.
//!
//! Entries may be missing without an error in one case: if no undamaged byte attests them, the
//! damage cannot be distinguished from a torn tail. This harness uses the undamaged bytes to
//! compute which entries are attested, independently of the log's code.

mod around;
mod check;
mod frames;
mod journal;
mod journal_files;
mod layout;
mod limits;
mod real;
mod root;
mod salvage;
mod truncate;
mod verify;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use stratawal::ErrorKind;
use stratawal_storage::{Access, MemoryStorage, Storage};

use check::{Depth, OWN, Read};
use layout::{DIR, Layout, change, copy, files, layouts, many_segments, open, rotated, segments_of, set_len, swap};

const HEADER_LEN: u64 = 128;
/// The bytes of the version in a header.
const VERSION: Range<u64> = 8..12;

/// Whether every case is tried (`cargo xtask sweep`) or only a sample.
fn all() -> bool {
    std::env::var_os("STRATAWAL_ALL_BITS").is_some()
}

/// Runs `one` for each segment of each layout, on two threads.
fn each_segment(one: impl Fn(&Layout, &Path) + Sync) {
    let layouts = layouts();
    let work: Vec<_> =
        layouts.iter().flat_map(|layout| layout.segments().into_iter().map(move |path| (layout, path))).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let run = || {
            while let Some((layout, path)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                one(layout, path);
            }
        };
        let other = scope.spawn(run);
        run();
        other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Flips all bits, or one bit in every fifth byte, and a sample of the zeros after the last frame.
/// For one bit of each byte, every check runs.
#[test]
fn flipped_bit_loses_nothing_silently() {
    let flipped = AtomicUsize::new(0);
    each_segment(|layout, path| {
        let used = layout.bytes(path).iter().rposition(|&b| b != 0).unwrap() as u64;
        for at in 0..layout.len(path) {
            let passed_over = at > used + 16 && at % 509 != 0 || at > HEADER_LEN && at % 5 != 0;
            if passed_over && !all() || VERSION.contains(&at) {
                continue;
            }
            let looked_into = at * 5 % 8;
            let bits = if all() { 0..8 } else { looked_into..looked_into + 1 };
            // Only these bytes are damaged, so only entries that they attest may be lost.
            let silent_from = layout.silent_from(path, &(at..at + 1));
            for bit in bits {
                let storage = layout.storage.snapshot();
                change(&storage, path, at, |bytes| bytes[0] ^= 1 << bit, 1);
                let depth = if bit == looked_into && at <= used + 16 { Depth::Deep } else { Depth::Shallow };
                layout.check(&format!("bit {bit} of {at} in {}", path.display()), &storage, silent_from, depth);
                flipped.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    println!("volume: {} bits flipped, one at a time, in {} logs", flipped.into_inner(), layouts().len());
}

/// A newer format can have another checksum, but one that holds with this version shows that the
/// version is damaged.
#[test]
fn damaged_version_is_refused() {
    let of_stream = |files: Vec<(PathBuf, Vec<u8>)>| -> Vec<_> {
        files.into_iter().filter(|file| file.0.starts_with(DIR)).collect()
    };
    for layout in layouts() {
        for path in layout.segments() {
            for (at, bit) in VERSION.flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                if !all() && bit != 4 {
                    continue;
                }
                let storage = layout.storage.snapshot();
                change(&storage, &path, at, |bytes| bytes[0] ^= 1 << bit, 1);
                let before = files(&storage);
                for read_only in [true, false] {
                    let error = open(&storage, read_only).unwrap().stream("s").unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Damaged, "{OWN}{error}");
                    assert_eq!((error.stream(), error.segment().is_some()), (Some("s"), true), "{OWN}{error}");
                }
                assert!(of_stream(files(&storage)) == of_stream(before), "{OWN}files were changed");
            }
        }
    }
}

#[test]
fn zeroed_page_loses_nothing_silently() {
    for layout in layouts() {
        for path in layout.segments() {
            for (step, len) in [(4096, 4096), (512, 512), (2048, 4096)] {
                for at in (0..layout.len(&path)).step_by(step) {
                    let bytes = at..at + len as u64;
                    let silent_from = layout.silent_from(&path, &bytes);
                    let storage = layout.storage.snapshot();
                    change(&storage, &path, at, |bytes| bytes.fill(0), len);
                    layout.check(
                        &format!("{bytes:?} zeroed in {}", path.display()),
                        &storage,
                        silent_from,
                        Depth::Deep,
                    );
                }
            }
        }
    }
}

/// Cuts files at all lengths, or only near borders and at a sample of other lengths.
#[test]
fn cut_file_loses_nothing_silently() {
    each_segment(|layout, path| {
        let len = layout.len(path);
        for cut in 0..len {
            let near_border = [0, 1, 2, 510, 511].contains(&(cut % 512)) || cut.abs_diff(HEADER_LEN) < 3;
            let sampled = near_border || cut + 3 > len || cut % 97 == 0;
            if !all() && !sampled {
                continue;
            }
            // The rule of Length detects a cut of the newest file, wherever its chain ends, except
            // at one length in 4,096.
            let lawful = cut % 4096 == 8;
            let silent_from = if lawful { layout.attested(path, &(cut..len)) } else { u64::MAX };
            let storage = layout.storage.snapshot();
            set_len(&storage, path, cut);
            let depth = if sampled { Depth::Deep } else { Depth::Shallow };
            layout.check(&format!("{} cut to {cut} of {len}", path.display()), &storage, silent_from, depth);
        }
    });
}

#[test]
fn lengthened_file_loses_nothing_silently() {
    for layout in layouts() {
        for path in layout.segments() {
            let len = layout.len(&path);
            for more in [1, 7, 8, 16, 40, 4096] {
                let storage = layout.storage.snapshot();
                set_len(&storage, &path, len + more);
                // If the file is extended by a multiple of 4 KiB, it has a length that a file has
                // while it is written.
                layout.check(&format!("{} longer by {more}", path.display()), &storage, u64::MAX, Depth::Deep);
            }
        }
    }
}

#[test]
fn missing_or_swapped_file_loses_nothing_silently() {
    for layout in layouts().into_iter().chain(rotated()) {
        let segments = layout.segments();
        let check = |what: String, act: &dyn Fn(&MemoryStorage)| {
            let storage = layout.storage.snapshot();
            act(&storage);
            layout.check(&what, &storage, u64::MAX, Depth::Deep);
        };
        let other = segments_of(&layout.storage, "/log/streams/other").pop().unwrap();
        for path in &segments {
            check(format!("{} removed", path.display()), &|storage| storage.remove_file(path).unwrap());
            check(format!("{} a directory", path.display()), &|storage| {
                storage.remove_file(path).unwrap();
                storage.create_dir(path).unwrap();
            });
            let renamed = Path::new(DIR).join("00000000000000000003-000000ff.seg");
            check(format!("{} renamed", path.display()), &|storage| storage.rename(path, &renamed).unwrap());
            check(format!("{} doubled", path.display()), &|storage| copy(storage, path, &renamed));
            check(format!("{} is the other stream's", path.display()), &|storage| {
                storage.remove_file(path).unwrap();
                copy(storage, &other, path);
            });
            for with in segments.iter().filter(|with| *with != path) {
                check(format!("{} swapped with {}", path.display(), with.display()), &|storage| {
                    swap(storage, path, with);
                });
            }
        }
    }
}

/// A stream that has another stream's file refuses to open. All other streams open.
#[test]
fn files_swapped_between_streams_damage_both() {
    let Layout { storage, .. } = many_segments(true);
    let third = open(&storage, false).unwrap();
    third.stream("third").unwrap().append("of the third").unwrap();
    third.close().unwrap();
    let dirs = [DIR, "/log/streams/other", "/log/streams/third"];
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        for path in segments_of(&storage, dirs[one]) {
            for with in segments_of(&storage, dirs[other]) {
                let moved = |one: &Path, other: &Path| one.parent().unwrap().join(other.file_name().unwrap());
                // Each file gets the other's name, or moves to the other's directory under its own
                // name.
                let under_its_own = |storage: &MemoryStorage| {
                    storage.rename(&path, Path::new("/log/aside")).unwrap();
                    storage.rename(&with, &moved(&path, &with)).unwrap();
                    storage.rename(Path::new("/log/aside"), &moved(&with, &path)).unwrap();
                };
                let swapped = |storage: &MemoryStorage| swap(storage, &path, &with);
                for act in [&swapped as &dyn Fn(&MemoryStorage), &under_its_own] {
                    let storage = storage.snapshot();
                    act(&storage);
                    let what = format!("{OWN}{} and {} swapped", path.display(), with.display());
                    let before = files(&storage);
                    for read_only in [true, false] {
                        let wal = open(&storage, read_only).unwrap();
                        for (i, name) in ["s", "other", "third"].into_iter().enumerate() {
                            match wal.stream(name) {
                                Ok(_) => assert!(i != one && i != other, "{what}: {name} opens"),
                                Err(error) => {
                                    assert!(i == one || i == other, "{what}: {error}");
                                    let found = (error.kind(), error.stream(), error.segment().is_some());
                                    assert_eq!(found, (ErrorKind::Damaged, Some(name), true), "{what}: {error}");
                                }
                            }
                        }
                    }
                    let damaged = |file: &(PathBuf, Vec<u8>)| [one, other].iter().any(|&i| file.0.starts_with(dirs[i]));
                    let now = files(&storage);
                    assert!(
                        before.iter().filter(|file| damaged(file)).eq(now.iter().filter(|file| damaged(file))),
                        "{what}: files were changed"
                    );
                }
            }
        }
    }
}

/// A refusal names the lost entries exactly, for each kind of damage.
#[test]
fn refusal_names_the_lost_entries() {
    type Act<'a> = &'a dyn Fn(&MemoryStorage, &[PathBuf]);
    let flip = |storage: &MemoryStorage, path: &Path, at: u64| change(storage, path, at, |bytes| bytes[0] ^= 1, 1);
    let closed = many_segments(true);
    let killed = many_segments(false);
    let bases: Vec<u64> = closed.segments().iter().map(|path| base_of(path)).collect();
    assert!(bases.len() == 3 && bases[0] == 0, "{bases:?}");
    let newest = closed.segments()[2].clone();
    let close_at = closed.len(&newest);
    let gone = |i: usize| move |storage: &MemoryStorage, paths: &[PathBuf]| storage.remove_file(&paths[i]).unwrap();
    let between = |from: u64, to: u64| format!("entries {from} to {to} are lost");
    let from = |from: u64| format!("entries from {from} on may be lost (how many is not known)");
    let cases: &[(&Layout, &str, Act<'_>, String)] = &[
        (&closed, "header of the first", &|s, p| flip(s, &p[0], 40), between(0, bases[1] - 1)),
        (&closed, "header of the middle", &|s, p| flip(s, &p[1], 40), between(bases[1], bases[2] - 1)),
        (&closed, "header of the newest", &|s, p| flip(s, &p[2], 40), from(bases[2])),
        (&closed, "first missing", &gone(0), between(0, bases[1] - 1)),
        (&closed, "middle missing", &gone(1), between(bases[1], bases[2] - 1)),
        (&closed, "newest missing", &gone(2), from(bases[2])),
        (
            &closed,
            "trailer of the newest",
            &|s, p| flip(s, &p[2], close_at - 16),
            format!("was closed with {close_at}"),
        ),
        (&closed, "newest longer", &|s, p| set_len(s, &p[2], close_at + 1), format!("was closed with {close_at}")),
        (&closed, "newest cut", &|s, p| set_len(s, &p[2], close_at - 1), format!("was closed with {close_at}")),
        (&closed, "newest cut in its CLOSE", &|s, p| set_len(s, &p[2], close_at - 24), from(closed.next)),
        (&killed, "first frame of the newest", &|s, p| flip(s, &p[2], 180), between(bases[2], bases[2] + 3)),
    ];
    for (layout, what, act, expected) in cases {
        let storage = layout.storage.snapshot();
        act(&storage, &layout.segments());
        for read_only in [true, false] {
            let error = open(&storage, read_only).unwrap().stream("s").unwrap_err().to_string();
            assert!(error.contains(expected.as_str()), "{OWN}{what}: {error}, and not: {expected}");
        }
    }
}

fn base_of(path: &Path) -> u64 {
    path.file_name().unwrap().to_str().unwrap()[..20].parse().unwrap()
}

#[test]
fn format_file_needs_one_whole_copy() {
    for layout in layouts() {
        let path = Path::new("/log/FORMAT");
        let read = |what: &str, wal: &stratawal::Wal| layout.read(what, wal, u64::MAX, Depth::Deep);
        for at in 0..layout.len(path) {
            let storage = layout.storage.snapshot();
            change(&storage, path, at, |bytes| bytes[0] ^= 4, 1);
            // One of the two copies is intact.
            let wal = open(&storage, false).unwrap_or_else(|e| panic!("{OWN}byte {at} of FORMAT: {e}"));
            assert_eq!(read(&format!("{OWN}byte {at} of FORMAT"), &wal), Read::All);
        }
        let lose = |storage: &MemoryStorage| storage.remove_file(Path::new("/log/FORMAT"));
        let empty = |storage: &MemoryStorage| {
            storage.open(Path::new("/log/FORMAT"), Access::ReadWrite).and_then(|file| file.set_len(0))
        };
        for act in [&lose as &dyn Fn(&MemoryStorage) -> std::io::Result<()>, &empty] {
            let storage = layout.storage.snapshot();
            act(&storage).unwrap();
            let before = files(&storage);
            for read_only in [false, true] {
                assert_eq!(open(&storage, read_only).unwrap_err().kind(), ErrorKind::Damaged);
            }
            assert!(files(&storage) == before);
        }
        let storage = layout.storage.snapshot();
        storage.remove_file(Path::new("/log/LOCK")).unwrap();
        assert_eq!(read("LOCK lost", &open(&storage, false).unwrap()), Read::All);
    }
}

/// The sweeps find seeded faults.
#[cfg(stratawal_faults)]
mod seeded {
    use std::panic::catch_unwind;

    use stratawal_stream::FailPoint;

    fn is_found_by(fail_point: FailPoint, sweep: fn()) {
        fail_point.activate();
        let tried = catch_unwind(sweep);
        FailPoint::deactivate();
        let panic = tried.expect_err("a fault that is not found");
        let text = panic.downcast_ref::<String>().map_or("", String::as_str);
        // A panic in the log itself, or while a layout is created, is not a finding.
        assert!(text.contains(super::OWN), "{fail_point:?} ends in another panic: {text}");
    }

    #[test]
    fn zeros_taken_for_the_end_are_found() {
        is_found_by(FailPoint::ZerosAreTheEnd, super::zeroed_page_loses_nothing_silently);
    }

    #[test]
    fn seal_without_a_successor_is_found() {
        is_found_by(FailPoint::SealNamesNone, super::missing_or_swapped_file_loses_nothing_silently);
    }

    #[test]
    fn journal_that_ends_at_zeros_is_found() {
        let fault = stratawal_journal::fail_points::FailPoint::ZerosAreTheEnd;
        assert!(fault.is_found_by(super::journal_files::zeroed_part_of_any_journal_file_is_not_silent));
    }

    #[test]
    fn directory_that_is_not_recorded_is_found() {
        is_found_by(
            FailPoint::DirectoryNotRecorded,
            super::journal_files::lost_directory_of_a_stream_with_records_is_not_silent,
        );
    }
}
