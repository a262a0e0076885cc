//! Reads every entry of a stream that can be read, whatever is damaged around it. Changes nothing.
//!
//! A *piece* is a live segment, or the name of one whose header cannot be read. The plan puts the
//! pieces in order, as steps 1 to 3 of recovery do; an unreadable segment counts by its name, so
//! that everything that it may have voided counts as void. Each piece is then searched for frames.
//! A *hole* is a run of seqs of which no frame was found:
//!
//! - A hole below the attested watermark is lost. So is one at a file that is missing or
//!   unreadable: such a file is never the result of a crash.
//! - At a hole at or above the attested watermark the stream ends: a crash leaves such a hole, and
//!   the next open ends the stream there.
//!
//! What is certain of an entry that is found: its bytes, its seq, and that it was written to this
//! stream. Whether `truncate_from` has dropped it is known where the segment that follows is known.
//! That is so
//!
//! - where the header of the next piece names this segment as its predecessor;
//! - where the generation of the next piece is one higher, so that no segment was ever between
//!   them;
//! - where the SEAL of this segment names the one that follows, and the header after the gap names
//!   the same one as its predecessor: then the SEAL gives the base of the missing one.
//!
//! Otherwise the entries of the segment before the gap are *uncertain*. So are those of all pieces
//! before one that is not of one history with its predecessor: the files of two copies of the log
//! are mixed. No other entries are: `truncate_from` removes every file above the one that it cuts
//! into before it returns. At the end of the stream a SEAL is no such proof, since a later
//! truncation does not change it.

use std::collections::VecDeque;
use std::sync::Arc;

use stratawal_frame::{ByteOffset, FooterKind, Frame, SEGMENT_HEADER_LEN, SegmentHeader, SeqNo, StreamId};
use stratawal_segment::{Access, FoundFrame, FoundSeal, FrameSearch, SegmentData, SegmentFile, SegmentId};

use super::analyse::{Voidable, drop_void, list, misplaced};
use super::{LOOKS_MAX, exists};
use crate::batch::Entry;
use crate::context::LogContext;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::history::{contradicts_end, contradicts_frame, contradicts_header, last_frame_crc};
use crate::location::Location;
use crate::options::StreamOptions;
use crate::read::snapshot::first_point;

/// The first frame of a segment begins here.
const FIRST_FRAME: ByteOffset = ByteOffset(SEGMENT_HEADER_LEN as u64);

/// The length of a MARK in the file; every other control frame is longer.
const MARK_LEN: u64 = 48;

/// What [`Salvage`] yields.
#[derive(Clone, Debug)]
pub enum Salvaged {
    /// An entry.
    Entry(Entry),
    /// An entry of which it is not known whether `truncate_from` dropped it: the file that would
    /// show it is missing.
    Uncertain(Entry),
    /// Entries that cannot be read.
    Lost(Lost),
}

/// Entries that cannot be read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lost {
    /// The first of them.
    pub first: u64,
    /// The last of them; `None` where it is not known how many there were, if any.
    pub last: Option<u64>,
    /// What is damaged, and where.
    pub error: Error,
}

/// Yields the entries of a stream that can be read, and the ranges that are lost, in order of seq;
/// each seq at most once. See [`salvage`].
#[derive(Debug)]
pub struct Salvage {
    context: Arc<LogContext>,
    location: Location,
    options: StreamOptions,
    stream_id: Option<StreamId>,
    plan: Plan,
    /// Every seq below was yielded, reported as lost, or dropped.
    next: SeqNo,
    reading: Option<Reading>,
    done: bool,
}

/// The pieces to read, as of one listing.
#[derive(Debug)]
struct Plan {
    names: Vec<SegmentId>,
    stream_id: Option<StreamId>,
    /// The first live seq, as far as the newest readable segment states it.
    start: SeqNo,
    /// A hole below this is damage.
    attested: SeqNo,
    pieces: VecDeque<Piece>,
    /// Set where the end is damaged: the newest segment names one that is missing, or its file has
    /// a length that no writer leaves.
    tail: Option<Error>,
}

impl Plan {
    /// Whether anything is missing or unreadable.
    fn is_damaged(&self) -> bool {
        let is_sound = |piece: &Piece| piece.header.is_ok() && piece.missing.is_none() && piece.is_certain;
        self.tail.is_some() || !self.pieces.iter().all(is_sound)
    }
}

