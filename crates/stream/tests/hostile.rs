//! Forged files with valid checksums cause an error or are read. They never cause a panic, endless
//! work, or the use of more memory than the files have bytes.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{location, memory};
use stratawal_frame::{
    BATCH_END, ByteOffset, Control, DataFrame, Footer, FooterKind, FramePosition, Generation, PayloadChecksum, Salt,
    SegmentHeader, SeqNo, StreamId, Trailer, encode_control, encode_data,
};
use stratawal_index::{IndexPoint, encode_points};
use stratawal_storage::{MemoryStorage, Storage};
use stratawal_stream::{
    Batch, Durability, ErrorKind, LogContext, Result, Salvaged, StreamLog, StreamOptions, Visibility, salvage,
};

const SALT: Salt = Salt(99);

/// A segment file under construction.
struct Forged {
    header: SegmentHeader,
    bytes: Vec<u8>,
}

impl Forged {
    fn begin(base: u64) -> Self {
        let header = SegmentHeader {
            stream_id: StreamId(7),
            generation: Generation(1),
            base: SeqNo(base),
            durable: SeqNo(base),
            start: SeqNo(base),
            salt: SALT,
            name_crc: SegmentHeader::name_checksum("s"),
            ..SegmentHeader::EMPTY
        };
        Self { header, bytes: header.encode().to_vec() }
    }

    fn position(&self) -> FramePosition {
        FramePosition { salt: SALT, offset: ByteOffset(self.bytes.len() as u64) }
    }

    fn entry(mut self, seq: u64) -> Self {
        let position = self.position();
        let ends = [5 | BATCH_END];
        let frame =
            DataFrame { first_seq: SeqNo(seq), timestamp: 1, durable: Some(SeqNo(0)), ends: &ends, data: b"entry" };
        encode_data(&mut self.bytes, &position, &frame);
        self
    }

    fn close(mut self, seq: u64, change: impl FnOnce(&mut Footer)) -> Self {
        let mut end = Footer {
            kind: FooterKind::Close { previous: None },
            start: SeqNo(0),
            entries: seq,
            times: (1, 1),
            index: encode_points(&[]).unwrap().into(),
        };
        change(&mut end);
        let position = self.position();
        encode_control(&mut self.bytes, &position, SeqNo(seq), 1, Some(SeqNo(seq)), &Control::Footer(end));
        self.bytes.extend_from_slice(&Trailer { footer_offset: position.offset }.encode(SALT));
        self
    }

    /// Recomputes the checksum of the frame header at `at`.
    fn reseal(mut self, at: usize) -> Self {
        let mut sum = PayloadChecksum::new();
        sum.update(&SALT.0.to_le_bytes());
        sum.update(&(at as u64).to_le_bytes());
        sum.update(&self.bytes[at + 4..at + 40]);
        self.bytes[at..at + 4].copy_from_slice(&sum.finish().to_le_bytes());
        self
    }

    /// Extends the file to a length that a file has while it is written.
    fn padded(mut self) -> Self {
        self.bytes.resize(16384 + 8, 0);
        self
    }

    fn storage(&self) -> MemoryStorage {
        let storage = memory();
        storage.create_dir(Path::new("/streams/s")).unwrap();
        let name = format!("/streams/s/{:020}-{:08x}.seg", self.header.base.0, self.header.generation.0);
        storage.create_new(Path::new(&name)).unwrap().write_all_at(&self.bytes, 0).unwrap();
        storage
    }

    /// Opens the file as a reader, which must not panic, and then for writing.
    fn open(&self) -> Result<(StreamLog, MemoryStorage)> {
        let storage = self.storage();
        if let Ok(reader) = open(&storage, true) {
            reader.iter(.., Visibility::Stable).rev().take(10).for_each(drop);
        }
        salvage_all(&storage);
        for floor in [0, 1, 1000, u64::MAX - 1] {
            let storage = self.storage();
            let context = Arc::new(LogContext::new(Arc::new(storage.clone())));
            let location = location();
            if let Ok(log) = StreamLog::open_above(context, location, StreamOptions::new(), floor) {
                assert!(log.first_seq() >= floor && log.next_seq() >= log.first_seq());
                drop(log);
                assert!(open(&storage, true).is_ok(), "it was truncated before {floor}");
            }
        }
        open(&storage, false).map(|log| (log, storage))
    }
}

