//! Follows all streams whose names begin alike.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stratawal_stream::{FollowEvent, FollowGroup, FollowStopper, StreamLog, StreamMoment, Visibility};
use stratawal_sync::Mutex;

use crate::error::{Error, ErrorKind, Result, log_error};
use crate::slots::Change;
use crate::stream::Stream;
use crate::wal::Wal;

/// The key by which the group is woken for new names.
const NAMES: u64 = u64::MAX;

/// A stream gives way to the next after this many events.
const EVENTS_MAX: u32 = 256;

/// The minimum time between two wake-ups.
const PAUSE: Duration = Duration::from_millis(1);

/// A stream that could not be followed is looked up again after this time.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The minimum time between two listings of the streams of a log that is opened for reading.
const LIST_PAUSE: Duration = Duration::from_millis(50);

/// An event of one of the streams that a [`FollowPrefix`] follows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefixEvent {
    /// The name of the stream.
    pub stream: Arc<str>,
    /// What happened.
    pub event: FollowEvent,
}

impl PrefixEvent {
    const fn deleted(stream: Arc<str>) -> Self {
        Self { stream, event: FollowEvent::Deleted }
    }
}

/// Returns the entries of all streams whose names begin alike, and then new ones as they become
/// visible, also of streams that are created later. Created by [`Wal::follow_prefix`].
///
/// Each stream is followed as by [`Stream::follow`](crate::Stream::follow): each of its entries is
/// returned once and in order, and its truncations are events. Between streams there is no order,
/// and a stream with many entries does not keep the others waiting for long.
/// [`FollowEvent::Deleted`] ends only the part of that stream; if it is created again, it is
/// followed from 0.
///
/// As an iterator, this blocks until there is an event, and ends when the log is closed or
/// [`FollowStopper::stop`] is called. After a close of the log it first returns the remaining
/// entries of every stream that was open when the log was closed, or that was closed alone while
/// this follower existed. A stream that nobody has opened since the log was opened, and that the
/// follower has not reached, is left for the next one: its position stays as it is.
///
/// # Errors of one stream
/// An error concerns one stream, which it names, and the next call continues with the others. After
/// an error of the operating system, such as a lack of descriptors, the stream is looked up again
/// after a second, and each failure is returned; in a program with tasks, in a log that is open for
/// writing, it is looked up with the first event after that second. After any other error, such as
/// damage, the stream is no longer followed unless it is opened again; in a log opened for reading
/// it is looked up again after a second.
///
/// # Closed streams
/// A stream that is closed by [`Stream::close`](crate::Stream::close) while it has entries that
/// were not returned is opened again by the follower, with the
/// [default options](crate::Options::stream_defaults), and stays open; a close of the log does this
/// too. One whose entries were all returned stays closed: it waits without a handle until its name
/// is looked up. If its end is [dropped](crate::Stream::truncate_from) then, the follower notices,
/// also if it looks only once the stream has as many entries again.
///
/// # Resources
/// This keeps the log open and locked, and every open stream that it follows in use. It takes about
/// 1 KB for each of them, beside the memory of the stream. A new follower opens every stream of the
/// prefix once.
///
/// # In a log opened for reading
/// New streams are found within about 50 ms, or within the log's
/// [`poll_interval`](crate::Options::poll_interval) if the writer wakes no reader and that is
/// longer. A close of this log ends the follower within 50 ms, with or without entries that were
/// not returned. Each followed stream holds one open file, its newest segment, once it has one, so
/// the limit of open files (`ulimit -n`) must be above their number. Every followed stream is
/// looked at whenever the writer has synced or changed one of them: beside a busy writer, the cost
/// is the number of streams times the number of syncs. Use it for some hundred streams. To follow
/// more, follow in the process that writes, where an idle stream costs nothing.
pub struct FollowPrefix {
    wal: Wal,
    prefix: Box<str>,
    positions: BTreeMap<String, u64>,
    group: FollowGroup,
    watch: Arc<Watch>,
    parts: HashMap<u64, Part>,
    keys: HashMap<Arc<str>, u64>,
    next_key: u64,
    /// The parts that may have an event.
    ready: VecDeque<u64>,
    /// How many events the first of them has returned in a row.
    in_a_row: u32,
    /// The streams to look up.
    names: VecDeque<Arc<str>>,
    /// Events that no part has.
    events: VecDeque<PrefixEvent>,
    /// The streams that could not be followed, and when to try again.
    later: HashMap<Arc<str>, Instant>,
    /// When the streams of a log that is opened for reading were last listed.
    listed: Option<Instant>,
    /// Whether the group will be woken for the next listing.
    is_listing_due: bool,
    /// When the last wait has ended, and whether an event was returned since.
    waited: Option<Instant>,
    has_events: bool,
    end: Option<Error>,
}

