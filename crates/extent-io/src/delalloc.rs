//! From a dirty page to a locked, contiguous, frozen run (stage 3 of the pipeline).
//!
//! A [`DelallocRun`] is what leaves this stage: pages locked, their bytes snapshotted, their reservation and charge in hand. It is resolved by
//! exactly one of its consuming methods (law O3): [`DelallocRun::into_ordered`], [`DelallocRun::finish_inline`] or
//! [`DelallocRun::fail`]; truncate waits for the page locks and so comes before or after. Dropping one unresolved is a bug and panics; during
//! a panic it fails the run instead, so that its pages come back (E2).
//!
//! Freezing clears the dirty flags and the delalloc bits and clones the frames, page cache leaf by leaf, each in one critical
//! section. From then on a write to these pages makes them dirty anew, on fresh frames, with a reservation of its own (law B1).

use std::sync::Arc;

use cowback_base::{BLOCK_SIZE, ByteRange, PageIndex, PageRange, block_align_up, planted};
use cowback_page_cache::{Busy, Charge, Frame, Group, LockedPage, LockedPages, PageOps};

use crate::in_flight::Epoch;
use crate::inode::InodeIo;
use crate::ordered::OrderedWrite;
use crate::pages::extent_clear_unlock_delalloc;
use crate::reservation::{DataReservation, Promise};
use crate::store::{Compression, DiskExtent, InlineExtent, StoreError};

/// Locks the delalloc run that begins at `entry`, up to `max_pages` pages: every page locked, dirty, without an older version in flight.
///
/// Pages are locked in ascending order, so two callers cannot wait for each other. A page that is not dirty any more, or that would have
/// to be waited for (with [`Busy::Stop`]), ends the run early: the kernel drops its locks and tries again with one page, but what was
/// locked so far is a valid run already.
///
/// # Panics
/// If `entry` is dirty without being delalloc, a phantom dirty page (O4); or if it is not dirty.
pub fn find_lock_delalloc_range(
    inode: &InodeIo,
    entry: LockedPage,
    max_pages: u64,
    busy: Busy,
) -> LockedPages {
    assert!(entry.is_dirty(), "a run begins at a dirty page");
    let start = entry.index();
    let limit = PageIndex(start.0.saturating_add(max_pages.max(1)));
    let (delalloc, _) = inode.states.delalloc_run(PageRange::new(start, limit));
    assert!(
        !delalloc.is_empty(),
        "phantom dirty page: {start:?} of {:?} is not delalloc",
        inode.ino()
    );
    let rest = PageRange::new(start.next(), delalloc.end);
    let mut run = entry.into_range();
    run.append(inode.mapping().lock_contig(rest, busy));
    run
}

/// A run of pages on its way to disk: locked, frozen, reserved.
///
/// What was cut off cannot be touched through the run as it was, nor can a run be resolved twice (law O3):
///
/// ```compile_fail,E0382
/// # use cowback_extent_io::{DelallocRun, StoreError};
/// # fn f(run: DelallocRun, at: cowback_base::PageIndex, error: StoreError) {
/// let (compressed, remainder) = run.split_at(at);
/// run.fail(error); // the remainder is to go raw, and this would take the compressed part along
/// # }
/// ```
///
/// ```compile_fail,E0382
/// # use cowback_extent_io::{DelallocRun, StoreError, store::{Compression, DiskExtent}};
/// # fn f(run: DelallocRun, extent: DiskExtent, error: StoreError) {
/// let write = run.into_ordered(extent, Compression::None);
/// run.fail(error);
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a run is resolved, or its pages stay locked"]
pub struct DelallocRun {
    inode: Arc<InodeIo>,
    /// In which it was frozen, with what it is a part of.
    epoch: Epoch,
    /// `None` once resolved.
    parts: Option<RunParts>,
}

#[derive(Debug)]
struct RunParts {
    locked: LockedPages,
    frames: Vec<Frame>,
    reservation: DataReservation,
    /// Whose writeback it is.
    charge: Charge,
    file_size: u64,
    /// Whether that was the size, and not how far a write was about to extend the file.
    settled: bool,
}

