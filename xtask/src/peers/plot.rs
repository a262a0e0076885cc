//! A bar plot of a case as SVG, for light and dark pages.

use super::machine::Machine;
use super::table::{Spread, figure, is_ours, is_raw};
use super::{Case, Results};

const WIDTH: f64 = 840.0;
/// The position of the left end of the bars, and the length of the longest. Values are to the right
/// of the bars.
const LEFT: f64 = 170.0;
const LONGEST: f64 = 540.0;
const ROW: f64 = 26.0;
const TOP: f64 = 74.0;

/// If figures differ by more than this factor, the scale of their bars is logarithmic.
const LINEAR_MAX: f64 = 25.0;

/// The maximum number of characters in a line of a caption.
const CAPTION_LEN: usize = 130;

/// Colours of the page, of text, of secondary text, of raw loops, of stratawal, and of the others.
const STYLE: &str = "text{font-family:system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif;font-size:13px;\
fill:#1f2328}.page{fill:#ffffff}.title{font-size:16px;font-weight:600}.less{fill:#59636e;font-size:11.5px}\
.grid{stroke:#d1d9e0;stroke-width:1}.spread{stroke:#1f2328;stroke-width:1.5}.raw{fill:#9aa4af}.ours{fill:#0969da}\
.peer{fill:#bf8700}@media (prefers-color-scheme:dark){text{fill:#f0f6fc}.page{fill:#0d1117}.less{fill:#9198a1}\
.grid{stroke:#3d444d}.spread{stroke:#f0f6fc}.raw{fill:#656c76}.ours{fill:#4493f8}.peer{fill:#d29922}}";

/// Converts figures to lengths.
struct Scale {
    /// The figure at the beginning of the bars.
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Scale {
    fn of(bars: &[(String, Spread)]) -> Self {
        let least = bars.iter().map(|(_, bar)| bar.least).fold(f64::INFINITY, f64::min).max(f64::MIN_POSITIVE);
        let medians = || bars.iter().map(|(_, bar)| bar.median);
        let low = medians().fold(f64::INFINITY, f64::min);
        let high = medians().fold(0.0, f64::max);
        let to = bars.iter().map(|(_, bar)| bar.greatest).fold(0.0, f64::max);
        if low > 0.0 && high / low > LINEAR_MAX {
            // The scale begins a decade below the least figure, so that its bar is also visible.
            let from = 10_f64.powf((least.log10() - 0.3).floor());
            return Self { from, to, logarithmic: true };
        }
        Self { from: 0.0, to: if to > 0.0 { to } else { 1.0 }, logarithmic: false }
    }

    fn at(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.from) / self.from).log10() / (self.to / self.from).log10()
        } else {
            value / self.to
        };
        LEFT + LONGEST * part.clamp(0.0, 1.0)
    }

    fn marks(&self) -> Vec<f64> {
        let mut marks = Vec::new();
        if self.logarithmic {
            let mut mark = self.from;
            while mark <= self.to * 1.0001 {
                marks.push(mark);
                mark *= 10.0;
            }
            return marks;
        }
        let rough = self.to / 4.0;
        let decade = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * decade).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        (0..=6).map(|n| f64::from(n) * step).filter(|mark| *mark <= self.to * 1.0001).collect()
    }
}

/// Returns the plot, or `None` if no subject has a figure.
pub(super) fn plot(results: &Results, machine: &Machine, conditions: &str) -> Option<String> {
    let bars = bars(results);
    if bars.is_empty() {
        return None;
    }
    let case = &results.case;
    let scale = Scale::of(&bars);
    let bottom = TOP + ROW * bars.len() as f64;
    let captions = format!("{}. {conditions}; bars: median, lines: least to greatest.", machine.in_a_line());
    let captions = wrapped(&captions, CAPTION_LEN);
    let height = bottom + 60.0 + 16.0 * captions.len() as f64;
    let title = format!("{}: {}", case.name, case.what);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"{0}\">\n<title>{0}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n",
        escaped(&title)
    );
    out += &text(16.0, 28.0, "title", "start", &title);
    out += &text(16.0, 50.0, "less", "start", &subtitle(case, &scale));
    for mark in scale.marks() {
        let x = scale.at(mark);
        out += &line(x, TOP - 6.0, x, bottom, "grid");
        out += &text(x, bottom + 16.0, "less", "middle", &short(mark));
    }
    out += &text(LEFT + LONGEST / 2.0, bottom + 34.0, "less", "middle", &case.unit);
    for (row, (subject, bar)) in bars.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let middle = y + ROW / 2.0 - 2.0;
        let end = scale.at(bar.median);
        out += &text(LEFT - 8.0, middle + 4.5, "", "end", &machine.versioned(subject));
        let class = class(subject);
        let length = (end - LEFT).max(1.0);
        let thick = ROW - 8.0;
        out += &format!(
            "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{thick}\" rx=\"2\"/>\n",
            y + 2.0
        );
        let least = scale.at(bar.least);
        let greatest = scale.at(bar.greatest);
        out += &line(least, middle, greatest, middle, "spread");
        out += &text(greatest.max(end) + 8.0, middle + 4.5, "", "start", &figure(bar.median));
    }
    for (row, caption) in captions.iter().enumerate() {
        out += &text(16.0, bottom + 60.0 + 16.0 * row as f64, "less", "start", caption);
    }
    out += "</svg>\n";
    Some(out)
}

