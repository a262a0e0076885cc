//! Reading a log from outside, as the command line does.

use std::ffi::OsStr;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal_journal::{Error as JournalError, Image, Record};
use stratawal_storage::{Access, Storage, UnixStorage};
use stratawal_stream::{Location, LogContext, SegmentId, StreamOptions};

use crate::error::{Error, ErrorKind, Result, io_error};
use crate::inspect::verify::LogToVerify;
use crate::journal::{self, journal_error};
use crate::name;
use crate::options::Options;
use crate::root::{self, JOURNAL, RESERVE, Root};
use crate::stream::Stream;
use crate::wal::{stream_dir, unknown_stream};

mod details;
mod info;
mod verify;

pub use details::{JournalRecord, frames, journal_records, segments};
pub use info::{LogInfo, Writer, log_info};
pub use stratawal_stream::{CheckState, Lost, Salvage, Salvaged, StreamCheck};
pub use stratawal_stream::{FrameDetails, FrameKind, SegmentDetails, SegmentEnd, SegmentFooter};
pub use verify::{VerifyOptions, verify_with};

/// Returns the name of the directory of the stream `name`, which is an escaped form of the name:
/// `a`-`z`, `0`-`9`, `-`, `_` and an inner `.` are kept, and every other byte is escaped as `%xx`.
///
/// # Errors
/// [`InvalidName`](crate::ErrorKind::InvalidName), for the same names as
/// [`Wal::stream`](crate::Wal::stream).
pub fn escape_name(name: &str) -> Result<String> {
    stream_dir(name)
}

/// Returns the stream name that [`escape_name`] escapes to `escaped`, or `None` if there is none.
#[must_use]
pub fn unescape_name(escaped: &str) -> Option<String> {
    name::unescape(escaped)
}

/// Reads every entry of the log at `path`, or only of the stream `stream` if given, and yields a
/// report for each stream, in the order of their escaped names. Changes nothing. Another process
/// may write to the log at the same time.
///
/// Damage is not an error here but a finding: [`StreamCheck::damage`] has the first damage in each
/// file, also of a stream that damage keeps from opening. If a stream cannot be read (I/O, a newer
/// format), its item is an error that names it, and the iterator continues with the next stream.
///
/// # Errors
/// [`Missing`](crate::ErrorKind::Missing) if the log or the stream does not exist. Any error of
/// the log as a whole.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let wal = stratawal::Wal::open(dir.path())?;
/// # wal.stream("orders")?.append("one apple")?;
/// # let path = dir.path();
/// for check in stratawal::inspect::verify(path, None)? {
///     let check = check?;
///     for damage in &check.damage {
///         eprintln!("{damage}");
///     }
///     assert!(check.damage.is_empty());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify(path: impl AsRef<Path>, stream: Option<&str>) -> Result<Verify> {
    verify_from(&UnixStorage::new(), path.as_ref(), stream)
}

/// Like [`verify`], but on a given storage. Not part of the stable API.
///
/// # Errors
/// Same as [`verify`].
#[cfg(feature = "unstable-storage")]
#[doc(hidden)]
pub fn verify_on(storage: &dyn Storage, path: &Path, stream: Option<&str>) -> Result<Verify> {
    verify_from(storage, path, stream)
}

fn verify_from(storage: &dyn Storage, path: &Path, stream: Option<&str>) -> Result<Verify> {
    let log = LogToVerify::open(storage, path, stream)?;
    let names = 0..log.names.len();
    Ok(Verify { log, names })
}

/// The context of a log that is only read, also its commit journal.
pub(crate) fn reader_context(root: &Root) -> LogContext {
    let context = LogContext::new(Arc::clone(&root.storage)).wal_id(root.format.wal_id).read_only(true);
    context.journal_reader(root.journal_reader())
}

/// An iterator that verifies the streams of a log one by one. Created by [`verify`].
#[must_use = "nothing is read until the iterator is advanced"]
pub struct Verify {
    log: LogToVerify,
    /// The streams that are still to be verified, by their index.
    names: Range<usize>,
}

impl fmt::Debug for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verify").field("log", &self.log.path).finish_non_exhaustive()
    }
}

impl Iterator for Verify {
    type Item = Result<StreamCheck>;

    fn next(&mut self) -> Option<Self::Item> {
        self.names.by_ref().find_map(|i| self.log.check(i, None).transpose())
    }
}

impl std::iter::FusedIterator for Verify {}

