//! Cuts an input into entries without holding a whole entry.

use std::io::{self, BufRead, Read};

/// The maximum number of bytes in one read.
const READ_LEN: usize = 64 << 10;

/// The number of bytes of a length before an entry.
const LENGTH_LEN: usize = 4;

/// Where the entries of an input end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// This byte ends each entry, and is not part of it. The end of the input ends its last entry,
    /// if that has begun.
    Delimited(u8),
    /// The number of its bytes is before each entry.
    LengthPrefixed,
    /// The input is one entry.
    Whole,
}

/// A piece of an entry, from a single read. Because entries are passed on in pieces, the length of
/// an entry does not affect memory here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// An entry of this many bytes begins. Only a length-prefixed input has such pieces.
    Length(u64),
    /// The entry continues after these bytes.
    Part(&'a [u8]),
    /// The entry ends after these bytes, which may be none.
    Last(&'a [u8]),
}

/// The entries of one input, read by read. All pieces of one read are returned before the next
/// read, which may wait.
pub(crate) struct Entries<R> {
    input: R,
    framing: Framing,
    block: Vec<u8>,
    /// The range of the block that was read but not yet returned.
    unread: std::ops::Range<usize>,
    state: State,
    ended: bool,
}

/// The position within an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between two entries.
    Between,
    /// Within a delimited entry, or a whole input.
    Begun,
    /// Within the length before an entry, of which these bytes are known.
    Length([u8; LENGTH_LEN], usize),
    /// Within an entry of which this many bytes are missing.
    Missing(u32),
    /// The only entry was returned.
    Done,
}

impl<R: Read> Entries<R> {
    pub(crate) fn new(input: R, framing: Framing) -> Self {
        Self { input, framing, block: vec![0; READ_LEN], unread: 0..0, state: State::Between, ended: false }
    }

    /// Reads once; [`piece`](Self::piece) then returns the pieces. Returns false at the end of the
    /// input, after which the last entry may still have a final piece.
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
        match self.framing {
            Framing::Delimited(delimiter) => self.delimited(delimiter),
            Framing::LengthPrefixed => self.length_prefixed(),
            Framing::Whole => self.whole(),
        }
    }

    /// Returns whether the input ended within an entry, or within its length.
    pub(crate) const fn is_cut(&self) -> bool {
        self.ended && matches!(self.state, State::Length(..) | State::Missing(_))
    }

    fn delimited(&mut self, delimiter: u8) -> Option<Piece<'_>> {
        let unread = &self.block[self.unread.clone()];
        if unread.is_empty() {
            // The end of the input ends its last entry.
            let is_last = self.ended && self.state == State::Begun;
            self.state = if is_last { State::Done } else { self.state };
            return is_last.then_some(Piece::Last(&[]));
        }
        // Std's search for a byte is fast even in builds without optimisation.
        let len = (&mut &*unread).skip_until(delimiter).expect("invariant: reading from memory does not fail");
        self.unread.start += len;
        let piece = &unread[..len];
        let whole = piece.strip_suffix(&[delimiter]);
        self.state = if whole.is_some() { State::Between } else { State::Begun };
        Some(whole.map_or(Piece::Part(piece), Piece::Last))
    }

    fn length_prefixed(&mut self) -> Option<Piece<'_>> {
        let mut missing = match self.state {
            State::Missing(missing) => missing,
            State::Length(bytes, known) => return self.length(bytes, known),
            _ => return self.length([0; LENGTH_LEN], 0),
        };
        let unread = &self.block[self.unread.clone()];
        if unread.is_empty() && missing > 0 {
            return None;
        }
        let len = unread.len().min(missing as usize);
        missing -= len as u32;
        self.unread.start += len;
        let piece = &unread[..len];
        self.state = if missing == 0 { State::Between } else { State::Missing(missing) };
        Some(if missing == 0 { Piece::Last(piece) } else { Piece::Part(piece) })
    }

    /// Takes bytes of the length of the next entry.
    fn length(&mut self, mut bytes: [u8; LENGTH_LEN], known: usize) -> Option<Piece<'_>> {
        let unread = &self.block[self.unread.clone()];
        let len = unread.len().min(LENGTH_LEN - known);
        bytes[known..known + len].copy_from_slice(&unread[..len]);
        self.unread.start += len;
        let known = known + len;
        if known < LENGTH_LEN {
            self.state = if known == 0 { State::Between } else { State::Length(bytes, known) };
            return None;
        }
        let length = u32::from_le_bytes(bytes);
        self.state = State::Missing(length);
        Some(Piece::Length(length.into()))
    }

    fn whole(&mut self) -> Option<Piece<'_>> {
        let unread = &self.block[self.unread.clone()];
        self.unread.start = self.unread.end;
        if !unread.is_empty() {
            return Some(Piece::Part(unread));
        }
        let is_last = self.ended && self.state != State::Done;
        self.state = if is_last { State::Done } else { self.state };
        is_last.then_some(Piece::Last(&[]))
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

    fn pieces(texts: &[&str]) -> Vec<Vec<String>> {
        framed(Framing::Delimited(b'\n'), texts)
    }

    /// Returns the pieces of each read. A piece that ends an entry is marked with `$`, and a length
    /// with `#`.
    fn framed(framing: Framing, texts: &[&str]) -> Vec<Vec<String>> {
        let mut lines = Entries::new(Texts(texts.iter().map(|text| text.as_bytes().to_vec()).collect()), framing);
        let mut reads = Vec::new();
        loop {
            let more = lines.read().unwrap();
            let mut pieces = Vec::new();
            while let Some(piece) = lines.piece() {
                let text = |bytes| std::str::from_utf8(bytes).unwrap();
                pieces.push(match piece {
                    Piece::Length(len) => format!("#{len}"),
                    Piece::Part(bytes) => text(bytes).to_owned(),
                    Piece::Last(bytes) => format!("{}$", text(bytes)),
                });
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

    #[test]
    fn another_byte_may_end_an_entry() {
        assert_eq!(framed(Framing::Delimited(b'\0'), &["a\n\0b", "\0\0"]), [vec!["a\n$", "b"], vec!["$", "$"], vec![]]);
    }

    #[test]
    fn a_length_and_its_entry_may_come_in_pieces() {
        let expected = [vec!["#3", "abc$", "#0", "$"], vec![], vec!["#2"], vec!["x"], vec!["y$"], vec![]];
        assert_eq!(framed(Framing::LengthPrefixed, &["\x03\0\0\0abc\0\0\0\0", "\x02\0\0", "\0", "x", "y"]), expected);
        for (cut, text) in
            [(false, ""), (false, "\0\0\0\0"), (true, "\x01\0\0"), (true, "\x01\0\0\0"), (true, "\x02\0\0\0a")]
        {
            let mut entries = Entries::new(text.as_bytes(), Framing::LengthPrefixed);
            while entries.read().unwrap() {
                while entries.piece().is_some() {}
            }
            assert_eq!(entries.piece(), None);
            assert_eq!(entries.is_cut(), cut, "{text:?}");
        }
    }

    #[test]
    fn a_whole_input_is_one_entry_even_if_empty() {
        assert_eq!(framed(Framing::Whole, &[]), [vec!["$"]]);
        assert_eq!(framed(Framing::Whole, &["a\n", "b"]), [vec!["a\n"], vec!["b"], vec!["$"]]);
    }
}
