//! Looking into a log from outside: what the command line shows, as a library.

use std::path::Path;
use std::sync::Arc;

use stratawal_storage::{Access, Storage, UnixStorage};
use stratawal_stream::{Location, LogContext};

use crate::error::{Error, ErrorKind, Result};
use crate::name;
use crate::options::Options;
use crate::root::{RESERVE, Root};
use crate::stream::Stream;
use crate::wal::folder_of;

#[cfg(feature = "unstable-storage")]
#[doc(hidden)]
pub use crate::salvage::entries_on;
pub use crate::salvage::{Entries, Item, Lost, entries};

/// What [`verify`] says of a stream as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckState {
    /// Every entry is there and valid, and nothing is behind the last.
    Sound,
    /// The same, but for what stands behind the last whole frame: what a crash has left, and the
    /// next open cuts; or what a writer is just about to write.
    Torn,
    /// Something is damaged.
    Damaged,
}

/// What [`verify`] found in a stream.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StreamCheck {
    /// Its name.
    pub stream: String,
    /// As a whole.
    pub state: CheckState,
    /// The first live seq, where the stream can be read at all.
    pub first: Option<u64>,
    /// One past the last entry, where the stream can be read at all.
    pub next: Option<u64>,
    /// Segment files in its folder.
    pub segments: u64,
    /// What a crash left.
    pub torn: Option<Torn>,
    /// What is damaged.
    pub damage: Vec<Damage>,
}

/// What a crash left behind the last whole frame of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Torn {
    /// The file name of the segment.
    pub segment: String,
    /// Where the last whole frame ends, in bytes.
    pub offset: u64,
    /// Bytes from there to the last one that is not zero.
    pub bytes: u64,
}

/// One damage to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file name of the segment, where one is concerned.
    pub segment: Option<String>,
    /// The offset in it in bytes, where it is known.
    pub offset: Option<u64>,
    /// A word for what it is: `header`, `misplaced`, `no_segment`, `first_missing`,
    /// `predecessor_missing`, `successor_missing`, `lost`, `length`, `frame`, `gap`, `file`,
    /// `directory`, `seal`, `history`. There may be more in later versions.
    pub kind: String,
    /// The first and the last seq that are lost, where they are known.
    pub lost: Option<(u64, u64)>,
    /// A sentence for people.
    pub message: String,
}

/// The form of a stream's name that is its folder's: `a`-`z`, `0`-`9`, `-`, `_` and an inner `.`
/// stand for themselves, every other byte is `%xx`.
///
/// # Errors
/// [`InvalidName`](ErrorKind::InvalidName), as [`Wal::stream`](crate::Wal::stream).
pub fn escape_name(name: &str) -> Result<String> {
    folder_of(name)
}

/// The name that [`escape_name`] gave this form; `None` if it is not one.
#[must_use]
pub fn unescape_name(escaped: &str) -> Option<String> {
    name::unescape(escaped)
}

/// Reads every entry of every stream of the log at `path` (or of the one stream `stream`), beside a
/// writer or not, and tells `found` what there is, stream by stream in the order of their escaped
/// names. Changes nothing.
///
/// A stream that cannot be read (I/O, a newer format; the error names it) is told as well, and the
/// others go on. Damage is no error but what this is for.
///
/// # Errors
/// [`Missing`](ErrorKind::Missing) where there is no log, or no such stream; the log as a whole cannot be read.
pub fn verify(path: impl AsRef<Path>, stream: Option<&str>, found: &mut dyn FnMut(Result<StreamCheck>)) -> Result<()> {
    verify_on(&UnixStorage::new(), path.as_ref(), stream, found)
}

/// How many bytes of disk space the log at `path` holds for truncating, deleting and closing on a
/// full disk: 65,536 when its reserve is whole, less or 0 after a full disk has taken it, or where
/// a copy of the log did not write its bytes. The log makes it again when there is room. Beside a
/// writer or not. Changes nothing.
///
/// # Errors
/// [`Missing`](ErrorKind::Missing) where there is no log; the log as a whole cannot be read.
pub fn reserve_bytes(path: impl AsRef<Path>) -> Result<u64> {
    let root = Root::open_read_only(&UnixStorage::new(), path.as_ref())?;
    Ok(LogContext::new(root.storage).wal_id(root.wal_id).read_only(true).emergency_reserve_at(RESERVE).reserve_bytes())
}

/// What can be read of a stream in the log at `path`: the whole of it, or what precedes the first
/// damage, and that damage. For people who look at a log; [`Wal::stream`](crate::Wal::stream)
/// refuses a damaged stream. Changes nothing.
///
/// Entries may be damaged one by one in what is readable, too; then reading them says so.
///
/// # Errors
/// [`Missing`](ErrorKind::Missing) where there is no log; a newer format; I/O. Damage is answered beside the stream.
pub fn readable(path: impl AsRef<Path>, stream: &str) -> Result<(Stream, Option<Error>)> {
    let wal = Options::new().open_read_only(path)?;
    wal.readable(stream)
}

