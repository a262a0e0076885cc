//! The house rules that the compiler does not check. Each violation is reported as one line: the
//! file, the line number, the rule.

mod prose;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use crate::run::root;
use crate::{Done, Stop};
use text::Kind;

/// The layers: the crates that each crate may use. A crate uses only those below it. Tests may also
/// use the test kit.
const LAYERS: [(&str, &[&str]); 10] = [
    ("sync", &[]),
    ("frame", &[]),
    ("storage", &[]),
    ("segment", &["sync", "frame", "storage"]),
    ("index", &["sync"]),
    ("journal", &["sync", "frame", "storage"]),
    ("stream", &["sync", "frame", "storage", "segment", "index", "journal"]),
    ("stratawal", &["sync", "frame", "storage", "segment", "index", "journal", "stream"]),
    ("cli", &["stratawal"]),
    ("testkit", &["storage"]),
];

/// The library crates. They do not print or panic, and use the synchronisation primitives of the
/// crate `sync`.
const LIBRARIES: [&str; 8] = ["sync", "frame", "storage", "segment", "index", "journal", "stream", "stratawal"];

/// Crates that pass on a promise of the caller that they cannot prove: that mapped files are not
/// shortened. They allow unsafe code on single items, under `deny(unsafe_code)`. `storage` has
/// unsafe code in one module. All other crates forbid it.
const PROMISE: [&str; 2] = ["segment", "stratawal"];

const TOP_LEVEL: [&str; 9] =
    ["Cargo.toml", "Cargo.lock", "crates", "benches", "fuzz", "xtask", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Directories whose comments and Markdown are checked.
const TEXT_DIRS: [&str; 6] = ["crates", "benches", "xtask", "fuzz/fuzz_targets", "fuzz/src", ".github"];

/// The possible first components of a path that a document names.
const PATH_ROOTS: [&str; 16] = [
    "crates",
    "benches",
    "xtask",
    "fuzz",
    ".ci",
    ".github",
    "sync",
    "frame",
    "storage",
    "segment",
    "index",
    "journal",
    "stream",
    "stratawal",
    "cli",
    "testkit",
];

const FILE_LINES_MAX: usize = 900;

const FUNCTION_LINES_MAX: usize = 60;

pub(crate) fn tidy(arguments: &[String]) -> Done {
    let show_prose = match arguments {
        [] => false,
        [flag] if flag == "--prose" => true,
        _ => return Err(Stop::Usage("tidy takes --prose, or nothing".to_owned())),
    };
    let root = root();
    let mut found = Vec::new();
    top_level(&root, &mut found);
    for (name, allowed) in LAYERS {
        let dir = root.join("crates").join(name);
        let manifest = read(&dir.join("Cargo.toml"));
        found.extend(
            arrows(&manifest, name, allowed).into_iter().map(|what| format!("crates/{name}/Cargo.toml: {what}")),
        );
    }
    let mut sentences = 0;
    let mut habits = Vec::new();
    for (path, kind) in files(&root) {
        let text = read(&root.join(&path));
        let lines = violations(&root, &path, kind, &text);
        found.extend(lines.into_iter().map(|(line, what)| format!("{path}:{line}: {what}")));
        let count = prose::count(kind, &text);
        sentences += count.sentences;
        habits.extend(count.flagged.into_iter().map(|(line, habit)| format!("{path}:{line}: {habit}")));
    }
    if show_prose {
        habits.iter().for_each(|line| println!("{line}"));
    }
    match prose::judge(habits.len(), sentences) {
        Ok(note) => note.iter().for_each(|note| println!("note: {note}")),
        Err(over) => found.push(over + "; `cargo xtask tidy --prose` lists them"),
    }
    if found.is_empty() {
        return Ok(());
    }
    for line in &found {
        println!("{line}");
    }
    Err(Stop::Failed(format!("{} violations of the house rules", found.len())))
}

/// Returns the violations in one file, each with its line number.
fn violations(root: &Path, path: &str, kind: Kind, text: &str) -> Vec<(usize, String)> {
    let mut found = text::long_lines(kind, text);
    match kind {
        Kind::Rust => {
            found.extend(check(path, text));
            found.extend(text::long_test_names(text));
            if path.contains("/src/") {
                found.extend(long_functions(text));
            }
        }
        Kind::Markdown => found.extend(text::missing_paths(text, &PATH_ROOTS, |path| exists(root, path))),
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn top_level(root: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        if !TOP_LEVEL.contains(&name.as_str()) && !name.starts_with('.') && name != "target" {
            found.push(format!("{name}: does not belong at the top level"));
        }
    }
}

/// Returns the files that contain text, by their paths from the root.
fn files(root: &Path) -> Vec<(String, Kind)> {
    let mut files = vec![("README.md".to_owned(), Kind::Markdown)];
    let mut dirs: Vec<PathBuf> = TEXT_DIRS.map(|dir| root.join(dir)).into();
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() {
                dirs.extend(Some(path).filter(|path| path.file_name().is_none_or(|name| name != "target")));
                continue;
            }
            let path = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            files.extend(Kind::of(&path).map(|kind| (path, kind)));
        }
    }
    files.sort_by(|one, other| one.0.cmp(&other.0));
    files
}

