//! Chunks, the stretches of the device that they lie on, and block groups: three trees that say the same.

use std::collections::BTreeMap;

use cowback_btrfs_disk::items::{BlockGroupItem, ChunkItem, DevExtent, DevItem};
use cowback_btrfs_disk::{ItemKind, Key, TreeId, objectid};

use uuid::Uuid;

use super::media::{Media, is_linear};
use super::problem::Out;
use super::walk::Item;

/// A block group as its item says.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// The item's key.
    pub(super) key: Key,
    /// The item.
    pub(super) item: BlockGroupItem,
    /// Bytes of extents that were found in it.
    pub(super) found: u64,
}

/// What the chunk tree, the device tree and the block group items say.
#[derive(Debug, Default)]
pub(super) struct Allocation {
    chunks: BTreeMap<u64, ChunkItem>,
    devices: BTreeMap<u64, DevItem>,
    extents: Vec<(Key, DevExtent)>,
    /// Block groups by first address.
    pub(super) groups: BTreeMap<u64, Group>,
}

impl Allocation {
    /// Takes in an item of the chunk tree.
    pub(super) fn chunk_item(&mut self, item: &Item<'_>, out: &mut Out<'_>) {
        let key = item.key;
        match (key.objectid, key.kind) {
            (objectid::DEV_ITEMS, ItemKind::DEV_ITEM) => {
                let device = DevItem::parse(item.data).ok();
                self.devices.extend(device.map(|device| (device.devid, device)));
            }
            (objectid::FIRST_CHUNK_TREE, ItemKind::CHUNK_ITEM) => {
                let Ok(chunk) = ChunkItem::parse(key.offset, item.data) else { return };
                self.chunks.insert(key.offset, chunk);
            }
            _ => out.item(TreeId::CHUNK, &key, "such an item does not belong here"),
        }
    }

    /// Takes in an item of the device tree.
    pub(super) fn device_item(&mut self, item: &Item<'_>, out: &mut Out<'_>) {
        match item.key.kind {
            ItemKind::DEV_EXTENT => {
                let extent = DevExtent::parse(item.data).ok();
                self.extents.extend(extent.map(|extent| (item.key, extent)));
            }
            ItemKind::PERSISTENT_ITEM | ItemKind::DEV_REPLACE => {}
            _ => out.item(TreeId::DEV, &item.key, "such an item does not belong here"),
        }
    }

    /// Takes in a block group item, which `tree` holds.
    pub(super) fn group_item(&mut self, tree: TreeId, item: &Item<'_>, out: &mut Out<'_>) {
        let key = item.key;
        if key.kind != ItemKind::BLOCK_GROUP_ITEM {
            out.item(tree, &key, "such an item does not belong here");
            return;
        }
        let Ok(group) = BlockGroupItem::parse(key.offset, item.data) else { return };
        if let Some((_, before)) = self.groups.last_key_value()
            && before.key.objectid.saturating_add(before.key.offset) > key.objectid
        {
            out.item(tree, &key, format_args!("it overlaps the one at {}", before.key));
        }
        self.groups.insert(key.objectid, Group { key, item: group, found: 0 });
    }

    /// Puts the chunks into the map by which everything else is read, and compares them with what the superblock says
    /// about system chunks; where they differ, the superblock's word counts, as the chunk tree was found by it.
    pub(super) fn apply_chunks(&mut self, media: &mut Media<'_>, whole: bool, out: &mut Out<'_>) {
        let key = |logical| Key::new(objectid::FIRST_CHUNK_TREE, ItemKind::CHUNK_ITEM, logical);
        for (logical, chunk) in &self.chunks {
            let known = media.chunks.contains_key(logical);
            if !known && let Err(other) = media.add_chunk(*logical, chunk.clone()) {
                let what = format_args!("it overlaps the chunk at {other}");
                out.item(TreeId::CHUNK, &key(*logical), what);
            }
            if !is_linear(chunk) {
                let what = format_args!("{:?} is not supported: not read", chunk.flags);
                out.item(TreeId::CHUNK, &key(*logical), what);
            }
        }
        let system = media.sb.sys_chunks.iter().map(|(logical, chunk)| (*logical, chunk));
        let system: BTreeMap<u64, &ChunkItem> = system.collect();
        for (logical, chunk) in &system {
            match self.chunks.get(logical) {
                Some(found) if found == *chunk => {}
                Some(found) => out.item(
                    TreeId::CHUNK,
                    &key(*logical),
                    format_args!("found {found:?}, and in the superblock {chunk:?}"),
                ),
                None if whole => {
                    let what = "the superblock has this system chunk, and the chunk tree has not";
                    out.item(TreeId::CHUNK, &key(*logical), what);
                }
                None => {}
            }
        }
        for (logical, chunk) in &self.chunks {
            let is_system =
                chunk.flags.contains(cowback_btrfs_disk::items::BlockGroupFlags::SYSTEM);
            if is_system && !system.contains_key(logical) {
                let what = "this system chunk is missing from the superblock's array";
                out.item(TreeId::CHUNK, &key(*logical), what);
            }
        }
    }

