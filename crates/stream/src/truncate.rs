//! Dropping entries: from the beginning, from the end, and the whole stream.
//!
//! Dropping from the beginning is a START frame; dropping from the end, or up to beyond the end, is a new generation,
//! whose folder entry is the commit point: nothing is shortened or rewritten, and what is left over stays void whether
//! or not it comes back. Everything is settled first, so whoever waits is told what was so.

use std::io;

use stratawal_frame::{Generation, SegmentHeader, SeqNo};
use stratawal_index::CacheKey;
use stratawal_storage::{FolderToSync, Storage};

use crate::append::drain_all;
use crate::ballast::{BallastUse, FIRST_LEN};
use crate::env::{DELETED_PREFIX, Env, Location};
use crate::error::{Error, ErrorKind, Result};
use crate::faults::{Fault, seeded};
use crate::group::State;
use crate::recover::exists;
use crate::stream::StreamLog;
use crate::sync::{Arc, fence};
use crate::tail::Tail;
use crate::view::{SegmentState, SegmentView, View};
use crate::writer::Writer;

impl StreamLog {
    /// Drops the entries below `first`, durably: none of them comes back after any crash. The disk space of segments
    /// that lie wholly below is freed. Below or at the first entry it does nothing. Beyond the end the stream is empty
    /// afterwards, and its next entry is `first`; so it is for a stream that is not there yet, which is created.
    ///
    /// Works on a full disk up to the end of the stream. Reads below `first` fail with [`ErrorKind::Truncated`] from
    /// then on; appends go on meanwhile, but for a moment.
    ///
    /// # Errors
    /// [`ErrorKind::Full`]: nothing was dropped. [`ErrorKind::Poisoned`]: a write or sync failed, and the entries are
    /// dropped or not, which recovery decides. As an append otherwise.
    pub fn truncate_before(&self, first: u64) -> Result<()> {
        let inner = &*self.inner;
        drop(inner.recovered_anyway()?);
        let done = inner.group.exclusively_then(
            |state, writer| {
                inner.check(state)?;
                if first <= inner.shared.marks.start() {
                    return Ok(None);
                }
                if first > state.tail.next_seq || writer.active.is_none() {
                    return begin_at(writer, &mut state.tail, first).map(|()| None);
                }
                drain_all(writer, &mut state.tail)?;
                match writer.write_start(&mut state.tail, first) {
                    // What is kept for it is used up. A new generation says the same in its header, out of the ballast.
                    Err(error) if error.kind() == ErrorKind::Full => {
                        let end = state.tail.next_seq;
                        writer.cut_from(state, end, first)?;
                    }
                    written => written?,
                }
                Ok(Some(first))
            },
            Writer::drop_before,
        );
        inner.shared.env.make_ballast();
        done
    }

    /// Drops the entry `next` and all behind it, durably; the stream's next entry is `next` then. May cut a batch in
    /// two. At the end of the stream it does nothing.
    ///
    /// Appends and other writers wait meanwhile. Iterators made before that reach `next`, or stand behind it, end with
    /// [`ErrorKind::Cut`].
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] below the first entry or beyond the end. [`ErrorKind::Full`]: nothing was dropped.
    /// [`ErrorKind::Poisoned`]: a write or sync failed, and the entries are dropped or not, which recovery decides. As
    /// an append otherwise.
    pub fn truncate_from(&self, next: u64) -> Result<()> {
        let inner = &*self.inner;
        drop(inner.recovered_anyway()?);
        let done = inner.group.exclusively(|state, writer| {
            inner.check(state)?;
            let (first, end) = (inner.shared.marks.start(), state.tail.next_seq);
            if next == end {
                return Ok(());
            }
            if next < first || next > end {
                return Err(Error::new(ErrorKind::OutOfRange { first, next: end }, &inner.shared.place));
            }
            writer.cut_from(state, next, first)
        });
        inner.shared.env.make_ballast();
        done
    }

    /// Deletes the stream, durably: it does not come back after any crash, and one that is created by its name later
    /// shares nothing with it. Also of a stream that is poisoned. Every later call on this stream, an append that waits
    /// among them, fails with [`ErrorKind::Deleted`]; readers see nothing more of it. Answers whether there was one.
    ///
    /// # Errors
    /// [`Deletion`].
    pub fn delete(&self) -> std::result::Result<bool, Deletion> {
        let shared = &self.inner.shared;
        self.inner.check_process().map_err(Deletion::Undone)?;
        if shared.env.is_read_only() {
            return Err(Deletion::Undone(Error::new(ErrorKind::ReadOnly, &shared.place)));
        }
        let mut outcome = Ok(false);
        let retired = self.inner.group.retire(Error::new(ErrorKind::Deleted, &shared.place), |state| {
            outcome = delete(&shared.env, &shared.place);
            if let Err(Deletion::Undone(error)) = &outcome {
                return Err(error.clone());
            }
            let view = shared.view.load();
            if let Some(segment) = view.segments.first() {
                shared.env.cache.remove_stream(segment.header.stream_id.0);
            }
            shared.cuts.cut(shared.marks.epoch(), 0);
            shared.marks.change(|marks| {
                shared.view.store(Arc::new(View::default()));
                marks.reset(0, 0);
            });
            state.tail = Tail::new(0, 0, None, Arc::clone(&shared.env.pending));
            Ok(())
        });
        retired.map_err(Deletion::Undone).and(outcome)
    }
}

