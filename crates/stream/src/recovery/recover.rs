//! The steps of a writer's recovery, in order.

use std::time::Instant;

use stratawal_frame::SeqNo;

use super::analyse::analyse;
use super::analysis::Analysis;
use super::files::StreamFiles;
use super::floor::analyse_above;
use super::journal_tail::check_join;
use super::recovered::Recovered;
use super::repair::repair;
use super::scan::ReadOrder;
use crate::error::{Error, ErrorKind, Result};
use crate::write::reserve::ReserveUse;

/// How many times a writer analyses the files if they change while they are read.
const ANALYSES_MAX: usize = 3;

/// Recovers the stream for writing. Returns `None` if the stream does not exist. On a full disk
/// this fails with `Full` and may be repeated; the entries stay readable. If `reserve` allows it,
/// this first gives up the emergency reserve and tries again.
pub(crate) fn recover(files: &StreamFiles<'_>, reserve: ReserveUse) -> Result<Option<Recovered>> {
    let is_full = |error: &Error| error.kind() == ErrorKind::Full;
    files.context.with_reserve(reserve, is_full, || recover_from(files, || analyse(files, ReadOrder::ChainFirst)))
}

/// Recovers a stream whose entries at or above `floor` are intact, and drops the entries below
/// `floor`, which may be damaged. Returns `None` if the stream does not exist. On a full disk this
/// gives up the emergency reserve and tries again.
///
/// Fails before it changes anything if the entries of the commit journal do not continue the files.
///
/// The new generation, whose header records the new first live seq, is durable before any file is
/// removed. Until then the files mean the same as before. This may be repeated after a crash in
/// between.
pub(crate) fn recover_above(files: &StreamFiles<'_>, floor: SeqNo) -> Result<Option<Recovered>> {
    let is_full = |error: &Error| error.kind() == ErrorKind::Full;
    let analyse = || {
        let analysis = analyse_above(files, floor)?;
        check_join(files.context, files.location, analysis.stream(), analysis.next_seq())?;
        Ok(analysis)
    };
    files.context.with_reserve(ReserveUse::Allowed, is_full, || recover_from(files, analyse))
}

/// Runs steps 1 to 5 with `analyse`, and then the others.
fn recover_from(files: &StreamFiles<'_>, analyse: impl Fn() -> Result<Analysis>) -> Result<Option<Recovered>> {
    if !files.exist()? {
        return Ok(None);
    }
    let began = Instant::now();
    for _ in 0..ANALYSES_MAX {
        if let Some(mut recovered) = repair(files, analyse()?)? {
            recovered.report.elapsed = began.elapsed();
            return Ok(Some(recovered));
        }
    }
    let text = "the files keep changing while they are read: something else writes to them, or the disk is failing";
    Err(Error::text(ErrorKind::Io, files.location, text))
}