fn open(storage: &MemoryStorage, read_only: bool) -> Result<StreamLog> {
    let context = LogContext::new(Arc::new(storage.clone())).read_only(read_only);
    StreamLog::open(Arc::new(context), location(), StreamOptions::new())
}

/// Salvages the stream. Checks that this ends and that seqs increase.
fn salvage_all(storage: &MemoryStorage) -> Vec<Salvaged> {
    let context = Arc::new(LogContext::new(Arc::new(storage.clone())).read_only(true));
    let mut items = Vec::new();
    let mut next = 0;
    let salvage = salvage(&context, &location(), &StreamOptions::new()).unwrap().unwrap();
    for item in salvage {
        let Ok(item) = item else { break };
        let (first, end) = match &item {
            Salvaged::Entry(entry) | Salvaged::Uncertain(entry) => (entry.seq(), entry.seq() + 1),
            Salvaged::Lost(lost) => (lost.first_seq, lost.next_seq.unwrap_or(lost.first_seq)),
            other => panic!("an unknown item: {other:?}"),
        };
        assert!(first >= next && end >= first, "{next}: {item:?}");
        next = end;
        items.push(item);
    }
    items
}

/// Checks that an append is acknowledged only if the entry exists when the stream is opened again.
fn append_after(log: &StreamLog, storage: &MemoryStorage) {
    let seq = log.append(b"after", Durability::Synced).unwrap();
    let again = open(&storage.snapshot(), false).unwrap();
    assert_eq!(&again.get(seq, Visibility::Stable).unwrap().unwrap().data()[..], b"after");
}

#[test]
fn close_with_an_absurd_predecessor_is_read() {
    for previous in [u64::MAX - 7, u64::MAX, 128, 130, 1 << 40] {
        let kind = FooterKind::Close { previous: Some(ByteOffset(previous)) };
        let (log, storage) = Forged::begin(0).entry(0).close(1, |end| end.kind = kind).open().unwrap();
        assert_eq!(&log.get(0, Visibility::Stable).unwrap().unwrap().data()[..], b"entry");
        append_after(&log, &storage);
    }
}

#[test]
fn unaligned_close_is_damage() {
    let mut forged = Forged::begin(0);
    let mut frame = Forged::begin(0).close(0, |_| ()).bytes.split_off(128);
    frame.truncate(frame.len() - 16);
    forged.bytes.extend_from_slice(&[0; 4]);
    forged.bytes.extend_from_slice(&frame);
    let mut forged = forged.reseal(132);
    forged.bytes.extend_from_slice(&Trailer { footer_offset: ByteOffset(132) }.encode(SALT));
    let error = forged.open().unwrap_err();
    assert!(error.is_damage(), "{error}");
}

#[test]
fn close_with_a_start_beyond_its_end_is_damage() {
    let error = Forged::begin(0).entry(0).close(1, |end| end.start = SeqNo(1000)).open().unwrap_err();
    assert!(error.is_damage(), "{error}");
}

#[test]
fn close_with_falling_times_can_be_continued() {
    let point = IndexPoint { seq: 0, offset: 128, timestamp: u64::MAX - 1 };
    let index = encode_points(&[point]).unwrap();
    let (log, storage) = Forged::begin(0).entry(0).close(1, |end| end.index = index.into()).open().unwrap();
    append_after(&log, &storage);
}

#[test]
fn seqs_do_not_wrap_around() {
    let (log, _) = Forged::begin(u64::MAX - 2).padded().open().unwrap();
    let batch: Batch = [b"a", b"b", b"c"].into_iter().collect();
    assert_eq!(log.append_batch(&batch, Durability::Synced).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(log.append(b"last", Durability::Synced).unwrap(), u64::MAX - 2);
    assert_eq!(log.next_seq(), u64::MAX - 1);
}

#[test]
fn unknown_codec_is_a_newer_format() {
    let mut forged = Forged::begin(0).entry(0);
    let at = forged.bytes.len();
    forged = forged.entry(1);
    forged.bytes[at + 36] = 1;
    match forged.reseal(at).padded().open() {
        Ok((log, _)) => assert_eq!(log.get(1, Visibility::Stable).unwrap_err().kind(), ErrorKind::NewerFormat),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NewerFormat),
    }
}

