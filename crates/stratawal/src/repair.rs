//! Repairing a damaged log: a plan of the entries that are kept and lost, and its execution.
//!
//! A log refuses to guess which part of its damaged entries matter. So [`plan`] shows the choices
//! and changes nothing, and [`apply`] does what the caller has chosen, after it has copied
//! everything that it changes into a *quarantine*, a directory beside the log.
//!
//! | damage | repair |
//! |---|---|
//! | FORMAT is missing or not valid | it is written anew, if every segment and the journal agree on the log's id; it states that the log has a journal |
//! | one of the two copies in FORMAT is not valid | it is written anew |
//! | the commit journal | it is written anew with the records that can be read and that continue their streams |
//! | a stream, with lost entries | it is truncated: the entries before the damage are kept, or those after it; the journal's entries of the stream count as well |
//! | a stream, without lost entries | it is recovered, and files that cannot be read are removed |
//! | all other damage | none: [`Remedy::ByHand`] |
//!
//! The files of streams that are not repaired do not change, also if the journal has entries of
//! them. So a repair closes the log only if the journal has no such entries.
//!
//! To keep the entries on both sides of the damage, copy them first, see
//! [`inspect::salvage`](crate::inspect::salvage).
//!
//! # Crashes
//!
//! The quarantine is durable, and has its name, before anything is changed. Each change is durable
//! before the next, and every one leaves a log that can be repaired again: a repair that was
//! interrupted is repeated, with a quarantine of its own.

mod apply;
mod contents;
mod look;
mod quarantine;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

#[cfg(feature = "unstable-storage")]
use stratawal_storage::Storage;
use stratawal_storage::UnixStorage;

use crate::error::{Error, Result};

/// A part of a log that can be damaged on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The FORMAT file.
    Format,
    /// The commit journal.
    Journal,
    /// The stream of this name.
    Stream(String),
}

/// Which entries of a damaged stream are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Those before the first damage. A sound journal may have the damaged entries: then those up
    /// to the first one that it does not have. New entries get the seqs of those that are dropped.
    Before,
    /// Those after the last damage, also if the journal alone has them.
    After,
}

/// A damaged part, and its repair.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// Where the damage is.
    pub part: Part,
    /// All damage to this part, at least one.
    pub damage: Vec<Error>,
    /// The work of [`apply`].
    pub remedy: Remedy,
}

/// The work of [`apply`] on a damaged part.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Writes a new FORMAT, which states that the log has a commit journal. If no file of one
    /// exists, the journal is the next finding.
    WriteFormat,
    /// Writes a new journal.
    ReplaceJournal {
        /// The entries that only the journal has and that are kept. A truncation or a deletion may
        /// have dropped some of them, if the record of it is lost.
        kept: u64,
        /// The entries that can be read but are dropped, because entries before them are lost.
        dropped: u64,
        /// Whether no record can be read.
        is_unreadable: bool,
    },
    /// Drops entries of a stream, if the caller chooses which are kept.
    Truncate {
        /// The seqs that [`Keep::Before`] keeps, if that is possible.
        before: Option<Range<u64>>,
        /// The seqs that [`Keep::After`] keeps, if that is possible.
        after: Option<Range<u64>>,
        /// The number of entries that can be read, those that neither choice keeps included.
        intact: u64,
        /// From the first to the last entry that a truncation may have dropped from the end of the
        /// stream: the file that would show it is missing. If `before` has such entries,
        /// [`Keep::Before`] brings them back.
        uncertain: Option<Range<u64>>,
        /// Whether the stream can be used without a repair: appended to, and read except for the
        /// damaged entries.
        is_usable: bool,
    },
    /// Recovers a stream of which no entry is lost, and removes files that cannot be read.
    Recover {
        /// The seqs of the stream.
        seqs: Range<u64>,
    },
    /// Nothing. The damage has a remedy that only a person can apply, such as moving a file back.
    ByHand,
}

/// The outcome of [`apply`] for a finding.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Done {
    /// The part is repaired.
    Repaired,
    /// Nothing: the caller has to choose which entries are kept, and that choice is possible.
    NotChosen,
    /// Nothing: [`Remedy::ByHand`].
    Nothing,
    /// The repair has failed. Repeat it once the cause is gone. The quarantine has every file as it
    /// was before.
    Failed(Error),
}

/// The result of [`apply`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Repaired {
    /// The findings, in the order of [`plan`], and the outcome of each.
    pub findings: Vec<(Finding, Done)>,
    /// Whether the quarantine was created. If not, nothing was changed.
    pub has_quarantine: bool,
}

