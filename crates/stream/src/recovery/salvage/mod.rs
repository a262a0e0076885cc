//! Reads every intact entry of a damaged stream, before, between and after the damage. Changes
//! nothing.
//!
//! A *piece* is a live segment, or the name of a segment whose header cannot be read. The plan puts
//! the pieces in order, as steps 1 to 3 of recovery do. An unreadable segment counts by its name,
//! so that all entries that it may have voided count as void. Each piece is then searched for
//! frames. A *hole* is a run of seqs for which no frame was found:
//!
//! - The entries of a hole below the attested watermark are lost. So are those of a hole at a
//!   missing or unreadable file: such a file is never the result of a crash.
//! - The stream ends at a hole at or above the attested watermark. A crash can leave such a hole,
//!   and the next open ends the stream there.
//!
//! The commit journal may still have entries of a hole. They are not lost.
//!
//! An entry that was found was certainly written to this stream, with these bytes and this seq.
//! Whether `truncate_from` has dropped it is known only if the following segment is known, which is
//! the case:
//!
//! - if the header of the next piece names this segment as its predecessor;
//! - if the generation of the next piece is one higher, so that no segment was ever between them;
//! - if the SEAL of this segment and the header after the gap name the same segment, one as its
//!   successor and the other as its predecessor: then the SEAL gives the base of the missing
//!   segment.
//!
//! Otherwise the entries of the segment before the gap are *uncertain*. If a piece and its
//! predecessor are not of one history, the files of two copies of the log are mixed, and the
//! entries of all pieces before it are uncertain. No other entries are uncertain, because
//! `truncate_from` removes all later files before it returns. At the end of the stream a SEAL does
//! not prove which segment follows, since a later truncation does not change it.

mod before_damage;
mod journal_rest;
mod plan;

use std::sync::Arc;

use stratawal_frame::{ByteOffset, Frame, SeqNo, StreamId};
use stratawal_segment::{FoundFrame, FrameSearch};

use super::files::{LOOKS_MAX, StreamFiles};
use super::list::list_segments;
use super::scan::FIRST_FRAME;
use crate::batch::Entry;
use crate::context::LogContext;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::location::Location;
use crate::options::StreamOptions;
pub(crate) use before_damage::read_before_damage;
use journal_rest::JournalRest;
use plan::{Piece, Plan, UNLIMITED};

/// An item that [`Salvage`] yields.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Salvaged {
    /// An entry of the stream, byte for byte as it was appended.
    Entry(Entry),
    /// An entry, byte for byte as it was appended. A truncation may have dropped it from the end of
    /// the stream; the segment file that would show whether it did is missing, or a record of a
    /// damaged journal. If the end of the
    /// stream was never truncated, this is an entry of the stream.
    Uncertain(Entry),
    /// Entries that cannot be read.
    Lost(Lost),
}

/// A range of entries that cannot be read, and the reason.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lost {
    /// The seq of the first lost entry.
    pub first_seq: u64,
    /// One past the last lost entry. `None` if nothing attests how many there were; there may have
    /// been none.
    pub next_seq: Option<u64>,
    /// The damage, and where it is. If a file is missing, the error names the segment next to it.
    /// If entries are lost before a frame, the offset is that of the frame. The kind may also be
    /// [`NewerFormat`](ErrorKind::NewerFormat), for a segment file of a newer version, or
    /// [`TooLarge`](ErrorKind::TooLarge), for a frame that exceeds the limit for reading.
    pub error: Error,
}

/// Reads every intact entry of the stream, even if the stream cannot be opened because it is
/// damaged. Returns `None` if the stream does not exist. Needs a read-only [`LogContext`]; another
/// process may write to the stream at the same time. For an undamaged stream it yields the same
/// entries as opening the stream for reading. The entries are in the page cache and may not be
/// durable.
///
/// Only a few files are open at a time, and one frame is in memory at a time. A frame longer than
/// `read_bytes_max` of `options` counts as lost.
///
/// Entries that a writer drops at the same time may or may not be yielded.
///
/// # Errors
/// I/O. Damage is not an error here.
pub fn salvage(context: &Arc<LogContext>, location: &Location, options: &StreamOptions) -> Result<Option<Salvage>> {
    let files = StreamFiles::new(context, location, options);
    let mut rest = JournalRest::default();
    let Some(plan) = journal_rest::plan(&files, &mut rest, None)? else { return Ok(None) };
    Ok(Some(Salvage {
        context: Arc::clone(context),
        location: location.clone(),
        options: options.clone(),
        stream_id: plan.stream_id,
        next: plan.first_seq,
        plan,
        reading: None,
        rest,
        done: false,
    }))
}

