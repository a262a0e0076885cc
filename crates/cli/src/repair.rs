//! `stratawal repair`: shows what can be kept of a damaged log, and repairs it if asked to.

use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use stratawal::repair::{self, Done, Finding, Part, Remedy, RepairOptions};
use stratawal::{DamageKind, Error, ErrorKind, Options, inspect};

use crate::advice::messages_of;
use crate::bounds::entries;
use crate::failure::{DAMAGE, DONE, FAILED, Failure, USAGE, counted, output};
use crate::name::{Escaped, pasteable};
use crate::verify::damage_as_json;
use crate::writer::open_existing;
use crate::{Common, human, json, signals};

/// The part of the help text about JSON.
pub(crate) const JSON: &str = r#"Without --apply, nothing is changed: what is damaged is shown, and what a repair would keep and drop. With --apply, every
file that may change is first copied to a quarantine directory, and synced. It has the layout of the log. To go back, as long as
nothing was appended, truncated or deleted since, close the log, move every file and directory that the quarantine has out
of the log, and copy the quarantine into the log: files from before a repair never go beside files from after it. The
journal may be a copy then: see --adopt-copy.
To keep what is before and what is after the damage, run `salvage` first.
A repair truncates a stream only with --keep. A repair that was interrupted is repeated, with another quarantine.
No process may have the log open for writing, unless without --apply.
--adopt-copy is for a copy that was made while no process had the log open for writing, but before the log was closed, for
example because its process had died. With --apply, it also repairs the copy. A copy that was made while a process had the
log open is of different times: entries may be missing or mixed with others. Close the original, and copy it again.
With --json, a line for each damaged part, then one with the totals:
{"part":"format|journal|stream","stream":"s","damage":[],"remedy":"write|replace|truncate|recover|none",
 "before":{"first":0,"last":9},"after":null,"intact":10,"uncertain":null,"kept":null,"dropped":null,"done":null,
 "message":null}
{"findings":1,"repaired":0,"left":1,"applied":false,"quarantine":null}
`damage` is as in `verify`; `before` and `after` are what --keep would keep; a truncation may have dropped entries in
`uncertain`, which has the form of `before`; `kept` and `dropped` are numbers of entries in the journal; `done` is null, or
with --apply "repaired", "not_chosen", "nothing" or "failed", and `message` has the reason.
`done` is also null for damage that was found once FORMAT was written; repeat the command to repair it.
With --adopt-copy: {"adopted":true}, or false if the log needs no such repair: then nothing is changed. With --apply, this
line comes first, and only if the journal of the copy is sound.
Exit code 1 means that damage is left."#;

/// The arguments of `repair`.
#[derive(Debug, clap::Args)]
pub(crate) struct Repair {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    escaped: Escaped,
    /// Only this stream, and neither FORMAT nor the journal.
    stream: Option<String>,
    /// Repair the log, after copying all files that may change to the quarantine.
    #[arg(long)]
    apply: bool,
    /// Truncate damaged streams, and keep the entries before the damage, or those after it.
    #[arg(long, value_name = "before|after")]
    keep: Option<Side>,
    /// The quarantine directory, which must not exist. By default it is beside the log, and has
    /// the log's name, `.quarantine-` and the time.
    #[arg(long, value_name = "PATH", requires = "apply")]
    quarantine: Option<PathBuf>,
    /// Use this copy of a log as a log of its own. No process may have had the original open for
    /// writing while it was copied. With --apply, repair its damage as well.
    #[arg(long, conflicts_with = "stream")]
    adopt_copy: bool,
    /// Report the repair as JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// The values of `--keep`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Side {
    Before,
    After,
}

/// The findings, and the outcome of each.
struct Report {
    findings: Vec<(Finding, Option<Done>)>,
    /// Set if something was changed, except by the adoption of a copy.
    quarantine: Option<PathBuf>,
    /// Whether the log was a sound copy, and was adopted first.
    is_adopted: bool,
    /// Set if the rest of the log could not be looked at once FORMAT was written.
    unseen: Option<Failure>,
}

