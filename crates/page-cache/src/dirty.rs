//! Dirty limits (stage 1): writers that run ahead of the disk wait, in the order in which they came.
//!
//! What counts is every version of a page that is not on disk: dirty, frozen, under writeback. Over the background limit
//! the flusher should run; at the hard limit writers wait in [`Throttle::wait`], which they enter with no page locked
//! (law R1). A writer goes on when the count is below the limit and its turn has come, so that none starves; or when it
//! sees a reason not to wait any longer, such as that what fills the cache cannot be written.
//!
//! A group has a line of its own, in which only its writers wait, and a budget has one for all. Who has to wait in both does so in this
//! order: so nobody stands in the common line whom its own group holds up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowback_base::planted;
use cowback_base::sync::atomic::{AtomicU64, Ordering};
use cowback_base::sync::{Condvar, Mutex, MutexGuard};

/// The line of writers that wait for the disk.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    line: Mutex<Line>,
    /// Writers in the line; counted up before they look at the gauges, so that who lowers a gauge sees them.
    waiting: AtomicU64,
}

/// Those who wait, first come first, each by what wakes him and nobody else: of many writers one can go on.
type Line = VecDeque<Arc<Condvar>>;

impl Throttle {
    /// Whether somebody waits: who comes now waits behind.
    pub(crate) fn is_taken(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Waits until `below` holds and all who came before are through, or until `give_up` holds. Gives how long it waited, and whether
    /// its turn had come.
    pub(crate) fn wait(
        &self,
        below: impl Fn() -> bool,
        give_up: impl Fn() -> bool,
    ) -> (Duration, bool) {
        if !self.is_taken() && below() {
            return (Duration::ZERO, true);
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let begun = Instant::now();
        let own = Arc::new(Condvar::new());
        let mut line = self.line.lock();
        line.push_back(Arc::clone(&own));
        let its_turn = loop {
            if line.front().is_some_and(|first| Arc::ptr_eq(first, &own)) && below() {
                break true;
            }
            if give_up() {
                break false;
            }
            own.wait(&mut line);
        };
        line.retain(|waiting| !Arc::ptr_eq(waiting, &own));
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        // There may be room for him, too.
        line.front().inspect(|first| {
            first.notify_one();
        });
        (begun.elapsed(), its_turn)
    }

    /// Writers that stand in the line.
    #[cfg(test)]
    pub(crate) fn in_line(&self) -> usize {
        self.line.lock().len()
    }

    /// A count of unwritten pages went down: the first in line looks again.
    pub(crate) fn relieved(&self) {
        self.wake(1);
    }

    /// There may be a reason for any of those in line to go on or to give up: all look again.
    pub(crate) fn wake_all(&self) {
        self.wake(usize::MAX);
    }

    fn wake(&self, most: usize) {
        let order = if planted!("look_unordered") { Ordering::Relaxed } else { Ordering::SeqCst };
        if self.waiting.load(order) > 0
            && let Some(line) = self.lock_line()
        {
            line.iter().take(most).for_each(|waiting| {
                waiting.notify_one();
            });
        }
    }

    /// The line, when nobody is between looking at the gauges and going to sleep.
    fn lock_line(&self) -> Option<MutexGuard<'_, Line>> {
        if planted!("notify_unlocked") { self.line.try_lock() } else { Some(self.line.lock()) }
    }
}

/// Times that writers waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WaitStats {
    /// How often.
    pub count: u64,
    /// How long, all together.
    pub total: Duration,
    /// The longest.
    pub longest: Duration,
}

/// The counts behind [`WaitStats`].
#[derive(Debug, Default)]
pub(crate) struct Waits {
    count: AtomicU64,
    total_ns: AtomicU64,
    longest_ns: AtomicU64,
}

impl Waits {
    /// A writer waited for so long; if that is not at all, it did not.
    pub(crate) fn note(&self, waited: Duration) {
        if waited.is_zero() {
            return;
        }
        let waited = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.total_ns.fetch_add(waited, Ordering::Relaxed);
        self.longest_ns.fetch_max(waited, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> WaitStats {
        WaitStats {
            count: self.count.load(Ordering::Relaxed),
            total: Duration::from_nanos(self.total_ns.load(Ordering::Relaxed)),
            longest: Duration::from_nanos(self.longest_ns.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use cowback_base::sync::thread;

    use super::*;

    #[test]
    fn writers_go_on_in_the_order_in_which_they_came_and_who_gives_up_makes_way() {
        let throttle = Throttle::default();
        let (room, gone, quits) = (AtomicU64::new(0), Mutex::new(Vec::new()), AtomicU64::new(9));
        thread::scope(|scope| {
            for writer in 0..6 {
                let (throttle, room, gone, quits) = (&throttle, &room, &gone, &quits);
                scope.spawn(move || {
                    // Takes the room as it sees it, so that there is none for the next.
                    let below = || {
                        let there = room.load(Ordering::SeqCst) > 0;
                        if there {
                            room.fetch_sub(1, Ordering::SeqCst);
                            gone.lock().push(writer);
                        }
                        there
                    };
                    let quit = || quits.load(Ordering::SeqCst) == writer;
                    let (waited, its_turn) = throttle.wait(below, quit);
                    assert!(its_turn != (writer == 2) && !waited.is_zero());
                });
                while throttle.in_line() <= usize::try_from(writer).unwrap() {
                    thread::yield_now();
                }
            }
            quits.store(2, Ordering::SeqCst);
            throttle.wake_all();
            for round in 1..=5 {
                room.fetch_add(1, Ordering::SeqCst);
                throttle.relieved();
                while gone.lock().len() < round {
                    thread::yield_now();
                }
            }
        });
        assert_eq!(*gone.lock(), [0, 1, 3, 4, 5]);
        assert!(!throttle.is_taken());
    }
}