/// One of the streams.
struct Part {
    name: Arc<str>,
    follow: stratawal_stream::Follow,
    is_ready: bool,
    // Dropped last: it keeps the stream in use.
    stream: Stream,
}

/// What happened to the streams since the follower looked last.
#[derive(Debug)]
pub(crate) struct Watch {
    prefix: Box<str>,
    group: FollowGroup,
    changes: Mutex<Changes>,
}

#[derive(Debug, Default)]
struct Changes {
    /// The streams that were opened or deleted.
    names: Vec<Arc<str>>,
    /// The streams that are closed, each with its end, until the follower is known to have returned
    /// all entries.
    closed: HashMap<Arc<str>, u64>,
    /// The streams that are open, until the follower has begun with them.
    opened: HashMap<Arc<str>, Opened>,
    /// The streams that were deleted, until the follower has noticed.
    deleted: HashSet<Arc<str>>,
    /// Streams that could not be opened when the log was closed.
    failed: Vec<Error>,
}

/// Openings of a stream with which the follower has not begun.
#[derive(Debug, Default)]
struct Opened {
    /// When the stream was last opened, or the follower was created, unless it was closed since.
    since: Option<StreamMoment>,
    /// The lowest end to which the stream was cut before that.
    cut: Option<u64>,
}

impl Watch {
    /// The stream `name` was changed. Returns whether the follower is to be woken. Called under the
    /// lock of the stream's slot.
    pub(crate) fn note(&self, name: &str, change: Change<'_>) -> bool {
        if !name.starts_with(&*self.prefix) {
            return false;
        }
        let name: Arc<str> = Arc::from(name);
        let mut changes = self.changes.lock();
        match change {
            Change::Closed(log) => {
                if let Some(opened) = changes.opened.get_mut(&name)
                    && let Some(since) = opened.since.take_if(|since| since.is_of(log))
                {
                    opened.cut = opened.cut.into_iter().chain(since.lowest_cut(log)).min();
                }
                changes.closed.insert(name, log.next_seq());
                return false;
            }
            Change::Opened(log) => {
                changes.opened.entry(Arc::clone(&name)).or_default().since = Some(log.moment());
            }
            Change::Deleted => {
                changes.opened.remove(&name);
                changes.deleted.insert(Arc::clone(&name));
            }
        }
        changes.closed.remove(&name);
        changes.names.push(name);
        true
    }

    /// The streams that are closed, and whose last entries may not have been returned.
    pub(crate) fn closed(&self) -> Vec<Arc<str>> {
        self.changes.lock().closed.keys().cloned().collect()
    }

    /// The stream `name` could not be opened when the log was closed.
    pub(crate) fn failed(&self, name: &str, error: &Error) {
        let mut changes = self.changes.lock();
        if changes.closed.remove(name).is_some() {
            changes.failed.push(error.clone());
        }
    }

    pub(crate) fn wake(&self) {
        self.group.wake(NAMES);
    }

    fn take_deleted(&self, name: &str) -> bool {
        self.changes.lock().deleted.remove(name)
    }

