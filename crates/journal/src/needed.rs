//! The records that are still needed. The journal's records decide this; no stream is read.
//!
//! A stream's records before its last SETTLED are void, and so are all records of a deleted stream.
//! A START stays needed until the caller knows that the stream's own files hold it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use stratawal_frame::{SeqNo, StreamId};
use stratawal_sync::fail_point;

use crate::lsn::Lsn;
use crate::record::{Located, Part, Record};

/// The records that are needed, by stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// The streams that have needed records.
    pub streams: BTreeMap<StreamId, NeededStream>,
    /// The deleted streams, in the order of their DROP records. The caller finishes each deletion;
    /// [`Journal::open`](crate::Journal::open) asks which are unfinished.
    pub drops: Vec<Dropped>,
}

/// The needed records of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeededStream {
    /// Its name, if the journal gives it.
    pub name: Option<Bytes>,
    /// Its parts in seq order. Parts may overlap, because a part may have been copied.
    pub parts: Vec<LocatedPart>,
    /// One past the last entry that a FIRM record promises; 0 if there is none.
    pub firm: SeqNo,
    /// Whether a FIRM record of seq 0 states that the stream has a directory. False without parts.
    pub has_directory: bool,
    /// The greatest START seq.
    pub start: Option<SeqNo>,
    /// The LSN at which the record of that START begins.
    pub start_lsn: Lsn,
}

/// A part, and the position of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedPart {
    /// The part.
    pub part: Part,
    /// The LSN at which its record begins. The journal is needed from this LSN on.
    pub lsn: Lsn,
    /// The LSN at which its record ends. The part is durable once everything below this LSN is.
    pub end: Lsn,
}

/// A deleted stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The stream; 0 means every stream of this name.
    pub stream: StreamId,
    /// Its name.
    pub name: Bytes,
    /// The LSN at which the record begins. The journal is needed from this LSN on until the
    /// deletion is finished and durable.
    pub lsn: Lsn,
}

impl Needed {
    /// The needed records of a chain. `names` are the names of streams, as far as any valid record
    /// gives them.
    pub(crate) fn of(records: &[Located], names: &BTreeMap<StreamId, Bytes>) -> Self {
        // After a clean end, the streams' own files hold everything before it.
        let close = records.iter().rposition(|located| located.record == Record::Close);
        let records = &records[close.map_or(0, |at| at + 1)..];
        let void = Void::of(records, names);
        let mut needed = Self { streams: BTreeMap::new(), drops: void.drops.clone() };
        for located in records {
            needed.add_parts(located.record.parts().iter().cloned(), located.lsn, located.end(), &void);
            needed.add_promise(located, &void);
        }
        needed.finished(names)
    }

    /// Like [`of`](Self::of), for records after which there is no CLOSE. Copies no part.
    pub(crate) fn of_owned(records: Vec<Located>, names: &BTreeMap<StreamId, Bytes>) -> Self {
        let void = Void::of(&records, names);
        let mut needed = Self { streams: BTreeMap::new(), drops: void.drops.clone() };
        for mut located in records {
            let end = located.end();
            needed.add_promise(&located, &void);
            if let Record::Data(parts) | Record::Copy(parts) = &mut located.record {
                needed.add_parts(parts.drain(..), located.lsn, end, &void);
            }
        }
        needed.finished(names)
    }

    fn finished(mut self, names: &BTreeMap<StreamId, Bytes>) -> Self {
        // The directory matters only to a stream with parts.
        self.streams.values_mut().for_each(|stream| stream.has_directory &= !stream.parts.is_empty());
        self.streams.retain(|_, stream| *stream != NeededStream::default());
        for (id, stream) in &mut self.streams {
            stream.name = names.get(id).cloned();
            stream.parts.sort_by_key(|located| if fail_point!(TakenByPlace) { SeqNo(0) } else { located.part.first });
        }
        self
    }

    fn add_parts(&mut self, parts: impl Iterator<Item = Part>, lsn: Lsn, end: Lsn, void: &Void) {
        for part in parts.filter(|part| !void.covers(part.stream, lsn)) {
            let stream = self.streams.entry(part.stream).or_default();
            stream.parts.push(LocatedPart { part, lsn, end });
        }
    }

    fn add_promise(&mut self, located: &Located, void: &Void) {
        match &located.record {
            Record::Firm { stream, seq } if !void.covers(*stream, located.lsn) => {
                let stream = self.streams.entry(*stream).or_default();
                stream.firm = stream.firm.max(*seq);
                stream.has_directory |= *seq == SeqNo(0);
            }
            // A SETTLED does not void a START, which is needed until the stream's files hold it.
            Record::Start { stream, seq, .. } if !void.dropped.contains(stream) => {
                let stream = self.streams.entry(*stream).or_default();
                if stream.start.is_none_or(|start| start < *seq) {
                    stream.start = Some(*seq);
                    stream.start_lsn = located.lsn;
                }
            }
            _ => {}
        }
    }

    /// The records that preserve everything that is needed: [`Journal::restart`](crate::Journal::restart)
    /// writes them.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let drops = self
            .drops
            .iter()
            .filter(|_| !fail_point!(DropForgotten))
            .map(|Dropped { stream, name, .. }| Record::Drop { stream: *stream, name: name.clone() });
        let mut records: Vec<Record> = drops.collect();
        for (&stream, needed) in &self.streams {
            records.extend(needed.records(stream));
        }
        records
    }

    /// Whether nothing is needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.drops.is_empty()
    }
}

