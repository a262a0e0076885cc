//! Opening a journal in its own files, if the disk is too full for a new one.
//!
//! Two things make the old files unfit to be written as they are. First, records beyond the
//! attested end may be in the page cache alone: the process that wrote them was killed, or a sync
//! failed and left their pages clean, so that no later sync writes them. These records are written
//! again, with the same bytes, and synced. Second, valid records may follow the end of the chain,
//! because a record before them was lost. A new record at the end could join them to the chain. So
//! everything after the end is overwritten, and that is durable before a new record is put.
//!
//! A crash at any point leaves a journal that means the same. Writing equal bytes changes nothing,
//! even if only a part of them reaches the disk. Overwriting the rest touches no record of the
//! chain. It can lengthen the chain that the next opening finds: the zeros may complete a record
//! whose last sectors were lost. Then the records that follow were put after it, in this order, so
//! the next opening finds a state that an earlier crash could have left. No record is put, and no
//! entry is read or acknowledged, before all of this is durable.
//!
//! The chain may end in a file before the newest, if the last records of that file were lost. New
//! records go into the newest file. So a PAD and a NEXT fill the gap, and every file after it is
//! overwritten first; otherwise the chain would reach records that follow lost ones.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use stratawal_storage::{Access, File, Storage};
use stratawal_sync::fail_point;

use crate::error::{Error, Result};
use crate::files::{LogFile, open_names, sync_names, write_pages, write_zeros};
use crate::header::FileHeader;
use crate::layout;
use crate::lsn::Lsn;
use crate::record::{NEXT_LEN, Record, encoded};
use crate::replay::{FileImage, Image};

/// The files of a journal that continues in them, oldest first, and the LSN at which it continues.
pub(crate) struct Continued {
    pub(crate) files: Vec<LogFile>,
    pub(crate) end: Lsn,
}

/// Makes the chain durable where it is, and everything after it invalid. Returns `None`, and has
/// changed nothing, if the journal cannot continue in its files: its newest file is a copy, so the
/// next opening would refuse it, or a newer file got its name after the image was read.
///
/// # Errors
/// I/O, also a disk that is too full to overwrite a file. The journal means the same as before, and
/// opening may be repeated.
pub(crate) fn continue_in_place(storage: &Arc<dyn Storage>, dir: &Path, image: &Image) -> Result<Option<Continued>> {
    let end = image.end();
    let Some(holder) = image.holder_of_end().filter(|_| !image.is_copy()) else { return Ok(None) };
    // A file that an attempt of this opening has named, although an error was reported.
    if highest_number(&**storage, dir)? > image.newest().header.number && !fail_point!(NewerFileOverlooked) {
        return Ok(None);
    }
    // The newest file may have its name in the cache alone.
    sync_names(&open_names(storage, dir)?)?;
    let opened: Result<Vec<Arc<dyn File>>> = image.files.iter().map(|file| open(&**storage, dir, file)).collect();
    let opened = opened?;
    for (i, file) in image.files.iter().enumerate().take(holder + 1) {
        let (from, to) = image.unattested_in(i);
        rewrite(&*opened[i], file, from, to)?;
        if i < holder && from < to {
            sync(&*opened[i], &file.header)?;
        }
    }
    // From the back: the chain reaches a file only once all later ones are empty.
    let mut order: Vec<usize> = (holder..image.files.len()).rev().collect();
    if fail_point!(GapFilledFirst) {
        order.reverse();
    }
    for i in order {
        let found = &image.files[i];
        let from = end.max(found.header.first);
        match image.first_after(i) {
            Some(next) => fill_gap(&*opened[i], &found.header, from, next, image.attested())?,
            None => clear(&*opened[i], found, from, image)?,
        }
        sync(&*opened[i], &found.header)?;
    }
    let files = opened.into_iter().zip(&image.files).map(|(file, found)| LogFile::of_open(file, found.header));
    let end = end.max(image.newest().header.first) + image.trim_to_keep().map_or(0, |trim| trim.encoded_len());
    Ok(Some(Continued { files: files.collect(), end }))
}

/// The greatest number of a file in the directory; 0 if there is none.
pub(crate) fn highest_number(storage: &dyn Storage, dir: &Path) -> Result<u64> {
    let entries = storage.list(dir).map_err(Error::io("list the directory"))?;
    let numbers = entries.iter().filter_map(|entry| match layout::parse(&entry.name) {
        Some(layout::Name::File(number)) => Some(number),
        _ => None,
    });
    Ok(numbers.max().unwrap_or(0))
}

fn open(storage: &dyn Storage, dir: &Path, file: &FileImage) -> Result<Arc<dyn File>> {
    let number = file.header.number;
    let path = dir.join(layout::file_name(number));
    storage.open(&path, Access::ReadWrite).map_err(|e| Error::io("open")(e).in_file(number))
}

