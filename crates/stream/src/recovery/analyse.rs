//! Steps 1 to 5: what of the files counts. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use stratawal_frame::{ByteOffset, Footer, SEGMENT_HEADER_LEN, SegmentHeader, SeqNo, StreamId, TRAILER_LEN};
use stratawal_index::{ActiveIndex, Bounds, Index, IndexPoint};
use stratawal_segment::{Access, Chain, Finished, FooterSummary, SegmentFile, SegmentId, is_temporary};
use stratawal_sync::fail_point;

use crate::context::LogContext;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::history::{contradicts_end, contradicts_frame, contradicts_header};
use crate::location::Location;
use crate::options::StreamOptions;
use crate::recovery::look::{KnownSegment, Trace, Watch, scan_on};
use crate::recovery::{Scan, lost_range, note};
use crate::report::{OpenReport, TornTail};
use crate::write::active::Closes;

/// What of a segment is read first. A writer that recovers is alone. A reader beside a writer must
/// read what is attested before the chain that has to reach it, or the chain would seem to fall
/// short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    ChainFirst,
    AttestationsFirst,
}

/// What steps 1 to 5 found.
#[derive(Debug)]
pub(crate) struct Image {
    /// Every segment in the folder.
    pub(crate) all: Vec<SegmentId>,
    /// Their headers, in the same order; not of an image that only a writer uses.
    pub(crate) headers: Vec<SegmentHeader>,
    /// The newest file before it was read.
    pub(crate) watch: Watch,
    /// Files that were being created when their process died.
    pub(crate) temporaries: Vec<OsString>,
    /// The live segments in order.
    pub(crate) live: Vec<Found>,
    /// Which of them the chain ends in.
    pub(crate) cut: usize,
    /// The CLOSE that the newest ends with, if it is a clean end.
    pub(crate) closed: Option<Finished>,
    /// The first live seq.
    pub(crate) start: SeqNo,
    /// Where the chain ends.
    pub(crate) end: SeqNo,
    /// How far it is attested.
    pub(crate) durable: SeqNo,
}

/// A live segment.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) file: Opened,
    /// The smallest base among newer generations: entries from it on are void.
    pub(crate) limit: SeqNo,
    /// The SEAL or CLOSE at its end, not checked in full. `None` for the newest.
    pub(crate) end: Option<FooterSummary>,
    pub(crate) scan: Option<Scan>,
    /// Whether it was seen, now or in an earlier look, to end in a valid SEAL and trailer.
    pub(crate) is_sealed: bool,
    /// The scan of an earlier look, to be continued.
    pub(super) before: Option<Scan>,
}

/// The findings of a look that the next one continues from.
pub(super) struct Remembered {
    pub(super) segments: BTreeMap<SegmentId, KnownSegment>,
    /// The file that was the newest, before it was read.
    pub(super) watch: Watch,
    /// The newest file now, open.
    pub(super) newest: SegmentFile,
}

/// How many files that were scanned stay open, the newest of them. With the one at hand that makes
/// 16: a stream may have more segments to scan than the process may have files.
const SCANNED_OPEN_MAX: usize = 15;

/// A segment whose header was read. The newest stays open, and of those that are scanned
/// [`SCANNED_OPEN_MAX`].
#[derive(Debug)]
pub(crate) enum Opened {
    Open(SegmentFile),
    Header(SegmentHeader),
}

impl Opened {
    const fn header(&self) -> &SegmentHeader {
        match self {
            Self::Open(file) => file.header(),
            Self::Header(header) => header,
        }
    }
}

impl Found {
    pub(crate) const fn new(file: Opened, end: Option<FooterSummary>) -> Self {
        Self { file, limit: SeqNo(u64::MAX), end, scan: None, is_sealed: false, before: None }
    }

    pub(crate) const fn header(&self) -> &SegmentHeader {
        self.file.header()
    }

