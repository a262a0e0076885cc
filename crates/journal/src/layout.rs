//! The names in a journal's directory.

use std::ffi::OsStr;

const SUFFIX: &str = ".jnl";
const NUMBER_DIGITS: usize = 20;

/// The prefix of a spare's name. A spare holds no needed record. Only the process that writes the
/// journal uses spares, and recovery removes them.
const SPARE_PREFIX: &str = ".spare-";

/// The name of the file with this number.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:0NUMBER_DIGITS$}{SUFFIX}")
}

/// The name of a spare. `random` distinguishes it from other spares.
pub(crate) fn spare_name(random: u64) -> String {
    format!("{SPARE_PREFIX}{random:016x}")
}

/// The meaning of a name in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// The file with this number.
    File(u64),
    /// A spare: a file that holds no needed record.
    Spare,
}

/// Returns the meaning of `name`, or `None` if it is not part of a journal.
pub(crate) fn parse(name: &OsStr) -> Option<Name> {
    let name = name.to_str()?;
    if let Some(random) = name.strip_prefix(SPARE_PREFIX) {
        let is_spare = random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
        return is_spare.then_some(Name::Spare);
    }
    let digits = name.strip_suffix(SUFFIX)?;
    let is_number = digits.len() == NUMBER_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| digits.parse().ok()).flatten()?;
    Some(Name::File(number)).filter(|_| number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_journal_are_its_files() {
        let parsed = |name: &str| parse(OsStr::new(name));
        assert_eq!(parsed(&file_name(7)), Some(Name::File(7)));
        assert_eq!(parsed(&file_name(u64::MAX)), Some(Name::File(u64::MAX)));
        assert_eq!(parsed(&spare_name(7)), Some(Name::Spare));
        for foreign in
            ["", "7.jnl", "00000000000000000000.jnl", "99999999999999999999.jnl", ".spare-", "+0000000000000000007.jnl"]
        {
            assert_eq!(parsed(foreign), None, "{foreign}");
        }
    }
}
