//! A store in memory: the smallest implementation of [`ExtentStore`], for models and tests of the pipeline by itself.
//!
//! It has no transactions. Its space is an array of blocks, its metadata a map of extents for each file; it can be told to fail, and to
//! hold its free space in pieces.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cowback_base::sync::Mutex;
use cowback_base::{BLOCK_SIZE, BLOCK_SIZE_USIZE, ByteRange, Bytenr, Ino, block_align_up};

use crate::store::{
    Compression, DiskExtent, ExtentKind, ExtentMap, ExtentStore, FinishedExtent, InPlace,
    InlineExtent, OrderedKind, PreallocMode, StoreError, StoreResult, WrittenExtent,
};

/// What the store fails at, by the number of calls yet to succeed. `None`: never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// `alloc_extent`.
    pub alloc: Option<u64>,
    /// `write_extent`.
    pub write: Option<u64>,
    /// `finish_ordered`.
    pub finish: Option<u64>,
    /// `insert_inline`.
    pub inline: Option<u64>,
    /// `truncate_extents` and `punch_extents`.
    pub truncate: Option<u64>,
    /// `lookup_extent`.
    pub lookup: Option<u64>,
    /// `read_extent`.
    pub read: Option<u64>,
    /// Whether failing goes on after the first failure.
    pub persistent: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Blocks of the disk.
    blocks: Vec<[u8; BLOCK_SIZE_USIZE]>,
    free: BTreeSet<u64>,
    cursor: u64,
    reserved: u64,
    reserved_in_place: u64,
    /// Files whose data is overwritten in place.
    nodatacow: BTreeSet<Ino>,
    files: HashMap<Ino, BTreeMap<u64, ExtentMap>>,
    faults: Faults,
    reads: u64,
    /// Everything that was allocated, in order.
    allocations: Vec<(u64, u64)>,
}

impl MemoryStore {
    /// A store of `blocks` free blocks.
    #[must_use]
    pub fn new(blocks: u64) -> Self {
        let len = usize::try_from(blocks).expect("a test's disk fits in memory");
        Self {
            state: Mutex::new(State {
                blocks: vec![[0; BLOCK_SIZE_USIZE]; len],
                free: (0..blocks).collect(),
                cursor: 0,
                reserved: 0,
                reserved_in_place: 0,
                nodatacow: BTreeSet::new(),
                files: HashMap::new(),
                faults: Faults::default(),
                reads: 0,
                allocations: Vec::new(),
            }),
        }
    }

    /// Fails from now on as `faults` says.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Takes every block for which `taken` holds out of the free space.
    pub fn fragment(&self, taken: impl Fn(u64) -> bool) {
        self.state.lock().free.retain(|&block| !taken(block));
    }

    /// Has the data of a file be overwritten in place from now on.
    pub fn set_nodatacow(&self, ino: Ino) {
        self.state.lock().nodatacow.insert(ino);
    }

    /// Bytes promised and not spent, of data space or not. Zero at rest.
    pub fn reserved(&self) -> u64 {
        let state = self.state.lock();
        state.reserved + state.reserved_in_place
    }

    /// Free bytes.
    pub fn free_bytes(&self) -> u64 {
        self.state.lock().free.len() as u64 * BLOCK_SIZE
    }

    /// Every allocation so far, as (address, length), in order: what law R3 makes the same for any number of threads.
    pub fn allocations(&self) -> Vec<(u64, u64)> {
        self.state.lock().allocations.clone()
    }

    /// Extents read so far.
    pub fn reads(&self) -> u64 {
        self.state.lock().reads
    }

    /// The maps of a file, in order.
    pub fn maps(&self, ino: Ino) -> Vec<ExtentMap> {
        let state = self.state.lock();
        state.files.get(&ino).map(|maps| maps.values().cloned().collect()).unwrap_or_default()
    }
}