/// Which records are void because of later ones.
struct Void {
    settled: BTreeMap<StreamId, Lsn>,
    dropped: BTreeSet<StreamId>,
    drops: Vec<Dropped>,
}

impl Void {
    /// This needs its own pass, because a record precedes the one that voids it.
    fn of(records: &[Located], names: &BTreeMap<StreamId, Bytes>) -> Self {
        let mut void = Self { settled: BTreeMap::new(), dropped: BTreeSet::new(), drops: Vec::new() };
        // The ids that come before each DROP: a stream that is created later under the same name
        // has another id.
        let mut ids = BTreeSet::new();
        for located in records {
            ids.extend(located.record.parts().iter().map(|part| part.stream));
            ids.extend(located.record.names().map(|(stream, _)| stream));
            match &located.record {
                Record::Settled { stream, .. } => drop(void.settled.insert(*stream, located.lsn)),
                Record::Drop { stream, name } => {
                    if stream.0 == 0 {
                        void.dropped.extend(ids.iter().filter(|id| names.get(id).is_some_and(|known| known == name)));
                    } else {
                        void.dropped.insert(*stream);
                    }
                    void.drops.push(Dropped { stream: *stream, name: name.clone(), lsn: located.lsn });
                }
                _ => {}
            }
        }
        void
    }

    fn covers(&self, stream: StreamId, lsn: Lsn) -> bool {
        self.dropped.contains(&stream)
            || self.settled.get(&stream).is_some_and(|settled| lsn < *settled && !fail_point!(SettledIgnored))
    }
}

/// The entries that a stream has beyond its own files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The parts in seq order, each with the number of leading entries to skip because the files or
    /// an earlier part hold them.
    pub parts: Vec<(u64, LocatedPart)>,
    /// One past the last entry.
    pub end: SeqNo,
    /// Whether loose parts were dropped because entries before them are missing. If so, a SETTLED
    /// must be durable before the stream accepts an entry; otherwise a dropped part could fit
    /// again.
    pub dropped: bool,
}

/// Reports that entries promised to be durable are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first missing entry.
    pub from: SeqNo,
    /// One past the last entry that a promise rests on.
    pub promised: SeqNo,
}

impl NeededStream {
    /// The records that preserve the needed entries of the stream, whose id is `stream`.
    #[must_use]
    pub fn records(&self, stream: StreamId) -> Vec<Record> {
        let mut records = Vec::new();
        if self.has_directory {
            records.push(Record::Firm { stream, seq: SeqNo(0) });
        }
        if let Some(seq) = self.start.filter(|_| !fail_point!(StartForgotten)) {
            records.push(Record::Start { stream, seq, name: self.name.clone() });
        }
        for (i, located) in self.parts.iter().enumerate() {
            // The first part of a stream in a file has its name.
            let name = located.part.name.clone().or_else(|| self.name.clone().filter(|_| i == 0));
            let firm = located.part.firm || fail_point!(LooseBecomesFirm);
            records.push(Record::Copy(vec![Part { name, firm, ..located.part.clone() }]));
        }
        if self.firm > SeqNo(0) && !fail_point!(FirmForgotten) {
            records.push(Record::Firm { stream, seq: self.firm });
        }
        records
    }

    /// Joins the parts to the end of the stream's own files. `end` is where the files end, or the
    /// START if that is greater. The order is by seq, because a copied part comes later in the
    /// journal than the entries that follow it.
    ///
    /// # Errors
    /// [`Gap`] if an entry that was promised to be durable is missing. A gap above the last
    /// promised entry is lawful; it ends the tail.
    pub fn tail_after(&self, end: SeqNo) -> Result<Tail, Gap> {
        let firm = self.parts.iter().filter(|located| located.part.firm).map(|located| located.part.end());
        let promised = firm.fold(self.firm, SeqNo::max);
        let tail = self.fitting(end);
        let refused = tail.dropped && fail_point!(LawfulGapRefused);
        if tail.end < promised && !fail_point!(GapIgnored) || refused {
            return Err(Gap { from: tail.end, promised });
        }
        Ok(tail)
    }

    /// Joins the parts to the stream's own files, which end at `files_end`. If the files and the
    /// parts that fit end below the START, the stream restarts there: then the parts are joined to
    /// the START, and it is returned.
    ///
    /// # Errors
    /// Same as for [`tail_after`](Self::tail_after). A gap below the START is lawful, because the
    /// missing entries were dropped.
    pub fn tail_of_files(&self, files_end: SeqNo) -> Result<(Tail, Option<SeqNo>), Gap> {
        let restart = self.start.filter(|start| self.fitting(files_end).end < *start);
        self.tail_after(restart.unwrap_or(files_end)).map(|tail| (tail, restart))
    }

    /// The parts that continue a stream which ends at `end`.
    fn fitting(&self, end: SeqNo) -> Tail {
        let mut tail = Tail { parts: Vec::new(), end, dropped: false };
        for located in &self.parts {
            let part = &located.part;
            if part.first > tail.end {
                tail.dropped = true;
                break;
            }
            if part.end() > tail.end {
                tail.parts.push((tail.end - part.first, located.clone()));
                tail.end = part.end();
            }
        }
        tail
    }
}
