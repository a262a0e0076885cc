//! Code shared by the segment tests: a storage that fails on demand, a segment to write to, and
//! frames with chosen fields.

// Each test file uses a part of this.
#![allow(dead_code)]

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use stratawal_frame::{
    BATCH_END, ByteOffset, DataFrame, Footer, FooterKind, FrameHeader, FramePosition, Generation, PayloadChecksum,
    Salt, SegmentHeader, SeqNo, encode_data,
};
use stratawal_segment::{Access, Chain, ControlContext, Preallocation, SegmentFile, SegmentId, SegmentWriter, create};
use stratawal_storage::{DirEntry, MemoryStorage, Storage};
use stratawal_testkit::{Call, HookedStorage, Operation, Verdict};

/// The directory of the segments.
pub(crate) const DIR: &str = "/s";

pub(crate) const HEADER_LEN: u64 = 128;

pub(crate) fn dir() -> &'static Path {
    Path::new(DIR)
}

/// The header of a segment in the middle of a stream.
pub(crate) fn header() -> SegmentHeader {
    SegmentHeader {
        generation: Generation(3),
        predecessor: Generation(2),
        base: SeqNo(40),
        salt: Salt(0x1122_3344_5566_7788),
        durable: SeqNo(40),
        start: SeqNo(12),
        last_timestamp: 1000,
        ..SegmentHeader::EMPTY
    }
}

/// The operation that fails, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// The number of the operation, counted from 0 starting now. Only operations that change bytes
    /// or make them durable count.
    pub(crate) nth: usize,
    pub(crate) kind: io::ErrorKind,
    /// Whether the operation takes effect although it reports an error.
    pub(crate) done: bool,
    /// Whether all later operations also fail.
    pub(crate) forever: bool,
}

/// An in-memory storage that fails on demand, and logs each operation that changes bytes or makes
/// them durable.
#[derive(Clone, Debug)]
pub(crate) struct Scripted {
    pub(crate) memory: MemoryStorage,
    hooked: HookedStorage,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    log: Vec<String>,
    fault: Option<(usize, Fault)>,
    /// The number of bytes read as of the last count.
    bytes_read: u64,
}

impl Script {
    /// Logs an operation, and makes it fail if the fault names it.
    fn decide(&mut self, call: &Call) -> Verdict {
        let Some(line) = line_of(call) else { return Verdict::Proceed };
        let n = self.log.len();
        self.log.push(line);
        match self.fault {
            Some((at, fault)) if n == at || fault.forever && n > at => {
                let error = fault.kind.into();
                if fault.done { Verdict::FailAfterEffect(error) } else { Verdict::Fail(error) }
            }
            _ => Verdict::Proceed,
        }
    }
}

/// The log line of an operation, if the operation changes bytes or makes them durable.
fn line_of(call: &Call) -> Option<String> {
    let name = name_of(&call.path);
    let bytes = &call.bytes;
    Some(match call.operation {
        Operation::Open => return None,
        Operation::Create => format!("create {name}"),
        Operation::CreateDir => format!("create directory {name}"),
        Operation::Rename => format!("rename {} {name}", name_of(call.from.as_ref()?)),
        Operation::Remove => format!("remove {name}"),
        Operation::RemoveDir => format!("remove directory {name}"),
        Operation::SyncDir => format!("sync directory {name}"),
        Operation::Write => format!("write {name} {}+{}", bytes.start, bytes.end - bytes.start),
        Operation::StartWriteBack => format!("start the write-back of {name}"),
        Operation::Sync => format!("sync {name}"),
        Operation::SetLen => format!("set length {name} {}", bytes.end),
        Operation::Preallocate => format!("preallocate {name} {}", bytes.end),
    })
}

impl Scripted {
    /// A storage with the directory [`DIR`].
    pub(crate) fn new() -> Self {
        let memory = MemoryStorage::new().with_seed(1);
        memory.create_dir(dir()).unwrap();
        let hooked = HookedStorage::new(memory.clone());
        let script = Arc::<Mutex<Script>>::default();
        let hook = Arc::clone(&script);
        hooked.intercept(move |call| hook.lock().unwrap().decide(call));
        Self { memory, hooked, script }
    }

    pub(crate) fn shared(&self) -> Arc<dyn Storage> {
        Arc::new(self.hooked.clone())
    }

    /// Returns the operations since the last call.
    pub(crate) fn take_log(&self) -> Vec<String> {
        let mut script = self.script.lock().unwrap();
        script.fault = None;
        std::mem::take(&mut script.log)
    }

    /// Returns the number of bytes read since the last call.
    pub(crate) fn take_bytes_read(&self) -> u64 {
        let read = self.hooked.read_bytes();
        read - std::mem::replace(&mut self.script.lock().unwrap().bytes_read, read)
    }

