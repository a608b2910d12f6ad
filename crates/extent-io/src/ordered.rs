//! Ordered extents: extents that are allocated, and not yet written or not yet in the metadata (stage 8).
//!
//! An [`OrderedWrite`] is the one permission to complete its ordered extent: it is moved into the IO, and consumed by it, so that
//! completion happens exactly once. Completion puts the extent into the running transaction *before* writeback ends, so whoever finds a
//! page clean finds its bytes through the trees.
//!
//! Lock order: extent range > the table's mutex; the store is called with only the range locked.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cowback_base::sync::{Condvar, Mutex};
use cowback_base::{ByteRange, planted};
use cowback_page_cache::{Charge, Frame, Group, PageOps};

use crate::in_flight::{ByEpoch, Epoch};
use crate::inode::InodeIo;
use crate::reservation::{DataReservation, Promise};
use crate::store::{
    Compression, DiskExtent, FinishedExtent, OrderedKind, StoreError, WrittenExtent,
};

/// The ordered extents of one file.
#[derive(Debug, Default)]
pub struct OrderedExtents {
    table: Mutex<Table>,
    fewer: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    /// Start to end. They never overlap: a block gets a new extent only once its writeback has ended.
    extents: BTreeMap<u64, u64>,
    /// Extents in the table, and those just removed whose pages are still being released.
    in_flight: ByEpoch,
}

impl OrderedExtents {
    /// An extent of a run that was frozen in `epoch`.
    pub(crate) fn insert(&self, range: ByteRange, epoch: Epoch) {
        let mut table = self.table.lock();
        let before = table.extents.range(..range.end).next_back();
        assert!(
            before.is_none_or(|(_, &end)| end <= range.start),
            "ordered extents overlap: {range} and one that ends at {before:?}"
        );
        table.extents.insert(range.start, range.end);
        table.in_flight.add(epoch, 1);
    }

    /// The extent is in the metadata, or has failed; its pages' writeback is about to end.
    fn remove(&self, range: ByteRange) {
        let removed = self.table.lock().extents.remove(&range.start);
        assert_eq!(removed, Some(range.end), "an ordered extent completes exactly once");
    }

    /// The pages of a removed extent are released.
    fn released(&self, epoch: Epoch) {
        if self.table.lock().in_flight.sub(epoch, 1) {
            self.fewer.notify_all();
        }
    }

    /// Ordered extents that have not completed.
    pub fn in_flight(&self) -> u64 {
        self.table.lock().in_flight.total()
    }

    /// Waits until no ordered extent is left of `epoch` and those before, whether it succeeded or failed. No run of them is queued.
    pub(crate) fn wait_until(&self, epoch: Epoch) {
        let mut table = self.table.lock();
        while table.in_flight.any_until(epoch) {
            self.fewer.wait(&mut table);
        }
    }
}

/// The bytes to be written for an ordered extent.
#[derive(Debug)]
pub enum Payload {
    /// The frozen frames as they are.
    Raw,
    /// A compressed stream, zero-padded to whole blocks.
    Compressed(Bytes),
}

/// An ordered extent whose IO is to be done: the only way to complete it.
#[derive(Debug)]
#[must_use = "an ordered extent that is never written keeps its pages under writeback"]
pub struct OrderedWrite {
    inode: Arc<InodeIo>,
    range: ByteRange,
    /// In which its run was frozen.
    epoch: Epoch,
    kind: OrderedKind,
    compression: Compression,
    /// `None` once completed.
    state: Option<Unwritten>,
}

/// What is still to be written, and on whose account.
#[derive(Debug)]
struct Unwritten {
    extent: DiskExtent,
    frames: Vec<Frame>,
    charge: Charge,
}

impl OrderedWrite {
    pub(crate) fn new(
        inode: Arc<InodeIo>,
        (range, epoch): (ByteRange, Epoch),
        extent: DiskExtent,
        compression: Compression,
        (frames, charge): (Vec<Frame>, Charge),
    ) -> Self {
        // A compressed extent is written from its own buffer: the snapshot has served.
        let frames = if compression == Compression::None { frames } else { Vec::new() };
        let kind = extent.kind;
        let state = Some(Unwritten { extent, frames, charge });
        Self { inode, range, epoch, kind, compression, state }
    }

    /// Whom the write is charged to: the owner of the pages when they were frozen. `None` once it is done.
    #[must_use]
    pub fn group(&self) -> Option<Group> {
        self.state.as_ref().map(|state| state.charge.group())
    }

