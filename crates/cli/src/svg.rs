//! A picture of the files of a log.

use std::fmt::Write;

use stratawal::inspect::SegmentDetails;

use crate::human;
use crate::inspect::state_of;
use crate::name::pasteable;

/// A stream of the picture.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) segments: Vec<SegmentDetails>,
}

/// The width of the names, and of the longest row of files.
const NAMES: f64 = 200.0;
const FILES: f64 = 900.0;

/// The height of a row.
const ROW: f64 = 28.0;

/// The space above the rows.
const TOP: f64 = 60.0;

/// A file is at least this wide.
const FILE_MIN: f64 = 3.0;

/// The states, each with its colour.
const STATES: [(&str, &str); 5] =
    [("sealed", "#4878a8"), ("closed", "#5a9e6f"), ("open", "#d9a441"), ("void", "#b0b0b0"), ("damaged", "#c0392b")];

/// Draws the log at `path` as SVG: a row for each stream, and a rectangle for each file, which is
/// as wide as the file is long, and filled as far as it is written. Its title has its name, entries
/// and times.
pub(crate) fn picture(path: &str, rows: &[Row]) -> String {
    let longest = rows.iter().map(bytes_of).max().unwrap_or(0).max(1) as f64;
    let height = TOP + ROW * rows.len() as f64 + 10.0;
    let width = NAMES + FILES + 40.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">{}</text>\n",
        escaped(path)
    );
    for (i, (state, colour)) in STATES.iter().enumerate() {
        let x = 10.0 + 100.0 * i as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"32\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"42\">{state}</text>",
            x + 16.0
        );
    }
    for (i, row) in rows.iter().enumerate() {
        let y = TOP + ROW * i as f64;
        let _ = writeln!(svg, "<text x=\"10\" y=\"{}\">{}</text>", y + 16.0, escaped(&pasteable(&row.name)));
        let mut x = NAMES;
        for segment in &row.segments {
            let width = (segment.bytes as f64 / longest * FILES).max(FILE_MIN);
            draw_file(&mut svg, segment, x, y, width);
            x += width + 1.0;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn bytes_of(row: &Row) -> u64 {
    row.segments.iter().map(|segment| segment.bytes).sum()
}

fn draw_file(svg: &mut String, segment: &SegmentDetails, x: f64, y: f64, width: f64) {
    let state = state_of(segment).0;
    let colour = STATES.iter().find(|(known, _)| *known == state).map_or("black", |(_, colour)| colour);
    let full = if segment.bytes == 0 { 0.0 } else { (segment.written_bytes as f64 / segment.bytes as f64).min(1.0) };
    let mut title = format!(
        "{}: {state}, {}, {} of {} written",
        segment.name,
        crate::bounds::entries(segment.base, segment.next_seq),
        human::bytes(segment.written_bytes),
        human::bytes(segment.bytes)
    );
    if let Some((first, last)) = segment.times {
        let _ = write!(title, ", from {} to {}", human::time(first), human::time(last));
    }
    if let Some(damage) = &segment.damage {
        let _ = write!(title, "; {damage}");
    }
    let _ = writeln!(
        svg,
        "<g><title>{}</title><rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"20\" fill=\"{colour}\" \
         fill-opacity=\"0.3\" stroke=\"{colour}\"/><rect x=\"{x:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"20\" \
         fill=\"{colour}\"/></g>",
        escaped(&title),
        width * full
    );
}

/// The text as XML. Characters that XML does not allow are replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c if c.is_control() || c == '\u{fffe}' || c == '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_the_picture() {
        let rows = [Row { name: "a<b>&\u{1}".to_owned(), segments: Vec::new() }];
        let svg = picture("/log", &rows);
        assert!(svg.contains("a&lt;b&gt;&amp;") && !svg.contains('\u{1}') && svg.ends_with("</svg>\n"), "{svg}");
    }
}
