//! The workers: a pool of rayon's.

use cowback_extent_io::Job;

/// Worker threads, of which the first that is free takes the oldest job.
#[derive(Debug)]
pub(super) struct Threads(rayon::ThreadPool);

impl Threads {
    /// Starts so many; zero means one for each core.
    pub(super) fn start(count: usize) -> Result<Self, std::io::Error> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|number| format!("cowback-{number}"))
            // A job that panics has given its pages back while it unwound; the panic itself went to standard error.
            .panic_handler(|_| {})
            .build();
        pool.map(Self).map_err(std::io::Error::other)
    }

    pub(super) fn count(&self) -> usize {
        self.0.current_num_threads()
    }

    pub(super) fn spawn(&self, job: Job) {
        self.0.spawn_fifo(job);
    }
}
