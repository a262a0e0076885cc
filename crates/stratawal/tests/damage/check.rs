//! Checks of the results from a damaged log.

use std::path::PathBuf;

use stratawal::{Error, ErrorKind, Stream, Wal};

use crate::layout::{DIR, DamagedLog, Layout, entry};

/// How much of a stream could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    All,
    /// Some entries are errors.
    Part,
    /// The stream did not open.
    Refused,
}

/// How a stream is read: in every way, or only forwards and backwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Shallow,
    Deep,
}

/// The beginning of every failure of this harness, which distinguishes it from any other panic.
pub(crate) const OWN: &str = "the sweep found that in ";

fn of_stream(files: Vec<(PathBuf, Vec<u8>)>) -> Vec<(PathBuf, Vec<u8>)> {
    files.into_iter().filter(|file| file.0.starts_with(DIR)).collect()
}

impl Layout {
    /// Checks the results of the damaged log. Entries from `silent_from` on may be missing without
    /// an error.
    pub(crate) fn check(&self, what: &str, log: &dyn DamagedLog, silent_from: u64, depth: Depth) -> Option<Read> {
        let what = format!("{OWN}{}: {what}", self.name);
        let before = log.files();
        // A reader in another process sees the same and changes no file.
        let looked = log.open_log(true).map(|wal| self.read(&what, &wal, silent_from, Depth::Shallow));
        if let (Ok(read), Depth::Deep) = (&looked, depth) {
            self.check_salvage(&what, log, silent_from, *read);
            self.check_verify(&what, log, *read);
        }
        assert!(log.files() == before, "{what}: reading changed files");
        let wal = match log.open_log(false) {
            Ok(wal) => wal,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {error}");
                return None;
            }
        };
        let found = self.read(&what, &wal, silent_from, depth);
        assert_eq!(looked.ok(), Some(found), "{what}: another process sees other entries");
        if found == Read::Refused {
            assert!(of_stream(log.files()) == of_stream(before), "{what}: a damaged stream was changed");
        }
        if depth == Depth::Deep || found == Read::Refused {
            let other = wal.stream("other").unwrap_or_else(|e| panic!("{what}: the other stream: {e}"));
            let appended = other.append("continues");
            assert!(appended.is_ok(), "{what}: the other stream does not continue");
        }
        if found != Read::Refused {
            self.append_after(&what, log, wal, silent_from, depth);
        }
        Some(found)
    }

    /// Checks that an append gets a seq above all acknowledged ones, whether all or only part of
    /// the stream can be read.
    fn append_after(&self, what: &str, log: &dyn DamagedLog, wal: Wal, silent_from: u64, depth: Depth) {
        let stream = wal.stream("s").unwrap();
        let seq = stream.append("after").unwrap_or_else(|e| panic!("{what}: an append: {e}"));
        assert!(seq >= self.next.min(silent_from), "{what}: {seq} was acknowledged before");
        let is_present =
            |stream: &Stream| matches!(stream.get(seq), Ok(Some(found)) if found.data()[..] == b"after"[..]);
        assert!(is_present(&stream) && stream.next_seq() == seq + 1, "{what}: the appended entry is missing");
        if depth == Depth::Deep {
            drop((stream, wal));
            let wal = log.open_log(false).unwrap_or_else(|e| panic!("{what}: opening again: {e}"));
            // Damage may now be found in bytes that did not have to be read before.
            if let Ok(stream) = wal.stream("s") {
                assert_eq!(stream.next_seq(), seq + 1, "{what}: opened again");
                assert!(is_present(&stream), "{what}: the appended entry is missing when opened again");
            }
        }
    }

    pub(crate) fn read(&self, what: &str, wal: &Wal, silent_from: u64, depth: Depth) -> Read {
        let stream = match wal.stream("s") {
            Ok(stream) => stream,
            Err(error) => {
                self.check_refusal(what, &error);
                return Read::Refused;
            }
        };
        let first = stream.first_seq();
        let next = stream.next_seq();
        assert!(first <= self.first, "{what}: begins at {first}");
        let expected = self.next.min(silent_from);
        assert!(next >= expected, "{what}: {next} of {} entries, without an error", self.next);
        assert!(next <= self.next, "{what}: {next} entries, of {}", self.next);
        let forwards = run(what, &stream, first, next, false);
        let backwards = run(what, &stream, first, next, true);
        if depth == Depth::Deep {
            deep(what, &stream);
        }
        match (forwards, backwards) {
            (None, None) => Read::All,
            (Some(front), Some(back)) => {
                assert!(front.0 <= back.0, "{what}: forwards fails at {front:?}, backwards at {back:?}");
                Read::Part
            }
            other => panic!("{what}: fails one way only: {other:?}"),
        }
    }

    /// Checks that a refusal names the position of the damage and the lost entries, as exactly as
    /// this kind of damage allows.
    fn check_refusal(&self, what: &str, error: &Error) {
        assert_eq!((error.kind(), error.stream()), (ErrorKind::Damaged, Some("s")), "{what}: {error}");
        let text = error.to_string();
        let from = text.contains(" on may be lost (how many is not known)");
        let lost = error.lost();
        if let Some(lost) = &lost {
            assert!(!lost.is_empty() && lost.end <= self.next, "{what}: of {} entries: {error}", self.next);
        }
        let known = lost.is_some() || from;
        let (offset, named) = match () {
            () if text.contains("the segment's header is not valid") => (true, known),
            () if text.contains("a valid segment in the wrong place") => {
                (true, known || text.contains("the header is that of segment"))
            }
            () if text.contains("this is not a segment file") => (false, known),
            () if text.contains("the first segment is missing") => (false, lost.is_some()),
            () if text.contains("the segment before this one is missing") => (false, lost.is_some()),
            () if text.contains("the segment that follows this one is missing") => (true, from),
            () if text.contains("acknowledged entries are missing") => (true, known),
            () if text.contains("the file does not end as it was written") => {
                (true, known || text.contains("was closed with"))
            }
            // Which of the two segments is wrong is unknown, so no entry is reported as lost.
            () if text.contains("the segments do not belong together") => (false, true),
            () if text.contains("the stream's directory has no segment") => {
                assert_eq!((error.segment(), error.offset(), lost, from), (None, None, None, false), "{what}");
                return;
            }
            () => panic!("{what}: a refusal of no known kind: {text}"),
        };
        assert!(error.segment().is_some(), "{what}: no segment: {text}");
        assert_eq!(error.offset().is_some(), offset, "{what}: {text}");
        assert!(named, "{what}: does not name the lost entries: {text}");
    }
}

