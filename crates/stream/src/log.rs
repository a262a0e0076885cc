//! A stream: opening, closing, recovering, and its numbers.

use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;

use crate::batch::Entry;
use crate::context::LogContext;
use crate::error::{Call, DamageKind, Error, ErrorKind, Result};
use crate::events;
use crate::inner::Inner;
use crate::layout::segment_path;
use crate::location::Location;
use crate::options::{StreamOptions, Visibility};
use crate::read::iter::Iter;
use crate::read::snapshot::Snapshot;
use crate::recovery::{self, Look, Recovered};
use crate::removal::Removals;
use crate::report::OpenReport;
use crate::shared::Shared;
use crate::truncation_log::TruncationLog;
use crate::watermarks::Watermarks;
use crate::write::clock::{Clock, is_far_ahead};
use crate::write::commit::Group;
use crate::write::reserve::ReserveUse;
use crate::write::tail::{Reservation, Tail};
use crate::write::writer::Writer;
use stratawal_frame::SeqNo;
use stratawal_sync::{Mutex, Published, fence};

/// One stream. Clones are handles on the same one; all methods may be called from many threads at
/// once.
#[derive(Clone)]
pub struct StreamLog {
    pub(crate) inner: Arc<Inner>,
}

/// How much a stream holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStats {
    /// Segments that hold live entries, or the one being written.
    pub segments: u64,
    /// Bytes of their files, reserved space included.
    pub disk_bytes: u64,
    /// Appends since the stream was opened that got another time than the clock's, because the
    /// clock was more than an hour ahead of the last time plus the time that has passed since.
    pub clock_jumps: u64,
}

impl fmt::Debug for StreamLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamLog")
            .field("name", &self.inner.shared.location.name())
            .field("watermarks", &self.inner.shared.watermarks)
            .finish_non_exhaustive()
    }
}

impl StreamLog {
    /// Opens the stream at `location`, recovering it if it was not closed cleanly. A stream that is
    /// not there is created by its first append. With a read-only [`LogContext`] nothing is ever
    /// changed, and what is seen is the stream as it was now, until [`reopen`](Self::reopen).
    ///
    /// Where recovery needs space and the disk is full, the stream opens for reading, and recovery
    /// comes with the first call that has room for it: an append, flush or sync once there is room;
    /// a truncation or close out of the emergency reserve.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] where acknowledged entries are not all there; nothing is changed then. A newer format,
    /// I/O, options out of range.
    pub fn open(context: Arc<LogContext>, location: Location, options: StreamOptions) -> Result<Self> {
        if let Some(why) = options.fault() {
            return Err(Error::text(ErrorKind::InvalidOption, &location, why));
        }
        match recover_or_read(&context, &location, &options, ReserveUse::Never) {
            Ok(mut recovered) => {
                let mut removals = Removals::default();
                if let Some(recovered) = &mut recovered {
                    removals.remove_found(
                        &context,
                        &location,
                        std::mem::take(&mut recovered.dead),
                        &mut recovered.report,
                    );
                }
                Ok(Self::build(context, location, options, recovered, removals))
            }
            // What is there is read; the rest of recovery comes before the next append.
            Err(full) if full.kind() == ErrorKind::Full => {
                let recovered =
                    recovery::read(&context, &location, &options).map_err(|error| error.of_call(Call::LookUp))?;
                let log = Self::build(context, location, options, recovered, Removals::default());
                log.inner.group.lock().set_error(full);
                Ok(log)
            }
            Err(error) => Err(error.of_call(Call::LookUp)),
        }
    }

