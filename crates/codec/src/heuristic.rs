//! Does it pay to try compressing? A guess from a sample of at most 8 KiB, with the tests and the bounds that the
//! kernel uses (stage 5).
//!
//! It is worth its cost only before a compressor that is slow on noise: see [`heuristic_pays`].

use cowback_base::BLOCK_SIZE_USIZE;

use crate::compress::EXTENT_MAX;
use crate::spec::{Algorithm, CompressionSpec};

/// Bytes taken at each place.
const PIECE: usize = 16;
/// A place is sampled every so many bytes.
const INTERVAL: usize = 256;
const SAMPLE_MAX: usize = EXTENT_MAX / INTERVAL * PIECE;

/// Fewer distinct byte values than this: text or alike.
const BYTE_SET: usize = 64;
/// At most this many values make up 90 % of the sample: easily compressed.
const CORE_SET_LOW: usize = 64;
/// At least this many do: noise.
const CORE_SET_HIGH: usize = 200;
const CORE_SET_PERCENT: u32 = 90;
/// Up to this percentage of the greatest entropy: compressible.
const ENTROPY_LOW: u64 = 65;
/// From this percentage on: not worth it.
const ENTROPY_HIGH: u64 = 80;

/// What the sample looks like; the tests are made in this order, and the first that matches decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Too few bytes for a sample: try.
    TooShortToTell,
    /// The second half of the sample repeats the first: try.
    RepeatedPattern,
    /// Fewer than 64 distinct values: try.
    SmallByteSet,
    /// At most 64 values make up more than 90 % of the sample: try.
    SmallCoreSet,
    /// Entropy of at most 65 %: try.
    LowEntropy,
    /// Entropy between 65 % and 80 %: try, though little will come of it.
    MarginalEntropy,
    /// So many values are needed to make up 90 % that it must be noise: do not try.
    Noise,
    /// Entropy of 80 % or more: do not try.
    HighEntropy,
}

impl Verdict {
    /// Whether to try compressing.
    #[must_use]
    pub const fn worth_trying(self) -> bool {
        !matches!(self, Self::Noise | Self::HighEntropy)
    }
}

/// Whether [`looks_compressible`] costs less than it saves in front of this compressor.
///
/// It takes about 10 us for 128 KiB. On 128 KiB of noise zstd takes 8 us at level -5, 24 us at 3, 60 us at 9 and 430 us
/// at 12, while the LZO encoder here gives up after two us, for it stops when two blocks have not shrunk: all these but
/// zstd:12 find out for themselves. zlib takes 1.2 to 3.5 ms and zstd at level 15 takes 7 ms: they need a scout.
#[must_use]
pub fn heuristic_pays(spec: CompressionSpec) -> bool {
    match spec.algorithm() {
        Algorithm::Zlib => true,
        Algorithm::Lzo => false,
        Algorithm::Zstd => spec.level().is_some_and(|level| level.get() >= 12),
    }
}

/// Judges bytes that lie in one piece; only the first 128 KiB count.
#[must_use]
pub fn looks_compressible(data: &[u8]) -> Verdict {
    looks_compressible_pages(data.chunks(BLOCK_SIZE_USIZE))
}

/// Judges bytes that lie in pages, in order; only the first 128 KiB count.
#[must_use]
pub fn looks_compressible_pages<'a>(pages: impl IntoIterator<Item = &'a [u8]>) -> Verdict {
    let mut buffer = [0; SAMPLE_MAX];
    let mut len = 0;
    for page in pages {
        let places = page.chunks(INTERVAL).filter(|place| place.len() > PIECE);
        for piece in places.filter_map(|place| place.first_chunk::<PIECE>()) {
            let Some(room) = buffer[len..].first_chunk_mut::<PIECE>() else {
                return judge(&buffer);
            };
            *room = *piece;
            len += PIECE;
        }
    }
    judge(&buffer[..len])
}

/// Judges a sample.
fn judge(sample: &[u8]) -> Verdict {
    if sample.is_empty() {
        return Verdict::TooShortToTell;
    }
    let (first, second) = sample.split_at(sample.len() / 2);
    if first == second {
        return Verdict::RepeatedPattern;
    }
    let mut counts = [0u32; 256];
    for &byte in sample {
        counts[usize::from(byte)] += 1;
    }
    if counts.iter().filter(|&&count| count > 0).count() < BYTE_SET {
        return Verdict::SmallByteSet;
    }
    counts.sort_unstable_by(|a, b| b.cmp(a));
    match core_set(&counts) {
        ..=CORE_SET_LOW => return Verdict::SmallCoreSet,
        CORE_SET_HIGH.. => return Verdict::Noise,
        _ => {}
    }
    match entropy_percent(&counts) {
        ..=ENTROPY_LOW => Verdict::LowEntropy,
        ENTROPY_HIGH.. => Verdict::HighEntropy,
        _ => Verdict::MarginalEntropy,
    }
}

/// How many of the most frequent values make up more than 90 % of the sample; `counts` are in descending order.
fn core_set(counts: &[u32; 256]) -> usize {
    let total: u32 = counts.iter().sum();
    let threshold = total * CORE_SET_PERCENT / 100;
    let mut sum = 0;
    counts
        .iter()
        .position(|&count| {
            sum += count;
            sum > threshold
        })
        .map_or(counts.len(), |index| index + 1)
}

/// Shannon entropy in percent of eight bits per byte, in integers: a logarithm has two fractional bits, being that of
/// the fourth power.
fn entropy_percent(counts: &[u32; 256]) -> u64 {
    const fn log(n: u32) -> u64 {
        (n as u64).pow(4).ilog2() as u64
    }
    const MAX: u64 = 8 * log(2);
    let total: u32 = counts.iter().sum();
    let bits: u64 = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| u64::from(count) * (log(total) - log(count)))
        .sum();
    bits / u64::from(total) * 100 / MAX
}

#[cfg(test)]
mod tests;
