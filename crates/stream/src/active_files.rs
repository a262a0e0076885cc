//! The files of active segments, in a log with a commit journal. Only some of them are open.
//!
//! A log may have more streams than its process may have descriptors. So a file is opened when it
//! is read or written, and if too many are open, those that were not used for the longest time are
//! closed. The writer of a segment and its readers share one descriptor.
//!
//! Invariant: a descriptor with unsynced writes is never closed, because a write-back error would
//! be lost with it. If too many files have unsynced writes, their streams have to be settled, see
//! [`ActiveFiles::is_crowded`].
//!
//! Order of locks: any lock of a stream, the lock of a file, the list of open files. A thread that
//! has the list only tries the locks of files.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use stratawal_frame::{SEGMENT_HEADER_LEN, Salt, SegmentHeader};
use stratawal_segment::{SegmentId, SegmentWriter};
use stratawal_storage::{Access, ChangeStamp, File, Storage};
use stratawal_sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use stratawal_sync::{Mutex, Weak, fail_point};

use crate::location::Location;

/// The active files of a log that are open, and their bound.
#[derive(Debug)]
pub(crate) struct ActiveFiles {
    max: AtomicUsize,
    /// Rises with each file that is opened. The time of the last use of a file.
    clock: AtomicU64,
    open: Mutex<Vec<Weak<ActiveFile>>>,
    /// How many are in `open`.
    len: AtomicUsize,
}

impl ActiveFiles {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max: AtomicUsize::new(max),
            clock: AtomicU64::new(0),
            open: Mutex::new(Vec::new()),
            len: AtomicUsize::new(0),
        }
    }

    /// Sets how many files may be open. More are open only while they have unsynced writes.
    pub(crate) fn set_max(&self, max: usize) {
        // Relaxed, here and below: the numbers are only estimates for other threads.
        self.max.store(max.max(1), Ordering::Relaxed);
    }

    pub(crate) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// How many files are open.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether more files have unsynced writes than may be open. Then settle the streams of
    /// [`unsynced`](Self::unsynced).
    #[inline]
    pub(crate) fn is_crowded(&self) -> bool {
        self.len() > self.max()
    }

    /// The ids of the streams whose files have unsynced writes, those first that were not used for
    /// the longest time. As many as leave only half of the bound open. Closes the other files if
    /// too many are open.
    pub(crate) fn unsynced(&self) -> Vec<u64> {
        let mut open = self.open.lock();
        let closed = self.close_unused(&mut open, self.max());
        let excess = open.len().saturating_sub(self.max() / 2);
        let ids = open.iter().filter_map(Weak::upgrade).filter(|file| file.has_unsynced()).map(|file| file.stream);
        let ids = if open.len() > self.max() { ids.take(excess).collect() } else { Vec::new() };
        drop(open);
        drop(closed);
        ids
    }

    /// Closes the files without unsynced writes, for a process that has no descriptor left.
    pub(crate) fn close_all_synced(&self) {
        let mut open = self.open.lock();
        let closed = self.close_unused(&mut open, 0);
        drop(open);
        drop(closed);
    }

    fn opened(&self, file: &Weak<ActiveFile>) {
        self.clock.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.lock();
        open.push(Weak::clone(file));
        // Several are closed at once, so that not each opening sorts the list.
        let max = self.max();
        let closed = if open.len() > max { self.close_unused(&mut open, max - max / 8) } else { Vec::new() };
        self.len.store(open.len(), Ordering::Relaxed);
        drop(open);
        drop(closed);
    }

    /// Closes files without unsynced writes until at most `kept` are open, those first that were
    /// not used for the longest time. Sorts the list. The caller drops the result, which closes the
    /// files, without the lock.
    fn close_unused(&self, open: &mut Vec<Weak<ActiveFile>>, kept: usize) -> Vec<Arc<dyn File>> {
        let mut files: Vec<_> =
            open.drain(..).filter_map(|file| file.upgrade()).map(|file| (file.used(), file)).collect();
        files.sort_by_key(|(used, _)| *used);
        let mut excess = files.len().saturating_sub(kept);
        let mut closed = Vec::new();
        for (_, file) in files {
            match if excess > 0 { file.close() } else { None } {
                Some(descriptor) => {
                    excess -= 1;
                    closed.push(descriptor);
                }
                None => open.push(Arc::downgrade(&file)),
            }
        }
        self.len.store(open.len(), Ordering::Relaxed);
        closed
    }
}

