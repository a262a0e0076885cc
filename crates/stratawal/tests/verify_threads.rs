//! Verifying a log in several threads finds the same as in one.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use stratawal::inspect::{self, CheckState, StreamCheck, VerifyOptions};
use stratawal::{DamageKind, ErrorKind, Options, StreamOptions};

fn shown(check: stratawal::Result<StreamCheck>) -> String {
    let StreamCheck { stream, state, first_seq, next_seq, segments, entries, torn, damage, .. } = check.unwrap();
    let damage: Vec<String> = damage.iter().map(ToString::to_string).collect();
    format!("{stream} {state:?} {first_seq:?} {next_seq:?} {segments} {entries} {torn:?} {damage:?}")
}

/// Streams of one segment and of many, some of them damaged. One of these does not open.
fn damaged_log(dir: &Path) {
    let small = StreamOptions::new().segment_bytes(64 << 10);
    let wal = Options::new().journal(false).stream_defaults(small).open(dir).unwrap();
    for i in 0..9 {
        let stream = wal.stream(&format!("s{i}")).unwrap();
        for _ in 0..10 + i % 3 * 300 {
            stream.append([7; 1000]).unwrap();
        }
    }
    wal.close().unwrap();
    for i in [1, 5, 6] {
        let name = format!("s{i}");
        let files = inspect::segment_files(dir, &name).unwrap();
        for file in files.iter().step_by(2) {
            let path = dir.join("streams").join(&name).join(&file.name);
            let mut bytes = fs::read(&path).unwrap();
            bytes[6000] ^= 1;
            fs::write(path, bytes).unwrap();
        }
    }
    let files = inspect::segment_files(dir, "s8").unwrap();
    for (i, at) in [(1, 5000), (2, 20), (4, 7000)] {
        let path = dir.join("streams/s8").join(&files[i].name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn threads_find_the_same_in_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    let alone: Vec<String> = inspect::verify(dir.path(), None).unwrap().map(shown).collect();
    assert_eq!(alone.iter().filter(|check| check.contains("Damaged")).count(), 4);
    for threads in [0, 1, 2, 8] {
        let mut found = Vec::new();
        let options = VerifyOptions::new().threads(threads);
        inspect::verify_with(dir.path(), None, &options, |check| found.push(shown(check))).unwrap();
        assert_eq!(found, alone, "{threads} threads");
        let mut one = Vec::new();
        inspect::verify_with(dir.path(), Some("s5"), &options, |check| one.push(shown(check))).unwrap();
        assert_eq!(one, [alone[5].clone()], "{threads} threads");
    }
}

/// The file whose header is damaged holds the entries from its base to that of the next one.
#[test]
fn files_of_a_stream_that_does_not_open_are_read() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    let files = inspect::segment_files(dir.path(), "s8").unwrap();
    assert!(files.len() > 6 && Options::new().open_read_only(dir.path()).unwrap().stream("s8").is_err());
    let check = inspect::verify(dir.path(), Some("s8")).unwrap().next().unwrap().unwrap();
    let found: Vec<_> = check.damage.iter().map(|damage| (damage.damage().unwrap(), damage.segment())).collect();
    let in_file = |i: usize, kind| (kind, Some(&*files[i].name));
    assert_eq!(
        found,
        [in_file(1, DamageKind::Frame), in_file(2, DamageKind::Header), in_file(4, DamageKind::Frame)],
        "{check:?}"
    );
    let lost: Vec<u64> =
        check.damage.iter().map(|damage| damage.lost().unwrap()).map(|lost| lost.end - lost.start).collect();
    let in_header = files[3].base_seq.unwrap() - files[2].base_seq.unwrap();
    assert_eq!((lost, check.entries), (vec![1, in_header, 1], 610 - in_header - 2));
    assert_eq!((check.state, check.first_seq, check.next_seq), (CheckState::Damaged, None, None));
}

#[test]
fn damaged_entry_and_damaged_end_are_one_finding() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    let found = || -> Vec<_> {
        let check = inspect::verify(dir.path(), Some("s5")).unwrap().next().unwrap().unwrap();
        assert!(check.next_seq.is_some(), "the stream opens");
        check.damage.iter().map(|damage| damage.segment().unwrap().to_owned()).collect()
    };
    let before = found();
    let path = dir.path().join("streams/s5").join(&before[1]);
    let mut bytes = fs::read(&path).unwrap();
    // In the SEAL, before the trailer. Opening the stream does not read so much of it.
    let seal = bytes.len() - 30;
    bytes[seal] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(found(), before);
}

