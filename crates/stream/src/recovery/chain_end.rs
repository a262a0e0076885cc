//! Step 5 over all segments: where the chain of frames ends, and whether that is a torn tail or
//! damage.

use stratawal_frame::{FooterKind, SeqNo};
use stratawal_sync::fail_point;

use super::files::StreamFiles;
use super::found::FoundSegment;
use super::lost_range;
use super::scan::ReadOrder;
use crate::error::{DamageKind, Error, Result};

/// How many scanned files, the newest ones, stay open. With the file being scanned that makes 16: a
/// stream may have more segments to scan than the process may have open files.
const SCANNED_OPEN_MAX: usize = 15;

/// Scans back from the newest segment, which is already scanned, and returns the attested
/// watermark. A segment is scanned if the watermark found so far is below the oldest scanned
/// segment, or if the segment does not end in a valid SEAL and trailer. (Step 8 must not seal a
/// chain that breaks below its limit.)
pub(super) fn scan_back(files: &StreamFiles<'_>, live: &mut [FoundSegment], order: ReadOrder) -> Result<SeqNo> {
    let newest = live.len() - 1;
    let mut durable = live[newest].scan.as_ref().map_or(SeqNo(0), |scan| scan.attested);
    let mut oldest_base = live[newest].header().base;
    let mut open = 1;
    for found in live[..newest].iter_mut().rev() {
        if !found.is_sealed {
            let finished = found.keep_open(files)?.finished().map_err(|e| files.failed(e))?;
            found.is_sealed = finished.is_some_and(|f| matches!(f.footer.kind, FooterKind::Seal { .. }));
        }
        if durable >= oldest_base && found.is_sealed {
            break;
        }
        let scan = found.scan_file(files, order)?;
        // Attestations of entries that a newer generation has voided are also void.
        let attested = if fail_point!(AttestationNotClamped) { scan.attested } else { scan.attested.min(found.limit) };
        durable = durable.max(attested);
        oldest_base = found.header().base;
        found.scan = Some(scan);
        if open < SCANNED_OPEN_MAX {
            open += 1;
        } else {
            found.close(files, durable, order)?;
        }
    }
    Ok(durable)
}

/// Decides where the chain over all scanned segments ends, and whether that is a torn tail or
/// damage. Returns the index of the live segment in which the chain ends, and the seq there.
pub(super) fn find_chain_end(
    files: &StreamFiles<'_>,
    live: &[FoundSegment],
    first_seq: SeqNo,
    durable: SeqNo,
) -> Result<(usize, SeqNo)> {
    let newest = live.len() - 1;
    // The length of the newest file is checked even if the chain ends before that file.
    check_length(files, &live[newest], first_seq, durable)?;
    let mut end_seq = live[newest].header().base;
    for (i, found) in live.iter().enumerate() {
        let Some(scan) = &found.scan else { continue };
        end_seq = scan.chain.end_seq.min(found.limit);
        if end_seq == found.limit {
            continue;
        }
        // THE RULE. The chain ends here, before its limit. If anything valid attests that an entry
        // at or after the end was durable, acknowledged entries are lost: that is damage, and
        // nothing is changed. Otherwise a crash can leave such an end, and the stream continues
        // from it. Valid frames after the end prove nothing either way: pages that were never
        // synced reach the disk in any order, so a power loss can leave such frames without any
        // damage.
        if end_seq < durable {
            let at = Some(scan.chain.end.0);
            let error = Error::damage_at(files.location, DamageKind::Lost, Some(found.id()), at);
            return Err(lost_range::after_chain(files, found, end_seq, first_seq, durable, error));
        }
        check_length(files, found, first_seq, durable)?;
        // A START is settled before the next segment is begun, whose header also records it.
        let stated = scan.chain.start.unwrap_or(found.header().start);
        if let Some(next) = live.get(i + 1).filter(|next| !scan.is_entered_late() && next.header().start != stated) {
            return Err(Error::history(files.location, found.id(), next.id()));
        }
        return Ok((i, end_seq));
    }
    Ok((newest, end_seq))
}

/// Checks the length of an unfinished file. Unless it is the length of a file that is being
/// written, the file was shortened or lengthened, or its end is damaged.
fn check_length(files: &StreamFiles<'_>, found: &FoundSegment, first_seq: SeqNo, durable: SeqNo) -> Result<()> {
    let Some(scan) = found.scan.as_ref().filter(|scan| !scan.has_active_len) else { return Ok(()) };
    let end_seq = scan.chain.end_seq.min(found.limit);
    // If a CLOSE was written last, the file ended with its trailer.
    let closed_len = scan.closed_len;
    let error = Error::length(files.location, found.id(), scan.len, closed_len);
    Err(match closed_len {
        _ if end_seq < durable.min(found.limit) => {
            lost_range::after_chain(files, found, end_seq, first_seq, durable, error)
        }
        _ if found.limit < SeqNo(u64::MAX) => error.with_lost(end_seq.max(first_seq).0..found.limit.0),
        Some(_) => error,
        None => error.with_lost_from(end_seq.max(first_seq).0),
    })
}
