//! The lines of JSON that the program prints.

use crate::cases::{Case, Figures, Run};
use crate::subject::KINDS;

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn level(case: &Case) -> String {
    case.level.map_or_else(|| "-".to_owned(), |level| level.to_string())
}

/// Returns the line for a case and its subjects.
pub(crate) fn case(case: &Case) -> String {
    let subjects: Vec<&str> = KINDS.iter().filter(|kind| case.has(kind)).map(|kind| kind.name).collect();
    format!(
        r#"{{"case":{},"what":{},"unit":{},"better":"{}","level":"{}","subjects":{}}}"#,
        quoted(case.name),
        quoted(case.what),
        quoted(case.unit),
        if case.less { "less" } else { "more" },
        level(case),
        quoted(&subjects.join(" "))
    )
}

fn begun(run: &Run<'_>) -> String {
    let level = level(run.case);
    format!(r#"{{"case":{},"subject":{},"level":"{level}""#, quoted(run.case.name), quoted(run.kind.name))
}

/// Returns the line for a subject that does not have the operation.
pub(crate) fn none(run: &Run<'_>, why: &str) -> String {
    format!(r#"{},"none":{}}}"#, begun(run), quoted(why))
}

/// Returns the line with the figures of a case.
pub(crate) fn figures(run: &Run<'_>, figures: &Figures) -> String {
    let mut line = begun(run);
    line += &format!(r#","unit":{},"value":{:.3}"#, quoted(run.case.unit), figures.value);
    if let Some(took) = &figures.took {
        for (name, part) in [("p50_ns", 0.5), ("p99_ns", 0.99), ("p999_ns", 0.999)] {
            line += &format!(r#","{name}":{}"#, took.at(part));
        }
    }
    line += &format!(r#","entries":{},"bytes":{},"seconds":{:.6}"#, figures.entries, figures.bytes, figures.seconds);
    for (name, value) in &figures.more {
        line += &format!(",{}:{value:.3}", quoted(name));
    }
    let notes: Vec<&str> = [run.kind.note, &figures.note].into_iter().filter(|note| !note.is_empty()).collect();
    line += &format!(r#","note":{}}}"#, quoted(&notes.join("; ")));
    line
}
