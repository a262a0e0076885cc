//! What a log with damage may answer.

use std::path::PathBuf;

use stratawal::{Error, ErrorKind, Stream, Wal};

use crate::layout::{DIR, Layout, Place, entry};

/// What a stream answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    All,
    /// Some entries are errors.
    Part,
    /// The stream did not open.
    Refused,
}

/// How much is read of each: everything in every way, or forwards and backwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Shallow,
    Deep,
}

/// What every sentence of the harness begins with: it is what tells its own findings from any other
/// panic.
pub(crate) const OWN: &str = "the sweep found that in ";

fn of_stream(files: Vec<(PathBuf, Vec<u8>)>) -> Vec<(PathBuf, Vec<u8>)> {
    files.into_iter().filter(|file| file.0.starts_with(DIR)).collect()
}

impl Layout {
    /// Holds what the log with this damage answers against what it has to. `silent_from`: entries
    /// from there on may be missing in silence.
    pub(crate) fn judge(&self, what: &str, place: &dyn Place, silent_from: u64, depth: Depth) -> Option<Read> {
        let what = format!("{OWN}{}: {what}", self.name);
        let before = place.files();
        // Another process, which shares what it sees; it changes nothing.
        let looked = place.open_log(true).map(|wal| self.read(&what, &wal, silent_from, Depth::Shallow));
        if let (Ok(read), Depth::Deep) = (&looked, depth) {
            self.judge_salvage(&what, place, silent_from, *read);
        }
        assert!(place.files() == before, "{what}: reading changed files");
        let wal = match place.open_log(false) {
            Ok(wal) => wal,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {error}");
                return None;
            }
        };
        let found = self.read(&what, &wal, silent_from, depth);
        assert_eq!(looked.ok(), Some(found), "{what}: another process sees something else");
        if found == Read::Refused {
            assert!(of_stream(place.files()) == of_stream(before), "{what}: a damaged stream was changed");
        }
        if depth == Depth::Deep || found == Read::Refused {
            let other = wal.stream("other").unwrap_or_else(|e| panic!("{what}: the other stream: {e}"));
            let appended = other.append("goes on");
            assert!(appended.is_ok(), "{what}: the other stream is held up");
        }
        if found != Read::Refused {
            self.go_on(&what, place, wal, silent_from, depth);
        }
        Some(found)
    }

    /// No seq that was acknowledged is given again, whether all of the stream can be read or a
    /// part.
    fn go_on(&self, what: &str, place: &dyn Place, wal: Wal, silent_from: u64, depth: Depth) {
        let stream = wal.stream("s").unwrap();
        let seq = stream.append("after").unwrap_or_else(|e| panic!("{what}: an append: {e}"));
        assert!(seq >= self.next.min(silent_from), "{what}: {seq} was acknowledged before");
        let is_there = |stream: &Stream| matches!(stream.get(seq), Ok(Some(found)) if found.data()[..] == b"after"[..]);
        assert!(is_there(&stream) && stream.next_seq() == seq + 1, "{what}: what was appended is not there");
        if depth == Depth::Deep {
            drop((stream, wal));
            let wal = place.open_log(false).unwrap_or_else(|e| panic!("{what}: opening again: {e}"));
            // Damage that lay where nothing had to be read may be met now.
            if let Ok(stream) = wal.stream("s") {
                assert_eq!(stream.next_seq(), seq + 1, "{what}: opened again");
                assert!(is_there(&stream), "{what}: what was appended is not there when opened again");
            }
        }
    }

    pub(crate) fn read(&self, what: &str, wal: &Wal, silent_from: u64, depth: Depth) -> Read {
        let stream = match wal.stream("s") {
            Ok(stream) => stream,
            Err(error) => {
                self.judge_refusal(what, &error);
                return Read::Refused;
            }
        };
        let first = stream.first_seq();
        let next = stream.next_seq();
        assert!(first <= self.first, "{what}: begins at {first}");
        let expected = self.next.min(silent_from);
        assert!(next >= expected, "{what}: {next} of {} entries, in silence", self.next);
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

    /// A refusal says where the damage is and what it takes, as far as that can be known of its
    /// kind.
    fn judge_refusal(&self, what: &str, error: &Error) {
        assert_eq!((error.kind(), error.stream()), (ErrorKind::Damaged, Some("s")), "{what}: {error}");
        let text = error.to_string();
        let from = text.contains(" on may be lost, how many is not known");
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
            // Which of the two segments is the wrong one is not known, and so no entry is said to
            // be lost.
            () if text.contains("the segments do not belong together") => (false, true),
            () if text.contains("the stream's directory has no segment") => {
                assert_eq!((error.segment(), error.offset(), lost, from), (None, None, None, false), "{what}");
                return;
            }
            () => panic!("{what}: a refusal of no known kind: {text}"),
        };
        assert!(error.segment().is_some(), "{what}: no segment: {text}");
        assert_eq!(error.offset().is_some(), offset, "{what}: {text}");
        assert!(named, "{what}: does not say what is lost: {text}");
    }
}

/// The entries that an error of reading `seq` says are lost, which it is one of.
fn lost(what: &str, stream: &Stream, seq: u64, error: &Error) -> (u64, u64) {
    assert_eq!((error.kind(), error.stream()), (ErrorKind::Damaged, Some("s")), "{what}: {error}");
    assert!(error.segment().is_some() && error.offset().is_some(), "{what}: {error:?}");
    let lost = error.lost().unwrap_or_else(|| panic!("{what}: reading {seq} says of none that it is lost: {error}"));
    assert!(lost.contains(&seq), "{what}: reading {seq}: {error}");
    let is_live = lost.start >= stream.first_seq() && lost.end <= stream.next_seq();
    assert!(is_live, "{what}: beyond the stream: {error}");
    (lost.start, lost.end - 1)
}

/// Where iterating ended with an error, and what that said is lost.
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
                assert!(iter.next().is_none() && iter.next_back().is_none(), "{what}: goes on after an error");
                return Some((seq, lost(what, stream, seq, &error)));
            }
        }
    }
}

/// `get` of each seq is an entry or an error; where it is an error, iterating ends, from anywhere,
/// both ways, and nowhere else; and no error claims an entry that can be read.
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
            Ok(None) => panic!("{what}: entry {seq} is in the live range, and there is none"),
            Err(error) => {
                claims.push(lost(what, stream, seq, &error));
                failed.push(seq);
            }
        }
    }
    assert!(stream.get(next).unwrap().is_none(), "{what}: there is an entry beyond the end");
    // What was gone through once is passed over the second time, and answers the same, from
    // whichever side one comes.
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
        assert_eq!(readable, None, "{what}: {from} to {to} are said to be lost, and can be read");
    }
}
