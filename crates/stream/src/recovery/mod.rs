//! Recovery of a stream: which of the bytes in its folder count, and making the files say so.
//!
//! Words: *void* segments are dropped in step 2, *garbage* in step 3, the rest is *live*; *kept*
//! are live segments with a base below that of the new generation. Steps 1 to 5 ([`analyse`]) read
//! and decide; they are all that a reader does, and they change nothing. Steps 6 to 9 ([`repair`])
//! are the writer's. Interrupted anywhere, recovery runs again from step 1: only step 7 changes
//! what the files mean, by one rename.
//!
//! 1. List, read headers. No segment is damage.
//! 2. In order of generation, drop every older segment whose base is at or above the newer one's;
//!    compute limits.
//! 3. *start*: from the newest segment. Drop what lies wholly below it; what is left must be
//!    without gaps, and of one history (see `history`).
//! 4. A newest segment that ends in a valid CLOSE and trailer: that is the end, nothing is scanned.
//! 5. Otherwise scan: how far the chain of frames goes, and how far anything valid attests that it
//!    went.
//! 6. Write again, in place, every frame that may not be durable, and sync.
//! 7. Sync the folders; begin a new generation at the end. This is the commit point.
//! 8. Write the SEALs that are missing.
//! 9. Remove void and garbage segments. The caller does that, once the stream serves its readers
//!    and writers again: a file that stays changes nothing. So a file that cannot be removed does
//!    not keep a stream from being opened.
//!
//! A stream may have more segments than a process may have files, and any number of them may have
//! to be scanned. So at most 16 files are open at a time, the newest ones: a scan keeps its
//! findings, and the file is opened again where it is needed.
//!
//! A damaged stream is refused, and its files stay as they are. [`salvage`](mod@salvage) reads the
//! intact entries around the damage. [`floor`] does steps 1 to 5 where only the entries at or above
//! a given seq have to be sound, so that a truncation drops the damage below.
//!
//! A reader that looks again continues its last look, see [`look`].
//!
//! Damage that looks like what a crash leaves, and is taken for it:
//!
//! - in a newest segment that was not closed, whatever takes a frame and every frame and MARK that
//!   attested it: in practice its whole end;
//! - a START that is damaged: what it dropped may come back, as far as it is still on the disk;
//! - after a power loss, or a kill in mid-write, damage inside the groups of the last two syncs:
//!   the frame that is half written has taken the place of the MARK behind the one before;
//! - a closed newest file that is cut to exactly 4096 * k + 8 bytes, the length of one that is
//!   being written;
//! - the folder of a stream that is gone as a whole: nothing else says which streams there are.

use std::sync::Arc;

mod analyse;
mod floor;
mod install;
mod look;
mod lost_range;
mod open;
mod partial;
mod reopen;
mod repair;
mod salvage;

use std::io;
use std::time::Instant;

use stratawal_frame::{ByteOffset, FrameHeader, SeqNo};
use stratawal_index::ActiveIndex;
use stratawal_segment::{Chain, SegmentData, SegmentFile, SegmentId};

use crate::context::LogContext;
use crate::error::{Error, ErrorKind, Result};
use crate::location::Location;
use crate::options::StreamOptions;
use crate::read::snapshot::{LiveSegment, PublishedSegment, SegmentState, Snapshot};
use crate::report::OpenReport;
use crate::write::active::Active;
use crate::write::reserve::ReserveUse;

use analyse::{Image, Opened, Order, analyse, closed_index};
pub(crate) use look::Known;
use look::{Trace, look_on};
pub(crate) use partial::partial;
pub use salvage::{Lost, Salvage, Salvaged, salvage};

/// What recovery hands to the stream.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) snapshot: Snapshot,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) timestamp: u64,
    /// `None` for a reader.
    pub(crate) writable: Option<(Active, stratawal_segment::Preallocation)>,
    pub(crate) report: OpenReport,
    /// Void and garbage segments, whose files are still there.
    pub(crate) dead: Vec<SegmentId>,
    /// The next look of a reader continues from this.
    pub(crate) known: Option<Box<Known>>,
    /// Whether this look continued an earlier one.
    pub(crate) is_continued: bool,
}

