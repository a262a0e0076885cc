//! `stratawal follow`: prints the entries of streams, and then new ones as they are appended.
//!
//! A truncation, a deletion and a new stream of the same name are events that are reported; they
//! never end the command. It ends by a signal, by `--until`, when its output is closed, or by an
//! error.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};

use stratawal::{ErrorKind, FollowEvent, Options, Stream, Wal};

use crate::cat::later_begin;
use crate::failure::{DAMAGE, DONE, FAILED, Failure, USAGE};
use crate::follow_output::Shared;
use crate::form::{Form, FormOptions};
use crate::name::{Escaped, pasteable};
use crate::selection::{self, Selection};
use crate::{Common, form, near, signals};

const JSON: &str = r#"With --json, a line for each entry, and one for each change that dropped entries, with the first and the last of them:
{"stream":"s","seq":0,"time":"2025-01-01T00:00:00.000000Z","text":"…"}
{"stream":"s","truncated_first":0,"truncated_last":9}  the beginning was dropped before it was printed
{"stream":"s","cut_first":90,"cut_last":99}            the end was dropped; the next entries get these seqs again
{"stream":"s","deleted":true}                          the stream was deleted; a new one is followed from its first entry
and at the end: {"streams":1,"entries":100,"bytes":5120,"seconds":0.01,"next":{"s":100}}. Without --json, these changes are
notes on standard error. With several streams, or with --prefix, each line begins with the name of its stream, unless
--format or --length-prefixed is given; there is no order between streams."#;

/// Returns the part of the help text about the output.
pub(crate) fn help() -> String {
    format!("{}\n\n{}\n\n{JSON}", form::FORMAT, selection::TIMES)
}

/// The maximum time for which a follower does not look whether the command is to end.
const WAIT: Duration = Duration::from_millis(100);

/// The maximum time to wait for one of several streams.
const WAIT_OF_SEVERAL: Duration = Duration::from_millis(10);

/// A stream gives way to the next after this many events.
const EVENTS_MAX: usize = 256;

/// The command ends this long after the time of `--until`, because an entry is printed only once
/// it is stable.
const UNTIL_GRACE: Duration = Duration::from_secs(1);

/// The time that an interrupted command has to print the entries that it has read.
const END_TIME_MAX: Duration = Duration::from_secs(1);

/// The arguments of `follow`.
#[derive(Debug, clap::Args)]
pub(crate) struct Follow {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    escaped: Escaped,
    /// The streams. One that does not exist is waited for.
    #[arg(value_name = "STREAM")]
    streams: Vec<String>,
    /// Follow all streams whose names begin with PREFIX, also those that are created later. The
    /// empty prefix '' follows all streams of the log. Use this for some hundred streams at most.
    #[arg(long, value_name = "PREFIX", conflicts_with = "streams")]
    prefix: Option<String>,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    form: FormOptions,
}

impl Follow {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        if self.streams.is_empty() && self.prefix.is_none() {
            let text = "give the streams to follow, or --prefix; --prefix '' follows all streams; see --help";
            return Err(Failure::new(USAGE, "usage", text));
        }
        let names = self.streams.iter().map(|stream| self.escaped.name(stream)).collect::<Result<Vec<_>, _>>()?;
        let common = self.common.clone();
        match &self.prefix {
            Some(prefix) => Following::of_prefix(common, prefix, self.selection.clone(), &self.form).run(),
            None => Following::of_streams(common, names, self.selection.clone(), &self.form).run(),
        }
    }
}

/// The streams that are followed, and how they are printed.
#[derive(Debug)]
pub(crate) struct Following {
    common: Common,
    streams: Streams,
    selection: Selection,
    form: Form,
}

#[derive(Debug)]
enum Streams {
    Named(Vec<String>),
    WithPrefix(String),
}

/// The events of a stream that were printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Printed {
    Nothing,
    Events,
    /// The last event of the stream, after which it has to be looked up again.
    Deletion,
}

impl Following {
    /// Follows these streams.
    pub(crate) fn of_streams(common: Common, names: Vec<String>, selection: Selection, form: &FormOptions) -> Self {
        let mut seen = HashSet::new();
        let names: Vec<_> = names.into_iter().filter(|name| seen.insert(name.clone())).collect();
        let form = form.of_followed(names.len() > 1);
        Self { common, streams: Streams::Named(names), selection, form }
    }

