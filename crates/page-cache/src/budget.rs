//! A budget of memory and of unwritten content, for the caches of any number of volumes (stage 1 and 2).
//!
//! Everything in it belongs to a [`Group`]; what has not been given to another is the root group's. The limits of a group hold for it
//! alone; those of the budget for all groups together, as follows.
//!
//! * **Memory.** When the budget is full, that group gives which exceeds most what it may call its own: its own limit, or nothing if
//!   it has none. So long as some group does, none loses a page that is within its own limit. If the limits of all groups add up to more
//!   than the budget, the group that wants more gives first.
//! * **Unwritten content.** At the hard limit writers wait in one line. A part of the limit is set aside, though: a group that has
//!   little unwritten content ([`Shared::reserve`]) goes on. So the budget may be exceeded by a half, and nobody is held up
//!   by what others do until he runs ahead of the disk himself.
//! * **What cannot be written** because its volume fails or has ended is that volume's own affair: see [`crate::level`].

use std::fmt;
use std::sync::{Arc, Weak};

use cowback_base::BLOCK_SIZE;
use cowback_base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use cowback_base::sync::{ArcSwap, Mutex};

use crate::cache::PageCache;
use crate::group::{Group, GroupState};
use crate::level::Level;
use crate::limits::CacheLimits;
use crate::pool::FramePool;
use crate::reclaim::shrink;

/// A handle to a budget of memory, which the caches of several volumes may share, and whose groups share it in turn. A clone is the same
/// budget.
///
/// ```
/// use cowback_page_cache::{Budget, CacheLimits, PageCache};
///
/// let budget = Budget::new(CacheLimits::for_budget(64 << 20));
/// let tenant = budget.group("tenant", CacheLimits::for_budget(8 << 20));
/// let file = PageCache::in_group(&tenant).mapping(257); // belongs to the tenant
/// file.set_group(&budget.root()); // not any more
/// assert_eq!(tenant.stats().cached, 0);
/// ```
#[derive(Clone)]
pub struct Budget(pub(crate) Arc<Shared>);

/// What the caches and groups of a budget share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) level: Level,
    /// Whether any cache ever could not write.
    pub(crate) any_stuck: Arc<AtomicBool>,
    /// Writes that failed, in whichever cache.
    pub(crate) failures: AtomicU64,
    pub(crate) pool: FramePool,
    serial: AtomicU64,
    /// All groups, and the root group: that may be gone when nobody uses it, and comes again.
    groups: ArcSwap<Vec<Weak<GroupState>>>,
    root: Mutex<Weak<GroupState>>,
    group_count: AtomicU64,
    caches: ArcSwap<Vec<Weak<PageCache>>>,
    /// Held by who changes `groups` or `caches`.
    changing: Mutex<()>,
}

impl Budget {
    /// A budget with nothing in it.
    #[must_use]
    pub fn new(limits: CacheLimits) -> Self {
        Self(Arc::new(Shared {
            level: Level::new(limits),
            any_stuck: Arc::default(),
            failures: AtomicU64::new(0),
            pool: FramePool::for_budget(limits.budget),
            serial: AtomicU64::new(0),
            groups: ArcSwap::new(Arc::default()),
            root: Mutex::default(),
            group_count: AtomicU64::new(0),
            caches: ArcSwap::new(Arc::default()),
            changing: Mutex::new(()),
        }))
    }

    /// A new group with limits of its own, within those of the budget. `name` is for people; two groups may have the same. The group is
    /// there as long as there is a handle to it, or a file that belongs to it.
    #[must_use]
    pub fn group(&self, name: impl Into<String>, limits: CacheLimits) -> Group {
        GroupState::create(&self.0, name.into(), limits)
    }

    /// The group of all that was not given to another. It has no limits but those of the budget.
    #[must_use]
    pub fn root(&self) -> Group {
        let mut root = self.0.root.lock();
        if let Some(state) = root.upgrade() {
            return Group(state);
        }
        let group = GroupState::create(&self.0, "root".to_owned(), CacheLimits::UNLIMITED);
        *root = Arc::downgrade(&group.0);
        group
    }

    /// The groups, oldest first.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        self.0.groups().into_iter().map(Group).collect()
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> CacheLimits {
        self.0.level.limits.get()
    }

