//! The commit (stage 9), from the volume's side (laws D1 and D2).
//!
//! 1. Everything that is dirty is sent on its way and waited for, and most of it entered into the trees, with writers going on.
//! 2. The cut: writers wait while what they dirtied meanwhile is frozen, and the sizes of files with it: for as long as it takes to clone
//!    references to pages, and for no compression and no IO. A write that returned before the cut is in this commit; one that begins after it is
//!    not, as no new writeback starts before the trees are captured.
//! 3. What was frozen is sent on its way. Queued chunks and ordered extents are waited for (R5), the inode items written, the store's transaction captured.
//! 4. Changes of names and writeback go on, into the next transaction, and this one is made durable.
//!
//! There is no log tree: a sync of a file is a commit, shared by all who ask while one is running.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cowback_base::planted;
use cowback_base::sync::atomic::Ordering;
use cowback_base::sync::{Condvar, Mutex, give_way};
use cowback_block_store::Store;
use cowback_block_store::namespace::{NamespaceError, Timespec};
use cowback_extent_io::{StoreError, StoreResult};
use cowback_page_cache::DirtyLimit;

use crate::error::{Error, Result};
use crate::flusher::FrozenRuns;
use crate::inner::Inner;
use crate::node::Node;
use crate::trace;

/// The longest that changes of names are kept from beginning by the work ahead of a commit, but for what they are kept by one that has begun.
const AHEAD_TURN_MAX: Duration = Duration::from_millis(100);

/// Lets many who want a commit share one: one of them leads, and the others wait until it has ended. Those whom it covers go then, and of the
/// rest one leads the next.
#[derive(Debug, Default)]
pub(crate) struct CommitGroup {
    /// Held by the one that commits.
    running: Mutex<()>,
    state: Mutex<GroupState>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct GroupState {
    /// Somebody leads a commit, or is about to.
    led: bool,
    begun: u64,
    /// The last commit that succeeded, by its number of beginning; and its generation.
    done: u64,
    generation: u64,
}

/// What writers do while the trees are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writers {
    /// They go on, into the next commit.
    GoOn,
    /// They wait.
    Wait,
}

/// Has writers go on who came upon the gates of a commit, or wait for what it made room for, however it ends: by a panic, too.
struct WakeWriters<'a>(&'a Inner);

impl Drop for WakeWriters<'_> {
    fn drop(&mut self) {
        let cache = &self.0.cache;
        if cache.dirty_limits().iter().any(DirtyLimit::is_over) {
            cache.start_flusher();
        }
        cache.wake_throttled();
    }
}

/// Has those go on who waited for a commit that is led, however it ends: by a panic, too.
struct Leads<'a>(&'a CommitGroup);

/// What comes of asking for a commit.
enum Lead<'a> {
    /// The one who asks makes it.
    Leads(Leads<'a>),
    /// It was made, and is of this generation.
    Done(u64),
}

impl Drop for Leads<'_> {
    fn drop(&mut self) {
        self.0.state.lock().led = false;
        self.0.ended.notify_all();
    }
}

impl CommitGroup {
    /// Leads a commit, or waits until one that began after this call has succeeded: then there is nothing to lead, and it gives the generation that
    /// was durable last.
    fn lead(&self) -> Lead<'_> {
        let mut state = self.state.lock();
        let wanted = state.begun + 1;
        loop {
            if state.done >= wanted {
                return Lead::Done(state.generation);
            }
            if !state.led {
                break;
            }
            self.ended.wait(&mut state);
        }
        state.led = true;
        Lead::Leads(Leads(self))
    }
}

impl Inner {
    /// Makes every write and change that returned before this call durable. Returns the generation that holds them.
    pub(crate) fn commit(&self) -> Result<u64> {
        let _leads = match self.commits.lead() {
            Lead::Leads(leads) => leads,
            Lead::Done(generation) => return Ok(generation),
        };
        let _running = self.commits.running.lock();
        // Whoever asks from here on is not covered.
        let number = {
            let mut state = self.commits.state.lock();
            state.begun += 1;
            state.begun
        };
        let generation =
            self.timed(|| Ok(self.take_cut(Writers::GoOn, Store::capture)?.write()?))?;
        let mut state = self.commits.state.lock();
        (state.done, state.generation) = (number, generation);
        Ok(generation)
    }

    /// Makes a commit of everything by `commit`, which may do more to the store, and keeps everybody out until it has ended.
    pub(crate) fn commit_by<T>(&self, commit: impl FnOnce(&Store) -> StoreResult<T>) -> Result<T> {
        let _running = self.commits.running.lock();
        self.timed(|| self.take_cut(Writers::Wait, commit))
    }

    /// Goes on after the store has stopped.
    pub(crate) fn try_resume(&self) -> Result<()> {
        let _running = self.commits.running.lock();
        {
            // What is read back and written again must not be overwritten in place meanwhile.
            let _no_writeback = self.flush_gate.write();
            self.engine.wait_idle();
            self.store.try_resume()?;
        }
        self.cache.start_flusher();
        self.cache.wake_throttled();
        Ok(())
    }

