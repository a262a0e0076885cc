//! The entries of a stream that a log shows.

use std::fmt;

/// All entries of a stream that a log shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The seq of the first entry.
    pub first_seq: u64,
    /// The entries, in order.
    pub entries: Vec<Vec<u8>>,
}

impl Found {
    /// One past the seq of the last entry.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.first_seq + self.entries.len() as u64
    }

    /// Checks that `later` still has every entry that this has. The stream was not changed in
    /// between.
    ///
    /// # Errors
    /// If an entry is missing or has other bytes.
    pub fn is_still_in(&self, later: &Self) -> Result<(), Mismatch> {
        for (seq, bytes) in (self.first_seq..).zip(&self.entries) {
            let index = seq.checked_sub(later.first_seq).and_then(|index| usize::try_from(index).ok());
            match index.and_then(|index| later.entries.get(index)) {
                Some(found) if found == bytes => {}
                Some(_) => return Err(Mismatch(format!("entry {seq} was shown and has other bytes now"))),
                None => {
                    let left = later.first_seq..later.next_seq();
                    return Err(Mismatch(format!("entry {seq} was shown and is gone: {left:?} is left")));
                }
            }
        }
        Ok(())
    }
}

/// How a log differs from the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch(pub String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
