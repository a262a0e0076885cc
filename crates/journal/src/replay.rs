//! Reading a journal: which records count, and whether any durable record is missing.
//!
//! The newest header names the oldest file that is needed; older files are garbage. The *chain* is
//! the longest sequence of valid records that begins at the last TRIM and in which each record
//! begins where the previous one ends, across files; a MARK is not part of it. Every header and
//! every valid record attests an LSN below which everything was durable when it was written. A
//! chain that ends below the greatest of them is damage. A chain that ends at or above it may be
//! followed by a torn tail, none of which was acknowledged as durable.
//!
//! Reading changes nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use bytes::Bytes;
use stratawal_frame::{StreamId, WalId};
use stratawal_storage::{Access, File, Storage};
use stratawal_sync::fail_point;

use crate::error::{Error, ErrorKind, Result};
use crate::header::{FileHeader, FileHeaderError, HEADER_BLOCK_LEN};
use crate::layout::{self, Name};
use crate::lsn::Lsn;
use crate::needed::Needed;
use crate::record::{Decoded, Located, Record, decode};
use crate::search::valid_records;
use std::sync::Arc;

/// The maximum length of a journal file in bytes: 1 GiB, a block for the header, and a block for
/// the control reserve at the end.
pub(crate) const FILE_LEN_MAX: u64 = (1 << 30) + 2 * HEADER_BLOCK_LEN;

/// The content of a journal, as read.
#[derive(Debug)]
pub struct Image {
    /// The files that are needed, oldest first.
    pub(crate) files: Vec<FileImage>,
    /// The names of files that hold nothing that is needed, without older files that were put
    /// there.
    pub(crate) garbage: Vec<String>,
    records: Vec<Located>,
    after: Vec<Located>,
    /// The names of streams that any valid record gives.
    names: BTreeMap<StreamId, Bytes>,
    trim: Lsn,
    end: Lsn,
    attested: Lsn,
    /// The identity of the newest file, if its header names another one.
    other_identity: Option<OtherIdentity>,
}

/// The identity of a file that has another one than its header names.
#[derive(Clone, Copy, Debug)]
struct OtherIdentity(Option<u64>);

/// A file of the journal, as read.
#[derive(Debug)]
pub(crate) struct FileImage {
    pub(crate) header: FileHeader,
    /// All of its bytes. Records share them.
    pub(crate) bytes: Bytes,
}

impl Image {
    /// Reads the journal in `dir`, which belongs to the log `wal_id`. The records share the memory
    /// that holds the files' bytes.
    ///
    /// While another process writes the journal, this may fail with `NotFound` or report damage,
    /// because files are renamed and reused under it. Then read again.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`], [`ErrorKind::FileMissing`], [`ErrorKind::Header`],
    /// [`ErrorKind::Misplaced`], [`ErrorKind::TooLong`], [`ErrorKind::Shortened`],
    /// [`ErrorKind::TwoNames`] if the journal is damaged; [`ErrorKind::Newer`], [`ErrorKind::NewerRecord`]; I/O. If durable records are
    /// missing, the image is still returned, and [`damage`](Self::damage) reports the loss.
    pub fn read(storage: &dyn Storage, dir: &Path, wal_id: WalId) -> Result<Self> {
        let Names { numbers, garbage } = Names::list(storage, dir)?;
        let Some((&newest, _)) = numbers.last_key_value() else { return Err(Error::new(ErrorKind::Missing)) };
        let (newest_header, newest_file) = read_header(storage, dir, wal_id, newest)?;
        let oldest = newest_header.oldest;
        let mut image = Self { garbage, ..Self::empty(other_identity(&*newest_file, &newest_header)?) };
        let is_copy = image.is_copy();
        let is_garbage = |number: u64| is_copy || !was_put_there(storage, dir, wal_id, number);
        let older = numbers.range(..oldest).filter(|(number, _)| is_garbage(**number));
        image.garbage.extend(older.map(|(_, name)| name.clone()));
        let mut found = Vec::new();
        for number in oldest..=newest {
            if !numbers.contains_key(&number) {
                return Err(Error::new(ErrorKind::FileMissing).in_file(number));
            }
            let (header, file) = read_header(storage, dir, wal_id, number)?;
            if image.files.last().is_some_and(|before| before.header.first > header.first) {
                return Err(Error::new(ErrorKind::Misplaced).in_file(number));
            }
            let bytes = read_all(&*file).map_err(|error| error.in_file(number))?;
            let len = bytes.len() as u64;
            if len < header.file_len {
                let shortened = ErrorKind::Shortened { len, expected: header.file_len };
                return Err(Error::new(shortened).in_file(number));
            }
            image.attested = image.attested.max(header.attested);
            found.push(valid_in(&bytes, &header));
            image.files.push(FileImage { header, bytes });
        }
        image.check_last(&found)?;
        image.collect_names(&found)?;
        image.follow(found)?;
        Ok(image)
    }

