//! Directories: lookup, reading, making and removing entries.
//!
//! A directory's size is twice the bytes of its names; its link count stays 1 until it is removed.

use cowback_base::Ino;
use cowback_btrfs_disk::items::{DirEntry, FileType, InodeItem};
use cowback_btrfs_disk::{ItemKind, Key, TreeId};
use cowback_extent_io::store::StoreResult;

use super::error::{NamespaceError, NsResult};
use super::inode::{InodeAttr, NewInode};
use super::link::{Place, inode_extrefs, inode_refs};
use super::{Trees, inode, orphan};
use crate::error::{corrupt, invalid};

/// Most names of one file.
pub const LINK_MAX: u32 = 65535;

/// What an entry leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// An inode of the same tree.
    Inode(Ino),
    /// The top directory of a subvolume.
    Subvolume(TreeId),
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntryInfo {
    /// Its position: reading goes on after it with `index + 1`.
    pub index: u64,
    /// The name.
    pub name: Vec<u8>,
    /// What it leads to.
    pub target: Target,
    /// What that is.
    pub kind: FileType,
}

/// A name that was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// The inode that it led to.
    pub ino: Ino,
    /// Names that are left. With none, the inode is an orphan, to be evicted when nobody holds it open.
    pub nlink: u32,
}

/// What `entry` leads to.
pub(crate) fn target_of(entry: &DirEntry) -> Target {
    match entry.location.kind {
        ItemKind::ROOT_ITEM => Target::Subvolume(TreeId(entry.location.objectid)),
        _ => Target::Inode(Ino(entry.location.objectid)),
    }
}

/// The inode that `entry` leads to; subvolumes are no business of this tree.
pub(crate) fn inode_of(entry: &DirEntry) -> NsResult<Ino> {
    match target_of(entry) {
        Target::Inode(ino) => Ok(ino),
        Target::Subvolume(tree) => {
            let what = "a subvolume cannot be linked, moved or removed as an entry";
            Err(NamespaceError::NotSupported { ino: Ino(tree.0), what })
        }
    }
}

/// What `name` in `dir` leads to, and what that is. `.` and `..` lead where one expects.
///
/// # Errors
/// [`NamespaceError::NotFound`], [`NamespaceError::NotDir`], an invalid name, or the store's.
pub fn lookup(
    trees: &dyn Trees,
    tree: TreeId,
    dir: Ino,
    name: &[u8],
) -> NsResult<(Target, FileType)> {
    match name {
        b"." => {
            inode::load_dir(trees, tree, dir)?;
            Ok((Target::Inode(dir), FileType::Dir))
        }
        b".." => Ok((Target::Inode(parent(trees, tree, dir)?), FileType::Dir)),
        _ => {
            let place = Place::new(tree, dir, name)?;
            inode::load_dir(trees, tree, dir)?;
            let entry = place.find(trees)?.ok_or_else(|| place.not_found())?;
            Ok((target_of(&entry), entry.kind))
        }
    }
}

/// The directory that `dir` is in; the top directory is in itself.
///
/// # Errors
/// [`NamespaceError::NotDir`], [`NamespaceError::NoInode`], or the store's.
pub fn parent(trees: &dyn Trees, tree: TreeId, dir: Ino) -> NsResult<Ino> {
    inode::load_dir(trees, tree, dir)?;
    if dir == Ino::ROOT {
        return Ok(dir);
    }
    let first = Key::new(dir.0, ItemKind::INODE_REF, 0);
    match trees.at_or_after(tree, &first)? {
        Some((key, _)) if key.objectid == dir.0 && key.kind == ItemKind::INODE_REF => {
            Ok(Ino(key.offset))
        }
        _ => Err(corrupt("inode ref", first, "a directory has no parent").into()),
    }
}

/// Up to `max` entries of `dir` from position `from` on, in order of creation.
///
/// # Errors
/// [`NamespaceError::NotDir`], [`NamespaceError::NoInode`], or the store's.
pub fn read_dir(
    trees: &dyn Trees,
    tree: TreeId,
    dir: Ino,
    from: u64,
    max: usize,
) -> NsResult<Vec<DirEntryInfo>> {
    inode::load_dir(trees, tree, dir)?;
    let mut out = Vec::new();
    let mut at = Some(Key::new(dir.0, ItemKind::DIR_INDEX, from));
    while let Some(key) = at.filter(|_| out.len() < max) {
        let Some((key, data)) = trees.at_or_after(tree, &key)? else { break };
        if key.objectid != dir.0 || key.kind != ItemKind::DIR_INDEX {
            break;
        }
        let parsed = DirEntry::parse_all(&key, &data).map_err(|error| invalid(key, &error))?;
        for entry in parsed {
            let target = target_of(&entry);
            let (index, kind) = (key.offset, entry.kind);
            out.push(DirEntryInfo { index, name: entry.name, target, kind });
        }
        at = key.next();
    }
    Ok(out)
}

