//! `Wal::truncate_before` makes a damaged stream usable again if the damage lies below the new
//! first seq, and otherwise refuses.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use stratawal::{ErrorKind, Options, StreamOptions, Wal};
use stratawal_storage::{MemoryStorage, Storage};
use stratawal_testkit::{Crash, Disk, Rng, SimStorage};

use crate::check::OWN;
use crate::layout::{
    DIR, Layout, change, entry, files, layout, layouts, live, many_segments, new, nothing, open, read, rotated,
    segments_of, set_len,
};
use crate::salvage::save;
use crate::{all, base_of, each_segment};

/// Checks that the stream has the entries `first..next`, all as appended.
fn assert_entries(what: &str, wal: &Wal, first: u64, next: u64) {
    let stream = wal.stream("s").unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!((stream.first_seq(), stream.next_seq()), (first, next), "{what}");
    let mut seqs = first..next;
    for found in stream.iter(..) {
        let found = found.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(Some(found.seq()), seqs.next(), "{what}");
        assert!(found.data()[..] == entry(found.seq()), "{what}: entry {} is another", found.seq());
    }
    assert!(seqs.is_empty(), "{what}: {seqs:?} are missing");
    for seq in first..next {
        let found = stream.get(seq).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(found.unwrap().data()[..] == entry(seq), "{what}: entry {seq} is another");
    }
}

/// Truncates the damaged stream before `first`, which must succeed, then uses it across a kill and
/// a clean end.
fn truncates(what: &str, storage: &MemoryStorage, first: u64, next: u64) {
    let wal = open(storage, false).unwrap();
    wal.truncate_before("s", first).unwrap_or_else(|e| panic!("{what}: before {first}: {e}"));
    assert_entries(what, &wal, first, next);
    let killed = storage.snapshot();
    let wal_2 = open(&killed, false).unwrap();
    assert_entries(&format!("{what}: opened again"), &wal_2, first, next);
    assert_eq!(wal_2.stream("s").unwrap().append(entry(next)).unwrap(), next, "{what}");
    wal_2.close().unwrap();
    assert_entries(&format!("{what}: closed"), &open(&killed, false).unwrap(), first, next + 1);
    wal.close().unwrap();
    assert_entries(&format!("{what}: closed at once"), &open(storage, false).unwrap(), first, next);
    let left = segments_of(storage, DIR).into_iter().filter(|path| base_of(path) >= next).count();
    assert!(left <= 1, "{what}: {left} files at the end");
}

/// Checks that truncating the damaged stream before `first` fails and changes no file.
fn refuses(what: &str, storage: &MemoryStorage, first: u64) {
    let before = files(storage);
    let wal = open(storage, false).unwrap();
    let error = wal.truncate_before("s", first).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: before {first}: {error}");
    drop(wal);
    let of_stream = |files: Vec<(PathBuf, Vec<u8>)>| -> Vec<_> {
        files.into_iter().filter(|file| file.0.starts_with(DIR)).collect()
    };
    assert!(of_stream(files(storage)) == of_stream(before), "{what}: before {first}: files were changed");
}

#[test]
fn truncation_passes_a_bad_file_below_it() {
    type Damage<'a> = &'a dyn Fn(&MemoryStorage, &Path);
    let damages: [(&str, Damage<'_>); 4] = [
        ("header damaged", &|storage, path| change(storage, path, 50, |bytes| bytes[0] ^= 1, 1)),
        ("missing", &|storage, path| storage.remove_file(path).unwrap()),
        ("cut to nothing", &|storage, path| set_len(storage, path, 0)),
        ("a directory", &|storage, path| {
            storage.remove_file(path).unwrap();
            storage.create_dir(path).unwrap();
        }),
    ];
    let many = |close| layout("of many files", live(&new(), 5_000, nothing, close), 0, close);
    for layout in [many(true), many(false)] {
        let paths = layout.segments();
        assert!(paths.len() >= 5, "{} files", paths.len());
        for (i, path) in paths.iter().enumerate() {
            for (damage, act) in damages {
                let what = format!("{OWN}{}: {damage}: {}", layout.name, path.display());
                let damaged = layout.storage.snapshot();
                act(&damaged, path);
                let storage = damaged.snapshot();
                let error = open(&storage, false).unwrap().stream("s").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Damaged, "{what}");
                assert!(error.advice().is_some(), "{what}: {error}");
                refuses(&what, &damaged.snapshot(), base_of(path));
                let Some(after) = paths.get(i + 1).map(|next| base_of(next)) else {
                    // The end of the stream is unknown.
                    refuses(&what, &damaged.snapshot(), layout.next);
                    assert!(error.advice().unwrap().contains("truncating it does not help"), "{what}");
                    continue;
                };
                assert!(error.advice().unwrap().contains("truncating before the first entry"), "{what}");
                refuses(&what, &damaged.snapshot(), after - 1);
                for first in [after, after + 7, layout.next - 1] {
                    truncates(&what, &damaged.snapshot(), first, layout.next);
                }
            }
        }
    }
}

