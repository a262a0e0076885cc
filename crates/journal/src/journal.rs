//! Putting records at the end of the journal, and releasing its space.
//!
//! There are two locks. The *log* lock is held for one write. The *rotation* lock is held while
//! files are prepared, named or recycled. A call that needs both takes the rotation lock first. A
//! thread that prepares files before they are needed holds a third lock, *preparing*, which it
//! takes first. The state of the group commit (`commit`) has its own lock, which is never held
//! together with another.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_frame::WalId;
use stratawal_storage::{DirToSync, Storage};
use stratawal_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use stratawal_sync::{Durations, Mutex, fail_point};

use crate::commit::GroupCommit;
use crate::error::{Error, ErrorKind, Result};
use crate::events;
use crate::files::{CONTROL_RESERVE, FILE_LEN_MIN, LogFile, Spare, Target, open_names, sync_names};
use crate::header::{FileHeader, HEADER_BLOCK_LEN};
use crate::lsn::Lsn;
use crate::needed::Needed;
use crate::record::{ALIGN, NEXT_LEN, PartRef, Record, RecordKind, encoded};
use crate::replay::Image;

/// The most bytes of all files together. Recovery writes the records that are needed into one file,
/// which takes up to 1.4 times their bytes, and a file has at most 1 GiB.
const BYTES_MAX: u64 = 512 << 20;

/// The maximum length of a file, except one that opening or a restart writes.
const NEW_FILE_LEN_MAX: u64 = 16 << 20;

/// No sector of a disk is longer.
const BLOCK_LEN: u64 = 4096;

/// The options of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    bytes: u64,
    first_file_bytes: u64,
    pub(crate) mapped: bool,
    pub(crate) adopt_copy: bool,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self { bytes: 64 << 20, first_file_bytes: 256 << 10, mapped: true, adopt_copy: false }
    }
}

impl JournalOptions {
    /// Limits the total length of all files, including the spare, to `bytes`, clamped to 64 KiB to
    /// 512 MiB. Recovery may write one file that does not count. Default: 64 MiB.
    #[must_use]
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes.clamp(4 * FILE_LEN_MIN, BYTES_MAX);
        self
    }

    /// Sets the length of the first file. Each later file is twice as long as the one before, up to
    /// a quarter of all bytes and 16 MiB. Default: 256 KiB; at least 16 KiB.
    #[must_use]
    pub fn first_file_bytes(mut self, bytes: u64) -> Self {
        self.first_file_bytes = bytes;
        self
    }

    /// Whether records are stored into mapped files, if the file system allows it, rather than with
    /// one write each. On other file systems, and with `false`, they are written. If another
    /// process shortens a mapped file, a signal kills this process. Default: true.
    #[must_use]
    pub fn mapped(mut self, mapped: bool) -> Self {
        self.mapped = mapped;
        self
    }

    /// Whether a copy is opened that was made before the journal was closed
    /// ([`Image::copied`](crate::Image::copied)). The new file names its own identity, so the next
    /// opening does not take the journal for a copy. Default: false.
    #[must_use]
    pub fn adopt_copy(mut self, adopt: bool) -> Self {
        self.adopt_copy = adopt;
        self
    }

    /// See [`adopt_copy`](Self::adopt_copy).
    #[must_use]
    pub const fn adopts_copies(&self) -> bool {
        self.adopt_copy
    }

    /// The most bytes of all files together.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.bytes
    }

    /// The most bytes of records that all files together can hold.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        let len = self.file_len_max();
        self.bytes / len * (len - HEADER_BLOCK_LEN - CONTROL_RESERVE)
    }

    /// Options whose limits have room for these files and another one, and for their records.
    pub(crate) fn with_room_for(mut self, files: &[LogFile]) -> Self {
        let longest = files.iter().map(|file| file.len).max().unwrap_or(0);
        self.bytes = self.bytes.max(4 * longest.min(NEW_FILE_LEN_MAX));
        let len_max = self.file_len_max();
        let total: u64 = files.iter().map(|file| file.len.min(len_max)).sum();
        self.bytes = self.bytes.max(total + len_max);
        self
    }

    /// The length of the longest file.
    fn file_len_max(&self) -> u64 {
        (self.bytes / 4).min(NEW_FILE_LEN_MAX)
    }

    /// The length of the file after a file of `len` bytes.
    pub(crate) fn next_file_len(&self, len: u64) -> u64 {
        let wanted = if len == 0 { self.first_file_bytes } else { len.saturating_mul(2) };
        wanted.clamp(FILE_LEN_MIN, self.file_len_max()) / 4096 * 4096
    }

    /// The length of the longest record that a file can hold.
    pub(crate) fn record_len_max(&self) -> u64 {
        self.next_file_len(u64::MAX) - HEADER_BLOCK_LEN - CONTROL_RESERVE
    }
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The LSN at which it begins. While the record is needed, so is the journal from this LSN on.
    pub lsn: Lsn,
    /// The LSN at which it ends. The record is durable once everything below this LSN is.
    pub end: Lsn,
    /// The [epoch](Journal::epoch) in which the record was put.
    pub epoch: u64,
}

