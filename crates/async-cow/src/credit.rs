//! The bound on memory that is on its way to disk: bytes are taken before a run is locked, and come back as its parts leave memory.
//!
//! This is what keeps a slow first chunk from having all those behind it pile up. Takers are served in the order in which they came.

use std::collections::VecDeque;
use std::sync::Arc;

use cowback_base::planted;
use cowback_base::sync::{Condvar, Mutex};

/// A store of bytes that may be in flight.
#[derive(Debug)]
pub struct Credits {
    capacity: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: u64,
    /// Tickets of those who wait, first come first.
    waiting: VecDeque<u64>,
    next_ticket: u64,
}

impl Credits {
    /// A store of `capacity` bytes.
    #[must_use]
    pub fn new(capacity: u64) -> Arc<Self> {
        Arc::new(Self { capacity, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Waits for `bytes` and takes them. The caller holds no page lock (R1).
    ///
    /// # Panics
    /// If `bytes` is more than the capacity: nobody could ever have that.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Credit {
        assert!(bytes <= self.capacity, "{bytes} bytes of credit out of {}", self.capacity);
        let mut state = self.state.lock();
        if state.taken + bytes > self.capacity || !state.waiting.is_empty() {
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.waiting.push_back(ticket);
            while state.waiting.front() != Some(&ticket) || state.taken + bytes > self.capacity {
                self.changed.wait(&mut state);
            }
            state.waiting.pop_front();
            self.changed.notify_all();
        }
        state.taken += bytes;
        Credit { credits: Arc::clone(self), bytes }
    }

    /// Bytes in flight.
    pub fn taken(&self) -> u64 {
        self.state.lock().taken
    }

    /// Waits until nothing is in flight.
    pub fn wait_none_taken(&self) {
        let mut state = self.state.lock();
        while state.taken > 0 {
            self.changed.wait(&mut state);
        }
    }

    fn give_back(&self, bytes: u64) {
        let mut state = self.state.lock();
        assert!(state.taken >= bytes, "{bytes} bytes of credit come back of {}", state.taken);
        state.taken -= bytes;
        if !planted!("credit_unheard") {
            self.changed.notify_all();
        }
    }
}

/// Bytes taken; they come back when this is dropped.
#[derive(Debug)]
#[must_use = "the bytes come back when this is dropped"]
pub struct Credit {
    credits: Arc<Credits>,
    bytes: u64,
}

impl Credit {
    /// Keeps `bytes` of these and gives the rest back.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn shrink_to(&mut self, bytes: u64) {
        assert!(bytes <= self.bytes, "a credit of {} shrinks to {bytes}", self.bytes);
        let spare = self.bytes - bytes;
        self.bytes = bytes;
        if spare > 0 {
            self.credits.give_back(spare);
        }
    }

    /// Cuts `bytes` off into a credit of their own.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split(&mut self, bytes: u64) -> Self {
        assert!(bytes <= self.bytes, "{bytes} bytes out of a credit of {}", self.bytes);
        self.bytes -= bytes;
        Self { credits: Arc::clone(&self.credits), bytes }
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.credits.give_back(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_never_exceeds_the_capacity_and_all_comes_back() {
        let credits = Credits::new(100);
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let credits = &credits;
                scope.spawn(move || {
                    for round in 0..500 {
                        let mut credit = credits.take(1 + (thread * 31 + round * 17) % 100);
                        assert!(credits.taken() <= 100);
                        let half = credit.split(credit.bytes / 2);
                        drop(credit);
                        drop(half);
                    }
                });
            }
        });
        assert_eq!(credits.taken(), 0);
    }

    #[test]
    fn shrinking_frees_what_the_run_does_not_need() {
        let credits = Credits::new(100);
        let mut first = credits.take(100);
        first.shrink_to(30);
        let second = credits.take(70);
        assert_eq!(credits.taken(), 100);
        drop((first, second));
        credits.wait_none_taken();
    }
}
