//! Opens a stream: recovers or reads it, and builds its state from the result.

use std::sync::Arc;

use stratawal_frame::{SeqNo, StreamId};
use stratawal_journal::NeededStream;
use stratawal_sync::{Mutex, OnceLock, Published};

use super::files::StreamFiles;
use super::install::install;
use super::journal_tail::{Joined, join};
use super::read::{read, read_files};
use super::recover::{recover, recover_above};
use super::recovered::Recovered;
use super::salvage::read_before_damage;
use crate::context::LogContext;
use crate::deletion::finish_deletion;
use crate::error::{Call, DamageKind, Error, ErrorKind, Result};
use crate::events;
use crate::inner::Inner;
use crate::journal_user::JournalUser;
use crate::location::Location;
use crate::log_journal::LogJournal;
use crate::options::StreamOptions;
use crate::read::journal_entries::JournalEntries;
use crate::removal::Removals;
use crate::report::OpenReport;
use crate::shared::Shared;
use crate::stats::Meters;
use crate::truncation_log::TruncationLog;
use crate::watermarks::Watermarks;
use crate::write::commit::Group;
use crate::write::reserve::ReserveUse;
use crate::write::tail::Tail;

impl Inner {
    /// Claims the records that the stream still needs of those that the journal has carried for it.
    /// The stream is registered.
    fn take_over_records(&self, log: &LogJournal, stream: StreamId) {
        loop {
            {
                let mut state = self.group.lock();
                let Some(journaled) = &mut state.tail.journaled else { return };
                let watermarks = &self.shared.watermarks;
                let adopt = |needed: &NeededStream| {
                    journaled.adopt(needed, watermarks.settled(), watermarks.start_in_files());
                };
                if log.hand_over(stream, adopt) {
                    return;
                }
            }
            log.wait_for_restart();
        }
    }

    /// See [`StreamLog::open`](crate::StreamLog::open).
    pub(crate) fn open(context: Arc<LogContext>, location: Location, options: StreamOptions) -> Result<Arc<Self>> {
        options.validate_for(&location)?;
        finish_deletion(&context, &location)?;
        match recover_or_read(&StreamFiles::new(&context, &location, &options), ReserveUse::Never) {
            Ok(mut recovered) => {
                let mut removals = Removals::default();
                if let Some(recovered) = &mut recovered {
                    let dead = std::mem::take(&mut recovered.dead);
                    removals.remove_found(&context, &location, dead, &mut recovered.report);
                }
                build(context, location, options, recovered, removals, None)
            }
            // The existing entries can be read. The next append runs recovery first.
            Err(full) if full.kind() == ErrorKind::Full => {
                let recovered = read(&StreamFiles::new(&context, &location, &options));
                let recovered = recovered.map_err(|error| error.of_call(Call::LookUp))?;
                let built = build(context, location, options, recovered, Removals::default(), Some(full));
                built.map_err(|error| error.of_call(Call::LookUp))
            }
            Err(error) => Err(error.of_call(Call::LookUp)),
        }
    }

    /// See [`StreamLog::open_above`](crate::StreamLog::open_above).
    pub(crate) fn open_above(
        context: Arc<LogContext>,
        location: Location,
        options: StreamOptions,
        first: u64,
    ) -> Result<Arc<Self>> {
        options.validate_for(&location)?;
        if context.is_read_only() {
            return Err(Error::new(ErrorKind::ReadOnly, &location));
        }
        let outcome = recover_above(&StreamFiles::new(&context, &location, &options), SeqNo(first));
        events::opened(&location, &outcome);
        let Some(mut recovered) = outcome? else { return Err(Error::new(ErrorKind::Missing, &location)) };
        let removed = Removals::remove_damaged(&context, &location, &std::mem::take(&mut recovered.dead));
        context.make_reserve();
        removed?;
        build(context, location, options, Some(recovered), Removals::default(), None)
    }

    /// See [`StreamLog::open_before_damage`](crate::StreamLog::open_before_damage).
    pub(crate) fn open_before_damage(
        context: Arc<LogContext>,
        location: Location,
        options: StreamOptions,
    ) -> Result<(Arc<Self>, Option<Error>)> {
        let mut damage = match Self::open(Arc::clone(&context), location.clone(), options.clone()) {
            Ok(inner) => return Ok((inner, None)),
            Err(damage) if damage.is_damage() && context.is_read_only() => damage,
            Err(error) => return Err(error),
        };
        if damage.damage() == Some(DamageKind::Journal) {
            match Self::open_files(Arc::clone(&context), location.clone(), options.clone()) {
                Ok(inner) => return Ok((inner, Some(damage))),
                // The files come before the journal.
                Err(of_files) if of_files.is_damage() => damage = of_files,
                Err(error) => return Err(error),
            }
        }
        let recovered = read_before_damage(&StreamFiles::new(&context, &location, &options))?;
        let inner = build(context, location, options, Some(recovered), Removals::default(), None)?;
        Ok((inner, Some(damage)))
    }

