//! The ghost of S3-FIFO (stage 2): which pages left the small queue not long ago. Keys only, and boundedly many.
//!
//! A page that is read in again while it is remembered went too early, and goes to the main queue at once. Keys are
//! leaves with a mask of their pages. Being wrong here is harmless: of a file that was cut and written anew, or whose page
//! is back already, a page may be remembered that is not the one that left.

use std::collections::{HashMap, VecDeque};

/// A leaf: the serial number of its mapping, and its own number.
pub(crate) type Key = (u64, u64);

/// The pages that left, by leaf.
#[derive(Debug)]
pub(crate) struct Ghost {
    pages: HashMap<Key, u32>,
    /// The keys of `pages`, each once, in the order in which they came.
    order: VecDeque<Key>,
    /// Bits in all masks of `pages`.
    count: u64,
    /// Most pages, and most leaves, to remember.
    pages_max: u64,
    leaves_max: usize,
}

impl Ghost {
    /// Remembers at most so many pages, of at most an eighth as many leaves.
    pub(crate) fn new(pages_max: u64) -> Self {
        let mut ghost = Self {
            pages: HashMap::new(),
            order: VecDeque::new(),
            count: 0,
            pages_max: 0,
            leaves_max: 0,
        };
        ghost.resize(pages_max);
        ghost
    }

    /// Remembers at most so many from now on.
    pub(crate) fn resize(&mut self, pages_max: u64) {
        self.pages_max = pages_max;
        self.leaves_max = usize::try_from(pages_max / 8).unwrap_or(usize::MAX).max(1);
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        while self.order.len() > self.leaves_max || self.count > self.pages_max {
            let Some(oldest) = self.order.pop_front() else { break };
            let mask = self.pages.remove(&oldest).unwrap_or(0);
            self.count -= u64::from(mask.count_ones());
        }
    }

    /// Pages of a leaf left the small queue.
    pub(crate) fn remember(&mut self, key: Key, mask: u32) {
        if mask == 0 {
            return;
        }
        let known = self.pages.entry(key).or_insert_with(|| {
            self.order.push_back(key);
            0
        });
        self.count += u64::from((mask & !*known).count_ones());
        *known |= mask;
        self.forget_oldest();
    }

    /// Those pages of a leaf that left not long ago.
    pub(crate) fn remembered(&self, key: Key) -> u32 {
        self.pages.get(&key).copied().unwrap_or(0)
    }

    /// Its bytes, if an allocation of so many takes what `allocated` says.
    #[cfg(test)]
    pub(crate) fn bytes(&self, allocated: fn(usize) -> usize) -> usize {
        // A hash map has a byte of its own for each slot, and at least an eighth of its slots is free.
        let slots = (self.pages.capacity() * 8 / 7).next_power_of_two();
        allocated(slots * (size_of::<(Key, u32)>() + 1))
            + allocated(self.order.capacity() * size_of::<Key>())
    }

    /// Leaves that it knows of.
    #[cfg(test)]
    pub(crate) fn leaves(&self) -> usize {
        assert_eq!(self.pages.len(), self.order.len());
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leaves_are_forgotten_when_there_are_too_many_pages_or_leaves() {
        let mut ghost = Ghost::new(64);
        ghost.remember((1, 0), 0xff);
        ghost.remember((1, 1), 1);
        ghost.remember((1, 0), 0xffff);
        assert_eq!((ghost.remembered((1, 0)), ghost.remembered((2, 0))), (0xffff, 0));
        ghost.remember((2, 0), u32::MAX);
        assert_eq!(ghost.count, 16 + 1 + 32);
        ghost.remember((2, 1), u32::MAX);
        let left: Vec<_> = ghost.order.iter().copied().collect();
        assert_eq!((left, ghost.count), (vec![(2, 0), (2, 1)], 64), "32 more are too many pages");
        for leaf in 0..100 {
            ghost.remember((3, leaf), 1);
        }
        assert_eq!((ghost.leaves(), ghost.count), (8, 8), "and 100 are too many leaves");
        assert_eq!((ghost.remembered((3, 91)), ghost.remembered((3, 92))), (0, 1));
    }
}