    pub(crate) fn id(&self) -> SegmentId {
        SegmentId::of(self.header())
    }

    /// The file: the one that is open, or else opened for as long as the caller needs it.
    pub(crate) fn opened(&self, context: &LogContext, location: &Location) -> Result<SegmentFile> {
        match &self.file {
            Opened::Open(file) => Ok(file.clone()),
            Opened::Header(header) => open_again(context, location, header),
        }
    }

    /// The file, opened once.
    pub(crate) fn open(&mut self, context: &LogContext, location: &Location) -> Result<&SegmentFile> {
        if let Opened::Header(header) = &self.file {
            self.file = Opened::Open(open_again(context, location, header)?);
        }
        match &self.file {
            Opened::Open(file) => Ok(file),
            Opened::Header(_) => unreachable!("invariant: it was opened above"),
        }
    }

    /// Closes the file. A reader syncs it first where it may show entries at or above `durable`:
    /// those are not attested.
    ///
    /// The sync is made through the descriptor that the bytes were read through, and not through
    /// one that is opened later. If writing the file back has failed since it was opened, this sync
    /// fails. A descriptor that is opened after such a failure may not learn of it, and a reader
    /// would show entries that are not on the disk.
    ///
    /// So of these files the newest is synced first. That is safe: nothing is shown before all of
    /// them are synced, and a power loss meanwhile leaves no more than the system could have left
    /// that writes pages back in any order.
    pub(super) fn close(&mut self, location: &Location, durable: SeqNo, order: Order) -> Result<()> {
        if let Opened::Open(file) = &self.file {
            let header = *file.header();
            if order == Order::AttestationsFirst {
                self.make_sure(location, durable)?;
            }
            self.file = Opened::Header(header);
        }
        Ok(())
    }

    /// Syncs the file, if it is open and was scanned, where it may have entries at or above
    /// `durable` that no earlier look has synced.
    pub(super) fn make_sure(&mut self, location: &Location, durable: SeqNo) -> Result<()> {
        if let (Opened::Open(file), Some(scan)) = (&self.file, &mut self.scan)
            && self.limit > durable
            && scan.chain.end > scan.trace.synced
            && !fail_point!(ShownUnsynced)
        {
            file.sync().map_err(|e| Error::segment_error(location, e))?;
            scan.trace.synced = scan.chain.end;
        }
        Ok(())
    }
}

/// Opens the segment that had this header when it was listed.
fn open_again(context: &LogContext, location: &Location, header: &SegmentHeader) -> Result<SegmentFile> {
    let file = SegmentFile::open(context.storage(), &location.dir(), SegmentId::of(header), Access::Read);
    let file = file.map_err(|e| Error::segment_error(location, e))?;
    if file.header() == header {
        Ok(file)
    } else {
        // Another stream has the name by now, and with it the names of its files.
        Err(Error::io(location, io::ErrorKind::NotFound.into()))
    }
}

pub(crate) fn analyse(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    order: Order,
) -> Result<Image> {
    let names = list(context, location)?;
    let found = read_headers(context, location, options, &names.0, &mut BTreeMap::new(), None)?;
    decide(context, location, options, order, names, found, None)
}

/// Steps 2 to 5 for a reader that looks again and has found these names.
pub(super) fn analyse_on(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    names: (Vec<SegmentId>, Vec<OsString>),
    known: Remembered,
) -> Result<Image> {
    let Remembered { mut segments, watch, newest } = known;
    let found = read_headers(context, location, options, &names.0, &mut segments, Some(newest))?;
    decide(context, location, options, Order::AttestationsFirst, names, found, Some(&watch))
}

