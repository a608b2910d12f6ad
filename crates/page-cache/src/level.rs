//! What a budget and each of its groups have alike: limits, what is counted against them, and the line of writers who wait (stage 1 and 2).
//!
//! What a volume cannot write, because its writes fail or it has ended, holds up its own writers at the limits, and those of no other volume; nor
//! do these flush earlier or pause for it. So limits of unwritten content are always looked at for one volume, by its [`Health`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use cowback_base::BLOCK_SIZE;
use cowback_base::sync::Mutex;
use cowback_base::sync::atomic::{AtomicBool, Ordering};

use crate::cache::PageCache;
use crate::dirty::Throttle;
use crate::gauge::Gauge;
use crate::group::{GroupState, Share};
use crate::limits::{CacheLimits, Limits};
use crate::mapping::Mapping;
use crate::pace::pause_for;

/// What is charged to somebody, in pages.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) pages: Gauge,
    /// Pages of the main queue of reclaim.
    pub(crate) main: Gauge,
    pub(crate) dirty: Gauge,
    /// Versions that were taken for writeback and are not done with.
    pub(crate) in_flight: Gauge,
}

impl Counts {
    /// Versions of pages that are not on disk.
    pub(crate) fn unwritten(&self) -> u64 {
        // In the order in which a version goes through these states: none is missed, one may count twice.
        self.dirty.get() + self.in_flight.get()
    }

    /// Whether anything is charged.
    pub(crate) fn is_zero(&self) -> bool {
        [&self.pages, &self.main, &self.dirty, &self.in_flight].iter().all(|gauge| gauge.get() == 0)
    }
}

/// Whether a cache's dirty pages can be written.
#[derive(Debug)]
pub(crate) struct Health {
    /// The last write failed.
    failing: AtomicBool,
    /// Nothing is written any more.
    ended: AtomicBool,
    /// Whether any cache of the budget was ever stuck: if not, nobody needs to ask which.
    any_stuck: Arc<AtomicBool>,
}

impl Health {
    pub(crate) fn new(any_stuck: &Arc<AtomicBool>) -> Arc<Self> {
        let (failing, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { failing, ended, any_stuck: Arc::clone(any_stuck) })
    }

    /// Whether nobody but its own writers should wait for it.
    pub(crate) fn is_stuck(&self) -> bool {
        self.failing.load(Ordering::SeqCst) || self.ended.load(Ordering::SeqCst)
    }

    /// A write failed, or succeeded.
    pub(crate) fn note(&self, failed: bool) {
        if self.failing.load(Ordering::Relaxed) != failed {
            self.failing.store(failed, Ordering::SeqCst);
            if failed {
                self.any_stuck.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Nothing is written any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.any_stuck.store(true, Ordering::SeqCst);
    }
}

/// The counts of shares: of those of a group, or of all.
///
/// A writer who stands in a line looks at them under the line's lock. So there is nothing in them that takes a lock when it goes, as a group
/// does, which has the line look again.
#[derive(Debug, Default)]
struct Tallies(Mutex<Vec<(Arc<Health>, Weak<Counts>)>>);

/// The budget as a whole, or one group.
#[derive(Debug)]
pub(crate) struct Level {
    pub(crate) limits: Limits,
    pub(crate) counts: Counts,
    pub(crate) throttle: Throttle,
    tallies: Tallies,
}

impl Level {
    pub(crate) fn new(limits: CacheLimits) -> Self {
        let limits = Limits::new(limits);
        let (counts, throttle) = (Counts::default(), Throttle::default());
        Self { limits, counts, throttle, tallies: Tallies::default() }
    }

    /// What is counted for `share` is counted here as well.
    pub(crate) fn add_share(&self, share: &Share) {
        let mut tallies = self.tallies.0.lock();
        tallies.retain(|(_, counts)| counts.strong_count() > 0);
        tallies.push((Arc::clone(&share.health), Arc::downgrade(&share.counts)));
    }

    /// Pages that `count` counts, without those of volumes other than that of `health` that cannot write.
    fn seen_by(&self, health: &Arc<Health>, count: impl Fn(&Counts) -> u64) -> u64 {
        let all = count(&self.counts);
        if !health.any_stuck.load(Ordering::SeqCst) {
            return all;
        }
        let tallies = self.tallies.0.lock();
        let stuck = tallies
            .iter()
            .filter(|(other, _)| !Arc::ptr_eq(other, health) && other.is_stuck())
            .filter_map(|(_, counts)| counts.upgrade());
        all.saturating_sub(stuck.map(|counts| count(&counts)).sum())
    }

    /// Dirty bytes, for the flushers of a volume.
    fn dirty_bytes(&self, health: &Arc<Health>) -> u64 {
        self.seen_by(health, |counts| counts.dirty.get()) * BLOCK_SIZE
    }

    /// Whether the flushers of a volume should run: the background limit was reached, and more than half of it is still dirty.
    pub(crate) fn wants_writeback(&self, health: &Arc<Health>) -> bool {
        self.limits.update_flushing(self.dirty_bytes(health))
    }

    /// How long to hold up one who wrote `bytes` to a volume, so that he does not run into the hard limit.
    pub(crate) fn pause_for(&self, health: &Arc<Health>, bytes: u64) -> Duration {
        let limits = self.limits.get();
        let unwritten = self.seen_by(health, Counts::unwritten) * BLOCK_SIZE;
        pause_for(bytes, unwritten, limits.background, limits.hard)
    }

    /// Whether the hard limit is reached, for who writes to a volume.
    pub(crate) fn is_full_for(&self, health: &Arc<Health>) -> bool {
        let hard = self.limits.get().hard / BLOCK_SIZE;
        // Mostly not; and then nobody is asked.
        self.counts.unwritten() >= hard && self.seen_by(health, Counts::unwritten) >= hard
    }
}

/// A limit of dirty content, of a group or of the budget, as it is for one cache. See [`PageCache::dirty_limits`].
#[derive(Debug)]
pub struct DirtyLimit<'a> {
    cache: &'a PageCache,
    /// Of the budget, if of no group.
    group: Option<Arc<GroupState>>,
}

impl PageCache {
    /// The limits that tell the cache's flusher when to run: those of each group, oldest first, then that of the budget. What other caches of
    /// the budget cannot write does not count.
    #[must_use]
    pub fn dirty_limits(&self) -> Vec<DirtyLimit<'_>> {
        let groups = self.shared().groups().into_iter().map(Some);
        groups.chain([None]).map(|group| DirtyLimit { cache: self, group }).collect()
    }
}

impl DirtyLimit<'_> {
    fn level(&self) -> &Level {
        self.group.as_ref().map_or(&self.cache.shared().level, |group| &group.level)
    }

    /// Whether the flusher should run: the limit was reached, and more than half of it is still dirty.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.level().wants_writeback(self.cache.health())
    }

    /// To be called when the flusher has done what it can: a limit that is relieved is over only when it is reached again.
    ///
    /// If that were left to whoever asks next, it would depend on whether a writer had to wait meanwhile, and so on the workers, from how much on
    /// the next flush begins (law R3).
    pub fn note_relief(&self) {
        let _still_over = self.is_over();
    }

    /// Bytes that are dirty.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.level().dirty_bytes(self.cache.health())
    }

    /// Dirty bytes at which the flusher may stop: half of the limit.
    #[must_use]
    pub fn enough_below(&self) -> u64 {
        self.level().limits.get().background / 2
    }

    /// Whether what is dirty of a file counts.
    #[must_use]
    pub fn covers(&self, file: &Mapping) -> bool {
        self.group.as_ref().is_none_or(|group| file.is_of(group))
    }
}
