//! Numbers about a volume: [`Stats`], and its parts.

use cowback_base::BLOCK_SIZE;

use crate::budget::Group;
use crate::inner::Inner;

pub use crate::commit_times::CommitStats;
pub use cowback_async_cow::{CounterSnapshot, KindCount};
pub use cowback_block_store::{CopyStats, SpaceStats, StoreStats};
pub use cowback_page_cache::{CacheStats, GroupStats, WaitStats};

/// What a volume holds and has done, at one moment. Cheap to take.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes of file content in memory.
    pub cached_bytes: u64,
    /// Bytes in memory that are newer than what is on disk or on its way there.
    pub dirty_bytes: u64,
    /// Bytes that are on their way to disk.
    pub in_flight_bytes: u64,
    /// Chunks that are being compressed, or wait for their turn to be given space.
    pub queued_chunks: u64,
    /// Commits, and how long they took.
    pub commits: CommitStats,
    /// Worker threads.
    pub threads: usize,
    /// Pages of the cache, by state; how writers waited.
    pub cache: CacheStats,
    /// The groups of the budget that the volume is part of, oldest first, with all that they have, in other volumes too: the root group, if it
    /// is in use, and those that were made with [`Budget::group`](crate::budget::Budget::group).
    pub groups: Vec<GroupStats>,
    /// Extents written since the volume was opened, by kind.
    pub written: CounterSnapshot,
    /// The space of the volume.
    pub store: StoreStats,
}

impl Stats {
    pub(crate) fn of(inner: &Inner) -> Self {
        let cache = inner.cache.stats();
        Self {
            cached_bytes: cache.pages * BLOCK_SIZE,
            dirty_bytes: cache.dirty * BLOCK_SIZE,
            in_flight_bytes: inner.engine.bytes_in_flight(),
            queued_chunks: inner.engine.queued_chunks(),
            commits: inner.commit_times.stats(),
            threads: inner.pool.threads(),
            cache,
            groups: inner.cache.budget().groups().iter().map(Group::stats).collect(),
            written: inner.engine.counters(),
            store: inner.store.stats(),
        }
    }
}