/// Steps 2 to 5. `before` is the newest file as an earlier look has seen it.
fn decide(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    order: Order,
    (all, temporaries): (Vec<SegmentId>, Vec<OsString>),
    found: Vec<Found>,
    before: Option<&Watch>,
) -> Result<Image> {
    let failed = |e| Error::segment_error(location, e);
    let headers = found.iter().map(|found| *found.header()).collect();
    let mut stack = drop_void(found);
    let mut newest = stack.pop().expect("invariant: at least the newest segment voids nothing of itself");
    let newest_id = newest.id();
    let file = newest.open(context, location)?;
    let watch = Watch::now(context, file, before).map_err(failed)?;

    // Step 4, before step 3, which needs what the CLOSE says: a clean end.
    let finished = file.finished().map_err(failed)?;
    let closed = finished.filter(|finished| matches!(finished.footer.kind, stratawal_frame::FooterKind::Close { .. }));
    if let Some(close) = closed {
        let (start, end) = (close.footer.start, close.frame.first_seq);
        stack.push(newest);
        let mut live = drop_garbage(context, location, stack, start)?;
        check_history(context, location, options, &mut live, start, order)?;
        let cut = live.len() - 1;
        let closed = Some(close);
        return Ok(Image { all, headers, watch, temporaries, live, cut, closed, start, end, durable: end });
    }

    let scan = scan(context, location, options, &mut newest, order)?;
    // A chain that ends in a SEAL names a segment that must be there, newer than the newest.
    if scan.chain.seal.is_some() {
        let at = Some(scan.chain.end.0);
        let error = Error::damage(location, DamageKind::SuccessorMissing, Some(newest_id), at, None);
        return Err(error.with_lost_from(scan.chain.end_seq.0));
    }
    let watch = scan.trace.watch;
    // Step 3: the last START or CLOSE in the newest segment's chain counts, else its header.
    let start = scan.chain.start.unwrap_or(newest.header().start);
    newest.scan = Some(scan);
    stack.push(newest);
    let mut live = drop_garbage(context, location, stack, start)?;
    let durable = scan_back(context, location, options, &mut live, order)?;
    check_history(context, location, options, &mut live, start, order)?;
    let (cut, end) = follow(context, location, &live, start, durable)?;
    Ok(Image { all, headers, watch, temporaries, live, cut, closed: None, start, end, durable })
}

/// Step 1, the names.
pub(super) fn list(context: &LogContext, location: &Location) -> Result<(Vec<SegmentId>, Vec<OsString>)> {
    let entries = context.storage().list(&location.dir()).map_err(|e| Error::directory(location, e))?;
    let (mut all, mut temporaries) = (Vec::new(), Vec::new());
    for entry in entries {
        if is_temporary(&entry.name) {
            temporaries.push(entry.name);
        } else if let Some(id) = SegmentId::parse(&entry.name) {
            all.push(id);
        }
        // Anything else is somebody else's, and left alone.
    }
    if all.is_empty() {
        return Err(Error::damage(location, DamageKind::NoSegment, None, None, None));
    }
    all.sort_by_key(|id| id.generation);
    Ok((all, temporaries))
}

/// Step 1, the headers, in order of generation: each valid, each its file's, all of one stream.
/// Those that are `known` are not read again, and the newest file may be open already.
fn read_headers(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    all: &[SegmentId],
    known: &mut BTreeMap<SegmentId, KnownSegment>,
    mut newest: Option<SegmentFile>,
) -> Result<Vec<Found>> {
    let (mut found, dir) = (Vec::with_capacity(all.len()), location.dir());
    // From the newest on, which says whose stream this is.
    let mut stream_id = None;
    for (i, &id) in all.iter().enumerate().rev() {
        let known = known.remove(&id);
        let file = match (newest.take(), &known) {
            (Some(file), _) => Opened::Open(file),
            (None, Some(known)) => Opened::Header(known.header),
            (None, None) => {
                let file = SegmentFile::open(context.storage(), &dir, id, Access::Read);
                Opened::Open(file.map_err(|e| lost_range::unreadable(context, location, options, all, id, e))?)
            }
        };
        let header = *file.header();
        if let Some(error) = misplaced(context, location, &header, &mut stream_id, all.get(i + 1)) {
            if error.kind() == ErrorKind::Damaged(DamageKind::History) {
                return Err(error);
            }
            return Err(lost_range::of_name(context, location, options, all, id, error));
        }
        let is_newest = i + 1 == all.len();
        let end = match (&known, &file) {
            _ if is_newest => None,
            // A SEAL at the end of a file stays there.
            (Some(KnownSegment { end: Some(end), .. }), _) => Some(*end),
            (_, Opened::Open(file)) => file.peek_footer().map_err(|e| Error::segment_error(location, e))?,
            (_, Opened::Header(header)) => {
                open_again(context, location, header)?.peek_footer().map_err(|e| Error::segment_error(location, e))?
            }
        };
        let mut segment = Found::new(if is_newest { file } else { Opened::Header(header) }, end);
        if let Some(known) = known {
            (segment.is_sealed, segment.before) = (known.is_sealed, known.scan);
        }
        found.push(segment);
    }
    found.reverse();
    Ok(found)
}