/// A live segment, or the name of one.
#[derive(Debug)]
struct Piece {
    id: SegmentId,
    /// Its header, or why that cannot be used.
    header: std::result::Result<SegmentHeader, Error>,
    /// Entries from here on are not this piece's.
    limit: SeqNo,
    /// What is missing before it.
    missing: Option<DamageKind>,
    is_certain: bool,
}

impl Piece {
    /// The smallest seq that a file may begin with, by its name or by a valid header that has
    /// another name.
    fn base_min(&self) -> SeqNo {
        let named = self.header.as_ref().err().and_then(Error::named_segment);
        named.map_or(self.id.base, |named| named.base.min(self.id.base))
    }
}

/// The piece that is being read.
#[derive(Debug)]
struct Reading {
    piece: Piece,
    search: FrameSearch,
    /// A frame that was found after a hole.
    found: Option<FoundFrame>,
    /// The frame that entries are taken from.
    frame: Option<Frame>,
    /// Where the last frame ended that is not a MARK, which the next frame overwrites.
    frame_end: ByteOffset,
}

/// The meaning of a hole.
enum Hole {
    /// Nothing in it is live.
    Dropped,
    /// The end of the stream.
    End,
    Lost(Lost),
    /// The files have changed since they were listed; everything is to be looked at again.
    Changed,
}

/// Begins to read every entry of the stream that can be read, whatever is damaged; `None` where the
/// stream is not there. With a read-only [`LogContext`], beside a writer or not. Of a stream that
/// is not damaged these are the entries that opening it for reading shows. What is read is in the
/// page cache, and may not be durable.
///
/// At most a few files are open at a time. One frame is in memory at a time; one longer than
/// `read_len_max` of `options` counts as lost.
///
/// Entries that a writer drops at the same time may be yielded or not.
///
/// # Errors
/// What is not damage: I/O.
pub fn salvage(context: &Arc<LogContext>, location: &Location, options: &StreamOptions) -> Result<Option<Salvage>> {
    let Some(plan) = look(context, location, None)? else { return Ok(None) };
    Ok(Some(Salvage {
        context: Arc::clone(context),
        location: location.clone(),
        options: options.clone(),
        stream_id: plan.stream_id,
        next: plan.start,
        plan,
        reading: None,
        done: false,
    }))
}

impl Iterator for Salvage {
    type Item = Result<Salvaged>;

    fn next(&mut self) -> Option<Self::Item> {
        for _ in 0..LOOKS_MAX {
            if self.done {
                return None;
            }
            let step = match self.step() {
                Ok(Some(step)) => step,
                Ok(None) => {
                    self.done = true;
                    return None;
                }
                // A writer has removed the file since it was listed.
                Err(error) if error.is_not_found() => Step::LookAgain,
                Err(error) => return self.fail(error),
            };
            match step {
                Step::Item(item) => return Some(Ok(item)),
                Step::LookAgain => {
                    if let Err(error) = self.look_again() {
                        return self.fail(error);
                    }
                }
            }
        }
        let text = "the stream changes faster than it can be read; try again";
        self.fail(Error::text(ErrorKind::Io, &self.location, text))
    }
}

impl std::iter::FusedIterator for Salvage {}

enum Step {
    Item(Salvaged),
    LookAgain,
}

impl Salvage {
    fn fail(&mut self, error: Error) -> Option<Result<Salvaged>> {
        self.done = true;
        Some(Err(error))
    }

    /// Lists the files again, and continues where this was.
    fn look_again(&mut self) -> Result<()> {
        self.reading = None;
        let Some(plan) = look(&self.context, &self.location, self.stream_id)? else {
            return Err(Error::new(ErrorKind::Deleted, &self.location));
        };
        self.stream_id = plan.stream_id;
        self.next = self.next.max(plan.start);
        self.plan = plan;
        Ok(())
    }

    /// The next item; `None` at the end.
    fn step(&mut self) -> Result<Option<Step>> {
        loop {
            let step = match self.reading.take() {
                Some(reading) => self.read_on(reading)?,
                None => match self.plan.pieces.pop_front() {
                    Some(piece) => self.enter(piece)?,
                    None => return self.finish(),
                },
            };
            match step {
                Flow::Go => {}
                Flow::Yield(item) => return Ok(Some(Step::Item(item))),
                Flow::Changed => return Ok(Some(Step::LookAgain)),
                Flow::End => return self.finish(),
            }
        }
    }

