//! What the fuzz targets call: a function each, on any bytes, that panics where something does not
//! hold.
//!
//! The tests of the workspace compile this file too, and replay every seed and every regression.
#![forbid(unsafe_code)]

#[path = "../../crates/cli/src/lines.rs"]
mod lines;
mod operations;
mod recovery;
#[path = "../../crates/stratawal/tests/simulation/subject.rs"]
mod subject;

use std::io::{self, Read};

use stratawal::inspect::{escape_name, unescape_name};

/// A target: its name, and what it does with its bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 6] = [
    ("cli_lines", cli_lines),
    ("frame_decode", stratawal_frame::properties::decode_any),
    ("index_decode", stratawal_index::properties::decoding_is_total_and_canonical),
    ("log_operations", operations::log_operations),
    ("segment_recovery", recovery::segment_recovery),
    ("stream_names", stream_names),
];

/// Runs a target by its name.
///
/// # Panics
/// Where something does not hold, or there is no such target.
pub fn run(target: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    found.unwrap_or_else(|| panic!("no target {target:?}")).1(bytes);
}

/// Any text is a stream name or is refused; what it becomes on disk is one harmless file name, and
/// leads back to it alone.
fn stream_names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(escaped) = escape_name(&text) {
        assert!((1..=240).contains(&escaped.len()), "{escaped:?}");
        let harmless = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'%');
        assert!(escaped.bytes().all(harmless), "{escaped:?}");
        assert!(!escaped.starts_with('.') && !escaped.ends_with('.'), "{escaped:?}");
        assert_eq!(unescape_name(&escaped).as_deref(), Some(&*text));
    }
    // A name that is found on disk.
    if let Some(name) = unescape_name(&text) {
        assert_eq!(escape_name(&name).expect("what a name is read from can be written"), text);
    }
}

/// Input cut anywhere is the same lines.
fn cli_lines(bytes: &[u8]) {
    /// Bytes in pieces whose lengths stand before them.
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
    while let Some((&len, behind)) = rest.split_first() {
        let (piece, behind) = behind.split_at(behind.len().min(usize::from(len)));
        input.extend_from_slice(piece);
        rest = behind;
    }
    let mut found: Vec<Vec<u8>> = Vec::new();
    let mut line = Vec::new();
    let mut lines = lines::Lines::new(Pieces(bytes));
    loop {
        let more = lines.read().expect("nothing fails");
        while let Some(piece) = lines.piece() {
            match piece {
                lines::Piece::Part(part) => line.extend_from_slice(part),
                lines::Piece::Last(last) => {
                    line.extend_from_slice(last);
                    found.push(std::mem::take(&mut line));
                }
            }
        }
        if !more {
            break;
        }
    }
    assert!(line.is_empty(), "the end of the input ends its last line");
    let mut expected: Vec<&[u8]> = input.split(|&b| b == b'\n').collect();
    // What ends with a newline, or is empty, has no line behind it.
    if expected.last().is_some_and(|last| last.is_empty()) {
        expected.pop();
    }
    assert_eq!(found, expected);
}
