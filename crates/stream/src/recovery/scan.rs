//! Step 5 for one segment: how far its chain of frames extends, and how far anything valid in it
//! attests that the stream was durable.
//!
//! A scan can be resumed: a refreshing reader reads only the new part of the file.

use std::sync::Arc;

use stratawal_frame::{ByteOffset, FrameHeader, SEGMENT_HEADER_LEN, SeqNo, TRAILER_LEN};
use stratawal_index::ActiveIndex;
use stratawal_segment::{Chain, SegmentData, SegmentFile};
use stratawal_sync::fail_point;

use super::files::StreamFiles;
use super::stamp::ObservedStamp;
use crate::history::last_frame_crc;
use crate::read::snapshot::{LiveSegment, first_point};

/// Where the first frame of a segment begins.
pub(super) const FIRST_FRAME: ByteOffset = ByteOffset(SEGMENT_HEADER_LEN as u64);

/// Which part of a segment is read first. A recovering writer has the files to itself, so the order
/// does not matter. A reader that runs alongside a writer must read the attested watermark before
/// the chain that has to reach it, or the chain would seem to end too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOrder {
    ChainFirst,
    AttestationsFirst,
}

/// The findings of a scan of one segment.
#[derive(Debug)]
pub(crate) struct SegmentScan {
    /// The length of the file, in bytes.
    pub(super) len: u64,
    /// Whether that is the length of a file that is being written.
    pub(super) has_active_len: bool,
    /// The length that the file had when it was closed. `Some` if its length is not that of a file
    /// that is being written, and its chain ends in the CLOSE.
    pub(super) closed_len: Option<u64>,
    pub(super) chain: Chain,
    /// The offset and first seq at which the chain was entered: those of the first frame, unless
    /// only later entries have to be sound.
    pub(super) entry: (ByteOffset, SeqNo),
    /// The highest watermark that any valid frame in the segment attests, whether or not in the
    /// chain.
    pub(super) attested: SeqNo,
    /// Later looks add points to this index. The snapshots of earlier looks do not use points after
    /// their own end.
    pub(super) index: Arc<ActiveIndex>,
    /// The header checksum of the chain's frame that holds the entry before the segment's limit.
    pub(super) last_crc: Option<u32>,
    pub(super) resume: ResumeState,
}

/// The state from which a later look continues the scan.
#[derive(Debug)]
pub(crate) struct ResumeState {
    /// The last frame of the chain and its offset.
    last: Option<(ByteOffset, FrameHeader)>,
    /// The stamp of the file before it was read.
    pub(super) stamp: ObservedStamp,
    /// Whether the whole file after the chain was searched for attestations since `stamp`.
    pub(super) is_searched: bool,
    /// Entries at or above this are not in the index.
    limit: SeqNo,
    /// This reader has synced the file up to here.
    pub(super) synced_to: ByteOffset,
    /// The number of bytes after the chain up to the last nonzero byte, if known.
    pub(super) torn_len: Option<u64>,
    /// The number of bytes of the file that the last look read.
    pub(super) read_bytes: u64,
}

/// How many bytes after the chain each look searches for attestations: one short read, with the
/// header of a frame.
const NEAR_LEN: u64 = 4000;

/// How many times a resumed scan follows a chain that grows while it is read.
const ROUNDS_MAX: usize = 4;

impl SegmentScan {
    /// Scans `file`. Entries at or above `limit` are void.
    pub(super) fn new(
        files: &StreamFiles<'_>,
        file: &SegmentFile,
        limit: SeqNo,
        order: ReadOrder,
    ) -> stratawal_segment::Result<Self> {
        let stamp = ObservedStamp::now(files, file, None)?;
        let read_before = match order {
            ReadOrder::ChainFirst => None,
            ReadOrder::AttestationsFirst => Some(file.attestations(FIRST_FRAME)?.attested),
        };
        let index = ActiveIndex::new(files.options.index_interval_bytes);
        let mut last = None;
        let mut before_limit = None;
        let chain = file.scan_chain(&mut |offset, frame| {
            last = Some((offset, *frame));
            if frame.first_seq < limit {
                add_point(&index, offset, frame);
                if !frame.is_control() && frame.end_seq() >= limit {
                    before_limit = Some(offset);
                }
            }
        })?;
        let attested = match read_before {
            Some(attested) => attested,
            None if fail_point!(ZerosAreTheEnd) => chain.attested,
            None => file.attestations(chain.end)?.attested,
        };
        let closed_len = closed_len(file, &chain)?;
        let last_crc = before_limit.map(|at| file.header_crc_at(at)).transpose()?;
        Ok(Self {
            len: file.len(),
            has_active_len: file.has_active_len(),
            closed_len,
            entry: (FIRST_FRAME, file.header().base),
            attested: attested.max(chain.attested),
            chain,
            index: Arc::new(index),
            last_crc,
            resume: ResumeState {
                last,
                stamp,
                is_searched: true,
                limit,
                synced_to: ByteOffset(0),
                torn_len: None,
                read_bytes: file.len(),
            },
        })
    }

