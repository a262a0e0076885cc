//! The commit journal of a log that is opened for writing: creating it, opening it, and giving it
//! up.
//!
//! FORMAT states whether the log has a journal. The journal is durable before FORMAT states it, and
//! FORMAT ceases to state it before the journal's files are removed. So while FORMAT does not state
//! it, the files in the directory of the journal are leftovers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{StreamId, WalId};
use stratawal_journal::{Dropped, Error as JournalError, ErrorKind as JournalErrorKind, Image, Journal};
use stratawal_stream::{
    Found, Location, LogContext, LogJournal, SettleCarried, StreamLog, StreamOptions, finish_deletion, stream_id,
};
use stratawal_sync::Weak;

use crate::error::{Error, ErrorKind, Result, log_error};
use crate::for_each::for_each;
use crate::options::Options;
use crate::root::{JOURNAL, Root};
use crate::slots::Slots;
use crate::wal::stream_dir;

/// At most this many streams are listed in an error.
const LISTED_MAX: usize = 20;

/// Returns the journal of a log that is opened for writing, if `options` ask for one. Creates it if
/// the log has none; if the disk is too full for that, the log stays without one. If the log has
/// one and `options` ask for none, settles every stream and removes it. `context` makes a context
/// without a journal.
pub(crate) fn open(
    root: &mut Root,
    options: &Options,
    context: impl Fn(&Root) -> LogContext,
) -> Result<(LogContext, Option<Arc<LogJournal>>)> {
    if root.format.has_journal() && !options.journal {
        give_up(root, options, context(root))?;
    }
    let context = context(root);
    if !options.journal {
        // If this fails, the next opening tries again. Nothing reads the files.
        let _ = Journal::remove(&**context.storage(), Path::new(JOURNAL));
        return Ok((context, None));
    }
    let journal = if root.format.has_journal() {
        open_existing(root, options, &context)?
    } else {
        match create(root, options, &context) {
            // A log that a full disk keeps closed could not be truncated.
            Err(error) if error.kind() == ErrorKind::Full && has_stayed_without(root, &context)? => {
                return Ok((context, None));
            }
            created => created?,
        }
    };
    let context = context.journal(Arc::clone(&journal));
    finish_deletions(&context, &journal, root.streams());
    Ok((context, Some(journal)))
}

/// Settles streams that were not looked up, when the journal needs room.
#[derive(Debug)]
pub(crate) struct CarriedSettler {
    pub(crate) slots: Weak<Slots>,
    pub(crate) context: Weak<LogContext>,
    /// The directory of the streams.
    pub(crate) streams: &'static Path,
    pub(crate) options: StreamOptions,
}

impl SettleCarried for CarriedSettler {
    fn settle(&self, name: &str) {
        let (Some(slots), Some(context)) = (self.slots.upgrade(), self.context.upgrade()) else { return };
        slots.while_not_open(name, || {
            // The look-up of the stream reports the error. Its records stay in the journal.
            let _ = settle(&context, self.streams, &self.options, name);
        });
    }
}

fn settle(context: &Arc<LogContext>, streams: &Path, options: &StreamOptions, name: &str) -> Result<()> {
    StreamLog::open(Arc::clone(context), location(streams, name)?, options.clone())?.close_and_give_back()
}

fn create(root: &mut Root, options: &Options, context: &LogContext) -> Result<Arc<LogJournal>> {
    let storage = context.storage();
    let dir = Path::new(JOURNAL);
    let created = Journal::remove(&**storage, dir)
        .and_then(|()| LogJournal::create(storage, dir, root.format.wal_id, options.of_journal()))
        .map_err(|error| journal_error(root, &error))?;
    root.set_journal(true)?;
    Ok(Arc::new(created.active_files(options.active_files_max())))
}

