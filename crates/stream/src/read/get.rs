//! Point reads. They take no lock, save for entries that are only in the tail buffer.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{ByteOffset, SeqNo};
use stratawal_segment::{Access, BLOCK_LEN_MAX, CursorStep, FrameAt, FrameCursor, FrameSearch, SegmentFile};
use stratawal_sync::{fail_point, fence};

use crate::batch::Entry;
use crate::error::{DamageKind, Error, ErrorKind, Result};
use crate::inner::Inner;
use crate::log::StreamLog;
use crate::options::{StreamOptions, Visibility};
use crate::read::segment_reader::SegmentReader;
use crate::read::snapshot::Snapshot;
use crate::recovery;
use crate::shared::Shared;
use crate::write::tail::TailProvider;

impl StreamLog {
    /// The entry `seq`; `None` if it is not there yet (at or above what `visibility` shows).
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`] below the first live entry; damage, with the entries that it takes; I/O.
    pub fn get(&self, seq: u64, visibility: Visibility) -> Result<Option<Entry>> {
        self.inner
            .stable(seq..=seq, || if seq < self.end_seq(visibility) { self.inner.get(seq).map(Some) } else { Ok(None) })
    }

    /// The entries `seqs`, in that order, as [`get`](Self::get) answers them. Neighbours in one
    /// frame are read once. Each has memory of its own, but for those of 1 KiB and more, which keep
    /// what was read with them.
    ///
    /// # Errors
    /// As [`get`](Self::get), for the first seq that fails.
    pub fn get_many(&self, seqs: &[u64], visibility: Visibility) -> Result<Vec<Option<Entry>>> {
        let mut last: Option<(u64, InFrame)> = None;
        let get = |&seq: &u64| {
            self.inner.stable(seq..=seq, || {
                if seq >= self.end_seq(visibility) {
                    return Ok(None);
                }
                // A frame of an earlier epoch may hold what was cut since.
                let epoch = self.inner.shared.watermarks.epoch();
                let live = self.first_seq() <= seq;
                let known = last.as_ref().filter(|last| live && last.0 == epoch && seq < last.1.limit);
                if let Some(entry) = known.and_then(|(_, frame)| frame.entry_to_keep(seq)) {
                    return Ok(Some(entry));
                }
                match self.inner.locate(seq)? {
                    Located::Tail(entry) => Ok(Some(entry)),
                    Located::Frame(frame) => {
                        let entry = frame.entry_to_keep(seq);
                        last = Some((epoch, frame));
                        Ok(entry)
                    }
                }
            })
        };
        seqs.iter().map(get).collect()
    }

    /// The last entry that `visibility` shows; `None` if there is none.
    ///
    /// # Errors
    /// As [`get`](Self::get). [`ErrorKind::Truncated`] only beside a writer in another process that
    /// has dropped it.
    pub fn last(&self, visibility: Visibility) -> Result<Option<Entry>> {
        self.inner.check_process()?;
        loop {
            let end = self.end_seq(visibility);
            if end <= self.first_seq() {
                return Ok(None);
            }
            match self.get(end - 1, visibility) {
                // Cut, or dropped, since. By a writer in another process it was dropped for good:
                // what is shown here stays.
                Ok(None) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Truncated { .. }) && self.first_seq() >= end => {}
                other => return other,
            }
        }
    }

    /// The seq from which on all entries have a timestamp of `timestamp` (microseconds since 1970)
    /// or later; where there is none, one past the last entry that `visibility` shows.
    ///
    /// Where times have begun anew (see [`Entry::timestamp`]), earlier entries may have later
    /// times: the search begins in the newest segment that begins before the time.
    ///
    /// # Errors
    /// Damage and I/O. Beside a writer in another process that has dropped what would have to be
    /// read,
    /// [`ErrorKind::Truncated`] or [`ErrorKind::Cut`].
    pub fn seq_at(&self, timestamp: u64, visibility: Visibility) -> Result<u64> {
        loop {
            let start = self.first_seq();
            match self.inner.stable(start..=u64::MAX, || self.find_time(timestamp, visibility)) {
                // The beginning was dropped under it.
                Err(error) if matches!(error.kind(), ErrorKind::Truncated { .. }) && self.first_seq() > start => {}
                other => return other,
            }
        }
    }

    fn find_time(&self, timestamp: u64, visibility: Visibility) -> Result<u64> {
        let (start, end) = (self.first_seq(), self.end_seq(visibility));
        let shared = &self.inner.shared;
        let snapshot = shared.snapshot.load();
        // All entries after this segment are at or after the time.
        let Some(i) = snapshot.find_time(timestamp) else { return Ok(start) };
        let (reader, limit) = self.inner.open(&snapshot, i)?;
        let (point, _) = reader.span_at(timestamp);
        // Entries at the limit and above were cut from the segment, its index may not know.
        let mut seq = point.seq.min(limit).max(start);
        // The frames of one span, and perhaps the next: a walk over few.
        while seq < end.min(limit) {
            let at = match self.inner.locate(seq)? {
                Located::Tail(entry) if entry.timestamp >= timestamp => return Ok(seq),
                Located::Tail(_) => {
                    seq += 1;
                    continue;
                }
                Located::Frame(frame) => frame.at,
            };
            if at.frame.header().timestamp >= timestamp {
                return Ok(at.frame.first_seq().0.max(start));
            }
            // The frame may hold entries that were cut since. Those at the limit are in the next
            // segment, and at or after the time: otherwise the search had begun there.
            seq = at.frame.end_seq().0.min(limit);
        }
        Ok(seq.min(end).max(start))
    }
}

/// Where an entry is to be read.
enum Place {
    Tail(Entry),
    /// In this segment, whose entries count up to this limit.
    Segment(SegmentReader, u64),
}

/// Where a frame of entries begins, in the file and in the stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameStart {
    pub(crate) offset: ByteOffset,
    pub(crate) first_seq: SeqNo,
}

/// Where an entry was found.
#[derive(Debug)]
pub(crate) enum Located {
    Frame(InFrame),
    Tail(Entry),
}

/// In a frame.
#[derive(Debug)]
pub(crate) struct InFrame {
    at: FrameAt,
    /// Its entries count up to this: behind it they were cut.
    limit: u64,
    /// Whether its bytes are those of a mapping.
    mapped: bool,
}

impl InFrame {
    /// The entry, if it is here, for one who may keep it for long: a short one does not hold all
    /// that was read with it.
    fn entry_to_keep(&self, seq: u64) -> Option<Entry> {
        const COPIED_LEN_MAX: usize = 1 << 10;
        let mut entry = entry_of(&self.at, seq)?;
        if !self.mapped && entry.data.len() < COPIED_LEN_MAX {
            entry.data = Bytes::copy_from_slice(&entry.data);
        }
        Some(entry)
    }
}

impl Inner {
    /// What `read` answers, about `seqs`, of one state of the stream: again where the stream was
    /// cut, or recovered, or dropped segments, under it.
    fn stable<T>(&self, seqs: RangeInclusive<u64>, mut read: impl FnMut() -> Result<T>) -> Result<T> {
        self.check_process()?;
        loop {
            let snapshot = self.shared.snapshot.load();
            let answer = self.shared.watermarks.in_one_epoch(|_| read());
            match answer {
                Err(error) if self.segment_removed(&error, &seqs, &snapshot)? => {}
                answer => return answer,
            }
        }
    }

    /// Whether `error`, met while `snapshot` was or came before the newest, is no more than a segment
    /// that was dropped meanwhile, so that it is worth looking again; an error where some of `seqs`
    /// went with it.
    pub(crate) fn segment_removed(
        &self,
        error: &Error,
        seqs: &RangeInclusive<u64>,
        snapshot: &Arc<Snapshot>,
    ) -> Result<bool> {
        if !error.is_not_found() {
            return Ok(false);
        }
        fence();
        self.is_live(*seqs.start())?;
        if self.shared.context.is_read_only() {
            return self.gone_beside_writer(seqs, snapshot);
        }
        // A deletion renames the directory under the lock, and shows its snapshot after that.
        let is_closed = self.group.lock().tail.closed;
        self.is_live(*seqs.start())?;
        if !Arc::ptr_eq(snapshot, &self.shared.snapshot.load()) {
            return Ok(true);
        }
        // Another process may own the files of a stream that is closed here.
        if is_closed { self.gone_beside_writer(seqs, snapshot) } else { Ok(false) }
    }

    fn is_live(&self, seq: u64) -> Result<()> {
        let start = self.shared.watermarks.start();
        if seq < start { Err(Error::new(ErrorKind::Truncated { start }, &self.shared.location)) } else { Ok(()) }
    }

    /// What a writer in another process has done to `seqs`. What is shown stays as it was until it
    /// is looked at anew.
    fn gone_beside_writer(&self, seqs: &RangeInclusive<u64>, snapshot: &Snapshot) -> Result<bool> {
        let Shared { context, location, options, .. } = &*self.shared;
        let kind = match recovery::read(context, location, options)? {
            None => ErrorKind::Cut { at: 0 },
            Some(now) if *seqs.start() < now.start => ErrorKind::Truncated { start: now.start },
            Some(now) => {
                let cut = snapshot.diverges_at(self.shared.watermarks.accepted(), &now.snapshot, now.start);
                match cut.filter(|at| at <= seqs.end()) {
                    Some(at) => ErrorKind::Cut { at },
                    None => return Ok(false),
                }
            }
        };
        Err(Error::new(kind, location))
    }

    pub(crate) fn get(&self, seq: u64) -> Result<Entry> {
        let (reader, limit) = match self.find(seq)? {
            Place::Tail(entry) => return Ok(entry),
            Place::Segment(reader, limit) => (reader, limit),
        };
        // The usual case; whatever else it meets is looked at below, and told in full.
        if let Ok(Some(found)) = reader.entry(seq, frame_len_max(&self.shared.options)) {
            return Ok(Entry { seq, timestamp: found.timestamp, data: found.data });
        }
        let at = self.locate_in(&reader, seq, limit)?;
        Ok(entry_of(&at, seq).expect("invariant: steps are contiguous, so the first to reach a seq holds it"))
    }

    /// The frame of an entry that was seen to be below a watermark; or, where it is not drained,
    /// its copy.
    pub(crate) fn locate(&self, seq: u64) -> Result<Located> {
        match self.find(seq)? {
            Place::Tail(entry) => Ok(Located::Tail(entry)),
            Place::Segment(reader, limit) => {
                let mapped = reader.data().is_mapped();
                self.locate_in(&reader, seq, limit).map(|at| Located::Frame(InFrame { at, limit, mapped }))
            }
        }
    }

    /// Where entry `seq` is to be read.
    fn find(&self, seq: u64) -> Result<Place> {
        let shared = &self.shared;
        loop {
            let start = shared.watermarks.start();
            if seq < start {
                return Err(Error::new(ErrorKind::Truncated { start }, &shared.location));
            }
            // SealedSegment before the snapshot, which then has what this promises.
            if seq < shared.watermarks.drained() {
                break;
            }
            if let Some(entry) = self.read(SeqNo(seq)) {
                return Ok(Place::Tail(entry));
            }
            if seq >= shared.watermarks.accepted() {
                // Accepted when it was looked at, and taken back by recovery since.
                return Err(Error::new(ErrorKind::Cut { at: shared.watermarks.accepted() }, &shared.location));
            }
        }
        let snapshot = shared.snapshot.load();
        let i = snapshot
            .find(seq)
            .ok_or_else(|| Error::new(ErrorKind::Truncated { start: shared.watermarks.start() }, &shared.location))?;
        let (reader, limit) = self.open(&snapshot, i)?;
        Ok(Place::Segment(reader, limit))
    }

    fn locate_in(&self, reader: &SegmentReader, seq: u64, limit: u64) -> Result<FrameAt> {
        let failed = |e, lost| Error::segment_error(&self.shared.location, e).with_lost(lost);
        let (point, range) = reader.span(seq);
        let max = frame_len_max(&self.shared.options);
        let (mut offset, mut expected) = (range.start, point.seq);
        // One read for a span as it should be; a file may be anybody's, and its index may say
        // anything.
        let mut len = (range.end - range.start).min(BLOCK_LEN_MAX);
        loop {
            let block = reader.data().block(offset..offset + len);
            let block = block.map_err(|e| failed(e, self.lost_from(reader, expected, limit)))?;
            let mut cursor = FrameCursor::new(reader.data(), block, ByteOffset(offset), SeqNo(expected), max);
            let needed = match cursor.seek(SeqNo(seq)) {
                Ok(CursorStep::Frame(at)) => return Ok(at),
                Ok(CursorStep::Incomplete { len, .. }) => len,
                Ok(CursorStep::BlockEnd) => 1,
                Err(e) => match self.last_after(reader, &cursor, seq) {
                    Some(frame) if e.is_damage() => {
                        (offset, expected) = (frame.offset.0, frame.first_seq.0);
                        len = BLOCK_LEN_MAX.min(reader.end().saturating_sub(offset));
                        continue;
                    }
                    _ => return Err(failed(e, self.lost_at(reader, &cursor, limit))),
                },
            };
            (offset, expected) = (cursor.offset().0, cursor.expected().0);
            let end = reader.end();
            if offset + needed > end {
                let id = Some(reader.data().id());
                let error = Error::damage(&self.shared.location, DamageKind::Lost, id, Some(offset), None);
                return Err(error.with_lost(self.lost_from(reader, expected, limit)));
            }
            len = BLOCK_LEN_MAX.max(needed).min(end - offset);
        }
    }

    /// Segment `i`, open for reading, and its limit.
    pub(crate) fn open(&self, snapshot: &Snapshot, i: usize) -> Result<(SegmentReader, u64)> {
        let (limit, segment, shared) = (snapshot.limit(i), &snapshot.segments[i], &self.shared);
        let next = snapshot.segments.get(i + 1).map(|next| &next.header);
        match segment.open(&shared.context, &shared.location, &shared.options, next) {
            Ok(reader) => Ok((reader, limit)),
            // Which of the two is the wrong one is not known, so no entry is said to be lost.
            Err(error) if error.kind() == ErrorKind::Damaged(DamageKind::History) => Err(error),
            // Nothing of it can be read.
            Err(error) => Err(error.with_lost(self.live(segment.header.base.0..u64::MAX, limit))),
        }
    }

    /// The live entries that the damage takes at which `steps` ended: those of the frame, where its
    /// header is valid. Where it is not, those up to the next frame of entries, or else up to the
    /// next point of the index.
    pub(crate) fn lost_at(&self, reader: &SegmentReader, cursor: &FrameCursor, limit: u64) -> Range<u64> {
        let expected = cursor.expected().0;
        match cursor.failed() {
            Some(frame) => self.live(frame.first_seq.0..frame.end_seq().0, limit),
            None => match self.frames_after(reader, cursor).into_iter().flatten().next() {
                Some(next) => self.live(expected..next.first_seq.0, limit),
                None => self.lost_from(reader, expected, limit),
            },
        }
    }

    /// The live entries that may be lost from `seq` on, where the frames are not known: up to the
    /// next point of the index, where reading begins anew.
    pub(crate) fn lost_from(&self, reader: &SegmentReader, seq: u64, limit: u64) -> Range<u64> {
        self.live(seq..reader.next_point(seq).map_or(u64::MAX, |next| next.seq), limit)
    }

    /// The last frame that begins at or below `seq`, after the damage at which `steps` ended. From
    /// there reading can continue. `None` where there is none, or the payload of the frame of `seq`
    /// itself is damaged.
    pub(crate) fn last_after(&self, reader: &SegmentReader, cursor: &FrameCursor, seq: u64) -> Option<FrameStart> {
        if cursor.failed().is_some() {
            return None;
        }
        self.frames_after(reader, cursor)?.take_while(|frame| frame.first_seq.0 <= seq).last()
    }

    /// The frames of entries after the damage at which `steps` ended, up to the next point of the
    /// index; those whose payload is damaged, too. They are searched for in the file, since nothing
    /// else states where they begin. `None` where the file cannot be opened.
    pub(crate) fn frames_after(
        &self,
        reader: &SegmentReader,
        cursor: &FrameCursor,
    ) -> Option<impl Iterator<Item = FrameStart> + use<>> {
        let Shared { context, location, .. } = &*self.shared;
        let (from, expected) = (cursor.offset(), cursor.expected());
        let file = SegmentFile::open(context.storage(), &location.dir(), reader.data().id(), Access::Read).ok()?;
        // Another stream may have the name by now.
        let file = Some(file).filter(|file| file.header() == reader.data().header())?;
        let (_, span) = reader.span(expected.0);
        let mut search = FrameSearch::within(&file, from, span.end.saturating_sub(from.0));
        Some(std::iter::from_fn(move || {
            loop {
                let found = search.next_frame().ok()??;
                let frame = FrameStart { offset: found.offset, first_seq: found.header.first_seq };
                // One at the place itself that is expected there is the one that failed. So reading
                // from a frame that is found never comes back to the same place.
                let is_after = frame.first_seq > expected || frame.first_seq == expected && frame.offset > from;
                if is_after && !found.header.is_control() {
                    return Some(frame);
                }
            }
        }))
    }

    /// What of `seqs`, in a segment with this limit, is in the stream. The newest segment has no
    /// limit, and the stream an end.
    fn live(&self, seqs: Range<u64>, limit: u64) -> Range<u64> {
        let watermarks = &self.shared.watermarks;
        seqs.start.max(watermarks.start())..seqs.end.min(limit).min(watermarks.accepted())
    }
}

/// The longest frame that is read into memory: what is asked for may come from anybody's file.
pub(crate) fn frame_len_max(options: &StreamOptions) -> u64 {
    if fail_point!(LengthBelieved) { u64::MAX } else { options.read_len_max.saturating_add(64) }
}

/// Entry `seq` of a frame that may hold it.
pub(crate) fn entry_of(at: &FrameAt, seq: u64) -> Option<Entry> {
    let i = seq.checked_sub(at.frame.first_seq().0)?;
    let data = at.frame.entry(u32::try_from(i).ok()?)?;
    Some(Entry { seq, timestamp: at.frame.header().timestamp, data })
}

impl TailProvider for Inner {
    fn read(&self, seq: SeqNo) -> Option<Entry> {
        self.group.lock().tail.read(seq.0)
    }
}