    /// Compares chunks, dev extents and devices.
    pub(super) fn check_devices(
        &self,
        media: &Media<'_>,
        chunk_tree_uuid: Option<Uuid>,
        whole: Whole,
        out: &mut Out<'_>,
    ) {
        let mut found: BTreeMap<(u64, u64), &DevExtent> = BTreeMap::new();
        let mut used: BTreeMap<u64, u64> = BTreeMap::new();
        let mut before: Option<(Key, u64)> = None;
        for (key, extent) in &self.extents {
            if let Some((last, end)) = before
                && last.objectid == key.objectid
                && end > key.offset
            {
                out.item(TreeId::DEV, key, format_args!("it overlaps the one at {last}"));
            }
            before = Some((*key, key.offset.saturating_add(extent.length)));
            let sum = used.entry(key.objectid).or_default();
            *sum = sum.saturating_add(extent.length);
            found.insert((key.objectid, key.offset), extent);
            self.check_dev_extent(chunk_tree_uuid, whole, key, extent, out);
        }
        for (logical, chunk) in &self.chunks {
            let key = Key::new(objectid::FIRST_CHUNK_TREE, ItemKind::CHUNK_ITEM, *logical);
            for stripe in &chunk.stripes {
                match self.devices.get(&stripe.devid) {
                    None => {
                        let what =
                            format_args!("it is on device {}, which has no item", stripe.devid);
                        out.item(TreeId::CHUNK, &key, what);
                    }
                    Some(device) if device.uuid != stripe.dev_uuid => {
                        let (found, expected) = (stripe.dev_uuid, device.uuid);
                        let what =
                            format_args!("stripe dev_uuid: found {found}, expected {expected}");
                        out.item(TreeId::CHUNK, &key, what);
                    }
                    Some(_) => {}
                }
                if whole.devices && !found.contains_key(&(stripe.devid, stripe.offset)) {
                    let extent = Key::new(stripe.devid, ItemKind::DEV_EXTENT, stripe.offset);
                    let what = format_args!("it is missing, and {key} has a stripe there");
                    out.item(TreeId::DEV, &extent, what);
                }
            }
        }
        self.check_sizes(media, &used, whole, out);
    }

    fn check_dev_extent(
        &self,
        chunk_tree_uuid: Option<Uuid>,
        whole: Whole,
        key: &Key,
        extent: &DevExtent,
        out: &mut Out<'_>,
    ) {
        let here = |stripe: &cowback_btrfs_disk::items::Stripe| {
            stripe.devid == key.objectid && stripe.offset == key.offset
        };
        match self.chunks.get(&extent.chunk_offset) {
            Some(chunk) if !chunk.stripes.iter().any(here) => {
                let what = format_args!("the chunk at {} has no stripe here", extent.chunk_offset);
                out.item(TreeId::DEV, key, what);
            }
            // What a stripe of a chunk that is spread over several devices takes up is not for here.
            Some(chunk) if is_linear(chunk) && chunk.length != extent.length => {
                let (found, expected) = (extent.length, chunk.length);
                let what = format_args!("length: found {found}, expected {expected}, its chunk's");
                out.item(TreeId::DEV, key, what);
            }
            Some(_) => {}
            None if !whole.chunks => {}
            None => {
                let what = format_args!("there is no chunk at {}", extent.chunk_offset);
                out.item(TreeId::DEV, key, what);
            }
        }
        if extent.chunk_tree != TreeId::CHUNK.0
            || extent.chunk_objectid != objectid::FIRST_CHUNK_TREE
        {
            let found = (extent.chunk_tree, extent.chunk_objectid);
            out.item(
                TreeId::DEV,
                key,
                format_args!("its chunk: found {found:?}, expected (3, 256)"),
            );
        }
        if let Some(expected) = chunk_tree_uuid
            && !extent.chunk_tree_uuid.is_nil()
            && extent.chunk_tree_uuid != expected
        {
            let found = extent.chunk_tree_uuid;
            let what = format_args!("chunk tree uuid: found {found}, expected {expected}");
            out.item(TreeId::DEV, key, what);
        }
        if let Some(device) = self.devices.get(&key.objectid)
            && key.offset.saturating_add(extent.length) > device.total_bytes
        {
            let most = device.total_bytes;
            let what = format_args!("its {} bytes end behind the device's {most}", extent.length);
            out.item(TreeId::DEV, key, what);
        }
    }