/// Whether FORMAT still states that the log has no journal, after the creation of one failed. If
/// so, removes the files that were created.
fn has_stayed_without(root: &Root, context: &LogContext) -> Result<bool> {
    // The error may have come after the rename of FORMAT.
    if root.read_format()?.is_none_or(|format| format.has_journal()) {
        return Ok(false);
    }
    // If this fails, the next opening tries again. Nothing reads the files.
    let _ = Journal::remove(&**context.storage(), Path::new(JOURNAL));
    Ok(true)
}

fn open_existing(root: &Root, options: &Options, context: &LogContext) -> Result<Arc<LogJournal>> {
    let wal_id = root.format.wal_id;
    let is_unfinished = |dropped: &Dropped| is_unfinished(context, wal_id, root.streams(), dropped);
    LogJournal::open(context.storage(), Path::new(JOURNAL), wal_id, options.of_journal(), is_unfinished)
        .map(|journal| Arc::new(journal.active_files(options.active_files_max())))
        .map_err(|error| match error {
            error if error.is_damage() => damaged(root, context, &error),
            error if error.is_copied() => copied(root, &error, is_damaged(root, context)),
            error => journal_error(root, &error),
        })
}

fn is_damaged(root: &Root, context: &LogContext) -> bool {
    let image = Image::read(&**context.storage(), Path::new(JOURNAL), root.format.wal_id);
    image.map_or_else(|error| error.is_damage(), |image| image.damage().is_some())
}

/// The error of a copy that was made before the log was closed.
pub(crate) fn copied(root: &Root, error: &JournalError, is_damaged: bool) -> Error {
    let remedy = match is_damaged {
        false => {
            "if no process had the log open while it was copied, the copy is complete: adopt it with \
             `stratawal repair --adopt-copy`, or with Options::adopt_copy"
        }
        true => {
            "the copy is damaged as well; if no process had the log open while it was copied, `stratawal repair` shows what can \
             be kept, and `stratawal repair --adopt-copy --apply` keeps it"
        }
    };
    let text = format!(
        "{}: {error}; so the files of this log may be of different times; nothing is changed; close the original and copy it \
         again; {remedy}",
        root.shown(JOURNAL)
    );
    log_error(ErrorKind::Copied, text)
}

/// Whether the directory of a deleted stream still has its name. A stream that was created later
/// with the same name has another id.
fn is_unfinished(context: &LogContext, wal_id: WalId, streams: &Path, dropped: &Dropped) -> bool {
    let Some(location) = std::str::from_utf8(&dropped.name).ok().and_then(|name| location(streams, name).ok()) else {
        // No stream has such a name.
        return false;
    };
    match stream_id(context.storage(), wal_id, &location) {
        Found::Missing => false,
        // It may be the deleted stream. Each look-up of the name finds out.
        Found::Unreadable => true,
        Found::Stream(id) => id == dropped.stream,
    }
}

/// Finishes deletions that were interrupted.
fn finish_deletions(context: &LogContext, journal: &LogJournal, streams: &Path) {
    for name in journal.unfinished_deletions() {
        if let Ok(location) = location(streams, &name) {
            // The stream stays deleted if this fails: each look-up of its name tries again, and
            // fails until the directory is gone.
            let _ = finish_deletion(context, &location);
        }
    }
}

/// Moves everything that the journal holds into the streams' files, and removes the journal. If a
/// stream cannot take its entries, the journal stays.
fn give_up(root: &mut Root, options: &Options, context: LogContext) -> Result<()> {
    let journal = open_existing(root, options, &context)?;
    let context = Arc::new(context.journal(Arc::clone(&journal)));
    settle_carried(&context, root.streams(), &options.stream_defaults)?;
    if !close(&context, root)? {
        let text = format!(
            "{}: the journal is still needed, because a deleted stream has not been removed, or a stream has not taken its \
             entries; open the log with its journal",
            root.shown(JOURNAL)
        );
        return Err(log_error(ErrorKind::Io, text));
    }
    root.set_journal(false)?;
    // If this fails, the next opening tries again. Nothing reads the files.
    let _ = Journal::remove(&**context.storage(), Path::new(JOURNAL));
    Ok(())
}

