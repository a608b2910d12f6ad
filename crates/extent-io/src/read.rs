//! Reads: from the cache, and from disk into it (the pipeline's way back).
//!
//! A read that misses locks the absent pages of its range, finds the extents under them, and reads, verifies and unpacks each in a
//! `Fill`. The fill that the reader waits for runs on its own thread; the others, and readahead, on the executor. A fill owns the locks of its
//! pages: nobody can drop, write back or truncate them meanwhile, so the extent under them stays.
//!
//! A fill that fails unlocks its pages without content; a reader that finds such a page reads it itself, and gets the error itself.

use std::cell::RefCell;
use std::sync::Arc;

use cowback_base::{
    BLOCK_SIZE, ByteRange, Bytenr, COMPRESSED_EXTENT_MAX, PageIndex, PageRange, block_align_up,
};
use cowback_codec::{Algorithm, Decompressor};
use cowback_page_cache::{CachePolicy, Frame, LeafMemory, LockedPages};

use crate::executor::Executor;
use crate::inode::InodeIo;
use crate::readahead::Readahead;
use crate::store::{Compression, ExtentKind, ExtentMap, StoreError, StoreResult};

/// Most pages of one fill (512 KiB): a large extent that is not compressed is read by several threads. A compressed one is never longer than
/// this, so it is unpacked once.
const FILL_PAGES_MAX: u64 = 128;

/// Reads of more than twice as much are done in steps of so many bytes (1 MiB), each as a read of its own: so what is locked and kept for one reader is
/// bounded, and its own readahead keeps the workers busy between two steps.
const STEP: u64 = 1 << 20;

/// Most bytes of a compressed extent, before or after, that are taken on: the kernel writes 128 KiB and reads a little more.
const PACKED_MAX: u64 = 8 * COMPRESSED_EXTENT_MAX;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a thread that reads keeps from one extent to the next.
#[derive(Debug, Default)]
struct Scratch {
    /// For the bytes of an extent as they are stored.
    stored: Vec<u8>,
    unpacker: Unpacker,
}

/// A decompression context, and room for what it unpacks.
#[derive(Debug, Default)]
struct Unpacker {
    decompressor: Decompressor,
    unpacked: Vec<u8>,
}

impl InodeIo {
    /// Copies bytes from `offset` on into `target`, as many as the file has. Returns how many.
    ///
    /// # Errors
    /// Bytes that could not be read or are not what was written; `target` is then undefined.
    pub fn read(
        self: &Arc<Self>,
        offset: u64,
        target: &mut [u8],
        readahead: &Readahead,
        executor: &dyn Executor,
    ) -> StoreResult<usize> {
        let end = offset.saturating_add(target.len() as u64);
        let wanted = self.clamp(ByteRange::new(offset, end));
        let mut rest = target;
        let mut at = wanted.start;
        while at < wanted.end {
            let border = (at / STEP + 1) * STEP;
            let end = if wanted.end - at <= 2 * STEP { wanted.end } else { border };
            let step = ByteRange::new(at, end);
            let (slice, after) = rest.split_at_mut(to_usize(step.len()));
            self.read_step(step, wanted.pages().end, slice, readahead, executor)?;
            (at, rest) = (step.end, after);
        }
        Ok(to_usize(wanted.len()))
    }

    /// Copies the bytes of `wanted`, which are all in the file, into `target`. The read goes on to page `goes_on_to`.
    fn read_step(
        self: &Arc<Self>,
        wanted: ByteRange,
        goes_on_to: PageIndex,
        target: &mut [u8],
        readahead: &Readahead,
        executor: &dyn Executor,
    ) -> StoreResult<()> {
        let eof = PageIndex(block_align_up(self.size()) / BLOCK_SIZE);
        let budget = self.mapping().memory_limit() / BLOCK_SIZE;
        let last_end = readahead.last_end();
        let mut ahead = readahead.plan(wanted, goes_on_to, eof, budget);
        let mut done = 0;
        while done < target.len() {
            let at = wanted.start + done as u64;
            let slice = target.get_mut(done..).unwrap_or_default();
            done += if at == last_end {
                self.mapping().read_on(at, slice)
            } else {
                self.mapping().read(at, slice)
            };
            if done < target.len() {
                let miss = ByteRange::new(wanted.start + done as u64, wanted.end).pages();
                let fills = self.fills(miss)?;
                self.mapping().note_missed(fills.iter().map(|fill| fill.range().count()).sum());
                let mut fills = fills.into_iter();
                let first = fills.next();
                spawn(fills, executor);
                if first.as_ref().is_some_and(|first| first.range().start == miss.start) {
                    readahead.missed(miss.start);
                }
                if let Some(ahead) = ahead.take() {
                    self.read_ahead(ahead, executor);
                }
                first.map_or(Ok(()), Fill::run)?;
                self.read_page(miss.start)?;
            }
        }
        if let Some(ahead) = ahead {
            self.read_ahead(ahead, executor);
        }
        self.leave_behind(wanted, last_end, readahead);
        Ok(())
    }