/// Makes inode `ino` (from [`inode::next_ino`]) and its first name.
///
/// # Errors
/// [`NamespaceError::Exists`], [`NamespaceError::NotDir`], an invalid name, or the store's.
pub fn create(
    trees: &mut dyn Trees,
    tree: TreeId,
    dir: Ino,
    name: &[u8],
    ino: Ino,
    new: &NewInode,
) -> NsResult<InodeAttr> {
    let place = Place::new(tree, dir, name)?;
    let mut dir_item = check_free(trees, &place, ino)?;
    let kind = FileType::of_mode(new.mode);
    if kind == FileType::Unknown {
        let what = "the mode of a new inode names no type";
        return Err(NamespaceError::NotSupported { ino, what });
    }
    let mut item = inode::item_of(trees, new);
    item.flags |= inherited(dir_item.flags, kind);
    trees.insert(tree, inode::key(ino), &item.to_bytes())?;
    place.add(trees, ino, kind)?;
    grew(trees, &place, &mut dir_item)?;
    Ok(InodeAttr::from(&item))
}

/// What a new inode has from the `flags` of its directory: how its data is stored.
fn inherited(flags: u64, kind: FileType) -> u64 {
    use inode::inode_flags::{COMPRESS, NOCOMPRESS, NODATACOW, NODATASUM};
    let compression = if flags & NOCOMPRESS != 0 { NOCOMPRESS } else { flags & COMPRESS };
    let nocow = flags & NODATACOW;
    let nosum = if nocow != 0 && kind == FileType::Regular { NODATASUM } else { 0 };
    compression | nocow | nosum
}

/// Makes inode `ino` (from [`inode::next_ino`]) without a name: an orphan, until [`link_as`] gives it its first one. It has from `dir` what a
/// file of that directory has.
///
/// # Errors
/// [`NamespaceError::NotDir`], [`NamespaceError::NoInode`], [`NamespaceError::NotSupported`] for anything but a regular file, or the store's.
pub fn create_unnamed(
    trees: &mut dyn Trees,
    tree: TreeId,
    dir: Ino,
    ino: Ino,
    new: &NewInode,
) -> NsResult<InodeAttr> {
    let dir_item = inode::load_dir(trees, tree, dir)?;
    let kind = FileType::of_mode(new.mode);
    if kind != FileType::Regular {
        let what = "only a regular file can be made without a name";
        return Err(NamespaceError::NotSupported { ino, what });
    }
    let mut item = inode::item_of(trees, new);
    item.nlink = 0;
    item.flags |= inherited(dir_item.flags, kind);
    trees.insert(tree, inode::key(ino), &item.to_bytes())?;
    orphan::add(trees, tree, ino)?;
    Ok(InodeAttr::from(&item))
}

/// How a file gets a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkMode {
    /// It may be one that has none: the caller knows that its last name was not removed, and that it is no orphan that is being evicted.
    pub first: bool,
    /// What has that name loses it. Else it is refused.
    pub replace: bool,
}

/// Gives inode `ino` a further name.
///
/// # Errors
/// As [`link_as`].
pub fn link(
    trees: &mut dyn Trees,
    tree: TreeId,
    ino: Ino,
    dir: Ino,
    name: &[u8],
) -> NsResult<InodeAttr> {
    link_as(trees, tree, ino, (dir, name), LinkMode::default())?;
    inode::read(trees, tree, ino)
}

