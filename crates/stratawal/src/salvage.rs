//! Reading a damaged stream around its damage: [`inspect::entries`](crate::inspect::entries).

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use stratawal_storage::{Storage, UnixStorage};
use stratawal_stream::{self as inner, Location, LogContext, StreamOptions};

use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::root::Root;
use crate::wal::folder_of;

/// What [`Entries`] yields.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Item {
    /// An entry of the stream, byte for byte as it was appended.
    Entry(Entry),
    /// An entry, byte for byte as it was appended, of which it is not known whether
    /// [`truncate_from`](crate::Stream::truncate_from) dropped it: the segment file that would show it is missing. If
    /// entries were never dropped from the end of the stream, this is an entry of the stream.
    Uncertain(Entry),
    /// Entries that cannot be read.
    Lost(Lost),
}

/// Entries that cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The seq of the first of them.
    pub first: u64,
    /// The seq of the last of them. `None` where nothing attests how many there were: then it may
    /// also be that there were none.
    pub last: Option<u64>,
    /// The file name of the segment, where one is concerned. Where a file is missing, that of the
    /// one next to it.
    pub segment: Option<String>,
    /// The offset in that file in bytes, where it is known. Entries that are lost before a frame
    /// have the offset of that frame.
    pub offset: Option<u64>,
    /// A word for the kind of damage, one of those of
    /// [`Damage::kind`](super::inspect::Damage::kind); or `newer_format` for a segment file of a
    /// newer version, `too_large` for a frame over the bound for reading.
    pub kind: String,
    /// A sentence for people.
    pub message: String,
}

/// The entries of a stream that can be read, and the ranges that are lost; see [`entries`].
pub struct Entries(inner::Salvage);

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entries").finish_non_exhaustive()
    }
}

/// Reads every entry of a stream that can be read, whatever is damaged around it: a frame, a
/// header, a file that is missing. Yields the entries in order of seq, each at most once, and the
/// ranges that are lost. Changes nothing. Works beside a process that writes to the log. Of a
/// stream that is not damaged it yields the entries that
/// [`Stream::iter`](crate::Stream::iter) yields, and nothing else.
///
/// To save a damaged stream, append these entries to a stream of another name. To keep the stream
/// without the entries up to the end of the damage, drop them with
/// [`Wal::truncate_before`](crate::Wal::truncate_before), which also works on a stream that
/// [`Wal::stream`](crate::Wal::stream) refuses. Entries that are appended elsewhere get new seqs.
///
/// # What is certain
///
/// The bytes and the seq of each entry are those of an append to this stream: two checksums cover
/// them, together with a random number of the segment and the offset in its file. They may not be
/// durable yet.
///
/// An entry that [`truncate_from`](crate::Stream::truncate_from) dropped is not yielded as
/// [`Item::Entry`]. The segment that began at the truncation shows which were dropped. Where the
/// header of that segment is damaged, its file name shows it: everything from there on is left out.
/// Where the file is missing, the entries of the segment before it are
/// [`Item::Uncertain`], unless the files around the gap prove which of them were dropped. So are those before a damaged
/// header, where a file between may be missing too.
///
/// An entry that [`truncate_before`](crate::Stream::truncate_before) dropped may be yielded, or
/// reported as lost, where the damage takes the record of that truncation.
///
/// A segment whose header is damaged is lost as a whole, since its frames cannot be verified
/// without the random number in it. What is lost at the end of the stream is known as far as
/// something that is left attests it.
///
/// # Memory
///
/// The frame at hand, and a window of 256 KiB. A frame may be as long as the largest batch that was
/// appended.
///
/// # Errors
/// [`Missing`](ErrorKind::Missing) where the log or the stream is not there; [`InvalidName`](ErrorKind::InvalidName);
/// damage to the log as a whole. The iterator yields an error and ends where the files cannot be
/// read (I/O), where a frame of a newer version is met, and where the stream is deleted meanwhile.
///
/// ```
/// use stratawal::inspect::{self, Item};
///
/// # let dir = tempfile::tempdir()?;
/// # let wal = stratawal::Wal::open(dir.path())?;
/// # wal.stream("orders")?.append("one apple")?;
/// # wal.close()?;
/// let saved = stratawal::Wal::open(dir.path())?.stream("orders-saved")?;
/// for item in inspect::entries(dir.path(), "orders")? {
///     match item? {
///         Item::Entry(entry) => drop(saved.append(entry.data())?),
///         Item::Lost(lost) => eprintln!("{}", lost.message),
///         other => eprintln!("left out: {other:?}"),
///     }
/// }
/// # assert_eq!(saved.next_seq(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn entries(path: impl AsRef<Path>, stream: &str) -> Result<Entries> {
    entries_in(&UnixStorage::new(), path.as_ref(), stream)
}

