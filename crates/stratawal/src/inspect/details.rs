//! The segments, frames and journal records of a log.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use stratawal_frame::StreamId;
use stratawal_journal::{Image, Located, Record};
use stratawal_storage::UnixStorage;
use stratawal_stream::{
    Found, FrameDetails, Location, SegmentDetails, StreamOptions, frame_details, segment_details, stream_id,
};

use super::reader_context;
use crate::error::Result;
use crate::journal::journal_error;
use crate::root::{JOURNAL, Root};
use crate::wal::stream_dir;

/// Returns the segment files of the stream, in the order in which they were created. Reads all of
/// them. Empty if there is no such stream, or if it is in the journal alone. Changes nothing.
/// Another process may write to the log at the same time; then the last file may look damaged.
///
/// # Errors
/// [`Missing`](crate::ErrorKind::Missing) if the log does not exist;
/// [`InvalidName`](crate::ErrorKind::InvalidName); any operating-system error. Damage is part of the
/// result.
pub fn segments(path: impl AsRef<Path>, stream: &str) -> Result<Vec<SegmentDetails>> {
    let root = Root::open_read_only(&UnixStorage::new(), path.as_ref())?;
    let location = Location::new(root.streams(), stream_dir(stream)?).named(stream);
    segment_details(&Arc::new(reader_context(&root)), &location, &StreamOptions::new())
}

/// Passes each frame of the segment file `segment` of the stream to `visit`, in the order of their
/// offsets, also those after damage. Returns the details of the file, or `None` if there is no such
/// file. Changes nothing.
///
/// # Errors
/// Same as [`segments`]. [`Damaged`](crate::ErrorKind::Damaged) if the header of the file is not
/// valid: then its frames cannot be found.
pub fn frames(
    path: impl AsRef<Path>,
    stream: &str,
    segment: &str,
    mut visit: impl FnMut(FrameDetails),
) -> Result<Option<SegmentDetails>> {
    let root = Root::open_read_only(&UnixStorage::new(), path.as_ref())?;
    let location = Location::new(root.streams(), stream_dir(stream)?).named(stream);
    let context = Arc::new(reader_context(&root));
    frame_details(&context, &location, &StreamOptions::new(), segment, &mut visit)
}

/// A record of the commit journal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalRecord {
    /// The position of the record in the journal, in bytes from its beginning.
    pub lsn: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its kind: `data`, `copy`, `firm`, `start`, `settled`, `drop`, `trim`, `mark`, `close`,
    /// `next` or `pad`.
    pub kind: &'static str,
    /// The streams that it concerns, each with its entries: the first seq, and one past the last.
    /// Both are the same for a record without entries. A stream whose name is not known has its id.
    pub streams: Vec<(String, u64, u64)>,
    /// Whether it comes after damage, so that a record before it is lost.
    pub is_after_damage: bool,
}

/// Returns the records of the commit journal that the log may still need, in their order. Empty if
/// the log has no journal. Changes nothing.
///
/// # Errors
/// [`Missing`](crate::ErrorKind::Missing) if the log does not exist;
/// [`Damaged`](crate::ErrorKind::Damaged) if no record can be read; any operating-system error.
pub fn journal_records(path: impl AsRef<Path>) -> Result<Vec<JournalRecord>> {
    let root = Root::open_read_only(&UnixStorage::new(), path.as_ref())?;
    if !root.format.has_journal() {
        return Ok(Vec::new());
    }
    let image = Image::read(&*root.storage, Path::new(JOURNAL), root.format.wal_id);
    let image = image.map_err(|error| journal_error(&root, &error))?;
    let remaining = image.remaining().streams.into_iter();
    let in_journal =
        remaining.filter_map(|(id, stream)| Some((id, String::from_utf8_lossy(&stream.name?).into_owned())));
    let mut names: BTreeMap<StreamId, String> = in_journal.collect();
    // A record of a stream that has a directory needs no name.
    for name in root.stream_names()? {
        let location = Location::new(root.streams(), stream_dir(&name)?).named(&name);
        if let Found::Stream(id) = stream_id(&root.storage, root.format.wal_id, &location) {
            names.insert(id, name);
        }
    }
    let name = |id: StreamId| names.get(&id).cloned().unwrap_or_else(|| format!("id {id}"));
    let shown = |located: &Located, is_after_damage| JournalRecord {
        lsn: located.lsn.0,
        bytes: located.len,
        kind: kind_of(&located.record),
        streams: match &located.record {
            Record::Data(parts) | Record::Copy(parts) => {
                parts.iter().map(|part| (name(part.stream), part.first.0, part.end().0)).collect()
            }
            Record::Firm { stream, seq } | Record::Start { stream, seq, .. } | Record::Settled { stream, seq } => {
                vec![(name(*stream), seq.0, seq.0)]
            }
            Record::Drop { name, .. } => vec![(String::from_utf8_lossy(name).into_owned(), 0, 0)],
            _ => Vec::new(),
        },
        is_after_damage,
    };
    let chain = image.records().iter().map(|located| shown(located, false));
    Ok(chain.chain(image.records_after_damage().iter().map(|located| shown(located, true))).collect())
}

const fn kind_of(record: &Record) -> &'static str {
    match record {
        Record::Data(_) => "data",
        Record::Copy(_) => "copy",
        Record::Firm { .. } => "firm",
        Record::Start { .. } => "start",
        Record::Settled { .. } => "settled",
        Record::Drop { .. } => "drop",
        Record::Trim { .. } => "trim",
        Record::Mark => "mark",
        Record::Close => "close",
        Record::Next => "next",
        Record::Pad { .. } => "pad",
    }
}
