use super::*;
use std::path::Path;

fn file(sim: &SimStorage, path: &str) -> Arc<dyn File> {
    let file = sim.create_new(Path::new(path)).unwrap();
    sim.sync_dir(Path::new("/")).unwrap();
    file
}

fn after(sim: &SimStorage, crash: Crash, seed: u64) -> Vec<u8> {
    sim.disk().crash(crash, &mut Rng::new(seed)).bytes(Path::new("/f")).unwrap()
}

#[test]
fn power_loss_takes_unsynced_bytes_and_a_kill_none() {
    let sim = SimStorage::new(1);
    let f = file(&sim, "/f");
    f.write_all_at(b"synced", 0).unwrap();
    f.sync_data().unwrap();
    f.write_all_at(b" and not", 6).unwrap();
    assert_eq!(after(&sim, Crash::Kill, 1), b"synced and not");
    assert_eq!(after(&sim, Crash::Kept, 1), b"synced and not");
    assert_eq!(after(&sim, Crash::Lost, 1), b"synced");
}

#[test]
fn each_sector_survives_in_any_of_its_versions() {
    let sim = SimStorage::new(1);
    let f = file(&sim, "/f");
    f.set_len(1024).unwrap();
    f.sync_all().unwrap();
    for version in 1..=3 {
        f.write_all_at(&[version; 1024], 0).unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..500 {
        let bytes = after(&sim, Crash::Mixed(128), seed);
        for sector in bytes.chunks(512) {
            assert!(sector.iter().all(|b| *b == sector[0]), "a sector is never torn");
        }
        seen.insert((bytes[0], bytes[512]));
    }
    assert_eq!(seen.len(), 16, "every pair of four versions: {seen:?}");
}

#[test]
fn names_survive_one_by_one_and_renames_whole() {
    let sim = SimStorage::new(1);
    let f = sim.create_new(Path::new("/f.tmp")).unwrap();
    f.write_all_at(b"x", 0).unwrap();
    f.sync_all().unwrap();
    sim.sync_dir(Path::new("/")).unwrap();
    sim.rename(Path::new("/f.tmp"), Path::new("/f")).unwrap();
    sim.create_new(Path::new("/g")).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let disk = sim.disk().crash(Crash::Mixed(128), &mut Rng::new(seed));
        seen.insert(disk.files().into_iter().map(|(path, _)| path).collect::<Vec<_>>().join(" "));
    }
    let expected = ["/f", "/f /g", "/f.tmp", "/f.tmp /g"];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn failed_sync_leaves_cache_and_disk_different() {
    let sim = SimStorage::new(3);
    let f = file(&sim, "/f");
    f.set_len(64 << 10).unwrap();
    f.sync_all().unwrap();
    f.write_all_at(&[7; 64 << 10], 0).unwrap();
    sim.set_faults(Some(Faults { after: 0, fault: Fault::Io, forever: false }));
    assert!(f.sync_data().is_err());
    f.sync_data().unwrap();
    assert_eq!(after(&sim, Crash::Kill, 1), [7; 64 << 10]);
    let kept = after(&sim, Crash::Kept, 1);
    assert!(kept.contains(&7) && kept.contains(&0), "some reached the disk, some never will");
    f.write_all_at(&[8; 64 << 10], 0).unwrap();
    f.sync_data().unwrap();
    assert_eq!(after(&sim, Crash::Lost, 1), [8; 64 << 10], "bytes that are written again are synced");
}

#[test]
fn cut_bytes_do_not_return_when_the_file_grows() {
    let sim = SimStorage::new(1);
    let f = file(&sim, "/f");
    f.write_all_at(&[1; 1000], 0).unwrap();
    f.sync_all().unwrap();
    f.set_len(100).unwrap();
    f.set_len(1000).unwrap();
    for seed in 0..50 {
        let bytes = after(&sim, Crash::Mixed(128), seed);
        match bytes.len() {
            100 => assert_eq!(bytes, [1; 100]),
            _ => assert!(bytes == [1; 1000] || bytes[..100] == [1; 100] && bytes[100..] == [0; 900]),
        }
    }
    assert_eq!(after(&sim, Crash::Kill, 0)[100..], [0; 900]);
}

#[test]
fn faults_affect_only_operations_that_can_fail() {
    let sim = SimStorage::new(1);
    let f = file(&sim, "/f");
    sim.set_faults(Some(Faults { after: 0, fault: Fault::TooManyFiles, forever: true }));
    f.write_all_at(b"x", 0).unwrap();
    assert!(sim.open(Path::new("/f"), Access::Read).is_err());
    assert!(sim.list(Path::new("/")).is_err());
    assert_eq!(sim.failed(), 2);
    sim.set_faults(Some(Faults { after: 1, fault: Fault::Full, forever: false }));
    f.write_all_at(b"x", 0).unwrap();
    assert!(stratawal_storage::is_full(&f.write_all_at(b"y", 1).unwrap_err()));
    f.write_all_at(b"y", 1).unwrap();
    sim.set_faults(Some(Faults { after: 10, fault: Fault::Capacity, forever: true }));
    assert!(stratawal_storage::is_full(&f.preallocate(11).unwrap_err()));
    assert_eq!((f.len().unwrap(), sim.failed()), (2, 1));
    f.preallocate(10).unwrap();
    sim.set_faults(None);
    f.preallocate(11).unwrap();
}

#[test]
fn failed_write_back_is_reported_once() {
    let sim = SimStorage::new(1);
    let f = file(&sim, "/f");
    f.sync_all().unwrap();
    let all = [7; 64 << 10];
    f.write_all_at(&all, 0).unwrap();
    // The operation succeeds.
    sim.set_faults(Some(Faults { after: 0, fault: Fault::WriteBack, forever: false }));
    sim.list(Path::new("/")).unwrap();
    assert_eq!(sim.failed(), 1);
    sim.open(Path::new("/f"), Access::ReadWrite).unwrap().sync_all().expect("it was opened later");
    assert!(f.sync_all().is_err());
    f.sync_all().expect("the pages are clean");
    assert_eq!(sim.disk().bytes(Path::new("/f")).unwrap(), all, "as reads see it");
    assert_ne!(after(&sim, Crash::Lost, 1), all, "and as the disk has it");
}

#[test]
fn lying_disk_keeps_nothing() {
    let sim = SimStorage::new(1);
    sim.set_lie(Some(Lie::Files));
    let f = file(&sim, "/f");
    f.write_all_at(b"x", 0).unwrap();
    f.sync_all().unwrap();
    assert_eq!(after(&sim, Crash::Lost, 1), b"");
    sim.set_lie(Some(Lie::Dirs));
    file(&sim, "/g");
    assert!(!sim.disk().crash(Crash::Lost, &mut Rng::new(1)).files().iter().any(|(path, _)| path == "/g"));
}
