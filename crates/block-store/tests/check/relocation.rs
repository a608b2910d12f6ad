//! What a balance of the kernel's leaves behind that a crash interrupted: its two trees obey rules of their own, and are no damage.

use std::sync::Arc;

use cowback_base::{BLOCK_SIZE, Ino};
use cowback_block_store::Profile;
use cowback_block_store::namespace::NewInode;
use cowback_block_store::namespace::inode::inode_flags::{NODATACOW, NODATASUM};
use cowback_btrfs_disk::items::{
    BlockGroupItem, CompressionCode, DataRef, ExtentItem, ExtentOwner, FileExtent, FileExtentData,
    InlineRef, InodeItem, RootItem,
};
use cowback_btrfs_disk::{ChecksumKind, ItemKind, Key, TreeId, objectid};
use cowback_extent_io::store::Compression;

use crate::build::{self, FILE, file, set_size, text};
use crate::patched::Patched;
use crate::problems;
use crate::surgeon::{Body, Surgeon};

const INO: u64 = 257;
const LEN: u64 = 16 * BLOCK_SIZE;

/// A volume with a compressed file, and one that has no checksums.
fn volume() -> Surgeon {
    let (memory, store) = build::format(Profile::Dup, ChecksumKind::Crc32c);
    file(&store, Ino::ROOT, "packed", &text(1, LEN), Compression::Zstd);
    let bare = NewInode { flags: NODATACOW | NODATASUM, ..FILE };
    let (bare, _) = store.create(Ino::ROOT, b"bare", &bare).unwrap();
    build::write(&store, bare, 0, &text(2, LEN), Compression::None);
    set_size(&store, bare, LEN);
    store.commit().unwrap();
    drop(store);
    Surgeon::new(Patched::new(&Arc::new(memory.to_vec())))
}

fn check(s: &Surgeon) {
    let (lines, report) = problems(&s.device);
    assert!(lines.is_empty(), "{lines:#?}");
    assert!(report.notes.is_empty(), "{:?}", report.notes);
}

/// Puts into the inode of the data relocation tree the bytes of an extent, as they are on disk. Gives how many.
fn map_raw(s: &Surgeon, at: u64, packed: bool) -> u64 {
    let is_it = |key: &Key, data: &[u8]| {
        key.kind == ItemKind::EXTENT_DATA
            && (FileExtent::parse(key, data).unwrap().compression == CompressionCode::Zstd)
                == packed
    };
    let (key, data) = s.find(TreeId::FS, is_it);
    let mut extent = FileExtent::parse(&key, &data).unwrap();
    let FileExtentData::Regular(range) = &mut extent.data else { unreachable!() };
    range.num_bytes = range.disk_len;
    let range = *range;
    (extent.ram_bytes, extent.compression) = (range.disk_len, CompressionCode::None);
    let key = Key::new(INO, ItemKind::EXTENT_DATA, at);
    s.insert(TreeId::DATA_RELOC, key, extent.to_bytes());

    let key = Key::new(range.bytenr, ItemKind::EXTENT_ITEM, range.disk_len);
    let mut item = ExtentItem::parse(&key, &s.get(TreeId::EXTENT, &key)).unwrap();
    item.refs += 1;
    let root = TreeId::DATA_RELOC.0;
    item.inline.push(InlineRef::Data(DataRef { root, ino: INO, offset: at, count: 1 }));
    item.inline.sort_by_key(|one| (one.kind(), std::cmp::Reverse(one.sequence())));
    s.set(TreeId::EXTENT, &key, item.to_bytes());
    range.disk_len
}

#[test]
fn the_data_relocation_tree_maps_raw_bytes_and_has_no_checksums_yet() {
    let s = volume();
    check(&s);
    let packed = map_raw(&s, 0, true);
    let size = packed + map_raw(&s, packed, false);
    let (_, inode) = s.find(TreeId::FS, |key, _| key.objectid == INO);
    let inode = InodeItem { size, nbytes: size, nlink: 0, ..InodeItem::parse(&inode).unwrap() };
    let key = Key::new(INO, ItemKind::INODE_ITEM, 0);
    s.insert(TreeId::DATA_RELOC, key, InodeItem { flags: 0, ..inode }.to_bytes());
    let orphan = Key::new(objectid::ORPHAN, ItemKind::ORPHAN_ITEM, INO);
    s.insert(TreeId::DATA_RELOC, orphan, Vec::new());
    check(&s);
}

#[test]
fn the_root_of_the_relocation_tree_refers_to_itself() {
    let s = volume();
    let size = u64::from(s.sb.nodesize);
    let groups: Vec<_> = s.items(TreeId::BLOCK_GROUP);
    let group_at = |at| groups.iter().rev().find(|(key, _)| key.objectid <= at).unwrap();
    let group = |at| {
        let (key, data) = group_at(at);
        (*key, BlockGroupItem::parse(key.offset, data).unwrap())
    };
    let (free, _) = s.find(TreeId::FREE_SPACE, |key, _| {
        let of_metadata = || group(key.objectid).1.flags.bits() & 4 != 0;
        key.kind == ItemKind::FREE_SPACE_EXTENT && key.offset > size && of_metadata()
    });
    let bytenr = free.objectid;
    let rest = Key { objectid: bytenr + size, offset: free.offset - size, ..free };
    s.rename(TreeId::FREE_SPACE, &free, rest);
    let (key, group) = group(bytenr);
    let group = BlockGroupItem { used: group.used + size, ..group };
    s.set(TreeId::BLOCK_GROUP, &key, group.to_bytes());
    s.edit_super(|sb| sb.bytes_used += size);

    let (mut header, _) = s.block(s.root(TreeId::FS));
    (header.bytenr, header.level, header.reloc) = (bytenr, 0, true);
    let (key, inode) = s.find(TreeId::FS, |key, _| key.objectid == INO);
    s.put(&header, &Body::Leaf(vec![(key, inode)]));
    let key = Key::new(TreeId::FS.0, ItemKind::ROOT_ITEM, 0);
    let root = RootItem::parse(&s.get(TreeId::ROOT, &key)).unwrap();
    let root = RootItem { bytenr, refs: 0, level: 0, bytes_used: size, ..root };
    let key = Key::new(TreeId::TREE_RELOC.0, ItemKind::ROOT_ITEM, TreeId::FS.0);
    s.insert(TreeId::ROOT, key, root.to_bytes());
    let item = ExtentItem {
        refs: 1,
        generation: header.generation,
        owner: ExtentOwner::TreeBlock { full_backref: true, info: None },
        inline: vec![InlineRef::SharedBlock { parent: bytenr }],
    };
    s.insert(TreeId::EXTENT, Key::new(bytenr, ItemKind::METADATA_ITEM, 0), item.to_bytes());
    check(&s);
}
