//! The stream that a user may have meant.

use stratawal::{Wal, inspect};

/// The number of names of about the right length that are compared.
const NAMES_MAX: usize = 10_000;

/// Returns the stream in the log whose name is nearest to `name`, if one is near.
pub(crate) fn in_log(wal: &Wal, name: &str) -> Option<String> {
    // Only for a hint, so an error is left to a command that needs the names.
    let names = wal.streams().ok()?;
    nearest(name, &names).map(ToOwned::to_owned)
}

/// Returns the name that differs from `name` least, by at most a third of its characters.
fn nearest<'a>(name: &str, names: &'a [String]) -> Option<&'a str> {
    let meant = inspect::unescape_name(name);
    let is_meant = |other: &&String| {
        meant.as_ref() == Some(*other) && **other != name || other.to_lowercase() == name.to_lowercase()
    };
    if let Some(other) = names.iter().find(is_meant) {
        return Some(other);
    }
    let len = name.chars().count();
    let differences_max = (len / 3).max(1);
    let are_near = names.iter().filter(|other| other.chars().count().abs_diff(len) <= differences_max);
    let distances = are_near.take(NAMES_MAX).map(|other| (strsim::damerau_levenshtein(name, other), other));
    // A name of one character differs from every other one by one.
    let near = distances.filter(|&(distance, _)| distance <= differences_max && distance < len.max(1));
    near.min_by_key(|&(distance, _)| distance).map(|(_, other)| &**other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_differs_by_a_third_at_most() {
        let names: Vec<String> = ["orders", "orders-2", "users", "a b", "x"].map(Into::into).into();
        for (name, near) in [
            ("ordres", Some("orders")),
            ("Orders", Some("orders")),
            ("order", Some("orders")),
            ("orders-3", Some("orders-2")),
            ("user", Some("users")),
            ("a%20b", Some("a b")),
            ("y", None),
            ("payments", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, &names), near, "{name}");
        }
    }
}