/// Whether a valid header is that of a segment that does not belong here, or not beside the next
/// one. `stream_id` is that of newer segments, `next` the name of the one that follows in order of
/// generation.
pub(super) fn misplaced(
    context: &LogContext,
    location: &Location,
    header: &SegmentHeader,
    stream_id: &mut Option<StreamId>,
    next: Option<&SegmentId>,
) -> Option<Error> {
    let why = if header.wal_id != context.id() {
        "it belongs to another log"
    } else if header.name_crc != SegmentHeader::name_checksum(location.dir_name()) {
        "it belongs to a stream of another name"
    } else if *stream_id.get_or_insert(header.stream_id) != header.stream_id {
        "it belongs to another stream that had this name"
    } else {
        // Generations are never used twice.
        let twice = next.filter(|next| next.generation == header.generation);
        return twice.map(|&next| Error::history(location, SegmentId::of(header), next));
    };
    Some(Error::misplaced(location, SegmentId::of(header), why))
}

/// A segment as far as step 2 goes: one whose header was read, or of which only the name is known.
pub(super) trait Voidable {
    /// The seq of its first entry.
    fn base(&self) -> SeqNo;
    /// Where its entries end at the latest: from there on a newer segment voids them.
    fn set_limit(&mut self, limit: SeqNo);
}

impl Voidable for Found {
    fn base(&self) -> SeqNo {
        self.header().base
    }

    fn set_limit(&mut self, limit: SeqNo) {
        self.limit = limit;
    }
}

/// Step 2, of segments in order of generation: one with base *b* voids every entry at or above *b*
/// in older ones. A segment that cannot be read voids the same entries as one that can.
pub(super) fn drop_void<S: Voidable>(segments: Vec<S>) -> Vec<S> {
    let mut stack: Vec<S> = Vec::with_capacity(segments.len());
    for newer in segments {
        let base = newer.base();
        while stack.last().is_some_and(|older| older.base() >= base) {
            stack.pop();
        }
        if let Some(older) = stack.last_mut() {
            older.set_limit(base);
        }
        stack.push(newer);
    }
    stack
}

/// Step 3: segments whose limit is at or below *start* are garbage; among the rest nothing may be
/// missing.
pub(super) fn drop_garbage(
    context: &LogContext,
    location: &Location,
    stack: Vec<Found>,
    start: SeqNo,
) -> Result<Vec<Found>> {
    let mut live = stack;
    let newest = live.len() - 1;
    let first = live.iter().position(|found| found.limit > start).unwrap_or(newest);
    live.drain(..first);
    let first = &live[0];
    if first.header().base > start {
        let lost = Some((start.0, first.header().base.0 - 1));
        return Err(Error::damage(location, DamageKind::FirstMissing, Some(first.id()), None, lost));
    }
    let gap = live.windows(2).position(|pair| pair[1].header().predecessor != pair[0].header().generation);
    if let Some(i) = gap {
        let (id, base) = (live[i + 1].id(), live[i + 1].header().base);
        let lost = lost_range::end_of(context, location, &mut live[i]).map(|end| end.max(start).0..base.0);
        let error = Error::damage(location, DamageKind::PredecessorMissing, Some(id), None, None);
        return Err(error.with_lost(lost.unwrap_or_default()));
    }
    match live.windows(2).find(|pair| contradicts_header(pair[0].header(), pair[1].header())) {
        Some(pair) => Err(Error::history(location, pair[0].id(), pair[1].id())),
        None => Ok(live),
    }
}

