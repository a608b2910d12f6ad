//! Each invariant broken on purpose, with right checksums everywhere: each is found, and named.

use std::sync::Arc;

use cowback_base::Ino;
use cowback_block_store::check::check;
use cowback_block_store::{BlockDevice, MemoryDevice, Profile, Store};
use cowback_btrfs_disk::hash::name_hash;
use cowback_btrfs_disk::items::{
    BlockGroupItem, ChunkItem, DevExtent, DevItem, DirEntry, DiskRange, ExtentItem, FileExtent,
    FileExtentData, FileType, FreeSpaceInfo, InlineRef, InodeItem, InodeRef, RootItem,
};
use cowback_btrfs_disk::superblock::CompatRo;
use cowback_btrfs_disk::{ChecksumKind, ItemKind, Key, TreeId, objectid};
use cowback_extent_io::store::Compression;

use crate::patched::Patched;
use crate::surgeon::{Body, Surgeon};
use crate::{build, problems};

const FS: TreeId = TreeId::FS;

/// What is broken, how, and what the checker must say.
type Case = (&'static str, fn(&Surgeon), &'static str);

/// Breaks each, and looks for what must be said.
fn all_are_found(cases: &[Case]) {
    let bytes = build::volume(Profile::Dup, ChecksumKind::Crc32c, 60);
    let mut wrong = Vec::new();
    for (name, edit, expected) in cases {
        let surgeon = Surgeon::new(Patched::new(&bytes));
        edit(&surgeon);
        let mut lines = Vec::new();
        let checked = check(&surgeon.device, true, &mut |line| lines.push(line.to_string()));
        if !checked.is_ok_and(|report| !report.is_clean())
            || !lines.iter().any(|line| line.contains(expected))
        {
            wrong.push(format!("{name}: expected {expected:?}, found {lines:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Changes an item as what it is.
macro_rules! change {
    ($surgeon:expr, $tree:expr, $key:expr, |$item:ident: $kind:ident| $edit:expr) => {{
        let key = $key;
        let mut $item = $kind::parse(&$surgeon.get($tree, &key)).unwrap();
        $edit;
        $surgeon.set($tree, &key, $item.to_bytes().to_vec());
    }};
}

mod endless;
mod file_extents;
mod names;
mod references;
mod roots;
mod space;

fn inode_key(ino: u64) -> Key {
    Key::new(ino, ItemKind::INODE_ITEM, 0)
}

/// The inode that `name` of `dir` leads to.
fn lookup(s: &Surgeon, dir: u64, name: &str) -> u64 {
    let key = Key::new(dir, ItemKind::DIR_ITEM, name_hash(name.as_bytes()));
    DirEntry::parse_all(&key, &s.get(FS, &key)).unwrap()[0].location.objectid
}

fn dir(s: &Surgeon) -> u64 {
    lookup(s, 256, "dir")
}

fn file(s: &Surgeon, name: &str) -> u64 {
    lookup(s, dir(s), name)
}

fn edit_inode(s: &Surgeon, ino: u64, edit: impl FnOnce(&mut InodeItem)) {
    change!(s, FS, inode_key(ino), |item: InodeItem| edit(&mut item));
}

/// The first file extent item that `wanted` takes.
fn extent(s: &Surgeon, wanted: impl Fn(&Key, &FileExtent) -> bool) -> (Key, FileExtent) {
    let (key, data) = s.find(FS, |key, data| {
        key.kind == ItemKind::EXTENT_DATA && wanted(key, &FileExtent::parse(key, data).unwrap())
    });
    (key, FileExtent::parse(&key, &data).unwrap())
}

/// A file extent item that is not inline, and the range that it shows.
fn regular(s: &Surgeon) -> (Key, FileExtent, DiskRange) {
    let (key, extent) = extent(s, |_, extent| matches!(extent.data, FileExtentData::Regular(_)));
    let FileExtentData::Regular(range) = extent.data else { unreachable!() };
    (key, extent, range)
}

fn set_extent(s: &Surgeon, key: &Key, extent: &FileExtent) {
    s.set(FS, key, extent.to_bytes());
}

/// The entry of a directory at an index.
fn index_of(s: &Surgeon, dir: u64, name: &str) -> Key {
    let is_it = |key: &Key, data: &[u8]| {
        (key.objectid, key.kind) == (dir, ItemKind::DIR_INDEX)
            && DirEntry::parse_all(key, data).unwrap()[0].name == name.as_bytes()
    };
    s.find(FS, is_it).0
}

/// The first extent item of data.
fn data_item(s: &Surgeon) -> (Key, ExtentItem) {
    let is_it = |key: &Key, data: &[u8]| key.kind == ItemKind::EXTENT_ITEM && data[16] == 1;
    let (key, data) = s.find(TreeId::EXTENT, is_it);
    (key, ExtentItem::parse(&key, &data).unwrap())
}

fn set_item(s: &Surgeon, key: &Key, item: &ExtentItem) {
    s.set(TreeId::EXTENT, key, item.to_bytes());
}

/// The extent item of the fs tree's root.
fn block_item(s: &Surgeon) -> (Key, ExtentItem) {
    let root = s.root(FS);
    let (key, data) = s.find(TreeId::EXTENT, |key, _| key.objectid == root);
    (key, ExtentItem::parse(&key, &data).unwrap())
}

/// A free range of a class, of at least 16 KiB, as the free space tree has it.
fn free_range(s: &Surgeon, data: bool) -> Key {
    let groups = s.items(TreeId::BLOCK_GROUP);
    s.find(TreeId::FREE_SPACE, |key, _| {
        let group = groups.iter().rev().find(|(group, _)| group.objectid <= key.objectid).unwrap();
        let item = BlockGroupItem::parse(group.0.offset, &group.1).unwrap();
        let is_large = key.kind == ItemKind::FREE_SPACE_EXTENT && key.offset >= 16 << 10;
        is_large && (item.flags.bits() & 1 == 1) == data
    })
    .0
}

/// The first item of a kind.
fn first(s: &Surgeon, tree: TreeId, kind: ItemKind) -> Key {
    s.find(tree, |key, _| key.kind == kind).0
}

fn edit_group(s: &Surgeon, edit: impl FnOnce(&mut BlockGroupItem)) {
    let is_data = |key: &Key, data: &[u8]| {
        BlockGroupItem::parse(key.offset, data).unwrap().flags.bits() & 1 == 1
    };
    let (key, data) = s.find(TreeId::BLOCK_GROUP, is_data);
    let mut item = BlockGroupItem::parse(key.offset, &data).unwrap();
    edit(&mut item);
    s.set(TreeId::BLOCK_GROUP, &key, item.to_bytes());
}

#[test]
fn an_extent_that_unpacks_to_too_little_is_found() {
    for way in [Compression::Zlib, Compression::Lzo, Compression::Zstd] {
        let (device, store) = build::format(Profile::Single, ChecksumKind::Crc32c);
        let (ino, _) = store.create(Ino::ROOT, b"file", &build::FILE).unwrap();
        let packed = build::pack(way, &build::text(1, 40_000), 40_000).unwrap();
        build::write_packed(&store, ino, (0, 65_536), way, packed);
        // What lies beyond the end of the file is of no interest.
        build::set_size(&store, ino, 40_500);
        store.commit().unwrap();
        assert!(problems(&*device).0.is_empty(), "{way:?}: {:?}", problems(&*device).0);
        build::set_size(&store, ino, 65_000);
        store.commit().unwrap();
        let lines = problems(&*device).0;
        let expected = "it unpacks to 40000 bytes, and 65000 of them are in use, of inode";
        assert!(lines.iter().any(|line| line.contains(expected)), "{way:?}: {lines:?}");
    }
}

#[test]
fn two_frames_in_one_extent_are_found() {
    let (device, store) = build::format(Profile::Single, ChecksumKind::Crc32c);
    let (ino, _) = store.create(Ino::ROOT, b"file", &build::FILE).unwrap();
    let frames = [build::text(1, 65_536), build::text(2, 65_536)];
    let frames = frames.map(|data| build::pack(Compression::Zstd, &data, 65_536).unwrap());
    build::write_packed(&store, ino, (0, 131_072), Compression::Zstd, frames.concat());
    build::set_size(&store, ino, 131_072);
    store.commit().unwrap();
    let lines = problems(&*device).0;
    assert!(lines.iter().any(|line| line.contains("it unpacks to 65536 bytes")), "{lines:?}");
}

#[test]
fn what_is_no_volume_is_an_error() {
    for len in [0, 4096, 1 << 20] {
        let device = MemoryDevice::new(len);
        assert!(check(&device, true, &mut |problem| panic!("{problem}")).is_err());
    }
}

#[test]
fn a_volume_without_its_trees_ends_with_problems() {
    let (device, store) = build::format(Profile::Single, ChecksumKind::Crc32c);
    drop::<Store>(store);
    let bytes = Arc::new(device.to_vec());
    let surgeon = Surgeon::new(Patched::new(&bytes));
    let trees: Vec<u64> = surgeon.trees().into_iter().map(|tree| surgeon.root(tree)).collect();
    for root in trees {
        let surgeon = Surgeon::new(Patched::new(&bytes));
        for at in surgeon.copies(root) {
            surgeon.device.write_at(at, &vec![0xa5; surgeon.nodesize()]).unwrap();
        }
        let (lines, report) = problems(&surgeon.device);
        assert!(lines[0].contains(&format!("block {root}: ")), "{lines:?}");
        // One line tells it, and no flood of conclusions follows.
        assert!(lines.len() < 4 && !report.notes.is_empty(), "{lines:#?}");
    }
}