    /// The follower is created while the stream `log` is open.
    fn begin(&self, log: &StreamLog) {
        let mut changes = self.changes.lock();
        changes.opened.entry(Arc::from(log.name())).or_insert_with(|| Opened { since: Some(log.moment()), cut: None });
    }

    /// The follower begins with the stream `log`. Returns since when it has not looked at it,
    /// unless it has begun with it before, and the lowest end to which it was cut before that.
    fn take_opened(&self, log: &StreamLog) -> Option<(StreamMoment, Option<u64>)> {
        let mut changes = self.changes.lock();
        let opened = changes.opened.get_mut(log.name())?;
        // If the stream was opened again by now, the follower continues with that.
        let since = opened.since.take_if(|since| since.is_of(log))?;
        let cut = opened.cut;
        changes.opened.remove(log.name());
        Some((since, cut))
    }

    /// Whether the stream `name` is closed and has changes that a follower at `position` has not
    /// returned. If it has none, it is forgotten.
    fn is_closed_and_unread(&self, name: &str, position: u64) -> Option<bool> {
        let mut changes = self.changes.lock();
        let is_cut = changes.opened.get(name).is_some_and(|opened| opened.cut.is_some_and(|cut| cut < position));
        let is_unread = *changes.closed.get(name)? != position || is_cut;
        if !is_unread {
            changes.closed.remove(name);
        }
        Some(is_unread)
    }
}

impl FollowPrefix {
    pub(crate) fn new(wal: &Wal, prefix: &str, positions: BTreeMap<String, u64>) -> Result<Self> {
        let group = FollowGroup::default();
        let watch = Arc::new(Watch { prefix: prefix.into(), group: group.clone(), changes: Mutex::default() });
        let mut follow = Self {
            wal: wal.clone(),
            prefix: prefix.into(),
            positions: positions.into_iter().filter(|(name, _)| name.starts_with(prefix)).collect(),
            group,
            watch,
            parts: HashMap::new(),
            keys: HashMap::new(),
            next_key: 0,
            ready: VecDeque::new(),
            in_a_row: 0,
            names: VecDeque::new(),
            events: VecDeque::new(),
            later: HashMap::new(),
            listed: None,
            is_listing_due: false,
            waited: None,
            has_events: false,
            end: None,
        };
        // Watched before the streams are listed, so that none is missed in between.
        wal.slots().watch(&follow.watch);
        let open = wal.slots().open();
        open.iter().filter(|log| log.name().starts_with(prefix)).for_each(|log| follow.watch.begin(log));
        drop(open);
        follow.list()?;
        let known: HashSet<&str> = follow.names.iter().map(|name| &**name).collect();
        let gone = follow.positions.keys().filter(|name| !known.contains(name.as_str()));
        follow.events = gone.map(|name| PrefixEvent::deleted(Arc::from(name.as_str()))).collect();
        Ok(follow)
    }

    /// The position in each stream: the seq of its next entry. A program that stores them continues
    /// there with a new [`Wal::follow_prefix`]. Streams whose deletion was returned are left out.
    #[must_use]
    pub const fn positions(&self) -> &BTreeMap<String, u64> {
        &self.positions
    }

    /// Returns a handle by which another thread ends this.
    #[must_use]
    pub fn stopper(&self) -> FollowStopper {
        self.group.stopper()
    }