    /// Goes to the next piece.
    fn enter(&mut self, mut piece: Piece) -> Result<Flow> {
        if let Some(damage) = piece.missing.take() {
            let error = Error::damage(&self.location, damage, Some(piece.id), None, None);
            let hole = self.hole(Some(piece.id.base), error)?;
            self.plan.pieces.push_front(piece);
            return Ok(self.flow(hole));
        }
        if piece.limit <= self.next {
            return Ok(Flow::Go);
        }
        let header = match &piece.header {
            Ok(header) => header,
            Err(error) => {
                let hole = self.hole((piece.limit < UNLIMITED).then_some(piece.limit), error.clone())?;
                return Ok(self.flow(hole));
            }
        };
        let file = SegmentFile::open(self.context.storage(), &self.location.dir(), piece.id, Access::Read);
        let file = file.map_err(|e| Error::segment_error(&self.location, e))?;
        if file.header() != header {
            return Ok(Flow::Changed);
        }
        let search = FrameSearch::new(&file, FIRST_FRAME);
        self.reading = Some(Reading { piece, search, found: None, frame: None, frame_end: FIRST_FRAME });
        Ok(Flow::Go)
    }

    /// The next entry of the piece at hand, or the next hole in it.
    fn read_on(&mut self, mut reading: Reading) -> Result<Flow> {
        let seq = self.next;
        if let Some(entry) = reading.frame.as_ref().filter(|_| seq < reading.piece.limit).and_then(|f| entry_of(f, seq))
        {
            self.next = seq + 1;
            let item = if reading.piece.is_certain { Salvaged::Entry(entry) } else { Salvaged::Uncertain(entry) };
            self.reading = Some(reading);
            return Ok(Flow::Yield(item));
        }
        reading.frame = None;
        let after_lost = reading.found.take();
        let found = match after_lost {
            Some(found) => Some(found),
            None => reading.search.next_frame().map_err(|e| Error::segment_error(&self.location, e))?,
        };
        let Some(found) = found else { return self.leave(&reading.piece) };
        let (first, end) = (found.header.first_seq, found.header.end_seq());
        let follows = after_lost.is_some() || found.offset == reading.frame_end;
        if !found.header.is_control() || found.is_whole && found.header.frame_len() > MARK_LEN {
            reading.frame_end = found.offset + found.header.frame_len();
        }
        if found.header.is_control() || end <= seq || first >= reading.piece.limit {
            self.reading = Some(reading);
            return Ok(Flow::Go);
        }
        let id = reading.piece.id;
        if first > seq {
            // Nothing that can be read has these seqs. They may begin anywhere before this frame.
            let error = Error::damage(&self.location, DamageKind::Gap, Some(id), Some(found.offset.0), None);
            reading.found = Some(found);
            self.reading = Some(reading);
            let hole = self.hole(Some(first), error)?;
            return Ok(self.flow(hole));
        }
        if !follows && first >= self.plan.attested {
            // The chain ends before this frame, and nothing attests the frames after that end.
            return Ok(Flow::End);
        }
        let (len, max) = (found.header.frame_len(), self.options.frame_len_max());
        let too_large = len > max;
        let frame = if too_large {
            None
        } else {
            reading.search.read(&found).map_err(|e| Error::segment_error(&self.location, e))?
        };
        if let Some(frame) = frame {
            reading.frame = Some(frame);
            self.reading = Some(reading);
            return Ok(Flow::Go);
        }
        let error = if too_large {
            Error::new(ErrorKind::TooLarge { len, max }, &self.location)
        } else {
            Error::damage(&self.location, DamageKind::Frame, Some(id), Some(found.offset.0), None)
        };
        let end = end.min(reading.piece.limit);
        self.reading = Some(reading);
        let hole = self.hole(Some(end), error)?;
        Ok(self.flow(hole))
    }

