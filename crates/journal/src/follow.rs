//! Reading a journal while another process writes it.
//!
//! A follower remembers where the chain ended and continues there. It reads the whole journal again
//! if the newest file that it knows was recycled, replaced or removed, if its header changed, or if
//! the header of a newer file does not need it.
//! Records of a file are valid only with the salt and the LSN of that file, so a record is never
//! taken from a file that is used again.
//!
//! The index holds the position of each part, not its bytes: about 40 bytes for each record. The
//! bytes are read when they are needed. By then the file may hold other records; then
//! [`read_part`](Follower::read_part) finds nothing, and the caller looks again.
//!
//! Three things attest that records are durable: headers, records and MARKs. Everything else may be
//! in the page cache alone. So a reader shows records beyond [`shown_to`](Follower::shown_to) only
//! after [`sync`](Follower::sync).
//!
//! An active writer can briefly look like damage. So damage is reported only if two looks find the
//! same.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stratawal_frame::{Salt, SeqNo, StreamId, WalId};
use stratawal_storage::{Access, File, Storage};

use crate::error::{Error, ErrorKind, Result};
use crate::header::{FileHeader, HEADER_LEN};
use crate::in_place::highest_number;
use crate::index::{Index, PartPosition};
use crate::layout;
use crate::lsn::Lsn;
use crate::needed::Needed;
use crate::record::{Decoded, Located, Part, RECORD_HEADER_LEN, Record, UnverifiedHeader, decode};
use crate::replay::{Image, read_header};

/// How often the whole journal is read before the reader gives up.
const LOOKS_MAX: usize = 200;

/// How often a look reads the end of the chain while a record is being written there.
const TORN_LOOKS_MAX: usize = 20;

/// The pause before the whole journal is read again.
const PAUSE: Duration = Duration::from_millis(1);

/// The least time between two syncs.
pub const SYNC_INTERVAL: Duration = Duration::from_millis(10);

/// The length in bytes of the first block of a look. Each further block is 16 times as long, up to
/// [`BLOCK_LEN_MAX`].
const BLOCK_LEN_MIN: u64 = 4 << 10;
const BLOCK_LEN_MAX: u64 = 1 << 20;

/// The most bytes after the end of the chain that are compared to find out whether a record was
/// added: an invalid header there may be that of a record that is being written, or be left from an
/// earlier use of the file.
const PEEK_LEN_MAX: u64 = 4 << 10;

/// How often the same bytes are found after the chain before the look ends.
const SAME_PEEKS_MAX: usize = 3;

/// A view of a journal that another process may be writing. Changes nothing.
#[derive(Debug)]
pub struct Follower {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    wal_id: WalId,
    /// The files that were live in the last look, oldest first. Empty before the first look.
    files: Vec<FollowedFile>,
    index: Index,
    /// Where the chain ends.
    end: Lsn,
    /// The bytes after the end, as the last look saw them: a MARK, zeros, or as many bytes as an
    /// invalid header states. As long as they stay the same, no record follows the end. `None` if
    /// it is not known how many bytes show that.
    peeked: Option<Vec<u8>>,
    /// Whether the last look ended at a record that was being written, perhaps.
    is_torn: bool,
    /// Everything below was durable at some time.
    attested: Lsn,
    /// This process has synced everything below, as long as the journal has the file with this end.
    synced: Lsn,
    /// The salt of that file.
    synced_in: Option<Salt>,
    synced_at: Option<Instant>,
    /// The newest file whose name this process has synced.
    names_synced: u64,
    /// How often the whole journal was read.
    readings: u64,
}

/// A file, read through the descriptor by which it is synced: a descriptor receives the error of
/// any write-back that fails after it was opened.
#[derive(Debug)]
struct FollowedFile {
    header: FileHeader,
    file: Arc<dyn File>,
}

/// The records of a block at the end of the chain.
struct Block {
    /// Records that follow each other.
    records: Vec<Located>,
    /// The length of the next block, if more may follow.
    next_len: Option<u64>,
}

