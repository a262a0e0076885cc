//! An event store: one stream for each aggregate, optimistic concurrency, and a projection.
//!
//! A command loads the events of its account, decides, and appends with `append_if`. If another
//! command was faster, the append fails, nothing is written, and the command is tried again. A
//! projection follows all accounts by the beginning of their names, also those that are created
//! later, and keeps the sum of all balances.
//!
//! ```sh
//! cargo run --release --package stratawal --example event_store -- [DIRECTORY] [ACCOUNTS] [SECONDS]
//! ```

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use stratawal::{Batch, ErrorKind, FollowEvent, Options, Wal};

const THREADS: u64 = 16;
const PREFIX: &str = "account-";

/// An account, as its events make it.
#[derive(Clone, Copy, Default)]
struct Account {
    balance: i64,
    /// The seq of the next event.
    version: u64,
}

impl Account {
    /// Continues with the events that this account does not know yet.
    fn load(&mut self, events: &stratawal::Stream) -> stratawal::Result<()> {
        for event in events.iter(self.version..) {
            let event = event?;
            self.balance += amount(event.data());
            self.version = event.seq() + 1;
        }
        Ok(())
    }
}

/// An event is the amount by which the balance changes.
fn amount(event: &[u8]) -> i64 {
    i64::from_le_bytes(event.try_into().expect("an event has 8 bytes"))
}

/// Deposits or withdraws, but never overdraws. Returns how often another command was faster.
fn change(wal: &Wal, account: u64, by: i64) -> stratawal::Result<u64> {
    let events = wal.stream(&format!("{PREFIX}{account}"))?;
    let mut state = Account::default();
    for conflicts in 0.. {
        state.load(&events)?;
        let by = by.max(-state.balance);
        let event: Batch = [by.to_le_bytes()].into_iter().collect();
        match events.append_if(state.version, &event) {
            Ok(_) => return Ok(conflicts),
            // The other event may not be durable yet, and then it is not visible either.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => events.sync()?,
            Err(error) => return Err(error),
        }
    }
    unreachable!("the loop ends with the append")
}

/// The sum of all balances, from the events of all accounts.
fn project(wal: &Wal, seen: &AtomicU64) -> stratawal::Result<i64> {
    let mut sum = 0;
    // A program that stores its results also stores the positions with them, and begins there.
    for event in wal.follow_prefix(PREFIX, BTreeMap::new())? {
        if let FollowEvent::Entry(entry) = event?.event {
            sum += amount(entry.data());
            seen.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(sum)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().map_or_else(|| std::env::temp_dir().join("stratawal-event-store"), PathBuf::from);
    let accounts: u64 = arguments.next().map_or(Ok(5_000), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(2), |text| text.parse())?;
    let wal = Options::new().journal(true).open(&dir)?;
    let seen = Arc::new(AtomicU64::new(0));
    let projection = {
        let (wal, seen) = (wal.clone(), Arc::clone(&seen));
        thread::spawn(move || project(&wal, &seen))
    };
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let (commands, conflicts) = thread::scope(|scope| -> stratawal::Result<(u64, u64)> {
        let run = |thread: u64| -> stratawal::Result<(u64, u64)> {
            let (mut commands, mut conflicts) = (0, 0);
            let mut random = thread + 1;
            while !stop.load(Ordering::Relaxed) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // One account is popular, so that commands meet there.
                let account = if random >> 60 == 0 { 0 } else { (random >> 33) % accounts };
                conflicts += change(&wal, account, (random >> 40) as i64 % 200 - 100)?;
                commands += 1;
            }
            Ok((commands, conflicts))
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || run(thread))).collect();
        thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().try_fold((0, 0), |sum, thread| {
            let (commands, conflicts) = thread.join().expect("no thread panics")?;
            Ok((sum.0 + commands, sum.1 + conflicts))
        })
    })?;
    let per_second = commands as f64 / began.elapsed().as_secs_f64();
    // The log keeps the projection going until it has seen every event.
    let mut balances: HashMap<String, i64> = HashMap::new();
    let mut events = 0;
    for name in wal.streams()?.into_iter().filter(|name| name.starts_with(PREFIX)) {
        let mut account = Account::default();
        account.load(&wal.stream(&name)?)?;
        events += account.version;
        balances.insert(name, account.balance);
    }
    while seen.load(Ordering::Relaxed) < events {
        thread::sleep(Duration::from_millis(1));
    }
    wal.close()?;
    let sum = projection.join().expect("the projection does not panic")?;
    assert_eq!(sum, balances.values().sum::<i64>(), "the projection has seen each event once");
    assert!(balances.values().all(|&balance| balance >= 0), "no account is overdrawn");
    println!("{per_second:.0} commands a second, each durable, of {THREADS} threads; {conflicts} conflicts");
    println!("{events} events of {} accounts; the projection has the sum {sum}", balances.len());
    Ok(())
}
