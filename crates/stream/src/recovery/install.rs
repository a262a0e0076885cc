//! Installs the result of recovery as the state of the stream.

use std::sync::Arc;

use stratawal_sync::Published;

use super::recovered::Recovered;
use crate::report::OpenReport;
use crate::shared::Shared;
use crate::watermarks::Watermarks;
use crate::write::clock::{Clock, is_far_ahead};
use crate::write::tail::{Reservation, Tail};
use crate::write::writer::Writer;

/// The ends of a stream with the entries that recovery found in memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    /// The first live seq, if it is greater than the one in the files.
    pub(super) start: u64,
    pub(super) accepted: u64,
    /// These count the entries in the commit journal.
    pub(super) flushed: u64,
    pub(super) durable: u64,
}

impl Ends {
    fn raise(self, watermarks: &Watermarks) {
        watermarks.raise_durable(self.durable);
        watermarks.raise_flushed(self.flushed);
        watermarks.set_accepted(self.accepted);
    }
}

/// Replaces the state of the stream with `recovered`, which is `None` if the stream has no
/// directory. Readers see the change in one step. Returns the writer that continues the stream. The
/// caller holds the lock.
///
/// `ends` are the ends of the stream with the entries in the tail, if it has any.
pub(super) fn install(
    shared: &Arc<Shared>,
    report: &Published<OpenReport>,
    tail: &mut Tail,
    recovered: Option<Recovered>,
    ends: Option<Ends>,
) -> Writer {
    let old = shared.snapshot.load();
    let Some(recovered) = recovered else {
        let ends = ends.unwrap_or_default();
        if shared.watermarks.accepted() > ends.accepted {
            shared.truncations.record(shared.watermarks.epoch(), ends.accepted);
        }
        shared.watermarks.change(|watermarks| {
            shared.snapshot.store(Arc::clone(&shared.context.no_segments));
            // The journal may record a first live seq.
            watermarks.reset_with(ends.start, 0, 0);
            ends.raise(watermarks);
        });
        *tail = new_tail(shared, &tail.clock, 0, 0, None);
        return Writer::new(Arc::clone(shared), None, 0);
    };
    let stream_id = recovered.snapshot.segments.first().map(|segment| segment.header.stream_id.0);
    if let Some(stream_id) = stream_id.filter(|_| !recovered.is_refresh) {
        // The cached segments may have been loaded from different bytes.
        shared.context.cache.remove_stream(stream_id);
    }
    let end = recovered.end();
    let ends = ends.unwrap_or(Ends { start: 0, accepted: end, flushed: end, durable: end });
    let start = ends.start.max(recovered.first_seq);
    // Where the files of a reader ended, a segment may begin with entries that were in the journal.
    let is_reader = shared.context.is_read_only();
    let old_end = if is_reader { shared.watermarks.drained() } else { shared.watermarks.accepted() };
    let cut = old.diverges_at(old_end, &recovered.snapshot, start);
    let cut = cut.filter(|&cut| cut < end && !(is_reader && cut >= old_end));
    let cut = cut.into_iter().chain(recovered.cut).fold(ends.accepted, u64::min);
    shared.truncations.record(shared.watermarks.epoch(), cut);
    shared.watermarks.change(|watermarks| {
        shared.snapshot.store(Arc::new(recovered.snapshot));
        watermarks.reset_with(start, recovered.first_seq, recovered.next_seq);
        ends.raise(watermarks);
    });
    report.store(Arc::new(OpenReport { first_seq: start, ..recovered.report }));
    let (active, reservation) = match recovered.writable {
        Some((active, preallocation)) => {
            let reservation = Reservation::new(&active.writer, preallocation);
            (Some(active), Some(reservation))
        }
        None => (None, None),
    };
    *tail = new_tail(shared, &tail.clock, recovered.next_seq, recovered.timestamp, reservation);
    Writer::new(Arc::clone(shared), active, recovered.timestamp)
}

/// The tail of a stream that ends at `end`, with the time of its last entry, `last`, and its
/// previous clock, `before`.
fn new_tail(shared: &Shared, before: &Clock, end: u64, last: u64, reservation: Option<Reservation>) -> Tail {
    let storage = shared.context.storage();
    let now = storage.now_micros();
    let restart = is_far_ahead(last, now).then_some(now);
    let reservation = reservation.map(|reservation| Reservation { restart, ..reservation });
    let mut tail = Tail::new(end, last, reservation, Arc::clone(&shared.context.pending));
    tail.clock = Clock::new(&**storage, now, last).counting_on(before);
    tail
}