fn verify_on(
    storage: &dyn Storage,
    path: &Path,
    stream: Option<&str>,
    found: &mut dyn FnMut(Result<StreamCheck>),
) -> Result<()> {
    let unknown = |name: &str| {
        let text = format!("there is no stream {name:?} in {}; list them with `streams`", path.display());
        Error::of_stream(ErrorKind::Missing, name, text)
    };
    let root = Root::open_read_only(storage, path)?;
    let mut names = root.stream_names()?;
    if let Some(wanted) = stream {
        folder_of(wanted)?;
        names.retain(|name| name == wanted);
        if names.is_empty() {
            return Err(unknown(wanted));
        }
    }
    let env = Arc::new(LogContext::new(Arc::clone(&root.storage)).wal_id(root.wal_id).read_only(true));
    for name in names {
        let place = Location::new(root.streams(), folder_of(&name)?).named(&name);
        match stratawal_stream::verify(&env, &place, &stratawal_stream::StreamOptions::default()) {
            Ok(Some(check)) => found(Ok(StreamCheck::new(name, check))),
            // Deleted since they were listed.
            Ok(None) if stream.is_some() => return Err(unknown(&name)),
            Ok(None) => {}
            Err(error) => found(Err(error.into())),
        }
    }
    Ok(())
}

impl StreamCheck {
    fn new(stream: String, check: stratawal_stream::StreamCheck) -> Self {
        let damage = check.findings.into_iter().map(|finding| {
            let error = Error::from(finding.error);
            Damage {
                segment: error.segment().map(ToOwned::to_owned),
                offset: error.offset(),
                kind: error.damage().unwrap_or("unknown").to_owned(),
                lost: error.lost(),
                message: error.to_string(),
            }
        });
        Self {
            stream,
            state: match check.state {
                stratawal_stream::CheckState::Sound => CheckState::Sound,
                stratawal_stream::CheckState::Torn => CheckState::Torn,
                stratawal_stream::CheckState::Damaged => CheckState::Damaged,
            },
            first: check.first,
            next: check.next,
            segments: check.segments,
            torn: check.torn.map(|t| Torn { segment: t.segment, offset: t.offset, bytes: t.bytes }),
            damage: damage.collect(),
        }
    }
}

/// The segment files of a stream, oldest first by name, each with its length in bytes; read from
/// the folder alone, so also of a damaged stream. Empty where there is no such stream.
///
/// # Errors
/// [`InvalidName`](ErrorKind::InvalidName); I/O.
pub fn segment_files(path: impl AsRef<Path>, stream: &str) -> Result<Vec<(String, u64)>> {
    let storage = UnixStorage::new();
    let dir = path.as_ref().join("streams").join(folder_of(stream)?);
    let failed = |e| Error::io(format!("cannot list {}", dir.display()), e);
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
            Ok(len) => files.push((name.to_owned(), len)),
            // Removed since it was listed; or no plain file, which verifying shows.
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

    #[test]
    fn a_stream_that_cannot_be_read_is_told_and_the_others_go_on() {
        let storage = HookedStorage::new(SimStorage::new(1));
        let log = Path::new("/log");
        let wal = Wal::open_on(Arc::new(storage.clone()), log, &Options::new(), false).unwrap();
        for name in ["a", "b", "c"] {
            wal.stream(name).unwrap().append(name).unwrap();
        }
        storage.set(|operation, path| match operation {
            Operation::Open if path.starts_with("/log/streams/b") => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        });
        let mut seen = Vec::new();
        let mut note = |check: Result<StreamCheck>| {
            seen.push(match check {
                Ok(check) => format!("{} {:?}", check.stream, check.state),
                Err(error) => format!("{} {:?}", error.stream().unwrap(), error.kind()),
            });
        };
        verify_on(&storage, log, None, &mut note).unwrap();
        verify_on(&storage, log, Some("b"), &mut note).unwrap();
        assert_eq!(seen, ["a Sound", "b Io", "c Sound", "b Io"]);
    }

    #[test]
    fn what_a_writer_drops_meanwhile_is_no_error() {
        let disk = SimStorage::new(1);
        // The reader's; the writer works within its hook.
        let storage = HookedStorage::new(disk.clone());
        let log = Path::new("/log");
        let small = crate::StreamOptions::new().segment_bytes(64 << 10);
        let options = Options::new().stream_defaults(small);
        let wal = Wal::open_on(Arc::new(disk), log, &options, false).unwrap();
        for way in 0..3 {
            let stream = wal.stream("s").unwrap();
            while stream.next_seq() < stream.first_seq() + 200 {
                stream.append([7; 2000]).unwrap();
            }
            let (writer, deleter) = (stream.clone(), wal.clone());
            let opened = stratawal_sync::Mutex::new(0_usize);
            storage.set(move |operation, path| {
                if operation == Operation::Open && path.extension().is_some_and(|extension| extension == "seg") {
                    // At places that shift from one look to the next.
                    let mut opened = opened.lock();
                    *opened += 1;
                    if opened.is_multiple_of(9) && *opened < 60 {
                        let (first, next) = (writer.first_seq(), writer.next_seq());
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
            let mut seen = Vec::new();
            verify_on(&storage, log, None, &mut |check| seen.push(check.unwrap())).unwrap();
            storage.clear();
            assert_eq!((seen.len(), seen[0].state), (1, CheckState::Sound), "{seen:?}");
            let stream = wal.stream("s").unwrap();
            assert!(seen[0].first.unwrap() <= stream.first_seq() && seen[0].next.unwrap() >= stream.next_seq());
            assert!(stream.next_seq() - stream.first_seq() < 200, "something was dropped");
        }
    }
}
