//! Ranges of entries in words, in one way everywhere.

/// Returns the entries from `first` to before `next` in words, with the last one included:
/// "entries 1200 to 1999", "entry 1200", or "no entries, the next is 1200".
pub(crate) fn entries(first: u64, next: u64) -> String {
    match next.saturating_sub(first) {
        0 => format!("no entries, the next is {next}"),
        1 => format!("entry {first}"),
        _ => format!("entries {first} to {}", next - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_names_its_first_and_its_last_entry() {
        assert_eq!(entries(1200, 2000), "entries 1200 to 1999");
        assert_eq!(entries(1200, 1201), "entry 1200");
        assert_eq!(entries(1200, 1200), "no entries, the next is 1200");
        assert_eq!(entries(0, u64::MAX), format!("entries 0 to {}", u64::MAX - 1));
    }
}
