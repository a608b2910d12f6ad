//! Where background work runs: a thread pool in production, the calling thread or a model's threads in tests.

use std::fmt;

/// Work that is moved to another thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// Something that runs jobs, in any order, sooner or later, on any thread.
pub trait Executor: Send + Sync + fmt::Debug {
    /// Takes `job`. The caller holds no lock that a job takes (law R2): no page, leaf or extent lock, and none of the store's.
    fn spawn(&self, job: Job);
}

/// Runs each job at once on the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inline;

impl Executor for Inline {
    fn spawn(&self, job: Job) {
        job();
    }
}
