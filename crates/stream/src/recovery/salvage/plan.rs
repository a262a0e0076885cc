//! The plan of a salvage: the pieces in order, where entries are missing, and which entries are
//! uncertain.

use std::collections::VecDeque;

use stratawal_frame::{FooterKind, Generation, SegmentHeader, SeqNo, StreamId};
use stratawal_segment::{FoundSeal, SegmentData, SegmentId};

use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::history::{contradicts_footer, contradicts_frame, contradicts_header, last_frame_crc};
use crate::read::snapshot::first_point;
use crate::recovery::files::{LOOKS_MAX, StreamFiles};
use crate::recovery::list::{list_segments, misplaced};
use crate::recovery::scan::FIRST_FRAME;
use crate::recovery::void::{SeqBounds, drop_void};

/// The pieces to read, as of one listing.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) names: Vec<SegmentId>,
    pub(super) stream_id: Option<StreamId>,
    /// The first live seq as recorded by the newest readable segment.
    pub(super) first_seq: SeqNo,
    /// A hole below this is damage.
    pub(super) attested: SeqNo,
    pub(super) pieces: VecDeque<Piece>,
    /// Set if the end is damaged: the newest segment names a missing one, or its file has a length
    /// that no writer leaves.
    pub(super) end_damage: Option<Error>,
}

impl Plan {
    /// The plan for a stream that only the commit journal knows.
    pub(super) fn without_files() -> Self {
        Self {
            names: Vec::new(),
            stream_id: None,
            first_seq: SeqNo(0),
            attested: SeqNo(0),
            pieces: VecDeque::new(),
            end_damage: None,
        }
    }

    /// Leaves out the entries below `start`, which were dropped. The files may not show that yet,
    /// because the record of it is in the commit journal.
    pub(super) fn begin_at(&mut self, start: SeqNo) {
        self.first_seq = self.first_seq.max(start);
        self.pieces.retain(|piece| piece.limit > start);
    }

    /// Whether anything is missing or unreadable.
    fn is_damaged(&self) -> bool {
        let is_sound = |piece: &Piece| piece.header.is_ok() && piece.missing.is_none() && piece.is_certain;
        self.end_damage.is_some() || !self.pieces.iter().all(is_sound)
    }
}

/// A live segment, or the name of one whose header cannot be read.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) id: SegmentId,
    /// The header, or why it cannot be used.
    pub(super) header: Result<SegmentHeader>,
    /// Entries at or above this do not belong to this piece.
    pub(super) limit: SeqNo,
    /// The kind of gap before this piece, if a segment is missing there.
    pub(super) missing: Option<DamageKind>,
    pub(super) is_certain: bool,
}

impl Piece {
    /// The smallest seq with which the file may begin, according to its name or to a valid header
    /// that does not match the name.
    fn base_min(&self) -> SeqNo {
        let named = self.header.as_ref().err().and_then(Error::named_segment);
        named.map_or(self.id.base, |named| named.base.min(self.id.base))
    }
}

impl SeqBounds for Piece {
    fn base(&self) -> SeqNo {
        self.id.base
    }

    fn set_limit(&mut self, limit: SeqNo) {
        self.limit = limit;
    }
}

/// The limit of a segment without a successor.
pub(super) const UNLIMITED: SeqNo = SeqNo(u64::MAX);

/// Lists the files and plans how to read them. Returns `None` if the stream does not exist. `known`
/// is the id of the stream if it was read before.
pub(super) fn make_plan(files: &StreamFiles<'_>, known: Option<StreamId>) -> Result<Option<Plan>> {
    for _ in 0..LOOKS_MAX {
        if !files.exist()? {
            return Ok(None);
        }
        match plan(files) {
            // A writer has removed a file since it was listed.
            Err(error) if error.is_not_found() => {}
            Ok(plan) if known.is_some() && plan.stream_id.is_some() && plan.stream_id != known => {
                return Err(Error::new(ErrorKind::Missing, files.location));
            }
            Err(error) => return Err(error),
            // A writer creates a new file before it changes another.
            Ok(plan) if plan.is_damaged() => match list_segments(files) {
                Ok(names) if names == plan.names => return Ok(Some(plan)),
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            },
            Ok(plan) => return Ok(Some(plan)),
        }
    }
    Err(files.change_too_fast())
}