/// The outcome of looking again.
pub(crate) enum Look {
    /// The stream is not there.
    Missing,
    /// The stream is as it was; with a report where anything was read.
    Same { known: Box<Known>, report: Option<OpenReport> },
    /// The stream has changed, or all of it was read anew.
    New(Box<Recovered>),
}

/// Whether the stream's folder is there.
pub(crate) fn exists(context: &LogContext, location: &Location) -> Result<bool> {
    match context.storage().list(&location.dir()) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::directory(location, e)),
    }
}

/// Recovers the stream for writing; `None` where it is not there. On a full disk it fails as full
/// and may be repeated; the entries stay readable. Where `reserve` allows it, it is repeated
/// without the emergency reserve.
pub(crate) fn recover(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    reserve: ReserveUse,
) -> Result<Option<Recovered>> {
    context.with_reserve(
        reserve,
        |error: &Error| error.kind() == ErrorKind::Full,
        || recover_as_it_is(context, location, options),
    )
}

fn recover_as_it_is(context: &LogContext, location: &Location, options: &StreamOptions) -> Result<Option<Recovered>> {
    recover_by(context, location, options, || analyse(context, location, options, Order::ChainFirst))
}

/// Recovers a stream of which the entries at or above `floor` are intact, whatever is damaged
/// below, and drops those below: they may be damaged. `None` where the stream is not there. On a
/// full disk it is repeated without the emergency reserve.
///
/// The new generation, whose header has the new start, is durable before any file is removed. Until
/// then the files mean what they meant before. Where a crash comes between, this may be repeated.
pub(crate) fn recover_above(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    floor: SeqNo,
) -> Result<Option<Recovered>> {
    let full = |error: &Error| error.kind() == ErrorKind::Full;
    context.with_reserve(ReserveUse::Allowed, full, || {
        recover_by(context, location, options, || floor::analyse_above(context, location, options, floor))
    })
}

/// Steps 1 to 5 as `analyse` does them, and the rest.
fn recover_by(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    analyse: impl Fn() -> Result<Image>,
) -> Result<Option<Recovered>> {
    if !exists(context, location)? {
        return Ok(None);
    }
    const TRIES_MAX: usize = 3;
    let began = Instant::now();
    for _ in 0..TRIES_MAX {
        let image = analyse()?;
        if let Some(mut recovered) = repair::repair(context, location, options, image)? {
            recovered.report.elapsed = began.elapsed();
            return Ok(Some(recovered));
        }
    }
    Err(Error::text(
        ErrorKind::Io,
        location,
        "the files change while they are read: something else writes to them, or the disk fails",
    ))
}

/// How often a reader looks again where a writer moves under it.
const LOOKS_MAX: usize = 200;

/// Reads the stream beside another process that may write; `None` where it is not there. Changes
/// nothing.
///
/// A writer at work looks like damage of any kind for a moment: a segment that is gone, a length, a
/// gap. So damage is believed only if a fresh listing and reading finds the same again: the same
/// place and the same numbers.
pub(crate) fn read(context: &LogContext, location: &Location, options: &StreamOptions) -> Result<Option<Recovered>> {
    let began = Instant::now();
    let mut seen: Option<Error> = None;
    for _ in 0..LOOKS_MAX {
        if !exists(context, location)? {
            return Ok(None);
        }
        match analyse(context, location, options, Order::AttestationsFirst)
            .and_then(|image| show(context, location, options, image, false))
        {
            Ok(mut recovered) => {
                recovered.report.elapsed = began.elapsed();
                return Ok(Some(recovered));
            }
            Err(e) if !e.is_damage() && !e.is_not_found() => return Err(e),
            Err(e) if seen.as_ref().is_some_and(|seen| seen.same_finding(&e)) => return Err(e),
            Err(e) => seen = Some(e),
        }
    }
    // Never the same twice: that is a writer at work, and no damage.
    Err(Error::text(ErrorKind::Io, location, "the stream changes faster than it can be read; try again"))
}