impl Repair {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        if self.adopt_copy && !self.apply {
            return self.adopt();
        }
        let name = self.stream.as_deref().map(|stream| self.escaped.name(stream)).transpose()?;
        let mut report = if self.apply { self.repair(name.as_deref())? } else { self.plan(name.as_deref())? };
        self.print(&report).or_else(output)?;
        if let Some(unseen) = report.unseen.take() {
            return Err(unseen);
        }
        let is_failed = |done: &Option<Done>| matches!(done, Some(Done::Failed(_)));
        Ok(match report.left() {
            _ if report.findings.iter().any(|(_, done)| is_failed(done)) => FAILED,
            0 => DONE,
            _ => DAMAGE,
        })
    }

    fn plan(&self, name: Option<&str>) -> Result<Report, Failure> {
        signals::exit_on_interrupt()?;
        let findings = self.common.result(repair::plan(&self.common.dir, name))?;
        let findings = findings.into_iter().map(|finding| (finding, None)).collect();
        Ok(Report { findings, quarantine: None, is_adopted: false, unseen: None })
    }

    fn repair(&self, name: Option<&str>) -> Result<Report, Failure> {
        let quarantine = self.quarantine()?;
        let is_adopted = self.adopt_copy && self.is_sound_copy();
        if is_adopted {
            self.open_adopted()?;
            self.print_adopted(true).or_else(output)?;
        }
        let mut options = RepairOptions::new().adopt_copy(self.adopt_copy);
        if let Some(keep) = self.keep {
            options = options.keep(match keep {
                Side::Before => repair::Keep::Before,
                Side::After => repair::Keep::After,
            });
        }
        if let Some(name) = name {
            options = options.stream(name);
        }
        let repaired = repair::apply(&self.common.dir, &quarantine, &options);
        let repaired = repaired.map_err(|error| of_apply(&self.common, &error))?;
        let is_format_written = match &*repaired.findings {
            [(finding, Done::Repaired)] => finding.part == Part::Format,
            _ => false,
        };
        let mut findings: Vec<_> = repaired.findings.into_iter().map(|(finding, done)| (finding, Some(done))).collect();
        let mut unseen = None;
        if is_format_written {
            match self.plan(name) {
                Ok(rest) => findings.extend(rest.findings),
                Err(failure) => unseen = Some(failure),
            }
        }
        let quarantine = Some(quarantine).filter(|_| repaired.has_quarantine);
        Ok(Report { findings, quarantine, is_adopted, unseen })
    }

    /// Whether the log is a copy that is not damaged.
    fn is_sound_copy(&self) -> bool {
        repair::plan(&self.common.dir, None).is_err_and(|error| error.kind() == ErrorKind::Copied)
    }

    /// Closes a log that was adopted, so that it can be copied. A stream that is damaged may
    /// prevent this, and nothing is lost then.
    fn close_log(&self) {
        if let Ok(wal) = open_existing(&self.common) {
            let _ = wal.close();
        }
    }

    /// The quarantine directory, with the links of its path resolved.
    fn quarantine(&self) -> Result<PathBuf, Failure> {
        let resolve = |path: &Path| {
            fs::canonicalize(path).map_err(|e| Failure::io(&format!("cannot open {}", path.display()), &e))
        };
        let missing = || Failure::new(USAGE, "usage", "give the name of a new directory with --quarantine");
        let log = resolve(&self.common.dir)?;
        let path = match &self.quarantine {
            Some(path) => {
                let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
                resolve(above)?.join(path.file_name().ok_or_else(missing)?)
            }
            None => {
                let time = human::time(SystemTime::now()).replace(['-', ':'], "");
                let time = time.split('.').next().unwrap_or_default();
                let mut name = log.file_name().ok_or_else(missing)?.to_owned();
                name.push(format!(".quarantine-{time}Z"));
                log.with_file_name(name)
            }
        };
        if path.starts_with(&log) {
            let text = format!("the quarantine {} is in the log; give a directory outside of it", path.display());
            return Err(Failure::new(USAGE, "usage", text));
        }
        Ok(path)
    }

    fn print(&self, report: &Report) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let found = report.findings.len();
        let repaired = found - report.left();
        let quarantine = report.quarantine.as_ref().map(|path| path.display().to_string());
        if self.json {
            for (finding, done) in &report.findings {
                writeln!(out, "{}", as_json(finding, done.as_ref()))?;
            }
            let quarantine = json::text_or_null(quarantine.as_deref());
            let numbers = format!(r#""findings":{found},"repaired":{repaired},"left":{}"#, report.left());
            writeln!(out, r#"{{{numbers},"applied":{},"quarantine":{quarantine}}}"#, self.apply)?;
            return out.flush();
        }
        for (finding, done) in &report.findings {
            print_finding(&mut out, finding, done.as_ref())?;
        }
        let parts = counted(found as u64, "damaged part", "damaged parts");
        match quarantine {
            _ if found == 0 && report.is_adopted => writeln!(out, "nothing else to repair: no damage was found")?,
            _ if found == 0 => writeln!(out, "nothing to repair: no damage was found, and nothing was changed")?,
            Some(path) => {
                write!(out, "{parts}, {repaired} repaired; the files as they were are in {path}")?;
                let is_found_late = report.findings.iter().any(|(_, done)| done.is_none());
                let next = if is_found_late { format!("; {}", report.next_step()) } else { String::new() };
                writeln!(out, "{next}")?;
            }
            None if self.apply => writeln!(out, "{parts}, nothing was changed")?,
            None => writeln!(out, "{parts}; nothing was changed; {}", report.next_step())?,
        }
        out.flush()
    }

    fn adopt(&self) -> Result<u8, Failure> {
        signals::exit_on_interrupt()?;
        let journal = self.common.result(inspect::verify_journal(&self.common.dir))?;
        let is_needed = match journal.and_then(|journal| journal.damage) {
            Some(copied) if copied.kind() == ErrorKind::Copied => true,
            // `repair` without --adopt-copy repairs it.
            Some(damage) => return self.common.result(Err(damage)),
            None => false,
        };
        if self.keep.is_some() {
            return Err(Failure::new(USAGE, "usage", "--adopt-copy with --keep needs --apply"));
        }
        if is_needed {
            self.open_adopted()?;
        }
        self.print_adopted(is_needed).or_else(output)?;
        Ok(DONE)
    }

    fn print_adopted(&self, is_adopted: bool) -> io::Result<()> {
        if self.json {
            let mut out = io::stdout().lock();
            return writeln!(out, r#"{{"adopted":{is_adopted}}}"#).and_then(|()| out.flush());
        }
        let done = if is_adopted { "adopted" } else { "nothing to repair: no copy, or one of a closed log" };
        let _ = writeln!(io::stderr(), "{}: {done}", self.common.dir.display());
        Ok(())
    }

    /// Adopts a copy, and closes it.
    fn open_adopted(&self) -> Result<(), Failure> {
        let opened = Options::new().adopt_copy(true).open(&self.common.dir);
        let is_damaged = opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::Damaged);
        let remedy = is_damaged.then_some("`repair --adopt-copy --apply` keeps that, and adopts the copy");
        let wal = self.common.result(opened).map_err(|failure| failure.with(remedy))?;
        self.common.result(wal.close_fast())?;
        self.close_log();
        Ok(())
    }
}

