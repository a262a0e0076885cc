//! The entries that are appended, and the tally of entries that are read.

/// The number of distinct entries: few enough to stay in the cache, so that producing one costs
/// almost nothing.
const SLOTS: u64 = 1024;

/// Pseudorandom entries. Each begins with its number, and all its other bytes follow from the
/// number.
pub(crate) struct Payload {
    pool: Vec<u8>,
    len: usize,
}

impl Payload {
    pub(crate) fn new(len: usize) -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        Self { pool: (0..SLOTS as usize * len).map(|_| next()).collect(), len }
    }

    /// Returns the entry `n`.
    pub(crate) fn entry(&mut self, n: u64) -> &[u8] {
        let at = Self::slot(n) * self.len;
        let slot = &mut self.pool[at..at + self.len];
        slot[..8].copy_from_slice(&n.to_le_bytes());
        slot
    }

    /// Returns the entries from `first` on.
    pub(crate) fn batch<const N: usize>(&mut self, first: u64) -> [&[u8]; N] {
        for n in first..first + N as u64 {
            self.entry(n);
        }
        std::array::from_fn(|i| {
            let at = Self::slot(first + i as u64) * self.len;
            &self.pool[at..at + self.len]
        })
    }

    fn slot(n: u64) -> usize {
        (n % SLOTS) as usize
    }
}

/// The tally of the entries that were read: how many, their bytes, and the sum of their numbers.
/// With `checked`, every byte is compared.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) sum: u64,
    /// The number of the last entry.
    pub(crate) last: u64,
    pub(crate) wrong: u64,
    payload: Option<Payload>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn checked(entry_len: usize) -> Self {
        Self { payload: Some(Payload::new(entry_len)), ..Self::default() }
    }

    #[inline]
    pub(crate) fn see(&mut self, entry: &[u8]) {
        let Some((number, _)) = entry.split_first_chunk::<8>() else {
            self.wrong += 1;
            return;
        };
        self.last = u64::from_le_bytes(*number);
        self.count += 1;
        self.bytes += std::hint::black_box(entry).len() as u64;
        self.sum = self.sum.wrapping_add(self.last);
        if let Some(payload) = &mut self.payload {
            self.wrong += u64::from(payload.entry(self.last) != entry);
        }
    }
}
