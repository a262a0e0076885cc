//! Step 5 for one segment: how far its chain of frames goes, and how far anything valid in it
//! attests that the stream was durable.
//!
//! A scan can be resumed: a reader that looks again reads only the new part of the file.

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

/// Which part of a segment is read first. A writer that recovers is alone. A reader beside a writer
/// must read the attested watermark before the chain that has to reach it, or the chain would seem
/// to end too early.
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
    /// The length that the file had when it was closed. `Some` where the file has another length
    /// than one that is being written, and its chain ends in the CLOSE.
    pub(super) closed_len: Option<u64>,
    pub(super) chain: Chain,
    /// Where the chain was entered, and the first seq there: at the first frame, unless only later
    /// entries have to be sound.
    pub(super) entry: (ByteOffset, SeqNo),
    /// The highest watermark that any valid frame in it attests, in the chain or not.
    pub(super) attested: SeqNo,
    /// Later looks add points to it. The snapshots of earlier looks do not use points after their
    /// own end.
    pub(super) index: Arc<ActiveIndex>,
    /// The header checksum of the frame of its chain that holds the entry before its limit.
    pub(super) last_crc: Option<u32>,
    pub(super) resume: ResumeState,
}

/// From this a later look continues a scan.
#[derive(Debug)]
pub(crate) struct ResumeState {
    /// The last frame of the chain, and where it is.
    last: Option<(ByteOffset, FrameHeader)>,
    /// The file before it was read.
    pub(super) stamp: ObservedStamp,
    /// Whether all of the file after the chain was searched for attestations since `stamp`.
    pub(super) is_searched: bool,
    /// Entries from here on are not in the index.
    limit: SeqNo,
    /// Up to here this reader has synced the file.
    pub(super) synced_to: ByteOffset,
    /// How many bytes there are after the chain up to the last one that is not zero, where that is
    /// known.
    pub(super) torn_len: Option<u64>,
    /// Bytes that the last look read of the file.
    pub(super) read_bytes: u64,
}

/// How many bytes after the chain each look searches for attestations: one short read, with the
/// header of a frame.
const NEAR_LEN: u64 = 4000;

/// How often a resumed scan follows a chain that grows while it is read.
const ROUNDS_MAX: usize = 4;

impl SegmentScan {
    /// Scans `file`, of which entries from `limit` on are void.
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

    /// Continues this scan, an earlier one of `file`. `None` where it does not hold any more.
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
        // Where the chain grows during the search, the rest of it is for the next look.
        self.resume.is_searched = searches && !self.step(file, limit, u64::MAX)?;
        self.resume.stamp = stamp;
        self.resume.torn_len = None;
        let read_to = if searches { self.len } else { self.chain.end.0 };
        self.resume.read_bytes = read_to.saturating_sub(earlier_end.0);
        self.closed_len = closed_len(file, &self.chain)?;
        self.set_limit(file, limit);
        Ok(Some(self))
    }

    /// The segment as readers see it, up to the end of the chain.
    pub(super) fn live(&self, file: &SegmentFile) -> LiveSegment {
        LiveSegment::new(SegmentData::read(file), Arc::clone(&self.index), self.chain.end.0)
    }

    /// Whether the chain was entered after its first frame, because it is damaged before.
    pub(super) fn is_entered_late(&self) -> bool {
        self.entry.0 > FIRST_FRAME
    }

    /// Makes the entries from `limit` on void. Reads the checksum of the frame before `limit` where
    /// it is not known.
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
    /// other order a writer at work would seem to have attested entries that do not exist. Returns
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

/// Adds a frame of a chain to an index. In a chain seqs and offsets rise. Timestamps of a hostile
/// file may fall; then the frame gets no point and is found from the point before.
pub(super) fn add_point(index: &ActiveIndex, offset: ByteOffset, frame: &FrameHeader) {
    if !frame.is_control() {
        let _ = index.push(frame.first_seq.0, offset.0, frame.timestamp);
    }
}
