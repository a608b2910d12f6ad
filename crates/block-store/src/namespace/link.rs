//! One name of one inode: its directory item, its directory index and its inode reference, which come and go together.
//!
//! A directory item holds all names of one hash. An inode reference item holds all names of one inode in one directory
//! as long as they fit; those that do not are extended references, by hash of directory and name.

use cowback_base::Ino;
use cowback_btrfs_disk::hash::{extref_hash, name_hash};
use cowback_btrfs_disk::items::inode::NAME_MAX;
use cowback_btrfs_disk::items::{DirEntry, FileType, InodeExtref, InodeRef};
use cowback_btrfs_disk::{ItemKind, Key, TreeId};
use cowback_extent_io::store::StoreResult;

use super::Trees;
use super::error::{NamespaceError, NsResult, shown};
use crate::error::{corrupt, invalid};

/// First index of a directory's entries; 0 and 1 stand for `.` and `..`.
const FIRST_INDEX: u64 = 2;

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// File tree.
    pub(crate) tree: TreeId,
    /// Directory.
    pub(crate) dir: Ino,
    /// The name.
    pub(crate) name: &'a [u8],
}

impl<'a> Place<'a> {
    /// A place whose name an entry can have.
    pub(crate) fn new(tree: TreeId, dir: Ino, name: &'a [u8]) -> NsResult<Self> {
        let why = match name {
            b"" => Some("empty"),
            b"." | b".." => Some("reserved"),
            _ if name.contains(&b'/') => Some("it contains a slash"),
            _ if name.contains(&0) => Some("it contains a zero byte"),
            _ => None,
        };
        if let Some(why) = why {
            return Err(NamespaceError::InvalidName { name: shown(name), why });
        }
        if name.len() > NAME_MAX {
            let (len, max) = (name.len(), NAME_MAX);
            return Err(NamespaceError::NameTooLong { what: "a name", len, max });
        }
        Ok(Self { tree, dir, name })
    }

    fn item_key(&self) -> Key {
        Key::new(self.dir.0, ItemKind::DIR_ITEM, name_hash(self.name))
    }

    fn ref_key(&self, ino: Ino) -> Key {
        Key::new(ino.0, ItemKind::INODE_REF, self.dir.0)
    }

    fn extref_key(&self, ino: Ino) -> Key {
        Key::new(ino.0, ItemKind::INODE_EXTREF, extref_hash(self.dir.0, self.name))
    }

    /// That there is no such entry.
    pub(crate) fn not_found(&self) -> NamespaceError {
        NamespaceError::NotFound { dir: self.dir, name: shown(self.name) }
    }

    /// That there is such an entry.
    pub(crate) fn exists(&self) -> NamespaceError {
        NamespaceError::Exists { dir: self.dir, name: shown(self.name) }
    }

    /// The entry of this name.
    pub(crate) fn find(&self, trees: &dyn Trees) -> StoreResult<Option<DirEntry>> {
        let key = self.item_key();
        let entries = entries(trees, self.tree, &key)?;
        Ok(entries.into_iter().find(|entry| entry.name == self.name))
    }

    /// Fails if a further name of `ino` at this place would find no room. `replaced`: whether a name at this very place goes first.
    pub(crate) fn check_room(&self, trees: &dyn Trees, ino: Ino, replaced: bool) -> NsResult<()> {
        let max = trees.max_item();
        if !replaced {
            let used = trees.get(self.tree, &self.item_key())?.map_or(0, |data| data.len());
            if used + DirEntry::FIXED_LEN + self.name.len() > max {
                let (ino, name) = (self.dir, shown(self.name));
                return Err(NamespaceError::TooManyCollisions { ino, name });
            }
        }
        let used = trees.get(self.tree, &self.ref_key(ino))?.map_or(0, |data| data.len());
        if used + 10 + self.name.len() <= max {
            return Ok(());
        }
        let used = trees.get(self.tree, &self.extref_key(ino))?.map_or(0, |data| data.len());
        if used + 18 + self.name.len() <= max {
            return Ok(());
        }
        Err(NamespaceError::TooManyLinks { ino })
    }

    /// Puts the name in, leading to `ino`. That there is no such name yet, and room, was looked at before.
    pub(crate) fn add(&self, trees: &mut dyn Trees, ino: Ino, kind: FileType) -> StoreResult<()> {
        let index = next_index(trees, self.tree, self.dir)?;
        let entry = DirEntry {
            location: Key::new(ino.0, ItemKind::INODE_ITEM, 0),
            transid: trees.generation(),
            kind,
            name: self.name.to_vec(),
            data: Vec::new(),
        };
        let one = DirEntry::all_to_bytes(std::slice::from_ref(&entry));
        append(trees, self.tree, self.item_key(), &one)?;
        let index_key = Key::new(self.dir.0, ItemKind::DIR_INDEX, index);
        trees.insert(self.tree, index_key, &one)?;
        self.add_ref(trees, ino, index)
    }

