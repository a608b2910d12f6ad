//! Rename: moving a name, replacing another, or exchanging two, each in one transaction and so all or nothing (law D1).

use std::collections::BTreeSet;

use cowback_base::Ino;
use cowback_btrfs_disk::TreeId;
use cowback_btrfs_disk::items::{DirEntry, FileType};
use cowback_extent_io::store::StoreResult;

use super::dir::{self, Removed};
use super::error::{NamespaceError, NsResult};
use super::link::Place;
use super::{Trees, inode};
use crate::error::corrupt;

/// What a rename does with an entry that is at the new place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it, if it is of the same sort, and, when a directory, empty.
    Replace,
    /// Replaces it, unless a directory would be moved: that is refused, as [`NamespaceError::IsDir`].
    ReplaceByFile,
    /// Refuses.
    NoReplace,
    /// Puts it at the old place.
    Exchange,
}

/// Moves what `old_name` in `old_dir` leads to. Gives the inode that lost a name to it, if one did.
///
/// Two names of one file stay as they are, as POSIX has it.
///
/// # Errors
/// [`NamespaceError::NotFound`], [`NamespaceError::Exists`], [`NamespaceError::NotDir`], [`NamespaceError::IsDir`],
/// [`NamespaceError::NotEmpty`], [`NamespaceError::Loop`], an invalid name, or the store's.
pub fn rename(
    trees: &mut dyn Trees,
    tree: TreeId,
    (old_dir, old_name): (Ino, &[u8]),
    (new_dir, new_name): (Ino, &[u8]),
    mode: RenameMode,
) -> NsResult<Option<Removed>> {
    let old = Place::new(tree, old_dir, old_name)?;
    let new = Place::new(tree, new_dir, new_name)?;
    inode::load_dir(trees, tree, old_dir)?;
    inode::load_dir(trees, tree, new_dir)?;
    let entry = old.find(trees)?.ok_or_else(|| old.not_found())?;
    let there = new.find(trees)?;
    let ino = dir::inode_of(&entry)?;
    match (there, mode) {
        (_, RenameMode::ReplaceByFile) if entry.kind == FileType::Dir => {
            Err(NamespaceError::IsDir { ino })
        }
        (Some(_), RenameMode::NoReplace) => Err(new.exists()),
        (None, RenameMode::Exchange) => Err(new.not_found()),
        (Some(there), _) if dir::inode_of(&there)? == ino => Ok(None),
        (Some(there), RenameMode::Exchange) => exchange(trees, (&old, &entry), (&new, &there)),
        (there, _) => move_over(trees, (&old, &entry), &new, there.as_ref()),
    }
}

fn move_over(
    trees: &mut dyn Trees,
    (old, entry): (&Place<'_>, &DirEntry),
    new: &Place<'_>,
    there: Option<&DirEntry>,
) -> NsResult<Option<Removed>> {
    let ino = dir::inode_of(entry)?;
    let is_dir = entry.kind == FileType::Dir;
    let replaced = there.map(dir::inode_of).transpose()?;
    if let (Some(there), Some(replaced)) = (there, replaced) {
        match (is_dir, there.kind == FileType::Dir) {
            (true, true) => dir::check_empty(trees, old.tree, replaced)?,
            (true, false) => return Err(NamespaceError::NotDir { ino: replaced }),
            (false, true) => return Err(NamespaceError::IsDir { ino: replaced }),
            (false, false) => {}
        }
    }
    if is_dir {
        check_outside(trees, old.tree, ino, new.dir)?;
    }
    new.check_room(trees, ino, replaced.is_some())?;

    let removed = replaced.map(|lost| dir::drop_name(trees, new, lost)).transpose()?;
    old.remove(trees, ino)?;
    new.add(trees, ino, entry.kind)?;
    touch(trees, old.tree, ino)?;
    let mut from = inode::load_dir(trees, old.tree, old.dir)?;
    dir::shrank(trees, old, &mut from)?;
    if removed.is_none() {
        let mut to = inode::load_dir(trees, new.tree, new.dir)?;
        dir::grew(trees, new, &mut to)?;
    } else if new.dir != old.dir {
        touch_content(trees, new)?;
    }
    Ok(removed)
}

fn exchange(
    trees: &mut dyn Trees,
    (old, entry): (&Place<'_>, &DirEntry),
    (new, there): (&Place<'_>, &DirEntry),
) -> NsResult<Option<Removed>> {
    let (ino, other) = (dir::inode_of(entry)?, dir::inode_of(there)?);
    if entry.kind == FileType::Dir {
        check_outside(trees, old.tree, ino, new.dir)?;
    }
    if there.kind == FileType::Dir {
        check_outside(trees, old.tree, other, old.dir)?;
    }
    new.check_room(trees, ino, true)?;
    old.check_room(trees, other, true)?;

    old.remove(trees, ino)?;
    new.remove(trees, other)?;
    new.add(trees, ino, entry.kind)?;
    old.add(trees, other, there.kind)?;
    touch(trees, old.tree, ino)?;
    touch(trees, old.tree, other)?;
    // Both names stay, so both directories keep their sizes.
    touch_content(trees, old)?;
    if new.dir != old.dir {
        touch_content(trees, new)?;
    }
    Ok(None)
}

/// Sets the inode's time of change.
fn touch(trees: &mut dyn Trees, tree: TreeId, ino: Ino) -> StoreResult<()> {
    let mut item = inode::load_linked(trees, tree, ino)?;
    item.ctime = inode::now(trees);
    inode::save(trees, tree, ino, &mut item)
}

/// Sets the directory's times of change.
fn touch_content(trees: &mut dyn Trees, place: &Place<'_>) -> StoreResult<()> {
    let mut item = inode::load_linked(trees, place.tree, place.dir)?;
    let time = inode::now(trees);
    (item.mtime, item.ctime) = (time, time);
    inode::save(trees, place.tree, place.dir, &mut item)
}

/// Fails if `dir` is `ino` or below it.
fn check_outside(trees: &dyn Trees, tree: TreeId, ino: Ino, dir: Ino) -> NsResult<()> {
    let mut passed = BTreeSet::new();
    let mut at = dir;
    while passed.insert(at) {
        if at == ino {
            return Err(NamespaceError::Loop { ino });
        }
        if at == Ino::ROOT {
            return Ok(());
        }
        at = dir::parent(trees, tree, at)?;
    }
    Err(corrupt("inode ref", inode::key(at), "the directory is its own ancestor").into())
}
