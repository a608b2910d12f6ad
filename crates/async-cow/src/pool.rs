//! The dedicated rayon pool of one volume: leaf jobs only, none of which waits for another (law R2).

use std::sync::Arc;

use cowback_base::sync::{Condvar, Mutex};
use cowback_extent_io::{Executor, Job};

#[cfg(any(loom, shuttle))]
#[path = "pool/model.rs"]
mod threads;
#[cfg(not(any(loom, shuttle)))]
#[path = "pool/rayon.rs"]
mod threads;

use threads::Threads;

/// A pool of worker threads.
#[derive(Debug)]
pub struct WorkerPool {
    threads: Threads,
    jobs: Arc<Jobs>,
}

/// Jobs that were spawned and have not ended.
#[derive(Debug, Default)]
struct Jobs {
    count: Mutex<u64>,
    none: Condvar,
}

/// Counts a job as ended, even if it panics.
struct Running(Arc<Jobs>);

impl Drop for Running {
    fn drop(&mut self) {
        let mut count = self.0.count.lock();
        *count -= 1;
        if *count == 0 {
            self.0.none.notify_all();
        }
    }
}

impl WorkerPool {
    /// A pool of `threads` workers; zero means one for each core.
    ///
    /// # Errors
    /// The threads could not be started.
    pub fn new(threads: usize) -> Result<Self, std::io::Error> {
        Ok(Self { threads: Threads::start(threads)?, jobs: Arc::default() })
    }

    /// Waits until every job has ended, those too that others spawn meanwhile.
    pub fn wait_idle(&self) {
        let mut count = self.jobs.count.lock();
        while *count > 0 {
            self.jobs.none.wait(&mut count);
        }
    }

    /// Worker threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.count()
    }
}

impl Executor for WorkerPool {
    fn spawn(&self, job: Job) {
        *self.jobs.count.lock() += 1;
        let running = Running(Arc::clone(&self.jobs));
        self.threads.spawn(Box::new(move || {
            let _running = running;
            job();
        }));
    }
}
