//! Advice for damaged streams.

use super::{DamageKind, Error};

impl Error {
    /// Returns advice about which calls still work on the damaged stream, or `None` if this is not
    /// damage to a stream.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        let end_unknown = self.details.lost.is_none() && self.details.lost_from.is_some();
        Some(match self.damage()? {
            DamageKind::Misplaced => {
                "put each file back where it belongs; until then the intact entries of the other files can be read; \
                 truncating fails while the file is there, but once it is moved away, truncating before the first entry of \
                 a later file opens the stream, and drops every entry before that one; read those first with `inspect::salvage`"
            }
            DamageKind::Directory => {
                "put the stream's own directory back, or remove by hand the link or file that has taken its name"
            }
            DamageKind::NoSegment => {
                "only entries that the journal still has can be read, with `inspect::salvage`; restore the files from a copy, \
                 or delete the stream"
            }
            DamageKind::Frame | DamageKind::Gap => {
                "the entries that are not lost can be read, including those after the damage, and the stream can be appended to; \
                 truncating before the first entry after the damage drops the damage and every entry before it; read those \
                 first with `inspect::salvage`"
            }
            DamageKind::History => {
                "restore all files of the stream from one of the copies; until then the entries can be read, although it is not \
                 certain which of them belong together"
            }
            DamageKind::Journal => {
                "the entries in the segment files can be read with `inspect::readable`, and those that the journal still has \
                 with `inspect::salvage`; restore the log from a copy"
            }
            DamageKind::Seal => {
                "no entry is lost, and everything works, so nothing has to be done; truncating before the next segment drops the \
                 damage and every entry before it; read those first with `inspect::salvage`"
            }
            DamageKind::SuccessorMissing | DamageKind::Length => CANNOT_BE_OPENED,
            DamageKind::Header | DamageKind::File if end_unknown => CANNOT_BE_OPENED,
            DamageKind::Header
            | DamageKind::File
            | DamageKind::FirstMissing
            | DamageKind::PredecessorMissing
            | DamageKind::Lost => {
                "the intact entries can be read, including those after the damage; truncating before the first entry after the \
                 damage opens the stream again, and drops the damage and every entry before it; read those first with \
                 `inspect::salvage`; or restore the file from a copy"
            }
        })
    }
}

const CANNOT_BE_OPENED: &str = "the stream cannot be opened, and truncating it does not help, since its end is not known; \
                                the intact entries can be read and appended to another stream; or restore the file from a copy; \
                                or delete the stream if nothing is left";
