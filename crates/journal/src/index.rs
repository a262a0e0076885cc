//! Where the records of each stream are in a journal that is only read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use stratawal_frame::{SeqNo, StreamId};

use crate::lsn::Lsn;
use crate::record::{Located, Part, Record};

/// The streams that have records in a journal, and where their parts are.
#[derive(Debug, Default)]
pub struct Index {
    streams: BTreeMap<StreamId, IndexedStream>,
    /// The streams by name, as far as their names are known. A look-up searches here.
    names: BTreeSet<(Bytes, StreamId)>,
    trim: Lsn,
}

/// The records of one stream.
#[derive(Clone, Debug, Default)]
pub struct IndexedStream {
    /// Its name, if the journal gives it.
    pub name: Option<Bytes>,
    /// Its parts, in the order of their LSNs. Parts may overlap, because a part may have been
    /// copied.
    pub parts: Vec<PartPosition>,
    /// One past the last entry that a FIRM record promises; 0 if there is none.
    pub firm: SeqNo,
    /// Where that FIRM ends.
    pub firm_end: Lsn,
    /// The greatest START seq.
    pub start: Option<SeqNo>,
    /// Where the record of that START ends.
    pub start_end: Lsn,
    /// The STARTs before that one, each with the end of its record, as long as the greatest may not
    /// be shown.
    earlier_starts: Vec<(SeqNo, Lsn)>,
    /// Where the last SETTLED or CLOSE begins. Earlier parts are void.
    pub settled: Option<Lsn>,
    /// Where the record ends that states that the stream has a directory.
    pub directory_end: Option<Lsn>,
    /// Where the DROP ends, if the stream is deleted.
    pub dropped: Option<Lsn>,
    /// Parts below this seq were forgotten, because the stream's files hold them.
    pub forgotten: SeqNo,
}

/// Where a part is, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartPosition {
    /// The LSN at which its record begins.
    pub lsn: Lsn,
    /// The length of its record in bytes.
    pub record_len: u32,
    /// The number of entries.
    pub count: u32,
    /// The stream.
    pub stream: StreamId,
    /// The seq of the first entry.
    pub first: SeqNo,
    /// The time of the entries, in microseconds since 1970.
    pub timestamp: u64,
    /// Of the bytes of the body. With the seqs and the time it shows whether entries that are read
    /// elsewhere are the same.
    pub checksum: u32,
    /// See [`Part::firm`].
    pub firm: bool,
}

impl PartPosition {
    fn of(located: &Located, part: &Part) -> Self {
        Self {
            lsn: located.lsn,
            record_len: u32::try_from(located.len).expect("invariant: a record is shorter than a file"),
            count: part.count,
            stream: part.stream,
            first: part.first,
            timestamp: part.timestamp,
            checksum: crc32fast::hash(&part.body),
            firm: part.firm,
        }
    }

    /// One past the seq of the last entry.
    #[must_use]
    pub fn end_seq(&self) -> SeqNo {
        self.first + u64::from(self.count)
    }

    /// The LSN at which its record ends.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.lsn + u64::from(self.record_len)
    }

    /// Whether `part` holds the same entries.
    pub(crate) fn is_of(&self, part: &Part) -> bool {
        (part.stream, part.first, part.timestamp) == (self.stream, self.first, self.timestamp)
            && self.has_body(part.count, &part.body)
    }

    /// Whether the entries have this body, see [`Part::body`].
    #[must_use]
    pub fn has_body(&self, count: u32, body: &[u8]) -> bool {
        count == self.count && crc32fast::hash(body) == self.checksum
    }
}

impl IndexedStream {
    /// Where the last record ends on which the reader's view of the stream rests.
    #[must_use]
    pub fn end(&self) -> Lsn {
        let parts = self.parts.last().map(PartPosition::end);
        let start = self.start.map(|_| self.start_end);
        [parts, start, self.dropped].into_iter().flatten().max().unwrap_or(Lsn(0))
    }

    /// The greatest START whose record ends at or below `shown`.
    #[must_use]
    pub fn start_at(&self, shown: Lsn) -> Option<SeqNo> {
        let starts = self.earlier_starts.iter().copied().chain(self.start.map(|start| (start, self.start_end)));
        starts.filter(|(_, end)| *end <= shown).map(|(start, _)| start).max()
    }

    /// Whether the journal holds entries of the stream, or where it begins.
    #[must_use]
    pub fn has_records(&self) -> bool {
        self.dropped.is_none() && (!self.parts.is_empty() || self.start.is_some())
    }

    fn void(&mut self, lsn: Lsn) {
        self.parts.clear();
        self.forgotten = SeqNo(0);
        self.firm = SeqNo(0);
        self.directory_end = None;
        self.settled = Some(lsn);
    }
}

impl Index {
    /// An index without records, which knows these names. No record below `trim` is needed.
    pub(crate) fn new(names: &BTreeMap<StreamId, Bytes>, trim: Lsn) -> Self {
        let mut index = Self { trim, ..Self::default() };
        for (&id, name) in names {
            index.named_stream(id, Some(name));
        }
        index
    }