/// The result of [`verify_journal`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JournalCheck {
    /// The number of records after the last point up to which the journal is not needed, without
    /// those that only fill space.
    pub records: u64,
    /// The number of streams that may need some of them. 0 if the log was closed.
    pub streams: u64,
    /// The length in bytes of the files that were read. 0 if they could not be read as a whole.
    pub bytes: u64,
    /// The damage, if records that were durable are missing or not valid. Its text names the file
    /// and the offset. Or an error of the kind [`Copied`](crate::ErrorKind::Copied), if the log is
    /// a copy that was made before it was closed.
    pub damage: Option<Error>,
}

/// Reads the commit journal of the log at `path`, and checks it. Returns `None` if the log has
/// none. Changes nothing. If the journal is damaged, [`verify`] checks the segment files only, and
/// reports each stream as damaged; otherwise it also reads the entries that only the journal holds.
///
/// Another process may write to the log at the same time. Its files are then renamed and reused
/// while they are read, so this reads again before it reports damage.
///
/// # Errors
/// [`Missing`](crate::ErrorKind::Missing) if the log does not exist. Any error of the log as a
/// whole. [`NewerFormat`](crate::ErrorKind::NewerFormat); any operating-system error.
pub fn verify_journal(path: impl AsRef<Path>) -> Result<Option<JournalCheck>> {
    const READS_MAX: usize = 10;
    let root = Root::open_read_only(&UnixStorage::new(), path.as_ref())?;
    if !root.format.has_journal() {
        return Ok(None);
    }
    let read = || {
        let image = Image::read(&*root.storage, Path::new(JOURNAL), root.format.wal_id)?;
        let damage = image.damage();
        let copied = image.copied().map(|error| journal::copied(&root, &error, damage.is_some()));
        let damage = copied.or_else(|| damage.map(|error| journal_error(&root, &error)));
        let needed = image.needed();
        let streams = needed.streams.len() as u64;
        let records = image.records().iter().filter(|located| !matches!(located.record, Record::Pad { .. })).count();
        Ok(JournalCheck { records: records as u64, streams, bytes: image.bytes(), damage })
    };
    let mut last = read();
    for _ in 1..READS_MAX {
        if last.as_ref().is_ok_and(|check| check.damage.is_none()) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
        last = read();
    }
    match last {
        Ok(check) => Ok(Some(check)),
        Err(error) if JournalError::is_damage(&error) => {
            let copied = Image::copied_and_damaged(&*root.storage, Path::new(JOURNAL), root.format.wal_id);
            let damage =
                copied.map_or_else(|| journal_error(&root, &error), |copied| journal::copied(&root, &copied, true));
            Ok(Some(JournalCheck { records: 0, streams: 0, bytes: 0, damage: Some(damage) }))
        }
        Err(error) => Err(journal_error(&root, &error)),
    }
}

