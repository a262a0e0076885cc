//! A log of very many streams in a process with a limit of 1,024 open files, against a plain model.
//! Each phase opens the log, changes streams from eight threads and ends in another way: by a full
//! close, by a fast close, or by `kill -9`. After each, every entry of every stream is compared
//! with the model. A sampler counts the open files all the time.
//!
//! `STRATAWAL_STREAMS` sets how many streams there are. The figures are printed.
//! `cargo xtask streams` runs it with 100,000.
#![cfg(target_os = "linux")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stratawal::{Durability, ErrorKind, Options, Stream, Wal};
use stratawal_testkit::{Rng, entry};

const FILES_MAX: u64 = 1024;
const THREADS: usize = 8;
/// The default of [`Options::active_files`] at this limit. The files that are being created or
/// settled, and those with unsynced entries, may be as many again.
const ACTIVE_FILES: usize = 256;
/// The memory of an open stream, beside the entries that wait in the journal.
const STREAM_BYTES_MAX: i64 = 3 << 10;
/// The memory that streams share: the entries in the journal, buffers, and a list of all streams.
const SHARED_BYTES_MAX: i64 = 128 << 20;
/// The test that a child process runs.
const TEST: &str = "any_number_of_streams_needs_few_files";
/// The variable with the directory of the log. It makes this process the child that is killed.
const CHILD: &str = "STRATAWAL_MANY_STREAMS_CHILD";
const PHASE: &str = "STRATAWAL_MANY_STREAMS_PHASE";
const STREAMS: &str = "STRATAWAL_STREAMS";

fn name_of(stream: usize) -> String {
    format!("tenant {}/orders-{stream}", stream % 97)
}

/// Entry `seq` of a stream, which the phase `phase` has appended. Some are too long for the
/// journal.
fn entry_of(stream: usize, seq: u64, phase: u64) -> Vec<u8> {
    let tag = (stream as u64) << 32 | seq << 8 | phase;
    let random = tag.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    let len = match random % 4096 {
        0 => 70 << 10,
        1..100 => 3_000,
        _ => 8 + random % 250,
    };
    entry(tag, usize::try_from(len).unwrap())
}

/// What a stream holds.
#[derive(Debug)]
struct Model {
    /// Whether the stream must be in the list of streams. Not after its deletion.
    exists: bool,
    first: u64,
    next: u64,
    /// The entries from each of these seqs on are those of a phase.
    phases: Vec<(u64, u64)>,
}

impl Model {
    fn new() -> Self {
        // Most streams see no more phases, so the memory of the models does not rise.
        Self { exists: false, first: 0, next: 0, phases: Vec::with_capacity(8) }
    }

    fn appended(&mut self, phase: u64) {
        if self.phases.last().is_none_or(|last| last.1 != phase) {
            self.phases.push((self.next, phase));
        }
        self.exists = true;
        self.next += 1;
    }

    fn dropped_from(&mut self, seq: u64) {
        self.phases.retain(|phase| phase.0 < seq);
        self.next = seq;
    }

    fn phase_of(&self, seq: u64) -> u64 {
        self.phases.iter().rfind(|phase| phase.0 <= seq).expect("the model has the entry").1
    }

    /// Compares the stream with the model. Returns the number of its entries.
    fn check(&self, number: usize, stream: &Stream, rng: &mut Rng) -> u64 {
        let name = stream.name();
        assert_eq!((stream.first_seq(), stream.next_seq()), (self.first, self.next), "{name}: {self:?}");
        let expected = |seq| entry_of(number, seq, self.phase_of(seq));
        let mut seq = self.first;
        for found in stream.iter(..) {
            let found = found.unwrap();
            assert_eq!(found.seq(), seq, "{name}");
            assert!(found.data()[..] == expected(seq), "{name}: entry {seq} has other bytes: {self:?}");
            seq += 1;
        }
        assert_eq!(seq, self.next, "{name}: entries are missing: {self:?}");
        let last = stream.last().unwrap().map(|last| last.data().to_vec());
        let live = self.next - self.first;
        assert!(last == (live > 0).then(|| expected(self.next - 1)), "{name}: the last entry");
        if live > 0 {
            let seq = self.first + rng.below(live);
            assert!(stream.get(seq).unwrap().unwrap().data()[..] == expected(seq), "{name}: entry {seq}");
        }
        assert!(stream.get(self.next).unwrap().is_none(), "{name}: an entry after the end");
        if self.first > 0 {
            let below = stream.get(self.first - 1).unwrap_err();
            assert_eq!(below.kind(), ErrorKind::Truncated { first_seq: self.first }, "{name}: {below}");
        }
        live
    }
}

/// Counts the bytes that all threads have allocated.
struct Counting;

