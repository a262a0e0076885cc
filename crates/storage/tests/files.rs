//! Tests the contract of `File`, sentence by sentence, on both storages.

#[macro_use]
mod common;

use std::io::{ErrorKind, IoSlice};
use std::path::Path;

use common::{Rng, all, kind, put};
use stratawal_storage::{Access, Storage};

on_both_storages! {
    a_read_is_short_only_at_the_end,
    an_exact_read_past_the_end_is_an_error,
    a_write_grows_the_file_and_leaves_zeros_between,
    a_vectored_write_is_one_write_of_all_pieces,
    a_vectored_write_takes_any_number_of_slices,
    syncing_changes_no_byte_and_no_length,
    bytes_that_were_cut_do_not_come_back,
    preallocating_adds_zeros_and_never_shortens,
    preallocated_bytes_are_written_in_place,
    only_zeros_come_before_the_next_data,
    a_map_shows_the_first_bytes,
    a_map_past_the_end_allocates_nothing,
    an_empty_map_holds_nothing,
    bytes_of_a_map_outlive_the_handle_and_the_name,
    writers_of_different_offsets_do_not_interfere,
    a_file_holds_the_same_bytes_as_a_vector,
}

fn a_read_is_short_only_at_the_end(storage: &dyn Storage, root: &Path) {
    // Longer than a page, a socket buffer or a read-ahead window.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i >> 10) as u8 ^ i as u8).collect();
    let file = put(storage, &root.join("a"), &bytes);
    let len = bytes.len();
    for (offset, want) in
        [(0, len), (0, len + 1), (1, len), (7, 100), (len - 1, 1), (len - 1, 9), (len, 5), (len + 9, 5), (3, 0)]
    {
        let mut buf = vec![0xEE; want];
        let n = file.read_at(&mut buf, offset as u64).unwrap();
        assert_eq!(n, want.min(len.saturating_sub(offset)), "{want} bytes at {offset}");
        assert!(buf[..n] == bytes[offset.min(len)..][..n], "{want} bytes at {offset}");
        assert!(buf[n..].iter().all(|&b| b == 0xEE), "{want} bytes at {offset}: what was not read was touched");
    }
}

fn an_exact_read_past_the_end_is_an_error(storage: &dyn Storage, root: &Path) {
    let file = put(storage, &root.join("a"), b"hello");
    let mut buf = [0; 3];
    file.read_exact_at(&mut buf, 2).unwrap();
    assert_eq!(&buf, b"llo");
    for offset in [3, 5, 6, 1 << 40] {
        assert_eq!(kind(file.read_exact_at(&mut buf, offset)), ErrorKind::UnexpectedEof, "{offset}");
    }
    file.read_exact_at(&mut [], 5).unwrap();
}

fn a_write_grows_the_file_and_leaves_zeros_between(storage: &dyn Storage, root: &Path) {
    let file = put(storage, &root.join("a"), b"abc");
    file.write_all_at(b"xyz", 10_000).unwrap();
    assert_eq!(file.len().unwrap(), 10_003);
    let bytes = all(&*file);
    assert_eq!((&bytes[..3], &bytes[10_000..]), (&b"abc"[..], &b"xyz"[..]));
    assert!(bytes[3..10_000].iter().all(|&b| b == 0));
    file.write_all_at(b"-", 1).unwrap();
    assert_eq!(
        (file.len().unwrap(), &all(&*file)[..3]),
        (10_003, &b"a-c"[..]),
        "a write within the file does not change the length"
    );
}

fn a_vectored_write_is_one_write_of_all_pieces(storage: &dyn Storage, root: &Path) {
    let file = put(storage, &root.join("a"), b"..........");
    let pieces: [&[u8]; 6] = [b"", b"ab", b"", b"c", b"defg", b""];
    file.write_all_vectored_at(&pieces.map(IoSlice::new), 5).unwrap();
    assert_eq!(all(&*file), b".....abcdefg");
    file.write_all_vectored_at(&[], 3).unwrap();
    file.write_all_vectored_at(&[IoSlice::new(b""), IoSlice::new(b"")], 3).unwrap();
    assert_eq!(all(&*file), b".....abcdefg");
}

