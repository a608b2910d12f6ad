//! One file as the writeback engine knows it: its mapping, its extent states, what is in flight, its size and its errors.

use std::sync::Arc;

use cowback_base::sync::atomic::{AtomicU64, Ordering};
use cowback_base::sync::{Mutex, RwLock};
use cowback_base::{BLOCK_SIZE, ByteRange, Ino, PageRange, planted};
use cowback_page_cache::Mapping;

use crate::backoff::Backoff;
use crate::error_cursor::ErrorLog;
use crate::extent_map::ExtentMaps;
use crate::in_flight::QueuedPages;
use crate::ordered::OrderedExtents;
use crate::policy::{DataFlags, FilePolicy};
use crate::reservation::DataReservation;
use crate::state::ExtentStates;
use crate::store::{ExtentMap, ExtentStore, StoreError, StoreResult};

/// A file under writeback.
///
/// Lock order (R1): `io_lock` (inode) > page > leaf > extent states; `queued` and the ordered table are leaves of the order.
#[derive(Debug)]
pub struct InodeIo {
    ino: Ino,
    mapping: Arc<Mapping>,
    store: Arc<dyn ExtentStore>,
    /// The file's size in bytes, as readers see it.
    size: AtomicU64,
    /// At least the size; ahead of it while a write that extends the file copies its bytes, so that writeback, which may meet these pages
    /// before the size grows, does not take them for bytes beyond the end (B2).
    size_bound: AtomicU64,
    /// Shared by writes within the file; exclusive for what changes its size.
    pub(crate) io_lock: RwLock<()>,
    /// Held by the one `writepages` that works on the file. Outside of all page locks.
    pub(crate) writeback_lock: Mutex<WritebackCursor>,
    pub(crate) states: ExtentStates,
    pub(crate) ordered: OrderedExtents,
    pub(crate) maps: ExtentMaps,
    /// How it is stored, if not as the engine does by default.
    policy: RwLock<Option<FilePolicy>>,
    /// Changed with `io_lock` held exclusively.
    data_flags: RwLock<DataFlags>,
    backoff: Backoff,
    errors: ErrorLog,
    all_errors: Arc<ErrorLog>,
    pub(crate) queued: QueuedPages,
}

impl InodeIo {
    /// The file `ino` of `size` bytes, with an empty mapping.
    ///
    /// Its writeback errors are recorded in `all_errors` too, where whoever commits several files at once looks.
    pub fn new(
        ino: Ino,
        size: u64,
        mapping: Arc<Mapping>,
        store: Arc<dyn ExtentStore>,
        all_errors: Arc<ErrorLog>,
    ) -> Arc<Self> {
        Arc::new(Self {
            ino,
            mapping,
            store,
            size: AtomicU64::new(size),
            size_bound: AtomicU64::new(size),
            io_lock: RwLock::new(()),
            writeback_lock: Mutex::default(),
            states: ExtentStates::default(),
            ordered: OrderedExtents::default(),
            maps: ExtentMaps::default(),
            policy: RwLock::new(None),
            data_flags: RwLock::default(),
            backoff: Backoff::default(),
            errors: ErrorLog::default(),
            all_errors,
            queued: QueuedPages::default(),
        })
    }

    /// Its inode number.
    #[must_use]
    pub fn ino(&self) -> Ino {
        self.ino
    }

    /// Its cached pages.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The store under it.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ExtentStore> {
        &self.store
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// How its data is to be stored; `None`: as the engine does by default.
    #[must_use]
    pub fn policy(&self) -> Option<FilePolicy> {
        *self.policy.read()
    }

    /// Sets how data is stored that is written back from now on.
    pub fn set_policy(&self, policy: Option<FilePolicy>) {
        *self.policy.write() = policy;
    }

    /// What its inode says of where its data goes.
    #[must_use]
    pub fn data_flags(&self) -> DataFlags {
        *self.data_flags.read()
    }

    /// Sets the flags that were read from the inode item. For whoever has just made this: later they change along with the item only.
    pub fn set_data_flags(&self, flags: DataFlags) {
        *self.data_flags.write() = flags;
    }

