//! Inodes: attributes as callers see them, their item on disk, and new numbers.

use cowback_base::Ino;
use cowback_btrfs_disk::items::inode::S_IFMT;
use cowback_btrfs_disk::items::{FileType, InodeItem, Timespec};
use cowback_btrfs_disk::{ItemKind, Key, TreeId, objectid};
use cowback_extent_io::store::StoreResult;

use super::Trees;
use super::error::{NamespaceError, NsResult};
use crate::error::{corrupt, invalid};

pub use cowback_btrfs_disk::items::inode::inode_flags;

/// Attributes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InodeAttr {
    /// What it is.
    pub kind: FileType,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as [`make_rdev`] makes it.
    pub rdev: u64,
    /// Names.
    pub nlink: u32,
    /// Bytes of the file; of a directory, twice the bytes of its names.
    pub size: u64,
    /// Bytes that its extents hold, uncompressed.
    pub nbytes: u64,
    /// See [`inode_flags`].
    pub flags: u64,
    /// Last read.
    pub atime: Timespec,
    /// Last change of content.
    pub mtime: Timespec,
    /// Last change of attributes.
    pub ctime: Timespec,
    /// Creation.
    pub otime: Timespec,
    /// Transaction that made the inode.
    pub generation: u64,
}

/// What a new inode begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewInode {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, else 0.
    pub rdev: u64,
    /// See [`inode_flags`].
    pub flags: u64,
}

/// Attributes to set; what is `None` stays. Links and held bytes are not to be set, as the store counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttrChange {
    /// Permission bits; the type stays.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes of a regular file. Extents beyond are another matter: see [`super::extents::truncate`].
    pub size: Option<u64>,
    /// See [`inode_flags`].
    pub flags: Option<u64>,
    /// Last read.
    pub atime: Option<Timespec>,
    /// Last change of content.
    pub mtime: Option<Timespec>,
    /// Last change of attributes; now, if none is given. It never goes back: the later of this and what is there counts.
    pub ctime: Option<Timespec>,
    /// Creation.
    pub otime: Option<Timespec>,
}

/// The device number (`major`, `minor`) as it is stored.
#[must_use]
pub const fn make_rdev(major: u32, minor: u32) -> u64 {
    (major as u64) << 20 | (minor as u64 & 0xf_ffff)
}

/// Major and minor number of a stored device number.
#[must_use]
pub fn split_rdev(rdev: u64) -> (u32, u32) {
    let low = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    (low(rdev >> 20), low(rdev & 0xf_ffff))
}

impl From<&InodeItem> for InodeAttr {
    fn from(item: &InodeItem) -> Self {
        Self {
            kind: FileType::of_mode(item.mode),
            mode: item.mode,
            uid: item.uid,
            gid: item.gid,
            rdev: item.rdev,
            nlink: item.nlink,
            size: item.size,
            nbytes: item.nbytes,
            flags: item.flags,
            atime: item.atime,
            mtime: item.mtime,
            ctime: item.ctime,
            otime: item.otime,
            generation: item.generation,
        }
    }
}

/// Key of an inode's item.
#[must_use]
pub const fn key(ino: Ino) -> Key {
    Key::new(ino.0, ItemKind::INODE_ITEM, 0)
}

/// Attributes of `ino`.
///
/// # Errors
/// [`NamespaceError::NoInode`], or the store's.
pub fn read(trees: &dyn Trees, tree: TreeId, ino: Ino) -> NsResult<InodeAttr> {
    Ok(InodeAttr::from(&load(trees, tree, ino)?))
}

/// Sets attributes of `ino`, and its time of change.
///
/// # Errors
/// [`NamespaceError::NoInode`], [`NamespaceError::IsDir`] for the size of a directory, [`NamespaceError::NotSupported`] for a size above
/// 2^63-1, or the store's.
pub fn set_attr(
    trees: &mut dyn Trees,
    tree: TreeId,
    ino: Ino,
    change: &AttrChange,
) -> NsResult<InodeAttr> {
    let mut item = load(trees, tree, ino)?;
    if change.size.is_some() && FileType::of_mode(item.mode) == FileType::Dir {
        return Err(NamespaceError::IsDir { ino });
    }
    if change.size.is_some_and(|size| i64::try_from(size).is_err()) {
        return Err(NamespaceError::NotSupported { ino, what: "a size above 2^63-1" });
    }
    if let Some(mode) = change.mode {
        item.mode = item.mode & S_IFMT | mode & 0o7777;
    }
    item.uid = change.uid.unwrap_or(item.uid);
    item.gid = change.gid.unwrap_or(item.gid);
    item.size = change.size.unwrap_or(item.size);
    item.flags = change.flags.unwrap_or(item.flags) & inode_flags::ALL;
    item.atime = change.atime.unwrap_or(item.atime);
    item.mtime = change.mtime.unwrap_or(item.mtime);
    item.ctime = change.ctime.map_or_else(|| now(trees), |ctime| ctime.max(item.ctime));
    item.otime = change.otime.unwrap_or(item.otime);
    save(trees, tree, ino, &mut item)?;
    Ok(InodeAttr::from(&item))
}