    /// Gives up pages that a reader is done with.
    fn leave_behind(&self, read: ByteRange, last_end: u64, readahead: &Readahead) {
        if self.mapping().policy() == CachePolicy::Uncached {
            // The page in which a read ends stays until the reader goes on, or elsewhere: it may read in small steps.
            let end = if read.end < self.size() { read.end } else { block_align_up(read.end) };
            let pages =
                PageRange::new(PageIndex::containing(read.start), PageIndex(end / BLOCK_SIZE));
            self.mapping().drop_clean(pages);
            let left = PageIndex::containing(last_end);
            if left != PageIndex::containing(read.end) {
                self.mapping().drop_clean(PageRange::one(left));
            }
        } else if self.size() > self.mapping().memory_limit() / 2
            && let Some(behind) = readahead.behind()
        {
            // A scan of more than the cache can keep leaves room to others, and its frames, still warm, to itself.
            self.mapping().drop_used_once(behind);
        }
    }

    /// The content of page `index` as it is now, shared with the cache: no copy is made.
    ///
    /// # Errors
    /// Bytes that could not be read or are not what was written.
    pub fn read_frame(self: &Arc<Self>, index: PageIndex) -> StoreResult<Frame> {
        loop {
            if let Some(frame) = self.mapping().frame(index) {
                if self.mapping().policy() == CachePolicy::Uncached {
                    self.mapping().drop_clean(PageRange::one(index));
                }
                return Ok(frame);
            }
            self.read_page(index)?;
        }
    }

    /// Brings one page into the cache, and waits for it.
    pub(crate) fn read_page(self: &Arc<Self>, index: PageIndex) -> StoreResult<()> {
        if self.mapping().wait_uptodate(index) {
            return Ok(());
        }
        let page = self.mapping().lock_page(index);
        if page.is_uptodate() {
            return Ok(());
        }
        self.mapping().note_missed(1);
        self.fill(page.into_range(), self.size_bound())?.run()
    }

    /// Reads `pages` ahead on the executor. Nobody waits, so errors wait too, for the reader that comes.
    fn read_ahead(self: &Arc<Self>, pages: PageRange, executor: &dyn Executor) {
        spawn(self.fills(pages).into_iter().flatten(), executor);
    }

    /// Locks those of `pages` that are absent and nobody else is reading, and cuts them where the extents under them end.
    fn fills(self: &Arc<Self>, pages: PageRange) -> StoreResult<Vec<Fill>> {
        let mut fills: Vec<Fill> = Vec::new();
        let mut runs = self.mapping().lock_absent_runs(pages).into_iter();
        while let Some(run) = runs.next() {
            if let Err(error) = self.cut_fills(run, &mut fills) {
                runs.for_each(LockedPages::unlock);
                return Err(error);
            }
        }
        Ok(fills)
    }

    fn cut_fills(self: &Arc<Self>, run: LockedPages, fills: &mut Vec<Fill>) -> StoreResult<()> {
        let size = self.size_bound();
        let mut rest = self.fill(run, size)?;
        while let Some(cut) = rest.cut() {
            let (fill, after) = rest.split_at(cut);
            fills.push(fill);
            rest = after?;
        }
        fills.push(rest);
        Ok(())
    }

    /// Where the content of `pages` is, of the first at least. `size` is the file's [`size_bound`](InodeIo::size_bound), sampled
    /// after the pages were locked, and before this looks: a truncate that changes it later waits for the pages, so the extent found
    /// is in the file up to there.
    fn fill(self: &Arc<Self>, pages: LockedPages, size: u64) -> StoreResult<Fill> {
        match self.extent_map(pages.range().start.offset()) {
            Ok(map) => Ok(Fill { inode: Arc::clone(self), map, size, pages: Some(pages) }),
            Err(error) => {
                pages.unlock();
                Err(error)
            }
        }
    }
}

/// A run of locked pages without content. Those that are not filled are unlocked when it is dropped.
#[derive(Debug)]
struct Fill {
    inode: Arc<InodeIo>,
    /// Holds the first page, and once cut all of them.
    map: ExtentMap,
    /// The end of the file: what the extent holds beyond it is not the file's. Ahead of the size that readers see while a write extends
    /// the file: its bytes may be on disk, and out of the cache, before it is done.
    size: u64,
    /// `None` once filled.
    pages: Option<LockedPages>,
}

