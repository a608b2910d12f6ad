//! The workers in a model of a whole volume: rayon's threads are none of the explorer's, so these stand in for them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use cowback_base::sync::thread::JoinHandle;
use cowback_base::sync::{Condvar, Mutex, thread};
use cowback_extent_io::Job;

/// Worker threads, of which the first that is free takes the oldest job.
pub(super) struct Threads {
    line: Arc<Line>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Threads {
    pub(super) fn start(count: usize) -> Result<Self, std::io::Error> {
        let line = Arc::new(Line::default());
        let worker = |_| {
            let line = Arc::clone(&line);
            thread::spawn(move || line.work())
        };
        Ok(Self { threads: (0..count.max(1)).map(worker).collect(), line })
    }

    pub(super) fn count(&self) -> usize {
        self.threads.len()
    }

    pub(super) fn spawn(&self, job: Job) {
        self.line.state.lock().jobs.push_back(job);
        self.line.changed.notify_one();
    }
}

impl Line {
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.state.lock();
            } else if state.closed {
                return;
            } else {
                self.changed.wait(&mut state);
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.line.state.lock().closed = true;
        self.line.changed.notify_all();
        for thread in self.threads.drain(..) {
            // It is itself the one that lets go of the pool, or it has panicked, which the explorer has reported.
            if thread.thread().id() != thread::current().id() {
                drop(thread.join());
            }
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Threads({})", self.threads.len())
    }
}