    /// Clears the log, and makes the operation of `fault` fail.
    pub(crate) fn fail(&self, fault: Fault) {
        self.take_log();
        self.script.lock().unwrap().fault = Some((fault.nth, fault));
    }

    /// Limits the disk to `more` bytes beyond those in use.
    pub(crate) fn leave_room(&self, more: u64) {
        let used: u64 = self.tree().iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let _ = self.memory.clone().with_capacity(used + more);
    }

    pub(crate) fn make_room(&self) {
        let _ = self.memory.clone().with_capacity(u64::MAX);
    }

    /// The files of [`DIR`] and their bytes.
    pub(crate) fn tree(&self) -> Vec<(String, Vec<u8>)> {
        let entries = self.memory.list(dir()).unwrap();
        let bytes_of = |entry: DirEntry| {
            let file = self.memory.open(&dir().join(&entry.name), Access::Read).unwrap();
            let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            (entry.name.into_string().unwrap(), bytes)
        };
        entries.into_iter().map(bytes_of).collect()
    }

    /// The bytes of the only file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut tree = self.tree();
        assert_eq!(tree.len(), 1);
        tree.remove(0).1
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// A frame of `entries` in one batch.
pub(crate) fn data_frame(position: &FramePosition, first_seq: u64, durable: Option<u64>, entries: &[&[u8]]) -> Vec<u8> {
    let data = entries.concat();
    let mut ends: Vec<u32> = Vec::new();
    for entry in entries {
        ends.push(ends.last().copied().unwrap_or(0) + u32::try_from(entry.len()).unwrap());
    }
    *ends.last_mut().unwrap() |= BATCH_END;
    let first_seq = SeqNo(first_seq);
    let durable = durable.map(SeqNo);
    let mut bytes = Vec::new();
    encode_data(
        &mut bytes,
        position,
        &DataFrame { first_seq, timestamp: first_seq.0.saturating_add(1000), durable, ends: &ends, data: &data },
    );
    bytes
}

/// A frame with chosen fields and the correct header checksum.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) first_seq: u64,
    pub(crate) count: u32,
    pub(crate) undurable: u32,
    pub(crate) codec: u8,
    pub(crate) flags: u8,
    pub(crate) payload: Vec<u8>,
    /// A wrong payload length for the header.
    pub(crate) payload_len: Option<u32>,
    /// A wrong payload checksum for the header.
    pub(crate) payload_crc: Option<u32>,
}

/// The frame of an entry "hello", which attests nothing.
pub(crate) fn raw(first_seq: u64) -> Raw {
    let payload = b"hello".to_vec();
    Raw { first_seq, count: 1, undurable: u32::MAX, codec: 0, flags: 0, payload, payload_len: None, payload_crc: None }
}

pub(crate) fn crc(parts: &[&[u8]]) -> u32 {
    let mut sum = PayloadChecksum::new();
    parts.iter().for_each(|part| sum.update(part));
    sum.finish()
}

