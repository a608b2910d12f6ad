//! Ending a transaction: see [`crate::commit`] for what happens in it.
//!
//! While one that has ended is written, the next one runs: whoever keeps others out, so that what they do does not get into a commit, may let them in
//! again when it is captured. Nothing of the two mixes: blocks of the one that has ended are not changed any more but copied, and what it freed
//! is not used before it is durable.

use cowback_base::sync::{MutexGuard, give_way};
use cowback_extent_io::store::{StoreError, StoreResult};

use super::Store;
use super::stop::{Memory, StopOnPanic};
use crate::commit::{Capture, write_super_copies};
use crate::shrink::Fit;
use crate::state::State;

/// A transaction that has ended and is to be made durable. No other can end before that, and if it is dropped instead, the store takes no
/// more writes, until [`Store::try_resume`] has done it.
#[derive(Debug)]
#[must_use]
pub struct Captured<'a> {
    store: &'a Store,
    /// Dropped before the lock is free: who has it finds a store that goes on with nothing unfinished, or has stopped.
    unless_written: StopOnPanic<'a>,
    unfinished: MutexGuard<'a, Option<Capture>>,
    generation: u64,
}

impl Captured<'_> {
    /// Makes it durable. Gives the generation that holds it.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn write(self) -> StoreResult<u64> {
        let Self { store, mut unfinished, unless_written, generation } = self;
        unless_written.disarm();
        store.write_out(&mut unfinished)?;
        drop(unfinished);
        store.go_on_removing();
        Ok(generation)
    }
}

impl Store {
    /// Makes everything that was done before durable. Gives the generation that holds it.
    ///
    /// # Errors
    /// The device's, and the store takes no more writes then, until [`Store::try_resume`]; what was committed before is intact. A tree block
    /// that cannot be read before anything has changed stops nothing.
    pub fn commit(&self) -> StoreResult<u64> {
        self.capture()?.write()
    }

    /// Steps of [`Store::step_ahead`] after which, unless more comes, little is left for the next commit to enter into the trees.
    #[must_use]
    pub fn steps_ahead(&self) -> usize {
        self.state.read().steps_ahead()
    }

    /// Enters some dozens of the extents that the next commit is to enter, ahead of it. False if none are left. What an operation has dropped may be
    /// entered as gone by this, its checksums with it: the caller sees to it that none is half done that keeps readers of that for the end, as it does
    /// when it captures.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn step_ahead(&self) -> StoreResult<bool> {
        let mut state = self.writable()?;
        let stepped = self.enter(&mut state, State::step_ahead);
        give_way(state);
        stepped
    }

    /// Ends the running transaction: it holds everything that was done before, and nothing that is done after.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn capture(&self) -> StoreResult<Captured<'_>> {
        let mut unfinished = self.commit_lock.lock();
        let generation = self.capture_locked(&mut unfinished)?;
        let unless_written = self.stop_on_panic("a commit", Memory::Whole);
        Ok(Captured { store: self, unfinished, unless_written, generation })
    }

    fn capture_locked(&self, unfinished: &mut Option<Capture>) -> StoreResult<u64> {
        let mut state = self.writable()?;
        assert!(unfinished.is_none(), "a store with an unfinished commit has stopped");
        if state.is_clean() {
            state.space.begin_promises();
            let refused = std::mem::take(&mut state.refused);
            state.count_space(refused);
            return Ok(state.superblock.generation);
        }
        let captured = self.enter(&mut state, State::capture)?;
        Ok(unfinished.insert(captured).superblock.generation)
    }

    /// Has `part` of a commit enter what waits into the trees. A failure with nothing changed did no harm; any other stops the store.
    fn enter<T>(
        &self,
        state: &mut State,
        part: impl FnOnce(&mut State) -> StoreResult<T>,
    ) -> StoreResult<T> {
        let before = state.changes;
        let guard = self.stop_on_panic("a commit", Memory::InPart);
        let done = part(state);
        guard.disarm();
        done.inspect_err(|error| {
            if state.changes != before {
                self.stop("a commit", error, Memory::InPart);
            }
        })
    }

    fn commit_locked(&self, unfinished: &mut Option<Capture>) -> StoreResult<()> {
        self.capture_locked(unfinished)?;
        self.write_out(unfinished)
    }

    /// Commits, and cuts the volume and its file to what `fit` says. Gives the bytes that are left.
    /// It comes out smallest if the volume was formatted as shrinkable.
    ///
    /// # Errors
    /// The device's; a size in which the content has no room; no room to move metadata to. The store takes no more writes then; what was
    /// committed is intact. A device that cannot be resized, or a size that none can have, is refused before anything changes.
    pub fn shrink_to_fit(&self, fit: Fit) -> StoreResult<u64> {
        let mut unfinished = self.commit_lock.lock();
        self.commit_locked(&mut unfinished)?;
        while self.go_on_removing() {
            self.commit_locked(&mut unfinished)?;
        }
        self.state.read().check_shrinkable(fit)?;
        let failed = |error: &StoreError| self.stop("shrinking", error, Memory::InPart);
        let guard = self.stop_on_panic("shrinking", Memory::InPart);
        let compacted = self.state.write().compact(fit);
        guard.disarm();
        let total = compacted.inspect_err(failed)?;
        let size = self.disk.device.len().map_err(|error| crate::error::io("size", 0, 0, error));
        let size = size.inspect_err(failed)?;
        if size < total {
            // Before the superblock says so: a crash must not leave a volume that is larger than its device.
            let grown = self.disk.device.set_len(total);
            let grown = grown.map_err(|error| crate::error::io("grow", total, 0, error));
            grown.inspect_err(failed)?;
        }
        self.commit_locked(&mut unfinished)?;
        let cut = self.disk.device.set_len(total);
        cut.map_err(|error| crate::error::io("shrink", total, 0, error))?;
        self.write_super_copies()?;
        Ok(total)
    }

    /// Brings the copies of the superblock behind the first, which lag by one commit, up to date: on closing.
    ///
    /// # Errors
    /// The device's.
    pub fn sync_super_copies(&self) -> StoreResult<()> {
        let _one_at_a_time = self.commit_lock.lock();
        self.check_writable()?;
        self.write_super_copies()
    }

    /// The commit lock is held. A failed flush stops the store, as it may have dropped data that the next commit would take for durable.
    fn write_super_copies(&self) -> StoreResult<()> {
        let superblock = self.superblock();
        let guard = self.stop_on_panic("updating the copies of the superblock", Memory::Whole);
        let written = write_super_copies(&self.disk, &superblock);
        guard.disarm();
        written.inspect_err(|error| {
            self.stop("updating the copies of the superblock", error, Memory::Whole);
        })
    }
}
