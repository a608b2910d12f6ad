//! The extent state tree: which bytes of a file are locked, delalloc, or delalloc over nothing (stage 3).
//!
//! An interval map from half-open byte ranges to a set of [`StateBits`]. Neighbours with equal bits are one interval, so
//! that a long sequential write is one entry.
//!
//! Invariant O4 (its half): under a page's leaf lock, the page is dirty if and only if its bytes are [`StateBits::DELALLOC`] here,
//! and each such byte holds one byte of reservation, of data space or, if it is [`StateBits::NORESERVE`], of metadata only. The writer sets both and [`crate::delalloc`] clears both within
//! one critical section.
//!
//! Lock order (R1): inode > page > leaf > this tree's mutex. [`ExtentStates::lock_range`] waits, and is called with no
//! leaf lock held.

use std::collections::BTreeMap;

use cowback_base::sync::{Condvar, Mutex};
use cowback_base::{ByteRange, PageRange};

use crate::reservation::Promise;

/// Bits of a byte range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateBits(u8);

impl StateBits {
    /// No bit: such a range has no entry.
    pub const NONE: Self = Self(0);
    /// Dirty and reserved, with no extent on disk yet.
    pub const DELALLOC: Self = Self(1);
    /// Delalloc behind the last block that the file had when it was written: it will add to the file's blocks.
    pub const DELALLOC_NEW: Self = Self(2);
    /// Held by [`ExtentStates::lock_range`].
    pub const LOCKED: Self = Self(4);
    /// Delalloc that holds no data space, as it will be written in place.
    pub const NORESERVE: Self = Self(8);

    /// The bits of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These bits but for `other`'s.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The interval map itself, without locking.
#[derive(Debug, Default)]
pub struct StateTree {
    /// Start of each interval, to its end and bits. Intervals are disjoint, non-empty, with some bit set.
    intervals: BTreeMap<u64, (u64, StateBits)>,
    delalloc_bytes: u64,
    delalloc_new_bytes: u64,
    noreserve_bytes: u64,
}

impl StateTree {
    /// Adds `bits` to every byte of `range`.
    pub fn set(&mut self, range: ByteRange, bits: StateBits) {
        self.change(range, |old| old.with(bits));
    }

    /// Takes `bits` from every byte of `range`.
    pub fn clear(&mut self, range: ByteRange, bits: StateBits) {
        self.change(range, |old| old.without(bits));
    }

    /// The bits of the byte at `offset`, and where the run of bytes with the same bits ends (`None`: never).
    #[must_use]
    pub fn at(&self, offset: u64) -> (StateBits, Option<u64>) {
        if let Some((_, &(end, bits))) = self.intervals.range(..=offset).next_back()
            && offset < end
        {
            return (bits, Some(end));
        }
        (StateBits::NONE, self.intervals.range(offset..).next().map(|(&start, _)| start))
    }

    /// Whether some byte of `range` has one of `bits`.
    #[must_use]
    pub fn any(&self, range: ByteRange, bits: StateBits) -> bool {
        let mut at = range.start;
        while at < range.end {
            let (found, end) = self.at(at);
            if found.0 & bits.0 != 0 {
                return true;
            }
            match end {
                Some(end) => at = end,
                None => return false,
            }
        }
        false
    }

    /// Bytes that are [`StateBits::DELALLOC`].
    #[must_use]
    pub fn delalloc_bytes(&self) -> u64 {
        self.delalloc_bytes
    }

    /// Bytes that are [`StateBits::DELALLOC_NEW`].
    #[must_use]
    pub fn delalloc_new_bytes(&self) -> u64 {
        self.delalloc_new_bytes
    }

    /// Applies `f` to the bits of every byte of `range`, then merges what became equal.
    fn change(&mut self, range: ByteRange, f: impl Fn(StateBits) -> StateBits) {
        let mut at = range.start;
        while at < range.end {
            let (old, end) = self.at(at);
            let end = end.map_or(range.end, |end| end.min(range.end));
            self.assign(ByteRange::new(at, end), old, f(old));
            self.merge_at(at);
            at = end;
        }
        self.merge_at(range.end);
    }

    /// Replaces the uniform bits `old` of `piece` by `new`, splitting the interval that holds it.
    fn assign(&mut self, piece: ByteRange, old: StateBits, new: StateBits) {
        if old == new {
            return;
        }
        self.count(piece, old, new);
        if old != StateBits::NONE {
            let (&start, &(end, bits)) = self
                .intervals
                .range(..=piece.start)
                .next_back()
                .expect("old bits have an interval");
            assert!(bits == old && end >= piece.end, "the piece lies within one interval");
            self.intervals.remove(&start);
            if start < piece.start {
                self.intervals.insert(start, (piece.start, old));
            }
            if piece.end < end {
                self.intervals.insert(piece.end, (end, old));
            }
        }
        if new != StateBits::NONE {
            self.intervals.insert(piece.start, (piece.end, new));
        }
    }

