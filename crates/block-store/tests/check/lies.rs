//! Volumes that lie, with right checksums everywhere: opening and changing them ends in an error that names what and where, and neither in a
//! panic nor in damage to what the last commit holds (law E3).

use std::sync::Arc;

use cowback_base::{BLOCK_SIZE, ByteRange, Ino};
use cowback_block_store::namespace::Target;
use cowback_block_store::namespace::inode::inode_flags;
use cowback_block_store::{BlockDevice, OpenOptions, Profile, Store};
use cowback_btrfs_disk::items::{
    BlockGroupFlags, BlockGroupItem, ChunkItem, DevItem, ExtentItem, FileExtent, FileExtentData,
    FreeSpaceInfo, InlineRef, InodeItem, RootItem,
};
use cowback_btrfs_disk::superblock::{SUPER_LEN, SUPER_OFFSETS, Superblock};
use cowback_btrfs_disk::{ChecksumKind, ItemKind, Key, TreeId};
use cowback_extent_io::store::{Compression, ExtentKind, ExtentStore, PreallocMode};
use uuid::Uuid;

use crate::build;
use crate::patched::Patched;
use crate::surgeon::Surgeon;

const FREE: TreeId = TreeId::FREE_SPACE;
const NODE: u64 = 16 << 10;
const RAW: &[u8] = b"raw";

/// A volume with a few files; `raw` has 40 blocks that are not compressed, `none` 8 that are preallocated.
fn volume() -> Arc<Vec<u8>> {
    let (device, store) = build::format(Profile::Single, ChecksumKind::Crc32c);
    build::populate(&store, 60);
    let raw = file(&store, RAW);
    store.truncate(raw, 0).unwrap();
    build::set_size(&store, raw, 0);
    let content = vec![7; 40 * 4096];
    build::write(&store, raw, 0, &content, Compression::None);
    build::set_size(&store, raw, 40 * BLOCK_SIZE);
    let (none, _) = store.create(Ino::ROOT, b"none", &build::FILE).unwrap();
    store.prealloc_extents(none, ByteRange::new(0, 8 * BLOCK_SIZE), PreallocMode::Keep).unwrap();
    store.commit().unwrap();
    store.sync_super_copies().unwrap();
    drop(store);
    Arc::new(device.to_vec())
}

fn open(s: &Surgeon) -> Result<Store, String> {
    let device = Arc::new(s.device.clone()) as Arc<dyn BlockDevice>;
    Store::open(device, &OpenOptions::default()).map_err(|error| error.to_string())
}

/// The file `name` of the root directory.
fn file(store: &Store, name: &[u8]) -> Ino {
    match store.lookup(Ino::ROOT, name).unwrap().0 {
        Target::Inode(ino) => ino,
        other => panic!("{other:?}"),
    }
}

fn why_not_opened(s: &Surgeon) -> String {
    open(s).err().unwrap_or_default()
}

/// Changes some of everything, and commits. Gives the first error.
fn change(s: &Surgeon) -> Option<String> {
    let store = match open(s) {
        Ok(store) => store,
        Err(error) => return Some(error),
    };
    for number in 0..400 {
        let name = format!("new{number}{}", "n".repeat(200));
        if let Err(error) = store.create(Ino::ROOT, name.as_bytes(), &build::FILE) {
            return Some(error.to_string());
        }
    }
    store.commit().err().map(|error| error.to_string())
}

/// The file extent of `name` at its start: key and item.
fn extent_of(s: &Surgeon, name: &[u8]) -> (Key, FileExtent) {
    let store = open(s).unwrap();
    let ino = file(&store, name);
    let key = Key::new(ino.0, ItemKind::EXTENT_DATA, 0);
    let extent = FileExtent::parse(&key, &s.get(TreeId::FS, &key)).unwrap();
    (key, extent)
}

/// The block group that holds `bytenr`: first address and length.
fn group_of(s: &Surgeon, bytenr: u64) -> (u64, u64) {
    let (start, chunk) = s.chunks.range(..=bytenr).next_back().unwrap();
    (*start, chunk.length)
}

/// Calls `len` bytes at `bytenr` free, and as many others used.
fn call_free(s: &Surgeon, bytenr: u64, len: u64) {
    let (start, group_len) = group_of(s, bytenr);
    let in_group = |key: &Key| (start..start + group_len).contains(&key.objectid);
    let (from, _) = s.find(FREE, |key, _| {
        in_group(key) && key.kind == ItemKind::FREE_SPACE_EXTENT && key.offset > len
    });
    s.rename(FREE, &from, Key { offset: from.offset - len, ..from });
    s.insert(FREE, Key::new(bytenr, ItemKind::FREE_SPACE_EXTENT, len), Vec::new());
    let info = Key::new(start, ItemKind::FREE_SPACE_INFO, group_len);
    let FreeSpaceInfo { extent_count, bitmaps } =
        FreeSpaceInfo::parse(&s.get(FREE, &info)).unwrap();
    let told = FreeSpaceInfo { extent_count: extent_count + 1, bitmaps };
    s.set(FREE, &info, told.to_bytes());
}