fn plan(files: &StreamFiles<'_>) -> Result<Plan> {
    let names = list_segments(files)?;
    if names.is_empty() {
        return Ok(no_segment(files));
    }
    let (mut pieces, stream_id) = read_pieces(files, &names)?;
    let lowest = pieces.iter().map(Piece::base_min).min().unwrap_or_default();
    let newest = pieces.iter().rev().find_map(|piece| piece.header.as_ref().ok().copied());
    let stated = newest.map(|header| stated_by(files, &header)).transpose()?;
    pieces = drop_void(pieces);
    pieces.retain(|piece| piece.limit > stated.unwrap_or_default());
    // If no segment records the first live seq, nothing shows that entries before the first known
    // one are missing.
    let first_seq = stated.unwrap_or(lowest);
    join(files, &mut pieces, first_seq)?;
    let end_damage = check_end(files, pieces.last_mut())?;
    let attested = attested(files, &pieces)?;
    Ok(Plan { names, stream_id, first_seq, attested, pieces: pieces.into(), end_damage })
}

/// The plan for a stream without files: all entries are lost, and it is not known how many.
fn no_segment(files: &StreamFiles<'_>) -> Plan {
    let error = Error::damage_at(files.location, DamageKind::NoSegment, None, None);
    let id = SegmentId { base: SeqNo(0), generation: Generation(0) };
    let piece = Piece { id, header: Err(error), limit: UNLIMITED, missing: None, is_certain: true };
    Plan {
        names: Vec::new(),
        stream_id: None,
        first_seq: SeqNo(0),
        attested: SeqNo(0),
        pieces: VecDeque::from([piece]),
        end_damage: None,
    }
}

/// Creates a piece for each name, in order of generation, and determines which stream this is. A
/// header of another stream, or one that does not match its file name, counts as unreadable.
fn read_pieces(files: &StreamFiles<'_>, names: &[SegmentId]) -> Result<(Vec<Piece>, Option<StreamId>)> {
    let mut pieces = Vec::with_capacity(names.len());
    // The newest segment is read first: it determines which stream this is.
    let mut stream_id = None;
    for (i, &id) in names.iter().enumerate().rev() {
        let header = match files.open(id) {
            Ok(file) => {
                let header = *file.header();
                misplaced(files, &header, &mut stream_id, names.get(i + 1)).map_or(Ok(header), Err)
            }
            Err(error) if error.is_damage() || error.is_newer() => Err(files.failed(error)),
            Err(error) => return Err(files.failed(error)),
        };
        pieces.push(Piece { id, header, limit: UNLIMITED, missing: None, is_certain: true });
    }
    pieces.reverse();
    Ok((pieces, stream_id))
}

/// Finds the gaps before and between the pieces, and the pieces whose entries a gap makes
/// uncertain.
fn join(files: &StreamFiles<'_>, pieces: &mut [Piece], first_seq: SeqNo) -> Result<()> {
    if let Some(first) = pieces.first_mut()
        && first.id.base > first_seq
    {
        first.missing = Some(DamageKind::FirstMissing);
    }
    for i in 1..pieces.len() {
        let (before, after) = pieces.split_at_mut(i);
        let newer = &mut after[0];
        let older = &mut before[i - 1];
        let named = newer.header.as_ref().ok().map(|header| header.predecessor);
        let is_gap = named.is_some_and(|generation| generation != older.id.generation);
        if is_gap {
            newer.missing = Some(DamageKind::PredecessorMissing);
        }
        let Ok(header) = &older.header else { continue };
        let is_mixed = match &newer.header {
            Ok(next) => !is_gap && !is_one_history(files, header, next)?,
            Err(error) => error.damage() == Some(DamageKind::History),
        };
        if is_mixed {
            // It is not known which of the two is the wrong one. The newest segments are taken to
            // be the stream.
            before.iter_mut().for_each(|piece| piece.is_certain = false);
            continue;
        }
        // No generation was ever between the two, so nothing can be missing there.
        let are_neighbours = older.id.generation.0.checked_add(1) == Some(newer.id.generation.0);
        if named.is_some() && !is_gap || named.is_none() && are_neighbours {
            continue;
        }
        let seal = files.open_again(header)?.find_seal().map_err(|e| files.failed(e))?;
        let wanted = named.unwrap_or(newer.id.generation);
        let salt = newer.header.as_ref().ok().map(|header| header.predecessor_salt);
        let is_wanted = |seal: &FoundSeal| seal.successor == wanted && salt.is_none_or(|salt| salt == seal.salt);
        match seal.filter(is_wanted) {
            Some(seal) => older.limit = older.limit.min(seal.end_seq),
            None => older.is_certain = false,
        }
    }
    Ok(())
}

