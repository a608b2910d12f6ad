//! The cache of one volume (stage 2): its mappings, its gauges, and who writes its dirty pages back.
//!
//! Law E4: at rest no page is locked, dirty, frozen or under writeback; [`PageCache::check_at_rest`] says what is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use cowback_base::sync::atomic::Ordering;
use cowback_base::sync::{Mutex, RwLock};
use cowback_base::{PageIndex, PageRange};

use crate::budget::{Budget, Shared};
use crate::dirty::{WaitStats, Waits};
use crate::gauge::Gauge;
use crate::group::{Group, Share};
use crate::level::{Counts, Health};
use crate::limits::CacheLimits;
use crate::lookups::Lookups;
use crate::mapping::Mapping;
use crate::pool::FramePool;
use crate::reclaim::shrink;

/// What a cache holds at some moment, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CacheStats {
    /// Pages with content.
    pub pages: u64,
    /// Those of them that were used again, or came back soon after they had gone: a scan does not push them out.
    pub hot: u64,
    /// Pages that readers were given, each time, and that were there or were being read ahead, ever.
    pub hits: u64,
    /// Pages that had to be read from disk while a reader, or a writer of a part of one, waited, ever.
    pub misses: u64,
    /// Dirty pages.
    pub dirty: u64,
    /// Versions taken for writeback that have not got there.
    pub frozen: u64,
    /// Versions under writeback.
    pub writeback: u64,
    /// Locked pages.
    pub locked: u64,
    /// Leaves (of 32 pages) in use.
    pub leaves: u64,
    /// Pages freed by reclaim, ever.
    pub reclaimed: u64,
    /// Writers that waited for the disk at a hard limit, ever.
    pub stalls: WaitStats,
    /// Writers that were slowed down on their way to one, ever.
    pub pauses: WaitStats,
    /// Dirty pages that were dropped with their mapping, ever. Nobody should.
    pub lost_dirty: u64,
}

/// The counts behind [`CacheStats`], but for what is counted by group.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) frozen: Gauge,
    pub(crate) writeback: Gauge,
    pub(crate) locked: Gauge,
    pub(crate) leaves: Gauge,
    pub(crate) reclaimed: Gauge,
    pub(crate) lost_dirty: Gauge,
}

/// Who writes the dirty pages of a cache back.
pub trait Flusher: Send + Sync {
    /// There is much to write. Called by whoever writes, to this cache or to another of the budget, with no lock held but one, shared, by which
    /// another flusher waits to take this one's place.
    fn start(&self);
}

/// Pages of any number of files of one volume, within a budget of memory.
pub struct PageCache {
    budget: Arc<Shared>,
    /// What new files belong to.
    home: Arc<Share>,
    pub(crate) gauges: Gauges,
    pub(crate) lookups: Lookups,
    pub(crate) stalls: Waits,
    pub(crate) pauses: Waits,
    health: Arc<Health>,
    flusher: RwLock<Option<Arc<dyn Flusher>>>,
    shares: Mutex<Vec<Weak<Share>>>,
    mappings: Mutex<BTreeMap<u64, Weak<Mapping>>>,
}

impl PageCache {
    /// An empty cache with a budget of its own.
    #[must_use]
    pub fn new(limits: CacheLimits) -> Arc<Self> {
        Self::in_group(&Budget::new(limits).root())
    }

    /// An empty cache within the budget of `group`, to which its files belong at first.
    #[must_use]
    pub fn in_group(group: &Group) -> Arc<Self> {
        let health = Health::new(&group.0.shared.any_stuck);
        let home = Share::new(group, &health);
        let cache = Arc::new(Self {
            budget: Arc::clone(&group.0.shared),
            shares: Mutex::new(vec![Arc::downgrade(&home)]),
            home,
            gauges: Gauges::default(),
            lookups: Lookups::default(),
            stalls: Waits::default(),
            pauses: Waits::default(),
            health,
            flusher: RwLock::default(),
            mappings: Mutex::default(),
        });
        cache.budget.add_cache(&cache);
        cache
    }

    /// The budget that it is part of.
    #[must_use]
    pub fn budget(&self) -> Budget {
        Budget(Arc::clone(&self.budget))
    }

    /// A mapping for a file that has none in this cache. `owner` is a number by which the caller knows the file.
    #[must_use]
    pub fn mapping(self: &Arc<Self>, owner: u64) -> Arc<Mapping> {
        let serial = self.budget.next_serial();
        let mapping = Mapping::new(Arc::clone(self), Arc::clone(&self.home), serial, owner);
        self.mappings.lock().insert(serial, Arc::downgrade(&mapping));
        mapping
    }

    /// The mappings that have dirty pages, oldest mapping first.
    #[cfg(test)]
    pub(crate) fn dirty_mappings(&self) -> Vec<Arc<Mapping>> {
        self.all_mappings().into_iter().filter(|mapping| mapping.dirty_count() > 0).collect()
    }