/// Why a stream was not deleted.
#[derive(Debug)]
pub enum Deletion {
    /// Nothing has changed.
    Undone(Error),
    /// It is gone, but may come back after a power loss.
    Indeterminate(Error),
}

/// Deletes the stream at `place`, which nobody has open; whether there was one. Its folder is renamed, which is the
/// commit point, and emptied; what a crash leaves of it is named [`DELETED_PREFIX`] and may be removed at open.
///
/// # Errors
/// [`Deletion`].
pub fn delete(env: &Env, place: &Location) -> std::result::Result<bool, Deletion> {
    let storage = env.storage();
    // A link or a file that has the name is not ours to remove.
    exists(env, place).map_err(Deletion::Undone)?;
    let gone = place.parent().join(format!("{DELETED_PREFIX}{:016x}", storage.random_u64()));
    env.ready_to_sync_streams(place).map_err(|e| Deletion::Undone(Error::io(place, e)))?;
    // The new name may be what fills a block of the folder.
    let renamed =
        env.with_ballast(BallastUse::Allowed, stratawal_storage::is_full, || storage.rename(&place.dir(), &gone));
    let existed = match renamed {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(Deletion::Undone(Error::io(place, e))),
    };
    // Also where it was gone: an earlier deletion may not have been durable.
    env.sync_streams(place).map_err(|e| Deletion::Indeterminate(Error::io(place, e)))?;
    if existed {
        // It is deleted; what cannot be removed now is removed at the next open.
        let _ = remove_folder(&**storage, &gone);
        env.make_ballast();
    }
    Ok(existed)
}

/// Removes a folder and the files in it.
///
/// # Errors
/// I/O.
pub fn remove_folder(storage: &dyn Storage, dir: &std::path::Path) -> io::Result<()> {
    for entry in storage.list(dir)? {
        storage.remove_file(&dir.join(entry.name))?;
    }
    storage.remove_dir(dir)
}

/// Makes the stream begin at `first`, beyond its end.
fn begin_at(writer: &mut Writer, tail: &mut Tail, first: u64) -> Result<()> {
    if writer.active.is_none() {
        let before = std::mem::replace(&mut tail.next_seq, first);
        return writer.create_stream(tail, first).inspect_err(|_| tail.next_seq = before);
    }
    drain_all(writer, tail)?;
    writer.settle_all().map_err(Error::poisoned)?;
    writer.begin_at(tail, first)
}

