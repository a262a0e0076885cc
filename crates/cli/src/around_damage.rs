//! `stratawal cat --skip-damage`: prints the readable entries and the lost ranges.

use std::io::{self, BufWriter, Write};
use std::ops::Range;

use stratawal::inspect::{Lost, Salvaged};

use crate::cat::Printer;
use crate::failure::{DAMAGE, DONE};
use crate::{bounds, json, name, terminal};

/// Prints entries to `W`, and lost ranges either as notes on standard error or as JSON among the
/// entries.
pub(crate) struct AroundDamage<W: Write> {
    out: BufWriter<W>,
    seqs: Range<u64>,
    printer: Printer,
    damage: bool,
    /// The range of entries already printed that may have been dropped, until the note about them
    /// is printed.
    uncertain: Option<(u64, u64)>,
}

impl<W: Write> AroundDamage<W> {
    /// Creates a printer of the entries in `seqs` and the lost ranges that overlap them.
    pub(crate) fn new(out: W, seqs: Range<u64>, printer: Printer) -> Self {
        Self { out: BufWriter::with_capacity(256 << 10, out), seqs, printer, damage: false, uncertain: None }
    }

    /// Prints an item if it is in the range. Returns whether a later item can still be in the
    /// range.
    pub(crate) fn print(&mut self, item: &Salvaged) -> io::Result<bool> {
        match item {
            Salvaged::Entry(entry) => {
                self.note_uncertain()?;
                if self.seqs.contains(&entry.seq()) {
                    self.printer.print(&mut self.out, entry, "")?;
                }
                Ok(entry.seq() < self.seqs.end)
            }
            Salvaged::Uncertain(entry) => {
                let seq = entry.seq();
                if self.seqs.contains(&seq) && self.printer.print(&mut self.out, entry, r#","uncertain":true"#)? {
                    let first = self.uncertain.map_or(seq, |(first, _)| first);
                    self.uncertain = Some((first, seq));
                    self.damage = true;
                }
                Ok(seq < self.seqs.end)
            }
            Salvaged::Lost(lost) => {
                self.note_uncertain()?;
                self.print_lost(lost)?;
                Ok(lost.first_seq < self.seqs.end)
            }
            // A kind that a later version of the library adds.
            _ => Ok(true),
        }
    }

    /// Prints the pending note, if any, and flushes the output.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.note_uncertain()?;
        self.out.flush()
    }

    /// Returns the exit code, which shows whether damage was found.
    pub(crate) fn code(&self) -> u8 {
        if self.damage { DAMAGE } else { DONE }
    }

    fn print_lost(&mut self, lost: &Lost) -> io::Result<()> {
        let first = lost.first_seq;
        let last = lost.next_seq.map(|next| next - 1);
        if last.is_some_and(|last| last < self.seqs.start) || first >= self.seqs.end {
            return Ok(());
        }
        self.damage = true;
        if self.printer.is_json() {
            let segment = json::text_or_null(lost.error.segment());
            let last = json::number_or_null(last);
            return writeln!(self.out, r#"{{"lost_first":{first},"lost_last":{last},"segment":{segment}}}"#);
        }
        let message = name::message_of(&lost.error);
        // Most messages already state the range.
        if message.contains("be lost") || message.contains("are lost") || message.contains(" is lost") {
            return self.note(&message);
        }
        let range = match last {
            Some(last) if last == first => format!("entry {first} is lost"),
            Some(last) => format!("{} are lost", bounds::entries(first, last + 1)),
            None => format!("entries from {first} on may be lost (how many is not known)"),
        };
        self.note(&format!("{message}, {range}"))
    }

    fn note_uncertain(&mut self) -> io::Result<()> {
        match self.uncertain.take() {
            Some((first, last)) if !self.printer.is_json() => self.note(&format!(
                "{} may have been dropped by `truncate --from`: the file that would show it is missing",
                bounds::entries(first, last + 1)
            )),
            _ => Ok(()),
        }
    }

    /// Prints a note on standard error, after flushing the entries before it.
    fn note(&mut self, text: &str) -> io::Result<()> {
        self.out.flush()?;
        terminal::note(text);
        Ok(())
    }
}
