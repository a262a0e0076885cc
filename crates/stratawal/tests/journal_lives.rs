//! Random lives of a log with a small commit journal. Each life looks up only some of the streams
//! and ends in a crash.

use std::path::Path;
use std::sync::{Arc, Mutex};

use stratawal::{Durability, Options, Stream, StreamOptions, Wal};
use stratawal_testkit::{Crash, Rng, SimStorage};

const STREAMS: usize = 4;
const LEVELS: [Durability; 3] = [Durability::Buffered, Durability::Flushed, Durability::Synced];

#[derive(Clone, Debug, Default)]
struct Model {
    start: u64,
    /// The entries from `start` on.
    entries: Vec<Vec<u8>>,
    flushed: u64,
    durable: u64,
    exists: bool,
}

impl Model {
    fn end(&self) -> u64 {
        self.start + self.entries.len() as u64
    }

    /// The state that is found after a crash, if it is possible.
    fn check(&self, stream: &Stream) -> Result<Self, String> {
        let found: Vec<Vec<u8>> = stream.iter(..).map(|entry| entry.unwrap().data().to_vec()).collect();
        let shown = |e: &Vec<u8>| String::from_utf8_lossy(&e[..e.len().min(12)]).into_owned();
        if stream.first_seq() != self.start {
            return Err(format!("starts at {} and not {}", stream.first_seq(), self.start));
        }
        let end = self.start + found.len() as u64;
        if end < self.flushed || end > self.end() {
            return Err(format!(
                "ends at {end}, flushed {}, durable {}, accepted {}",
                self.flushed,
                self.durable,
                self.end()
            ));
        }
        for (i, (found, entry)) in found.iter().zip(&self.entries).enumerate() {
            if found != entry {
                return Err(format!("{} has {} and not {}", self.start + i as u64, shown(found), shown(entry)));
            }
        }
        Ok(Self { entries: found, flushed: end, durable: end, exists: stream.exists(), ..*self })
    }
}

fn options(mapped: bool, journal: bool, own: Durability) -> Options {
    let streams = StreamOptions::new().segment_bytes(128 << 10).frame_bytes(4000).durability(own);
    Options::new()
        .stream_defaults(streams)
        .journal(journal)
        .journal_mapped(mapped)
        .journal_bytes(64 << 10)
        .active_files(1)
        .maintenance_thread(false)
}

