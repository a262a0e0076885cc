//! Step 8: writes the SEALs that are missing before the new generation.

use bytes::Bytes;
use stratawal_frame::{Footer, FooterKind, INDEX_BLOCK_LEN_MAX, SegmentHeader, SeqNo};
use stratawal_index::encode_points_within;
use stratawal_segment::{ControlContext, SegmentWriter};

use super::files::StreamFiles;
use super::found::FoundSegment;
use super::scan::SegmentScan;
use crate::error::Result;

/// Seals from the newest kept segment back to the first whose chain ends in a SEAL with a valid
/// trailer that names the next segment. Bytes after a chain are not trusted. A first segment whose
/// chain is damaged below the first live seq always gets its SEAL. `newest` is the header of the
/// new generation.
pub(super) fn seal_kept(
    files: &StreamFiles<'_>,
    kept: &[FoundSegment],
    newest: &SegmentHeader,
    first_seq: SeqNo,
    timestamp: u64,
) -> Result<()> {
    let mut next = *newest;
    for (i, found) in kept.iter().enumerate().rev() {
        // A file that was closed is closed again immediately: there may be more such files than the
        // process may have open.
        let finished = found.file(files)?.finished().map_err(|e| files.failed(e))?;
        if finished.is_some_and(|finished| matches!(finished.footer.kind, FooterKind::Seal { .. })) {
            match kept {
                [first, second, ..] if i > 0 && is_entered_late(first) => {
                    return seal_kept(files, &kept[..1], second.header(), first_seq, timestamp);
                }
                _ => return Ok(()),
            }
        }
        let scan = found.scan.as_ref().expect("invariant: a segment without a SEAL was scanned");
        seal(files, found, scan, &next, first_seq, timestamp)?;
        next = *found.header();
    }
    Ok(())
}

/// Writes a SEAL that names `next` after the chain, and makes it durable.
fn seal(
    files: &StreamFiles<'_>,
    found: &FoundSegment,
    scan: &SegmentScan,
    next: &SegmentHeader,
    first_seq: SeqNo,
    timestamp: u64,
) -> Result<()> {
    let limit = found.limit.min(next.base);
    let file = files.open_to_write(found.id())?;
    let (mut writer, mut preallocation) = SegmentWriter::resume(&file, scan.chain.end);
    let mut points = scan.index.points_from(0);
    points.retain(|point| point.seq < limit.0);
    let block = encode_points_within(&points, INDEX_BLOCK_LEN_MAX).expect("invariant: points of an index rise");
    let seal = Footer {
        kind: FooterKind::Seal { successor: next.generation, salt: next.salt },
        start: first_seq,
        entries: scan.chain.end_seq.min(limit) - file.header().base,
        times: scan.chain.times.unwrap_or_default(),
        index: Bytes::from(block),
    };
    let context = ControlContext { next_seq: scan.chain.end_seq, timestamp, durable: next.durable };
    let sealed = writer
        .finish(&mut preallocation, &context, seal)
        .and_then(|()| writer.sync())
        .and_then(|()| writer.trim_to_trailer());
    sealed.map_err(|e| files.failed(e))?;
    if scan.is_entered_late() {
        // The chain is damaged below the first live seq. The next open must find the trailer at the
        // end of the file, or it would scan the chain. So the new length also has to be durable.
        writer.sync().map_err(|e| files.failed(e))?;
    }
    Ok(())
}

fn is_entered_late(found: &FoundSegment) -> bool {
    found.scan.as_ref().is_some_and(SegmentScan::is_entered_late)
}
