//! A stream with each kind of damage.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use stratawal::{Options, StreamOptions};

use super::{Log, Ran};

/// A closed log with a stream `s` of four segments, before or after damage.
pub(crate) struct Files {
    pub(crate) log: Log,
    /// The segment files, oldest first.
    pub(crate) files: Vec<PathBuf>,
    /// The entries of each segment.
    pub(crate) seqs: Vec<Range<u64>>,
}

pub(crate) fn entry(seq: u64) -> String {
    format!("{seq} {}", "-".repeat(1000))
}

impl Files {
    pub(crate) fn new() -> Self {
        const SEGMENTS: usize = 4;
        const LAST_LEN: u64 = 10;
        let log = Log::new();
        // Without a journal, each entry is in a segment at once.
        let wal = Options::new().journal(false).open(log.path()).unwrap();
        let stream = wal.stream_with("s", StreamOptions::new().segment_bytes(64 << 10)).unwrap();
        let mut begins = Vec::new();
        while begins.len() < SEGMENTS || begins[SEGMENTS - 1] + LAST_LEN > stream.next_seq() {
            let seq = stream.append(entry(stream.next_seq())).unwrap();
            if log.segments("s").len() > begins.len() {
                begins.push(seq);
            }
        }
        wal.close().unwrap();
        let ends = begins.iter().skip(1).copied().chain([stream.next_seq()]);
        let seqs = begins.iter().copied().zip(ends).map(|(begin, end)| begin..end).collect();
        Self { files: log.segments("s"), seqs, log }
    }

    pub(crate) fn next(&self) -> u64 {
        self.seqs[3].end
    }

    /// Damages the bytes of a segment file.
    pub(crate) fn damage(&self, segment: usize, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(&self.files[segment]).unwrap();
        damage(&mut bytes);
        fs::write(&self.files[segment], bytes).unwrap();
    }

    pub(crate) fn remove(&self, segment: usize) {
        fs::remove_file(&self.files[segment]).unwrap();
    }

    pub(crate) fn cat(&self, options: &[&str]) -> Ran {
        self.log.run("cat", [&["s"], options].concat(), b"")
    }
}

/// The entries that damage loses, if any. The last one is `None` if nothing attests the end of the
/// stream.
pub(crate) type Loss = Option<(u64, Option<u64>)>;

/// A kind of damage.
pub(crate) type Kind = (&'static str, fn(&Files) -> Loss);

/// An offset within the payload of the fifth entry of a segment.
const IN_FIFTH: usize = 5000;

/// An offset within a segment's header.
const IN_HEADER: usize = 20;

pub(crate) const KINDS: [Kind; 20] = [
    ("a bit of a payload, in the first file", |s| flip(s, 0)),
    ("a bit of a payload, in a middle file", |s| flip(s, 1)),
    ("a bit of a payload, in the newest file", |s| flip(s, 3)),
    ("the header of the first file", |s| flip_header(s, 0)),
    ("the header of a middle file", |s| flip_header(s, 1)),
    ("the header of the newest file", |s| {
        flip_header(s, 3);
        Some((s.seqs[3].start, None))
    }),
    ("the version of a middle file", |s| {
        s.damage(1, |bytes| bytes[10] ^= b'X');
        Some((s.seqs[1].start, Some(s.seqs[1].end - 1)))
    }),
    ("the first file is missing", |s| remove(s, 0)),
    ("a middle file is missing", |s| remove(s, 1)),
    ("the newest file is missing", |s| {
        s.remove(3);
        Some((s.seqs[3].start, None))
    }),
    ("the SEAL of a middle file", |s| {
        s.damage(1, |bytes| *bytes.iter_mut().rev().nth(9).unwrap() ^= 1);
        None
    }),
    ("the CLOSE of the newest file", |s| {
        s.damage(3, |bytes| *bytes.iter_mut().rev().nth(9).unwrap() ^= 1);
        Some((s.next(), None))
    }),
    ("a middle file is cut", |s| {
        s.damage(1, |bytes| bytes.truncate(IN_FIFTH));
        Some((s.seqs[1].start + 4, Some(s.seqs[1].end - 1)))
    }),
    ("the newest file is cut", |s| {
        s.damage(3, |bytes| bytes.truncate(IN_FIFTH));
        Some((s.seqs[3].start + 4, None))
    }),
    ("a middle file is empty", |s| {
        s.damage(1, Vec::clear);
        Some((s.seqs[1].start, Some(s.seqs[1].end - 1)))
    }),
    ("a middle file is that of another", |s| {
        fs::copy(&s.files[0], &s.files[1]).unwrap();
        Some((s.seqs[1].start, Some(s.seqs[1].end - 1)))
    }),
    ("the first file is that of another log", |s| of_another_log(s, 0)),
    ("a middle file is that of another log", |s| of_another_log(s, 1)),
    ("a middle file is a directory", |s| {
        s.remove(1);
        fs::create_dir(&s.files[1]).unwrap();
        Some((s.seqs[1].start, Some(s.seqs[1].end - 1)))
    }),
    ("all files are missing", |s| {
        (0..4).for_each(|segment| s.remove(segment));
        Some((0, None))
    }),
];

pub(crate) fn flip(stream: &Files, segment: usize) -> Loss {
    stream.damage(segment, |bytes| bytes[IN_FIFTH] ^= 1);
    let seq = stream.seqs[segment].start + 4;
    Some((seq, Some(seq)))
}

pub(crate) fn flip_header(stream: &Files, segment: usize) -> Loss {
    stream.damage(segment, |bytes| bytes[IN_HEADER] ^= 1);
    Some((stream.seqs[segment].start, Some(stream.seqs[segment].end - 1)))
}

pub(crate) fn remove(stream: &Files, segment: usize) -> Loss {
    stream.remove(segment);
    Some((stream.seqs[segment].start, Some(stream.seqs[segment].end - 1)))
}

pub(crate) fn of_another_log(stream: &Files, segment: usize) -> Loss {
    fs::copy(&Files::new().files[segment], &stream.files[segment]).unwrap();
    Some((stream.seqs[segment].start, Some(stream.seqs[segment].end - 1)))
}
