//! `writepages`: from dirty tags to runs on their way (stages 2 to 4).
//!
//! * Sync mode first copies the DIRTY tags of its range to TOWRITE and then follows those, so that pages dirtied later cannot keep it busy
//!   for ever; it waits for page locks and for older versions in flight.
//! * Background mode follows DIRTY tags, takes what it gets without waiting, and stops at its quota. The next one goes on from there, and
//!   begins anew at the end of the file (the kernel's `range_cyclic`): so a large file takes turns with others, and no part of it is
//!   written again and again while another waits.
//! * A turn is background mode that waits: what it writes depends on nothing but what is dirty (law R3).
//!
//! R1: room for a run is taken ([`DelallocSink::admit`]) before its first page is locked; nothing is waited for with a page locked.

use std::sync::Arc;

use cowback_base::{PageIndex, PageRange};
use cowback_page_cache::{Busy, LockedPages, PageFlags, Tag};

use crate::delalloc::{DelallocRun, find_lock_delalloc_range};
use crate::inode::InodeIo;

/// Most pages of one run (8 MiB). A constant, so that where runs are cut does not depend on timing (law R3).
pub const RUN_PAGES_MAX: u64 = 2048;

/// What `writepages` is asked for.
#[derive(Debug, Clone, Copy)]
pub struct WritebackControl {
    /// The pages.
    pub range: PageRange,
    /// Whether to wait.
    pub mode: SyncMode,
    /// Pages after which it stops, but for the rest of a run.
    pub quota: u64,
    /// Whether to begin where the last one of this kind stopped, and to go on at the start of the range from its end.
    pub cyclic: bool,
}

/// How hard `writepages` tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// Writes what it can get without waiting.
    Background,
    /// Writes what it comes by, and waits for it if it must.
    Turn,
    /// Writes everything that was dirty when it began.
    All,
}

impl WritebackControl {
    /// The whole file, everything that is dirty now.
    #[must_use]
    pub fn sync_all() -> Self {
        Self {
            range: PageRange::new(PageIndex(0), PageIndex(u64::MAX)),
            mode: SyncMode::All,
            quota: u64::MAX,
            cyclic: false,
        }
    }

    /// The next `quota` pages of the file, about, that can be had without waiting.
    #[must_use]
    pub fn background(quota: u64) -> Self {
        Self { mode: SyncMode::Background, quota, cyclic: true, ..Self::sync_all() }
    }

    /// The next `quota` pages of the file, about.
    #[must_use]
    pub fn turn(quota: u64) -> Self {
        Self { mode: SyncMode::Turn, ..Self::background(quota) }
    }
}

/// Where runs go.
pub trait DelallocSink {
    /// Room for a run of [`RUN_PAGES_MAX`] pages.
    type Credit;

    /// Waits for room. No page is locked by the caller.
    fn admit(&self) -> Self::Credit;

    /// Takes a run. What `credit` holds beyond the run's size is free again at once, the rest when the run has left memory.
    fn submit(&self, run: DelallocRun, credit: Self::Credit);
}

/// Sends the dirty pages of `inode` that `control` names to `sink`. Returns how many pages went.
///
/// Errors of what is sent come later, and are recorded in [`InodeIo::errors`].
pub fn writepages<S: DelallocSink>(
    inode: &Arc<InodeIo>,
    control: &WritebackControl,
    sink: &S,
) -> u64 {
    // One flusher at a time per file: once an older version was waited for, no other comes into flight.
    let mut cursor = inode.writeback_lock.lock();
    let range = control.range;
    let tag = if control.mode == SyncMode::All {
        inode.mapping().tag_dirty_as_towrite(range);
        Tag::ToWrite
    } else {
        Tag::Dirty
    };
    let mut walk = Walk {
        inode,
        sink,
        tag,
        wait: control.mode != SyncMode::Background,
        quota: control.quota,
        sent: 0,
        room: None,
        #[cfg(canaries)]
        held_back: None,
    };
    if control.cyclic {
        let begin = PageIndex(cursor.0.clamp(range.start.0, range.end.0));
        let mut at = walk.go(PageRange::new(begin, range.end));
        if walk.sent < walk.quota && begin > range.start {
            at = walk.go(PageRange::new(range.start, begin));
        }
        cursor.0 = at.0;
    } else {
        walk.go(range);
    }
    #[cfg(canaries)]
    if let Some((run, room)) = walk.held_back.take() {
        sink.submit(run, room);
    }
    walk.sent
}

/// One `writepages` at work.
struct Walk<'a, S: DelallocSink> {
    inode: &'a Arc<InodeIo>,
    sink: &'a S,
    tag: Tag,
    wait: bool,
    quota: u64,
    sent: u64,
    /// Room that was taken and that no run has used yet.
    room: Option<S::Credit>,
    #[cfg(canaries)]
    held_back: Option<(DelallocRun, S::Credit)>,
}

impl<S: DelallocSink> Walk<'_, S> {
    /// Sends what is tagged in `pages`, until the quota is used up. Returns the page behind the last one that it came by.
    fn go(&mut self, pages: PageRange) -> PageIndex {
        let (inode, mapping) = (self.inode, self.inode.mapping());
        let mut at = pages.start;
        while self.sent < self.quota {
            let Some(index) = mapping.next_tagged(self.tag, at, pages.end) else { break };
            at = index.next(); // each round goes past the page that it met
            if self.wait {
                let limit = PageIndex(index.0.saturating_add(RUN_PAGES_MAX)).min(pages.end);
                mapping.wait_writeback(inode.states.delalloc_run(PageRange::new(index, limit)).0);
            }
            let room = self.room.take().unwrap_or_else(|| self.sink.admit());
            let Some(locked) = lock_run(inode, index, self.wait) else {
                self.room = Some(room);
                continue;
            };
            at = locked.range().end;
            let run = DelallocRun::freeze(inode, locked);
            self.sent += run.pages().count();
            #[cfg(canaries)]
            let Some((run, room)) = self.hold_back(run, room) else { continue };
            self.sink.submit(run, room);
        }
        at
    }

    /// Each run waits for the next one, where that is planted.
    #[cfg(canaries)]
    fn hold_back(&mut self, run: DelallocRun, room: S::Credit) -> Option<(DelallocRun, S::Credit)> {
        let run = Some((run, room));
        if cowback_base::planted!("held_back") {
            std::mem::replace(&mut self.held_back, run)
        } else {
            run
        }
    }
}

/// Locks the run that begins at page `index`, if that is still dirty and, unless it may `wait`, free.
fn lock_run(inode: &Arc<InodeIo>, index: PageIndex, wait: bool) -> Option<LockedPages> {
    let mapping = inode.mapping();
    loop {
        let (page, busy) = if wait {
            (mapping.find_lock_page(index)?, Busy::Wait)
        } else {
            (mapping.try_lock_page(index)?, Busy::Stop)
        };
        let flags = page.flags();
        if !flags.contains(PageFlags::DIRTY) {
            return None; // another was here first
        }
        if !flags.contains(PageFlags::WRITEBACK) {
            return Some(find_lock_delalloc_range(inode, page, RUN_PAGES_MAX, busy));
        }
        if !wait {
            return None;
        }
        // An older version was queued when this flush came by, and is being written now.
        page.unlock();
        mapping.wait_writeback(PageRange::one(index));
    }
}
