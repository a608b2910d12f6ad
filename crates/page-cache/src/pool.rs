//! A small stock of memory for pages that nobody uses (stage 2), so that new pages need not fault fresh memory in.
//! Bounded; outside the cache's budget.

use cowback_base::BLOCK_SIZE;
use cowback_base::sync::Mutex;
use cowback_base::sync::atomic::{AtomicUsize, Ordering};

use crate::content::{Fresh, Removed};
use crate::frame::{Block, SLAB_BLOCKS, Single, Slab};

/// Memory that nobody uses.
#[derive(Debug)]
pub(crate) struct FramePool {
    singles: Stock<Single>,
    slabs: Stock<Slab>,
}

impl FramePool {
    /// An empty pool, for a cache with so large a budget: it keeps a sixteenth of that, 1 MiB to 64 MiB; half of it in
    /// single pages, and half in slabs.
    pub(crate) fn for_budget(bytes: u64) -> Self {
        let pages = (bytes / BLOCK_SIZE / 16).clamp(256, 16384);
        let singles = usize::try_from(pages / 2).expect("clamped");
        Self { singles: Stock::of(singles), slabs: Stock::of(singles / SLAB_BLOCKS) }
    }

    /// The content of so many pages of a leaf, from the first byte of one on: a copy of `bytes`, and zeros behind. In a slab if that is all of
    /// the leaf.
    pub(crate) fn copy(&self, bytes: &[u8], pages: usize) -> Fresh {
        let (blocks, part) = bytes.as_chunks();
        if blocks.len() == SLAB_BLOCKS {
            return Fresh::Leaf(self.copy_leaf(blocks));
        }
        let mut singles = Vec::with_capacity(pages);
        self.singles.take(blocks.len(), &mut singles);
        for (single, block) in singles.iter_mut().zip(blocks) {
            single.make_mut().copy_from_slice(block);
        }
        singles.extend(blocks[singles.len()..].iter().map(|block| Single::from_slice(block)));
        singles.resize_with(pages, Single::zeroed);
        if let Some(last) = singles.get_mut(blocks.len()) {
            last.make_mut()[..part.len()].copy_from_slice(part);
        }
        Fresh::Pages(singles)
    }

    fn copy_leaf(&self, blocks: &[Block]) -> Slab {
        match self.slabs.pop() {
            Some(mut slab) => {
                slab.get_mut().expect("nobody else holds it").copy_from_slice(blocks);
                slab
            }
            None => Slab::from_blocks(blocks),
        }
    }

    /// A slab that nobody else holds. What is in it is of no interest.
    pub(crate) fn slab(&self) -> Slab {
        self.slabs.pop().unwrap_or_else(Slab::zeroed)
    }

    /// Keeps what nobody else holds, as far as there is room.
    pub(crate) fn give(&self, removed: Removed) {
        self.singles.give(removed.singles, Single::is_unique);
        self.slabs.give(removed.slab, Slab::is_unique);
    }
}

/// A stack, bounded, that is not locked to find that it is empty or full.
#[derive(Debug)]
struct Stock<T> {
    kept: Mutex<Vec<T>>,
    /// Length of `kept`.
    len: AtomicUsize,
    max: usize,
}

impl<T> Stock<T> {
    fn of(max: usize) -> Self {
        Self { kept: Mutex::new(Vec::new()), len: AtomicUsize::new(0), max }
    }

    /// Moves up to `count` into `taken`, the last ones that came.
    fn take(&self, count: usize, taken: &mut Vec<T>) {
        if count == 0 || self.len.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut kept = self.kept.lock();
        let left = kept.len().saturating_sub(count);
        taken.extend(kept.drain(left..));
        self.len.store(left, Ordering::Relaxed);
    }

    fn pop(&self) -> Option<T> {
        if self.len.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut kept = self.kept.lock();
        let last = kept.pop();
        self.len.store(kept.len(), Ordering::Relaxed);
        last
    }

    /// Keeps those that `may` be kept, as far as there is room.
    fn give(&self, given: impl IntoIterator<Item = T>, may: impl Fn(&mut T) -> bool) {
        let mut given = given.into_iter().peekable();
        if given.peek().is_none() || self.len.load(Ordering::Relaxed) >= self.max {
            return;
        }
        let mut kept = self.kept.lock();
        for mut one in given {
            if kept.len() < self.max && may(&mut one) {
                kept.push(one);
            }
        }
        self.len.store(kept.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn singles(given: Fresh) -> Vec<Single> {
        let removed = Removed::from(given);
        assert!(removed.slab.is_none());
        removed.singles
    }

    #[test]
    fn the_stock_takes_no_memory_that_somebody_still_reads_and_is_bounded() {
        let pool = FramePool::for_budget(0);
        let reader = Single::from_slice(&[7; 4096]);
        let given = vec![reader.clone(), Single::zeroed()];
        pool.give(Removed { slab: None, singles: given });
        assert_eq!(pool.singles.kept.lock().len(), 1);
        assert_eq!(singles(pool.copy(&[8; 4096], 1))[0].bytes()[..], [8; 4096]);
        assert_eq!(reader.bytes()[..], [7; 4096]);
        assert!(pool.singles.pop().is_none());
        pool.give(Removed { slab: None, singles: (0..1000).map(|_| Single::zeroed()).collect() });
        assert_eq!(pool.singles.kept.lock().len(), 128);
        let slab = Slab::zeroed();
        let page = slab.frame(31);
        pool.give(Removed { slab: Some(slab.clone()), singles: Vec::new() });
        drop(slab);
        assert!(pool.slabs.pop().is_none(), "a page of it is held");
        drop(page);
        for _ in 0..9 {
            pool.give(Removed { slab: Some(Slab::zeroed()), singles: Vec::new() });
        }
        assert_eq!(pool.slabs.kept.lock().len(), 4);
    }

    #[test]
    fn what_is_copied_is_followed_by_zeros_whatever_the_memory_held_before() {
        let pool = FramePool::for_budget(0);
        for round in 0..2 {
            let pages = singles(pool.copy(&[5; 4096 + 3], 3));
            let bytes: Vec<u8> = pages.iter().flat_map(Single::bytes).copied().collect();
            assert_eq!(bytes[..4099], [5; 4099], "round {round}");
            assert_eq!(bytes[4099..], [0; 3 * 4096 - 4099], "round {round}");
            pool.give(Removed { slab: None, singles: pages });
        }
        let leaf = vec![6; 32 * 4096];
        for _ in 0..2 {
            let Fresh::Leaf(slab) = pool.copy(&leaf, 32) else { panic!("not in one piece") };
            assert_eq!(slab.blocks().as_flattened(), leaf);
            pool.give(Fresh::Leaf(slab).into());
        }
        assert_eq!(singles(pool.copy(&leaf[1..], 32)).len(), 32, "not all of the leaf");
    }
}
