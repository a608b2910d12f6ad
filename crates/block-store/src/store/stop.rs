//! How a store stops, and how it can go on.
//!
//! A store that cannot do what it has begun takes no more writes, and says why. Whether it can go on without being opened anew depends on what
//! is in memory:
//!
//! - **Whole** is a transaction whose writing failed: its blocks are kept until they are durable (the commit lock holds them), and all of them
//!   can be written once more, to the same places, which no other transaction uses. If a flush failed, data that it covered is read back,
//!   compared with its checksums, and written once more as well; what the device has lost meanwhile stays lost, and the store stopped.
//! - **In part** is a transaction in which an operation failed between its first change and its last. Nothing undoes that but opening
//!   the volume again, as of the last commit.
//!
//! A panic of the device, or of the store, is a failure like any other: a guard sees to it.

use cowback_base::sync::RwLockWriteGuard;
use cowback_extent_io::store::{StoreError, StoreResult};

use super::Store;
use crate::commit::Capture;
use crate::state::State;

/// Why a store takes no writes.
#[derive(Debug, Clone)]
pub(super) struct Stopped {
    pub(super) reason: String,
    memory: Memory,
}

/// What a store that has stopped has in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// Everything that is to be made durable.
    Whole,
    /// An operation that is done in part.
    InPart,
    /// Nothing that is to be written: the volume was opened so.
    ReadOnly,
}

impl Stopped {
    /// A volume that was opened for reading, because of `reason`.
    pub(super) const fn read_only(reason: String) -> Self {
        Self { reason, memory: Memory::ReadOnly }
    }

    /// Fails, with the reason, if only opening the volume again helps.
    fn check_whole(&self) -> StoreResult<()> {
        let why = match self.memory {
            Memory::Whole => return Ok(()),
            Memory::InPart => "; it was done in part, and the volume has to be opened again",
            Memory::ReadOnly => "",
        };
        Err(StoreError::ReadOnly { reason: format!("{}{why}", self.reason) })
    }
}

/// Stops the store if it is dropped before it is told that all went well: by a panic.
#[must_use = "dropping it stops the store"]
#[derive(Debug)]
pub(super) struct StopOnPanic<'a> {
    store: &'a Store,
    what: &'a str,
    memory: Memory,
}

impl StopOnPanic<'_> {
    /// There was no panic.
    pub(super) fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        let error = StoreError::Internal { what: "a panic on the way" };
        self.store.stop(self.what, &error, self.memory);
    }
}

impl Store {
    /// Why the store takes no writes, if it takes none.
    #[must_use]
    pub fn read_only_reason(&self) -> Option<String> {
        self.stopped.read().as_ref().map(|stopped| stopped.reason.clone())
    }

    /// The running transaction, to be changed; fails if the store has stopped. Looked at under the state lock: who has that after the store
    /// has stopped knows that nobody changes anything any more.
    pub(super) fn writable(&self) -> StoreResult<RwLockWriteGuard<'_, State>> {
        let state = self.state.write();
        self.check_writable().map(|()| state)
    }

    /// Fails if the store has stopped.
    pub(super) fn check_writable(&self) -> StoreResult<()> {
        match &*self.stopped.read() {
            None => Ok(()),
            Some(stopped) => Err(StoreError::ReadOnly { reason: stopped.reason.clone() }),
        }
    }

    /// Takes no more writes from now on, because of `error`. What is in memory is never more whole than it was.
    pub(super) fn stop(&self, what: &str, error: &StoreError, memory: Memory) {
        let mut stopped = self.stopped.write();
        match &mut *stopped {
            None => *stopped = Some(Stopped { reason: format!("{what} failed: {error}"), memory }),
            Some(stopped) if stopped.memory == Memory::Whole => stopped.memory = memory,
            Some(_) => {}
        }
    }

    /// Stops the store if what follows panics.
    pub(super) const fn stop_on_panic<'a>(
        &'a self,
        what: &'a str,
        memory: Memory,
    ) -> StopOnPanic<'a> {
        StopOnPanic { store: self, what, memory }
    }

    /// Goes on after the store has stopped, if its cause is gone: what could not be made durable is written once more. Does nothing if it
    /// has not stopped, but that a device that could not grow with the volume is asked again.
    ///
    /// # Errors
    /// The device's; [`StoreError::Corrupt`] if the device has lost data that a failed flush covered; [`StoreError::ReadOnly`], with the
    /// reason, if only opening the volume again helps. The store is as it was then, and may be asked again.
    pub fn try_resume(&self) -> StoreResult<()> {
        let mut unfinished = self.commit_lock.lock();
        // Who had begun a change before the store stopped has ended it then.
        let total_bytes = {
            let mut state = self.state.write();
            state.space.grow_again();
            state.space.total_bytes
        };
        let Some(stopped) = self.stopped.read().clone() else { return Ok(()) };
        stopped.check_whole()?;
        self.disk.ensure_len(total_bytes)?;
        self.disk.write_distrusted()?;
        self.write_out(&mut unfinished)?;
        let mut stopped = self.stopped.write();
        if let Some(stopped) = &*stopped {
            stopped.check_whole()?;
        }
        *stopped = None;
        Ok(())
    }

    /// Asks a device that could not grow with the volume whether it can now. Nothing, if it could.
    ///
    /// # Errors
    /// The device's, if it tells of something else than want of room.
    pub fn ask_to_grow(&self) -> StoreResult<()> {
        // Not while another sets the length of the device: a commit, one who shrinks it, one who resumes.
        let _alone = self.commit_lock.lock();
        self.state.write().space.ask_to_grow()
    }

    /// Makes the transaction that was captured last durable, if it is not. It is kept until it is.
    pub(super) fn write_out(&self, unfinished: &mut Option<Capture>) -> StoreResult<()> {
        let Some(capture) = unfinished else { return Ok(()) };
        let guard = self.stop_on_panic("a commit", Memory::Whole);
        let written = capture.write(&self.disk);
        guard.disarm();
        written.inspect_err(|error| self.stop("a commit", error, Memory::Whole))?;
        let generation = capture.superblock.generation;
        let (pinned, refused) = (std::mem::take(&mut capture.pinned), capture.refused);
        *unfinished = None;
        let mut state = self.state.write();
        state.forest.cache.set_unwritten(generation + 1);
        let unpinned = state.space.unpin(pinned);
        unpinned.inspect_err(|error| self.stop("a commit", error, Memory::InPart))?;
        state.lost_refs.written();
        state.count_space(refused);
        Ok(())
    }
}
