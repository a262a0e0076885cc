//! Steps 4 and 6 to 9: making the files say what counts, and going on.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use stratawal_frame::{
    ByteOffset, Decoded, FRAME_HEADER_LEN, Footer, FooterKind, FrameHeader, FramePosition, Generation,
    INDEX_BLOCK_LEN_MAX, Limits, PayloadChecksum, SEGMENT_HEADER_LEN, Salt, SegmentHeader, SeqNo, TRAILER_LEN,
    decode_header,
};
use stratawal_index::{ActiveIndex, encode_points_within};
use stratawal_segment::{
    Access, ControlContext, CreateError, Preallocation, SegmentData, SegmentFile, SegmentId, SegmentWriter,
};
use stratawal_sync::fail_point;

use super::analyse::{Found, Image, closed_index};
use super::{Recovered, Scan};
use crate::context::LogContext;
use crate::error::{Error, ErrorKind, Result};
use crate::history::Predecessor;
use crate::location::Location;
use crate::options::StreamOptions;
use crate::read::snapshot::{LiveSegment, PublishedSegment, SegmentState, Snapshot, first_point};
use crate::removal::remove_file;
use crate::write::active::{Active, Closes};
use crate::write::clock::is_far_ahead;
use crate::write::create::{FIRST_LEN, create_segment};
use crate::write::reserve::ReserveUse;

/// How much is written again at a time.
const REWRITE_LEN: u64 = 1 << 20;

struct Repair<'a> {
    context: &'a LogContext,
    location: &'a Location,
    options: &'a StreamOptions,
}

/// `None` where the files changed since the image was made, so that it has to be made again.
pub(crate) fn repair(
    context: &LogContext,
    location: &Location,
    options: &StreamOptions,
    image: Image,
) -> Result<Option<Recovered>> {
    Repair { context, location, options }.run(image)
}

