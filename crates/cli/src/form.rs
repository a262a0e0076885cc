//! The form in which entries are printed: as lines, as JSON, by a format of the user's, or with
//! their length before them.

use std::io::{self, Write};

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use stratawal::Entry;

use crate::terminal::{Output, Tone};
use crate::{human, json, name};

/// The part of the help texts about `--format`.
pub(crate) const FORMAT: &str = r"In a --format, these stand for parts of an entry:
  %n  its seq
  %t  its time, in UTC and ISO 8601, such as 2025-01-31T12:00:00.000000Z
  %u  its time, in microseconds since 1970
  %d  its bytes
  %b  its bytes in base64
  %l  the number of its bytes
  %e  1 if it is the last entry of its batch, else 0
  %s  its stream, quoted as a shell needs it
  %S  its stream, as it is
  %%  a percent sign
  \n, \t, \r, \0, \\  a newline, a tab, a carriage return, a NUL, a backslash";

/// The options for the form of the entries.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct FormOptions {
    /// Print each entry in this form, such as '%n %t %d', followed by a newline; see below.
    #[arg(long, value_name = "FORMAT", value_parser = parse_format, conflicts_with_all = ["json", "length_prefixed"])]
    format: Option<Format>,
    /// Print a NUL instead of the newline after each entry, so that entries with newlines stay
    /// apart.
    #[arg(long, conflicts_with_all = ["json", "length_prefixed"])]
    print0: bool,
    /// Print each entry as the number of its bytes, in four bytes with the lowest first, and then
    /// its bytes. `append --length-prefixed` takes the same form.
    #[arg(long, conflicts_with = "json")]
    length_prefixed: bool,
    /// Print each entry as JSON, with its seq and time.
    #[arg(long)]
    json: bool,
}

/// The parts of a `--format`, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Format(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Seq,
    Time,
    Micros,
    Stream,
    StreamAsIs,
    Data,
    Base64,
    Len,
    EndsBatch,
}

/// The form in which entries are printed.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// The parts, and then this byte.
    Text {
        /// The parts of each entry.
        parts: Parts,
        /// The byte after each entry.
        end: u8,
    },
    /// The number of bytes, and then the bytes.
    LengthPrefixed,
    /// An object in a line.
    Json {
        /// Whether the object names the stream.
        has_stream: bool,
    },
}

/// The parts of an entry that [`Form::Text`] prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts(Vec<Part>);

impl FormOptions {
    /// Returns whether entries, notes and errors are JSON.
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Returns the form of the entries of one stream.
    pub(crate) fn of_one(&self) -> Form {
        self.form(false, vec![Part::Data])
    }

    /// Returns the form of the entries of one or more streams that are followed. If there may be
    /// several, each line begins with the name of its stream.
    pub(crate) fn of_followed(&self, are_several: bool) -> Form {
        let name = [Part::Stream, Part::Text(": ".to_owned())];
        let before = if are_several { &name[..] } else { &[] };
        self.form(true, before.iter().cloned().chain([Part::Data]).collect())
    }

    fn form(&self, has_stream: bool, parts: Vec<Part>) -> Form {
        if self.json {
            Form::Json { has_stream }
        } else if self.length_prefixed {
            Form::LengthPrefixed
        } else {
            let parts = self.format.as_ref().map_or(parts, |format| format.0.clone());
            Form::Text { parts: Parts(parts), end: if self.print0 { b'\0' } else { b'\n' } }
        }
    }
}

impl Form {
    /// Returns whether entries are printed as JSON.
    pub(crate) const fn is_json(&self) -> bool {
        matches!(self, Self::Json { .. })
    }