/// An iterator over the readable entries and the lost ranges of a stream, in order of seq, created
/// by the function `salvage`. Each seq appears at most once.
#[derive(Debug)]
#[must_use = "nothing is read until the iterator is advanced"]
pub struct Salvage {
    context: Arc<LogContext>,
    location: Location,
    options: StreamOptions,
    stream_id: Option<StreamId>,
    plan: Plan,
    /// Every seq below this was yielded, reported as lost, or dropped.
    next: SeqNo,
    reading: Option<Reading>,
    rest: JournalRest,
    done: bool,
}

/// The length of a MARK in the file; every other control frame is longer.
const MARK_LEN: u64 = 48;

/// The piece being read.
#[derive(Debug)]
struct Reading {
    piece: Piece,
    search: FrameSearch,
    /// A frame that was found after a hole.
    found: Option<FoundFrame>,
    /// The frame from which entries are taken.
    frame: Option<Frame>,
    /// The end of the last frame other than a MARK. A MARK is overwritten by the next frame.
    frame_end: ByteOffset,
}

/// The outcome of a step of the iteration.
enum Step {
    /// The step produced nothing yet.
    Continue,
    Yield(Salvaged),
    /// The files have changed since they were listed; everything has to be read again.
    FilesChanged,
    /// The end of the stream.
    End,
}

impl Iterator for Salvage {
    type Item = Result<Salvaged>;

    fn next(&mut self) -> Option<Self::Item> {
        for _ in 0..LOOKS_MAX {
            if self.done {
                return None;
            }
            match self.step() {
                Ok(Step::Yield(item)) => return Some(Ok(item)),
                Ok(Step::Continue | Step::End) => {
                    self.done = true;
                    return None;
                }
                Ok(Step::FilesChanged) => {}
                // A writer has removed the file since it was listed.
                Err(error) if error.is_not_found() => {}
                Err(error) => return self.fail(error),
            }
            if let Err(error) = self.look_again() {
                return self.fail(error);
            }
        }
        let error = self.files().change_too_fast();
        self.fail(error)
    }
}

impl std::iter::FusedIterator for Salvage {}

