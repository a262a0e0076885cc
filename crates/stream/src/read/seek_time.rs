//! Finds the seq for a time.

use std::ops::Range;

use super::consistency::is_truncated;
use super::locate::Located;
use crate::error::Result;
use crate::inner::Inner;
use crate::options::Visibility;

impl Inner {
    /// See [`StreamLog::seq_at`](crate::StreamLog::seq_at).
    pub(crate) fn seq_at(&self, timestamp: u64, visibility: Visibility) -> Result<u64> {
        loop {
            let start = self.shared.watermarks.start();
            match self.read_consistently(start..=u64::MAX, || self.find_time(timestamp, visibility)) {
                // Entries were dropped from the beginning during the search.
                Err(error) if is_truncated(&error) && self.shared.watermarks.start() > start => {}
                other => return other,
            }
        }
    }

    fn find_time(&self, timestamp: u64, visibility: Visibility) -> Result<u64> {
        let start = self.shared.watermarks.start();
        let end = self.end_seq(visibility);
        let snapshot = self.shared.snapshot.load();
        if snapshot.segments.is_empty() {
            return self.find_time_in_tail(timestamp, start..end);
        }
        // All entries after this segment are at or after the time.
        let found = snapshot.find_time(timestamp);
        // A segment without live entries is not opened: another process may have removed its file.
        let has_live = |i: &usize| snapshot.limit(*i) > start && start < end;
        let Some(i) = found.filter(has_live) else { return Ok(start) };
        let segment = self.open_segment(&snapshot, i)?;
        let limit = segment.limit;
        let (point, _) = segment.reader.span_at(timestamp);
        // The index may still have points of truncated entries.
        let mut seq = point.seq.min(limit).max(start);
        // This loop passes over the frames of one span and at most one more.
        while seq < end.min(limit) {
            let frame = match self.locate(seq)? {
                Located::Tail(entry) if entry.timestamp >= timestamp => return Ok(seq),
                Located::Tail(_) => {
                    seq += 1;
                    continue;
                }
                Located::Frame(located) => located.frame,
            };
            if frame.header().timestamp >= timestamp {
                return Ok(frame.header().first_seq.0.max(start));
            }
            // The frame may hold truncated entries at or above the limit. The entry at the limit is
            // in the next segment and is at or after the time: otherwise the search would have
            // begun in that segment.
            seq = frame.header().end_seq().0.min(limit);
        }
        Ok(seq.min(end).max(start))
    }

    /// Searches the entries `seqs` of a stream that had no segment. Such a stream has few entries.
    fn find_time_in_tail(&self, timestamp: u64, seqs: Range<u64>) -> Result<u64> {
        for seq in seqs.clone() {
            if self.read_entry(seq)?.timestamp >= timestamp {
                return Ok(seq);
            }
        }
        Ok(seqs.end)
    }
}
