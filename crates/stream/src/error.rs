//! What goes wrong with a stream.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_segment as segment;

use crate::location::Location;

/// The result of an operation on a stream.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong: kind, stream, segment, offset, the entries lost, and the cause. Cloning is
/// cheap.
#[derive(Clone, Debug)]
pub struct Error(Arc<Inner>, Option<Call>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    stream: String,
    segment: Option<String>,
    offset: Option<u64>,
    lost: Option<(u64, u64)>,
    /// Where only the first entry that may be lost is known: that.
    lost_from: Option<u64>,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    None,
    Io(io::Error),
    Segment(segment::Error),
    Earlier(Error),
    /// A file's length in bytes, and the one that it was closed with, where that is known.
    Length(u64, Option<u64>),
    /// The file name of the segment that the other one does not follow.
    NotAfter(String),
    Text(&'static str),
    /// What it means that the system refused something, and the path that this was for.
    About(&'static str, PathBuf, io::Error),
}

/// The call that reports an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    LookUp,
    Append,
    Flush,
    Sync,
    Truncate,
    Delete,
    Close,
    Reopen,
}

impl Call {
    /// The call as a verb, after "cannot".
    const fn verb(self) -> &'static str {
        match self {
            Self::LookUp => "look the stream up",
            Self::Append => "append",
            Self::Flush => "flush",
            Self::Sync => "sync",
            Self::Truncate => "truncate",
            Self::Delete => "delete the stream",
            Self::Close => "close the stream",
            Self::Reopen => "recover the stream",
        }
    }

    /// The effect of the call where the disk was full.
    const fn on_full_disk(self) -> &'static str {
        match self {
            Self::LookUp => "nothing was changed, free some space and look it up again",
            Self::Append => "this append added nothing, free some space and repeat it",
            Self::Flush => "nothing was flushed, free some space and flush again",
            Self::Sync => "nothing was synced, free some space and sync again",
            Self::Truncate => "nothing was dropped, free some space and truncate again",
            Self::Delete => "nothing was deleted, free some space and delete it again",
            // Entries may wait that were never durable, and it takes no more calls.
            Self::Close => "it was not ended cleanly, and is recovered when it is opened next",
            Self::Reopen => "it stays as it was, free some space and reopen it",
        }
    }
}

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Acknowledged entries are damaged or missing. Nothing was changed or deleted.
    Damaged(DamageKind),
    /// A newer version wrote this.
    NewerFormat,
    /// The operating system refused.
    Io,
    /// The disk or the quota is full. The call changed nothing of the stream, and works again once
    /// there is room; a close is a close all the same.
    Full,
    /// A write or sync failed, of this call or an earlier one; `reopen` recovers the stream.
    Poisoned,
    /// The stream was closed.
    Closed,
    /// The log was opened for reading only.
    ReadOnly,
    /// A batch over the bound for appending, or a frame over the bound for reading.
    TooLarge {
        /// Its length in bytes.
        len: u64,
        /// The bound in bytes.
        max: u64,
    },
    /// The position is below the first entry, which is `start`.
    Truncated {
        /// The first live seq.
        start: u64,
    },
    /// An option is out of its range.
    InvalidOption,
    /// A position that is not in the stream, which reaches from `first` to `next`.
    OutOfRange {
        /// The first live seq.
        first: u64,
        /// One past the last entry.
        next: u64,
    },
    /// The stream was deleted.
    Deleted,
    /// This process is a forked child of the one that opened the stream.
    Forked,
    /// Entries were removed from the end, at `at`, under a reader that stood behind it.
    Cut {
        /// One past the last entry that is left.
        at: u64,
    },
}

/// What damage was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// A segment's header is not valid.
    Header,
    /// A segment's header is valid, and not that of this file in this stream: the file was moved
    /// here, or renamed.
    Misplaced,
    /// The folder of a stream has no segment.
    NoSegment,
    /// The first segment is missing.
    FirstMissing,
    /// A segment between two others is missing.
    PredecessorMissing,
    /// The newest segment is missing: the one before names it.
    SuccessorMissing,
    /// The chain of frames breaks before the end that was acknowledged.
    Lost,
    /// A file ends otherwise than any writer leaves it: it was cut or lengthened, or its end is
    /// damaged.
    Length,
    /// A frame is not valid.
    Frame,
    /// A frame is not the one that comes next.
    Gap,
    /// A file is not what a segment is: a link, or a folder.
    File,
    /// What has the stream's name is not a directory: a link, or a file.
    Directory,
    /// The end of a sealed segment is damaged; its entries are not.
    Seal,
    /// Two segments were not written one after the other: files of two copies of the log are mixed,
    /// or one was put back.
    History,
}

