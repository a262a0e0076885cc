//! The files of a stream in detail, for people who look at a log. Changes nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stratawal_frame::{ByteOffset, Control, FooterKind, FrameHeader, SEGMENT_HEADER_LEN, SeqNo, TRAILER_LEN};
use stratawal_segment::{FrameSearch, SegmentFile, SegmentId};

use crate::context::LogContext;
use crate::error::{Error, Result};
use crate::inner::Inner;
use crate::location::Location;
use crate::options::StreamOptions;
use crate::recovery::{StreamFiles, segment_ids};

/// A segment file in detail.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SegmentDetails {
    /// The name of the file in the directory of its stream.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The seq of its first entry, from its name.
    pub base: u64,
    /// Its generation, from its name. The files of a stream are in this order.
    pub generation: u32,
    /// When it was created. `None` if its header is not valid.
    pub created: Option<SystemTime>,
    /// One past its last entry, as far as its frames follow each other.
    pub next_seq: u64,
    /// Where those frames end, in bytes. The header is before them.
    pub written_bytes: u64,
    /// The number of those frames, control frames included.
    pub frames: u64,
    /// The times of the first and the last of them that has entries.
    pub times: Option<(SystemTime, SystemTime)>,
    /// How the file ends.
    pub end: SegmentEnd,
    /// Whether newer files hold, or have dropped, everything in it.
    pub is_void: bool,
    /// The damage, if the header is not valid, or entries that the file must have are missing.
    /// `inspect::verify` also finds damage to the end of a file.
    pub damage: Option<Error>,
}

/// The end of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentEnd {
    /// It has no end, because it is being written, or its writer has died.
    Open,
    /// It is sealed: another file follows.
    Sealed(SegmentFooter),
    /// The stream was closed, and no file follows.
    Closed(SegmentFooter),
}

/// The places of the parts at the end of a segment file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentFooter {
    /// Where the last frame, which is a SEAL or CLOSE, begins.
    pub offset: u64,
    /// The length of the index in it.
    pub index_bytes: u64,
    /// Where the trailer begins, which ends the file.
    pub trailer_offset: u64,
}

/// A frame of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameDetails {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its kind.
    pub kind: FrameKind,
    /// The seq of its first entry; in a control frame, of the next entry.
    pub first_seq: u64,
    /// The number of its entries; 0 in a control frame.
    pub count: u32,
    /// The time of its first entry.
    pub time: SystemTime,
    /// Whether its payload is valid. Its header is.
    pub is_valid: bool,
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameKind {
    /// Entries.
    Entries,
    /// It only attests how far the stream was durable.
    Mark,
    /// It states the first live seq.
    Start,
    /// It ends the file, and names the next one.
    Seal,
    /// It ends the stream.
    Close,
    /// A control frame whose payload is not valid.
    Unknown,
}

impl FrameKind {
    /// A short name in lower case. It stays the same in later versions.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Entries => "entries",
            Self::Mark => "mark",
            Self::Start => "start",
            Self::Seal => "seal",
            Self::Close => "close",
            Self::Unknown => "unknown",
        }
    }
}

/// Returns the segment files of a stream, in order of generation. Reads all of them. Empty if the
/// stream has no directory.
///
/// # Errors
/// I/O. Damage is part of the result.
pub fn segment_details(
    context: &Arc<LogContext>,
    location: &Location,
    options: &StreamOptions,
) -> Result<Vec<SegmentDetails>> {
    let files = StreamFiles::new(context, location, options);
    if !files.exist()? {
        return Ok(Vec::new());
    }
    let ids = segment_ids(&files)?;
    let start = match Inner::open(Arc::clone(context), location.clone(), options.clone()) {
        Ok(inner) => SeqNo(inner.report.load().first_seq),
        // The files alone may know less: the commit journal may have a later START.
        Err(_) => first_seq_in_newest(&files, &ids)?,
    };
    let limit = |i: usize| ids[i + 1..].iter().map(|id| id.base).min();
    (0..ids.len()).map(|i| details_of(&files, ids[i], limit(i), start)).collect()
}

/// The first live seq that the newest segment records; 0 if it cannot be opened.
fn first_seq_in_newest(files: &StreamFiles<'_>, ids: &[SegmentId]) -> Result<SeqNo> {
    match ids.last().map(|newest| files.open(*newest)) {
        Some(Ok(newest)) => first_seq_in(&newest).map_err(|error| files.failed(error)),
        _ => Ok(SeqNo(0)),
    }
}

/// The first live seq that `newest` records.
fn first_seq_in(newest: &SegmentFile) -> stratawal_segment::Result<SeqNo> {
    let close = newest.finished()?.filter(|finished| matches!(finished.footer.kind, FooterKind::Close { .. }));
    match close {
        Some(close) => Ok(close.footer.start),
        None => Ok(newest.scan_chain(&mut |_, _| {})?.start.unwrap_or(newest.header().start)),
    }
}

