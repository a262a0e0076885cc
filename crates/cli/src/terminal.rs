//! The terminal: whether standard output or standard error is one, how wide it is, whether it takes
//! colours; and a line of progress.

use std::env;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

use console::{Style, Term};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::event::{PollFd, PollFlags, Timespec};

/// The width of lines for an output that is not a terminal, in columns.
const WIDTH: usize = 80;

/// How often a line of progress is drawn, in a second.
const DRAWS_PER_SECOND: u8 = 5;

/// The line is drawn this often although nothing was done, so that the time left stays true.
const TICK: Duration = Duration::from_millis(500);

/// One of the two outputs of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// The meaning of a piece of text, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// A heading of a column.
    Heading,
    /// Sound.
    Good,
    /// Something to look at.
    Warning,
    /// Damage, an error.
    Bad,
    /// Less important than the text around it.
    Faint,
}

impl Output {
    fn term(self) -> Term {
        match self {
            Self::Out => Term::stdout(),
            Self::Err => Term::stderr(),
        }
    }

    /// Returns whether this is a terminal.
    pub(crate) fn is_terminal(self) -> bool {
        self.term().is_term()
    }

    /// Returns the columns of the terminal, or 80 if this stream is none, or its width is not
    /// known.
    pub(crate) fn width(self) -> usize {
        match self.term().size_checked() {
            Some((_, columns)) if columns > 0 && self.is_terminal() => columns.into(),
            _ => WIDTH,
        }
    }

    /// Returns whether colours may be printed: only to a terminal that is not `dumb`, and not if
    /// the environment has a `NO_COLOR` that is not empty.
    pub(crate) fn has_colours(self) -> bool {
        static OUT: OnceLock<bool> = OnceLock::new();
        static ERR: OnceLock<bool> = OnceLock::new();
        let known = if self == Self::Out { &OUT } else { &ERR };
        *known.get_or_init(|| {
            let is_forbidden = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            self.is_terminal() && !is_forbidden && !console::is_dumb()
        })
    }

    /// Returns whether the reader of this output is gone, so that nothing more can be written.
    pub(crate) fn is_closed(self) -> bool {
        let out = io::stdout();
        let err = io::stderr();
        let fd = match self {
            Self::Out => out.as_fd(),
            Self::Err => err.as_fd(),
        };
        let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
        // If this fails, the next write finds it out.
        let found = rustix::event::poll(&mut polled, Some(&Timespec::default()));
        found.is_ok() && polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }

    /// Returns `text` in the colour of its tone, or as it is if this has no colours.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        if !self.has_colours() {
            return text.to_owned();
        }
        let style = Style::new().force_styling(true);
        let style = match tone {
            Tone::Heading => style.bold(),
            Tone::Good => style.green(),
            Tone::Warning => style.yellow(),
            Tone::Bad => style.red().bold(),
            Tone::Faint => style.dim(),
        };
        style.apply_to(text).to_string()
    }
}

/// Returns the columns that `text`, which has no colours, takes on a terminal.
pub(crate) fn columns(text: &str) -> usize {
    console::measure_text_width(text)
}

/// Prints a note as one line on standard error. If that fails, nowhere else remains to print it.
pub(crate) fn note(text: &str) {
    let start = Output::Err.paint(Tone::Warning, "stratawal: note:");
    // One write, because other processes may write there too.
    let _ = io::stderr().write_all(format!("{start} {}\n", text.replace('\n', " ")).as_bytes());
}

/// A line of progress on standard error. It appears only on a terminal, is drawn a few times a
/// second, and is removed when the last clone is dropped, or by [`clear`](Self::clear).
///
/// While it is shown, everything else is printed by [`print`](Self::print), and a command that is
/// interrupted clears it first.
#[derive(Clone, Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Creates a line that counts bytes, with a bar, the rate and the time left.
    pub(crate) fn of_bytes(total: u64) -> Self {
        Self::new(total, "{msg} [{wide_bar}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
    }

    /// Creates a line for work of unknown length, that shows only the message and the time.
    pub(crate) fn of_unknown() -> Self {
        Self::new(0, "{msg} ({elapsed})")
    }

    fn new(total: u64, template: &str) -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
        let style = ProgressStyle::with_template(template).expect("invariant: the template is valid");
        let bar = ProgressBar::with_draw_target(Some(total), target);
        bar.set_style(style.progress_chars("=> "));
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
    }

    /// `n` more bytes are done.
    pub(crate) fn add(&self, n: u64) {
        self.0.inc(n);
    }

    /// Replaces the message, with which the line begins.
    pub(crate) fn say(&self, message: impl Into<String>) {
        if !self.0.is_hidden() {
            self.0.set_message(message.into());
        }
    }

    /// Calls `print` while the line is removed, so that what it prints is not mixed with the line.
    pub(crate) fn print<T>(&self, print: impl FnOnce() -> T) -> T {
        if self.0.is_hidden() { print() } else { self.0.suspend(print) }
    }

    /// Removes the line.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}