fn content(s: &Surgeon, bytenr: u64, len: u64) -> Vec<u8> {
    s.device.get(s.copies(bytenr)[0], usize::try_from(len).unwrap())
}

#[test]
fn a_block_of_a_tree_that_is_called_free_is_not_given_away() {
    let bytes = volume();
    let healthy = Surgeon::new(Patched::new(&bytes));
    let metadata = group_of(&healthy, healthy.root(TreeId::FS)).0;
    let mut found = 0;
    for tree in healthy.trees() {
        for block in healthy.blocks(tree) {
            // The lie changes these.
            if tree == FREE || group_of(&healthy, block).0 != metadata {
                continue;
            }
            let s = Surgeon::new(Patched::new(&bytes));
            call_free(&s, block, NODE);
            let before = content(&s, block, NODE);
            let error = change(&s);
            assert!(content(&s, block, NODE) == before, "{block} of tree {tree} was overwritten");
            let error = error.unwrap_or_else(|| panic!("{block} of tree {tree}"));
            let expected = error.contains(&format!("free space at {block}"));
            found += u32::from(expected);
            assert!(expected, "{block} of tree {tree}: {error}");
        }
    }
    assert!(found > 5, "{found}");
}

#[test]
fn a_block_that_no_tree_of_space_knows_of_is_not_given_away_for_itself() {
    let bytes = volume();
    for tree in [TreeId::FS, TreeId::ROOT, TreeId::EXTENT] {
        let s = Surgeon::new(Patched::new(&bytes));
        let block = s.root(tree);
        let (start, len) = group_of(&s, block);
        let group = Key::new(start, ItemKind::BLOCK_GROUP_ITEM, len);
        let mut told = BlockGroupItem::parse(len, &s.get(TreeId::BLOCK_GROUP, &group)).unwrap();
        let (item, _) = s.find(TreeId::EXTENT, |key, _| key.objectid == block);
        s.remove(TreeId::EXTENT, &item);
        s.insert(FREE, Key::new(block, ItemKind::FREE_SPACE_EXTENT, NODE), Vec::new());
        told.used -= NODE;
        // It is the first to be given away.
        for (key, _) in s.items(FREE) {
            if key.kind == ItemKind::FREE_SPACE_EXTENT && (start..block).contains(&key.objectid) {
                s.remove(FREE, &key);
                told.used += key.offset;
            }
        }
        s.set(TreeId::BLOCK_GROUP, &group, told.to_bytes());
        let before = content(&s, block, NODE);
        let error = change(&s).unwrap();
        assert!(error.contains(&format!("free space at {block}: a block of a tree")), "{error}");
        assert!(content(&s, block, NODE) == before);
    }
}

#[test]
fn data_that_is_called_free_is_not_given_away() {
    let s = Surgeon::new(Patched::new(&volume()));
    let (_, extent) = extent_of(&s, RAW);
    let FileExtentData::Regular(shown) = extent.data else { panic!() };
    // From its middle on, where no item begins.
    let middle = shown.bytenr + shown.disk_len / 2;
    call_free(&s, middle, 4 * BLOCK_SIZE);
    let store = open(&s).unwrap();
    // It is passed over.
    for _ in 0..200 {
        let extent = store.alloc_extent(4 * BLOCK_SIZE, 4 * BLOCK_SIZE).unwrap();
        let (start, end) = (extent.bytenr.0, extent.bytenr.0 + extent.len);
        assert!(end <= middle || middle + 4 * BLOCK_SIZE <= start, "{start} to {end}");
    }
}

#[test]
fn free_space_that_is_not_of_whole_blocks_is_refused() {
    let bytes = volume();
    for (at, len) in [(0, 4096 + 512), (512, 4096), (0, 0)] {
        let s = Surgeon::new(Patched::new(&bytes));
        let (from, _) =
            s.find(FREE, |key, _| key.kind == ItemKind::FREE_SPACE_EXTENT && key.offset > 1 << 20);
        let end = from.objectid + from.offset;
        let (first, second) = (from.objectid + at, from.objectid + at + len);
        let extent = |start, end| Key::new(start, ItemKind::FREE_SPACE_EXTENT, end - start);
        s.rename(FREE, &from, extent(second, end));
        s.insert(FREE, extent(first, second), Vec::new());
        let error = why_not_opened(&s);
        assert!(error.contains("a multiple of 4096"), "{at} {len}: {error}");
    }
}

