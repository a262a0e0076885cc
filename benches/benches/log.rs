//! Benches of appending and scanning through the facade.
//!
//! Figures can be compared within one run, but not with those of another day or machine.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use stratawal::{Durability, Stream};
use stratawal_benches::{Scratch, batch};

const ENTRY_LEN: usize = 128;

fn append(c: &mut Criterion) {
    let scratch = Scratch::new();
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Elements(1));
    let entry = [7; ENTRY_LEN];
    for (name, durability) in [("buffered", Durability::Buffered), ("flushed", Durability::Flushed)] {
        let stream = scratch.stream(name, durability);
        group.bench_function(format!("{name}, single"), |b| {
            b.iter(|| stream.append(black_box(entry)).expect("appends"))
        });
    }
    let stream = scratch.stream("synced", Durability::Synced);
    group.sample_size(20);
    group.bench_function("synced, single", |b| b.iter(|| stream.append(black_box(entry)).expect("appends")));
    group.finish();

    let mut group = c.benchmark_group("append, synced, threads on one stream");
    group.sample_size(10);
    for threads in [8_usize, 64] {
        // One round of all threads, each with this many appends.
        const EACH: usize = 20;
        let stream = scratch.stream(&format!("threads {threads}"), Durability::Synced);
        group.throughput(Throughput::Elements((threads * EACH) as u64));
        group.bench_function(threads.to_string(), |b| {
            b.iter(|| {
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| {
                            for _ in 0..EACH {
                                stream.append(black_box(entry)).expect("appends");
                            }
                        });
                    }
                });
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("append batches of 100");
    group.throughput(Throughput::Elements(100));
    let hundred = batch(100, ENTRY_LEN);
    let stream = scratch.stream("batches", Durability::Flushed);
    group.bench_function("flushed", |b| b.iter(|| stream.append_batch(black_box(&hundred)).expect("appends")));
    group.finish();
}

fn filled(scratch: &Scratch, name: &str, per_batch: usize) -> (Stream, u64) {
    const ENTRIES: usize = 200_000;
    let stream = scratch.stream(name, Durability::Flushed);
    let entries = batch(per_batch, ENTRY_LEN);
    let buffered = stream.with_durability(Durability::Buffered);
    for _ in 0..ENTRIES / per_batch {
        buffered.append_batch(&entries).expect("appends");
    }
    stream.sync().expect("syncs");
    (stream, ENTRIES as u64)
}

fn read(c: &mut Criterion) {
    let scratch = Scratch::new();
    for (name, per_batch) in [("single appends, buffered", 1), ("batches of 100", 100)] {
        let (stream, entries) = filled(&scratch, name, per_batch);
        let mut group = c.benchmark_group("scan");
        group.throughput(Throughput::Elements(entries)).sample_size(20);
        group.bench_function(name, |b| {
            b.iter(|| stream.iter(..).map(|entry| entry.expect("reads").data().len()).sum::<usize>());
        });
        group.bench_function(format!("{name}, by runs"), |b| {
            b.iter(|| {
                let mut entries = stream.iter(..);
                let mut sum = 0;
                while let Some(run) = entries.next_run() {
                    sum += run.expect("reads").entries().map(|entry| entry.data.len()).sum::<usize>();
                }
                sum
            });
        });
        group.finish();
        let mut group = c.benchmark_group("get");
        let mut seq = 1_u64;
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    seq = seq.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seq >> 33) % entries
                },
                |seq| stream.get(black_box(seq)).expect("reads"),
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, append, read);
criterion_main!(benches);