static ALLOCATED: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: the system's allocator does the work.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this method, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, allocated: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(allocated, layout) }
    }

    unsafe fn realloc(&self, allocated: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        ALLOCATED.fetch_add(len as i64 - layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(allocated, layout, len) }
    }
}

/// The open files of this process: all, and those of streams that are open for writing.
fn open_files() -> (usize, usize) {
    let names = fs::read_dir("/proc/self/fd").unwrap().map(|fd| fd.unwrap().file_name());
    let is_active = |name: &OsString| {
        let link = fs::read_link(Path::new("/proc/self/fd").join(name)).unwrap_or_default();
        let info = fs::read_to_string(Path::new("/proc/self/fdinfo").join(name)).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
        let is_written = flags.ends_with(['1', '2']);
        is_written && link.components().any(|part| part.as_os_str() == "streams")
    };
    let names: Vec<OsString> = names.collect();
    (names.len(), names.iter().filter(|name| is_active(name)).count())
}

/// Watches how many files this process has open.
#[derive(Default)]
struct Sampler {
    stop: Arc<AtomicBool>,
    /// The most files since the last look, as [`open_files`] counts them.
    most: Arc<Mutex<(usize, usize)>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    fn start() -> Self {
        let mut sampler = Self::default();
        let (stop, most) = (Arc::clone(&sampler.stop), Arc::clone(&sampler.most));
        sampler.thread = Some(thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let open = open_files();
                let mut most = most.lock().unwrap();
                *most = (most.0.max(open.0), most.1.max(open.1));
                drop(most);
                thread::sleep(Duration::from_millis(20));
            }
        }));
        sampler
    }

    /// The most files that were open since the last call.
    fn take(&self) -> (usize, usize) {
        std::mem::take(&mut *self.most.lock().unwrap())
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let joined = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || joined.is_some_and(|joined| joined.is_ok()));
    }
}

/// A value in bytes from the status of this process.
fn status(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<u64>().unwrap() << 10
}

/// The files below `dir`, and the bytes of the disk that they take.
fn files_below(dir: &Path) -> (u64, u64) {
    let mut sum = (0, 0);
    for file in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if file.file_type().unwrap().is_dir() {
            let below = files_below(&file.path());
            sum = (sum.0 + below.0, sum.1 + below.1);
        } else {
            let metadata = file.metadata().unwrap();
            sum = (sum.0 + 1, sum.1 + std::os::unix::fs::MetadataExt::blocks(&metadata) * 512);
        }
    }
    sum
}

fn open(log: &Path) -> Wal {
    Options::new().journal(true).open(log).unwrap()
}

fn limit_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(FILES_MAX), maximum }).unwrap();
}

/// The log, its model, and the figures.
struct Harness {
    log: PathBuf,
    models: Vec<Mutex<Model>>,
    phase: u64,
    rng: Rng,
    sampler: Sampler,
    /// What was allocated before the log was first opened.
    allocated: i64,
    /// What the children and this process have acknowledged or compared.
    appends: u64,
    checked: u64,
}

impl Harness {
    fn new(log: PathBuf, streams: usize) -> Self {
        let models = (0..streams).map(|_| Mutex::new(Model::new())).collect();
        let sampler = Sampler::start();
        let rng = Rng::new(u64::from(std::process::id()));
        Self {
            log,
            models,
            phase: 0,
            rng,
            sampler,
            allocated: ALLOCATED.load(Ordering::SeqCst),
            appends: 0,
            checked: 0,
        }
    }

