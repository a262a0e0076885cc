//! A segment as recovery finds it: its header, its limit, and the outcome of its scan.

use std::sync::Arc;

use stratawal_frame::{FooterKind, SegmentHeader, SeqNo};
use stratawal_segment::{FooterSummary, SegmentFile, SegmentId};
use stratawal_sync::fail_point;

use super::files::StreamFiles;
use super::scan::{ReadOrder, SegmentScan};
use super::void::SeqBounds;
use crate::error::Result;
use crate::read::snapshot::{PublishedSegment, SegmentState};

/// A segment whose header was read.
#[derive(Debug)]
pub(crate) struct FoundSegment {
    pub(crate) handle: SegmentHandle,
    /// The smallest base among newer generations: entries at or above it are void.
    pub(crate) limit: SeqNo,
    /// The SEAL or CLOSE at its end, not checked in full. `None` for the newest segment.
    pub(crate) footer: Option<FooterSummary>,
    pub(crate) scan: Option<SegmentScan>,
    /// Whether this look or an earlier one found that it ends in a valid SEAL and trailer.
    pub(crate) is_sealed: bool,
    /// The scan of an earlier look, which this one continues.
    pub(super) earlier_scan: Option<SegmentScan>,
}

/// The file of a segment whose header was read. Only a few files stay open: the newest one, and the
/// newest of those scanned.
#[derive(Debug)]
pub(crate) enum SegmentHandle {
    Open(SegmentFile),
    Closed(SegmentHeader),
}

impl SegmentHandle {
    pub(super) const fn header(&self) -> &SegmentHeader {
        match self {
            Self::Open(file) => file.header(),
            Self::Closed(header) => header,
        }
    }
}

/// A segment as a reader remembers it between two looks.
#[derive(Debug)]
pub(crate) struct RememberedSegment {
    pub(super) header: SegmentHeader,
    /// Whether an earlier look found that it ends in a valid SEAL and trailer.
    pub(super) is_sealed: bool,
    /// The SEAL at its end, not checked in full.
    pub(super) footer: Option<FooterSummary>,
    pub(super) scan: Option<SegmentScan>,
}

impl FoundSegment {
    pub(crate) const fn new(handle: SegmentHandle, footer: Option<FooterSummary>) -> Self {
        Self { handle, limit: SeqNo(u64::MAX), footer, scan: None, is_sealed: false, earlier_scan: None }
    }

    pub(crate) const fn header(&self) -> &SegmentHeader {
        self.handle.header()
    }

    pub(crate) fn id(&self) -> SegmentId {
        SegmentId::of(self.header())
    }

    /// Returns the segment as readers see it once it is sealed.
    pub(super) fn sealed(&self) -> Arc<PublishedSegment> {
        Arc::new(PublishedSegment { header: *self.header(), state: SegmentState::Sealed })
    }

    /// Returns the file. If it is closed, opens it for as long as the caller needs it.
    pub(crate) fn file(&self, files: &StreamFiles<'_>) -> Result<SegmentFile> {
        match &self.handle {
            SegmentHandle::Open(file) => Ok(file.clone()),
            SegmentHandle::Closed(header) => files.open_again(header),
        }
    }

    /// Returns the file. If it is closed, opens it and keeps it open.
    pub(crate) fn keep_open(&mut self, files: &StreamFiles<'_>) -> Result<&SegmentFile> {
        if let SegmentHandle::Closed(header) = &self.handle {
            self.handle = SegmentHandle::Open(files.open_again(header)?);
        }
        match &self.handle {
            SegmentHandle::Open(file) => Ok(file),
            SegmentHandle::Closed(_) => unreachable!("invariant: it was opened above"),
        }
    }

    /// Closes the file. A reader syncs it first if it may show entries at or above `durable`, which
    /// are not attested.
    ///
    /// The sync uses the descriptor through which the bytes were read. If write-back has failed
    /// since that descriptor was opened, this sync fails. A descriptor opened after such a failure
    /// may not report it, and a reader would show entries that are not on the disk.
    ///
    /// Files are closed newest first, so the newest of them is synced first. That is safe: nothing
    /// is shown before all of them are synced, and a power loss in between leaves nothing that
    /// write-back in arbitrary order could not leave.
    pub(super) fn close(&mut self, files: &StreamFiles<'_>, durable: SeqNo, order: ReadOrder) -> Result<()> {
        if let SegmentHandle::Open(file) = &self.handle {
            let header = *file.header();
            if order == ReadOrder::AttestationsFirst {
                self.sync_unattested(files, durable)?;
            }
            self.handle = SegmentHandle::Closed(header);
        }
        Ok(())
    }

    /// Syncs the file if it is open, was scanned, and may have entries at or above `durable` that
    /// no earlier look synced.
    pub(super) fn sync_unattested(&mut self, files: &StreamFiles<'_>, durable: SeqNo) -> Result<()> {
        if let (SegmentHandle::Open(file), Some(scan)) = (&self.handle, &mut self.scan)
            && self.limit > durable
            && scan.chain.end > scan.resume.synced_to
            && !fail_point!(ShownUnsynced)
        {
            file.sync().map_err(|e| files.failed(e))?;
            scan.resume.synced_to = scan.chain.end;
        }
        Ok(())
    }

    /// Step 5 for this segment: continues the scan of an earlier look, or scans the whole file.
    pub(super) fn scan_file(&mut self, files: &StreamFiles<'_>, order: ReadOrder) -> Result<SegmentScan> {
        let limit = self.limit;
        let file = self.keep_open(files)?.clone();
        if let Some(earlier) = self.earlier_scan.take()
            && let Some(scan) = earlier.resumed(files, &file, limit).map_err(|e| files.failed(e))?
        {
            return Ok(scan);
        }
        SegmentScan::new(files, &file, limit, order).map_err(|e| files.failed(e))
    }
}

impl SeqBounds for FoundSegment {
    fn base(&self) -> SeqNo {
        self.header().base
    }

    fn set_limit(&mut self, limit: SeqNo) {
        self.limit = limit;
    }
}

/// The first live seq as recorded by the newest of `segments`. For a damaged stream.
pub(super) fn stated_first_seq(files: &StreamFiles<'_>, segments: &mut [FoundSegment]) -> Result<SeqNo> {
    let Some(newest) = segments.last_mut() else { return Ok(SeqNo(0)) };
    let from_header = newest.header().start;
    let file = newest.keep_open(files)?;
    let finished = file.finished().map_err(|e| files.failed(e))?;
    if let Some(close) = finished.filter(|finished| matches!(finished.footer.kind, FooterKind::Close { .. })) {
        return Ok(close.footer.start);
    }
    match newest.scan_file(files, ReadOrder::ChainFirst) {
        Ok(scan) => Ok(scan.chain.start.unwrap_or(from_header)),
        Err(e) if e.is_damage() => Ok(from_header),
        Err(e) => Err(e),
    }
}
