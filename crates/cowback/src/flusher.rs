//! When dirty data is written back (the door between stages 2 and 3).
//!
//! Nodes stand in a line in the order in which they became dirty. Above the background limit they are written, by the background thread
//! if the volume has one, else by the writer that crosses the limit: then what is written when depends on the calls alone (law R3). If it is
//! a group's limit, only that group's nodes are.
//!
//! Each node has its turn: some of its pages are written, from where its last turn ended, and if it is dirty still it goes to the end of the line.
//! So a large file does not keep the others waiting, and each page of it comes by before the first one comes by again.
//!
//! A budget that several volumes share is relieved by all of them: the writer that crosses its limit has each that has dirty data write it
//! back, on that volume's thread if it has one.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use cowback_async_cow::AsyncCow;
use cowback_base::sync::atomic::Ordering;
use cowback_base::sync::{Mutex, RwLockReadGuard};
use cowback_base::{BLOCK_SIZE, Ino};
use cowback_extent_io::writepages::RUN_PAGES_MAX;
use cowback_extent_io::{DelallocRun, DelallocSink, WritebackControl, writepages};
use cowback_page_cache::{DirtyLimit, Flusher};

use crate::error::{Error, Result};
use crate::inner::Inner;
use crate::node::Node;
use crate::pace::Pace;
use crate::trace;

/// Pages of a turn: two of the longest runs (16 MiB).
const TURN_PAGES: u64 = 2 * RUN_PAGES_MAX;

/// Nodes that are looked at, for one that is wanted, before others get at the list.
const LOOKED_AT_MAX: usize = 1024;

/// How often a writer at the hard limit sees writeback fail before its write is told so.
const TRIES: u32 = 2;

/// The nodes that may be dirty, oldest first. A dirty node is on the list, or is being written by whoever took it off.
#[derive(Debug, Default)]
pub(crate) struct DirtyList {
    nodes: Mutex<Listed>,
}

#[derive(Debug, Default)]
struct Listed {
    /// By their place in the line.
    nodes: BTreeMap<u64, Arc<Node>>,
    last: u64,
}

impl DirtyList {
    /// The node was written to.
    pub(crate) fn add(&self, node: &Arc<Node>) {
        if node.listed.load(Ordering::Acquire) != 0 {
            return; // whoever takes it off looks at its pages after that
        }
        let mut listed = self.nodes.lock();
        if node.listed.load(Ordering::Acquire) == 0 {
            listed.last += 1;
            node.listed.store(listed.last, Ordering::Release);
            let place = listed.last;
            listed.nodes.insert(place, Arc::clone(node));
        }
    }

    /// Takes a node off the list. Who does looks at its pages after that, or has thrown them away: a write that comes now lists it again.
    pub(crate) fn take(&self, node: &Node) {
        let mut listed = self.nodes.lock();
        let place = node.listed.swap(0, Ordering::AcqRel);
        listed.nodes.remove(&place);
    }

    /// Takes the first node behind place `after`, up to place `last`, that is `wanted` off the list. Gives its place too.
    fn take_next(
        &self,
        mut after: u64,
        last: u64,
        wanted: impl Fn(&Node) -> bool,
    ) -> Option<(u64, Arc<Node>)> {
        while after < last {
            let mut listed = self.nodes.lock();
            let mut found = None;
            // A writer may want the list: a long way to a wanted node is gone in steps.
            for (place, node) in listed.nodes.range(after + 1..=last).take(LOOKED_AT_MAX) {
                after = *place;
                if wanted(node) {
                    found = Some(after);
                    break;
                }
            }
            if let Some(node) = found.and_then(|place| listed.nodes.remove(&place)) {
                // Cleared before its pages are looked at: a write that comes now lists it again.
                node.listed.store(0, Ordering::Release);
                return Some((after, node));
            }
            listed.nodes.range(after + 1..=last).next()?;
        }
        None
    }

