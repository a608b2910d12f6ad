//! Groups: who pays for what is in memory, dirty, or on its way to disk (stage 1 and 2).
//!
//! A file belongs to one group at a time, which its pages are charged to; a page has no owner of its own. What a group has of one
//! cache is a [`Share`]: the kernel's `bdi_writeback`, one for each pair of a cgroup and a device. What is counted there is counted for the
//! group and the budget as well.
//!
//! Cached and dirty pages follow their file when it is given to another group. A version that was taken for writeback does not: it is
//! charged, from the moment it is frozen, by a [`Charge`] that goes with it through every hand-over to the end of its IO, and names
//! the group that owned it then. A charge cannot be copied, and is given back when it is dropped: so nothing is charged twice, nothing
//! given back twice or to the wrong group, and at rest all is zero (law E4).

use std::fmt;
use std::sync::Arc;

use cowback_base::BLOCK_SIZE;
use cowback_base::sync::atomic::{AtomicU64, Ordering};

use crate::budget::{Budget, Shared};
use crate::dirty::{WaitStats, Waits};
use crate::gauge::Gauge;
use crate::level::{Counts, Health, Level};
use crate::limits::CacheLimits;
use crate::reclaim::{Reclaim, reclaim};

/// Some of the files in a [`Budget`], with limits of their own. A clone is the same group.
#[derive(Clone)]
pub struct Group(pub(crate) Arc<GroupState>);

/// What a group has and has done, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStats {
    /// Its name.
    pub name: String,
    /// Its limits.
    pub limits: CacheLimits,
    /// Content in memory.
    pub cached: u64,
    /// Content that is newer than what is on disk or on its way there.
    pub dirty: u64,
    /// Content that is on its way to disk.
    pub in_flight: u64,
    /// Content that has reached the disk or the metadata, ever: before compression.
    pub written: u64,
    /// Content that reclaim has let go, ever.
    pub reclaimed: u64,
    /// Writers that waited for the disk at a hard limit, ever.
    pub stalls: WaitStats,
    /// Writers that were slowed down on their way to one, ever.
    pub pauses: WaitStats,
}

/// Behind [`Group`].
#[derive(Debug)]
pub(crate) struct GroupState {
    pub(crate) shared: Arc<Shared>,
    name: String,
    pub(crate) level: Level,
    pub(crate) reclaim: Reclaim,
    pub(crate) stalls: Waits,
    pub(crate) pauses: Waits,
    written: AtomicU64,
    pub(crate) reclaimed: AtomicU64,
}

impl Group {
    /// The budget that it is part of.
    #[must_use]
    pub fn budget(&self) -> Budget {
        Budget(Arc::clone(&self.0.shared))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> CacheLimits {
        self.0.level.limits.get()
    }

    /// Sets other limits. As [`Budget::set_limits`], for this group.
    pub fn set_limits(&self, limits: CacheLimits) {
        self.0.level.limits.set(bounded(limits));
        self.0.fit_reclaim();
        self.0.shrink_to_limit(0);
        self.0.shared.wake_all();
        self.budget().start_writeback(None);
    }

    /// Frees clean pages of this group, of about `bytes` bytes. Gives how many bytes it freed.
    pub fn reclaim(&self, bytes: u64) -> u64 {
        let pages = bytes.div_ceil(BLOCK_SIZE);
        if pages == 0 { 0 } else { reclaim(&self.0, pages, pages, 0) * BLOCK_SIZE }
    }

    /// Bytes that are newer than what is on disk or on its way there.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.0.level.counts.dirty.get() * BLOCK_SIZE
    }

    /// What it has and has done.
    #[must_use]
    pub fn stats(&self) -> GroupStats {
        let (state, counts) = (&*self.0, &self.0.level.counts);
        GroupStats {
            name: state.name.clone(),
            limits: state.level.limits.get(),
            cached: counts.pages.get() * BLOCK_SIZE,
            dirty: counts.dirty.get() * BLOCK_SIZE,
            in_flight: counts.in_flight.get() * BLOCK_SIZE,
            written: state.written.load(Ordering::Relaxed) * BLOCK_SIZE,
            reclaimed: state.reclaimed.load(Ordering::Relaxed) * BLOCK_SIZE,
            stalls: state.stalls.stats(),
            pauses: state.pauses.stats(),
        }
    }
}

impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Group {}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Group").field(&self.stats()).finish()
    }
}

/// Limits of a group: what is dirty is in memory too, so that it cannot be more than that holds.
fn bounded(limits: CacheLimits) -> CacheLimits {
    CacheLimits { hard: limits.hard.min(limits.budget), ..limits }
}

impl GroupState {
    pub(crate) fn create(shared: &Arc<Shared>, name: String, limits: CacheLimits) -> Group {
        let limits = bounded(limits);
        let state = Arc::new(Self {
            shared: Arc::clone(shared),
            name,
            level: Level::new(limits),
            reclaim: Reclaim::for_pages(
                limits.budget.min(shared.level.limits.get().budget) / BLOCK_SIZE,
            ),
            stalls: Waits::default(),
            pauses: Waits::default(),
            written: AtomicU64::new(0),
            reclaimed: AtomicU64::new(0),
        });
        shared.add_group(&state);
        Group(state)
    }