/// The first file is unreadable. In another file, the end and a frame are damaged.
#[test]
fn truncated_stream_opens_again() {
    for close in [true, false] {
        let layout = layout("of many files", live(&new(), 5_000, nothing, close), 0, close);
        let paths = layout.segments();
        for (i, at) in [(1, 150), (1, 20_000), (2, 20_000)] {
            let what = format!("{OWN}closed {close}: byte {at} of {}", paths[i].display());
            let damaged = layout.storage.snapshot();
            change(&damaged, &paths[0], 50, |bytes| bytes[0] ^= 1, 1);
            change(&damaged, &paths[i], layout.len(&paths[i]) - 3, |bytes| bytes[0] ^= 1, 1);
            change(&damaged, &paths[i], at, |bytes| bytes[0] ^= 1, 1);
            let lost: Vec<_> = save(&what, &damaged).lost.iter().map(|lost| (lost.first_seq, lost.next_seq)).collect();
            let [(0, Some(_)), (first_lost, Some(lost_end))] = lost[..] else { panic!("{what}: {lost:?}") };
            for first in [base_of(&paths[1]), first_lost.max(base_of(&paths[1])), lost_end - 1] {
                refuses(&what, &damaged.snapshot(), first);
            }
            for first in [lost_end, lost_end + 1, base_of(&paths[i + 1])] {
                truncates(&what, &damaged.snapshot(), first, layout.next);
            }
        }
    }
}

/// A file that belongs to another stream or log may be the only copy of its entries.
#[test]
fn truncation_keeps_a_misplaced_file() {
    let ours = many_segments(true);
    let paths = ours.segments();
    assert!(paths.len() >= 3);
    let twin = (0..3).fold(MemoryStorage::new().with_seed(2), |storage, _| live(&storage, 6, nothing, false));
    let misplaced: [(&str, usize, Vec<u8>); 3] = [
        ("it belongs to another log", 1, read(&twin, &paths[1])),
        (
            "it belongs to a stream with another name",
            0,
            read(&ours.storage, &segments_of(&ours.storage, "/log/streams/other")[0]),
        ),
        ("the header is that of segment", 1, ours.bytes(&paths[2])),
    ];
    for (why, i, bytes) in misplaced {
        let what = format!("{OWN}{why}");
        let storage = ours.storage.snapshot();
        storage.remove_file(&paths[i]).unwrap();
        storage.create_new(&paths[i]).unwrap().write_all_at(&bytes, 0).unwrap();
        let error = open(&storage, false).unwrap().stream("s").unwrap_err();
        assert!(error.to_string().contains(why), "{what}: {error}");
        assert!(error.advice().unwrap().contains("once it is moved away"), "{what}: {error}");
        let after = base_of(&paths[i + 1]);
        for first in [base_of(&paths[i]), after, ours.next - 1, ours.next, ours.next + 9] {
            refuses(&what, &storage.snapshot(), first);
        }
        storage.remove_file(&paths[i]).unwrap();
        truncates(&what, &storage, after, ours.next);
    }
}

/// A segment of a newer format may also belong to another stream or log.
#[test]
fn truncation_keeps_a_newer_segment() {
    let ours = many_segments(true);
    let paths = ours.segments();
    let storage = ours.storage.snapshot();
    change(&storage, &paths[0], 8, |bytes| bytes[0] = 99, 1);
    // Its checksum is not that of this version.
    change(&storage, &paths[0], 124, |bytes| bytes[0] ^= 1, 1);
    change(&storage, &paths[1], 50, |bytes| bytes[0] ^= 1, 1);
    let wal = open(&storage, false).unwrap();
    let before = segments_of(&storage, DIR);
    assert_eq!(wal.stream("s").unwrap_err().kind(), ErrorKind::Damaged);
    let error = wal.truncate_before("s", base_of(&paths[2])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NewerFormat, "{error}");
    assert_eq!(segments_of(&storage, DIR), before);
}

