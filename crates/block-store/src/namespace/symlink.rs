//! Symbolic links: the target is the inline extent of an inode, whose size is the target's.

use cowback_base::Ino;
use cowback_btrfs_disk::items::{CompressionCode, FileExtent, FileExtentData, FileType};
use cowback_btrfs_disk::{ItemKind, Key, TreeId};

use super::error::{NamespaceError, NsResult};
use super::inode::{InodeAttr, NewInode};
use super::{Trees, dir, inode};
use crate::error::{corrupt, invalid};

/// Most bytes of a target, whatever the leaf size.
pub const TARGET_MAX: usize = 4095;

/// Makes symbolic link `ino` (from [`inode::next_ino`]) with `target`; of `new`, the type is not looked at.
///
/// # Errors
/// [`NamespaceError::NameTooLong`] and [`NamespaceError::InvalidName`] for the target, else as [`dir::create`].
pub fn create(
    trees: &mut dyn Trees,
    tree: TreeId,
    dir: Ino,
    name: &[u8],
    ino: Ino,
    new: &NewInode,
    target: &[u8],
) -> NsResult<InodeAttr> {
    let max = TARGET_MAX.min(trees.max_item() - FileExtent::INLINE_START);
    if target.len() > max {
        let len = target.len();
        return Err(NamespaceError::NameTooLong { what: "a symlink target", len, max });
    }
    if target.is_empty() || target.contains(&0) {
        let name = super::error::shown(target);
        let why = "a symlink target has bytes, none of them zero";
        return Err(NamespaceError::InvalidName { name, why });
    }
    let new = NewInode { mode: 0o120_000 | new.mode & 0o7777, rdev: 0, ..*new };
    dir::create(trees, tree, dir, name, ino, &new)?;
    let extent = FileExtent {
        generation: trees.generation(),
        ram_bytes: target.len() as u64,
        compression: CompressionCode::None,
        data: FileExtentData::Inline(target.to_vec()),
    };
    trees.insert(tree, Key::new(ino.0, ItemKind::EXTENT_DATA, 0), &extent.to_bytes())?;
    let mut item = inode::load_linked(trees, tree, ino)?;
    (item.size, item.nbytes) = (target.len() as u64, target.len() as u64);
    inode::save(trees, tree, ino, &mut item)?;
    Ok(InodeAttr::from(&item))
}

/// The target of symbolic link `ino`.
///
/// # Errors
/// [`NamespaceError::NotSymlink`], [`NamespaceError::NoInode`], or the store's.
pub fn read(trees: &dyn Trees, tree: TreeId, ino: Ino) -> NsResult<Vec<u8>> {
    let item = inode::load(trees, tree, ino)?;
    if FileType::of_mode(item.mode) != FileType::Symlink {
        return Err(NamespaceError::NotSymlink { ino });
    }
    let key = Key::new(ino.0, ItemKind::EXTENT_DATA, 0);
    let Some(data) = trees.get(tree, &key)? else {
        return Err(corrupt("symlink", key, "it has no target").into());
    };
    let extent = FileExtent::parse(&key, &data).map_err(|error| invalid(key, &error))?;
    match (extent.data, extent.compression) {
        (FileExtentData::Inline(mut target), CompressionCode::None)
            if target.len() as u64 >= item.size =>
        {
            // Some writers close the target with a zero that does not count.
            target.truncate(usize::try_from(item.size).unwrap_or(usize::MAX));
            Ok(target)
        }
        _ => Err(corrupt("symlink", key, "its target is not an inline extent of its size").into()),
    }
}

#[cfg(test)]
mod tests;