/// An open journal. All methods may be called from many threads at once.
#[derive(Debug)]
pub struct Journal {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) dir: PathBuf,
    pub(crate) wal_id: WalId,
    pub(crate) options: JournalOptions,
    pub(crate) log: Mutex<Log>,
    pub(crate) rotation: Mutex<Rotation>,
    /// Held by the thread that prepares files without the rotation lock.
    pub(crate) preparing: Mutex<()>,
    pub(crate) commit: GroupCommit,
    /// The end of the log, for threads that do not hold the lock.
    pub(crate) end: AtomicU64,
    pub(crate) durable: AtomicU64,
    /// That of the log.
    pub(crate) is_failed: Arc<AtomicBool>,
    /// A random number that each restart increases by one.
    pub(crate) epoch: AtomicU64,
    /// How long syncs for records took.
    pub(crate) sync_times: Durations,
}

/// The state that the log lock guards.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) current: Target,
    /// The LSN at which the next record begins.
    pub(crate) end: Lsn,
    /// The older files that are needed, oldest first.
    pub(crate) older: VecDeque<LogFile>,
    /// The current file accepts no more records: the next file is being named.
    frozen: bool,
    closed: bool,
    /// The journal continues in the files of an earlier process, because the disk had no room for
    /// another one.
    pub(crate) is_in_place: bool,
    pub(crate) failure: Option<Error>,
    is_failure_reported: bool,
    /// Whether there is a failure, for threads that do not hold the lock.
    pub(crate) is_failed: Arc<AtomicBool>,
    buffer: Vec<u8>,
}

/// The state that the rotation lock guards.
#[derive(Debug)]
pub(crate) struct Rotation {
    spares: Vec<Spare>,
    /// Files that the newest header does not need, to become spares.
    released: Vec<LogFile>,
    /// The length in bytes of the files that a thread is turning into spares.
    preparing: u64,
    /// The directory, open from the first rotation on.
    names: Option<Arc<DirToSync>>,
    /// No record below this LSN is needed.
    needed_from: Lsn,
}

impl Log {
    pub(crate) fn new(current: Target, end: Lsn) -> Self {
        Self {
            current,
            end,
            older: VecDeque::new(),
            frozen: false,
            closed: false,
            is_in_place: false,
            failure: None,
            is_failure_reported: false,
            is_failed: Arc::new(AtomicBool::new(false)),
            buffer: Vec::new(),
        }
    }

