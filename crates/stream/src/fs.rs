//! Removes files and renames directories. If the system reports an error, these functions find out
//! whether the change took effect.

use std::io;
use std::path::Path;

use stratawal_storage::{Access, Storage};

/// Removes a file if it exists. On an error the file may be removed anyway, so this then checks.
///
/// # Errors
/// Any operating-system error, unless the file is known to be gone.
pub(crate) fn remove_file(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    match storage.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound && !is_absent(storage, path) => Err(error),
        _ => Ok(()),
    }
}

/// The outcome of a rename of a directory.
#[derive(Debug)]
pub(crate) enum Renamed {
    Done,
    /// Renamed, although the system reported this error.
    DoneDespite(io::Error),
    /// There was no such directory.
    Absent(io::Error),
    Undone(io::Error),
    Unknown(io::Error),
}

/// Renames a directory. On an error the directory may be renamed anyway, so this then checks: a
/// rename is atomic, so a directory that still has its old name was not renamed.
pub(crate) fn rename_dir(storage: &dyn Storage, from: &Path, to: &Path) -> Renamed {
    let Err(error) = storage.rename(from, to) else { return Renamed::Done };
    let is_absent = error.kind() == io::ErrorKind::NotFound;
    match (dir_exists(storage, from), dir_exists(storage, to)) {
        (Some(true), _) => Renamed::Undone(error),
        (Some(false), Some(true)) => Renamed::DoneDespite(error),
        (Some(false), Some(false)) if is_absent => Renamed::Absent(error),
        _ => Renamed::Unknown(error),
    }
}

/// Returns whether anything has this name, or `None` if that cannot be determined.
pub(crate) fn dir_exists(storage: &dyn Storage, dir: &Path) -> Option<bool> {
    match storage.list(dir) {
        Ok(_) => Some(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Some(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
    }
}

/// Whether it is certain that no file has this name.
fn is_absent(storage: &dyn Storage, path: &Path) -> bool {
    matches!(storage.open(path, Access::Read), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use stratawal_storage::MemoryStorage;
    use stratawal_testkit::{HookedStorage, Operation};

    use super::*;

    const FROM: &str = "/from";
    const TO: &str = "/to";

    fn refused() -> io::Error {
        io::Error::from(io::ErrorKind::PermissionDenied)
    }

    /// A storage with the directory `/from` and the file `/file`.
    fn storage() -> (MemoryStorage, HookedStorage) {
        let inner = MemoryStorage::new();
        inner.create_dir(Path::new(FROM)).unwrap();
        inner.create_new(Path::new("/file")).unwrap();
        (inner.clone(), HookedStorage::new(inner))
    }

    #[test]
    fn a_rename_that_has_no_effect_is_undone() {
        let (_, storage) = storage();
        storage.set(|_, _| Err(refused()));
        assert!(matches!(rename_dir(&storage, Path::new(FROM), Path::new(TO)), Renamed::Undone(_)));
    }

    #[test]
    fn a_rename_may_be_done_despite_an_error() {
        let (inner, storage) = storage();
        storage.set(move |_, _| {
            inner.rename(Path::new(FROM), Path::new(TO))?;
            Err(refused())
        });
        assert!(matches!(rename_dir(&storage, Path::new(FROM), Path::new(TO)), Renamed::DoneDespite(_)));
    }

    #[test]
    fn a_missing_directory_is_absent() {
        let (_, storage) = storage();
        assert!(matches!(rename_dir(&storage, Path::new("/missing"), Path::new(TO)), Renamed::Absent(_)));
    }

    #[test]
    fn a_rename_without_error_is_done() {
        let (inner, storage) = storage();
        assert!(matches!(rename_dir(&storage, Path::new(FROM), Path::new(TO)), Renamed::Done));
        assert_eq!(dir_exists(&inner, Path::new(TO)), Some(true));
    }

    #[test]
    fn removing_fails_only_if_the_file_still_exists() {
        let (inner, storage) = storage();
        let path = Path::new("/file");
        storage.set(|_, _| Err(refused()));
        assert_eq!(remove_file(&storage, path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let removes = inner.clone();
        storage.set(move |operation, path| {
            if operation == Operation::Remove {
                removes.remove_file(path)?;
                return Err(refused());
            }
            Ok(())
        });
        remove_file(&storage, path).unwrap();
        assert!(is_absent(&inner, path));
        remove_file(&storage, path).unwrap();
    }
}
