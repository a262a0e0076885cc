//! Follows all streams whose names begin alike.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stratawal_stream::{FollowEvent, FollowGroup, FollowStopper, Visibility};
use stratawal_sync::Mutex;

use crate::error::{Error, ErrorKind, Result, log_error};
use crate::stream::Stream;
use crate::wal::Wal;

/// The key by which the group is woken for new names.
const NAMES: u64 = u64::MAX;

/// A stream gives way to the next after this many events.
const EVENTS_MAX: u32 = 256;

/// The minimum time between two wake-ups.
const PAUSE: Duration = Duration::from_millis(1);

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
/// [`FollowStopper::stop`] is called. A close lets it return the entries of every stream that it has
/// looked up by then. An error concerns one stream, which it names: that stream is
/// no longer followed, unless it is opened again, and the next call continues with the others.
///
/// A stream that is closed by [`Stream::close`](crate::Stream::close) continues when it is looked
/// up again. This keeps the log open and locked, and every stream that it follows in use. It takes
/// about 1 KB for each of them, beside the memory of the stream.
///
/// In a log opened for reading, every followed stream is looked at whenever the writer has synced
/// or changed one of them, and new streams are found within about 50 ms.
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
    /// The streams that were deleted while their position was stored.
    deleted: VecDeque<Arc<str>>,
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
    _stream: Stream,
}

/// The names of streams that were opened since the follower looked last.
#[derive(Debug)]
pub(crate) struct Watch {
    prefix: Box<str>,
    group: FollowGroup,
    opened: Mutex<Vec<Arc<str>>>,
}

impl Watch {
    /// A stream of this name was opened.
    pub(crate) fn opened(&self, name: &Arc<str>) {
        if name.starts_with(&*self.prefix) {
            self.opened.lock().push(Arc::clone(name));
            self.wake();
        }
    }

    pub(crate) fn wake(&self) {
        self.group.wake(NAMES);
    }
}

impl FollowPrefix {
    pub(crate) fn new(wal: &Wal, prefix: &str, positions: BTreeMap<String, u64>) -> Result<Self> {
        let group = FollowGroup::default();
        let watch = Arc::new(Watch { prefix: prefix.into(), group: group.clone(), opened: Mutex::default() });
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
            deleted: VecDeque::new(),
            listed: None,
            is_listing_due: false,
            waited: None,
            has_events: false,
            end: None,
        };
        // Watched before the streams are listed, so that none is missed in between.
        wal.slots().watch(&follow.watch);
        follow.list()?;
        let known: std::collections::HashSet<&str> = follow.names.iter().map(|name| &**name).collect();
        let gone = follow.positions.keys().filter(|name| !known.contains(name.as_str()));
        follow.deleted = gone.map(|name| Arc::from(name.as_str())).collect();
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
    /// - An error of one stream, such as [`Damaged`](ErrorKind::Damaged): that stream is no longer
    ///   followed. Its position stays in [`positions`](Self::positions). Later calls continue with
    ///   the other streams.
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
            if let Some(name) = self.deleted.pop_front() {
                self.positions.remove(&*name);
                return Ok(Some(PrefixEvent { stream: name, event: FollowEvent::Deleted }));
            }
            self.take_ready()?;
            if let Some(&key) = self.ready.front() {
                if let Some(event) = self.next_of(key)? {
                    self.has_events = true;
                    return Ok(Some(event));
                }
            } else if let Some(name) = self.names.pop_front() {
                self.begin(name)?;
            } else if self.parts.is_empty() && self.wal.is_closed() {
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
        if !has_names {
            return Ok(());
        }
        self.names.extend(std::mem::take(&mut *self.watch.opened.lock()));
        if self.wal.is_read_only() {
            self.is_listing_due = false;
            if self.listed.is_none_or(|listed| listed.elapsed() >= LIST_PAUSE) {
                self.list()?;
            }
        }
        Ok(())
    }

    /// Adds the names of all streams.
    fn list(&mut self) -> Result<()> {
        self.listed = Some(Instant::now());
        let mut names = self.wal.streams()?;
        // Streams without entries are not listed, and may get their first one at any time.
        names.extend(self.wal.slots().open().iter().map(|log| log.name().to_owned()));
        let names = names.into_iter().filter(|name| name.starts_with(&*self.prefix));
        self.names.extend(names.filter(|name| !self.keys.contains_key(name.as_str())).map(Arc::from));
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
        let stream = match self.wal.stream(&name) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
            Err(error) => return Err(error),
        };
        let key = self.next_key;
        self.next_key += 1;
        let from = *self.positions.entry(name.to_string()).or_default();
        let follow = self.group.follow(stream.log(), from, Visibility::Stable, key);
        self.keys.insert(Arc::clone(&name), key);
        self.parts.insert(key, Part { name, follow, is_ready: true, _stream: stream });
        self.ready.push_back(key);
        Ok(())
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
                let stream = self.end_part(key);
                Ok(stream.map(|stream| {
                    self.positions.remove(&*stream);
                    PrefixEvent { stream, event: FollowEvent::Deleted }
                }))
            }
            Ok(Some(event)) => {
                if let Some(position) = self.positions.get_mut(&*part.name) {
                    *position = part.follow.position();
                }
                Ok(Some(PrefixEvent { stream: Arc::clone(&part.name), event }))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.end_part(key);
                if matches!(error.kind(), ErrorKind::Closed | ErrorKind::Missing) { Ok(None) } else { Err(error) }
            }
        }
    }

    /// Ends the part, and returns its name. If the stream was opened again, another part follows
    /// it.
    fn end_part(&mut self, key: u64) -> Option<Arc<str>> {
        let part = self.parts.remove(&key)?;
        self.keys.remove(&part.name);
        let name = Arc::clone(&part.name);
        drop(part);
        if self.wal.slots().is_open(&name) {
            self.names.push_back(Arc::clone(&name));
        }
        Some(name)
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
