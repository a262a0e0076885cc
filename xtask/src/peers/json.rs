//! Flat lines of JSON, as printed by the program that runs the cases, and the file that contains
//! them all.

use super::machine::Machine;
use super::{Outcome, Results};

/// Returns a field of a flat line of JSON, as written.
pub(super) fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    fields(line).into_iter().find_map(|(known, value)| (known == name).then_some(value))
}

/// Returns the text of a field.
pub(super) fn text(line: &str, name: &str) -> Option<String> {
    let inner = field(line, name)?.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next()? } else { c });
    }
    Some(out)
}

/// Returns all fields of a flat line of JSON, in order. Other text is ignored.
pub(super) fn fields(line: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = line.trim().trim_start_matches('{');
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        let Some(end) = string_end(rest) else { return found };
        let name = &rest[1..end - 1];
        rest = rest[end..].trim_start_matches([':', ' ']);
        let end = string_end(rest).unwrap_or_else(|| rest.find([',', '}']).unwrap_or(rest.len()));
        found.push((name, rest[..end].trim()));
        rest = &rest[end..];
    }
}

/// Returns the end of the string that `text` begins with, or `None` if it does not begin with a
/// string.
fn string_end(text: &str) -> Option<usize> {
    if !text.starts_with('"') {
        return None;
    }
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return Some(at + 1),
            _ => escaped = c == '\\' && !escaped,
        }
    }
    None
}

/// Returns the text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
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

/// Returns a document with the machine and every line of every round.
pub(super) fn document(machine: &Machine, conditions: &str, results: &[Results]) -> String {
    let machine: Vec<String> =
        machine.facts().iter().map(|(name, value)| format!("    {}: {}", quoted(name), quoted(value))).collect();
    let mut lines = Vec::new();
    for one in results {
        for (subject, outcome) in &one.outcomes {
            let begun = format!("{{\"case\":{},\"subject\":{}", quoted(&one.case.name), quoted(subject));
            match outcome {
                Outcome::Figures(figures) => lines.extend(
                    figures.iter().enumerate().map(|(round, line)| format!("{{\"round\":{},{}", round + 1, &line[1..])),
                ),
                Outcome::None(why) => lines.push(format!("{begun},\"none\":{}}}", quoted(why))),
                Outcome::Failed(why) => lines.push(format!("{begun},\"failed\":{}}}", quoted(why))),
            }
        }
    }
    format!(
        "{{\n  \"machine\": {{\n{}\n  }},\n  \"conditions\": {},\n  \"lines\": [\n    {}\n  ]\n}}\n",
        machine.join(",\n"),
        quoted(conditions),
        lines.join(",\n    ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let line = r#"{"case":"W2","unit":"ns, \"warm\"","value":12.50,"a b":1,"seconds":3.1}"#;
        assert_eq!(field(line, "value"), Some("12.50"));
        assert_eq!(text(line, "unit").as_deref(), Some("ns, \"warm\""));
        assert_eq!(field(line, "seconds"), Some("3.1"));
        assert_eq!(field(line, "none"), None);
        assert_eq!(fields(line).len(), 5);
    }

    #[test]
    fn other_text_has_no_fields() {
        for text in ["", "{", "{}", "not json", "{\"half", "{1:2}"] {
            assert!(fields(text).is_empty(), "{text}");
        }
        assert_eq!(fields("{\"a\":"), [("a", "")]);
    }

    #[test]
    fn a_document_has_every_round() {
        let text = document(&Machine::default(), "c", &[super::super::tests::results()]);
        assert_eq!(text.matches("\"round\":").count(), 9);
        assert!(text.contains(r#""none":"it has \"none\"""#), "{text}");
        assert_eq!(text.matches(['{', '[']).count(), text.matches(['}', ']']).count());
    }
}
