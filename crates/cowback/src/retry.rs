//! When a writer tries again what could not be written (law E1).
//!
//! What failed is dirty again, so that its writer is above the background limit still. If each of his writes started the same writeback, all of it
//! would be compressed and fail once more for each: on a full disk the work would grow with the square of what is written. So after a
//! failure he starts writeback again only when something is different. Commits, [`try_resume`](crate::Volume::try_resume) and whoever
//! waits at the hard limit ask nobody here.

use std::time::{Duration, Instant};

use cowback_base::sync::Mutex;

/// After this time, the disk may have become another one.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is remembered of the last writeback.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    last: Mutex<Option<Last>>,
}

#[derive(Debug)]
struct Last {
    /// Failures of the volume before it.
    failures: u64,
    /// Bytes that were not on disk before it.
    unwritten: u64,
    begun: Instant,
}

impl Retry {
    /// Writeback begins. The volume has seen so many failures, and has so many bytes that are not on disk.
    pub(crate) fn begins(&self, failures: u64, unwritten: u64) {
        *self.last.lock() = Some(Last { failures, unwritten, begun: Instant::now() });
    }

    /// Whether a writer may start writeback: nothing has failed since the last one began, or enough is different. Bytes on their way to
    /// disk are `unwritten` too: so what has only been sent is not taken for what has been written.
    pub(crate) fn may_start(&self, failures: u64, unwritten: impl FnOnce() -> u64) -> bool {
        let last = self.last.lock();
        let Some(last) = last.as_ref().filter(|last| last.failures != failures) else {
            return true;
        };
        let (before, now) = (last.unwritten, unwritten());
        let much_more = now >= before.saturating_add(before / 2);
        much_more || now < before / 2 || last.begun.elapsed() >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_writeback_starts_again_only_when_something_is_different() {
        let retry = Retry::default();
        assert!(retry.may_start(7, || 100), "there was none");
        retry.begins(7, 100);
        assert!(retry.may_start(7, || 100), "nothing failed");
        assert!(!retry.may_start(8, || 100));
        assert!(!retry.may_start(8, || 149) && !retry.may_start(8, || 50));
        assert!(retry.may_start(8, || 150), "there is much more to write");
        assert!(retry.may_start(8, || 49), "most of it was written");
        retry.begins(8, 150);
        assert!(retry.may_start(8, || 150), "the last one went well");
        assert!(!retry.may_start(9, || 150));
        let long_ago = Instant::now().checked_sub(PATIENCE);
        if let (Some(last), Some(begun)) = (retry.last.lock().as_mut(), long_ago) {
            last.begun = begun;
        }
        assert!(long_ago.is_none() || retry.may_start(9, || 150), "it was long ago");
    }
}