/// Reads every readable entry of a stream, whatever is damaged around it: a frame, a header, a
/// missing file. Yields the entries in order of seq, each at most once, and the ranges that are
/// lost. Changes nothing. Another process may write to the log at the same time. For a stream
/// without damage it yields exactly the entries that [`Stream::iter`](crate::Stream::iter) yields.
///
/// To save a damaged stream, append these entries to a stream with another name, in which they get
/// new seqs; see the first example. To keep the name and the seqs, copy the stream and append the
/// copy again; see the second. To keep the stream without the damage and every entry before it,
/// drop them with [`Wal::truncate_before`](crate::Wal::truncate_before), which also works on a
/// stream that [`Wal::stream`](crate::Wal::stream) refuses.
///
/// # What is certain
///
/// Each entry has the bytes and the seq that an append to this stream gave it. Two checksums cover
/// them, together with the segment's salt (a random number) and the offset in its file. The entries
/// may not be durable yet.
///
/// An entry that [`truncate_from`](crate::Stream::truncate_from) dropped is not yielded as
/// [`Salvaged::Entry`]. The segment that began at the truncation shows which entries were dropped.
/// If the header of that segment is damaged, its file name still shows this, and everything from
/// that seq on is left out. If the file is missing, the entries of the segment before it are
/// [`Salvaged::Uncertain`], unless the files around the gap prove which of them were dropped. The
/// entries before a damaged header are also uncertain if a file between them may be missing as
/// well.
///
/// An entry that [`truncate_before`](crate::Stream::truncate_before) dropped may be yielded, or
/// reported as lost, if the record of that truncation is damaged.
///
/// A segment with a damaged header is lost as a whole, because its frames cannot be verified
/// without the salt in the header. At the end of the stream, a lost entry is reported only if the
/// rest of the stream attests it.
///
/// # The journal
///
/// The entries that only the [journal](crate::Options::journal) of the log has follow those of the
/// stream's files, even if the files are damaged or missing. Entries that a damaged file should
/// have are taken from the journal if it still has them. If the journal is damaged, its entries are
/// [`Salvaged::Uncertain`], because the record of a truncation may be lost. Then a
/// [`Salvaged::Lost`] of unknown length ends the salvage, also if the stream had no entries in the
/// journal. [`verify_journal`] reports the damage.
///
/// # Memory
///
/// Takes memory for one frame and a window of 256 KiB. A frame may be as long as the largest batch
/// that was appended.
///
/// # Errors
/// [`Missing`](crate::ErrorKind::Missing) if the log or the stream does not exist;
/// [`InvalidName`](crate::ErrorKind::InvalidName); damage to the log as a whole. The iterator
/// yields an error and ends if the files cannot be read (I/O), if it meets a frame of a newer
/// version, or if the stream is deleted at the same time.
///
/// # Examples
///
/// To copy the entries to another stream, in the same batches:
///
/// ```
/// use stratawal::Batch;
/// use stratawal::inspect::{self, Salvaged};
///
/// # let dir = tempfile::tempdir()?;
/// # let wal = stratawal::Wal::open(dir.path())?;
/// # let orders = wal.stream("orders")?;
/// # orders.append("one apple")?;
/// # orders.append_batch(&["two pears", "three plums"].into_iter().collect())?;
/// # drop(orders);
/// let saved = wal.stream("orders-saved")?;
/// let mut batch = Batch::new();
/// for item in inspect::salvage(dir.path(), "orders")? {
///     match item? {
///         Salvaged::Entry(entry) => {
///             batch.push(&entry);
///             if entry.ends_batch() {
///                 saved.append_batch(&batch)?;
///                 batch.clear();
///             }
///         }
///         Salvaged::Lost(lost) => eprintln!("{}", lost.error),
///         other => eprintln!("left out: {other:?}"),
///     }
/// }
/// # assert_eq!(saved.next_seq(), 3);
/// # assert_eq!(saved.get(1)?.map(|entry| entry.ends_batch()), Some(false));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// To keep the name and the seqs, make a copy that begins at the same seq. An empty entry takes the
/// place of each lost one. Then delete the damaged stream, and append the copy again under its
/// name. Seqs of entries lost at the end are given to new entries.
///
/// ```
/// use stratawal::inspect::{self, Salvaged};
/// use stratawal::{Batch, Entry, Result, Stream};
///
/// /// Appends `entry` to `to`, at the same seq, once its batch is complete.
/// fn append(to: &Stream, batch: &mut Batch, entry: &Entry) -> Result<()> {
///     if batch.is_empty() && !to.exists() {
///         to.truncate_before(entry.seq())?;
///     }
///     while batch.is_empty() && to.next_seq() < entry.seq() {
///         to.append("")?;
///     }
///     batch.push(entry);
///     if entry.ends_batch() {
///         to.append_batch(batch)?;
///         batch.clear();
///     }
///     Ok(())
/// }
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// # let wal = stratawal::Options::new().journal(false).open(path)?;
/// # let orders = wal.stream("orders")?;
/// # for i in 0..4 { orders.append([i; 100])?; }
/// # orders.append_batch(&["two pears", "three plums"].into_iter().collect())?;
/// # orders.truncate_before(1)?;
/// # wal.close()?;
/// # drop((orders, wal));
/// # let file = path.join("streams/orders").join(&inspect::segment_files(path, "orders")?[0].name);
/// # let mut bytes = std::fs::read(&file)?;
/// # let at = bytes.windows(100).position(|bytes| bytes == [2; 100]).unwrap();
/// # bytes[at] = 9;
/// # std::fs::write(&file, bytes)?;
/// # let wal = stratawal::Wal::open(path)?;
/// let copy = wal.stream("orders-copy")?;
/// let mut batch = Batch::new();
/// for item in inspect::salvage(path, "orders")? {
///     match item? {
///         Salvaged::Entry(entry) => append(&copy, &mut batch, &entry)?,
///         Salvaged::Lost(lost) => eprintln!("{}", lost.error),
///         other => eprintln!("left out: {other:?}"),
///     }
/// }
/// // From here on, the copy has everything.
/// copy.sync()?;
/// wal.delete_stream("orders")?;
/// let orders = wal.stream("orders")?;
/// for entry in copy.iter(..) {
///     append(&orders, &mut batch, &entry?)?;
/// }
/// orders.sync()?;
/// wal.delete_stream("orders-copy")?;
/// # assert_eq!((orders.first_seq(), orders.next_seq()), (1, 6));
/// # let seen = orders.iter(..).map(|e| e.map(|e| (e.data().len(), e.ends_batch())));
/// # let seen: Vec<_> = seen.collect::<Result<_>>()?;
/// # assert_eq!(seen, [(100, true), (0, true), (100, true), (9, false), (11, true)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The copy is deleted last, so a crash in between leaves it. If the crash came before the deletion
/// of the damaged stream, delete the copy and begin again. If it came after, delete the incomplete
/// new stream and append the copy again.
pub fn salvage(path: impl AsRef<Path>, stream: &str) -> Result<Salvage> {
    salvage_from(&UnixStorage::new(), path.as_ref(), stream)
}

