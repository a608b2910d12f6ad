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
use std::time::{Duration, Instant};

use cowback_base::sync::atomic::{AtomicU64, Ordering};
use cowback_base::sync::{Condvar, Mutex};

/// The queue of writers that wait for the disk.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Writers in the queue; counted up before they look at the gauges, so that who lowers a gauge sees them.
    waiting: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// The tickets of those who wait, first come first.
    tickets: VecDeque<u64>,
}

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
        let mut queue = self.queue.lock();
        let ticket = queue.next;
        queue.next += 1;
        queue.tickets.push_back(ticket);
        let its_turn = loop {
            if queue.tickets.front() == Some(&ticket) && below() {
                break true;
            }
            if give_up() {
                break false;
            }
            self.wake.wait(&mut queue);
        };
        queue.tickets.retain(|waiting| *waiting != ticket);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.wake.notify_all();
        (begun.elapsed(), its_turn)
    }

    /// Writers that stand in the line.
    #[cfg(test)]
    pub(crate) fn in_line(&self) -> usize {
        self.queue.lock().tickets.len()
    }

    /// A count of unwritten pages went down, or there is a reason to give up.
    pub(crate) fn relieved(&self) {
        let order =
            if cfg!(canary = "look_unordered") { Ordering::Relaxed } else { Ordering::SeqCst };
        if self.waiting.load(order) > 0 {
            // Under the lock, so that nobody is between looking at the gauges and going to sleep.
            let _queue = (!cfg!(canary = "notify_unlocked")).then(|| self.queue.lock());
            self.wake.notify_all();
        }
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
            throttle.relieved();
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