    const fn empty(other_identity: Option<OtherIdentity>) -> Self {
        Self {
            files: Vec::new(),
            garbage: Vec::new(),
            records: Vec::new(),
            after: Vec::new(),
            names: BTreeMap::new(),
            trim: Lsn(0),
            end: Lsn(0),
            attested: Lsn(0),
            other_identity,
        }
    }

    /// The records that the streams still need, by those files of a journal that can be read, if
    /// others are damaged or missing so that [`read`](Self::read) fails. The records that are lost
    /// may have made some of them void. `None` if no file can be read, or if the files are not
    /// those of one journal.
    ///
    /// # Errors
    /// [`ErrorKind::NewerRecord`]; I/O.
    pub fn remaining_in_files(storage: &dyn Storage, dir: &Path, wal_id: WalId) -> Result<Option<Needed>> {
        let mut image = Self::empty(None);
        let mut found = Vec::new();
        let mut oldest = 0;
        let names = match Names::list(storage, dir) {
            Err(error) if error.is_damage() => return Ok(None),
            listed => listed?,
        };
        // The newest header names the oldest file that is needed.
        for &number in names.numbers.keys().rev() {
            if number < oldest {
                break;
            }
            let read = read_header_despite_version(storage, dir, wal_id, number).and_then(|(header, file)| {
                let bytes = read_all(&*file).map_err(|error| error.in_file(number))?;
                Ok(FileImage { header, bytes })
            });
            match read {
                Ok(file) => {
                    oldest = oldest.max(file.header.oldest);
                    found.push(valid_in(&file.bytes, &file.header));
                    image.files.push(file);
                }
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        image.files.reverse();
        found.reverse();
        let is_one = image.files.is_sorted_by_key(|file| file.header.first) && image.collect_names(&found).is_ok();
        if image.files.is_empty() || !is_one {
            return Ok(None);
        }
        image.follow(found)?;
        Ok(Some(image.remaining()))
    }

    /// Finds the chain among the valid records of the files.
    fn follow(&mut self, found: Vec<Valid>) -> Result<()> {
        let first = self.files.first().expect("invariant: the newest file is needed").header.first;
        let all = || found.iter().flat_map(|file| &file.records);
        let trims = all().filter_map(|located| match located.record {
            Record::Trim { lsn } if lsn <= located.lsn => Some(lsn),
            _ => None,
        });
        let trim = trims.fold(first, Lsn::max);
        // A TRIM may name any LSN. The record that the LSN falls into is still needed.
        let around = all().find(|located| located.lsn < trim && trim < located.end());
        self.trim = around.map_or(trim, |located| located.lsn);
        self.attested = all().map(|located| located.attested).fold(self.attested, Lsn::max);
        self.end = self.trim;
        let newer: Vec<_> = found.iter().flat_map(|file| file.newer).collect();
        for located in found.into_iter().flat_map(|file| file.records) {
            if located.lsn < self.trim {
                continue;
            }
            match located.record {
                Record::Mark => {}
                _ if located.lsn == self.end && self.after.is_empty() => {
                    self.end = located.end();
                    self.records.push(located);
                }
                _ => self.after.push(located),
            }
        }
        match newer.into_iter().find(|newer| newer.lsn == self.end) {
            Some(newer) => Err(Error::new(ErrorKind::NewerRecord(newer.kind))),
            None => Ok(()),
        }
    }

    /// Collects the names of streams from all valid records, also from those before the chain.
    fn collect_names(&mut self, found: &[Valid]) -> Result<()> {
        let records = found.iter().flat_map(|file| &file.records);
        for (stream, name) in records.flat_map(|located| located.record.names()) {
            if self.names.entry(stream).or_insert_with(|| name.clone()) != name {
                // Then the records are not those of one log.
                return Err(Error::new(ErrorKind::TwoNames { stream }));
            }
        }
        Ok(())
    }

    /// That the newest file is the last: no record in it states that the log continues.
    fn check_last(&self, found: &[Valid]) -> Result<()> {
        let last = found.last().map_or(&[][..], |file| &file.records);
        if last.iter().any(|located| located.record == Record::Next) {
            return Err(Error::new(ErrorKind::FileMissing).in_file(self.newest().header.number + 1));
        }
        Ok(())
    }

    /// The names of streams that any valid record gives.
    pub(crate) const fn names(&self) -> &BTreeMap<StreamId, Bytes> {
        &self.names
    }

    /// The records that the streams still need. The journal alone decides this.
    #[must_use]
    pub fn needed(&self) -> Needed {
        Needed::of(&self.records, &self.names)
    }

    /// Like [`needed`](Self::needed), but of all valid records, also of those that the chain of a
    /// damaged journal does not reach. The records that are lost may have made some of them void.
    #[must_use]
    pub fn remaining(&self) -> Needed {
        let all: Vec<Located> = self.records.iter().chain(&self.after).cloned().collect();
        Needed::of(&all, &self.names)
    }

    /// The records of the chain, in the order of their LSNs.
    #[must_use]
    pub fn records(&self) -> &[Located] {
        &self.records
    }

    /// Valid records that the chain does not reach. They show which streams the damage affects.
    #[must_use]
    pub fn records_after_damage(&self) -> &[Located] {
        &self.after
    }

    /// The LSN at which the chain ends.
    #[must_use]
    pub const fn end(&self) -> Lsn {
        self.end
    }

    /// Everything below this LSN was durable at some time.
    #[must_use]
    pub const fn attested(&self) -> Lsn {
        self.attested
    }

    /// No record below this LSN is needed.
    #[must_use]
    pub const fn trim(&self) -> Lsn {
        self.trim
    }

    /// How many files are needed.
    #[must_use]
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// The length in bytes of the files that are needed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes.len() as u64).sum()
    }

    /// Whether the journal was closed: its last record is a CLOSE.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.records.last().is_some_and(|last| last.record == Record::Close)
    }