/// Step 5 for one segment.
pub(super) fn scan(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    found: &mut Found,
    order: Order,
) -> Result<Scan> {
    let failed = |e| Error::segment_error(location, e);
    let limit = found.limit;
    let file = found.open(context, location)?.clone();
    if let Some(before) = found.before.take()
        && let Some(scan) = scan_on(context, &file, limit, before).map_err(failed)?
    {
        return Ok(scan);
    }
    let watch = Watch::now(context, &file, None).map_err(failed)?;
    let first = match order {
        Order::ChainFirst => fail_point!(ZerosAreTheEnd).then_some(SeqNo(0)),
        Order::AttestationsFirst => Some(file.attestations(ByteOffset(128)).map_err(failed)?.attested),
    };
    let (index, mut last, mut before_limit) = (ActiveIndex::new(options.index_every), None, None);
    let chain = file
        .scan_chain(&mut |offset, frame| {
            last = Some((offset, *frame));
            if frame.first_seq < limit {
                note(&index, offset, frame);
                if !frame.is_control() && frame.end_seq() >= limit {
                    before_limit = Some(offset);
                }
            }
        })
        .map_err(failed)?;
    let behind = match first {
        Some(attested) => attested,
        None => file.attestations(chain.end).map_err(failed)?.attested,
    };
    let attested = behind.max(chain.attested);
    let closed_len = closed_len(&file, &chain).map_err(failed)?;
    let last_crc = before_limit.map(|at| file.header_crc_at(at)).transpose().map_err(failed)?;
    let from = (ByteOffset(SEGMENT_HEADER_LEN as u64), file.header().base);
    let (synced, read_bytes) = (ByteOffset(0), file.len());
    let trace = Trace { last, watch, searched: true, limit, synced, torn_len: None, read_bytes };
    let (len, has_active_len) = (file.len(), file.has_active_len());
    Ok(Scan { len, has_active_len, closed_len, chain, from, attested, index: Arc::new(index), last_crc, trace })
}

/// How long the file was when it was closed, where it has another length than one that is being
/// written, and its chain ends in the CLOSE.
pub(super) fn closed_len(file: &SegmentFile, chain: &Chain) -> stratawal_segment::Result<Option<u64>> {
    if file.has_active_len() {
        return Ok(None);
    }
    let close = chain.close.map_or(Ok(None), |close| file.close_at(close))?;
    let ends = close.map(|close| close.offset + close.frame.frame_len());
    Ok(ends.filter(|&ends| ends == chain.end).map(|ends| ends.0 + TRAILER_LEN as u64))
}