impl Writer {
    fn write_start(&mut self, tail: &mut Tail, first: u64) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let booking = tail.booking.as_mut().expect("invariant: a stream with a segment takes bookings");
        let control = self.control_tail(self.end_seq());
        let writer = &self.active.as_ref().expect("invariant: the caller looked").writer;
        self.with_room(BallastUse::Allowed, || writer.book_start(&mut booking.space))?;
        let active = self.active.as_mut().expect("invariant: the caller looked");
        // From here on it may be there: a disk that is full only now is a failed write.
        let written = active.writer.start(&mut booking.space, &control, SeqNo(first));
        written.map_err(|error| Error::segment_error(&shared.place, error).poisoned())?;
        self.reserved = booking.space.reserved();
        booking.end = active.writer.place().offset.0;
        active.live.set_end(booking.end);
        Ok(())
    }

    /// The START is written: makes it durable, and drops what lies wholly below it.
    fn drop_before(&mut self, first: u64) -> Result<()> {
        if !seeded(Fault::StartAfterUnlink) {
            self.settle_all()?;
        }
        let shared = Arc::clone(&self.shared);
        // Readers that find a segment gone look at the start again.
        if !seeded(Fault::StartShownLate) {
            shared.marks.set_start(first);
        }
        let view = shared.view.load();
        let dead = (0..view.segments.len() - 1).take_while(|&i| view.limit(i) <= first).count();
        self.drop_segments(&view.segments[..dead], view.segments[dead..].to_vec())?;
        if seeded(Fault::StartShownLate) {
            shared.marks.set_start(first);
        }
        Ok(())
    }

    /// Shows readers `kept` and unlinks `dead`.
    fn drop_segments(&self, dead: &[Arc<SegmentView>], kept: Vec<Arc<SegmentView>>) -> Result<()> {
        let shared = &self.shared;
        shared.view.store(Arc::new(View::new(kept)));
        fence();
        for segment in dead {
            let path = shared.place.dir().join(segment.id().to_string());
            shared.env.storage().remove_file(&path).map_err(|e| Error::io(&shared.place, e))?;
            shared.env.cache.remove(key_of(segment));
        }
        Ok(())
    }

    /// A new generation at `base`, durably; what it voids is settled.
    fn new_generation(&mut self, predecessor: Generation, base: u64, start: u64) -> Result<(SegmentHeader, Begun)> {
        let active = self.active.as_ref().expect("invariant: only a stream with a segment is cut");
        let newest = active.writer.header();
        let Some(generation) = newest.generation.0.checked_add(1).map(Generation) else {
            return Err(self.used_up());
        };
        let header = SegmentHeader {
            durable: SeqNo(base),
            start: SeqNo(start),
            ..self.header(newest.stream_id, generation, predecessor, base)
        };
        Ok((header, self.create(&header, FIRST_LEN, BallastUse::Allowed)?))
    }

    /// Everything is settled: begins anew at `first`, beyond the end.
    fn begin_at(&mut self, tail: &mut Tail, first: u64) -> Result<()> {
        let (_, (writer, space)) = self.new_generation(Generation(0), first, first)?;
        let shared = Arc::clone(&self.shared);
        let old = shared.view.load();
        shared.marks.set_start(first);
        tail.next_seq = first;
        self.go_on(tail, writer, space, &[]);
        shared.marks.jump(first);
        let kept = shared.view.load().segments.clone();
        self.drop_segments(&old.segments, kept).map_err(Error::poisoned)
    }

    /// A new generation at `next`, in whose header stands that the stream begins at `start`.
    fn cut_from(&mut self, state: &mut State<Self>, next: u64, start: u64) -> Result<()> {
        drain_all(self, &mut state.tail)?;
        self.settle_all().map_err(Error::poisoned)?;
        let shared = Arc::clone(&self.shared);
        let old = shared.view.load();
        let kept = old.segments.partition_point(|segment| segment.header.base.0 < next);
        if kept == old.segments.len() {
            self.book_seal(&mut state.tail, BallastUse::Allowed)?;
        }
        let predecessor = kept.checked_sub(1).map_or(Generation(0), |i| old.segments[i].header.generation);
        // What comes behind the commit point must not lack a descriptor.
        let dir = shared.place.dir();
        let folder = FolderToSync::new(shared.env.storage(), &dir).map_err(|e| Error::io(&shared.place, e))?;
        let (header, (writer, space)) = self.new_generation(predecessor, next, start)?;

        // The commit point is passed. The active segment, if it is kept, gets the SEAL that names what follows it.
        let tail = &mut state.tail;
        let booking = tail.booking.as_mut().expect("invariant: a stream with a segment takes bookings");
        if kept == old.segments.len() {
            self.seal(&mut booking.space, &header).map_err(Error::poisoned)?;
            let sealed = self.active.take().expect("invariant: it was sealed");
            let done = sealed.writer.sync().and_then(|()| sealed.writer.cut());
            done.map_err(|e| self.failed(e).poisoned())?;
        }
        // Everything in this epoch is settled, so threads that wait in it need no record of how it ends.
        shared.cuts.cut(shared.marks.epoch(), next);
        let before: Vec<_> = old.segments[..kept].iter().map(sealed).collect();
        state.tail.next_seq = next;
        shared.marks.change(|marks| {
            self.go_on(&mut state.tail, writer, space, &before);
            marks.reset(marks.start(), next);
        });
        let segments = shared.view.load().segments.clone();
        self.drop_segments(&old.segments[kept..], segments).map_err(Error::poisoned)?;
        folder.sync().map_err(|e| Error::io(&shared.place, e).poisoned())
    }
}

fn key_of(segment: &SegmentView) -> CacheKey {
    CacheKey { stream_id: segment.header.stream_id.0, generation: segment.header.generation.0 }
}

type Begun = (stratawal_segment::SegmentWriter, stratawal_segment::Space);

/// The same segment once it is sealed and durable.
pub(crate) fn sealed(segment: &Arc<SegmentView>) -> Arc<SegmentView> {
    match segment.state {
        SegmentState::Sealed => Arc::clone(segment),
        SegmentState::Live(_) => Arc::new(SegmentView { header: segment.header, state: SegmentState::Sealed }),
    }
}