    /// The piece has no more frames.
    fn leave(&mut self, piece: &Piece) -> Result<Flow> {
        // Where a missing file began is not known, so the gap is named as the cause, and not this
        // piece.
        if self.plan.pieces.front().is_some_and(|next| next.missing.is_some()) {
            return Ok(Flow::Go);
        }
        let end = match piece.limit {
            UNLIMITED if self.plan.tail.is_some() => return Ok(Flow::End),
            // What is after the last frame is not known, unless something attests it.
            UNLIMITED => self.plan.attested,
            limit => limit,
        };
        let error = Error::damage(&self.location, DamageKind::Lost, Some(piece.id), None, None);
        let hole = self.hole(Some(end), error)?;
        Ok(self.flow(hole))
    }

    /// No piece is left that could be read.
    fn finish(&mut self) -> Result<Option<Step>> {
        self.reading = None;
        self.plan.pieces.clear();
        let Some(error) = self.plan.tail.take() else { return Ok(None) };
        Ok(match self.hole(None, error)? {
            Hole::Lost(lost) => Some(Step::Item(Salvaged::Lost(lost))),
            Hole::Changed => Some(Step::LookAgain),
            Hole::Dropped | Hole::End => None,
        })
    }

    /// Decides about the hole from the next seq up to `end`, or of unknown length.
    fn hole(&mut self, end: Option<SeqNo>, error: Error) -> Result<Hole> {
        let first = self.next;
        if end.is_some_and(|end| end <= first) {
            return Ok(Hole::Dropped);
        }
        if end.is_some() && first >= self.plan.attested {
            return Ok(Hole::End);
        }
        // Damage is believed only if the files are those that were listed. A writer creates a file
        // before it changes what others hold.
        match list_any(&self.context, &self.location) {
            Ok(names) if names == self.plan.names => {}
            Err(error) if !error.is_not_found() => return Err(error),
            _ => return Ok(Hole::Changed),
        }
        let end = end.map(|end| end.min(self.plan.attested));
        self.next = end.unwrap_or(first);
        let last = end.map(|end| end.0 - 1);
        let error = match last {
            Some(last) => error.with_lost(first.0..last + 1),
            None => error.with_lost_from(first.0),
        };
        Ok(Hole::Lost(Lost { first: first.0, last, error }))
    }

    fn flow(&mut self, hole: Hole) -> Flow {
        match hole {
            Hole::Dropped => Flow::Go,
            Hole::End => Flow::End,
            Hole::Changed => Flow::Changed,
            Hole::Lost(lost) => Flow::Yield(Salvaged::Lost(lost)),
        }
    }
}

enum Flow {
    Go,
    Yield(Salvaged),
    Changed,
    End,
}

/// The limit of a segment that none follows.
const UNLIMITED: SeqNo = SeqNo(u64::MAX);

fn entry_of(frame: &Frame, seq: SeqNo) -> Option<Entry> {
    let i = u32::try_from(seq.0.checked_sub(frame.first_seq().0)?).ok()?;
    Some(Entry { seq: seq.0, timestamp: frame.header().timestamp, data: frame.entry(i)? })
}

/// Lists the files and plans how to read them; `None` where the stream is not there. `known` is the
/// stream that was read before.
fn look(context: &LogContext, location: &Location, known: Option<StreamId>) -> Result<Option<Plan>> {
    for _ in 0..LOOKS_MAX {
        if !exists(context, location)? {
            return Ok(None);
        }
        match plan(context, location) {
            // A writer has removed a file since it was listed.
            Err(error) if error.is_not_found() => {}
            Ok(plan) if known.is_some() && plan.stream_id.is_some() && plan.stream_id != known => {
                return Err(Error::new(ErrorKind::Deleted, location));
            }
            Err(error) => return Err(error),
            // A writer creates a file before it changes what the others say.
            Ok(plan) if plan.is_damaged() => match list_any(context, location) {
                Ok(names) if names == plan.names => return Ok(Some(plan)),
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            },
            Ok(plan) => return Ok(Some(plan)),
        }
    }
    Err(Error::text(ErrorKind::Io, location, "the stream changes faster than it can be read; try again"))
}

fn plan(context: &LogContext, location: &Location) -> Result<Plan> {
    let names = list_any(context, location)?;
    if names.is_empty() {
        return Ok(no_segment(location));
    }
    let (mut pieces, stream_id) = read_pieces(context, location, &names)?;
    let lowest = pieces.iter().map(Piece::base_min).min().unwrap_or_default();
    let newest = pieces.iter().rev().find_map(|piece| piece.header.as_ref().ok().copied());
    let start = newest.map(|header| start_of(context, location, &header)).transpose()?;
    pieces = drop_void(pieces);
    pieces.retain(|piece| piece.limit > start.unwrap_or_default());
    // Where nothing states the start, nothing states that anything is missing before the first
    // entry that is known of.
    let start = start.unwrap_or(lowest);
    let tail = join(context, location, &mut pieces, start)?;
    let attested = attested(context, location, &pieces)?;
    Ok(Plan { names, stream_id, start, attested, pieces: pieces.into(), tail })
}