    /// Returns an error unless the journal accepts records.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_failure()?;
        if self.closed { Err(Error::new(ErrorKind::Closed)) } else { Ok(()) }
    }

    /// Returns an error if a write or a sync has failed.
    pub(crate) fn check_failure(&self) -> Result<()> {
        let failed = |error: &Error| Err(Error::new(ErrorKind::Failed(Box::new(error.clone()))));
        self.failure.as_ref().filter(|_| !fail_point!(FailureForgotten)).map_or(Ok(()), failed)
    }

    fn has_room(&self, len: u64, is_control: bool) -> bool {
        // A NEXT must fit after any record.
        let reserve = if is_control { NEXT_LEN } else { CONTROL_RESERVE };
        !self.frozen && self.current.file.header.offset_of(self.end) + len + reserve <= self.current.file.len
    }

    /// Writes a record at the end, without advancing the end.
    fn write(&mut self, record: &Record, durable: Lsn) -> Result<()> {
        record.encode(&mut self.buffer, self.current.file.header.salt, self.end, durable);
        let offset = self.current.file.header.offset_of(self.end);
        self.current.write(encoded(&self.buffer), offset)
    }

    /// Writes a record of one part at the end, without advancing the end.
    fn write_part(&mut self, kind: RecordKind, part: &PartRef<'_>, durable: Lsn) -> Result<()> {
        part.encode_record(kind, &mut self.buffer, self.current.file.header.salt, self.end, durable);
        let offset = self.current.file.header.offset_of(self.end);
        self.current.write(encoded(&self.buffer), offset)
    }

    /// Writes a MARK that attests `durable`, if the file has room for it. A NEXT may take its
    /// place.
    pub(crate) fn mark(&mut self, durable: Lsn) -> Result<()> {
        let end = self.current.file.header.offset_of(self.end) + Record::Mark.encoded_len();
        let is_possible = end <= self.current.file.len && !fail_point!(MarkSkipped);
        if is_possible { self.write(&Record::Mark, durable) } else { Ok(()) }
    }

    /// Makes the journal refuse records until it is restarted. Keeps the first cause.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.failure.get_or_insert_with(|| error.clone());
        // Relaxed: only a hint, for threads that do not hold the lock.
        self.is_failed.store(true, Ordering::Relaxed);
    }

    /// The files that hold records between `from` and the end, oldest first, each with the offsets
    /// at which these records begin and end.
    pub(crate) fn files_from(&self, from: Lsn) -> Vec<(LogFile, u64, u64)> {
        let ends = self.files().skip(1).map(|next| next.header.first).chain([self.end]);
        let files = self.files().zip(ends).filter(|(_, end)| *end > from);
        let range = |(file, end): (&LogFile, Lsn)| {
            let first = file.header.offset_of(from.max(file.header.first));
            (file.clone(), first, file.header.offset_of(end))
        };
        files.map(range).collect()
    }

    /// The files that are needed, oldest first. The current file is the last.
    pub(crate) fn files(&self) -> impl Iterator<Item = &LogFile> {
        self.older.iter().chain([&self.current.file])
    }

    /// The total length in bytes of all files.
    fn bytes(&self) -> u64 {
        self.files().map(|file| file.len).sum()
    }

    /// The bytes of all files except the oldest `count` that count towards the limit. Of the file
    /// that recovery wrote only the length of an ordinary file counts: otherwise a long one would
    /// leave no room for the next, and so nothing could be copied out of it.
    fn counted_after(&self, count: usize, options: &JournalOptions) -> u64 {
        self.files().skip(count).map(|file| file.len.min(options.file_len_max())).sum()
    }
}

impl Rotation {
    pub(crate) const fn new(needed_from: Lsn) -> Self {
        Self { spares: Vec::new(), released: Vec::new(), preparing: 0, names: None, needed_from }
    }

    /// The directory, to sync the names in it.
    fn names(&mut self, storage: &Arc<dyn Storage>, dir: &Path) -> Result<Arc<DirToSync>> {
        if let Some(open) = &self.names {
            return Ok(Arc::clone(open));
        }
        let open = Arc::new(open_names(storage, dir)?);
        self.names = Some(Arc::clone(&open));
        Ok(open)
    }

    /// The bytes of the spares, and of the files that become spares.
    fn bytes(&self) -> u64 {
        let spares: u64 = self.spares.iter().map(|spare| spare.len).sum();
        let released: u64 = self.released.iter().map(|file| file.len).sum();
        spares + released + self.preparing
    }

    pub(crate) fn remove_spares(self, storage: &dyn Storage, dir: &Path) {
        for spare in self.spares {
            spare.remove(storage);
        }
        for file in self.released {
            // If this fails, the next opening of the journal removes it.
            let _ = storage.remove_file(&dir.join(crate::layout::file_name(file.header.number)));
        }
    }
}

impl Journal {
    /// The options. If the journal was opened on a full disk, and an earlier process had a higher
    /// limit, the limit is high enough for the files of that process.
    #[must_use]
    pub const fn options(&self) -> JournalOptions {
        self.options
    }

    /// Puts a record at the end and returns its position. Makes room first if there is none. The
    /// record survives the death of the process; it is durable after [`sync_to`](Self::sync_to).
    ///
    /// # Errors
    /// Same as for [`put`](Self::put), except `NoRoom`, and for [`reserve`](Self::reserve).
    pub fn append(&self, record: &Record) -> Result<Position> {
        check_public(record)?;
        self.append_any(record)
    }

