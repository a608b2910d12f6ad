//! The chunk map: which bytes of the device a logical address stands for (stages 7 and 9).
//!
//! One device; a chunk has one stripe (SINGLE) or two that hold the same bytes (DUP). Invariants: chunks do not overlap
//! in logical addresses, stripes do not overlap on the device, no stripe that is made here begins below 1 MiB, and all of
//! it is aligned to 64 KiB. There is no lock here; [`crate::disk::Disk`] holds the map under a leaf lock.

use std::collections::BTreeMap;

use cowback_base::ByteRange;
use cowback_btrfs_disk::superblock::{SUPER_LEN, SUPER_OFFSETS};

/// Chunks begin and end on multiples of this.
pub(crate) const STRIPE_LEN: u64 = 64 * 1024;

/// Nothing is allocated below this address of the device: it belongs to boot loaders and the first superblock.
pub(crate) const RESERVED_START: u64 = 1 << 20;

/// Chunks for data are made below this logical address, others from it on, as long as there are addresses.
const LOGICAL_BORDER: u64 = 1 << 42;

/// No chunk ends behind this address, be it logical or of the device: no real one does, and sums of two are none that overflow.
const ADDRESS_END: u64 = 1 << 63;

/// Bytes around each copy of the superblock that no extent may cover.
pub(crate) const SUPER_STRIPE: u64 = 64 * 1024;

/// No device has more bytes than that: no chunk is placed behind it, and no more is left free.
pub(crate) const DEVICE_MAX: u64 = 1 << 62;

/// Logical bytes and where they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// First logical address.
    pub(crate) logical: u64,
    /// Logical bytes.
    pub(crate) len: u64,
    /// Block group type and profile, as on disk.
    pub(crate) flags: u64,
    /// Device address of each copy.
    pub(crate) stripes: Vec<u64>,
}

impl Chunk {
    /// One past the last logical address.
    pub(crate) const fn end(&self) -> u64 {
        self.logical + self.len
    }

    /// The logical ranges that stand for a copy of the superblock in any stripe.
    pub(crate) fn super_ranges(&self) -> Vec<ByteRange> {
        let mut ranges = Vec::new();
        for &stripe in &self.stripes {
            let device = ByteRange::at(stripe, self.len);
            for copy in SUPER_OFFSETS {
                if let Some(hit) = device.intersect(ByteRange::at(copy, SUPER_STRIPE)) {
                    let start = self.logical + (hit.start - stripe);
                    ranges.push(ByteRange::at(start, hit.len()));
                }
            }
        }
        ranges
    }
}

/// All chunks of the volume.
#[derive(Debug, Default, Clone)]
pub(crate) struct ChunkMap {
    by_logical: BTreeMap<u64, Chunk>,
    by_device: BTreeMap<u64, u64>,
}

impl ChunkMap {
    /// Adds a chunk. Says what is wrong if it overlaps another, and leaves the map as it was.
    pub(crate) fn insert(&mut self, chunk: Chunk) -> Result<(), String> {
        let fits = |start| Self::has_address(start, chunk.len);
        if chunk.len == 0 || !fits(chunk.logical) {
            return Err(format!("a chunk of {} bytes at {}", chunk.len, chunk.logical));
        }
        if let Some((_, before)) = self.by_logical.range(..chunk.end()).next_back()
            && before.end() > chunk.logical
        {
            return Err(format!("overlaps the chunk at {}", before.logical));
        }
        for (index, &stripe) in chunk.stripes.iter().enumerate() {
            if !fits(stripe) {
                return Err(format!("a stripe of {} bytes at {stripe}", chunk.len));
            }
            let end = stripe + chunk.len;
            let own = chunk.stripes[..index].iter();
            let clash = own.copied().find(|other| *other < end && stripe < other + chunk.len);
            let other = self.by_device.range(..end).next_back();
            let other =
                other.filter(|(start, len)| *start + *len > stripe).map(|(start, _)| *start);
            if let Some(other) = clash.or(other) {
                return Err(format!("stripe at {stripe} overlaps the one at {other}"));
            }
        }
        for &stripe in &chunk.stripes {
            self.by_device.insert(stripe, chunk.len);
        }
        self.by_logical.insert(chunk.logical, chunk);
        Ok(())
    }

    /// Takes the chunk that begins at `logical` out.
    pub(crate) fn remove(&mut self, logical: u64) -> Option<Chunk> {
        let chunk = self.by_logical.remove(&logical)?;
        for stripe in &chunk.stripes {
            self.by_device.remove(stripe);
        }
        Some(chunk)
    }

    /// Shortens the chunk that begins at `logical` to `len` bytes.
    pub(crate) fn truncate(&mut self, logical: u64, len: u64) -> Option<Chunk> {
        let chunk = self.by_logical.get_mut(&logical)?;
        chunk.len = chunk.len.min(len);
        for stripe in &chunk.stripes {
            self.by_device.insert(*stripe, chunk.len);
        }
        Some(chunk.clone())
    }