    /// The memory that the group may have changed: reclaim measures itself by it.
    pub(crate) fn fit_reclaim(&self) {
        self.reclaim.fit(self.level.limits.pages().min(self.shared.level.limits.pages()));
    }

    /// Pages that the group has beyond what it may call its own.
    pub(crate) fn excess(&self) -> u64 {
        let limit = self.level.limits.get().budget;
        let own = if limit == u64::MAX { 0 } else { limit / BLOCK_SIZE };
        self.level.counts.pages.get().saturating_sub(own)
    }

    /// Frees clean pages of the group if `coming` new ones would exceed its limit.
    pub(crate) fn shrink_to_limit(&self, coming: u64) {
        let limit = self.level.limits.pages();
        let over = (self.level.counts.pages.get() + coming).saturating_sub(limit);
        if over > 0 {
            reclaim(self, over, crate::reclaim::beyond_slack(over, limit), coming);
        }
    }
}

impl Drop for GroupState {
    fn drop(&mut self) {
        self.shared.drop_group();
    }
}

/// What one group has of one cache.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) group: Arc<GroupState>,
    /// The cache's.
    pub(crate) health: Arc<Health>,
    pub(crate) counts: Arc<Counts>,
}

impl Share {
    pub(crate) fn new(group: &Group, health: &Arc<Health>) -> Arc<Self> {
        let share = Arc::new(Self {
            group: Arc::clone(&group.0),
            health: Arc::clone(health),
            counts: Arc::default(),
        });
        share.levels().iter().for_each(|level| level.add_share(&share));
        share
    }

    /// What its content counts for: the group, and the budget.
    pub(crate) fn levels(&self) -> [&Level; 2] {
        [&self.group.level, &self.group.shared.level]
    }

    /// Accounts for the bits of a mask that were set or cleared.
    pub(crate) fn shift(&self, gauge: fn(&Counts) -> &Gauge, was: u32, now: u32) {
        for counts in [&*self.counts, &self.group.level.counts, &self.group.shared.level.counts] {
            gauge(counts).shift(was, now);
        }
    }

    /// The share of another group takes over `n` pages of this one.
    pub(crate) fn move_to(&self, other: &Self, gauge: fn(&Counts) -> &Gauge, n: u64) {
        gauge(&other.counts).add(n);
        gauge(&other.group.level.counts).add(n);
        gauge(&self.counts).sub(n);
        gauge(&self.group.level.counts).sub(n);
    }

    /// Some of what was unwritten is not any more, or is counted in one place only again.
    pub(crate) fn relieved(&self) {
        let [group, all] = self.levels();
        group.throttle.relieved();
        if self.group.shared.has_one_group() {
            all.throttle.relieved();
        } else {
            // Whoever is of this group, wherever in the line, may be within its reserve now.
            all.throttle.wake_all();
        }
    }

    /// Whether the group has so little unwritten content that it goes on even when the budget is full.
    pub(crate) fn within_reserve(&self) -> bool {
        self.group.level.counts.unwritten() < self.group.shared.reserve()
    }

    /// Whether the budget's hard limit holds up the group.
    pub(crate) fn is_held_by_budget(&self) -> bool {
        self.group.shared.level.is_full_for(&self.health) && !self.within_reserve()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let at_rest = self.counts.is_zero() || std::thread::panicking();
        assert!(at_rest, "charges are left of a share that is gone (law E4): {:?}", self.counts);
    }
}

/// The charge for versions of pages that are on their way to disk. It is given back when it is dropped.
///
/// It goes with what it is the charge for, and cannot be kept besides:
///
/// ```compile_fail,E0599
/// # fn f(charge: cowback_page_cache::Charge) {
/// let second = charge.clone();
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the charge ends when this is dropped"]
pub struct Charge {
    share: Arc<Share>,
    pages: u64,
}

impl Charge {
    /// A charge for nothing yet.
    pub(crate) fn new(share: Arc<Share>) -> Self {
        Self { share, pages: 0 }
    }

    fn levels(&self) -> [&Gauge; 3] {
        let share = &self.share;
        [&*share.counts, &share.group.level.counts, &share.group.shared.level.counts]
            .map(|counts| &counts.in_flight)
    }

    /// Charges for `pages` more. They are still charged as dirty.
    pub(crate) fn grow(&mut self, pages: u64) {
        for gauge in self.levels() {
            gauge.add(pages);
        }
        self.pages += pages;
    }

    /// Whom it is charged to.
    #[must_use]
    pub fn group(&self) -> Group {
        Group(Arc::clone(&self.share.group))
    }

    /// For how many pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Cuts the charge for `pages` of the pages off.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split(&mut self, pages: u64) -> Self {
        assert!(pages <= self.pages, "{pages} pages out of a charge for {}", self.pages);
        self.pages -= pages;
        Self { share: Arc::clone(&self.share), pages }
    }

    /// The pages have reached the disk, or the metadata.
    pub fn written(self) {
        self.share.group.written.fetch_add(self.pages, Ordering::Relaxed);
        self.share.health.note(false);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.pages > 0 {
            for gauge in self.levels() {
                gauge.sub(self.pages);
            }
            self.share.relieved();
        }
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