/// Like [`salvage`], but on a given storage. Not part of the stable API.
///
/// # Errors
/// Same as [`salvage`].
#[cfg(feature = "unstable-storage")]
#[doc(hidden)]
pub fn salvage_on(storage: &dyn Storage, path: &Path, stream: &str) -> Result<Salvage> {
    salvage_from(storage, path, stream)
}

fn salvage_from(storage: &dyn Storage, path: &Path, stream: &str) -> Result<Salvage> {
    let root = Root::open_read_only(storage, path)?;
    let context = Arc::new(reader_context(&root));
    let location = Location::new(root.streams(), stream_dir(stream)?).named(stream);
    let salvage = stratawal_stream::salvage(&context, &location, &StreamOptions::new())?;
    salvage.ok_or_else(|| unknown_stream(path, stream))
}

/// Opens the part of a stream before its first damage, for reading, and also returns that damage. A
/// stream without damage is opened as a whole. Changes nothing. This is for people who look at a
/// log, because [`Wal::stream`](crate::Wal::stream) refuses a damaged stream. If the log's
/// [journal](crate::Options::journal) is damaged, the readable part of each stream is that in its
/// segment files.
///
/// Opening does not find damage to single entries of the readable part: reading one of those fails
/// with an error.
///
/// # Errors
/// [`Missing`](crate::ErrorKind::Missing) if the log does not exist;
/// [`NewerFormat`](crate::ErrorKind::NewerFormat); any operating-system error.
pub fn readable(path: impl AsRef<Path>, stream: &str) -> Result<Readable> {
    let (stream, damage) = Options::new().open_read_only(path)?.readable(stream)?;
    Ok(Readable { stream, damage })
}

/// The readable part of a stream, returned by [`readable`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Readable {
    /// A handle on the stream that ends before the damage.
    pub stream: Stream,
    /// The damage that the handle ends at, if any.
    pub damage: Option<Error>,
}

