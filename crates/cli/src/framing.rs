//! The options for the form of an input, which sets where its entries end, and positions in an
//! input.

use std::fmt;

use crate::input::Framing;

/// The options for where the entries of an input end.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[group(multiple = false)]
pub(crate) struct FramingOptions {
    /// A NUL ends an entry, not a newline. `cat --print0` prints this form.
    #[arg(long)]
    null: bool,
    /// This byte ends an entry, not a newline: an ASCII character, or \n, \t, \r, \0, \\, or \x and
    /// two hexadecimal digits.
    #[arg(long, value_name = "BYTE", value_parser = parse_byte)]
    delimiter: Option<u8>,
    /// Before each entry is the number of its bytes, in four bytes with the lowest first. `cat
    /// --length-prefixed` prints this form.
    #[arg(long)]
    length_prefixed: bool,
    /// Each FILE, as a whole, is one entry.
    #[arg(long)]
    file_per_entry: bool,
}

impl FramingOptions {
    pub(crate) fn framing(self) -> Framing {
        match self {
            Self { length_prefixed: true, .. } => Framing::LengthPrefixed,
            Self { file_per_entry: true, .. } => Framing::Whole,
            Self { null: true, .. } => Framing::Delimited(b'\0'),
            Self { delimiter, .. } => Framing::Delimited(delimiter.unwrap_or(b'\n')),
        }
    }
}

/// Parses a byte as the user writes it.
fn parse_byte(text: &str) -> Result<u8, String> {
    let refused = || "give one ASCII character, or \\n, \\t, \\r, \\0, \\\\ or \\xHH".to_owned();
    match text.as_bytes() {
        [byte] => Ok(*byte),
        b"\\n" => Ok(b'\n'),
        b"\\t" => Ok(b'\t'),
        b"\\r" => Ok(b'\r'),
        b"\\0" => Ok(b'\0'),
        b"\\\\" => Ok(b'\\'),
        [b'\\', b'x', digits @ ..] if digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit) => {
            u8::from_str_radix(&text[2..], 16).map_err(|_| refused())
        }
        _ => Err(refused()),
    }
}

/// The position of an entry in an input, for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position<'a> {
    /// The name of the input.
    pub(crate) input: &'a str,
    framing: Framing,
    /// Counted from 1.
    number: u64,
}

impl<'a> Position<'a> {
    /// The position of the first entry.
    pub(crate) const fn first(input: &'a str, framing: Framing) -> Self {
        Self { input, framing, number: 1 }
    }

    /// Advances to the next entry.
    pub(crate) const fn advance(&mut self) {
        self.number += 1;
    }

    /// Returns the word for an entry of the input.
    pub(crate) fn unit(&self) -> &'static str {
        if self.framing == Framing::Delimited(b'\n') { "line" } else { "entry" }
    }

    /// Returns the input, and where in it the entry is, for a message about reading.
    pub(crate) fn place(&self) -> String {
        match self.framing {
            Framing::Whole => self.input.to_owned(),
            _ => format!("{} (at {} {})", self.input, self.unit(), self.number),
        }
    }
}

impl fmt::Display for Position<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.framing {
            Framing::Whole => f.write_str(self.input),
            _ => write!(f, "{}, {} {}", self.input, self.unit(), self.number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_is_a_character_or_an_escape() {
        let bytes =
            [(";", b';'), ("\\", b'\\'), (r"\n", b'\n'), (r"\\", b'\\'), (r"\0", 0), (r"\x1e", 0x1e), (r"\xFF", 255)];
        for (text, byte) in bytes {
            assert_eq!(parse_byte(text), Ok(byte), "{text}");
        }
        for text in ["", "ab", "é", r"\x", r"\x1", r"\x123", r"\x+1", r"\q"] {
            assert!(parse_byte(text).is_err(), "{text}");
        }
    }
}
