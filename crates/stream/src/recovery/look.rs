//! Looking again: a reader reads only the entries that have come since its last look.
//!
//! A look takes the same steps as the first one, by the same rules. It differs in three things:
//!
//! - Headers are remembered. A header is never changed once its file has its name, and a generation
//!   is never used twice in a stream. So they hold as long as the segment that was the newest is
//!   there and has the same header, its random salt included. That one is read each time; where it
//!   is gone, or another stream's, all is read again.
//! - A scan is continued. The frames up to the end of the chain are valid and stay as they are, so
//!   the walk begins there, if the last of them is still there. A watermark that was once attested
//!   stays attested.
//! - After the chain only the first few KiB are searched for attestations, if that explains why the
//!   file has changed: by more frames, or by a higher watermark. The whole rest is searched where
//!   the file has changed and nothing explains it, and once when the file has stopped changing. So
//!   a file that is preallocated is not read to its end for each new entry, and yet no attestation
//!   is missed for good.
//!
//! Where nothing has changed at all, no more is read than a header.
//!
//! What holds then:
//!
//! - The rules of recovery accept every state that is shown. So no entry is torn, none is missing
//!   between two others, and none is shown before it is attested or synced. D is read before the
//!   chain in each round, so a writer at work is not taken for damage.
//! - Damage is reported by full looks alone. An error of any kind makes this one give up, and all
//!   is read again, twice if it is damage.
//! - Attestations that the chain does not reach are damage. Once the file has stopped changing,
//!   they are found at the latest by the first look that knows that it has: 50 ms after another one
//!   has seen the same stamp. Damage to frames that an earlier look has found valid is found when
//!   they are read, and by the next opening: a look does not read them again. Bytes that rot do not
//!   change the times of a file, so only reading finds them.
//!
//! Whether a file has changed is seen by its [`ChangeStamp`]. Two changes within one tick of the
//! clock of the file system may leave the same stamp. So a stamp counts only once it has stayed the
//! same for longer than a tick, by this process's own clock: that of a file server may differ. A
//! storage without stamps always searches the whole rest.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use stratawal_frame::{ByteOffset, FrameHeader, SegmentHeader, SeqNo};
use stratawal_segment::{Access, FooterSummary, SegmentData, SegmentFile, SegmentId};
use stratawal_storage::ChangeStamp;

use super::analyse::{Image, Remembered, analyse_on, closed_len, list};
use super::{Look, Scan, note, show};
use crate::context::LogContext;
use crate::error::{Error, Result};
use crate::history::last_frame_crc;
use crate::location::Location;
use crate::options::StreamOptions;
use crate::read::snapshot::first_point;

/// The findings of a reader's last look.
#[derive(Debug)]
pub(crate) struct Known {
    /// Every segment in the folder, in order of generation; never none.
    names: Vec<SegmentId>,
    segments: BTreeMap<SegmentId, KnownSegment>,
    /// The newest file, as it was before it was read.
    watch: Watch,
    shown: Shown,
}

/// The findings of a reader's last look at one segment.
#[derive(Debug)]
pub(crate) struct KnownSegment {
    pub(crate) header: SegmentHeader,
    /// Whether it was seen to end in a valid SEAL and trailer.
    pub(crate) is_sealed: bool,
    /// The SEAL at its end, not checked in full.
    pub(crate) end: Option<FooterSummary>,
    pub(crate) scan: Option<Scan>,
}

/// Where a look found the stream to begin and to end. Two looks at the same segments that find the
/// same show the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    start: SeqNo,
    end: SeqNo,
    is_closed: bool,
    /// Whether the chain ends in the newest segment.
    ends_in_newest: bool,
    /// Where it ends there; `None` where nothing was scanned.
    newest_end: Option<ByteOffset>,
}

impl Shown {
    fn of(image: &Image) -> Self {
        let newest = image.live.len() - 1;
        Self {
            start: image.start,
            end: image.end,
            is_closed: image.closed.is_some(),
            ends_in_newest: image.cut == newest,
            newest_end: image.live[newest].scan.as_ref().map(|scan| scan.chain.end),
        }
    }
}