    /// [`append`](Self::append), also for the records that only the journal writes.
    fn append_any(&self, record: &Record) -> Result<Position> {
        loop {
            match self.put_any(record) {
                Err(error) if matches!(error.kind(), ErrorKind::NoRoom { .. }) => self.reserve(record)?,
                other => return other,
            }
        }
    }

    /// Puts a record at the end if the current file has room for it, and returns its position.
    /// Prepares no file and syncs nothing, so the caller may hold locks that other threads wait
    /// for.
    ///
    /// # Errors
    /// [`ErrorKind::NoRoom`], [`ErrorKind::TooLarge`], [`ErrorKind::InvalidRecord`],
    /// [`ErrorKind::Closed`]: nothing has changed. [`ErrorKind::Failed`] after an earlier failure.
    /// After an I/O error the journal has failed; the next opening may or may not find the record.
    pub fn put(&self, record: &Record) -> Result<Position> {
        check_public(record)?;
        self.put_any(record)
    }

    /// [`put`](Self::put), also for the records that only the journal writes.
    fn put_any(&self, record: &Record) -> Result<Position> {
        self.put_under_lock(record).inspect_err(|_| self.report_failure())
    }

    fn put_under_lock(&self, record: &Record) -> Result<Position> {
        let len = self.check_record(record)?;
        let mut log = self.log.lock();
        log.check()?;
        if !log.has_room(len, record.is_control()) {
            return Err(Error::new(ErrorKind::NoRoom { len }));
        }
        let written = log.write(record, self.durable());
        let position = self.advance_end(&mut log, len, written)?;
        log.closed = *record == Record::Close;
        Ok(position)
    }

    /// Records a new failure as an event. The caller does not hold the log lock.
    #[cold]
    pub(crate) fn report_failure(&self) {
        if !self.is_failed() {
            return;
        }
        let mut log = self.log.lock();
        let is_reported = std::mem::replace(&mut log.is_failure_reported, true);
        let failure = log.failure.clone().filter(|_| !is_reported);
        drop(log);
        if let Some(error) = failure {
            events::failed(&error);
        }
    }

    /// Moves the end past a record of `len` bytes. If it could not be written, fails the journal.
    fn advance_end(&self, log: &mut Log, len: u64, written: Result<()>) -> Result<Position> {
        if let Err(error) = written {
            log.fail(&error);
            return Err(error);
        }
        // The epoch changes only under the lock.
        let position = Position { lsn: log.end, end: log.end + len, epoch: self.epoch.load(Ordering::Relaxed) };
        log.end = position.end;
        // Release; pairs with the Acquire in `end`.
        self.end.store(position.end.0, Ordering::Release);
        Ok(position)
    }

    /// Puts a DATA record of one part, like [`put`](Self::put), but allocates nothing. The record
    /// has the part's name only if `named_at`, the LSN of the stream's last record with a name, is
    /// before the current file. Returns the position, and whether the record has the name.
    ///
    /// # Errors
    /// Same as for [`put`](Self::put).
    #[inline]
    pub fn put_part(&self, part: &PartRef<'_>, named_at: Option<Lsn>) -> Result<(Position, bool)> {
        self.put_part_as(RecordKind::Data, part, named_at)
    }

    /// Puts a COPY record of one part, with its name, like [`put_part`](Self::put_part).
    ///
    /// # Errors
    /// Same as for [`put`](Self::put).
    pub fn put_copy(&self, part: &PartRef<'_>) -> Result<Position> {
        self.put_part_as(RecordKind::Copy, part, None).map(|(position, _)| position)
    }

    #[inline]
    fn put_part_as(&self, kind: RecordKind, part: &PartRef<'_>, named_at: Option<Lsn>) -> Result<(Position, bool)> {
        self.put_part_under_lock(kind, part, named_at).inspect_err(|_| self.report_failure())
    }

