//! Chunks, block groups, free space and the superblock.

use super::*;

const CHUNKS_AND_SPACE: &[Case] = &[
    ("used", |s| edit_group(s, |item| item.used += 4096), "the sum of its extents"),
    (
        "flags of a block group",
        |s| {
            edit_group(s, |item| {
                item.flags = cowback_btrfs_disk::items::BlockGroupFlags::DATA
                    | cowback_btrfs_disk::items::BlockGroupFlags::DUP
            })
        },
        "flags: found",
    ),
    (
        "no block group",
        |s| {
            let groups = s.items(TreeId::BLOCK_GROUP);
            s.remove(TreeId::BLOCK_GROUP, &groups.last().unwrap().0);
        },
        "it is missing, and there is such a chunk",
    ),
    (
        "no chunk",
        // The first one is for data: without it, all trees can still be read.
        |s| drop(s.remove(TreeId::CHUNK, &first(s, TreeId::CHUNK, ItemKind::CHUNK_ITEM))),
        "there is no such chunk",
    ),
    (
        "no dev extent",
        |s| drop(s.remove(TreeId::DEV, &first(s, TreeId::DEV, ItemKind::DEV_EXTENT))),
        "it is missing, and (256 CHUNK_ITEM",
    ),
    (
        "a dev extent of another chunk",
        |s| {
            let key = first(s, TreeId::DEV, ItemKind::DEV_EXTENT);
            change!(s, TreeId::DEV, key, |item: DevExtent| item.chunk_offset += 4096);
        },
        "there is no chunk at",
    ),
    (
        "a dev extent too long",
        |s| {
            let key = first(s, TreeId::DEV, ItemKind::DEV_EXTENT);
            change!(s, TreeId::DEV, key, |item: DevExtent| item.length += 65536);
        },
        ", its chunk's",
    ),
    (
        "bytes of the device in use",
        |s| {
            let key = Key::new(1, ItemKind::DEV_ITEM, 1);
            change!(s, TreeId::CHUNK, key, |item: DevItem| item.bytes_used += 65536);
        },
        "(1 DEV_ITEM 1): bytes_used: found",
    ),
    (
        "stripes of another device",
        |s| {
            let key = first(s, TreeId::CHUNK, ItemKind::CHUNK_ITEM);
            let mut chunk = ChunkItem::parse(key.offset, &s.get(TreeId::CHUNK, &key)).unwrap();
            chunk.stripes[0].dev_uuid = uuid::Uuid::from_u128(7);
            s.set(TreeId::CHUNK, &key, chunk.to_bytes());
        },
        "stripe dev_uuid: found",
    ),
    (
        "the system chunk array",
        |s| s.edit_super(|sb| sb.sys_chunks[0].1.io_align += 1),
        "and in the superblock ChunkItem",
    ),
    ("bytes in use", |s| s.edit_super(|sb| sb.bytes_used += 4096), "superblock: bytes_used: found"),
    (
        "bytes in all",
        |s| s.edit_super(|sb| sb.total_bytes += 4096),
        "superblock: total_bytes: found",
    ),
    (
        "an old copy of the superblock",
        |s| {
            let mut copy = s.sb.clone();
            (copy.bytenr, copy.generation) = (64 << 20, copy.generation - 2);
            copy.chunk_root_generation = 1;
            copy.cache_generation = 0;
            s.device.write_at(64 << 20, &copy.to_bytes().unwrap()).unwrap();
        },
        "device offset 67108864: the copy is of generation",
    ),
    (
        "a copy of the superblock that is not there",
        |s| s.device.write_at(64 << 20, &[0; 4096]).unwrap(),
        "device offset 67108864: the copy is damaged",
    ),
    (
        "free, and told to be in use",
        |s| drop(s.remove(TreeId::FREE_SPACE, &free_range(s, true))),
        "is not free there, and no extent holds it",
    ),
    (
        "in use, and told to be free",
        |s| {
            let groups = s.items(TreeId::BLOCK_GROUP);
            let (key, _) = s.find(TreeId::FREE_SPACE, |key, _| {
                let is_start = |group: &(Key, Vec<u8>)| group.0.objectid == key.objectid;
                key.kind == ItemKind::FREE_SPACE_EXTENT && !groups.iter().any(is_start)
            });
            let (start, len) = (key.objectid - 4096, key.offset + 4096);
            let longer = Key::new(start, key.kind, len);
            s.rename(TreeId::FREE_SPACE, &key, longer);
        },
        "is free there, and an extent holds it",
    ),
    (
        "number of free extents",
        |s| {
            let key = first(s, TreeId::FREE_SPACE, ItemKind::FREE_SPACE_INFO);
            change!(s, TreeId::FREE_SPACE, key, |item: FreeSpaceInfo| item.extent_count += 1);
        },
        "extent_count: found",
    ),
    (
        "form of free space",
        |s| {
            let key = first(s, TreeId::FREE_SPACE, ItemKind::FREE_SPACE_INFO);
            change!(s, TreeId::FREE_SPACE, key, |item: FreeSpaceInfo| item.bitmaps = true);
        },
        "expected bitmaps",
    ),
    (
        "no word on a block group's free space",
        |s| {
            drop(s.remove(
                TreeId::FREE_SPACE,
                &first(s, TreeId::FREE_SPACE, ItemKind::FREE_SPACE_INFO),
            ))
        },
        "it is missing, and there is such a group",
    ),
];

#[test]
fn chunks_and_space() {
    all_are_found(CHUNKS_AND_SPACE);
}