impl Salvage {
    fn files(&self) -> StreamFiles<'_> {
        StreamFiles::new(&self.context, &self.location, &self.options)
    }

    fn failed(&self, error: stratawal_segment::Error) -> Error {
        Error::segment_error(&self.location, error)
    }

    fn fail(&mut self, error: Error) -> Option<Result<Salvaged>> {
        self.done = true;
        Some(Err(error))
    }

    /// Lists the files again, and continues at the same seq.
    fn look_again(&mut self) -> Result<()> {
        self.reading = None;
        let files = StreamFiles::new(&self.context, &self.location, &self.options);
        let Some(plan) = journal_rest::plan(&files, &mut self.rest, self.stream_id)? else {
            return Err(Error::new(ErrorKind::Missing, &self.location));
        };
        self.stream_id = plan.stream_id;
        self.next = self.next.max(plan.first_seq);
        self.plan = plan;
        Ok(())
    }

    /// Reads up to the next item, or up to the end.
    fn step(&mut self) -> Result<Step> {
        loop {
            let step = match self.reading.take() {
                reading if self.rest.hole.is_some() => {
                    self.reading = reading;
                    self.fill()?
                }
                Some(reading) => self.read_on(reading)?,
                None => match self.plan.pieces.pop_front() {
                    Some(piece) => self.enter(piece)?,
                    None => Step::End,
                },
            };
            match step {
                Step::Continue => {}
                Step::End => return self.finish(),
                step => return Ok(step),
            }
        }
    }

    /// Goes to the next piece.
    fn enter(&mut self, mut piece: Piece) -> Result<Step> {
        if let Some(damage) = piece.missing.take() {
            let error = Error::damage_at(&self.location, damage, Some(piece.id), None);
            let base = piece.id.base;
            self.plan.pieces.push_front(piece);
            return self.hole(base, error);
        }
        if piece.limit <= self.next {
            return Ok(Step::Continue);
        }
        let header = match &piece.header {
            Ok(header) => header,
            // The journal may show where the lost entries end.
            Err(error) if piece.limit == UNLIMITED => {
                self.plan.end_damage = Some(error.clone());
                return Ok(Step::Continue);
            }
            Err(error) => return self.hole(piece.limit, error.clone()),
        };
        let file = self.files().open(piece.id).map_err(|e| self.failed(e))?;
        if file.header() != header {
            return Ok(Step::FilesChanged);
        }
        let search = FrameSearch::new(&file, FIRST_FRAME);
        self.reading = Some(Reading { piece, search, found: None, frame: None, frame_end: FIRST_FRAME });
        Ok(Step::Continue)
    }

    /// Takes the next entry of the current piece, or finds the next hole in it.
    fn read_on(&mut self, mut reading: Reading) -> Result<Step> {
        let seq = self.next;
        if let Some(entry) = reading.entry(seq) {
            self.next = seq + 1;
            let item = if reading.piece.is_certain { Salvaged::Entry(entry) } else { Salvaged::Uncertain(entry) };
            self.reading = Some(reading);
            return Ok(Step::Yield(item));
        }
        reading.frame = None;
        let after_hole = reading.found.take();
        let found = match after_hole {
            Some(found) => Some(found),
            None => reading.search.next_frame().map_err(|e| self.failed(e))?,
        };
        let Some(found) = found else { return self.leave(&reading.piece) };
        let first = found.header.first_seq;
        let follows = after_hole.is_some() || found.offset == reading.frame_end;
        if !found.header.is_control() || found.is_whole && found.header.frame_len() > MARK_LEN {
            reading.frame_end = found.offset + found.header.frame_len();
        }
        if found.header.is_control() || found.header.end_seq() <= seq || first >= reading.piece.limit {
            self.reading = Some(reading);
            return Ok(Step::Continue);
        }
        if first > seq {
            // No readable frame has these seqs. They may begin anywhere before this frame.
            let id = reading.piece.id;
            let error = Error::damage_at(&self.location, DamageKind::Gap, Some(id), Some(found.offset.0));
            reading.found = Some(found);
            self.reading = Some(reading);
            return self.hole(first, error);
        }
        if !follows && first >= self.plan.attested {
            // The chain ends before this frame, and nothing attests the frames after the chain.
            return Ok(Step::End);
        }
        self.read_frame(reading, &found)
    }

    /// Reads a whole frame, from which the next entries are taken. If that is not possible, its
    /// entries are a hole.
    fn read_frame(&mut self, mut reading: Reading, found: &FoundFrame) -> Result<Step> {
        let len = found.header.frame_len();
        let max = self.options.frame_len_max();
        let error = if len > max {
            Error::new(ErrorKind::TooLarge { len, max }, &self.location)
        } else if let Some(frame) = reading.search.read(found).map_err(|e| self.failed(e))? {
            reading.frame = Some(frame);
            self.reading = Some(reading);
            return Ok(Step::Continue);
        } else {
            Error::damage_at(&self.location, DamageKind::Frame, Some(reading.piece.id), Some(found.offset.0))
        };
        let end = found.header.end_seq().min(reading.piece.limit);
        self.reading = Some(reading);
        self.hole(end, error)
    }

    /// Leaves the piece, which has no more frames.
    fn leave(&mut self, piece: &Piece) -> Result<Step> {
        // It is not known where a missing file began. So the error names the gap rather than this
        // piece as the cause.
        if self.plan.pieces.front().is_some_and(|next| next.missing.is_some()) {
            return Ok(Step::Continue);
        }
        let end = match piece.limit {
            UNLIMITED if self.plan.end_damage.is_some() => return Ok(Step::End),
            // Entries after the last frame are known only if something attests them.
            UNLIMITED => self.plan.attested,
            limit => limit,
        };
        let error = Error::damage_at(&self.location, DamageKind::Lost, Some(piece.id), None);
        self.hole(end, error)
    }

    /// No piece is left: reads on in the journal.
    fn finish(&mut self) -> Result<Step> {
        self.reading = None;
        self.plan.pieces.clear();
        self.read_journal()
    }

    /// Decides about the hole from the next seq up to `end`.
    fn hole(&mut self, end: SeqNo, error: Error) -> Result<Step> {
        if end <= self.next {
            // Nothing in it is live.
            return Ok(Step::Continue);
        }
        if self.next >= self.plan.attested {
            return Ok(Step::End);
        }
        if !self.is_as_listed()? {
            return Ok(Step::FilesChanged);
        }
        self.rest.hole = Some((end.min(self.plan.attested), error));
        Ok(Step::Continue)
    }

    /// Whether the files are still those listed. Damage is reported only then: a writer creates a
    /// new file before it changes another.
    fn is_as_listed(&self) -> Result<bool> {
        match list_segments(&self.files()) {
            Ok(names) => Ok(names == self.plan.names),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reports the entries from the next seq up to `end` as lost; `None` if it is not known how
    /// many there are.
    fn lost(&mut self, end: Option<SeqNo>, error: Error) -> Step {
        let first = self.next;
        self.next = end.unwrap_or(first);
        let error = match end {
            Some(end) => error.with_lost(first.0..end.0),
            None => error.with_lost_from(first.0),
        };
        Step::Yield(Salvaged::Lost(Lost { first_seq: first.0, next_seq: end.map(|end| end.0), error }))
    }
}

impl Reading {
    /// Returns entry `seq` if the current frame holds it.
    fn entry(&self, seq: SeqNo) -> Option<Entry> {
        let frame = self.frame.as_ref().filter(|_| seq < self.piece.limit)?;
        let i = u32::try_from(seq.0.checked_sub(frame.first_seq().0)?).ok()?;
        // A truncation may have dropped the end of the batch.
        let ends_batch = frame.ends_batch(i) || seq.0 + 1 == self.piece.limit.0;
        Some(Entry { seq: seq.0, timestamp: frame.header().timestamp, data: frame.entry(i)?, ends_batch })
    }
}
