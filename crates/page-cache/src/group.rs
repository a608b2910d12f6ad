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
use std::sync::{Arc, Weak};

use cowback_base::BLOCK_SIZE;
use cowback_base::sync::Mutex;
use cowback_base::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::budget::{Budget, Shared};
use crate::dirty::{Throttle, WaitStats, Waits};
use crate::gauge::Gauge;
use crate::limits::{CacheLimits, Limits};
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
    fn is_zero(&self) -> bool {
        [&self.pages, &self.main, &self.dirty, &self.in_flight].iter().all(|gauge| gauge.get() == 0)
    }
}

/// Behind [`Group`].
#[derive(Debug)]
pub(crate) struct GroupState {
    pub(crate) shared: Arc<Shared>,
    name: String,
    pub(crate) limits: Limits,
    pub(crate) counts: Counts,
    pub(crate) reclaim: Reclaim,
    pub(crate) throttle: Throttle,
    pub(crate) stalls: Waits,
    pub(crate) pauses: Waits,
    written: AtomicU64,
    pub(crate) reclaimed: AtomicU64,
    pub(crate) tallies: Tallies,
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
        self.0.limits.get()
    }

    /// Sets other limits. As [`Budget::set_limits`], for this group.
    pub fn set_limits(&self, limits: CacheLimits) {
        self.0.limits.set(bounded(limits));
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
        self.0.counts.dirty.get() * BLOCK_SIZE
    }

    /// Whether the flushers should write its files back: its background limit was reached, and more than half of it is still dirty.
    #[must_use]
    pub fn over_background(&self) -> bool {
        self.0.limits.want_writeback(self.dirty_bytes())
    }

    /// What it has and has done.
    #[must_use]
    pub fn stats(&self) -> GroupStats {
        let (state, counts) = (&*self.0, &self.0.counts);
        GroupStats {
            name: state.name.clone(),
            limits: state.limits.get(),
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
            limits: Limits::new(limits),
            counts: Counts::default(),
            reclaim: Reclaim::for_pages(limits.budget.min(shared.limits.get().budget) / BLOCK_SIZE),
            throttle: Throttle::default(),
            stalls: Waits::default(),
            pauses: Waits::default(),
            written: AtomicU64::new(0),
            reclaimed: AtomicU64::new(0),
            tallies: Tallies::default(),
        });
        shared.add_group(&state);
        Group(state)
    }

    /// The memory that the group may have changed: reclaim measures itself by it.
    pub(crate) fn fit_reclaim(&self) {
        self.reclaim.fit(self.limits.pages().min(self.shared.limits.pages()));
    }

    /// Pages that the group has beyond what it may call its own.
    pub(crate) fn excess(&self) -> u64 {
        let limit = self.limits.get().budget;
        let own = if limit == u64::MAX { 0 } else { limit / BLOCK_SIZE };
        self.counts.pages.get().saturating_sub(own)
    }

    /// Frees clean pages of the group if `coming` new ones would exceed its limit.
    pub(crate) fn shrink_to_limit(&self, coming: u64) {
        let limit = self.limits.pages();
        let over = (self.counts.pages.get() + coming).saturating_sub(limit);
        if over > 0 {
            reclaim(self, over, crate::reclaim::beyond_slack(over, limit), coming);
        }
    }

    /// Whether the group is at its hard limit, as a writer of `share`, one of its own, sees it.
    pub(crate) fn is_full_for(&self, share: &Share) -> bool {
        let hard = self.limits.get().hard / BLOCK_SIZE;
        let full = |lost: u64| self.counts.unwritten().saturating_sub(lost) >= hard;
        full(0) && full(self.tallies.lost_to(share, Counts::unwritten))
    }
}

impl Drop for GroupState {
    fn drop(&mut self) {
        self.shared.drop_group();
    }
}

/// Whether a cache's dirty pages can be written.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// The last write failed.
    failing: AtomicBool,
    /// Nothing is written any more.
    ended: AtomicBool,
}

impl Health {
    /// Whether nobody but its own writers should wait for it.
    pub(crate) fn is_stuck(&self) -> bool {
        self.failing.load(Ordering::SeqCst) || self.ended.load(Ordering::SeqCst)
    }

    /// A write failed, or succeeded.
    pub(crate) fn note(&self, failed: bool) {
        if self.failing.load(Ordering::Relaxed) != failed {
            self.failing.store(failed, Ordering::SeqCst);
        }
    }

    /// Nothing is written any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

/// The counts of shares: of those of a group, or of all.
///
/// A writer who stands in a line looks at them under the line's lock. So there is nothing in them that takes a lock when it goes, as a group
/// does, which has the line look again.
#[derive(Debug, Default)]
pub(crate) struct Tallies(Mutex<Vec<(Arc<Health>, Weak<Counts>)>>);

impl Tallies {
    fn add(&self, share: &Share) {
        let mut tallies = self.0.lock();
        tallies.retain(|(_, counts)| counts.strong_count() > 0);
        tallies.push((Arc::clone(&share.health), Arc::downgrade(&share.counts)));
    }

    /// What `count` counts of volumes other than that of `share` that cannot write.
    pub(crate) fn lost_to(&self, share: &Share, count: impl Fn(&Counts) -> u64) -> u64 {
        let tallies = self.0.lock();
        let lost = tallies
            .iter()
            .filter(|(health, _)| !Arc::ptr_eq(health, &share.health) && health.is_stuck())
            .filter_map(|(_, counts)| counts.upgrade());
        lost.map(|counts| count(&counts)).sum()
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
        group.0.tallies.add(&share);
        group.0.shared.tallies.add(&share);
        share
    }

    /// As [`Tallies::lost_to`], for each write: in most budgets nothing ever failed, and nobody is asked.
    pub(crate) fn lost(&self, tallies: &Tallies, count: impl Fn(&Counts) -> u64) -> u64 {
        let failures = self.group.shared.failures.load(Ordering::SeqCst);
        if failures == 0 { 0 } else { tallies.lost_to(self, count) }
    }

    /// Accounts for the bits of a mask that were set or cleared.
    pub(crate) fn shift(&self, gauge: fn(&Counts) -> &Gauge, was: u32, now: u32) {
        for counts in [&*self.counts, &self.group.counts, &self.group.shared.counts] {
            gauge(counts).shift(was, now);
        }
    }

    /// The share of another group takes over `n` pages of this one.
    pub(crate) fn move_to(&self, other: &Self, gauge: fn(&Counts) -> &Gauge, n: u64) {
        gauge(&other.counts).add(n);
        gauge(&other.group.counts).add(n);
        gauge(&self.counts).sub(n);
        gauge(&self.group.counts).sub(n);
    }

    /// Some of what was unwritten is not any more, or is counted in one place only again.
    pub(crate) fn relieved(&self) {
        self.group.throttle.relieved();
        self.group.shared.throttle.relieved();
    }

    /// Whether the group has so little unwritten content that it goes on even when the budget is full.
    pub(crate) fn within_reserve(&self) -> bool {
        self.group.counts.unwritten() < self.group.shared.reserve()
    }

    /// Whether the budget's hard limit holds up the group.
    pub(crate) fn is_held_by_budget(&self) -> bool {
        self.group.shared.is_full_for(self) && !self.within_reserve()
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
        [&*share.counts, &share.group.counts, &share.group.shared.counts]
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
