//! Helpers for the journal's tests: a workload with a model of its promises, crashes at any change
//! of the disk, and a damage sweep over every byte.

#![allow(dead_code, reason = "each test uses a part")]

pub(crate) mod full_disk;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use stratawal_frame::{SeqNo, StreamId, WalId};
use stratawal_journal::{ErrorKind, Image, Journal, JournalOptions, Lsn, Needed, NeededStream, Part, Position, Record};
use stratawal_storage::Storage;
use stratawal_testkit::{Crash, Disk, Fault, Faults, Rng, SimStorage};

const DIR: &str = "/journal";
const WAL: WalId = WalId(0xA5);

/// Runs with an even seed store records into maps; the others write them.
fn options(seed: u64) -> JournalOptions {
    JournalOptions::default().bytes(64 << 10).first_file_bytes(16 << 10).mapped(seed.is_multiple_of(2))
}

/// A stream: its entries, how many of them its own files hold, and how many are promised.
#[derive(Clone, Debug, Default)]
struct Stream {
    /// A number for each entry put, from seq 0.
    values: Vec<u64>,
    /// The stream's own files durably hold everything below this seq.
    settled: u64,
    /// The stream's own files hold everything below this seq. A power loss may take entries at or
    /// above `settled`.
    drained: u64,
    /// Everything below this seq was acknowledged as durable.
    promised: u64,
    /// The parts that are not settled: first seq, end, and position.
    parts: Vec<(u64, u64, Position)>,
    /// The greatest durable START, and the last START put.
    start: (u64, u64),
    /// The LSN of the START.
    start_lsn: Option<Lsn>,
}

#[derive(Clone, Debug, Default)]
struct Model {
    streams: BTreeMap<u64, Stream>,
    /// The deleted ids: whether the DROP is durable, and whether the directory is gone.
    drops: BTreeMap<u64, (bool, bool)>,
    /// The LSN of the DROP of each unfinished deletion.
    drop_lsns: BTreeMap<u64, Lsn>,
    next_id: u64,
    next_value: u64,
}

impl Stream {
    /// Records that the files durably hold everything below `end`, so the journal need not.
    fn settle(&mut self, end: u64) {
        self.settled = self.settled.max(end);
        self.drained = self.drained.max(end);
        self.parts.retain(|part| part.1 > end);
    }

    fn has_unsynced_file_only_entries(&self) -> bool {
        let parts = &self.parts;
        (self.settled..self.drained).any(|seq| !parts.iter().any(|part| (part.0..part.1).contains(&seq)))
    }
}

impl Model {
    fn value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    /// Takes back entries that were not put.
    fn take_back(&mut self, firsts: &[(u64, u64)]) {
        for (id, first) in firsts {
            self.streams.get_mut(id).unwrap().values.truncate(*first as usize);
        }
    }

    /// The LSN at which the oldest needed record begins.
    fn needed_from(&self, end: Lsn) -> Lsn {
        let parts = self
            .streams
            .values()
            .flat_map(|stream| stream.parts.iter().filter(|part| part.1 > stream.settled).map(|part| part.2.lsn));
        let starts = self.streams.values().filter_map(|stream| stream.start_lsn);
        let unfinished = self.drop_lsns.iter().filter(|(id, _)| !self.drops[id].1);
        parts.chain(starts).chain(unfinished.map(|(_, lsn)| *lsn)).fold(end, Lsn::min)
    }
}

fn is_disk_full(error: &stratawal_journal::Error) -> bool {
    error.is_full() && !matches!(error.kind(), ErrorKind::Full { .. })
}

/// In half of the cases, the disk has little or no room for new files from now on.
fn fill_disk(sim: &SimStorage, rng: &mut Rng) {
    let room = [0, 0, 16 << 10, 48 << 10][rng.index(4)];
    let after = if rng.chance(128) { 0 } else { sim.disk().used() + room };
    let faults = Faults { after, fault: Fault::Capacity, forever: true };
    sim.set_faults(rng.chance(128).then_some(faults));
}