/// Returns whether a path that a document names exists. Documents may omit `crates/`.
fn exists(root: &Path, path: &str) -> bool {
    root.join(path).exists() || root.join("crates").join(path).exists()
}

/// Returns the dependencies on crates of this workspace that the layers do not allow.
fn arrows(manifest: &str, name: &str, allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let Some(dependency) = line.split(['.', ' ', '=']).next().filter(|_| section.contains("dependencies")) else {
            continue;
        };
        let of_tests = section.contains("dev-dependencies");
        let below = match dependency {
            "stratawal" => "stratawal",
            other => match other.strip_prefix("stratawal-") {
                Some(below) => below,
                None => continue,
            },
        };
        // A crate's tests may use the crate itself with other features.
        let points_down = allowed.contains(&below) || of_tests && (below == "testkit" || below == name);
        if !points_down {
            found.push(format!("{name} must not depend on {below}"));
        }
    }
    found
}

/// Returns the violations in a Rust file, each with its line number.
fn check(path: &str, text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let parts: Vec<&str> = path.split('/').collect();
    let in_src = parts.first() == Some(&"crates") && parts.get(2) == Some(&"src");
    let krate = if parts.first() == Some(&"crates") { parts.get(1).copied().unwrap_or_default() } else { "" };
    let library = in_src && LIBRARIES.contains(&krate);
    // Modules that contain only tests are marked where they are declared, so they are recognised by
    // their few names.
    let test_module = parts.last().is_some_and(|name| matches!(*name, "tests.rs" | "scenarios.rs" | "stress.rs"));
    if in_src && text.lines().count() > FILE_LINES_MAX {
        found.push((1, format!("over {FILE_LINES_MAX} lines; split it by concept")));
    }
    if is_crate_root(&parts) && !text.contains(root_attribute(krate)) {
        found.push((1, format!("must have {}", root_attribute(krate))));
    }
    let mut in_tests = test_module;
    for (number, line) in (1..).zip(text.lines()) {
        let code = line.trim_start();
        in_tests |= code.starts_with("#[cfg(test)]") || code.starts_with("#[cfg(all(test");
        // A test module that is only declared here has its own file.
        if in_tests && !test_module && code.starts_with("mod ") && code.ends_with(';') {
            in_tests = false;
        }
        if code.starts_with("//") {
            continue;
        }
        let mut report = |what: &str| found.push((number, what.to_owned()));
        if code.starts_with(concat!("#[", "ignore")) {
            report("an ignored test; run it or remove it");
        }
        if has_unsafe(code) && !unsafe_is_allowed(krate, &parts, in_tests) {
            report("unsafe outside crates/storage");
        }
        if !library || in_tests {
            continue;
        }
        if names_primitives(code) && !primitives_are_allowed(krate, &parts) {
            report("synchronisation primitives come from the crate sync");
        }
        if [".unwrap()", "todo!(", "unimplemented!(", "dbg!(", "panic!("].iter().any(|name| code.contains(name)) {
            report("library code returns an error, or has expect(\"invariant: …\")");
        }
        if code.contains(".expect(") && !code.contains(".expect(\"invariant: ") && !code.ends_with(".expect(") {
            report("an expect has \"invariant: …\" and the reason why it cannot fail");
        }
        if ["println!(", "eprintln!(", "print!(", "eprint!("].iter().any(|name| code.contains(name)) {
            report("the library does not print");
        }
        if krate == "stratawal" && re_exports_crate(code) {
            report("the facade re-exports types, never a whole inner crate");
        }
    }
    found
}

/// Returns whether a line names synchronisation primitives other than those of the crate `sync`.
/// The model checker does not replace `Arc`.
fn names_primitives(code: &str) -> bool {
    let code = code.replace("std::sync::Arc;", "");
    ["std::sync", "core::sync", "arc_swap", "loom::"].iter().any(|name| code.contains(name))
}

/// Returns whether a file may use other primitives. The in-memory storage has locks that the model
/// checker does not see.
fn primitives_are_allowed(krate: &str, parts: &[&str]) -> bool {
    krate == "sync" || parts == ["crates", "storage", "src", "sync.rs"]
}

