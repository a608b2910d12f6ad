//! Limits of memory and of unwritten content, as they are given, and as they can change while they are in force (stage 1 and 2).

use cowback_base::BLOCK_SIZE;
use cowback_base::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How much memory a budget or a group takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Content of pages. Clean pages go when it is reached; dirty ones may exceed it, and for a while, by a sixteenth, pages
    /// that are all in use.
    pub budget: u64,
    /// Dirty content from which on the flusher should run, until less than half of it is left.
    pub background: u64,
    /// Unwritten content, dirty or on its way to disk, at which writers wait; each of them may exceed it by the MiB that it writes at once. From half-way between `background` and here on they are
    /// slowed down. At least a page (4 KiB): with less, writers would wait for ever, and it is taken as that.
    pub hard: u64,
}

impl CacheLimits {
    /// No limits: those of the budget are the only ones.
    pub const UNLIMITED: Self = Self { budget: u64::MAX, background: u64::MAX, hard: u64::MAX };

    /// The usual shares of a budget: flush from a quarter on, wait at a half.
    #[must_use]
    pub const fn for_budget(budget: u64) -> Self {
        Self { budget, background: budget / 4, hard: budget / 2 }
    }
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self::for_budget(256 << 20)
    }
}

/// Limits in force.
#[derive(Debug)]
pub(crate) struct Limits {
    budget: AtomicU64,
    background: AtomicU64,
    hard: AtomicU64,
    /// The background limit was reached, and the flushers are at it.
    flushing: AtomicBool,
}

impl Limits {
    pub(crate) fn new(limits: CacheLimits) -> Self {
        let these = Self {
            budget: AtomicU64::new(0),
            background: AtomicU64::new(0),
            hard: AtomicU64::new(0),
            flushing: AtomicBool::new(false),
        };
        these.set(limits);
        these
    }

    pub(crate) fn set(&self, limits: CacheLimits) {
        let hard = limits.hard.max(BLOCK_SIZE);
        self.budget.store(limits.budget, Ordering::SeqCst);
        // Were it above the hard limit, writers would wait for flushers that nobody starts.
        self.background.store(limits.background.min(hard), Ordering::SeqCst);
        self.hard.store(hard, Ordering::SeqCst);
    }

    pub(crate) fn get(&self) -> CacheLimits {
        CacheLimits {
            budget: self.budget.load(Ordering::SeqCst),
            background: self.background.load(Ordering::SeqCst),
            hard: self.hard.load(Ordering::SeqCst),
        }
    }

    /// Whether the flushers should run, now that so many bytes are dirty: from the background limit on, until less than half of it is left. What it
    /// says is remembered.
    pub(crate) fn update_flushing(&self, dirty: u64) -> bool {
        let background = self.background.load(Ordering::SeqCst);
        let was = self.flushing.load(Ordering::Relaxed);
        let is = dirty >= background || was && dirty >= background / 2;
        if is != was {
            self.flushing.store(is, Ordering::Relaxed);
        }
        is
    }

    /// Pages of content.
    pub(crate) fn pages(&self) -> u64 {
        self.budget.load(Ordering::SeqCst) / BLOCK_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushers_run_from_the_background_limit_on_until_less_than_half_of_it_is_left() {
        let limits = Limits::new(CacheLimits { budget: 1 << 20, background: 100, hard: 1 << 16 });
        let wanted = [99, 100, 99, 50, 49, 99, 100].map(|dirty| limits.update_flushing(dirty));
        assert_eq!(wanted, [false, true, true, true, false, false, true]);
        assert!(!Limits::new(CacheLimits::UNLIMITED).update_flushing(u64::MAX - 1));
        limits.set(CacheLimits { background: 1 << 20, ..limits.get() });
        assert!(limits.update_flushing(1 << 16), "there are flushers before writers wait for them");
    }

    #[test]
    fn a_hard_limit_lets_a_page_be_written_at_least() {
        for hard in [0, 1, BLOCK_SIZE - 1] {
            let limits = Limits::new(CacheLimits { budget: 0, background: 0, hard });
            assert_eq!(limits.get().hard, BLOCK_SIZE);
        }
    }
}
