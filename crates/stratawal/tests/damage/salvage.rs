//! `inspect::salvage` reaches the intact entries around any damage, and reports the rest as lost.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use stratawal::inspect::{self, Lost, Salvaged};
use stratawal::{Batch, Durability, Options, StreamOptions};
use stratawal_storage::{MemoryStorage, Storage};
use stratawal_testkit::{Crash, Rng, SimStorage};

use crate::check::{OWN, Read};
use crate::frames::frames;
use crate::layout::{
    DIR, DamagedLog, Layout, change, entry, layout, layouts, live, many_segments, new, nothing, rotated, segments_of,
    set_len,
};
use crate::{HEADER_LEN, all, base_of, each_segment};

/// The result of `inspect::salvage`.
#[derive(Default)]
pub(crate) struct Saved {
    pub(crate) entries: BTreeSet<u64>,
    pub(crate) uncertain: BTreeSet<u64>,
    pub(crate) lost: Vec<Lost>,
}

impl Saved {
    /// The seqs below `next` that are reported as lost.
    fn lost_below(&self, next: u64) -> BTreeSet<u64> {
        self.lost.iter().flat_map(|lost| lost.first_seq..lost.next_seq.unwrap_or(next)).collect()
    }
}

/// Salvages the stream. Checks that each seq comes at most once, in order, with the bytes appended.
pub(crate) fn save(what: &str, log: &dyn DamagedLog) -> Saved {
    let mut saved = Saved::default();
    let mut next = 0;
    let mut items = log.salvage().unwrap_or_else(|e| panic!("{what}: cannot salvage: {e}"));
    for item in items.by_ref() {
        match item.unwrap_or_else(|e| panic!("{what}: salvage fails: {e}")) {
            item @ (Salvaged::Entry(_) | Salvaged::Uncertain(_)) => {
                let (Salvaged::Entry(found) | Salvaged::Uncertain(found)) = &item else { unreachable!() };
                let seq = found.seq();
                assert!(seq >= next, "{what}: entry {seq} after {next}");
                assert!(found.data()[..] == entry(seq), "{what}: entry {seq} is another");
                let into = if matches!(item, Salvaged::Entry(_)) { &mut saved.entries } else { &mut saved.uncertain };
                into.insert(seq);
                next = seq + 1;
            }
            Salvaged::Lost(lost) => {
                assert!(lost.first_seq >= next, "{what}: after {next}: {lost:?}");
                assert!(lost.next_seq.is_none_or(|next| next > lost.first_seq), "{what}: {lost:?}");
                assert!(lost.error.to_string().contains("stream \"s\": "), "{what}: {lost:?}");
                next = lost.next_seq.unwrap_or(next);
                saved.lost.push(lost);
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    assert!(items.next().is_none(), "{what}: more after the end");
    saved
}

impl Layout {
    /// Checks that every acknowledged entry is yielded or reported as lost, except those that may
    /// be missing without an error. If the stream can be read in full, all of it must be yielded.
    pub(crate) fn check_salvage(&self, what: &str, log: &dyn DamagedLog, silent_from: u64, read: Read) {
        let saved = save(what, log);
        let lost = saved.lost_below(self.next);
        let covered: BTreeSet<u64> = saved.entries.iter().chain(&saved.uncertain).chain(&lost).copied().collect();
        let missing = (self.first..self.next.min(silent_from)).find(|seq| !covered.contains(seq));
        assert_eq!(missing, None, "{what}: neither yielded nor lost: {:?}", saved.lost);
        // If a START is damaged, the entries it had dropped reappear.
        assert!(covered.iter().all(|&seq| seq < self.next), "{what}: beyond the end: {:?}", saved.lost);
        if read == Read::All {
            let stream = log.open_log(true).unwrap().stream("s").unwrap();
            let all: BTreeSet<u64> = (stream.first_seq()..stream.next_seq()).collect();
            assert!(saved.lost.is_empty() && saved.uncertain.is_empty(), "{what}: nothing is lost: {:?}", saved.lost);
            assert_eq!(saved.entries, all, "{what}");
        }
    }
}

/// The entries in those frames of a segment with these bytes that contain the offset `at`. If `at`
/// is in the header, all entries.
fn hit(bytes: &[u8], at: u64, limit: u64) -> BTreeSet<u64> {
    let base = u64::from_le_bytes(bytes[56..64].try_into().unwrap());
    if at < HEADER_LEN {
        return (base..limit).collect();
    }
    let frames = frames(bytes).into_iter().filter(|frame| frame.at.contains(&at));
    frames.flat_map(|frame| frame.first_seq..frame.first_seq + u64::from(frame.count)).collect()
}

#[test]
fn flipped_bit_loses_only_its_own_entries() {
    each_segment(|layout, path| {
        let bytes = layout.bytes(path);
        let segments = layout.segments();
        let used = bytes.iter().rposition(|&b| b != 0).unwrap() as u64;
        let bases = segments.iter().map(|path| base_of(path));
        let limit = bases.filter(|&base| base > base_of(path)).min().unwrap_or(layout.next);
        for at in (0..used).step_by(if all() { 1 } else { 7 }) {
            let storage = layout.storage.snapshot();
            change(&storage, path, at, |bytes| bytes[0] ^= 1 << (at % 8), 1);
            let what = format!("{OWN}{}: byte {at} of {}", layout.name, path.display());
            let saved = save(&what, &storage);
            let may_be_lost = hit(&bytes, at, limit);
            let lost = saved.lost_below(layout.next);
            // If a file that was not closed ends with the damage, the rest looks like a torn tail.
            let intact = (layout.first..layout.next).filter(|seq| !may_be_lost.contains(seq));
            let left_out: Vec<u64> = intact.filter(|seq| !saved.entries.contains(seq)).collect();
            let silent_from = layout.silent_from(path, &(at..at + 1));
            assert!(
                left_out.iter().all(|&seq| seq >= silent_from),
                "{what}: {left_out:?} are intact: {:?}",
                saved.lost
            );
            assert!(lost.is_subset(&may_be_lost), "{what}: {:?}", saved.lost);
            assert!(saved.uncertain.is_empty(), "{what}");
        }
    });
}

/// A log of ten or more files.
fn of_many_files(close: bool) -> Layout {
    let storage = live(&new(), 11_000, nothing, close);
    layout("of many files", storage, 0, close)
}

#[test]
fn missing_file_loses_only_its_own_entries() {
    type Damage<'a> = &'a dyn Fn(&MemoryStorage, &Path);
    let damages: [(&str, Damage<'_>); 3] = [
        ("header damaged", &|storage, path| change(storage, path, 50, |bytes| bytes[0] ^= 1, 1)),
        ("missing", &|storage, path| storage.remove_file(path).unwrap()),
        ("cut to nothing", &|storage, path| set_len(storage, path, 0)),
    ];
    for layout in [of_many_files(true), of_many_files(false)] {
        let paths = layout.segments();
        assert!(paths.len() >= 10, "{} files", paths.len());
        for (i, path) in paths.iter().enumerate() {
            let own = base_of(path)..paths.get(i + 1).map_or(layout.next, |next| base_of(next));
            for (damage, act) in damages {
                let what = format!("{OWN}{}: {damage}: {}", layout.name, path.display());
                let storage = layout.storage.snapshot();
                act(&storage, path);
                let saved = save(&what, &storage);
                let [lost] = &saved.lost[..] else { panic!("{what}: {:?}", saved.lost) };
                let end = (i + 1 < paths.len()).then_some(own.end);
                assert_eq!((lost.first_seq, lost.next_seq), (own.start, end), "{what}");
                let all = (layout.first..layout.next).filter(|seq| !own.contains(seq));
                assert!(
                    saved.entries.iter().chain(&saved.uncertain).copied().collect::<BTreeSet<_>>().into_iter().eq(all),
                    "{what}"
                );
                // The missing file may have dropped entries of the last remaining file.
                let doubtful = damage == "missing" && i + 1 == paths.len();
                assert_eq!(saved.uncertain.is_empty(), !doubtful, "{what}");
            }
        }
    }
}

/// Drops the entries from `at` on, and appends three others that get the same seqs.
fn cut(stream: &stratawal::Stream, at: u64) {
    stream.truncate_from(at).unwrap();
    for seq in at..at + 3 {
        stream.append(format!("another {seq}")).unwrap();
    }
}

fn generation_of(path: &Path) -> u32 {
    u32::from_str_radix(&path.file_name().unwrap().to_str().unwrap()[21..29], 16).unwrap()
}

fn of_generation(storage: &MemoryStorage, generation: u32) -> std::path::PathBuf {
    let path = segments_of(storage, DIR).into_iter().find(|path| generation_of(path) == generation);
    path.unwrap_or_else(|| panic!("no generation {generation}"))
}

/// Generation 1 holds entries that generation 2 voids; generation 3 follows. After any damage to
/// the later two files, no dropped entry is yielded as certain.
#[test]
fn cut_entries_are_not_salvaged_as_certain() {
    const AT: u64 = 10;
    let storage = live(&new(), 12, |stream| cut(stream, AT), false);
    let two = storage.snapshot();
    // Recovery begins generation 3 at entry 13.
    let three = live(&storage, 0, nothing, false);
    let second = of_generation(&three, 2);
    let third = of_generation(&three, 3);
    assert_eq!((base_of(&second), base_of(&third)), (AT, AT + 3));
    let damaged = |storage: &MemoryStorage, path: &Path| {
        let storage = storage.snapshot();
        change(&storage, path, 50, |bytes| bytes[0] ^= 1, 1);
        storage
    };
    let missing = |storage: &MemoryStorage, path: &Path| {
        let storage = storage.snapshot();
        storage.remove_file(path).unwrap();
        storage
    };
    let lost = |saved: &Saved| saved.lost.iter().map(|lost| (lost.first_seq, lost.next_seq)).collect::<Vec<_>>();
    let cases = [
        ("header of the newest", damaged(&two, &second), (AT, None)),
        ("newest missing", missing(&two, &second), (AT, None)),
        ("header of the middle", damaged(&three, &second), (AT, Some(AT + 3))),
        ("middle missing", missing(&three, &second), (AT, Some(AT + 3))),
    ];
    for (what, storage, expected) in cases {
        let saved = save(&format!("{OWN}{what}"), &storage);
        let all: Vec<u64> = saved.entries.iter().chain(&saved.uncertain).copied().collect();
        assert!(all.into_iter().eq(0..AT), "{OWN}{what}: {:?} {:?}", saved.entries, saved.uncertain);
        assert_eq!(lost(&saved), [expected], "{OWN}{what}");
        assert_eq!(saved.uncertain.is_empty(), what != "newest missing", "{OWN}{what}");
    }
}

/// The SEAL of the segment that was cut into names a segment that is gone. So the entries of the
/// cut segment are uncertain.
#[test]
fn cut_into_a_sealed_segment_leaves_doubt() {
    let storage = live(&rotated()[1].storage.snapshot(), 0, |stream| cut(stream, 1000), true);
    let newest = segments_of(&storage, DIR).into_iter().max_by_key(|path| generation_of(path)).unwrap();
    assert_eq!(base_of(&newest), 1000);
    storage.remove_file(&newest).unwrap();
    let mut entries = 0;
    let mut uncertain = 0;
    for item in storage.salvage().unwrap() {
        match item.unwrap() {
            Salvaged::Entry(found) => {
                assert!(found.seq() < 1000, "{OWN}entry {} was dropped", found.seq());
                entries += 1;
            }
            Salvaged::Uncertain(_) => uncertain += 1,
            other => assert!(matches!(&other, Salvaged::Lost(lost) if lost.next_seq.is_none()), "{OWN}{other:?}"),
        }
    }
    assert!(entries + uncertain >= 1000 && uncertain > 0, "{OWN}{entries} and {uncertain}");
}

#[test]
fn undamaged_stream_is_salvaged_as_it_is_read() {
    for layout in layouts().into_iter().chain(rotated()).chain([many_segments(false)]) {
        let what = format!("{OWN}{}", layout.name);
        layout.check_salvage(&what, &layout.storage.snapshot(), layout.next, Read::All);
    }
}

/// After any crash the stream opens, and salvage yields the same entries as a reader: a torn tail
/// is not damage.
#[test]
fn torn_tail_is_not_reported_as_lost() {
    let options =
        || Options::new().journal(false).stream_defaults(StreamOptions::new().segment_bytes(64 << 10).frame_bytes(500));
    let storage = SimStorage::new(9);
    let disks = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&disks);
    storage.watch(move |disk| seen.lock().unwrap().push(disk.clone()));
    for life in 0..3 {
        let wal = options().open_on(Arc::new(storage.clone()), Path::new("/log"), false).unwrap();
        let stream = wal.stream("s").unwrap();
        let flushed = stream.with_durability(Durability::Flushed);
        for i in 0..14 {
            let stream = if i % 4 == 3 { &stream } else { &flushed };
            let batch: Batch = (0..3).map(|_| vec![i + life; 3000]).collect();
            stream.append_batch(&batch).unwrap();
        }
        let first = stream.first_seq();
        let next = stream.next_seq();
        stream.truncate_from(next - 4).unwrap();
        flushed.append(vec![200 + life; 100]).unwrap();
        stream.truncate_before(first + 20).unwrap();
        if life == 1 {
            wal.close().unwrap();
        }
    }
    storage.unwatch();
    let disks = std::mem::take(&mut *disks.lock().unwrap());
    let mut rng = Rng::new(13);
    let mut cases = 0;
    for (i, disk) in disks.iter().enumerate().step_by(if all() { 1 } else { 5 }) {
        for crash in [Crash::Kill, Crash::Lost, Crash::Kept, Crash::Mixed(128), Crash::Mixed(232), Crash::Prefix] {
            let storage = SimStorage::on(disk.crash(crash, &mut rng), 7);
            let what = format!("{OWN}{crash:?} after change {i}");
            let Ok(wal) = options().open_on(Arc::new(storage.clone()), Path::new("/log"), true) else { continue };
            let stream = wal.stream("s").unwrap_or_else(|e| panic!("{what}: {e}"));
            if !stream.exists() {
                continue;
            }
            let mut read = stream.iter(..);
            for item in inspect::salvage_on(&storage, Path::new("/log"), "s").unwrap() {
                let Ok(Salvaged::Entry(found)) = item else { panic!("{what}: not an entry") };
                let expected = read.next().unwrap_or_else(|| panic!("{what}: entry {} is not shown", found.seq()));
                let expected = expected.unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(found == expected, "{what}: {} and not {}", found.seq(), expected.seq());
            }
            assert!(read.next().is_none(), "{what}: an entry is left out");
            cases += 1;
        }
    }
    assert!(cases > 300, "{cases} cases");
}