impl Repair<'_> {
    fn run(&self, mut image: Image) -> Result<Option<Recovered>> {
        let mut report = image.report(self.context, self.location)?;
        let (all, temporaries) = (std::mem::take(&mut image.all), std::mem::take(&mut image.temporaries));
        for name in &temporaries {
            // One that cannot be removed is never read, and not in the way of a segment; the next
            // recovery tries again.
            let _ = remove_file(&**self.context.storage(), &self.location.dir().join(name));
        }
        let (start, end) = (image.start, image.end.max(image.start));
        let timestamp = image.timestamp();
        let clean = image.closed.is_some();
        let (kept, active, preallocation) = if clean {
            self.resume_closed(image)?
        } else {
            let Some(rewritten) = self.rewrite(&image)? else { return Ok(None) };
            report.rewritten_bytes = rewritten;
            self.begin_generation(image, &all, timestamp)?
        };
        let dead = Self::dead(&all, &kept, &active);
        let last_point = active.live.index.points_from(0).last().map_or(0, |point| point.timestamp);
        // Times begin anew in a new generation where they were far ahead of the clock.
        let timestamp = if clean { timestamp } else { active.writer.header().last_timestamp };
        let timestamp = timestamp.max(last_point);
        let mut segments = kept;
        let live = Arc::clone(&active.live);
        segments.push(Arc::new(PublishedSegment { header: *active.writer.header(), state: SegmentState::Live(live) }));
        report.segments = segments.len() as u64;
        let snapshot = Snapshot::new(segments);
        let writable = Some((active, preallocation));
        Ok(Some(Recovered {
            snapshot,
            start: start.0,
            end: end.0,
            timestamp,
            writable,
            report,
            dead,
            known: None,
            is_continued: false,
        }))
    }

    fn failed(&self, error: stratawal_segment::Error) -> Error {
        Error::segment_error(self.location, error)
    }

    fn io(&self, error: std::io::Error) -> Error {
        Error::io(self.location, error)
    }

    fn open_to_write(&self, id: SegmentId) -> Result<SegmentFile> {
        SegmentFile::open(self.context.storage(), &self.location.dir(), id, Access::ReadWrite)
            .map_err(|e| self.failed(e))
    }

    /// Step 4: the newest ends in a valid CLOSE. Nothing is written; the writer goes on behind the
    /// CLOSE when there is something to write.
    fn resume_closed(&self, image: Image) -> Result<(Vec<Arc<PublishedSegment>>, Active, Preallocation)> {
        let close = image.closed.expect("invariant: the caller looked");
        let mut live = image.live;
        let newest = live.pop().expect("invariant: there is a newest segment");
        let file = self.open_to_write(newest.id())?;
        let (index, closes) = closed_index(&file, &close, self.options.index_every).map_err(|e| self.failed(e))?;
        let (writer, preallocation) =
            SegmentWriter::resume_after_close(&file, close.offset).map_err(|e| self.failed(e))?;
        let active = Active {
            live: Arc::new(LiveSegment::new(SegmentData::read(&file), Arc::new(index), close.offset.0)),
            writer,
            end_seq: close.frame.first_seq.0,
            times: (close.footer.entries > 0).then_some(close.footer.times),
            closes,
        };
        Ok((live.iter().map(sealed_segment).collect(), active, preallocation))
    }

    /// Step 6: after a failed fsync the page cache may show what the disk does not hold, so every
    /// chain frame not wholly below D is written again in place, with the same bytes, and synced,
    /// oldest segment first. Frames at or above the limit are left alone. Answers how many bytes
    /// that were; `None` where the files are not what step 5 saw: the system may drop such a page
    /// at any time, and then the chain ends before it.
    fn rewrite(&self, image: &Image) -> Result<Option<u64>> {
        let mut rewritten = 0;
        for found in &image.live[..=image.cut] {
            let Some(scan) = &found.scan else { continue };
            let file = self.open_to_write(found.id())?;
            let mut frames = Vec::new();
            let (from, first) = scan.from;
            let walked = file.scan_chain_from(from, first, &mut |offset, frame| {
                // A control frame counts by its first seq.
                let below = match frame.is_control() {
                    true => frame.first_seq < image.durable,
                    false => frame.end_seq() <= image.durable,
                };
                if !below && frame.first_seq < found.limit {
                    frames.push((offset, *frame));
                }
            });
            let walked = walked.map_err(|e| self.failed(e))?;
            if (walked.end, walked.end_seq) != (scan.chain.end, scan.chain.end_seq) {
                return Ok(None);
            }
            fail_point!(TailNotRewritten, frames.clear());
            let (writer, _) = SegmentWriter::resume(&file, scan.chain.end);
            if !self.rewrite_frames(&file, &writer, &frames)? {
                return Ok(None);
            }
            rewritten += frames.iter().map(|(_, frame)| frame.frame_len()).sum::<u64>();
            writer.sync().map_err(|e| self.failed(e))?;
        }
        Ok(Some(rewritten))
    }

    /// Writes neighbouring frames again, small ones together. False where one is not valid any
    /// more.
    fn rewrite_frames(
        &self,
        file: &SegmentFile,
        writer: &SegmentWriter,
        frames: &[(ByteOffset, FrameHeader)],
    ) -> Result<bool> {
        let mut rest = frames;
        while let Some((first, frame)) = rest.first() {
            let (mut len, mut count) = (frame.frame_len(), 1);
            while let Some((offset, frame)) = rest.get(count)
                && *offset == *first + len
                && len + frame.frame_len() <= REWRITE_LEN
            {
                (len, count) = (len + frame.frame_len(), count + 1);
            }
            let (these, others) = rest.split_at(count);
            let valid = if len <= REWRITE_LEN {
                self.rewrite_small(file, writer, these, len)?
            } else {
                self.rewrite_large(file, writer, *first, frame)?
            };
            if !valid {
                return Ok(false);
            }
            rest = others;
        }
        Ok(true)
    }

    fn rewrite_small(
        &self,
        file: &SegmentFile,
        writer: &SegmentWriter,
        frames: &[(ByteOffset, FrameHeader)],
        len: u64,
    ) -> Result<bool> {
        let from = frames[0].0;
        let bytes = SegmentData::read(file).block(from.0..from.0 + len).map_err(|e| self.failed(e))?;
        let (salt, limits) = (file.header().salt, Limits { base: file.header().base, end: ByteOffset(file.len()) });
        for (offset, frame) in frames {
            // What step 5 checked: the header, and the checksum of the payload.
            let at = usize::try_from(offset.0 - from.0).expect("invariant: a piece is small");
            let (header, payload) = bytes[at..].split_at(FRAME_HEADER_LEN);
            let header = decode_header(header, &FramePosition { salt, offset: *offset }, &limits);
            let mut checksum = PayloadChecksum::new();
            checksum.update(&payload[..frame.payload_len as usize]);
            if header != Decoded::Frame(*frame) || checksum.finish() != frame.payload_crc {
                return Ok(false);
            }
        }
        writer.rewrite(from, &bytes).map_err(|e| self.failed(e))?;
        Ok(true)
    }

    /// A frame longer than a piece. Its checksum is known only behind its last piece, so what is
    /// not valid is written again, too, as it was found: it is not valid afterwards either.
    fn rewrite_large(
        &self,
        file: &SegmentFile,
        writer: &SegmentWriter,
        from: ByteOffset,
        frame: &FrameHeader,
    ) -> Result<bool> {
        let data = SegmentData::read(file);
        let payload = from.0 + FRAME_HEADER_LEN as u64..from.0 + FRAME_HEADER_LEN as u64 + u64::from(frame.payload_len);
        let end = from.0 + frame.frame_len();
        let (mut at, mut checksum, mut header_holds) = (from.0, PayloadChecksum::new(), true);
        while at < end {
            let to = end.min(at + REWRITE_LEN);
            let bytes = data.block(at..to).map_err(|e| self.failed(e))?;
            if at == from.0 {
                let limits = Limits { base: file.header().base, end: ByteOffset(file.len()) };
                let position = FramePosition { salt: file.header().salt, offset: from };
                header_holds = matches!(decode_header(&bytes[..FRAME_HEADER_LEN], &position, &limits), Decoded::Frame(h) if h == *frame);
            }
            let within = |offset: u64| usize::try_from(offset.clamp(at, to) - at).expect("invariant: a piece is small");
            checksum.update(&bytes[within(payload.start)..within(payload.end)]);
            writer.rewrite(ByteOffset(at), &bytes).map_err(|e| self.failed(e))?;
            at = to;
        }
        Ok(header_holds && checksum.finish() == frame.payload_crc)
    }

    /// Steps 7 and 8: the commit point, and the SEALs before it.
    fn begin_generation(
        &self,
        image: Image,
        all: &[SegmentId],
        timestamp: u64,
    ) -> Result<(Vec<Arc<PublishedSegment>>, Active, Preallocation)> {
        let storage = self.context.storage();
        // Names left by a killed process may not be durable.
        storage.sync_dir(&self.location.dir()).map_err(|e| self.io(e))?;
        self.context.sync_streams(self.location).map_err(|e| self.io(e))?;

        let now = storage.now_micros();
        let newest_id = image.live[image.live.len() - 1].id();
        let base = image.end.max(image.start);
        let mut chain = image.live;
        chain.truncate(image.cut + 1);

        let (kept, writer, preallocation) = if self.usable(&chain, newest_id, image.start, image.end, now)? {
            let newest = chain.pop().expect("invariant: the newest is in the chain");
            let file = self.open_to_write(newest.id())?;
            let (writer, preallocation) = SegmentWriter::resume(&file, ByteOffset(SEGMENT_HEADER_LEN as u64));
            (chain, writer, preallocation)
        } else {
            chain.retain(|found| found.header().base < base && found.limit > image.start);
            if let Some(last) = chain.last() {
                self.make_room_for_seal(last)?;
            }
            let newest = all.iter().map(|id| id.generation.0).max().unwrap_or(0);
            let next = newest.checked_add(if fail_point!(GenerationKept) { 0 } else { 1 });
            let Some(generation) = next.map(Generation) else {
                return Err(Error::text(ErrorKind::Io, self.location, "the stream has used up its 2^32 generations"));
            };
            let stream_id = self.stream_id(all)?;
            let predecessor = chain.last().map_or(Predecessor::NONE, |found| self.predecessor(found, base.0));
            let header = SegmentHeader {
                wal_id: self.context.id(),
                stream_id,
                generation,
                predecessor: predecessor.generation,
                predecessor_salt: predecessor.salt,
                predecessor_frame_crc: predecessor.frame_crc,
                base,
                salt: Salt(storage.random_u64()),
                durable: base,
                start: image.start,
                last_timestamp: if is_far_ahead(timestamp, now) { now } else { timestamp },
                created: now,
                name_crc: SegmentHeader::name_checksum(self.location.dir_name()),
                ..SegmentHeader::EMPTY
            };
            let created = create_segment(self.context, &self.location.dir(), &header, FIRST_LEN, ReserveUse::Never);
            let (writer, preallocation) = created.map_err(|e| match e {
                CreateError::Undone(e) | CreateError::Indeterminate(e) => self.failed(e),
            })?;
            (chain, writer, preallocation)
        };
        self.seal_kept(&kept, writer.header(), image.start, timestamp)?;
        let live = Arc::new(LiveSegment::new(
            SegmentData::read_shared(*writer.header(), Arc::clone(writer.file())),
            Arc::new(ActiveIndex::new(self.options.index_every)),
            SEGMENT_HEADER_LEN as u64,
        ));
        let end_seq = writer.header().base.0;
        let active = Active { writer, live, end_seq, times: None, closes: Closes::default() };
        Ok((kept.iter().map(sealed_segment).collect(), active, preallocation))
    }

    /// What a new generation that begins at `base` states of the segment before it.
    fn predecessor(&self, found: &Found, base: u64) -> Predecessor {
        if let Some(scan) = &found.scan {
            let span = scan.index.floor(base.saturating_sub(1));
            let point = span.map_or_else(|| first_point(found.header()), |span| span.point);
            let file = found.opened(self.context, self.location);
            return file.map_or_else(
                |_| Predecessor::unread(found.header()),
                |file| Predecessor::from_point(&SegmentData::read(&file), point, base),
            );
        }
        let reader = sealed_segment(found).open_alone(self.context, self.location, self.options);
        reader.map_or_else(|_| Predecessor::unread(found.header()), |reader| reader.predecessor_of(base))
    }

    /// A file that ends in a CLOSE is made longer, durably, before anything names a segment after
    /// it. Only a truncation below damage comes here with one: an ordinary recovery continues in
    /// such a file.
    fn make_room_for_seal(&self, last: &Found) -> Result<()> {
        let file = self.open_to_write(last.id())?;
        let finished = file.finished().map_err(|e| self.failed(e))?;
        let Some(close) = finished.filter(|finished| matches!(finished.footer.kind, FooterKind::Close { .. })) else {
            return Ok(());
        };
        let room = Footer::frame_len_max(0) + TRAILER_LEN as u64;
        SegmentWriter::resume_after_close(&file, close.offset)
            .and_then(|(writer, mut preallocation)| preallocation.ensure_control(&writer.next_position().offset, room))
            .map_err(|e| self.failed(e))
    }

    fn stream_id(&self, all: &[SegmentId]) -> Result<stratawal_frame::StreamId> {
        let newest = all.iter().max_by_key(|id| id.generation).expect("invariant: there is a segment");
        let file = SegmentFile::open(self.context.storage(), &self.location.dir(), *newest, Access::Read);
        Ok(file.map_err(|e| self.failed(e))?.header().stream_id)
    }

    /// Whether the newest segment can be used on as it is: the last live one, nothing but zeros
    /// behind its header, and the header says what that of a new generation would. So opening and
    /// dying over and over makes no files.
    fn usable(&self, chain: &[Found], newest: SegmentId, start: SeqNo, end: SeqNo, now: u64) -> Result<bool> {
        let last = chain.last().expect("invariant: the chain has a segment");
        let header = last.header();
        let exact = header.durable == header.base && header.base == end && header.start == start;
        let exact = exact && !is_far_ahead(header.last_timestamp, now);
        match &last.scan {
            Some(_) if last.id() == newest && exact => {
                last.opened(self.context, self.location)?.holds_only_zeros().map_err(|e| self.failed(e))
            }
            _ => Ok(false),
        }
    }

    /// Step 8: from the newest kept segment back to the first whose chain ends in a SEAL with a
    /// valid trailer, a SEAL that names the next. What is found behind a chain is not believed. A
    /// first segment whose chain is damaged below the start gets its SEAL in any case.
    fn seal_kept(&self, kept: &[Found], newest: &SegmentHeader, start: SeqNo, timestamp: u64) -> Result<()> {
        let mut next = *newest;
        for (i, found) in kept.iter().enumerate().rev() {
            // Closed again at once where it was closed: there may be more of them than the process
            // may have files.
            let finished = found.opened(self.context, self.location)?.finished().map_err(|e| self.failed(e))?;
            if finished.is_some_and(|finished| matches!(finished.footer.kind, FooterKind::Seal { .. })) {
                match kept {
                    [first, second, ..] if i > 0 && is_entered_again(first) => {
                        return self.seal_kept(&kept[..1], second.header(), start, timestamp);
                    }
                    _ => return Ok(()),
                }
            }
            let scan = found.scan.as_ref().expect("invariant: what was not sealed was scanned");
            self.seal(found, scan, found.limit.min(next.base), &next, start, timestamp)?;
            next = *found.header();
        }
        Ok(())
    }

    fn seal(
        &self,
        found: &Found,
        scan: &Scan,
        limit: SeqNo,
        next: &SegmentHeader,
        start: SeqNo,
        timestamp: u64,
    ) -> Result<()> {
        let file = self.open_to_write(found.id())?;
        let (mut writer, mut preallocation) = SegmentWriter::resume(&file, scan.chain.end);
        let mut points = scan.index.points_from(0);
        points.retain(|point| point.seq < limit.0);
        let block = encode_points_within(&points, INDEX_BLOCK_LEN_MAX).expect("invariant: points of an index rise");
        let end = Footer {
            kind: FooterKind::Seal { successor: next.generation, salt: next.salt },
            start,
            entries: scan.chain.end_seq.min(limit) - file.header().base,
            times: scan.chain.times.unwrap_or_default(),
            index: Bytes::from(block),
        };
        let tail = ControlContext { next_seq: scan.chain.end_seq, timestamp, durable: next.durable };
        let sealed = writer
            .finish(&mut preallocation, &tail, end)
            .and_then(|()| writer.sync())
            .and_then(|()| writer.trim_to_trailer());
        sealed.map_err(|e| self.failed(e))?;
        if is_entered_again(found) {
            // The chain is damaged below the start. The next open must find the trailer at the end
            // of the file, or it would scan the chain. So the new length has to be durable, too.
            writer.sync().map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    /// The segments that step 9 removes: those that are not kept are void or garbage.
    fn dead(all: &[SegmentId], kept: &[Arc<PublishedSegment>], active: &Active) -> Vec<SegmentId> {
        let kept: BTreeSet<SegmentId> = kept.iter().map(|kept| kept.id()).chain([active.writer.id()]).collect();
        all.iter().filter(|id| !kept.contains(id)).copied().collect()
    }
}

/// Whether the chain of a segment is damaged before the place where it was entered.
fn is_entered_again(found: &Found) -> bool {
    found.scan.as_ref().is_some_and(|scan| scan.from.0.0 > SEGMENT_HEADER_LEN as u64)
}

fn sealed_segment(found: &Found) -> Arc<PublishedSegment> {
    Arc::new(PublishedSegment { header: *found.header(), state: SegmentState::Sealed })
}