    /// Opens a stream of which the entries at or above `first` are intact, whatever is damaged
    /// below, and drops the entries below `first`, durably. For a stream that [`open`](Self::open)
    /// refuses. A first live seq above `first` stays.
    ///
    /// Damage below `first` is a missing or unreadable segment there, or a damaged frame. If the
    /// frame is in a segment that must be scanned, the entries from `first` on are found by their
    /// frames.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] where entries at or above `first` are damaged or missing, or may be, and wherever a segment is
    /// misplaced ([`DamageKind::Misplaced`](crate::DamageKind::Misplaced)); then nothing is changed.
    /// [`ErrorKind::NewerFormat`] where a segment is of a newer format; then nothing is changed.
    /// [`ErrorKind::Deleted`] where the stream is not there. Otherwise as [`open`](Self::open), and
    /// on a full disk
    /// [`ErrorKind::Full`]; then the entries are dropped or not, and this may be repeated. So may it after an I/O error, as one
    /// of a damaged file that could not be removed.
    pub fn open_above(
        context: Arc<LogContext>,
        location: Location,
        options: StreamOptions,
        first: u64,
    ) -> Result<Self> {
        if let Some(why) = options.fault() {
            return Err(Error::text(ErrorKind::InvalidOption, &location, why));
        }
        if context.is_read_only() {
            return Err(Error::new(ErrorKind::ReadOnly, &location));
        }
        let outcome = recovery::recover_above(&context, &location, &options, SeqNo(first));
        events::opened(&location, &outcome);
        let Some(mut recovered) = outcome? else { return Err(Error::new(ErrorKind::Deleted, &location)) };
        let removed = Removals::remove_damaged(&context, &location, &std::mem::take(&mut recovered.dead));
        context.make_reserve();
        removed?;
        Ok(Self::build(context, location, options, Some(recovered), Removals::default()))
    }

    /// Opens for reading what precedes the first damage to the stream, and tells that damage;
    /// `None` where the stream is sound. With a read-only [`LogContext`].
    ///
    /// # Errors
    /// What is not damage: I/O, a newer format.
    pub fn open_before_damage(
        context: Arc<LogContext>,
        location: Location,
        options: StreamOptions,
    ) -> Result<(Self, Option<Error>)> {
        match Self::open(Arc::clone(&context), location.clone(), options.clone()) {
            Ok(log) => Ok((log, None)),
            Err(damage) if damage.is_damage() && context.is_read_only() => {
                let recovered = recovery::partial(&context, &location, &options)?;
                Ok((Self::build(context, location, options, Some(recovered), Removals::default()), Some(damage)))
            }
            Err(error) => Err(error),
        }
    }

    fn build(
        context: Arc<LogContext>,
        location: Location,
        options: StreamOptions,
        mut recovered: Option<Recovered>,
        removals: Removals,
    ) -> Self {
        let known = recovered.as_mut().and_then(|recovered| recovered.known.take()).filter(|_| context.is_read_only());
        let (start, end) = recovered.as_ref().map_or((0, 0), |r| (r.start, r.end));
        let watermarks = Arc::new(Watermarks::new(start, end));
        let read_only = context.is_read_only().then(|| Error::new(ErrorKind::ReadOnly, &location));
        let snapshot = Published::new(Snapshot::default());
        let truncations = TruncationLog::new();
        let shared =
            Arc::new(Shared { context, location, options, watermarks: Arc::clone(&watermarks), snapshot, truncations });
        let report = Published::new(OpenReport::default());
        let mut tail = Tail::new(0, 0, None, Arc::clone(&shared.context.pending));
        let writer = install(&shared, &report, &mut tail, recovered, None);
        let group = Group::new(tail, Some(writer), watermarks, shared.location.shared_name());
        if let Some(error) = read_only {
            group.lock().set_error(error);
        }
        let (removals, known) = (Mutex::new(removals), Mutex::new(known));
        Self { inner: Arc::new(Inner { shared, group, report, removals, known }) }
    }