    fn model(&self, stream: usize) -> MutexGuard<'_, Model> {
        self.models[stream].lock().unwrap()
    }

    /// Runs `act`, and prints how long it took and what the process has then.
    fn measured<T>(&mut self, what: &str, act: impl FnOnce(&mut Self) -> T) -> T {
        self.sampler.take();
        let began = Instant::now();
        let result = act(self);
        let took = began.elapsed();
        let streams = i64::try_from(self.models.len()).unwrap();
        let allocated = ALLOCATED.load(Ordering::SeqCst) - self.allocated;
        let (all, active) = self.sampler.take();
        println!(
            "{what:<34} {:>8.2} s, allocated {:>4} MiB or {:>5} bytes a stream, resident {:>4} MiB, open files {all}, \
             active {active}",
            took.as_secs_f64(),
            allocated >> 20,
            allocated / streams,
            status("RssAnon") >> 20,
        );
        assert!((all as u64) < FILES_MAX && active <= 2 * ACTIVE_FILES, "{all} open files, {active} active");
        assert!(allocated <= streams * STREAM_BYTES_MAX + SHARED_BYTES_MAX, "{allocated} bytes are allocated");
        result
    }

    /// Calls `act` for `count` numbers, from eight threads in random order.
    fn in_threads(&mut self, count: usize, act: impl Fn(&Self, usize, &mut Rng) + Sync) {
        let mut numbers: Vec<usize> = (0..count).collect();
        for at in (1..count).rev() {
            numbers.swap(at, self.rng.index(at + 1));
        }
        let seeds: Vec<u64> = (0..THREADS).map(|_| self.rng.below(u64::MAX)).collect();
        let next = AtomicUsize::new(0);
        let (this, numbers, next, act) = (&*self, &numbers, &next, &act);
        thread::scope(|scope| {
            for seed in seeds {
                scope.spawn(move || {
                    let mut rng = Rng::new(seed);
                    while let Some(&number) = numbers.get(next.fetch_add(1, Ordering::SeqCst)) {
                        act(this, number, &mut rng);
                    }
                });
            }
        });
    }

    /// Appends `count` entries to random streams, or the first entry to each stream.
    fn append(&mut self, wal: &Wal, what: &str, count: usize, is_first: bool) {
        self.phase += 1;
        let phase = self.phase;
        self.appends += count as u64;
        self.measured(what, |this| {
            this.in_threads(count, |this, number, rng| {
                let stream = if is_first { number } else { rng.index(this.models.len()) };
                // The lock gives the entries of a stream their order.
                let mut model = this.model(stream);
                let entry = entry_of(stream, model.next, phase);
                let seq = wal.stream(&name_of(stream)).unwrap().append(&entry).unwrap();
                assert_eq!(seq, model.next);
                model.appended(phase);
            });
        });
    }

    /// Drops entries from the beginnings and the ends of some streams, and deletes a tenth.
    fn drop_some(&mut self, wal: &Wal) {
        let streams = self.models.len();
        self.measured("truncate_before, a fifth", |this| {
            this.in_threads(streams / 5, |this, _, rng| {
                let stream = rng.index(streams);
                let mut model = this.model(stream);
                // Sometimes beyond the end.
                let beyond = u64::from(rng.chance(8));
                let first = model.first + rng.below(model.next - model.first + 1 + beyond);
                wal.stream(&name_of(stream)).unwrap().truncate_before(first).unwrap();
                model.first = first;
                model.next = model.next.max(first);
            });
        });
        self.measured("truncate_from, a fiftieth", |this| {
            this.in_threads(streams / 50, |this, _, rng| {
                let stream = rng.index(streams);
                let mut model = this.model(stream);
                let end = model.first + rng.below(model.next - model.first + 1);
                wal.stream(&name_of(stream)).unwrap().truncate_from(end).unwrap();
                model.dropped_from(end);
            });
        });
        self.measured("delete, a tenth", |this| {
            this.in_threads(streams / 10, |this, number, _| {
                let stream = number * 10 + 3;
                let mut model = this.model(stream);
                wal.delete_stream(&name_of(stream)).unwrap();
                *model = Model::new();
            });
        });
    }

    /// Compares every stream with its model.
    fn check(&mut self, wal: &Wal, what: &str) {
        let streams = self.models.len();
        self.measured(what, |this| {
            let names: BTreeSet<String> = wal.streams().unwrap().into_iter().collect();
            let expected = (0..streams).filter(|&stream| this.model(stream).exists);
            assert_eq!(names, expected.map(name_of).collect());
            let checked = AtomicUsize::new(0);
            this.in_threads(streams, |this, stream, rng| {
                let found = wal.stream(&name_of(stream)).unwrap();
                let entries = this.model(stream).check(stream, &found, rng);
                checked.fetch_add(usize::try_from(entries).unwrap(), Ordering::SeqCst);
            });
            this.checked += checked.into_inner() as u64;
        });
    }

    /// Compares some streams with their models, in a log opened for reading beside the writer.
    fn check_beside(&mut self) {
        let streams = self.models.len();
        let reader = self.measured("open_read_only", |this| Options::new().open_read_only(&this.log).unwrap());
        self.measured("read a fiftieth beside", |this| {
            let expected = (0..streams).filter(|&stream| this.model(stream).exists).count();
            assert_eq!(reader.streams().unwrap().len(), expected);
            this.in_threads(streams / 50, |this, _, rng| {
                let stream = rng.index(streams);
                let found = reader.stream(&name_of(stream)).unwrap();
                this.model(stream).check(stream, &found, rng);
            });
        });
    }

    fn open(&mut self, what: &str) -> Wal {
        self.measured(what, |this| open(&this.log))
    }

    fn close(&mut self, wal: Wal, what: &str, close: impl FnOnce(&Wal) -> stratawal::Result<()>) {
        self.measured(what, |_| close(&wal).unwrap());
        self.measured("drop the last handle", |_| drop(wal));
        let (files, bytes) = files_below(&self.log);
        println!("{:<34} {files} files, {} MiB", "on the disk", bytes >> 20);
    }

    /// A child appends until it has acknowledged `count` entries, and is killed.
    fn kill(&mut self, count: usize) {
        self.phase += 1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
            .env(CHILD, &self.log)
            .env(PHASE, self.phase.to_string())
            .env(STREAMS, self.models.len().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut acknowledged = Vec::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
        self.measured("a child appends and is killed", |_| {
            let mut is_killed = false;
            // The last line may be cut, and an acknowledgement that was not seen counts as none.
            while let Some(line) = lines.next().map(Result::unwrap) {
                let line = String::from_utf8(line).unwrap();
                let Some(line) = line.strip_prefix("done ").and_then(|line| line.strip_suffix(';')) else { continue };
                let (stream, seq) = line.split_once(' ').unwrap();
                acknowledged.push((stream.parse::<usize>().unwrap(), seq.parse::<u64>().unwrap()));
                if acknowledged.len() >= count && !is_killed {
                    is_killed = true;
                    child.kill().unwrap();
                }
            }
        });
        let ended = child.wait().unwrap();
        assert_eq!(ended.signal(), Some(9), "the child ended without the kill: {ended}");
        for &(stream, seq) in &acknowledged {
            let mut model = self.model(stream);
            assert_eq!(model.next, seq, "{}: two entries got one seq", name_of(stream));
            model.appended(self.phase);
        }
        self.appends += acknowledged.len() as u64;
    }

    /// After a kill each thread may have appended one more entry than it has acknowledged.
    fn accept_unacknowledged(&mut self, wal: &Wal) {
        let phase = self.phase;
        let accepted = AtomicUsize::new(0);
        self.measured("look up every stream", |this| {
            let streams = this.models.len();
            this.in_threads(streams, |this, stream, _| {
                let mut model = this.model(stream);
                let next = wal.stream(&name_of(stream)).unwrap().next_seq();
                if next == model.next + 1 {
                    model.appended(phase);
                    accepted.fetch_add(1, Ordering::SeqCst);
                }
            });
        });
        assert!(accepted.into_inner() <= THREADS);
    }
}