fn subtitle(case: &Case, scale: &Scale) -> String {
    let logarithmic = if scale.logarithmic { "; logarithmic scale" } else { "" };
    format!("{}{logarithmic}", case.better())
}

/// Returns the subjects with a figure: the raw loops, stratawal, and the peers, the best first.
fn bars(results: &Results) -> Vec<(String, Spread)> {
    let with_figures =
        results.outcomes.iter().filter_map(|(name, outcome)| Some((name.clone(), outcome.spread("value")?)));
    let mut bars: Vec<(String, Spread)> = with_figures.collect();
    let group = |name: &str| match class(name) {
        "raw" => 0,
        "ours" => 1,
        _ => 2,
    };
    bars.sort_by(|(one, a), (other, b)| {
        let (better, worse) = if results.case.less { (a, b) } else { (b, a) };
        group(one).cmp(&group(other)).then_with(|| match group(one) {
            2 => better.median.total_cmp(&worse.median),
            _ => std::cmp::Ordering::Equal,
        })
    });
    bars
}

fn class(subject: &str) -> &'static str {
    match subject {
        raw if is_raw(raw) => "raw",
        ours if is_ours(ours) => "ours",
        _ => "peer",
    }
}

fn text(x: f64, y: f64, class: &str, anchor: &str, text: &str) -> String {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    format!("<text{class} x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n", escaped(text))
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64, class: &str) -> String {
    format!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>\n")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Formats a mark of the scale. It is round, so few digits are enough.
fn short(mark: f64) -> String {
    match mark {
        0.0 => "0".to_owned(),
        large if large >= 1e9 => format!("{} G", large / 1e9),
        large if large >= 1e6 => format!("{} M", large / 1e6),
        large if large >= 1e4 => format!("{} k", large / 1e3),
        // Sums of decimal fractions are not exactly round.
        small => format!("{}", (small * 1e6).round() / 1e6),
    }
}

/// Splits text into lines of whole words, of at most `len` characters each.
pub(super) fn wrapped(text: &str, len: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= len => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::results;

    /// Panics unless every element is closed in order, and every attribute and text is escaped.
    fn well_formed(svg: &str) {
        let mut open = Vec::new();
        let mut rest = svg;
        while let Some(at) = rest.find('<') {
            assert!(!rest[..at].contains('>'), "a stray > before {:?}", &rest[..40.min(rest.len())]);
            let end = at + rest[at..].find('>').expect("a tag ends");
            let tag = &rest[at + 1..end];
            assert!(!tag.contains('<') && tag.matches('"').count().is_multiple_of(2), "{tag}");
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "{tag}");
            } else if !tag.ends_with('/') {
                open.push(name);
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?}");
        for (at, _) in svg.match_indices('&') {
            assert!(["&amp;", "&lt;", "&gt;", "&quot;"].iter().any(|entity| svg[at..].starts_with(entity)));
        }
    }

    #[test]
    fn a_plot_is_well_formed_and_has_a_bar_for_each_figure() {
        let mut one = results();
        one.case.what = "a < b & \"c\"".to_owned();
        let svg = plot(&one, &Machine::default(), "two <rounds>").unwrap();
        well_formed(&svg);
        assert_eq!(svg.matches("<rect class=\"peer\"").count(), 1);
        assert_eq!(svg.matches("class=\"spread\"").count(), 3);
        for part in ["prefers-color-scheme:dark", ">acks</text>", ">more is better</text>", "two &lt;rounds&gt;; bars"]
        {
            assert!(svg.contains(part), "{part} in {svg}");
        }
    }

    #[test]
    fn nothing_is_plotted_without_figures() {
        let mut one = results();
        one.outcomes.drain(..3);
        assert_eq!(plot(&one, &Machine::default(), ""), None);
    }

    #[test]
    fn peers_follow_raw_loops_and_stratawal_in_order() {
        let mut one = results();
        let (name, outcome) = one.outcomes[0].clone();
        assert_eq!(name, "raw");
        one.outcomes.push(("z".to_owned(), outcome));
        let names = |one: &Results| bars(one).into_iter().map(|bar| bar.0).collect::<Vec<_>>();
        assert_eq!(names(&one), ["raw", "stratawal", "z", "ironwal"]);
        one.case.less = true;
        assert_eq!(names(&one), ["raw", "stratawal", "ironwal", "z"]);
    }

    #[test]
    fn figures_far_apart_get_a_logarithmic_scale() {
        let bar = |value: f64| (String::new(), Spread { least: value, median: value, greatest: value });
        let near = Scale::of(&[bar(10.0), bar(97.0)]);
        assert!(!near.logarithmic);
        assert_eq!(near.marks(), [0.0, 50.0]);
        let far = Scale::of(&[bar(3.0), bar(900.0)]);
        assert!(far.logarithmic && far.at(3.0) > LEFT && far.at(900.0) <= LEFT + LONGEST);
        assert_eq!(far.marks(), [1.0, 10.0, 100.0]);
    }

    #[test]
    fn captions_are_wrapped_at_words() {
        assert_eq!(wrapped("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(["0", "5", "20 k", "3 M"], [0.0, 5.0, 20_000.0, 3e6].map(short)[..]);
    }
}