    fn put_part_under_lock(
        &self,
        kind: RecordKind,
        part: &PartRef<'_>,
        named_at: Option<Lsn>,
    ) -> Result<(Position, bool)> {
        self.check_process()?;
        if !part.is_valid() {
            return Err(Error::new(ErrorKind::InvalidRecord));
        }
        let mut log = self.log.lock();
        log.check()?;
        let with_name = named_at.is_none_or(|lsn| lsn < log.current.file.header.first);
        let part = if with_name { *part } else { PartRef { name: &[], ..*part } };
        let len = part.record_len();
        if !log.has_room(len, false) {
            let max = self.options.record_len_max();
            return Err(Error::new(if len > max {
                ErrorKind::TooLarge { len, max }
            } else {
                ErrorKind::NoRoom { len }
            }));
        }
        let written = log.write_part(kind, &part, self.durable());
        self.advance_end(&mut log, len, written).map(|position| (position, with_name))
    }

    fn check_record(&self, record: &Record) -> Result<u64> {
        self.check_process()?;
        if !record.is_valid() {
            return Err(Error::new(ErrorKind::InvalidRecord));
        }
        let len = record.encoded_len();
        let max = self.options.record_len_max();
        if len > max { Err(Error::new(ErrorKind::TooLarge { len, max })) } else { Ok(len) }
    }

    /// Whether the current file has room for a record of `len` bytes with entries.
    #[must_use]
    pub fn has_room(&self, len: u64) -> bool {
        self.log.lock().has_room(len, false)
    }

    /// Makes room for a record of `len` bytes, like [`reserve`](Self::reserve). `len` is that of an
    /// error of the kind [`ErrorKind::NoRoom`].
    ///
    /// # Errors
    /// Same as for [`reserve`](Self::reserve).
    pub fn reserve_len(&self, len: u64) -> Result<()> {
        self.check_process()?;
        let max = self.options.record_len_max();
        if len > max {
            return Err(Error::new(ErrorKind::TooLarge { len, max }));
        }
        self.make_room(len, false)
    }

    /// Makes room for `record`: begins the next file if the current one has no room. Call this
    /// before taking locks of your own, so that [`put`](Self::put) succeeds under them.
    ///
    /// # Errors
    /// [`ErrorKind::Full`] if the journal has reached its limit and all of its bytes are needed:
    /// nothing has changed, and the call succeeds after a [`release`](Self::release). I/O: nothing
    /// has changed, or the journal has failed.
    pub fn reserve(&self, record: &Record) -> Result<()> {
        let len = self.check_record(record)?;
        self.make_room(len, record.is_control())
    }

    fn make_room(&self, len: u64, is_control: bool) -> Result<()> {
        let mut rotation = self.rotation.lock();
        let next_len = {
            let log = self.log.lock();
            log.check()?;
            if log.has_room(len, is_control) {
                return Ok(());
            }
            self.options.next_file_len(log.current.file.len)
        };
        // In the worst case a record needs a file of its own.
        let least = (len + HEADER_BLOCK_LEN + CONTROL_RESERVE).next_multiple_of(4096).max(FILE_LEN_MIN);
        let spare = self.take_spare(&mut rotation, least, next_len.max(least), is_control)?;
        let rotated = self.rotate(&mut rotation, spare);
        drop(rotation);
        rotated.inspect_err(|_| self.report_failure())
    }

    /// Returns a file for the next records: of `wanted` bytes if the limit allows it, and of at
    /// least `least` bytes. Unless the rotation frees a file, entries leave one spare, or room for
    /// one, for the records that free space.
    fn take_spare(&self, rotation: &mut Rotation, least: u64, wanted: u64, is_control: bool) -> Result<Spare> {
        let (used, frees) = {
            let log = self.log.lock();
            let releasable = log.releasable(rotation.needed_from);
            (log.counted_after(releasable, &self.options), releasable > 0)
        };
        let must_leave_one = !is_control && !frees;
        if rotation.spares.len() <= usize::from(must_leave_one) {
            for file in std::mem::take(&mut rotation.released) {
                let spare = self.recycle(file, rotation.bytes() + used);
                rotation.spares.extend(spare);
            }
        }
        rotation.spares.sort_by_key(|spare| spare.len);
        let fits = rotation.spares.iter().position(|spare| spare.len >= least);
        match fits {
            Some(at) if rotation.spares.len() > usize::from(must_leave_one) => return Ok(rotation.spares.remove(at)),
            _ => {}
        }
        // Spares that are too short for the record are removed.
        while rotation.spares.first().is_some_and(|spare| spare.len < least) {
            rotation.spares.remove(0).remove(&*self.storage);
        }
        let room = self.options.bytes.saturating_sub(used + rotation.bytes());
        let files = if must_leave_one && rotation.spares.is_empty() { 2 } else { 1 };
        let len = wanted.min(room / files) / 4096 * 4096;
        if len < least {
            return Err(Error::new(ErrorKind::Full { bytes: self.options.bytes }));
        }
        let create = |len| Spare::create(&*self.storage, &self.dir, len);
        // A full disk may have room for a short file.
        create(len).or_else(|error| if error.is_full() && len > least { create(least) } else { Err(error) })
    }

