//! Data that no good flush covers (stage 7): what has to be written once more after a flush that failed.
//!
//! A device whose flush failed may have dropped any write since the last good one, and have forgotten that it did: Linux marks such pages
//! clean, tells one who asks, and lets the next flush succeed. So after a flush that failed there is none, for anybody, until everything
//! was written again; and there is but one at a time, as of two that overlap either may hear of the other's failure. A flush is taken to
//! have failed from the moment it begins until it has returned without error: by a panic, too. Tree blocks and superblocks need no such list: they are written by a commit, which
//! is kept until it is durable.
//!
//! Of each extent, the checksums are kept, to tell whether what can be read of it is what was written. What is overwritten in place may be a part
//! of an extent: the rest of it is still on the list. There is no lock here; [`crate::disk::Disk`] holds the list under a leaf lock.

use std::collections::BTreeMap;

use cowback_base::{BLOCK_SIZE, ByteRange};

#[derive(Debug, Clone)]
struct Extent {
    end: u64,
    /// Of its blocks, one after another.
    sums: Vec<u8>,
    /// Flushes that had begun when its write returned.
    flushes: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Unflushed {
    /// By first byte. They do not overlap.
    extents: BTreeMap<u64, Extent>,
    /// Flushes that have begun.
    flushes: u64,
    /// A flush is running, or has failed: nothing on the list can be trusted to be on the device.
    distrust: bool,
}

impl Unflushed {
    /// The write of `range` has returned. What was there before is gone.
    pub(crate) fn note(&mut self, range: ByteRange, sums: &[u8]) {
        self.forget(range);
        let extent = Extent { end: range.end, sums: sums.to_vec(), flushes: self.flushes };
        self.extents.insert(range.start, extent);
    }

    /// What was written to `range`, whole blocks, is of no use any more.
    pub(crate) fn forget(&mut self, range: ByteRange) {
        let mut over: Vec<u64> = Vec::new();
        let before = self.extents.range(..range.end).rev();
        over.extend(before.take_while(|(_, one)| one.end > range.start).map(|(start, _)| *start));
        for start in over {
            let Some(extent) = self.extents.remove(&start) else { continue };
            let whole = ByteRange::new(start, extent.end);
            let left = ByteRange::new(start, range.start.max(start));
            let right = ByteRange::new(range.end.min(extent.end), extent.end);
            for part in [left, right].into_iter().filter(|part| !part.is_empty()) {
                self.extents.insert(part.start, extent.part(whole, part));
            }
        }
    }

    /// A flush begins, but for one that has failed, or is running, and has not been made good. Gives whether it does.
    #[must_use]
    pub(crate) fn begin_flush(&mut self) -> bool {
        let begins = !self.distrust;
        self.flushes += u64::from(begins);
        self.distrust = true;
        begins
    }

    /// The flush has returned without error: what had returned before it began is durable.
    pub(crate) fn end_flush(&mut self) {
        self.distrust = false;
        self.extents.retain(|_, extent| extent.flushes >= self.flushes);
    }

    /// Everything that may have been dropped by a flush that failed, by address.
    pub(crate) fn distrusted(&self) -> Vec<(ByteRange, Vec<u8>)> {
        let told = |(start, extent): (&u64, &Extent)| {
            (ByteRange::new(*start, extent.end), extent.sums.clone())
        };
        self.extents.iter().filter(|_| self.distrust).map(told).collect()
    }

    /// All of it was written again.
    pub(crate) fn made_good(&mut self) {
        self.distrust = false;
    }
}

impl Extent {
    /// The `part` of this, which is at `whole`.
    fn part(&self, whole: ByteRange, part: ByteRange) -> Self {
        let size = self.sums.len() as u64 / (whole.len() / BLOCK_SIZE);
        let at = |byte: u64| {
            usize::try_from((byte - whole.start) / BLOCK_SIZE * size).unwrap_or(usize::MAX)
        };
        let sums = self.sums.get(at(part.start)..at(part.end)).unwrap_or_default().to_vec();
        Self { end: part.end, sums, flushes: self.flushes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end)
    }

    #[test]
    fn a_good_flush_covers_what_had_returned_before_it_began() {
        let mut unflushed = Unflushed::default();
        let print = b"sums";
        unflushed.note(range(0, 4096), print);
        assert!(unflushed.begin_flush());
        unflushed.note(range(8192, 12_288), print);
        unflushed.end_flush();
        assert!(unflushed.distrusted().is_empty());
        // The second one is not durable yet: the flush that would have made it so fails.
        assert!(unflushed.begin_flush());
        assert_eq!(unflushed.distrusted(), [(range(8192, 12_288), print.to_vec())]);
    }

    #[test]
    fn after_a_failed_flush_there_is_none_before_all_was_written_again() {
        let mut unflushed = Unflushed::default();
        let print = b"sums";
        unflushed.note(range(0, 4096), print);
        assert!(unflushed.begin_flush());
        // Written while it ran: it may have taken that along, and dropped it.
        unflushed.note(range(4096, 8192), print);
        for _ in 0..2 {
            assert!(!unflushed.begin_flush());
            assert_eq!(unflushed.distrusted().len(), 2);
        }
        unflushed.made_good();
        assert!(unflushed.distrusted().is_empty());
        assert!(unflushed.begin_flush(), "and if this one fails, it was all for nothing");
        assert_eq!(unflushed.distrusted().len(), 2);
        unflushed.made_good();
        assert!(unflushed.begin_flush());
        unflushed.end_flush();
        assert!(unflushed.begin_flush());
        assert!(unflushed.distrusted().is_empty(), "it is durable");
    }

    #[test]
    fn what_takes_the_place_of_others_counts_instead_of_them() {
        let mut unflushed = Unflushed::default();
        let (old, new) = (b"old", b"newest");
        for at in [0, 4096, 8192, 12_288] {
            unflushed.note(range(at, at + 4096), old);
        }
        unflushed.note(range(4096, 12_288), new);
        unflushed.forget(range(0, 4096));
        assert!(unflushed.begin_flush());
        let expected = [(range(4096, 12_288), new.to_vec()), (range(12_288, 16_384), old.to_vec())];
        assert_eq!(unflushed.distrusted(), expected);
    }

    #[test]
    fn what_is_overwritten_in_part_keeps_the_rest_with_its_own_checksums() {
        let mut unflushed = Unflushed::default();
        unflushed.note(range(0, 4 * 4096), b"aabbccdd");
        unflushed.note(range(4096, 2 * 4096), b"xx");
        unflushed.forget(range(3 * 4096, 4 * 4096));
        assert!(unflushed.begin_flush());
        let expected = [
            (range(0, 4096), b"aa".to_vec()),
            (range(4096, 2 * 4096), b"xx".to_vec()),
            (range(2 * 4096, 3 * 4096), b"cc".to_vec()),
        ];
        assert_eq!(unflushed.distrusted(), expected);
    }
}
