//! The documented limits: damage that goes unnoticed, and the most that it can take.

use std::ops::Range;
use std::path::{Path, PathBuf};

use stratawal::{Durability, ErrorKind};
use stratawal_storage::{MemoryStorage, Storage};

use crate::frames::{Frame, frames};
use crate::layout::{DIR, Layout, change, entry, layout, layouts, live, new, nothing, open, read, set_len};

const START: Option<u32> = Some(2);

/// A stream of one file that was not closed, the file, and the frames in it.
fn killed(appends: u64, act: impl FnOnce(&stratawal::Stream)) -> (MemoryStorage, PathBuf, Vec<Frame>) {
    let storage = live(&new(), appends, act, false);
    let path = layout("", storage.snapshot(), 0, false).segments().pop().unwrap();
    let frames = frames(&read(&storage, &path));
    (storage, path, frames)
}

fn zero(storage: &MemoryStorage, path: &Path, bytes: Range<u64>) {
    change(storage, path, bytes.start, |bytes| bytes.fill(0), usize::try_from(bytes.end - bytes.start).unwrap());
}

/// Opens the stream. Returns its first seq and one past its last, or the error.
fn bounds(storage: &MemoryStorage) -> Result<Range<u64>, ErrorKind> {
    let stream = open(storage, false).unwrap().stream("s").map_err(|error| error.kind())?;
    for found in stream.iter(..) {
        let found = found.unwrap();
        assert_eq!(found.data()[..], entry(found.seq()));
    }
    Ok(stream.first_seq()..stream.next_seq())
}

#[test]
fn unattested_zeroed_end_looks_like_a_torn_tail() {
    let layout: Layout = layouts().swap_remove(1);
    let path = layout.segments().pop().unwrap();
    let storage = layout.storage.snapshot();
    zero(&storage, &path, 400..layout.len(&path));
    let wal = open(&storage, false).unwrap();
    let stream = wal.stream("s").unwrap();
    assert!(stream.next_seq() < layout.next, "no byte attests further entries");
    assert_eq!(stream.with_durability(Durability::Synced).append("x").unwrap() + 1, stream.next_seq());
}

/// Like an entry, a START does not attest itself. Damage to it loses no entry that was acknowledged
/// as durable.
#[test]
fn damaged_start_may_bring_back_dropped_entries() {
    let (storage, path, frames) = killed(6, |stream| stream.truncate_before(5).unwrap());
    let next = bounds(&storage.snapshot()).unwrap().end;
    assert_eq!(bounds(&storage.snapshot()), Ok(5..next));
    let start = frames.iter().find(|frame| frame.kind == START).unwrap();
    change(&storage, &path, start.at.start + 41, |bytes| bytes[0] ^= 1, 1);
    assert_eq!(bounds(&storage), Ok(0..next), "what the START dropped is still on the disk");
}

/// A frame attests the entries that were durable before it was written. A half-written frame has
/// overwritten the MARK that attested the group before it, and attests nothing itself.
#[test]
fn damage_just_before_a_torn_write_looks_torn() {
    let (storage, path, frames) = killed(6, nothing);
    let entries: Vec<&Frame> = frames.iter().filter(|frame| frame.kind.is_none()).collect();
    let [.., a, b, c] = entries[..] else { panic!("too few frames") };
    let len = u64::try_from(read(&storage, &path).len()).unwrap();
    // The kill comes after the last frame's header was written, but before the rest of that frame
    // and the MARK after it.
    zero(&storage, &path, c.at.start + 40..len);
    let in_silence = |of: &Frame| {
        let storage = storage.snapshot();
        change(&storage, &path, of.at.start + 41, |bytes| bytes[0] ^= 1, 1);
        bounds(&storage)
    };
    assert_eq!(
        bounds(&storage.snapshot()),
        Ok(0..c.first_seq),
        "a torn tail, and nothing that was acknowledged is lost"
    );
    assert_eq!(in_silence(b), Ok(0..b.first_seq), "the group before, which nothing attests any longer");
    assert_eq!(in_silence(a), Err(ErrorKind::Damaged), "the one before that, which this one attests");
}

/// A file that is still being written has 4096 * k + 8 bytes. A closed file cut to such a length
/// looks like one.
#[test]
fn closed_file_cut_to_an_open_length_looks_open() {
    let layout = layout("long", live(&new(), 120, nothing, true), 0, true);
    let path = layout.segments().pop().unwrap();
    assert!(layout.len(&path) > 4104, "long enough to be cut");
    let cut = |len: u64| {
        let storage = layout.storage.snapshot();
        set_len(&storage, &path, len);
        bounds(&storage)
    };
    let left = cut(4104).unwrap();
    assert!(left.start == 0 && left.end < layout.next, "{left:?} of {}", layout.next);
    for len in [4096, 4103, 4105, 4112] {
        assert_eq!(cut(len), Err(ErrorKind::Damaged), "{len}");
    }
}

/// Only the directory lists the streams, so a stream whose whole directory is missing cannot be
/// distinguished from one that never existed.
#[test]
fn stream_without_its_directory_never_existed() {
    let layout: Layout = layouts().swap_remove(0);
    let storage = layout.storage.snapshot();
    layout.segments().iter().for_each(|path| storage.remove_file(path).unwrap());
    assert_eq!(bounds(&storage), Err(ErrorKind::Damaged), "the directory still exists");
    storage.remove_dir(Path::new(DIR)).unwrap();
    assert_eq!(bounds(&storage), Ok(0..0));
}