impl Known {
    /// The findings of this image.
    pub(super) fn of(image: Image) -> Self {
        let shown = Shown::of(&image);
        let names = image.all;
        let headers = image.headers.into_iter();
        let known = |header| (SegmentId::of(&header), KnownSegment { header, is_sealed: false, end: None, scan: None });
        let mut segments: BTreeMap<_, _> = headers.map(known).collect();
        for found in image.live {
            if let Some(known) = segments.get_mut(&found.id()) {
                (known.is_sealed, known.end) = (found.is_sealed, found.end);
                known.scan = found.scan.or(found.before);
            }
        }
        Self { names, segments, watch: image.watch, shown }
    }

    fn newest(&self) -> SegmentId {
        *self.names.last().expect("invariant: a stream without segments is no image")
    }

    /// Whether a look at the same names finds the same again, if the newest file has not changed.
    fn is_at_rest(&self) -> bool {
        let scan = self.segments.get(&self.newest()).and_then(|newest| newest.scan.as_ref());
        self.shown.ends_in_newest && (self.shown.is_closed || scan.is_some_and(|scan| scan.trace.searched))
    }

    /// Whether `file` is the segment that was the newest.
    fn is_newest(&self, file: &SegmentFile) -> bool {
        self.segments.get(&self.newest()).is_some_and(|newest| newest.header == *file.header())
    }
}

/// Looks again. Any error means that `known` does not hold any more, or that something is damaged:
/// then all has to be read.
pub(super) fn look_on(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    known: Known,
) -> Result<Look> {
    let gone = || Error::io(location, io::ErrorKind::NotFound.into());
    let open = |id| {
        let file = SegmentFile::open(context.storage(), &location.dir(), id, Access::Read);
        file.map_err(|e| Error::segment_error(location, e))
    };
    let (names, temporaries) = list(context, location)?;
    let newest = open(*names.last().ok_or_else(gone)?)?;
    let is_same_stream = if newest.id() == known.newest() {
        known.is_newest(&newest)
    } else {
        names.contains(&known.newest()) && known.is_newest(&open(known.newest())?)
    };
    if !is_same_stream {
        return Err(gone());
    }
    let has_same_names = names == known.names;
    if has_same_names && known.is_at_rest() {
        let watch = Watch::now(context, &newest, Some(&known.watch)).map_err(|e| Error::segment_error(location, e))?;
        if watch.is_unchanged_since(&known.watch) {
            return Ok(Look::Same { known: Box::new(known), report: None });
        }
    }
    let shown = known.shown;
    let remembered = Remembered { segments: known.segments, watch: known.watch, newest };
    let mut image = analyse_on(context, location, options, (names, temporaries), remembered)?;
    if has_same_names && Shown::of(&image) == shown {
        let report = Some(image.report(context, location)?);
        return Ok(Look::Same { known: Box::new(Known::of(image)), report });
    }
    show(context, location, options, image, true).map(|found| Look::New(Box::new(found)))
}

/// The state of a file before it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    /// `None` where it is not known.
    stamp: Option<ChangeStamp>,
    /// When a look first saw this stamp, by
    /// [`elapsed_micros`](stratawal_storage::Storage::elapsed_micros).
    since_micros: u64,
    /// Whether the stamp had been seen for so long that the next change cannot leave the same.
    is_settled: bool,
}

impl Watch {
    /// The state of `file` now, which is read afterwards; `before` is the one of the last look.
    pub(super) fn now(
        context: &LogContext,
        file: &SegmentFile,
        before: Option<&Self>,
    ) -> stratawal_segment::Result<Self> {
        let stamp = file.change_stamp()?;
        // After the stamp and before the bytes: a change that comes between is seen by those who
        // read the bytes.
        let now = context.storage().elapsed_micros();
        let since_micros = before.filter(|before| before.stamp == stamp).map_or(now, |before| before.since_micros);
        let seen_micros = now.saturating_sub(since_micros);
        let is_settled = stamp.is_some_and(|stamp| seen_micros >= stamp.settles_micros());
        Ok(Self { stamp, since_micros, is_settled })
    }

    /// Whether the file was not changed since it was read after `before`.
    fn is_unchanged_since(&self, before: &Self) -> bool {
        before.is_settled && self.stamp == before.stamp
    }
}