    /// How eagerly its data is compressed.
    #[must_use]
    pub fn backoff(&self) -> &Backoff {
        &self.backoff
    }

    /// Its writeback errors.
    #[must_use]
    pub fn errors(&self) -> &ErrorLog {
        &self.errors
    }

    /// Bytes that are dirty and have no extent yet, and those of them that will add to the file's blocks.
    #[must_use]
    pub fn delalloc_bytes(&self) -> (u64, u64) {
        self.states.delalloc_bytes()
    }

    /// Waits until everything that has been taken for writeback so far is in the running transaction or has failed: first for queued chunks,
    /// then for the ordered extents that there were or that came of these (law R5). What is taken meanwhile is not waited for.
    pub fn wait_writeback(&self) {
        let until = self.queued.wait_until_now();
        if planted!("wait_stops_at_error") && self.errors.count() > 0 {
            return;
        }
        self.ordered.wait_until(until);
    }

    /// Whether nothing of the file is dirty, queued or in flight.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        // In the order in which a version goes through these states, and the first once more, as what fails is dirty again.
        self.delalloc_bytes().0 == 0
            && self.queued.get() == 0
            && self.ordered.in_flight() == 0
            && self.delalloc_bytes().0 == 0
    }

    /// Checks that flags, tags, extent states and gauges of the file tell the same. Nobody writes to it or cuts it meanwhile, and none of its
    /// writeback ends.
    ///
    /// # Panics
    /// If they do not.
    #[cfg(feature = "invariants")]
    pub fn check_structure(&self) {
        self.mapping.check_structure(|pages| self.states.any_delalloc(pages.bytes()));
        assert_eq!(self.states.delalloc_bytes().0, self.mapping.dirty_count() * BLOCK_SIZE, "(O4)");
        assert!(self.size_bound() >= self.size(), "the bound of the size is below it (B2)");
    }

    pub(crate) fn record_error(&self, error: StoreError) {
        if !planted!("error_not_recorded") {
            self.errors.record(error.clone());
        }
        self.all_errors.record(error);
        // Who waits for room that this would have made hears of it.
        self.mapping.cache().note_failure();
    }

    /// The size beyond which no byte of a frozen page can belong to the file.
    pub(crate) fn size_bound(&self) -> u64 {
        self.size_bound.load(Ordering::Acquire)
    }

    /// A write is about to extend the file to `bound` bytes.
    pub(crate) fn raise_size_bound(&self, bound: u64) {
        self.size_bound.fetch_max(bound, Ordering::AcqRel);
    }

    /// Sets the size, and the bound with it. The caller holds `io_lock` exclusively.
    pub(crate) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
        self.size_bound.store(size, Ordering::Release);
    }

    /// The extent map that holds byte `offset`.
    pub(crate) fn extent_map(&self, offset: u64) -> StoreResult<ExtentMap> {
        self.maps.get_or_lookup(offset, || self.store.lookup_extent(self.ino, offset))
    }

    /// Makes pages dirty again that could not be written, unless a newer write did so already, and pays for them out of `reservation`.
    pub(crate) fn redirty(&self, pages: PageRange, reservation: &mut DataReservation) {
        self.mapping.redirty(pages, |newly| {
            self.states.set_delalloc(newly, false, reservation.promise());
            reservation.give_to_delalloc(newly.count() * BLOCK_SIZE);
        });
    }

    /// Whether byte `offset` lies beyond the last block of the file: nothing is mapped there, but what was preallocated.
    pub(crate) fn beyond_last_block(&self, offset: u64) -> bool {
        offset >= cowback_base::block_align_up(self.size())
    }

    /// The part of `range` that is in the file.
    pub(crate) fn clamp(&self, range: ByteRange) -> ByteRange {
        let size = self.size();
        ByteRange::new(range.start.min(size), range.end.min(size))
    }
}

/// The page at which the next cyclic writeback of a file begins. What it is in is held by the one `writepages` that works on the file.
#[derive(Debug, Default)]
pub(crate) struct WritebackCursor(pub(crate) u64);