    /// The last place in the line. Who is listed from now on comes behind it.
    fn last(&self) -> u64 {
        self.nodes.lock().last
    }
}

/// Lists a node that was taken off the list, if its writeback panics: a commit must not go without it.
struct ListedAfterPanic<'a> {
    list: &'a DirtyList,
    node: &'a Arc<Node>,
}

impl Drop for ListedAfterPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.list.add(self.node);
        }
    }
}

impl Inner {
    /// Called after each write, with no lock held: starts writeback above the background limits, slows the writer down on the way to the hard
    /// ones, and waits there. `pace` is the writer's, who wrote `bytes`.
    ///
    /// # Errors
    /// The cache is full of what cannot be written, or the volume takes no more writes. What was written is in the cache.
    pub(crate) fn balance_dirty_pages(&self, node: &Node, pace: &Pace, bytes: u64) -> Result<()> {
        let mapping = node.io.mapping();
        if mapping.over_background()
            && self.retry.may_start(self.errors.count(), || self.unwritten())
        {
            mapping.start_writeback();
        }
        if !mapping.must_wait() {
            pace.hold_up(mapping, bytes);
            return Ok(());
        }
        let mut failed = 0;
        loop {
            self.check_writable()?;
            let _span = trace::stall();
            let (failures, of_all) = (self.errors.count(), mapping.failures_of_all());
            if self.background.is_none() {
                self.flush_over_limits(self.flush_gate.read());
            }
            mapping.start_writeback();
            let give_up = || mapping.failures_of_all() != of_all || self.check_writable().is_err();
            if mapping.throttle(give_up) || !mapping.must_wait() {
                return Ok(());
            }
            if self.errors.count() != failures {
                failed += 1;
                if let Some(error) = self.errors.latest().filter(|_| failed >= TRIES) {
                    return Err(Error::Store(error));
                }
            }
        }
    }

    /// Writes back the oldest dirty files of each group that is over its background limit, and of all if the budget is, until half of that
    /// is left. The flush gate is held, so that no commit takes its cut meanwhile.
    pub(crate) fn flush_over_limits(&self, flushing: RwLockReadGuard<'_, ()>) {
        self.retry.begins(self.errors.count(), self.unwritten());
        self.list_failed();
        let limits = self.cache.dirty_limits();
        for limit in &limits {
            if limit.is_over() {
                self.flush_below(limit);
            }
        }
        limits.iter().for_each(DirtyLimit::note_relief);
        drop(flushing);
    }

    /// Writes back the listed nodes that count for `limit`, in turns, until enough of what is dirty is, or as much was written as was dirty: what
    /// fails is dirty again.
    ///
    /// The background thread passes by what it would have to wait for, as others may be ready; only if nobody is does it wait.
    fn flush_below(&self, limit: &DirtyLimit<'_>) {
        let target = limit.enough_below();
        let wanted = |node: &Node| limit.covers(node.io.mapping());
        let _span = trace::flush(target);
        let passes_by = self.background.is_some();
        let most = limit.dirty_bytes() / BLOCK_SIZE;
        // Rounds of the line in which nothing was sent, and where the present one ends.
        let (mut sent, mut at, mut idle, mut round) = (0, 0, 0, self.dirty.last());
        while limit.dirty_bytes() >= target && sent < most {
            let Some((place, node)) = self.dirty.take_next(at, u64::MAX, wanted) else { return };
            at = place;
            if place > round {
                (idle, round) = (idle + 1, self.dirty.last());
            }
            if idle > u32::from(passes_by) {
                return self.dirty.add(&node); // nobody has anything that could be written
            }
            let control = if passes_by && idle == 0 {
                WritebackControl::background(TURN_PAGES)
            } else {
                WritebackControl::turn(TURN_PAGES)
            };
            let pages = self.write_back_to(&node, &control, &self.engine);
            if node.io.mapping().dirty_count() > 0 {
                self.dirty.add(&node);
            }
            if pages > 0 {
                (sent, idle, round) = (sent + pages, 0, self.dirty.last());
            }
        }
    }

