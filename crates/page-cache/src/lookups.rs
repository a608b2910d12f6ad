//! How often readers found what they asked for (stage 2).
//!
//! Every read of a cached page counts here, which would make threads that share nothing else meet at one counter. So each counts in a
//! stripe that few others use.

use cowback_base::sync::atomic::{AtomicU64, Ordering};

/// Stripes: several times the threads that usually read at once, as who gets which is a matter of chance.
const STRIPES: usize = 32;

thread_local! {
    /// A place that each thread has for itself: its address is as good as a number.
    static HERE: u8 = const { 0 };
}

/// Pages that readers were given, and those of them that had to be read for them.
#[derive(Debug)]
pub(crate) struct Lookups {
    stripes: [Stripe; STRIPES],
    missed: AtomicU64,
}

/// In cache lines of its own: processors fetch two at a time.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    given: AtomicU64,
}

impl Default for Lookups {
    fn default() -> Self {
        Self { stripes: std::array::from_fn(|_| Stripe::default()), missed: AtomicU64::new(0) }
    }
}

impl Lookups {
    /// A reader was given so many pages.
    pub(crate) fn gave(&self, pages: u64) {
        let place = HERE.with(|here| std::ptr::from_ref(here).addr() as u64);
        let stripe = place.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let stripe = usize::try_from(stripe).expect("32 bits are left") % STRIPES;
        self.stripes[stripe].given.fetch_add(pages, Ordering::Relaxed);
    }

    /// So many pages of those that a reader is about to be given had to be read for it.
    pub(crate) fn missed(&self, pages: u64) {
        self.missed.fetch_add(pages, Ordering::Relaxed);
    }

    /// Pages that were there, and pages that were not.
    pub(crate) fn hits_and_misses(&self) -> (u64, u64) {
        let missed = self.missed.load(Ordering::Relaxed);
        let given: u64 = self.stripes.iter().map(|one| one.given.load(Ordering::Relaxed)).sum();
        // What was missed may not have been given, or not yet.
        (given.saturating_sub(missed), missed)
    }
}
