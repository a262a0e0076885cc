//! The records that are still needed. The journal alone decides this, without a look at any stream.
//!
//! Void are the records of a stream before its last SETTLED, and all of a deleted stream. A START
//! stays needed until the caller knows that the stream's own files hold it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use stratawal_frame::{SeqNo, StreamId};
use stratawal_sync::fail_point;

use crate::lsn::Lsn;
use crate::record::{Located, Part, Record};

/// The records that are needed, by stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// The streams of which something is needed.
    pub streams: BTreeMap<StreamId, NeededStream>,
    /// The streams that are deleted, in the order of their DROP records. The caller finishes a
    /// deletion, and [`Journal::open`](crate::Journal::open) asks which are unfinished.
    pub drops: Vec<Dropped>,
}

/// The needed records of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeededStream {
    /// Its name, where the journal states it.
    pub name: Option<Bytes>,
    /// Its parts, in the order of their seqs. Parts may overlap: a part may have been copied.
    pub parts: Vec<LocatedPart>,
    /// One past the last entry that a FIRM record promises; 0 for none.
    pub firm: SeqNo,
    /// The greatest START.
    pub start: Option<SeqNo>,
    /// Where the record of that START begins.
    pub start_lsn: Lsn,
}

/// A part, and the record that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedPart {
    /// The part.
    pub part: Part,
    /// Where its record begins: the journal is needed from here on.
    pub lsn: Lsn,
    /// Where its record ends: the part is durable once this is.
    pub end: Lsn,
}

/// A deleted stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The stream; 0 stands for every stream of the name.
    pub stream: StreamId,
    /// Its name.
    pub name: Bytes,
    /// Where the record begins: the journal is needed from here on until the deletion is finished
    /// and durable.
    pub lsn: Lsn,
}

impl Needed {
    /// The needed records of a chain.
    #[must_use]
    pub fn of(records: &[Located]) -> Self {
        // A clean end: the streams' own files hold everything before it.
        let close = records.iter().rposition(|located| located.record == Record::Close);
        let records = &records[close.map_or(0, |at| at + 1)..];
        let void = Void::of(records);
        let mut needed = Self { streams: BTreeMap::new(), drops: void.drops.clone() };
        for located in records {
            needed.add(located, &void);
        }
        for stream in needed.streams.values_mut() {
            stream.parts.sort_by_key(|located| if fail_point!(TakenByPlace) { SeqNo(0) } else { located.part.first });
        }
        needed
    }

    fn add(&mut self, located: &Located, void: &Void) {
        match &located.record {
            Record::Data(parts) | Record::Copy(parts) => {
                for part in parts.iter().filter(|part| !void.covers(part.stream, located.lsn)) {
                    let stream = self.streams.entry(part.stream).or_default();
                    if stream.name.is_none() {
                        stream.name.clone_from(&part.name);
                    }
                    stream.parts.push(LocatedPart { part: part.clone(), lsn: located.lsn, end: located.end() });
                }
            }
            Record::Firm { stream, seq } if !void.covers(*stream, located.lsn) => {
                let stream = self.streams.entry(*stream).or_default();
                stream.firm = stream.firm.max(*seq);
            }
            // A SETTLED does not void it: it is needed until the stream's files hold it.
            Record::Start { stream, seq } if !void.dropped.contains(stream) => {
                let stream = self.streams.entry(*stream).or_default();
                if stream.start.is_none_or(|start| start < *seq) {
                    stream.start = Some(*seq);
                    stream.start_lsn = located.lsn;
                }
            }
            _ => {}
        }
    }

    /// The records that a new file must hold, so that everything that is needed is in it as it was.
    pub(crate) fn records(&self) -> Vec<Record> {
        let drops = self
            .drops
            .iter()
            .filter(|_| !fail_point!(DropForgotten))
            .map(|Dropped { stream, name, .. }| Record::Drop { stream: *stream, name: name.clone() });
        let mut records: Vec<Record> = drops.collect();
        for (&stream, needed) in &self.streams {
            if let Some(seq) = needed.start.filter(|_| !fail_point!(StartForgotten)) {
                records.push(Record::Start { stream, seq });
            }
            for located in &needed.parts {
                // Any part may come to be the first of its stream in a file.
                let name = located.part.name.clone().or_else(|| needed.name.clone());
                let firm = located.part.firm || fail_point!(LooseBecomesFirm);
                records.push(Record::Copy(vec![Part { name, firm, ..located.part.clone() }]));
            }
            if needed.firm > SeqNo(0) && !fail_point!(FirmForgotten) {
                records.push(Record::Firm { stream, seq: needed.firm });
            }
        }
        records
    }

    /// Whether nothing is needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.drops.is_empty()
    }
}

/// Which records others have made void.
struct Void {
    settled: BTreeMap<StreamId, Lsn>,
    dropped: BTreeSet<StreamId>,
    drops: Vec<Dropped>,
}

impl Void {
    /// A pass of its own: a record comes before the one that voids it.
    fn of(records: &[Located]) -> Self {
        let mut void = Self { settled: BTreeMap::new(), dropped: BTreeSet::new(), drops: Vec::new() };
        let mut ids: BTreeMap<&[u8], BTreeSet<StreamId>> = BTreeMap::new();
        for located in records {
            for part in located.record.parts() {
                if let Some(name) = &part.name {
                    ids.entry(name).or_default().insert(part.stream);
                }
            }
            match &located.record {
                Record::Settled { stream, .. } => drop(void.settled.insert(*stream, located.lsn)),
                Record::Drop { stream, name } => {
                    if stream.0 == 0 {
                        void.dropped.extend(ids.get(&name[..]).into_iter().flatten());
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
    /// The parts in the order of their seqs, each with how many of its first entries are to be left
    /// out: the files or an earlier part hold them.
    pub parts: Vec<(u64, LocatedPart)>,
    /// One past the last entry.
    pub end: SeqNo,
    /// Whether loose parts were dropped because entries before them are missing. Then SETTLED must
    /// be durable before the stream accepts an entry, or a dropped part would fit again.
    pub dropped: bool,
}

/// Entries that were promised to be durable are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first missing entry.
    pub from: SeqNo,
    /// One past the last entry that a promise rests on.
    pub promised: SeqNo,
}

impl NeededStream {
    /// Puts the parts together after the stream's own files, which end at `end` (the greater of
    /// that and of the START). By seq: a copy comes later in the journal than what follows its
    /// entries.
    ///
    /// # Errors
    /// [`Gap`] where an entry is missing that a promise of durability rests on. A gap above the
    /// last promised entry is lawful; it ends the tail.
    pub fn tail_after(&self, end: SeqNo) -> Result<Tail, Gap> {
        let firm = self.parts.iter().filter(|located| located.part.firm).map(|located| located.part.end());
        let promised = firm.fold(self.firm, SeqNo::max);
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
        let refused = tail.dropped && fail_point!(LawfulGapRefused);
        if tail.end < promised && !fail_point!(GapIgnored) || refused {
            return Err(Gap { from: tail.end, promised });
        }
        Ok(tail)
    }
}
