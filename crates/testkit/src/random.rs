//! Seeded randomness and content hashes: everything random in a test comes from here, and from one printed seed.

use std::io::Write;

/// A small generator (splitmix64): the same seed gives the same numbers on every machine, for ever.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator that begins at `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator of its own for `label`, so that adding a draw in one place does not shift all others.
    #[must_use]
    pub fn fork(&self, label: u64) -> Self {
        Self(mix(self.0 ^ mix(label)))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number less than `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.next_u64()) * u128::from(end);
        u64::try_from(wide >> 64).expect("the upper half of a product of two u64")
    }

    /// An index into something of `len` items.
    pub fn index(&mut self, len: usize) -> usize {
        to_usize(self.below(len as u64))
    }

    /// A number in `start..end`.
    pub fn within(&mut self, start: u64, end: u64) -> u64 {
        start + self.below(end.saturating_sub(start))
    }

    /// True `percent` times in a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `items`.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// Fills `buf` with noise.
    pub fn fill(&mut self, buf: &mut [u8]) {
        let (words, rest) = buf.as_chunks_mut::<8>();
        for word in words {
            *word = self.next_u64().to_le_bytes();
        }
        let last = self.next_u64().to_le_bytes();
        let len = rest.len();
        rest.copy_from_slice(&last[..len]);
    }

    /// `len` bytes of noise.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }
}

/// The finaliser of splitmix64: each bit of the result depends on each bit of `word`.
#[must_use]
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The seed of a test: the environment variable `COWBACK_SEED` if it is set, else `default`. Prints which one it is.
///
/// # Panics
/// If `COWBACK_SEED` is not a number.
#[must_use]
pub fn seed(test: &str, default: u64) -> u64 {
    let seed = match std::env::var("COWBACK_SEED") {
        Ok(text) => text.parse().expect("COWBACK_SEED is a number"),
        Err(_) => default,
    };
    println!("{test}: seed {seed} (set COWBACK_SEED to change it)");
    seed
}

/// 128 bits that identify `data`. Not against an adversary: against chance.
#[must_use]
pub fn hash128(key: u64, data: &[u8]) -> u128 {
    let mut low = mix(key ^ 0x243f_6a88_85a3_08d3);
    let mut high = mix(key ^ 0x1319_8a2e_0370_7344);
    let mut step = |word: u64| {
        low = (low ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25);
        low ^= low >> 29;
        high = (high.rotate_left(27) ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93);
    };
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        step(u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    step(u64::from_le_bytes(last));
    step(data.len() as u64);
    u128::from(mix(low)) | (u128::from(mix(high ^ low)) << 64)
}

/// A length or an index; everything that tests handle fits in memory.
///
/// # Panics
/// If it does not.
#[must_use]
pub fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("lengths in tests fit in memory")
}

/// Prints a line that the test harness does not swallow when a test passes.
pub fn announce(line: &str) {
    // Straight to the stream: only the print macros are captured.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_everywhere() {
        let mut rng = Rng::new(1);
        assert_eq!(rng.next_u64(), 0x910a_2dec_8902_5cc1, "splitmix64's first number from seed 1");
        let mut again = Rng::new(1);
        assert_eq!(again.next_u64(), 0x910a_2dec_8902_5cc1);
        assert_ne!(Rng::new(1).fork(1).next_u64(), Rng::new(1).fork(2).next_u64());
    }

    #[test]
    fn draws_stay_in_their_bounds() {
        let mut rng = Rng::new(7);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            seen[rng.index(10)] = true;
            assert!((5..9).contains(&rng.within(5, 9)));
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(rng.below(0), 0);
        assert!(!rng.percent(0) && rng.percent(100));
    }

    #[test]
    fn hashes_differ_by_content_length_and_key() {
        let hashes = [
            hash128(0, b""),
            hash128(1, b""),
            hash128(0, b"\0"),
            hash128(0, b"\0\0"),
            hash128(0, &[0; 8]),
            hash128(0, &[0; 16]),
            hash128(0, b"abcdefgh"),
            hash128(0, b"abcdefgi"),
        ];
        for (i, a) in hashes.iter().enumerate() {
            assert!(hashes[i + 1..].iter().all(|b| a != b), "{i}");
        }
    }
}