    /// Returns the next event, or `None` if there is none within about `timeout`. A `timeout` of
    /// zero does not wait for entries.
    ///
    /// # Errors
    /// - [`Closed`](ErrorKind::Closed): the log was closed, or this was stopped. No event follows.
    /// - An error of one stream, such as [`Damaged`](ErrorKind::Damaged) or [`Io`](ErrorKind::Io).
    ///   Its position stays in [`positions`](Self::positions). Later calls continue with the other
    ///   streams, and may try this one again, as described for the type.
    /// - [`Forked`](ErrorKind::Forked); any operating-system error.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<PrefixEvent>> {
        if let Some(event) = self.try_next()? {
            return Ok(Some(event));
        }
        // A deadline that the clock cannot express is never reached.
        self.next_until(Instant::now().checked_add(timeout))
    }

    /// Returns this as a stream for programs with tasks. No thread waits for it.
    #[cfg(feature = "futures")]
    pub const fn into_stream(self) -> crate::FollowStream<Self> {
        crate::FollowStream::new(self)
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Result<Option<PrefixEvent>> {
        loop {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(None);
            }
            self.wait(deadline);
            if let Some(event) = self.try_next()? {
                return Ok(Some(event));
            }
        }
    }

    /// Waits until a stream may have an event. A burst wakes this at most once in [`PAUSE`].
    fn wait(&mut self, deadline: Option<Instant>) {
        let deadline = deadline.into_iter().chain(self.later.values().copied()).min();
        let pause = self.waited.map(|waited| waited + PAUSE).filter(|&until| until > Instant::now());
        match pause.filter(|_| self.has_events) {
            Some(until) => self.group.pause(deadline.map_or(until, |deadline| deadline.min(until))),
            None => self.group.sleep(deadline),
        }
        self.waited = Some(Instant::now());
        self.has_events = false;
    }

    /// Returns the next event if it need not wait for one. Otherwise the group is woken once there
    /// may be one.
    fn try_next(&mut self) -> Result<Option<PrefixEvent>> {
        self.wal.check_process()?;
        loop {
            if let Some(error) = &self.end {
                return Err(error.clone());
            }
            if self.group.is_stopped() {
                self.end = Some(log_error(ErrorKind::Closed, "the follower was stopped"));
                continue;
            }
            if let Some(event) = self.events.pop_front() {
                match &event.event {
                    FollowEvent::Cut { dropped } => self.positions.insert(event.stream.to_string(), dropped.start),
                    _ => self.positions.remove(&*event.stream),
                };
                return Ok(Some(event));
            }
            self.take_ready()?;
            if let Some(&key) = self.ready.front() {
                if let Some(event) = self.next_of(key)? {
                    self.has_events = true;
                    return Ok(Some(event));
                }
                continue;
            }
            // A close of the log opens closed streams whose entries were not returned.
            let is_closing = self.wal.is_closed() && !self.wal.slots().is_final();
            let name = if is_closing { None } else { self.names.pop_front() };
            if let Some(name) = name {
                self.begin(name)?;
            } else if self.parts.is_empty() && self.wal.is_closed() && !is_closing {
                self.end = Some(log_error(ErrorKind::Closed, "the log was closed"));
            } else {
                self.have_listing_woken()?;
                return Ok(None);
            }
        }
    }

    /// Adds the parts that were woken to those that are ready, and names of new streams.
    fn take_ready(&mut self) -> Result<()> {
        let mut has_names = false;
        for key in self.group.take_ready() {
            has_names |= key == NAMES;
            if let Some(part) = self.parts.get_mut(&key)
                && !std::mem::replace(&mut part.is_ready, true)
            {
                self.ready.push_back(key);
            }
        }
        self.take_later();
        if !has_names {
            return Ok(());
        }
        let mut changes = self.watch.changes.lock();
        self.names.extend(std::mem::take(&mut changes.names));
        let failed = changes.failed.pop();
        drop(changes);
        if let Some(error) = failed {
            // There may be more.
            self.watch.wake();
            return Err(error);
        }
        if self.wal.is_read_only() {
            self.is_listing_due = false;
            if self.listed.is_none_or(|listed| listed.elapsed() >= LIST_PAUSE) {
                self.list()?;
            }
        }
        Ok(())
    }

    /// Adds the names of the streams that are to be looked up again by now.
    fn take_later(&mut self) {
        if !self.later.is_empty() {
            let (now, is_closed) = (Instant::now(), self.wal.is_closed());
            self.names.extend(self.later.extract_if(|_, due| is_closed || *due <= now).map(|(name, _)| name));
        }
    }

    /// Has the stream looked up again after `error`, if that may help. Otherwise it is no longer
    /// followed.
    fn try_later(&mut self, name: Arc<str>, error: &Error) {
        let may_help = error.kind() == ErrorKind::Io || self.wal.is_read_only();
        if may_help && !self.wal.is_closed() {
            self.later.insert(name, Instant::now() + RETRY_PAUSE);
        }
    }

    /// Adds the names of all streams.
    fn list(&mut self) -> Result<()> {
        self.listed = Some(Instant::now());
        let mut names = self.wal.streams()?;
        // Streams without entries are not listed, and may get their first one at any time.
        names.extend(self.wal.slots().open().iter().map(|log| log.name().to_owned()));
        let names: BTreeSet<_> = names.into_iter().filter(|name| name.starts_with(&*self.prefix)).collect();
        let is_known = |name: &str| self.keys.contains_key(name) || self.later.contains_key(name);
        self.names.extend(names.into_iter().filter(|name| !is_known(name)).map(Arc::from));
        Ok(())
    }

    /// In a log that is opened for reading, has the group woken when streams are to be listed.
    fn have_listing_woken(&mut self) -> Result<()> {
        if self.wal.is_read_only() && !std::mem::replace(&mut self.is_listing_due, true) {
            self.wal.have_reader_woken(&self.group, NAMES)?;
        }
        Ok(())
    }

    /// Begins to follow the stream `name`, unless it is followed.
    fn begin(&mut self, name: Arc<str>) -> Result<()> {
        if self.keys.contains_key(&name) {
            return Ok(());
        }
        self.later.remove(&name);
        if self.watch.take_deleted(&name) {
            self.end_deleted(name);
            return Ok(());
        }
        let from = self.positions.get(&*name).copied().unwrap_or_default();
        let is_at_rest =
            !self.wal.slots().is_open(&name) && self.watch.is_closed_and_unread(&name, from) == Some(false);
        if is_at_rest {
            return Ok(());
        }
        let Some(stream) = self.look_up(&name)? else { return Ok(()) };
        // The stream that was looked up may be a new one.
        if self.watch.take_deleted(&name) || self.wal.is_read_only() && from > 0 && !stream.exists() {
            self.end_deleted(name);
            return Ok(());
        }
        let key = self.next_key;
        self.next_key += 1;
        let from = *self.positions.entry(name.to_string()).or_default();
        let follow = match self.watch.take_opened(stream.log()) {
            Some((since, cut)) => {
                let at = cut.map_or(from, |cut| cut.min(from));
                if at < from {
                    let event = FollowEvent::Cut { dropped: at..from };
                    self.events.push_back(PrefixEvent { stream: Arc::clone(&name), event });
                }
                self.group.follow_since(stream.log(), &since, at, Visibility::Stable, key)
            }
            None => self.group.follow(stream.log(), from, Visibility::Stable, key),
        };
        self.keys.insert(Arc::clone(&name), key);
        self.parts.insert(key, Part { name, follow, is_ready: true, stream });
        self.ready.push_back(key);
        Ok(())
    }

    /// Looks up the stream `name`, unless the log is closed and it was not open then.
    fn look_up(&mut self, name: &Arc<str>) -> Result<Option<Stream>> {
        if self.wal.is_closed() {
            return Ok(if self.wal.is_read_only() { None } else { self.wal.stream_if_open(name) });
        }
        match self.wal.stream(name) {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::Closed => {
                // The log is being closed.
                self.names.push_front(Arc::clone(name));
                Ok(None)
            }
            Err(error) => {
                self.try_later(Arc::clone(name), &error);
                Err(error)
            }
        }
    }

    /// Has the deletion of the stream `name` returned. Another one of that name may have entries.
    fn end_deleted(&mut self, name: Arc<str>) {
        if self.positions.contains_key(&*name) {
            self.events.push_back(PrefixEvent::deleted(Arc::clone(&name)));
        }
        self.begin_again(name, 0);
    }

    /// Has the stream `name` looked up if it is open or has entries at or after `position`.
    /// Otherwise it waits without a handle.
    fn begin_again(&mut self, name: Arc<str>, position: u64) {
        if self.wal.slots().is_open(&name) || self.watch.is_closed_and_unread(&name, position) == Some(true) {
            self.names.push_back(name);
        }
    }

    /// Returns the next event of the first ready part, whose key this is. If it has none, it is no
    /// longer ready.
    fn next_of(&mut self, key: u64) -> Result<Option<PrefixEvent>> {
        let Some(part) = self.parts.get_mut(&key) else {
            self.ready.pop_front();
            return Ok(None);
        };
        let next = part.follow.next_or_register();
        self.in_a_row += 1;
        if !matches!(next, Ok(Some(_))) || self.in_a_row >= EVENTS_MAX {
            self.in_a_row = 0;
            self.ready.pop_front();
            part.is_ready = matches!(next, Ok(Some(_)));
            if part.is_ready {
                self.ready.push_back(key);
            }
        }
        match next {
            Ok(Some(FollowEvent::Deleted)) => {
                if let Some(part) = self.end_part(key) {
                    self.watch.take_deleted(&part.name);
                    let name = Arc::clone(&part.name);
                    drop(part);
                    self.end_deleted(name);
                }
                Ok(None)
            }
            Ok(Some(event)) => {
                if let Some(position) = self.positions.get_mut(&*part.name) {
                    *position = part.follow.position();
                }
                Ok(Some(PrefixEvent { stream: Arc::clone(&part.name), event }))
            }
            Ok(None) => Ok(None),
            Err(error) => self.end_with(key, error),
        }
    }

    /// Ends the part after `error`, which is returned unless it is an end.
    fn end_with(&mut self, key: u64, error: Error) -> Result<Option<PrefixEvent>> {
        let Some(part) = self.end_part(key) else { return Ok(None) };
        let (name, position) = (Arc::clone(&part.name), part.follow.position());
        let is_closed_alone = part.stream.log().is_closed_for_good();
        drop(part);
        match error.kind() {
            ErrorKind::Closed if !is_closed_alone => Ok(None),
            ErrorKind::Closed | ErrorKind::Missing => {
                if self.watch.take_deleted(&name) {
                    self.end_deleted(name);
                } else {
                    self.begin_again(name, position);
                }
                Ok(None)
            }
            _ => {
                self.try_later(name, &error);
                Err(error)
            }
        }
    }

    fn end_part(&mut self, key: u64) -> Option<Part> {
        let part = self.parts.remove(&key)?;
        self.keys.remove(&part.name);
        Some(part)
    }

    /// Returns the next event, or has the task of `context` woken once there may be one.
    #[cfg(feature = "futures")]
    pub(crate) fn poll_next(
        &mut self,
        context: &std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<PrefixEvent>>> {
        let was_over = self.end.is_some();
        self.group.set_waker(context.waker());
        match self.try_next() {
            Ok(None) => std::task::Poll::Pending,
            next => std::task::Poll::Ready(self.item(was_over, next)),
        }
    }

    /// The item of an iterator, which ends where the errors of the other calls begin.
    fn item(&self, was_over: bool, next: Result<Option<PrefixEvent>>) -> Option<Result<PrefixEvent>> {
        match next {
            Ok(event) => event.map(Ok),
            Err(_) if was_over || self.end.is_some() => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl Iterator for FollowPrefix {
    type Item = Result<PrefixEvent>;

    /// Blocks until there is an event. Returns `None` at the end, as described for the type.
    fn next(&mut self) -> Option<Result<PrefixEvent>> {
        let was_over = self.end.is_some();
        let next = match self.try_next() {
            Ok(None) => self.next_until(None),
            next => next,
        };
        self.item(was_over, next)
    }
}

impl fmt::Debug for FollowPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FollowPrefix")
            .field("prefix", &self.prefix)
            .field("streams", &self.parts.len())
            .finish_non_exhaustive()
    }
}