    /// Names the next file, which receives all later records, and recycles the files that are no
    /// longer needed.
    fn rotate(&self, rotation: &mut Rotation, spare: Spare) -> Result<()> {
        let names = match rotation.names(&self.storage, &self.dir) {
            Ok(names) => names,
            Err(error) => {
                rotation.spares.push(spare);
                return Err(error);
            }
        };
        let (header, releasable) = {
            let mut log = self.log.lock();
            log.check()?;
            log.frozen = true;
            let releasable = log.releasable(rotation.needed_from);
            let number = log.current.file.header.number + 1;
            let oldest = log.files().nth(releasable).map_or(number, |file| file.header.number);
            // A NEXT comes before it.
            let header = spare.header(&*self.storage, self.wal_id, number, log.end + NEXT_LEN);
            (FileHeader { oldest, attested: self.durable(), ..header }, releasable)
        };
        if let Err(error) = spare.write_header_alone(&header) {
            spare.remove(&*self.storage);
            self.log.lock().frozen = false;
            return Err(error);
        }
        let named = spare.rename(&*self.storage, &self.dir, header).and_then(|file| {
            sync_names(&names)?;
            Ok(file)
        });
        let target = named.map(|file| Target::new(file, self.options.mapped));
        let mut log = self.log.lock();
        log.frozen = false;
        let target = target.inspect_err(|error| log.fail(error))?;
        // Written once the name of the next file is durable, so a NEXT without that file is damage.
        // A commit syncs it before any record of the next file.
        if let Err(error) = log.write(&Record::Next, self.durable()) {
            log.fail(&error);
            return Err(error);
        }
        log.end = log.end + NEXT_LEN;
        self.end.store(log.end.0, Ordering::Release);
        let before = std::mem::replace(&mut log.current, target);
        log.older.push_back(before.file);
        rotation.released.extend(log.older.drain(..releasable));
        Ok(())
    }

    /// Turns a file that no durable header needs into a spare, unless that exceeds the limit: all
    /// other files have `others` bytes. A file longer than the others, which recovery wrote, is
    /// removed: as a spare it could take all the room that is left. A file that cannot be renamed
    /// is removed when the journal is next opened, so ignoring that error is safe.
    fn recycle(&self, file: LogFile, others: u64) -> Option<Spare> {
        let is_too_long = file.len > self.options.file_len_max() || others + file.len > self.options.bytes;
        let spare = Spare::recycle(&*self.storage, &self.dir, file).ok()?;
        if is_too_long {
            spare.remove(&*self.storage);
            return None;
        }
        self.storage.sync_dir(&self.dir).is_ok().then_some(spare)
    }

    /// Declares that no record below `lsn` is needed, so that files that end below it can be
    /// reused. If `lsn` falls within a record, that record is kept. An `lsn` below an earlier
    /// call's changes nothing.
    ///
    /// Syncs the journal first, so that later copies of the records are durable. Entries that the
    /// streams' files hold instead must be durable before this call.
    ///
    /// # Errors
    /// Same as for [`sync`](Self::sync) and [`append`](Self::append). After an error of the latter,
    /// the space is still released, in this process.
    pub fn release(&self, lsn: Lsn) -> Result<()> {
        if !fail_point!(CopiesNotSynced) {
            self.sync()?;
        }
        self.release_unsynced(lsn)
    }