/// Appends from eight threads until the process is killed.
fn child(log: &Path, streams: usize, phase: u64) {
    // A thread that fails ends the process.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::abort();
    }));
    let wal = open(log);
    let locks: Vec<Mutex<()>> = (0..1024).map(|_| Mutex::default()).collect();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (wal, locks) = (&wal, &locks);
            scope.spawn(move || {
                let mut rng = Rng::new(phase << 8 | thread as u64);
                loop {
                    let number = rng.index(streams);
                    let stream = wal.stream(&name_of(number)).unwrap();
                    let durability = if rng.chance(128) { Durability::Synced } else { Durability::Flushed };
                    // Acknowledged under the lock, so that the lines of a stream are in order.
                    let _order = locks[number % 1024].lock().unwrap();
                    let entry = entry_of(number, stream.next_seq(), phase);
                    let seq = stream.with_durability(durability).append(entry).unwrap();
                    // The write fails if the parent has ended.
                    let _ = std::io::stdout().write_all(format!("\ndone {number} {seq};\n").as_bytes());
                }
            });
        }
    });
}

#[test]
fn any_number_of_streams_needs_few_files() {
    limit_files();
    let streams = std::env::var(STREAMS).map_or(2_000, |streams| streams.parse().unwrap());
    if let Some(log) = std::env::var_os(CHILD) {
        return child(Path::new(&log), streams, std::env::var(PHASE).unwrap().parse().unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let mut harness = Harness::new(dir.path().join("log"), streams);
    let wal = harness.open("create the log");
    harness.append(&wal, "create the streams", streams, true);
    harness.append(&wal, "append", 2 * streams, false);
    harness.check_beside();
    harness.check(&wal, "check");
    harness.drop_some(&wal);
    harness.check(&wal, "check");
    harness.close(wal, "close_fast", Wal::close_fast);

    let wal = harness.open("open after close_fast");
    assert_eq!(open_files().1, 0, "opening reads no stream");
    harness.check(&wal, "look up and check");
    harness.append(&wal, "append", streams, false);
    harness.check_beside();
    harness.close(wal, "close_fast", Wal::close_fast);

    harness.kill(streams);
    let wal = harness.open("open after a kill");
    assert_eq!(open_files().1, 0, "opening reads no stream");
    harness.accept_unacknowledged(&wal);
    harness.check(&wal, "check");
    harness.append(&wal, "append", streams / 2, false);
    harness.close(wal, "close", Wal::close);

    let wal = harness.open("open after close");
    assert_eq!(open_files().1, 0, "opening reads no stream");
    harness.check(&wal, "look up and check");
    harness.check_beside();
    harness.close(wal, "close without a change", Wal::close);
    let Harness { appends, checked, .. } = harness;
    println!("volume: {streams} streams, {appends} appends, {checked} entries compared");
}