impl Drop for Fill {
    fn drop(&mut self) {
        if let Some(pages) = self.pages.take() {
            pages.unlock();
        }
    }
}

impl Fill {
    fn range(&self) -> PageRange {
        self.pages.as_ref().expect("a fill has its pages until it ends").range()
    }

    fn take(&mut self) -> LockedPages {
        self.pages.take().expect("a fill ends once")
    }

    /// The page before which the run must be cut, as the extent ends there, or for it being too long for one job.
    fn cut(&self) -> Option<PageIndex> {
        let range = self.range();
        let longest = PageIndex(range.start.0.saturating_add(FILL_PAGES_MAX));
        let cut = longest.min(PageIndex(self.map.range.end.div_ceil(BLOCK_SIZE)));
        (cut < range.end).then_some(cut)
    }

    fn split_at(mut self, cut: PageIndex) -> (Self, StoreResult<Self>) {
        let (pages, after) = self.take().split_at(cut);
        self.pages = Some(pages);
        let after = self.inode.fill(after, self.size);
        (self, after)
    }

    /// Reads the extent and gives the pages their content.
    fn run(mut self) -> StoreResult<()> {
        let start = self.range().start.offset();
        let skipped = start - self.map.range.start;
        let others = self.others_of_extent();
        let kind = std::mem::replace(&mut self.map.kind, ExtentKind::Hole);
        match kind {
            ExtentKind::Hole | ExtentKind::Prealloc { .. } => {
                let zero = Frame::zeroed();
                self.take().fill(|_| zero.clone());
                Ok(())
            }
            ExtentKind::Inline { ram_bytes, compression, data } => {
                self.check_length(ram_bytes, BLOCK_SIZE)?;
                with_scratch(|Scratch { unpacker, .. }| {
                    fill_unpacked(vec![self], unpacker, (compression, &data), ram_bytes, 0)
                })
            }
            ExtentKind::Regular { disk_bytenr, disk_len, ram_bytes, offset, compression } => {
                if compression == Compression::None {
                    return self.fill_raw(disk_bytenr.plus(offset + skipped));
                }
                self.check_length(ram_bytes.max(disk_len), PACKED_MAX)?;
                with_scratch(|Scratch { stored, unpacker }| {
                    let stored = room(stored, to_usize(disk_len));
                    self.inode.store().read_extent(self.inode.ino(), disk_bytenr, stored)?;
                    let fills = std::iter::once(self).chain(others).collect();
                    fill_unpacked(fills, unpacker, (compression, stored), ram_bytes, offset)
                })
            }
        }
    }

    /// Reads just the blocks of the pages, those of each leaf by themselves.
    fn fill_raw(mut self, mut at: Bytenr) -> StoreResult<()> {
        while let Some(border) = LeafMemory::border_in(self.range()) {
            let (pages, rest) = self.take().split_at(border);
            let len = pages.range().bytes().len();
            self.pages = Some(rest);
            let (inode, map) = (Arc::clone(&self.inode), self.map.clone());
            Self { inode, map, size: self.size, pages: Some(pages) }.fill_raw_in_leaf(at)?;
            at = at.plus(len);
        }
        self.fill_raw_in_leaf(at)
    }

    fn fill_raw_in_leaf(mut self, at: Bytenr) -> StoreResult<()> {
        let inode = Arc::clone(&self.inode);
        if self.is_leaf() {
            let mut memory = inode.mapping().leaf_memory();
            inode.store().read_extent(inode.ino(), at, memory.bytes_mut())?;
            self.take().fill_leaf(memory);
            return Ok(());
        }
        with_scratch(|scratch| {
            let bytes = room(&mut scratch.stored, to_usize(self.range().bytes().len()));
            inode.store().read_extent(inode.ino(), at, bytes)?;
            self.fill_from(bytes);
            Ok(())
        })
    }

    /// Whether the pages are exactly those of a leaf, and all in the file: what is read can be unpacked where it is to stay.
    fn is_leaf(&self) -> bool {
        self.range().bytes().end <= self.size
            && self.pages.as_ref().is_some_and(LockedPages::is_leaf)
    }

