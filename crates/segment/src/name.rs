//! The names of segment files.

use std::ffi::OsStr;
use std::fmt;

use stratawal_frame::{Generation, SegmentHeader, SeqNo};

/// The name of a segment within its stream. Its file is called
/// `<base seq, 20 digits>-<generation, 8 hex>.seg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId {
    /// The seq of its first entry.
    pub base: SeqNo,
    /// Its generation.
    pub generation: Generation,
}

/// Prefix of the name of a segment that is being created. After a crash such a file belongs to no
/// stream and may be removed.
pub const TEMPORARY_PREFIX: &str = ".tmp-";

/// Whether `name` begins with [`TEMPORARY_PREFIX`].
#[must_use]
pub fn is_temporary(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes())
}

impl SegmentId {
    /// The id that a segment with this header must have.
    #[must_use]
    pub const fn of(header: &SegmentHeader) -> Self {
        Self { base: header.base, generation: header.generation }
    }

    /// Parses a file name. Returns `None` unless the name is exactly as [`Display`](fmt::Display)
    /// writes it.
    #[must_use]
    pub fn parse(name: &OsStr) -> Option<Self> {
        let (base, generation) = name.to_str()?.strip_suffix(".seg")?.split_once('-')?;
        // `parse` accepts more than one form of a number: signs, upper case, other lengths.
        let exact = base.len() == 20
            && generation.len() == 8
            && base.bytes().all(|byte| byte.is_ascii_digit())
            && generation.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let id = || Some((base.parse().ok()?, u32::from_str_radix(generation, 16).ok()?));
        let (base, generation) = exact.then(id)??;
        Some(Self { base: SeqNo(base), generation: Generation(generation) })
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{:08x}.seg", self.base.0, self.generation.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back() {
        for (base, generation) in [(0, 1), (u64::MAX, u32::MAX), (42, 0xAB)] {
            let id = SegmentId { base: SeqNo(base), generation: Generation(generation) };
            assert_eq!(SegmentId::parse(OsStr::new(&id.to_string())), Some(id));
        }
    }

    #[test]
    fn only_the_exact_form_is_a_segment() {
        for name in [
            "",
            "0-1.seg",
            "00000000000000000000-00000001",
            "00000000000000000000-0000000A.seg",
            "+0000000000000000000-00000001.seg",
            "00000000000000000000-+0000001.seg",
            "000000000000000000000-0000001.seg",
            "0000000000000000000-000000001.seg",
            "0000000000000000000é-00000001.seg",
            "99999999999999999999-00000001.seg",
            "00000000000000000000-00000001.seg.bak",
            ".tmp-00000000000000000000-00000001.seg",
        ] {
            assert_eq!(SegmentId::parse(OsStr::new(name)), None, "{name}");
        }
    }
}