    /// The chunk that holds `logical`.
    pub(crate) fn find(&self, logical: u64) -> Option<&Chunk> {
        let (_, chunk) = self.by_logical.range(..=logical).next_back()?;
        (logical < chunk.end()).then_some(chunk)
    }

    /// All chunks, by logical address.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.by_logical.values()
    }

    /// Whether a copy of the superblock stands in the `len` bytes at `at` of the device. No extent may be written there, whatever maps it.
    pub(crate) fn meets_super(at: u64, len: u64) -> bool {
        let range = ByteRange::new(at, at.saturating_add(len));
        let copy = |copy: &u64| ByteRange::at(*copy, SUPER_LEN as u64).intersect(range).is_some();
        SUPER_OFFSETS.iter().any(copy)
    }

    /// Device addresses of the copies of `[logical, logical + len)`, if one chunk holds all of it.
    pub(crate) fn map(&self, logical: u64, len: u64) -> Option<Vec<u64>> {
        let chunk = self.find(logical)?;
        let within = logical - chunk.logical;
        (len <= chunk.len - within)
            .then(|| chunk.stripes.iter().map(|stripe| stripe + within).collect())
    }

    /// Where the logical addresses of the next chunk, of `len` bytes, begin. Chunks for data and others are made by different threads, in
    /// an order that nobody knows; each has a sequence of addresses of its own, so that the image does not depend on it (law R3). There may
    /// be no room there: see [`ChunkMap::insert`].
    pub(crate) fn next_logical(&self, is_data: bool, len: u64) -> u64 {
        let behind = |chunk: Option<&Chunk>, first: u64| {
            chunk.map_or(first, Chunk::end).max(first).next_multiple_of(STRIPE_LEN)
        };
        let last = self.by_logical.values().next_back();
        let lower = self.by_logical.range(..LOGICAL_BORDER).next_back().map(|(_, chunk)| chunk);
        let at = behind(lower, RESERVED_START);
        if is_data && at.saturating_add(len) <= LOGICAL_BORDER {
            return at;
        }
        behind(last, LOGICAL_BORDER)
    }

    /// Whether `len` bytes may begin at `start`, be it a logical address or one of the device.
    pub(crate) fn has_address(start: u64, len: u64) -> bool {
        start.checked_add(len).is_some_and(|end| end <= ADDRESS_END)
    }

    /// One past the last byte of the device that a stripe occupies.
    pub(crate) fn device_end(&self) -> u64 {
        self.by_device.last_key_value().map_or(RESERVED_START, |(start, len)| start + len)
    }

    /// Whether a stripe occupies any of `range` of the device.
    pub(crate) fn occupies(&self, range: ByteRange) -> bool {
        let before = self.by_device.range(..range.end).next_back();
        before.is_some_and(|(start, len)| start + len > range.start)
    }

    /// Bytes of the device that stripes occupy.
    pub(crate) fn device_used(&self) -> u64 {
        self.by_device.values().sum()
    }

    /// The free ranges of the device below `total`, aligned, in order.
    pub(crate) fn holes(&self, total: u64) -> Vec<ByteRange> {
        self.holes_in(ByteRange::new(0, total))
    }

    /// Device addresses for `copies` stripes of `len` bytes within `range`: each in the first hole that fits.
    pub(crate) fn place(&self, range: ByteRange, len: u64, copies: usize) -> Option<Vec<u64>> {
        let mut holes = self.holes_in(range);
        let mut stripes = Vec::with_capacity(copies);
        for _ in 0..copies {
            let hole = holes.iter_mut().find(|hole| hole.len() >= len)?;
            stripes.push(hole.start);
            hole.start += len;
        }
        Some(stripes)
    }

    /// As [`ChunkMap::place`], each at the end of the last hole that fits.
    pub(crate) fn place_last(&self, range: ByteRange, len: u64, copies: usize) -> Option<Vec<u64>> {
        let mut holes = self.holes_in(range);
        let mut stripes = Vec::with_capacity(copies);
        for _ in 0..copies {
            let hole = holes.iter_mut().rev().find(|hole| hole.len() >= len)?;
            hole.end -= len;
            stripes.push(hole.end);
        }
        Some(stripes)
    }

    /// As [`ChunkMap::holes`], of `range`, in whose stripes it looks and no others: a volume has many.
    pub(crate) fn holes_in(&self, range: ByteRange) -> Vec<ByteRange> {
        let start = range.start.max(RESERVED_START);
        let before = self.by_device.range(..start).next_back();
        let mut at = before.map_or(start, |(stripe, len)| start.max(stripe + len));
        let mut holes = Vec::new();
        let inside = self.by_device.range(start..range.end.max(start));
        let inside = inside.map(|(stripe, len)| (*stripe, stripe + len));
        for (stripe, end) in inside.chain([(range.end, range.end)]) {
            let hole = at.next_multiple_of(STRIPE_LEN)..stripe / STRIPE_LEN * STRIPE_LEN;
            if !hole.is_empty() {
                holes.push(ByteRange::new(hole.start, hole.end));
            }
            at = at.max(end);
        }
        holes
    }
}

#[cfg(test)]
mod tests;
