//! Which pages of a group go when memory is full (stage 2): S3-FIFO, with queues of leaves and a count of uses for each page.
//!
//! * A page that comes into the cache is of the *small* queue. When its turn comes and it was used again, it is
//!   promoted; else it goes, and the ghost remembers its number.
//! * A page that comes back while the ghost remembers it is of the *main* queue at once.
//! * A page of the main queue whose turn comes goes if it was not used since the last turn; else its count is lowered, and
//!   it waits for another turn.
//! * The small queue gives pages as long as it has more than its share: a tenth of what the group may have, or what readahead needs.
//!
//! So what a scan touches once passes through the small queue, whatever its length, and the main queue is not even
//! looked at meanwhile.
//!
//! **Granularity.** Uses are counted, and pages dropped, one by one, as hot and cold pages lie side by side in one leaf.
//! What stands in the queues is leaves: neighbours mostly come together, and an entry of 8 bytes for 32 pages costs nothing,
//! while one for each page, with what it takes to find the page from there, would be most of what may be spent on
//! a page. A page that comes into a leaf that waits already, and would have its turn too early, waits for the leaf's next.
//!
//! **Nothing is lost, and nothing is looked at in vain.** A leaf stands in a queue if it has pages of that queue that could
//! go: clean ones, on which nobody works. It enters when a page becomes so ([`Reclaim::note`], under the leaf's mutex), and
//! is let go when its turn finds none; when writeback ends, or a lock, it enters again. So each turn frees a page, promotes
//! one, lowers the count of one, or is paid for by the event that put the leaf there: the cost is constant, amortised. When
//! much is hot, the turns that one call has ([`TURNS_PER_PAGE`]) may not be enough. Then the cache exceeds its budget for a while, by a
//! sixteenth at most: from there on the counts are ignored.
//!
//! **Groups.** Each has queues and a ghost of its own, so that what one reads leaves the others' queues alone; which group gives is decided
//! before ([`shrink`]).
//!
//! Lock order: a leaf's mutex > its mapping's `charging` > queues, ghost.

use std::cmp::Reverse;
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Weak};

use cowback_base::BLOCK_SIZE;
use cowback_base::sync::Mutex;
use cowback_base::sync::atomic::{AtomicU64, Ordering};

use crate::budget::Shared;
use crate::ghost::{Ghost, Key};
use crate::group::{GroupState, Share};
use crate::guard::LeafGuard;
use crate::leaf::{Leaf, LeafState, Masks};
use crate::level::Counts;
use crate::mapping::{CachePolicy, Mapping};

/// Entries of a queue from which on it is looked through for leaves that are gone, at least.
const PURGE_MIN: usize = 1024;

/// Turns that a call has for each page that it is to free, and at least: they bound the time that a writer spends here.
const TURNS_PER_PAGE: u64 = 16;
const TURNS_MIN: u64 = 256;

/// What the budget may be exceeded by before pages go that should stay: one part in so many of it.
const SLACK_SHARE: u64 = 16;

/// Pages to free at least, once reclaim runs; fewer if the cache is small.
const BATCH: u64 = 64;

/// The share of the small queue: one part in so many of the budget.
const SMALL_SHARE: u64 = 10;
/// Its least share, if that is not more than half of the budget: a reader's widest window of readahead, twice (8 MiB).
const SMALL_MIN: u64 = (8 << 20) / BLOCK_SIZE;

/// The state of the policy.
#[derive(Debug)]
pub(crate) struct Reclaim {
    queues: Mutex<Queues>,
    ghost: Mutex<Ghost>,
    /// Pages of the small queue from which on it gives.
    small_max: AtomicU64,
    batch: AtomicU64,
}

#[derive(Debug, Default)]
struct Queues {
    small: LeafQueue,
    main: LeafQueue,
}

/// Leaves in the order of their turns. None is in it twice, and some may be gone.
#[derive(Debug, Default)]
struct LeafQueue {
    leaves: VecDeque<Weak<Leaf>>,
    /// Entries from which on those that are gone are taken out: twice as many as were left when that was last done.
    purge_at: usize,
}

impl LeafQueue {
    fn push(&mut self, leaf: Weak<Leaf>) {
        if self.leaves.len() >= self.purge_at {
            self.leaves.retain(|leaf| leaf.strong_count() > 0);
            self.purge_at = 2 * self.leaves.len() + PURGE_MIN;
        }
        self.leaves.push_back(leaf);
    }
}

/// One of the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

impl Queues {
    fn queue(&mut self, which: Queue) -> &mut LeafQueue {
        match which {
            Queue::Small => &mut self.small,
            Queue::Main => &mut self.main,
        }
    }

    /// The leaf whose turn it is in queue `which`, or in the other one if that is empty.
    fn pop(&mut self, which: Queue) -> Option<(Queue, Weak<Leaf>)> {
        let other = if which == Queue::Small { Queue::Main } else { Queue::Small };
        let mut first = |which| Some((which, self.queue(which).leaves.pop_front()?));
        first(which).or_else(|| first(other))
    }
}