/// The file of an active segment. It is opened by the first use after it was closed. At most one
/// thread writes or syncs it at a time; any number of threads read it.
#[derive(Debug)]
pub(crate) struct ActiveFile {
    files: Arc<ActiveFiles>,
    this: Weak<Self>,
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    id: SegmentId,
    stream: u64,
    /// The salt in the header, which no other segment has.
    salt: Salt,
    /// The number of the file in its file system, which no copy has, if the storage knows it.
    number: Option<u64>,
    used: AtomicU64,
    descriptor: Mutex<Descriptor>,
}

#[derive(Debug)]
struct Descriptor {
    /// `None` if it is closed.
    file: Option<Arc<dyn File>>,
    /// How many writes were begun.
    written: u64,
    /// How many of them are durable.
    synced: u64,
}

impl ActiveFile {
    /// Takes over the file of `writer`, the writer of the active segment of the stream at
    /// `location`. The file has its final name, or gets it before it is next opened.
    pub(crate) fn take_over(
        files: &Arc<ActiveFiles>,
        storage: &Arc<dyn Storage>,
        location: &Location,
        writer: SegmentWriter,
    ) -> (SegmentWriter, Arc<Self>) {
        let file = Arc::clone(writer.file());
        let header = writer.header();
        // Without the number, the salt alone identifies the file.
        let number = file.identity().ok().flatten();
        let this = Arc::new_cyclic(|this| Self {
            files: Arc::clone(files),
            this: Weak::clone(this),
            storage: Arc::clone(storage),
            dir: location.dir(),
            id: writer.id(),
            stream: header.stream_id.0,
            salt: header.salt,
            number,
            used: AtomicU64::new(files.clock.load(Ordering::Relaxed)),
            // The bytes that recovery or the creation has written are durable.
            descriptor: Mutex::new(Descriptor { file: Some(file), written: 0, synced: 0 }),
        });
        files.opened(&this.this);
        (writer.with_file(Arc::clone(&this) as _), this)
    }

    /// Opens the file, if it is closed.
    ///
    /// # Errors
    /// Any operating-system error; `NotFound` if another file has its name.
    pub(crate) fn open(&self) -> io::Result<()> {
        self.file(false).map(drop)
    }

    /// Runs `write`, which writes at most once, and whose bytes need not become durable.
    pub(crate) fn with_unneeded_write<T>(&self, write: impl FnOnce() -> T) -> T {
        let before = self.descriptor.lock().written;
        let result = write();
        let mut descriptor = self.descriptor.lock();
        if descriptor.synced == before && descriptor.written == before + 1 {
            descriptor.synced = descriptor.written;
        }
        result
    }

    /// Returns the descriptor. If it is used to write, counts the write first.
    fn file(&self, writes: bool) -> io::Result<Arc<dyn File>> {
        self.used.store(self.files.clock.load(Ordering::Relaxed), Ordering::Relaxed);
        let mut descriptor = self.descriptor.lock();
        let open = descriptor.file.clone();
        let is_open = open.is_some();
        let file = match open {
            Some(file) => file,
            None => self.reopen()?,
        };
        descriptor.written += u64::from(writes);
        if !is_open {
            descriptor.file = Some(Arc::clone(&file));
            drop(descriptor);
            self.files.opened(&self.this);
        }
        Ok(file)
    }

    fn reopen(&self) -> io::Result<Arc<dyn File>> {
        let file = self.storage.open(&self.dir.join(self.id.to_string()), Access::ReadWrite)?;
        let mut header = [0; SEGMENT_HEADER_LEN];
        let len = file.read_at(&mut header, 0)?;
        let header = SegmentHeader::decode(&header[..len]);
        let has_header = header.is_ok_and(|header| header.salt == self.salt && header.stream_id.0 == self.stream);
        let has_number = self.number.is_none() || file.identity()? == self.number;
        if !has_header || !has_number {
            let text = format!("another file has the name {} now", self.id);
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        Ok(file)
    }

    /// Takes the descriptor to close it, unless it has unsynced writes or is about to be used.
    fn close(&self) -> Option<Arc<dyn File>> {
        let mut descriptor = self.descriptor.try_lock()?;
        let is_synced = descriptor.written == descriptor.synced || fail_point!(UnsyncedFileClosed);
        if is_synced { descriptor.file.take() } else { None }
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn has_unsynced(&self) -> bool {
        self.descriptor.try_lock().is_some_and(|descriptor| descriptor.written != descriptor.synced)
    }

    fn sync_with(&self, sync: impl FnOnce(&dyn File) -> io::Result<()>) -> io::Result<()> {
        let file = self.file(false)?;
        let written = self.descriptor.lock().written;
        sync(&*file)?;
        let mut descriptor = self.descriptor.lock();
        descriptor.synced = descriptor.synced.max(written);
        Ok(())
    }
}

impl File for ActiveFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file(false)?.read_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file(true)?.write_all_at(buf, offset)
    }