/// Step 5, going back: while what is attested lies below the oldest segment scanned, or the one
/// before does not end in a valid SEAL and trailer, that one is scanned too. (Step 8 must not seal
/// a chain that breaks below its limit.)
pub(super) fn scan_back(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    live: &mut [Found],
    order: Order,
) -> Result<SeqNo> {
    let newest = live.len() - 1;
    let mut durable = live[newest].scan.as_ref().map_or(SeqNo(0), |scan| scan.attested);
    let mut oldest_base = live[newest].header().base;
    let mut open = 1;
    for found in live[..newest].iter_mut().rev() {
        if !found.is_sealed {
            let finished = found.open(context, location)?.finished().map_err(|e| Error::segment_error(location, e))?;
            found.is_sealed =
                finished.is_some_and(|f| matches!(f.footer.kind, stratawal_frame::FooterKind::Seal { .. }));
        }
        if durable >= oldest_base && found.is_sealed {
            break;
        }
        let scan = scan(context, location, options, found, order)?;
        // Attestations of entries that a newer generation has voided are void with them.
        let attested = if fail_point!(AttestationNotClamped) { scan.attested } else { scan.attested.min(found.limit) };
        durable = durable.max(attested);
        oldest_base = found.header().base;
        found.scan = Some(scan);
        if open < SCANNED_OPEN_MAX {
            open += 1;
        } else {
            found.close(location, durable, order)?;
        }
    }
    Ok(durable)
}

/// Whether the live segments were written one after the other. The last frames of segments that are
/// not scanned are compared when they are read, so that opening stays cheap.
fn check_history(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    live: &mut [Found],
    start: SeqNo,
    order: Order,
) -> Result<()> {
    check_links(context, location, live)?;
    check_all_unsealed(context, location, options, live, start, order)
}

/// Checks each segment that has no valid end and was not scanned, as [`check_unsealed`] does.
pub(super) fn check_all_unsealed(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    live: &mut [Found],
    start: SeqNo,
    order: Order,
) -> Result<()> {
    for i in 1..live.len() {
        let next = *live[i].header();
        let found = &mut live[i - 1];
        if found.scan.is_none() && found.end.is_none() {
            check_unsealed(context, location, options, found, &next, start, order)?;
        }
    }
    Ok(())
}

/// Whether each live segment can follow the one before it, as far as the ends of files and the
/// scans show that.
pub(super) fn check_links(context: &LogContext, location: &Location, live: &mut [Found]) -> Result<()> {
    for i in 1..live.len() {
        let next = *live[i].header();
        let found = &mut live[i - 1];
        let scanned = found.scan.as_ref().is_some_and(|scan| scan_contradicts(scan, &next));
        if scanned || end_contradicts(context, location, found, &next)? {
            return Err(Error::history(location, found.id(), SegmentId::of(&next)));
        }
    }
    Ok(())
}

/// Whether the SEAL or CLOSE at the end of a file excludes that `next` follows. A frame that is
/// damaged excludes nothing.
pub(super) fn end_contradicts(
    context: &LogContext,
    location: &Location,
    found: &mut Found,
    next: &SegmentHeader,
) -> Result<bool> {
    if !found.end.is_some_and(|end| contradicts_end(&end, next)) {
        return Ok(false);
    }
    let finished = found.opened(context, location)?.finished().map_err(|e| Error::segment_error(location, e))?;
    found.end = finished.map(|finished| finished.summary());
    Ok(found.end.is_some_and(|end| contradicts_end(&end, next)))
}

/// Whether the chain of a segment that was scanned excludes that `next` follows.
pub(super) fn scan_contradicts(scan: &Scan, next: &SegmentHeader) -> bool {
    let sealed =
        scan.chain.seal.as_ref().map(|(seal, _)| FooterSummary { end_seq: scan.chain.end_seq, kind: seal.kind });
    sealed.is_some_and(|seal| contradicts_end(&seal, next))
        || scan.last_crc.is_some_and(|crc| contradicts_frame(crc, next))
}

/// A segment was settled before one after it was, and sealed before that. Where its SEAL is missing
/// or damaged, all entries that `next` follows must be there.
fn check_unsealed(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    found: &mut Found,
    next: &SegmentHeader,
    start: SeqNo,
    order: Order,
) -> Result<()> {
    let (limit, scan) = (found.limit, scan(context, location, options, found, order)?);
    // Not shown from this scan, so that no sync is due.
    found.close(location, limit, order)?;
    if scan_contradicts(&scan, next) {
        return Err(Error::history(location, found.id(), SegmentId::of(next)));
    }
    let (end, at) = (scan.chain.end_seq.min(limit), scan.chain.end.0);
    if end == limit {
        // For the next look.
        found.before = Some(scan);
        return Ok(());
    }
    found.scan = Some(scan);
    let error = Error::damage(location, DamageKind::Lost, Some(found.id()), Some(at), None);
    Err(lost_range::behind_chain(context, location, found, end, start, limit, error))
}

