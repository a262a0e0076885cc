//! A million entries across more than a hundred segments, read in every way. The bytes of an entry
//! are derived from its seq.

use std::ops::RangeBounds;
use std::sync::OnceLock;
use std::time::SystemTime;

use stratawal::{Batch, Durability, Entry, ErrorKind, Iter, Options, Stream, StreamOptions, Visibility, Wal};
use tempfile::TempDir;

const ENTRIES: u64 = 1_000_000;
/// How many entries are in the active segment or the tail.
const TAIL: u64 = 500;

fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 31)
}

/// Returns an entry: mostly a few bytes, sometimes none, sometimes many.
fn entry(seq: u64) -> Vec<u8> {
    let len = match mix(seq) % 5000 {
        0 => 20_000,
        1..=20 => 0,
        n => 8 + n % 9,
    };
    let mut bytes = seq.to_le_bytes().to_vec();
    bytes.resize(usize::try_from(len).unwrap(), b'.');
    bytes
}

fn options() -> Options {
    Options::new().stream_defaults(StreamOptions::new().segment_bytes(128 << 10).index_interval_bytes(2 << 10))
}

/// Appends entries up to `end`, in batches of all sizes.
fn fill(stream: &Stream, end: u64) {
    let buffered = stream.with_durability(Durability::Buffered);
    let mut batch = Batch::new();
    let mut next = stream.next_seq();
    while next < end {
        batch.clear();
        let count = (1 + mix(next) % [1, 7, 300][usize::try_from(mix(next + 1) % 3).unwrap()]).min(end - next);
        (next..next + count).for_each(|seq| batch.push(entry(seq)));
        assert_eq!(buffered.append_batch(&batch).unwrap(), next..next + count);
        next += count;
    }
}

/// The log. It is created once and closed cleanly.
fn log() -> &'static TempDir {
    static LOG: OnceLock<TempDir> = OnceLock::new();
    LOG.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let wal = options().open(dir.path()).unwrap();
        let stream = wal.stream("s").unwrap();
        fill(&stream, ENTRIES);
        wal.close().unwrap();
        assert!(stratawal::inspect::segment_files(dir.path(), "s").unwrap().len() > 100);
        dir
    })
}

fn read_only() -> Stream {
    options().open_read_only(log().path()).unwrap().stream("s").unwrap()
}

#[allow(unsafe_code)]
fn mapped() -> Stream {
    // SAFETY: no process writes to this log after its creation.
    let options = unsafe { options().map_reads() };
    options.open_read_only(log().path()).unwrap().stream("s").unwrap()
}

fn assert_entry(found: &Entry, seq: u64) {
    assert_eq!((found.seq(), &found.data()[..]), (seq, &entry(seq)[..]), "entry {seq}");
}

fn assert_range(iter: Iter, seqs: impl Iterator<Item = u64>) {
    let mut iter = iter;
    for seq in seqs {
        assert_entry(&iter.next().unwrap_or_else(|| panic!("ends before {seq}")).unwrap(), seq);
    }
    assert!(iter.next().is_none() && iter.next().is_none() && iter.next_back().is_none());
}

/// Seqs across the whole stream, at both ends, and around the first seq of each segment.
fn places() -> Vec<u64> {
    let files = stratawal::inspect::segment_files(log().path(), "s").unwrap();
    let bases = files.iter().map(|file| file.name[..20].parse::<u64>().unwrap());
    let borders = bases.flat_map(|base| base.saturating_sub(2)..base + 2);
    let spread = (0..3000).map(|i| mix(i) % ENTRIES);
    borders.chain(spread).chain([0, 1, ENTRIES - 1]).filter(|&seq| seq < ENTRIES).collect()
}

#[test]
fn get_returns_any_entry() {
    for stream in [read_only(), mapped()] {
        // The second time, the mapped frames are already verified.
        for seq in places().into_iter().chain(places()) {
            assert_entry(&stream.get(seq).unwrap().unwrap(), seq);
        }
        for beyond in [ENTRIES, ENTRIES + 1, u64::MAX] {
            assert_eq!(stream.get(beyond).unwrap(), None);
        }
        assert_entry(&stream.last().unwrap().unwrap(), ENTRIES - 1);
    }
}

