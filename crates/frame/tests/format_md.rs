//! FORMAT.md agrees with the code: its field tables have no gaps, its check value is right, and its
//! example, decoded both by the tables and by the crate, has the bytes of the segment it describes.

mod samples;

use bytes::Bytes;
use samples::crc32;
use stratawal_frame::{
    ByteOffset, Control, DataFrame, Decoded, Features, Footer, FooterKind, FramePosition, Generation, Limits, Salt,
    SegmentHeader, SeqNo, StreamId, TRAILER_LEN, Trailer, WalId, encode_control, encode_data,
};

const FORMAT_MD: &str = include_str!("../FORMAT.md");
const SALT: Salt = Salt(0x1122_3344_5566_7788);
const TIME: u64 = samples::TIME;

/// A field of the example, with its offset, its bytes and its note.
struct Field {
    at: usize,
    bytes: Vec<u8>,
    note: &'static str,
}

impl Field {
    fn number(&self) -> u64 {
        self.bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte))
    }
}

/// Returns the fields of the example, in order. A line without a note continues the field before
/// it.
fn fields() -> Vec<Field> {
    let (_, section) = FORMAT_MD.split_once("\n## Example\n").expect("there is an example");
    let block = section.split("```").nth(1).expect("the example is fenced");
    let mut fields: Vec<Field> = Vec::new();
    for line in block.lines().filter(|line| line.contains('|')) {
        let mut columns = line.splitn(3, '|').map(str::trim);
        let at: usize = columns.next().unwrap().parse().expect("a line begins with an offset");
        let hex = columns.next().unwrap().split_whitespace();
        let bytes = hex.map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal digits"));
        match columns.next().unwrap() {
            "" => fields.last_mut().unwrap().bytes.extend(bytes),
            note => fields.push(Field { at, bytes: bytes.collect(), note }),
        }
    }
    fields
}

fn file() -> Vec<u8> {
    fields().into_iter().flat_map(|field| field.bytes).collect()
}

#[test]
fn the_example_leaves_no_byte_out() {
    let mut at = 0;
    for field in fields() {
        assert_eq!(field.at, at, "{}", field.note);
        at += field.bytes.len();
    }
    assert_eq!(at, 360);
}

#[test]
fn the_example_agrees_with_the_field_tables() {
    let header: [(&str, usize, u64); 19] = [
        ("version", 4, 1),
        ("compatible", 4, 0),
        ("read-only compatible", 4, 0),
        ("incompatible", 4, 0),
        ("wal id", 16, 0x0706_0504_0302_0100),
        ("stream id", 8, 0x1716_1514_1312_1110),
        ("generation 3", 4, 3),
        ("predecessor 2", 4, 2),
        ("base 40", 8, 40),
        ("salt", 8, SALT.0),
        ("durable 40", 8, 40),
        ("start 12", 8, 12),
        ("time of the last frame before", 8, TIME - 5_000_000),
        ("time of creation", 8, TIME),
        ("name", 4, u64::from(crc32(b"orders.eu-1"))),
        ("predecessor's salt", 8, 0x8877_6655_4433_2211),
        ("predecessor's last frame", 4, 0x0102_0304),
        ("zero", 4, 0),
        ("checksum", 4, u64::from(crc32(&file()[..124]))),
    ];
    let mut expected = header.to_vec();
    let frame = |at: usize, len: usize, seq, time: u64, count, undurable| {
        let file = file();
        let positioned = [&SALT.0.to_le_bytes()[..], &(at as u64).to_le_bytes(), &file[at + 4..at + 40]].concat();
        [
            ("header checksum", 4, u64::from(crc32(&positioned))),
            ("payload checksum", 4, u64::from(crc32(&file[at + 40..at + 40 + len]))),
            ("first seq", 8, seq),
            ("time", 8, time),
            ("count", 4, count),
            ("payload length", 4, len as u64),
            ("undurable", 4, undurable),
            ("codec", 1, 0),
            ("flags", 1, 0),
            ("zero", 2, 0),
        ]
    };
    let text = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
    expected.extend(frame(128, 5, 40, TIME + 1, 1, 0));
    expected.extend([("entry 40: \"hello\"", 5, text(b"hello")), ("to a multiple of 8", 3, 0)]);
    expected.extend(frame(176, 26, 41, TIME + 2, 3, 1));
    expected.extend([
        ("entry 41 ends at 5", 4, 5),
        ("entry 42 ends at 9, and its batch", 4, 9 | 1 << 31),
        ("entry 43 ends at 14, and its batch", 4, 14 | 1 << 31),
        ("entry 41: \"alpha\"", 5, text(b"alpha")),
        ("entry 42: \"beta\"", 4, text(b"beta")),
        ("entry 43: \"gamma\"", 5, text(b"gamma")),
        ("to a multiple of 8", 6, 0),
    ]);
    expected.extend(frame(248, 56, 44, TIME + 2, 0, 0));
    expected.extend([
        ("kind 4, CLOSE", 4, 4),
        ("no successor", 4, 0),
        ("start 12", 8, 12),
        ("4 entries", 8, 4),
        ("time of the first frame", 8, TIME + 1),
        ("time of the last frame", 8, TIME + 2),
        ("no CLOSE before", 8, 0),
        ("index block of 0 bytes", 4, 0),
        ("no pad", 4, 0),
    ]);
    let salted = [&SALT.0.to_le_bytes()[..], &file()[348..]].concat();
    expected.extend([("checksum", 4, u64::from(crc32(&salted))), ("magic", 4, text(b"SEND"))]);
    expected.push(("CLOSE is at 248", 8, 248));

    let found = fields();
    assert_eq!((found[0].note, &found[0].bytes[..]), ("magic", &b"STRATAWL"[..]));
    assert_eq!(found.len() - 1, expected.len());
    for (field, (note, width, value)) in found[1..].iter().zip(expected) {
        assert!(field.note.starts_with(note), "at {}: {} is not {note}", field.at, field.note);
        assert_eq!(field.bytes.len(), width, "width of {} at {}", field.note, field.at);
        if width <= 8 {
            assert_eq!(field.number(), value, "{} at {}", field.note, field.at);
        }
    }
}

