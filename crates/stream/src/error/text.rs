//! The texts of errors: what happened, where, and what to do about it.

use std::fmt;

use super::{Call, Cause, DamageKind, Error, ErrorKind};

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Cause::Log(text, source) = &self.details.cause {
            f.write_str(text)?;
            return source.as_ref().map_or(Ok(()), |source| write!(f, ": {source}"));
        }
        if let Some(stream) = self.stream() {
            write!(f, "stream {stream:?}: ")?;
        }
        self.fmt_report(f)
    }
}

impl Error {
    /// Everything except the name of the stream.
    fn fmt_report(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(call) = self.call.filter(|_| self.needs_call()) {
            write!(f, "cannot {}: ", call.verb())?;
        }
        match (self.kind(), self.damage()) {
            (ErrorKind::Damaged, Some(damage)) => f.write_str(damage.sentence())?,
            (ErrorKind::Full, _) => {
                f.write_str("the disk is full")?;
                if let Some(call) = self.call {
                    write!(f, "; {}", call.on_full_disk())?;
                }
            }
            (ErrorKind::Poisoned, _) if self.caused_by_full_disk() => f.write_str(
                "a full disk stopped a write or sync, and the entries it was for may or may not be in the stream; free some \
                 space, and the next append, flush or sync recovers the stream",
            )?,
            (ErrorKind::TooLarge { len, max }, _) => write!(f, "{len} bytes are over the limit of {max} bytes")?,
            (ErrorKind::Truncated { first_seq }, _) => write!(f, "truncated: the first entry is {first_seq}")?,
            (ErrorKind::OutOfRange { first_seq, next_seq }, _) => {
                write!(f, "out of range: the first entry is {first_seq}, and the next one to be appended is {next_seq}")?;
            }
            (ErrorKind::Conflict { expected_next_seq, next_seq }, _) => {
                write!(f, "conflict: the call expected the next seq to be {expected_next_seq}, and it is {next_seq}")?;
            }
            (ErrorKind::Cut { next_seq }, _) => write!(f, "cut: entries from {next_seq} on were removed")?,
            (kind, _) => f.write_str(sentence(kind))?,
        }
        self.fmt_position_and_cause(f)
    }

    /// Whether the message needs to name the call that failed.
    fn needs_call(&self) -> bool {
        let is_complete = matches!(
            self.kind(),
            ErrorKind::Damaged | ErrorKind::NewerFormat | ErrorKind::OutOfRange { .. } | ErrorKind::InvalidOption
        );
        !is_complete && !matches!(self.details.cause, Cause::About(..))
    }

    fn fmt_position_and_cause(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let details = &*self.details;
        if let Some(segment) = &details.segment {
            write!(f, " (segment {segment}")?;
            if let Some(offset) = details.offset {
                write!(f, ", offset {offset}")?;
            }
            f.write_str(")")?;
        }
        if let Some(lost) = &details.lost {
            match lost.end - lost.start {
                1 => write!(f, ", entry {} is lost", lost.start)?,
                _ => write!(f, ", entries {} to {} are lost", lost.start, lost.end - 1)?,
            }
        } else if let Some(first) = details.lost_from {
            write!(f, ", entries from {first} on may be lost (how many is not known)")?;
        }
        match &details.cause {
            Cause::None => Ok(()),
            Cause::Io(error) => write!(f, ": {error}"),
            Cause::Segment(error) => write!(f, ": {}", error.kind()),
            Cause::Journal(error) => write!(f, ": {error}"),
            // The sentence before this has already reported the full disk.
            Cause::Earlier(error) if error.kind() == ErrorKind::Full => error.fmt_position_and_cause(f),
            Cause::Earlier(error) => {
                f.write_str(": ")?;
                error.fmt_report(f)
            }
            Cause::Length(len, None) => write!(f, ": it has {len} bytes"),
            Cause::Length(len, Some(closed)) if len == closed => {
                write!(f, ": it was closed with {len} bytes, and the last of them are not valid now")
            }
            Cause::Length(len, Some(closed)) => write!(f, ": it has {len} bytes, and was closed with {closed}"),
            Cause::NotAfter(before) => write!(f, ": it does not continue segment {before}"),
            Cause::Text(text) => write!(f, ": {text}"),
            Cause::About(text, path, error) => write!(f, ": {text}: {}: {error}", path.display()),
            Cause::Log(text, _) => write!(f, ": {text}"),
        }
    }
}

