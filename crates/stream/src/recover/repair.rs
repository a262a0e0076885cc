//! Steps 4 and 6 to 9: making the files say what counts, and going on.

use stratawal_frame::{ByteOffset, End, EndKind, Generation, SEGMENT_HEADER_LEN, Salt, SegmentHeader, SeqNo};
use stratawal_index::{ActiveIndex, encode_points};
use stratawal_segment::{
    Access, CreateError, SegmentData, SegmentFile, SegmentId, SegmentWriter, Space, Tail as ControlTail,
};

use super::analyse::{Found, Image, close_points};
use super::{Recovered, Scan, note};
use crate::ballast::create_segment;
use crate::env::{Env, Location};
use crate::error::{Error, ErrorKind, Result};
use crate::options::StreamOptions;
use crate::sync::Arc;
use crate::view::{Live, SegmentState, SegmentView, View};
use crate::writer::{Active, Closes};

/// How much is written again at a time.
const REWRITE_LEN: u64 = 1 << 20;

/// The length that the file of a new generation begins with.
const FIRST_LEN: u64 = 16 << 10;

struct Repair<'a> {
    env: &'a Env,
    place: &'a Location,
    options: &'a StreamOptions,
}

pub(crate) fn repair(env: &Env, place: &Location, options: &StreamOptions, image: Image) -> Result<Recovered> {
    Repair { env, place, options }.run(image)
}