/// Has every stream that was not looked up take its entries from the journal into its own files,
/// and closes it. Several threads share them.
///
/// # Errors
/// The error of the first stream that fails; its entries stay in the journal. The others take
/// theirs.
pub(crate) fn settle_carried(context: &Arc<LogContext>, streams: &Path, options: &StreamOptions) -> Result<()> {
    let Some(journal) = context.log_journal() else { return Ok(()) };
    for_each(&journal.carried_streams(), |name| settle(context, streams, options, name))
}

/// Ends the journal of a log whose streams are closed. Returns whether it is closed. If not, the
/// next opening finds the records that are needed. Does nothing in a log without a journal.
pub(crate) fn close(context: &LogContext, root: &Root) -> Result<bool> {
    let Some(journal) = context.log_journal() else { return Ok(true) };
    finish_deletions(context, journal, root.streams());
    journal.close().map_err(|error| journal_error(root, &error))
}

/// Ends the journal with the entries in it, which the next opening finds. Does nothing in a log
/// without a journal.
pub(crate) fn close_fast(context: &LogContext, root: &Root) -> Result<()> {
    let Some(journal) = context.log_journal() else { return Ok(()) };
    journal.close_fast().map_err(|error| journal_error(root, &error))
}

fn location(streams: &Path, name: &str) -> Result<Location> {
    Ok(Location::new(streams, stream_dir(name)?).named(name))
}

pub(crate) fn journal_error(root: &Root, error: &JournalError) -> Error {
    let kind = match error.kind() {
        JournalErrorKind::Newer(_) | JournalErrorKind::NewerRecord(_) => ErrorKind::NewerFormat,
        JournalErrorKind::Forked => ErrorKind::Forked,
        JournalErrorKind::Copied { .. } => ErrorKind::Copied,
        _ if error.is_damage() => ErrorKind::Damaged,
        _ if error.is_full() => ErrorKind::Full,
        _ => ErrorKind::Io,
    };
    log_error(kind, format!("{}: {error}", root.shown(JOURNAL)))
}

fn damaged(root: &Root, context: &LogContext, error: &JournalError) -> Error {
    let text = format!(
        "{}: {error}; entries that only the journal held may be lost{}; nothing is changed, and the log cannot be opened for \
         writing; inspect::readable reads the entries in the segment files; restore the log from a copy",
        root.shown(JOURNAL),
        streams_at_risk(root, context)
    );
    log_error(ErrorKind::Damaged, text)
}

/// Lists the streams that have records in a damaged journal, if it can be read.
fn streams_at_risk(root: &Root, context: &LogContext) -> String {
    let Ok(image) = Image::read(&**context.storage(), Path::new(JOURNAL), root.format.wal_id) else {
        return ", of any stream".to_owned();
    };
    let needed = image.needed().streams.into_iter().map(|(id, needed)| (id, needed.name));
    let mut streams: BTreeMap<StreamId, Option<Bytes>> = needed.collect();
    for part in image.records_after_damage().iter().flat_map(|located| located.record.parts()) {
        let name = streams.entry(part.stream).or_default();
        *name = name.take().or_else(|| part.name.clone());
    }
    let shown = |(id, name): (StreamId, Option<Bytes>)| match name {
        Some(name) => format!("{:?}", String::from_utf8_lossy(&name)),
        None => format!("the stream with the id {id}"),
    };
    let count = streams.len();
    let mut listed: Vec<_> = streams.into_iter().take(LISTED_MAX).map(shown).collect();
    if count > LISTED_MAX {
        listed.push(format!("{} more", count - LISTED_MAX));
    }
    if listed.is_empty() {
        return ", of any stream".to_owned();
    }
    format!(": of {}, and of streams whose records are all lost", listed.join(", "))
}