    /// The name that errors give.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.shared.location.name()
    }

    /// Whether the stream is there: it has been appended to, here or in an earlier process.
    #[must_use]
    pub fn exists(&self) -> bool {
        !self.inner.shared.snapshot.load().segments.is_empty()
    }

    /// The seq of the first live entry, or of the one that would be.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.inner.shared.watermarks.start()
    }

    /// One past the last entry that a reader of this visibility sees.
    #[must_use]
    pub fn end_seq(&self, visibility: Visibility) -> u64 {
        self.inner.end_seq(visibility)
    }

    /// One past the last entry that was accepted: the seq of the next append.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.inner.shared.watermarks.accepted()
    }

    /// One past the last entry that is on stable storage.
    #[must_use]
    pub fn durable_seq(&self) -> u64 {
        self.inner.shared.watermarks.durable()
    }

    /// Returns entry `seq`, or `None` if `visibility` does not show it yet: it was not appended, or
    /// is not stable.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`] if `seq` is below [`first_seq`](Self::first_seq). Damage, with the
    /// entries that it takes. I/O.
    pub fn get(&self, seq: u64, visibility: Visibility) -> Result<Option<Entry>> {
        self.inner.get(seq, visibility)
    }

    /// Returns the entries `seqs` in that order, each as [`get`](Self::get) would. Entries that are
    /// neighbours in `seqs` and in the same frame cost one read.
    ///
    /// An entry of 1 KiB or more shares the memory of the frame it was read with; a shorter one has
    /// its own.
    ///
    /// # Errors
    /// As [`get`](Self::get), for the first seq that fails.
    pub fn get_many(&self, seqs: &[u64], visibility: Visibility) -> Result<Vec<Option<Entry>>> {
        self.inner.get_many(seqs, visibility)
    }

    /// Returns the last entry that `visibility` shows, or `None` if the stream has none.
    ///
    /// # Errors
    /// As [`get`](Self::get). [`ErrorKind::Truncated`] only if this stream is opened for reading, and
    /// a writer in another process has dropped the entry.
    pub fn last(&self, visibility: Visibility) -> Result<Option<Entry>> {
        self.inner.last(visibility)
    }

    /// Returns the entries in `seqs` that `visibility` shows now. A range that reaches beyond the end
    /// of the stream ends there. If the stream is empty or does not exist, so is the iterator;
    /// nothing is created.
    ///
    /// A range with a lower bound below the first live entry yields [`ErrorKind::Truncated`]; a range
    /// without a lower bound begins at the first live entry. After an error the iterator is done.
    /// Entries of one frame share its memory.
    #[must_use]
    pub fn iter(&self, seqs: impl RangeBounds<u64>, visibility: Visibility) -> Iter {
        Iter::new(&self.inner, &seqs, visibility)
    }

    /// Returns the first seq from which on all entries have a time of `timestamp` or later, in
    /// microseconds since 1970. If there is no such entry, returns the seq after the last entry that
    /// `visibility` shows.
    ///
    /// If the times of the stream have fallen back (see [`Entry::timestamp`]), entries before that
    /// may have later times: the search begins in the newest segment that begins before `timestamp`.
    ///
    /// # Errors
    /// Damage and I/O. [`ErrorKind::Truncated`] or [`ErrorKind::Cut`] only if this stream is opened
    /// for reading, and a writer in another process has dropped entries that the search needs.
    pub fn seq_at(&self, timestamp: u64, visibility: Visibility) -> Result<u64> {
        self.inner.seq_at(timestamp, visibility)
    }

    /// How this stream is kept.
    #[must_use]
    pub fn options(&self) -> &StreamOptions {
        &self.inner.shared.options
    }

    /// What the last opening found and did.
    #[must_use]
    pub fn report(&self) -> Arc<OpenReport> {
        self.inner.report.load()
    }

    /// How much the stream holds. Opens each segment's file for a moment. A file that is removed at
    /// the same time is not counted: by a truncation or a deletion here, or by another process
    /// beside a stream that is closed or only read.
    ///
    /// # Errors
    /// I/O.
    pub fn stats(&self) -> Result<StreamStats> {
        self.inner.check_process()?;
        let shared = &self.inner.shared;
        loop {
            let snapshot = shared.snapshot.load();
            let stats = self.inner.measure(&snapshot)?;
            let is_complete = stats.segments == snapshot.segments.len() as u64;
            fence();
            // A deletion shows its snapshot after it has renamed the directory, under the lock.
            let clock_jumps = self.inner.group.lock().tail.clock.jumps();
            if is_complete || Arc::ptr_eq(&snapshot, &shared.snapshot.load()) {
                return Ok(StreamStats { clock_jumps, ..stats });
            }
        }
    }

    /// Makes everything accepted durable, and ends the stream's newest segment cleanly, so that the
    /// next open scans nothing. Later appends fail with [`ErrorKind::Closed`]; reads go on. Closing
    /// twice is no error.
    ///
    /// # Errors
    /// As [`sync`](Self::sync); it is closed all the same, and recovered when it is opened next.
    /// Whatever it answers, no call on this stream is at its files any more. On a stream opened for
    /// reading there is nothing to close.
    pub fn close(&self) -> Result<()> {
        if self.inner.shared.context.is_read_only() {
            return Ok(());
        }
        self.inner.close().map_err(|error| error.of_call(Call::Close))
    }

    /// Recovers a stream that has failed, as opening it again would; a healthy one is left alone.
    ///
    /// On a stream opened for reading it looks again, and reads only the entries that have come
    /// since the last look. Damage to entries that an earlier look has found valid is reported when
    /// they are read, and by the next open.
    ///
    /// Entries that were accepted and had not been handed over when the stream failed go on
    /// waiting. Those that had been handed over, and not synced, may be lost where a sync has
    /// failed, and all behind them; their seqs are given again.
    ///
    /// # Errors
    /// As [`open`](Self::open). The stream then stays failed: with this error where it is damage, a
    /// newer format or a full disk, otherwise with the one that failed it.
    pub fn reopen(&self) -> Result<()> {
        let done = if self.inner.shared.context.is_read_only() {
            self.inner.look_again()
        } else {
            self.inner.recover(true, ReserveUse::Never)
        };
        done.map_err(|error| error.of_call(Call::Reopen))
    }
}