/// The sentence for a kind whose text has no numbers.
const fn sentence(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Missing => "the stream was deleted; look it up again to create a new one",
        ErrorKind::NewerFormat => {
            "written by a newer version; use that version; if none ever wrote this log, the version number is damaged, and \
             `inspect::salvage` reads the other entries"
        }
        ErrorKind::Io => "I/O failed",
        ErrorKind::Poisoned => "a write or sync has failed; reopen the stream",
        ErrorKind::Busy => "too many tickets are in flight; nothing was appended; try again once some are complete",
        ErrorKind::Closed => "the stream was closed",
        ErrorKind::ReadOnly => "the log was opened for reading only",
        ErrorKind::InvalidOption => "invalid option",
        ErrorKind::Forked => {
            "this handle belongs to the process that opened the log, and this process was forked from it; open the log \
             again here, either read-only or once the other process has closed it"
        }
        // The other kinds have their own sentence, or come with the whole text.
        kind => kind.as_str(),
    }
}

impl DamageKind {
    const fn sentence(self) -> &'static str {
        match self {
            Self::Header => "damaged: the segment's header is not valid",
            Self::Misplaced => {
                "damaged: the file is a valid segment in the wrong place; move it back, or give it its own name"
            }
            Self::NoSegment => "damaged: the stream's directory has no segment",
            Self::FirstMissing => "damaged: the first segment is missing; another one must precede this one",
            Self::PredecessorMissing => "damaged: the segment before this one is missing",
            Self::SuccessorMissing => "damaged: the segment that follows this one is missing",
            Self::Lost => "damaged: acknowledged entries are missing",
            Self::Length => {
                "damaged: the file does not end as it was written: it was shortened or lengthened, or its end is damaged"
            }
            Self::Frame => "damaged: a frame is not valid",
            Self::Gap => "damaged: the frame here is not the one that comes next",
            Self::File => "damaged: this is not a segment file",
            Self::Directory => {
                "damaged: the stream's directory is a link or a file; put the real directory back, or remove what has \
                 taken its name"
            }
            Self::Seal => "damaged: the end of the segment is not valid, but its entries are",
            Self::History => {
                "damaged: the segments do not belong together: files of two copies of the log are mixed, or an old file was put \
                 back"
            }
            Self::Journal => "damaged: the log's journal may have held newer entries of the stream, which are lost",
        }
    }
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
            Self::Close | Self::CloseOne => "close the stream",
            Self::Reopen => "recover the stream",
        }
    }

    /// The effect of the call if the disk is full, and what to do.
    const fn on_full_disk(self) -> &'static str {
        match self {
            Self::LookUp => "nothing was changed; free some space and look it up again",
            Self::Append => "this append added nothing; free some space and repeat it",
            Self::Flush => "nothing was flushed; free some space and flush again",
            Self::Sync => "nothing was synced; free some space and sync again",
            Self::Truncate => "nothing was dropped; free some space and truncate again",
            Self::Delete => "nothing was deleted; free some space and delete it again",
            // Entries that were never durable may be pending, and the stream accepts no more calls.
            Self::Close => "it was not closed cleanly, and is recovered when it is next opened",
            Self::CloseOne => "it stays open, and nothing is lost; free some space and close it again",
            Self::Reopen => "it stays as it was; free some space and reopen it",
        }
    }
}
