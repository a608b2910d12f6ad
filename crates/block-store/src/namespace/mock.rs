//! Trees in a map, and a check of everything that one item says about another (the rules that `btrfs check` knows).

use std::collections::{BTreeMap, BTreeSet};

use cowback_base::{ByteRange, Ino};
use cowback_btrfs_disk::hash::extref_hash;
use cowback_btrfs_disk::items::{
    DirEntry, FileExtent, FileExtentData, FileType, InodeExtref, InodeItem, InodeRef,
};
use cowback_btrfs_disk::{ChecksumKind, ItemKind, Key, TreeId, objectid};
use cowback_extent_io::store::StoreResult;

use super::inode::NewInode;
use super::{Trees, csums, dir};
use crate::error::corrupt;

/// The file tree of all tests.
pub(crate) const FS: TreeId = TreeId::FS;

/// A reference, as the extent tree would record it.
type DataRefKey = (u64, u64, TreeId, u64, u64);

/// Trees in a map.
#[derive(Debug, Clone)]
pub(crate) struct Mock {
    pub(crate) items: BTreeMap<(TreeId, Key), Vec<u8>>,
    pub(crate) refs: BTreeMap<DataRefKey, i64>,
    /// Extents given back without ever having been referred to.
    pub(crate) freed: Vec<(u64, u64)>,
    pub(crate) generation: u64,
    pub(crate) max_item: usize,
    pub(crate) checksum: ChecksumKind,
    pub(crate) clock: i64,
}

impl Mock {
    /// A tree with a top directory.
    pub(crate) fn new() -> Self {
        let mut mock = Self {
            items: BTreeMap::new(),
            refs: BTreeMap::new(),
            freed: Vec::new(),
            generation: 7,
            max_item: 4096 - 101 - 25,
            checksum: ChecksumKind::Crc32c,
            clock: 1000,
        };
        dir::create_root(&mut mock, FS, &DIR).unwrap();
        mock
    }

    /// What a commit does with references: extents without any lose their checksums. Gives those extents.
    pub(crate) fn commit(&mut self) -> Vec<(u64, u64)> {
        let mut totals: BTreeMap<(u64, u64), i64> = BTreeMap::new();
        for ((bytenr, len, ..), count) in &self.refs {
            assert!(*count >= 0, "a reference below zero at {bytenr}");
            *totals.entry((*bytenr, *len)).or_default() += count;
        }
        let gone: Vec<_> =
            totals.into_iter().filter(|(_, count)| *count == 0).map(|(at, _)| at).collect();
        for (bytenr, len) in &gone {
            csums::delete(self, ByteRange::at(*bytenr, *len)).unwrap();
        }
        self.refs.retain(|_, count| *count > 0);
        self.generation += 1;
        gone
    }

    fn items_of(&self, kind: ItemKind) -> impl Iterator<Item = (Key, &Vec<u8>)> {
        let all = self.items.iter().filter(|((tree, _), _)| *tree == FS);
        all.map(|((_, key), data)| (*key, data)).filter(move |(key, _)| key.kind == kind)
    }

    /// Checks the tree of files.
    pub(crate) fn check(&self) {
        let inodes: BTreeMap<u64, InodeItem> = self
            .items_of(ItemKind::INODE_ITEM)
            .map(|(key, data)| (key.objectid, InodeItem::parse(data).unwrap()))
            .collect();
        for ((tree, key), data) in &self.items {
            assert!(data.len() <= self.max_item, "{key} fits");
            if *tree == FS && key.objectid != objectid::ORPHAN {
                assert!(inodes.contains_key(&key.objectid), "{key} belongs to an inode");
            }
        }
        self.check_names(&inodes);
        self.check_extents(&inodes);
    }

    fn check_names(&self, inodes: &BTreeMap<u64, InodeItem>) {
        let mut by_index = BTreeMap::new();
        let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
        for (key, data) in self.items_of(ItemKind::DIR_INDEX) {
            let entry = DirEntry::parse_all(&key, data).unwrap().remove(0);
            assert!(key.offset >= 2);
            let item = &inodes[&entry.location.objectid];
            assert_eq!(entry.kind, FileType::of_mode(item.mode));
            *sizes.entry(key.objectid).or_default() += 2 * entry.name.len() as u64;
            let ino = entry.location.objectid;
            assert_eq!(by_index.insert((key.objectid, entry.name), (ino, key.offset)), None);
        }
        let mut by_hash = BTreeMap::new();
        for (key, data) in self.items_of(ItemKind::DIR_ITEM) {
            for entry in DirEntry::parse_all(&key, data).unwrap() {
                let old = by_hash.insert((key.objectid, entry.name), entry.location.objectid);
                assert_eq!(old, None, "a name is there twice");
            }
        }
        let mut by_ref = BTreeMap::new();
        for (key, data) in self.items_of(ItemKind::INODE_REF) {
            for one in InodeRef::parse_all(data).unwrap() {
                by_ref.insert((key.offset, one.name), (key.objectid, one.index));
            }
        }
        for (key, data) in self.items_of(ItemKind::INODE_EXTREF) {
            for one in InodeExtref::parse_all(data).unwrap() {
                assert_eq!(key.offset, extref_hash(one.parent, &one.name));
                let old = by_ref.insert((one.parent, one.name), (key.objectid, one.index));
                assert_eq!(old, None, "a name has two references");
            }
        }
        assert_eq!(by_ref.remove(&(256, b"..".to_vec())), Some((256, 0)));
        assert_eq!(by_ref, by_index);
        let plain: BTreeMap<_, _> = by_index.iter().map(|(at, to)| (at.clone(), to.0)).collect();
        assert_eq!(by_hash, plain);

        let orphans: BTreeSet<u64> =
            self.items_of(ItemKind::ORPHAN_ITEM).map(|(key, _)| key.offset).collect();
        for (ino, item) in inodes {
            let names = by_index.values().filter(|(to, _)| to == ino).count();
            let expected = if *ino == 256 { 1 } else { names };
            assert_eq!(item.nlink as usize, expected, "links of {ino}");
            assert_eq!(orphans.contains(ino), item.nlink == 0, "whether {ino} is an orphan");
            if FileType::of_mode(item.mode) == FileType::Dir {
                assert_eq!(item.size, sizes.get(ino).copied().unwrap_or(0), "size of {ino}");
                assert!(names <= 1);
            }
        }
    }