/// How [`apply`] repairs.
#[derive(Clone, Debug, Default)]
pub struct RepairOptions {
    keep: Option<Keep>,
    stream: Option<String>,
    adopt_copy: bool,
}

impl RepairOptions {
    /// Truncates no stream, adopts no copy, and repairs everything else.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Truncates damaged streams, and sets which entries are kept.
    #[must_use]
    pub const fn keep(mut self, keep: Keep) -> Self {
        self.keep = Some(keep);
        self
    }

    /// Repairs only this stream, and neither FORMAT nor the journal.
    #[must_use]
    pub fn stream(mut self, stream: impl Into<String>) -> Self {
        self.stream = Some(stream.into());
        self
    }

    /// Whether a log whose journal is a copy and is damaged is repaired, and so becomes a log of
    /// its own. Default: false. Do this only if no process had the original open for writing while
    /// it was copied, see [`Options::adopt_copy`](crate::Options::adopt_copy). That option adopts a
    /// copy whose journal is sound.
    #[must_use]
    pub const fn adopt_copy(mut self, adopt: bool) -> Self {
        self.adopt_copy = adopt;
        self
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format => f.write_str("FORMAT"),
            Self::Journal => f.write_str("journal"),
            Self::Stream(name) => write!(f, "stream {name:?}"),
        }
    }
}

/// Reads the log at `path`, or only its stream `stream` if given, and returns the damaged parts,
/// with the work of [`apply`] on each. Empty if nothing is. Changes nothing. FORMAT comes first,
/// then the journal, then the streams in the order of their escaped names.
///
/// Without a valid copy in FORMAT, the rest cannot be read, and is not looked at. If the journal is
/// damaged, the streams are shown with the journal as it would be repaired. If the journal is a
/// copy as well, its first damage is an error of the kind [`Copied`](crate::ErrorKind::Copied), and
/// [`apply`] refuses the log unless it is to be [adopted](RepairOptions::adopt_copy).
///
/// # Errors
/// [`Missing`](crate::ErrorKind::Missing) if there is no such log or stream;
/// [`Copied`](crate::ErrorKind::Copied) if it is a copy that was not adopted, and its journal is
/// sound or `stream` is given; damage that has no repair, for example if the directory of the
/// streams is missing; any operating-system error.
pub fn plan(path: impl AsRef<Path>, stream: Option<&str>) -> Result<Vec<Finding>> {
    look::plan_on(&UnixStorage::new(), path.as_ref(), stream)
}

/// Repairs the log at `path`. First copies every file that may change into the directory
/// `quarantine`, which must not exist and must be outside of the log. It has the same layout as the
/// log. Until it is complete and durable, it has the same name with `.partial` at the end, and
/// nothing is changed. Without findings that it repairs, creates and changes nothing.
///
/// Without a valid copy in FORMAT, only FORMAT is repaired. Repeat the call for the rest.
///
/// # Errors
/// [`Locked`](crate::ErrorKind::Locked) if a process has the log open for writing. The errors of
/// [`plan`]. [`Copied`](crate::ErrorKind::Copied) also if the journal is damaged.
/// [`Io`](crate::ErrorKind::Io) if the quarantine cannot be written;
/// [`Full`](crate::ErrorKind::Full). Nothing has changed then. Errors of a single part are in the
/// result.
pub fn apply(path: impl AsRef<Path>, quarantine: impl Into<PathBuf>, options: &RepairOptions) -> Result<Repaired> {
    apply::apply_on(&UnixStorage::new(), path.as_ref(), &quarantine.into(), options)
}

/// Like [`plan`] and [`apply`], on a given storage. Not part of the stable API.
///
/// # Errors
/// Same as [`plan`] and [`apply`].
#[cfg(feature = "unstable-storage")]
#[doc(hidden)]
pub fn apply_on(storage: &dyn Storage, path: &Path, quarantine: &Path, options: &RepairOptions) -> Result<Repaired> {
    apply::apply_on(storage, path, quarantine, options)
}

/// Like [`plan`], on a given storage. Not part of the stable API.
///
/// # Errors
/// Same as [`plan`].
#[cfg(feature = "unstable-storage")]
#[doc(hidden)]
pub fn plan_on(storage: &dyn Storage, path: &Path, stream: Option<&str>) -> Result<Vec<Finding>> {
    look::plan_on(storage, path, stream)
}
