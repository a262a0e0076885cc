//! Benches of the layers below the facade: encoding and checking a frame, searching an index,
//! opening and rotating.
//!
//! Figures can be compared within one run, but not with those of another day or machine.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use stratawal::{Durability, Options, StreamOptions, Wal};
use stratawal_benches::{Scratch, batch};
use stratawal_frame::{
    BATCH_END, ByteOffset, DataFrame, Decoded, FramePosition, Limits, Salt, SeqNo, check_payload, decode,
    decode_header, encode_data,
};
use stratawal_index::{Index, IndexPoint};

const PLACE: FramePosition = FramePosition { salt: Salt(7), offset: ByteOffset(128) };

/// The number of 128-byte entries in a frame that appends share.
const COUNT: usize = 46;

fn codec(c: &mut Criterion) {
    let data = vec![7; COUNT * 128];
    let ends: Vec<u32> = (1..=COUNT).map(|i| u32::try_from(i * 128).expect("small") | BATCH_END).collect();
    let frame = DataFrame { first_seq: SeqNo(0), timestamp: 1, durable: Some(SeqNo(0)), ends: &ends, data: &data };
    let mut encoded = Vec::new();
    encode_data(&mut encoded, &PLACE, &frame);
    let bytes = Bytes::from(encoded.clone());

    let mut group = c.benchmark_group("codec, a frame of 46 x 128 B");
    group.throughput(Throughput::Elements(COUNT as u64));
    group.bench_function("encode", |b| {
        b.iter(|| {
            encoded.clear();
            encode_data(&mut encoded, &PLACE, black_box(&frame));
        });
    });
    group.bench_function("decode", |b| b.iter(|| decode(black_box(&bytes), &PLACE, &Limits::NONE)));
    group.bench_function("check without a frame", |b| {
        b.iter(|| {
            let Decoded::Frame(header) = decode_header(black_box(&bytes), &PLACE, &Limits::NONE) else { return false };
            let payload = &bytes[40..40 + header.payload_len as usize];
            check_payload(&header, payload) == Decoded::Frame(())
        });
    });
    group.finish();
}

fn index(c: &mut Criterion) {
    // A segment of 64 MiB of such frames.
    let point = |i: u64| IndexPoint { seq: i * 46, offset: 128 + i * 6112, timestamp: i };
    let index = Index::from_points((0..11_000).map(point).collect()).expect("rising points");
    let mut seq = 1_u64;
    c.bench_function("index, a search in 11,000 points", |b| {
        b.iter_batched(
            || {
                seq = seq.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seq >> 33) % (11_000 * 46)
            },
            |seq| index.floor(black_box(seq)),
            BatchSize::SmallInput,
        );
    });
}

fn lives(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    group.sample_size(20);
    for (name, entries) in [("100 entries", 100), ("200,000 entries", 200_000)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        {
            let wal = Wal::open(dir.path()).expect("opens");
            let stream = wal.stream("s").expect("opens").with_durability(Durability::Buffered);
            (0..entries).for_each(|_| drop(stream.append([7; 128])));
            wal.close().expect("closes");
        }
        group.bench_function(format!("and a first read, {name}, closed cleanly"), |b| {
            b.iter(|| {
                let wal = Options::new().open(dir.path()).expect("opens");
                wal.stream("s").expect("opens").get(entries - 1).expect("reads")
            });
        });
    }
    group.finish();

    let scratch = Scratch::new();
    let options = StreamOptions::new().durability(Durability::Flushed).segment_bytes(64 << 10);
    let stream = scratch.wal.stream_with("rotates", options).expect("opens");
    let mut group = c.benchmark_group("rotation");
    group.sample_size(20);
    // Each append begins a new segment.
    let entry = batch(1, 60 << 10);
    group.bench_function("an append of 60 KiB with a rotation", |b| {
        b.iter(|| stream.append_batch(black_box(&entry)).expect("appends"));
    });
    group.finish();
}

criterion_group!(benches, codec, index, lives);
criterion_main!(benches);