impl DamageKind {
    /// A word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Misplaced => "misplaced",
            Self::NoSegment => "no_segment",
            Self::FirstMissing => "first_missing",
            Self::PredecessorMissing => "predecessor_missing",
            Self::SuccessorMissing => "successor_missing",
            Self::Lost => "lost",
            Self::Length => "length",
            Self::Frame => "frame",
            Self::Gap => "gap",
            Self::File => "file",
            Self::Directory => "directory",
            Self::Seal => "seal",
            Self::History => "history",
        }
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::Header => "damaged: the segment's header is not valid",
            Self::Misplaced => {
                "damaged: the file is a valid segment in the wrong place; move it back, or give it its own name"
            }
            Self::NoSegment => "damaged: the stream's folder holds no segment",
            Self::FirstMissing => "damaged: the first segment is missing; before this one there must be another",
            Self::PredecessorMissing => "damaged: the segment before this one is missing",
            Self::SuccessorMissing => "damaged: the segment that follows this one is missing",
            Self::Lost => "damaged: acknowledged entries are not there",
            Self::Length => {
                "damaged: the file does not end as it was written: it was cut or lengthened, or its end is damaged"
            }
            Self::Frame => "damaged: a frame is not valid",
            Self::Gap => "damaged: the frame here is not the one that comes next",
            Self::File => "damaged: this is not a segment file",
            Self::Directory => {
                "damaged: the stream's directory is a link or a file; put the directory itself there, or remove what has \
                 its name"
            }
            Self::Seal => "damaged: the end of the segment is not valid, its entries are",
            Self::History => {
                "damaged: segments are not of one history: files of two copies of the log are mixed, or an old file was put back"
            }
        }
    }
}

impl Error {
    fn of_inner(inner: Inner) -> Self {
        Self(Arc::new(inner), None)
    }

    /// The error as `call` reports it.
    pub(crate) fn of_call(self, call: Call) -> Self {
        Self(self.0, Some(call))
    }

    fn build(kind: ErrorKind, stream: &str, cause: Cause) -> Self {
        Self::of_inner(Inner {
            kind,
            stream: stream.to_owned(),
            segment: None,
            offset: None,
            lost: None,
            lost_from: None,
            cause,
        })
    }

    pub(crate) fn new(kind: ErrorKind, location: &Location) -> Self {
        Self::build(kind, location.name(), Cause::None)
    }

    pub(crate) fn text(kind: ErrorKind, location: &Location, text: &'static str) -> Self {
        Self::build(kind, location.name(), Cause::Text(text))
    }

    /// For those who waited for a thread that panicked.
    pub(crate) fn unwound(stream: &str) -> Self {
        Self::build(ErrorKind::Poisoned, stream, Cause::Text("the thread that was writing panicked"))
    }

    /// For a thread that waited through more failures of the stream than are remembered.
    pub(crate) fn outcome_unknown(stream: &str) -> Self {
        let text = "the stream has failed and was recovered many times since this call began; whether it succeeded is not known";
        Self::build(ErrorKind::Poisoned, stream, Cause::Text(text))
    }