fn sync(file: &dyn File, header: &FileHeader) -> Result<()> {
    let synced = if fail_point!(InPlaceNotSynced) { Ok(()) } else { file.sync_all() };
    synced.map_err(|e| Error::io("sync")(e).in_file(header.number))
}

fn write(file: &dyn File, header: &FileHeader, bytes: &[u8], offset: u64) -> Result<()> {
    write_pages(file, bytes, offset).map_err(|e| Error::io("write")(e).in_file(header.number).at(offset))
}

/// Writes the bytes between two LSNs again, as they were read.
fn rewrite(file: &dyn File, found: &FileImage, from: Lsn, to: Lsn) -> Result<()> {
    if from >= to || fail_point!(ChainNotRewritten) {
        return Ok(());
    }
    let offset = found.header.offset_of(from);
    write(file, &found.header, &found.slice(from, to), offset)
}

/// Overwrites the newest file from the LSN `from` on: with the last TRIM if it has to be kept, with
/// a MARK, because an earlier one in its place may be all that attests the records before it, and
/// with zeros.
fn clear(file: &dyn File, found: &FileImage, mut from: Lsn, image: &Image) -> Result<()> {
    if fail_point!(RestNotCleared) {
        return Ok(());
    }
    let attested = image.attested();
    if let Some(trim) = image.trim_to_keep() {
        let mut buffer = Vec::new();
        trim.encode(&mut buffer, found.header.salt, from, attested);
        write(file, &found.header, encoded(&buffer), found.header.offset_of(from))?;
        from = from + trim.encoded_len();
    }
    let offset = found.header.offset_of(from);
    let after_mark = offset + Record::Mark.encoded_len();
    let mut mark = Vec::new();
    Record::Mark.encode(&mut mark, found.header.salt, from, attested);
    if after_mark <= found.len() {
        write(file, &found.header, encoded(&mark), offset)?;
    }
    let zeroed = write_zeros(file, after_mark.min(found.len()), found.len());
    zeroed.map_err(|e| Error::io("write")(e).in_file(found.header.number).at(offset))
}

/// Fills the gap between the LSN `from` and that of the next file, so that the chain continues in
/// that file.
fn fill_gap(file: &dyn File, header: &FileHeader, from: Lsn, next: Lsn, attested: Lsn) -> Result<()> {
    let gap = next - from;
    let mut buffer = Vec::new();
    let mut put = |record: &Record, lsn: Lsn| {
        record.encode(&mut buffer, header.salt, lsn, attested);
        write(file, header, encoded(&buffer), header.offset_of(lsn))
    };
    if gap > NEXT_LEN {
        put(&Record::pad(gap - NEXT_LEN), from)?;
    }
    if gap > 0 { put(&Record::Next, from + (gap - NEXT_LEN)) } else { Ok(()) }
}

impl FileImage {
    fn slice(&self, from: Lsn, to: Lsn) -> Bytes {
        let at =
            |lsn: Lsn| usize::try_from(self.header.offset_of(lsn)).expect("invariant: the file was read into memory");
        self.bytes.slice(at(from)..at(to))
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl Image {
    /// The file in which the chain ends: the last that begins at or before the end. `None` if its
    /// LSNs contradict the files' lengths, or are too far apart for a record.
    fn holder_of_end(&self) -> Option<usize> {
        let end = self.end();
        let holder = self.files.iter().rposition(|file| file.header.first <= end)?;
        let is_near = end.max(self.newest().header.first) - self.attested() <= u64::from(u32::MAX);
        let is_within = |i: usize| {
            let file = &self.files[i];
            let (from, to) = self.unattested_in(i);
            let last = if i < holder { to } else { self.first_after(i).unwrap_or(end).max(file.header.first) };
            from >= to && i < holder || file.header.offset_of(last) <= file.len()
        };
        let trim_len = self.trim_to_keep().map_or(0, |trim| trim.encoded_len());
        let newest = self.newest();
        let has_room = newest.header.offset_of(end.max(newest.header.first)) + trim_len <= newest.len();
        (is_near && has_room && (0..self.files.len()).all(is_within)).then_some(holder)
    }

    /// The last TRIM, if nothing attests the records before which it is the beginning of the chain.
    /// It may follow the end of the chain, where everything is overwritten. Without it the next
    /// opening would look for those records, some of which may be lost.
    fn trim_to_keep(&self) -> Option<Record> {
        let is_needed = self.trim() > self.attested();
        is_needed.then(|| Record::Trim { lsn: self.trim() })
    }

    /// The first LSN of the file after the file `i`.
    fn first_after(&self, i: usize) -> Option<Lsn> {
        self.files.get(i + 1).map(|next| next.header.first)
    }

    /// The LSNs between which the file `i` holds records of the chain that nothing attests.
    fn unattested_in(&self, i: usize) -> (Lsn, Lsn) {
        let to = self.first_after(i).map_or(self.end(), |next| next.min(self.end()));
        (self.attested().max(self.trim()).max(self.files[i].header.first), to)
    }
}