/// Opens the disk while operations fail. The opening may fail.
fn open_with_faults(
    sim: &SimStorage,
    options: JournalOptions,
    model: &mut Model,
    is_power_loss: bool,
    rng: &mut Rng,
) -> Result<(), String> {
    let fault = [Fault::Io, Fault::Full, Fault::IoAfterEffect, Fault::WriteBack][rng.index(4)];
    let faults = Faults { after: rng.below(30), fault, forever: fault == Fault::Full && rng.chance(128) };
    sim.set_faults(Some(faults));
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let mut throwaway = model.clone();
    let opened = reopen(&storage, options, &mut throwaway, is_power_loss, rng);
    let failed = sim.failed();
    sim.set_faults(None);
    model.forget_settling(&throwaway);
    match opened {
        Err(error) if failed == 0 => Err(format!("{faults:?} did not happen, but {error}")),
        _ => Ok(()),
    }
}

fn body(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

struct Run {
    sim: SimStorage,
    journal: Journal,
    model: Model,
    rng: Rng,
    /// The stream that the last step cut or deleted, in its earlier state.
    cut: Option<(u64, Stream)>,
}

impl Run {
    fn part(&mut self, id: u64, count: u64, firm: bool) -> Part {
        let values: Vec<u64> = (0..count).map(|_| self.model.value()).collect();
        let stream = self.model.streams.entry(id).or_default();
        let first = stream.values.len() as u64;
        stream.values.extend(&values);
        Part {
            stream: StreamId(id),
            name: Some(format!("stream {id}").into()),
            first: SeqNo(first),
            count: count as u32,
            timestamp: 7,
            firm,
            body: body(&values).into(),
        }
    }

    fn pick(&mut self) -> u64 {
        if self.model.streams.len() < 3 {
            self.model.next_id += 1;
            let id = self.model.next_id;
            self.model.streams.insert(id, Stream::default());
            return id;
        }
        let at = self.rng.index(self.model.streams.len());
        *self.model.streams.keys().nth(at).unwrap()
    }

    /// Puts a record. If the journal is full, first makes room.
    fn append(&mut self, record: &Record) -> Result<Position, stratawal_journal::Error> {
        loop {
            match self.journal.append(record) {
                Err(e) if matches!(e.kind(), ErrorKind::Full { .. }) => self.make_room()?,
                Err(e) if is_disk_full(&e) && self.journal.failure().is_none() => self.sim.set_faults(None),
                other => return other,
            }
        }
    }

    /// Calls `act`, and if the disk is full, again with room.
    fn with_room(
        &self,
        act: impl Fn(&Journal) -> Result<(), stratawal_journal::Error>,
    ) -> Result<(), stratawal_journal::Error> {
        match act(&self.journal) {
            Err(e) if is_disk_full(&e) && self.journal.failure().is_none() => {
                self.sim.set_faults(None);
                act(&self.journal)
            }
            other => other,
        }
    }

    /// Settles all streams into their own files, and releases the space of their records.
    fn make_room(&mut self) -> Result<(), stratawal_journal::Error> {
        let end = self.journal.end();
        for stream in self.model.streams.values_mut() {
            // Entries whose record is just being put are in no record yet, so they are not in the
            // files either.
            stream.settle(stream.parts.iter().map(|part| part.1).fold(stream.drained, u64::max));
            // The stream's files hold the START now, so the journal need not.
            stream.start.0 = 0;
            stream.start_lsn = None;
        }
        // All deletions are now finished.
        for drop in self.model.drops.values_mut() {
            drop.1 = true;
        }
        let needed_from = self.model.needed_from(end);
        self.with_room(|journal| journal.release(needed_from))
    }

    fn sync_all(&mut self) -> Result<(), stratawal_journal::Error> {
        self.journal.sync()
    }

    fn step(&mut self) -> Result<(), stratawal_journal::Error> {
        self.cut = None;
        match self.rng.below(19) {
            0..=6 => {
                let id = self.pick();
                let firm = self.rng.chance(128);
                let stream = self.model.streams.get_mut(&id).unwrap();
                if firm && stream.has_unsynced_file_only_entries() {
                    // A promise cannot rest only on the journal.
                    stream.settle(stream.values.len() as u64);
                    return Ok(());
                }
                let count = 1 + self.rng.below(40);
                let part = self.part(id, count, firm);
                let first = part.first.0;
                let end = part.end().0;
                // The model has the entries even while the record is being put, because they may
                // survive.
                match self.append(&Record::Data(vec![part])) {
                    Ok(position) => {
                        self.model.streams.get_mut(&id).unwrap().parts.push((first, end, position));
                        if firm {
                            self.promise(id, position)?;
                        }
                    }
                    Err(error) => {
                        // Nothing was put, unless the journal has failed.
                        if self.journal.failure().is_none() {
                            self.model.take_back(&[(id, first)]);
                        }
                        return Err(error);
                    }
                }
            }
            7 => {
                let one = self.pick();
                let two = self.pick();
                let unsynced = |id| self.model.streams[&id].has_unsynced_file_only_entries();
                if one == two || unsynced(one) || unsynced(two) {
                    return Ok(());
                }
                let parts = vec![self.part(one, 2, true), self.part(two, 3, true)];
                let ends: Vec<_> = parts.iter().map(|part| (part.stream.0, part.first.0, part.end().0)).collect();
                let appended = self.append(&Record::Data(parts));
                if appended.is_err() && self.journal.failure().is_none() {
                    let firsts: Vec<_> = ends.iter().map(|(id, first, _)| (*id, *first)).collect();
                    self.model.take_back(&firsts);
                }
                let position = appended?;
                for (id, first, end) in ends {
                    self.model.streams.get_mut(&id).unwrap().parts.push((first, end, position));
                }
                self.promise(one, position)?;
            }
            8 => self.sync_with_firm()?,
            9 => {
                // Settle one stream.
                let id = self.pick();
                let stream = self.model.streams.get_mut(&id).unwrap();
                stream.settle(stream.values.len() as u64);
                let seq = SeqNo(stream.settled);
                if self.rng.chance(128) {
                    self.append(&Record::Settled { stream: StreamId(id), seq })?;
                }
            }
            10 => {
                // Copy one stream forward.
                let id = self.pick();
                let stream = self.model.streams[&id].clone();
                let firm = stream.promised;
                let parts: Vec<_> = stream.parts.iter().filter(|part| part.1 > stream.settled).collect();
                let mut copied = Vec::new();
                for &&(first, end, _) in &parts {
                    let values = &stream.values[first as usize..end as usize];
                    let part = Part {
                        stream: StreamId(id),
                        name: Some(format!("stream {id}").into()),
                        first: SeqNo(first),
                        count: (end - first) as u32,
                        timestamp: 7,
                        firm: firm >= end,
                        body: body(values).into(),
                    };
                    copied.push((first, end, self.append(&Record::Copy(vec![part]))?));
                }
                // A later release makes the copies durable.
                if self.rng.chance(128) {
                    self.sync_all()?;
                }
                let stream = self.model.streams.get_mut(&id).unwrap();
                if !stream.parts.is_empty() {
                    stream.parts = copied;
                }
                if self.rng.chance(128) {
                    let needed_from = self.model.needed_from(self.journal.end());
                    self.with_room(|journal| journal.release(needed_from))?;
                }
            }
            11 => {
                let id = self.pick();
                let stream = &self.model.streams[&id];
                let start = stream.start.1.max(self.rng.below(stream.values.len() as u64 + 1));
                self.model.streams.get_mut(&id).unwrap().start.1 = start;
                let position = self.append(&Record::Start {
                    stream: StreamId(id),
                    seq: SeqNo(start),
                    name: Some(format!("stream {id}").into()),
                })?;
                self.model.streams.get_mut(&id).unwrap().start_lsn = Some(position.lsn);
                self.journal.sync_to(position)?;
                self.model.streams.get_mut(&id).unwrap().start.0 = start;
            }
            12 if self.model.streams.len() > 2 => {
                let id = self.pick();
                let record = Record::Drop { stream: StreamId(id), name: format!("stream {id}").into() };
                self.model.drops.insert(id, (false, false));
                let position = self.append(&record)?;
                self.model.drop_lsns.insert(id, position.lsn);
                self.journal.sync_to(position)?;
                self.model.drops.insert(id, (true, self.rng.chance(128)));
                self.cut = self.model.streams.remove(&id).map(|stream| (id, stream));
            }
            13 => self.with_room(Journal::prepare)?,
            14 => {
                // Entries that go only to the files, after everything before them.
                let id = self.pick();
                let values: Vec<u64> = (0..3).map(|_| self.model.value()).collect();
                let stream = self.model.streams.get_mut(&id).unwrap();
                stream.values.extend(values);
                stream.drained = stream.values.len() as u64;
            }
            15 => {
                // A cut: settle, put SETTLED, sync; then the files have fewer entries.
                let id = self.pick();
                let stream = self.model.streams.get_mut(&id).unwrap();
                let end = stream.values.len() as u64;
                stream.settle(end);
                let whole = stream.clone();
                let settled = Record::Settled { stream: StreamId(id), seq: SeqNo(end) };
                let position = self.append(&settled)?;
                self.journal.sync_to(position)?;
                self.cut = Some((id, whole));
                let to = self.rng.below(end + 1);
                let stream = self.model.streams.get_mut(&id).unwrap();
                stream.values.truncate(to as usize);
                stream.settled = to;
                stream.drained = to;
                stream.promised = stream.promised.min(to);
            }
            _ => {
                let needed_from = self.model.needed_from(self.journal.end());
                self.with_room(|journal| journal.release(needed_from))?;
            }
        }
        Ok(())
    }

    /// Makes the stream's entries durable, and promises them.
    fn promise(&mut self, id: u64, position: Position) -> Result<(), stratawal_journal::Error> {
        self.journal.sync_to(position)?;
        for (stream_id, stream) in &mut self.model.streams {
            let firm_until = stream.parts.iter().filter(|part| part.2.end <= position.end).map(|part| part.1).max();
            if *stream_id == id {
                stream.promised = stream.promised.max(firm_until.unwrap_or(0));
            }
        }
        Ok(())
    }

    /// A sync of loose parts: FIRM for each stream, then one sync, then the promise.
    fn sync_with_firm(&mut self) -> Result<(), stratawal_journal::Error> {
        let ends: Vec<_> = self.model.streams.iter().map(|(id, stream)| (*id, stream.values.len() as u64)).collect();
        for stream in self.model.streams.values_mut() {
            if stream.has_unsynced_file_only_entries() {
                stream.settle(stream.values.len() as u64);
            }
        }
        for &(id, end) in &ends {
            self.append(&Record::Firm { stream: StreamId(id), seq: SeqNo(end) })?;
        }
        self.sync_all()?;
        for (id, end) in ends {
            self.model.streams.get_mut(&id).unwrap().promised = end;
        }
        Ok(())
    }
}

/// Opens the disk after a crash and compares it with the model. The model then becomes the state
/// found.
fn reopen(
    storage: &Arc<dyn Storage>,
    options: JournalOptions,
    model: &mut Model,
    is_power_loss: bool,
    rng: &mut Rng,
) -> Result<Journal, String> {
    let image = Image::read(&**storage, Path::new(DIR), WAL).map_err(|e| format!("read: {e}"))?;
    if let Some(damage) = image.damage() {
        return Err(format!("reported as {damage}"));
    }
    let drops = model.drops.clone();
    let (journal, needed) = Journal::open(storage, Path::new(DIR), WAL, options, image, |drop| {
        drops.get(&drop.stream.0).is_some_and(|(_, gone)| !gone)
    })
    .map_err(|e| format!("open: {e}"))?;
    compare(&journal, &needed, model, is_power_loss, rng)?;
    Ok(journal)
}

fn compare(
    journal: &Journal,
    needed: &Needed,
    model: &mut Model,
    is_power_loss: bool,
    rng: &mut Rng,
) -> Result<(), String> {
    model.drop_lsns = needed.drops.iter().map(|drop| (drop.stream.0, drop.lsn)).collect();
    for (id, (is_durable, is_gone)) in model.drops.clone() {
        let found = needed.drops.iter().any(|drop| drop.stream.0 == id);
        if is_durable && !is_gone && !found {
            return Err(format!("the DROP of stream {id} is lost"));
        }
        if found || is_durable {
            model.streams.remove(&id);
            model.drops.insert(id, (true, is_gone));
        } else {
            model.drops.remove(&id);
        }
        if needed.streams.contains_key(&StreamId(id)) && (found || is_durable) {
            return Err(format!("stream {id} is back after its DROP"));
        }
    }
    for (&id, stream) in &mut model.streams {
        let nothing = NeededStream::default();
        let found = needed.streams.get(&StreamId(id)).unwrap_or(&nothing);
        let start = found.start.map_or(0, |start| start.0);
        if start < stream.start.0 || start > stream.start.1 {
            return Err(format!("stream {id}: START {start}, expected {:?}", stream.start));
        }
        stream.start = (start, start);
        stream.start_lsn = found.start.map(|_| found.start_lsn);
        let unsynced = stream.drained - stream.settled;
        let files_end = if is_power_loss { stream.settled + rng.below(unsynced + 1) } else { stream.drained };
        let tail = found.tail_after(SeqNo(files_end)).map_err(|gap| format!("stream {id}: {gap:?}, {stream:?}"))?;
        let put = stream.parts.iter().map(|part| part.1).fold(stream.drained, u64::max);
        let firm = found.parts.iter().filter(|located| located.part.firm).map(|located| located.part.end().0);
        let firm = firm.fold(found.firm.0, u64::max);
        if stream.promised > stream.settled && firm < stream.promised {
            return Err(format!("stream {id}: the promise of {} is lost, {firm} is left", stream.promised));
        }
        let must = if is_power_loss { stream.promised.max(stream.settled) } else { put };
        if tail.end.0 < must {
            return Err(format!("stream {id} ends at {}, expected at least {must}: {stream:?}", tail.end));
        }
        let mut seq = files_end;
        for (skip, located) in &tail.parts {
            let values = &located.part.body[8 * *skip as usize..];
            let count = values.len() as u64 / 8;
            let expected = stream.values.get(seq as usize..(seq + count) as usize);
            if expected.is_none_or(|expected| body(expected) != values) {
                return Err(format!("stream {id}: other entries at {seq}: {stream:?}"));
            }
            seq += count;
        }
        stream.values.truncate(tail.end.0 as usize);
        stream.promised = stream.promised.min(tail.end.0).max(must.min(tail.end.0));
        let epoch = journal.epoch();
        // The stream's recovery makes all entries that it finds in the files durable.
        stream.settled = files_end;
        stream.drained = files_end;
        stream.parts = tail
            .parts
            .iter()
            .map(|(_, part)| (part.part.first.0, part.part.end().0, Position { lsn: part.lsn, end: part.end, epoch }))
            .collect();
        if tail.dropped {
            // A dropped part must never fit again.
            stream.settle(tail.end.0);
            let settled = Record::Settled { stream: StreamId(id), seq: tail.end };
            let position = journal.append(&settled).map_err(|e| format!("SETTLED: {e}"))?;
            journal.sync_to(position).map_err(|e| format!("SETTLED: {e}"))?;
        }
    }
    Ok(())
}

/// Keeps a copy of the disk as of one change, where the run is to crash.
#[derive(Clone, Default)]
struct CrashPoint(Arc<Mutex<(u64, Option<Disk>)>>);

impl CrashPoint {
    fn at(storage: &SimStorage, change: u64) -> Self {
        let this = Self(Arc::new(Mutex::new((change, None))));
        let cell = Arc::clone(&this.0);
        storage.watch(move |disk| {
            let mut cell = cell.lock().unwrap();
            if cell.1.is_some() {
                return;
            }
            match cell.0 {
                0 => cell.1 = Some(disk.clone()),
                _ => cell.0 -= 1,
            }
        });
        this
    }

    fn take(&self) -> Option<Disk> {
        self.0.lock().unwrap().1.take()
    }

    fn is_reached(&self) -> bool {
        self.0.lock().unwrap().1.is_some()
    }
}

/// Runs one life after another. Each ends with a crash, some of them within recovery.
pub(crate) fn lives(seed: u64) -> Result<(), String> {
    let options = options(seed);
    let mut rng = Rng::new(seed);
    let mut sim = SimStorage::new(rng.next_u64());
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let journal = Journal::create(&storage, Path::new(DIR), WAL, options).map_err(|e| format!("create: {e}"))?;
    let mut run = Run { sim: sim.clone(), journal, model: Model::default(), rng: Rng::new(rng.next_u64()), cut: None };
    for life in 0..6 {
        let crash_point = CrashPoint::at(&sim, rng.below(250));
        let mut before = run.model.clone();
        for _ in 0..60 {
            before = run.model.clone();
            if let Err(error) = run.step() {
                return Err(format!("life {life}: a step failed without a fault: {error}"));
            }
            if crash_point.is_reached() {
                break;
            }
        }
        sim.unwatch();
        let crash_was_reached = crash_point.is_reached();
        let disk = crash_point.take().unwrap_or_else(|| sim.disk());
        // The disk may be in the state before the step or in the state after it.
        let mut model = if crash_was_reached { merge(&before, &run.model) } else { run.model.clone() };
        if let Some((id, whole)) = run.cut.take().filter(|_| crash_was_reached) {
            model.streams.insert(id, whole);
        }
        let crash = Crash::any(&mut rng);
        let mut disk = disk.crash(crash, &mut rng);
        let is_power_loss = !matches!(crash, Crash::Kill);
        let mut has_lost_power = is_power_loss;
        // Up to two crashes within recovery.
        for _ in 0..rng.below(3) {
            sim = SimStorage::on(disk.clone(), rng.next_u64());
            fill_disk(&sim, &mut rng);
            let storage: Arc<dyn Storage> = Arc::new(sim.clone());
            let crash_point = CrashPoint::at(&sim, rng.below(40));
            let mut throwaway = model.clone();
            reopen(&storage, options, &mut throwaway, has_lost_power, &mut rng)
                .map_err(|e| format!("life {life}: {crash:?}: {e}"))?;
            sim.unwatch();
            let Some(within) = crash_point.take() else { break };
            let again = Crash::any(&mut rng);
            has_lost_power |= !matches!(again, Crash::Kill);
            disk = within.crash(again, &mut rng);
            model.forget_settling(&throwaway);
        }
        sim = SimStorage::on(disk, rng.next_u64());
        if rng.chance(64) {
            open_with_faults(&sim, options, &mut model, has_lost_power, &mut rng)
                .map_err(|e| format!("life {life}: {crash:?}: {e}"))?;
        }
        fill_disk(&sim, &mut rng);
        let storage: Arc<dyn Storage> = Arc::new(sim.clone());
        let journal = reopen(&storage, options, &mut model, has_lost_power, &mut rng)
            .map_err(|e| format!("life {life}: {crash:?}: {e}"))?;
        run = Run { sim: sim.clone(), journal, model, rng: Rng::new(rng.next_u64()), cut: None };
    }
    Ok(())
}

impl Model {
    /// An interrupted recovery may have settled streams permanently.
    fn forget_settling(&mut self, recovered: &Self) {
        for (id, stream) in &mut self.streams {
            if let Some(other) = recovered.streams.get(id).filter(|other| other.settled > stream.settled) {
                *stream = other.clone();
            }
        }
    }
}

/// The state expected after a crash within a step: the entries as of after the step, and the
/// promises as of before it.
fn merge(before: &Model, after: &Model) -> Model {
    let mut model = after.clone();
    for (id, stream) in &before.streams {
        let merged = model.streams.entry(*id).or_insert_with(|| stream.clone());
        merged.promised = stream.promised;
        merged.start.0 = stream.start.0;
        merged.start.0 = merged.start.0.min(after.streams.get(id).map_or(0, |stream| stream.start.0));
        merged.start.1 = merged.start.1.max(stream.start.1);
        if merged.settled == stream.settled {
            merged.parts.clone_from(&stream.parts);
        }
    }
    for (id, stream) in &mut model.streams {
        if !before.streams.contains_key(id) {
            stream.promised = 0;
            stream.start.0 = 0;
            stream.parts.clear();
        }
    }
    for (id, drop) in &mut model.drops {
        if before.drops.get(id).is_none_or(|before| !before.0) {
            *drop = (false, false);
        }
    }
    model
}

/// Runs a workload in which one operation fails, then crashes. The next opening must find
/// everything that was promised.
pub(crate) fn failing_life(seed: u64) -> Result<(), String> {
    let options = options(seed);
    let mut rng = Rng::new(seed);
    let sim = SimStorage::new(rng.next_u64());
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let journal = Journal::create(&storage, Path::new(DIR), WAL, options).map_err(|e| format!("create: {e}"))?;
    let mut run = Run { sim: sim.clone(), journal, model: Model::default(), rng: Rng::new(rng.next_u64()), cut: None };
    let fault = if rng.chance(128) { Fault::Io } else { Fault::WriteBack };
    sim.set_faults(Some(Faults { after: rng.below(80), fault, forever: false }));
    let mut before = run.model.clone();
    let mut failures = 0;
    for _ in 0..60 {
        let unchanged = run.model.clone();
        match run.step() {
            // An acknowledgement after a failure also counts.
            Ok(()) => before = run.model.clone(),
            Err(_) => {
                failures += 1;
                run.model = merge(&unchanged, &run.model);
                if failures > 5 {
                    break;
                }
            }
        }
    }
    sim.set_faults(None);
    let disk = sim.disk().crash(Crash::any(&mut rng), &mut rng);
    let mut model = merge(&before, &run.model);
    let storage: Arc<dyn Storage> = Arc::new(SimStorage::on(disk, rng.next_u64()));
    reopen(&storage, options, &mut model, true, &mut rng).map(drop)
}

/// Returns a journal of three files that was not closed. All records are durable. They are attested
/// by the MARK after them or, if `is_recovered`, by the header of the file that recovery wrote.
fn durable_journal(is_recovered: bool) -> (Disk, Vec<Record>) {
    let options = options(0);
    let sim = SimStorage::new(5);
    let storage: Arc<dyn Storage> = Arc::new(sim.clone());
    let journal = Journal::create(&storage, Path::new(DIR), WAL, options).expect("there is room");
    for seq in 0..60 {
        let values: Vec<u64> = (0..30).map(|i| seq * 30 + i).collect();
        let part = Part {
            stream: StreamId(1 + seq % 2),
            name: Some(format!("stream {}", 1 + seq % 2).into()),
            first: SeqNo(seq / 2 * 30),
            count: 30,
            timestamp: 7,
            firm: true,
            body: body(&values).into(),
        };
        journal.append(&Record::Data(vec![part])).expect("there is room");
        if seq % 7 == 0 {
            journal.sync().expect("no fault is set");
        }
    }
    journal.append(&Record::Firm { stream: StreamId(2), seq: SeqNo(900) }).expect("there is room");
    journal.append(&Record::Start { stream: StreamId(1), seq: SeqNo(3), name: None }).expect("there is room");
    journal.sync().expect("no fault is set");
    if is_recovered {
        let image = Image::read(&*storage, Path::new(DIR), WAL).expect("it is sound");
        Journal::open(&storage, Path::new(DIR), WAL, options, image, |_| true).expect("it is sound");
    }
    let image = Image::read(&*storage, Path::new(DIR), WAL).expect("it is sound");
    let records = image.records().iter().map(|located| located.record.clone()).collect();
    (sim.disk(), records)
}

/// Flips bits of a journal's files, one at a time: every bit of headers and records, and some of
/// the zeros. Each flip must leave the records unchanged, or be reported.
pub(crate) fn damage_everywhere(is_recovered: bool, step: usize) -> Result<(), String> {
    let (disk, records) = durable_journal(is_recovered);
    let mut reported = 0;
    for (name, len) in disk.files() {
        let path = Path::new(&name);
        let bytes = disk.bytes(path).expect("the file exists");
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at as u64 + 1);
        let offsets = (0..used).step_by(step).chain((used..len).step_by(509));
        for offset in offsets.filter(|at| !(128..4096).contains(at)) {
            let bit = (offset % 8) as u8;
            let mut damaged = disk.clone();
            damaged.flip(path, offset, bit).expect("the byte exists");
            let storage = SimStorage::on(damaged, 1);
            match Image::read(&storage, Path::new(DIR), WAL) {
                Ok(image) if image.damage().is_some() => reported += 1,
                Ok(image) => {
                    let found = image.records().iter().map(|located| &located.record);
                    if !found.eq(&records) {
                        return Err(format!("bit {bit} at {offset} of {name} loses records silently"));
                    }
                }
                Err(error) if error.is_damage() => reported += 1,
                Err(error) if matches!(error.kind(), ErrorKind::Newer(_)) => reported += 1,
                Err(error) => return Err(format!("bit {bit} at {offset} of {name}: {error}")),
            }
        }
    }
    if reported < 1000 / step { Err(format!("only {reported} flips were reported")) } else { Ok(()) }
}

