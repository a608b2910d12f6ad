//! The volume's own thread: writes back when there is much to write, and commits when the last commit is long ago.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cowback_base::sync::{Condvar, Mutex, thread};
use cowback_page_cache::Flusher;

use crate::inner::Inner;

/// How the volume talks to its thread.
#[derive(Debug, Clone)]
pub(crate) struct Background {
    signal: Arc<Signal>,
}

#[derive(Debug, Default)]
struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    kicked: bool,
    stop: bool,
}

impl Background {
    pub(crate) fn new() -> Self {
        Self { signal: Arc::default() }
    }

    /// There is much to write.
    pub(crate) fn kick(&self) {
        let mut state = self.signal.state.lock();
        if !state.kicked {
            state.kicked = true;
            self.signal.changed.notify_one();
        }
    }

    /// Ends the thread, after what it is doing.
    pub(crate) fn stop(&self) {
        self.signal.state.lock().stop = true;
        self.signal.changed.notify_one();
    }

    /// Waits for a signal or until `deadline`, if there is one, and takes the kick.
    fn wait(&self, deadline: Option<Instant>) -> State {
        let mut state = self.signal.state.lock();
        while !state.kicked && !state.stop {
            let Some(deadline) = deadline else {
                self.signal.changed.wait(&mut state);
                continue;
            };
            if self.signal.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        let seen = *state;
        state.kicked = false;
        seen
    }

    /// Starts the thread. It holds the volume only while it works.
    pub(crate) fn start(
        &self,
        inner: Weak<Inner>,
        interval: Duration,
    ) -> std::io::Result<thread::JoinHandle<()>> {
        let background = self.clone();
        thread::Builder::new().name("cowback-flush".to_owned()).spawn(move || {
            let next = || Instant::now().checked_add(interval);
            let mut deadline = next();
            loop {
                let seen = background.wait(deadline);
                if seen.stop {
                    return;
                }
                let Some(inner) = inner.upgrade() else { return };
                let commits = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                if commits {
                    deadline = next();
                }
                // A panic has been printed, and has stopped the store if it harmed it. Writers who wait for this thread must not wait for ever.
                drop(catch_unwind(AssertUnwindSafe(|| inner.work(seen.kicked, commits))));
            }
        })
    }
}

impl Flusher for Background {
    fn start(&self) {
        self.kick();
    }
}

impl Inner {
    /// What the volume's thread does in one round.
    fn work(&self, flush: bool, commit: bool) {
        if flush {
            self.flush_over_limits(self.flush_gate.read());
        }
        if commit {
            // The error is kept for the handles, and the data stays dirty: the next commit tries again.
            drop(self.commit());
        }
    }
}
