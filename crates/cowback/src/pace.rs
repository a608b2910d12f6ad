//! How a writer is slowed down on its way to a hard limit, so that it does not stop dead there (stage 1).
//!
//! How much is the cache's affair ([`Mapping::pause_for`]); here is how: each handle pays for what was written through it.

use std::time::{Duration, Instant};

use cowback_base::sync::atomic::{AtomicU64, Ordering};
use cowback_base::sync::thread;
use cowback_page_cache::Mapping;

/// Bytes that a writer may write between two looks at whether to hold it up: a sleep is no shorter than 50 microseconds, which is more than
/// a small write should pay.
const PACE_BYTES: u64 = 64 << 10;
/// A pause is taken in parts, so that it ends when there is no more reason for it.
const PAUSE_PART: Duration = Duration::from_micros(500);

/// What a writer wrote since it was last held up.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    bytes: AtomicU64,
}

impl Pace {
    /// Holds up who wrote `bytes` to the file of `mapping`, if too much is unwritten. No lock is held.
    pub(crate) fn hold_up(&self, mapping: &Mapping, bytes: u64) {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes < PACE_BYTES {
            return;
        }
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        let mut pause = mapping.pause_for(bytes);
        if pause.is_zero() {
            return;
        }
        let begun = Instant::now();
        while let Some(left) = pause.checked_sub(begun.elapsed()) {
            thread::sleep(left.min(PAUSE_PART));
            pause = pause.min(mapping.pause_for(bytes));
        }
        mapping.paused(begun.elapsed());
    }
}
