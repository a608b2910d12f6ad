//! Access to a leaf, with all accounting in one place (stage 2).
//!
//! Whoever changes a leaf's masks does so through a [`LeafGuard`]. When it is dropped, or waits, the difference between
//! the masks then and before goes into the gauges (law E4) and the tag index, the leaf enters a queue of reclaim if a page
//! became free to go, and those who waited for a page are woken. All of that happens under the leaf's mutex, so tags,
//! gauges and queues are exact.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use cowback_base::planted;
use cowback_base::sync::MutexGuard;

use crate::leaf::{Leaf, LeafState, Masks};
use crate::mapping::Mapping;

/// The locked state of a leaf of a mapping.
#[derive(Debug)]
pub(crate) struct LeafGuard<'a> {
    pub(crate) mapping: &'a Mapping,
    pub(crate) number: u64,
    leaf: &'a Arc<Leaf>,
    state: MutexGuard<'a, LeafState>,
    before: Masks,
}

impl<'a> LeafGuard<'a> {
    /// Locks a leaf of `mapping`.
    pub(crate) fn new(mapping: &'a Mapping, leaf: &'a Arc<Leaf>) -> Self {
        let state = leaf.state.lock();
        Self { mapping, number: leaf.number, leaf, before: state.masks, state }
    }

    /// Lets go of the leaf until some page of it was unlocked, left writeback, or became uptodate; or for no reason.
    pub(crate) fn wait(&mut self) {
        self.settle();
        self.state.waiters += 1;
        self.leaf.wake.wait(&mut self.state);
        self.state.waiters -= 1;
        self.before = self.state.masks;
    }

    /// Waits until none of the pages of `mask` is locked.
    pub(crate) fn wait_unlocked(&mut self, mask: u32) {
        while self.masks.locked & mask != 0 {
            self.wait();
        }
    }

    /// Waits until none of the pages of `mask` is under writeback or covered by an ordered extent.
    pub(crate) fn wait_in_flight(&mut self, mask: u32) {
        while self.masks.in_flight() & mask != 0 {
            self.wait();
        }
    }

    /// Drops those of the pages that are clean and that nobody works on. Gives how many there were.
    pub(crate) fn drop_idle(&mut self, mask: u32) -> u64 {
        let gone = mask & self.masks.reclaimable();
        if gone != 0 {
            let unused = self.remove(gone);
            self.mapping.cache.pool().give(unused);
        }
        u64::from(gone.count_ones())
    }

    fn settle(&mut self) {
        let was = self.before;
        if was == self.state.masks {
            return;
        }
        let charging = self.mapping.charging.read();
        let share = self.mapping.share.load();
        share.group.reclaim.note(self.mapping, self.leaf, &mut self.state, &was);
        let now = self.state.masks;
        self.before = now;
        if !std::thread::panicking() {
            self.state.check();
        }
        self.mapping.account(&share, self.number, &was, &now);
        drop(charging);
        let ended = was.in_flight() & !now.in_flight();
        let ended = if planted!("wake_lost") { 0 } else { ended };
        let freed = (was.locked & !now.locked) | ended | (now.uptodate & !was.uptodate);
        if freed != 0 && self.state.waiters > 0 {
            self.leaf.wake.notify_all();
        }
    }
}

impl Drop for LeafGuard<'_> {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Deref for LeafGuard<'_> {
    type Target = LeafState;
    fn deref(&self) -> &LeafState {
        &self.state
    }
}

impl DerefMut for LeafGuard<'_> {
    fn deref_mut(&mut self) -> &mut LeafState {
        &mut self.state
    }
}
