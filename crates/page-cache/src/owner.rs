//! To whom the pages of a file are charged, and what that means for who writes to it (stage 1 and 2).
//!
//! Whoever charges a page to the share that a mapping belongs to holds the mapping's `charging` meanwhile, shared. So a file is given to
//! another group in one step, between two charges: its cached and dirty pages go along, and its leaves change the queues of
//! reclaim. To look at limits takes no lock: who looks may see the share that was.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use cowback_base::sync::atomic::Ordering;

use crate::group::{Group, GroupState, Share};
use crate::mapping::Mapping;
use crate::reclaim::make_room;

impl Mapping {
    /// The group that the file belongs to.
    #[must_use]
    pub fn group(&self) -> Group {
        Group(Arc::clone(&self.share.load().group))
    }

    /// Whether the file belongs to `group`.
    #[must_use]
    pub fn belongs_to(&self, group: &Group) -> bool {
        self.is_of(&group.0)
    }

    pub(crate) fn is_of(&self, group: &Arc<GroupState>) -> bool {
        Arc::ptr_eq(&self.share.load().group, group)
    }

    /// Gives the file to another group, which is charged for its cached and dirty pages from now on. What is on its way to disk stays
    /// charged to the group that it was taken from. Takes time in proportion to what is cached of the file, and of the old group.
    ///
    /// # Panics
    /// If the group is one of another budget.
    pub fn set_group(&self, group: &Group) {
        assert!(group.budget() == self.cache.budget(), "a file was given to another budget");
        let to = self.cache.share_of(group);
        let from = {
            let _charging = self.charging.write();
            let share = self.share();
            if Arc::ptr_eq(&share, &to) {
                return;
            }
            let (pages, main) = (self.pages.get(), self.main.get());
            share.move_to(&to, |counts| &counts.pages, pages);
            share.move_to(&to, |counts| &counts.main, main);
            share.move_to(&to, |counts| &counts.dirty, self.dirty_count());
            let leaves = self.every_leaf();
            // One without a page may stand in line as well, and gets pages again.
            if !leaves.is_empty() {
                let leaves: HashSet<_> = leaves.iter().map(Arc::as_ptr).collect();
                share.group.reclaim.hand_over(&leaves, &to.group.reclaim);
            }
            self.share.store(Arc::clone(&to));
            share
        };
        from.relieved();
        make_room(&to, 0);
    }

    /// The share that the file belongs to now.
    pub(crate) fn share(&self) -> Arc<Share> {
        Arc::clone(&self.share.load())
    }

    /// Frees clean pages if `more` new ones would exceed the limit of the file's group, or the budget.
    pub(crate) fn make_room(&self, more: u64) {
        if !self.has_room(more) {
            make_room(&self.share(), more);
        }
    }

    /// Whether so many pages more are within the limits, without any having to go.
    #[must_use]
    pub fn has_room(&self, pages: u64) -> bool {
        let share = self.share.load();
        share.levels().iter().all(|level| level.counts.pages.get() + pages <= level.limits.pages())
    }

    /// Bytes that may be cached of the file, if nothing else is.
    #[must_use]
    pub fn memory_limit(&self) -> u64 {
        let [of_group, of_all] = self.share.load().levels().map(|level| level.limits.get().budget);
        of_group.min(of_all)
    }

    // ---- dirty limits ----

    /// Whether so much is dirty, of the file's group or in all, that the flushers should run.
    #[must_use]
    pub fn over_background(&self) -> bool {
        let share = self.share.load();
        share.levels().iter().any(|level| level.wants_writeback(&share.health))
    }

    /// Has the flushers of all who have dirty pages in the budget start.
    pub fn start_writeback(&self) {
        self.cache.budget().start_writeback(Some(&self.cache));
    }

    /// Writes that failed, in whichever cache of the budget. Who waits for room that such a write would have made has to start writeback again:
    /// nobody else may.
    #[must_use]
    pub fn failures_of_all(&self) -> u64 {
        self.cache.budget().0.failures.load(Ordering::SeqCst)
    }

    /// Whether who writes to the file has to wait: its group or the budget is at its hard limit, or others wait for that already.
    #[must_use]
    pub fn must_wait(&self) -> bool {
        let share = self.share.load();
        let [group, all] = share.levels();
        group.throttle.is_taken()
            || group.is_full_for(&share.health)
            || share.is_held_by_budget()
            || all.throttle.is_taken() && !share.within_reserve()
    }

    /// Waits as long as too much is unwritten, of the file's group or in all, and `give_up` does not hold. Gives whether its turn came.
    /// The caller holds no page lock and no reservation (law R1), and somebody else writes pages back. Who makes `give_up`
    /// hold calls [`crate::PageCache::wake_throttled`].
    pub fn throttle(&self, give_up: impl Fn() -> bool) -> bool {
        let share = self.share();
        let [group, all] = share.levels();
        let below = || !group.is_full_for(&share.health);
        let (in_group, mut its_turn) = group.throttle.wait(below, &give_up);
        let mut in_all = Duration::ZERO;
        if its_turn {
            let below = || !share.is_held_by_budget();
            // Who is within its reserve does not stand in line.
            let pass = || share.within_reserve() || give_up();
            (in_all, its_turn) = all.throttle.wait(below, pass);
            its_turn |= share.within_reserve();
        }
        share.group.stalls.note(in_group + in_all);
        self.cache.stalls.note(in_group + in_all);
        its_turn
    }

    /// How long to hold up one who wrote `bytes` to the file, so that he does not run into the hard limit.
    #[must_use]
    pub fn pause_for(&self, bytes: u64) -> Duration {
        let share = self.share.load();
        let [of_group, of_all] = share.levels().map(|level| level.pause_for(&share.health, bytes));
        if of_all > of_group && !share.within_reserve() { of_all } else { of_group }
    }

    /// Who wrote to the file was held up for so long.
    pub fn paused(&self, pause: Duration) {
        self.share.load().group.pauses.note(pause);
        self.cache.pauses.note(pause);
    }
}