fn header() -> SegmentHeader {
    SegmentHeader {
        wal_id: WalId(0x0F0E_0D0C_0B0A_0908_0706_0504_0302_0100),
        stream_id: StreamId(0x1716_1514_1312_1110),
        generation: Generation(3),
        predecessor: Generation(2),
        base: SeqNo(40),
        salt: SALT,
        durable: SeqNo(40),
        start: SeqNo(12),
        last_timestamp: TIME - 5_000_000,
        created: TIME,
        name_crc: crc32(b"orders.eu-1"),
        predecessor_salt: Salt(0x8877_6655_4433_2211),
        predecessor_frame_crc: 0x0102_0304,
        features: Features::default(),
    }
}

fn close() -> Control {
    Control::Footer(Footer {
        kind: FooterKind::Close { previous: None },
        start: SeqNo(12),
        entries: 4,
        times: (TIME + 1, TIME + 2),
        index: Bytes::new(),
    })
}

#[test]
fn the_example_is_decoded_as_described() {
    let file = Bytes::from(file());
    assert_eq!(SegmentHeader::decode(&file), Ok(header()));
    let end = ByteOffset(344);
    let limits = Limits { base: SeqNo(40), end };
    let found = samples::frames_of(&file.slice(..344), SALT, 128, &limits);
    let [(128, Decoded::Frame(one)), (176, Decoded::Frame(three)), (248, Decoded::Frame(last))] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(samples::batches_of(one), [[b"hello"]]);
    assert_eq!(samples::batches_of(three), [vec![b"alpha".to_vec(), b"beta".to_vec()], vec![b"gamma".to_vec()]]);
    assert_eq!(one.header().attests, Some(SeqNo(40)));
    assert_eq!(three.header().attests, Some(SeqNo(40)));
    assert_eq!(last.header().attests, Some(SeqNo(44)));
    assert_eq!(last.control(), Some(&close()));
    assert_eq!(Trailer::decode(&file[344..], SALT), Some(Trailer { footer_offset: ByteOffset(248) }));
}

#[test]
fn the_example_is_what_the_encoder_writes() {
    let mut out = header().encode().to_vec();
    let hello = vec![vec![b"hello".to_vec()]];
    let three = vec![vec![b"alpha".to_vec(), b"beta".to_vec()], vec![b"gamma".to_vec()]];
    for (first_seq, timestamp, batches) in [(SeqNo(40), TIME + 1, hello), (SeqNo(41), TIME + 2, three)] {
        let (ends, data) = samples::flatten(&batches);
        let position = FramePosition { salt: SALT, offset: ByteOffset(out.len() as u64) };
        let frame = DataFrame { first_seq, timestamp, durable: Some(SeqNo(40)), ends: &ends, data: &data };
        encode_data(&mut out, &position, &frame);
    }
    let footer_offset = ByteOffset(out.len() as u64);
    let position = FramePosition { salt: SALT, offset: footer_offset };
    encode_control(&mut out, &position, SeqNo(44), TIME + 2, Some(SeqNo(44)), &close());
    out.extend(Trailer { footer_offset }.encode(SALT));
    assert_eq!(out.len(), 344 + TRAILER_LEN);
    assert_eq!(out, file());
}

#[test]
fn the_check_value_of_the_checksum_is_right() {
    let mut sum = stratawal_frame::PayloadChecksum::new();
    sum.update(b"123456789");
    assert_eq!(sum.finish(), crc32(b"123456789"));
    assert!(FORMAT_MD.contains(&format!("is 0x{:08X}", crc32(b"123456789"))));
}

#[test]
fn the_field_tables_have_no_gaps() {
    let mut lines = FORMAT_MD.lines().peekable();
    let mut tables = 0;
    while let Some(line) = lines.next() {
        if line != "| at | bytes | field |" {
            continue;
        }
        tables += 1;
        lines.next();
        let mut expected = 0;
        while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
            let columns: Vec<&str> = row.split('|').map(str::trim).collect();
            // In some tables, the offsets of later rows depend on a length, and so are not numbers.
            let (Ok(at), width) = (columns[1].parse::<usize>(), columns[2].parse::<usize>()) else { break };
            assert_eq!(at, expected, "{row}");
            expected = at + width.unwrap_or(0);
        }
    }
    assert_eq!(tables, 8);
}
