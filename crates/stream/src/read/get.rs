//! Reads single entries.

use super::consistency::is_truncated;
use super::locate::{EntrySource, Located, LocatedFrame, entry_of};
use crate::batch::Entry;
use crate::error::Result;
use crate::inner::Inner;
use crate::options::Visibility;

/// The frame that [`Inner::get_many`] read last, and the epoch in which it was read.
struct RecentFrame {
    epoch: u64,
    frame: LocatedFrame,
}

impl Inner {
    /// See [`StreamLog::get`](crate::StreamLog::get).
    pub(crate) fn get(&self, seq: u64, visibility: Visibility) -> Result<Option<Entry>> {
        let get = || if seq < self.end_seq(visibility) { self.read_entry(seq).map(Some) } else { Ok(None) };
        self.read_consistently(seq..=seq, get)
    }

    /// See [`StreamLog::get_many`](crate::StreamLog::get_many).
    pub(crate) fn get_many(&self, seqs: &[u64], visibility: Visibility) -> Result<Vec<Option<Entry>>> {
        let mut recent = None;
        let get = |&seq: &u64| self.read_consistently(seq..=seq, || self.get_near(&mut recent, seq, visibility));
        seqs.iter().map(get).collect()
    }

    /// See [`StreamLog::last`](crate::StreamLog::last).
    pub(crate) fn last(&self, visibility: Visibility) -> Result<Option<Entry>> {
        self.check_process()?;
        loop {
            let end = self.end_seq(visibility);
            if end <= self.shared.watermarks.start() {
                return self.check_not_over(self.shared.watermarks.stable_epoch()).map(|()| None);
            }
            match self.get(end - 1, visibility) {
                // `truncate_from` has dropped the entry since the end was loaded.
                Ok(None) => {}
                // `truncate_before` has dropped it. If it was dropped only by a writer in another
                // process, the first seq is unchanged here, and reading again would fail again.
                Err(error) if is_truncated(&error) && self.shared.watermarks.start() >= end => {}
                other => return other,
            }
        }
    }

    /// Reads entry `seq`, which must be below a watermark.
    pub(crate) fn read_entry(&self, seq: u64) -> Result<Entry> {
        let segment = match self.find_source(seq)? {
            EntrySource::Tail(entry) => return Ok(entry),
            EntrySource::Segment(segment) => segment,
        };
        // The usual case. Anything else, including an error, is left to `locate_in`, which reports
        // damage together with the lost entries.
        if let Ok(Some(found)) = segment.reader.entry(seq, self.shared.options.frame_len_max()) {
            let ends_batch = segment.ends_batch(seq, found.ends_batch);
            return Ok(Entry { seq, timestamp: found.timestamp, data: found.data, ends_batch });
        }
        let frame = self.locate_in(&segment, seq)?;
        Ok(entry_of(&frame, seq, segment.limit)
            .expect("invariant: frames are contiguous, so the first to reach a seq holds it"))
    }

    /// Reads entry `seq` from `recent` if that frame holds it; otherwise reads the entry's frame,
    /// which becomes the recent one.
    fn get_near(&self, recent: &mut Option<RecentFrame>, seq: u64, visibility: Visibility) -> Result<Option<Entry>> {
        if seq >= self.end_seq(visibility) {
            return Ok(None);
        }
        // Some entries of a frame from an earlier epoch may have been truncated since.
        let epoch = self.shared.watermarks.epoch();
        let is_live = self.shared.watermarks.start() <= seq;
        let usable = recent.as_ref().filter(|recent| is_live && recent.epoch == epoch && seq < recent.frame.limit);
        if let Some(entry) = usable.and_then(|recent| recent.frame.detached_entry(seq)) {
            return Ok(Some(entry));
        }
        match self.locate(seq)? {
            Located::Tail(entry) => Ok(Some(entry)),
            Located::Frame(frame) => {
                let entry = frame.detached_entry(seq);
                *recent = Some(RecentFrame { epoch, frame });
                Ok(entry)
            }
        }
    }
}