/// Gives inode `ino` a name; with its first one it is no orphan any more. Gives the inode that lost the name to it, if one did. If the name
/// leads to `ino` already, and may be replaced, all stays as it is.
///
/// # Errors
/// [`NamespaceError::Exists`], [`NamespaceError::IsDir`] for `ino` and for what would be replaced, [`NamespaceError::TooManyLinks`],
/// [`NamespaceError::NoInode`] also for an inode without names unless [`LinkMode::first`] is set, an invalid name, or the store's.
pub fn link_as(
    trees: &mut dyn Trees,
    tree: TreeId,
    ino: Ino,
    (dir, name): (Ino, &[u8]),
    mode: LinkMode,
) -> NsResult<Option<Removed>> {
    let place = Place::new(tree, dir, name)?;
    let mut item = inode::load(trees, tree, ino)?;
    let kind = FileType::of_mode(item.mode);
    if kind == FileType::Dir {
        return Err(NamespaceError::IsDir { ino });
    }
    let is_first = item.nlink == 0;
    if is_first && !(mode.first && orphan::is_marked(trees, tree, ino)?) {
        return Err(NamespaceError::NoInode { ino });
    }
    if item.nlink >= LINK_MAX {
        return Err(NamespaceError::TooManyLinks { ino });
    }
    let mut dir_item = inode::load_dir(trees, tree, dir)?;
    let replaced = match place.find(trees)? {
        None => None,
        Some(_) if !mode.replace => return Err(place.exists()),
        Some(there) if there.kind == FileType::Dir => {
            return Err(NamespaceError::IsDir { ino: inode_of(&there)? });
        }
        Some(there) => Some(inode_of(&there)?),
    };
    if replaced == Some(ino) {
        return Ok(None);
    }
    place.check_room(trees, ino, replaced.is_some())?;

    let removed = replaced.map(|lost| drop_name(trees, &place, lost)).transpose()?;
    place.add(trees, ino, kind)?;
    if is_first {
        orphan::remove(trees, tree, ino)?;
    }
    item.nlink += 1;
    item.ctime = inode::now(trees);
    inode::save(trees, tree, ino, &mut item)?;
    match removed {
        None => grew(trees, &place, &mut dir_item)?,
        Some(_) => touched(trees, &place, &mut dir_item)?,
    }
    Ok(removed)
}

/// Removes a name that leads to anything but a directory.
///
/// # Errors
/// [`NamespaceError::NotFound`], [`NamespaceError::IsDir`], [`NamespaceError::NotDir`], an invalid name, or the store's.
pub fn unlink(trees: &mut dyn Trees, tree: TreeId, dir: Ino, name: &[u8]) -> NsResult<Removed> {
    let place = Place::new(tree, dir, name)?;
    let mut dir_item = inode::load_dir(trees, tree, dir)?;
    let entry = place.find(trees)?.ok_or_else(|| place.not_found())?;
    let ino = inode_of(&entry)?;
    if entry.kind == FileType::Dir {
        return Err(NamespaceError::IsDir { ino });
    }
    let removed = drop_name(trees, &place, ino)?;
    shrank(trees, &place, &mut dir_item)?;
    Ok(removed)
}

/// Removes the name of an empty directory.
///
/// # Errors
/// [`NamespaceError::NotFound`], [`NamespaceError::NotDir`], [`NamespaceError::NotEmpty`], an invalid name, or the store's.
pub fn rmdir(trees: &mut dyn Trees, tree: TreeId, dir: Ino, name: &[u8]) -> NsResult<Removed> {
    let place = Place::new(tree, dir, name)?;
    let mut dir_item = inode::load_dir(trees, tree, dir)?;
    let entry = place.find(trees)?.ok_or_else(|| place.not_found())?;
    let ino = inode_of(&entry)?;
    if entry.kind != FileType::Dir {
        return Err(NamespaceError::NotDir { ino });
    }
    check_empty(trees, tree, ino)?;
    let removed = drop_name(trees, &place, ino)?;
    shrank(trees, &place, &mut dir_item)?;
    Ok(removed)
}

/// Fails unless directory `ino` has no entries.
pub(crate) fn check_empty(trees: &dyn Trees, tree: TreeId, ino: Ino) -> NsResult<()> {
    for kind in [ItemKind::DIR_ITEM, ItemKind::DIR_INDEX] {
        let first = trees.at_or_after(tree, &Key::new(ino.0, kind, 0))?;
        if first.is_some_and(|(key, _)| key.objectid == ino.0 && key.kind == kind) {
            return Err(NamespaceError::NotEmpty { ino });
        }
    }
    Ok(())
}

/// The directory's item, if it can take the name at `place` for `ino`.
pub(crate) fn check_free(trees: &dyn Trees, place: &Place<'_>, ino: Ino) -> NsResult<InodeItem> {
    let dir_item = inode::load_dir(trees, place.tree, place.dir)?;
    if place.find(trees)?.is_some() {
        return Err(place.exists());
    }
    place.check_room(trees, ino, false)?;
    Ok(dir_item)
}

