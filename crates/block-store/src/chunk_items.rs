//! What the trees say about chunks, block groups and the device (stage 9).
//!
//! A chunk that was made during the transaction gets its items at commit: chunk item, dev extents, block group item, free
//! space. Invariants: the device's used bytes are the sum of its dev extents, and its item says so as soon as no chunk is without items;
//! the superblock holds every system chunk.

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::{
    BlockGroupFlags, BlockGroupItem, ChunkItem, DevExtent, DevItem, FreeSpaceInfo, Stripe,
};
use cowback_btrfs_disk::{ItemKind, Key, TreeId, objectid};
use cowback_extent_io::store::StoreResult;

use crate::chunks::{Chunk, ChunkMap};
use crate::error::corrupt;
use crate::free_space::extent_key;
use crate::state::State;
use crate::trees::Trees;

const SECTOR: u32 = 4096;

impl State {
    /// The chunk as its item has it.
    pub(crate) fn chunk_item(&self, chunk: &Chunk) -> ChunkItem {
        let (devid, dev_uuid) = (self.device.devid, self.device.uuid);
        let stripe = |offset: &u64| Stripe { devid, offset: *offset, dev_uuid };
        ChunkItem {
            length: chunk.len,
            owner: TreeId::EXTENT.0,
            flags: BlockGroupFlags::from_bits_retain(chunk.flags),
            io_align: 64 * 1024,
            io_width: 64 * 1024,
            sector_size: SECTOR,
            sub_stripes: 1,
            stripes: chunk.stripes.iter().map(stripe).collect(),
        }
    }

    /// The dev extent of a stripe of the chunk at `logical`.
    pub(crate) fn dev_extent(&self, logical: u64, length: u64) -> DevExtent {
        DevExtent {
            chunk_tree: TreeId::CHUNK.0,
            chunk_objectid: objectid::FIRST_CHUNK_TREE,
            chunk_offset: logical,
            length,
            chunk_tree_uuid: self.disk.chunk_tree_uuid,
        }
    }

    /// Gives chunks that were made their items, and brings the device's item up to date, which adds them up. No chunk is told of without the
    /// device: afterwards, as long as no chunk is made, both are right.
    pub(crate) fn record_fresh_chunks(&mut self) -> StoreResult<()> {
        loop {
            while let Some(logical) = self.space.fresh.first().copied() {
                let chunk = self.disk.with_chunks(|map| map.find(logical).cloned());
                let chunk =
                    chunk.ok_or_else(|| corrupt("chunk", logical, "it was made and is gone"))?;
                self.record_chunk(&chunk)?;
                self.space.fresh.retain(|fresh| *fresh != logical);
            }
            self.record_device()?;
            // The device's item may have taken a new block of the chunk tree, and that a chunk.
            if self.space.fresh.is_empty() {
                return Ok(());
            }
        }
    }

    fn record_chunk(&mut self, chunk: &Chunk) -> StoreResult<()> {
        let key = Key::new(objectid::FIRST_CHUNK_TREE, ItemKind::CHUNK_ITEM, chunk.logical);
        let item = self.chunk_item(chunk);
        self.insert(TreeId::CHUNK, key, &item.to_bytes())?;
        let extent = self.dev_extent(chunk.logical, chunk.len).to_bytes();
        for stripe in &chunk.stripes {
            let key = Key::new(self.device.devid, ItemKind::DEV_EXTENT, *stripe);
            self.insert(TreeId::DEV, key, &extent)?;
        }
        let range = ByteRange::at(chunk.logical, chunk.len);
        let used = self.space.group_of(chunk.logical)?.used;
        let group = BlockGroupItem { used, flags: item.flags };
        let key = Key::new(range.start, ItemKind::BLOCK_GROUP_ITEM, range.len());
        self.insert(self.groups_tree(), key, &group.to_bytes())?;
        if self.has_free_space_tree() {
            let key = Key::new(range.start, ItemKind::FREE_SPACE_INFO, range.len());
            let info = FreeSpaceInfo { extent_count: 1, bitmaps: false };
            self.insert(TreeId::FREE_SPACE, key, &info.to_bytes())?;
            self.insert(TreeId::FREE_SPACE, extent_key(range), &[])?;
        }
        Ok(())
    }

    /// The system chunks as the next superblock has them. The superblock of the last commit must stay as it is until then: its copies are
    /// written along with this commit.
    pub(crate) fn system_chunks(&self) -> Vec<(u64, ChunkItem)> {
        let old = &self.superblock.sys_chunks;
        self.disk.with_chunks(|map| {
            let system = |chunk: &&Chunk| chunk.flags & BlockGroupFlags::SYSTEM.bits() != 0;
            let item = |chunk: &Chunk| match old.iter().find(|(at, _)| *at == chunk.logical) {
                Some(known) => known.clone(),
                None => (chunk.logical, self.chunk_item(chunk)),
            };
            map.iter().filter(system).map(item).collect()
        })
    }

    /// The device's item as chunks and size are now.
    pub(crate) fn device_now(&self) -> DevItem {
        let bytes_used = self.disk.with_chunks(ChunkMap::device_used);
        DevItem { bytes_used, total_bytes: self.space.total_bytes, ..self.device.clone() }
    }

    /// Brings the device's item up to date.
    fn record_device(&mut self) -> StoreResult<()> {
        let now = self.device_now();
        if now == self.device {
            return Ok(());
        }
        let key = Key::new(objectid::DEV_ITEMS, ItemKind::DEV_ITEM, now.devid);
        self.update(TreeId::CHUNK, &key, &now.to_bytes())?;
        self.device = now;
        Ok(())
    }

    /// Brings the items of block groups whose used bytes changed up to date.
    pub(crate) fn record_groups(&mut self) -> StoreResult<()> {
        let changed = std::mem::take(&mut self.space.changed);
        for start in changed {
            let group = self.space.group_of(start)?;
            let key = Key::new(start, ItemKind::BLOCK_GROUP_ITEM, group.len);
            let item = BlockGroupItem { used: group.used, flags: group.flags };
            self.update(self.groups_tree(), &key, &item.to_bytes())?;
        }
        Ok(())
    }
}