    fn check_extents(&self, inodes: &BTreeMap<u64, InodeItem>) {
        let mut refs: BTreeMap<DataRefKey, i64> = BTreeMap::new();
        let mut held: BTreeMap<u64, u64> = BTreeMap::new();
        let mut last: Option<(u64, u64)> = None;
        for (key, data) in self.items_of(ItemKind::EXTENT_DATA) {
            let extent = FileExtent::parse(&key, data).unwrap();
            if let Some((ino, end)) = last {
                assert!(ino != key.objectid || end <= key.offset, "{key} overlaps");
            }
            last = Some((key.objectid, extent.end(key.offset)));
            let bytes = match &extent.data {
                FileExtentData::Inline(_) => extent.ram_bytes,
                FileExtentData::Regular(shown) | FileExtentData::Prealloc(shown) => {
                    let offset = key.offset.wrapping_sub(shown.offset);
                    let at = (shown.bytenr, shown.disk_len, FS, key.objectid, offset);
                    *refs.entry(at).or_default() += 1;
                    shown.num_bytes
                }
            };
            *held.entry(key.objectid).or_default() += bytes;
        }
        let counted: BTreeMap<_, _> =
            self.refs.iter().filter(|(_, n)| **n != 0).map(|(at, n)| (*at, *n)).collect();
        assert_eq!(counted, refs);
        for (ino, item) in inodes {
            assert_eq!(item.nbytes, held.get(ino).copied().unwrap_or(0), "bytes of {ino}");
        }
    }
}

impl Trees for Mock {
    fn get(&self, tree: TreeId, key: &Key) -> StoreResult<Option<Vec<u8>>> {
        Ok(self.items.get(&(tree, *key)).cloned())
    }

    fn at_or_after(&self, tree: TreeId, key: &Key) -> StoreResult<Option<(Key, Vec<u8>)>> {
        let mut range = self.items.range((tree, *key)..=(tree, Key::MAX));
        Ok(range.next().map(|((_, key), data)| (*key, data.clone())))
    }

    fn at_or_before(&self, tree: TreeId, key: &Key) -> StoreResult<Option<(Key, Vec<u8>)>> {
        let mut range = self.items.range((tree, Key::MIN)..=(tree, *key));
        Ok(range.next_back().map(|((_, key), data)| (*key, data.clone())))
    }

    fn insert(&mut self, tree: TreeId, key: Key, data: &[u8]) -> StoreResult<()> {
        if data.len() > self.max_item {
            return Err(corrupt("item", key, "too long"));
        }
        match self.items.insert((tree, key), data.to_vec()) {
            None => Ok(()),
            Some(_) => Err(corrupt("item", key, "there already")),
        }
    }

    fn update(&mut self, tree: TreeId, key: &Key, data: &[u8]) -> StoreResult<()> {
        if data.len() > self.max_item {
            return Err(corrupt("item", key, "too long"));
        }
        let old = self.items.insert((tree, *key), data.to_vec());
        old.map(drop).ok_or_else(|| corrupt("item", key, "not there"))
    }

    fn remove(&mut self, tree: TreeId, key: &Key) -> StoreResult<Vec<u8>> {
        self.items.remove(&(tree, *key)).ok_or_else(|| corrupt("item", key, "not there"))
    }

    fn add_data_ref(&mut self, bytenr: u64, len: u64, root: TreeId, ino: u64, offset: u64) {
        *self.refs.entry((bytenr, len, root, ino, offset)).or_default() += 1;
    }

    fn drop_data_ref(&mut self, bytenr: u64, len: u64, root: TreeId, ino: u64, offset: u64) {
        *self.refs.entry((bytenr, len, root, ino, offset)).or_default() -= 1;
    }

    fn forget_data(&mut self, _: ByteRange) {}

    fn free_data_extent(&mut self, bytenr: u64, len: u64) {
        self.freed.push((bytenr, len));
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn max_item(&self) -> usize {
        self.max_item
    }

    fn checksum(&self) -> ChecksumKind {
        self.checksum
    }

    fn now(&self) -> (i64, u32) {
        (self.clock, 5)
    }
}

/// A directory of user 1.
pub(crate) const DIR: NewInode = NewInode { mode: 0o040_755, uid: 1, gid: 2, rdev: 0, flags: 0 };
/// A regular file of user 1.
pub(crate) const FILE: NewInode = NewInode { mode: 0o100_644, ..DIR };

/// Makes an inode in `dir`.
pub(crate) fn make(mock: &mut Mock, parent: Ino, name: &[u8], new: &NewInode) -> Ino {
    let ino = super::inode::next_ino(mock, FS, 0).unwrap();
    dir::create(mock, FS, parent, name, ino, new).unwrap();
    ino
}
