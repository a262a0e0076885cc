//! `inspect::verify` reads everything around any damage, and names each damaged file.

use std::collections::BTreeSet;

use stratawal::DamageKind;
use stratawal::inspect::CheckState;

use crate::check::Read;
use crate::layout::{DamagedLog, Layout};
use crate::salvage::save;

/// Whether damage of this kind is in the file that the error names, rather than before or after it.
fn is_in_file(kind: DamageKind) -> bool {
    use DamageKind::{FirstMissing, History, PredecessorMissing, SuccessorMissing};
    !matches!(kind, FirstMissing | PredecessorMissing | SuccessorMissing | History)
}

impl Layout {
    /// Checks that every entry that can be read is counted, that every file with lost entries is
    /// named, and that no file is named twice.
    pub(crate) fn check_verify(&self, what: &str, log: &dyn DamagedLog, read: Read) {
        let mut checks = log.verify().unwrap_or_else(|e| panic!("{what}: cannot verify: {e}"));
        let check = checks.next().unwrap().unwrap_or_else(|e| panic!("{what}: verifying fails: {e}"));
        assert_eq!(check.state == CheckState::Damaged, !check.damage.is_empty(), "{what}: {check:?}");
        let in_files = check.damage.iter().filter(|damage| damage.damage().is_some_and(is_in_file));
        let named: Vec<_> = in_files.map(stratawal::Error::segment).collect();
        assert_eq!(named.iter().collect::<BTreeSet<_>>().len(), named.len(), "{what}: named twice: {check:?}");
        if read == Read::Refused {
            assert_eq!((check.state, check.next_seq), (CheckState::Damaged, None), "{what}: {check:?}");
            let saved = save(what, log);
            let left = saved.entries.len() + saved.uncertain.len();
            assert_eq!(check.entries, left as u64, "{what}: {check:?}");
            for lost in saved.lost {
                let is_named = check.damage.iter().any(|damage| damage.segment() == lost.error.segment());
                assert!(is_named, "{what}: {lost:?} is not in {check:?}");
            }
            return;
        }
        let stream = log.open_log(true).unwrap().stream("s").unwrap();
        let seqs = stream.first_seq()..stream.next_seq();
        let readable = seqs.filter(|&seq| matches!(stream.get(seq), Ok(Some(_)))).count();
        assert_eq!(check.entries, readable as u64, "{what}: {check:?}");
        assert!(read == Read::All || check.state == CheckState::Damaged, "{what}: {check:?}");
    }
}
