//! Counts of pages in some state: zero at rest (law E4), never negative.

use cowback_base::sync::atomic::{AtomicU64, Ordering};

/// A count that goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    /// A gauge at zero.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The count now.
    pub(crate) fn get(&self) -> u64 {
        // Sequentially consistent: throttling relies on the order of this against its count of waiters.
        self.0.load(Ordering::SeqCst)
    }

    /// Accounts for the bits of a mask that were set or cleared.
    pub(crate) fn shift(&self, was: u32, now: u32) {
        let (was, now) = (u64::from(was.count_ones()), u64::from(now.count_ones()));
        if now > was {
            self.add(now - was);
        } else if now < was {
            self.sub(was - now);
        }
    }

    /// Adds `n`. Gives the count before.
    pub(crate) fn add(&self, n: u64) -> u64 {
        self.0.fetch_add(n, Ordering::SeqCst)
    }

    /// Takes `n` away. Gives the count before.
    pub(crate) fn sub(&self, n: u64) -> u64 {
        let before = self.0.fetch_sub(n, Ordering::SeqCst);
        assert!(before >= n, "a gauge went below zero (law E4)");
        before
    }
}