/// The names of the segments in order of generation; there may be none.
fn list_any(context: &LogContext, location: &Location) -> Result<Vec<SegmentId>> {
    match list(context, location) {
        Ok((names, _)) => Ok(names),
        Err(error) if error.kind() == ErrorKind::Damaged(DamageKind::NoSegment) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A stream without files: everything is lost, however much that was.
fn no_segment(location: &Location) -> Plan {
    let error = Error::damage(location, DamageKind::NoSegment, None, None, None);
    let id = SegmentId { base: SeqNo(0), generation: stratawal_frame::Generation(0) };
    let piece = Piece { id, header: Err(error), limit: UNLIMITED, missing: None, is_certain: true };
    Plan {
        names: Vec::new(),
        stream_id: None,
        start: SeqNo(0),
        attested: SeqNo(0),
        pieces: VecDeque::from([piece]),
        tail: None,
    }
}

/// A piece for each name, in order of generation, and whose stream this is. Headers that are those
/// of another stream, or of another name, are unreadable.
fn read_pieces(
    context: &LogContext,
    location: &Location,
    names: &[SegmentId],
) -> Result<(Vec<Piece>, Option<StreamId>)> {
    let (mut pieces, mut stream_id) = (Vec::with_capacity(names.len()), None);
    for (i, &id) in names.iter().enumerate().rev() {
        let header = match SegmentFile::open(context.storage(), &location.dir(), id, Access::Read) {
            Ok(file) => {
                let header = *file.header();
                misplaced(context, location, &header, &mut stream_id, names.get(i + 1)).map_or(Ok(header), Err)
            }
            Err(error) if error.is_damage() || error.is_newer() => Err(Error::segment_error(location, error)),
            Err(error) => return Err(Error::segment_error(location, error)),
        };
        pieces.push(Piece { id, header, limit: UNLIMITED, missing: None, is_certain: true });
    }
    pieces.reverse();
    Ok((pieces, stream_id))
}

/// The first live seq, as the segment with this header states it.
fn start_of(context: &LogContext, location: &Location, header: &SegmentHeader) -> Result<SeqNo> {
    let file = open(context, location, header)?;
    let failed = |e| Error::segment_error(location, e);
    let finished = file.finished().map_err(failed)?;
    if let Some(close) = finished.filter(|finished| matches!(finished.footer.kind, FooterKind::Close { .. })) {
        return Ok(close.footer.start);
    }
    Ok(file.scan_chain(&mut |_, _| {}).map_err(failed)?.start.unwrap_or(header.start))
}

fn open(context: &LogContext, location: &Location, header: &SegmentHeader) -> Result<SegmentFile> {
    let file = SegmentFile::open(context.storage(), &location.dir(), SegmentId::of(header), Access::Read);
    let file = file.map_err(|e| Error::segment_error(location, e))?;
    if file.header() == header {
        return Ok(file);
    }
    // Another stream has the name by now, and with it the names of its files.
    Err(Error::io(location, std::io::ErrorKind::NotFound.into()))
}

impl Voidable for Piece {
    fn base(&self) -> SeqNo {
        self.id.base
    }

    fn set_limit(&mut self, limit: SeqNo) {
        self.limit = limit;
    }
}

/// Finds gaps before, between and after the pieces, and the pieces whose entries a gap makes
/// uncertain. Returns an error if the end is damaged.
fn join(context: &LogContext, location: &Location, pieces: &mut [Piece], start: SeqNo) -> Result<Option<Error>> {
    if let Some(first) = pieces.first_mut()
        && first.id.base > start
    {
        first.missing = Some(DamageKind::FirstMissing);
    }
    for i in 1..pieces.len() {
        let (before, after) = pieces.split_at_mut(i);
        let (older, newer) = (&mut before[i - 1], &mut after[0]);
        let named = newer.header.as_ref().ok().map(|header| header.predecessor);
        let is_gap = named.is_some_and(|generation| generation != older.id.generation);
        if is_gap {
            newer.missing = Some(DamageKind::PredecessorMissing);
        }
        let Ok(header) = &older.header else { continue };
        let mixed = match &newer.header {
            Ok(next) => !is_gap && !is_one_history(context, location, header, next)?,
            Err(error) => error.kind() == ErrorKind::Damaged(DamageKind::History),
        };
        if mixed {
            // Which of the two is the wrong one is not known. The newest segments count as the
            // stream.
            before.iter_mut().for_each(|piece| piece.is_certain = false);
            continue;
        }
        // No generation came between the two, so nothing can be missing there.
        let neighbours = older.id.generation.0.checked_add(1) == Some(newer.id.generation.0);
        if named.is_some() && !is_gap || named.is_none() && neighbours {
            continue;
        }
        let seal = open(context, location, header)?.find_seal().map_err(|e| Error::segment_error(location, e))?;
        let wanted = named.unwrap_or(newer.id.generation);
        let salt = newer.header.as_ref().ok().map(|header| header.predecessor_salt);
        let is_wanted = |seal: &FoundSeal| seal.successor == wanted && salt.is_none_or(|salt| salt == seal.salt);
        match seal.filter(is_wanted) {
            Some(seal) => older.limit = older.limit.min(seal.end_seq),
            None => older.is_certain = false,
        }
    }
    let Some(last) = pieces.last_mut() else { return Ok(None) };
    let Ok(header) = &last.header else { return Ok(None) };
    let failed = |e| Error::segment_error(location, e);
    let file = open(context, location, header)?;
    if let Some(seal) = file.find_seal().map_err(failed)? {
        (last.limit, last.is_certain) = (seal.end_seq, false);
        return Ok(Some(Error::damage(location, DamageKind::SuccessorMissing, Some(last.id), None, None)));
    }
    let whole =
        file.has_active_len() || file.finished().map_err(failed)?.is_some() || file.ends_in_close().map_err(failed)?;
    Ok((!whole).then(|| Error::length(location, last.id, file.len(), None)))
}

/// Whether nothing shows that the segments with these headers, of which `next` names the other as
/// its predecessor, are from two copies of the log.
fn is_one_history(
    context: &LogContext,
    location: &Location,
    before: &SegmentHeader,
    next: &SegmentHeader,
) -> Result<bool> {
    let failed = |e| Error::segment_error(location, e);
    let file = open(context, location, before)?;
    if contradicts_header(before, next)
        || file.finished().map_err(failed)?.is_some_and(|finished| contradicts_end(&finished.summary(), next))
    {
        return Ok(false);
    }
    let crc = last_frame_crc(&SegmentData::read(&file), first_point(before), next.base.0);
    Ok(!crc.is_some_and(|crc| contradicts_frame(crc, next)))
}

/// How far anything attests that entries were durable.
fn attested(context: &LogContext, location: &Location, pieces: &[Piece]) -> Result<SeqNo> {
    let mut attested = SeqNo(0);
    for (i, piece) in pieces.iter().enumerate().rev() {
        // A file that is missing or unreadable may have attested everything before the one that
        // follows.
        let after_unreadable = i.checked_sub(1).is_some_and(|before| pieces[before].header.is_err());
        if piece.missing.is_some() || after_unreadable || piece.header.is_err() {
            attested = attested.max(piece.id.base);
        }
        if let Ok(header) = &piece.header {
            attested = attested.max(attested_by(context, location, header, piece.limit)?);
        }
        if attested >= piece.id.base {
            break;
        }
    }
    Ok(attested)
}

/// How far the segment with this header attests it, below its limit.
fn attested_by(context: &LogContext, location: &Location, header: &SegmentHeader, limit: SeqNo) -> Result<SeqNo> {
    let file = open(context, location, header)?;
    let failed = |e| Error::segment_error(location, e);
    let attested = match file.finished().map_err(failed)? {
        Some(finished) if matches!(finished.footer.kind, FooterKind::Close { .. }) => finished.frame.first_seq,
        Some(_) => limit,
        // A file that ends otherwise than any writer leaves it was whole once.
        None if limit < UNLIMITED && !file.has_active_len() => limit,
        None => file.attestations(FIRST_FRAME).map_err(failed)?.attested,
    };
    Ok(attested.min(limit))
}