impl Inner {
    /// The files of `snapshot` that are there.
    fn measure(&self, snapshot: &Snapshot) -> Result<StreamStats> {
        let Shared { context, location, .. } = &*self.shared;
        let mut stats = StreamStats::default();
        for segment in &snapshot.segments {
            let path = segment_path(&location.dir(), segment.id());
            let file = context.storage().open(&path, stratawal_segment::Access::Read);
            match file.and_then(|file| file.len()) {
                Ok(len) => {
                    stats.segments += 1;
                    stats.disk_bytes += len;
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(location, e)),
            }
        }
        Ok(stats)
    }

    /// Opened for reading: sees the stream as it is now.
    pub(crate) fn look_again(&self) -> Result<()> {
        self.check_process()?;
        let Self { shared, group, report, known, .. } = self;
        // One at a time, so that an older look never replaces a newer one.
        let mut state = group.lock();
        let before = known.lock().take();
        let outcome = match recovery::look(&shared.context, &shared.location, &shared.options, before) {
            Ok(Look::Same { known: same, report: now }) => {
                *known.lock() = Some(same);
                // Nothing that readers have changes, so none of them is disturbed.
                let now = now.unwrap_or_else(|| report.load().of_nothing_new());
                report.store(Arc::new(now));
                return Ok(());
            }
            Ok(Look::New(recovered)) => Ok(Some(*recovered)),
            Ok(Look::Missing) => Ok(None),
            Err(error) => Err(error),
        };
        events::opened(&shared.location, &outcome);
        let mut recovered = outcome?;
        *known.lock() = recovered.as_mut().and_then(|recovered| recovered.known.take());
        install(shared, report, &mut state.tail, recovered, None);
        Ok(())
    }