    /// Like [`release`](Self::release), but syncs nothing. Call it only if every COPY of a record
    /// below `lsn` is durable.
    ///
    /// # Errors
    /// Same as for [`append`](Self::append). After an error of the latter, the space is still
    /// released, in this process.
    pub fn release_unsynced(&self, lsn: Lsn) -> Result<()> {
        self.check_process()?;
        let end = self.end();
        if lsn > end {
            return Err(Error::new(ErrorKind::BeyondEnd { lsn, end }));
        }
        let lsn = Lsn(lsn.0 / ALIGN * ALIGN);
        let before = {
            let mut rotation = self.rotation.lock();
            if lsn <= rotation.needed_from {
                return Ok(());
            }
            std::mem::replace(&mut rotation.needed_from, lsn)
        };
        events::released(before, lsn, end);
        // The TRIM limits how much damage to older records can cost.
        self.append_any(&Record::Trim { lsn }).map(drop)
    }

    /// Prepares the next file before the current one is full, so that no append waits for it. Does
    /// nothing if a file is ready, or if the limit leaves no room for one.
    ///
    /// Entries leave one spare for the records that free space. So while nothing is released and
    /// the journal grows, it takes two spares that no append waits for a file.
    ///
    /// # Errors
    /// I/O. Nothing has changed. [`ErrorKind::Closed`]; [`ErrorKind::Failed`].
    pub fn prepare(&self) -> Result<()> {
        self.check_process()?;
        let Some(_alone) = self.preparing.try_lock() else { return Ok(()) };
        self.log.lock().check()?;
        self.recycle_released();
        while self.prepare_one()? {}
        Ok(())
    }

    /// Returns once no other thread uses the files of the journal, which was closed.
    pub fn await_files(&self) {
        // A thread that comes later finds that the journal is closed.
        drop(self.preparing.lock());
        drop(self.rotation.lock());
    }

    /// Prepares a file if one is lacking. Returns whether it has.
    fn prepare_one(&self) -> Result<bool> {
        let len = {
            let mut rotation = self.rotation.lock();
            let (used, current_len, grows) = {
                let log = self.log.lock();
                let current_len = log.current.file.len;
                // A journal that stays in its first file needs no more than one.
                let grows = current_len > self.options.first_file_bytes && log.releasable(rotation.needed_from) == 0;
                (log.counted_after(0, &self.options), current_len, grows)
            };
            let ready = rotation.spares.len();
            if ready > usize::from(grows) || rotation.preparing > 0 {
                return Ok(false);
            }
            let wanted = self.options.next_file_len(current_len);
            let room = self.options.bytes.saturating_sub(used + rotation.bytes());
            let len = wanted.min(room) / 4096 * 4096;
            // A second one that is short would soon be full.
            if len < if ready == 0 { FILE_LEN_MIN } else { wanted } {
                return Ok(false);
            }
            rotation.preparing = len;
            len
        };
        // Without the lock, because this writes the whole file.
        let spare = Spare::create(&*self.storage, &self.dir, len);
        let mut rotation = self.rotation.lock();
        rotation.preparing = 0;
        rotation.spares.push(spare?);
        Ok(true)
    }

    /// Turns released files into spares.
    fn recycle_released(&self) {
        let (files, others) = {
            let mut rotation = self.rotation.lock();
            if rotation.preparing > 0 {
                return;
            }
            let files = std::mem::take(&mut rotation.released);
            let others = rotation.bytes() + self.log.lock().counted_after(0, &self.options);
            rotation.preparing = files.iter().map(|file| file.len).sum();
            (files, others)
        };
        let mut bytes = others;
        let mut spares = Vec::with_capacity(files.len());
        for file in files {
            let spare = self.recycle(file, bytes);
            bytes += spare.as_ref().map_or(0, |spare| spare.len);
            spares.extend(spare);
        }
        let mut rotation = self.rotation.lock();
        rotation.preparing = 0;
        rotation.spares.extend(spares);
    }

    /// Makes the next `len` bytes of a mapped journal ready, so that records are stored into them
    /// without page faults. Each page that was made ready is written by the next sync that covers
    /// it. Does nothing if the journal is written.
    ///
    /// # Errors
    /// I/O. Nothing has changed.
    pub fn prefault(&self, len: u64) -> Result<()> {
        self.check_process()?;
        let (file, offset) = {
            let log = self.log.lock();
            log.check()?;
            (log.current.file.clone(), log.current.file.header.offset_of(log.end))
        };
        file.prefault(offset, len)
    }

