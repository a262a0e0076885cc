//! The error type of a stream and of the log that it belongs to.
//!
//! `kind` has the kinds of errors, `text` the texts, and `advice` the advice for damaged streams.

mod advice;
mod kind;
mod text;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_journal as journal;
use stratawal_segment::{self as segment, SegmentId};

use crate::location::Location;

pub use self::kind::{DamageKind, ErrorKind};

/// The result of an operation on a log or a stream.
pub type Result<T> = std::result::Result<T, Error>;

/// The error of an operation on a log or a stream. Gives its kind, the stream, segment and offset
/// concerned, the entries that are lost, and the cause. Cloning is cheap.
#[derive(Clone)]
pub struct Error {
    details: Arc<Details>,
    call: Option<Call>,
}

struct Details {
    kind: ErrorKind,
    /// `None` unless `kind` is [`ErrorKind::Damaged`].
    damage: Option<DamageKind>,
    stream: Option<String>,
    segment: Option<String>,
    offset: Option<u64>,
    lost: Option<Range<u64>>,
    /// The first entry that may be lost, if it is not known how many are.
    lost_from: Option<u64>,
    cause: Cause,
}

enum Cause {
    None,
    Io(io::Error),
    Segment(segment::Error),
    Journal(journal::Error),
    Earlier(Error),
    /// The length of a file in bytes, and the length it was closed with, if that is known.
    Length(u64, Option<u64>),
    /// The file name of the segment that the segment of the error does not follow.
    NotAfter(String),
    Text(&'static str),
    /// The meaning of an operating-system error, its path, and the error itself.
    About(&'static str, PathBuf, io::Error),
    /// The whole text of an error of the log, and the operating-system error that caused it.
    Log(String, Option<io::Error>),
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
    CloseOne,
    Reopen,
}

impl Error {
    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.details.kind
    }

    /// The kind of damage, or `None` if this is not damage to a stream.
    #[must_use]
    pub fn damage(&self) -> Option<DamageKind> {
        self.details.damage
    }

    /// The name of the stream, if the error is about one.
    #[must_use]
    pub fn stream(&self) -> Option<&str> {
        self.details.stream.as_deref()
    }

    /// The file name of the segment, if the error is about one.
    #[must_use]
    pub fn segment(&self) -> Option<&str> {
        self.details.segment.as_deref()
    }

    /// The offset in the segment's file in bytes, if known.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.details.offset
    }

    /// The seqs of the entries that are lost, if known. The entries from `lost.end` on can be read
    /// with a new iterator, `stream.iter(lost.end..)`, unless they are damaged, too.
    #[must_use]
    pub fn lost(&self) -> Option<Range<u64>> {
        self.details.lost.clone()
    }