/// Checks `NeededStream::tail_after` with gaps, overlaps and promises.
pub(crate) fn gaps_are_judged() -> Result<(), String> {
    let part = |first: u64, end: u64, firm| stratawal_journal::LocatedPart {
        part: Part {
            stream: StreamId(1),
            name: None,
            first: SeqNo(first),
            count: (end - first) as u32,
            timestamp: 0,
            firm,
            body: body(&(first..end).collect::<Vec<_>>()).into(),
        },
        lsn: Lsn(0),
        end: Lsn(16),
    };
    // The parts, the end that FIRM promises, and the end of the files; then either the end of the
    // tail and whether parts were dropped, or the first lost entry.
    type Case<'c> = (&'c [(u64, u64, bool)], u64, u64, Result<(u64, bool), u64>);
    let cases: [Case<'_>; 10] = [
        (&[], 0, 5, Ok((5, false))),
        (&[(0, 3, true), (3, 5, false)], 0, 0, Ok((5, false))),
        (&[(0, 3, true), (2, 5, false), (0, 4, true)], 0, 1, Ok((5, false))),
        (&[(0, 3, true)], 0, 8, Ok((8, false))),
        (&[(4, 6, false)], 0, 2, Ok((2, true))),
        (&[(0, 2, true), (4, 6, false)], 0, 0, Ok((2, true))),
        (&[(4, 6, true)], 0, 2, Err(2)),
        (&[(0, 2, true), (4, 6, false), (8, 9, true)], 0, 0, Err(2)),
        (&[(0, 2, false), (4, 6, false)], 5, 0, Err(2)),
        (&[], 5, 3, Err(3)),
    ];
    for (parts, firm, files_end, expected) in cases {
        let mut parts: Vec<_> = parts.iter().map(|&(first, end, firm)| part(first, end, firm)).collect();
        parts.sort_by_key(|located| located.part.first);
        let stream = NeededStream { parts, firm: SeqNo(firm), ..NeededStream::default() };
        let tail = stream.tail_after(SeqNo(files_end));
        let found = tail.map(|tail| (tail.end.0, tail.dropped)).map_err(|gap| gap.from.0);
        if found != expected {
            return Err(format!("{stream:?} after {files_end}: {found:?}, expected {expected:?}"));
        }
    }
    Ok(())
}