/// A full disk leaves a SEAL without its index.
#[test]
fn entries_after_damage_need_no_index() {
    let mut forged = (0..6).fold(Forged::begin(0), Forged::entry);
    forged.bytes[128 + 2 * 48 + 40] ^= 1;
    let forged = forged.close(6, |end| {
        end.kind = FooterKind::Seal { successor: Generation(2), salt: SALT };
        end.entries = 6;
        end.index = encode_points(&[]).unwrap().into();
    });
    let storage = forged.storage();
    let mut newest = Forged::begin(6);
    newest.header = SegmentHeader {
        generation: Generation(2),
        predecessor: Generation(1),
        predecessor_salt: SALT,
        ..newest.header
    };
    newest.header.start = SeqNo(0);
    newest.bytes = newest.header.encode().to_vec();
    let newest = newest.padded();
    let name = "/streams/s/00000000000000000006-00000002.seg";
    storage.create_new(Path::new(name)).unwrap().write_all_at(&newest.bytes, 0).unwrap();
    let log = open(&storage, false).unwrap();
    for seq in 0..6 {
        match log.get(seq, Visibility::Stable) {
            Ok(entry) => assert!(seq != 2 && &entry.unwrap().data()[..] == b"entry"),
            Err(error) => assert_eq!((seq, error.lost()), (2, Some(2..3)), "{error}"),
        }
    }
    let lost =
        |item: &Salvaged| matches!(item, Salvaged::Lost(lost) if (lost.first_seq, lost.next_seq) == (2, Some(3)));
    let items = salvage_all(&storage);
    assert!(items.len() == 6 && lost(&items[2]), "{items:?}");
}

#[test]
fn malformed_entry_table_damages_its_frame() {
    let mut forged = Forged::begin(0);
    let position = forged.position();
    let ends = [1 | BATCH_END, 2 | BATCH_END];
    let frame = DataFrame { first_seq: SeqNo(0), timestamp: 1, durable: None, ends: &ends, data: b"ab" };
    encode_data(&mut forged.bytes, &position, &frame);
    forged.bytes[128 + 40] = 9;
    let mut sum = PayloadChecksum::new();
    sum.update(&forged.bytes[128 + 40..128 + 50]);
    forged.bytes[132..136].copy_from_slice(&sum.finish().to_le_bytes());
    match forged.reseal(128).padded().open() {
        Ok((log, _)) => {
            let error = log.get(0, Visibility::Stable).unwrap_err();
            assert!(error.is_damage() && error.lost() == Some(0..2), "{error}");
        }
        Err(error) => assert!(error.is_damage(), "{error}"),
    }
}

/// Opens a stream whose first frame is longer than the read bound of 64 KiB.
fn frame_over_the_bound_is_read() -> bool {
    let mut forged = Forged::begin(0);
    let position = forged.position();
    let data = vec![1; 100 << 10];
    let ends = [100 << 10 | BATCH_END];
    let frame = DataFrame { first_seq: SeqNo(0), timestamp: 1, durable: None, ends: &ends, data: &data };
    encode_data(&mut forged.bytes, &position, &frame);
    let storage = forged.entry(1).close(2, |_| ()).storage();
    let context = LogContext::new(Arc::new(storage)).read_only(true);
    let options = StreamOptions::new().read_bytes_max(64 << 10);
    let log = StreamLog::open(Arc::new(context), location(), options).unwrap();
    assert_eq!(&log.get(1, Visibility::Stable).unwrap().unwrap().data()[..], b"entry", "the entry after it is read");
    let found = [log.get(0, Visibility::Stable).map(drop), log.iter(.., Visibility::Stable).next().unwrap().map(drop)];
    let too_large =
        |error: &stratawal_stream::Error| matches!(error.kind(), ErrorKind::TooLarge { max, .. } if max < 65 << 10);
    !found.iter().all(|found| found.as_ref().is_err_and(too_large))
}

#[test]
fn frame_over_the_bound_takes_no_memory() {
    assert!(!frame_over_the_bound_is_read());
}

#[cfg(stratawal_faults)]
#[test]
fn seeded_unbounded_length_is_found() {
    stratawal_stream::FailPoint::LengthBelieved.activate();
    assert!(frame_over_the_bound_is_read());
}