impl DelallocRun {
    /// Freezes `locked`.
    ///
    /// # Panics
    /// If a page is beyond the end of the file (law B2): what cuts a file keeps writeback out until it has taken such pages.
    pub fn freeze(inode: &Arc<InodeIo>, locked: LockedPages) -> Self {
        let range = locked.range();
        // Counted before they stop being delalloc: at no moment does the file look clean.
        let epoch = inode.queued.add(range.count());
        let mut noreserve = 0;
        let (frames, charge) =
            locked.freeze(|pages| noreserve += inode.states.clear_delalloc(pages));
        let promise = match noreserve {
            0 => Promise::Space,
            bytes => {
                assert_eq!(bytes, range.bytes().len(), "a run holds one kind of promise");
                Promise::InPlace
            }
        };
        let reservation =
            DataReservation::from_delalloc(inode.store(), promise, range.count() * BLOCK_SIZE);
        // Read once, after the dirty flags are cleared: whoever dirties a page now, dirties it for the next run (B2).
        let file_size = inode.size_bound();
        // After the bound: while a write extends the file, or after it has failed to, they differ.
        let settled = inode.size() == file_size;
        let parts = RunParts { locked, frames, reservation, charge, file_size, settled };
        let run = Self { inode: Arc::clone(inode), epoch, parts: Some(parts) };
        let end = PageIndex(block_align_up(file_size) / BLOCK_SIZE);
        assert!(range.end <= end, "{range:?} go to disk of a file that ends before {end:?} (B2)");
        run
    }

    /// The file.
    #[must_use]
    pub fn inode(&self) -> &Arc<InodeIo> {
        &self.inode
    }

    /// The pages of the run.
    #[must_use]
    pub fn pages(&self) -> PageRange {
        self.parts().locked.range()
    }

