//! The outcome of steps 1 to 5.

use std::collections::BTreeSet;
use std::ffi::OsString;

use stratawal_frame::{SegmentHeader, SeqNo, StreamId};
use stratawal_segment::{Finished, SegmentId};

use super::files::StreamFiles;
use super::found::FoundSegment;
use super::stamp::ObservedStamp;
use crate::error::Result;
use crate::report::{OpenReport, TornTail};

/// The outcome of steps 1 to 5.
#[derive(Debug)]
pub(crate) struct Analysis {
    /// Every segment in the directory.
    pub(super) all: Vec<SegmentId>,
    /// The headers of `all`, in the same order. Empty if only a writer uses the analysis.
    pub(super) headers: Vec<SegmentHeader>,
    /// The stamp of the newest file before it was read.
    pub(super) stamp: ObservedStamp,
    /// Files that were being created when their process died.
    pub(super) temporaries: Vec<OsString>,
    /// The live segments in order.
    pub(super) live: Vec<FoundSegment>,
    /// The index of the live segment in which the chain ends.
    pub(super) chain_end: usize,
    /// The CLOSE that the newest segment ends with, if that is a clean end.
    pub(super) closed: Option<Finished>,
    /// The first live seq.
    pub(super) first_seq: SeqNo,
    /// One past the last entry of the chain. This may be below the first live seq.
    pub(super) chain_end_seq: SeqNo,
    /// How far the stream is attested.
    pub(super) durable: SeqNo,
}

impl Analysis {
    /// The live segments up to the one in which the chain ends.
    pub(super) fn chain(&self) -> &[FoundSegment] {
        &self.live[..=self.chain_end]
    }

    /// The newest segment.
    pub(super) fn newest(&self) -> SegmentId {
        self.live[self.live.len() - 1].id()
    }

    /// The stream that the files belong to.
    pub(super) fn stream(&self) -> StreamId {
        self.live[self.live.len() - 1].header().stream_id
    }

    /// The seq of the next entry.
    pub(super) fn next_seq(&self) -> SeqNo {
        self.chain_end_seq.max(self.first_seq)
    }

    /// The timestamp of the last frame. Only the segment in which the chain ends counts, because
    /// times may have restarted in it.
    pub(super) fn timestamp(&self) -> u64 {
        let last = &self.live[self.chain_end];
        let times = match &self.closed {
            Some(close) => Some(close.footer.times),
            None => last.scan.as_ref().and_then(|scan| scan.chain.times),
        };
        times.map_or(0, |times| times.1).max(last.header().last_timestamp)
    }

    pub(super) fn report(&mut self, files: &StreamFiles<'_>) -> Result<OpenReport> {
        let torn = self.torn(files)?;
        let chain = self.chain();
        let kept: BTreeSet<SegmentId> = chain.iter().map(FoundSegment::id).collect();
        let removed = self.all.iter().filter(|id| !kept.contains(id));
        Ok(OpenReport {
            existed: true,
            clean: self.closed.is_some(),
            first_seq: self.first_seq.0,
            next_seq: self.next_seq().0,
            segments: chain.len() as u64,
            torn,
            scanned_bytes: self.live.iter().filter_map(|found| Some(found.scan.as_ref()?.resume.read_bytes)).sum(),
            removed_segments: removed.map(ToString::to_string).collect(),
            ..OpenReport::default()
        })
    }

    /// The torn tail after the chain, if all of those bytes were searched.
    fn torn(&mut self, files: &StreamFiles<'_>) -> Result<Option<TornTail>> {
        let last = &self.live[self.chain_end];
        let Some(scan) = last.scan.as_ref().filter(|scan| scan.resume.is_searched) else { return Ok(None) };
        let offset = scan.chain.end;
        let bytes = match scan.resume.torn_len {
            Some(bytes) => bytes,
            None => last.file(files)?.torn_len(offset).map_err(|e| files.failed(e))?,
        };
        let torn = (bytes > 0).then(|| TornTail { segment: last.id().to_string(), offset: offset.0, bytes });
        if let Some(scan) = &mut self.live[self.chain_end].scan {
            scan.resume.torn_len = Some(bytes);
        }
        Ok(torn)
    }
}
