//! The page of results: a summary, and a table for each case.

use super::json::{fields, text};
use super::machine::Machine;
use super::plot::wrapped;
use super::{Outcome, Results};

/// The maximum columns of a line of text on the page.
const COLUMNS: usize = 120;

/// The figures of all rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) least: f64,
    pub(super) median: f64,
    pub(super) greatest: f64,
}

impl Spread {
    /// Returns `None` without figures. For an even number of figures, the median is the mean of the
    /// middle two.
    pub(super) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.retain(|figure| figure.is_finite());
        figures.sort_by(f64::total_cmp);
        let &least = figures.first()?;
        let &greatest = figures.last()?;
        let middle = figures.len() / 2;
        let median =
            if figures.len() % 2 == 1 { figures[middle] } else { (figures[middle - 1] + figures[middle]) / 2.0 };
        Some(Self { least, median, greatest })
    }
}

/// Formats a figure with three significant digits and thousands separators.
pub(super) fn figure(value: f64) -> String {
    if value.abs() < 99.95 {
        return match value.abs() {
            small if small < 0.9995 => format!("{value:.3}"),
            small if small < 9.995 => format!("{value:.2}"),
            _ => format!("{value:.1}"),
        };
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, c) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// The standard fields of a line. All others are further figures.
const STANDARD: [&str; 12] =
    ["case", "subject", "level", "unit", "value", "p50_ns", "p99_ns", "p999_ns", "entries", "bytes", "seconds", "note"];

impl Results {
    pub(super) fn median(&self, subject: &str) -> Option<f64> {
        let (_, outcome) = self.outcomes.iter().find(|(name, _)| name == subject)?;
        outcome.spread("value").map(|spread| spread.median)
    }

    /// Returns the peer with the best median, and this median.
    fn best_peer(&self) -> Option<(&str, f64)> {
        self.best_of("value", self.case.less)
    }

    /// Returns the peer with the best median of a figure, and this median.
    fn best_of(&self, figure: &str, less: bool) -> Option<(&str, f64)> {
        let peers = self.outcomes.iter().filter(|(name, _)| !is_raw(name) && !is_ours(name));
        let medians = peers.filter_map(|(name, outcome)| Some((name.as_str(), outcome.spread(figure)?.median)));
        medians.min_by(|one, other| {
            let (one, other) = if less { (one.1, other.1) } else { (other.1, one.1) };
            one.total_cmp(&other)
        })
    }

    /// Returns how many times as good as `base` the value is.
    fn ratio(&self, value: f64, base: Option<f64>) -> String {
        times(value, base, self.case.less)
    }
}

/// Returns how many times as good as `base` the value is.
fn times(value: f64, base: Option<f64>, less: bool) -> String {
    let Some(base) = base.filter(|base| *base > 0.0 && value > 0.0) else { return "—".to_owned() };
    format!("{:.2}", if less { base / value } else { value / base })
}

pub(super) fn is_raw(subject: &str) -> bool {
    subject.starts_with("raw")
}

pub(super) fn is_ours(subject: &str) -> bool {
    subject.starts_with("stratawal")
}

/// Escapes text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// Returns the page: the summary, and a section for each case. The plots are in the same directory.
pub(super) fn page(results: &[Results], machine: &Machine, conditions: &str) -> String {
    let mut out = "# Comparison with other logs and with raw loops\n\n".to_owned();
    out += &head(results, machine, conditions);
    for one in results {
        out += &section(one, machine);
    }
    out
}

/// Returns the head of the page: the machine, the conditions, and the summary.
pub(super) fn head(results: &[Results], machine: &Machine, conditions: &str) -> String {
    let paragraphs = [
        format!("{}.", cell(&machine.in_a_line())),
        format!(
            "{conditions}; median (least to greatest). Each row of appends compares one guarantee: *buffered* survives \
             nothing, *flushed* a process crash, *synced* power loss. A log that is read was written with the \
             guarantee that the row names, or with the nearest one that the log offers; the table of the case names it. \
             *Raw* is a plain loop without a log around it. Columns with × give a ratio: above 1 means better than the \
             subject of comparison. A dash (—) marks work that a log cannot do."
        ),
        format!("The others: {}.", others(results, machine)),
    ];
    let mut out = String::new();
    for paragraph in paragraphs {
        out += &wrapped(&paragraph, COLUMNS).join("\n");
        out += "\n\n";
    }
    out += "| case | work | unit | raw | stratawal | × raw | best peer | × best peer | ironwal |\n";
    out += "|---|---|---|---|---|---|---|---|---|\n";
    results.iter().for_each(|one| out += &summary(one));
    out
}

/// Returns the names of the other logs, each with its version.
fn others(results: &[Results], machine: &Machine) -> String {
    let mut names: Vec<String> = Vec::new();
    let subjects = results.iter().flat_map(|one| &one.outcomes).map(|(name, _)| name);
    for name in subjects.filter(|name| !is_raw(name) && !is_ours(name)).map(|name| machine.versioned(name)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

fn summary(one: &Results) -> String {
    let raw = one.median("raw");
    let best = one.best_peer();
    let shown = |value: Option<f64>| value.map_or("—".to_owned(), figure);
    let mut out = String::new();
    let ways = [
        ("stratawal", ""),
        ("stratawal-runs", ", by runs"),
        ("stratawal-off", ", no journal"),
        ("stratawal-written", ", journal written"),
        ("stratawal-mapped", ", mapped"),
        ("stratawal-mapped-runs", ", mapped, by runs"),
    ];
    for (ours, way) in ways {
        let Some(value) = one.median(ours) else { continue };
        out += &format!(
            "| {} | {}{} | {} | {} | {} | {} | {} | {} | {} |\n",
            one.case.name,
            cell(&one.case.what),
            way,
            one.case.unit,
            shown(raw),
            figure(value),
            one.ratio(value, raw),
            best.map_or("—".to_owned(), |(name, value)| format!("{} {name}", figure(value))),
            one.ratio(value, best.map(|best| best.1)),
            shown(one.median("ironwal"))
        );
    }
    out
}

/// A log without a commit journal.
const OFF: &str = "stratawal-off";

/// A log with the default form of the journal.
const MAPPED: &str = "stratawal";

/// A log whose journal is written with system calls.
const WRITTEN: &str = "stratawal-written";

/// Returns the table of the commit journal: each case in which it took part, with all of its
/// figures.
pub(super) fn journal(results: &[Results], machine: &Machine, conditions: &str) -> String {
    let about = format!(
        "{}. {conditions}. *Off* is a log without a journal, *mapped* the default form of the journal, and *written* \
         the other one. All are medians, that of *mapped* with its least and greatest. The ratios are those of \
         *mapped*; above 1 means better. The others: {}.",
        cell(&machine.in_a_line()),
        others(results, machine)
    );
    let mut out = wrapped(&about, COLUMNS).join("\n");
    out += "\n\n| case | unit | raw | off | mapped | written | × off | × raw | best peer | × best peer |\n";
    out += "|---|---|---|---|---|---|---|---|---|---|\n";
    for one in results {
        // In the other cases, the journal makes no difference.
        if !one.outcomes.iter().any(|(name, _)| name == OFF) {
            continue;
        }
        let Some((_, outcome)) = one.outcomes.iter().find(|(name, _)| name == MAPPED) else { continue };
        out += &journal_row(one, "value", &one.case.unit, one.case.less);
        let percentiles = [("p50_ns", "ns, p50"), ("p99_ns", "ns, p99"), ("p999_ns", "ns, p99.9")];
        for (name, unit) in percentiles {
            if outcome.spread(name).is_some() {
                out += &journal_row(one, name, unit, true);
            }
        }
        for name in further(outcome) {
            let less = !name.contains("a second");
            out += &journal_row(one, &name, &name, less);
        }
    }
    out
}

/// Returns the row of one figure of a case.
fn journal_row(one: &Results, figure_name: &str, unit: &str, less: bool) -> String {
    let of = |subject: &str| {
        let (_, outcome) = one.outcomes.iter().find(|(name, _)| name == subject)?;
        outcome.spread(figure_name)
    };
    let median = |subject: &str| of(subject).map(|spread| spread.median);
    let shown = |value: Option<f64>| value.map_or("—".to_owned(), figure);
    let mapped = of(MAPPED);
    let with_spread = mapped.map_or("—".to_owned(), |Spread { least, median, greatest }| {
        format!("{} ({} to {})", figure(median), figure(least), figure(greatest))
    });
    let best = one.best_of(figure_name, less);
    let ratio = |base: Option<f64>| match (mapped, base) {
        (Some(mapped), base) => times(mapped.median, base, less),
        (None, _) => "—".to_owned(),
    };
    format!(
        "| {} | {} | {} | {} | {with_spread} | {} | {} | {} | {} | {} |\n",
        one.case.name,
        cell(unit),
        shown(median("raw")),
        shown(median(OFF)),
        shown(median(WRITTEN)),
        ratio(median(OFF)),
        ratio(median("raw")),
        best.map_or("—".to_owned(), |(name, value)| format!("{} {name}", figure(value))),
        ratio(best.map(|best| best.1)),
    )
}

fn section(one: &Results, machine: &Machine) -> String {
    let case = &one.case;
    let level = if case.level == "-" { String::new() } else { format!(", {}", case.level) };
    let mut out = format!("\n## {}: {}\n\n{}{level}; {}.\n\n", case.name, cell(&case.what), case.unit, case.better());
    if one.outcomes.iter().any(|(_, outcome)| outcome.spread("value").is_some()) {
        out += &format!("![{}]({})\n\n", case.name, case.plot_name());
    }
    out += "| subject | median (least to greatest) | × raw | × best peer | p50 | p99 | p99.9 | notes |\n";
    out += "|---|---|---|---|---|---|---|---|\n";
    let raw = one.median("raw");
    let best = one.best_peer().map(|best| best.1);
    for (subject, outcome) in &one.outcomes {
        let name = machine.versioned(subject);
        out += &match (outcome, outcome.spread("value")) {
            (Outcome::None(why), _) => format!("| {name} | — | | | | | | {} |\n", cell(why)),
            (Outcome::Failed(why), _) => format!("| {name} | failed | | | | | | {} |\n", cell(why)),
            (_, None) => format!("| {name} | — | | | | | | |\n"),
            (_, Some(Spread { least, median, greatest })) => format!(
                "| {name} | {} ({} to {}) | {} | {} | {} | {} | {} | {} |\n",
                figure(median),
                figure(least),
                figure(greatest),
                one.ratio(median, raw),
                one.ratio(median, best),
                percentile(outcome, "p50_ns"),
                percentile(outcome, "p99_ns"),
                percentile(outcome, "p999_ns"),
                cell(&notes(outcome))
            ),
        };
    }
    out
}

/// Returns the median of a percentile over the rounds.
fn percentile(outcome: &Outcome, name: &str) -> String {
    let Some(nanos) = outcome.spread(name).map(|spread| spread.median) else { return String::new() };
    match nanos {
        nanos if nanos < 1e4 => format!("{} ns", figure(nanos)),
        nanos if nanos < 1e7 => format!("{} us", figure(nanos / 1e3)),
        nanos => format!("{} ms", figure(nanos / 1e6)),
    }
}

/// Returns the names of the further figures.
fn further(outcome: &Outcome) -> Vec<String> {
    let Outcome::Figures(lines) = outcome else { return Vec::new() };
    let names = lines.first().map(|first| fields(first)).unwrap_or_default().into_iter().map(|(name, _)| name);
    names.filter(|name| !STANDARD.contains(name)).map(str::to_owned).collect()
}

/// Returns the further figures, and the note.
fn notes(outcome: &Outcome) -> String {
    let Outcome::Figures(lines) = outcome else { return String::new() };
    let Some(first) = lines.first() else { return String::new() };
    let mut parts: Vec<String> = further(outcome)
        .iter()
        .filter_map(|name| Some(format!("{} {name}", figure(outcome.spread(name)?.median))))
        .collect();
    parts.extend(text(first, "note").filter(|note| !note.is_empty()));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::results;

    #[test]
    fn a_median_is_in_the_middle() {
        let of = |figures: &[f64]| Spread::of(figures.to_vec());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[f64::NAN]), None);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(Spread { least: 1.0, median: 2.0, greatest: 3.0 }));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]).map(|spread| spread.median), Some(2.5));
    }

    #[test]
    fn figures_have_three_significant_digits() {
        let shown = [0.0123, 0.9999, 1.234, 9.999, 12.345, 99.96, 1234.5, 1_234_567.0].map(figure);
        assert_eq!(shown, ["0.012", "1.00", "1.23", "10.0", "12.3", "100", "1,234", "1,234,567"]);
    }

    #[test]
    fn ratios_are_above_one_where_it_is_better() {
        let mut one = results();
        assert_eq!(one.best_peer(), Some(("ironwal", 40.0)));
        assert_eq!(one.ratio(80.0, one.median("raw")), "0.80");
        one.case.less = true;
        assert_eq!(one.ratio(80.0, one.median("raw")), "1.25");
        assert_eq!(one.ratio(80.0, None), "—");
    }

    #[test]
    fn the_journal_has_a_row_for_each_figure() {
        let mut one = results();
        let mapped = one.outcomes[1].1.clone();
        one.outcomes.push((OFF.to_owned(), mapped));
        let table = journal(&[one, results()], &Machine::default(), "two rounds");
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| W3/8")).collect();
        assert_eq!(
            rows,
            [
                "| W3/8 | acks | 100 | 80.0 | 80.0 (75.0 to 90.0) | — | 1.00 | 0.80 | 40.0 ironwal | 2.00 |",
                "| W3/8 | ns, p50 | 2,000 | 2,000 | 2,000 (2,000 to 2,000) | — | 1.00 | 1.00 | 2,000 ironwal | 1.00 |",
                "| W3/8 | extra &lt;b> | 1.50 | 1.50 | 1.50 (1.50 to 1.50) | — | 1.00 | 1.00 | 1.50 ironwal | 1.00 |",
            ],
            "{table}"
        );
    }

    #[test]
    fn a_page_has_a_row_for_every_subject() {
        let page = page(&[results()], &Machine::default(), "two rounds");
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.iter().filter(|row| columns(row) == 10).count(), 3, "{page}");
        assert_eq!(rows.iter().filter(|row| columns(row) == 9).count(), 2 + 5, "{page}");
        for part in [
            "| stratawal | 80.0 (75.0 to 90.0) | 0.80 | 2.00 | 2,000 ns |",
            "it \\| broke",
            "1.50 extra &lt;b>",
            "peers-W3-8.svg",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
    }
}
