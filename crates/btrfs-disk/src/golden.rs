//! Superblock and tree blocks that mkfs.btrfs wrote, parsed and written again: bit for bit the same.
//!
//! The images were made by mkfs.btrfs 6.2 with 4 KiB nodes from a directory with small, large, sparse, linked and special
//! files and extended attributes, and another one with 300 files.

use std::collections::BTreeSet;

use crate::items::{
    BlockGroupItem, ChunkItem, DevExtent, DevItem, DevStats, DirEntry, ExtentItem, FileExtent,
    FileExtentData, FreeSpaceInfo, InodeItem, InodeRef, LeafRules, RootItem, check_leaf, uuid_key,
};
use crate::node::{
    BlockExpect, HEADER_LEN, ITEM_LEN, PTR_LEN, ParsedBlock, ParsedLeaf, leaf_capacity,
    parse_block, write_leaf, write_node,
};
use crate::superblock::{SUPER_OFFSETS, Superblock};
use crate::{ChecksumKind, ItemKind, Key, TreeId};

const FIXTURES: [(&str, &str, TreeId); 9] = [
    ("root", include_str!("golden/root-leaf.hex"), TreeId::ROOT),
    ("extent", include_str!("golden/extent-leaf.hex"), TreeId::EXTENT),
    ("chunk", include_str!("golden/chunk-leaf.hex"), TreeId::CHUNK),
    ("dev", include_str!("golden/dev-leaf.hex"), TreeId::DEV),
    ("fs", include_str!("golden/fs-leaf.hex"), TreeId::FS),
    ("csum", include_str!("golden/csum-leaf.hex"), TreeId::CSUM),
    ("uuid", include_str!("golden/uuid-leaf.hex"), TreeId::UUID),
    ("free space", include_str!("golden/free-space-leaf.hex"), TreeId::FREE_SPACE),
    ("data reloc", include_str!("golden/data-reloc-leaf.hex"), TreeId::DATA_RELOC),
];
const CSUM: ChecksumKind = ChecksumKind::Crc32c;

/// Rows of `offset bytes`; what is not named is zero.
fn unhex(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let len = lines.next().and_then(|line| line.strip_prefix("len ")).unwrap();
    let mut out = vec![0; len.parse().unwrap()];
    for line in lines {
        let (at, row) = line.split_once(' ').unwrap();
        let at = usize::from_str_radix(at, 16).unwrap();
        for (i, digits) in row.as_bytes().chunks(2).enumerate() {
            let digits = str::from_utf8(digits).unwrap();
            out[at + i] = u8::from_str_radix(digits, 16).unwrap();
        }
    }
    out
}

fn superblock() -> Superblock {
    let bytes = unhex(include_str!("golden/superblock.hex"));
    let sb = Superblock::parse(&bytes, SUPER_OFFSETS[0]).unwrap();
    let again = sb.to_bytes().unwrap();
    // mkfs leaves old bytes behind the used part of the system chunk array, so that part and the checksum may differ.
    let (array, backup) = (811, 2859);
    let used = array + u32::from_le_bytes(bytes[160..164].try_into().unwrap()) as usize;
    assert!(again[32..used] == bytes[32..used], "up to the system chunks");
    assert!(again[backup..] == bytes[backup..], "from the backup roots on");
    assert!(again[used..backup].iter().all(|byte| *byte == 0));
    sb
}

/// What the block says of itself must be its address; everything else is known from the superblock.
fn expect(block: &[u8], owner: TreeId) -> BlockExpect {
    let bytenr = u64::from_le_bytes(block[48..56].try_into().unwrap());
    BlockExpect { bytenr, fsid: superblock().fsid, owner: Some(owner.0), ..Default::default() }
}

fn rewrite(key: &Key, data: &[u8]) -> Option<Vec<u8>> {
    Some(match key.kind {
        ItemKind::INODE_ITEM => InodeItem::parse(data).unwrap().to_bytes(),
        ItemKind::INODE_REF => InodeRef::all_to_bytes(&InodeRef::parse_all(data).unwrap()),
        ItemKind::DIR_ITEM | ItemKind::DIR_INDEX | ItemKind::XATTR_ITEM => {
            DirEntry::all_to_bytes(&DirEntry::parse_all(key, data).unwrap())
        }
        ItemKind::EXTENT_DATA => FileExtent::parse(key, data).unwrap().to_bytes(),
        ItemKind::ROOT_ITEM => RootItem::parse(data).unwrap().to_bytes(),
        ItemKind::EXTENT_ITEM | ItemKind::METADATA_ITEM => {
            let mut item = ExtentItem::parse(key, data).unwrap();
            item.sort_inline();
            item.to_bytes()
        }
        ItemKind::BLOCK_GROUP_ITEM => BlockGroupItem::parse(key.offset, data).unwrap().to_bytes(),
        ItemKind::FREE_SPACE_INFO => FreeSpaceInfo::parse(data).unwrap().to_bytes(),
        ItemKind::DEV_EXTENT => DevExtent::parse(data).unwrap().to_bytes(),
        ItemKind::DEV_ITEM => DevItem::parse(data).unwrap().to_bytes(),
        ItemKind::CHUNK_ITEM => ChunkItem::parse(key.offset, data).unwrap().to_bytes(),
        ItemKind::PERSISTENT_ITEM => DevStats::parse(data).unwrap().to_bytes(),
        ItemKind::UUID_KEY_SUBVOL => {
            let again = uuid_key::uuid_key(&uuid_key::uuid_of_key(key), key.kind);
            assert_eq!(again, *key);
            uuid_key::uuid_item(&uuid_key::parse_uuid_item(data).unwrap())
        }
        _ => return None,
    })
}