#[test]
fn get_many_keeps_the_order_asked_for() {
    let stream = read_only();
    let mut seqs = places();
    let check = |seqs: &[u64]| {
        let found = stream.get_many(seqs).unwrap();
        assert_eq!(found.len(), seqs.len());
        for (seq, found) in seqs.iter().zip(found) {
            match found {
                Some(found) => assert_entry(&found, *seq),
                None => assert!(*seq >= ENTRIES, "{seq}"),
            }
        }
    };
    check(&seqs);
    seqs.sort_unstable();
    check(&seqs);
    seqs.truncate(500);
    seqs.extend([7, 7, 7, ENTRIES, 8, u64::MAX, 3]);
    check(&seqs);
    check(&[]);
}

#[test]
fn whole_stream_is_read_in_both_directions() {
    for stream in [read_only(), mapped()] {
        assert_range(stream.iter(..), 0..ENTRIES);
    }
    let mut seq = ENTRIES;
    for found in read_only().iter(..).rev() {
        seq -= 1;
        assert_entry(&found.unwrap(), seq);
    }
    assert_eq!(seq, 0);
}

#[test]
fn iteration_crosses_segments_from_any_seq() {
    let stream = read_only();
    for (i, from) in places().into_iter().enumerate().filter(|(i, _)| i % 9 == 0) {
        let to = (from + 1 + mix(i as u64) % 1500).min(ENTRIES);
        assert_range(stream.iter(from..to), from..to);
        let backwards: Vec<u64> = stream.iter(from..to).rev().map(|entry| entry.unwrap().seq()).collect();
        assert_eq!(backwards, (from..to).rev().collect::<Vec<_>>());
    }
}

#[test]
fn every_kind_of_range_is_exact() {
    let stream = read_only();
    let check = |range: &dyn Fn() -> Iter, seqs: std::ops::Range<u64>| assert_range(range(), seqs);
    check(&|| stream.iter(..5), 0..5);
    check(&|| stream.iter(..=5), 0..6);
    check(&|| stream.iter(ENTRIES - 5..), ENTRIES - 5..ENTRIES);
    check(&|| stream.iter(10..20), 10..20);
    check(&|| stream.iter(10..=20), 10..21);
    check(&|| stream.iter(ENTRIES - 5..u64::MAX), ENTRIES - 5..ENTRIES);
    check(&|| stream.iter(ENTRIES - 5..=u64::MAX), ENTRIES - 5..ENTRIES);
    check(&|| stream.iter(10..10), 0..0);
    #[allow(clippy::reversed_empty_ranges)]
    check(&|| stream.iter(20..10), 0..0);
    check(&|| stream.iter(ENTRIES..), 0..0);
    check(&|| stream.iter(ENTRIES + 100..ENTRIES + 200), 0..0);
    let after_10 = (std::ops::Bound::Excluded(10), std::ops::Bound::Included(12));
    assert!(after_10.contains(&11));
    check(&|| stream.iter(after_10), 11..13);
}

#[test]
fn both_ends_of_an_iterator_meet() {
    let stream = read_only();
    for round in 0..40 {
        let from = mix(round) % (ENTRIES - 3000);
        let mut front = from;
        let mut back = from + mix(round + 1) % 3000;
        let mut iter = stream.iter(front..back);
        let mut turn = round;
        while front < back {
            assert!(iter.size_hint().1 >= Some(1));
            turn = mix(turn);
            if turn % 3 == 0 {
                back -= 1;
                assert_entry(&iter.next_back().unwrap().unwrap(), back);
            } else {
                assert_entry(&iter.next().unwrap().unwrap(), front);
                front += 1;
            }
        }
        assert!(iter.next().is_none() && iter.next_back().is_none());
    }
    let nth = stream.iter(5..100_000).nth(70_000).unwrap().unwrap();
    assert_entry(&nth, 70_005);
}

#[test]
fn seq_at_returns_the_first_entry_of_a_time() {
    let stream = read_only();
    assert_eq!(stream.seq_at(SystemTime::UNIX_EPOCH).unwrap(), 0);
    let last = stream.last().unwrap().unwrap().timestamp();
    assert_eq!(stream.seq_at(last + std::time::Duration::from_secs(1)).unwrap(), ENTRIES);
    for seq in places().into_iter().step_by(29) {
        let time = stream.get(seq).unwrap().unwrap().timestamp();
        let found = stream.seq_at(time).unwrap();
        assert!(found <= seq, "{seq} is from then, {found} is not the first");
        assert_eq!(stream.get(found).unwrap().unwrap().timestamp(), time);
        if found > 0 {
            assert!(stream.get(found - 1).unwrap().unwrap().timestamp() < time);
        }
    }
}