    /// Writes the extent and completes it. An error redirties the pages and is recorded for every handle of the file (E1).
    pub fn write(mut self, payload: &Payload) {
        let Unwritten { extent, frames, charge } = self.state.take().expect("written once");
        let guard = CompleteOnPanic { write: &self, charge: Some(charge) };
        let result = match payload {
            Payload::Compressed(data) => self.inode.store().write_extent(extent, &[data]),
            Payload::Raw => {
                let parts: Vec<&[u8]> = Frame::pieces(&frames).collect();
                self.inode.store().write_extent(extent, &parts)
            }
        };
        let charge = guard.disarm();
        drop(frames);
        match result {
            Ok(written) => self.finish(written, charge),
            Err((extent, error)) => self.give_back(extent, error, charge),
        }
    }

    /// The promise for what could not be written: what has its place already needs no other.
    fn promise_again(&self) -> DataReservation {
        let promise = match self.kind {
            OrderedKind::Regular => Promise::Space,
            OrderedKind::Prealloc | OrderedKind::Nocow => Promise::InPlace,
        };
        DataReservation::again(self.inode.store(), promise, self.range.len())
    }

    fn finish(&self, mut written: WrittenExtent, charge: Charge) {
        let range = self.range;
        if self.inode.data_flags().nodatasum {
            written.sums.clear();
        }
        let place = (written.extent.bytenr, written.extent.len, written.extent.kind);
        let finished =
            FinishedExtent { ino: self.inode.ino(), range, written, compression: self.compression };
        let guard = CompleteOnPanic { write: self, charge: Some(charge) };
        let result = {
            let _locked = self.inode.states.lock_range(range);
            let result = self.inode.store().finish_ordered(finished);
            self.inode.maps.drop_range(range);
            result
        };
        let charge = guard.disarm();
        match result {
            Ok(()) => self.release(|| charge.written()),
            Err(error) => {
                if planted!("freed_twice") {
                    let (bytenr, len, kind) = place;
                    self.inode.store().free_extent(DiskExtent { bytenr, len, kind });
                }
                self.redirty(self.promise_again(), error, charge);
            }
        }
    }

    fn give_back(&self, extent: DiskExtent, error: StoreError, mut charge: Charge) {
        // Promised before it is free: nobody else takes the space that these bytes will need.
        let reservation = self.promise_again();
        self.inode.store().free_extent(extent);
        if planted!("cleaned_twice") {
            self.redirty(self.promise_again(), error.clone(), charge.split(0));
        }
        self.redirty(reservation, error, charge);
    }

    /// Dirty first, then the error, then the end of writeback: who sees the error finds the pages dirty, and who waits for the
    /// writeback finds the error.
    fn redirty(&self, mut reservation: DataReservation, error: StoreError, charge: Charge) {
        if !planted!("clean_while_pending") {
            self.inode.redirty(self.range.pages(), &mut reservation);
        }
        drop(reservation);
        self.inode.record_error(error);
        self.release(|| drop(charge));
    }

    /// The pages are let go. `uncharge` ends the charge, before who waits for the extent goes on: so at rest there is none (law E4).
    fn release(&self, uncharge: impl FnOnce()) {
        if !planted!("ordered_not_counted") {
            self.inode.ordered.remove(self.range);
        }
        self.inode
            .mapping()
            .complete(self.range.pages(), PageOps::CLEAR_ORDERED | PageOps::END_WRITEBACK);
        uncharge();
        self.inode.ordered.released(self.epoch);
    }
}

/// Completes the ordered extent as failed if the store panics under the write or the completion. The extent's space is then lost until the
/// next open.
struct CompleteOnPanic<'a> {
    write: &'a OrderedWrite,
    /// `None`: there was no panic.
    charge: Option<Charge>,
}

impl CompleteOnPanic<'_> {
    /// There was no panic. Gives the charge back.
    fn disarm(mut self) -> Charge {
        self.charge.take().expect("it is taken once, here or when this is dropped")
    }
}

impl Drop for CompleteOnPanic<'_> {
    fn drop(&mut self) {
        let Some(charge) = self.charge.take() else { return };
        let error = StoreError::Internal { what: "the store panicked under a write" };
        self.write.redirty(self.write.promise_again(), error, charge);
    }
}

impl Drop for OrderedWrite {
    fn drop(&mut self) {
        let Some(Unwritten { extent, charge, .. }) = self.state.take() else { return };
        let error = StoreError::Internal { what: "a writeback worker panicked" };
        self.give_back(extent, error, charge);
        assert!(
            std::thread::panicking(),
            "an ordered extent was dropped unwritten (O3): {:?} {}",
            self.inode.ino(),
            self.range
        );
    }
}