/// With this a later look continues a scan.
#[derive(Debug)]
pub(crate) struct Trace {
    /// The last frame of the chain, and where it is.
    pub(super) last: Option<(ByteOffset, FrameHeader)>,
    /// The file before it was read.
    pub(super) watch: Watch,
    /// Whether all of the file after the chain was searched for attestations since `watch`.
    pub(super) searched: bool,
    /// Entries from here on are not in the index.
    pub(super) limit: SeqNo,
    /// Up to here this reader has synced the file.
    pub(super) synced: ByteOffset,
    /// How many bytes there are after the chain up to the last one that is not zero, where that is
    /// known.
    pub(super) torn_len: Option<u64>,
    /// Bytes that the last look read of the file.
    pub(super) read_bytes: u64,
}

/// How many bytes after the chain each look searches for attestations: one short read, with the
/// header of a frame.
const NEAR_LEN: u64 = 4000;

/// Continues `scan`, an earlier one of `file`; `None` where it does not hold any more.
pub(super) fn scan_on(
    context: &LogContext,
    file: &SegmentFile,
    limit: SeqNo,
    mut scan: Scan,
) -> stratawal_segment::Result<Option<Scan>> {
    const ROUNDS_MAX: usize = 4;
    let watch = Watch::now(context, file, Some(&scan.trace.watch))?;
    scan.trace.read_bytes = 0;
    let is_indexed = limit <= scan.trace.limit;
    if is_indexed && scan.trace.searched && watch.is_unchanged_since(&scan.trace.watch) {
        scan.set_limit(file, limit);
        return Ok(Some(scan));
    }
    let (end, attested) = (scan.chain.end, scan.attested);
    let has_last = match &scan.trace.last {
        Some((at, frame)) => file.has_header(*at, frame)?,
        None => true,
    };
    if !is_indexed || !has_last || file.len() < end.0 {
        return Ok(None);
    }
    (scan.len, scan.has_active_len) = (file.len(), file.has_active_len());
    for _ in 0..ROUNDS_MAX {
        if !scan.step(file, limit, NEAR_LEN)? {
            break;
        }
    }
    let is_explained = scan.chain.end > end || scan.attested > attested;
    let is_changed = watch.stamp != scan.trace.watch.stamp;
    let searches = watch.stamp.is_none() || watch.is_settled || (is_changed && !is_explained);
    // Where the chain grows meanwhile, the rest of it is for the next look.
    let searched = searches && !scan.step(file, limit, u64::MAX)?;
    let read_to = if searches { scan.len } else { scan.chain.end.0 };
    let (synced, last, indexed) = (scan.trace.synced, scan.trace.last, scan.trace.limit);
    scan.trace = Trace {
        last,
        watch,
        searched,
        limit: indexed,
        synced,
        torn_len: None,
        read_bytes: read_to.saturating_sub(end.0),
    };
    scan.closed_len = closed_len(file, &scan.chain)?;
    scan.set_limit(file, limit);
    Ok(Some(scan))
}

impl Scan {
    /// Entries from `limit` on are void; reads the checksum of the frame before it where it is not
    /// known.
    fn set_limit(&mut self, file: &SegmentFile, limit: SeqNo) {
        let is_known = self.last_crc.is_some() && limit == self.trace.limit;
        self.trace.limit = limit;
        if is_known || self.chain.end_seq < limit {
            return;
        }
        let before = self.index.floor(limit.0.saturating_sub(1));
        let point = before.map_or_else(|| first_point(file.header()), |span| span.point);
        self.last_crc = last_frame_crc(&SegmentData::read(file), point, limit.0);
    }

    /// Searches `len` bytes after the chain for attestations and then walks on. In the other order
    /// a writer at work would seem to have attested entries that do not exist. Returns whether the
    /// chain has grown.
    fn step(&mut self, file: &SegmentFile, limit: SeqNo, len: u64) -> stratawal_segment::Result<bool> {
        let before = self.chain.end;
        let attested = file.attestations_within(before, len)?.attested;
        let (index, last) = (Arc::clone(&self.index), &mut self.trace.last);
        file.extend_chain(&mut self.chain, &mut |offset, frame| {
            *last = Some((offset, *frame));
            if frame.first_seq < limit {
                note(&index, offset, frame);
            }
        })?;
        self.attested = self.attested.max(attested).max(self.chain.attested);
        Ok(self.chain.end > before)
    }
}