    /// Continues this earlier scan of `file`. Returns `None` if the scan is no longer valid.
    pub(super) fn resumed(
        mut self,
        files: &StreamFiles<'_>,
        file: &SegmentFile,
        limit: SeqNo,
    ) -> stratawal_segment::Result<Option<Self>> {
        let stamp = ObservedStamp::now(files, file, Some(&self.resume.stamp))?;
        self.resume.read_bytes = 0;
        let is_indexed = limit <= self.resume.limit;
        if is_indexed && self.resume.is_searched && stamp.is_unchanged_since(&self.resume.stamp) {
            self.set_limit(file, limit);
            return Ok(Some(self));
        }
        let earlier_end = self.chain.end;
        let earlier_attested = self.attested;
        let has_last = match &self.resume.last {
            Some((at, frame)) => file.has_header(*at, frame)?,
            None => true,
        };
        if !is_indexed || !has_last || file.len() < earlier_end.0 {
            return Ok(None);
        }
        self.len = file.len();
        self.has_active_len = file.has_active_len();
        for _ in 0..ROUNDS_MAX {
            if !self.step(file, limit, NEAR_LEN)? {
                break;
            }
        }
        let is_explained = self.chain.end > earlier_end || self.attested > earlier_attested;
        let is_changed = stamp.stamp != self.resume.stamp.stamp;
        let searches = stamp.stamp.is_none() || stamp.is_settled || (is_changed && !is_explained);
        // If the chain grows during the search, the rest is left to the next look.
        self.resume.is_searched = searches && !self.step(file, limit, u64::MAX)?;
        self.resume.stamp = stamp;
        self.resume.torn_len = None;
        let read_to = if searches { self.len } else { self.chain.end.0 };
        self.resume.read_bytes = read_to.saturating_sub(earlier_end.0);
        self.closed_len = closed_len(file, &self.chain)?;
        self.set_limit(file, limit);
        Ok(Some(self))
    }

    /// Returns the segment as readers see it, up to the end of the chain.
    pub(super) fn live(&self, file: &SegmentFile) -> LiveSegment {
        LiveSegment::new(SegmentData::read(file), Arc::clone(&self.index), self.chain.end.0)
    }

    /// Whether the chain was entered after its first frame because of damage before that point.
    pub(super) fn is_entered_late(&self) -> bool {
        self.entry.0 > FIRST_FRAME
    }

    /// Makes the entries at or above `limit` void. Reads the checksum of the frame before `limit`
    /// if it is not known.
    fn set_limit(&mut self, file: &SegmentFile, limit: SeqNo) {
        let is_known = self.last_crc.is_some() && limit == self.resume.limit;
        self.resume.limit = limit;
        if is_known || self.chain.end_seq < limit {
            return;
        }
        let before = self.index.floor(limit.0.saturating_sub(1));
        let point = before.map_or_else(|| first_point(file.header()), |span| span.point);
        self.last_crc = last_frame_crc(&SegmentData::read(file), point, limit.0);
    }

    /// Searches `len` bytes after the chain for attestations, and then extends the chain. In the
    /// other order, an active writer would seem to have attested entries that do not exist. Returns
    /// whether the chain has grown.
    fn step(&mut self, file: &SegmentFile, limit: SeqNo, len: u64) -> stratawal_segment::Result<bool> {
        let before = self.chain.end;
        let attested = file.attestations_within(before, len)?.attested;
        let index = Arc::clone(&self.index);
        let last = &mut self.resume.last;
        file.extend_chain(&mut self.chain, &mut |offset, frame| {
            *last = Some((offset, *frame));
            if frame.first_seq < limit {
                add_point(&index, offset, frame);
            }
        })?;
        self.attested = self.attested.max(attested).max(self.chain.attested);
        Ok(self.chain.end > before)
    }
}

/// See [`SegmentScan::closed_len`].
fn closed_len(file: &SegmentFile, chain: &Chain) -> stratawal_segment::Result<Option<u64>> {
    if file.has_active_len() {
        return Ok(None);
    }
    let close = chain.close.map_or(Ok(None), |close| file.close_at(close))?;
    let ends = close.map(|close| close.offset + close.frame.frame_len());
    Ok(ends.filter(|&ends| ends == chain.end).map(|ends| ends.0 + TRAILER_LEN as u64))
}

/// Adds a frame of a chain to an index. In a chain, seqs and offsets rise. In a hostile file,
/// timestamps may go backwards; the frame then gets no point and is found from the previous one.
pub(super) fn add_point(index: &ActiveIndex, offset: ByteOffset, frame: &FrameHeader) {
    if !frame.is_control() {
        let _ = index.push(frame.first_seq.0, offset.0, frame.timestamp);
    }
}
