//! Advice on which commands work on a damaged stream.

use stratawal::{DamageKind, Error};

use crate::name;

const READ: &str = "`cat --skip-damage` prints the other entries";

/// The advice for damage to a SEAL in a stream that does not open.
const SEAL_ALONE: &str = "no entry is lost by this";

const AND_ALL: &str = "and every entry before it, so `salvage` those first";

const REPAIR: &str = "or `repair` shows what can be kept";

/// The advice for a damaged commit journal.
pub(crate) const JOURNAL: &str = "`cat` prints the entries in the segment files, and `cat --skip-damage` also those that the \
                                  journal still has; restore the log from a copy; or `repair` shows what can be kept";

/// The advice for a damaged stream of which no entry can be read.
const NOTHING_LEFT: &str = "no entry of the stream can be read; restore the files from a copy, or `delete` the stream";

/// Returns the message of an error, and what helps. Every command prints damage in these words.
pub(crate) fn message_of(error: &Error) -> String {
    with_advice(error, about(error))
}

/// Returns the messages of all damage to a stream, which is in the order of the files, each with
/// the advice that applies. If some of it keeps the stream from opening, only a truncation that
/// drops all of it helps.
pub(crate) fn messages_of(damage: &[Error]) -> Vec<String> {
    let opens = |kind| matches!(kind, DamageKind::Frame | DamageKind::Gap) || has_own_advice(kind);
    if damage.len() == 1 || damage.iter().filter_map(Error::damage).all(opens) {
        return damage.iter().map(message_of).collect();
    }
    let last = damage.iter().rposition(|damage| damage.damage().is_some_and(|kind| !has_own_advice(kind)));
    let message = |(i, damage): (usize, &Error)| match damage.damage() {
        Some(DamageKind::Seal) => with_advice(damage, Some(SEAL_ALONE.to_owned())),
        Some(kind) if !has_own_advice(kind) => {
            let advice = if last == Some(i) { closed(damage) } else { READ.to_owned() };
            with_advice(damage, Some(advice))
        }
        _ => message_of(damage),
    };
    damage.iter().enumerate().map(message).collect()
}

/// Whether the advice for this kind of damage is the same for every stream.
const fn has_own_advice(kind: DamageKind) -> bool {
    matches!(
        kind,
        DamageKind::Misplaced
            | DamageKind::Directory
            | DamageKind::NoSegment
            | DamageKind::History
            | DamageKind::Journal
            | DamageKind::Seal
    )
}

/// Like [`message_of`], for damage to a stream of which no entry can be read.
pub(crate) fn message_if_nothing_left(error: &Error) -> String {
    let keeps_its_advice = match error.damage() {
        None => true,
        // A truncation opens the stream, and no seq is used again.
        Some(kind) => has_own_advice(kind) || error.lost().is_some(),
    };
    if keeps_its_advice { message_of(error) } else { with_advice(error, Some(NOTHING_LEFT.to_owned())) }
}

fn with_advice(error: &Error, advice: Option<String>) -> String {
    let message = name::message_of(error);
    match advice.filter(|advice| !message.contains(advice)) {
        Some(advice) => format!("{message}; {advice}"),
        None => message,
    }
}

/// Returns the commands that help with this damage, or `None` if it is not damage to a stream or
/// its message already states the remedy.
pub(crate) fn about(damage: &Error) -> Option<String> {
    let drop = damage.lost().map(|lost| format!("`truncate --before {}`", lost.end));
    Some(match (damage.damage()?, drop) {
        (DamageKind::Misplaced, Some(drop)) => {
            format!(
                "{READ}; if the right file is lost, move this one away first, and then {drop} opens the stream, and drops \
                 every entry before that one, so `salvage` those first"
            )
        }
        (DamageKind::Misplaced | DamageKind::Directory, _) => return None,
        (DamageKind::NoSegment, _) => "`cat --skip-damage` prints the entries that the journal still has, if any, and `repair` \
             shows whether they can be kept; restore the files from a copy, or `delete` the stream if nothing of it is left"
            .to_owned(),
        (DamageKind::History, _) => "restore all files of the stream from one of the copies; until then \
             `cat --skip-damage` prints the entries, although it is not certain which of them belong together"
            .to_owned(),
        (DamageKind::Journal, _) => JOURNAL.to_owned(),
        (DamageKind::Seal, _) => {
            "no entry is lost, and `append` works, so nothing has to be done, but `verify` reports it as long as the file is \
             there; `truncate --before` an entry of a later file drops the damage and every entry before it, so copy those \
             first, by `cat --length-prefixed`"
                .to_owned()
        }
        // The stream opens despite these.
        (DamageKind::Frame | DamageKind::Gap, Some(drop)) => {
            format!("{READ}, and `append` works; {drop} drops the damage {AND_ALL}; {REPAIR}")
        }
        (DamageKind::Frame | DamageKind::Gap, None) => {
            format!(
                "{READ}, and `append` works; `truncate --before` the entry after it drops the damage {AND_ALL}; {REPAIR}"
            )
        }
        // Any other damage may keep the stream from opening.
        _ => closed(damage),
    })
}

/// The advice for the last damage to a stream that does not open.
fn closed(damage: &Error) -> String {
    match damage.lost() {
        Some(lost) => format!(
            "{READ}; restore the file from a copy, or give up the damaged part: `truncate --before {}` drops it {AND_ALL}, and \
             then `append` works; {REPAIR}",
            lost.end
        ),
        None => format!(
            "{READ}, and `salvage` copies them; restore the file from a copy; {REPAIR}, since it is not known where the stream \
             ended; or `delete` the stream if nothing of it is left"
        ),
    }
}
