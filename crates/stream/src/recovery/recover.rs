//! The steps of a writer's recovery, in order.

use std::time::Instant;

use stratawal_frame::SeqNo;

use super::analyse::analyse;
use super::analysis::Analysis;
use super::files::StreamFiles;
use super::floor::analyse_above;
use super::recovered::Recovered;
use super::repair::repair;
use super::scan::ReadOrder;
use crate::error::{Error, ErrorKind, Result};
use crate::write::reserve::ReserveUse;

/// How often a writer analyses the files again where they change while they are read.
const ANALYSES_MAX: usize = 3;

/// Recovers the stream for writing; `None` where it does not exist. On a full disk it fails as full
/// and may be repeated; the entries stay readable. Where `reserve` allows it, it is repeated
/// without the emergency reserve.
pub(crate) fn recover(files: &StreamFiles<'_>, reserve: ReserveUse) -> Result<Option<Recovered>> {
    let is_full = |error: &Error| error.kind() == ErrorKind::Full;
    files.context.with_reserve(reserve, is_full, || recover_from(files, || analyse(files, ReadOrder::ChainFirst)))
}

/// Recovers a stream of which the entries at or above `floor` are intact, and drops the entries
/// below `floor`, which may be damaged. `None` where the stream does not exist. On a full disk it
/// is repeated without the emergency reserve.
///
/// The new generation, whose header states the new first live seq, is durable before any file is
/// removed. Until then the files mean the same as before. After a crash in between this may be
/// repeated.
pub(crate) fn recover_above(files: &StreamFiles<'_>, floor: SeqNo) -> Result<Option<Recovered>> {
    let is_full = |error: &Error| error.kind() == ErrorKind::Full;
    files.context.with_reserve(ReserveUse::Allowed, is_full, || recover_from(files, || analyse_above(files, floor)))
}

/// Does steps 1 to 5 with `analyse`, and then the others.
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
    let text = "the files change while they are read: something else writes to them, or the disk fails";
    Err(Error::text(ErrorKind::Io, files.location, text))
}