fn a_vectored_write_takes_any_number_of_slices(storage: &dyn Storage, root: &Path) {
    // Counts near IOV_MAX, which is 1024 on the systems that report it, with empty slices anywhere.
    for count in [1023, 1024, 1025, 2048, 2049, 5000] {
        let pieces: Vec<Vec<u8>> = (0..count).map(|i| vec![i as u8; if i % 3 == 0 { 0 } else { i % 7 + 1 }]).collect();
        let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let file = storage.create_new(&root.join(count.to_string())).unwrap();
        file.write_all_vectored_at(&slices, 4).unwrap();
        assert!(all(&*file)[4..] == pieces.concat(), "{count} slices");
    }
    // As many empty slices as one call takes, then another slice.
    let nothing = (0..3000).map(|_| IoSlice::new(b""));
    let slices: Vec<IoSlice<'_>> = nothing.chain([IoSlice::new(b"end")]).collect();
    let file = storage.create_new(&root.join("late")).unwrap();
    file.write_all_vectored_at(&slices, 0).unwrap();
    assert_eq!(all(&*file), b"end");
}

fn syncing_changes_no_byte_and_no_length(storage: &dyn Storage, root: &Path) {
    let file = put(storage, &root.join("a"), b"hello");
    file.preallocate(5000).unwrap();
    let before = all(&*file);
    file.start_write_back().unwrap();
    file.sync_data().unwrap();
    file.sync_all().unwrap();
    assert_eq!(all(&*file), before);
}

fn bytes_that_were_cut_do_not_come_back(storage: &dyn Storage, root: &Path) {
    let file = put(storage, &root.join("a"), &[7; 9000]);
    file.set_len(5).unwrap();
    assert_eq!(all(&*file), [7; 5]);
    file.set_len(9000).unwrap();
    let bytes = all(&*file);
    assert_eq!(bytes.len(), 9000);
    assert!(bytes[5..].iter().all(|&b| b == 0), "zeros in place of the bytes that were cut");
    file.set_len(9000).unwrap();
    file.set_len(0).unwrap();
    assert_eq!(file.len().unwrap(), 0);
}

fn preallocating_adds_zeros_and_never_shortens(storage: &dyn Storage, root: &Path) {
    let file = put(storage, &root.join("a"), b"hello");
    for len in [5, 4, 0] {
        file.preallocate(len).unwrap();
        assert_eq!(all(&*file), b"hello", "{len} bytes");
    }
    // The length is exact, not rounded up to blocks.
    for len in [6, 4096 + 8, 4096 + 9, 1_000_003] {
        file.preallocate(len).unwrap();
        assert_eq!(file.len().unwrap(), len);
        let bytes = all(&*file);
        assert!(bytes.starts_with(b"hello") && bytes[5..].iter().all(|&b| b == 0), "{len} bytes");
    }
    // Bytes that were cut off do not come back here either.
    file.write_all_at(&[7; 1000], 0).unwrap();
    file.set_len(1).unwrap();
    file.preallocate(1000).unwrap();
    assert!(all(&*file)[1..].iter().all(|&b| b == 0));
}

fn preallocated_bytes_are_written_in_place(storage: &dyn Storage, root: &Path) {
    let file = storage.create_new(&root.join("a")).unwrap();
    file.preallocate(100_000).unwrap();
    for at in [0, 4095, 50_000, 99_999] {
        file.write_all_at(b"x", at).unwrap();
    }
    assert_eq!(file.len().unwrap(), 100_000);
    assert_eq!(all(&*file).iter().filter(|&&b| b == b'x').count(), 4);
}

fn only_zeros_come_before_the_next_data(storage: &dyn Storage, root: &Path) {
    let file = storage.create_new(&root.join("a")).unwrap();
    assert_eq!(file.next_data(0).unwrap(), 0, "an empty file has no data");
    file.set_len(3 << 20).unwrap();
    let data = [0, 1, 70_000, 70_001, 1 << 20, (2 << 20) + 5];
    data.iter().for_each(|&at| file.write_all_at(b"x", at).unwrap());
    for synced in [false, true] {
        let borders = [0, 2, 4095, 4096, 65_536, 70_002, 131_072, 1 << 20, (1 << 20) + 4096, (2 << 20) + 6, 3 << 20];
        for offset in borders.into_iter().chain(data) {
            let next = file.next_data(offset).unwrap();
            assert!(next >= offset, "{next} is before {offset}");
            let passed = data.iter().find(|&&at| (offset..next).contains(&at));
            assert_eq!(passed, None, "from {offset} to {next}, synced: {synced}");
            assert!(next <= 3 << 20, "{next} is beyond the end");
        }
        file.sync_all().unwrap();
    }
    // The offset may be past the end, for example after another process has shortened the file.
    assert!((3 << 20..=4 << 20).contains(&file.next_data(4 << 20).unwrap()));
}

