//! Recovery of a directory of forged segment files, whose checksums are valid.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use stratawal_frame::{
    BATCH_END, ByteOffset, Control, DataFrame, Footer, FooterKind, FramePosition, Generation, Salt, SegmentHeader,
    SeqNo, StreamId, TRAILER_LEN, Trailer, encode_control, encode_data,
};
use stratawal_index::{IndexPoint, encode_points};
use stratawal_segment::{SegmentFile, SegmentId};
use stratawal_storage::{Access, MemoryStorage, Storage};
use stratawal_stream::{Durability, Location, LogContext, StreamLog, StreamOptions, Visibility, verify};

const DIR: &str = "/streams/s";
/// How many entries are read from either end. A forged gap can have any length.
const LOOKED_AT: usize = 1000;

/// Forged files never cause a panic. Neither a reader nor a writer that refuses them changes them.
/// A writer that opens them sees the same entries as a reader, and the entries that it acknowledges
/// exist when the stream is opened again.
pub(crate) fn segment_recovery(bytes: &[u8]) {
    let Ok(storage) = forge(&mut Unstructured::new(bytes)) else { return };
    let before = files(&storage);
    let seen = open(&storage, true).map(|log| {
        log.iter(.., Visibility::Stable).rev().take(LOOKED_AT).for_each(drop);
        let _ = (
            log.seq_at(5, Visibility::Stable),
            log.get(log.first_seq().saturating_add(1), Visibility::Stable),
            log.stats(),
        );
        entries(&log)
    });
    let _ = verify(&env(&storage, true), &place(), &options());
    assert!(files(&storage) == before, "a reader changed files");
    let log = match open(&storage, false) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.is_damage() || files(&storage) == before, "refused as damaged, and changed: {error}");
            return;
        }
    };
    let opened = entries(&log);
    let clean = log.report().clean;
    if let (Ok((seen, None)), (opened, None)) = (&seen, &opened) {
        assert_eq!(seen, opened, "a reader saw other entries");
    }
    let next = log.next_seq();
    let Ok(seq) = log.append(b"after", Durability::Synced) else { return };
    assert_eq!(seq, next);
    // A writer continues after the CLOSE of a closed stream without a scan; after a crash it scans
    // the frames. In forged files the two results can differ; in files from a real writer they
    // cannot.
    if opened.1.is_some() || clean && !closes_what_it_holds(&before) {
        return;
    }
    let log = open(&storage.snapshot(), false).expect("a stream that was appended to opens");
    assert!(log.get(seq, Visibility::Stable).unwrap().is_some_and(|entry| entry.data()[..] == b"after"[..]));
    let (again, error) = entries(&log);
    let same = opened.0.len() == LOOKED_AT || again[..opened.0.len()] == opened.0[..];
    assert!(error.is_none() && same, "{opened:?} existed, then {again:?} {error:?}");
}

fn options() -> StreamOptions {
    StreamOptions::new().read_bytes_max(1 << 20).segment_bytes(64 << 10)
}

fn env(storage: &MemoryStorage, read_only: bool) -> Arc<LogContext> {
    Arc::new(LogContext::new(Arc::new(storage.clone())).read_only(read_only))
}

fn place() -> Location {
    Location::new("/streams", "s")
}

fn open(storage: &MemoryStorage, read_only: bool) -> stratawal_stream::Result<StreamLog> {
    StreamLog::open(env(storage, read_only), place(), options())
}

/// Returns the entries from the first on, up to an error. Checks that no seq is skipped.
fn entries(log: &StreamLog) -> (Vec<(u64, Vec<u8>)>, Option<stratawal_stream::Error>) {
    let mut found = Vec::new();
    let mut expected = log.first_seq();
    for entry in log.iter(.., Visibility::Stable).take(LOOKED_AT) {
        match entry {
            Ok(entry) => {
                assert_eq!(entry.seq(), expected, "a gap without an error");
                expected = expected.wrapping_add(1);
                found.push((entry.seq(), entry.data().to_vec()));
            }
            Err(error) => return (found, Some(error)),
        }
    }
    (found, None)
}

fn files(storage: &MemoryStorage) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |path: PathBuf| {
        let file = storage.open(&path, Access::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        (path, bytes)
    };
    storage.list(Path::new(DIR)).unwrap().into_iter().map(|entry| read(Path::new(DIR).join(entry.name))).collect()
}

/// Whether the newest file's frames lead from its header to the CLOSE at its end.
fn closes_what_it_holds(files: &[(PathBuf, Vec<u8>)]) -> bool {
    let storage = empty_dir();
    let Some((path, bytes)) = files.last() else { return true };
    storage.create_new(path).unwrap().write_all_at(bytes, 0).unwrap();
    let id = SegmentId::parse(path.file_name().unwrap()).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(storage);
    let file = SegmentFile::open(&storage, Path::new(DIR), id, Access::Read).unwrap();
    let chain = file.scan_chain(&mut |_, _| {}).unwrap();
    chain.end.0 + TRAILER_LEN as u64 == bytes.len() as u64
}

fn empty_dir() -> MemoryStorage {
    let storage = MemoryStorage::new().with_seed(1).with_clock(1_000_000, 10);
    for dir in ["/streams", DIR] {
        storage.create_dir(Path::new(dir)).unwrap();
    }
    storage
}