/// Flips every bit of a frame that makes an opening refuse. The stream can be truncated to the
/// first entry after the frame, but not to an earlier one.
#[test]
fn truncation_passes_a_damaged_frame_below_it() {
    let tried = std::sync::atomic::AtomicUsize::new(0);
    each_segment(|layout, path| {
        let bytes = layout.bytes(path);
        let used = bytes.iter().rposition(|&b| b != 0).unwrap() as u64;
        for at in (128..used).step_by(if all() { 1 } else { 11 }) {
            let damaged = layout.storage.snapshot();
            change(&damaged, path, at, |bytes| bytes[0] ^= 1 << (at % 8), 1);
            if open(&damaged.snapshot(), true).unwrap().stream("s").is_ok() {
                continue;
            }
            let what = format!("{OWN}{}: byte {at} of {}", layout.name, path.display());
            let saved = save(&what, &damaged);
            let Some(last) = saved.lost.last() else { continue };
            // The end of a closed file is unknown if its CLOSE is damaged.
            let Some(lost_end) = last.next_seq else {
                refuses(&what, &damaged.snapshot(), layout.next);
                continue;
            };
            refuses(&what, &damaged.snapshot(), lost_end - 1);
            let next = saved.entries.last().map_or(lost_end, |last| last + 1).max(lost_end);
            for first in [lost_end, next - 1, next] {
                if first >= lost_end && first >= layout.first {
                    truncates(&what, &damaged.snapshot(), first, next);
                }
            }
            tried.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let tried = tried.into_inner();
    assert!(tried > 20, "only {tried} cases");
}

#[test]
fn truncation_beyond_the_end_begins_there() {
    let layout: Layout = layouts().swap_remove(1);
    let path = layout.segments().pop().unwrap();
    let damaged = layout.storage.snapshot();
    change(&damaged, &path, 180, |bytes| bytes[0] ^= 1, 1);
    assert!(open(&damaged.snapshot(), true).unwrap().stream("s").is_err());
    let wal = open(&damaged, false).unwrap();
    wal.truncate_before("s", 1000).unwrap();
    assert_entries(OWN, &wal, 1000, 1000);
    assert_eq!(wal.stream("s").unwrap().append(entry(1000)).unwrap(), 1000);
    assert_entries(OWN, &open(&damaged.snapshot(), false).unwrap(), 1000, 1001);
}

#[test]
fn sound_stream_is_truncated_as_usual() {
    for layout in layouts().into_iter().chain(rotated()) {
        let storage = layout.storage.snapshot();
        let wal = open(&storage, false).unwrap();
        let first = layout.next - 2;
        wal.truncate_before("s", first).unwrap();
        assert_entries(layout.name, &wal, first, layout.next);
        wal.truncate_before("s", 0).unwrap();
        assert_entries(layout.name, &wal, first, layout.next);
        let read_only = open(&storage, true).unwrap();
        assert_eq!(read_only.truncate_before("s", 0).unwrap_err().kind(), ErrorKind::ReadOnly);
    }
}

/// An open stream in which a segment is missing, or has a damaged frame or header.
#[test]
fn open_stream_is_truncated_past_damage() {
    let storage = rotated()[1].storage.snapshot();
    let wal = open(&storage, false).unwrap();
    let stream = wal.stream("s").unwrap();
    let paths = segments_of(&storage, DIR);
    assert!(paths.len() >= 2);
    let next = stream.next_seq();
    change(&storage, &paths[0], 5000, |bytes| bytes.fill(0), 4096);
    assert!(stream.iter(..).any(|found| found.is_err()));
    stream.truncate_before(700).unwrap();
    change(&storage, &paths[0], 50, |bytes| bytes[0] ^= 1, 1);
    stream.truncate_before(701).unwrap();
    storage.remove_file(&paths[0]).unwrap();
    stream.truncate_before(next - 1).unwrap();
    assert_entries(OWN, &wal, next - 1, next);
    assert_entries(OWN, &open(&storage.snapshot(), false).unwrap(), next - 1, next);
}

fn sim(storage: &SimStorage) -> Wal {
    let options = Options::new().journal(false).stream_defaults(StreamOptions::new().segment_bytes(64 << 10));
    options.open_on(Arc::new(storage.clone()), Path::new("/log"), false).unwrap()
}

/// A stream of several segments. The header of the second and a frame of the newest are damaged.
fn damaged_disk(close: bool) -> (Disk, u64, u64) {
    damaged_disk_of(close, |names| {
        let newest = names.len() - 1;
        (vec![(1, 50), (newest, 200)], base_of(Path::new(&names[newest])) + 1)
    })
}

/// A stream of several segments. The first frame and the end of the first segment are damaged.
fn unsealed_disk(close: bool) -> (Disk, u64, u64) {
    damaged_disk_of(close, |_| (vec![(0, 200), (0, u64::MAX)], 1))
}

/// A stream of several segments with damaged bytes, each given by a segment and an offset. An
/// offset past the end damages the trailer. Also returns the first entry after the damage, and the
/// end.
fn damaged_disk_of(close: bool, damage: impl Fn(&[OsString]) -> (Vec<(usize, u64)>, u64)) -> (Disk, u64, u64) {
    let storage = SimStorage::new(3);
    let wal = sim(&storage);
    let stream = wal.stream("s").unwrap();
    for seq in 0..200 {
        let mut bytes = entry(seq);
        bytes.resize(1500, 7);
        stream.append(bytes).unwrap();
    }
    if close {
        wal.close().unwrap();
    }
    let storage = SimStorage::on(storage.disk(), 3);
    let mut names: Vec<_> = storage.list(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    assert!(names.len() >= 4, "{names:?}");
    let (bytes, first) = damage(&names);
    for (segment, at) in bytes {
        let path = Path::new(DIR).join(&names[segment]);
        let file = storage.open(&path, stratawal_storage::Access::ReadWrite).unwrap();
        let at = at.min(file.len().unwrap() - 3);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        file.sync_all().unwrap();
    }
    (storage.disk(), first, 200)
}

/// After a crash at any change, no entry at or above the new start is lost and the truncation can
/// be repeated.
#[test]
fn interrupted_truncation_can_be_repeated() {
    for close in [true, false] {
        interrupt_anywhere(damaged_disk(close));
        interrupt_anywhere(unsealed_disk(close));
    }
}

fn interrupt_anywhere((disk, first, next): (Disk, u64, u64)) {
    const CRASHES: [Crash; 5] = [Crash::Kill, Crash::Lost, Crash::Kept, Crash::Mixed(128), Crash::Mixed(232)];
    let storage = SimStorage::on(disk.clone(), 5);
    assert!(sim(&storage).stream("s").is_err());
    let seen = Arc::new(Mutex::new(vec![disk]));
    let seen_by_watch = Arc::clone(&seen);
    storage.watch(move |disk| seen_by_watch.lock().unwrap().push(disk.clone()));
    let wal = sim(&storage);
    wal.truncate_before("s", first).unwrap();
    storage.unwatch();
    let done = storage.disk();
    let disks = std::mem::take(&mut *seen.lock().unwrap());
    let mut rng = Rng::new(11);
    let mut refused = 0;
    let mut opened = 0;
    for (i, disk) in disks.iter().enumerate() {
        for crash in CRASHES {
            let storage = SimStorage::on(disk.crash(crash, &mut rng), 7);
            let what = format!("{OWN}{crash:?} after change {i}");
            let wal = sim(&storage);
            match wal.stream("s") {
                Ok(_) => opened += 1,
                Err(_) => refused += 1,
            }
            wal.truncate_before("s", first).unwrap_or_else(|e| panic!("{what}: {e}"));
            let stream = wal.stream("s").unwrap();
            assert_eq!((stream.first_seq(), stream.next_seq()), (first, next), "{what}");
            for (found, seq) in stream.iter(..).zip(first..next) {
                let found = found.unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(found.seq() == seq && found.data().starts_with(&entry(seq)), "{what}: {seq}");
            }
        }
    }
    assert!(refused > 0 && opened > 0, "{refused} and {opened}");
    let end = SimStorage::on(done.crash(Crash::Lost, &mut rng), 7);
    let stream = sim(&end).stream("s").unwrap();
    assert_eq!((stream.first_seq(), stream.next_seq()), (first, next), "{OWN}it returned Ok, so it is durable");
}