    fn of_prefix(common: Common, prefix: &str, selection: Selection, form: &FormOptions) -> Self {
        let form = form.of_followed(true);
        Self { common, streams: Streams::WithPrefix(prefix.to_owned()), selection, form }
    }

    /// Follows the streams until the command is to end.
    pub(crate) fn run(self) -> Result<u8, Failure> {
        // Entries of the time of `since` are looked up when a stream begins to be followed. Later
        // ones are printed with any time.
        let selected = Selection { since: None, ..self.selection.clone() };
        let shared = Arc::new(Shared::new(selected, self.form.clone()));
        let (ended, wait) = mpsc::channel();
        let at_interrupt = Arc::clone(&shared);
        signals::on_interrupt(self.form.is_json(), move || {
            at_interrupt.interrupt();
            if wait.recv_timeout(END_TIME_MAX).is_err() {
                // The output takes no more. The entries that it did not take are not counted.
                signals::print_in_time(move || at_interrupt.print_summary_only());
            }
            Ok(())
        })?;
        let result = self.follow(&shared);
        let ended_well = shared.end(result.is_ok());
        if shared.is_interrupted() {
            if let Err(failure) = result.and(ended_well) {
                failure.print(self.form.is_json());
            }
            // The process exits with the number of the signal.
            let _ = ended.send(());
            loop {
                thread::park();
            }
        }
        let code = result?;
        ended_well?;
        Ok(code)
    }

    fn follow(&self, shared: &Shared) -> Result<u8, Failure> {
        let wal = self.common.result(Options::new().open_read_only(&self.common.dir))?;
        match &self.streams {
            Streams::Named(names) => self.follow_named(&wal, names, shared),
            Streams::WithPrefix(prefix) => self.follow_prefix(&wal, prefix, shared),
        }
    }

    /// Follows these streams. If there are several, one that fails does not end the others.
    ///
    /// All are followed in this thread, so that at most one entry is in memory, and in turn.
    fn follow_named(&self, wal: &Wal, names: &[String], shared: &Shared) -> Result<u8, Failure> {
        let is_one = names.len() == 1;
        let mut code = DONE;
        let mut fail = |failure: Failure| {
            if is_one {
                return Err(failure);
            }
            shared.print_failure(&failure);
            // Damage takes precedence over streams that could not be read.
            code = if code == DAMAGE { DAMAGE } else { failure.code() };
            Ok(())
        };
        let mut follows = VecDeque::new();
        for name in names {
            match self.begin_following(wal, name, shared) {
                Ok(follow) => follows.push_back((name, follow)),
                Err(failure) => fail(failure)?,
            }
        }
        let wait = if is_one { WAIT } else { WAIT_OF_SEVERAL };
        let mut idle = 0;
        while !shared.is_stopped()
            && let Some((name, mut follow)) = follows.pop_front()
        {
            let mut timeout = Duration::ZERO;
            if idle >= names.len() {
                // The entries are written together once no stream has more of them.
                shared.flush();
                timeout = wait;
            }
            let followed = match self.print_some(name, &mut follow, timeout, shared) {
                Ok(Printed::Nothing) => {
                    idle += 1;
                    if !timeout.is_zero() {
                        self.stop_after_until(shared);
                    }
                    Ok(follow)
                }
                Ok(Printed::Events) => {
                    idle = 0;
                    Ok(follow)
                }
                Ok(Printed::Deletion) => {
                    // A stream that is in use is not looked up again.
                    drop(follow);
                    shared.begin(name, 0);
                    self.common.result(wal.stream(name)).map(|stream| stream.follow(0))
                }
                Err(failure) => Err(failure),
            };
            match followed {
                Ok(follow) => follows.push_back((name, follow)),
                Err(failure) => fail(failure)?,
            }
        }
        Ok(code)
    }