#[test]
fn a_device_that_the_chunk_tree_calls_another_is_refused() {
    type Edit = fn(&mut DevItem);
    let cases: [(&str, Edit); 3] = [
        ("total_bytes", |item| item.total_bytes = 1 << 62),
        ("total_bytes", |item| item.total_bytes += 64 << 10),
        ("uuid", |item| item.uuid = Uuid::from_u128(7)),
    ];
    let bytes = volume();
    for (field, edit) in cases {
        let s = Surgeon::new(Patched::new(&bytes));
        let key = Key::new(1, ItemKind::DEV_ITEM, 1);
        let mut item = DevItem::parse(&s.get(TreeId::CHUNK, &key)).unwrap();
        edit(&mut item);
        s.set(TreeId::CHUNK, &key, item.to_bytes());
        let error = why_not_opened(&s);
        assert!(error.contains(&format!("device item at 1: {field}: found")), "{error}");
    }
}

/// Has `name` map what is at `bytenr`, and the extent tree hold just that for the block of a tree that is there.
fn map_to(s: &Surgeon, name: &[u8], bytenr: u64, len: u64) {
    let (key, mut extent) = extent_of(s, name);
    let (FileExtentData::Regular(shown) | FileExtentData::Prealloc(shown)) = &mut extent.data
    else {
        panic!()
    };
    let old = Key::new(shown.bytenr, ItemKind::EXTENT_ITEM, shown.disk_len);
    let item = ExtentItem::parse(&old, &s.get(TreeId::EXTENT, &old)).unwrap();
    assert!(matches!(item.inline[..], [InlineRef::Data(_)]));
    (shown.bytenr, shown.disk_len, shown.num_bytes) = (bytenr, len, len);
    extent.ram_bytes = len;
    s.set(TreeId::FS, &key, extent.to_bytes());
    let (block, _) = s.find(TreeId::EXTENT, |key, _| key.objectid == bytenr);
    s.remove(TreeId::EXTENT, &block);
    s.insert(TreeId::EXTENT, Key::new(bytenr, ItemKind::EXTENT_ITEM, len), item.to_bytes());
}

#[test]
fn a_file_that_maps_a_block_of_a_tree_neither_overwrites_nor_frees_it() {
    let bytes = volume();
    let s = Surgeon::new(Patched::new(&bytes));
    let block = s.root(TreeId::UUID);
    map_to(&s, b"none", block, NODE);
    let store = open(&s).unwrap();
    let ino = file(&store, b"none");
    let claimed = store.claim_in_place(ino, ByteRange::new(0, BLOCK_SIZE));
    let error = claimed.unwrap_err().to_string();
    assert!(error.contains("it is data in a block group for trees"), "{error}");
    let before = content(&s, block, NODE);
    let truncated = store.truncate(ino, 0).map_err(|error| error.to_string());
    let committed = truncated.and_then(|_| store.commit().map_err(|error| error.to_string()));
    let error = committed.unwrap_err();
    assert!(error.contains("it is data in a block group for trees"), "{error}");
    assert!(content(&s, block, NODE) == before);
}

#[test]
fn a_reference_that_comes_and_goes_frees_nothing_that_is_in_use() {
    let bytes = volume();
    let s = Surgeon::new(Patched::new(&bytes));
    // Another's extent, but for its first block: no item of the extent tree is that of this one.
    let (_, extent) = extent_of(&s, RAW);
    let FileExtentData::Regular(of_raw) = extent.data else { panic!() };
    let (key, mut extent) = extent_of(&s, b"none");
    let FileExtentData::Prealloc(shown) = &mut extent.data else { panic!() };
    shown.bytenr = of_raw.bytenr + BLOCK_SIZE;
    s.set(TreeId::FS, &key, extent.to_bytes());
    let store = open(&s).unwrap();
    let ino = file(&store, b"none");
    store.punch(ino, ByteRange::at(2 * BLOCK_SIZE, BLOCK_SIZE)).unwrap();
    store.punch(ino, ByteRange::at(0, 2 * BLOCK_SIZE)).unwrap();
    let error = store.commit().unwrap_err().to_string();
    assert!(error.contains("the extent tree has"), "{error}");
}