/// Returns whether the log in the directory `path` has a commit journal. Returns `false` if there
/// is no log. A program that opens logs of others leaves each with or without its journal by this:
///
/// ```
/// use stratawal::{Options, inspect};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// let wal = Options::new().journal(inspect::has_journal(path)?).open(path)?;
/// # wal.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Same as [`Options::open_read_only`](crate::Options::open_read_only), except `Missing`.
pub fn has_journal(path: impl AsRef<Path>) -> Result<bool> {
    match Root::open_read_only(&UnixStorage::new(), path.as_ref()) {
        Ok(root) => Ok(root.format.has_journal()),
        Err(error) if error.kind() == ErrorKind::Missing => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns the log that the directory `path` is inside of, such as a directory of its streams.
/// Returns `None` if there is a log at `path` itself, or in no directory above it. The
/// directory need not exist. [`Options::open`](crate::Options::open) creates no log inside another.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// # stratawal::Wal::open(path)?.close()?;
/// let log = stratawal::inspect::enclosing_log(path.join("streams").join("orders"));
/// assert_eq!(log, Some(path.canonicalize()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn enclosing_log(path: impl AsRef<Path>) -> Option<PathBuf> {
    root::enclosing_log(&UnixStorage::new(), path.as_ref())
}

/// Returns how many bytes of disk space the log at `path` holds in reserve for truncating, deleting
/// and closing on a full disk: 65,536 if the reserve is complete. The number is lower, or 0, after
/// a full disk has used the reserve up, or in a copy of the log that was made without its bytes.
/// The log restores the reserve when space is free again. Changes nothing. Another process may
/// write to the log at the same time.
///
/// # Errors
/// [`Missing`](crate::ErrorKind::Missing) if the log does not exist. Any error of the log as a
/// whole.
pub fn reserve_bytes(path: impl AsRef<Path>) -> Result<u64> {
    Ok(reserve_bytes_of(&Root::open_read_only(&UnixStorage::new(), path.as_ref())?))
}

fn reserve_bytes_of(root: &Root) -> u64 {
    let context = LogContext::new(Arc::clone(&root.storage)).wal_id(root.format.wal_id).read_only(true);
    context.emergency_reserve_at(RESERVE).reserve_bytes()
}

/// A segment file, returned by [`segment_files`]. Its path is
/// `<log>/streams/<escaped name>/<file name>`; see [`escape_name`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentFile {
    /// The name of the file in the directory of its stream.
    pub name: String,
    /// The seq at which the file begins, from its name: that of its first entry, which
    /// [`truncate_before`](crate::Stream::truncate_before) may have dropped already. `None` if this
    /// is not a name of a segment file.
    pub base_seq: Option<u64>,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Returns the segment files of a stream, sorted by name, and so oldest first. They are in the
/// directory `<log>/streams/<escaped name>/`. Only the directory is read, so this works even for a
/// damaged stream. The result is empty if there is no such stream.
///
/// # Errors
/// [`InvalidName`](crate::ErrorKind::InvalidName); any operating-system error.
pub fn segment_files(path: impl AsRef<Path>, stream: &str) -> Result<Vec<SegmentFile>> {
    let storage = UnixStorage::new();
    let dir = path.as_ref().join("streams").join(stream_dir(stream)?);
    let failed = |e| io_error(format!("cannot list {}", dir.display()), e);
    let entries = match storage.list(&dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(failed(e)),
    };
    let mut files = Vec::new();
    for name in entries.iter().filter_map(|entry| entry.name.to_str()).filter(|name| name.ends_with(".seg")) {
        match storage.open(&dir.join(name), Access::Read).and_then(|file| file.len()) {
            Ok(bytes) => {
                let base_seq = SegmentId::parse(OsStr::new(name)).map(|id| id.base.0);
                files.push(SegmentFile { name: name.to_owned(), base_seq, bytes });
            }
            // The file was removed after it was listed, or is not a plain file, which `verify`
            // reports.
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidInput) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::io;

    use stratawal_testkit::{HookedStorage, Operation, SimStorage};

    use super::*;

    use crate::wal::Wal;
    use stratawal_sync::Mutex;

    #[test]
    fn unreadable_stream_does_not_hide_the_others() {
        let storage = HookedStorage::new(SimStorage::new(1));
        let log = Path::new("/log");
        // Without a journal, because the entries have to be in files.
        let wal = Wal::open_on(Arc::new(storage.clone()), log, &Options::new().journal(false), false).unwrap();
        for name in ["a", "b", "c"] {
            wal.stream(name).unwrap().append(name).unwrap();
        }
        storage.set(|operation, path| match operation {
            Operation::Open if path.starts_with("/log/streams/b") => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        });
        let shown = |check: Result<StreamCheck>| match check {
            Ok(check) => format!("{} {:?}", check.stream, check.state),
            Err(error) => format!("{} {:?}", error.stream().unwrap(), error.kind()),
        };
        let all = verify_from(&storage, log, None).unwrap();
        let one = verify_from(&storage, log, Some("b")).unwrap();
        let seen: Vec<_> = all.chain(one).map(shown).collect();
        assert_eq!(seen, ["a Sound", "b Io", "c Sound", "b Io"]);
    }

    /// The options of logs without a journal, and with one that is used again and again.
    fn kinds() -> [Options; 2] {
        let small = crate::StreamOptions::new().segment_bytes(64 << 10);
        let options = Options::new().stream_defaults(small).journal_bytes(64 << 10).maintenance_thread(false);
        [options.clone().journal(false), options.journal(true)]
    }

    #[test]
    fn entries_dropped_during_verify_are_not_damage() {
        kinds().iter().for_each(drop_during_verify);
    }

    fn drop_during_verify(options: &Options) {
        let disk = SimStorage::new(1);
        // The reader's storage; the writer works within its hook.
        let storage = HookedStorage::new(disk.clone());
        let log = Path::new("/log");
        let wal = Wal::open_on(Arc::new(disk), log, options, false).unwrap();
        for way in 0..3 {
            let stream = wal.stream("s").unwrap();
            while stream.next_seq() < stream.first_seq() + 200 {
                stream.append([7; 2000]).unwrap();
            }
            let writer = stream.clone();
            let deleter = wal.clone();
            let opened = Mutex::new(0_usize);
            storage.set(move |operation, path| {
                if operation == Operation::Open && path.extension().is_some_and(|extension| extension == "seg") {
                    // The writer acts at places that shift from one look to the next.
                    let mut opened = opened.lock();
                    *opened += 1;
                    if opened.is_multiple_of(9) && *opened < 60 {
                        let first = writer.first_seq();
                        let next = writer.next_seq();
                        match way {
                            0 => writer.truncate_before(first + 30).unwrap(),
                            1 => writer.truncate_from(next - 30).unwrap(),
                            _ => {
                                deleter.delete_stream("s").unwrap();
                                let again = deleter.stream("s").unwrap();
                                for i in 0..100 + *opened {
                                    again.append(vec![8; 1000 + i]).unwrap();
                                }
                            }
                        }
                    }
                }
                Ok(())
            });
            let seen: Vec<_> = verify_from(&storage, log, None).unwrap().map(Result::unwrap).collect();
            storage.clear();
            assert_eq!((seen.len(), seen[0].state), (1, CheckState::Sound), "{seen:?}");
            let stream = wal.stream("s").unwrap();
            assert!(seen[0].first_seq.unwrap() <= stream.first_seq() && seen[0].next_seq.unwrap() >= stream.next_seq());
            assert!(stream.next_seq() - stream.first_seq() < 200, "something was dropped");
        }
    }

    /// A writer that appends, begins segments and drops entries from both ends is not taken for
    /// damage.
    #[test]
    fn salvage_beside_a_writer_reports_no_damage() {
        kinds().iter().for_each(salvage_beside);
    }

    fn salvage_beside(options: &Options) {
        let disk = SimStorage::new(1);
        // The reader's storage; the writer works within its hook.
        let storage = HookedStorage::new(disk.clone());
        let log = Path::new("/log");
        let wal = Wal::open_on(Arc::new(disk), log, options, false).unwrap();
        let stream = wal.stream("s").unwrap();
        for way in 0..4 {
            while stream.next_seq() < stream.first_seq() + 300 {
                stream.append([7; 2000]).unwrap();
            }
            let writer = stream.clone();
            let calls = Mutex::new(0_u64);
            let began = (stream.first_seq(), stream.next_seq());
            storage.set(move |operation, _| {
                if operation == Operation::Open {
                    // The writer acts at places that shift from one pass to the next.
                    let mut calls = calls.lock();
                    *calls += 1;
                    if calls.is_multiple_of(7) && *calls < 100 {
                        let first = writer.first_seq();
                        let next = writer.next_seq();
                        match way {
                            0 => writer.truncate_before(first + 5).unwrap(),
                            1 => writer.truncate_from(next - 5).unwrap(),
                            2 => writer.truncate_before(next).unwrap(),
                            _ => {}
                        }
                        for _ in 0..20 {
                            writer.append([8; 3000]).unwrap();
                        }
                    }
                }
                Ok(())
            });
            let mut seqs = Vec::new();
            for item in salvage_from(&storage, log, "s").unwrap() {
                match item {
                    Ok(Salvaged::Entry(entry)) => seqs.push(entry.seq()),
                    Ok(Salvaged::Uncertain(entry)) => panic!("way {way}: entry {} is uncertain", entry.seq()),
                    other => panic!("way {way}, after {:?}: {other:?}", seqs.last()),
                }
            }
            storage.clear();
            assert!(seqs.is_sorted_by(|a, b| a < b), "way {way}: {seqs:?}");
            if way == 3 {
                assert_eq!((seqs[0], seqs.len() as u64), (began.0, seqs[seqs.len() - 1] + 1 - began.0));
                assert!(seqs[seqs.len() - 1] + 1 >= began.1, "the writer dropped nothing");
            }
            assert!(!seqs.is_empty(), "way {way}");
        }
    }
}