    /// Prints an entry of a stream. `more` is appended to the fields of its JSON; each field begins
    /// with a comma. An entry may be large, so it is not copied as a whole.
    pub(crate) fn print(&self, out: &mut impl Write, stream: &str, entry: &Entry, more: &str) -> io::Result<()> {
        match self {
            Self::Text { parts, end } => {
                parts.0.iter().try_for_each(|part| part.print(out, stream, entry))?;
                out.write_all(&[*end])
            }
            Self::LengthPrefixed => {
                let len = u32::try_from(entry.data().len()).map_err(|_| io::ErrorKind::InvalidData)?;
                out.write_all(&len.to_le_bytes())?;
                out.write_all(entry.data())
            }
            Self::Json { has_stream } => {
                out.write_all(b"{")?;
                if *has_stream {
                    write!(out, r#""stream":{},"#, json::text(stream))?;
                }
                write!(out, r#""seq":{},{},"#, entry.seq(), json::time(entry.timestamp()))?;
                json::write_data(out, entry.data())?;
                writeln!(out, "{more}}}")
            }
        }
    }
}

impl Part {
    fn print(&self, out: &mut impl Write, stream: &str, entry: &Entry) -> io::Result<()> {
        match self {
            Self::Text(text) => out.write_all(text.as_bytes()),
            Self::Seq => write!(out, "{}", entry.seq()),
            Self::Time => write!(out, "{}", human::time(entry.timestamp())),
            Self::Micros => write!(out, "{}", human::micros(entry.timestamp())),
            Self::Stream => {
                let name = name::pasteable(stream);
                write!(out, "{}", Output::Out.paint(Tone::Faint, &name))
            }
            Self::StreamAsIs => out.write_all(stream.as_bytes()),
            Self::Data => out.write_all(entry.data()),
            Self::Base64 => write!(out, "{}", Base64Display::new(entry.data(), &STANDARD)),
            Self::Len => write!(out, "{}", entry.data().len()),
            Self::EndsBatch => write!(out, "{}", u8::from(entry.ends_batch())),
        }
    }
}

/// Parses a format. Anything after `%` or `\` that has no meaning is refused, so that it can get
/// one later.
fn parse_format(text: &str) -> Result<Format, String> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let part = match c {
            '%' => part_of(chars.next())?,
            '\\' => Part::Text(escaped(chars.next())?.into()),
            c => Part::Text(c.into()),
        };
        match part {
            Part::Text(text) => plain.push_str(&text),
            part => {
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(part);
            }
        }
    }
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(Format(parts))
}

fn part_of(letter: Option<char>) -> Result<Part, String> {
    Ok(match letter {
        Some('n') => Part::Seq,
        Some('t') => Part::Time,
        Some('u') => Part::Micros,
        Some('s') => Part::Stream,
        Some('S') => Part::StreamAsIs,
        Some('d') => Part::Data,
        Some('b') => Part::Base64,
        Some('l') => Part::Len,
        Some('e') => Part::EndsBatch,
        Some('%') => Part::Text("%".to_owned()),
        Some(other) => {
            let known = "%n, %t, %u, %s, %S, %d, %b, %l, %e and %%";
            return Err(format!("%{} has no meaning; {known} have one", other.escape_debug()));
        }
        None => return Err("it ends with a single %; %% prints one".to_owned()),
    })
}

fn escaped(letter: Option<char>) -> Result<char, String> {
    match letter {
        Some('n') => Ok('\n'),
        Some('t') => Ok('\t'),
        Some('r') => Ok('\r'),
        Some('0') => Ok('\0'),
        Some('\\') => Ok('\\'),
        Some(other) => Err(format!(r"\{} has no meaning; \n, \t, \r, \0 and \\ have one", other.escape_debug())),
        None => Err(r"it ends with a single backslash; \\ prints one".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_is_split_into_its_parts() {
        let text = |text: &str| Part::Text(text.to_owned());
        let parts = parse_format(r"a%%\t%n%t%u%s%S%d%b%l%e\\\0%%").unwrap();
        let letters = [
            Part::Seq,
            Part::Time,
            Part::Micros,
            Part::Stream,
            Part::StreamAsIs,
            Part::Data,
            Part::Base64,
            Part::Len,
            Part::EndsBatch,
        ];
        let expected = [text("a%\t")].into_iter().chain(letters).chain([text("\\\0%")]);
        assert_eq!(parts, Format(expected.collect()));
        assert_eq!(parse_format(""), Ok(Format(Vec::new())));
    }

    #[test]
    fn unknown_letter_in_a_format_is_refused() {
        for (format, words) in [
            ("%x", "%x has no meaning"),
            ("%n%", "single %"),
            ("%\n", r"%\n has no meaning"),
            (r"\q", r"\q has no meaning"),
            ("a\\", "single backslash"),
        ] {
            let error = parse_format(format).unwrap_err();
            assert!(error.contains(words), "{format}: {error}");
        }
    }
}