/// Returns whether this line re-exports a whole inner crate, under its own name or another.
fn re_exports_crate(code: &str) -> bool {
    let Some(path) = code.strip_prefix("pub use stratawal_") else { return false };
    path.split_once("::").is_none_or(|(_, items)| items.starts_with('*') || items.contains("self"))
}

/// Returns the functions that are too long. A function ends at the brace with the same indentation
/// as its first line, as rustfmt formats it.
fn long_functions(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let before = code.split("fn ").next().unwrap_or_default();
        let is_function = code.contains("fn ") && before.split_whitespace().all(is_function_qualifier);
        if !is_function || code.ends_with(';') || code.ends_with('}') {
            continue;
        }
        let indent = &line[..line.len() - code.len()];
        let is_end = |line: &&str| {
            line.strip_prefix(indent).is_some_and(|rest| rest == "}" || rest.ends_with(';') && !rest.starts_with(' '))
        };
        let Some(len) = lines[at + 1..].iter().position(is_end).map(|more| more + 2) else { continue };
        if len > FUNCTION_LINES_MAX {
            found.push((at + 1, format!("a function of {len} lines; at most {FUNCTION_LINES_MAX}")));
        }
    }
    found
}

/// Returns whether a word may precede the `fn` keyword.
fn is_function_qualifier(word: &str) -> bool {
    matches!(word, "pub" | "const" | "unsafe" | "async") || word.starts_with("pub(") || word.ends_with(')')
}

fn is_crate_root(parts: &[&str]) -> bool {
    parts.first() == Some(&"crates") && parts.len() == 4 && matches!(parts.last(), Some(&("lib.rs" | "main.rs")))
}

fn root_attribute(krate: &str) -> &'static str {
    match krate {
        "storage" => "//!",
        _ if PROMISE.contains(&krate) => "#![deny(unsafe_code)]",
        _ => "#![forbid(unsafe_code)]",
    }
}

fn has_unsafe(code: &str) -> bool {
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait"].iter().any(|name| code.contains(name))
}