    /// Recovers a stream that has failed; what waits in the tail goes on waiting. By itself
    /// (`asked` false) only where nothing is lost by it: else somebody has to be told.
    pub(crate) fn recover(&self, asked: bool, reserve: ReserveUse) -> Result<()> {
        self.check_process()?;
        let Self { shared, group, report, removals, .. } = self;
        // Before the group: a truncation may still remove files, which recovery must not find half
        // gone.
        let mut removals = removals.lock();
        let mut dead = None;
        let result = group.recover(|tail, failed| {
            if tail.closed {
                return Err(Error::new(ErrorKind::Closed, &shared.location));
            }
            // Its descriptors may have unsynced writes; what recovery finds, it writes again and
            // syncs.
            let recovered = recover_or_read(&shared.context, &shared.location, &shared.options, reserve);
            drop(failed);
            let mut recovered = recovered?;
            let found = recovered.as_mut().map(|recovered| std::mem::take(&mut recovered.dead));
            if recovered.is_none() && !shared.snapshot.load().segments.is_empty() {
                // Its folder was there, with what was acknowledged in it.
                return Err(Error::damage(&shared.location, DamageKind::NoSegment, None, None, None));
            }
            let waiting = tail.waiting_from(recovered.as_ref().map_or(0, |recovered| recovered.end));
            if waiting.is_none() && !asked {
                let text = "entries that were handed to the operating system, and not synced, are lost";
                return Err(Error::text(ErrorKind::Poisoned, &shared.location, text));
            }
            let waiting = waiting.unwrap_or_default();
            let end = waiting.end_seq();
            let reserved = waiting.reserved;
            let writer = install(shared, report, tail, recovered, end);
            // Readers are not shown them any more, and no reader is kept waiting while they are
            // removed.
            dead = found;
            tail.adopt_pending(waiting);
            if let Some(reservation) = tail.reservation.as_mut().filter(|_| reserved > 0) {
                reservation.reserve(reserved).map_err(|e| shared.segment_error(e))?;
            }
            Ok(writer)
        });
        if let Some(dead) = dead {
            let mut amended = (*report.load()).clone();
            removals.remove_found(&shared.context, &shared.location, dead, &mut amended);
            report.store(Arc::new(amended));
        }
        result
    }
}

fn recover_or_read(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    reserve: ReserveUse,
) -> Result<Option<Recovered>> {
    let outcome = if context.is_read_only() {
        recovery::read(context, location, options)
    } else {
        recovery::recover(context, location, options, reserve)
    };
    events::opened(location, &outcome);
    outcome
}

/// Makes what recovery found the state of the stream, with entries up to `accepted` waiting in the
/// tail.
fn install(
    shared: &Arc<Shared>,
    report: &Published<OpenReport>,
    tail: &mut Tail,
    recovered: Option<Recovered>,
    accepted: Option<u64>,
) -> Writer {
    let old = shared.snapshot.load();
    let Some(recovered) = recovered else {
        shared.truncations.cut(shared.watermarks.epoch(), 0);
        shared.watermarks.change(|watermarks| {
            shared.snapshot.store(Arc::new(Snapshot::default()));
            watermarks.reset(0, 0);
        });
        *tail = new_tail(shared, &tail.clock, 0, 0, None);
        return Writer::new(Arc::clone(shared), None, 0);
    };
    let ids = recovered.snapshot.segments.first().map(|segment| segment.header.stream_id.0);
    if let Some(stream_id) = ids.filter(|_| !recovered.is_continued) {
        // What was loaded before may have been read from other bytes.
        shared.context.cache.remove_stream(stream_id);
    }
    let accepted = accepted.unwrap_or(recovered.end);
    let cut = old.diverges_at(shared.watermarks.accepted(), &recovered.snapshot, recovered.start);
    let cut = cut.filter(|&cut| cut < recovered.end).unwrap_or(accepted);
    shared.truncations.cut(shared.watermarks.epoch(), cut);
    shared.watermarks.change(|watermarks| {
        shared.snapshot.store(Arc::new(recovered.snapshot));
        watermarks.reset(recovered.start, recovered.end);
        watermarks.set_accepted(accepted);
    });
    report.store(Arc::new(recovered.report));
    let (active, reservation) = match recovered.writable {
        Some((active, preallocation)) => {
            let reservation = Reservation::new(&active.writer, preallocation);
            (Some(active), Some(reservation))
        }
        None => (None, None),
    };
    *tail = new_tail(shared, &tail.clock, recovered.end, recovered.timestamp, reservation);
    Writer::new(Arc::clone(shared), active, recovered.timestamp)
}

/// The tail of a stream that ends at `end`, with the last time `last`, and had the clock `before`
/// until now.
fn new_tail(shared: &Shared, before: &Clock, end: u64, last: u64, reservation: Option<Reservation>) -> Tail {
    let storage = shared.context.storage();
    let now = storage.now_micros();
    let restart = is_far_ahead(last, now).then_some(now);
    let reservation = reservation.map(|reservation| Reservation { restart, ..reservation });
    let mut tail = Tail::new(end, last, reservation, Arc::clone(&shared.context.pending));
    tail.clock = Clock::new(&**storage, now, last).counting_on(before);
    tail
}
