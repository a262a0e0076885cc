//! Comments and Markdown as text: line lengths and paragraphs.

/// The maximum columns of a line that is only a comment.
const COMMENT_COLUMNS_MAX: usize = 100;

/// The maximum columns of a line of Markdown.
const MARKDOWN_COLUMNS_MAX: usize = 120;

/// The maximum characters of a test's name.
const TEST_NAME_LEN_MAX: usize = 60;

/// The kind of a file that contains text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only its comments are text.
    Rust,
    /// All of it is text.
    Markdown,
}

impl Kind {
    /// Returns the kind of a file, or `None` if it contains no text.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path.rsplit_once('.')?.1 {
            "rs" => Some(Self::Rust),
            "md" => Some(Self::Markdown),
            _ => None,
        }
    }

    /// Returns the text of a line, without the comment mark, or `None` if the line is code.
    fn text(self, line: &str) -> Option<&str> {
        match self {
            Self::Markdown => Some(line),
            Self::Rust => {
                let comment = line.trim_start().strip_prefix("//")?;
                Some(comment.strip_prefix(['/', '!']).unwrap_or(comment))
            }
        }
    }

    const fn columns_max(self) -> usize {
        match self {
            Self::Rust => COMMENT_COLUMNS_MAX,
            Self::Markdown => MARKDOWN_COLUMNS_MAX,
        }
    }
}

/// Yields the lines of text outside fenced code, each with its number.
fn lines(kind: Kind, text: &str) -> impl Iterator<Item = (usize, &str, Option<&str>)> {
    let mut fenced = false;
    (1..).zip(text.lines()).map(move |(number, line)| {
        let prose = kind.text(line);
        // Code ends a fence that a comment left open.
        fenced &= prose.is_some();
        if prose.is_some_and(|prose| prose.trim_start().starts_with("```")) {
            fenced = !fenced;
            return (number, line, None);
        }
        (number, line, prose.filter(|_| !fenced))
    })
}

/// Returns the lines that are too long, except tables, diagrams and links, which cannot be split. A
/// byte table is recognised by its runs of spaces.
pub(super) fn long_lines(kind: Kind, text: &str) -> Vec<(usize, String)> {
    let max = kind.columns_max();
    let too_long = lines(kind, text).filter(|(_, line, prose)| {
        let splits = prose.is_some_and(|prose| {
            let prose = prose.trim_start();
            !prose.starts_with(['|', '[', '+']) && !["](", "://", "   "].iter().any(|mark| prose.contains(mark))
        });
        splits && line.chars().count() > max
    });
    too_long.map(|(number, ..)| (number, format!("text over {max} columns"))).collect()
}

/// Returns the paragraphs, each with the number of its first line. Headings and tables are not part
/// of a paragraph.
pub(super) fn paragraphs(kind: Kind, text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (number, _, prose) in lines(kind, text) {
        let prose = prose.map(str::trim).filter(|prose| !prose.is_empty() && !prose.starts_with(['|', '#', '<', '!']));
        match (prose, found.last_mut()) {
            (Some(prose), Some((_, paragraph))) if open => {
                paragraph.push(' ');
                paragraph.push_str(prose);
            }
            (Some(prose), _) => found.push((number, prose.to_owned())),
            (None, _) => {}
        }
        open = prose.is_some();
    }
    found
}

/// Returns the tests whose names are too long.
pub(super) fn long_test_names(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut is_test = false;
    for (number, line) in (1..).zip(text.lines()) {
        let code = line.trim_start();
        is_test |= code.starts_with("#[test]");
        let Some(name) = code.strip_prefix("fn ").filter(|_| is_test) else { continue };
        is_test = false;
        let len = name.chars().take_while(|&c| c.is_alphanumeric() || c == '_').count();
        if len > TEST_NAME_LEN_MAX {
            found.push((number, format!("a test name of {len} characters; at most {TEST_NAME_LEN_MAX}")));
        }
    }
    found
}

/// Returns the paths in code spans of Markdown that `exists` does not find. A path is a span that
/// contains a slash and whose first component is one of `roots`.
pub(super) fn missing_paths(text: &str, roots: &[&str], exists: impl Fn(&str) -> bool) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line, _) in lines(Kind::Markdown, text).filter(|(.., prose)| prose.is_some()) {
        for span in line.split('`').skip(1).step_by(2) {
            let is_path = span.split_once('/').is_some_and(|(first, _)| roots.contains(&first))
                && span.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if is_path && !exists(span) {
                found.push((number, format!("{span} does not exist")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(found: Vec<(usize, String)>) -> Vec<usize> {
        found.into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn long_comments_are_found_but_not_long_code() {
        let words = "word ".repeat(20);
        assert_eq!(words.len(), COMMENT_COLUMNS_MAX);
        let fits = format!("//{}", &words[2..]);
        let long = format!("// {words}");
        let code = format!("f(\"{words}{words}\");");
        let bytes = format!("//  24   16   wal id, {words}");
        let text = format!("{fits}\n{long}\n    /{long}\n{code}\n{bytes}\n");
        assert_eq!(numbers(long_lines(Kind::Rust, &text)), [2, 3]);
    }

    #[test]
    fn long_markdown_is_found_outside_tables_links_and_code() {
        let words = "word ".repeat(25);
        let text = format!("{words}\n| {words}|\n- {words}[a](b)\n```sh\n{words}\n```\n  {words}\n");
        assert_eq!(numbers(long_lines(Kind::Markdown, &text)), [1, 7]);
        assert!(long_lines(Kind::Markdown, &words[..MARKDOWN_COLUMNS_MAX]).is_empty());
    }

    #[test]
    fn characters_are_counted_and_not_bytes() {
        assert!(long_lines(Kind::Rust, &format!("// {}", "é ".repeat(48))).is_empty());
    }

    #[test]
    fn a_paragraph_ends_at_code_blanks_and_tables() {
        let text = "//! One\n//! two.\n//!\n//! Three.\nfn f() {} // not this\n/// Four.\n/// ```\n/// code\n/// ```\n/// Five.\n";
        let of = |text: &str| paragraphs(Kind::Rust, text);
        let expected = [(1, "One two."), (4, "Three."), (6, "Four."), (10, "Five.")];
        assert_eq!(of(text), expected.map(|(number, text)| (number, text.to_owned())));
        let expected = [(2, "A b.".to_owned()), (5, "C.".to_owned())];
        assert_eq!(paragraphs(Kind::Markdown, "# H\nA\nb.\n| t |\nC.\n"), expected);
    }

    #[test]
    fn long_names_are_found_of_tests_alone() {
        let name = "a".repeat(TEST_NAME_LEN_MAX);
        let text = format!("#[test]\nfn {name}() {{}}\n#[test]\n#[cfg(unix)]\nfn {name}b() {{}}\nfn {name}c() {{}}\n");
        assert_eq!(numbers(long_test_names(&text)), [5]);
    }

    #[test]
    fn paths_that_do_not_exist_are_found() {
        let text = "In `a/b.rs` and `a/c.rs`.\n`other/c.rs`, `a/<name>`, `plain.rs`\n```\n`a/c.rs`\n```\n`a/d/`\n";
        assert_eq!(numbers(missing_paths(text, &["a"], |path| path == "a/b.rs")), [1, 6]);
        assert!(missing_paths(text, &["a"], |_| true).is_empty());
    }
}
