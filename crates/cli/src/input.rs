//! Splits input into lines. A newline ends a line and is not part of it; every other byte is.

use std::io::{self, BufRead, Read};

/// The maximum number of bytes in one read.
const READ_LEN: usize = 64 << 10;

/// A piece of a line, from a single read. Because lines are passed on in pieces, the length of a
/// line does not affect memory here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// The line continues after these bytes.
    Part(&'a [u8]),
    /// The line ends after these bytes, which may be none.
    Last(&'a [u8]),
}

/// The lines of one input, read by read. All pieces of one read are returned before the next read,
/// which may wait.
pub(crate) struct Lines<R> {
    input: R,
    block: Vec<u8>,
    /// The range of the block that was read but not yet returned.
    unread: std::ops::Range<usize>,
    /// Whether the current line has begun but not ended.
    begun: bool,
    ended: bool,
}

impl<R: Read> Lines<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, block: vec![0; READ_LEN], unread: 0..0, begun: false, ended: false }
    }

    /// Reads once; [`piece`](Self::piece) then returns the pieces. Returns false at the end of the
    /// input, after which the last line may still have a final piece.
    pub(crate) fn read(&mut self) -> io::Result<bool> {
        let n = loop {
            match self.input.read(&mut self.block) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.unread = 0..n;
        self.ended = n == 0;
        Ok(n > 0)
    }

    /// Returns the next piece of the last read.
    pub(crate) fn piece(&mut self) -> Option<Piece<'_>> {
        let unread = &self.block[self.unread.clone()];
        if unread.is_empty() {
            // The end of the input ends its last line.
            return (self.ended && std::mem::take(&mut self.begun)).then_some(Piece::Last(&[]));
        }
        // Std's search for a byte is fast even in builds without optimisation.
        let len = (&mut &*unread).skip_until(b'\n').expect("invariant: reading from memory does not fail");
        self.unread.start += len;
        let piece = &unread[..len];
        let whole = piece.strip_suffix(b"\n");
        self.begun = whole.is_none();
        Some(whole.map_or(Piece::Part(piece), Piece::Last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that returns one of these texts for each read.
    struct Texts(Vec<Vec<u8>>);

    impl Read for Texts {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let text = self.0.remove(0);
            buf[..text.len()].copy_from_slice(&text);
            Ok(text.len())
        }
    }

    /// Returns the pieces of each read. A piece that ends a line is marked with `$`.
    fn pieces(texts: &[&str]) -> Vec<Vec<String>> {
        let mut lines = Lines::new(Texts(texts.iter().map(|text| text.as_bytes().to_vec()).collect()));
        let mut reads = Vec::new();
        loop {
            let more = lines.read().unwrap();
            let mut pieces = Vec::new();
            while let Some(piece) = lines.piece() {
                let (bytes, end) = match piece {
                    Piece::Part(bytes) => (bytes, ""),
                    Piece::Last(bytes) => (bytes, "$"),
                };
                pieces.push(format!("{}{end}", std::str::from_utf8(bytes).unwrap()));
            }
            reads.push(pieces);
            if !more {
                return reads;
            }
        }
    }

    #[test]
    fn a_line_comes_in_pieces_as_it_was_read() {
        let expected = [vec!["a$", "b$", "c"], vec!["d"], vec!["$", "e"], vec!["$"]];
        assert_eq!(pieces(&["a\nb\nc", "d", "\ne"]), expected);
        assert_eq!(pieces(&["a", "b\n"]), [vec!["a"], vec!["b$"], vec![]]);
    }

    #[test]
    fn only_the_newline_ends_a_line() {
        assert_eq!(pieces(&["a\r\n\0\r\x0b\n\n"]), [vec!["a\r$", "\0\r\x0b$", "$"], vec![]]);
    }

    #[test]
    fn empty_input_has_no_line() {
        assert_eq!(pieces(&[]), [Vec::<String>::new()]);
    }
}