    fn all_mappings(&self) -> Vec<Arc<Mapping>> {
        // Collected before any is dropped: the last reference to a mapping takes this lock as it goes.
        self.mappings.lock().values().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn unregister(&self, serial: u64) {
        self.mappings.lock().remove(&serial);
    }

    // ---- whom it is charged to ----

    /// What `group` has of this cache.
    pub(crate) fn share_of(&self, group: &Group) -> Arc<Share> {
        // Dropped after the lock is free, as a share that goes may have writers look again.
        let alive: Vec<_>;
        let mut shares = self.shares.lock();
        alive = shares.iter().filter_map(Weak::upgrade).collect();
        if let Some(share) = alive.iter().find(|share| Arc::ptr_eq(&share.group, &group.0)) {
            return Arc::clone(share);
        }
        let share = Share::new(group, &self.health);
        shares.retain(|share| share.strong_count() > 0);
        shares.push(Arc::downgrade(&share));
        drop(shares);
        share
    }

    /// A count of this cache, whosever it is.
    fn sum(&self, gauge: fn(&Counts) -> &Gauge) -> u64 {
        let shares: Vec<_> = self.shares.lock().iter().filter_map(Weak::upgrade).collect();
        shares.iter().map(|share| gauge(&share.counts).get()).sum()
    }

    // ---- memory ----

    /// Frees clean pages of the budget, about `pages` of them. Gives how many it freed.
    pub fn reclaim(&self, pages: u64) -> u64 {
        shrink(&self.budget, None, pages, pages, 0)
    }

    /// Drops all clean pages that nobody works on.
    pub fn drop_clean(&self) {
        for mapping in self.all_mappings() {
            mapping.drop_clean(PageRange::new(PageIndex(0), PageIndex(u64::MAX)));
        }
    }

    pub(crate) fn pool(&self) -> &FramePool {
        &self.budget.pool
    }

    // ---- writeback ----

    /// Sets who writes the dirty pages back; `None`: nobody any more. Waits until no thread is in the [`Flusher::start`]
    /// of who did it before.
    pub fn set_flusher(&self, flusher: Option<Arc<dyn Flusher>>) {
        let old = std::mem::replace(&mut *self.flusher.write(), flusher);
        drop(old);
    }

    /// Has whoever writes the dirty pages back start.
    pub fn start_flusher(&self) {
        if let Some(flusher) = &*self.flusher.read() {
            flusher.start();
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.budget
    }

    pub(crate) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    pub(crate) fn has_dirty(&self) -> bool {
        self.sum(|counts| &counts.dirty) > 0
    }

    /// Whether what is dirty here cannot be written, so that nobody but its own writers is to wait for it.
    pub(crate) fn is_stuck(&self) -> bool {
        self.health.is_stuck()
    }

    /// A write failed: until one succeeds, what is unwritten here does not hold up those who write elsewhere. Those who wait look again.
    pub fn note_failure(&self) {
        self.health.note(true);
        self.budget.failures.fetch_add(1, Ordering::SeqCst);
        self.wake_throttled();
    }

    /// Nothing is written any more: what is unwritten here holds up nobody. Those who wait look again.
    pub fn end_writeback(&self) {
        self.health.end();
        self.wake_throttled();
    }

    /// Has those who wait in [`Mapping::throttle`] look again whether to give up.
    pub fn wake_throttled(&self) {
        self.budget.wake_all();
    }

    // ---- numbers ----

    /// What the cache holds now.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let gauges = &self.gauges;
        let (hits, misses) = self.lookups.hits_and_misses();
        CacheStats {
            hits,
            misses,
            pages: self.sum(|counts| &counts.pages),
            hot: self.sum(|counts| &counts.main),
            dirty: self.sum(|counts| &counts.dirty),
            frozen: gauges.frozen.get(),
            writeback: gauges.writeback.get(),
            locked: gauges.locked.get(),
            leaves: gauges.leaves.get(),
            reclaimed: gauges.reclaimed.get(),
            stalls: self.stalls.stats(),
            pauses: self.pauses.stats(),
            lost_dirty: gauges.lost_dirty.get(),
        }
    }

    /// Checks that nothing is under way (law E4).
    ///
    /// # Errors
    /// What still is.
    pub fn check_at_rest(&self) -> Result<(), String> {
        let stats = self.stats();
        let busy = [stats.dirty, stats.frozen, stats.writeback, stats.locked, stats.lost_dirty];
        let charged = self.sum(|counts| &counts.in_flight);
        if busy == [0; 5] && charged == 0 {
            Ok(())
        } else {
            let charged = format!("{charged} pages are charged as on their way to disk");
            Err(format!("the page cache is not at rest: {stats:?}, {charged}"))
        }
    }
}

impl Drop for PageCache {
    fn drop(&mut self) {
        self.budget.drop_cache();
    }
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache")
            .field("limits", &self.budget.level.limits.get())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
