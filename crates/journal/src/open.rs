//! Creating a journal, opening one after a crash, and restarting one after a failure.
//!
//! Opening reads the journal (`replay`), decides which records are needed (`needed`), and writes
//! those into one new file, whose name is the commit point. It does so even if nothing is needed:
//! overwriting the old header would save a sync, but an interrupted write would leave no valid
//! header. The earlier files are removed once the new file and its name are durable. So it does not
//! matter which of their names and bytes the previous process had synced. If the disk has no room
//! for a new file, the journal continues in its old files (`in_place`).

use std::path::Path;
use std::sync::Arc;

use stratawal_frame::{Salt, WalId};
use stratawal_storage::{Access, Storage};
use stratawal_sync::atomic::{AtomicU64, Ordering};
use stratawal_sync::{Durations, Mutex, fail_point};

use crate::commit::GroupCommit;
use crate::error::{Error, ErrorKind, Result};
use crate::events;
use crate::files::{CONTROL_RESERVE, FILE_LEN_MIN, Filler, LogFile, Spare, Target, open_names, sync_names};
use crate::header::{FileHeader, HEADER_BLOCK_LEN};
use crate::in_place::{Continued, continue_in_place, highest_number};
use crate::journal::{Journal, JournalOptions, Log, Rotation};
use crate::layout;
use crate::lsn::Lsn;
use crate::needed::{Dropped, Needed};
use crate::record::{Located, Record, encoded};
use crate::replay::{FILE_LEN_MAX, Image};