    /// The bytes of the run, block aligned.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        self.pages().bytes()
    }

    /// The bytes of the run that are in the file: what is beyond its end is zero and need not be stored.
    #[must_use]
    pub fn bytes_in_file(&self) -> u64 {
        let range = self.range();
        range.end.min(self.parts().file_size) - range.start
    }

    /// The file's size when the run was frozen, in bytes.
    #[must_use]
    pub fn file_size(&self) -> u64 {
        self.parts().file_size
    }

    /// Whether no write was extending the file when the run was frozen, so that [`DelallocRun::file_size`] is final. Only then may the run become an
    /// inline extent, which has to be as long as the file.
    #[must_use]
    pub fn size_is_settled(&self) -> bool {
        self.parts().settled
    }

    /// Whom the writeback is charged to: the owner of the pages when they were frozen.
    #[must_use]
    pub fn group(&self) -> Group {
        self.parts().charge.group()
    }

    /// The frozen content, a frame a page.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.parts().frames
    }

    /// Sees to it that data space is promised for the run: what was to be written in place needs some after all.
    ///
    /// # Errors
    /// Those of [`crate::ExtentStore::reserve_data`], which does not wait; the run is as before.
    pub fn want_space(&mut self) -> Result<(), StoreError> {
        let parts = self.parts.as_mut().expect("a run has its parts until it is resolved");
        parts.reservation.want_space()
    }

    /// Cuts the run before page `at`, each part with its frames, locks, reservation and charge.
    ///
    /// # Panics
    /// If `at` is not strictly inside the run.
    pub fn split_at(mut self, at: PageIndex) -> (Self, Self) {
        let RunParts { locked, mut frames, mut reservation, mut charge, file_size, settled } =
            self.take();
        let tail_pages = locked.range().end.0 - at.0;
        let (left, right) = locked.split_at(at);
        let tail_frames = frames.split_off(frames_in(left.range()));
        let tail_reservation = reservation.split(tail_pages * BLOCK_SIZE);
        let tail_charge = charge.split(tail_pages);
        let part = |locked, frames, reservation, charge| Self {
            inode: Arc::clone(&self.inode),
            epoch: self.epoch,
            parts: Some(RunParts { locked, frames, reservation, charge, file_size, settled }),
        };
        let tail = part(right, tail_frames, tail_reservation, tail_charge);
        (part(left, frames, reservation, charge), tail)
    }

    /// The run has `extent` on disk: its ordered extent exists from here on, its pages are under writeback and unlocked. The caller
    /// writes it.
    ///
    /// # Panics
    /// If an uncompressed extent has another length than the run.
    pub fn into_ordered(mut self, extent: DiskExtent, compression: Compression) -> OrderedWrite {
        let range = self.range();
        assert!(
            compression != Compression::None || extent.len == range.len(),
            "an extent of {} bytes for the {} bytes of {range}",
            extent.len,
            range.len()
        );
        let RunParts { locked, frames, reservation, charge, .. } = self.take();
        let pages = locked.range();
        // R5: the ordered extent is there before the run stops counting as queued.
        if planted!("queued_gap") {
            self.inode.queued.sub(self.epoch, pages.count());
        }
        self.inode.ordered.insert(range, self.epoch);
        extent_clear_unlock_delalloc(locked, PageOps::SET_ORDERED | PageOps::SET_WRITEBACK);
        reservation.spend();
        if planted!("reservation_twice") {
            self.inode.store().release_data(range.len());
        }
        if !planted!("queued_gap") {
            self.inode.queued.sub(self.epoch, pages.count());
        }
        let inode = Arc::clone(&self.inode);
        OrderedWrite::new(inode, (range, self.epoch), extent, compression, (frames, charge))
    }

    /// The run is the whole file, and `inline` its content: it goes into the file tree.
    ///
    /// The run comes back, to go the ordinary way, if the store does not take it.
    #[must_use = "a run that comes back is still to be resolved"]
    pub fn finish_inline(mut self, inline: InlineExtent) -> Option<Self> {
        let inserted = {
            let _locked = self.inode.states.lock_range(self.range());
            let result = self.inode.store().insert_inline(self.inode.ino(), inline);
            self.inode.maps.drop_from(0);
            result
        };
        if inserted.is_err() || planted!("inline_and_written") {
            return Some(self);
        }
        let RunParts { locked, reservation, charge, .. } = self.take();
        let pages = locked.range();
        extent_clear_unlock_delalloc(locked, PageOps::empty());
        reservation.spend();
        charge.written();
        self.inode.queued.sub(self.epoch, pages.count());
        None
    }

    /// No space or no way to write the run: its pages are dirty again, unless a newer write made them so already, and the error is
    /// recorded for every handle (law E1).
    pub fn fail(mut self, error: StoreError) {
        self.give_back(error);
    }

    fn give_back(&mut self, error: StoreError) {
        let RunParts { locked, mut reservation, charge, .. } = self.take();
        let pages = locked.range();
        // Dirty first: who sees the error finds the pages dirty.
        self.inode.redirty(pages, &mut reservation);
        drop(reservation);
        self.inode.record_error(error);
        extent_clear_unlock_delalloc(locked, PageOps::empty());
        drop(charge);
        self.inode.queued.sub(self.epoch, pages.count());
    }

    fn parts(&self) -> &RunParts {
        self.parts.as_ref().expect("a run has its parts until it is resolved")
    }

    fn take(&mut self) -> RunParts {
        self.parts.take().expect("a run is resolved once")
    }
}

impl Drop for DelallocRun {
    fn drop(&mut self) {
        if self.parts.is_none() {
            return;
        }
        if std::thread::panicking() {
            self.give_back(StoreError::Internal { what: "a writeback worker panicked" });
        } else {
            panic!(
                "a delalloc run was dropped unresolved (O3): {:?} {:?}",
                self.inode.ino(),
                self.range()
            );
        }
    }
}

fn frames_in(pages: PageRange) -> usize {
    usize::try_from(pages.count()).expect("a run is far smaller than memory")
}