/// The details of the segment `id`, whose entries at or above `limit` are void, and those below
/// `start` were dropped.
fn details_of(files: &StreamFiles<'_>, id: SegmentId, limit: Option<SeqNo>, start: SeqNo) -> Result<SegmentDetails> {
    let mut details = SegmentDetails {
        name: id.to_string(),
        bytes: 0,
        base: id.base.0,
        generation: id.generation.0,
        created: None,
        next_seq: id.base.0,
        written_bytes: 0,
        frames: 0,
        times: None,
        end: SegmentEnd::Open,
        is_void: limit.is_some_and(|limit| limit <= id.base),
        damage: None,
    };
    let file = match files.open(id) {
        Ok(file) => file,
        Err(error) if error.is_damage() || error.is_newer() => {
            details.damage = Some(files.failed(error));
            return Ok(details);
        }
        Err(error) => return Err(files.failed(error)),
    };
    read_into(&mut details, &file, limit, start).map_err(|error| files.failed(error)).map(|missing| {
        details.damage = missing.map(|at| files.lost_at(id, at.0));
        details
    })
}

/// Reads the file. Returns where its frames end, if entries are missing there.
fn read_into(
    details: &mut SegmentDetails,
    file: &SegmentFile,
    limit: Option<SeqNo>,
    start: SeqNo,
) -> stratawal_segment::Result<Option<ByteOffset>> {
    details.bytes = file.len();
    details.created = Some(at(file.header().created));
    let mut chain = file.scan_chain(&mut |_, _| details.frames += 1)?;
    // Damage to entries that were dropped is not damage to the stream.
    if chain.end_seq < start
        && let Some((offset, first)) = frame_with(file, chain.end, start)?
    {
        chain = file.scan_chain_from(offset, first, &mut |_, _| details.frames += 1)?;
    }
    details.next_seq = chain.end_seq.0;
    details.written_bytes = chain.end.0;
    details.times = chain.times.map(|(first, last)| (at(first), at(last)));
    let finished = file.finished()?;
    let mut needed = match &finished {
        Some(finished) => finished.frame.first_seq,
        None => file.attestations(chain.end)?.attested,
    };
    if let Some(finished) = finished {
        let footer = SegmentFooter {
            offset: finished.offset.0,
            index_bytes: finished.footer.index.len() as u64,
            trailer_offset: file.len().saturating_sub(TRAILER_LEN as u64),
        };
        details.end = match finished.footer.kind {
            FooterKind::Seal { .. } => SegmentEnd::Sealed(footer),
            FooterKind::Close { .. } => SegmentEnd::Closed(footer),
        };
    }
    if let Some(limit) = limit {
        needed = if details.is_void { SeqNo(0) } else { needed.min(limit) };
    }
    Ok((chain.end_seq < needed && start < needed).then_some(chain.end))
}

/// The offset and the first seq of the valid frame at or after `from` that holds `seq`.
fn frame_with(
    file: &SegmentFile,
    from: ByteOffset,
    seq: SeqNo,
) -> stratawal_segment::Result<Option<(ByteOffset, SeqNo)>> {
    let mut search = FrameSearch::new(file, from);
    while let Some(found) = search.next_frame()? {
        let holds = found.header.first_seq <= seq && seq < found.header.end_seq();
        if holds && found.is_whole {
            return Ok(Some((found.offset, found.header.first_seq)));
        }
    }
    Ok(None)
}

/// Passes each frame of a segment file to `visit`, in the order of their offsets, also those after
/// damage. Returns the details of the file, or `None` if the stream has no file of this name.
///
/// # Errors
/// I/O; damage to the header of the file.
pub fn frame_details(
    context: &Arc<LogContext>,
    location: &Location,
    options: &StreamOptions,
    name: &str,
    visit: &mut dyn FnMut(FrameDetails),
) -> Result<Option<SegmentDetails>> {
    let all = segment_details(context, location, options)?;
    let Some(details) = all.into_iter().find(|details| details.name == name) else { return Ok(None) };
    let files = StreamFiles::new(context, location, options);
    let id = SegmentId { base: SeqNo(details.base), generation: stratawal_frame::Generation(details.generation) };
    let failed = |error| files.failed(error);
    let file = files.open(id).map_err(failed)?;
    let mut search = FrameSearch::new(&file, ByteOffset(SEGMENT_HEADER_LEN as u64));
    while let Some(found) = search.next_frame().map_err(failed)? {
        let header: FrameHeader = found.header;
        let kind = match header.is_control() {
            false => FrameKind::Entries,
            true => match search.read(&found).map_err(failed)?.as_ref().and_then(|frame| frame.control()) {
                Some(Control::Mark) => FrameKind::Mark,
                Some(Control::Start { .. }) => FrameKind::Start,
                Some(Control::Footer(footer)) if matches!(footer.kind, FooterKind::Close { .. }) => FrameKind::Close,
                Some(Control::Footer(_)) => FrameKind::Seal,
                _ => FrameKind::Unknown,
            },
        };
        visit(FrameDetails {
            offset: found.offset.0,
            bytes: header.frame_len(),
            kind,
            first_seq: header.first_seq.0,
            count: header.count,
            time: at(header.timestamp),
            is_valid: found.is_whole,
        });
    }
    Ok(Some(details))
}

fn at(micros: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(micros)
}
