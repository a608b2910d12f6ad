//! Files and their names.

use super::*;

const FILES_AND_NAMES: &[Case] = &[
    ("nlink", |s| edit_inode(s, file(s, "file1"), |i| i.nlink = 2), "nlink: found 2, expected 1"),
    ("directory size", |s| edit_inode(s, dir(s), |i| i.size += 2), "twice the bytes of its names"),
    ("nbytes", |s| edit_inode(s, file(s, "file40"), |i| i.nbytes += 4096), "nbytes: found"),
    (
        "no DIR_INDEX",
        |s| drop(s.remove(FS, &index_of(s, dir(s), "file1"))),
        "name \"file1\": it has no DIR_INDEX",
    ),
    (
        "no DIR_ITEM",
        |s| drop(s.remove(FS, &Key::new(dir(s), ItemKind::DIR_ITEM, name_hash(b"file1")))),
        "name \"file1\": it has no DIR_ITEM",
    ),
    (
        "no INODE_REF",
        |s| drop(s.remove(FS, &Key::new(file(s, "file1"), ItemKind::INODE_REF, dir(s)))),
        "name \"file1\": it has no INODE_REF",
    ),
    (
        "no inode",
        |s| drop(s.remove(FS, &inode_key(file(s, "fifo")))),
        "INODE_ITEM 0): it is missing",
    ),
    (
        "another index",
        |s| {
            let key = Key::new(file(s, "file1"), ItemKind::INODE_REF, dir(s));
            let mut names = InodeRef::parse_all(&s.get(FS, &key)).unwrap();
            names[0].index += 1000;
            s.set(FS, &key, InodeRef::all_to_bytes(&names));
        },
        "name \"file1\": its INODE_REF has index",
    ),
    (
        "another inode",
        |s| {
            let key = index_of(s, dir(s), "file1");
            let mut entry = DirEntry::parse_all(&key, &s.get(FS, &key)).unwrap();
            entry[0].location.objectid = file(s, "file2");
            s.set(FS, &key, DirEntry::all_to_bytes(&entry));
        },
        "name \"file1\": a DIR_ITEM to inode",
    ),
    (
        "another type",
        |s| {
            let key = index_of(s, dir(s), "file1");
            let mut entry = DirEntry::parse_all(&key, &s.get(FS, &key)).unwrap();
            entry[0].kind = FileType::Symlink;
            s.set(FS, &key, DirEntry::all_to_bytes(&entry));
        },
        "name \"file1\": type: found Symlink, expected Regular",
    ),
    (
        "no orphan item",
        |s| {
            let is_it = |key: &Key, _: &[u8]| key.kind == ItemKind::ORPHAN_ITEM;
            s.remove(FS, &s.find(FS, is_it).0);
        },
        "it has no name, and no ORPHAN_ITEM",
    ),
    (
        "a circle of directories",
        |s| {
            // "outer" moves into "inner", which is in it, with all that belongs to that.
            let (parent, outer) = (dir(s), file(s, "outer"));
            let inner = lookup(s, outer, "inner");
            let item = Key::new(parent, ItemKind::DIR_ITEM, name_hash(b"outer"));
            let to = Key::new(inner, ItemKind::DIR_ITEM, name_hash(b"outer"));
            s.rename(FS, &item, to);
            let index = index_of(s, parent, "outer");
            s.rename(FS, &index, Key::new(inner, ItemKind::DIR_INDEX, index.offset + 1000));
            let own = InodeRef { index: index.offset + 1000, name: b"outer".to_vec() };
            s.remove(FS, &Key::new(outer, ItemKind::INODE_REF, parent));
            let key = Key::new(outer, ItemKind::INODE_REF, inner);
            s.insert(FS, key, InodeRef::all_to_bytes(&[own]));
            edit_inode(s, parent, |i| i.size -= 10);
            edit_inode(s, inner, |i| i.size += 10);
        },
        "its parents form a circle",
    ),
    (
        "the root's own name",
        |s| {
            let own = InodeRef { index: 0, name: b".".to_vec() };
            let key = Key::new(256, ItemKind::INODE_REF, 256);
            s.set(FS, &key, InodeRef::all_to_bytes(&[own]));
        },
        "expected \"..\" with 0",
    ),
    (
        "an attribute's hash",
        |s| {
            let is_it = |key: &Key, _: &[u8]| key.kind == ItemKind::XATTR_ITEM;
            let key = s.find(FS, is_it).0;
            s.rename(FS, &key, Key { offset: key.offset + 1, ..key });
        },
        "dir item: key offset",
    ),
    (
        "a generation to come",
        |s| edit_inode(s, file(s, "file1"), |i| i.transid = s.sb.generation + 1),
        "inode item: generation at byte 0",
    ),
    (
        "an extended name's hash",
        |s| {
            let is_it = |key: &Key, _: &[u8]| key.kind == ItemKind::INODE_EXTREF;
            let key = s.find(FS, is_it).0;
            s.rename(FS, &key, Key { offset: key.offset + 1, ..key });
        },
        "key offset: expected",
    ),
    (
        "an item of another tree",
        |s| s.insert(FS, Key::new(256, ItemKind::DEV_EXTENT, 1), vec![0; 48]),
        "(256 DEV_EXTENT 1): ",
    ),
];

#[test]
fn files_and_names() {
    all_are_found(FILES_AND_NAMES);
}