    /// Bytes of the volume's files that are not on disk.
    fn unwritten(&self) -> u64 {
        let cache = self.cache.stats();
        (cache.dirty + cache.frozen + cache.writeback) * BLOCK_SIZE
    }

    /// Data whose writeback failed is dirty again without having been listed: lists it.
    fn list_failed(&self) {
        let failures = self.errors.count();
        if self.failures_seen.swap(failures, Ordering::AcqRel) != failures {
            for node in self.nodes.all() {
                if node.io.mapping().dirty_count() > 0 {
                    self.dirty.add(&node);
                }
            }
        }
    }

    /// Writes back every listed node, and those whose writeback failed before.
    pub(crate) fn flush_all<S: DelallocSink>(&self, sink: &S) {
        self.retry.begins(self.errors.count(), self.unwritten());
        self.list_failed();
        let (mut at, last) = (0, self.dirty.last());
        while let Some((place, node)) = self.dirty.take_next(at, last, |_| true) {
            at = place;
            self.write_back_to(&node, &WritebackControl::sync_all(), sink);
        }
    }

    /// Sends the dirty pages of one file on their way, and remembers it if its attributes are to be written. The flush gate is held, so that no
    /// commit misses on its list what is being sent here.
    pub(crate) fn write_back(&self, node: &Arc<Node>) {
        self.dirty.take(node);
        self.write_back_to(node, &WritebackControl::sync_all(), &self.engine);
    }

    /// Sends the pages that `control` names, and gives how many.
    fn write_back_to<S: DelallocSink>(
        &self,
        node: &Arc<Node>,
        control: &WritebackControl,
        sink: &S,
    ) -> u64 {
        let _listed = ListedAfterPanic { list: &self.dirty, node };
        let sent = writepages(&node.io, control, sink);
        let mut meta_dirty = self.meta_dirty.lock();
        // Looked at under that lock: a node that is thrown away loses its attributes first, and its place here then.
        if !node.attrs.is_clean() {
            meta_dirty.insert(node.io.ino(), Arc::clone(node));
        }
        sent
    }
}

/// The flusher of a volume that has no thread for it: whoever calls does the work.
#[derive(Debug)]
pub(crate) struct FlushByCaller(pub(crate) Weak<Inner>);

impl Flusher for FlushByCaller {
    fn start(&self) {
        if let Some(inner) = self.0.upgrade()
            // A commit that is taking its cut writes everything back anyway, and looks at the limits when it is done.
            && let Some(flushing) = inner.flush_gate.try_read()
        {
            inner.flush_over_limits(flushing);
        }
    }
}

/// Nodes whose inode items are to be written, by number.
pub(crate) type MetaDirty = BTreeMap<Ino, Arc<Node>>;

/// What a commit's cut has frozen: it is sent on its way when writers go on.
///
/// The runs wait for room with their pages locked, against the letter of law R1. Its reason holds: who gives room back completes extents, and
/// needs no page lock for that; and who waits for these locks, a truncate, or a write to a part of a page that had to be read first, holds
/// nothing that the commit waits for from here on.
#[derive(Debug, Default)]
pub(crate) struct FrozenRuns {
    runs: Mutex<Vec<DelallocRun>>,
}

impl DelallocSink for FrozenRuns {
    type Credit = ();

    fn admit(&self) {}

    fn submit(&self, run: DelallocRun, (): ()) {
        self.runs.lock().push(run);
    }
}

impl FrozenRuns {
    /// Sends all of it to `engine`, in the order in which it came.
    pub(crate) fn submit_to(self, engine: &AsyncCow) {
        for run in self.runs.into_inner() {
            engine.submit(run, engine.admit());
        }
    }
}