    /// Joins the intervals that meet at `offset` if their bits are equal.
    fn merge_at(&mut self, offset: u64) {
        let Some(&(right_end, right)) = self.intervals.get(&offset) else { return };
        let Some((&left_start, &(left_end, left))) = self.intervals.range(..offset).next_back()
        else {
            return;
        };
        if left_end == offset && left == right {
            self.intervals.remove(&offset);
            self.intervals.insert(left_start, (right_end, left));
        }
    }

    fn count(&mut self, piece: ByteRange, old: StateBits, new: StateBits) {
        for (bit, gauge) in [
            (StateBits::DELALLOC, &mut self.delalloc_bytes),
            (StateBits::DELALLOC_NEW, &mut self.delalloc_new_bytes),
            (StateBits::NORESERVE, &mut self.noreserve_bytes),
        ] {
            match (old.has(bit), new.has(bit)) {
                (false, true) => *gauge += piece.len(),
                (true, false) => *gauge -= piece.len(),
                _ => {}
            }
        }
    }
}

/// The state tree of one file, shared by its writers, its writeback and its readers.
#[derive(Debug, Default)]
pub struct ExtentStates {
    tree: Mutex<StateTree>,
    unlocked: Condvar,
}

impl ExtentStates {
    /// Marks pages that became dirty, with what `promise` holds for them. `new` says that nothing is mapped there yet. Called with their leaf
    /// locked.
    pub fn set_delalloc(&self, pages: PageRange, new: bool, promise: Promise) {
        let mut bits = StateBits::DELALLOC;
        if new {
            bits = bits.with(StateBits::DELALLOC_NEW);
        }
        if promise == Promise::InPlace {
            bits = bits.with(StateBits::NORESERVE);
        }
        self.tree.lock().set(pages.bytes(), bits);
    }

    /// Unmarks pages that stop being dirty, because a run takes them or they are truncated. Called with their leaf locked. Gives how many
    /// bytes of them hold no data space.
    ///
    /// # Panics
    /// If some page was dirty without being delalloc: a phantom dirty page (O4).
    pub fn clear_delalloc(&self, pages: PageRange) -> u64 {
        let all = StateBits::DELALLOC.with(StateBits::DELALLOC_NEW).with(StateBits::NORESERVE);
        let mut tree = self.tree.lock();
        let before = (tree.delalloc_bytes(), tree.noreserve_bytes);
        tree.clear(pages.bytes(), all);
        assert_eq!(
            before.0 - tree.delalloc_bytes(),
            pages.bytes().len(),
            "phantom dirty page: {pages:?} were dirty but not all delalloc"
        );
        before.1 - tree.noreserve_bytes
    }

    /// The pages from `pages.start` on that are delalloc without a gap, within `pages`, and hold the same promise, and which. Empty if the
    /// first is not delalloc.
    pub fn delalloc_run(&self, pages: PageRange) -> (PageRange, Promise) {
        let range = pages.bytes();
        let tree = self.tree.lock();
        let noreserve = tree.at(range.start).0.has(StateBits::NORESERVE);
        let mut end = range.start;
        while end < range.end {
            match tree.at(end) {
                (bits, Some(next))
                    if bits.has(StateBits::DELALLOC)
                        && bits.has(StateBits::NORESERVE) == noreserve =>
                {
                    end = next.min(range.end);
                }
                _ => break,
            }
        }
        let promise = if noreserve { Promise::InPlace } else { Promise::Space };
        (ByteRange::new(range.start, end).pages(), promise)
    }

    /// Whether some byte of `range` is delalloc.
    pub fn any_delalloc(&self, range: ByteRange) -> bool {
        self.tree.lock().any(range, StateBits::DELALLOC)
    }

    /// Bytes that are delalloc, and those of them that will add to the file's blocks.
    pub fn delalloc_bytes(&self) -> (u64, u64) {
        let tree = self.tree.lock();
        (tree.delalloc_bytes(), tree.delalloc_new_bytes())
    }

    /// Waits until nobody else has locked a byte of `range`, and locks it: its mapping to disk is read or changed by the
    /// holder alone.
    pub fn lock_range(&self, range: ByteRange) -> RangeLock<'_> {
        let mut tree = self.tree.lock();
        while tree.any(range, StateBits::LOCKED) {
            self.unlocked.wait(&mut tree);
        }
        tree.set(range, StateBits::LOCKED);
        RangeLock { states: self, range }
    }
}

/// A locked byte range of a file; dropping it unlocks.
#[derive(Debug)]
#[must_use = "the range is unlocked when this is dropped"]
pub struct RangeLock<'a> {
    states: &'a ExtentStates,
    range: ByteRange,
}

impl Drop for RangeLock<'_> {
    fn drop(&mut self) {
        self.states.tree.lock().clear(self.range, StateBits::LOCKED);
        self.states.unlocked.notify_all();
    }
}

#[cfg(test)]
mod tests;
