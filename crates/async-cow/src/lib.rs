//! Parallel compression and ordered submission of delayed-allocation runs (stages 4 to 7 of the pipeline).
//!
//! ```text
//! DelallocRun --cut--> AsyncChunk --pool--> compress_file_range --turnstile--> submit_compressed_extents --pool--> IO, completion
//!              512 KiB              any order                    file order                               any order
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`policy`] | what is compressed, how, and how much memory may be on its way |
//! | [`credit`] | the bound on that memory |
//! | [`chunk`] | runs cut into chunks, each with its share of everything |
//! | [`compress`] | phase one: chunk to async extents, in parallel |
//! | [`turnstile`] | what lets chunks through in file order, whatever finished first (law R3) |
//! | [`submit`] | phase two: async extents to extents on disk, and the fallback ladder (law B4) |
//! | [`pool`] | the dedicated rayon pool |
//! | [`counters`] | what went which way |

pub mod chunk;
pub mod compress;
pub mod counters;
pub mod credit;
pub mod policy;
pub mod pool;
pub mod submit;
pub mod turnstile;

use std::sync::Arc;

use cowback_base::BLOCK_SIZE;
use cowback_base::sync::{Condvar, Mutex};
use cowback_extent_io::writepages::RUN_PAGES_MAX;
use cowback_extent_io::{DelallocRun, DelallocSink, Executor};

use chunk::{AsyncChunk, cut_run};
use compress::{Compress, CompressedChunk, OwnContext, compress_file_range};
use counters::Counters;
use credit::{Credit, Credits};
use policy::Policy;
use submit::submit_compressed_extents;
use turnstile::Turnstile;

pub use counters::{CounterSnapshot, KindCount};
pub use policy::{CompressionPolicy, ExtentSize, FilePolicy, PolicyError};
pub use pool::WorkerPool;

/// The writeback engine's second half: takes frozen runs, and has them on disk some time later.
#[derive(Debug, Clone)]
pub struct AsyncCow {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    policy: Policy,
    executor: Arc<dyn Executor>,
    compress: Arc<dyn Compress>,
    credits: Arc<Credits>,
    turnstile: Turnstile<Turn>,
    counters: Arc<Counters>,
}

impl AsyncCow {
    /// An engine that follows `policy` and runs its jobs on `executor`.
    #[must_use]
    pub fn new(policy: Policy, executor: Arc<dyn Executor>) -> Self {
        Self::with_compressor(policy, executor, Arc::new(OwnContext))
    }

    /// As [`AsyncCow::new`], with `compress` to do the compressing.
    #[must_use]
    pub fn with_compressor(
        policy: Policy,
        executor: Arc<dyn Executor>,
        compress: Arc<dyn Compress>,
    ) -> Self {
        let run_bytes = RUN_PAGES_MAX * BLOCK_SIZE;
        let credits = Credits::new(policy.in_flight_bytes.max(run_bytes));
        let counters = Arc::new(Counters::default());
        // Phase two of one chunk after another.
        let turnstile = {
            let (executor, counters) = (Arc::clone(&executor), Arc::clone(&counters));
            Turnstile::new(move |turn| match turn {
                Turn::Chunk(chunk) => {
                    let io = submit_compressed_extents(chunk, &counters);
                    if !io.is_empty() {
                        executor.spawn(Box::new(move || io.run()));
                    }
                }
                Turn::Passed(passed) => passed.tell(),
            })
        };
        let shared = Shared { policy, executor, compress, credits, turnstile, counters };
        Self { shared: Arc::new(shared) }
    }

    /// What went which way so far.
    #[must_use]
    pub fn counters(&self) -> CounterSnapshot {
        self.shared.counters.snapshot()
    }

    /// Chunks that were queued and have no place on disk yet.
    #[must_use]
    pub fn queued_chunks(&self) -> u64 {
        self.shared.turnstile.in_line()
    }

    /// Bytes of runs on their way. Zero at rest (law E4).
    #[must_use]
    pub fn bytes_in_flight(&self) -> u64 {
        self.shared.credits.taken()
    }

    /// Waits until every chunk that is in line now has its place on disk, or has failed: whoever allocates without standing in line does so after
    /// them (law R3). The caller holds no lock.
    pub fn wait_allocated(&self) {
        let passed = Arc::new(Passed::default());
        let (ticket, here) = (self.shared.turnstile.ticket(), Arc::clone(&passed));
        // Brought by a worker: whoever is next in line serves those behind him as well, and gets their panics.
        self.shared.executor.spawn(Box::new(move || ticket.arrive(Turn::Passed(here))));
        passed.wait();
    }

    /// Waits until no run is on its way, of whichever file.
    pub fn wait_idle(&self) {
        self.shared.credits.wait_none_taken();
    }
}

/// What stands in line at the turnstile.
#[derive(Debug)]
pub(crate) enum Turn {
    /// A chunk that wants its place on disk.
    Chunk(CompressedChunk),
    /// Somebody who wants to know that those before have theirs.
    Passed(Arc<Passed>),
}

/// Tells one who waits that a turn has come.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    told: Mutex<bool>,
    changed: Condvar,
}

impl Passed {
    fn tell(&self) {
        *self.told.lock() = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let mut told = self.told.lock();
        while !*told {
            self.changed.wait(&mut told);
        }
    }
}

impl DelallocSink for AsyncCow {
    type Credit = Credit;

    fn admit(&self) -> Credit {
        self.shared.credits.take(RUN_PAGES_MAX * BLOCK_SIZE)
    }

    fn submit(&self, run: DelallocRun, credit: Credit) {
        // Read once: the parts of a run are stored alike.
        let mut policy = run.inode().policy().unwrap_or(self.shared.policy.file);
        if run.inode().data_flags().nodatasum {
            // Compressed data has to have checksums.
            policy.compression = CompressionPolicy::None;
        }
        for chunk in cut_run(run, credit, policy, &self.shared.turnstile) {
            let shared = Arc::clone(&self.shared);
            self.shared.executor.spawn(Box::new(move || shared.run_chunk(chunk)));
        }
    }
}

impl Shared {
    /// Phase one of one chunk, then phase two of it and of those that waited for it. If phase one panics, the chunk fails, and those pass.
    fn run_chunk(&self, chunk: AsyncChunk) {
        let AsyncChunk { run, ticket, credit, policy } = chunk;
        // The credit is out until the run has its extents or has failed: a commit that finds none out sees the error of each run.
        let extents = compress_file_range(run, policy, &*self.compress, &self.counters);
        ticket.arrive(Turn::Chunk(CompressedChunk { extents, credit }));
    }
}