impl Reclaim {
    /// The policy of a group that may have so many pages.
    pub(crate) fn for_pages(pages: u64) -> Self {
        let policy = Self {
            queues: Mutex::default(),
            ghost: Mutex::new(Ghost::new(0)),
            small_max: AtomicU64::new(0),
            batch: AtomicU64::new(0),
        };
        policy.fit(pages);
        policy
    }

    /// The group may have so many pages from now on.
    pub(crate) fn fit(&self, pages: u64) {
        let small_max = (pages / SMALL_SHARE).max(SMALL_MIN.min(pages / 2));
        self.small_max.store(small_max, Ordering::Relaxed);
        self.batch.store((pages / 64).clamp(1, BATCH), Ordering::Relaxed);
        self.ghost.lock().resize(pages - small_max);
    }

    /// Leaves of a file that another group is given: they stand in that one's queues from now on. Their states do not change meanwhile.
    pub(crate) fn hand_over(&self, leaves: &HashSet<*const Leaf>, other: &Self) {
        for which in [Queue::Small, Queue::Main] {
            let given: VecDeque<_> = {
                let mut queues = self.queues.lock();
                let queue = &mut queues.queue(which).leaves;
                let (given, kept) = std::mem::take(queue)
                    .into_iter()
                    .partition(|leaf| leaves.contains(&leaf.as_ptr()));
                *queue = kept;
                given
            };
            let mut queues = other.queues.lock();
            given.into_iter().for_each(|leaf| queues.queue(which).push(leaf));
        }
    }

    /// Takes note of how the masks of a leaf changed from what they were. Called under the leaf's mutex, before the change
    /// is accounted for.
    pub(crate) fn note(
        &self,
        mapping: &Mapping,
        leaf: &Arc<Leaf>,
        state: &mut LeafState,
        was: &Masks,
    ) {
        let new = state.masks.uptodate & !was.uptodate;
        if new != 0 {
            state.masks.main |= self.ghost.lock().remembered(key(mapping, leaf)) & new;
        }
        let idle = state.masks.reclaimable() & !was.reclaimable();
        if idle != 0 {
            self.enter(leaf, state, idle);
        }
    }

    /// Has the leaf stand in the queues of its idle pages `idle`.
    fn enter(&self, leaf: &Arc<Leaf>, state: &mut LeafState, idle: u32) {
        let main = idle & state.masks.main;
        for (which, pages, queued) in [
            (Queue::Small, idle & !main, &mut state.queued.small),
            (Queue::Main, main, &mut state.queued.main),
        ] {
            if pages == 0 {
                continue;
            }
            if !std::mem::replace(queued, true) {
                self.queues.lock().queue(which).push(Arc::downgrade(leaf));
            } else if which == Queue::Small {
                state.heat.come_late(pages);
            }
        }
    }

    /// Bytes of queues and ghost, if an allocation of so many takes what `allocated` says.
    #[cfg(test)]
    pub(crate) fn bytes(&self, allocated: fn(usize) -> usize) -> usize {
        let queues = self.queues.lock();
        let entries = [queues.small.leaves.capacity(), queues.main.leaves.capacity()];
        let queues: usize =
            entries.into_iter().map(|entries| allocated(entries * size_of::<Weak<Leaf>>())).sum();
        queues + self.ghost.lock().bytes(allocated)
    }

    /// How often each leaf that is alive stands in the queues, small and main.
    #[cfg(test)]
    pub(crate) fn standing(&self) -> std::collections::HashMap<*const Leaf, (u32, u32)> {
        let queues = self.queues.lock();
        let mut standing = std::collections::HashMap::<_, (u32, u32)>::new();
        let alive = |leaf: &Weak<Leaf>| leaf.upgrade().filter(|leaf| !leaf.state.lock().dead);
        for leaf in queues.small.leaves.iter().filter_map(alive) {
            standing.entry(Arc::as_ptr(&leaf)).or_default().0 += 1;
        }
        for leaf in queues.main.leaves.iter().filter_map(alive) {
            standing.entry(Arc::as_ptr(&leaf)).or_default().1 += 1;
        }
        standing
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let queues = self.queues.lock();
        queues.small.leaves.len() + queues.main.leaves.len()
    }

    /// The queue that has to give a page now, if so many come.
    fn giver(&self, counts: &Counts, coming: u64) -> Queue {
        let small = counts.pages.get().saturating_sub(counts.main.get());
        let small_max = self.small_max.load(Ordering::Relaxed);
        if small + coming > small_max { Queue::Small } else { Queue::Main }
    }
}

fn key(mapping: &Mapping, leaf: &Leaf) -> Key {
    (mapping.serial(), leaf.number)
}

/// Of `over` pages that exceed a limit of so many, those that must go even if they are hot.
pub(crate) fn beyond_slack(over: u64, limit: u64) -> u64 {
    over.saturating_sub(limit / SLACK_SHARE)
}