impl Repair<'_> {
    fn run(&self, mut image: Image) -> Result<Recovered> {
        let mut report = image.report(self.place)?;
        let (all, temporaries) = (std::mem::take(&mut image.all), std::mem::take(&mut image.temporaries));
        for name in &temporaries {
            self.remove(name)?;
        }
        let (start, end) = (image.start, image.end.max(image.start));
        let timestamp = image.timestamp();
        let (kept, active, space) = if image.closed.is_some() {
            self.resume_closed(image)?
        } else {
            report.rewritten_bytes = self.rewrite(&image)?;
            self.begin_generation(image, &all, timestamp)?
        };
        self.remove_dead(&all, &kept, &active)?;
        let mut segments = kept;
        let live = Arc::clone(&active.live);
        segments.push(Arc::new(SegmentView { header: *active.writer.header(), state: SegmentState::Live(live) }));
        report.segments = segments.len() as u64;
        let view = View { segments };
        let writable = Some((active, space));
        Ok(Recovered { view, start: start.0, end: end.0, timestamp, writable, report })
    }

    fn failed(&self, error: stratawal_segment::Error) -> Error {
        Error::segment_error(self.place, error)
    }

    fn io(&self, error: std::io::Error) -> Error {
        Error::io(self.place, error)
    }

    fn remove(&self, name: &std::ffi::OsStr) -> Result<()> {
        self.env.storage().remove_file(&self.place.dir().join(name)).map_err(|e| self.io(e))
    }

    fn open_to_write(&self, id: SegmentId) -> Result<SegmentFile> {
        SegmentFile::open(self.env.storage(), &self.place.dir(), id, Access::ReadWrite).map_err(|e| self.failed(e))
    }

    /// Step 4: the newest ends in a valid CLOSE. Nothing is written; the writer goes on behind the CLOSE when there
    /// is something to write.
    fn resume_closed(&self, image: Image) -> Result<(Vec<Arc<SegmentView>>, Active, Space)> {
        let close = image.closed.expect("invariant: the caller looked");
        let mut live = image.live;
        let newest = live.pop().expect("invariant: there is a newest segment");
        let file = self.open_to_write(newest.id())?;
        let every = self.options.index_every;
        let closed = close_points(&file, &close).and_then(|(points, depth)| {
            let closes = Closes { last: Some(close.offset), depth, points: points.len() };
            Some((ActiveIndex::from_points(every, &points).ok()?, closes))
        });
        let (index, closes) = match closed {
            Some(closed) => closed,
            None => {
                let index = ActiveIndex::new(every);
                file.walk(&mut |offset, frame| note(&index, offset, frame)).map_err(|e| self.failed(e))?;
                (index, Closes::default())
            }
        };
        let (writer, space) = SegmentWriter::resume_behind_close(&file, close.offset).map_err(|e| self.failed(e))?;
        let active = Active {
            live: Arc::new(Live::new(SegmentData::read(&file), index, close.offset.0)),
            writer,
            end_seq: close.frame.first_seq.0,
            times: (close.end.entries > 0).then_some(close.end.times),
            closes,
        };
        Ok((live.iter().map(sealed_view).collect(), active, space))
    }

    /// Step 6: after a failed fsync the page cache may show what the disk does not hold, so every chain frame not
    /// wholly below D is written again in place, with the same bytes, and synced, oldest segment first. Frames at or
    /// above the limit are left alone. Answers how many bytes that were.
    fn rewrite(&self, image: &Image) -> Result<u64> {
        let mut rewritten = 0;
        for found in &image.live[..=image.cut] {
            let Some(scan) = &found.scan else { continue };
            let file = self.open_to_write(found.id())?;
            let (mut from, mut to) = (None, scan.chain.end.0);
            file.walk(&mut |offset, frame| {
                // A control frame counts by its first seq.
                let below = match frame.is_control() {
                    true => frame.first_seq < image.durable,
                    false => frame.end_seq() <= image.durable,
                };
                if !below && frame.first_seq < found.limit {
                    from.get_or_insert(offset.0);
                }
                if frame.first_seq >= found.limit {
                    to = to.min(offset.0);
                }
            })
            .map_err(|e| self.failed(e))?;
            let (writer, _) = SegmentWriter::resume(&file, scan.chain.end);
            if let Some(from) = from {
                rewritten += self.rewrite_range(&file, &writer, from, to)?;
            }
            writer.sync().map_err(|e| self.failed(e))?;
        }
        Ok(rewritten)
    }

    fn rewrite_range(&self, file: &SegmentFile, writer: &SegmentWriter, from: u64, to: u64) -> Result<u64> {
        let data = SegmentData::read(file);
        let mut at = from;
        while at < to {
            let end = to.min(at + REWRITE_LEN);
            let bytes = data.block(at..end).map_err(|e| self.failed(e))?;
            writer.rewrite(ByteOffset(at), &bytes).map_err(|e| self.failed(e))?;
            at = end;
        }
        Ok(to.saturating_sub(from))
    }

    /// Steps 7 and 8: the commit point, and the SEALs before it.
    fn begin_generation(
        &self,
        image: Image,
        all: &[SegmentId],
        timestamp: u64,
    ) -> Result<(Vec<Arc<SegmentView>>, Active, Space)> {
        let storage = self.env.storage();
        // Names left by a killed process may not be durable.
        storage.sync_dir(&self.place.dir()).map_err(|e| self.io(e))?;
        storage.sync_dir(self.place.parent()).map_err(|e| self.io(e))?;

        let newest_id = image.live[image.live.len() - 1].id();
        let base = image.end.max(image.start);
        let mut chain = image.live;
        chain.truncate(image.cut + 1);

        let (mut kept, writer, space) = if self.usable(&chain, newest_id, image.start, image.end)? {
            let newest = chain.pop().expect("invariant: the newest is in the chain");
            let file = self.open_to_write(newest.id())?;
            let (writer, space) = SegmentWriter::resume(&file, ByteOffset(SEGMENT_HEADER_LEN as u64));
            (chain, writer, space)
        } else {
            chain.retain(|found| found.header().base < base);
            let newest = all.iter().map(|id| id.generation.0).max().unwrap_or(0);
            let Some(generation) = newest.checked_add(1).map(Generation) else {
                return Err(Error::text(ErrorKind::Io, self.place, "the stream has used up its 2^32 generations"));
            };
            let stream_id = self.stream_id(all)?;
            let header = SegmentHeader {
                wal_id: self.env.id(),
                stream_id,
                generation,
                predecessor: chain.last().map_or(Generation(0), |found| found.header().generation),
                base,
                salt: Salt(storage.random_u64()),
                durable: base,
                start: image.start,
                last_timestamp: timestamp,
                created: storage.now_micros(),
                name_crc: SegmentHeader::name_checksum(self.place.folder()),
                ..SegmentHeader::EMPTY
            };
            let created = create_segment(self.env, &self.place.dir(), &header, FIRST_LEN);
            let (writer, space) = created.map_err(|e| match e {
                CreateError::Undone(e) | CreateError::Indeterminate(e) => self.failed(e),
            })?;
            (chain, writer, space)
        };
        self.seal_kept(&mut kept, writer.header(), image.start, timestamp)?;
        let live = Arc::new(Live::new(
            SegmentData::read_shared(*writer.header(), Arc::clone(writer.file())),
            ActiveIndex::new(self.options.index_every),
            SEGMENT_HEADER_LEN as u64,
        ));
        let end_seq = writer.header().base.0;
        let active = Active { writer, live, end_seq, times: None, closes: Closes::default() };
        Ok((kept.iter().map(sealed_view).collect(), active, space))
    }

    fn stream_id(&self, all: &[SegmentId]) -> Result<stratawal_frame::StreamId> {
        let newest = all.iter().max_by_key(|id| id.generation).expect("invariant: there is a segment");
        let file = SegmentFile::open(self.env.storage(), &self.place.dir(), *newest, Access::Read);
        Ok(file.map_err(|e| self.failed(e))?.header().stream_id)
    }

    /// Whether the newest segment can be used on as it is: the last live one, nothing but zeros behind its header,
    /// and the header says what that of a new generation would. So opening and dying over and over makes no files.
    fn usable(&self, chain: &[Found], newest: SegmentId, start: SeqNo, end: SeqNo) -> Result<bool> {
        let last = chain.last().expect("invariant: the chain has a segment");
        let header = last.header();
        let exact = header.durable == header.base && header.base == end && header.start == start;
        match &last.scan {
            Some(scan) if last.id() == newest && exact => scan.file.holds_only_zeros().map_err(|e| self.failed(e)),
            _ => Ok(false),
        }
    }

    /// Step 8: from the newest kept segment back to the first whose chain ends in a SEAL with a valid trailer, a SEAL
    /// that names the next. What is found behind a chain is not believed.
    fn seal_kept(&self, kept: &mut [Found], newest: &SegmentHeader, start: SeqNo, timestamp: u64) -> Result<()> {
        let mut next = *newest;
        for found in kept.iter_mut().rev() {
            let finished = found.open(self.env, self.place)?.finished().map_err(|e| self.failed(e))?;
            if finished.is_some_and(|finished| matches!(finished.end.kind, EndKind::Seal { .. })) {
                return Ok(());
            }
            let scan = found.scan.as_ref().expect("invariant: what was not sealed was scanned");
            self.seal(scan, found.limit.min(next.base), &next, start, timestamp)?;
            next = *found.header();
        }
        Ok(())
    }

    fn seal(&self, scan: &Scan, limit: SeqNo, next: &SegmentHeader, start: SeqNo, timestamp: u64) -> Result<()> {
        let file = self.open_to_write(scan.file.id())?;
        let (mut writer, mut space) = SegmentWriter::resume(&file, scan.chain.end);
        let mut points = scan.index.points_from(0);
        points.retain(|point| point.seq < limit.0);
        let end = End {
            kind: EndKind::Seal { successor: next.generation },
            start,
            entries: scan.chain.end_seq - file.header().base,
            times: scan.chain.times.unwrap_or_default(),
            index: bytes::Bytes::from(encode_points(&points).expect("invariant: points of an index rise")),
        };
        let tail = ControlTail { next_seq: scan.chain.end_seq, timestamp, durable: next.durable };
        let sealed = writer.finish(&mut space, &tail, end).and_then(|()| writer.sync()).and_then(|()| writer.cut());
        sealed.map_err(|e| self.failed(e))
    }

    /// Step 9: what is not kept is void or garbage, in any order.
    fn remove_dead(&self, all: &[SegmentId], kept: &[Arc<SegmentView>], active: &Active) -> Result<()> {
        let dead = all.iter().filter(|&&id| id != active.writer.id() && !kept.iter().any(|k| k.id() == id));
        let mut removed = false;
        for id in dead {
            self.remove(id.to_string().as_ref())?;
            removed = true;
        }
        if removed { self.env.storage().sync_dir(&self.place.dir()).map_err(|e| self.io(e)) } else { Ok(()) }
    }
}

fn sealed_view(found: &Found) -> Arc<SegmentView> {
    Arc::new(SegmentView { header: *found.header(), state: SegmentState::Sealed })
}