/// Does what [`entries`] does on another storage.
#[cfg(feature = "unstable-storage")]
#[doc(hidden)]
pub fn entries_on(storage: &dyn Storage, path: &Path, stream: &str) -> Result<Entries> {
    entries_in(storage, path, stream)
}

pub(crate) fn entries_in(storage: &dyn Storage, path: &Path, stream: &str) -> Result<Entries> {
    let root = Root::open_read_only(storage, path)?;
    let env = Arc::new(LogContext::new(Arc::clone(&root.storage)).wal_id(root.wal_id).read_only(true));
    let place = Location::new(root.streams(), folder_of(stream)?).named(stream);
    match inner::salvage(&env, &place, &StreamOptions::default())? {
        Some(salvage) => Ok(Entries(salvage)),
        None => {
            let text = format!("there is no stream {stream:?} in {}; list them with `streams`", path.display());
            Err(Error::of_stream(ErrorKind::Missing, stream, text))
        }
    }
}

impl Iterator for Entries {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = match self.0.next()? {
            Ok(item) => item,
            Err(error) => return Some(Err(error.into())),
        };
        Some(match item {
            inner::Salvaged::Entry(entry) => Ok(Item::Entry(entry.into())),
            inner::Salvaged::Uncertain(entry) => Ok(Item::Uncertain(entry.into())),
            inner::Salvaged::Lost(lost) => Ok(Item::Lost(Lost::new(lost))),
        })
    }
}

impl std::iter::FusedIterator for Entries {}

impl Lost {
    fn new(lost: inner::Lost) -> Self {
        let error = Error::from(lost.error);
        Self {
            first: lost.first,
            last: lost.last,
            segment: error.segment().map(ToOwned::to_owned),
            offset: error.offset(),
            kind: error.damage().unwrap_or_else(|| error.kind().as_str()).to_owned(),
            message: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use stratawal_testkit::{HookedStorage, Operation, SimStorage};

    use super::*;
    use crate::options::Options;
    use crate::wal::Wal;
    use stratawal_sync::Mutex;

    /// A writer that appends, begins segments and drops entries from both ends is not taken for
    /// damage.
    #[test]
    fn a_writer_beside_is_not_taken_for_damage() {
        let disk = SimStorage::new(1);
        // The reader's; the writer works within its hook.
        let storage = HookedStorage::new(disk.clone());
        let log = Path::new("/log");
        let options = Options::new().stream_defaults(crate::StreamOptions::new().segment_bytes(64 << 10));
        let wal = Wal::open_on(Arc::new(disk), log, &options, false).unwrap();
        let stream = wal.stream("s").unwrap();
        for way in 0..4 {
            while stream.next_seq() < stream.first_seq() + 300 {
                stream.append([7; 2000]).unwrap();
            }
            let (writer, calls) = (stream.clone(), Mutex::new(0_u64));
            let began = (stream.first_seq(), stream.next_seq());
            storage.set(move |operation, _| {
                if operation == Operation::Open {
                    // At places that shift from one pass to the next.
                    let mut calls = calls.lock();
                    *calls += 1;
                    if calls.is_multiple_of(7) && *calls < 100 {
                        let (first, next) = (writer.first_seq(), writer.next_seq());
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
            for item in entries_in(&storage, log, "s").unwrap() {
                match item {
                    Ok(Item::Entry(entry)) => seqs.push(entry.seq()),
                    Ok(Item::Uncertain(entry)) => panic!("way {way}: entry {} is uncertain", entry.seq()),
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
