//! Root items and tree blocks.

use super::*;

fn edit_root(s: &Surgeon, tree: TreeId, edit: impl FnOnce(&mut RootItem)) {
    let key = Key::new(tree.0, ItemKind::ROOT_ITEM, 0);
    change!(s, TreeId::ROOT, key, |item: RootItem| edit(&mut item));
}

fn remove_root(s: &Surgeon, tree: TreeId) {
    s.remove(TreeId::ROOT, &Key::new(tree.0, ItemKind::ROOT_ITEM, 0));
}

/// Changes the first child's pointer in the fs tree's root.
fn edit_pointer(s: &Surgeon, edit: impl FnOnce(&mut cowback_btrfs_disk::node::NodePtr)) {
    s.edit_block(s.root(FS), |_, body| {
        let Body::Node(ptrs) = body else { panic!("the fs tree has one level only") };
        edit(&mut ptrs[1]);
    });
}

const ROOTS_AND_BLOCKS: &[Case] = &[
    ("no csum tree", |s| remove_root(s, TreeId::CSUM), "the volume has no csum tree"),
    ("no data relocation tree", |s| remove_root(s, TreeId::DATA_RELOC), "no data relocation tree"),
    ("no fs tree", |s| remove_root(s, FS), "the volume has no fs tree"),
    ("no extent tree", |s| remove_root(s, TreeId::EXTENT), "the volume has no extent tree"),
    ("no free space tree", |s| remove_root(s, TreeId::FREE_SPACE), "no free space tree"),
    ("no device tree", |s| remove_root(s, TreeId::DEV), "the volume has no device tree"),
    ("no block group tree", |s| remove_root(s, TreeId::BLOCK_GROUP), "no block group tree"),
    (
        "a tree without its feature",
        |s| s.edit_super(|sb| sb.compat_ro.remove(CompatRo::BLOCK_GROUP_TREE)),
        "it is missing, and there is such a chunk",
    ),
    ("level of a root", |s| edit_root(s, FS, |item| item.level += 1), "level at byte 100"),
    (
        "generation of a root",
        |s| edit_root(s, FS, |item| item.generation -= 1),
        "header: generation",
    ),
    ("a root elsewhere", |s| edit_root(s, FS, |item| item.bytenr += 1 << 40), "no chunk"),
    (
        "the root of another tree",
        |s| {
            let other = s.root(TreeId::UUID);
            edit_root(s, TreeId::CSUM, |item| item.bytenr = other);
        },
        "block of another tree",
    ),
    (
        "the first inode",
        |s| edit_root(s, FS, |item| item.root_dirid = 257),
        "root_dirid: found 257",
    ),
    (
        "the UUID tree",
        |s| {
            let key = first(s, TreeId::UUID, ItemKind::UUID_KEY_SUBVOL);
            s.set(TreeId::UUID, &key, 77u64.to_le_bytes().to_vec());
        },
        "there is no subvolume 77",
    ),
    (
        "a UUID",
        |s| edit_root(s, FS, |item| item.v2.uuid = uuid::Uuid::from_u128(3)),
        "it does not name the fs tree",
    ),
    ("a first key", |s| edit_pointer(s, |ptr| ptr.key.offset += 1), "tree block: first key"),
    ("a generation", |s| edit_pointer(s, |ptr| ptr.generation -= 1), "header: generation"),
    (
        "a block twice",
        |s| {
            s.edit_block(s.root(FS), |_, body| {
                let Body::Node(ptrs) = body else { unreachable!() };
                ptrs[1].bytenr = ptrs[0].bytenr;
            });
        },
        "it is in the tree twice",
    ),
    (
        "an owner",
        |s| s.edit_block(s.root(TreeId::CSUM), |header, _| header.owner = TreeId::UUID),
        "header: owner",
    ),
    (
        "an owner among file trees",
        |s| s.edit_block(s.root(FS), |header, _| header.owner = TreeId(300)),
        "it was made for the subvolume 300",
    ),
    (
        "the chunk tree's UUID",
        |s| {
            s.edit_block(s.root(FS), |header, _| {
                header.chunk_tree_uuid = uuid::Uuid::from_u128(3);
            });
        },
        "chunk tree uuid: found",
    ),
    (
        "keys across blocks",
        |s| {
            let (_, Body::Node(ptrs)) = s.block(s.root(FS)) else { unreachable!() };
            s.edit_block(ptrs[0].bytenr, |_, body| {
                let Body::Leaf(items) = body else { unreachable!() };
                items.last_mut().unwrap().0 = Key::new(u64::MAX - 300, ItemKind(1), 0);
            });
        },
        "and the next block's first is",
    ),
    (
        "the default subvolume",
        |s| {
            let key = Key::new(6, ItemKind::DIR_ITEM, name_hash(b"default"));
            let mut entry = DirEntry::parse_all(&key, &s.get(TreeId::ROOT, &key)).unwrap();
            entry[0].location.objectid = 300;
            s.set(TreeId::ROOT, &key, DirEntry::all_to_bytes(&entry));
        },
        "it leads to the subvolume 300, which does not exist",
    ),
];

#[test]
fn roots_and_blocks() {
    all_are_found(ROOTS_AND_BLOCKS);
}
