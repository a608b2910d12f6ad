//! One cut for all: a commit holds what every thread had done at one moment, whatever files it did it to (law D1).
//!
//! A clock that all threads share is read when an operation begins and when it has ended. A thread that is found as it was after its operation
//! `i` says that the commit's cut was not before that one began, and not after operation `i + 1` had ended. There must be a moment that suits all of
//! them; and not before the last sync began that has returned in any thread (law D2).

use std::sync::atomic::{AtomicU64, Ordering};

/// A clock that never shows the same time twice.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// The next time.
    pub fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// The moments between two times, both among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moments {
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
}

/// A moment, not before `least`, that is among some moments of each thread.
#[must_use]
pub fn common_cut(threads: &[Vec<Moments>], least: u64) -> Option<u64> {
    let begins = threads.iter().flatten().map(|moments| moments.from);
    let mut candidates: Vec<u64> = begins.filter(|from| *from > least).chain([least]).collect();
    candidates.sort_unstable();
    let suits = |at: &u64| {
        let within = |moments: &Moments| (moments.from..=moments.to).contains(at);
        threads.iter().all(|thread| thread.iter().any(within))
    };
    candidates.into_iter().find(suits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(from: u64, to: u64) -> Moments {
        Moments { from, to }
    }

    #[test]
    fn a_commit_that_is_torn_between_threads_is_found() {
        // One thread is found after an operation that began at 50, the other before one that had ended at 40.
        let torn = [vec![moments(50, u64::MAX)], vec![moments(0, 40)]];
        assert_eq!(common_cut(&torn, 0), None);
        let whole = [vec![moments(30, u64::MAX)], vec![moments(0, 40)]];
        assert_eq!(common_cut(&whole, 0), Some(30));
        assert_eq!(common_cut(&whole, 35), Some(35));
        // A sync that began at 41 has returned: what had ended at 40 is missing.
        assert_eq!(common_cut(&whole, 41), None);
    }

    #[test]
    fn states_that_look_alike_leave_more_than_one_choice() {
        let one = vec![moments(0, 10), moments(20, 30)];
        assert_eq!(common_cut(&[one.clone(), vec![moments(11, 19)]], 0), None);
        assert_eq!(common_cut(&[one.clone(), vec![moments(11, 20)]], 0), Some(20));
        assert_eq!(common_cut(&[one, vec![moments(0, 5), moments(25, 40)]], 6), Some(25));
    }
}
