//! Copying bytes into and out of pages (stage 1 to 2, and cached reads).
//!
//! A writer needs no page lock and waits for nothing but the leaf's mutex. It changes only pages that have content, or
//! whose old content does not matter: because it overwrites all of it, or because the caller says that there is none.
//!
//! Under the mutex only references move. Whole pages are copied into frames of their own before, and out of snapshots
//! after; what is copied under it is, at most, the parts of pages at both ends of a write.

use cowback_base::{BLOCK_SIZE, BLOCK_SIZE_USIZE, PageIndex, PageRange};

use crate::bits::{LEAF_PAGES, bit_of, leaf_of, lowest, mask_in, runs};
use crate::content::{Fresh, Removed};
use crate::frame::{Frame, Single};
use crate::guard::LeafGuard;
use crate::mapping::Mapping;

/// How far a [`Mapping::write`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteOutcome {
    /// Bytes written, from the start on.
    pub written: usize,
    /// The page that stopped it: part of it is to be overwritten, and the rest must be read in first.
    pub needs_read: Option<PageIndex>,
}

/// One page's share of a copy.
#[derive(Clone, Copy)]
struct Step {
    index: PageIndex,
    /// Where in the page.
    skip: usize,
    len: usize,
}

/// The steps of a copy of `len` bytes at `offset`.
fn steps(offset: u64, len: usize) -> impl Iterator<Item = Step> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let skip = usize::try_from(at % BLOCK_SIZE).expect("less than a block");
        let step = Step {
            index: PageIndex::containing(at),
            skip,
            len: (BLOCK_SIZE_USIZE - skip).min(len - done),
        };
        done += step.len;
        Some(step)
    })
}

/// Bytes from `offset` to the end of its leaf, at most `len`.
fn in_leaf(offset: u64, len: usize) -> usize {
    let left = LEAF_PAGES * BLOCK_SIZE - offset % (LEAF_PAGES * BLOCK_SIZE);
    len.min(usize::try_from(left).expect("less than a leaf"))
}

impl Mapping {
    /// Copies `src` to `offset`, and marks what it covers uptodate and dirty. Stops at the first page of which it has
    /// only a part to write, that is not uptodate, and that lies before page `zero_beyond`: from that page on the file
    /// has no old content, and what is not written is zero.
    ///
    /// `on_dirty` gets the runs of pages that were clean and are dirty now, under the leaf's mutex.
    ///
    /// # Panics
    /// If the end of the write does not fit in a `u64`.
    pub fn write(
        &self,
        offset: u64,
        src: &[u8],
        zero_beyond: PageIndex,
        mut on_dirty: impl FnMut(PageRange),
    ) -> WriteOutcome {
        assert!(offset.checked_add(src.len() as u64).is_some(), "a write beyond the last offset");
        let mut written = 0;
        while written < src.len() {
            let at = offset + written as u64;
            let part = &src[written..written + in_leaf(at, src.len() - written)];
            self.make_room((part.len() as u64).div_ceil(BLOCK_SIZE));
            let mut whole = self.whole_pages(at, part);
            let outcome = self.on_new_leaf(leaf_of(PageIndex::containing(at)), |leaf| {
                write_leaf(leaf, at, part, &mut whole, zero_beyond, &mut on_dirty)
            });
            self.cache.pool().give(whole.into_unused());
            written += outcome.written;
            if outcome.needs_read.is_some() {
                return WriteOutcome { written, ..outcome };
            }
        }
        WriteOutcome { written, needs_read: None }
    }

    /// Copies the whole pages of a write of `src` at `offset`, which is within a leaf.
    fn whole_pages(&self, offset: u64, src: &[u8]) -> WholePages {
        let first = offset.next_multiple_of(BLOCK_SIZE);
        let end = (offset + src.len() as u64) / BLOCK_SIZE * BLOCK_SIZE;
        if end <= first {
            return WholePages::default();
        }
        let within = |at: u64| usize::try_from(at - offset).expect("less than a leaf");
        let bytes = &src[within(first)..within(end)];
        let range = PageRange::new(PageIndex(first / BLOCK_SIZE), PageIndex(end / BLOCK_SIZE));
        WholePages {
            mask: mask_in(leaf_of(range.start), range),
            fresh: Some(self.cache.pool().copy(bytes, bytes.len() / BLOCK_SIZE_USIZE)),
            ..WholePages::default()
        }
    }

    /// Copies cached bytes from `offset` on into `dst`, up to the first page that is not uptodate. Gives how many.
    pub fn read(&self, offset: u64, dst: &mut [u8]) -> usize {
        self.copy_out(offset, dst, PageIndex::containing(offset))
    }

    /// As [`Mapping::read`], for a reader whose last read ended at `offset`: if that is within a page, the page was used
    /// by that read, and is not used again by this one. So a scan in small steps is a scan.
    pub fn read_on(&self, offset: u64, dst: &mut [u8]) -> usize {
        self.copy_out(offset, dst, PageIndex(offset.div_ceil(BLOCK_SIZE)))
    }

    /// Copies cached bytes; the pages from `used_from` on are used by it.
    fn copy_out(&self, offset: u64, dst: &mut [u8], used_from: PageIndex) -> usize {
        let mut done = 0;
        while done < dst.len() {
            let at = offset + done as u64;
            let want = in_leaf(at, dst.len() - done);
            let part = &mut dst[done..done + want];
            let first = PageIndex::containing(at);
            let pages = PageRange::new(first, PageIndex((at + want as u64).div_ceil(BLOCK_SIZE)));
            // Copied from snapshots, so that nobody waits for it.
            let copied = if pages.count() == 1 {
                let frame = self.frame_used_from(first, used_from);
                copy_frames(frame.as_slice(), at, part)
            } else {
                copy_frames(&self.frames_used_from(pages, used_from), at, part)
            };
            done += copied;
            if copied < want {
                break;
            }
        }
        done
    }