#[test]
fn active_segment_and_tail_are_read_alike() {
    let dir = tempfile::tempdir().unwrap();
    let wal: Wal = options().open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    let end = 40_000;
    fill(&stream, end - TAIL);
    stream.sync().unwrap();
    let settled = stream.stable_seq();
    assert_eq!(settled, end - TAIL);
    fill(&stream, end);
    let accepted = stream.with_visibility(Visibility::Accepted);
    assert_eq!((stream.stable_seq().min(end), stream.next_seq()), (stream.stable_seq(), end));
    assert_range(accepted.iter(..), 0..end);
    assert_range(accepted.iter(end - TAIL - 50..), end - TAIL - 50..end);
    let backwards: Vec<u64> = accepted.iter(end - 2000..).rev().map(|entry| entry.unwrap().seq()).collect();
    assert_eq!(backwards, (end - 2000..end).rev().collect::<Vec<_>>());
    for seq in (0..4000).map(|i| mix(i) % end).chain(end - TAIL - 3..end) {
        assert_entry(&accepted.get(seq).unwrap().unwrap(), seq);
        assert_eq!(stream.get(seq).unwrap().is_some(), seq < stream.stable_seq(), "{seq}");
    }
    assert_entry(&accepted.last().unwrap().unwrap(), end - 1);
    assert_range(stream.iter(..), 0..stream.stable_seq());
    drop((stream, accepted));
    wal.close().unwrap();
    let again = options().open(dir.path()).unwrap();
    assert_range(again.stream("s").unwrap().iter(..), 0..end);
}

#[test]
fn iterator_outlives_its_log_on_another_thread() {
    let dir = tempfile::tempdir().unwrap();
    let wal = options().open(dir.path()).unwrap();
    let stream = wal.stream("s").unwrap();
    fill(&stream, 20_000);
    stream.sync().unwrap();
    let iter = stream.iter(..);
    drop((stream, wal));
    std::thread::spawn(move || assert_range(iter, 0..20_000)).join().unwrap();
}

#[test]
fn reading_a_missing_stream_creates_nothing() {
    let wal = options().open_read_only(log().path()).unwrap();
    let missing = wal.stream("missing").unwrap();
    assert!(!missing.exists());
    assert_range(missing.iter(..), 0..0);
    assert_range(missing.iter(5..10), 0..0);
    assert_eq!((missing.get(0).unwrap(), missing.last().unwrap()), (None, None));
    assert_eq!(missing.append("x").unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(wal.streams().unwrap(), ["s"]);
}

/// Sealed segments are mapped, and later entries are read into memory. Both kinds of entries stay
/// unchanged.
#[test]
#[allow(unsafe_code)]
fn mapped_log_continues() {
    let dir = tempfile::tempdir().unwrap();
    // SAFETY: only this log writes its files.
    let open = || unsafe { options().map_reads() }.open(dir.path()).unwrap();
    let mut next = 0;
    let mut held = Vec::new();
    // Within the first segment, then beyond it.
    for count in [700, 900, 30, 12_000, 600] {
        let wal = open();
        let stream = wal.stream("s").unwrap();
        let accepted = stream.with_visibility(Visibility::Accepted);
        assert_eq!(stream.next_seq(), next);
        held.extend((0..next).step_by(97).map(|seq| stream.get(seq).unwrap().unwrap()));
        fill(&stream, next + count);
        assert_range(accepted.iter(..), 0..next + count);
        (0..next + count).for_each(|seq| assert_entry(&accepted.get(seq).unwrap().unwrap(), seq));
        next += count;
        // The cut may be in a mapped segment. The entries are then appended again.
        stream.sync().unwrap();
        let cut = next - count - count.min(next - count) / 3;
        stream.truncate_from(cut).unwrap();
        fill(&stream, next);
        assert_range(accepted.iter(..), 0..next);
        wal.close().unwrap();
    }
    held.iter().for_each(|entry| assert_entry(entry, entry.seq()));
}

/// Streams are mapped whatever their options, and in whatever order the options are set.
#[test]
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn all_streams_of_a_log_are_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let small = StreamOptions::new().segment_bytes(64 << 10);
    // SAFETY: only this log writes its files.
    let wal = unsafe { Options::new().map_reads() }.stream_defaults(small.clone()).open(dir.path()).unwrap();
    let by_default = wal.stream("a").unwrap();
    let by_itself = wal.stream_with("b", small).unwrap();
    for stream in [by_default, by_itself] {
        fill(&stream, 20_000);
        stream.sync().unwrap();
        assert_entry(&stream.get(0).unwrap().unwrap(), 0);
        let stream_dir = dir.path().join("streams").join(stream.name());
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(maps.contains(&*stream_dir.to_string_lossy()), "{}", stream_dir.display());
    }
}