impl Report {
    /// The number of parts that are still damaged.
    fn left(&self) -> usize {
        self.findings.iter().filter(|(_, done)| !matches!(done, Some(Done::Repaired))).count()
    }
}

impl Report {
    /// The options that repair the findings.
    fn next_step(&self) -> &'static str {
        let is_choice = |remedy: &Remedy| matches!(remedy, Remedy::Truncate { .. });
        let left = || self.findings.iter().filter(|(_, done)| !matches!(done, Some(Done::Repaired)));
        let remedies = || left().map(|(finding, _)| &finding.remedy);
        if left().any(|(finding, _)| finding.damage.iter().any(|damage| damage.kind() == ErrorKind::Copied)) {
            "only if no process had the original open while it was copied, repeat the command with --adopt-copy, --apply, and, \
             for streams, a --keep that is possible"
        } else if remedies().any(is_choice) && remedies().any(|remedy| matches!(remedy, Remedy::ReplaceJournal { .. }))
        {
            "repeat the command with --apply alone, which cuts no stream, and then `salvage` copies what can be read; after that, \
             with --apply and a --keep that is possible"
        } else if remedies().any(is_choice) {
            "repeat the command with --apply and a --keep that is possible"
        } else if remedies().all(|remedy| *remedy == Remedy::ByHand) {
            "no option repairs this"
        } else {
            "repeat the command with --apply to repair this"
        }
    }
}

/// The failure of a repair that has changed nothing. A quarantine without room is not a reason to
/// drop entries of a damaged log.
fn of_apply(common: &Common, error: &Error) -> Failure {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::Full if text.contains("the quarantine") => {
            let text = format!("{text}; free some space there, or give a directory on another disk with --quarantine");
            Failure::new(FAILED, error.kind().as_str(), text)
        }
        _ => Failure::of_log(&common.dir, error),
    }
}

fn print_finding(out: &mut impl Write, finding: &Finding, done: Option<&Done>) -> io::Result<()> {
    match &finding.part {
        Part::Stream(name) => writeln!(out, "stream {}:", pasteable(name))?,
        part => writeln!(out, "{part}:")?,
    }
    for message in messages_of(&finding.damage) {
        writeln!(out, "  {}", message.replace('\n', " "))?;
    }
    // The bytes that the entries need are intact.
    let is_only_seals = finding.damage.iter().all(|damage| damage.damage() == Some(DamageKind::Seal));
    let lines = match finding.remedy {
        Remedy::ByHand if is_only_seals => vec!["no repair: nothing has to be done; see above".to_owned()],
        _ => choices(&finding.remedy),
    };
    for line in lines {
        writeln!(out, "  {line}")?;
    }
    match done {
        None => Ok(()),
        Some(Done::Repaired) => writeln!(out, "  => repaired"),
        Some(Done::NotChosen) => {
            writeln!(out, "  => not changed: choose --keep before or --keep after, where it is possible")
        }
        Some(Done::Failed(error)) => {
            writeln!(out, "  => failed: {error}; run the command again once the cause is gone")
        }
        Some(_) => writeln!(out, "  => not changed"),
    }
}

