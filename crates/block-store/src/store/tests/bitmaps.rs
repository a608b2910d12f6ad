//! Block groups whose free space is recorded as bitmaps, as the kernel does where it is in many pieces.

use std::process::Command;
use std::sync::Arc;

use cowback_base::{BLOCK_SIZE, ByteRange, Ino};
use cowback_btrfs_disk::items::FreeSpaceInfo;
use cowback_btrfs_disk::items::group::{BITMAP_RANGE, free_space_bitmap};
use cowback_btrfs_disk::{ItemKind, Key, TreeId};
use cowback_extent_io::store::{ExtentStore, PreallocMode};

use super::{FILE, sound};
use crate::trees::Trees;
use crate::{Fit, FormatOptions, MemoryDevice, OpenOptions, Store};

const MIB: u64 = 1 << 20;
/// Extents of a block each of a file at first; then every other one goes.
const EXTENTS: u64 = 4000;

fn block(number: u64) -> ByteRange {
    ByteRange::at(number * BLOCK_SIZE, BLOCK_SIZE)
}

/// A volume of a fixed size with free space in many pieces, and the file with extents between them.
fn with_holes() -> (Arc<MemoryDevice>, Store, Ino) {
    let device = Arc::new(MemoryDevice::new(0));
    let options = FormatOptions { total_bytes: 256 * MIB, grow: false, ..Default::default() };
    let store = Store::format(Arc::clone(&device) as _, &options).unwrap();
    let ino = store.create(Ino::ROOT, b"a", &FILE).unwrap().0;
    for number in 0..EXTENTS {
        store.prealloc_extents(ino, block(number), PreallocMode::Keep).unwrap();
    }
    store.commit().unwrap();
    for number in (0..EXTENTS).step_by(2) {
        store.punch(ino, block(number)).unwrap();
    }
    store.commit().unwrap();
    (device, store, ino)
}

/// Has the free space of all block groups as bitmaps, as `convert_free_space_to_bitmaps` in Linux makes them.
fn to_bitmaps(store: &Store) {
    let mut state = store.state.write();
    let groups: Vec<ByteRange> = state.space.groups().map(|group| group.range()).collect();
    for group in groups {
        let mut free = Vec::new();
        let first = Key::new(group.start, ItemKind::FREE_SPACE_EXTENT, 0);
        while let Some((key, _)) = state.at_or_after(TreeId::FREE_SPACE, &first).unwrap() {
            let key = match key.kind {
                ItemKind::FREE_SPACE_EXTENT if key.objectid < group.end => key,
                ItemKind::FREE_SPACE_INFO if key.objectid == group.start => unreachable!("{key}"),
                _ => break,
            };
            free.push((key.objectid, key.offset));
            state.remove(TreeId::FREE_SPACE, &key).unwrap();
        }
        let mut at = group.start;
        while at < group.end {
            let len = BITMAP_RANGE.min(group.end - at);
            let near = |(start, size): &&(u64, u64)| *start < at + len && start + size > at;
            let near: Vec<(u64, u64)> = free.iter().filter(near).copied().collect();
            let key = Key::new(at, ItemKind::FREE_SPACE_BITMAP, len);
            state.insert(TreeId::FREE_SPACE, key, &free_space_bitmap(at, len, &near)).unwrap();
            at += len;
        }
        let key = Key::new(group.start, ItemKind::FREE_SPACE_INFO, group.len());
        let info = FreeSpaceInfo { bitmaps: true, extent_count: free.len().try_into().unwrap() };
        state.update(TreeId::FREE_SPACE, &key, &info.to_bytes()).unwrap();
    }
}

/// Whether the free space of each block group is bitmaps.
fn kinds(store: &Store) -> Vec<bool> {
    let state = store.state.read();
    let groups: Vec<ByteRange> = state.space.groups().map(|group| group.range()).collect();
    let info = |group: &ByteRange| {
        let key = Key::new(group.start, ItemKind::FREE_SPACE_INFO, group.len());
        state.free_space_info(&key).unwrap().bitmaps
    };
    groups.iter().map(info).collect()
}

fn tree_blocks(store: &Store) -> u64 {
    store.state.read().forest.root(TreeId::FREE_SPACE).unwrap().blocks
}

#[test]
fn bitmaps_are_changed_where_they_are_and_take_no_more_blocks() {
    let (device, store, ino) = with_holes();
    to_bitmaps(&store);
    store.commit().unwrap();
    sound(&device);
    let before = (tree_blocks(&store), kinds(&store));
    assert!(before.1.iter().all(|bitmaps| *bitmaps));
    // It joins the free blocks on both sides.
    store.punch(ino, block(1001)).unwrap();
    store.commit().unwrap();
    assert_eq!((tree_blocks(&store), kinds(&store)), before);
    sound(&device);
}

/// What the tool of the field says of the last commit.
fn btrfs_check(device: &MemoryDevice) {
    if Command::new("btrfs").arg("--version").output().is_err() {
        return cowback_testkit::skipped("btrfs check of bitmaps", "btrfs-progs is not installed");
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(image.path(), device.to_vec()).unwrap();
    for mode in ["--mode=original", "--mode=lowmem"] {
        let args = ["check", "--readonly", mode];
        let out = Command::new("btrfs").args(args).arg(image.path()).output().unwrap();
        let text = [out.stdout, out.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(out.status.success(), "{mode}:\n{text}");
        assert!(!text.contains("ERROR") && !text.contains("WARNING"), "{mode}:\n{text}");
    }
}

#[test]
fn bitmaps_tell_what_is_free_whatever_comes_and_goes() {
    let (device, store, ino) = with_holes();
    let other = store.create(Ino::ROOT, b"b", &FILE).unwrap().0;
    to_bitmaps(&store);
    store.commit().unwrap();
    let groups = kinds(&store).len();
    // Pieces of a block to pieces that several bitmaps speak of, at both ends of holes and within.
    let lens = [1, 3, 700, 4000].into_iter().cycle();
    for (round, len) in (0..12).zip(lens) {
        let at = ByteRange::at(round * 64 * MIB, len * BLOCK_SIZE);
        store.prealloc_extents(other, at, PreallocMode::Keep).unwrap();
        for number in 0..40 {
            let number = (round * 331 + number * 7 + number * number) % EXTENTS;
            store.punch(ino, block(number)).unwrap();
        }
        if round % 3 == 2 {
            store.punch(other, ByteRange::at((round - 1) * 64 * MIB, 64 * MIB)).unwrap();
        }
        store.commit().unwrap();
        sound(&device);
        if round == 5 {
            btrfs_check(&device);
        }
        let kinds = kinds(&store).into_iter();
        assert_eq!(kinds.filter(|bitmaps| *bitmaps).count(), groups, "round {round}");
    }
    drop(store);
    let store = Store::open(Arc::clone(&device) as _, &OpenOptions::default()).unwrap();
    store.punch(ino, ByteRange::new(0, EXTENTS / 2 * BLOCK_SIZE)).unwrap();
    // What remains is in the first block group, which is cut behind it.
    store.punch(other, ByteRange::new(0, 1 << 40)).unwrap();
    store.commit().unwrap();
    sound(&device);
    store.shrink_to_fit(Fit::Tight).unwrap();
    assert!(kinds(&store)[0], "it has its bitmaps");
    sound(&device);
    btrfs_check(&device);
    Store::open(device, &OpenOptions::default()).unwrap().commit().unwrap();
}