    fn write_all_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file(true)?.write_all_vectored_at(bufs, offset)
    }

    /// Does nothing to a closed file, which has no unsynced writes.
    fn start_write_back(&self) -> io::Result<()> {
        let file = self.descriptor.lock().file.clone();
        file.map_or(Ok(()), |file| file.start_write_back())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_with(|file| file.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_with(|file| file.sync_all())
    }

    fn len(&self) -> io::Result<u64> {
        self.file(false)?.len()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file(false)?.allocated()
    }

    fn change_stamp(&self) -> io::Result<Option<ChangeStamp>> {
        self.file(false)?.change_stamp()
    }

    fn identity(&self) -> io::Result<Option<u64>> {
        self.file(false)?.identity()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file(false)?.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.file(false)?.preallocate(len)
    }

    fn next_data(&self, offset: u64) -> io::Result<u64> {
        self.file(false)?.next_data(offset)
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use std::path::Path;

    use stratawal_frame::{Generation, SeqNo, StreamId};
    use stratawal_storage::MemoryStorage;

    use super::*;

    /// The active files of new segments, each of its own stream.
    fn files(count: u64, max: usize) -> (Arc<dyn Storage>, Arc<ActiveFiles>, Vec<Arc<ActiveFile>>) {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let files = Arc::new(ActiveFiles::new(max));
        let file = |i: u64| {
            let location = Location::new("/", i.to_string());
            storage.create_dir(&location.dir()).unwrap();
            let header = SegmentHeader {
                stream_id: StreamId(i + 1),
                generation: Generation(1),
                base: SeqNo(0),
                salt: Salt(i),
                ..SegmentHeader::EMPTY
            };
            let (writer, _) = stratawal_segment::create(&storage, &location.dir(), &header, 16 << 10).unwrap();
            ActiveFile::take_over(&files, &storage, &location, writer).1
        };
        let all = (0..count).map(file).collect();
        (storage, files, all)
    }

    fn open(all: &[Arc<ActiveFile>]) -> Vec<usize> {
        let is_open = |file: &Arc<ActiveFile>| file.descriptor.lock().file.is_some();
        all.iter().enumerate().filter(|(_, file)| is_open(file)).map(|(i, _)| i).collect()
    }

    #[test]
    fn the_file_unused_for_the_longest_time_is_closed() {
        let (_, _, all) = files(4, 3);
        assert_eq!(open(&all), [1, 2, 3]);
        all[1].len().unwrap();
        all[0].len().unwrap();
        assert_eq!(open(&all), [0, 1, 3]);
    }

    #[test]
    fn a_file_with_unsynced_writes_stays_open() {
        let (_, files, all) = files(3, 1);
        for file in &all {
            file.write_all_at(b"x", 9000).unwrap();
        }
        assert_eq!(open(&all), [0, 1, 2]);
        assert!(files.is_crowded());
        // The newest use counts, and only the oldest have to go.
        assert_eq!(files.unsynced(), [1, 2, 3]);
        all[0].sync_data().unwrap();
        all[1].sync_data().unwrap();
        assert_eq!(files.unsynced(), [0; 0]);
        assert_eq!(open(&all), [2]);
        assert!(!files.is_crowded());
    }

    #[test]
    fn a_closed_file_is_read_and_written_where_it_was() {
        let (_, _, all) = files(2, 1);
        for round in 0..5 {
            for file in &all {
                file.write_all_at(&[round], 9000 + u64::from(round)).unwrap();
                file.sync_data().unwrap();
            }
        }
        for file in &all {
            let mut bytes = [0; 5];
            file.read_exact_at(&mut bytes, 9000).unwrap();
            assert_eq!(bytes, [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn a_write_that_need_not_be_durable_keeps_no_file_open() {
        let (_, _, all) = files(2, 1);
        all[1].with_unneeded_write(|| all[1].write_all_at(b"mark", 9000)).unwrap();
        all[0].len().unwrap();
        assert_eq!(open(&all), [0]);
        // An earlier write still counts.
        all[1].write_all_at(b"x", 9000).unwrap();
        all[1].with_unneeded_write(|| all[1].write_all_at(b"mark", 9001)).unwrap();
        all[0].len().unwrap();
        assert_eq!(open(&all), [1], "the other one is closed instead");
    }

    #[test]
    fn a_file_of_another_segment_is_not_found() {
        let (storage, _, all) = files(2, 1);
        storage
            .rename(&Path::new("/1").join(all[1].id.to_string()), &Path::new("/0").join(all[0].id.to_string()))
            .unwrap();
        assert_eq!(all[0].len().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(all[0].write_all_at(b"x", 9000).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(open(&all), [1]);
    }
}
