//! A file for each stream, and another when it is full: the minimum of file-system operations that
//! a log of streams and segments needs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{frame, read, reserve};
use crate::payload::Tally;
use crate::subject::{Answer, Level, Setup, Subject, Writer, failed, none};

/// The length of a file that has blocks before the first append, if each append syncs.
const RESERVED_LEN: u64 = 64 << 20;

/// The bytes that are read of each file when the log is opened.
const READ_LEN: usize = 128;

pub(super) struct Files {
    dir: PathBuf,
    segment_len: u64,
    sync: bool,
}

struct FilesLoop<'a> {
    files: &'a Files,
    stream: u64,
    file: File,
    end: u64,
    bytes: Vec<u8>,
}

impl Files {
    /// Opens each file and reads its first bytes.
    pub(super) fn open(setup: &Setup<'_>) -> Answer<Self> {
        let dir = setup.dir.join("raw-files");
        fs::create_dir_all(&dir).map_err(failed("create"))?;
        for path in sorted(&dir)? {
            let file = File::open(path).map_err(failed("open"))?;
            let len = file.metadata().map_err(failed("metadata"))?.len();
            let mut first = [0; READ_LEN];
            let first = &mut first[..READ_LEN.min(usize::try_from(len).unwrap_or(READ_LEN))];
            file.read_exact_at(first, 0).map_err(failed("read"))?;
        }
        let segment_len = setup.segment_len.unwrap_or(u64::MAX);
        Ok(Self { dir, segment_len, sync: setup.level == Level::Synced })
    }

    fn of(&self, stream: u64) -> Answer<Vec<PathBuf>> {
        let name = format!("{stream:05}-");
        let of = |path: &PathBuf| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name));
        Ok(sorted(&self.dir)?.into_iter().filter(of).collect())
    }

    fn create(&self, stream: u64, number: usize) -> Answer<File> {
        let path = self.dir.join(format!("{stream:05}-{number:06}"));
        let file = File::options().write(true).create_new(true).open(path).map_err(failed("create"))?;
        if self.sync {
            reserve(&file, RESERVED_LEN)?;
        }
        Ok(file)
    }
}

fn sorted(dir: &Path) -> Answer<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(failed("list"))?;
    let mut paths = entries.map(|entry| Ok(entry.map_err(failed("list"))?.path())).collect::<Answer<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

impl Subject for Files {
    fn writer(&self, stream: u64) -> Answer<Box<dyn Writer + '_>> {
        let file = self.create(stream, self.of(stream)?.len())?;
        Ok(Box::new(FilesLoop { files: self, stream, file, end: 0, bytes: Vec::new() }))
    }

    fn scan(&self, stream: u64, tally: &mut Tally) -> Answer<()> {
        for path in self.of(stream)? {
            read::entries(&fs::read(path).map_err(failed("read"))?, tally)?;
        }
        Ok(())
    }

    fn get(&self, _: u64, _: &mut Tally) -> Answer<()> {
        none("files are for appends and for opening")
    }
}

impl FilesLoop<'_> {
    fn write(&mut self) -> Answer<()> {
        if self.end >= self.files.segment_len {
            let number = self.files.of(self.stream)?.len();
            (self.file, self.end) = (self.files.create(self.stream, number)?, 0);
        }
        self.file.write_all_at(&self.bytes, self.end).map_err(failed("write"))?;
        self.end += self.bytes.len() as u64;
        self.bytes.clear();
        if self.files.sync { self.file.sync_data().map_err(failed("sync")) } else { Ok(()) }
    }
}

impl Writer for FilesLoop<'_> {
    fn append(&mut self, entry: &[u8]) -> Answer<()> {
        frame(&mut self.bytes, entry);
        self.write()
    }

    fn append_batch(&mut self, entries: &[&[u8]]) -> Answer<()> {
        entries.iter().for_each(|entry| frame(&mut self.bytes, entry));
        self.write()
    }

    fn flush(&mut self) -> Answer<()> {
        Ok(())
    }
}
