//! The index of a segment that was closed cleanly.

use stratawal_frame::FooterKind;
use stratawal_index::{ActiveIndex, Bounds, Index, IndexPoint};
use stratawal_segment::{Finished, SegmentFile};

use super::scan::{FIRST_FRAME, add_point};
use crate::write::active::CloseFrames;

/// The maximum length of a list of CLOSE frames that name one another. No writer exceeds it; a
/// cycle of CLOSE frames in a hostile file ends here.
const DEPTH_MAX: usize = 4096;

/// Returns the index of a cleanly closed segment, and its CLOSE frames, which hold the index. If
/// the index in them is not valid, rebuilds it from the frames of the segment.
pub(super) fn closed_index(
    file: &SegmentFile,
    close: &Finished,
    every: u64,
) -> stratawal_segment::Result<(ActiveIndex, CloseFrames)> {
    let from_closes = close_points(file, close).and_then(|(points, depth)| {
        let closes = CloseFrames { last: Some(close.offset), depth, points: points.len() };
        Some((ActiveIndex::from_points(every, &points).ok()?, closes))
    });
    if let Some(closed) = from_closes {
        return Ok(closed);
    }
    let index = ActiveIndex::new(every);
    file.scan_chain(&mut |offset, frame| add_point(&index, offset, frame))?;
    Ok((index, CloseFrames::default()))
}

/// Returns the index points in the CLOSE frames of a cleanly closed segment, oldest first, and the
/// number of those frames, or `None` if any of them is not valid.
fn close_points(file: &SegmentFile, close: &Finished) -> Option<(Vec<IndexPoint>, u32)> {
    let base = file.header().base.0;
    let mut blocks: Vec<Vec<IndexPoint>> = Vec::new();
    let mut offset = close.offset;
    let mut end_seq = close.frame.first_seq;
    let mut footer = close.footer.clone();
    loop {
        let bounds = Bounds { seq: base..end_seq.0, offset: FIRST_FRAME.0..offset.0 };
        blocks.push(Index::decode(&footer.index, &bounds).ok()?.points().to_vec());
        let FooterKind::Close { previous } = footer.kind else { return None };
        let Some(previous) = previous else { break };
        let before = file.close_at(previous).ok()??;
        if previous >= offset || before.frame.first_seq > end_seq || blocks.len() >= DEPTH_MAX {
            return None;
        }
        offset = previous;
        end_seq = before.frame.first_seq;
        footer = before.footer;
    }
    let depth = u32::try_from(blocks.len()).ok()?;
    let points: Vec<IndexPoint> = blocks.into_iter().rev().flatten().collect();
    let is_rising = points.windows(2).all(|pair| pair[0].seq < pair[1].seq && pair[0].offset < pair[1].offset);
    // A segment that has entries has a point for its first frame.
    let is_complete = close.footer.entries == 0 || points.first().is_some_and(|first| first.seq == base);
    (is_rising && is_complete).then_some((points, depth))
}
