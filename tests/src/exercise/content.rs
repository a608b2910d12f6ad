//! What a file should be: its bytes, and for each block whether it is data or a hole.

use std::ops::Range;
use std::sync::Arc;

const BLOCK: usize = 4096;

/// What `seek_data`, `seek_hole` and `data_ranges` may say of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Never written, or cut off or punched since.
    Hole,
    /// Written.
    Data,
    /// A hole of which a part was zeroed, or a block that was zeroed as a whole: whether that makes it data is nobody's promise.
    Either,
}

/// The bytes of a file, and which of its blocks are data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    bytes: Vec<u8>,
    blocks: Vec<Block>,
}

impl Content {
    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes of `range`, as far as it is in the file.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range.start.min(self.len())..range.end.min(self.len())]
    }

    /// As [`cowback::File::write_at`].
    pub fn write(&mut self, at: usize, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = at + data.len();
        if at > self.len() {
            self.set_len(at);
        }
        self.bytes.resize(self.len().max(end), 0);
        self.blocks.resize(self.len().div_ceil(BLOCK), Block::Hole);
        self.bytes[at..end].copy_from_slice(data);
        self.blocks[at / BLOCK..end.div_ceil(BLOCK)].fill(Block::Data);
    }

    /// As [`cowback::File::set_len`].
    pub fn set_len(&mut self, len: usize) {
        let cut = len.min(self.len());
        if len != self.len() && !cut.is_multiple_of(BLOCK) {
            self.zeroed_in(cut / BLOCK);
        }
        self.bytes.resize(len, 0);
        self.blocks.resize(len.div_ceil(BLOCK), Block::Hole);
    }

    /// As [`cowback::File::punch_hole`].
    pub fn punch(&mut self, range: Range<usize>) {
        let (start, end) = (range.start, range.end.min(self.len()));
        if start >= end {
            return;
        }
        self.bytes[start..end].fill(0);
        let last = if end == self.len() { self.blocks.len() } else { end / BLOCK };
        if !start.is_multiple_of(BLOCK) {
            self.zeroed_in(start / BLOCK);
        }
        if !end.is_multiple_of(BLOCK) && end < self.len() {
            self.zeroed_in(end / BLOCK);
        }
        let first = start.div_ceil(BLOCK);
        if first < last {
            self.blocks[first..last].fill(Block::Hole);
        }
    }

    /// As [`cowback::File::allocate`]. Space that was never written to is a hole.
    pub fn allocate(&mut self, range: Range<usize>) {
        if !range.is_empty() && range.end > self.len() {
            self.set_len(range.end);
        }
    }

    /// As [`cowback::File::zero_range`].
    pub fn zero(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        self.allocate(range.clone());
        self.bytes[range.clone()].fill(0);
        for block in range.start / BLOCK..range.end.div_ceil(BLOCK) {
            let end = ((block + 1) * BLOCK).min(self.len());
            if range.start <= block * BLOCK && end <= range.end {
                self.blocks[block] = Block::Either;
            } else {
                self.zeroed_in(block);
            }
        }
    }

    fn zeroed_in(&mut self, block: usize) {
        if self.blocks[block] == Block::Hole {
            self.blocks[block] = Block::Either;
        }
    }

    /// Whether all of `range` may be one kind of thing: data, or a hole.
    fn may_be(&self, range: Range<usize>, data: bool) -> bool {
        let never = if data { Block::Hole } else { Block::Data };
        range.is_empty()
            || !self.blocks[range.start / BLOCK..range.end.div_ceil(BLOCK)].contains(&never)
    }

    /// Whether `found` is what `seek_data` (or `seek_hole`) may find from `at` on.
    ///
    /// # Errors
    /// Why not.
    pub fn check_seek(&self, at: usize, data: bool, found: Option<u64>) -> Result<(), String> {
        let end = if data { self.len() } else { self.len().max(at) };
        let fail =
            || Err(format!("seek for data {data} from {at} of {} finds {found:?}", self.len()));
        let Some(found) = found else {
            // No data to the end; or, as the end is a hole, an offset that is not in the file.
            let right = if data { self.may_be(at.min(end)..end, false) } else { at >= self.len() };
            return if right { Ok(()) } else { fail() };
        };
        let found = usize::try_from(found).map_err(|error| error.to_string())?;
        let in_place = found == at || found.is_multiple_of(BLOCK) || (!data && found == self.len());
        if at >= self.len() || found < at || found > end || (data && found == end) || !in_place {
            return fail();
        }
        let right =
            self.may_be(at..found, !data) && (found == end || self.may_be(found..found + 1, data));
        if right { Ok(()) } else { fail() }
    }

    /// Whether `ranges` are what `data_ranges` may say.
    ///
    /// # Errors
    /// Why not.
    pub fn check_ranges(&self, ranges: &[Range<u64>]) -> Result<(), String> {
        let mut at = 0;
        let fail = |what| Err(format!("{ranges:?} of {} bytes: {what}", self.len()));
        for (number, range) in ranges.iter().enumerate() {
            let range = usize::try_from(range.start).unwrap_or(usize::MAX)
                ..usize::try_from(range.end).unwrap_or(usize::MAX);
            if range.is_empty() || range.end > self.len() || (number > 0 && range.start <= at) {
                return fail(format!("range {number} is empty, beyond the end, or not apart"));
            }
            if !self.may_be(at..range.start, false) || !self.may_be(range.clone(), true) {
                return fail(format!("range {number} or the hole before it is not so"));
            }
            at = range.end;
        }
        let rest = self.may_be(at..self.len(), false);
        if rest { Ok(()) } else { fail("there is data after the last".to_owned()) }
    }

    /// What is found after an operation that failed half way between `before` and `after`: every byte is that of one of them.
    ///
    /// # Errors
    /// Why it is not.
    pub fn between(before: &Self, after: &Self, found: Vec<u8>) -> Result<Self, String> {
        let lens = before.len().min(after.len())..=before.len().max(after.len());
        if !lens.contains(&found.len()) {
            return Err(format!(
                "{} bytes after an operation that failed, of {lens:?}",
                found.len()
            ));
        }
        let byte = |content: &Self, at: usize| content.bytes.get(at).copied().unwrap_or(0);
        let odd = (0..found.len())
            .find(|&at| found[at] != byte(before, at) && found[at] != byte(after, at));
        if let Some(at) = odd {
            return Err(format!("byte {at} is neither old nor new after an operation that failed"));
        }
        let mut blocks = Vec::new();
        for number in 0..found.len().div_ceil(BLOCK) {
            let of = |content: &Self| content.blocks.get(number).copied().unwrap_or(Block::Hole);
            let same = of(before) == of(after);
            blocks.push(if same { of(before) } else { Block::Either });
        }
        Ok(Self { bytes: found, blocks })
    }

    /// What a crash leaves of a file that a commit left as `committed` and that was like each of `since` after it: the commit. If there are any
    /// of these, it is overwritten in place, and each block may be as it was after any change; its size is still the commit's.
    ///
    /// # Errors
    /// Why it is not `found`.
    pub fn left_by_crash(
        committed: &Arc<Self>,
        since: &[Arc<Self>],
        found: Vec<u8>,
    ) -> Result<Arc<Self>, String> {
        let differs = committed.check(&found);
        if differs.is_ok() || since.is_empty() || found.len() != committed.len() {
            return differs.map(|()| Arc::clone(committed));
        }
        for (number, block) in found.chunks(BLOCK).enumerate() {
            let at = number * BLOCK;
            let was = |content: &Self| {
                let there = content.slice(at..at + block.len());
                let (same, beyond) = block.split_at(there.len());
                same == there && beyond.iter().all(|byte| *byte == 0)
            };
            if !was(committed) && !since.iter().any(|content| was(content)) {
                return Err(format!("block {number} was never like that: {differs:?}"));
            }
        }
        Ok(Arc::new(Self { bytes: found, blocks: committed.blocks.clone() }))
    }

    /// A file of which only the bytes are known.
    #[must_use]
    pub fn of_bytes(bytes: Vec<u8>) -> Self {
        let blocks = vec![Block::Either; bytes.len().div_ceil(BLOCK)];
        Self { bytes, blocks }
    }

    /// Whether `found` is this content.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, found: &[u8]) -> Result<(), String> {
        check_bytes(&self.bytes, found, 0)
    }
}

