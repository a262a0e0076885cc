//! Disk blocks that used to belong to another file. The salt of a segment protects against them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratawal::{Durability, Options, StreamOptions, Wal};
use stratawal_storage::{Access, Storage};
use stratawal_testkit::{Crash, Rng, SimStorage};

const ENTRIES: u64 = 40;
const ENTRY_LEN: usize = 200;

/// The byte in the entries that are cut.
const OLD: u8 = b'o';
/// The byte in the entries that get the same seqs afterwards.
const NEW: u8 = b'n';

fn open(sim: &SimStorage) -> stratawal::Result<Wal> {
    let streams = StreamOptions::new().segment_bytes(64 << 10).frame_bytes(1);
    Options::new().journal(false).stream_defaults(streams).open_on(Arc::new(sim.clone()), Path::new("/log"), false)
}

fn append_all(wal: &Wal, byte: u8) {
    let stream = wal.stream("s").unwrap().with_durability(Durability::Synced);
    for seq in 0..ENTRIES {
        assert_eq!(stream.append([byte; ENTRY_LEN]).unwrap(), seq);
    }
}

fn segment(sim: &SimStorage) -> PathBuf {
    let files = sim.disk().files().into_iter().map(|(path, _)| PathBuf::from(path));
    let mut segments: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
    segments.retain(|path| path.starts_with("/log/streams"));
    assert_eq!(segments.len(), 1, "{segments:?}");
    segments.remove(0)
}

/// Cuts off all entries of a stream and writes others of the same length, so that every frame has
/// the seq and the offset of an earlier frame. Then restores the cut segment's blocks in one sector
/// after the header, or in all of them. Returns whether any cut entry is read.
pub(crate) fn cut_entries_come_back() -> bool {
    const SECTOR_LEN: u64 = 512;
    let sim = SimStorage::new(1);
    let wal = open(&sim).unwrap();
    append_all(&wal, OLD);
    let old = sim.disk().bytes(&segment(&sim)).unwrap();
    wal.stream("s").unwrap().truncate_from(0).unwrap();
    append_all(&wal, NEW);
    let path = segment(&sim);
    let killed = sim.disk().crash(Crash::Kill, &mut Rng::new(1));
    wal.close().unwrap();
    let closed = sim.disk();
    let mut came_back = false;
    for disk in [killed, closed] {
        let end = ENTRIES * ENTRY_LEN as u64;
        for from in (SECTOR_LEN..end).step_by(usize::try_from(SECTOR_LEN).unwrap()) {
            for len in [SECTOR_LEN, end - from] {
                let sim = SimStorage::on(disk.clone(), 2);
                let range = usize::try_from(from).unwrap()..usize::try_from(from + len).unwrap();
                sim.open(&path, Access::ReadWrite).unwrap().write_all_at(&old[range], from).unwrap();
                // A log that does not open has noticed the stale blocks.
                let Ok(wal) = open(&sim) else { continue };
                let Ok(stream) = wal.stream("s") else { continue };
                came_back |= stream.iter(..).map_while(Result::ok).any(|entry| entry.data()[..] != [NEW; ENTRY_LEN]);
            }
        }
    }
    came_back
}

#[test]
fn blocks_of_a_cut_segment_are_never_read() {
    assert!(!cut_entries_come_back());
}
