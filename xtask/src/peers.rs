//! The comparison with other crates and with raw loops: every case by every subject, in turn, several times.

use std::collections::BTreeMap;
use std::process::Command;

use crate::run::{cargo, root};
use crate::{Done, Stop};

const CASES: [&str; 7] = ["W1b", "W2", "W3/1", "W3/8", "W3/64", "W5", "W5b"];
const SUBJECTS: [&str; 3] = ["raw", "stratawal", "ironwal"];
const ROUNDS: usize = 5;

pub(crate) fn peers(arguments: &[String]) -> Done {
    let cases: Vec<&str> = match arguments {
        [] => CASES.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    if let Some(unknown) = cases.iter().find(|case| !CASES.contains(case)) {
        return Err(Stop::Usage(format!("there is no case {unknown}; there are {}", CASES.join(" "))));
    }
    let manifest = root().join("benches/peers/Cargo.toml");
    let target = root().join("target/peers");
    cargo(&["build", "--release", "--manifest-path", &manifest.to_string_lossy()])
        .env("CARGO_TARGET_DIR", &target.to_string_lossy())
        .done("building the peers")?;
    println!("| case | {} | unit |", SUBJECTS.join(" | "));
    println!("|---|{}---|", "---|".repeat(SUBJECTS.len()));
    for case in cases {
        let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut unit = String::new();
        for round in 1..=ROUNDS {
            for subject in SUBJECTS {
                eprint!("\r{case}: round {round} of {ROUNDS}, {subject}          ");
                let line = run_one(&target, case, subject)?;
                let value = field(&line, "value").and_then(|text| text.parse().ok());
                let value = value.ok_or_else(|| Stop::Failed(format!("{case} by {subject} printed {line:?}")))?;
                values.entry(subject).or_default().push(value);
                unit = field(&line, "unit").unwrap_or_default().trim_matches('"').to_owned();
            }
        }
        eprint!("\r{:60}\r", "");
        let cell = |subject: &&str| {
            let sorted = values.get_mut(*subject).map(|values| {
                values.sort_by(f64::total_cmp);
                values.clone()
            });
            let sorted = sorted.unwrap_or_default();
            let (low, middle, high) = (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
            format!("{middle:.1} ({low:.1} to {high:.1})")
        };
        let cells: Vec<String> = SUBJECTS.iter().map(cell).collect();
        println!("| {case} | {} | {unit} |", cells.join(" | "));
    }
    println!("\nmedian (least to greatest) of {ROUNDS} runs of 3 seconds, a process each, in turn");
    Ok(())
}

fn run_one(target: &std::path::Path, case: &str, subject: &str) -> Result<String, Stop> {
    let output = Command::new(target.join("release/stratawal-peers"))
        .args([case, subject, &target.join("data").to_string_lossy()])
        .output()
        .map_err(|e| Stop::Failed(format!("cannot run the peers: {e}")))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(Stop::Failed(format!("{case} by {subject} failed: {}", why.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A field of a flat line of JSON that this workspace prints.
fn field(line: &str, name: &str) -> Option<String> {
    let from = line.find(&format!("\"{name}\":"))? + name.len() + 3;
    let rest = &line[from..];
    let end = match rest.strip_prefix('"') {
        Some(text) => text.find('"')? + 2,
        None => rest.find([',', '}'])?,
    };
    Some(rest[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn fields_are_found() {
        let line = r#"{"case":"W2","unit":"ns an entry, warm","value":12.50,"seconds":3.1}"#;
        assert_eq!(field(line, "value").as_deref(), Some("12.50"));
        assert_eq!(field(line, "unit").as_deref(), Some("\"ns an entry, warm\""));
        assert_eq!(field(line, "seconds").as_deref(), Some("3.1"));
        assert_eq!(field(line, "none"), None);
    }
}