/// Looks again, and reads only the entries that have come since the look that found `known`. Where
/// that does not hold, or is not given, it reads all of them.
pub(crate) fn look(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    known: Option<Box<Known>>,
) -> Result<Look> {
    let began = Instant::now();
    if let Some(known) = known
        && let Ok(mut look) = look_on(context, location, options, *known)
    {
        match &mut look {
            Look::Same { report: Some(report), .. } => report.elapsed = began.elapsed(),
            Look::New(recovered) => recovered.report.elapsed = began.elapsed(),
            Look::Same { report: None, .. } | Look::Missing => {}
        }
        return Ok(look);
    }
    // Only the findings that do not rely on an earlier look are reported as errors.
    Ok(read(context, location, options)?.map_or(Look::Missing, |found| Look::New(Box::new(found))))
}

/// What a reader shows of an image: the whole chain, once it is made sure of.
fn show(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    mut image: Image,
    is_continued: bool,
) -> Result<Recovered> {
    // Beyond what is attested the bytes may be in the page cache alone; a reader that showed them
    // and then saw them gone after a power loss would have read what was never there.
    if image.end > image.durable {
        // Those that are not open any more were synced before they were closed.
        image.live.iter_mut().try_for_each(|found| found.make_sure(location, image.durable))?;
    }
    let report = image.report(context, location)?;
    let timestamp = image.timestamp();
    let (start, end) = (image.start.0, image.end.max(image.start).0);
    let newest = image.live[image.live.len() - 1].id();
    let mut segments = Vec::with_capacity(image.cut + 1);
    for found in &image.live[..=image.cut] {
        let header = *found.header();
        let state = match (&found.scan, &found.file, &image.closed) {
            (Some(scan), Opened::Open(file), _) => SegmentState::Live(Arc::new(scan.live(file))),
            // Whole: opened when it is read, and then its index is made again where it has none.
            (Some(scan), Opened::Header(_), _) if scan.chain.end_seq >= found.limit => SegmentState::Sealed,
            (Some(scan), Opened::Header(_), _) => {
                SegmentState::Live(Arc::new(scan.live(&found.opened(context, location)?)))
            }
            // The newest, which a writer may go on in: where it ended is what was seen now.
            (None, Opened::Open(file), Some(close)) if SegmentId::of(&header) == newest => {
                let closed = closed_index(file, close, options.index_every);
                let (index, _) = closed.map_err(|e| Error::segment_error(location, e))?;
                SegmentState::Live(Arc::new(LiveSegment::new(SegmentData::read(file), Arc::new(index), close.offset.0)))
            }
            (None, _, _) => SegmentState::Sealed,
        };
        segments.push(Arc::new(PublishedSegment { header, state }));
    }
    let (snapshot, known) = (Snapshot::new(segments), Some(Box::new(Known::of(image))));
    Ok(Recovered { snapshot, start, end, timestamp, writable: None, report, dead: Vec::new(), known, is_continued })
}

/// What a scan of one segment found (step 5).
#[derive(Debug)]
pub(crate) struct Scan {
    /// How long the file was, in bytes.
    pub(crate) len: u64,
    /// Whether that is the length of a file that is being written.
    pub(crate) has_active_len: bool,
    /// How long the file was when it was closed, where it has another length and its chain ends in
    /// the CLOSE.
    pub(crate) closed_len: Option<u64>,
    pub(crate) chain: Chain,
    /// Where the chain was entered: at the first frame, unless only later entries have to be sound.
    pub(crate) from: (ByteOffset, SeqNo),
    /// The highest watermark that any valid frame in it attests, in the chain or not.
    pub(crate) attested: SeqNo,
    /// Later looks add points to it; the snapshots of earlier ones do not use those after their end.
    pub(crate) index: Arc<ActiveIndex>,
    /// The header checksum of the frame of its chain that holds the entry before its limit.
    pub(crate) last_crc: Option<u32>,
    pub(crate) trace: Trace,
}

/// Notes a frame of a chain in an index. In a chain seqs and offsets rise; timestamps of a hostile
/// file may fall, and then the frame has no point and is found from the one before.
fn note(index: &ActiveIndex, offset: ByteOffset, frame: &FrameHeader) {
    if !frame.is_control() {
        let _ = index.push(frame.first_seq.0, offset.0, frame.timestamp);
    }
}

impl Scan {
    fn live(&self, file: &SegmentFile) -> LiveSegment {
        LiveSegment::new(SegmentData::read(file), Arc::clone(&self.index), self.chain.end.0)
    }
}