fn unsafe_is_allowed(krate: &str, parts: &[&str], in_tests: bool) -> bool {
    krate == "storage"
        // These pass on the promise that mapped files are not shortened.
        || parts == ["crates", "segment", "src", "read", "data.rs"]
        || parts == ["crates", "stratawal", "src", "options.rs"]
        // Tests of mappings make the promise.
        || PROMISE.contains(&krate) && (in_tests || parts.get(2) == Some(&"tests"))
        // The comparison maps its own files, and lets stratawal map its files.
        || parts == ["benches", "peers", "src", "promise.rs"]
        // This file contains the keyword as text.
        || parts == ["xtask", "src", "tidy", "mod.rs"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_text_are_found_and_build_output_is_not() {
        let files = files(&root());
        for path in ["README.md", "crates/frame/FORMAT.md", "crates/frame/src/lib.rs", "xtask/src/tidy/mod.rs"] {
            assert!(files.iter().any(|file| file.0 == path), "{path}");
        }
        assert!(files.iter().all(|file| !file.0.contains("target/")));
    }

    #[test]
    fn every_check_of_text_runs_on_the_files_that_it_is_for() {
        let lines = |path: &str, text: &str| {
            let kind = Kind::of(path).expect("a file with text");
            let mut lines: Vec<usize> =
                violations(&root(), path, kind, text).into_iter().map(|(line, _)| line).collect();
            lines.sort_unstable();
            lines
        };
        let long = "word ".repeat(30);
        let function = format!("fn g() {{\n{}}}\n", "    x();\n".repeat(FUNCTION_LINES_MAX));
        let name = "a".repeat(70);
        let rust = format!("// {long}\n#[test]\nfn {name}() {{}}\nfn f() {{ x.unwrap(); }}\n{function}");
        assert_eq!(lines("crates/frame/src/x.rs", &rust), [1, 3, 4, 5]);
        assert_eq!(lines("README.md", &format!("{long}\n`crates/missing.rs` and `crates/frame`\n")), [1, 2]);
    }

    #[test]
    fn paths_exist_from_the_root_and_from_crates() {
        let root = root();
        assert!(exists(&root, "crates/frame/FORMAT.md") && exists(&root, "frame/FORMAT.md"));
        assert!(!exists(&root, "frame/MISSING.md"));
    }

    fn whats(path: &str, text: &str) -> Vec<String> {
        check(path, text).into_iter().map(|(line, what)| format!("{line}: {what}")).collect()
    }

    #[test]
    fn an_arrow_that_points_up_is_found() {
        let manifest = "[dependencies]\nstratawal-frame.workspace = true\nbytes = \"1\"\n[dev-dependencies]\n\
                        stratawal-testkit.workspace = true\nstratawal = { path = \"..\" }\n";
        assert_eq!(arrows(manifest, "segment", &["frame"]), ["segment must not depend on stratawal"]);
        assert_eq!(arrows(manifest, "index", &[]).len(), 2);
        let target = "[target.\"cfg(x)\".dependencies]\nstratawal-stream.workspace = true\n";
        assert_eq!(arrows(target, "segment", &["frame"]).len(), 1);
    }

    #[test]
    fn panics_and_prints_in_library_code_are_found() {
        let text = "fn f() {\n    x.unwrap();\n    y.expect(\"it\");\n    println!();\n    todo!()\n}\n";
        let found = whats("crates/frame/src/scan.rs", text);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(whats("crates/cli/src/scan.rs", text).is_empty());
        assert!(whats("crates/frame/tests/scan.rs", text).is_empty());
        let fine = "// x.unwrap()\nfn f() {\n    y.expect(\"invariant: it is\");\n}\n#[cfg(test)]\nmod tests {\n    fn g() { x.unwrap() }\n}\n";
        assert!(whats("crates/frame/src/scan.rs", fine).is_empty());
    }

    #[test]
    fn code_after_a_declared_test_module_is_library_code() {
        let text = "#[cfg(test)]\nmod scenarios;\nfn f() {\n    x.unwrap();\n}\n";
        assert_eq!(whats("crates/frame/src/x.rs", text).len(), 1);
    }

    #[test]
    fn long_functions_are_found() {
        let of = |lines: usize| {
            format!("impl A {{\n    pub(super) fn f(\n    ) {{\n{}    }}\n}}\n", "        x();\n".repeat(lines))
        };
        assert!(long_functions(&of(FUNCTION_LINES_MAX - 3)).is_empty());
        assert_eq!(long_functions(&of(FUNCTION_LINES_MAX - 2)).len(), 1);
        // A declaration without a body ends at its semicolon.
        let declared = format!(
            "trait A {{\n    fn f(\n        &self,\n    );\n{}    fn g() {{\n    }}\n}}\n",
            "    // x\n".repeat(80)
        );
        assert!(long_functions(&declared).is_empty());
    }

    #[test]
    fn unsafe_and_synchronisation_have_one_place_each() {
        assert_eq!(whats("crates/index/src/cache.rs", "unsafe { x() }").len(), 1);
        assert_eq!(whats("benches/benches/a.rs", "unsafe { x() }").len(), 1);
        assert_eq!(whats("benches/peers/src/raw/read.rs", "unsafe { x() }").len(), 1);
        assert!(whats("benches/peers/src/promise.rs", "unsafe { x() }").is_empty());
        assert!(whats("crates/segment/src/read/data.rs", "unsafe { x() }").is_empty());
        assert_eq!(whats("crates/segment/src/file.rs", "unsafe { x() }").len(), 1);
        assert!(whats("crates/storage/src/map.rs", "unsafe { x() }").is_empty());
        assert_eq!(whats("crates/index/src/cache.rs", "use std::sync::Mutex;").len(), 1);
        assert_eq!(whats("crates/index/src/cache.rs", "use std::sync::{Arc, Mutex};").len(), 1);
        assert_eq!(whats("crates/index/src/sync.rs", "use std::sync::Mutex;").len(), 1);
        assert!(whats("crates/index/src/cache.rs", "use std::sync::Arc;").is_empty());
        assert!(whats("crates/sync/src/mutex.rs", "use std::sync::Mutex;").is_empty());
        assert!(whats("crates/storage/src/sync.rs", "use std::sync::Mutex;").is_empty());
    }

    #[test]
    fn roots_of_crates_forbid_unsafe_code() {
        assert_eq!(whats("crates/frame/src/lib.rs", "//! A crate.\n").len(), 1);
        assert!(whats("crates/frame/src/lib.rs", "#![forbid(unsafe_code)]\n").is_empty());
        assert_eq!(whats("crates/segment/src/lib.rs", "#![forbid(unsafe_code)]\n").len(), 1);
    }

    #[test]
    fn an_ignored_test_and_a_re_exported_crate_are_found() {
        assert_eq!(whats("crates/frame/tests/a.rs", concat!("#[", "ignore]\nfn f() {}\n")).len(), 1);
        let whole = [
            "stratawal_stream",
            "stratawal_stream as stream",
            "stratawal_stream::*",
            "stratawal_stream::{self, Entry}",
        ];
        for path in whole {
            assert_eq!(whats("crates/stratawal/src/wal.rs", &format!("pub use {path};\n")).len(), 1, "{path}");
        }
        assert!(whats("crates/stratawal/src/wal.rs", "pub use stratawal_stream::Entry;\n").is_empty());
    }
}
