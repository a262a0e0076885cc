//! The choices of a test: random numbers determined by a seed, or a fuzzer's bytes.

/// A source of choices.
pub(crate) trait Choose {
    /// Any 64 bits.
    fn next_u64(&mut self) -> u64;

    /// A number below `n`. `n` is not 0.
    fn below(&mut self, n: u64) -> u64;

    /// True about `chances` times in 256.
    fn chance(&mut self, chances: u64) -> bool;

    /// An index into a sequence of length `len`, which is not 0.
    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a usize")
    }
}

impl Choose for Rng {
    fn next_u64(&mut self) -> u64 {
        Self::next_u64(self)
    }

    fn below(&mut self, n: u64) -> u64 {
        Self::below(self, n)
    }

    fn chance(&mut self, chances: u64) -> bool {
        Self::chance(self, chances)
    }
}

/// Choices made by bytes. Each choice takes the fewest bytes that distinguish its alternatives.
/// After the last byte, every choice is the first alternative.
#[derive(Debug)]
pub(crate) struct Choices<'b>(&'b [u8]);

impl<'b> Choices<'b> {
    pub(crate) const fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u64 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first.into()
    }
}

impl Choose for Choices<'_> {
    /// Combines two bytes with the number of bytes left, so that no two results are equal.
    fn next_u64(&mut self) -> u64 {
        let left = self.0.len() as u64;
        self.byte() | self.byte() << 8 | left << 16
    }

    fn below(&mut self, n: u64) -> u64 {
        let mut number = 0;
        let mut reach = 1_u64;
        while reach < n {
            number = number << 8 | self.byte();
            reach = reach.saturating_mul(256);
        }
        number % n
    }

    fn chance(&mut self, chances: u64) -> bool {
        self.byte() < chances
    }
}

/// SplitMix64: small, and good enough for tests.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Creates a generator from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`. `n` is not 0.
    pub const fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n
    }

    /// An index into a sequence of length `len`, which is not 0.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a usize")
    }

    /// True `chances` times in 256.
    pub const fn chance(&mut self, chances: u64) -> bool {
        self.next_u64() >> 56 < chances
    }
}