fn leaf_of<'a>(block: &'a [u8], owner: TreeId) -> ParsedLeaf<'a> {
    match parse_block(block, &expect(block, owner), CSUM).unwrap() {
        ParsedBlock::Leaf(leaf) => leaf,
        ParsedBlock::Node(_) => panic!("a leaf"),
    }
}

/// mkfs leaves old bytes in the unused middle, from `front` to `back`, so there, and in the checksum, blocks may differ.
fn assert_same(again: &[u8], block: &[u8], front: usize, back: usize) {
    assert!(again[32..front] == block[32..front], "the front");
    assert!(again[back..] == block[back..], "the back");
    assert!(again[front..back].iter().all(|byte| *byte == 0), "the middle is clean");
}

#[test]
fn leaves_and_their_items_come_back_bit_for_bit() {
    let mut seen = BTreeSet::new();
    let rules = LeafRules { nodesize: 4096, csum_size: 4, max_generation: superblock().generation };
    for (name, text, owner) in FIXTURES {
        println!("{name}");
        let block = unhex(text);
        let leaf = leaf_of(&block, owner);
        check_leaf(&leaf, &rules).unwrap();
        assert!(leaf.items().map(|(_, data)| data.len()).sum::<usize>() <= leaf_capacity(4096));
        for (key, data) in leaf.items() {
            if let Some(again) = rewrite(&key, data) {
                assert_eq!(again, data, "{key}");
                seen.insert(key.kind);
            }
        }
        let again = write_leaf(leaf.header(), 4096, CSUM, leaf.items()).unwrap();
        let front = HEADER_LEN + leaf.slots().len() * ITEM_LEN;
        let back = leaf.slots().iter().map(|slot| slot.range().start).min().unwrap_or(4096);
        assert_same(&again, &block, front, back);
    }
    assert!(seen.len() >= 15, "the fixtures hold most kinds of items: {seen:?}");
}

#[test]
fn an_interior_node_comes_back_bit_for_bit() {
    let block = unhex(include_str!("golden/fs-node.hex"));
    let ParsedBlock::Node(node) = parse_block(&block, &expect(&block, TreeId::FS), CSUM).unwrap()
    else {
        panic!("a node");
    };
    assert!(node.ptrs.len() > 10);
    let again = write_node(&node.header, 4096, CSUM, &node.ptrs).unwrap();
    assert_same(&again, &block, HEADER_LEN + node.ptrs.len() * PTR_LEN, 4096);
}

#[test]
fn the_superblock_says_what_mkfs_was_told() {
    let sb = superblock();
    assert_eq!((sb.nodesize, sb.csum, &sb.label[..]), (4096, CSUM, &b"golden"[..]));
    assert_eq!(sb.fsid.to_string(), "8d6a2f0e-53a7-4c0e-9d52-3f10c1a50001");
    assert_eq!((sb.num_devices, sb.total_bytes), (1, 128 << 20));
    sb.check_writable().unwrap();
}

#[test]
fn the_files_are_the_ones_that_were_put_in() {
    let block = unhex(include_str!("golden/fs-leaf.hex"));
    let leaf = leaf_of(&block, TreeId::FS);
    let inline: Vec<Vec<u8>> = leaf
        .items()
        .filter(|(key, _)| key.kind == ItemKind::EXTENT_DATA)
        .filter_map(|(key, data)| match FileExtent::parse(&key, data).unwrap().data {
            FileExtentData::Inline(data) => Some(data),
            _ => None,
        })
        .collect();
    assert!(inline.contains(&b"hello\n".to_vec()));
    // mkfs closes the target with a zero, the kernel does not.
    assert!(inline.contains(&b"../big\0".to_vec()));
    let names: BTreeSet<Vec<u8>> = leaf
        .items()
        .filter(|(key, _)| key.kind == ItemKind::INODE_REF)
        .flat_map(|(_, data)| InodeRef::parse_all(data).unwrap())
        .map(|one| one.name)
        .collect();
    for name in ["small", "hard", "hard2", "link", "pipe", "holes", "big", "sub"] {
        assert!(names.contains(name.as_bytes()), "{name}");
    }
}