/// Counts a call down; true if it is to fail.
fn fails(count: &mut Option<u64>, persistent: bool) -> bool {
    match count {
        Some(0) => {
            if !persistent {
                *count = None;
            }
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

fn injected(op: &'static str) -> StoreError {
    let source = std::sync::Arc::new(std::io::Error::other("injected"));
    StoreError::Io { op, at: 0, len: 0, source }
}

impl State {
    fn free_extent(&mut self, bytenr: u64, len: u64) {
        for block in bytenr / BLOCK_SIZE..(bytenr + len) / BLOCK_SIZE {
            assert!(self.free.insert(block), "block {block} is freed twice");
        }
    }

    /// Cuts `range` out of the file's maps, freeing extents that nothing refers to any more.
    fn drop_range(&mut self, ino: Ino, range: ByteRange) {
        let maps = self.files.entry(ino).or_default();
        let touched: Vec<u64> = maps
            .values()
            .filter(|m| m.range.intersect(range).is_some())
            .map(|m| m.range.start)
            .collect();
        let mut dropped = BTreeSet::new();
        for start in touched {
            let Some(map) = maps.remove(&start) else { continue };
            for part in [
                ByteRange { start: map.range.start, end: range.start.min(map.range.end) },
                ByteRange { start: range.end.max(map.range.start), end: map.range.end },
            ] {
                if part.start < part.end {
                    maps.insert(part.start, map.slice(part));
                }
            }
            dropped.extend(extent_of(&map.kind));
        }
        for (bytenr, len) in dropped {
            let mut maps = self.files.values().flat_map(BTreeMap::values);
            if !maps.any(|map| extent_of(&map.kind) == Some((bytenr, len))) {
                self.free_extent(bytenr.0, len);
            }
        }
    }
}

/// Address and length of the extent that a map shows a part of.
fn extent_of(kind: &ExtentKind) -> Option<(Bytenr, u64)> {
    match *kind {
        ExtentKind::Regular { disk_bytenr, disk_len, .. }
        | ExtentKind::Prealloc { disk_bytenr, disk_len, .. } => Some((disk_bytenr, disk_len)),
        ExtentKind::Hole | ExtentKind::Inline { .. } => None,
    }
}

impl State {
    /// The map that holds byte `offset` of a file.
    fn map_at(&self, ino: Ino, offset: u64) -> ExtentMap {
        let block = cowback_base::block_align_down(offset);
        let end = u64::MAX - BLOCK_SIZE + 1;
        let Some(maps) = self.files.get(&ino) else { return hole(block, end) };
        if let Some((_, map)) = maps.range(..=offset).next_back()
            && map.range.contains(offset)
        {
            return map.clone();
        }
        let next = maps.range(offset..).next().map(|(&start, _)| start);
        hole(block, next.unwrap_or(end))
    }

    /// Records that what a file has preallocated in `range` is written.
    fn mark_written(&mut self, ino: Ino, range: ByteRange) {
        let mut at = range.start;
        while at < range.end {
            let map = self.map_at(ino, at);
            let ExtentKind::Prealloc { disk_bytenr, disk_len, .. } = map.kind else {
                panic!("{range} of {ino} was to be preallocated, and is {map:?}")
            };
            let maps = self.files.entry(ino).or_default();
            maps.remove(&map.range.start);
            let end = map.range.end.min(range.end);
            for (start, end) in [(map.range.start, at), (at, end), (end, map.range.end)] {
                if start == end {
                    continue;
                }
                let mut part = map.slice(ByteRange::new(start, end));
                if let (true, ExtentKind::Prealloc { offset, .. }) = (start == at, &part.kind) {
                    let (ram_bytes, compression) = (disk_len, Compression::None);
                    let offset = *offset;
                    part.kind = ExtentKind::Regular {
                        disk_bytenr,
                        disk_len,
                        ram_bytes,
                        offset,
                        compression,
                    };
                }
                maps.insert(start, part);
            }
            at = end;
        }
    }

    /// Takes `want` blocks one behind the other, or the longest stretch that there is, if it is of `min` at least.
    fn take_blocks(&mut self, want: u64, min: u64) -> Option<(u64, u64)> {
        let cursor = self.cursor;
        let mut best: Option<(u64, u64)> = None;
        let candidates = self.free.range(cursor..).chain(self.free.range(..cursor));
        let mut run: Option<(u64, u64)> = None;
        for &block in candidates {
            run = match run {
                Some((start, len)) if start + len == block => Some((start, len + 1)),
                _ => Some((block, 1)),
            };
            if run.is_some_and(|(_, len)| best.is_none_or(|(_, longest)| len > longest)) {
                best = run;
            }
            if run.is_some_and(|(_, len)| len == want) {
                break;
            }
        }
        let (start, len) = best.filter(|&(_, len)| len >= min)?;
        for block in start..start + len {
            self.free.remove(&block);
        }
        self.cursor = start + len;
        self.allocations.push((start * BLOCK_SIZE, len * BLOCK_SIZE));
        Some((start, len))
    }

    /// What of `range` is to be preallocated.
    fn to_prealloc(&self, ino: Ino, range: ByteRange, mode: PreallocMode) -> Vec<ByteRange> {
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let map = self.map_at(ino, at);
            let end = map.range.end.min(range.end);
            let stays = match mode {
                PreallocMode::Keep => map.kind != ExtentKind::Hole,
                PreallocMode::Zero => matches!(map.kind, ExtentKind::Prealloc { .. }),
            };
            if !stays {
                parts.push(ByteRange::new(at, end));
            }
            at = end;
        }
        parts
    }
}

impl ExtentStore for MemoryStore {
    fn reserve_data(&self, bytes: u64) -> StoreResult<()> {
        let mut state = self.state.lock();
        let available = (state.free.len() as u64 * BLOCK_SIZE).saturating_sub(state.reserved);
        if bytes > available {
            return Err(StoreError::NoSpace { what: "data", wanted: bytes, available });
        }
        state.reserved += bytes;
        Ok(())
    }

    fn reserve_data_again(&self, bytes: u64) {
        self.state.lock().reserved += bytes;
    }

    fn release_data(&self, bytes: u64) {
        let mut state = self.state.lock();
        assert!(state.reserved >= bytes, "{bytes} bytes released of {}", state.reserved);
        state.reserved -= bytes;
    }

    fn reserve_in_place(&self, bytes: u64) -> StoreResult<()> {
        self.reserve_in_place_again(bytes);
        Ok(())
    }

    fn reserve_in_place_again(&self, bytes: u64) {
        self.state.lock().reserved_in_place += bytes;
    }

    fn release_in_place(&self, bytes: u64) {
        let mut state = self.state.lock();
        let reserved = state.reserved_in_place;
        assert!(reserved >= bytes, "{bytes} bytes in place released of {reserved}");
        state.reserved_in_place -= bytes;
    }

    fn alloc_extent(&self, want: u64, min: u64) -> StoreResult<DiskExtent> {
        let mut state = self.state.lock();
        let persistent = state.faults.persistent;
        let none = StoreError::NoSpace { what: "extent", wanted: min, available: 0 };
        if fails(&mut state.faults.alloc, persistent) {
            return Err(none);
        }
        let (start, len) = state.take_blocks(want / BLOCK_SIZE, min / BLOCK_SIZE).ok_or(none)?;
        Ok(DiskExtent {
            bytenr: Bytenr(start * BLOCK_SIZE),
            len: len * BLOCK_SIZE,
            kind: OrderedKind::Regular,
        })
    }

    fn claim_in_place(&self, ino: Ino, range: ByteRange) -> StoreResult<InPlace> {
        let state = self.state.lock();
        let map = state.map_at(ino, range.start);
        let part = map.slice(ByteRange::new(range.start, map.range.end.min(range.end)));
        let len = part.range.len();
        let extent = match part.kind {
            ExtentKind::Prealloc { disk_bytenr, offset, .. } => Some(DiskExtent {
                bytenr: disk_bytenr.plus(offset),
                len,
                kind: OrderedKind::Prealloc,
            }),
            ExtentKind::Regular { disk_bytenr, offset, compression: Compression::None, .. }
                if state.nodatacow.contains(&ino) =>
            {
                Some(DiskExtent { bytenr: disk_bytenr.plus(offset), len, kind: OrderedKind::Nocow })
            }
            _ => None,
        };
        Ok(InPlace { len, extent })
    }

    fn free_extent(&self, extent: DiskExtent) {
        if extent.kind == OrderedKind::Regular {
            self.state.lock().free_extent(extent.bytenr.0, extent.len);
        }
    }

    fn write_extent(
        &self,
        extent: DiskExtent,
        data: &[&[u8]],
    ) -> Result<WrittenExtent, (DiskExtent, StoreError)> {
        let mut state = self.state.lock();
        let persistent = state.faults.persistent;
        if fails(&mut state.faults.write, persistent) {
            return Err((extent, injected("write")));
        }
        let bytes = data.concat();
        assert_eq!(bytes.len() as u64, extent.len, "the parts add up to the extent");
        let first = usize::try_from(extent.bytenr.0 / BLOCK_SIZE).expect("within the disk");
        for (block, content) in
            state.blocks.iter_mut().skip(first).zip(bytes.chunks(BLOCK_SIZE_USIZE))
        {
            block.copy_from_slice(content);
        }
        Ok(WrittenExtent { extent, sums: Vec::new() })
    }

    fn finish_ordered(&self, finished: FinishedExtent) -> StoreResult<()> {
        let mut state = self.state.lock();
        let FinishedExtent { ino, range, written, compression } = finished;
        let persistent = state.faults.persistent;
        if fails(&mut state.faults.finish, persistent) {
            if written.extent.kind == OrderedKind::Regular {
                state.free_extent(written.extent.bytenr.0, written.extent.len);
            }
            return Err(injected("finish"));
        }
        match written.extent.kind {
            OrderedKind::Regular => state.drop_range(ino, range),
            OrderedKind::Prealloc => {
                state.mark_written(ino, range);
                return Ok(());
            }
            OrderedKind::Nocow => return Ok(()),
        }
        let kind = ExtentKind::Regular {
            disk_bytenr: written.extent.bytenr,
            disk_len: written.extent.len,
            ram_bytes: range.len(),
            offset: 0,
            compression,
        };
        state.files.entry(ino).or_default().insert(range.start, ExtentMap { range, kind });
        Ok(())
    }

    fn insert_inline(&self, ino: Ino, inline: InlineExtent) -> StoreResult<()> {
        let mut state = self.state.lock();
        let persistent = state.faults.persistent;
        if fails(&mut state.faults.inline, persistent) {
            return Err(injected("inline"));
        }
        state.drop_range(ino, ByteRange::new(0, u64::MAX));
        let InlineExtent { ram_bytes, compression, data } = inline;
        let range = ByteRange::new(0, block_align_up(ram_bytes));
        let kind = ExtentKind::Inline { ram_bytes, compression, data };
        state.files.entry(ino).or_default().insert(0, ExtentMap { range, kind });
        Ok(())
    }

    fn truncate_extents(&self, ino: Ino, size: u64) -> StoreResult<()> {
        let mut state = self.state.lock();
        let persistent = state.faults.persistent;
        if fails(&mut state.faults.truncate, persistent) {
            return Err(injected("truncate"));
        }
        state.drop_range(ino, ByteRange::new(block_align_up(size), u64::MAX));
        Ok(())
    }

    fn punch_extents(&self, ino: Ino, range: ByteRange) -> StoreResult<()> {
        let mut state = self.state.lock();
        let persistent = state.faults.persistent;
        if fails(&mut state.faults.truncate, persistent) {
            return Err(injected("punch"));
        }
        state.drop_range(ino, range);
        Ok(())
    }

    fn prealloc_extents(&self, ino: Ino, range: ByteRange, mode: PreallocMode) -> StoreResult<()> {
        let mut state = self.state.lock();
        let persistent = state.faults.persistent;
        if fails(&mut state.faults.truncate, persistent) {
            return Err(injected("prealloc"));
        }
        let parts = state.to_prealloc(ino, range, mode);
        let wanted: u64 = parts.iter().map(|part| part.len()).sum();
        let available = (state.free.len() as u64 * BLOCK_SIZE).saturating_sub(state.reserved);
        if wanted > available {
            return Err(StoreError::NoSpace { what: "data", wanted, available });
        }
        for part in parts {
            state.drop_range(ino, part);
            let mut at = part.start;
            while at < part.end {
                let want = (part.end - at) / BLOCK_SIZE;
                let (start, blocks) = state.take_blocks(want, 1).expect("there is room");
                let len = blocks * BLOCK_SIZE;
                let disk_bytenr = Bytenr(start * BLOCK_SIZE);
                let kind = ExtentKind::Prealloc { disk_bytenr, disk_len: len, offset: 0 };
                let range = ByteRange::at(at, len);
                state.files.entry(ino).or_default().insert(at, ExtentMap { range, kind });
                at += len;
            }
        }
        Ok(())
    }

    fn lookup_extent(&self, ino: Ino, offset: u64) -> StoreResult<ExtentMap> {
        let mut state = self.state.lock();
        let persistent = state.faults.persistent;
        if fails(&mut state.faults.lookup, persistent) {
            return Err(injected("lookup"));
        }
        Ok(state.map_at(ino, offset))
    }

    fn read_extent(&self, _: Ino, bytenr: Bytenr, target: &mut [u8]) -> StoreResult<()> {
        let mut state = self.state.lock();
        let persistent = state.faults.persistent;
        if fails(&mut state.faults.read, persistent) {
            return Err(injected("read"));
        }
        state.reads += 1;
        let first = usize::try_from(bytenr.0 / BLOCK_SIZE).expect("within the disk");
        for (part, block) in target.chunks_mut(BLOCK_SIZE_USIZE).zip(&state.blocks[first..]) {
            part.copy_from_slice(block);
        }
        Ok(())
    }
}

fn hole(start: u64, end: u64) -> ExtentMap {
    ExtentMap { range: ByteRange::new(start, end), kind: ExtentKind::Hole }
}

/// For tests that want to see how a range is stored.
impl MemoryStore {
    /// How the extent at byte `offset` of the file is compressed; `None` if it is no extent on disk.
    pub fn compression_at(&self, ino: Ino, offset: u64) -> Option<Compression> {
        match self.lookup_extent(ino, offset).ok()?.kind {
            ExtentKind::Regular { compression, .. } => Some(compression),
            _ => None,
        }
    }
}