    /// Begins to follow a stream, which may not exist.
    fn begin_following(&self, wal: &Wal, name: &str, shared: &Shared) -> Result<stratawal::Follow, Failure> {
        let stream = self.common.result(wal.stream(name))?;
        if !stream.exists() {
            let near = near::in_log(wal, name).map(|near| format!("; or did you mean {}?", pasteable(&near)));
            let near = near.unwrap_or_default();
            shared.note(&format!("there is no stream {} yet; waiting for its first entry{near}", pasteable(name)));
        }
        let begin = self.common.result(self.begin(&stream))?;
        if stream.exists() {
            if let Some(note) = later_begin(&self.selection, &stream) {
                shared.note(&note);
            }
            if let Some(from) = self.selection.from
                && from > begin
            {
                let name = pasteable(name);
                shared.note(&format!("the next entry of the stream {name} is {begin}; waiting for {from}"));
            }
        }
        shared.begin(name, begin);
        Ok(stream.follow(begin))
    }

    /// Prints the next events of a stream, but not so many that other streams wait for long. Waits
    /// up to `timeout` for the first one.
    fn print_some(
        &self,
        name: &str,
        follow: &mut stratawal::Follow,
        timeout: Duration,
        shared: &Shared,
    ) -> Result<Printed, Failure> {
        let mut printed = Printed::Nothing;
        for _ in 0..EVENTS_MAX {
            let timeout = if printed == Printed::Nothing { timeout } else { Duration::ZERO };
            let Some(event) = self.common.result(follow.next_timeout(timeout))? else { break };
            printed = Printed::Events;
            shared.take(name, &event);
            if event == FollowEvent::Deleted {
                return Ok(Printed::Deletion);
            }
            if shared.is_stopped() {
                break;
            }
        }
        Ok(printed)
    }

    /// Returns the seq from which a stream is followed.
    fn begin(&self, stream: &Stream) -> stratawal::Result<u64> {
        // It cannot be followed from beyond its end: that would mean that entries were dropped.
        let next = stream.next_seq();
        let begin = self.selection.begin(stream)?.min(next);
        self.selection.begin_of_last(stream, begin, next)
    }

    /// Ends the command if the time of `--until` has passed and nothing more is to be read.
    fn stop_after_until(&self, shared: &Shared) {
        let is_past = |until: SystemTime| until.elapsed().is_ok_and(|passed| passed >= UNTIL_GRACE);
        if self.selection.until.is_some_and(is_past) {
            shared.stop();
        }
    }

    fn follow_prefix(&self, wal: &Wal, prefix: &str, shared: &Shared) -> Result<u8, Failure> {
        let positions = self.positions(wal, prefix, shared)?;
        let mut follow = self.common.result(wal.follow_prefix(prefix, positions))?;
        let mut code = DONE;
        let mut failed = HashSet::new();
        while !shared.is_stopped() {
            let next = match follow.next_timeout(Duration::ZERO) {
                Ok(None) => {
                    shared.flush();
                    follow.next_timeout(WAIT)
                }
                next => next,
            };
            match next {
                Ok(Some(event)) => shared.take(&event.stream, &event.event),
                Ok(None) => self.stop_after_until(shared),
                Err(error) => {
                    let (of_stream, kind) = (error.stream().is_some(), error.kind());
                    let failure = Failure::of_log(&self.common.dir, &error);
                    if !of_stream {
                        return Err(failure);
                    }
                    code = if code == DAMAGE || kind == ErrorKind::Damaged { DAMAGE } else { FAILED };
                    // The stream is looked up again after a second.
                    if failed.insert(failure.message().to_owned()) {
                        shared.print_failure(&failure);
                    }
                }
            }
        }
        Ok(code)
    }

    /// Returns where each stream begins to be followed, if that is not its beginning.
    fn positions(&self, wal: &Wal, prefix: &str, shared: &Shared) -> Result<BTreeMap<String, u64>, Failure> {
        let mut positions = BTreeMap::new();
        if self.selection.from.is_none() && self.selection.since.is_none() && self.selection.last.is_none() {
            return Ok(positions);
        }
        let names = self.common.result(wal.streams())?;
        for name in names.into_iter().filter(|name| name.starts_with(prefix)) {
            // The follower reports a stream that cannot be opened.
            if let Ok(stream) = wal.stream(&name)
                && stream.exists()
            {
                let begin = self.common.result(self.begin(&stream))?;
                shared.begin(&name, begin);
                positions.insert(name, begin);
            }
        }
        Ok(positions)
    }
}