/// Step 5, the decision: where the chain over all scanned segments ends, and whether that is a torn
/// tail or damage.
pub(super) fn follow(
    context: &LogContext,
    location: &Location,
    live: &[Found],
    start: SeqNo,
    durable: SeqNo,
) -> Result<(usize, SeqNo)> {
    let newest = live.len() - 1;
    // The newest file's length is looked at whether or not the chain gets there.
    check_length(context, location, &live[newest], start, durable)?;
    let mut end = live[newest].header().base;
    for (i, found) in live.iter().enumerate() {
        let Some(scan) = &found.scan else { continue };
        end = scan.chain.end_seq.min(found.limit);
        if end == found.limit {
            continue;
        }
        // THE RULE. The chain ends here, before its limit. If anything valid attests that an entry
        // at or behind the end was durable, acknowledged entries are gone: damage, nothing is
        // changed. Otherwise this is what a crash leaves, and it is cut. That valid frames stand
        // behind the end proves nothing either way: pages that were never synced reach the disk in
        // any order, so a lawful power loss leaves the same picture.
        if end < durable {
            let error = Error::damage(location, DamageKind::Lost, Some(found.id()), Some(scan.chain.end.0), None);
            return Err(lost_range::behind_chain(context, location, found, end, start, durable, error));
        }
        check_length(context, location, found, start, durable)?;
        // A START is settled before the next segment is begun, whose header states it.
        let stated = scan.chain.start.unwrap_or(found.header().start);
        let is_whole = scan.from.0 == ByteOffset(SEGMENT_HEADER_LEN as u64);
        if let Some(next) = live.get(i + 1).filter(|next| is_whole && next.header().start != stated) {
            return Err(Error::history(location, found.id(), next.id()));
        }
        return Ok((i, end));
    }
    Ok((newest, end))
}

/// A file that was not finished has a length of one being written, or it was cut or lengthened, or
/// its end is damaged.
fn check_length(context: &LogContext, location: &Location, found: &Found, start: SeqNo, durable: SeqNo) -> Result<()> {
    let Some(scan) = found.scan.as_ref().filter(|scan| !scan.has_active_len) else { return Ok(()) };
    let end = scan.chain.end_seq.min(found.limit);
    // Where the last thing written was a CLOSE, its trailer ended the file.
    let closed_len = scan.closed_len;
    let error = Error::length(location, found.id(), scan.len, closed_len);
    Err(match closed_len {
        _ if end < durable.min(found.limit) => {
            lost_range::behind_chain(context, location, found, end, start, durable, error)
        }
        _ if found.limit < SeqNo(u64::MAX) => error.with_lost(end.max(start).0..found.limit.0),
        Some(_) => error,
        None => error.with_lost_from(end.max(start).0),
    })
}

impl Image {
    /// The timestamp of the last frame. Only the segment that the chain ends in counts: times may
    /// have begun anew in it.
    pub(crate) fn timestamp(&self) -> u64 {
        let last = &self.live[self.cut];
        let times = match &self.closed {
            Some(close) => Some(close.footer.times),
            None => last.scan.as_ref().and_then(|scan| scan.chain.times),
        };
        times.map_or(0, |times| times.1).max(last.header().last_timestamp)
    }

