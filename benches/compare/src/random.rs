//! Where random access goes: the same places for all contestants.

/// Numbers as good as random (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// The offset of one of the whole blocks of `bytes`.
    pub(crate) fn block(&mut self, bytes: u64) -> u64 {
        self.next() % (bytes / BLOCK) * BLOCK
    }
}

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 4096;

/// The block of `stream` at `offset`.
pub(crate) fn block_of(stream: &[u8], offset: u64) -> &[u8] {
    let at = usize::try_from(offset).unwrap_or(0);
    &stream[at..at + 4096]
}