    fn add_ref(&self, trees: &mut dyn Trees, ino: Ino, index: u64) -> StoreResult<()> {
        let one = InodeRef::all_to_bytes(&[InodeRef { index, name: self.name.to_vec() }]);
        let key = self.ref_key(ino);
        let used = trees.get(self.tree, &key)?.map_or(0, |data| data.len());
        if used + one.len() <= trees.max_item() {
            return append(trees, self.tree, key, &one);
        }
        let name = self.name.to_vec();
        let one = InodeExtref::all_to_bytes(&[InodeExtref { parent: self.dir.0, index, name }]);
        append(trees, self.tree, self.extref_key(ino), &one)
    }

    /// Takes the name of `ino` out again.
    pub(crate) fn remove(&self, trees: &mut dyn Trees, ino: Ino) -> StoreResult<()> {
        let key = self.item_key();
        let mut all = entries(trees, self.tree, &key)?;
        let before = all.len();
        all.retain(|entry| entry.name != self.name);
        if all.len() + 1 != before {
            return Err(corrupt("dir item", key, "the name is not in it exactly once"));
        }
        put_back(trees, self.tree, &key, all.is_empty(), &DirEntry::all_to_bytes(&all))?;
        let index = self.remove_ref(trees, ino)?;
        let index_key = Key::new(self.dir.0, ItemKind::DIR_INDEX, index);
        let entry = entries(trees, self.tree, &index_key)?;
        if entry.iter().all(|entry| entry.name != self.name) {
            return Err(corrupt("dir index", index_key, "it is not there, or has another name"));
        }
        trees.remove(self.tree, &index_key).map(drop)
    }

    /// Takes the reference out; gives its index.
    fn remove_ref(&self, trees: &mut dyn Trees, ino: Ino) -> StoreResult<u64> {
        let key = self.ref_key(ino);
        let mut refs = inode_refs(trees, self.tree, &key)?;
        if let Some(at) = refs.iter().position(|one| one.name == self.name) {
            let index = refs.remove(at).index;
            put_back(trees, self.tree, &key, refs.is_empty(), &InodeRef::all_to_bytes(&refs))?;
            return Ok(index);
        }
        let key = self.extref_key(ino);
        let mut refs = inode_extrefs(trees, self.tree, &key)?;
        let is_it = |one: &InodeExtref| one.parent == self.dir.0 && one.name == self.name;
        let Some(at) = refs.iter().position(is_it) else {
            return Err(corrupt("inode ref", key, "a name in a directory has no reference"));
        };
        let index = refs.remove(at).index;
        put_back(trees, self.tree, &key, refs.is_empty(), &InodeExtref::all_to_bytes(&refs))?;
        Ok(index)
    }
}

/// The entries of the item at `key`, or none.
pub(crate) fn entries(trees: &dyn Trees, tree: TreeId, key: &Key) -> StoreResult<Vec<DirEntry>> {
    let Some(data) = trees.get(tree, key)? else { return Ok(Vec::new()) };
    DirEntry::parse_all(key, &data).map_err(|error| invalid(key, &error))
}

/// The references of the item at `key`, or none.
pub(crate) fn inode_refs(trees: &dyn Trees, tree: TreeId, key: &Key) -> StoreResult<Vec<InodeRef>> {
    let Some(data) = trees.get(tree, key)? else { return Ok(Vec::new()) };
    InodeRef::parse_all(&data).map_err(|error| invalid(key, &error))
}

/// The extended references of the item at `key`, or none.
pub(crate) fn inode_extrefs(
    trees: &dyn Trees,
    tree: TreeId,
    key: &Key,
) -> StoreResult<Vec<InodeExtref>> {
    let Some(data) = trees.get(tree, key)? else { return Ok(Vec::new()) };
    InodeExtref::parse_all(&data).map_err(|error| invalid(key, &error))
}

/// The index that a new entry of `dir` gets.
fn next_index(trees: &dyn Trees, tree: TreeId, dir: Ino) -> StoreResult<u64> {
    let last = Key::new(dir.0, ItemKind::DIR_INDEX, u64::MAX);
    match trees.at_or_before(tree, &last)? {
        Some((key, _)) if key.objectid == dir.0 && key.kind == ItemKind::DIR_INDEX => key
            .offset
            .checked_add(1)
            .ok_or_else(|| corrupt("dir index", key, "it leaves no index above")),
        _ => Ok(FIRST_INDEX),
    }
}

/// Appends `one` to the item at `key`, or makes the item.
pub(crate) fn append(trees: &mut dyn Trees, tree: TreeId, key: Key, one: &[u8]) -> StoreResult<()> {
    match trees.get(tree, &key)? {
        None => trees.insert(tree, key, one),
        Some(mut data) => {
            data.extend_from_slice(one);
            trees.update(tree, &key, &data)
        }
    }
}

/// Writes the item at `key` back, or takes it out if nothing is left.
pub(crate) fn put_back(
    trees: &mut dyn Trees,
    tree: TreeId,
    key: &Key,
    empty: bool,
    data: &[u8],
) -> StoreResult<()> {
    if empty { trees.remove(tree, key).map(drop) } else { trees.update(tree, key, data) }
}
