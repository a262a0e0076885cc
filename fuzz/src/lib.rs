//! The functions that the fuzz targets call, one for each target. Each takes any bytes, and panics
//! if a property does not hold.
//!
//! The workspace's tests also compile this file, and replay every seed and every regression.
#![forbid(unsafe_code)]

#[path = "../../crates/cli/src/input.rs"]
mod input;
#[path = "../../crates/stratawal/tests/simulation/log.rs"]
mod log;
mod operations;
mod recovery;

use std::io::{self, Read};

use input::{Framing, Piece};
use stratawal::inspect::{escape_name, unescape_name};

/// A target: its name, and the function that checks its bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("cli_lines", cli_lines),
    ("frame_decode", stratawal_frame::properties::decode_any),
    ("index_decode", stratawal_index::properties::decoding_is_total_and_canonical),
    ("journal_replay", stratawal_journal::properties::replay_any),
    ("log_operations", operations::log_operations),
    ("segment_recovery", recovery::segment_recovery),
    ("stream_names", stream_names),
];

/// Runs a target by its name.
///
/// # Panics
/// If a property does not hold, or if no target has this name.
pub fn run(target: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    found.unwrap_or_else(|| panic!("no target {target:?}")).1(bytes);
}

/// Any text is a stream name or is refused. The escaped name is a single, harmless file name, and
/// no other text leads to it.
fn stream_names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(escaped) = escape_name(&text) {
        assert!((1..=240).contains(&escaped.len()), "{escaped:?}");
        let harmless = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'%');
        assert!(escaped.bytes().all(harmless), "{escaped:?}");
        assert!(!escaped.starts_with('.') && !escaped.ends_with('.'), "{escaped:?}");
        assert_eq!(unescape_name(&escaped).as_deref(), Some(&*text));
    }
    // A file name found on disk.
    if let Some(name) = unescape_name(&text) {
        assert_eq!(escape_name(&name).expect("a name that was unescaped can be escaped"), text);
    }
}

/// The entries do not depend on how the input is split into pieces.
fn cli_lines(bytes: &[u8]) {
    /// Bytes split into pieces. A byte before each piece gives its length.
    struct Pieces<'b>(&'b [u8]);

    impl Read for Pieces<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let Some((&len, rest)) = self.0.split_first() else { return Ok(0) };
            let (piece, rest) = rest.split_at(rest.len().min(usize::from(len)));
            if piece.is_empty() && !rest.is_empty() {
                self.0 = rest;
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.0 = rest;
            buf[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    let mut input = Vec::new();
    let mut rest = bytes;
    while let Some((&len, after)) = rest.split_first() {
        let (piece, after) = after.split_at(after.len().min(usize::from(len)));
        input.extend_from_slice(piece);
        rest = after;
    }
    for framing in [Framing::Delimited(b'\n'), Framing::Delimited(0), Framing::LengthPrefixed, Framing::Whole] {
        let (found, cut) = entries(Pieces(bytes), framing);
        match framing {
            Framing::Delimited(delimiter) => {
                let mut expected: Vec<&[u8]> = input.split(|&b| b == delimiter).collect();
                // Input that is empty or ends with a delimiter has no further entry.
                if expected.last().is_some_and(|last| last.is_empty()) {
                    expected.pop();
                }
                assert_eq!(found, expected);
                assert!(!cut);
            }
            Framing::LengthPrefixed => {
                let lengths = found.iter().map(|entry| (entry.len() as u32).to_le_bytes());
                let again: Vec<u8> = lengths.zip(&found).flat_map(|(len, entry)| [&len, &**entry].concat()).collect();
                assert!(input.starts_with(&again), "{found:?}");
                assert_eq!(cut, again.len() < input.len());
            }
            Framing::Whole => assert_eq!((found, cut), (vec![input.clone()], false)),
        }
    }
}

/// Returns the entries of an input, and whether it ended within one of known length.
fn entries(input: impl Read, framing: Framing) -> (Vec<Vec<u8>>, bool) {
    let mut found: Vec<Vec<u8>> = Vec::new();
    let mut entry = Vec::new();
    let mut length = None;
    let mut entries = input::Entries::new(input, framing);
    loop {
        let more = entries.read().expect("no read fails");
        while let Some(piece) = entries.piece() {
            match piece {
                Piece::Length(len) => assert!(entry.is_empty() && length.replace(len).is_none()),
                Piece::Part(part) => entry.extend_from_slice(part),
                Piece::Last(last) => {
                    entry.extend_from_slice(last);
                    assert!(length.take().is_none_or(|len| len == entry.len() as u64));
                    found.push(std::mem::take(&mut entry));
                }
            }
        }
        if !more {
            break;
        }
    }
    let cut = entries.is_cut();
    assert!(cut || entry.is_empty(), "the end of the input ends its last entry");
    (found, cut)
}
