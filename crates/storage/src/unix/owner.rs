//! Finds the process that holds a lock.

use std::fs;
use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;

use crate::storage::LockOwner;

/// Returns the process that has locked `locked`, if it is known and still exists. `lock_file` is
/// the file in which a holder writes its id.
///
/// On Linux the system lists the locks, but not those of processes in other containers or on other
/// machines. Where there is no list, the id in the lock file has to do.
pub(super) fn owner(locked: &fs::Metadata, lock_file: &mut fs::File) -> Option<LockOwner> {
    let named = named_in(lock_file);
    let (id, is_certain) = match fs::read_to_string("/proc/locks") {
        Ok(list) => {
            let device = (rustix::fs::major(locked.dev()), rustix::fs::minor(locked.dev()));
            (holder_in(&list, device, locked.ino(), named)?, true)
        }
        Err(_) => (named?, false),
    };
    exists(id).then(|| LockOwner { id, command: command(id), is_certain })
}

/// Returns the process that has locked the file with this device and inode, according to the
/// system's list of locks.
///
/// On some file systems the list has another device than the file's metadata. Then the process
/// must be the one that the lock file names, because the inode alone may be that of another file.
fn holder_in(list: &str, device: (u32, u32), inode: u64, named: Option<u32>) -> Option<u32> {
    let mut locks = list.lines().filter_map(|line| {
        // The number, kind, mode, access, process, and file of a lock. A process that waits for one
        // has an arrow after the number.
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next().filter(|&kind| kind == "FLOCK" || kind == "POSIX")?;
        let id: u32 = fields.nth(2)?.parse().ok()?;
        let mut file = fields.next()?.split(':');
        let major = u32::from_str_radix(file.next()?, 16).ok()?;
        let minor = u32::from_str_radix(file.next()?, 16).ok()?;
        let is_this = file.next()?.parse() == Ok(inode) && ((major, minor) == device || named == Some(id));
        is_this.then_some(id)
    });
    // The lock file of a log is locked by one process only.
    locks.next()
}

/// The id that a lock file has, of a process that may not exist.
fn named_in(file: &mut fs::File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.take(32).read_to_string(&mut text)).ok()?;
    text.trim().parse().ok()
}

fn exists(id: u32) -> bool {
    let process = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw);
    // A process that this user may not signal also exists.
    process.is_some_and(|process| matches!(rustix::process::test_kill_process(process), Ok(()) | Err(Errno::PERM)))
}

/// The name of the program that a process runs, on one line. Only Linux shows it to every user.
fn command(id: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{id}/comm")).ok()?;
    let name = String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).escape_debug().to_string();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
1: FLOCK  ADVISORY  WRITE 100 fe:00:77 0 EOF
1: -> FLOCK  ADVISORY  WRITE 101 fe:00:78 0 EOF
2: POSIX  ADVISORY  READ 102 00:2f:79 0 EOF
3: OFDLCK ADVISORY  WRITE -1 fe:00:80 0 EOF
4: LEASE  ACTIVE    READ 103 fe:00:81 0 EOF
5: FLOCK  ADVISORY  WRITE 104 fe:00:82 0 EOF
";

    #[test]
    fn lock_file_names_a_process_or_none() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let named = |text: &[u8]| {
            fs::write(&path, text).unwrap();
            named_in(&mut fs::File::open(&path).unwrap())
        };
        assert_eq!(named(b"123\n"), Some(123));
        for text in ["", "not a number", "99999999999", "-1"] {
            assert_eq!(named(text.as_bytes()), None, "{text:?}");
        }
        // Only a few bytes are read of a long file that is not text.
        assert_eq!(named(&[0xFF; 1 << 20]), None);
        assert!(exists(std::process::id()));
        // The greatest process id on Linux is 4,194,304.
        assert!(!exists(0) && !exists(4_194_305) && !exists(u32::MAX));
    }

    #[test]
    fn program_of_a_process_is_on_one_line() {
        let name = command(std::process::id());
        assert_eq!(name.is_some(), cfg!(target_os = "linux"), "{name:?}");
        assert!(name.is_none_or(|name| !name.contains('\n')));
        assert_eq!(command(4_194_305), None);
    }

    #[test]
    fn holder_is_the_one_in_the_list_of_locks() {
        let holder = |device, inode, named| holder_in(LIST, device, inode, named);
        assert_eq!(holder((0xfe, 0), 77, None), Some(100));
        assert_eq!(holder((0xfe, 0), 77, Some(999)), Some(100), "the lock file names another one");
        assert_eq!(holder((0, 0x2f), 79, None), Some(102));
        assert_eq!(holder((0xfe, 0), 82, None), Some(104));
        // A process that waits, a lock of no process, another kind, no lock.
        for inode in [78, 80, 81, 83] {
            assert_eq!(holder((0xfe, 0), inode, None), None, "{inode}");
        }
        // The list has another device.
        assert_eq!(holder((0, 0x30), 79, Some(102)), Some(102));
        assert_eq!(holder((0, 0x30), 79, Some(100)), None);
        assert_eq!(holder_in("", (0xfe, 0), 77, Some(100)), None, "its process is not visible");
    }
}