/// What a repair keeps and drops, in words.
fn choices(remedy: &Remedy) -> Vec<String> {
    match remedy {
        Remedy::WriteFormat => {
            vec![
                "repair: FORMAT is written anew, as its other copy or the other files show; no other file is changed"
                    .to_owned(),
            ]
        }
        Remedy::ReplaceJournal { is_unreadable: true, .. } => {
            vec![
                "repair: the journal is written anew, without entries: none of its records can be read; \
                  the entries in the segment files are kept; acknowledged entries that only the journal had are lost, and new \
                  entries get their seqs"
                    .to_owned(),
            ]
        }
        Remedy::ReplaceJournal { kept, dropped, .. } => vec![
            format!(
                "repair: the journal is written anew; {} that only the journal has are kept, although a lost record may have \
                 truncated or deleted some of them; the entries in the segment files are kept",
                counted(*kept, "entry", "entries")
            ),
            format!(
                "{} after a lost one can be read, and are dropped; `cat --skip-damage` prints them before the repair",
                counted(*dropped, "entry", "entries")
            ),
        ],
        Remedy::Truncate { before, after, intact, uncertain, is_usable } => {
            let mut lines = vec![side("before", before.as_ref(), *intact), side("after", after.as_ref(), *intact)];
            lines.push(format!("{} can be read in all; `salvage` copies them", counted(*intact, "entry", "entries")));
            if let Some(uncertain) = uncertain {
                lines.push(format!(
                    "a truncation may have dropped {} or some of them, and the file that would show it is missing; a repair that \
                     keeps them brings them back",
                    entries(uncertain.start, uncertain.end)
                ));
            }
            if *is_usable {
                lines.push("without a repair, the stream can be appended to, and read around the damage".to_owned());
            }
            lines
        }
        Remedy::Recover { seqs } => vec![format!(
            "repair: {} are kept, none is lost; the files that cannot be read and hold no entry are removed",
            entries(seqs.start, seqs.end)
        )],
        _ => vec!["no repair: a person has to decide; see above".to_owned()],
    }
}

fn side(side: &str, kept: Option<&Range<u64>>, intact: u64) -> String {
    match kept {
        Some(kept) => {
            let dropped = intact.saturating_sub(kept.end - kept.start);
            let dropped = counted(dropped, "entry that can be read", "entries that can be read");
            format!("--keep {side}: {} are kept; {dropped} are dropped", entries(kept.start, kept.end))
        }
        None => format!("--keep {side}: not possible, it would keep nothing"),
    }
}

fn as_json(finding: &Finding, done: Option<&Done>) -> String {
    let (part, stream) = match &finding.part {
        Part::Format => ("format", None),
        Part::Journal => ("journal", None),
        Part::Stream(name) => ("stream", Some(&**name)),
        _ => ("other", None),
    };
    let range = |range: &Option<Range<u64>>| {
        let shown = |range: &Range<u64>| format!(r#"{{"first":{},"last":{}}}"#, range.start, range.end - 1);
        range.as_ref().map_or_else(|| "null".to_owned(), shown)
    };
    let null = || "null".to_owned();
    let mut fields = [null(), null(), null(), null(), null(), null()];
    let remedy = match &finding.remedy {
        Remedy::WriteFormat => "write",
        Remedy::ReplaceJournal { kept, dropped, .. } => {
            fields[3] = kept.to_string();
            fields[4] = dropped.to_string();
            "replace"
        }
        Remedy::Truncate { before, after, intact, uncertain, .. } => {
            fields[0] = range(before);
            fields[1] = range(after);
            fields[2] = intact.to_string();
            fields[5] = range(uncertain);
            "truncate"
        }
        Remedy::Recover { seqs } => {
            fields[2] = (seqs.end - seqs.start).to_string();
            "recover"
        }
        _ => "none",
    };
    let [before, after, intact, kept, dropped, uncertain] = fields;
    let damage = damage_as_json(&finding.damage, &messages_of(&finding.damage));
    let done_word = done.map(|done| match done {
        Done::Repaired => "repaired",
        Done::NotChosen => "not_chosen",
        Done::Failed(_) => "failed",
        _ => "nothing",
    });
    let message = done.and_then(|done| if let Done::Failed(error) = done { Some(error.to_string()) } else { None });
    format!(
        r#"{{"part":"{part}","stream":{},"damage":[{}],"remedy":"{remedy}","before":{before},"after":{after},"intact":{intact},"uncertain":{uncertain},"kept":{kept},"dropped":{dropped},"done":{},"message":{}}}"#,
        json::text_or_null(stream),
        damage,
        json::text_or_null(done_word),
        json::text_or_null(message.as_deref()),
    )
}