fn forge(choices: &mut Unstructured<'_>) -> Result<MemoryStorage> {
    let storage = empty_dir();
    let mut seq = if choices.ratio(1, 16)? { u64::MAX - 3 } else { 0 };
    let mut generation = 0;
    for _ in 0..choices.int_in_range(1..=3)? {
        generation += choices.int_in_range(1..=2)?;
        let header = header(choices, seq, generation)?;
        let bytes = segment(choices, &header, &mut seq)?;
        let named = if choices.ratio(1, 16)? { SeqNo(7) } else { header.base };
        let path = format!("{DIR}/{:020}-{:08x}.seg", named.0, header.generation.0);
        if let Ok(file) = storage.create_new(Path::new(&path)) {
            file.write_all_at(&bytes, 0).unwrap();
        }
    }
    Ok(storage)
}

/// Returns a seq near `seq`, mostly `seq` itself.
fn near(choices: &mut Unstructured<'_>, seq: u64) -> Result<u64> {
    Ok(match choices.int_in_range(0..=15)? {
        0 => seq.wrapping_add(1),
        1 => seq.wrapping_sub(1),
        2 => seq / 2,
        3 => choices.arbitrary()?,
        _ => seq,
    })
}

fn header(choices: &mut Unstructured<'_>, seq: u64, generation: u32) -> Result<SegmentHeader> {
    let stream_id = StreamId(if choices.ratio(1, 32)? { 8 } else { 7 });
    let predecessor = near(choices, u64::from(generation - 1))? as u32;
    Ok(SegmentHeader {
        stream_id,
        generation: Generation(generation),
        predecessor: Generation(predecessor),
        predecessor_salt: Salt(u64::from(predecessor)),
        base: SeqNo(near(choices, seq)?),
        salt: Salt(u64::from(generation)),
        durable: SeqNo(near(choices, seq)?),
        start: SeqNo(choices.int_in_range(0..=3)?),
        last_timestamp: choices.int_in_range(0..=9)?,
        name_crc: SegmentHeader::name_checksum("s"),
        ..SegmentHeader::EMPTY
    })
}

/// Returns the bytes of a segment file. Its frames mostly follow each other.
fn segment(choices: &mut Unstructured<'_>, header: &SegmentHeader, seq: &mut u64) -> Result<Vec<u8>> {
    let mut bytes = header.encode().to_vec();
    *seq = header.base.0;
    while bytes.len() < 8 << 10 {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let place = FramePosition { salt: header.salt, offset: ByteOffset(bytes.len() as u64) };
        let first = near(choices, *seq)?;
        let durable = if choices.ratio(3, 4)? { Some(SeqNo(near(choices, *seq)?)) } else { None };
        let time = choices.int_in_range(0..=9)?;
        let control = |bytes: &mut Vec<u8>, control: &Control| {
            encode_control(bytes, &place, SeqNo(first), time, durable, control);
        };
        match choices.int_in_range(0..=15)? {
            0 => break,
            1 => control(&mut bytes, &Control::Mark),
            2 => control(&mut bytes, &Control::Start { start: SeqNo(near(choices, *seq)?) }),
            3 | 4 => {
                let successor = Generation((near(choices, u64::from(header.generation.0) + 1)? as u32).max(1));
                let kind = FooterKind::Seal { successor, salt: Salt(u64::from(successor.0)) };
                control(&mut bytes, &Control::Footer(end(choices, header, kind, first)?));
            }
            5 => {
                let previous = if choices.ratio(1, 4)? { Some(ByteOffset(choices.arbitrary()?)) } else { None };
                control(&mut bytes, &Control::Footer(end(choices, header, FooterKind::Close { previous }, first)?));
                bytes.extend_from_slice(&Trailer { footer_offset: place.offset }.encode(header.salt));
            }
            6 => bytes.extend(vec![0; choices.int_in_range(1..=5000)?]),
            7 => {
                let len = choices.int_in_range(1..=100)?.min(choices.len());
                bytes.extend_from_slice(choices.bytes(len)?);
            }
            8 => bytes.truncate(bytes.len() - choices.int_in_range(0..=40)?.min(bytes.len() - 128)),
            _ => {
                let count = choices.int_in_range(1_u32..=3)?;
                // One batch, or a batch for each entry.
                let one = choices.ratio(1, 2)?;
                let end_of = |i| if one && i < count { 5 * i } else { (5 * i) | BATCH_END };
                let ends: Vec<u32> = (1..=count).map(end_of).collect();
                let data = vec![b'a'; 5 * count as usize];
                let frame = DataFrame { first_seq: SeqNo(first), timestamp: time, durable, ends: &ends, data: &data };
                if first.checked_add(u64::from(count)).is_none_or(|end| end == u64::MAX) {
                    break;
                }
                encode_data(&mut bytes, &place, &frame);
                *seq = first + u64::from(count);
            }
        }
    }
    // A file that is still being written is preallocated, and its length follows the rule of
    // Length.
    let len = match choices.int_in_range(0..=3)? {
        0 => bytes.len(),
        1 => bytes.len() + choices.int_in_range(0..=5000)?,
        _ => bytes.len().next_multiple_of(4096) + 8,
    };
    bytes.resize(len, 0);
    Ok(bytes)
}

fn end(choices: &mut Unstructured<'_>, header: &SegmentHeader, kind: FooterKind, seq: u64) -> Result<Footer> {
    let point = IndexPoint { seq: near(choices, header.base.0)?, offset: 128, timestamp: 1 };
    let index = if choices.ratio(1, 2)? { encode_points(&[point]).unwrap_or_default() } else { Vec::new() };
    let entries = near(choices, seq.saturating_sub(header.base.0))?;
    Ok(Footer { kind, start: SeqNo(near(choices, header.start.0)?), entries, times: (1, 1), index: index.into() })
}