impl Journal {
    /// Creates the journal of the log `wal_id` in `dir`. Creates the directory if it does not
    /// exist. The journal, its directory and its first file are durable when this returns.
    ///
    /// # Errors
    /// I/O; `AlreadyExists` if the directory has a journal file, even one left by an earlier call
    /// that failed. In that case [`open`](Self::open) the journal.
    pub fn create(storage: &Arc<dyn Storage>, dir: &Path, wal_id: WalId, options: JournalOptions) -> Result<Self> {
        match storage.create_dir(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create the directory")(e));
            }
            _ => {}
        }
        let exists = storage
            .list(dir)
            .map_err(Error::io("list the directory"))?
            .iter()
            .any(|entry| matches!(layout::parse(&entry.name), Some(layout::Name::File(_))));
        if exists {
            return Err(Error::io("create")(std::io::ErrorKind::AlreadyExists.into()));
        }
        let spare = Spare::create(&**storage, dir, options.next_file_len(0))?;
        let header = spare.header(&**storage, wal_id, 1, Lsn(0));
        let file = spare.write_header(&header).and_then(|()| spare.rename(&**storage, dir, header))?;
        storage.sync_dir(dir).map_err(Error::io("sync the directory"))?;
        if let Some(parent) = dir.parent() {
            storage.sync_dir(parent).map_err(Error::io("sync the directory"))?;
        }
        Ok(Self::with_files(storage, dir, wal_id, options, vec![file], Lsn(0), Lsn(0)))
    }

    /// Opens the journal from which `image` was read, and returns the needed records at their new
    /// positions. Calls `is_unfinished` for each deleted stream; if its deletion is unfinished, the
    /// DROP stays needed until the next opening.
    ///
    /// Only the process that writes the log may call this. It reads no stream. When it returns,
    /// everything that the journal holds is durable.
    ///
    /// The records are written into a new file. If the disk has no room for it, files that hold
    /// nothing that is needed are removed, then a shorter file is tried, and last the journal
    /// continues in its old files, and each record keeps its position.
    ///
    /// # Errors
    /// [`ErrorKind::Copied`](crate::ErrorKind::Copied) if [`Image::copied`] reports it, unless the
    /// options adopt copies; the damage that [`Image::damage`] reports. Nothing has changed then.
    /// I/O, also a full disk on which the old files cannot be overwritten; opening may be repeated.
    pub fn open(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        wal_id: WalId,
        options: JournalOptions,
        image: Image,
        mut is_unfinished: impl FnMut(&Dropped) -> bool,
    ) -> Result<(Self, Needed)> {
        // A copy may look damaged, so this error comes first.
        if let Some(copied) = image.copied().filter(|_| !options.adopt_copy) {
            return Err(copied);
        }
        if let Some(damage) = image.damage() {
            return Err(damage);
        }
        let mut needed = image.needed();
        needed.drops.retain(&mut is_unfinished);
        let records = needed.records();
        match write_needed(storage, dir, wal_id, options, &image, &records) {
            Ok(file) => {
                let needed = Needed::of_owned(located(file.header.first, records), image.names());
                remove_others(&**storage, dir, &image, file.header.number)?;
                let (first, end) = (file.header.first, file.header.attested);
                Ok((Self::with_files(storage, dir, wal_id, options, vec![file], first, end), needed))
            }
            Err(full) if full.is_full() => {
                let Continued { files, end } = continue_in_place(storage, dir, &image)?.ok_or(full)?;
                // The records may be longer than those of a journal with a lower limit.
                let options = options.with_room_for(&files);
                let journal = Self::with_files(storage, dir, wal_id, options, files, image.trim(), end);
                {
                    let mut log = journal.log.lock();
                    log.is_in_place = true;
                    log.mark(end)?;
                }
                Ok((journal, needed))
            }
            Err(error) => Err(error),
        }
    }

    /// Restarts the journal after a failure: writes `records`, which must hold everything that is
    /// needed, into a new file, and removes the earlier files. Returns the new position of each
    /// record. When this returns, all of them are durable, and the journal accepts records again.
    ///
    /// The failed files are never synced again. An earlier record that is not among `records` is
    /// gone: [`sync_to`](Self::sync_to) for its position fails with
    /// [`ErrorKind::Restarted`](crate::ErrorKind::Restarted).
    ///
    /// `epoch` is the [`epoch`](Self::epoch) in which the caller has seen the failure and collected
    /// the records. A second thread that wants the same restart is refused, because records may
    /// have been put since the first one.
    ///
    /// # Errors
    /// [`ErrorKind::NotFailed`](crate::ErrorKind::NotFailed) and
    /// [`ErrorKind::Restarted`](crate::ErrorKind::Restarted): nothing has changed. I/O; the journal
    /// stays failed, and the call may be repeated.
    pub fn restart(&self, epoch: u64, records: &[Record]) -> Result<Vec<Located>> {
        self.check_process()?;
        if records.iter().any(|record| record.is_internal() || !record.is_valid()) {
            return Err(Error::new(ErrorKind::InvalidRecord));
        }
        let located = self.restart_under_locks(epoch, records)?;
        events::restarted(located.len(), located.iter().map(|located| located.len).sum());
        Ok(located)
    }

    fn restart_under_locks(&self, epoch: u64, records: &[Record]) -> Result<Vec<Located>> {
        let mut rotation = self.rotation.lock();
        let lead = self.take_lead();
        let (number, first, old) = {
            let log = self.log.lock();
            if self.epoch() != epoch {
                return Err(Error::new(ErrorKind::Restarted));
            }
            if log.failure.is_none() {
                return Err(Error::new(ErrorKind::NotFailed));
            }
            let old: Vec<u64> = log.files().map(|file| file.header.number).collect();
            (log.current.file.header.number, log.end, old)
        };
        // An earlier call may have given a file the next number although its rename reported an
        // error.
        let number = highest_number(&*self.storage, &self.dir)?.max(number) + 1;
        let file =
            write_anew(&self.storage, &self.dir, self.wal_id, self.options.next_file_len(0), number, first, records)?;
        let end = file.header.attested;
        {
            let mut log = self.log.lock();
            // The epoch changes before the watermarks, so a thread that sees a watermark of the new
            // epoch also sees that the old epoch is over.
            self.epoch.fetch_add(if fail_point!(EpochKept) { 0 } else { 1 }, Ordering::Release);
            let is_failed = Arc::clone(&self.is_failed);
            is_failed.store(false, Ordering::Relaxed);
            *log = Log::new(Target::new(file, self.options.mapped), end);
            log.is_failed = is_failed;
            self.end.store(end.0, Ordering::Release);
            self.advance_durable(end);
        }
        let before = std::mem::replace(&mut *rotation, Rotation::new(first));
        drop(lead);
        before.remove_spares(&*self.storage, &self.dir);
        for number in old {
            // These files are older than the new header's `oldest`: the next opening removes any
            // that remain.
            let _ = self.storage.remove_file(&self.dir.join(layout::file_name(number)));
        }
        Ok(located(first, records.to_vec()))
    }

    /// Replaces the journal in `dir`, which may be damaged or missing, by one that holds `needed`
    /// alone. The new file is durable before the others are removed, and its name is the commit
    /// point. Only the process that holds the lock of the log may call this, and the journal must
    /// not be open.
    ///
    /// # Errors
    /// I/O, also a full disk. The journal is either the old or the new one; the call may be
    /// repeated.
    pub fn replace(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        wal_id: WalId,
        options: JournalOptions,
        needed: &Needed,
    ) -> Result<()> {
        match storage.create_dir(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create the directory")(e));
            }
            _ => {}
        }
        if let Some(parent) = dir.parent() {
            storage.sync_dir(parent).map_err(Error::io("sync the directory"))?;
        }
        // A reader may have seen the records of the old journal.
        let seen = Image::read(&**storage, dir, wal_id);
        let first = seen.map_or(Lsn(0), |image| image.end().max(image.attested()));
        let number = highest_number(&**storage, dir)? + 1;
        let records = needed.records();
        write_anew(storage, dir, wal_id, options.next_file_len(0), number, first, &records).or_else(
            |error| match error.is_full() {
                true => write_anew(storage, dir, wal_id, FILE_LEN_MIN, number, first, &records),
                false => Err(error),
            },
        )?;
        for entry in storage.list(dir).map_err(Error::io("list the directory"))? {
            let is_other = layout::parse(&entry.name).is_some_and(|name| name != layout::Name::File(number));
            if is_other {
                storage.remove_file(&dir.join(&entry.name)).map_err(Error::io("remove a file"))?;
            }
        }
        storage.sync_dir(dir).map_err(Error::io("sync the directory"))
    }

    /// A journal of these files, oldest first, in which everything below `end` is durable and
    /// nothing below `needed_from` is needed.
    fn with_files(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        wal_id: WalId,
        options: JournalOptions,
        mut files: Vec<LogFile>,
        needed_from: Lsn,
        end: Lsn,
    ) -> Self {
        let newest = files.pop().expect("invariant: a journal has a file");
        let mut log = Log::new(Target::new(newest, options.mapped), end);
        log.older = files.into();
        Self {
            is_failed: Arc::clone(&log.is_failed),
            storage: Arc::clone(storage),
            dir: dir.to_owned(),
            wal_id,
            options,
            rotation: Mutex::new(Rotation::new(needed_from)),
            preparing: Mutex::new(()),
            log: Mutex::new(log),
            commit: GroupCommit::new(),
            end: AtomicU64::new(end.0),
            durable: AtomicU64::new(end.0),
            // Random, so that a position of another journal is not mistaken for one of this
            // journal.
            epoch: AtomicU64::new(storage.random_u64() >> 1),
            sync_times: Durations::default(),
        }
    }
}

