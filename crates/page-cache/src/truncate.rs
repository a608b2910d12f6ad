//! Removing pages from a file (truncate, hole punching, eviction).
//!
//! Two passes, as the kernel's: the first takes what is free at once and skips the rest; the second locks each page that
//! is left, waits for its writeback and its ordered extent, and removes it. The owner of the file keeps writers out, and
//! has set the file's size before, so that nobody brings pages back.

use cowback_base::{PageIndex, PageRange};

use crate::bits::{lowest, mask_in, runs};
use crate::guard::LeafGuard;
use crate::mapping::Mapping;

impl Mapping {
    /// Removes all pages from `from` on. See [`Mapping::invalidate`].
    pub fn truncate(&self, from: PageIndex, on_clean: impl FnMut(PageRange)) {
        self.invalidate(PageRange::new(from, PageIndex(u64::MAX)), on_clean);
    }

    /// Removes the pages of `range`, with what is dirty in them. Waits for page locks and writeback; the caller holds no
    /// lock of a page of `range` or above. `on_clean` gets, under the leaf's mutex, the runs that were dirty: what was
    /// reserved for them is to be given back (law O3).
    pub fn invalidate(&self, range: PageRange, mut on_clean: impl FnMut(PageRange)) {
        for number in self.leaves_in(range) {
            self.on_leaf(number, |leaf| {
                let mask = mask_in(number, range);
                let free = mask & !(leaf.masks.locked | leaf.masks.in_flight());
                remove(leaf, free, &mut on_clean);
            });
        }
        for number in self.leaves_in(range) {
            let mask = mask_in(number, range);
            self.on_leaf(number, |leaf| remove_waiting(leaf, mask, &mut on_clean));
        }
    }

    /// Drops those clean pages of `range` that were not used again since they came, and that nobody works on: what a scan
    /// leaves behind, and nobody else wants. Gives how many.
    pub fn drop_used_once(&self, range: PageRange) -> u64 {
        let mut dropped = 0;
        for number in self.leaves_in(range) {
            let idle = self.on_leaf(number, |leaf| {
                let wanted = leaf.masks.main | leaf.heat.used();
                leaf.drop_idle(mask_in(number, range) & !wanted)
            });
            dropped += idle.unwrap_or(0);
        }
        dropped
    }

    /// Drops clean pages of `range` that nobody works on, as advice that they will not be read soon. Gives how many.
    pub fn drop_clean(&self, range: PageRange) -> u64 {
        let mut dropped = 0;
        for number in self.leaves_in(range) {
            let idle = self.on_leaf(number, |leaf| leaf.drop_idle(mask_in(number, range)));
            dropped += idle.unwrap_or(0);
        }
        dropped
    }
}

fn remove_waiting(leaf: &mut LeafGuard<'_>, mask: u32, on_clean: &mut impl FnMut(PageRange)) {
    loop {
        let left = (leaf.masks.uptodate | leaf.masks.locked) & mask;
        let bit = lowest(left);
        if bit == 0 {
            return;
        }
        leaf.wait_unlocked(bit);
        leaf.lock_pages(bit);
        leaf.wait_in_flight(bit);
        remove(leaf, bit, on_clean);
        leaf.unlock_pages(bit);
    }
}

/// Removes pages that nobody else works on.
fn remove(leaf: &mut LeafGuard<'_>, mask: u32, on_clean: &mut impl FnMut(PageRange)) {
    if leaf.masks.uptodate & mask == 0 {
        return;
    }
    let dirty = leaf.masks.dirty & mask;
    let unused = leaf.remove(mask);
    runs(leaf.number, dirty).for_each(on_clean);
    leaf.mapping.cache.pool().give(unused);
}