/// The number for a new inode: above all that are in the tree, and above `last`, the last one that was given out.
///
/// # Errors
/// The store's; [`NamespaceError::NotSupported`] when numbers have run out.
pub fn next_ino(trees: &dyn Trees, tree: TreeId, last: u64) -> NsResult<Ino> {
    let end = Key { objectid: objectid::LAST_FREE, ..Key::MAX };
    let highest = trees.at_or_before(tree, &end)?.map_or(0, |(key, _)| key.objectid);
    let ino = highest.max(last).max(objectid::FIRST_FREE);
    if ino >= objectid::LAST_FREE {
        return Err(NamespaceError::NotSupported { ino: Ino(ino), what: "no inode number above" });
    }
    Ok(Ino(ino + 1))
}

/// A new inode's item. Its names come with [`super::dir`].
pub(crate) fn item_of(trees: &dyn Trees, new: &NewInode) -> InodeItem {
    let time = now(trees);
    InodeItem {
        generation: trees.generation(),
        transid: trees.generation(),
        nlink: 1,
        uid: new.uid,
        gid: new.gid,
        mode: new.mode,
        rdev: new.rdev,
        flags: new.flags & inode_flags::ALL,
        atime: time,
        ctime: time,
        mtime: time,
        otime: time,
        ..InodeItem::default()
    }
}

/// Now.
pub(crate) fn now(trees: &dyn Trees) -> Timespec {
    let (sec, nsec) = trees.now();
    Timespec { sec, nsec }
}

/// The item of `ino`, if there is such an inode.
pub(crate) fn find(trees: &dyn Trees, tree: TreeId, ino: Ino) -> StoreResult<Option<InodeItem>> {
    let key = key(ino);
    let Some(data) = trees.get(tree, &key)? else { return Ok(None) };
    InodeItem::parse(&data).map(Some).map_err(|error| invalid(key, &error))
}

/// The item of `ino`.
pub(crate) fn load(trees: &dyn Trees, tree: TreeId, ino: Ino) -> NsResult<InodeItem> {
    find(trees, tree, ino)?.ok_or(NamespaceError::NoInode { ino })
}

/// The item of `ino`, which must be a directory that still has a name.
pub(crate) fn load_dir(trees: &dyn Trees, tree: TreeId, ino: Ino) -> NsResult<InodeItem> {
    let item = load(trees, tree, ino)?;
    if FileType::of_mode(item.mode) != FileType::Dir {
        return Err(NamespaceError::NotDir { ino });
    }
    if item.nlink == 0 {
        return Err(NamespaceError::NoInode { ino });
    }
    Ok(item)
}

/// What is another whenever the item of `ino` was written: for a directory, whenever its entries changed.
pub(crate) fn version(trees: &dyn Trees, tree: TreeId, ino: Ino) -> NsResult<(u64, u64)> {
    let item = load(trees, tree, ino)?;
    Ok((item.transid, item.sequence))
}

/// The item of `ino`, to which an entry leads.
pub(crate) fn load_linked(trees: &dyn Trees, tree: TreeId, ino: Ino) -> StoreResult<InodeItem> {
    find(trees, tree, ino)?
        .ok_or_else(|| corrupt("directory entry", key(ino), "it leads to no inode"))
}

/// Writes the item of `ino` back, changed in this transaction.
pub(crate) fn save(
    trees: &mut dyn Trees,
    tree: TreeId,
    ino: Ino,
    item: &mut InodeItem,
) -> StoreResult<()> {
    item.transid = trees.generation();
    item.sequence = item.sequence.wrapping_add(1);
    trees.update(tree, &key(ino), &item.to_bytes())
}
