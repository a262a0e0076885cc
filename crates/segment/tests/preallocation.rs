//! Preallocation: a full disk refuses an append as a whole, and the rule of Length holds.

mod common;

use std::io::ErrorKind as IoKind;

use common::{Fault, Rng, Segment, data_frame, header};
use stratawal_frame::{ByteOffset, FooterKind, Generation, Salt, SeqNo};
use stratawal_segment::{CONTROL_RESERVE, ErrorKind, active_len};

fn fault(nth: usize, kind: IoKind) -> Fault {
    Fault { nth, kind, done: false, forever: false }
}

fn reservations(segment: &Segment) -> Vec<u64> {
    let log = segment.storage.take_log();
    log.iter().map(|what| what.rsplit_once(' ').unwrap().1.parse().unwrap()).collect()
}

#[test]
fn space_that_is_preallocated_costs_nothing() {
    let mut segment = Segment::with(&header(), 20_000);
    let room = segment.preallocation.preallocated() - 128 - CONTROL_RESERVE;
    for bytes in [0, 1, room] {
        segment.preallocation.ensure(&ByteOffset(128), bytes).unwrap();
    }
    segment.preallocation.ensure_control(&ByteOffset(128), room + CONTROL_RESERVE).unwrap();
    assert_eq!(reservations(&segment), [] as [u64; 0]);
    segment.preallocation.ensure(&ByteOffset(128), room + 1).unwrap();
    assert_eq!(reservations(&segment).len(), 1);
}

#[test]
fn an_active_file_has_its_length_and_control_room() {
    for seed in 0..50 {
        let mut rng = Rng(seed);
        let mut segment = Segment::with(&header(), 9 + rng.below(10_000));
        for step in 0..40 {
            let at = ByteOffset(128 + rng.below(100_000) / 8 * 8);
            let bytes = rng.below(30_000);
            let before = segment.preallocation.preallocated();
            segment.preallocation.ensure(&at, bytes).unwrap();
            let len = segment.file().len();
            assert_eq!(len, segment.preallocation.preallocated(), "seed {seed}, step {step}");
            assert!(len >= before && len % 4096 == 8, "seed {seed}, step {step}: {before} to {len}");
            assert!(len >= at.0 + bytes + CONTROL_RESERVE, "seed {seed}, step {step}: {len}");
        }
    }
}

#[test]
fn a_file_is_extended_in_growing_steps() {
    let mut segment = Segment::new();
    let mut cursor = Vec::new();
    for at in (0..40_u64 << 20).step_by(4096) {
        let before = segment.preallocation.preallocated();
        segment.preallocation.ensure(&ByteOffset(at), 4096).unwrap();
        if segment.preallocation.preallocated() > before {
            cursor.push((before, segment.preallocation.preallocated() - before));
        }
    }
    assert!(cursor.len() < 30, "40 MiB in {} cursor", cursor.len());
    for (len, step) in cursor {
        let ahead = (len / 2).min(8 << 20);
        assert!(step >= ahead && step <= ahead.max(2 * 4096) + 4096, "{step} more than {len}");
    }
}

#[test]
fn a_large_batch_is_preallocated_at_once() {
    let mut segment = Segment::new();
    segment.preallocation.ensure(&ByteOffset(128), 5 << 20).unwrap();
    assert_eq!(reservations(&segment), [active_len(128 + (5 << 20) + CONTROL_RESERVE)]);
}

#[test]
fn a_full_disk_changes_nothing() {
    let mut segment = Segment::new();
    segment.append(&[b"one"]);
    segment.mark();
    segment.storage.leave_room(4095);
    let tree = segment.storage.tree();
    let reserved = segment.preallocation.preallocated();
    let tail = segment.offset();
    for bytes in [1 << 40, 5000, 4096] {
        for _ in 0..3 {
            let error = segment.preallocation.ensure(&tail, bytes).unwrap_err();
            assert!(error.is_full() && !error.is_damage(), "{error}");
            assert!(error.is_refusal() && matches!(error.kind(), ErrorKind::Preallocate(_)), "{error}");
            assert_eq!((segment.preallocation.preallocated(), segment.offset()), (reserved, tail));
            assert!(segment.storage.tree() == tree, "{bytes} bytes");
        }
    }
    segment.storage.make_room();
    segment.append(&[&[7; 4096]]);
    assert_eq!(common::walked(&segment.file()).0.end_seq, SeqNo(42));
}

#[test]
fn a_nearly_full_disk_gives_just_the_need() {
    let mut segment = Segment::with(&header(), 100_000);
    let (len, tail) =
        (segment.preallocation.preallocated(), ByteOffset(segment.preallocation.preallocated() - CONTROL_RESERVE));
    segment.storage.leave_room(4096);
    segment.preallocation.ensure(&tail, 1).unwrap();
    assert_eq!(segment.preallocation.preallocated(), len + 4096, "one block of the rule of Length");
    assert_eq!(reservations(&segment), [active_len(len + len / 2), len + 4096]);
    assert!(segment.file().has_active_len());
}

#[test]
fn another_error_is_not_a_full_disk() {
    // The writer first tries to extend the file further than needed, so it asks twice.
    let mut segment = Segment::with(&header(), 100_000);
    let (len, tail) =
        (segment.preallocation.preallocated(), ByteOffset(segment.preallocation.preallocated() - CONTROL_RESERVE));
    segment.storage.fail(fault(0, IoKind::Other));
    let error = segment.preallocation.ensure(&tail, 1).unwrap_err();
    assert!(!error.is_full(), "{error}");
    assert_eq!(reservations(&segment), [active_len(len + len / 2)], "and nothing less is tried");
    assert_eq!(segment.preallocation.preallocated(), len);
}