    /// The content of a page, if it is cached: a snapshot, without copying.
    #[must_use]
    pub fn frame(&self, index: PageIndex) -> Option<Frame> {
        self.frame_used_from(index, index)
    }

    fn frame_used_from(&self, index: PageIndex, used_from: PageIndex) -> Option<Frame> {
        let bit = bit_of(index);
        let frame = self.peek_leaf(leaf_of(index), |leaf| {
            let frame = leaf.frame(bit)?;
            if index >= used_from {
                leaf.heat.touch(bit);
            }
            Some(frame)
        })??;
        self.cache.lookups.gave(1);
        Some(frame)
    }

    /// The content of the cached pages from `range.start` on, up to the first that is not cached: snapshots.
    #[must_use]
    pub fn frames(&self, range: PageRange) -> Vec<Frame> {
        self.frames_used_from(range, range.start)
    }

    fn frames_used_from(&self, range: PageRange, used_from: PageIndex) -> Vec<Frame> {
        let used = PageRange::new(range.start.max(used_from), range.end);
        let mut frames = Vec::new();
        for (number, mask) in crate::bits::pieces(range) {
            let all = self.peek_leaf(number, |leaf| {
                let absent = lowest(mask & !leaf.masks.uptodate);
                let there = if absent == 0 { mask } else { mask & (absent - 1) };
                leaf.heat.touch(there & mask_in(number, used));
                frames.reserve(there.count_ones() as usize);
                frames.extend(crate::bits::each(there).filter_map(|bit| leaf.frame(bit)));
                absent == 0
            });
            if all != Some(true) {
                break;
            }
        }
        self.cache.lookups.gave(frames.len() as u64);
        frames
    }

    /// So many of the pages that a reader will be given next had to be read for it.
    pub fn note_missed(&self, pages: u64) {
        self.cache.lookups.missed(pages);
    }

    /// Zeroes what the page of `offset`, if it is cached, holds from `offset` on: the tail that a truncate cuts off.
    /// The page does not become dirty by it.
    pub fn zero_tail(&self, offset: u64) {
        let index = PageIndex::containing(offset);
        let keep = usize::try_from(offset % BLOCK_SIZE).expect("less than a block");
        if keep == 0 {
            return;
        }
        self.on_leaf(leaf_of(index), |leaf| {
            let bit = bit_of(index);
            let tail = leaf.bytes(bit).map(|bytes| &bytes[keep..]);
            if tail.is_some_and(|tail| tail.iter().any(|byte| *byte != 0))
                && let Some(bytes) = leaf.bytes_mut(bit)
            {
                bytes[keep..].fill(0);
            }
        });
    }
}

/// The whole pages of a write within a leaf, copied before the leaf is locked.
#[derive(Default)]
struct WholePages {
    mask: u32,
    /// Their content, until it is theirs.
    fresh: Option<Fresh>,
    /// What they had before, from then on.
    removed: Removed,
}

impl WholePages {
    /// What nobody needs.
    fn into_unused(self) -> Removed {
        self.fresh.map_or(self.removed, Removed::from)
    }
}

fn write_leaf(
    leaf: &mut LeafGuard<'_>,
    offset: u64,
    src: &[u8],
    whole: &mut WholePages,
    zero_beyond: PageIndex,
    on_dirty: &mut impl FnMut(PageRange),
) -> WriteOutcome {
    let idle = leaf.masks.uptodate & !leaf.masks.dirty;
    let mut outcome = WriteOutcome { written: 0, needs_read: None };
    let mut touched = 0;
    for step in steps(offset, src.len()) {
        let bit = bit_of(step.index);
        let bytes = &src[outcome.written..outcome.written + step.len];
        if step.len == BLOCK_SIZE_USIZE {
            // All of them go in with the first.
            if let Some(fresh) = whole.fresh.take() {
                whole.removed = leaf.put(whole.mask, fresh);
            }
        } else if !write_part(leaf, bit, step, bytes, zero_beyond) {
            outcome.needs_read = Some(step.index);
            break;
        }
        touched |= bit;
        outcome.written += step.len;
    }
    let newly = leaf.set_dirty(touched);
    // Writing to a page that is dirty already is no second use: it cannot go anyway, and a log is written in small steps.
    leaf.heat.touch(touched & idle);
    runs(leaf.number, newly).for_each(on_dirty);
    outcome
}

/// Writes a part of a page, or gives `false` if that must be read in first.
fn write_part(
    leaf: &mut LeafGuard<'_>,
    bit: u32,
    step: Step,
    bytes: &[u8],
    zero_beyond: PageIndex,
) -> bool {
    match leaf.bytes_mut(bit) {
        Some(page) => page[step.skip..step.skip + step.len].copy_from_slice(bytes),
        None if step.index >= zero_beyond => {
            let mut page = Single::zeroed();
            page.make_mut()[step.skip..step.skip + step.len].copy_from_slice(bytes);
            leaf.fill(bit, Fresh::Pages(vec![page]));
        }
        None => return false,
    }
    true
}

/// Copies what `frames` hold from file offset `offset` on, which is in the first of them. Gives how many bytes.
fn copy_frames(frames: &[Frame], offset: u64, dst: &mut [u8]) -> usize {
    let mut done = 0;
    for (step, frame) in steps(offset, dst.len()).zip(frames) {
        let from = &frame.bytes()[step.skip..step.skip + step.len];
        dst[done..done + step.len].copy_from_slice(from);
        done += step.len;
    }
    done
}

#[cfg(test)]
#[path = "rw_tests.rs"]
mod tests;