    /// What devices and the superblock say about sizes.
    fn check_sizes(
        &self,
        media: &Media<'_>,
        used: &BTreeMap<u64, u64>,
        whole: Whole,
        out: &mut Out<'_>,
    ) {
        let own = media.sb.dev_item.devid;
        for device in self.devices.values() {
            let key = Key::new(objectid::DEV_ITEMS, ItemKind::DEV_ITEM, device.devid);
            let expected = used.get(&device.devid).copied().unwrap_or(0);
            if whole.devices && device.bytes_used != expected {
                let found = device.bytes_used;
                let what = format_args!(
                    "bytes_used: found {found}, expected {expected}, the sum of its extents"
                );
                out.item(TreeId::CHUNK, &key, what);
            }
            let copy = &media.sb.dev_item;
            let same = device.total_bytes == copy.total_bytes
                && device.bytes_used == copy.bytes_used
                && device.uuid == copy.uuid
                && device.sector_size == copy.sector_size;
            if device.devid == own && !same {
                let what = format_args!("found {device:?}, and in the superblock {copy:?}");
                out.item(TreeId::CHUNK, &key, what);
            }
            if device.fsid != media.sb.tree_uuid() {
                let (found, expected) = (device.fsid, media.sb.tree_uuid());
                let what = format_args!("fsid: found {found}, expected {expected}");
                out.item(TreeId::CHUNK, &key, what);
            }
        }
        if whole.chunks && !self.devices.contains_key(&own) {
            let key = Key::new(objectid::DEV_ITEMS, ItemKind::DEV_ITEM, own);
            out.item(TreeId::CHUNK, &key, "it is missing");
        }
        if whole.chunks && media.sb.num_devices != self.devices.len() as u64 {
            let (found, expected) = (media.sb.num_devices, self.devices.len());
            let what = format_args!("num_devices: found {found}, expected {expected}");
            out.superblock(what);
        }
    }

    /// Compares block groups with chunks, and what was found in them with what they say.
    pub(super) fn check_groups(
        &self,
        media: &Media<'_>,
        tree: TreeId,
        whole: Whole,
        out: &mut Out<'_>,
    ) {
        for group in self.groups.values() {
            let key = &group.key;
            match self.chunks.get(&key.objectid) {
                None if whole.chunks => out.item(tree, key, "there is no such chunk"),
                None => {}
                Some(chunk) => {
                    if chunk.length != key.offset {
                        let what = format_args!("its chunk has {} bytes", chunk.length);
                        out.item(tree, key, what);
                    }
                    if chunk.flags != group.item.flags {
                        let (found, expected) = (group.item.flags, chunk.flags);
                        let what = format_args!(
                            "flags: found {found:?}, expected {expected:?}, its chunk's"
                        );
                        out.item(tree, key, what);
                    }
                }
            }
            if whole.extents && group.item.used != group.found {
                let (found, expected) = (group.item.used, group.found);
                let what = format_args!(
                    "used: found {found}, expected {expected}, the sum of its extents"
                );
                out.item(tree, key, what);
            }
        }
        for (logical, chunk) in &self.chunks {
            if whole.groups && !self.groups.contains_key(logical) {
                let key = Key::new(*logical, ItemKind::BLOCK_GROUP_ITEM, chunk.length);
                out.item(tree, &key, "it is missing, and there is such a chunk");
            }
        }
        let used = self.groups.values().map(|group| group.item.used);
        let sum = used.fold(0, u64::saturating_add);
        if whole.groups && media.sb.bytes_used != sum {
            let found = media.sb.bytes_used;
            let what = format_args!(
                "bytes_used: found {found}, expected {sum}, the sum of all block groups'"
            );
            out.superblock(what);
        }
    }
}

/// Which trees could be read as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole {
    /// The chunk tree.
    pub(super) chunks: bool,
    /// The device tree.
    pub(super) devices: bool,
    /// The extent tree.
    pub(super) extents: bool,
    /// The tree with block group items.
    pub(super) groups: bool,
}