/// A segment without room for another append, on a full disk.
fn full() -> Segment {
    let mut segment = Segment::with(&header(), 20_000);
    segment.storage.leave_room(0);
    loop {
        let at = segment.offset();
        match segment.preallocation.ensure(&at, 48) {
            Ok(()) => drop(segment.append(&[b"entry"])),
            Err(e) => {
                assert!(e.is_full(), "{e}");
                return segment;
            }
        }
    }
}

#[test]
fn control_frames_fit_on_a_full_disk() {
    let ends = [FooterKind::Seal { successor: Generation(4), salt: Salt(40) }, FooterKind::Close { previous: None }];
    for (kind, starts) in ends.into_iter().flat_map(|kind| [(kind, 0), (kind, 1), (kind, 50)]) {
        let mut segment = full();
        let len = segment.preallocation.preallocated();
        segment.mark();
        for _ in 0..starts {
            segment.start(40);
        }
        assert_eq!((segment.preallocation.preallocated(), segment.file().len()), (len, len));
        segment.finish(kind, b"a short index");
        let finished = segment.file().finished().unwrap().expect("it is finished");
        assert_eq!((finished.footer.kind, &finished.footer.index[..]), (kind, &b"a short index"[..]));
        assert_eq!(finished.frame.first_seq.0, segment.next);
    }
}

#[test]
fn a_start_without_room_leaves_room_for_a_footer() {
    for kind in [FooterKind::Seal { successor: Generation(4), salt: Salt(40) }, FooterKind::Close { previous: None }] {
        let mut segment = full();
        let error = loop {
            let tree = segment.storage.tree();
            let at = segment.offset();
            let context = segment.context();
            if let Err(error) = segment.writer.write_start(&mut segment.preallocation, &context, SeqNo(40)) {
                assert!(segment.storage.tree() == tree && segment.offset() == at);
                break error;
            }
        };
        assert!(error.is_full(), "{error}");
        assert!(segment.preallocation.preallocated() - segment.offset().0 < 2 * 56 + 112 + 16, "what was kept is used");
        segment.finish(kind, b"an index for which there is no room, since it is longer than what is left of it");
        assert_eq!(segment.file().finished().unwrap().expect("it is finished").footer, segment.end(kind, b""));
    }
    let mut segment = full();
    segment.storage.make_room();
    (0..100).for_each(|_| segment.start(41));
    assert_eq!(common::walked(&segment.file()).0.start, Some(SeqNo(41)));
}

#[test]
fn a_footer_without_room_drops_its_index() {
    static INDEX: [u8; 10_000] = [7; 10_000];
    for kind in [FooterKind::Seal { successor: Generation(4), salt: Salt(40) }, FooterKind::Close { previous: None }] {
        let mut segment = full();
        segment.finish(kind, &INDEX);
        let finished = segment.file().finished().unwrap().expect("it is finished");
        assert_eq!((finished.footer.kind, finished.footer.index.len()), (kind, 0));
        assert_eq!(finished.footer, segment.end(kind, b""), "everything else is in it");
        // If there is room for the index, the footer has it.
        let mut segment = full();
        segment.storage.make_room();
        segment.finish(kind, &INDEX);
        assert_eq!(segment.file().finished().unwrap().expect("it is finished").footer.index[..], INDEX);
    }
}

#[test]
fn a_footer_without_any_room_writes_nothing() {
    let mut segment = full();
    let kind = FooterKind::Seal { successor: Generation(4), salt: Salt(40) };
    // A caller that preallocates first does not do this.
    while segment.preallocation.preallocated() - segment.offset().0 >= 112 {
        let frame = data_frame(&segment.writer.next_position(), segment.next, None, &[b"entry"]);
        segment.writer.append(&frame).unwrap();
        segment.next += 1;
        segment.entries += 1;
    }
    let tree = segment.storage.tree();
    let context = segment.context();
    let end = segment.end(kind, b"index");
    let error = segment.writer.finish(&mut segment.preallocation, &context, end.clone()).unwrap_err();
    assert!(error.is_full(), "{error}");
    assert!(segment.storage.tree() == tree);
    assert_eq!(segment.writer.finished_len(), None);
    segment.writer.trim_to_trailer().unwrap();
    assert!(segment.storage.tree() == tree, "nothing is cut that did not end");
    segment.storage.make_room();
    segment.finish(kind, b"index");
    assert_eq!(segment.file().finished().unwrap().expect("it is finished").footer, end);
}

#[test]
fn any_refusal_drops_the_index_and_not_the_footer() {
    static INDEX: [u8; 10_000] = [7; 10_000];
    let mut segment = full();
    segment.storage.make_room();
    segment.storage.fail(fault(0, IoKind::Other));
    let context = segment.context();
    let end = segment.end(FooterKind::Close { previous: None }, &INDEX);
    segment.writer.finish(&mut segment.preallocation, &context, end).unwrap();
    segment.writer.trim_to_trailer().unwrap();
    let found = segment.file().finished().unwrap().expect("it is finished").footer;
    assert!(found.index.is_empty() && found.entries == segment.entries);
}

#[test]
fn a_file_is_extended_while_another_thread_writes() {
    let segment = Segment::new();
    let mut writer = segment.writer;
    let mut preallocation = segment.preallocation;
    let position = writer.next_position();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..100 {
                preallocation.ensure(&position.offset, n * 1000).unwrap();
            }
        });
        for _ in 0..80 {
            writer.append(&[7; 48]).unwrap();
        }
    });
    assert!(preallocation.preallocated() >= 99_000 + 128);
}
