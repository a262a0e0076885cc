//! The state that a reader remembers between two looks at a stream.

use std::collections::BTreeMap;

use stratawal_frame::{ByteOffset, SeqNo};
use stratawal_segment::{SegmentFile, SegmentId};

use super::analysis::Analysis;
use super::found::RememberedSegment;
use super::stamp::ObservedStamp;

/// The findings of a reader's last look.
#[derive(Debug)]
pub(crate) struct ReaderState {
    /// Every segment in the directory, in order of generation. Never empty.
    pub(super) names: Vec<SegmentId>,
    pub(super) segments: BTreeMap<SegmentId, RememberedSegment>,
    /// The stamp of the newest file before it was read.
    pub(super) stamp: ObservedStamp,
    pub(super) bounds: StreamBounds,
}

/// Where a look found the beginning and the end of the stream. Two looks that find the same
/// segments and the same bounds show the same entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamBounds {
    first_seq: SeqNo,
    chain_end_seq: SeqNo,
    is_closed: bool,
    /// Whether the chain ends in the newest segment.
    ends_in_newest: bool,
    /// Where the chain of the newest segment ends, or `None` if the segment was not scanned.
    newest_end: Option<ByteOffset>,
}

impl StreamBounds {
    pub(super) fn of(analysis: &Analysis) -> Self {
        let newest = analysis.live.len() - 1;
        Self {
            first_seq: analysis.first_seq,
            chain_end_seq: analysis.chain_end_seq,
            is_closed: analysis.closed.is_some(),
            ends_in_newest: analysis.chain_end == newest,
            newest_end: analysis.live[newest].scan.as_ref().map(|scan| scan.chain.end),
        }
    }
}

impl ReaderState {
    /// The state to remember after this analysis.
    pub(super) fn of(analysis: Analysis) -> Self {
        let bounds = StreamBounds::of(&analysis);
        let mut segments = BTreeMap::new();
        for header in analysis.headers {
            let remembered = RememberedSegment { header, is_sealed: false, footer: None, scan: None };
            segments.insert(SegmentId::of(&header), remembered);
        }
        for found in analysis.live {
            if let Some(remembered) = segments.get_mut(&found.id()) {
                remembered.is_sealed = found.is_sealed;
                remembered.footer = found.footer;
                remembered.scan = found.scan.or(found.earlier_scan);
            }
        }
        Self { names: analysis.all, segments, stamp: analysis.stamp, bounds }
    }

    pub(super) fn newest(&self) -> SegmentId {
        *self.names.last().expect("invariant: a stream without segments is not analysed")
    }

    /// Whether the next look would find the same state if the names and the newest file have not
    /// changed.
    pub(super) fn is_at_rest(&self) -> bool {
        let scan = self.segments.get(&self.newest()).and_then(|newest| newest.scan.as_ref());
        let is_searched = || scan.is_some_and(|scan| scan.resume.is_searched);
        self.bounds.ends_in_newest && (self.bounds.is_closed || is_searched())
    }

    /// Whether `file` is the segment that was the newest in the last look.
    pub(super) fn is_newest(&self, file: &SegmentFile) -> bool {
        self.segments.get(&self.newest()).is_some_and(|newest| newest.header == *file.header())
    }
}