/// Frees clean pages if `coming` new ones of a group would exceed its limit, or the budget.
pub(crate) fn make_room(share: &Share, coming: u64) {
    let group = &share.group;
    group.shrink_to_limit(coming);
    let limit = group.shared.level.limits.pages();
    let over = (group.shared.level.counts.pages.get() + coming).saturating_sub(limit);
    if over > 0 {
        shrink(&group.shared, Some(group), over, beyond_slack(over, limit), coming);
    }
}

/// Frees about `want` pages of a budget, `must` of them even if all that could go is hot, for `coming` new ones of `newcomer`. Gives how
/// many it freed.
///
/// The groups that exceed most what they may call their own give first, and no more than they exceed it, so that they become equal; if
/// none does, the newcomer, then the largest.
pub(crate) fn shrink(
    shared: &Shared,
    newcomer: Option<&Arc<GroupState>>,
    want: u64,
    must: u64,
    coming: u64,
) -> u64 {
    let mut groups = shared.groups();
    let is_newcomer = |group: &Arc<GroupState>| newcomer.is_some_and(|new| Arc::ptr_eq(group, new));
    let coming_to = |group: &Arc<GroupState>| if is_newcomer(group) { coming } else { 0 };
    if let [group] = &groups[..] {
        return reclaim(group, want, must, coming_to(group));
    }
    let claim = |group: &Arc<GroupState>| {
        (group.excess(), is_newcomer(group), group.level.counts.pages.get())
    };
    groups.sort_by_cached_key(|group| Reverse(claim(group)));
    let mut freed = 0;
    for gentle in [true, false] {
        let goal = if gentle { want } else { must };
        for group in &groups {
            if freed >= goal {
                break;
            }
            let give = match group.excess() {
                0 => goal - freed,
                excess => (goal - freed).min(excess),
            };
            freed += reclaim(group, give, if gentle { 0 } else { give }, coming_to(group));
        }
    }
    freed
}

/// Frees about `want` pages of a group, so that `coming` new ones can come; `must` of them even if all that could go is hot. Gives how
/// many it freed.
pub(crate) fn reclaim(group: &GroupState, want: u64, must: u64, coming: u64) -> u64 {
    let policy = &group.reclaim;
    let want = want.max(policy.batch.load(Ordering::Relaxed));
    let mut freed = 0;
    let turns = want.saturating_mul(TURNS_PER_PAGE).max(TURNS_MIN);
    for turn in 0..turns.saturating_mul(2) {
        let gentle = turn < turns;
        if freed >= if gentle { want } else { must } {
            break;
        }
        let giver = policy.giver(&group.level.counts, coming);
        let Some((queue, leaf)) = policy.queues.lock().pop(giver) else { break };
        let Some(leaf) = leaf.upgrade() else { continue };
        let Some(mapping) = leaf.mapping.upgrade() else { continue };
        freed += visit(policy, &mapping, &leaf, queue, gentle);
    }
    group.reclaimed.fetch_add(freed, Ordering::Relaxed);
    freed
}

/// It is the leaf's turn in `queue` of `policy`. Gives how many pages went.
fn visit(policy: &Reclaim, mapping: &Mapping, leaf: &Arc<Leaf>, queue: Queue, gentle: bool) -> u64 {
    let mut guard = LeafGuard::new(mapping, leaf);
    if guard.dead {
        return 0;
    }
    let idle = guard.masks.reclaimable();
    let cached = mapping.policy() != CachePolicy::Uncached;
    let used = if gentle && cached { guard.heat.used() } else { 0 };
    let main = idle & guard.masks.main;
    let (gone, stay) = match queue {
        Queue::Small => {
            guard.queued.small = false;
            let late = if gentle { guard.heat.take_late() } else { 0 };
            let small = idle & !main;
            guard.masks.main |= small & used;
            guard.heat.reset(small & used);
            let gone = small & !used & !late;
            if cached {
                policy.ghost.lock().remember(key(mapping, leaf), gone);
            }
            (gone, small & !gone)
        }
        Queue::Main => {
            guard.queued.main = false;
            guard.heat.cool(main & used);
            (main & !used, main & used)
        }
    };
    let unused = guard.remove(gone);
    // The file may have been given to another group since the leaf's turn came: it stands there now.
    let charging = mapping.charging.read();
    mapping.share.load().group.reclaim.enter(leaf, &mut guard, stay);
    drop(charging);
    let empty = guard.masks.is_empty();
    drop(guard);
    if empty {
        mapping.drop_if_empty(leaf.number);
    }
    mapping.cache.pool().give(unused);
    let gone = u64::from(gone.count_ones());
    mapping.cache.gauges.reclaimed.add(gone);
    gone
}

#[cfg(test)]
#[path = "reclaim_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "reclaim_policy_tests.rs"]
mod policy_tests;
