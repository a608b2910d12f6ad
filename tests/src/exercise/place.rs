//! What lies at an address of a device: for reports of images that differ.

use std::collections::BTreeMap;

use cowback::device::{BlockDevice, MemoryDevice};
use cowback_btrfs_disk::items::ChunkItem;
use cowback_btrfs_disk::node::{BlockExpect, ParsedBlock, parse_block};
use cowback_btrfs_disk::superblock::{SUPER_LEN, SUPER_OFFSETS, Superblock};
use cowback_btrfs_disk::{ItemKind, Key};
use cowback_testkit::random::to_usize;

/// The map of a volume's device.
struct Map<'a> {
    device: &'a MemoryDevice,
    superblock: Superblock,
    chunks: BTreeMap<u64, ChunkItem>,
}

/// What the volume on `device` has at `at`, in words.
#[must_use]
pub fn what_lies_at(device: &MemoryDevice, at: u64) -> String {
    if at < 1 << 20 {
        return "the reserved first mebibyte, with copies of the superblock".to_owned();
    }
    match Map::read(device) {
        Ok(map) => map.tell(at),
        Err(why) => format!("a volume that cannot be read: {why}"),
    }
}

/// Where two images differ at `at`: the first item that is not the same, if a leaf is there in both.
#[must_use]
pub fn first_difference(one: &MemoryDevice, other: &MemoryDevice, at: u64) -> String {
    let items =
        |device| Map::read(device).ok().and_then(|map| map.items_at(at)).unwrap_or_default();
    let (a, b) = (items(one), items(other));
    let differ = a.iter().zip(&b).find(|(a, b)| a != b);
    differ.map_or_else(
        || format!("{} and {} items", a.len(), b.len()),
        |(a, b)| format!("{a:?} and {b:?}"),
    )
}

fn read(device: &MemoryDevice, at: u64, len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; len];
    device.read_at(at, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

impl<'a> Map<'a> {
    fn read(device: &'a MemoryDevice) -> Result<Self, String> {
        let at = SUPER_OFFSETS[0];
        let superblock = Superblock::parse(&read(device, at, SUPER_LEN)?, at);
        let superblock = superblock.map_err(|error| error.to_string())?;
        let chunks = superblock.sys_chunks.iter().cloned().collect();
        let mut map = Self { device, superblock, chunks };
        let mut todo = vec![map.superblock.chunk_root];
        while let Some(bytenr) = todo.pop() {
            let bytes = map.block(bytenr)?;
            match map.parse(bytenr, &bytes)? {
                ParsedBlock::Node(node) => todo.extend(node.ptrs.iter().map(|ptr| ptr.bytenr)),
                ParsedBlock::Leaf(leaf) => {
                    for (key, data) in
                        leaf.items().filter(|(key, _)| key.kind == ItemKind::CHUNK_ITEM)
                    {
                        let chunk = ChunkItem::parse(key.offset, data);
                        map.chunks.insert(key.offset, chunk.map_err(|error| error.to_string())?);
                    }
                }
            }
        }
        Ok(map)
    }

    fn nodesize(&self) -> usize {
        to_usize(u64::from(self.superblock.nodesize))
    }

    fn block(&self, bytenr: u64) -> Result<Vec<u8>, String> {
        let (start, chunk) = self.chunks.range(..=bytenr).next_back().ok_or("no chunk holds it")?;
        let stripe = chunk.stripes.first().ok_or("a chunk without stripes")?;
        read(self.device, stripe.offset + (bytenr - start), self.nodesize())
    }

    fn parse<'b>(&self, bytenr: u64, bytes: &'b [u8]) -> Result<ParsedBlock<'b>, String> {
        let expect =
            BlockExpect { bytenr, fsid: self.superblock.tree_uuid(), ..BlockExpect::default() };
        parse_block(bytes, &expect, self.superblock.csum).map_err(|error| error.to_string())
    }

    /// The block group at `at`, and the logical address.
    fn group(&self, at: u64) -> Option<(u64, &ChunkItem, u64)> {
        self.chunks.iter().find_map(|(start, chunk)| {
            let holds = |stripe: u64| (stripe..stripe + chunk.length).contains(&at);
            let stripe = chunk.stripes.iter().find(|stripe| holds(stripe.offset))?;
            Some((*start, chunk, start + (at - stripe.offset)))
        })
    }

    /// The items of the leaf at `at`.
    fn items_at(&self, at: u64) -> Option<Vec<(Key, Vec<u8>)>> {
        let (start, _, logical) = self.group(at)?;
        let bytenr = logical - (logical - start) % self.nodesize() as u64;
        let bytes = self.block(bytenr).ok()?;
        match self.parse(bytenr, &bytes).ok()? {
            ParsedBlock::Node(_) => None,
            ParsedBlock::Leaf(leaf) => {
                Some(leaf.items().map(|(key, data)| (key, data.to_vec())).collect())
            }
        }
    }

    fn tell(&self, at: u64) -> String {
        if SUPER_OFFSETS.iter().any(|copy| (*copy..copy + SUPER_LEN as u64).contains(&at)) {
            return "a copy of the superblock".to_owned();
        }
        let Some((start, chunk, logical)) = self.group(at) else {
            return "no block group".to_owned();
        };
        let group = format!("logical {logical} in the block group of {:?} at {start}", chunk.flags);
        let bytenr = logical - (logical - start) % self.nodesize() as u64;
        let block = self.block(bytenr);
        match block.as_ref().map_err(Clone::clone).and_then(|bytes| self.parse(bytenr, bytes)) {
            Ok(block) => {
                let header = block.header();
                let (owner, level, generation) = (header.owner, header.level, header.generation);
                format!(
                    "{group}: block {bytenr} of tree {owner}, level {level}, generation {generation}"
                )
            }
            Err(_) => group,
        }
    }
}