    /// Sets other limits. Clean pages that are too many now go at once; if there is more dirty than they allow, writeback starts now:
    /// for a volume without a thread of its own, by this call.
    pub fn set_limits(&self, limits: CacheLimits) {
        self.0.level.limits.set(limits);
        for group in self.0.groups() {
            group.fit_reclaim();
        }
        let over = self.0.level.counts.pages.get().saturating_sub(self.0.level.limits.pages());
        if over > 0 {
            shrink(&self.0, None, over, over, 0);
        }
        self.0.wake_all();
        self.start_writeback(None);
    }

    /// Frees clean pages of about `bytes` bytes, as memory is needed elsewhere. Gives how many bytes it freed: fewer if there are no more
    /// that are clean and not in use.
    pub fn reclaim(&self, bytes: u64) -> u64 {
        let pages = bytes.div_ceil(BLOCK_SIZE);
        if pages == 0 { 0 } else { shrink(&self.0, None, pages, pages, 0) * BLOCK_SIZE }
    }

    /// Bytes of content in memory.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.0.level.counts.pages.get() * BLOCK_SIZE
    }

    /// Bytes that are newer than what is on disk or on its way there.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.0.level.counts.dirty.get() * BLOCK_SIZE
    }

    /// Bytes that are not on disk: dirty, frozen, or under writeback.
    #[must_use]
    pub fn unwritten_bytes(&self) -> u64 {
        self.0.level.counts.unwritten() * BLOCK_SIZE
    }

    /// Has the flushers of all caches that have dirty pages, and can write, start; that of `own` in any case.
    pub(crate) fn start_writeback(&self, own: Option<&PageCache>) {
        if let Some(own) = own {
            own.start_flusher();
        }
        if own.is_some() && self.0.caches.load().len() == 1 {
            return;
        }
        for cache in self.0.caches() {
            let is_own = own.is_some_and(|own| std::ptr::eq(own, &raw const *cache));
            if !is_own && !cache.is_stuck() && cache.has_dirty() {
                cache.start_flusher();
            }
        }
    }
}

impl Shared {
    /// A number for a mapping, never given twice.
    pub(crate) fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// All groups, oldest first.
    pub(crate) fn groups(&self) -> Vec<Arc<GroupState>> {
        self.groups.load().iter().filter_map(Weak::upgrade).collect()
    }

    fn caches(&self) -> Vec<Arc<PageCache>> {
        self.caches.load().iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn add_group(&self, group: &Arc<GroupState>) {
        self.group_count.fetch_add(1, Ordering::SeqCst);
        self.change(&self.groups, Some(Arc::downgrade(group)));
    }

    /// A group is gone.
    pub(crate) fn drop_group(&self) {
        self.group_count.fetch_sub(1, Ordering::SeqCst);
        self.change(&self.groups, None);
        self.wake_all();
    }

    pub(crate) fn add_cache(&self, cache: &Arc<PageCache>) {
        self.change(&self.caches, Some(Arc::downgrade(cache)));
    }

    /// A cache is gone.
    pub(crate) fn drop_cache(&self) {
        self.change(&self.caches, None);
    }

    /// Adds to one of the lists, and takes out what is gone.
    fn change<T>(&self, list: &ArcSwap<Vec<Weak<T>>>, new: Option<Weak<T>>) {
        let _changing = self.changing.lock();
        let old = list.load();
        let alive = old.iter().filter(|entry| entry.strong_count() > 0).cloned().chain(new);
        list.store(Arc::new(alive.collect()));
    }

    /// Whether all that is in the budget is of one group. Who has to do with another one knows that it is there.
    pub(crate) fn has_one_group(&self) -> bool {
        self.group_count.load(Ordering::Relaxed) <= 1
    }

    /// Unwritten pages with which a group goes on though the budget is at its hard limit: each group's part of a half of that.
    pub(crate) fn reserve(&self) -> u64 {
        let groups = self.group_count.load(Ordering::SeqCst).max(1);
        self.level.limits.get().hard / BLOCK_SIZE / 2 / groups
    }

    /// Has all who wait look again.
    pub(crate) fn wake_all(&self) {
        self.level.throttle.wake_all();
        self.groups().iter().for_each(|group| group.level.throttle.wake_all());
    }
}

impl PartialEq for Budget {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Budget {}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("limits", &self.limits())
            .field("cached", &self.cached_bytes())
            .field("unwritten", &self.unwritten_bytes())
            .finish_non_exhaustive()
    }
}