    /// The error of a copy, if the journal is one that was made before the journal was closed. Then
    /// its files, and those of the streams, may be of different times. A copy of a closed journal
    /// is as good as the original.
    #[must_use]
    pub fn copied(&self) -> Option<Error> {
        let OtherIdentity(found) = self.other_identity.filter(|_| !self.is_closed() && !fail_point!(CopyNotNoticed))?;
        Some(copied_error(&self.newest().header, found))
    }

    /// Whether the newest file has another identity than its header names.
    pub(crate) const fn is_copy(&self) -> bool {
        self.other_identity.is_some()
    }

    /// Like [`copied`](Self::copied), for a journal that is so damaged that it cannot be
    /// [read](Self::read): a copy may be.
    #[must_use]
    pub fn copied_and_damaged(storage: &dyn Storage, dir: &Path, wal_id: WalId) -> Option<Error> {
        let names = Names::list(storage, dir).ok()?;
        let (&newest, _) = names.numbers.last_key_value()?;
        let (header, file) = read_header_despite_version(storage, dir, wal_id, newest).ok()?;
        let OtherIdentity(found) = other_identity(&*file, &header).ok()??;
        Some(copied_error(&header, found))
    }

    /// The damage, if any record that was durable is missing.
    #[must_use]
    pub fn damage(&self) -> Option<Error> {
        if self.end >= self.attested {
            return None;
        }
        let file = self.files.iter().rev().find(|file| file.header.first <= self.end)?;
        let lost = ErrorKind::RecordsLost { end: self.end, attested: self.attested };
        Some(Error::new(lost).in_file(file.header.number).at(file.header.offset_of(self.end)))
    }

    pub(crate) fn newest(&self) -> &FileImage {
        self.files.last().expect("invariant: the newest file is needed")
    }
}

/// The names in a journal's directory.
struct Names {
    numbers: BTreeMap<u64, String>,
    garbage: Vec<String>,
}

impl Names {
    fn list(storage: &dyn Storage, dir: &Path) -> Result<Self> {
        let mut names = Self { numbers: BTreeMap::new(), garbage: Vec::new() };
        let entries = storage.list(dir).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(ErrorKind::Missing),
            _ => Error::io("list the directory")(e),
        });
        for entry in entries? {
            let Some(text) = entry.name.to_str() else { continue };
            match layout::parse(&entry.name) {
                Some(Name::File(number)) => drop(names.numbers.insert(number, text.to_owned())),
                Some(Name::Spare) => names.garbage.push(text.to_owned()),
                None => {}
            }
        }
        Ok(names)
    }
}

