//! The commands that work on a damaged stream.

/// The advice about damage of this kind, a word of `inspect::Damage::kind`; `lost` are the first
/// and the last entry that it takes. `None` where the message of the damage states the remedy.
pub(crate) fn about(kind: &str, lost: Option<(u64, u64)>) -> Option<String> {
    const READ: &str = "`cat --skip-damage` prints the other entries";
    let drop = lost.map(|(_, last)| format!("`truncate --before {}`", last.saturating_add(1)));
    Some(match (kind, drop) {
        ("misplaced", Some(drop)) => {
            format!("{READ}; if the right file is lost, move this one away first, and then {drop} opens the stream")
        }
        ("misplaced" | "directory", _) => return None,
        ("no_segment", _) => "restore the files from a copy, or `delete` the stream".to_owned(),
        ("history", _) => {
            "restore all files of the stream from one of the copies; until then `cat --skip-damage` prints the \
                           entries, although it is not certain which of them belong together"
                .to_owned()
        }
        ("seal", _) => {
            "no entry is lost, and `append` works; `truncate --before` an entry of a later file drops the damage"
                .to_owned()
        }
        // These the stream opens with.
        ("frame" | "gap", Some(drop)) => format!("{READ}, and `append` works; {drop} drops the damage"),
        ("frame" | "gap", None) => {
            format!("{READ}, and `append` works; `truncate --before` the entry after it drops the damage")
        }
        // With these it may not, but its end is known.
        (_, Some(drop)) => format!(
            "{READ}; restore the file from a copy, or give up the entries before the end of the damage: {drop} drops it, and \
             then `append` works"
        ),
        (_, None) => format!(
            "{READ}; restore the file from a copy, or append those entries to another stream and `delete` this one, since it \
             is not known where it ended (entries that contain newlines need a program for that)"
        ),
    })
}
