//! Step 6: rewrites frames that may not be on the disk.
//!
//! After a failed fsync the page cache may show bytes that the disk does not hold. So every frame
//! of the chain that is not entirely below the attested watermark is rewritten in place with the
//! same bytes, and synced, oldest segment first. Frames at or above a segment's limit are not
//! rewritten.

use stratawal_frame::{
    ByteOffset, Decoded, FRAME_HEADER_LEN, FrameHeader, FramePosition, Limits, PayloadChecksum, SeqNo, decode_header,
};
use stratawal_segment::{SegmentData, SegmentFile, SegmentWriter};
use stratawal_sync::fail_point;

use super::analysis::Analysis;
use super::files::StreamFiles;
use super::found::FoundSegment;
use super::scan::SegmentScan;
use crate::error::Result;

/// How many bytes are rewritten at a time.
const PIECE_LEN: u64 = 1 << 20;

/// Rewrites the frames of the chain, and returns the number of bytes rewritten. Returns `None` if
/// the files differ from what step 5 read: the system may drop an unsynced page at any time, and
/// then the chain ends before it.
pub(super) fn rewrite(files: &StreamFiles<'_>, analysis: &Analysis) -> Result<Option<u64>> {
    let mut rewritten = 0;
    for found in analysis.chain() {
        let Some(scan) = &found.scan else { continue };
        let file = files.open_to_write(found.id())?;
        let segment = rewrite_segment(&file, found, scan, analysis.durable);
        let Some(len) = segment.map_err(|e| files.failed(e))? else { return Ok(None) };
        rewritten += len;
    }
    Ok(Some(rewritten))
}

fn rewrite_segment(
    file: &SegmentFile,
    found: &FoundSegment,
    scan: &SegmentScan,
    durable: SeqNo,
) -> stratawal_segment::Result<Option<u64>> {
    let mut frames = Vec::new();
    let (offset, first_seq) = scan.entry;
    let chain = file.scan_chain_from(offset, first_seq, &mut |offset, frame| {
        // For a control frame, its first seq decides.
        let is_below = match frame.is_control() {
            true => frame.first_seq < durable,
            false => frame.end_seq() <= durable,
        };
        if !is_below && frame.first_seq < found.limit {
            frames.push((offset, *frame));
        }
    })?;
    if chain.end != scan.chain.end || chain.end_seq != scan.chain.end_seq {
        return Ok(None);
    }
    if fail_point!(TailNotRewritten) {
        frames.clear();
    }
    let (writer, _) = SegmentWriter::resume(file, scan.chain.end);
    if !rewrite_frames(file, &writer, &frames)? {
        return Ok(None);
    }
    writer.sync()?;
    Ok(Some(frames.iter().map(|(_, frame)| frame.frame_len()).sum()))
}

/// Rewrites adjacent frames, small ones together. Returns false if one is no longer valid.
fn rewrite_frames(
    file: &SegmentFile,
    writer: &SegmentWriter,
    frames: &[(ByteOffset, FrameHeader)],
) -> stratawal_segment::Result<bool> {
    let mut rest = frames;
    while let Some((first, frame)) = rest.first() {
        let mut len = frame.frame_len();
        let mut count = 1;
        while let Some((offset, frame)) = rest.get(count)
            && *offset == *first + len
            && len + frame.frame_len() <= PIECE_LEN
        {
            len += frame.frame_len();
            count += 1;
        }
        let (group, others) = rest.split_at(count);
        let is_valid = if len <= PIECE_LEN {
            rewrite_small(file, writer, group, len)?
        } else {
            rewrite_large(file, writer, *first, frame)?
        };
        if !is_valid {
            return Ok(false);
        }
        rest = others;
    }
    Ok(true)
}

/// Rewrites frames that together fit into one piece.
fn rewrite_small(
    file: &SegmentFile,
    writer: &SegmentWriter,
    frames: &[(ByteOffset, FrameHeader)],
    len: u64,
) -> stratawal_segment::Result<bool> {
    let from = frames[0].0;
    let bytes = SegmentData::read(file).block(from.0..from.0 + len)?;
    for (offset, frame) in frames {
        // Step 5 has checked the same: the header, and the checksum of the payload.
        let at = usize::try_from(offset.0 - from.0).expect("invariant: a piece is small");
        let (header, payload) = bytes[at..].split_at(FRAME_HEADER_LEN);
        let mut checksum = PayloadChecksum::new();
        checksum.update(&payload[..frame.payload_len as usize]);
        if !has_header(file, *offset, header, frame) || checksum.finish() != frame.payload_crc {
            return Ok(false);
        }
    }
    writer.rewrite(from, &bytes)?;
    Ok(true)
}

/// Rewrites a frame that is longer than a piece. Its checksum is known only after its last piece,
/// so an invalid frame is also rewritten, with the bytes that were read, and stays invalid.
fn rewrite_large(
    file: &SegmentFile,
    writer: &SegmentWriter,
    from: ByteOffset,
    frame: &FrameHeader,
) -> stratawal_segment::Result<bool> {
    let data = SegmentData::read(file);
    let payload_start = from.0 + FRAME_HEADER_LEN as u64;
    let payload_end = payload_start + u64::from(frame.payload_len);
    let end = from.0 + frame.frame_len();
    let mut at = from.0;
    let mut checksum = PayloadChecksum::new();
    let mut is_header_valid = true;
    while at < end {
        let to = end.min(at + PIECE_LEN);
        let bytes = data.block(at..to)?;
        if at == from.0 {
            is_header_valid = has_header(file, from, &bytes[..FRAME_HEADER_LEN], frame);
        }
        let within = |offset: u64| usize::try_from(offset.clamp(at, to) - at).expect("invariant: a piece is small");
        checksum.update(&bytes[within(payload_start)..within(payload_end)]);
        writer.rewrite(ByteOffset(at), &bytes)?;
        at = to;
    }
    Ok(is_header_valid && checksum.finish() == frame.payload_crc)
}

/// Whether `bytes` hold the header `frame` at this offset.
fn has_header(file: &SegmentFile, offset: ByteOffset, bytes: &[u8], frame: &FrameHeader) -> bool {
    let limits = Limits { base: file.header().base, end: ByteOffset(file.len()) };
    let position = FramePosition { salt: file.header().salt, offset };
    decode_header(bytes, &position, &limits) == Decoded::Frame(*frame)
}