/// Takes one name from `ino`; with the last, makes it an orphan. The directory's size is the caller's business.
pub(crate) fn drop_name(
    trees: &mut dyn Trees,
    place: &Place<'_>,
    ino: Ino,
) -> StoreResult<Removed> {
    let mut item = inode::load_linked(trees, place.tree, ino)?;
    if item.nlink == 0 {
        return Err(corrupt("inode item", inode::key(ino), "it has a name, and no links"));
    }
    place.remove(trees, ino)?;
    item.nlink -= 1;
    item.ctime = inode::now(trees);
    inode::save(trees, place.tree, ino, &mut item)?;
    if item.nlink == 0 {
        orphan::add(trees, place.tree, ino)?;
    }
    Ok(Removed { ino, nlink: item.nlink })
}

/// Records in the directory's item that the name was put in.
pub(crate) fn grew(
    trees: &mut dyn Trees,
    place: &Place<'_>,
    dir_item: &mut InodeItem,
) -> StoreResult<()> {
    let size = dir_item.size.checked_add(2 * place.name.len() as u64);
    let size = size.filter(|size| i64::try_from(*size).is_ok());
    dir_item.size = size.ok_or_else(|| {
        corrupt("inode item", inode::key(place.dir), "the directory's size leaves no room above")
    })?;
    touched(trees, place, dir_item)
}

/// Records in the directory's item that the name was taken out.
pub(crate) fn shrank(
    trees: &mut dyn Trees,
    place: &Place<'_>,
    dir_item: &mut InodeItem,
) -> StoreResult<()> {
    let size = dir_item.size.checked_sub(2 * place.name.len() as u64);
    dir_item.size = size.ok_or_else(|| {
        corrupt("inode item", inode::key(place.dir), "the directory's size is below its names'")
    })?;
    touched(trees, place, dir_item)
}

/// Records in the directory's item that its content changed.
fn touched(trees: &mut dyn Trees, place: &Place<'_>, dir_item: &mut InodeItem) -> StoreResult<()> {
    let time = inode::now(trees);
    (dir_item.mtime, dir_item.ctime) = (time, time);
    inode::save(trees, place.tree, place.dir, dir_item)
}

/// All names of `ino`, as (directory, name).
///
/// # Errors
/// The store's.
pub fn names_of(trees: &dyn Trees, tree: TreeId, ino: Ino) -> StoreResult<Vec<(Ino, Vec<u8>)>> {
    let mut out = Vec::new();
    let mut at = Some(Key::new(ino.0, ItemKind::INODE_REF, 0));
    while let Some(key) = at {
        let Some((key, _)) = trees.at_or_after(tree, &key)? else { break };
        match key.kind {
            _ if key.objectid != ino.0 => break,
            ItemKind::INODE_REF => {
                let refs = inode_refs(trees, tree, &key)?;
                out.extend(refs.into_iter().map(|one| (Ino(key.offset), one.name)));
            }
            ItemKind::INODE_EXTREF => {
                let refs = inode_extrefs(trees, tree, &key)?;
                out.extend(refs.into_iter().map(|one| (Ino(one.parent), one.name)));
            }
            _ => break,
        }
        at = key.next();
    }
    Ok(out)
}

/// Makes the top directory of a new tree: its inode, and the reference to itself.
///
/// # Errors
/// The store's.
pub fn create_root(trees: &mut dyn Trees, tree: TreeId, new: &NewInode) -> StoreResult<()> {
    let item = inode::item_of(trees, new);
    let root = Ino::ROOT;
    trees.insert(tree, inode::key(root), &item.to_bytes())?;
    let dots = cowback_btrfs_disk::items::InodeRef { index: 0, name: b"..".to_vec() };
    let key = Key::new(root.0, ItemKind::INODE_REF, root.0);
    trees.insert(tree, key, &cowback_btrfs_disk::items::InodeRef::all_to_bytes(&[dots]))
}

/// Whether `dir` has entries whose hash collides with that of `name`.
#[cfg(test)]
pub(crate) fn collisions(trees: &dyn Trees, tree: TreeId, dir: Ino, name: &[u8]) -> usize {
    let hash = cowback_btrfs_disk::hash::name_hash(name);
    let key = Key::new(dir.0, ItemKind::DIR_ITEM, hash);
    super::link::entries(trees, tree, &key).map_or(0, |all| all.len())
}

#[cfg(test)]
mod tests;