fn open(sim: &SimStorage, options: &Options) -> Wal {
    options.open_on(Arc::new(sim.clone()), Path::new("/log"), false).unwrap()
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut sim = SimStorage::new(1000 * seed);
    let mut models = vec![vec![Model::default()]; STREAMS];
    let own = LEVELS[1 + usize::try_from(rng.below(2)).unwrap()];
    let mut tag = 0_u64;
    for life in 0..6 {
        let options = options(rng.below(2) == 0, rng.below(8) != 0, own);
        let has_journal_now = options.clone();
        let wal = open(&sim, &has_journal_now);
        let mut looked_up = [false; STREAMS];
        let steps = 10 + rng.below(120);
        let images = Arc::new(Mutex::new(Vec::new()));
        let mut before = None;
        for step in 0..steps {
            let i = rng.index(STREAMS);
            // Some streams rest in some lives.
            if (seed + life + i as u64).is_multiple_of(3) && rng.below(30) != 0 {
                continue;
            }
            let what = format!("seed {seed} life {life} step {step} stream {i}");
            let last = step + 1 == steps;
            if last && rng.below(3) > 0 {
                // The crash may come in the middle of this call.
                let seen = Arc::clone(&images);
                sim.watch(move |disk| seen.lock().unwrap().push(disk.clone()));
                before = Some((i, models[i].clone()));
            }
            let stream = wal.stream(&i.to_string()).unwrap();
            if !looked_up[i] {
                let checked: Vec<_> = models[i].iter().map(|model| model.check(&stream)).collect();
                let fits = checked.iter().find_map(|checked| checked.clone().ok());
                models[i] = vec![fits.unwrap_or_else(|| panic!("{what}: {checked:?}"))];
                looked_up[i] = true;
            }
            if let Some((_, before)) = &mut before {
                before.push(models[i][0].clone());
            }
            let model = &mut models[i][0];
            match if last { 30 + rng.below(8) } else { rng.below(40) } {
                0..=33 => {
                    let level = LEVELS[rng.index(3)];
                    let handle = stream.with_durability(level);
                    let count = if rng.below(5) == 0 { 1 + rng.below(5) } else { 1 };
                    let mut batch = stratawal::Batch::new();
                    for _ in 0..count {
                        tag += 1;
                        let len = match rng.below(20) {
                            0 => 66 << 10,
                            1..=4 => 1 + rng.below(9000),
                            5 => 0,
                            _ => rng.below(200),
                        };
                        let mut entry = if len == 0 { Vec::new() } else { format!("e{tag} ").into_bytes() };
                        entry.resize(entry.len() + usize::try_from(len).unwrap(), b'.');
                        batch.push(&entry);
                        model.entries.push(entry);
                    }
                    let seqs = handle.append_batch(&batch).unwrap();
                    assert_eq!(seqs.end, model.end(), "{what}");
                    model.exists = true;
                    if level != Durability::Buffered {
                        model.flushed = model.end();
                    }
                    if level == Durability::Synced {
                        model.durable = model.end();
                    }
                }
                34 => {
                    stream.sync().unwrap();
                    model.flushed = model.end();
                    model.durable = model.end();
                }
                35 => {
                    let at = model.start + rng.below(model.entries.len() as u64 + 1);
                    stream.truncate_from(at).unwrap();
                    if at < model.end() {
                        model.entries.truncate(usize::try_from(at - model.start).unwrap());
                        model.flushed = at;
                        model.durable = at;
                    }
                }
                36 => {
                    let at = model.start + rng.below(model.entries.len() as u64 + 3);
                    stream.truncate_before(at).unwrap();
                    if at > model.start {
                        let dropped = usize::try_from(at - model.start).unwrap().min(model.entries.len());
                        model.entries.drain(..dropped);
                        model.start = at;
                        model.flushed = model.flushed.max(at);
                        model.durable = model.durable.max(at);
                        model.exists = true;
                    }
                }
                37 => {
                    drop(stream);
                    let deleted = wal.delete_stream(&i.to_string());
                    assert_eq!(deleted.is_ok(), model.exists, "{what}: {deleted:?}");
                    *model = Model::default();
                }
                38 => {
                    wal.sync().unwrap();
                    for (model, looked_up) in models.iter_mut().map(|m| &mut m[0]).zip(looked_up) {
                        if looked_up {
                            model.flushed = model.end();
                            model.durable = model.end();
                        }
                    }
                }
                _ => {
                    let found: Vec<Vec<u8>> = stream.iter(..).map(|e| e.unwrap().data().to_vec()).collect();
                    assert!(
                        found.len() <= model.entries.len() && found == model.entries[..found.len()],
                        "{what}: a reader"
                    );
                }
            }
        }
        sim.unwatch();
        let crash =
            [Crash::Kill, Crash::Lost, Crash::Kept, Crash::Mixed(128), Crash::Mixed(30), Crash::Prefix][rng.index(6)];
        let images = images.lock().unwrap();
        let disk = if images.is_empty() { sim.disk() } else { images[rng.index(images.len())].clone() };
        if let Some((i, mut before)) = before.filter(|_| !images.is_empty()) {
            // The last call may have had any part of its effect.
            let at_least = before.last().unwrap().clone();
            let mut after = models[i][0].clone();
            after.flushed = after.flushed.min(at_least.flushed.max(after.start));
            after.durable = after.durable.min(at_least.durable.max(after.start));
            before.push(after);
            models[i] = before;
        }
        if rng.below(6) == 0 && images.is_empty() {
            if rng.below(2) == 0 {
                wal.close().unwrap();
            } else {
                wal.close_fast().unwrap();
            }
            for (model, looked_up) in models.iter_mut().map(|m| &mut m[0]).zip(looked_up) {
                if looked_up {
                    model.flushed = model.end();
                    model.durable = model.end();
                }
            }
            let disk = sim.disk().crash(crash, &mut rng);
            drop(wal);
            sim = SimStorage::on(disk, 1000 * seed + life + 1);
        } else {
            let disk = disk.crash(crash, &mut rng);
            drop(wal);
            sim = SimStorage::on(disk, 1000 * seed + life + 1);
        }
        if crash.is_power_loss() {
            for model in models.iter_mut().flatten() {
                model.flushed = model.durable;
            }
        }
    }
}

#[test]
fn random_lives_keep_what_was_acknowledged() {
    let seeds = std::env::var("LIVES").ok().and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse::<u64>().ok()?..to.parse::<u64>().ok()?)
    });
    for seed in seeds.unwrap_or(0..50) {
        run(seed);
    }
}

fn text(stream: usize, seq: u64) -> Vec<u8> {
    let len = match (seq * 31 + stream as u64) % 97 {
        0 => 66 << 10,
        n if n % 11 == 0 => 5000,
        n => n,
    };
    let mut entry = format!("{stream} {seq} ").into_bytes();
    entry.resize(entry.len() + usize::try_from(len).unwrap(), b'.');
    entry
}