    /// The other pages of a compressed extent that are absent and that nobody reads, if there is room for them without others having to go:
    /// it is unpacked once for all who will read it.
    fn others_of_extent(&self) -> Vec<Self> {
        let compressed = matches!(self.map.kind, ExtentKind::Regular { compression, .. } if compression != Compression::None);
        let mapping = self.inode.mapping();
        // A truncate may have taken all of it.
        let end = self.map.range.end.min(block_align_up(self.size)).max(self.map.range.start);
        let pages = ByteRange::new(self.map.range.start, end).pages();
        if !compressed
            || pages == self.range()
            || mapping.policy() != CachePolicy::Normal
            || !mapping.has_room(pages.count())
        {
            return Vec::new();
        }
        let runs = mapping.lock_absent_runs(pages).into_iter();
        // Looked up again: a page that was not locked may have been written, and have gone, since the extent was found.
        let fills = runs.filter_map(|run| self.inode.fill(run, self.inode.size_bound()).ok());
        fills.filter(|fill| fill.map == self.map).collect()
    }

    /// Gives the pages the content `bytes`, and zeros behind it and behind the end of the file.
    fn fill_from(&mut self, bytes: &[u8]) {
        let in_file = to_usize(self.size.saturating_sub(self.range().start.offset()));
        self.take().fill_from(bytes.get(..in_file).unwrap_or(bytes));
    }

    /// Refuses an extent that is longer than any reader could be asked to unpack.
    fn check_length(&self, bytes: u64, max: u64) -> StoreResult<()> {
        if bytes <= max {
            return Ok(());
        }
        Err(self.corrupt(&format!("it has {bytes} bytes, and may have {max}")))
    }

    fn corrupt(&self, why: &str) -> StoreError {
        StoreError::Corrupt {
            what: format!("extent of inode {}", self.inode.ino()),
            at: format!("file offset {}", self.map.range.start),
            why: why.to_owned(),
        }
    }
}

/// Unpacks an extent that holds `ram_bytes`, as far as `fills`, all of that extent, need it. The map that they share begins at `offset` of it.
fn fill_unpacked(
    mut fills: Vec<Fill>,
    unpacker: &mut Unpacker,
    (compression, stored): (Compression, &[u8]),
    ram_bytes: u64,
    offset: u64,
) -> StoreResult<()> {
    let place = |fill: &Fill| offset + fill.range().start.offset() - fill.map.range.start;
    let ends = fills.iter().map(|fill| place(fill) + fill.range().bytes().len());
    let needed = ends.max().unwrap_or(0).min(ram_bytes);
    if let [fill] = &mut fills[..]
        && fill.is_leaf()
        && place(fill) == 0
        && needed == fill.range().bytes().len()
        && let Some(algorithm) = algorithm_of(compression)
    {
        let mut memory = fill.inode.mapping().leaf_memory();
        let unpacked = unpacker.decompressor.decompress(algorithm, stored, memory.bytes_mut());
        unpacked.map_err(|error| fill.corrupt(&error.to_string()))?;
        fill.take().fill_leaf(memory);
        return Ok(());
    }
    let unpacked = unpacker.unpack(compression, stored, to_usize(needed));
    let bytes = unpacked.map_err(|why| fills[0].corrupt(&why))?;
    for mut fill in fills {
        let skip = to_usize(place(&fill));
        fill.fill_from(bytes.get(skip..).unwrap_or_default());
    }
    Ok(())
}

/// Has the executor run `fills`. What fails leaves its pages absent, for the reader that comes.
fn spawn(fills: impl Iterator<Item = Fill>, executor: &dyn Executor) {
    for fill in fills {
        executor.spawn(Box::new(move || drop(fill.run())));
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Runs `f` with this thread's scratch. Taken, not borrowed: `f` takes locks, and under a model another thread's read then runs on this one.
fn with_scratch<T>(f: impl FnOnce(&mut Scratch) -> T) -> T {
    let mut scratch = SCRATCH.take();
    let result = f(&mut scratch);
    SCRATCH.set(scratch);
    result
}

/// The first `len` bytes of `buffer`, made longer if need be. What is in them is of no interest.
fn room(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}

fn algorithm_of(compression: Compression) -> Option<Algorithm> {
    match compression {
        Compression::None => None,
        Compression::Zlib => Some(Algorithm::Zlib),
        Compression::Lzo => Some(Algorithm::Lzo),
        Compression::Zstd => Some(Algorithm::Zstd),
    }
}

impl Unpacker {
    /// Unpacks `len` bytes of `stored`.
    fn unpack<'a>(
        &'a mut self,
        compression: Compression,
        stored: &'a [u8],
        len: usize,
    ) -> Result<&'a [u8], String> {
        let Some(algorithm) = algorithm_of(compression) else {
            return Ok(stored.get(..len).unwrap_or(stored));
        };
        let target = room(&mut self.unpacked, len);
        let unpacked = self.decompressor.decompress(algorithm, stored, target);
        unpacked.map_err(|error| error.to_string())?;
        Ok(target)
    }
}
