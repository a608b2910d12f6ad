//! Data that does not compress is tried less and less (stage 5): a back-off per file, which decays.
//!
//! The kernel marks a file as incompressible for ever at the first 128 KiB that do not compress. Here tries and failures are counted, and
//! weighed when nothing of the file is under way, at a commit: if nearly all tries failed, eight at least, only every second piece is tried until
//! the next time, then every fourth, and so on; as soon as half of the tries succeed, all are tried again. Which pieces are tried is another part
//! of the file after each commit, so that whatever is written again and again is tried sooner or later.
//!
//! Law R3: sums do not depend on the order in which pieces are compressed, they are weighed at moments that the calls alone decide, and which
//! pieces are tried depends on their place in the file and on how often that was done. So the image does not depend on the threads.

use cowback_base::sync::atomic::{AtomicU32, Ordering};

/// Fewest tries from which anything is concluded: one bad 128 KiB is no reason.
const TRIES_MIN: u32 = 8;
/// At most one piece in 2 to the power of this is tried.
const LEVEL_MAX: u32 = 5;

/// How eagerly the data of one file is tried.
#[derive(Debug, Default)]
pub struct Backoff {
    tried: AtomicU32,
    failed: AtomicU32,
    level: AtomicU32,
    /// How often it was weighed.
    turn: AtomicU32,
}

impl Backoff {
    /// Whether piece number `index` of the file is to be tried.
    #[must_use]
    pub fn wants(&self, index: u64) -> bool {
        let turn = u64::from(self.turn.load(Ordering::Relaxed));
        index.wrapping_add(turn).is_multiple_of(1 << self.level.load(Ordering::Relaxed))
    }

    /// A piece was tried.
    pub fn note(&self, compressed: bool) {
        self.tried.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u32::from(!compressed), Ordering::Relaxed);
    }

    /// Weighs what was noted. Called with nothing of the file under way.
    pub fn weigh(&self) {
        let (tried, failed) =
            (self.tried.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        let level = self.level.load(Ordering::Relaxed);
        self.turn.fetch_add(1, Ordering::Relaxed);
        let level = if tried > 0 && failed <= tried / 2 {
            0
        } else if tried < TRIES_MIN {
            return; // too few to tell: they count next time
        } else if failed >= tried - tried / 8 {
            (level + 1).min(LEVEL_MAX)
        } else {
            level.saturating_sub(1)
        };
        self.level.store(level, Ordering::Relaxed);
        self.tried.store(0, Ordering::Relaxed);
        self.failed.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A commit after `pieces` pieces of which those compress for which `compresses` holds. Gives how many were tried.
    fn commit(backoff: &Backoff, pieces: u64, compresses: impl Fn(u64) -> bool) -> u64 {
        let tried = (0..pieces).filter(|index| backoff.wants(*index));
        let tried = tried.inspect(|index| backoff.note(compresses(*index))).count() as u64;
        backoff.weigh();
        tried
    }

    #[test]
    fn noise_is_tried_less_and_less_and_compressible_data_at_once_again() {
        let backoff = Backoff::default();
        let tried: Vec<_> = (0..8).map(|_| commit(&backoff, 256, |_| false)).collect();
        assert_eq!(tried, [256, 128, 64, 32, 16, 8, 8, 8]);
        assert_eq!(commit(&backoff, 256, |_| true), 8);
        assert_eq!(commit(&backoff, 256, |_| true), 256);
    }

    /// A file that noise has brought to the last level.
    fn spared() -> Backoff {
        let backoff = Backoff::default();
        for _ in 0..8 {
            commit(&backoff, 256, |_| false);
        }
        backoff
    }

    #[test]
    fn a_piece_that_is_written_again_and_again_is_tried_whichever_it_is() {
        for index in 0..64 {
            let backoff = spared();
            let turns = (1..).find(|_| {
                let tried = backoff.wants(index);
                tried.then(|| backoff.note(true));
                backoff.weigh();
                tried
            });
            assert!(turns.unwrap() <= 32, "piece {index} was tried in turn {turns:?}");
            assert_eq!(commit(&backoff, 256, |_| true), 256, "one that compresses is enough");
        }
    }

    #[test]
    fn without_eight_tries_nothing_is_concluded_at_any_level() {
        let backoff = Backoff::default();
        for level in 0..=LEVEL_MAX {
            assert_eq!(backoff.level.load(Ordering::Relaxed), level);
            for _ in 0..7 {
                backoff.weigh();
                backoff.note(false);
                backoff.weigh();
            }
            assert_eq!(backoff.level.load(Ordering::Relaxed), level, "after seven tries");
            backoff.note(false);
            backoff.weigh();
        }
    }

    #[test]
    fn one_bad_piece_or_a_few_change_nothing() {
        let backoff = Backoff::default();
        assert_eq!(commit(&backoff, 1, |_| false), 1);
        assert_eq!(commit(&backoff, 5, |_| true), 5);
        assert_eq!(commit(&backoff, 100, |index| index % 3 == 0), 100);
        assert_eq!(commit(&backoff, 100, |index| index % 3 == 0), 100, "a third is worth it");
    }
}