    /// Runs a commit, and sees to what comes after it.
    fn timed<T>(&self, commit: impl FnOnce() -> Result<T>) -> Result<T> {
        let _span = trace::commit();
        let begun = Instant::now();
        let _then = WakeWriters(self);
        let result = commit();
        let took = begun.elapsed();
        self.commit_times.note(took, result.is_ok());
        trace::committed(took, result.as_ref().err());
        result
    }

    /// Sees to it that the store has everything up to one moment, and nothing of what comes after it, and runs `then`. Changes of names wait until that
    /// has ended.
    fn take_cut<'a, T>(
        &'a self,
        writers: Writers,
        then: impl FnOnce(&'a Store) -> StoreResult<T>,
    ) -> Result<T> {
        let failures = self.errors.count();
        self.flush_all(&self.engine);
        let _no_writeback = self.flush_gate.write();
        // No version is in flight from here on, so none has to be waited for while writers wait.
        if !planted!("commit_without_waiting") {
            self.engine.wait_idle();
        }
        self.work_ahead()?;
        let _no_names = self.namespace_gate.write();
        let no_writes = self.data_gate.write();
        let frozen = FrozenRuns::default();
        self.flush_all(&frozen);
        let cut = self.take_meta();
        #[cfg(feature = "invariants")]
        self.nodes.all().iter().for_each(|node| node.io.check_structure());
        let _no_writes = (writers == Writers::Wait).then_some(no_writes);
        frozen.submit_to(&self.engine);
        if !planted!("commit_without_waiting") {
            self.engine.wait_idle();
        }
        for (node, _, _) in cut.iter().filter(|_| !planted!("commit_without_waiting")) {
            node.io.wait_writeback();
            node.io.backoff().weigh();
        }
        let mut result = Ok(());
        for (node, modified, size) in cut {
            match self.put_meta(&node, modified, size) {
                Ok(()) => node.attrs.settle(),
                // Thrown away in the meantime, with all that it held.
                Err(NamespaceError::NoInode { .. }) if node.is_nameless() => {}
                Err(error) => {
                    self.dirty.add(&node);
                    result = Err(Error::from(error));
                }
            }
        }
        result?;
        if self.errors.count() != failures {
            // What could not be written is dirty and readable; committing the rest would break the prefix.
            let error = self
                .errors
                .latest()
                .unwrap_or(StoreError::Internal { what: "an error was counted and not kept" });
            return Err(Error::Store(error));
        }
        let done = then(&self.store)?;
        self.nodes.sweep();
        Ok(done)
    }

    /// Has the store enter most of what has completed into its trees, a little at a time, with changes of names going on in between. But within a step
    /// none is half done: a hole is made in the trees first, and then waits for those who still read what was there.
    ///
    /// After having waited for changes to end it goes on for as long again, up to [`AHEAD_TURN_MAX`], before it lets others begin: no writeback
    /// begins meanwhile, and most of that time should not be spent waiting.
    fn work_ahead(&self) -> Result<()> {
        let mut steps = self.store.steps_ahead();
        while steps > 0 {
            let begun = Instant::now();
            let no_names = (!planted!("ahead_ungated")).then(|| self.namespace_gate.write());
            let waited = begun.elapsed();
            while steps > 0 {
                steps = if self.store.step_ahead()? { steps - 1 } else { 0 };
                if begun.elapsed() >= waited + waited.min(AHEAD_TURN_MAX) {
                    break;
                }
            }
            if let Some(no_names) = no_names {
                give_way(no_names);
            }
        }
        Ok(())
    }

    /// The sizes and times that are newer in memory, as of now. Writers are out.
    fn take_meta(&self) -> Vec<(Arc<Node>, Timespec, u64)> {
        let nodes = std::mem::take(&mut *self.meta_dirty.lock());
        nodes
            .into_values()
            .filter_map(|node| {
                let modified = node.attrs.cut()?;
                let size = node.io.size();
                Some((node, modified, size))
            })
            .collect()
    }

    /// Refuses changes from now on. Those who wait for room are told.
    pub(crate) fn refuse_changes(&self) {
        self.closed.store(true, Ordering::Release);
        // Nobody writes back on behalf of others any more, and what is dirty holds up nobody.
        self.cache.set_flusher(None);
        self.cache.end_writeback();
    }

    /// Commits, closes for changes, and checks that nothing is left (law E4).
    pub(crate) fn shut_down(&self) -> Result<()> {
        self.refuse_changes();
        // A store that has stopped since refuses, and says why: what was not committed is lost.
        let result = if self.read_only { Ok(0) } else { self.commit() };
        self.engine.wait_idle();
        self.pool.wait_idle(); // pages that are being read ahead are locked
        result?;
        if !self.read_only {
            // All copies of the superblock name the last commit: damage to one of them loses nothing.
            self.store.sync_super_copies()?;
        }
        self.cache.check_at_rest().map_err(Error::NotAtRest)?;
        match self.store.stats().data.promised {
            0 => Ok(()),
            bytes => Err(Error::NotAtRest(format!("{bytes} bytes of data space are promised"))),
        }
    }
}