impl Follower {
    /// A follower of the journal in `dir`, which belongs to the log `wal_id`. Reads nothing yet.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, dir: &Path, wal_id: WalId) -> Self {
        Self {
            storage,
            dir: dir.to_owned(),
            wal_id,
            files: Vec::new(),
            index: Index::default(),
            end: Lsn(0),
            peeked: None,
            is_torn: false,
            attested: Lsn(0),
            synced: Lsn(0),
            synced_in: None,
            synced_at: None,
            names_synced: 0,
            readings: 0,
        }
    }

    /// Reads what was added since the last look, or everything if that is not possible.
    ///
    /// # Errors
    /// Damage, found twice; I/O. The next look reads everything.
    pub fn look(&mut self) -> Result<()> {
        if !self.files.is_empty() {
            match self.continue_chain() {
                Ok(true) => return Ok(()),
                // Another process has removed the directory.
                Err(error) if !error.is_not_found() => return Err(error),
                Ok(false) | Err(_) => {}
            }
        }
        self.forget();
        self.read_all()
    }

    /// Forgets everything. The next look reads the whole journal.
    pub fn forget(&mut self) {
        self.files.clear();
        self.index = Index::default();
    }

    /// Whether the last look found the journal, and nothing was added at its end since. Makes two
    /// short reads, and asks for one name. Does not notice that another process has opened the
    /// journal, or removed it.
    ///
    /// The next record is put where the chain ends, and a restart continues in the next file. A
    /// file that is used again gets its new header first, so the bytes were read before that if the
    /// header is still the same.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        let (Some(newest), Some(peeked)) = (self.files.last(), &self.peeked) else { return false };
        let is_same = peek(newest, self.end, peeked.len()).is_ok_and(|now| now == *peeked);
        let mut header = [0; HEADER_LEN];
        let read = read_up_to(&*newest.file, &mut header, 0);
        let has_header = read.is_ok_and(|len| len == header.len()) && header == newest.header.encode();
        let next = self.dir.join(layout::file_name(newest.header.number + 1));
        let is_last = || self.storage.open(&next, Access::Read).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        is_same && has_header && is_last()
    }

    /// The streams that have records.
    #[must_use]
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// Forgets the parts of a stream that end at or below `seq`, because its own files hold them,
    /// and the STARTs that later ones replace. Everything below `shown` is shown.
    pub fn forget_below(&mut self, id: StreamId, seq: SeqNo, shown: Lsn) {
        self.index.forget_below(id, seq, shown);
    }

    /// Where the chain ended in the last look.
    #[must_use]
    pub const fn end(&self) -> Lsn {
        self.end
    }

    /// How often the whole journal was read, rather than what was added.
    #[must_use]
    pub const fn readings(&self) -> u64 {
        self.readings
    }

    /// Records that end at or below this LSN are durable.
    #[must_use]
    pub fn shown_to(&self) -> Lsn {
        self.attested.max(self.synced)
    }

    /// Whether the last look ended at a record that was being written over a MARK, perhaps. Then it
    /// is not known what that MARK attested.
    #[must_use]
    pub const fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// How long the next [`sync`](Self::sync) has to wait, so that one process syncs the journal at
    /// most once in [`SYNC_INTERVAL`].
    #[must_use]
    pub fn sync_wait(&self) -> Duration {
        self.synced_at.map_or(Duration::ZERO, |at| SYNC_INTERVAL.saturating_sub(at.elapsed()))
    }

    /// Makes everything that the last look found durable.
    ///
    /// # Errors
    /// I/O. Nothing more is shown.
    pub fn sync(&mut self) -> Result<()> {
        let from = self.attested.max(self.synced);
        let ends = self.files.iter().skip(1).map(|next| next.header.first).chain([self.end]);
        for (file, _) in self.files.iter().zip(ends).filter(|(_, end)| *end > from) {
            file.file.sync_data().map_err(|e| Error::io("sync")(e).in_file(file.header.number))?;
        }
        self.sync_names()?;
        self.synced = self.end;
        self.synced_in = self.files.last().map(|file| file.header.salt);
        self.synced_at = Some(Instant::now());
        Ok(())
    }

    /// A header attests records, but the process that wrote it may have been killed before the name
    /// of the file was durable.
    fn sync_names(&mut self) -> Result<()> {
        let newest = self.files.last().map_or(0, |file| file.header.number);
        if newest != self.names_synced {
            self.storage.sync_dir(&self.dir).map_err(Error::io("sync the directory"))?;
            self.names_synced = newest;
        }
        Ok(())
    }

    /// Reads a part again. Returns `None` if the file holds other records by now.
    ///
    /// # Errors
    /// I/O.
    pub fn read_part(&self, at: &PartPosition) -> Result<Option<Part>> {
        let Some(found) = self.files.iter().rev().find(|file| file.header.first <= at.lsn) else { return Ok(None) };
        let mut bytes = vec![0; at.record_len as usize];
        let len = read_up_to(&*found.file, &mut bytes, found.header.offset_of(at.lsn));
        let len = len.map_err(|e| Error::io("read")(e).in_file(found.header.number))?;
        bytes.truncate(len);
        let Decoded::Record(located) = decode(&bytes.into(), found.header.salt, at.lsn) else { return Ok(None) };
        let (Record::Data(parts) | Record::Copy(parts)) = located.record else { return Ok(None) };
        Ok(parts.into_iter().find(|part| at.is_of(part)))
    }

    /// The records that a damaged journal still has, see [`Image::remaining`].
    ///
    /// # Errors
    /// Damage of a kind that leaves no record certain; I/O.
    pub fn remains(&self) -> Result<Needed> {
        let damage = match Image::read(&*self.storage, &self.dir, self.wal_id) {
            Ok(image) => return Ok(image.remaining()),
            Err(error) if error.is_damage() => error,
            Err(error) => return Err(error),
        };
        Image::remaining_in_files(&*self.storage, &self.dir, self.wal_id)?.ok_or(damage)
    }

    /// Reads what follows the chain. Returns false if the whole journal must be read.
    fn continue_chain(&mut self) -> Result<bool> {
        let mut same = 0;
        for _ in 0..TORN_LOOKS_MAX {
            if !self.read_on()? {
                return Ok(false);
            }
            let before = self.peeked.take();
            self.is_torn = !self.peek_mark()?;
            if self.is_torn && self.peeked.is_some() && self.peeked == before {
                same += 1;
            }
            if !self.is_torn || same == SAME_PEEKS_MAX {
                break;
            }
            std::thread::yield_now();
        }
        // The file had its name and its header while it was read, if it still has them.
        let Some(newest) = self.files.last() else { return Ok(false) };
        let has_name = read_header(&*self.storage, &self.dir, self.wal_id, newest.header.number)
            .is_ok_and(|(header, _)| header == newest.header);
        Ok(has_name && !self.is_left_behind(newest.header.number)?)
    }

    /// Whether the newest header needs no file up to `number`, which may still have its name: a
    /// restart removes the old files last, and they stay if they cannot be removed.
    fn is_left_behind(&self, number: u64) -> Result<bool> {
        let newest = highest_number(&*self.storage, &self.dir)?;
        Ok(newest > number
            && !read_header(&*self.storage, &self.dir, self.wal_id, newest)
                .is_ok_and(|(header, _)| header.oldest <= number))
    }

    /// Takes the records that follow the chain. Returns false if the whole journal must be read.
    fn read_on(&mut self) -> Result<bool> {
        let mut next_len = Some(BLOCK_LEN_MIN);
        while let (Some(len), Some(newest)) = (next_len, self.files.last()) {
            let block = read_block(newest, self.end, len)?;
            next_len = block.next_len;
            for located in block.records {
                if !self.take(located)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Takes the next record of the chain. Returns false if the next file is not the one that must
    /// follow.
    fn take(&mut self, located: Located) -> Result<bool> {
        self.attested = self.attested.max(located.attested);
        self.end = located.end();
        if located.record == Record::Next {
            return self.enter_next();
        }
        self.index.add(&located);
        Ok(true)
    }

    fn enter_next(&mut self) -> Result<bool> {
        let number = self.files.last().map_or(0, |file| file.header.number) + 1;
        let Ok((header, file)) = read_header(&*self.storage, &self.dir, self.wal_id, number) else { return Ok(false) };
        if header.first != self.end {
            return Ok(false);
        }
        self.attested = self.attested.max(header.attested);
        self.files.retain(|file| file.header.number >= header.oldest);
        self.files.push(FollowedFile { header, file });
        self.sync_names_if_attesting(header.attested)?;
        Ok(true)
    }

    /// Remembers the bytes after the chain, and what a MARK there attests. Returns false if they
    /// may be part of a record.
    fn peek_mark(&mut self) -> Result<bool> {
        let Some(newest) = self.files.last() else { return Ok(true) };
        let bytes = peek(newest, self.end, RECORD_HEADER_LEN)?;
        let is_record = match decode(&Bytes::copy_from_slice(&bytes), newest.header.salt, self.end) {
            Decoded::Record(Located { record: Record::Mark, attested, .. }) => {
                self.attested = self.attested.max(attested);
                false
            }
            decoded => decoded != Decoded::Blank,
        };
        if !is_record {
            self.peeked = Some(bytes);
            return Ok(true);
        }
        self.peeked = peek_invalid(newest, self.end, bytes)?;
        Ok(false)
    }

    fn read_all(&mut self) -> Result<()> {
        let mut seen: Option<String> = None;
        for _ in 0..LOOKS_MAX {
            let error = match self.read_once() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if !error.is_damage() && !error.is_not_found() {
                return Err(error);
            }
            if error.is_damage() {
                let text = error.to_string();
                if seen.as_ref() == Some(&text) {
                    return Err(error);
                }
                seen = Some(text);
            }
            std::thread::sleep(PAUSE);
        }
        Err(Error::io("read the journal, which changes too fast")(std::io::ErrorKind::TimedOut.into()))
    }

    fn read_once(&mut self) -> Result<()> {
        let image = Image::read(&*self.storage, &self.dir, self.wal_id)?;
        if let Some(damage) = image.damage() {
            return Err(damage);
        }
        let mut files = Vec::with_capacity(image.files.len());
        for known in &image.files {
            let (header, file) = read_header(&*self.storage, &self.dir, self.wal_id, known.header.number)?;
            if header != known.header {
                return Err(Error::io("read")(std::io::ErrorKind::NotFound.into()).in_file(header.number));
            }
            files.push(FollowedFile { header, file });
        }
        // A file that was just named is entered once the NEXT before it is written.
        files.retain(|file| file.header.first <= image.end());
        self.index = Index::new(image.names(), image.trim());
        image.records().iter().for_each(|located| self.index.add(located));
        self.files = files;
        self.end = image.end();
        // Other records may have the same LSNs: those after a restart, because the write that
        // failed may have taken effect, and those of a journal that was created anew.
        self.attested = image.attested();
        let has_synced = |file: &FollowedFile| Some(file.header.salt) == self.synced_in;
        self.synced = if self.files.iter().any(has_synced) { self.synced.min(self.end) } else { Lsn(0) };
        self.readings += 1;
        self.sync_names_if_attesting(self.attested)?;
        if self.continue_chain()? {
            return Ok(());
        }
        Err(Error::io("read")(std::io::ErrorKind::NotFound.into()))
    }

    fn sync_names_if_attesting(&mut self, attested: Lsn) -> Result<()> {
        let first = self.files.last().map_or(attested, |newest| newest.header.first);
        if attested > first { self.sync_names() } else { Ok(()) }
    }
}

/// Reads the block of `len` bytes at `end`, and decodes the records in it.
fn read_block(file: &FollowedFile, end: Lsn, len: u64) -> Result<Block> {
    let FollowedFile { header, file } = file;
    let offset = header.offset_of(end);
    let rest = header.file_len.saturating_sub(offset);
    let mut bytes = vec![0; usize::try_from(len.min(rest)).expect("invariant: a block is shorter than a file")];
    let read = read_up_to(&**file, &mut bytes, offset).map_err(|e| Error::io("read")(e).in_file(header.number))?;
    let is_cut = read == bytes.len() && len < rest;
    bytes.truncate(read);
    let bytes = Bytes::from(bytes);
    let mut block = Block { records: Vec::new(), next_len: None };
    let mut at = 0;
    loop {
        let left = bytes.slice(at..);
        match decode(&left, header.salt, end + at as u64) {
            Decoded::Record(located) if located.record == Record::Mark => return Ok(block),
            Decoded::Record(located) => {
                at += usize::try_from(located.len).expect("invariant: the record is within the block");
                let is_last = located.record == Record::Next;
                block.records.push(located);
                if is_last {
                    block.next_len = Some(BLOCK_LEN_MIN);
                    return Ok(block);
                }
            }
            Decoded::Newer { kind } => return Err(Error::new(ErrorKind::NewerRecord(kind)).in_file(header.number)),
            Decoded::Blank | Decoded::Invalid => {
                // Either a record is being written there, or it continues after the block.
                let needed = UnverifiedHeader::len_at(&left).unwrap_or(0);
                if is_cut && (left.len() < RECORD_HEADER_LEN || needed > left.len() as u64) && needed <= rest {
                    block.next_len = Some(needed.max((len * 16).min(BLOCK_LEN_MAX)));
                }
                return Ok(block);
            }
        }
    }
}

/// Reads the `len` bytes at `end`, which are zeros after the end of the file.
fn peek(file: &FollowedFile, end: Lsn, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    read_up_to(&*file.file, &mut bytes, file.header.offset_of(end))
        .map_err(|e| Error::io("read")(e).in_file(file.header.number))?;
    Ok(bytes)
}

/// Reads the bytes of the record that the header `bytes` at `end` states, as long as they are not
/// valid. `None` if they are, or if they are too many.
fn peek_invalid(file: &FollowedFile, end: Lsn, bytes: Vec<u8>) -> Result<Option<Vec<u8>>> {
    let FollowedFile { header, .. } = file;
    let rest = header.file_len.saturating_sub(header.offset_of(end));
    let Some(len) = UnverifiedHeader::len_at(&bytes).filter(|&len| len <= rest) else {
        // No record has this header.
        return Ok(Some(bytes));
    };
    if len > PEEK_LEN_MAX {
        return Ok(None);
    }
    let all = peek(file, end, usize::try_from(len).expect("invariant: a peek is short"))?;
    // The header of a record that was put since states another length.
    let has_header = all.starts_with(&bytes);
    let is_invalid = decode(&Bytes::copy_from_slice(&all), header.salt, end) == Decoded::Invalid;
    Ok(Some(all).filter(|_| has_header && is_invalid))
}

fn read_up_to(file: &dyn File, bytes: &mut [u8], offset: u64) -> std::io::Result<usize> {
    loop {
        match file.read_at(bytes, offset) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(all(test, not(stratawal_loom)))]
mod tests {
    use stratawal_storage::MemoryStorage;

    use super::*;
    use crate::journal::{Journal, JournalOptions};

    const WAL: WalId = WalId(3);

    /// A journal with one record, whose body has `len` bytes.
    fn file_with(storage: &Arc<dyn Storage>, dir: &str, len: usize) -> FollowedFile {
        let journal = Journal::create(storage, Path::new(dir), WAL, JournalOptions::default()).unwrap();
        let (stream, body) = (StreamId(1), vec![1; len].into());
        let part = Part { stream, name: None, first: SeqNo(0), count: 1, timestamp: 0, firm: false, body };
        journal.append(&Record::Data(vec![part])).unwrap();
        let (header, file) = read_header(&**storage, Path::new(dir), WAL, 1).unwrap();
        FollowedFile { header, file }
    }

    /// The bytes after the chain are from an earlier use of the file when their length is read, and
    /// the beginning of a longer record when they are read. Its other bytes may come later.
    #[test]
    fn beginning_of_a_new_record_is_not_remembered() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let rest = peek(&file_with(&storage, "/rest", 100), Lsn(0), RECORD_HEADER_LEN).unwrap();
        let earlier = file_with(&storage, "/earlier", 100);
        let same = peek(&earlier, Lsn(0), RECORD_HEADER_LEN).unwrap();
        assert_eq!(peek_invalid(&earlier, Lsn(0), same).unwrap(), None, "it is valid");
        let file = file_with(&storage, "/new", 3000);
        assert_eq!(peek_invalid(&file, Lsn(0), rest).unwrap(), None);
    }
}
