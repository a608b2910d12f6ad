//! Several copies of the same bytes: which one is read, and what becomes of those that are bad (law E3).
//!
//! A bad copy of a tree block is written anew from the good one, once that is fully checked, if the volume was opened for writing. That it could
//! not be done is no error of the read. A copy is **unreadable** (the device gave an error, and may not the next time) or **wrong** (what it
//! gave is not what was written): the two are counted apart, and told apart where no copy is good.
//!
//! Data is not repaired: it is read with no lock held, so that its place may be another's by the time one would write to it.

use std::sync::Arc;

use cowback_base::sync::Mutex;
use cowback_base::sync::atomic::{AtomicU64, Ordering};
use cowback_extent_io::store::{StoreError, StoreResult};

use super::Disk;
use crate::chunks::ChunkMap;
use crate::error::{corrupt, io};

/// Copies of tree blocks and data that were found to be bad since the volume was opened, each time that one was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CopyStats {
    /// Those that the device could not read.
    pub unreadable: u64,
    /// Those whose checksum, address, generation or content was wrong.
    pub wrong: u64,
    /// Those, of tree blocks, that were written anew from a good copy.
    pub repaired: u64,
}

/// Counts of bad copies, and whether they are repaired.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Whether bad copies are written anew.
    pub(crate) repair: bool,
    unreadable: AtomicU64,
    wrong: AtomicU64,
    repaired: AtomicU64,
    /// Held while one is written: two writes of one place never overlap.
    repairing: Mutex<()>,
}

impl Copies {
    /// The counts.
    pub(crate) fn stats(&self) -> CopyStats {
        CopyStats {
            unreadable: self.unreadable.load(Ordering::Relaxed),
            wrong: self.wrong.load(Ordering::Relaxed),
            repaired: self.repaired.load(Ordering::Relaxed),
        }
    }

    fn note(&self, error: &StoreError) {
        let unreadable = matches!(error, StoreError::Io { .. });
        let count = if unreadable { &self.unreadable } else { &self.wrong };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// A bad copy: where it is on the device, and what is wrong with it.
type Bad = (u64, StoreError);

impl Disk {
    /// Fills `buffer` with the tree block at `logical`, from the first copy that `accept` takes, and repairs those before it. See
    /// [`Disk::read_node`] for what the caller has to see to.
    pub(super) fn read_tree_block<T>(
        &self,
        logical: u64,
        buffer: &mut [u8],
        accept: impl FnMut(&[u8]) -> StoreResult<T>,
    ) -> StoreResult<T> {
        let (value, bad) = self.read_copies("tree block", logical, buffer, accept)?;
        bad.into_iter().for_each(|(at, _)| self.repair(at, buffer));
        Ok(value)
    }

    /// Fills `buffer` with data from `logical`, from the first copy that `accept` takes.
    pub(crate) fn read_data<T>(
        &self,
        logical: u64,
        buffer: &mut [u8],
        accept: impl FnMut(&[u8]) -> StoreResult<T>,
    ) -> StoreResult<T> {
        self.read_copies("data", logical, buffer, accept).map(|(value, _)| value)
    }

    /// Fills `buffer` from `logical` until `accept` takes what one of the copies holds. Gives the copies before it, too.
    fn read_copies<T>(
        &self,
        what: &'static str,
        logical: u64,
        buffer: &mut [u8],
        mut accept: impl FnMut(&[u8]) -> StoreResult<T>,
    ) -> StoreResult<(T, Vec<Bad>)> {
        let mut bad = Vec::new();
        let len = buffer.len() as u64;
        for at in self.map(logical, len)? {
            let read = self.device.read_at(at, buffer);
            let read = read.map_err(|error| io("read", at, len, error));
            match read.and_then(|()| accept(buffer)) {
                Ok(value) => return Ok((value, bad)),
                Err(error) => {
                    self.copies.note(&error);
                    bad.push((at, error));
                }
            }
        }
        match bad.len() {
            0 => Err(corrupt("chunk", logical, "it has no stripe")),
            1 => Err(bad.remove(0).1),
            _ => Err(StoreError::NoGoodCopy { what, at: logical, copies: Arc::from(bad) }),
        }
    }

    /// Writes `good` over the bad copy at `at` of the device. What a chunk takes for one may be a superblock, if the chunk is wrong.
    fn repair(&self, at: u64, good: &[u8]) {
        if !self.copies.repair || ChunkMap::meets_super(at, good.len() as u64) {
            return;
        }
        let _one_at_a_time = self.copies.repairing.lock();
        let mut now = vec![0; good.len()];
        if self.device.read_at(at, &mut now).is_ok() && now == good {
            return; // somebody else has repaired it
        }
        if self.device.write_at(at, good).is_ok() {
            self.copies.repaired.fetch_add(1, Ordering::Relaxed);
        }
    }
}