/// Writes the needed records of `image` into a new file. On a full disk first removes the files
/// that are not needed, and then tries a file that is as short as it can be: once the earlier files
/// are removed, there is room for the next one.
fn write_needed(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    wal_id: WalId,
    options: JournalOptions,
    image: &Image,
    records: &[Record],
) -> Result<LogFile> {
    let number = image.newest().header.number + 1;
    let write = |len| write_anew(storage, dir, wal_id, len, number, image.end(), records);
    let wanted = options.next_file_len(0);
    write(wanted)
        .or_else(
            |error| {
                if error.is_full() && remove_garbage(&**storage, dir, image) { write(wanted) } else { Err(error) }
            },
        )
        .or_else(|error| if error.is_full() { write(FILE_LEN_MIN) } else { Err(error) })
}

/// Writes `records` into a new file of at least `len` bytes, whose header attests all of them, and
/// names it, which is the commit point.
fn write_anew(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    wal_id: WalId,
    len: u64,
    number: u64,
    first: Lsn,
    records: &[Record],
) -> Result<LogFile> {
    let records_len: u64 = records.iter().map(Record::encoded_len).sum();
    let needed_len = (HEADER_BLOCK_LEN + records_len + CONTROL_RESERVE).next_multiple_of(4096);
    if needed_len > FILE_LEN_MAX {
        return Err(Error::new(ErrorKind::TooLarge { len: needed_len, max: FILE_LEN_MAX }));
    }
    let names = open_names(storage, dir)?;
    let spare = Spare::allocate(&**storage, dir, needed_len.max(len))?;
    let end = first + records_len;
    let attested = if fail_point!(NewFileAttestsNothing) { first } else { end };
    let header = FileHeader { attested, ..spare.header(&**storage, wal_id, number, first) };
    let written = write_records(&spare, header.salt, first, records).and_then(|()| spare.write_header(&header));
    if let Err(error) = written {
        spare.remove(&**storage);
        return Err(error);
    }
    let file = spare.rename(&**storage, dir, FileHeader { attested: end, ..header })?;
    sync_names(&names)?;
    Ok(file)
}

