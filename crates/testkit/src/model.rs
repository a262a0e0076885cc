//! What a stream may be after a crash: the plain model that everything is held to.

use std::fmt;

use crate::workload::entry;

/// What an append was acknowledged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// In the process.
    Buffered,
    /// With the operating system.
    Flushed,
    /// On stable storage.
    Synced,
}

/// What a log shows of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The seq of the first entry.
    pub first: u64,
    /// The entries.
    pub entries: Vec<Vec<u8>>,
}

/// What the model does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch(pub String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The models of all streams at one time.
pub type Snapshot = Vec<StreamModel>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spec {
    tag: u64,
    len: usize,
    ends_batch: bool,
}

/// What is known of a stream: the entries that were ever asked for and may be there, in order, and up to where they
/// must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamModel {
    entries: Vec<Spec>,
    flushed: u64,
    synced: u64,
}

impl StreamModel {
    /// One past the last entry that may be there.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.entries.len() as u64
    }

    /// One past the last entry that must be there after a crash of the process or of the machine.
    #[must_use]
    pub const fn sure(&self, power_loss: bool) -> u64 {
        if power_loss { self.synced } else { self.flushed }
    }

    /// A batch is about to be appended: from here on it may be there.
    pub fn begin(&mut self, entries: &[(u64, usize)]) {
        let specs = entries.iter().map(|&(tag, len)| Spec { tag, len, ends_batch: false });
        self.entries.extend(specs);
        if let Some(last) = self.entries.last_mut() {
            last.ends_batch = true;
        }
    }

    /// It was refused, and will never be there.
    pub fn refused(&mut self, entries: usize) {
        self.entries.truncate(self.entries.len() - entries);
    }

    /// Everything asked for so far is acknowledged.
    pub fn acknowledged(&mut self, level: Level) {
        let end = self.end();
        if level >= Level::Flushed {
            self.flushed = end;
        }
        if level == Level::Synced {
            self.synced = end;
        }
    }

    /// The process or the machine died.
    pub fn crashed(&mut self, power_loss: bool) {
        if power_loss {
            self.flushed = self.synced;
        }
    }

    /// Holds what a reader of the running log sees against the model: a prefix of at least `min` entries.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_prefix(&self, found: &Found, min: u64) -> Result<(), Mismatch> {
        let n = found.entries.len() as u64;
        if found.first != 0 {
            return Err(Mismatch(format!("begins at {}, not at 0", found.first)));
        }
        if n < min {
            return Err(Mismatch(format!("{n} entries, {min} were acknowledged")));
        }
        if n > self.end() {
            return Err(Mismatch(format!("{n} entries, only {} were ever asked for", self.end())));
        }
        for (seq, (spec, bytes)) in self.entries.iter().zip(&found.entries).enumerate() {
            if *bytes != entry(spec.tag, spec.len) {
                return Err(Mismatch(format!("entry {seq} of {n} has other bytes")));
            }
        }
        Ok(())
    }

    /// Holds a recovered stream against the model, and goes on from what was found, which is durable now.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_recovered(&mut self, found: &Found) -> Result<(), Mismatch> {
        self.check_prefix(found, self.flushed)?;
        let n = found.entries.len();
        if n > 0 && !self.entries[n - 1].ends_batch {
            return Err(Mismatch(format!("{n} entries: the last batch is there in part")));
        }
        self.entries.truncate(n);
        (self.flushed, self.synced) = (n as u64, n as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tags: &[(u64, usize)]) -> Found {
        Found { first: 0, entries: tags.iter().map(|&(tag, len)| entry(tag, len)).collect() }
    }

    #[test]
    fn only_whole_batches_from_what_is_sure_to_what_was_asked_for_are_allowed() {
        let mut model = StreamModel::default();
        model.begin(&[(1, 10), (2, 20)]);
        model.acknowledged(Level::Synced);
        model.begin(&[(3, 5), (4, 6)]);
        model.begin(&[(5, 0)]);
        let all = [(1, 10), (2, 20), (3, 5), (4, 6), (5, 0)];
        for n in [2, 4, 5] {
            assert_eq!(model.clone().check_recovered(&found(&all[..n])), Ok(()), "{n}");
        }
        for n in [0, 1, 3] {
            assert!(model.clone().check_recovered(&found(&all[..n])).is_err(), "{n}");
        }
        let other = [(1, 10), (2, 20), (9, 5), (4, 6)];
        assert!(model.clone().check_recovered(&found(&other)).is_err(), "other bytes");
        let more = [&all[..], &[(6, 1)]].concat();
        assert!(model.clone().check_recovered(&found(&more)).is_err(), "never asked for");
        let mut after = model.clone();
        after.check_recovered(&found(&all[..4])).unwrap();
        assert!(after.check_recovered(&found(&all)).is_err(), "what was cut came back");
        assert!(after.check_recovered(&found(&all[..2])).is_err(), "what recovery had shown is gone");
    }

    #[test]
    fn what_was_flushed_is_sure_until_the_power_goes() {
        let mut model = StreamModel::default();
        model.begin(&[(1, 10)]);
        model.acknowledged(Level::Flushed);
        assert!(model.clone().check_recovered(&found(&[])).is_err());
        model.crashed(true);
        assert_eq!(model.check_recovered(&found(&[])), Ok(()));
    }
}