    pub(crate) fn report(&mut self, context: &LogContext, location: &Location) -> Result<OpenReport> {
        let torn = self.torn(context, location)?;
        let live = &self.live[..=self.cut];
        let kept: BTreeSet<SegmentId> = live.iter().map(Found::id).collect();
        let removed = self.all.iter().filter(|id| !kept.contains(id));
        Ok(OpenReport {
            existed: true,
            clean: self.closed.is_some(),
            first_seq: self.start.0,
            next_seq: self.end.max(self.start).0,
            segments: live.len() as u64,
            torn,
            scanned_bytes: self.live.iter().filter_map(|found| Some(found.scan.as_ref()?.trace.read_bytes)).sum(),
            removed_segments: removed.map(ToString::to_string).collect(),
            ..OpenReport::default()
        })
    }

    /// The bytes after the chain, if all of them were searched.
    fn torn(&mut self, context: &LogContext, location: &Location) -> Result<Option<TornTail>> {
        let at = &self.live[self.cut];
        let Some(scan) = at.scan.as_ref().filter(|scan| scan.trace.searched) else { return Ok(None) };
        let offset = scan.chain.end;
        let bytes = match scan.trace.torn_len {
            Some(bytes) => bytes,
            None => at.opened(context, location)?.torn_len(offset).map_err(|e| Error::segment_error(location, e))?,
        };
        let torn = (bytes > 0).then(|| TornTail { segment: at.id().to_string(), offset: offset.0, bytes });
        if let Some(scan) = &mut self.live[self.cut].scan {
            scan.trace.torn_len = Some(bytes);
        }
        Ok(torn)
    }
}

/// The index of a cleanly closed segment, and what is known of its CLOSE frames: from them, or else
/// by a walk.
pub(super) fn closed_index(
    file: &SegmentFile,
    close: &Finished,
    every: u64,
) -> stratawal_segment::Result<(ActiveIndex, Closes)> {
    let from_closes = close_points(file, close).and_then(|(points, depth)| {
        let closes = Closes { last: Some(close.offset), depth, points: points.len() };
        Some((ActiveIndex::from_points(every, &points).ok()?, closes))
    });
    if let Some(closed) = from_closes {
        return Ok(closed);
    }
    let index = ActiveIndex::new(every);
    file.scan_chain(&mut |offset, frame| note(&index, offset, frame))?;
    Ok((index, Closes::default()))
}

/// The index points of a cleanly closed segment: those of its last CLOSE and of the ones it names,
/// oldest first. `None` where any of that is not valid: then they are rebuilt by a scan. Answers
/// the depth, too.
fn close_points(file: &SegmentFile, close: &Finished) -> Option<(Vec<IndexPoint>, u32)> {
    // No writer goes deeper; a ring of CLOSE frames in a hostile file ends here.
    const DEPTH_MAX: usize = 4096;
    let base = file.header().base.0;
    let mut blocks: Vec<Vec<IndexPoint>> = Vec::new();
    let (mut offset, mut end_seq, mut end): (_, _, Footer) =
        (close.offset, close.frame.first_seq, close.footer.clone());
    loop {
        let bounds = Bounds { seq: base..end_seq.0, offset: 128..offset.0 };
        blocks.push(Index::decode(&end.index, &bounds).ok()?.points().to_vec());
        let stratawal_frame::FooterKind::Close { previous } = end.kind else { return None };
        let Some(previous) = previous else { break };
        let before = file.close_at(previous).ok()??;
        if previous >= offset || before.frame.first_seq > end_seq || blocks.len() >= DEPTH_MAX {
            return None;
        }
        (offset, end_seq, end) = (previous, before.frame.first_seq, before.footer);
    }
    let depth = u32::try_from(blocks.len()).ok()?;
    let points: Vec<IndexPoint> = blocks.into_iter().rev().flatten().collect();
    let rising = points.windows(2).all(|w| w[0].seq < w[1].seq && w[0].offset < w[1].offset);
    // A segment with entries has a point for its first frame.
    let complete = close.footer.entries == 0 || points.first().is_some_and(|first| first.seq == base);
    (rising && complete).then_some((points, depth))
}