    /// An error of an operation on the stream's directory.
    pub(crate) fn directory(location: &Location, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotADirectory => Self::damage(location, DamageKind::Directory, None, None, None),
            _ => Self::io(location, source),
        }
    }

    pub(crate) fn io(location: &Location, source: io::Error) -> Self {
        let full = stratawal_storage::is_full(&source);
        Self::build(if full { ErrorKind::Full } else { ErrorKind::Io }, location.name(), Cause::Io(source))
    }

    /// An error of the system at `path`, with what that means: `text`. Never of the kind
    /// [`ErrorKind::Full`], which means that nothing was done.
    pub(crate) fn io_about(location: &Location, text: &'static str, path: &Path, source: io::Error) -> Self {
        Self::build(ErrorKind::Io, location.name(), Cause::About(text, path.to_owned(), source))
    }

    /// A failure after which the operation may have taken effect or not.
    pub(crate) fn undecided(location: &Location, source: io::Error) -> Self {
        Self::build(ErrorKind::Io, location.name(), Cause::Io(source))
    }

    /// The failure of the stream, for a call whose entries were accepted: "full" would mean that
    /// they were not.
    pub(crate) fn after_acceptance(self) -> Self {
        if self.0.kind == ErrorKind::Full { self.poisoned() } else { self }
    }

    /// The same for everything that comes after it.
    pub(crate) fn poisoned(self) -> Self {
        if self.0.kind == ErrorKind::Poisoned {
            return self;
        }
        let stream = self.0.stream.clone();
        Self::build(ErrorKind::Poisoned, &stream, Cause::Earlier(self))
    }

    pub(crate) fn segment_error(location: &Location, error: segment::Error) -> Self {
        let kind = match error.kind() {
            _ if error.is_full() => ErrorKind::Full,
            _ if error.is_newer() => ErrorKind::NewerFormat,
            segment::ErrorKind::TooLarge { len, max } => ErrorKind::TooLarge { len: *len, max: *max },
            segment::ErrorKind::Header(_) => ErrorKind::Damaged(DamageKind::Header),
            segment::ErrorKind::NameMismatch(_) => ErrorKind::Damaged(DamageKind::Misplaced),
            segment::ErrorKind::NotAFile(_) => ErrorKind::Damaged(DamageKind::File),
            segment::ErrorKind::Gap { .. } => ErrorKind::Damaged(DamageKind::Gap),
            segment::ErrorKind::Invalid(_) | segment::ErrorKind::Missing { .. } => {
                ErrorKind::Damaged(DamageKind::Frame)
            }
            _ if error.is_damage() => ErrorKind::Damaged(DamageKind::Frame),
            _ => ErrorKind::Io,
        };
        let (id, offset) = (error.segment(), error.offset());
        Self::of_inner(Inner {
            kind,
            stream: location.name().to_owned(),
            segment: Some(id.to_string()),
            offset: offset.map(|at| at.0),
            lost: None,
            lost_from: None,
            cause: Cause::Segment(error),
        })
    }

    pub(crate) fn damage(
        location: &Location,
        damage: DamageKind,
        segment: Option<segment::SegmentId>,
        offset: Option<u64>,
        lost: Option<(u64, u64)>,
    ) -> Self {
        Self::of_inner(Inner {
            kind: ErrorKind::Damaged(damage),
            stream: location.name().to_owned(),
            segment: segment.map(|id| id.to_string()),
            offset,
            lost: lost.filter(|(first, last)| first <= last),
            lost_from: None,
            cause: Cause::None,
        })
    }

    /// A valid segment that does not belong where it is, and why.
    pub(crate) fn misplaced(location: &Location, segment: segment::SegmentId, why: &'static str) -> Self {
        Self::of_inner(Inner {
            kind: ErrorKind::Damaged(DamageKind::Misplaced),
            stream: location.name().to_owned(),
            segment: Some(segment.to_string()),
            offset: Some(0),
            lost: None,
            lost_from: None,
            cause: Cause::Text(why),
        })
    }

    /// A file whose length is not one that a writer leaves; `closed_len` is the one that it was
    /// closed with.
    pub(crate) fn length(location: &Location, segment: segment::SegmentId, len: u64, closed_len: Option<u64>) -> Self {
        Self::of_inner(Inner {
            kind: ErrorKind::Damaged(DamageKind::Length),
            stream: location.name().to_owned(),
            segment: Some(segment.to_string()),
            offset: Some(len),
            lost: None,
            lost_from: None,
            cause: Cause::Length(len, closed_len),
        })
    }

    /// Segment `next` was not written after `before`, which precedes it in the stream.
    pub(crate) fn history(location: &Location, before: segment::SegmentId, next: segment::SegmentId) -> Self {
        Self::of_inner(Inner {
            kind: ErrorKind::Damaged(DamageKind::History),
            stream: location.name().to_owned(),
            segment: Some(next.to_string()),
            offset: None,
            lost: None,
            lost_from: None,
            cause: Cause::NotAfter(before.to_string()),
        })
    }

    /// The same where entries from `seq` on may be lost, and not more is known.
    pub(crate) fn with_lost_from(self, seq: u64) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => Self(Arc::new(Inner { lost_from: Some(seq), ..inner }), self.1),
            Err(shared) => Self(shared, self.1),
        }
    }

    /// The same with the entries that are lost, where they were not known.
    pub(crate) fn with_lost(self, seqs: Range<u64>) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(mut inner) => {
                if inner.lost.is_none() && !seqs.is_empty() && matches!(inner.kind, ErrorKind::Damaged(_)) {
                    inner.lost = Some((seqs.start, seqs.end - 1));
                }
                Self(Arc::new(inner), self.1)
            }
            Err(shared) => Self(shared, self.1),
        }
    }

    /// What kind of error this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The name of the stream.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.0.stream
    }

    /// The file name of the segment, where one is concerned.
    #[must_use]
    pub fn segment(&self) -> Option<&str> {
        self.0.segment.as_deref()
    }

    /// The offset in that file in bytes, where it is known.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The first and the last seq lost, where they are known.
    #[must_use]
    pub fn lost(&self) -> Option<(u64, u64)> {
        self.0.lost
    }

    /// A sentence on what a program can still do with a damaged stream; `None` where this is not
    /// damage, or the message already gives it.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        let ErrorKind::Damaged(damage) = self.0.kind else { return None };
        let end_unknown = self.0.lost.is_none() && self.0.lost_from.is_some();
        match damage {
            DamageKind::Misplaced => Some(
                "put each file back where it belongs; until then the intact entries of the other files can be read; \
                 truncating fails while the file is there, but once it is moved away, truncating before the first entry of \
                 a later file opens the stream",
            ),
            DamageKind::Directory => Some("put the stream's own directory back, or remove by hand what has its name"),
            DamageKind::NoSegment => {
                Some("nothing is left to read; restore the files from a copy, or delete the stream")
            }
            DamageKind::Frame | DamageKind::Gap => Some(
                "the entries that are not lost can be read, those after the damage too, and the stream can be appended to; \
                 truncating before the first entry after the damage drops it",
            ),
            DamageKind::History => Some(
                "restore all files of the stream from one of the copies; until then the entries can be read, although it is not \
                 certain which of them belong together",
            ),
            DamageKind::Seal => Some("no entry is lost; truncating before the next segment drops the damage"),
            DamageKind::SuccessorMissing | DamageKind::Length => Some(
                "the stream cannot be opened, and truncating it does not help, since its end is not known; the intact \
                 entries can be read and appended to another stream; or restore the file from a copy",
            ),
            DamageKind::Header | DamageKind::File if end_unknown => Some(
                "the stream cannot be opened, and truncating it does not help, since its end is not known; the intact \
                 entries can be read and appended to another stream; or restore the file from a copy",
            ),
            DamageKind::Header
            | DamageKind::File
            | DamageKind::FirstMissing
            | DamageKind::PredecessorMissing
            | DamageKind::Lost => Some(
                "the intact entries can be read, those after the damage too; truncating before the first entry after the \
                 damage opens the stream again; or restore the file from a copy",
            ),
        }
    }

    /// Whether this is damage.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Damaged(_))
    }

    /// Whether a full disk is what stands behind this.
    pub(crate) fn caused_by_full_disk(&self) -> bool {
        match (&self.0.kind, &self.0.cause) {
            (ErrorKind::Full, _) => true,
            (_, Cause::Earlier(error)) => error.caused_by_full_disk(),
            _ => false,
        }
    }

    /// The segment whose valid header is in a file of another name, where that is what is wrong.
    pub(crate) fn named_segment(&self) -> Option<segment::SegmentId> {
        match &self.0.cause {
            Cause::Segment(error) => match error.kind() {
                segment::ErrorKind::NameMismatch(named) => Some(*named),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a file was gone, which for a reader beside a writer may be a truncation.
    pub(crate) fn is_not_found(&self) -> bool {
        match &self.0.cause {
            Cause::Segment(error) => error.is_not_found(),
            Cause::Io(error) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Whether two findings are the same: kind, segment, offset, and numbers.
    pub(crate) fn same_finding(&self, other: &Self) -> bool {
        let key = |e: &Self| (e.0.kind, e.0.segment.clone(), e.0.offset, e.0.lost, e.0.lost_from);
        key(self) == key(other)
    }

    /// The operating system's error at the bottom of this, where there is one.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match &self.0.cause {
            Cause::Io(error) | Cause::About(_, _, error) => Some(error.kind()),
            Cause::Segment(error) => error.io_kind(),
            Cause::Earlier(error) => error.io_kind(),
            Cause::None | Cause::Length(..) | Cause::NotAfter(_) | Cause::Text(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {:?}: ", self.0.stream)?;
        self.fmt_told(f)
    }
}

impl Error {
    /// Whether what follows needs the call that failed.
    fn leaves_call_open(&self) -> bool {
        let stands_alone = matches!(
            self.0.kind,
            ErrorKind::Damaged(_) | ErrorKind::NewerFormat | ErrorKind::OutOfRange { .. } | ErrorKind::InvalidOption
        );
        !stands_alone && !matches!(self.0.cause, Cause::About(..))
    }

    /// Everything but whose error it is.
    fn fmt_told(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(call) = self.1.filter(|_| self.leaves_call_open()) {
            write!(f, "cannot {}: ", call.verb())?;
        }
        match self.0.kind {
            ErrorKind::Damaged(damage) => f.write_str(damage.sentence())?,
            ErrorKind::NewerFormat => f.write_str("written by a newer version; use that one")?,
            ErrorKind::Io => f.write_str("I/O failed")?,
            ErrorKind::Full => {
                f.write_str("the disk is full")?;
                if let Some(call) = self.1 {
                    write!(f, "; {}", call.on_full_disk())?;
                }
            }
            ErrorKind::Poisoned if self.caused_by_full_disk() => f.write_str(
                "a full disk stopped a write or sync, and what it was for may be there or not; free some space, and the \
                 next append, flush or sync recovers the stream",
            )?,
            ErrorKind::Poisoned => f.write_str("a write or sync has failed; reopen the stream")?,
            ErrorKind::Closed => f.write_str("the stream was closed")?,
            ErrorKind::ReadOnly => f.write_str("the log was opened for reading only")?,
            ErrorKind::TooLarge { len, max } => write!(f, "{len} bytes are over the bound of {max} bytes")?,
            ErrorKind::Truncated { start } => write!(f, "truncated: the first entry is {start}")?,
            ErrorKind::InvalidOption => f.write_str("invalid option")?,
            ErrorKind::OutOfRange { first, next } => {
                write!(f, "out of range: the stream's entries are {first} up to, and not with, {next}")?;
            }
            ErrorKind::Deleted => f.write_str("the stream was deleted; look it up again to begin a new one")?,
            ErrorKind::Forked => f.write_str(
                "this handle belongs to the process that opened the log, and this process was forked from it; open the log \
                 anew here, once the other process has closed it, or read-only",
            )?,
            ErrorKind::Cut { at } => write!(f, "cut: entries from {at} on were removed")?,
        }
        self.fmt_place_and_cause(f)
    }

    fn fmt_place_and_cause(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if let Some(segment) = &inner.segment {
            write!(f, " (segment {segment}")?;
            if let Some(offset) = inner.offset {
                write!(f, ", offset {offset}")?;
            }
            f.write_str(")")?;
        }
        if let Some((first, last)) = inner.lost {
            write!(f, ", entries {first} to {last} are lost")?;
        } else if let Some(first) = inner.lost_from {
            write!(f, ", entries from {first} on may be lost, how many is not known")?;
        }
        match &inner.cause {
            Cause::None => Ok(()),
            Cause::Io(error) => write!(f, ": {error}"),
            Cause::Segment(error) => write!(f, ": {}", error.kind()),
            // The sentence above has named the full disk.
            Cause::Earlier(error) if error.kind() == ErrorKind::Full => error.fmt_place_and_cause(f),
            Cause::Earlier(error) => {
                f.write_str(": ")?;
                error.fmt_told(f)
            }
            Cause::Length(len, None) => write!(f, ": it has {len} bytes"),
            Cause::Length(len, Some(closed)) if len == closed => {
                write!(f, ": it was closed with {len} bytes, and the last of them are not valid now")
            }
            Cause::Length(len, Some(closed)) => write!(f, ": it has {len} bytes, and was closed with {closed}"),
            Cause::NotAfter(before) => write!(f, ": it does not continue segment {before}"),
            Cause::Text(text) => write!(f, ": {text}"),
            Cause::About(text, path, error) => write!(f, ": {text}: {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.cause {
            Cause::None | Cause::Length(..) | Cause::NotAfter(_) | Cause::Text(_) => None,
            Cause::Io(error) | Cause::About(_, _, error) => Some(error),
            Cause::Segment(error) => Some(error),
            Cause::Earlier(error) => Some(error),
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Damaged(_) => io::ErrorKind::InvalidData,
            ErrorKind::Full => io::ErrorKind::StorageFull,
            ErrorKind::ReadOnly => io::ErrorKind::PermissionDenied,
            ErrorKind::TooLarge { .. } | ErrorKind::InvalidOption | ErrorKind::OutOfRange { .. } => {
                io::ErrorKind::InvalidInput
            }
            ErrorKind::Deleted => io::ErrorKind::NotFound,
            ErrorKind::NewerFormat => io::ErrorKind::Unsupported,
            _ => error.io_kind().unwrap_or(io::ErrorKind::Other),
        };
        Self::new(kind, error)
    }
}
