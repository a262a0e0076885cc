//! Ranges of entries in words, in one way everywhere, and the numbers that set them.

/// Returns the entries from `first` to before `next` in words, with the last one included:
/// "entries 1200 to 1999", "entry 1200", or "no entries, the next is 1200".
pub(crate) fn entries(first: u64, next: u64) -> String {
    match next.saturating_sub(first) {
        0 => format!("no entries, the next is {next}"),
        1 => format!("entry {first}"),
        _ => format!("entries {first} to {}", next - 1),
    }
}

/// Parses a seq, or a number of entries.
///
/// # Errors
/// A sentence that names the range.
pub(crate) fn parse_number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "it is not a whole number from 0 to 2^64 - 1".to_owned())
}

/// Parses a number of entries that is not 0.
///
/// # Errors
/// A sentence that names the range.
pub(crate) fn parse_count(text: &str) -> Result<u64, String> {
    let refused = || "it is not a whole number from 1 to 2^64 - 1".to_owned();
    text.parse().ok().filter(|&n| n > 0).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_in_its_range() {
        assert_eq!((parse_number("0"), parse_number(&u64::MAX.to_string())), (Ok(0), Ok(u64::MAX)));
        assert_eq!((parse_count("1"), parse_count("0").is_err()), (Ok(1), true));
        for text in ["-1", "18446744073709551616", "1.5", "x", ""] {
            assert!(parse_number(text).is_err() && parse_count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_names_its_first_and_its_last_entry() {
        assert_eq!(entries(1200, 2000), "entries 1200 to 1999");
        assert_eq!(entries(1200, 1201), "entry 1200");
        assert_eq!(entries(1200, 1200), "no entries, the next is 1200");
        assert_eq!(entries(0, u64::MAX), format!("entries 0 to {}", u64::MAX - 1));
    }
}
