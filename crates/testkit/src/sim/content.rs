//! One file: the bytes in the page cache, the bytes on the disk, and the versions between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::rng::Rng;

/// A disk writes a sector of this many bytes as a whole or not at all.
pub(crate) const SECTOR_LEN: usize = 512;

type Sector = Arc<[u8; SECTOR_LEN]>;

/// Bytes stored as sectors. A missing sector is all zeros.
#[derive(Clone, Debug, Default)]
struct Bytes {
    sectors: BTreeMap<u64, Sector>,
    len: u64,
}

impl Bytes {
    fn sector(&self, at: u64) -> [u8; SECTOR_LEN] {
        self.sectors.get(&at).map_or([0; SECTOR_LEN], |sector| **sector)
    }

    /// Sets all bytes from `from` on to zero.
    fn clear_from(&mut self, from: u64) {
        let sector = from / SECTOR_LEN as u64;
        let within = usize::try_from(from % SECTOR_LEN as u64).expect("small");
        let mut after = self.sectors.split_off(&sector);
        if within > 0
            && let Some(mut cut) = after.remove(&sector)
        {
            Arc::make_mut(&mut cut)[within..].fill(0);
            self.sectors.insert(sector, cut);
        }
    }
}

/// A file. Times are the disk's change counter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    cached: Bytes,
    durable: Bytes,
    /// Every version of each sector since the last sync, oldest first. Any of them may be on the
    /// disk.
    written: BTreeMap<u64, Vec<(u64, Sector)>>,
    /// Every length since the last sync, oldest first. Lengths are journaled: each reaches the disk
    /// only after the earlier ones.
    lens: Vec<(u64, u64)>,
    /// How often write-back of the file has failed.
    write_back_errors: u64,
    /// The time of the last change in microseconds, by a clock that ticks every 10 ms.
    changed_micros: u64,
}

impl Content {
    pub(crate) const fn write_back_errors(&self) -> u64 {
        self.write_back_errors
    }

    pub(crate) const fn changed_micros(&self) -> u64 {
        self.changed_micros
    }

    /// Records a change at this time.
    pub(crate) const fn touch(&mut self, micros: u64) {
        const TICK_MICROS: u64 = 10_000;
        self.changed_micros = micros / TICK_MICROS * TICK_MICROS;
    }

    /// Writes some of the dirty sectors to the disk; the others are never written. Returns whether
    /// any sector was dirty.
    pub(crate) fn fail_write_back(&mut self, rng: &mut Rng) -> bool {
        let dirty = !self.written.is_empty();
        if dirty {
            self.fail_sync(rng);
            self.write_back_errors += 1;
        }
        dirty
    }

    pub(crate) const fn len(&self) -> u64 {
        self.cached.len
    }

    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let n = usize::try_from(self.cached.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        let mut done = 0;
        while done < n {
            let at = offset + done as u64;
            let within = usize::try_from(at % SECTOR_LEN as u64).expect("small");
            let some = (SECTOR_LEN - within).min(n - done);
            let into = &mut buf[done..done + some];
            match self.cached.sectors.get(&(at / SECTOR_LEN as u64)) {
                Some(sector) => into.copy_from_slice(&sector[within..within + some]),
                None => into.fill(0),
            }
            done += some;
        }
        n
    }

    pub(crate) fn write(&mut self, buf: &[u8], offset: u64, time: u64) {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let index = at / SECTOR_LEN as u64;
            let within = usize::try_from(at % SECTOR_LEN as u64).expect("small");
            let some = (SECTOR_LEN - within).min(buf.len() - done);
            let mut sector = self.cached.sector(index);
            sector[within..within + some].copy_from_slice(&buf[done..done + some]);
            let sector = Arc::new(sector);
            self.written.entry(index).or_default().push((time, Arc::clone(&sector)));
            self.cached.sectors.insert(index, sector);
            done += some;
        }
        let end = offset + buf.len() as u64;
        if end > self.cached.len {
            self.set_len(end, time);
        }
    }

    pub(crate) fn set_len(&mut self, len: u64, time: u64) {
        if len < self.cached.len {
            self.cached.clear_from(len);
        }
        self.cached.len = len;
        self.lens.push((time, len));
    }

    pub(crate) fn sync(&mut self) {
        // Only dirty sectors are written, so not those that an earlier, failed sync marked clean.
        self.durable = self.crash(&mut |_| true).durable;
        self.written.clear();
        self.lens.clear();
    }

    /// Makes only the pages that hold the bytes from `from` to `to` durable.
    pub(crate) fn sync_range(&mut self, from: u64, to: u64) {
        const PAGE_SECTORS: u64 = 8;
        let page = |offset: u64| offset / (PAGE_SECTORS * SECTOR_LEN as u64) * PAGE_SECTORS;
        let sectors = page(from)..page(to.saturating_sub(1)) + PAGE_SECTORS;
        let synced: Vec<u64> = self.written.range(sectors).map(|(&index, _)| index).collect();
        for index in synced {
            let versions = self.written.remove(&index).unwrap_or_default();
            if let Some((_, sector)) = versions.last() {
                self.durable.sectors.insert(index, Arc::clone(sector));
            }
        }
    }

    /// Fails a sync: some of the dirty sectors reach the disk and the others never do. All of them
    /// are clean afterwards, so the next sync has nothing to write.
    pub(crate) fn fail_sync(&mut self, rng: &mut Rng) {
        for (index, versions) in std::mem::take(&mut self.written) {
            if rng.chance(128)
                && let Some((_, sector)) = versions.last()
            {
                self.durable.sectors.insert(index, Arc::clone(sector));
            }
        }
    }

    /// Returns the file after a power loss. `survives` decides whether the change made at a given
    /// time has reached the disk.
    pub(crate) fn crash(&self, survives: &mut dyn FnMut(u64) -> bool) -> Self {
        let lens = self.lens.iter().rposition(|&(time, _)| survives(time)).map_or(0, |last| last + 1);
        let lens = &self.lens[..lens];
        let mut after = Bytes { sectors: self.durable.sectors.clone(), len: self.durable.len };
        // Each shortening removes bytes written before it, but none written later.
        let mut cuts: Vec<(u64, u64)> = Vec::new();
        for &(time, len) in lens {
            if len < after.len {
                cuts.push((time, len));
            }
            after.len = len;
        }
        for &(_, len) in &cuts {
            after.clear_from(len);
        }
        for (&index, versions) in &self.written {
            let Some((time, sector)) = versions.iter().rev().find(|(time, _)| survives(*time)) else { continue };
            let mut sector = **sector;
            for (_, len) in cuts.iter().filter(|(cut, _)| cut > time) {
                let from = len.saturating_sub(index * SECTOR_LEN as u64).min(SECTOR_LEN as u64);
                sector[usize::try_from(from).expect("small")..].fill(0);
            }
            after.sectors.insert(index, Arc::new(sector));
        }
        let len = after.len;
        after.clear_from(len);
        Self { cached: after.clone(), durable: after, changed_micros: self.changed_micros, ..Self::default() }
    }

    /// Flips a bit on the disk and in the cache.
    pub(crate) fn flip(&mut self, offset: u64, bit: u8) {
        let index = offset / SECTOR_LEN as u64;
        let within = usize::try_from(offset % SECTOR_LEN as u64).expect("small");
        let mut sector = self.cached.sector(index);
        sector[within] ^= 1 << bit;
        self.cached.sectors.insert(index, Arc::new(sector));
        self.durable = self.cached.clone();
    }
}