fn a_map_shows_the_first_bytes(storage: &dyn Storage, root: &Path) {
    let bytes: Vec<u8> = (0..20_000_u32).map(|i| (i / 7) as u8).collect();
    put(storage, &root.join("a"), &bytes);
    for access in [Access::Read, Access::ReadWrite] {
        let file = storage.open(&root.join("a"), access).unwrap();
        for len in [1, 4096, 4097, 20_000] {
            // SAFETY: no other code uses this file, and this test does not write to it while the
            // map exists.
            let map = unsafe { file.map(len) }.unwrap();
            assert!(map.as_ref() == &bytes[..usize::try_from(len).unwrap()], "{len} bytes, {access:?}");
            assert!(format!("{map:?}").contains(&len.to_string()), "Debug shows the length, not the bytes");
        }
    }
}

fn a_map_past_the_end_allocates_nothing(storage: &dyn Storage, root: &Path) {
    let file = put(storage, &root.join("a"), b"hello");
    for len in [6, 4096, 1 << 40, u64::MAX] {
        // SAFETY: no other code uses this file, and this test does not write to it.
        let map = unsafe { file.map(len) };
        assert_eq!(kind(map), ErrorKind::UnexpectedEof, "{len} bytes");
    }
}

fn an_empty_map_holds_nothing(storage: &dyn Storage, root: &Path) {
    for bytes in [&b""[..], b"hello"] {
        let file = put(storage, &root.join(bytes.len().to_string()), bytes);
        // SAFETY: no other code uses this file, and this test does not write to it.
        let map = unsafe { file.map(0) }.unwrap();
        assert!(map.as_ref().is_empty() && map.into_bytes().is_empty());
    }
}

fn bytes_of_a_map_outlive_the_handle_and_the_name(storage: &dyn Storage, root: &Path) {
    let expected: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
    let file = put(storage, &root.join("a"), &expected);
    // SAFETY: no other code uses this file. It is removed below, which neither shortens nor changes
    // it.
    let bytes = unsafe { file.map(10_000) }.unwrap().into_bytes();
    let slice = bytes.slice(5000..5010);
    drop((file, bytes));
    storage.remove_file(&root.join("a")).unwrap();
    put(storage, &root.join("a"), &[0xEE; 20_000]);
    assert_eq!(slice, expected[5000..5010]);
    let moved = std::thread::spawn(move || slice.to_vec()).join().unwrap();
    assert_eq!(moved, expected[5000..5010], "the bytes can be sent to another thread");
}

fn writers_of_different_offsets_do_not_interfere(storage: &dyn Storage, root: &Path) {
    const WRITERS: u64 = 4;
    let path = root.join("a");
    storage.create_new(&path).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let file = storage.open(&path, Access::ReadWrite).unwrap();
            scope.spawn(move || {
                for i in 0..200 {
                    let at = (i * WRITERS + writer) * 16;
                    file.write_all_at(&[1 + writer as u8; 16], at).unwrap();
                    let mut back = [0; 16];
                    file.read_exact_at(&mut back, at).unwrap();
                    assert_eq!(back, [1 + writer as u8; 16]);
                }
            });
        }
    });
    let bytes = all(&*storage.open(&path, Access::Read).unwrap());
    let expected: Vec<u8> = (0..200 * WRITERS).flat_map(|i| [1 + (i % WRITERS) as u8; 16]).collect();
    assert!(bytes == expected);
}

/// Compares a file with a vector, which is its model.
fn a_file_holds_the_same_bytes_as_a_vector(storage: &dyn Storage, root: &Path) {
    for seed in 0..20 {
        let mut rng = Rng(seed);
        let mut model = Vec::new();
        let file = storage.create_new(&root.join(seed.to_string())).unwrap();
        for step in 0..100 {
            let at = rng.below(9000);
            let n = rng.below(3000) + 1;
            let from = usize::try_from(at).unwrap();
            let count = usize::try_from(n).unwrap();
            let byte = rng.next() as u8;
            match rng.below(5) {
                0 => {
                    file.set_len(at).unwrap();
                    model.resize(from, 0);
                }
                1 => {
                    file.preallocate(at).unwrap();
                    model.resize(model.len().max(from), 0);
                }
                2 => {
                    let pieces = [&vec![byte; count / 2][..], &vec![!byte; count - count / 2]];
                    file.write_all_vectored_at(&pieces.map(IoSlice::new), at).unwrap();
                    model.resize(model.len().max(from + count), 0);
                    model[from..from + count].copy_from_slice(&pieces.concat());
                }
                _ => {
                    file.write_all_at(&vec![byte; count], at).unwrap();
                    model.resize(model.len().max(from + count), 0);
                    model[from..from + count].fill(byte);
                }
            }
            assert!(all(&*file) == model, "seed {seed}, step {step}");
        }
    }
}