    /// Opens the stream for reading, without the entries that only the commit journal has.
    pub(crate) fn open_files(
        context: Arc<LogContext>,
        location: Location,
        options: StreamOptions,
    ) -> Result<Arc<Self>> {
        let recovered = read_files(&StreamFiles::new(&context, &location, &options))?;
        build(context, location, options, recovered, Removals::default(), None)
    }
}

/// Recovers the stream, or only reads it if the context is read-only.
pub(super) fn recover_or_read(files: &StreamFiles<'_>, reserve: ReserveUse) -> Result<Option<Recovered>> {
    let outcome = if files.context.is_read_only() { read(files) } else { recover(files, reserve) };
    events::opened(files.location, &outcome);
    outcome
}

/// Builds the state of a stream. If a full disk has prevented its recovery, `full` is that error,
/// and the stream is read until there is space.
fn build(
    context: Arc<LogContext>,
    location: Location,
    options: StreamOptions,
    mut recovered: Option<Recovered>,
    mut removals: Removals,
    full: Option<Error>,
) -> Result<Arc<Inner>> {
    let is_read_only = context.is_read_only();
    let reader_state = recovered.as_mut().and_then(|recovered| recovered.reader_state.take()).filter(|_| is_read_only);
    let (start, end) = recovered.as_ref().map_or((0, 0), |recovered| (recovered.first_seq, recovered.end()));
    let watermarks = Arc::new(Watermarks::new(start, end).notifying(context.own_notifier()));
    let options = context.share_options(options);
    let no_segments = Arc::clone(&context.no_segments);
    let truncations = TruncationLog::new(&context.no_truncations);
    let report = Published::new(Arc::clone(&context.no_report));
    let shared = Arc::new(Shared {
        context,
        location,
        options,
        watermarks: Arc::clone(&watermarks),
        snapshot: Published::new(no_segments),
        truncations,
        meters: Meters::default(),
    });
    let mut tail = Tail::new(0, 0, None, Arc::clone(&shared.context.pending));
    let mut writer = install(&shared, &report, &mut tail, recovered, None);
    let mut joined = Joined::default();
    if !is_read_only {
        joined = join(&shared, &mut tail, &mut writer, full.is_none())?;
        // The stream is sound whether or not the files are removed: the next opening tries again.
        let dead = std::mem::take(&mut joined.dead);
        if !dead.segments.is_empty() {
            let _ = removals.remove_dead(&shared.context, &shared.location, dead);
        }
        report_joined(&shared, &report, tail.next_seq);
    }
    let group = Group::new(tail, Some(writer), watermarks, shared.location.shared_name());
    let refused = if is_read_only { Some(Error::new(ErrorKind::ReadOnly, &shared.location)) } else { full };
    refused.into_iter().for_each(|error| group.lock().set_error(error));
    let inner = Arc::new(Inner {
        shared,
        group,
        report,
        removals: Mutex::new(removals),
        reader_state: Mutex::new(reader_state),
        last_look: Mutex::new(None),
        journal_entries: JournalEntries::default(),
        tickets: OnceLock::new(),
    });
    register(&inner, joined.carried);
    Ok(inner)
}

/// Has the commit journal know the stream, which takes over the records that the journal has
/// carried for the id `carried`.
fn register(inner: &Arc<Inner>, carried: Option<StreamId>) {
    let claim = inner.group.lock().tail.journaled.as_ref().map(|journaled| Arc::clone(journaled.claim()));
    if let (Some(log), Some(claim)) = (inner.shared.context.log_journal(), claim) {
        let user: Arc<dyn JournalUser> = Arc::clone(inner) as _;
        log.register(&user, claim, Arc::clone(&inner.shared.watermarks));
        if let Some(stream) = carried {
            inner.take_over_records(log, stream);
        }
        // If this fails, the START stays in the journal, and the next truncation tries again.
        let _ = inner.free_dropped();
    }
}

/// Completes the report of a stream that has taken its entries, which end at `next_seq`, from the
/// commit journal.
fn report_joined(shared: &Shared, report: &Published<OpenReport>, next_seq: u64) {
    let of_files = report.load();
    if (of_files.existed || next_seq > 0) && shared.context.log_journal().is_some() {
        let segments = shared.snapshot.load().segments.len() as u64;
        let first_seq = shared.watermarks.start();
        let journal_entries = next_seq.saturating_sub(of_files.next_seq.max(first_seq));
        let joined =
            OpenReport { existed: true, first_seq, next_seq, segments, journal_entries, ..(*of_files).clone() };
        events::joined(&shared.location, &joined);
        report.store(Arc::new(joined));
    }
}
