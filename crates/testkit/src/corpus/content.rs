//! What files hold, as recipes: any range can be made without what lies before it.

use crate::random::{mix, to_usize};

/// What bytes are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Zeros that are written, not a hole.
    Zeros,
    /// Lines of words: shrinks to about a third.
    Text(u64),
    /// Noise: does not shrink.
    Noise(u64),
    /// Text and noise in turn, each for `period` bytes.
    Alternating {
        /// Of both.
        seed: u64,
        /// Bytes of each.
        period: u64,
    },
}

impl Content {
    /// The bytes from `offset` on.
    pub fn fill(self, offset: u64, buf: &mut [u8]) {
        match self {
            Self::Zeros => buf.fill(0),
            Self::Text(seed) => fill_units::<64>(offset, buf, |number| line(seed, number)),
            Self::Noise(seed) => {
                fill_units::<8>(offset, buf, |number| mix(seed ^ mix(number)).to_le_bytes());
            }
            Self::Alternating { seed, period } => {
                let (mut at, mut rest) = (offset, buf);
                while !rest.is_empty() {
                    let bytes = to_usize((period - at % period).min(rest.len() as u64));
                    let (now, after) = rest.split_at_mut(bytes);
                    let text = (at / period).is_multiple_of(2);
                    if text { Self::Text(seed) } else { Self::Noise(seed) }.fill(at, now);
                    at += bytes as u64;
                    rest = after;
                }
            }
        }
    }

    /// `len` bytes from `offset` on.
    #[must_use]
    pub fn bytes(self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(offset, &mut bytes);
        bytes
    }
}

fn fill_units<const N: usize>(offset: u64, buf: &mut [u8], unit: impl Fn(u64) -> [u8; N]) {
    let (mut at, mut rest) = (offset, buf);
    while !rest.is_empty() {
        let within = to_usize(at % N as u64);
        let bytes = rest.len().min(N - within);
        let (now, after) = rest.split_at_mut(bytes);
        now.copy_from_slice(&unit(at / N as u64)[within..within + bytes]);
        at += bytes as u64;
        rest = after;
    }
}

fn line(seed: u64, number: u64) -> [u8; 64] {
    const WORDS: [&[u8; 8]; 16] = [
        b"extent  ",
        b"page    ",
        b"the     ",
        b"of a    ",
        b"write   ",
        b"return ;",
        b"let x = ",
        b"struct {",
        b"0x0000ff",
        b"chunk   ",
        b"        ",
        b"########",
        b"error:  ",
        b"and then",
        b"file.rs ",
        b"unlock()",
    ];
    let mut line = [b' '; 64];
    let mut bits = mix(seed ^ mix(number / 2));
    for place in line.chunks_exact_mut(8) {
        place.copy_from_slice(WORDS[to_usize(bits & 15)]);
        bits >>= 4;
    }
    // Some of it is not in the dictionary.
    let own = mix(seed ^ number).to_le_bytes();
    line[48..56].copy_from_slice(&own.map(|byte| b'a' + byte % 26));
    line[63] = b'\n';
    line
}

/// What a file holds: parts at places, and holes between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// Bytes of the file.
    pub len: u64,
    /// What is written: ascending half-open ranges within the length.
    pub parts: Vec<(u64, u64, Content)>,
}

impl FileSpec {
    /// A file without holes.
    #[must_use]
    pub fn full(len: u64, content: Content) -> Self {
        let parts = if len == 0 { vec![] } else { vec![(0, len, content)] };
        Self { len, parts }
    }

    /// Makes all parts, in pieces of at most 1 MiB, in order.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn for_each_piece<E>(
        &self,
        mut write: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buf = vec![];
        for (start, end, content) in &self.parts {
            let mut at = *start;
            while at < *end {
                buf.resize(to_usize((end - at).min(1 << 20)), 0);
                content.fill(at, &mut buf);
                write(at, &buf)?;
                at += buf.len() as u64;
            }
        }
        Ok(())
    }
}
