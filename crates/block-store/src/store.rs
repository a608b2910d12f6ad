//! The store that the engine embeds: one lock around the running transaction, and IO outside of it.
//!
//! Lock order (R1): commit lock > state lock > reason of stopping, node cache, chunk map (leaves). Data is read and written,
//! and tree blocks are written, with none of them held but the commit lock; a tree block that is not in memory is read under
//! the state lock. An operation that fails half way leaves the running transaction in a state that must not be committed:
//! the store stops then, takes no more writes, and says why to whoever asks (see `stop`).
//!
//! The commit lock holds the transaction that was captured and is not durable yet. So no commit can begin before the one before it has
//! ended, however that failed.

use std::sync::Arc;

use cowback_base::planted;
use cowback_base::sync::{Mutex, RwLock};
use cowback_btrfs_disk::superblock::Superblock;
use cowback_extent_io::store::StoreResult;

use crate::commit::{Capture, confirm};
use crate::device::BlockDevice;
use crate::disk::{CopyStats, Disk};
use crate::format::{self, FormatOptions};
use crate::namespace::{NamespaceError, NsResult};
use crate::open::{self, OpenOptions};
use crate::reserve::{Load, Purpose};
use crate::space::Class;
use crate::state::State;

mod check;
mod commit;
mod extents;
mod in_place;
mod names;
mod stop;

pub use commit::Captured;
use stop::{Memory, Stopped};

/// Clean tree blocks that are kept in memory unless told otherwise: 64 MiB.
pub const CACHED_NODES: usize = 4096;

/// A btrfs volume, open.
#[derive(Debug)]
pub struct Store {
    disk: Arc<Disk>,
    /// The transaction that has ended and is not known to be durable.
    commit_lock: Mutex<Option<Capture>>,
    state: RwLock<State>,
    /// Why the store takes no more writes.
    stopped: RwLock<Option<Stopped>>,
}

/// Space of one class, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SpaceStats {
    /// Of all block groups.
    pub total: u64,
    /// That nobody has.
    pub free: u64,
    /// Freed, and not to be used again before a commit.
    pub pinned: u64,
    /// Promised, and not yet allocated. Of data alone: zero for metadata and system.
    pub promised: u64,
}

/// Figures of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StoreStats {
    /// Last committed transaction.
    pub generation: u64,
    /// Bytes of the device that the volume uses.
    pub total_bytes: u64,
    /// Bytes of all extents that the extent tree knows.
    pub bytes_used: u64,
    /// Bytes of the device in no chunk.
    pub unallocated: u64,
    /// Space for data.
    pub data: SpaceStats,
    /// Space for trees but the chunk tree.
    pub metadata: SpaceStats,
    /// Space for the chunk tree.
    pub system: SpaceStats,
    /// Completed extents that the trees do not know yet.
    pub pending_extents: u64,
    /// Tree blocks in memory.
    pub cached_nodes: u64,
    /// Tree blocks that the running transaction made.
    pub dirty_nodes: u64,
    /// Bad copies that were met.
    pub copies: CopyStats,
}

impl Store {
    /// Makes a volume on `device` and opens it.
    ///
    /// # Errors
    /// The device's; no room; a label that does not fit.
    pub fn format(device: Arc<dyn BlockDevice>, options: &FormatOptions) -> StoreResult<Self> {
        let store = Self::new(format::format(device, options)?, None);
        store.commit()?;
        store.sync_super_copies()?;
        Ok(store)
    }

    /// Opens the volume on `device`. If it is to be written, the commit that is found is made durable first, which it need not be yet: see
    /// `commit::confirm`.
    ///
    /// # Errors
    /// The device's; what is wrong with the volume; that it cannot be written, unless it is opened read-only.
    pub fn open(device: Arc<dyn BlockDevice>, options: &OpenOptions) -> StoreResult<Self> {
        let (state, read_only) = open::open(device, options)?;
        if read_only.is_none() && !planted!("found_not_flushed") {
            confirm(&state.disk, &state.superblock)?;
        }
        Ok(Self::new(state, read_only))
    }

    fn new(mut state: State, read_only: Option<String>) -> Self {
        state.count_space(Load::default());
        let disk = Arc::clone(&state.disk);
        let stopped = RwLock::new(read_only.map(Stopped::read_only));
        Self { disk, commit_lock: Mutex::new(None), state: RwLock::new(state), stopped }
    }

    /// The device that the volume is on.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.disk.device
    }

    /// The superblock of the last commit.
    #[must_use]
    pub fn superblock(&self) -> Superblock {
        self.state.read().superblock.clone()
    }

    /// The last committed transaction.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.state.read().superblock.generation
    }

    /// Whether a commit would have nothing to do.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.state.read().is_clean()
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let state = self.state.read();
        let space = |class| {
            let pool = state.space.pool(class);
            let promised = if class == Class::Data { state.space.promises().data.open } else { 0 };
            SpaceStats { total: pool.total, free: pool.free.bytes(), pinned: pool.pinned, promised }
        };
        let used = self.disk.with_chunks(crate::chunks::ChunkMap::device_used);
        StoreStats {
            generation: state.superblock.generation,
            total_bytes: state.space.total_bytes,
            bytes_used: state.space.bytes_used,
            unallocated: state.space.total_bytes.saturating_sub(used),
            data: space(Class::Data),
            metadata: space(Class::Metadata),
            system: space(Class::System),
            pending_extents: state.pending.extents() as u64,
            cached_nodes: state.forest.cache.len() as u64,
            dirty_nodes: state.forest.dirty.len() as u64,
            copies: self.disk.copies.stats(),
        }
    }

    /// Changes the running transaction by an operation that changes at most what `load` says, for `purpose`. An operation that fails with
    /// nothing changed did no harm; any other failure stops the store.
    fn change<T>(
        &self,
        what: &str,
        purpose: Purpose,
        load: impl FnOnce(&State) -> NsResult<Load>,
        operation: impl FnOnce(&mut State) -> NsResult<T>,
    ) -> NsResult<T> {
        let mut state = self.writable()?;
        let load = load(&state)?;
        state.ensure_metadata(purpose, &load)?;
        let before = state.changes;
        let guard = self.stop_on_panic(what, Memory::InPart);
        let done = operation(&mut state);
        guard.disarm();
        if let Err(error) = &done
            && state.changes != before
        {
            self.stop_in_part(what, error);
        }
        done
    }

    /// Takes no more writes if `error`, with which an operation broke off half way, is the store's.
    fn stop_in_part(&self, what: &str, error: &NamespaceError) {
        if let NamespaceError::Store(error) = error {
            self.stop(what, error, Memory::InPart);
        }
    }
}

#[cfg(test)]
mod tests;