/// Compares what was read at `at` with what should be there.
///
/// # Errors
/// The first difference.
pub fn check_bytes(wanted: &[u8], found: &[u8], at: usize) -> Result<(), String> {
    if wanted == found {
        return Ok(());
    }
    let differ = wanted.iter().zip(found).filter(|(a, b)| a != b).count();
    let first = wanted.iter().zip(found).position(|(a, b)| a != b);
    let first = first.map(|first| at + first);
    Err(format!(
        "{} bytes instead of {} at {at}; {differ} differ, first at {first:?}",
        found.len(),
        wanted.len()
    ))
}

/// Checks that can themselves be seen to find what they must.
#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Content {
        let mut content = Content::default();
        content.write(0, &[1; 5000]);
        content.write(20_000, &[2; 100]);
        content.set_len(40_000);
        content
    }

    #[test]
    fn seeks_and_ranges_are_told_right_from_wrong() {
        let content = sample();
        // Blocks 0, 1 and 4 are data.
        assert!(content.check_ranges(&[0..8192, 16_384..20_480]).is_ok());
        let one = |range: Range<u64>| std::iter::once(range).collect::<Vec<_>>();
        let touching = vec![0..4096, 4096..8192, 16_384..20_480];
        for wrong in [&one(0..8192)[..], &touching, &one(0..20_480), &[]] {
            assert!(content.check_ranges(wrong).is_err(), "{wrong:?}");
        }
        for (at, data, found) in
            [(0, true, Some(0)), (0, false, Some(8192)), (9000, true, Some(16_384))]
        {
            assert!(content.check_seek(at, data, found).is_ok());
            assert!(content.check_seek(at, data, found.map(|found| found + 4096)).is_err());
            assert!(content.check_seek(at, data, None).is_err());
        }
        assert!(content.check_seek(30_000, true, None).is_ok());
        assert!(content.check_seek(50_000, false, None).is_ok());
        assert!(content.check_seek(30_000, false, Some(30_000)).is_ok());
    }

    #[test]
    fn a_crash_leaves_the_commit_or_what_was_overwritten_in_place_since() {
        let committed = Arc::new(sample());
        let mut later = sample();
        later.write(0, &[7; 8192]);
        later.write(39_000, &[8; 5000]);
        let since = [Arc::new(later)];
        let mut found = committed.bytes().to_vec();
        found[4096..8192].fill(7);
        found[39_000..].fill(8);
        let left = |since, found: &[u8]| Content::left_by_crash(&committed, since, found.to_vec());
        assert!(left(&since, committed.bytes()).is_ok());
        assert!(left(&since, &found).is_ok_and(|left| left.bytes() == found));
        assert!(left(&[], &found).is_err(), "it is not overwritten in place");
        found[0..10].fill(7);
        assert!(left(&since, &found).is_err(), "half a block");
        found.truncate(30_000);
        assert!(left(&since, &found).is_err(), "another size");
    }

    #[test]
    fn what_failed_half_way_is_old_or_new() {
        let before = sample();
        let mut after = before.clone();
        after.write(39_000, &[3; 5000]);
        let mut found = before.bytes().to_vec();
        found[39_500..].fill(3);
        assert!(Content::between(&before, &after, found.clone()).is_ok());
        found[10] = 9;
        assert!(Content::between(&before, &after, found).is_err());
    }
}
