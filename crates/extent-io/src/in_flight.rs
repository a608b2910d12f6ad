//! Pages of a file that are on their way to disk, by epoch: who waits, waits for what was sent before he came, and new writeback cannot keep him.
//!
//! A run is frozen in the file's running epoch, and it and what becomes of it, be it split, inline or ordered, counts there until it is
//! stored or has failed. Who waits ends the epoch, and waits until nothing is left of it and of those before.

use std::collections::BTreeMap;

use cowback_base::sync::{Condvar, Mutex};

/// A stretch of time, between two who waited for the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch(u64);

/// How much there is of each epoch.
#[derive(Debug, Default)]
pub(crate) struct ByEpoch(BTreeMap<Epoch, u64>);

impl ByEpoch {
    pub(crate) fn add(&mut self, epoch: Epoch, count: u64) {
        *self.0.entry(epoch).or_default() += count;
    }

    /// True if nothing is left of `epoch`: someone may have waited for that.
    pub(crate) fn sub(&mut self, epoch: Epoch, count: u64) -> bool {
        let there = self.0.get_mut(&epoch);
        let left = there.as_ref().and_then(|there| there.checked_sub(count));
        let (Some(there), Some(left)) = (there, left) else {
            panic!("{count} leave {epoch:?}, of which there is less: {self:?}")
        };
        *there = left;
        if left == 0 {
            self.0.remove(&epoch);
        }
        left == 0
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Whether anything is there of `epoch` and those before.
    pub(crate) fn any_until(&self, epoch: Epoch) -> bool {
        self.0.first_key_value().is_some_and(|(&first, _)| first <= epoch)
    }
}

/// Pages that were frozen and have neither an ordered extent nor an end yet (law R5's first half).
#[derive(Debug, Default)]
pub(crate) struct QueuedPages {
    queue: Mutex<Queue>,
    fewer: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    running: Epoch,
    pages: ByEpoch,
}

impl QueuedPages {
    /// Pages come, in the running epoch.
    pub(crate) fn add(&self, pages: u64) -> Epoch {
        let mut queue = self.queue.lock();
        let epoch = queue.running;
        queue.pages.add(epoch, pages);
        epoch
    }

    pub(crate) fn sub(&self, epoch: Epoch, pages: u64) {
        if self.queue.lock().pages.sub(epoch, pages) {
            self.fewer.notify_all();
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.queue.lock().pages.total()
    }

    /// Ends the running epoch, and waits until none of its pages are queued, nor of those before.
    pub(crate) fn wait_until_now(&self) -> Epoch {
        let mut queue = self.queue.lock();
        let ended = queue.running;
        queue.running.0 += 1;
        while queue.pages.any_until(ended) {
            self.fewer.wait(&mut queue);
        }
        ended
    }
}
