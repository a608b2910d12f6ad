//! LZO as btrfs frames it: a little-endian total, then segments of one block each.
//!
//! ```text
//! total: u32 (counts itself) | segment length: u32 | LZO1X stream | segment length: u32 | LZO1X stream ...
//! ```
//!
//! Invariants: a segment holds at most 4 KiB of input; a length field never crosses a 4 KiB boundary of the stored
//! stream, zeros are put before it instead, while the streams themselves may cross; the total is at most 128 KiB
//! (law B3). An input of at most one block becomes exactly one segment, which is what an inline extent must be.

mod decode;
mod encode;

#[cfg(test)]
mod tests;

use cowback_base::BLOCK_SIZE_USIZE;

use crate::compress::EXTENT_MAX;

/// Bytes of a length field.
const LENGTH: usize = 4;

/// The longest stream that an LZO1X encoder makes of `len` bytes.
const fn worst_case(len: usize) -> usize {
    len + len / 16 + 64 + 3
}

/// Where the next length field goes, if the stream has come to `at`: behind zeros if it would cross a block.
const fn field_at(at: usize) -> usize {
    let left = BLOCK_SIZE_USIZE - at % BLOCK_SIZE_USIZE;
    if left < LENGTH { at + left } else { at }
}

/// A zeroed array on the heap, or `None` if there is no memory.
fn try_zeroed<T: Copy + Default, const N: usize>() -> Option<Box<[T; N]>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(N).ok()?;
    vec.resize(N, T::default());
    vec.into_boxed_slice().try_into().ok()
}

/// A reusable encoder.
pub(crate) struct Encoder {
    table: Box<encode::Table>,
    segment: Box<encode::Segment>,
}

impl Encoder {
    /// Allocates one, or tells that there is no memory.
    pub(crate) fn try_new() -> Option<Self> {
        Some(Self { table: try_zeroed()?, segment: try_zeroed()? })
    }

    /// Compresses `input` and returns the length of the framed stream, or `None` if it does not fit `output`, or if
    /// more than two blocks of input have only grown.
    pub(crate) fn compress(&mut self, input: &[u8], output: &mut [u8]) -> Option<usize> {
        let mut at = LENGTH;
        let mut consumed = 0;
        loop {
            let block = &input[consumed..input.len().min(consumed + BLOCK_SIZE_USIZE)];
            let n = encode::encode(&mut self.table, block, &mut self.segment);
            let field = field_at(at);
            let end = field + LENGTH + n;
            let place = output.get_mut(at..end)?;
            let (zeros, rest) = place.split_at_mut(field - at);
            let (length, payload) = rest.split_at_mut(LENGTH);
            zeros.fill(0);
            length.copy_from_slice(&le32(n));
            payload.copy_from_slice(&self.segment[..n]);
            at = end;
            consumed += block.len();
            if consumed == input.len() {
                break;
            }
            if consumed > 2 * BLOCK_SIZE_USIZE && at > consumed {
                return None;
            }
        }
        output[..LENGTH].copy_from_slice(&le32(at));
        Some(at)
    }
}

fn le32(n: usize) -> [u8; LENGTH] {
    u32::try_from(n).expect("an extent is at most 128 KiB").to_le_bytes()
}

/// A reusable decoder.
pub(crate) struct Decoder {
    block: Box<[u8; BLOCK_SIZE_USIZE]>,
}

/// What is wrong with a stream, and at which byte of it.
type Fault = (&'static str, usize);

impl Decoder {
    /// Allocates one, or tells that there is no memory.
    pub(crate) fn try_new() -> Option<Self> {
        Some(Self { block: try_zeroed()? })
    }

    /// Decodes the segments of `input` until they end or `output` is full; returns the bytes filled.
    pub(crate) fn decompress(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize, Fault> {
        let inline = !input.len().is_multiple_of(BLOCK_SIZE_USIZE);
        let total = checked_total(input, inline)?;
        let stream = &input[..total];
        let mut at = LENGTH;
        let mut filled = 0;
        while at < total && filled < output.len() {
            let field = field_at(at);
            let n = read_le32(stream, field).ok_or(("a segment length is cut short", field))?;
            let start = field + LENGTH;
            if n > worst_case(BLOCK_SIZE_USIZE) {
                return Err(("a segment is longer than any 4 KiB block can become", field));
            }
            if inline && n != total - 2 * LENGTH {
                return Err(("an inline extent is not exactly one segment", field));
            }
            let segment = stream
                .get(start..start + n)
                .ok_or(("a segment reaches beyond the total length", field))?;
            let place = &mut output[filled..];
            let fault = |(what, offset): Fault| (what, start + offset);
            if let Some(place) = place.first_chunk_mut::<BLOCK_SIZE_USIZE>() {
                filled += decode::decode(segment, place).map_err(fault)?;
            } else {
                let n = decode::decode(segment, self.block.as_mut_slice()).map_err(fault)?;
                let wanted = n.min(place.len());
                place[..wanted].copy_from_slice(&self.block[..wanted]);
                filled += wanted;
            }
            at = start + n;
        }
        Ok(filled)
    }
}

/// The total length, if it agrees with the length of what is stored.
fn checked_total(input: &[u8], inline: bool) -> Result<usize, Fault> {
    let total = read_le32(input, 0).ok_or(("the total length is cut short", 0))?;
    if total > EXTENT_MAX {
        return Err(("the total length is more than 128 KiB", 0));
    }
    let agrees = if inline {
        total == input.len() && total >= 2 * LENGTH
    } else {
        total >= LENGTH && total.next_multiple_of(BLOCK_SIZE_USIZE) == input.len()
    };
    if agrees { Ok(total) } else { Err(("the total length disagrees with the extent's", 0)) }
}

fn read_le32(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..)?.first_chunk::<LENGTH>()?;
    usize::try_from(u32::from_le_bytes(*field)).ok()
}