/// A journal is copied before it is closed, and after that. Only the first copy is refused, whether
/// it is sound or damaged, and only until it is adopted.
pub(crate) fn copies_are_noticed() -> Result<(), String> {
    let dir = Path::new(DIR);
    let open = |storage: &Arc<dyn Storage>, options: JournalOptions| {
        let image = Image::read(&**storage, dir, WAL)?;
        Journal::open(storage, dir, WAL, options, image, |_| true)
            .map(|(journal, needed)| (journal, needed.streams.len()))
    };
    for is_damaged in [false, true] {
        let sim = SimStorage::new(1);
        let storage: Arc<dyn Storage> = Arc::new(sim.clone());
        let journal = Journal::create(&storage, dir, WAL, options(1)).unwrap();
        let record = Record::Firm { stream: StreamId(1), seq: SeqNo(1) };
        journal.sync_to(journal.append(&record).unwrap()).unwrap();
        journal.append(&record).unwrap();
        copy_files(&sim, is_damaged);
        let opened = open(&storage, options(1));
        if !opened.as_ref().is_err_and(stratawal_journal::Error::is_copied) {
            return Err(format!("damaged {is_damaged}: {opened:?}"));
        }
        let adopted = open(&storage, options(1).adopt_copy(true));
        match adopted {
            Err(error) if is_damaged && error.is_damage() => continue,
            Ok((_, 1)) if !is_damaged => {}
            other => return Err(format!("adopted, damaged {is_damaged}: {other:?}")),
        }
        let (journal, _) = open(&storage, options(1)).map_err(|error| format!("adopted before: {error}"))?;
        journal.close().unwrap();
        copy_files(&sim, false);
        open(&storage, options(1)).map_err(|error| format!("closed: {error}"))?;
    }
    Ok(())
}

/// Replaces the journal's files by copies. If `is_damaged`, the first record is not valid.
fn copy_files(sim: &SimStorage, is_damaged: bool) {
    for entry in sim.list(Path::new(DIR)).unwrap() {
        let path = Path::new(DIR).join(&entry.name);
        let file = sim.open(&path, stratawal_storage::Access::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes[4096] ^= u8::from(is_damaged);
        let copy = Path::new("/journal/copy");
        sim.create_new(copy).unwrap().write_all_at(&bytes, 0).unwrap();
        sim.rename(copy, &path).unwrap();
    }
}