/// Returns the entries that an error from reading `seq` reports as lost. Checks that `seq` is one
/// of them.
fn lost(what: &str, stream: &Stream, seq: u64, error: &Error) -> (u64, u64) {
    assert_eq!((error.kind(), error.stream()), (ErrorKind::Damaged, Some("s")), "{what}: {error}");
    assert!(error.segment().is_some() && error.offset().is_some(), "{what}: {error:?}");
    let lost = error.lost().unwrap_or_else(|| panic!("{what}: reading {seq} reports no lost entry: {error}"));
    assert!(lost.contains(&seq), "{what}: reading {seq}: {error}");
    let is_live = lost.start >= stream.first_seq() && lost.end <= stream.next_seq();
    assert!(is_live, "{what}: beyond the stream: {error}");
    (lost.start, lost.end - 1)
}

/// The seq at which an iteration ended with an error, and the entries that the error reports as
/// lost.
type Ended = (u64, (u64, u64));

/// Iterates over `first..next`.
fn run(what: &str, stream: &Stream, first: u64, next: u64, back: bool) -> Option<Ended> {
    let mut iter = stream.iter(first..next);
    let mut front = first;
    let mut end = next;
    loop {
        let found = if back { iter.next_back() } else { iter.next() };
        let Some(found) = found else {
            assert_eq!(front, end, "{what}: iterating ended early");
            return None;
        };
        let seq = if back { end - 1 } else { front };
        match found {
            Ok(found) => {
                assert_eq!(found.seq(), seq, "{what}");
                assert!(found.data()[..] == entry(seq), "{what}: entry {seq} is another");
                if back { end -= 1 } else { front += 1 }
            }
            Err(error) => {
                assert!(iter.next().is_none() && iter.next_back().is_none(), "{what}: continues after an error");
                return Some((seq, lost(what, stream, seq, &error)));
            }
        }
    }
}

/// Checks that `get` returns an entry or an error for each seq, that iterations in both directions,
/// from any seq, end exactly where `get` returns an error, and that no error reports a readable
/// entry as lost.
fn deep(what: &str, stream: &Stream) {
    let first = stream.first_seq();
    let next = stream.next_seq();
    let mut claims = Vec::new();
    let mut failed = Vec::new();
    for seq in first..next {
        match stream.get(seq) {
            Ok(Some(found)) => {
                assert_eq!(found.seq(), seq, "{what}");
                assert!(found.data()[..] == entry(seq), "{what}: entry {seq} is another");
            }
            Ok(None) => panic!("{what}: entry {seq} is in the live range and missing"),
            Err(error) => {
                claims.push(lost(what, stream, seq, &error));
                failed.push(seq);
            }
        }
    }
    assert!(stream.get(next).unwrap().is_none(), "{what}: an entry exists beyond the end");
    // Verified bytes are not verified a second time, but the results stay the same, from both
    // directions.
    for seq in (first..next).rev() {
        let found = stream.get(seq).ok().flatten();
        let right = found.as_ref().is_some_and(|found| found.seq() == seq && found.data()[..] == entry(seq));
        assert_eq!(right, !failed.contains(&seq), "{what}: entry {seq}, read again: {found:?}");
    }
    let step = usize::try_from((next - first) / 5 + 1).unwrap();
    for from in (first..next).step_by(step).chain(next.checked_sub(1).filter(|&last| last >= first)) {
        let forwards = run(what, stream, from, next, false);
        let backwards = run(what, stream, first, from + 1, true);
        let after = failed.iter().find(|&&seq| seq >= from);
        let before = failed.iter().rfind(|&&seq| seq <= from);
        assert_eq!(forwards.map(|ended| ended.0).as_ref(), after, "{what}: from {from} on");
        assert_eq!(backwards.map(|ended| ended.0).as_ref(), before, "{what}: back from {from}");
        claims.extend(forwards.into_iter().chain(backwards).map(|ended| ended.1));
    }
    for (from, to) in claims {
        let readable = (from..=to).find(|seq| !failed.contains(seq));
        assert_eq!(readable, None, "{what}: {from} to {to} are reported as lost and can be read");
    }
}