#[test]
fn a_copy_that_would_be_over_the_superblock_is_not_repaired() {
    let bytes = volume();
    let s = Surgeon::new(Patched::new(&bytes));
    let (logical, chunk) = s.sb.sys_chunks[0].clone();
    // The chunk tree's root stands where the superblock is, says the first of two copies.
    let root = s.sb.chunk_root - logical;
    let mut wrong = ChunkItem { flags: chunk.flags | BlockGroupFlags::DUP, ..chunk };
    wrong.stripes.insert(0, wrong.stripes[0]);
    wrong.stripes[0].offset = SUPER_OFFSETS[0].checked_sub(root).unwrap();
    let key = Key::new(256, ItemKind::CHUNK_ITEM, logical);
    let group = Key::new(logical, ItemKind::BLOCK_GROUP_ITEM, wrong.length);
    let item = s.get(TreeId::BLOCK_GROUP, &group);
    let mut item = BlockGroupItem::parse(wrong.length, &item).unwrap();
    item.flags |= BlockGroupFlags::DUP;
    s.set(TreeId::BLOCK_GROUP, &group, item.to_bytes());
    s.set(TreeId::CHUNK, &key, wrong.to_bytes());
    s.edit_super(|sb| sb.sys_chunks[0].1 = wrong.clone());
    let first = || s.device.get(SUPER_OFFSETS[0], SUPER_LEN);
    let before = first();
    let opened = open(&s);
    assert!(first() == before, "it was overwritten: {:?}", opened.err());
    if let Ok(store) = opened {
        assert!(store.stats().copies.wrong > 0);
        drop(store);
    }
    let _ = change(&s);
    assert!(Superblock::parse(&first(), SUPER_OFFSETS[0]).is_ok());
}

#[test]
fn data_without_checksums_is_read_only_of_a_file_that_has_none() {
    let s = Surgeon::new(Patched::new(&volume()));
    let (key, extent) = extent_of(&s, RAW);
    let FileExtentData::Regular(shown) = extent.data else { panic!() };
    let (csums, data) = s.find(TreeId::CSUM, |key, data| {
        let end = key.offset + data.len() as u64 / 4 * BLOCK_SIZE;
        key.offset <= shown.bytenr && shown.bytenr < end
    });
    let keep = usize::try_from((shown.bytenr - csums.offset) / BLOCK_SIZE * 4).unwrap();
    let gone = usize::try_from(shown.disk_len / BLOCK_SIZE * 4).unwrap();
    match keep {
        0 => drop(s.remove(TreeId::CSUM, &csums)),
        keep => s.set(TreeId::CSUM, &csums, data[..keep].to_vec()),
    }
    let rest = data[keep + gone..].to_vec();
    if !rest.is_empty() {
        let at = Key { offset: shown.bytenr + shown.disk_len, ..csums };
        s.insert(TreeId::CSUM, at, rest);
    }
    let read = || {
        let store = open(&s).unwrap();
        let ino = Ino(key.objectid);
        let map = store.lookup_extent(ino, 0).unwrap();
        let ExtentKind::Regular { disk_bytenr, .. } = map.kind else { panic!() };
        let mut block = vec![0; 4096];
        store.read_extent(ino, disk_bytenr, &mut block).map(|()| block == [7; 4096])
    };
    let error = read().unwrap_err().to_string();
    let expected = format!("data at {}: the checksums of 4096 bytes are missing", shown.bytenr);
    assert!(error.contains(&expected), "{error}");
    let inode = Key::new(key.objectid, ItemKind::INODE_ITEM, 0);
    let mut item = InodeItem::parse(&s.get(TreeId::FS, &inode)).unwrap();
    item.flags |= inode_flags::NODATASUM;
    s.set(TreeId::FS, &inode, item.to_bytes());
    assert!(read().unwrap());
}

#[test]
fn figures_that_are_too_large_overflow_nothing() {
    let bytes = volume();
    // A tree that says that it is as large as can be, and becomes larger.
    let s = Surgeon::new(Patched::new(&bytes));
    let root = Key::new(TreeId::FS.0, ItemKind::ROOT_ITEM, 0);
    let mut item = RootItem::parse(&s.get(TreeId::ROOT, &root)).unwrap();
    item.bytes_used = u64::MAX;
    s.set(TreeId::ROOT, &root, item.to_bytes());
    let error = change(&s).unwrap();
    assert!(error.contains("root item at (5 ROOT_ITEM 0): its size"), "{error}");
    // A file whose extents are, on disk.
    let s = Surgeon::new(Patched::new(&bytes));
    let (key, mut extent) = extent_of(&s, RAW);
    let FileExtentData::Regular(shown) = &mut extent.data else { panic!() };
    (shown.disk_len, shown.num_bytes) = (i64::MAX.unsigned_abs() / 4096 * 4096, BLOCK_SIZE);
    for number in 0..4 {
        let FileExtentData::Regular(shown) = &mut extent.data else { panic!() };
        shown.bytenr += BLOCK_SIZE;
        let at = Key { offset: number * BLOCK_SIZE, ..key };
        match number {
            0 => s.set(TreeId::FS, &at, extent.to_bytes()),
            _ => s.insert(TreeId::FS, at, extent.to_bytes()),
        }
    }
    let store = open(&s).unwrap();
    let _ = store.truncate(Ino(key.objectid), BLOCK_SIZE);
    let _ = store.truncate(Ino(key.objectid), 0);
    let _ = store.create(Ino::ROOT, b"more", &build::FILE);
    assert!(store.commit().is_err());
}
