//! Checks that the example in FORMAT.md is a journal: its bytes have no gap, and reading them
//! yields the record described by its notes.

use std::path::Path;

use stratawal_frame::{SeqNo, StreamId, WalId};
use stratawal_journal::{Image, Lsn, Part, Record};
use stratawal_storage::{MemoryStorage, Storage};

const FORMAT_MD: &str = include_str!("../FORMAT.md");

/// The bytes of the example, with zeros for the line that stands for them.
fn example() -> Vec<u8> {
    let (_, section) = FORMAT_MD.split_once("\n## Example\n").expect("the page has an example");
    let block = section.split("```").nth(1).expect("the example is fenced");
    let mut bytes = Vec::new();
    for line in block.lines().filter(|line| line.contains('|')) {
        let mut columns = line.splitn(3, '|').map(str::trim);
        let at = columns.next().unwrap();
        if at == "..." {
            bytes.resize(4096, 0);
            continue;
        }
        assert_eq!(at.parse(), Ok(bytes.len()), "the offsets leave no gap");
        let hex = columns.next().unwrap().split_whitespace();
        bytes.extend(hex.map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits")));
    }
    bytes
}

fn read(bytes: &[u8]) -> Result<Image, stratawal_journal::Error> {
    let storage = MemoryStorage::new();
    storage.create_dir(Path::new("/journal")).expect("it does not exist");
    let file = storage.create_new(Path::new("/journal/00000000000000000001.jnl")).expect("it does not exist");
    file.write_all_at(bytes, 0).expect("memory");
    Image::read(&storage, Path::new("/journal"), WalId(0xA5))
}

#[test]
fn example_is_the_journal_it_describes() {
    let image = read(&example()).expect("the example is valid");
    let part = Part {
        stream: StreamId(0xABCD),
        name: Some("orders".into()),
        first: SeqNo(7),
        count: 1,
        timestamp: 1_700_000_000_000_000,
        firm: true,
        body: "one apple".into(),
    };
    let records: Vec<_> = image.records().iter().map(|located| &located.record).collect();
    assert_eq!(records, [&Record::Data(vec![part])]);
    assert_eq!((image.end(), image.attested()), (Lsn(80), Lsn(80)));
    assert!(image.damage().is_none() && !image.is_closed());
}

#[test]
fn each_bit_of_the_example_counts() {
    let example = example();
    for at in (0..128).chain(4096..example.len()) {
        for bit in 0..8 {
            let mut damaged = example.clone();
            damaged[at] ^= 1 << bit;
            // Without its MARK the record is still valid, but nothing attests it.
            let is_mark = at >= 4096 + 80;
            let found = read(&damaged);
            let is_noticed = found.as_ref().map_or(true, |image| image.damage().is_some());
            assert!(is_noticed || is_mark, "bit {bit} at {at}: {found:?}");
        }
    }
}
