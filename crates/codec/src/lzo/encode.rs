//! An LZO1X encoder for blocks of at most 4 KiB: greedy, with one hash table of positions.
//!
//! Within 4 KiB only two of the format's four kinds of match are needed: near ones (length 3 to 8, distance at most
//! 2048, two bytes) and far ones (any length, distance at most 16384, three bytes and more). A run of one to three
//! literals behind a match is counted in two spare bits of that match.
//!
//! Invariant (law R3): the table is cleared for each block, so the result depends on the block alone.

use cowback_base::BLOCK_SIZE_USIZE;

const TABLE_BITS: u32 = 12;
/// Positions of the block by the hash of the four bytes there; 0 also means "none", and is always verified.
pub(super) type Table = [u16; 1 << TABLE_BITS];

/// Literals are copied this many at a time.
const STRIDE: usize = 16;
/// Room for the worst case and one careless copy.
pub(super) type Segment = [u8; super::worst_case(BLOCK_SIZE_USIZE) + STRIDE];

/// No match begins in the last bytes of a block: they can be read eight at a time before this.
const TAIL: usize = 12;

const NEAR_DISTANCE: usize = 2048;
const NEAR_LENGTH: usize = 8;
/// Longest far match whose length fits the first byte.
const FAR_SHORT: usize = 33;
/// Longest run of literals that the first byte of a stream can announce.
const FIRST_RUN: usize = 238;
/// Longest run whose length fits one byte elsewhere.
const SHORT_RUN: usize = 18;

/// Encodes `block`, which is at most 4 KiB, into `out`; returns the length of the stream.
pub(super) fn encode(table: &mut Table, block: &[u8], out: &mut Segment) -> usize {
    debug_assert!(block.len() <= BLOCK_SIZE_USIZE);
    let mut writer = Writer { out, at: 0 };
    let mut literals = 0;
    if let Some(limit) = block.len().checked_sub(TAIL) {
        table.fill(0);
        let mut at = 1;
        while let Some((mut here, mut there)) = find(table, block, at, literals, limit) {
            while here > literals && there > 0 && block[here - 1] == block[there - 1] {
                here -= 1;
                there -= 1;
            }
            writer.literals(block, literals, here);
            let length = match_length(block, here, there);
            writer.match_of(here - there, length);
            at = here + length;
            literals = at;
        }
    }
    writer.literals(block, literals, block.len());
    writer.byte(0x11);
    writer.byte(0);
    writer.byte(0);
    writer.at
}

/// The next position at or after `at` and before `limit` whose four bytes occurred before, and where. The longer the
/// literals since `from`, the longer the steps.
fn find(
    table: &mut Table,
    block: &[u8],
    mut at: usize,
    from: usize,
    limit: usize,
) -> Option<(usize, usize)> {
    while at < limit {
        let word = word(block, at);
        let slot = &mut table[(word.wrapping_mul(0x9e37_79b1) >> (32 - TABLE_BITS)) as usize];
        let candidate = usize::from(*slot);
        *slot = low16(at);
        if self::word(block, candidate) == word {
            return Some((at, candidate));
        }
        at += 1 + ((at - from) >> 5);
    }
    None
}

fn word(block: &[u8], at: usize) -> u32 {
    block[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// How many bytes at `here` equal those at `there`, which lies before it.
fn match_length(block: &[u8], here: usize, there: usize) -> usize {
    let ours = &block[here..];
    let theirs = &block[there..there + ours.len()];
    let mut length = 0;
    for (a, b) in ours.as_chunks::<8>().0.iter().zip(theirs.as_chunks::<8>().0) {
        let difference = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if difference != 0 {
            return length + difference.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    let rest = ours[length..].iter().zip(&theirs[length..]).take_while(|(a, b)| a == b);
    length + rest.count()
}

struct Writer<'a> {
    out: &'a mut Segment,
    at: usize,
}

impl Writer<'_> {
    fn byte(&mut self, byte: u8) {
        self.out[self.at] = byte;
        self.at += 1;
    }

    /// What is left of a long length: zeros that count 255 each, and a last byte that is not zero.
    fn long_length(&mut self, mut rest: usize) {
        while rest > 255 {
            self.byte(0);
            rest -= 255;
        }
        self.byte(low8(rest));
    }

    /// The bytes of `block` from `from` to `to`, as literals.
    fn literals(&mut self, block: &[u8], from: usize, to: usize) {
        let run = to - from;
        match run {
            0 => return,
            _ if self.at == 0 && run <= FIRST_RUN => self.byte(low8(17 + run)),
            1..=3 if self.at > 0 => self.out[self.at - 2] |= low8(run),
            _ if run <= SHORT_RUN => self.byte(low8(run - 3)),
            _ => {
                self.byte(0);
                self.long_length(run - SHORT_RUN);
            }
        }
        if run <= STRIDE
            && let Some(source) = block[from..].first_chunk::<STRIDE>()
            && let Some(place) = self.out[self.at..].first_chunk_mut::<STRIDE>()
        {
            *place = *source;
        } else {
            self.out[self.at..self.at + run].copy_from_slice(&block[from..to]);
        }
        self.at += run;
    }

    fn match_of(&mut self, distance: usize, length: usize) {
        let back = distance - 1;
        if length <= NEAR_LENGTH && distance <= NEAR_DISTANCE {
            self.byte(low8((length - 1) << 5 | (back & 7) << 2));
            self.byte(low8(back >> 3));
            return;
        }
        if length <= FAR_SHORT {
            self.byte(low8(0x20 | (length - 2)));
        } else {
            self.byte(0x20);
            self.long_length(length - FAR_SHORT);
        }
        let [low, high] = low16(back << 2).to_le_bytes();
        self.byte(low);
        self.byte(high);
    }
}

/// The lowest eight bits, which is all there are by the bounds of the format.
fn low8(n: usize) -> u8 {
    low16(n).to_le_bytes()[0]
}

/// The lowest sixteen bits, which is all there are within a block.
fn low16(n: usize) -> u16 {
    u16::try_from(n & 0xffff).expect("sixteen bits fit")
}