    /// The stream with this id. It gets the name, if it has none.
    fn named_stream(&mut self, id: StreamId, name: Option<&Bytes>) -> &mut IndexedStream {
        let stream = self.streams.entry(id).or_default();
        if let Some(name) = name.filter(|_| stream.name.is_none()) {
            // The name is a slice of a record, or of the whole file.
            let name = Bytes::copy_from_slice(name);
            stream.name = Some(name.clone());
            self.names.insert((name, id));
        }
        stream
    }

    fn ids_of(&self, name: &[u8]) -> impl Iterator<Item = StreamId> {
        let name = Bytes::copy_from_slice(name);
        let named = self.names.range((name.clone(), StreamId(0))..=(name, StreamId(u64::MAX)));
        named.map(|&(_, id)| id)
    }

    /// The records of a stream, if it has any.
    #[must_use]
    pub fn stream(&self, id: StreamId) -> Option<&IndexedStream> {
        self.streams.get(&id)
    }

    /// The stream of this name with the latest record, if any has records.
    #[must_use]
    pub fn named(&self, name: &[u8]) -> Option<(StreamId, &IndexedStream)> {
        let named = self.ids_of(name).filter_map(|id| Some((id, self.streams.get(&id)?)));
        named.filter(|(_, stream)| stream.has_records()).max_by_key(|(_, stream)| stream.end())
    }

    /// Whether the records of a stream of this name became void at or after `lsn`.
    #[must_use]
    pub fn is_voided_since(&self, name: &[u8], lsn: Lsn) -> bool {
        self.ids_of(name).filter_map(|id| self.streams.get(&id)?.settled).any(|at| at >= lsn)
    }

    /// All streams.
    pub fn streams(&self) -> impl Iterator<Item = (StreamId, &IndexedStream)> {
        self.streams.iter().map(|(&id, stream)| (id, stream))
    }

    /// No record below this LSN is needed.
    #[must_use]
    pub const fn trim(&self) -> Lsn {
        self.trim
    }

    pub(crate) fn add(&mut self, located: &Located) {
        match &located.record {
            Record::Data(parts) | Record::Copy(parts) => parts.iter().for_each(|part| self.add_part(located, part)),
            Record::Firm { stream, seq } => {
                let stream = self.streams.entry(*stream).or_default();
                if *seq == SeqNo(0) {
                    stream.directory_end.get_or_insert(located.end());
                } else if *seq >= stream.firm {
                    stream.firm = *seq;
                    stream.firm_end = located.end();
                }
            }
            Record::Start { stream, seq, name } => {
                let stream = self.named_stream(*stream, name.as_ref());
                // A copy of a START comes later than the record that it replaces.
                if stream.start.is_none_or(|start| start <= *seq) {
                    stream.earlier_starts.extend(stream.start.map(|start| (start, stream.start_end)));
                    stream.start = Some(*seq);
                    stream.start_end = located.end();
                }
            }
            Record::Settled { stream, .. } => self.streams.entry(*stream).or_default().void(located.lsn),
            Record::Drop { stream, name } => self.drop_stream(*stream, name, located),
            Record::Trim { lsn } => self.trim_to(*lsn),
            Record::Close => self.streams.values_mut().for_each(|stream| {
                stream.void(located.lsn);
                // The files of the stream hold it.
                stream.start = None;
                stream.earlier_starts.clear();
            }),
            Record::Mark | Record::Next | Record::Pad { .. } => {}
        }
    }

    fn add_part(&mut self, located: &Located, part: &Part) {
        let stream = self.named_stream(part.stream, part.name.as_ref());
        stream.parts.push(PartPosition::of(located, part));
    }

    fn drop_stream(&mut self, id: StreamId, name: &Bytes, located: &Located) {
        let meant = if id.0 == 0 { self.ids_of(name).collect() } else { vec![id] };
        for id in meant {
            let stream = self.named_stream(id, Some(name));
            stream.void(located.lsn);
            stream.start = None;
            stream.earlier_starts.clear();
            stream.dropped = Some(located.end());
        }
    }

    /// Forgets the records below `lsn`, of which none is needed.
    fn trim_to(&mut self, lsn: Lsn) {
        self.trim = self.trim.max(lsn);
        self.streams.retain(|_, stream| {
            stream.parts.retain(|part| part.end() > lsn);
            if stream.firm_end <= lsn {
                stream.firm = SeqNo(0);
            }
            stream.start = stream.start.filter(|_| stream.start_end > lsn);
            stream.earlier_starts.retain(|(_, end)| *end > lsn);
            let is_marked = stream.settled.is_some_and(|settled| settled >= lsn);
            !stream.parts.is_empty() || stream.firm.0 > 0 || stream.start.is_some() || is_marked
        });
        let Self { streams, names, .. } = self;
        names.retain(|(_, id)| streams.contains_key(id));
    }

    /// Forgets the parts of a stream that end at or below `seq`, because its own files hold them,
    /// and the STARTs that later ones replace. Everything below `shown` is shown.
    pub(crate) fn forget_below(&mut self, id: StreamId, seq: SeqNo, shown: Lsn) {
        if let Some(stream) = self.streams.get_mut(&id) {
            if stream.start_end <= shown {
                stream.earlier_starts.clear();
            }
            let known = stream.parts.len();
            stream.parts.retain(|part| part.end_seq() > seq);
            if stream.parts.len() < known {
                stream.forgotten = stream.forgotten.max(seq);
            }
        }
    }
}