    /// Whether this is damage to a stream.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.details.damage.is_some()
    }

    /// The [`std::io::ErrorKind`] of the operating system's error that caused this, if one did.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match &self.details.cause {
            Cause::Io(error) | Cause::About(_, _, error) | Cause::Log(_, Some(error)) => Some(error.kind()),
            Cause::Segment(error) => error.io_kind(),
            Cause::Journal(error) => error.io_kind(),
            Cause::Earlier(error) => error.io_kind(),
            Cause::None | Cause::Length(..) | Cause::NotAfter(_) | Cause::Text(_) | Cause::Log(_, None) => None,
        }
    }

    /// Whether a full disk caused this.
    pub(crate) fn caused_by_full_disk(&self) -> bool {
        match (&self.details.kind, &self.details.cause) {
            (ErrorKind::Full, _) => true,
            (_, Cause::Earlier(error)) => error.caused_by_full_disk(),
            _ => false,
        }
    }

    /// The segment that the file's header names, if the header is valid but belongs to another
    /// segment.
    pub(crate) fn named_segment(&self) -> Option<SegmentId> {
        match &self.details.cause {
            Cause::Segment(error) => match error.kind() {
                segment::ErrorKind::NameMismatch(named) => Some(*named),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the cause is a missing file, which a writer in another process may have removed.
    pub(crate) fn is_not_found(&self) -> bool {
        match &self.details.cause {
            Cause::Segment(error) => error.is_not_found(),
            Cause::Io(error) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Whether both errors report the same finding: kind, segment, offset, and lost entries.
    pub(crate) fn same_finding(&self, other: &Self) -> bool {
        fn key(error: &Error) -> impl PartialEq {
            let Details { kind, damage, segment, offset, lost, lost_from, .. } = &*error.details;
            (*kind, *damage, segment.clone(), *offset, lost.clone(), *lost_from)
        }
        key(self) == key(other)
    }
}

impl Error {
    /// An error of the log, or of the stream with this name, with its whole text. For facades.
    #[doc(hidden)]
    #[must_use]
    pub fn of_log(kind: ErrorKind, stream: Option<&str>, text: String, source: Option<io::Error>) -> Self {
        let cause = Cause::Log(text, source);
        Details { stream: stream.map(ToOwned::to_owned), ..Details::new(kind, cause) }.into_error()
    }

    /// The error as `call` reports it.
    pub(crate) fn of_call(self, call: Call) -> Self {
        Self { call: Some(call), ..self }
    }

    fn build(kind: ErrorKind, stream: &str, cause: Cause) -> Self {
        Details { stream: Some(stream.to_owned()), ..Details::new(kind, cause) }.into_error()
    }

    /// An error of the stream with this name.
    pub(crate) fn named(kind: ErrorKind, stream: &str) -> Self {
        Self::build(kind, stream, Cause::None)
    }

    pub(crate) fn new(kind: ErrorKind, location: &Location) -> Self {
        Self::build(kind, location.name(), Cause::None)
    }

    pub(crate) fn text(kind: ErrorKind, location: &Location, text: &'static str) -> Self {
        Self::build(kind, location.name(), Cause::Text(text))
    }

    /// The error of threads that waited for a thread that panicked.
    pub(crate) fn unwound(stream: &str) -> Self {
        Self::build(ErrorKind::Poisoned, stream, Cause::Text("the thread that was writing panicked"))
    }

    /// The error of a thread that waited while the stream failed more often than is remembered.
    pub(crate) fn outcome_unknown(stream: &str) -> Self {
        let text = "the stream has failed and was recovered many times since this call began; whether it succeeded is not known";
        Self::build(ErrorKind::Poisoned, stream, Cause::Text(text))
    }

    /// An error of an operation on the stream's directory.
    pub(crate) fn directory(location: &Location, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotADirectory => Self::damage_at(location, DamageKind::Directory, None, None),
            _ => Self::io(location, source),
        }
    }

    pub(crate) fn io(location: &Location, source: io::Error) -> Self {
        let full = stratawal_storage::is_full(&source);
        Self::build(if full { ErrorKind::Full } else { ErrorKind::Io }, location.name(), Cause::Io(source))
    }

    /// An operating-system error at `path` that means `text`. Its kind is never
    /// [`ErrorKind::Full`], because that kind means that nothing was changed.
    pub(crate) fn io_about(location: &Location, text: &'static str, path: &Path, source: io::Error) -> Self {
        Self::build(ErrorKind::Io, location.name(), Cause::About(text, path.to_owned(), source))
    }

    /// A failure after which the operation may or may not have taken effect.
    pub(crate) fn undecided(location: &Location, source: io::Error) -> Self {
        Self::build(ErrorKind::Io, location.name(), Cause::Io(source))
    }

    /// This failure of the stream, for a call whose entries were accepted. "Full" would mean that
    /// they were not accepted.
    pub(crate) fn after_acceptance(self) -> Self {
        if self.kind() == ErrorKind::Full { self.poisoned() } else { self }
    }

    /// The error that every later call reports after this one.
    pub(crate) fn poisoned(self) -> Self {
        if self.kind() == ErrorKind::Poisoned {
            return self;
        }
        let stream = self.details.stream.clone();
        Details { stream, ..Details::new(ErrorKind::Poisoned, Cause::Earlier(self)) }.into_error()
    }

    pub(crate) fn segment_error(location: &Location, error: segment::Error) -> Self {
        let damage = |kind| (ErrorKind::Damaged, Some(kind));
        let (kind, damage) = match error.kind() {
            _ if error.is_full() => (ErrorKind::Full, None),
            _ if error.is_newer() => (ErrorKind::NewerFormat, None),
            segment::ErrorKind::TooLarge { len, max } => (ErrorKind::TooLarge { len: *len, max: *max }, None),
            segment::ErrorKind::Header(_) => damage(DamageKind::Header),
            segment::ErrorKind::NameMismatch(_) => damage(DamageKind::Misplaced),
            segment::ErrorKind::NotAFile(_) => damage(DamageKind::File),
            segment::ErrorKind::Gap { .. } => damage(DamageKind::Gap),
            segment::ErrorKind::Invalid(_) | segment::ErrorKind::Missing { .. } => damage(DamageKind::Frame),
            _ if error.is_damage() => damage(DamageKind::Frame),
            _ => (ErrorKind::Io, None),
        };
        let segment = Some(error.segment().to_string());
        let offset = error.offset().map(|offset| offset.0);
        let stream = Some(location.name().to_owned());
        Details { damage, stream, segment, offset, ..Details::new(kind, Cause::Segment(error)) }.into_error()
    }

    /// An error of the commit journal, in a call on this stream.
    pub(crate) fn journal(location: &Location, error: journal::Error) -> Self {
        let damage = error.is_damage().then_some(DamageKind::Journal);
        let kind = match error.kind() {
            journal::ErrorKind::Forked => ErrorKind::Forked,
            journal::ErrorKind::Closed => ErrorKind::Closed,
            journal::ErrorKind::Newer(_) | journal::ErrorKind::NewerRecord(_) => ErrorKind::NewerFormat,
            _ if error.is_damage() => ErrorKind::Damaged,
            _ if error.is_full() => ErrorKind::Full,
            _ => ErrorKind::Io,
        };
        let stream = Some(location.name().to_owned());
        Details { damage, stream, ..Details::new(kind, Cause::Journal(error)) }.into_error()
    }

    /// Damage of the kind `kind`.
    pub(crate) fn damage_at(
        location: &Location,
        kind: DamageKind,
        segment: Option<SegmentId>,
        offset: Option<u64>,
    ) -> Self {
        Details { segment: segment.map(|id| id.to_string()), offset, ..Details::damage(location, kind) }.into_error()
    }

    /// A valid segment is in the wrong place, for the reason `why`.
    pub(crate) fn misplaced(location: &Location, segment: SegmentId, why: &'static str) -> Self {
        let segment = Some(segment.to_string());
        let damage = Details::damage(location, DamageKind::Misplaced);
        Details { segment, offset: Some(0), cause: Cause::Text(why), ..damage }.into_error()
    }

    /// A file has `len` bytes, a length that no writer leaves. `closed_len` is the length it was
    /// closed with, if known.
    pub(crate) fn length(location: &Location, segment: SegmentId, len: u64, closed_len: Option<u64>) -> Self {
        let segment = Some(segment.to_string());
        let damage = Details::damage(location, DamageKind::Length);
        Details { segment, offset: Some(len), cause: Cause::Length(len, closed_len), ..damage }.into_error()
    }

    /// Segment `next` was not written after `before`, which precedes it in the stream.
    pub(crate) fn history(location: &Location, before: SegmentId, next: SegmentId) -> Self {
        let segment = Some(next.to_string());
        let damage = Details::damage(location, DamageKind::History);
        Details { segment, cause: Cause::NotAfter(before.to_string()), ..damage }.into_error()
    }

    /// Records that entries from `seq` on may be lost, if no more is known.
    pub(crate) fn with_lost_from(mut self, seq: u64) -> Self {
        if let Some(details) = Arc::get_mut(&mut self.details) {
            details.lost_from = Some(seq);
        }
        self
    }

    /// Records `seqs` as the entries that the damage lost, unless that was already known.
    pub(crate) fn with_lost(mut self, seqs: Range<u64>) -> Self {
        if let Some(details) = Arc::get_mut(&mut self.details)
            && details.damage.is_some()
            && details.lost.is_none()
            && !seqs.is_empty()
        {
            details.lost = Some(seqs);
        }
        self
    }
}

impl Details {
    fn new(kind: ErrorKind, cause: Cause) -> Self {
        Self { kind, damage: None, stream: None, segment: None, offset: None, lost: None, lost_from: None, cause }
    }

    fn damage(location: &Location, damage: DamageKind) -> Self {
        let stream = Some(location.name().to_owned());
        Self { damage: Some(damage), stream, ..Self::new(ErrorKind::Damaged, Cause::None) }
    }

    fn into_error(self) -> Error {
        Error { details: Arc::new(self), call: None }
    }
}

/// Prints the kind and the human-readable message, because this is what `unwrap` shows.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error").field("kind", &self.kind()).field("message", &format_args!("{self}")).finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.details.cause {
            Cause::None | Cause::Length(..) | Cause::NotAfter(_) | Cause::Text(_) | Cause::Log(_, None) => None,
            Cause::Io(error) | Cause::About(_, _, error) | Cause::Log(_, Some(error)) => Some(error),
            Cause::Segment(error) => Some(error),
            Cause::Journal(error) => Some(error),
            Cause::Earlier(error) => Some(error),
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Locked | ErrorKind::Busy => io::ErrorKind::WouldBlock,
            ErrorKind::Missing => io::ErrorKind::NotFound,
            ErrorKind::Damaged => io::ErrorKind::InvalidData,
            ErrorKind::Full => io::ErrorKind::StorageFull,
            ErrorKind::ReadOnly => io::ErrorKind::PermissionDenied,
            ErrorKind::NewerFormat => io::ErrorKind::Unsupported,
            ErrorKind::TooLarge { .. }
            | ErrorKind::InvalidOption
            | ErrorKind::InvalidName
            | ErrorKind::Nested
            | ErrorKind::OutOfRange { .. } => io::ErrorKind::InvalidInput,
            _ => error.io_kind().unwrap_or(io::ErrorKind::Other),
        };
        Self::new(kind, error)
    }
}