/// Crashes at any time while threads append, each of which has its own stream.
#[test]
fn crash_beside_threads_keeps_what_was_acknowledged() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    const THREADS: usize = 6;
    let rounds: u64 = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    for round in 0..rounds {
        let sim = SimStorage::new(round + 1);
        let own = if round % 2 == 0 { Durability::Synced } else { Durability::Flushed };
        let opened = options(round % 3 == 0, true, own).maintenance_thread(round % 4 < 2);
        let wal = open(&sim, &opened);
        let stop = AtomicBool::new(false);
        let flushed: Vec<AtomicU64> = (0..THREADS).map(|_| AtomicU64::new(0)).collect();
        let durable: Vec<AtomicU64> = (0..THREADS).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for i in 0..THREADS {
                let (wal, stop, flushed, durable) = (&wal, &stop, &flushed[i], &durable[i]);
                scope.spawn(move || {
                    let stream = wal.stream(&i.to_string()).unwrap();
                    let mut rng = Rng::new(round * 100 + i as u64);
                    let mut seq = 0;
                    while !stop.load(Ordering::SeqCst) && seq < 800 {
                        let level = LEVELS[match (i % 3, rng.below(10)) {
                            (0, 0..=7) => 2,
                            (1, 0..=7) => 1,
                            (2, 0..=5) => 0,
                            (_, n) => (n % 3) as usize,
                        }];
                        stream.with_durability(level).append(text(i, seq)).unwrap();
                        seq += 1;
                        if level != Durability::Buffered {
                            flushed.store(seq, Ordering::SeqCst);
                        }
                        if level == Durability::Synced || rng.below(40) == 0 && stream.sync().is_ok() {
                            flushed.store(seq, Ordering::SeqCst);
                            durable.store(seq, Ordering::SeqCst);
                        }
                        if own == Durability::Synced {
                            // A reader relies on it.
                            durable.fetch_max(stream.stable_seq(), Ordering::SeqCst);
                        }
                    }
                });
            }
            let mut rng = Rng::new(round);
            for _ in 0..12 {
                std::thread::sleep(std::time::Duration::from_millis(rng.below(30)));
                let least = |counts: &[AtomicU64]| counts.iter().map(|c| c.load(Ordering::SeqCst)).collect::<Vec<_>>();
                let flushed = least(&flushed);
                let durable = least(&durable);
                let disk = sim.disk();
                for crash in [Crash::Kill, Crash::Lost, Crash::Mixed(128)] {
                    let least = if crash == Crash::Kill { &flushed } else { &durable };
                    let after = SimStorage::on(disk.crash(crash, &mut rng), rng.below(1 << 40));
                    let again = open(&after, &opened.clone().maintenance_thread(false));
                    for (i, &least) in least.iter().enumerate() {
                        let stream = again.stream(&i.to_string()).unwrap();
                        assert!(stream.next_seq() >= least, "{crash:?} {i}: {} of {least}", stream.next_seq());
                        for entry in stream.iter(..) {
                            let entry = entry.unwrap();
                            assert!(*entry.data() == text(i, entry.seq()), "{crash:?} {i}: entry {}", entry.seq());
                        }
                    }
                }
            }
            stop.store(true, Ordering::SeqCst);
        });
        wal.close().unwrap();
    }
}