/// Writes the records, of which the first is at `first`, and the rest of the file.
fn write_records(spare: &Spare, salt: Salt, first: Lsn, records: &[Record]) -> Result<()> {
    let mut filler = Filler::new(spare);
    let mut buffer = Vec::new();
    let mut lsn = first;
    for record in records {
        record.encode(&mut buffer, salt, lsn, first);
        filler.push(encoded(&buffer))?;
        lsn = lsn + encoded(&buffer).len() as u64;
    }
    filler.finish()
}

/// The records at the positions at which [`write_anew`] wrote them, from `first` on.
fn located(first: Lsn, records: Vec<Record>) -> Vec<Located> {
    let mut next = first;
    let locate = |record: Record| {
        let located = Located { lsn: next, len: record.encoded_len(), attested: first, record };
        next = located.end();
        located
    };
    records.into_iter().map(locate).collect()
}

/// Removes the files that hold nothing that is needed: spares, and files before the oldest that the
/// newest header names. Returns whether there were any.
fn remove_garbage(storage: &dyn Storage, dir: &Path, image: &Image) -> bool {
    // The header that makes them needless may be in the page cache alone.
    let newest = dir.join(layout::file_name(image.newest().header.number));
    let synced = storage.open(&newest, Access::Read).and_then(|file| file.sync_all());
    if synced.and_then(|()| storage.sync_dir(dir)).is_err() {
        return false;
    }
    // A file that remains is removed when the journal is next opened.
    image.garbage.iter().filter(|name| storage.remove_file(&dir.join(name)).is_ok()).count() > 0
}

/// Removes every file of the journal except the one with the number `kept`.
fn remove_others(storage: &dyn Storage, dir: &Path, image: &Image, kept: u64) -> Result<()> {
    let older = image.files.iter().map(|file| file.header.number).filter(|&number| number != kept);
    let names: Vec<String> = older.map(layout::file_name).chain(image.garbage.iter().cloned()).collect();
    for name in names {
        match storage.remove_file(&dir.join(&name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove a file")(e)),
            _ => {}
        }
    }
    Ok(())
}
