//! The records of a damaged journal that newer ones replace.
//!
//! A stream gives a seq to another entry only after a SETTLED record has made the earlier records
//! void. Damage may have taken that record, while both entries can be read.

use stratawal_frame::BATCH_END;
use stratawal_journal::{LocatedPart, Lsn, NeededStream, Part};

use super::journal_tail::entries_of;

/// Drops the parts that newer ones replace. Two parts that have different entries of the same seq
/// show that the end of the stream has moved between them. Before that, everything was settled: the
/// stream's files hold those entries of the older parts that were kept.
pub fn drop_replaced(needed: &mut NeededStream) {
    let Some(valid_from) = valid_from(&needed.parts) else { return };
    needed.parts.retain(|located| located.lsn >= valid_from);
    let end = needed.parts.iter().map(|located| located.part.end()).max();
    needed.firm = needed.firm.min(end.unwrap_or_default());
}

/// The first part after the end of the stream has moved for the last time, if the parts, in seq
/// order, show that it has.
fn valid_from(parts: &[LocatedPart]) -> Option<Lsn> {
    // Where each pair of different parts begins. The end has moved in between.
    let mut pairs = Vec::new();
    for (i, one) in parts.iter().enumerate() {
        let overlapping = parts[i + 1..].iter().take_while(|other| other.part.first < one.part.end());
        let different = overlapping.filter(|other| differ(&one.part, &other.part));
        pairs.extend(different.map(|other| (one.lsn.min(other.lsn), one.lsn.max(other.lsn))));
    }
    let after = pairs.iter().map(|(older, _)| *older).max()?;
    let newer = pairs.iter().map(|(_, newer)| *newer).filter(|newer| *newer > after).min()?;
    let mut first = parts.iter().find(|located| located.lsn == newer)?;
    // The parts before that one may be equal to those that they replace.
    let mut between: Vec<_> = parts.iter().filter(|located| after < located.lsn && located.lsn < first.lsn).collect();
    between.sort_by_key(|located| std::cmp::Reverse(located.lsn));
    for located in between {
        if located.part.end() != first.part.first {
            break;
        }
        first = located;
    }
    Some(first.lsn)
}

/// Whether the parts have different entries of the same seq.
fn differ(one: &Part, other: &Part) -> bool {
    let (Some(of_one), Some(of_other)) = (entries_of(one), entries_of(other)) else { return false };
    let both = one.first.max(other.first).0..one.end().min(other.end()).0;
    both.into_iter().any(|seq| entry(one, &of_one, seq) != entry(other, &of_other, seq))
}

/// The bytes of entry `seq` of a part, whose entries end at `ends` in `data`.
fn entry<'a>(part: &Part, (ends, data): &(Vec<u32>, &'a [u8]), seq: u64) -> Option<&'a [u8]> {
    let at = usize::try_from(seq - part.first.0).ok()?;
    let begin = at.checked_sub(1).map_or(0, |before| ends[before] & !BATCH_END);
    data.get(begin as usize..(ends[at] & !BATCH_END) as usize)
}