/// Two faults, one soon after the other, and attempts to recover from them; then a crash.
fn faulty(seed: u64) {
    use stratawal_testkit::{Fault, Faults};
    let mut rng = Rng::new(seed);
    let sim = SimStorage::new(7000 * seed + 1);
    let own = LEVELS[1 + rng.index(2)];
    let opened = options(rng.below(2) == 0, true, own);
    let wal = open(&sim, &opened);
    let names = ["a", "b"];
    let mut streams: Vec<Stream> = names.iter().map(|name| wal.stream(name).unwrap()).collect();
    // The entries, and those whose appends have failed.
    let mut models = vec![(Model::default(), Vec::<Vec<u8>>::new()); 2];
    let mut tag = 0_u64;
    let mut lossy = false;
    let steps = 20 + rng.below(60);
    let mut next_fault = rng.below(steps);
    for step in 0..steps {
        if step == next_fault {
            let fault = [Fault::Io, Fault::WriteBack, Fault::Full][rng.index(3)];
            lossy |= fault == Fault::WriteBack;
            sim.set_faults(Some(Faults { after: rng.below(12), fault, forever: rng.below(4) == 0 }));
            next_fault = step + 1 + rng.below(4);
        }
        let i = rng.index(2);
        let what = format!("seed {seed} step {step} stream {i}");
        let (model, failed) = &mut models[i];
        let level = LEVELS[rng.index(3)];
        let result = match rng.below(12) {
            0 => streams[i].sync().map(|()| Durability::Synced),
            _ => {
                tag += 1;
                let mut entry = format!("e{tag} ").into_bytes();
                let len = if rng.below(10) == 0 { 66 << 10 } else { rng.below(300) };
                entry.resize(entry.len() + usize::try_from(len).unwrap(), b'.');
                let appended = streams[i].with_durability(level).append(&entry);
                match appended {
                    Ok(seq) => {
                        // Earlier appends that failed may be there.
                        let missing = usize::try_from(seq - model.end()).unwrap();
                        if missing > 0 {
                            let _ = streams[i].sync();
                            let found: Vec<_> =
                                streams[i].iter(model.end()..seq).map(|e| e.unwrap().data().to_vec()).collect();
                            assert_eq!(found.len(), missing, "{what}");
                            model.entries.extend(found);
                        }
                        failed.clear();
                        model.entries.push(entry);
                        Ok(level)
                    }
                    Err(error) => {
                        failed.push(entry);
                        Err(error)
                    }
                }
            }
        };
        match result {
            Ok(Durability::Buffered) => {}
            Ok(level) => {
                model.flushed = model.end();
                if level == Durability::Synced {
                    model.durable = model.end();
                }
            }
            Err(_) => {
                for attempt in 0..3 {
                    if attempt == 2 || rng.below(2) == 0 {
                        sim.set_faults(None);
                    }
                    let reopened = streams.iter().try_for_each(Stream::reopen);
                    if reopened.is_ok() {
                        sim.set_faults(None);
                        break;
                    }
                    assert!(attempt < 2, "{what}: {reopened:?}");
                }
                for (i, (model, failed)) in models.iter_mut().enumerate() {
                    let found: Vec<_> = streams[i].iter(..).map(|e| e.unwrap().data().to_vec()).collect();
                    let next = usize::try_from(streams[i].next_seq()).unwrap();
                    check_faulty(model, failed, found, lossy, own, next, &format!("{what}: stream {i} reopened"));
                }
            }
        }
    }
    sim.set_faults(None);
    let crash = [Crash::Kill, Crash::Lost, Crash::Mixed(128)][rng.index(3)];
    let after = SimStorage::on(sim.disk().crash(crash, &mut rng), seed + 99);
    let again = open(&after, &opened);
    for (i, (model, failed)) in models.iter_mut().enumerate() {
        let found: Vec<_> = again.stream(names[i]).unwrap().iter(..).map(|e| e.unwrap().data().to_vec()).collect();
        let lossy = lossy || crash.is_power_loss();
        let next = found.len();
        check_faulty(model, failed, found, lossy, own, next, &format!("seed {seed} stream {i} after {crash:?}"));
    }
    streams.clear();
}

fn check_faulty(
    model: &mut Model,
    failed: &[Vec<u8>],
    found: Vec<Vec<u8>>,
    lossy: bool,
    own: Durability,
    next: usize,
    what: &str,
) {
    let least = if lossy { model.durable } else { model.flushed };
    assert!(
        found.len() as u64 >= model.durable && next as u64 >= least,
        "{what}: {} of {least} (of {})",
        found.len(),
        model.entries.len()
    );
    let shown = |e: &Vec<u8>| String::from_utf8_lossy(&e[..e.len().min(12)]).into_owned();
    let mut rest = failed.iter();
    for (seq, entry) in found.iter().enumerate() {
        match model.entries.get(seq) {
            Some(expected) => {
                assert!(expected == entry, "{what}: {seq} has {} and not {}", shown(entry), shown(expected))
            }
            None => assert!(rest.any(|failed| failed == entry), "{what}: {seq} has {}", shown(entry)),
        }
    }
    if lossy {
        model.flushed = model.durable;
    }
    let shown = found.len() as u64;
    model.flushed = model.flushed.max(shown);
    model.durable = if own == Durability::Synced { shown } else { model.durable };
    model.entries.truncate(next);
    let known = model.entries.len().min(found.len());
    model.entries.extend_from_slice(&found[known..]);
}

#[test]
fn two_faults_lose_nothing_acknowledged() {
    let seeds = std::env::var("LIVES").ok().and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse::<u64>().ok()?..to.parse::<u64>().ok()?)
    });
    for seed in seeds.unwrap_or(0..50) {
        faulty(seed);
    }
}
