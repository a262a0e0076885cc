//! Cutting input into lines: the newline ends a line and is no part of it; every other byte is.

use std::io::{self, Read};

/// How much is read at a time.
const READ_LEN: usize = 64 << 10;

/// Lines of one input, block by block: what one read brings is told before the next read waits.
pub(crate) struct Lines<R> {
    input: R,
    block: Vec<u8>,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
}

impl<R: Read> Lines<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, block: vec![0; READ_LEN], partial: Vec::new() }
    }

    /// Reads once and tells the lines that are whole by then; at the end, the last one too. `false` at the end.
    pub(crate) fn read(&mut self, line: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        let n = loop {
            match self.input.read(&mut self.block) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        let mut rest = &self.block[..n];
        while let Some(end) = rest.iter().position(|&b| b == b'\n') {
            if self.partial.is_empty() {
                line(&rest[..end]);
            } else {
                self.partial.extend_from_slice(&rest[..end]);
                line(&self.partial);
                self.partial.clear();
            }
            rest = &rest[end + 1..];
        }
        self.partial.extend_from_slice(rest);
        if n == 0 && !self.partial.is_empty() {
            line(&self.partial);
            self.partial.clear();
        }
        Ok(n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers the given pieces, a piece a read.
    struct Pieces(Vec<Vec<u8>>);

    impl Read for Pieces {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0);
            buf[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    fn blocks(pieces: &[&str]) -> Vec<Vec<String>> {
        let mut lines = Lines::new(Pieces(pieces.iter().map(|p| p.as_bytes().to_vec()).collect()));
        let mut blocks = Vec::new();
        loop {
            let mut block = Vec::new();
            let more = lines.read(&mut |line| block.push(String::from_utf8(line.to_vec()).unwrap())).unwrap();
            blocks.push(block);
            if !more {
                return blocks;
            }
        }
    }

    #[test]
    fn whole_lines_are_told_with_the_read_that_ends_them() {
        assert_eq!(blocks(&["a\nb\nc", "d\n", "e"]), [vec!["a", "b"], vec!["cd"], vec![], vec!["e"]]);
    }

    #[test]
    fn only_the_newline_ends_a_line() {
        assert_eq!(blocks(&["a\r\n\0\r\x0b\n\n"]), [vec!["a\r", "\0\r\x0b", ""], vec![]]);
    }

    #[test]
    fn empty_input_has_no_line() {
        assert_eq!(blocks(&[]), [Vec::<String>::new()]);
    }
}
