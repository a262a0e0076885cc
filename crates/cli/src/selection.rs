//! Which entries of a stream a command prints.

use std::time::SystemTime;

use regex::bytes::Regex;
use stratawal::{Entry, Result, Stream};

use crate::bounds::parse_number;
use crate::human;

/// The part of the help texts about times and patterns.
pub(crate) const TIMES: &str = r"A TIME is a duration before now (2h, 90s, 1h 30min), or a time in UTC (2025-01-31, 2025-01-31T12:00:00Z), with an offset
(2025-01-31T12:00:00+02:00) or in seconds since 1970 (@1738324800). If the clock was ever set back, --since begins where
all later entries are of that time or later. A REGEX has the syntax of the Rust crate regex, and is matched with the
bytes of the entry; ^ and $ match its beginning and its end.";

/// The options that select entries of a stream.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Selection {
    /// Begin with this entry.
    #[arg(long, value_name = "SEQ", allow_hyphen_values = true, value_parser = parse_seq)]
    pub(crate) from: Option<u64>,
    /// Only the last N of the entries that the other options select.
    #[arg(short = 'n', long, value_name = "N", allow_hyphen_values = true, value_parser = parse_last)]
    pub(crate) last: Option<u64>,
    /// Only entries that were appended at this time or later, such as `2h` for the last two hours.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = parse_time)]
    pub(crate) since: Option<SystemTime>,
    /// Only entries that were appended before this time.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = parse_time)]
    pub(crate) until: Option<SystemTime>,
    /// Only entries that match this pattern.
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true, value_parser = parse_regex)]
    pub(crate) grep: Option<Regex>,
}

impl Selection {
    /// Returns whether an entry has a time and bytes that are wanted.
    pub(crate) fn has(&self, entry: &Entry) -> bool {
        self.since.is_none_or(|since| entry.timestamp() >= since)
            && self.until.is_none_or(|until| entry.timestamp() < until)
            && self.grep.as_ref().is_none_or(|grep| grep.is_match(entry.data()))
    }

    /// Returns whether seqs or times are selected.
    pub(crate) const fn has_bounds(&self) -> bool {
        self.from.is_some() || self.since.is_some() || self.until.is_some()
    }

    /// Returns the seq of the first entry in the stream to look at: that of `from`, or of `since`
    /// if it is higher.
    ///
    /// # Errors
    /// Same as [`Stream::seq_at`].
    pub(crate) fn begin(&self, stream: &Stream) -> Result<u64> {
        let begin = self.from.unwrap_or(0).max(stream.first_seq());
        match self.since {
            Some(since) => Ok(begin.max(stream.seq_at(since)?)),
            None => Ok(begin),
        }
    }

    /// Returns the end of the entries to look at: `to`, or that of `until` if it is lower, or that
    /// of the stream.
    ///
    /// # Errors
    /// Same as [`Stream::seq_at`].
    pub(crate) fn end(&self, stream: &Stream, to: Option<u64>) -> Result<u64> {
        let end = to.unwrap_or(u64::MAX).min(stream.next_seq());
        match self.until {
            Some(until) => Ok(end.min(stream.seq_at(until)?)),
            None => Ok(end),
        }
    }

    /// Returns where in `begin..end` the last entries begin, if only some of them are wanted. Reads
    /// the entries once more, from the end, if not all of them are selected, because they may not
    /// fit into memory.
    ///
    /// # Errors
    /// Same as [`Stream::iter`].
    pub(crate) fn begin_of_last(&self, stream: &Stream, begin: u64, end: u64) -> Result<u64> {
        let Some(last) = self.last else { return Ok(begin) };
        if self.grep.is_none() && self.until.is_none() {
            return Ok(begin.max(end.saturating_sub(last)));
        }
        let mut left = last;
        let mut first = end;
        if left == 0 {
            return Ok(end);
        }
        for entry in stream.iter(begin..end.max(begin)).rev() {
            let entry = entry?;
            if self.has(&entry) {
                first = entry.seq();
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        Ok(first)
    }
}

/// Parses the seq of an entry to print.
///
/// # Errors
/// A sentence, which gives the way to count from the end.
pub(crate) fn parse_seq(text: &str) -> std::result::Result<u64, String> {
    parse_from_end(text, "entries are numbered from 0")
}

/// Parses the number of the last entries to print.
///
/// # Errors
/// A sentence, which gives the number without its sign.
fn parse_last(text: &str) -> std::result::Result<u64, String> {
    parse_from_end(text, "a number of entries has no sign")
}

/// Parses a number. `negative` is the sentence about one that has a minus sign.
fn parse_from_end(text: &str, negative: &str) -> std::result::Result<u64, String> {
    parse_number(text).map_err(|refused| match text.strip_prefix('-').map(str::parse::<u64>) {
        Some(Ok(n)) => format!("{negative}; -n {n} selects the last {n}"),
        _ => refused,
    })
}

fn parse_time(text: &str) -> std::result::Result<SystemTime, String> {
    human::parse_time_or_age(text, SystemTime::now())
}

fn parse_regex(text: &str) -> std::result::Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        // The other lines show the pattern again.
        let text = error.to_string();
        text.lines().last().unwrap_or(&text).trim_start_matches("error: ").to_owned()
    })
}
