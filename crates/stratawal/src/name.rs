//! Stream names as directory names: every stream name has one, and no two share one.
//!
//! `a`-`z`, `0`-`9`, `-`, `_`, and `.` (not first or last) are not escaped. Every other byte of the
//! UTF-8 is escaped as `%xx`. If the part before the first `.` is the name of a DOS device, its
//! first letter is also escaped.
//!
//! So two names that differ only in case also differ on file systems that ignore case. No escaped
//! name is `.` or `..`, contains a separator, or begins like a temporary name.

/// The longest escaped name in bytes. File systems allow 255, and temporary names are a little
/// longer.
pub(crate) const ESCAPED_LEN_MAX: usize = 240;

const DEVICES: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9", "lpt1", "lpt2",
    "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

/// Returns the escaped form of `name`, however long it is.
pub(crate) fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for (byte, plain) in bytes(name) {
        if plain {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02x}"));
        }
    }
    escaped
}

/// Computes the length of the escaped form in bytes without escaping, because a name may be of any
/// length.
pub(crate) fn escaped_len(name: &str) -> usize {
    bytes(name).map(|(_, plain)| if plain { 1 } else { 3 }).sum()
}

/// Returns the bytes of a name, each with whether the escaped form leaves it unchanged.
fn bytes(name: &str) -> impl Iterator<Item = (u8, bool)> {
    let stem = name.split('.').next().unwrap_or_default();
    let device = DEVICES.contains(&stem);
    name.bytes().enumerate().map(move |(i, byte)| {
        let plain = match byte {
            b'a'..=b'z' => i > 0 || !device,
            b'0'..=b'9' | b'-' | b'_' => true,
            b'.' => i > 0 && i + 1 < name.len(),
            _ => false,
        };
        (byte, plain)
    })
}

/// Returns the name whose escaped form is `escaped`, or `None` if there is none.
pub(crate) fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(behind.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &behind[2..];
        } else {
            bytes.push(first);
            rest = behind;
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    (!name.is_empty() && escaped.len() <= ESCAPED_LEN_MAX && escape(&name) == escaped).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn awkward_names_are_escaped() {
        for (name, escaped) in [
            ("orders", "orders"),
            ("user/1", "user%2f1"),
            ("..", "%2e%2e"),
            (".", "%2e"),
            ("a.b", "a.b"),
            ("a.", "a%2e"),
            (".new-x", "%2enew-x"),
            ("A", "%41"),
            ("con", "%63on"),
            ("CON", "%43%4f%4e"),
            ("con.txt", "%63on.txt"),
            ("console", "console"),
            ("%", "%25"),
            ("日本", "%e6%97%a5%e6%9c%ac"),
        ] {
            assert_eq!(escape(name), escaped);
            assert_eq!(unescape(escaped).as_deref(), Some(name));
        }
    }

    #[test]
    fn other_spellings_are_not_names() {
        for escaped in ["", "A", "%2F", "%61", "a%", "%zz", "%+1", ".", "..", ".a", "a.", "con", "%ff", "a/b"] {
            assert_eq!(unescape(escaped), None, "{escaped}");
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in "\\PC{1,40}|[a-cA-C./%~:* \\\\]{1,12}") {
            let escaped = escape(&name);
            prop_assert!(escaped.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'%')));
            prop_assert!(!escaped.starts_with('.') && !escaped.ends_with('.'));
            prop_assert_eq!(escaped_len(&name), escaped.len());
            if escaped.len() <= ESCAPED_LEN_MAX {
                prop_assert_eq!(unescape(&escaped), Some(name));
            } else {
                prop_assert_eq!(unescape(&escaped), None);
            }
        }

        #[test]
        fn different_names_are_different_directories(a in "[aA./%]{1,6}", b in "[aA./%]{1,6}") {
            prop_assert_eq!(a == b, escape(&a).eq_ignore_ascii_case(&escape(&b)));
        }
    }
}