/// No entry is lost with the end of a sealed file, and the file before a missing one has its own
/// damage.
#[test]
fn gap_and_damage_beside_it_are_two_findings() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    let files = inspect::segment_files(dir.path(), "s2").unwrap();
    let path = |i: usize| dir.path().join("streams/s2").join(&files[i].name);
    fs::remove_file(path(3)).unwrap();
    let mut sealed = fs::read(path(1)).unwrap();
    let trailer = sealed.len() - 10;
    sealed[trailer] ^= 1;
    fs::write(path(1), sealed).unwrap();
    let mut after_gap = fs::read(path(4)).unwrap();
    after_gap[6000] ^= 1;
    fs::write(path(4), after_gap).unwrap();
    let check = inspect::verify(dir.path(), Some("s2")).unwrap().next().unwrap().unwrap();
    let found: Vec<_> = check.damage.iter().map(|damage| (damage.damage().unwrap(), damage.segment())).collect();
    assert_eq!(
        found,
        [
            (DamageKind::Seal, Some(&*files[1].name)),
            (DamageKind::PredecessorMissing, Some(&*files[4].name)),
            (DamageKind::Frame, Some(&*files[4].name)),
        ]
    );
}

#[test]
fn newer_file_does_not_hide_the_damage_of_others() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    let files = inspect::segment_files(dir.path(), "s8").unwrap();
    let newer = dir.path().join("streams/s8").join(&files[6].name);
    let mut bytes = fs::read(&newer).unwrap();
    // The version, which follows the magic, and the checksum.
    bytes[8] = 2;
    bytes[124] ^= 1;
    fs::write(&newer, bytes).unwrap();
    let check = inspect::verify(dir.path(), Some("s8")).unwrap().next().unwrap().unwrap();
    let kinds: Vec<_> = check.damage.iter().map(|damage| (damage.kind(), damage.damage())).collect();
    let damaged = |kind| (ErrorKind::Damaged, Some(kind));
    assert_eq!(
        kinds,
        [
            damaged(DamageKind::Frame),
            damaged(DamageKind::Header),
            damaged(DamageKind::Frame),
            (ErrorKind::NewerFormat, None)
        ]
    );
}

#[test]
fn progress_counts_the_bytes_of_each_file_once() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    let files = (0..9).flat_map(|i| inspect::segment_files(dir.path(), &format!("s{i}")).unwrap());
    let total: u64 = files.map(|file| file.bytes).sum();
    let read = AtomicU64::new(0);
    let count = |bytes| {
        read.fetch_add(bytes, Ordering::Relaxed);
    };
    let options = VerifyOptions::new().threads(3).progress(&count);
    inspect::verify_with(dir.path(), None, &options, |check| drop(check.unwrap())).unwrap();
    assert_eq!(read.load(Ordering::Relaxed), total);
}

#[test]
fn unknown_stream_is_an_error_of_the_call() {
    let dir = tempfile::tempdir().unwrap();
    damaged_log(dir.path());
    let error = inspect::verify_with(dir.path(), Some("none"), &VerifyOptions::new(), drop).unwrap_err();
    assert_eq!((error.kind(), error.stream()), (ErrorKind::Missing, Some("none")));
}
