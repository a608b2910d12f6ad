//! Orphans: inodes without names. The item that marks one is made with the removal of its last name, or with an inode that is to get its first
//! one later, so that after a crash the next open finds it and ends it.

use cowback_base::Ino;
use cowback_btrfs_disk::{ItemKind, Key, TreeId, objectid};
use cowback_extent_io::store::StoreResult;

use super::error::{NamespaceError, NsResult};
use super::{Trees, extents, inode};
use crate::error::corrupt;

const fn key_of(ino: Ino) -> Key {
    Key::new(objectid::ORPHAN, ItemKind::ORPHAN_ITEM, ino.0)
}

/// Marks `ino` as an orphan.
pub(crate) fn add(trees: &mut dyn Trees, tree: TreeId, ino: Ino) -> StoreResult<()> {
    trees.insert(tree, key_of(ino), &[])
}

/// Takes the mark off `ino`, which has it.
pub(crate) fn remove(trees: &mut dyn Trees, tree: TreeId, ino: Ino) -> StoreResult<()> {
    trees.remove(tree, &key_of(ino)).map(drop)
}

/// All orphans of the tree.
///
/// # Errors
/// The store's.
pub fn list(trees: &dyn Trees, tree: TreeId) -> StoreResult<Vec<Ino>> {
    let mut out = Vec::new();
    let mut at = Some(key_of(Ino(0)));
    while let Some(key) = at {
        let Some((key, _)) = trees.at_or_after(tree, &key)? else { break };
        if key.objectid != objectid::ORPHAN || key.kind != ItemKind::ORPHAN_ITEM {
            break;
        }
        out.push(Ino(key.offset));
        at = key.next();
    }
    Ok(out)
}

/// Whether `ino` is marked as an orphan.
///
/// # Errors
/// The store's.
pub fn is_marked(trees: &dyn Trees, tree: TreeId, ino: Ino) -> StoreResult<bool> {
    Ok(trees.get(tree, &key_of(ino))?.is_some())
}

/// Fails if `ino` has names and is not marked as an orphan: [`evict`] is not for it. Gives whether it is marked.
///
/// # Errors
/// [`NamespaceError::NotSupported`], or the store's.
pub fn check_evictable(trees: &dyn Trees, tree: TreeId, ino: Ino) -> NsResult<bool> {
    let marked = is_marked(trees, tree, ino)?;
    if !marked && inode::find(trees, tree, ino)?.is_some_and(|item| item.nlink > 0) {
        let what = "an inode with names cannot be evicted";
        return Err(NamespaceError::NotSupported { ino, what });
    }
    Ok(marked)
}

/// Takes `ino` a step towards its end: drops at most `most` of its extents, the last ones first, and once there are none left, all its
/// items. Gives whether it has come to its end. Completions that are still [`super::Pending`] are to be discarded before. An orphan that
/// still has names, as after a truncate that a crash cut short, only loses its mark.
///
/// # Errors
/// [`NamespaceError::NotSupported`] if the inode has names and is no orphan, or the store's.
pub fn evict(trees: &mut dyn Trees, tree: TreeId, ino: Ino, most: u64) -> NsResult<bool> {
    let marked = check_evictable(trees, tree, ino)?;
    let item = inode::find(trees, tree, ino)?;
    let has_names = item.is_some_and(|item| item.nlink > 0);
    if let Some(mut item) = item.filter(|_| !has_names) {
        let (dropped, all) = extents::drop_last(trees, tree, ino, most)?;
        if !all {
            item.nbytes = extents::less(ino, item.nbytes, dropped)?;
            inode::save(trees, tree, ino, &mut item)?;
            return Ok(false);
        }
        remove_items(trees, tree, ino)?;
    }
    if marked {
        remove(trees, tree, ino)?;
    }
    Ok(true)
}

/// Removes all items of `ino`; its extents are gone by now.
fn remove_items(trees: &mut dyn Trees, tree: TreeId, ino: Ino) -> StoreResult<()> {
    let first = Key::new(ino.0, ItemKind(0), 0);
    while let Some((key, _)) = trees.at_or_after(tree, &first)? {
        if key.objectid != ino.0 {
            break;
        }
        match key.kind {
            ItemKind::DIR_ITEM | ItemKind::DIR_INDEX => {
                return Err(corrupt("orphan", key, "a directory without names has entries"));
            }
            _ => trees.remove(tree, &key)?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests;