pub(crate) fn read_header(
    storage: &dyn Storage,
    dir: &Path,
    wal_id: WalId,
    number: u64,
) -> Result<(FileHeader, Arc<dyn File>)> {
    read_header_by(FileHeader::decode, storage, dir, wal_id, number)
}

/// Reads a header also if its version alone is damaged.
fn read_header_despite_version(
    storage: &dyn Storage,
    dir: &Path,
    wal_id: WalId,
    number: u64,
) -> Result<(FileHeader, Arc<dyn File>)> {
    read_header_by(FileHeader::decode_despite_version, storage, dir, wal_id, number)
}

fn read_header_by(
    decode: fn(&[u8]) -> Result<FileHeader, FileHeaderError>,
    storage: &dyn Storage,
    dir: &Path,
    wal_id: WalId,
    number: u64,
) -> Result<(FileHeader, Arc<dyn File>)> {
    let path = dir.join(layout::file_name(number));
    let file = storage.open(&path, Access::Read).map_err(|e| Error::io("open")(e).in_file(number))?;
    let mut bytes = [0; crate::header::HEADER_LEN];
    let len = file.read_at(&mut bytes, 0).map_err(|e| Error::io("read")(e).in_file(number))?;
    let header = decode(&bytes[..len]).map_err(|e| Error::header(e).in_file(number).at(0))?;
    if header.number != number || header.wal_id != wal_id {
        return Err(Error::new(ErrorKind::Misplaced).in_file(number).at(0));
    }
    Ok((header, file))
}

fn other_identity(file: &dyn File, header: &FileHeader) -> Result<Option<OtherIdentity>> {
    if header.inode == 0 {
        return Ok(None);
    }
    let found = file.identity().map_err(|e| Error::io("read the metadata")(e).in_file(header.number))?;
    Ok((found != Some(header.inode)).then_some(OtherIdentity(found)))
}

/// Whether a file is a copy. The journal makes none, so this one was put back, and may be needed.
fn was_put_there(storage: &dyn Storage, dir: &Path, wal_id: WalId, number: u64) -> bool {
    let read = read_header_despite_version(storage, dir, wal_id, number);
    read.is_ok_and(|(header, file)| other_identity(&*file, &header).is_ok_and(|other| other.is_some()))
}

fn copied_error(header: &FileHeader, found: Option<u64>) -> Error {
    Error::new(ErrorKind::Copied { named: header.inode, found }).in_file(header.number)
}

fn read_all(file: &dyn File) -> Result<Bytes> {
    let len = file.len().map_err(Error::io("read the length"))?;
    if len > FILE_LEN_MAX {
        return Err(Error::new(ErrorKind::TooLong { len }));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| Error::new(ErrorKind::TooLong { len }))?];
    let mut at = 0;
    while at < bytes.len() {
        match file.read_at(&mut bytes[at..], at as u64) {
            // Another process may shorten the file while this one reads.
            Ok(0) => break,
            Ok(n) => at += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read")(e)),
        }
    }
    bytes.truncate(at);
    Ok(bytes.into())
}

/// The valid records of one file.
struct Valid {
    records: Vec<Located>,
    newer: Option<NewerRecord>,
}

#[derive(Clone, Copy)]
struct NewerRecord {
    lsn: Lsn,
    kind: u8,
}

/// Returns the valid records of a file: those that follow each other from its beginning, then those
/// that a search finds in the rest, unless the rest is all zeros.
fn valid_in(bytes: &Bytes, header: &FileHeader) -> Valid {
    let mut at = usize::try_from(HEADER_BLOCK_LEN).expect("invariant: a block fits a usize");
    let mut valid = Valid { records: Vec::new(), newer: None };
    while at < bytes.len() {
        let lsn = header.lsn_at(at as u64);
        match decode(&bytes.slice(at..), header.salt, lsn) {
            Decoded::Record(located) => {
                at += usize::try_from(located.len).expect("invariant: the record is within the file");
                valid.records.push(located);
            }
            Decoded::Newer { kind } => {
                valid.newer = Some(NewerRecord { lsn, kind });
                break;
            }
            Decoded::Blank | Decoded::Invalid => break,
        }
    }
    let has_more = bytes.get(at..).is_some_and(|rest| rest.iter().any(|&byte| byte != 0));
    if has_more && !fail_point!(ZerosAreTheEnd) {
        valid.records.extend(valid_records(bytes, header, at));
    }
    valid
}