    /// Ends the journal durably: no record in it is needed any longer, and none can be put after
    /// this. First every stream must be settled, every START be in the files of its stream, and
    /// every deletion be finished.
    ///
    /// CLOSE begins a block of 4096 bytes, unless the file has no room for that, or the disk had
    /// none for a new file when the journal was opened. So no sector has both CLOSE and an earlier
    /// record, and the loss of any one sector is noticed or does no harm.
    ///
    /// # Errors
    /// Same as for [`append`](Self::append) and [`sync_to`](Self::sync_to).
    pub fn close(&self) -> Result<()> {
        self.check_process()?;
        self.fill_block().inspect_err(|_| self.report_failure())?;
        let position = self.append_any(&Record::Close)?;
        self.sync_to(position)
    }

    /// Puts a PAD up to the end of the block, if the file has room for CLOSE after it.
    fn fill_block(&self) -> Result<()> {
        let mut log = self.log.lock();
        log.check()?;
        let end = log.current.file.header.offset_of(log.end);
        let len = end.next_multiple_of(BLOCK_LEN) - end;
        if len == 0 || log.is_in_place || !log.has_room(len + Record::Close.encoded_len(), true) {
            return Ok(());
        }
        let written = log.write(&Record::pad(len), self.durable());
        self.advance_end(&mut log, len, written).map(drop)
    }

    /// Makes every record durable, and accepts none from now on. The records stay needed, and the
    /// next opening finds them. Unlike after [`close`](Self::close), a copy of the journal is
    /// noticed.
    ///
    /// # Errors
    /// Same as for [`sync`](Self::sync). The journal is closed anyway.
    pub fn close_needed(&self) -> Result<()> {
        self.check_process()?;
        {
            // A file that is being named is named before this returns.
            let _rotation = self.rotation.lock();
            self.log.lock().closed = true;
        }
        self.sync()
    }

    /// Fails in a forked child, where the files belong to the parent.
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.storage.is_forked() { Err(Error::new(ErrorKind::Forked)) } else { Ok(()) }
    }

    /// The LSN at which the next record begins. Every record below it survives the death of the
    /// process.
    #[must_use]
    pub fn end(&self) -> Lsn {
        // Acquire; pairs with the Release in `put`.
        Lsn(self.end.load(Ordering::Acquire))
    }

    /// Everything below this LSN is on stable storage.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        // Acquire; pairs with the Release in `advance_durable`.
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// The epoch: a random number that each restart increases by one. A position belongs to one
    /// epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        // Acquire; pairs with the Release in `restart`.
        self.epoch.load(Ordering::Acquire)
    }

    /// The error that failed the journal, if any. Until a restart, the journal accepts no records.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.log.lock().failure.clone()
    }

    /// How long the syncs for records took.
    #[must_use]
    pub const fn sync_times(&self) -> &Durations {
        &self.sync_times
    }

    /// The number of bytes from the last [`release`](Self::release) to the end.
    #[must_use]
    pub fn needed_len(&self) -> u64 {
        let rotation = self.rotation.lock();
        self.end() - rotation.needed_from
    }

    /// Whether the journal has failed. Takes no lock.
    #[must_use]
    #[inline]
    pub fn is_failed(&self) -> bool {
        self.is_failed.load(Ordering::Relaxed)
    }

    /// Reads the files, and returns what the next opening would find if the process died now. Takes
    /// as long as reading the journal, and no file can be added or released meanwhile.
    ///
    /// # Errors
    /// Same as for [`Image::read`].
    pub fn remaining(&self) -> Result<Needed> {
        let _rotation = self.rotation.lock();
        // A record that a thread is about to copy into a mapping separates later ones from the
        // chain.
        Ok(Image::read(&*self.storage, &self.dir, self.wal_id)?.remaining())
    }

    /// The total length in bytes of all files: those with records, and the spares.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let rotation = self.rotation.lock();
        let log = self.log.lock();
        rotation.bytes() + log.bytes()
    }
}

impl Log {
    /// How many of the oldest files hold no record that is needed. The current file counts as one
    /// of them if it is about to become an older file.
    fn releasable(&self, needed_from: Lsn) -> usize {
        let ends = self.files().skip(1).map(|next| next.header.first).chain([self.end]);
        ends.take_while(|end| *end <= needed_from || fail_point!(ReleasedEarly)).count()
    }
}

/// Refuses the records that only the journal writes.
fn check_public(record: &Record) -> Result<()> {
    if record.is_internal() { Err(Error::new(ErrorKind::InvalidRecord)) } else { Ok(()) }
}
