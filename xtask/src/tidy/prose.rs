//! Habits of writing that make a reader stumble, counted across all comments and Markdown.
//!
//! A sentence with a habit may be fine, so no single sentence is a violation. The share of such
//! sentences has a ceiling, which may only be lowered.

use super::text::{Kind, paragraphs};

/// The maximum number of sentences with a habit in a thousand. Lower it when `cargo xtask tidy`
/// reports a smaller share; never raise it.
pub(super) const PER_MILLE_MAX: usize = 6;

/// Sentences with fewer words are labels.
const WORDS_MIN: usize = 4;

/// A habit and its patterns. A pattern is a sequence of words that must follow one another in the
/// sentence: `a|b` is either word, `!a|b` is any other word or the end of the sentence, `^` is the
/// beginning of the sentence and `$` its end.
type Habit = (&'static str, &'static [&'static str]);

const HABITS: [Habit; 24] = [
    (
        "\"what\" as a noun: name the thing",
        &["^ what !is|are|if|happens|does|do|a", "what was|is|has|had|stands|waits|comes"],
    ),
    ("\"is no\": write \"is not a\"", &["!there is|are|was|were no !longer|more|such|need"]),
    ("a person for a thread or a caller", &["somebody|nobody|anybody|everybody|whoever|someone|anyone"]),
    ("\"who\" of a thread", &["who comes|has|needs|asks|waits|sees|looks|keeps|goes|wants|reads"]),
    ("\"behind\": write \"after\"", &["behind"]),
    ("\"answers\": write \"returns\"", &["answer|answers|answered|answering"]),
    ("\"told\": write \"reported\"", &["tell|tells|told|telling"]),
    ("\"says\": write \"states\"", &["say|says|said|saying"]),
    ("\"stands\": write \"is\"", &["stand|stands|stood !for|out"]),
    ("\"goes on\": write \"continues\"", &["go|goes|went|going|gone on"]),
    ("an opening that needs the item before", &["^ the same !errors", "^ likewise", "^ as above", "^ ditto"]),
    ("\"there\" as a predicate: \"exists\"", &["is|are|was|were there !is|are|to", "what|that there is|are"]),
    ("\"to be had\": write \"available\"", &["to be had"]),
    ("\"but for\": write \"except\"", &["but for"]),
    ("\"by itself\": write \"automatically\" or \"alone\"", &["by itself|themselves"]),
    ("\"all the same\": write \"still\"", &["all the same"]),
    ("\"meanwhile\": write \"at the same time\"", &["meanwhile"]),
    ("\"folder\": write \"directory\"", &["folder|folders"]),
    ("\"anew\": write \"again\"", &["anew"]),
    ("\"believe\": write \"trust\"", &["believe|believes|believed|believing"]),
    ("\"whatever\": name the cases", &["whatever|whichever"]),
    ("\"besides\": write \"also\"", &["besides"]),
    ("\"hand on\": write \"pass\"", &["hand|hands|handed|handing on"]),
    ("\"so often\": give the count", &["so often|many|much $"]),
];

/// The number of sentences in a text, and those with a habit.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) sentences: usize,
    /// For each flagged sentence, the line of its paragraph and the habit.
    pub(super) flagged: Vec<(usize, &'static str)>,
}

pub(super) fn count(kind: Kind, text: &str) -> Count {
    let mut count = Count::default();
    for (number, paragraph) in paragraphs(kind, text) {
        for sentence in sentences(&paragraph) {
            count.sentences += 1;
            count.flagged.extend(habit(&sentence).map(|habit| (number, habit)));
        }
    }
    count
}

/// Returns the sentences of a paragraph, except questions, as lower-case words. A code span is one
/// word.
fn sentences(paragraph: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut words = Vec::new();
    for word in without_code(paragraph).split_whitespace() {
        let letters = |c: char| c.is_alphanumeric() || c == '\'';
        let bare = word.trim_matches(|c| !letters(c)).to_lowercase();
        if !bare.is_empty() {
            words.push(bare);
        }
        let end = word.trim_end_matches(['"', ')', '*', '_']);
        if end.ends_with(['.', '!', ':']) {
            found.push(std::mem::take(&mut words));
        } else if end.ends_with('?') {
            // Some of the habits are fine in a question.
            words.clear();
        }
    }
    found.push(words);
    found.retain(|words| words.len() >= WORDS_MIN);
    found
}

/// A code span is a name: its words do not count.
fn without_code(paragraph: &str) -> String {
    let parts = paragraph.split('`').enumerate();
    parts.map(|(number, part)| if number % 2 == 0 { part } else { "code" }).collect()
}

/// Returns the first habit found in a sentence.
fn habit(sentence: &[String]) -> Option<&'static str> {
    let has = |pattern: &str| (0..sentence.len()).any(|at| matches(pattern, sentence, at));
    HABITS.iter().find(|(_, patterns)| patterns.iter().any(|pattern| has(pattern))).map(|(name, _)| *name)
}

/// Returns whether a pattern matches a sentence from word `at` on.
fn matches(pattern: &str, sentence: &[String], mut at: usize) -> bool {
    for token in pattern.split(' ') {
        let word = sentence.get(at).map(String::as_str);
        let fits = match (token, token.strip_prefix('!')) {
            ("^", _) => at == 0,
            ("$", _) => word.is_none(),
            (_, Some(others)) => word.is_none_or(|word| others.split('|').all(|other| other != word)),
            (words, None) => word.is_some_and(|word| words.split('|').any(|other| other == word)),
        };
        if !fits {
            return false;
        }
        at += usize::from(token != "^");
    }
    true
}

/// Compares the share with the ceiling. Returns a violation, or a note that the ceiling can be
/// lowered.
pub(super) fn judge(flagged: usize, sentences: usize) -> Result<Option<String>, String> {
    let share = (flagged * 1000).div_ceil(sentences.max(1));
    let of = format!("{flagged} of {sentences} sentences have a habit that xtask/src/tidy/prose.rs lists");
    if share > PER_MILLE_MAX {
        return Err(format!("{of}: {share} of a thousand, over the ceiling of {PER_MILLE_MAX}"));
    }
    Ok((share < PER_MILLE_MAX).then(|| format!("{of}: lower PER_MILLE_MAX to {share}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flagged(text: &str) -> usize {
        count(Kind::Markdown, text).flagged.len()
    }

    #[test]
    fn every_habit_is_found_in_its_own_words() {
        for (name, patterns) in HABITS {
            for pattern in patterns {
                let words = pattern.split(' ').filter(|token| !matches!(*token, "^" | "$"));
                let words = words.map(|token| {
                    if token.starts_with('!') { "that" } else { token.split('|').next().unwrap_or_default() }
                });
                let words: Vec<&str> = words.collect();
                let words = words.join(" ");
                let sentence = match pattern {
                    pattern if pattern.starts_with('^') => format!("{words} of the second segment."),
                    pattern if pattern.ends_with('$') => format!("The writer appends {words}."),
                    _ => format!("The writer, then, {words} next."),
                };
                let count = count(Kind::Markdown, &sentence);
                assert_eq!((count.sentences, count.flagged.len()), (1, 1), "{name}: {sentence}");
            }
        }
    }

    #[test]
    fn plain_sentences_are_not_flagged() {
        for sentence in [
            "Returns the entry, or `None` where the stream has no such entry.",
            "The mark stands for the last frame of the chain.",
            "There is no longer a segment of that name.",
            "It is no longer needed by any reader.",
            "What is the cost of a sync on this disk?",
            "The option `behind` and the field `folder` are names.",
            "Told you so.",
            "Both readers see the same entries.",
            "The same errors as those of an append.",
            "The result is `None` if there is no such stream.",
        ] {
            assert_eq!(flagged(sentence), 0, "{sentence}");
        }
    }

    #[test]
    fn sentences_end_at_full_stops_and_not_at_versions() {
        let text = "The crate needs version 1.89 of Rust. It also needs a \"C linker.\" Short.";
        assert_eq!(count(Kind::Markdown, text).sentences, 2);
        assert_eq!(
            flagged("The frame behind the mark counts. The mark does not count here. It stands behind it all."),
            2
        );
    }

    #[test]
    fn a_share_over_the_ceiling_fails() {
        assert!(judge(0, 0).is_ok());
        assert!(judge(PER_MILLE_MAX, 1000).is_ok_and(|note| note.is_none()));
        assert!(judge(PER_MILLE_MAX + 1, 1000).is_err());
        assert!(judge(PER_MILLE_MAX * 10 + 1, 10_000).is_err());
        let note = judge(PER_MILLE_MAX - 1, 1000).ok().flatten();
        assert!(note.is_some_and(|note| note.ends_with(&format!("to {}", PER_MILLE_MAX - 1))));
    }
}
