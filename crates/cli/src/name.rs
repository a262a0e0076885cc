//! Names of streams: printed as a shell needs them, and taken as they are or in the form of their
//! directories.

use stratawal::{Error, inspect};

use crate::failure::{Failure, USAGE};

/// The option for the form of the names in the arguments.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Escaped {
    /// Take the name in the form that its directory has, like `a%20b`. `streams --escaped` prints
    /// it.
    #[arg(long)]
    escaped: bool,
}

impl Escaped {
    /// Returns the name that an argument stands for.
    ///
    /// Fails if the option is given and no name has this escaped form.
    pub(crate) fn name(self, argument: &str) -> Result<String, Failure> {
        if !self.escaped {
            return Ok(argument.to_owned());
        }
        inspect::unescape_name(argument).ok_or_else(|| {
            let text = format!(
                "{} is not the escaped form of a name, which is UTF-8; `streams --escaped` prints those, and without \
                 --escaped every command takes the name as `streams` prints it",
                quoted(argument)
            );
            Failure::new(USAGE, "usage", text)
        })
    }
}

/// Shows a name so that a person can paste it into a command line: every command accepts what bash,
/// zsh or ksh makes of it. A name that begins with a dash has `-- ` before it, since it would be
/// taken for an option, and belongs after the options.
pub(crate) fn pasteable(name: &str) -> String {
    let dashes = if name.starts_with('-') { "-- " } else { "" };
    format!("{dashes}{}", quoted(name))
}

/// Shows a text as one word of a shell. Plain if no shell gives one of its characters a meaning, in
/// single quotes if all can be printed, and otherwise in the form `$'…'`, which stays on one line
/// and has no character that a terminal would act on.
pub(crate) fn quoted(text: &str) -> String {
    if is_plain(text) {
        text.to_owned()
    } else if text.chars().all(is_printable) {
        format!("'{}'", text.replace('\'', r"'\''"))
    } else {
        let mut word = "$'".to_owned();
        text.chars().for_each(|c| push_escaped(&mut word, c));
        word.push('\'');
        word
    }
}

/// Returns the message of an error, with the stream's name as a shell needs it.
pub(crate) fn message_of(error: &Error) -> String {
    let message = as_commands(&error.to_string());
    match error.stream() {
        // The library, which is for programs, prints a name as Rust would.
        Some(name) => message.replace(&format!("{name:?}"), &pasteable(name)),
        None => message,
    }
}

/// Replaces the calls of the library that a message recommends with the commands for them.
fn as_commands(message: &str) -> String {
    const COMMANDS: [(&str, &str); 3] = [
        ("`inspect::salvage` reads the other entries", "`salvage` copies the other entries"),
        ("inspect::readable reads the entries in the segment files", "`cat` prints the entries in the segment files"),
        ("`stratawal repair --adopt-copy`, or with Options::adopt_copy", "`stratawal repair --adopt-copy`"),
    ];
    COMMANDS.iter().fold(message.to_owned(), |text, (call, command)| text.replace(call, command))
}

fn is_plain(text: &str) -> bool {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    // Zsh replaces a word that begins with an equals sign by a path.
    !text.is_empty() && !text.starts_with(['-', '=']) && text.chars().all(is_safe)
}

/// Returns whether a character can be seen, and does not reorder the others. A combining character
/// counts as printable; it shows on the character before it.
fn is_printable(c: char) -> bool {
    // Std escapes every other character, and combining ones only where nothing is before them.
    let text = ['x', c].iter().collect::<String>();
    matches!(c, '\'' | '"' | '\\') || text.escape_debug().eq(text.chars())
}

fn push_escaped(word: &mut String, c: char) {
    match c {
        '\t' => word.push_str(r"\t"),
        '\n' => word.push_str(r"\n"),
        '\r' => word.push_str(r"\r"),
        '\'' | '\\' => word.extend(['\\', c]),
        c if is_printable(c) => word.push(c),
        // Octal, because shells differ on how many hexadecimal digits belong to a byte.
        c => c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| word.push_str(&format!(r"\{byte:03o}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_plain_quoted_or_escaped() {
        for (name, shown) in [
            ("orders", "orders"),
            ("user/1.x-y_Z:%41", "user/1.x-y_Z:%41"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("日本", "'日本'"),
            ("e\u{301}", "'e\u{301}'"),
            ("~", "'~'"),
            ("=ls", "'=ls'"),
            ("", "''"),
            ("-x", "-- '-x'"),
            ("tab\t", r"$'tab\t'"),
            ("-\t", r"-- $'-\t'"),
            ("'\\\n\r\u{1b}[31m", r"$'\'\\\n\r\033[31m'"),
            ("\u{7}1", r"$'\0071'"),
            ("a\u{202e}b", r"$'a\342\200\256b'"),
            ("a\u{a0}b", r"$'a\302\240b'"),
        ] {
            assert_eq!(pasteable(name), shown, "{name:?}");
        }
    }

    #[test]
    fn the_escaped_form_is_taken_only_if_asked_for() {
        let name = |escaped, argument| Escaped { escaped }.name(argument).ok();
        assert_eq!(name(true, "a%20b").as_deref(), Some("a b"));
        assert_eq!(name(false, "a%20b").as_deref(), Some("a%20b"));
        for other in ["a b", "%", "%2F", "A", ""] {
            assert_eq!(name(true, other), None, "{other:?}");
        }
    }
}
