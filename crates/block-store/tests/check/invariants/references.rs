//! The extent tree.

use super::*;
use cowback_btrfs_disk::items::DataRef;

/// Makes an inline reference an item of its own, at the place that `to` makes of its hash.
fn move_out(s: &Surgeon, to: impl FnOnce(u64) -> u64) {
    let (key, mut item) = data_item(s);
    let InlineRef::Data(data) = item.inline.remove(0) else { unreachable!() };
    set_item(s, &key, &item);
    let at = Key::new(key.objectid, ItemKind::EXTENT_DATA_REF, to(data.hash()));
    s.insert(TreeId::EXTENT, at, data.to_bytes());
}

const EXTENTS_AND_REFERENCES: &[Case] = &[
    (
        "a leaked block",
        |s| {
            let (_, item) = block_item(s);
            let at = free_range(s, false).objectid;
            let key = Key::new(at, ItemKind::METADATA_ITEM, 0);
            s.insert(TreeId::EXTENT, key, item.to_bytes());
        },
        "METADATA_ITEM 0): no such block is reachable",
    ),
    (
        "a leaked extent",
        |s| {
            let (_, item) = data_item(s);
            let at = free_range(s, true).objectid;
            let key = Key::new(at, ItemKind::EXTENT_ITEM, 4096);
            s.insert(TreeId::EXTENT, key, item.to_bytes());
        },
        "EXTENT_ITEM 4096): no file refers to it",
    ),
    (
        "no item of a block",
        |s| drop(s.remove(TreeId::EXTENT, &block_item(s).0)),
        "it is missing, and the fs tree has such a block",
    ),
    (
        "no item of data",
        |s| drop(s.remove(TreeId::EXTENT, &data_item(s).0)),
        "there is no extent (",
    ),
    (
        "another level",
        |s| {
            let (key, _) = block_item(s);
            s.rename(TreeId::EXTENT, &key, Key { offset: key.offset + 2, ..key });
        },
        "the block's level is",
    ),
    (
        "another root",
        |s| {
            let (key, mut item) = block_item(s);
            item.inline = vec![InlineRef::TreeBlock { root: 7 }];
            set_item(s, &key, &item);
        },
        "references from the csum tree: found 1, expected 0",
    ),
    (
        "too many references",
        |s| {
            let (key, mut item) = data_item(s);
            let InlineRef::Data(data) = &mut item.inline[0] else { unreachable!() };
            data.count += 1;
            item.refs += 1;
            set_item(s, &key, &item);
        },
        ": found 2, expected 1",
    ),
    (
        "another user",
        |s| {
            let (key, mut item) = data_item(s);
            let InlineRef::Data(data) = &mut item.inline[0] else { unreachable!() };
            data.ino += 1;
            set_item(s, &key, &item);
        },
        ": found 0, expected 1",
    ),
    (
        "references that do not add up",
        |s| {
            let (key, mut item) = data_item(s);
            item.refs += 1;
            set_item(s, &key, &item);
        },
        "its references add up to 1",
    ),
    (
        "overlap",
        |s| {
            let (_, item) = data_item(s);
            let is_it = |key: &Key, data: &[u8]| data.get(16) == Some(&1) && key.offset > 8192;
            let (key, _) = s.find(TreeId::EXTENT, is_it);
            let more = Key::new(key.objectid + 4096, ItemKind::EXTENT_ITEM, 4096);
            s.insert(TreeId::EXTENT, more, item.to_bytes());
        },
        "it overlaps the one at (",
    ),
    (
        "data among metadata",
        |s| {
            let (_, item) = data_item(s);
            let at = free_range(s, false).objectid;
            let key = Key::new(at, ItemKind::EXTENT_ITEM, 4096);
            s.insert(TreeId::EXTENT, key, item.to_bytes());
        },
        "it lies in a block group for",
    ),
    (
        "outside of all block groups",
        |s| {
            let (_, item) = data_item(s);
            let key = Key::new(1 << 40, ItemKind::EXTENT_ITEM, 4096);
            s.insert(TreeId::EXTENT, key, item.to_bytes());
        },
        "no block group holds all of it",
    ),
    (
        "a reference to nothing",
        |s| {
            let (key, item) = data_item(s);
            let InlineRef::Data(data) = item.inline[0] else { unreachable!() };
            let at = Key::new(key.objectid + 512, ItemKind::EXTENT_DATA_REF, data.hash());
            s.insert(TreeId::EXTENT, at, data.to_bytes());
        },
        "it belongs to no extent",
    ),
    ("a reference before its hash", |s| move_out(s, |hash| hash - 1), "key offset: expected"),
    (
        "a reference far behind its hash",
        |s| move_out(s, |hash| hash + DataRef::COLLISIONS_MAX),
        "key offset: expected",
    ),
    (
        "a block group item where none belongs",
        |s| {
            let (key, data) = s.items(TreeId::BLOCK_GROUP).swap_remove(0);
            s.insert(TreeId::EXTENT, key, data);
        },
        "such an item does not belong here",
    ),
];

#[test]
fn extents_and_references() {
    all_are_found(EXTENTS_AND_REFERENCES);
}