/// Checks the end of the stream, whose last piece is `last`. Returns the damage.
fn check_end(files: &StreamFiles<'_>, last: Option<&mut Piece>) -> Result<Option<Error>> {
    let Some(last) = last else { return Ok(None) };
    let Ok(header) = &last.header else { return Ok(None) };
    let file = files.open_again(header)?;
    if let Some(seal) = file.find_seal().map_err(|e| files.failed(e))? {
        last.limit = seal.end_seq;
        last.is_certain = false;
        return Ok(Some(Error::damage_at(files.location, DamageKind::SuccessorMissing, Some(last.id), None)));
    }
    let is_whole = file.has_active_len()
        || file.finished().map_err(|e| files.failed(e))?.is_some()
        || file.ends_in_close().map_err(|e| files.failed(e))?;
    Ok((!is_whole).then(|| Error::length(files.location, last.id, file.len(), None)))
}

/// Whether the segments with these headers can be of one history, rather than from two copies of
/// the log. `next` names `before` as its predecessor.
fn is_one_history(files: &StreamFiles<'_>, before: &SegmentHeader, next: &SegmentHeader) -> Result<bool> {
    let file = files.open_again(before)?;
    if contradicts_header(before, next)
        || file
            .finished()
            .map_err(|e| files.failed(e))?
            .is_some_and(|finished| contradicts_footer(&finished.summary(), next))
    {
        return Ok(false);
    }
    let crc = last_frame_crc(&SegmentData::read(&file), first_point(before), next.base.0);
    Ok(!crc.is_some_and(|crc| contradicts_frame(crc, next)))
}

/// How far anything attests that entries were durable.
fn attested(files: &StreamFiles<'_>, pieces: &[Piece]) -> Result<SeqNo> {
    let mut attested = SeqNo(0);
    for (i, piece) in pieces.iter().enumerate().rev() {
        // A missing or unreadable file may have attested all entries before the next file.
        let after_unreadable = i.checked_sub(1).is_some_and(|before| pieces[before].header.is_err());
        if piece.missing.is_some() || after_unreadable || piece.header.is_err() {
            attested = attested.max(piece.id.base);
        }
        if let Ok(header) = &piece.header {
            attested = attested.max(attested_by(files, header, piece.limit)?);
        }
        if attested >= piece.id.base {
            break;
        }
    }
    Ok(attested)
}

/// How far the segment with this header attests that, up to its limit.
fn attested_by(files: &StreamFiles<'_>, header: &SegmentHeader, limit: SeqNo) -> Result<SeqNo> {
    let file = files.open_again(header)?;
    let attested = match file.finished().map_err(|e| files.failed(e))? {
        Some(finished) if matches!(finished.footer.kind, FooterKind::Close { .. }) => finished.frame.first_seq,
        Some(_) => limit,
        // No writer leaves such an end, so the file was once complete.
        None if limit < UNLIMITED && !file.has_active_len() => limit,
        None => file.attestations(FIRST_FRAME).map_err(|e| files.failed(e))?.attested,
    };
    Ok(attested.min(limit))
}

/// The first live seq as recorded by the segment with this header.
fn stated_by(files: &StreamFiles<'_>, header: &SegmentHeader) -> Result<SeqNo> {
    let file = files.open_again(header)?;
    let finished = file.finished().map_err(|e| files.failed(e))?;
    if let Some(close) = finished.filter(|finished| matches!(finished.footer.kind, FooterKind::Close { .. })) {
        return Ok(close.footer.start);
    }
    Ok(file.scan_chain(&mut |_, _| {}).map_err(|e| files.failed(e))?.start.unwrap_or(header.start))
}