impl Raw {
    pub(crate) fn encode(&self, position: &FramePosition) -> Vec<u8> {
        let len = self.payload_len.unwrap_or_else(|| u32::try_from(self.payload.len()).unwrap());
        let mut bytes = vec![0; 4];
        bytes.extend(self.payload_crc.unwrap_or_else(|| crc(&[&self.payload])).to_le_bytes());
        bytes.extend(self.first_seq.to_le_bytes());
        bytes.extend(7_u64.to_le_bytes());
        bytes.extend(self.count.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(self.undurable.to_le_bytes());
        bytes.extend([self.codec, self.flags, 0, 0]);
        let sum = crc(&[&position.salt.0.to_le_bytes(), &position.offset.0.to_le_bytes(), &bytes[4..]]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        bytes.extend(&self.payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }
}

/// An active segment, and the fields of its next frame.
pub(crate) struct Segment {
    pub(crate) storage: Scripted,
    pub(crate) writer: SegmentWriter,
    pub(crate) preallocation: Preallocation,
    pub(crate) next: u64,
    pub(crate) durable: u64,
    pub(crate) entries: u64,
    pub(crate) closed_at: Option<ByteOffset>,
}

impl Segment {
    /// A new segment, 8200 bytes long.
    pub(crate) fn new() -> Self {
        Self::with(&header(), 0x2000)
    }

    pub(crate) fn with(header: &SegmentHeader, reserve: u64) -> Self {
        let storage = Scripted::new();
        let (writer, preallocation) = create(&storage.shared(), dir(), header, reserve).unwrap();
        storage.take_log();
        let next = header.base.0;
        let durable = header.durable.0;
        Self { storage, writer, preallocation, next, durable, entries: 0, closed_at: None }
    }

    pub(crate) fn id(&self) -> SegmentId {
        self.writer.id()
    }

    pub(crate) fn context(&self) -> ControlContext {
        ControlContext { next_seq: SeqNo(self.next), timestamp: 1000 + self.next, durable: SeqNo(self.durable) }
    }

    pub(crate) fn offset(&self) -> ByteOffset {
        self.writer.next_position().offset
    }

    /// Appends a frame of entries, and returns where it begins.
    pub(crate) fn append(&mut self, entries: &[&[u8]]) -> ByteOffset {
        let at = self.offset();
        let frame = data_frame(&self.writer.next_position(), self.next, Some(self.durable), entries);
        self.preallocation.ensure(&at, frame.len() as u64).unwrap();
        // Written only now, because the first preallocation after a CLOSE writes.
        self.writer.append(&frame).unwrap();
        self.next += entries.len() as u64;
        self.entries += entries.len() as u64;
        at
    }

    pub(crate) fn sync(&mut self) {
        self.writer.sync().unwrap();
        self.durable = self.next;
    }

    pub(crate) fn mark(&mut self) {
        self.writer.write_mark(&self.context(), self.preallocation.preallocated()).unwrap();
    }

    pub(crate) fn start(&mut self, start: u64) {
        let context = self.context();
        self.writer.write_start(&mut self.preallocation, &context, SeqNo(start)).unwrap();
    }

    pub(crate) fn end(&self, kind: FooterKind, index: &'static [u8]) -> Footer {
        let times = if self.entries == 0 { (0, 0) } else { (1040, 1000 + self.next - 1) };
        Footer { kind, start: SeqNo(12), entries: self.entries, times, index: Bytes::from_static(index) }
    }

    /// Writes a SEAL or CLOSE, syncs, trims, syncs.
    pub(crate) fn finish(&mut self, kind: FooterKind, index: &'static [u8]) {
        let context = self.context();
        let end = self.end(kind, index);
        self.writer.finish(&mut self.preallocation, &context, end).unwrap();
        self.sync();
        self.writer.trim_to_trailer().unwrap();
        self.sync();
    }

    pub(crate) fn seal(&mut self) {
        self.finish(FooterKind::Seal { successor: Generation(4), salt: Salt(40) }, b"index");
    }

    pub(crate) fn close(&mut self) {
        let at = self.offset();
        self.finish(FooterKind::Close { previous: self.closed_at }, b"points");
        self.closed_at = Some(at);
    }

    /// Opens the file again, and continues after the CLOSE at its end.
    pub(crate) fn resume_after_close(&mut self) {
        let file = self.open(Access::ReadWrite);
        let close = file.finished().unwrap().expect("it is closed").offset;
        (self.writer, self.preallocation) = SegmentWriter::resume_after_close(&file, close).unwrap();
    }

    pub(crate) fn open(&self, access: Access) -> SegmentFile {
        SegmentFile::open(&self.storage.shared(), dir(), self.id(), access).unwrap()
    }

    pub(crate) fn file(&self) -> SegmentFile {
        self.open(Access::Read)
    }

    /// Overwrites bytes at any offset.
    pub(crate) fn poke(&self, bytes: &[u8], at: u64) {
        let file = self.storage.memory.open(&dir().join(self.id().to_string()), Access::ReadWrite).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    pub(crate) fn set_len(&self, len: u64) {
        let file = self.storage.memory.open(&dir().join(self.id().to_string()), Access::ReadWrite).unwrap();
        file.set_len(len).unwrap();
    }

    pub(crate) fn position(&self, offset: u64) -> FramePosition {
        FramePosition { salt: self.writer.header().salt, offset: ByteOffset(offset) }
    }
}

/// A segment file with these bytes, in its own storage.
pub(crate) fn file_of(bytes: &[u8], id: SegmentId) -> stratawal_segment::Result<SegmentFile> {
    let storage = Scripted::new();
    storage.memory.create_new(&dir().join(id.to_string())).unwrap().write_all_at(bytes, 0).unwrap();
    SegmentFile::open(&storage.shared(), dir(), id, Access::Read)
}

/// Returns the chain, and the offset and header of each frame in it.
pub(crate) fn walked(file: &SegmentFile) -> (Chain, Vec<(u64, FrameHeader)>) {
    let mut frames = Vec::new();
    let chain = file.scan_chain(&mut |at, frame| frames.push((at.0, *frame))).unwrap();
    (chain, frames)
}

/// A generator of pseudorandom numbers, `SplitMix64`.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
