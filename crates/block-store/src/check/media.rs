//! The device seen through the chunks that the checker itself has read: every copy of a range, one by one.
//!
//! Reading is sequential where the addresses are: a request that follows the one before makes the next read longer.

use std::collections::BTreeMap;
use std::io;

use cowback_base::{BLOCK_SIZE, ByteRange};
use cowback_btrfs_disk::items::{BlockGroupFlags, ChunkItem, LeafRules};
use cowback_btrfs_disk::superblock::{SUPER_OFFSETS, Superblock};

use crate::chunks::SUPER_STRIPE;
use crate::device::BlockDevice;

/// Most bytes of one read.
pub(super) const READ_MAX: u64 = 1 << 20;

/// A request this close behind the one before counts as following it.
const NEAR: u64 = 128 << 10;

/// The device, the superblock, and the chunks.
#[derive(Debug)]
pub(super) struct Media<'a> {
    /// Where the bytes are.
    pub(super) device: &'a dyn BlockDevice,
    /// Bytes of the device.
    pub(super) len: u64,
    /// The superblock that counts.
    pub(super) sb: Superblock,
    /// The chunks by logical address; they do not overlap.
    pub(super) chunks: BTreeMap<u64, ChunkItem>,
}

/// One copy of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copy {
    /// Which one.
    pub(super) index: usize,
    /// Where it begins on the device.
    pub(super) at: u64,
    /// Bytes from there to the end of the stripe.
    pub(super) room: u64,
}

impl Media<'_> {
    /// Bytes of a tree block.
    pub(super) fn nodesize(&self) -> u64 {
        u64::from(self.sb.nodesize)
    }

    /// What every item has to obey.
    pub(super) fn rules(&self) -> LeafRules {
        LeafRules {
            nodesize: self.nodesize(),
            csum_size: self.sb.csum.size(),
            max_generation: self.sb.generation,
        }
    }

    /// Adds a chunk; says which one it overlaps if it does, and leaves it out then.
    pub(super) fn add_chunk(&mut self, logical: u64, chunk: ChunkItem) -> Result<(), u64> {
        let end = logical.saturating_add(chunk.length);
        if let Some((&start, other)) = self.chunks.range(..end).next_back()
            && start.saturating_add(other.length) > logical
        {
            return Err(start);
        }
        self.chunks.insert(logical, chunk);
        Ok(())
    }

    /// The chunk that holds `logical`.
    pub(super) fn chunk_of(&self, logical: u64) -> Option<(u64, &ChunkItem)> {
        let (&start, chunk) = self.chunks.range(..=logical).next_back()?;
        (logical - start < chunk.length).then_some((start, chunk))
    }

    /// The end of the chunk that holds `logical`, or, if none does, the start of the next one; `u64::MAX` if there is none.
    pub(super) fn next_border(&self, logical: u64) -> u64 {
        if let Some((start, chunk)) = self.chunk_of(logical) {
            return start.saturating_add(chunk.length);
        }
        let next = self.chunks.range(logical..).next();
        next.map_or(u64::MAX, |(start, _)| *start)
    }

    /// How many of the first bytes of a range some copy has on the device, in whole blocks; zero if no chunk holds all of it.
    pub(super) fn bytes_there(&self, range: ByteRange) -> u64 {
        let copies = self.copies(range).into_iter();
        let there = |at: u64| self.len.saturating_sub(at) / BLOCK_SIZE * BLOCK_SIZE;
        copies.map(|copy| range.len().min(there(copy.at))).max().unwrap_or(0)
    }

    /// The copies of a range; none if no chunk holds all of it, or its profile is not known here.
    pub(super) fn copies(&self, range: ByteRange) -> Vec<Copy> {
        let Some((start, chunk)) = self.chunk_of(range.start) else { return Vec::new() };
        let within = range.start - start;
        if range.len() > chunk.length - within || !is_linear(chunk) {
            return Vec::new();
        }
        let room = chunk.length - within;
        let own =
            |stripe: &&cowback_btrfs_disk::items::Stripe| stripe.devid == self.sb.dev_item.devid;
        let copies = chunk.stripes.iter().filter(own).enumerate();
        copies
            .map(|(index, stripe)| Copy { index, at: stripe.offset.saturating_add(within), room })
            .collect()
    }

    /// The logical ranges of the chunk at `start` that stand for copies of the superblock, sorted and joined.
    pub(super) fn super_ranges(&self, start: u64) -> Vec<ByteRange> {
        let Some(chunk) = self.chunks.get(&start) else { return Vec::new() };
        let mut ranges = Vec::new();
        for stripe in &chunk.stripes {
            let Some(end) = stripe.offset.checked_add(chunk.length) else { continue };
            let device = ByteRange::new(stripe.offset, end);
            for copy in SUPER_OFFSETS {
                if let Some(hit) = device.intersect(ByteRange::at(copy, SUPER_STRIPE)) {
                    let first = start + (hit.start - stripe.offset);
                    ranges.push(ByteRange::new(first, first + hit.len()));
                }
            }
        }
        super::ranges::join(ranges)
    }

    /// Reads a stretch of the device.
    pub(super) fn read(&self, at: u64, len: u64) -> io::Result<Vec<u8>> {
        let end = at.checked_add(len).filter(|end| *end <= self.len);
        if end.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.device.read_at(at, &mut bytes)?;
        Ok(bytes)
    }
}

/// Whether each stripe of a chunk holds all of it.
pub(super) fn is_linear(chunk: &ChunkItem) -> bool {
    let profile = chunk.flags.intersection(BlockGroupFlags::PROFILES);
    profile.is_empty()
        || profile == BlockGroupFlags::DUP
        || (profile == BlockGroupFlags::RAID0 && chunk.stripes.len() == 1)
}

/// What was read last of one copy.
#[derive(Debug, Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
    next: u64,
    ahead: u64,
}

impl Window {
    fn get(&self, at: u64, len: u64) -> Option<Vec<u8>> {
        let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
        let end = from.checked_add(usize::try_from(len).ok()?)?;
        self.bytes.get(from..end).map(<[u8]>::to_vec)
    }
}

/// Reads tree blocks, with read-ahead.
#[derive(Debug, Default)]
pub(super) struct Reader {
    windows: [Window; 2],
}

impl Reader {
    /// Reads `len` bytes at the start of `copy`.
    pub(super) fn read(&mut self, media: &Media<'_>, copy: Copy, len: u64) -> io::Result<Vec<u8>> {
        let Some(window) = self.windows.get_mut(copy.index) else {
            return media.read(copy.at, len);
        };
        let found = window.get(copy.at, len);
        let follows = copy.at.checked_sub(window.next).is_some_and(|gap| gap <= NEAR);
        window.next = copy.at.saturating_add(len);
        if let Some(bytes) = found {
            return Ok(bytes);
        }
        window.ahead = if follows { (window.ahead * 2).clamp(len, READ_MAX) } else { len };
        let most = copy.room.min(media.len.saturating_sub(copy.at));
        let want = window.ahead.min(most).max(len);
        // Where the longer read fails, the block itself may still be readable.
        let read = media.read(copy.at, want);
        let bytes = if read.is_err() && want > len { media.read(copy.at, len) } else { read }?;
        (window.start, window.bytes) = (copy.at, bytes);
        window.get(copy.at, len).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
