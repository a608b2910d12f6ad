//! Extended attributes: items by hash of the name, each with all attributes of that hash.

use cowback_base::Ino;
use cowback_btrfs_disk::hash::name_hash;
use cowback_btrfs_disk::items::inode::NAME_MAX;
use cowback_btrfs_disk::items::{DirEntry, FileType};
use cowback_btrfs_disk::{ItemKind, Key, TreeId};

use super::error::{NamespaceError, NsResult, shown};
use super::link::{entries, put_back};
use super::{Trees, inode};
use crate::error::invalid;

/// What setting an attribute does if it is there, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XattrMode {
    /// Sets it in either case.
    #[default]
    Any,
    /// Refuses if it is there.
    Create,
    /// Refuses if it is not.
    Replace,
}

fn key_of(ino: Ino, name: &[u8]) -> Key {
    Key::new(ino.0, ItemKind::XATTR_ITEM, name_hash(name))
}

fn check_name(name: &[u8]) -> NsResult<()> {
    if name.is_empty() || name.contains(&0) {
        let why = "an attribute's name has bytes, none of them zero";
        return Err(NamespaceError::InvalidName { name: shown(name), why });
    }
    if name.len() > NAME_MAX {
        let (len, max) = (name.len(), NAME_MAX);
        return Err(NamespaceError::NameTooLong { what: "an attribute's name", len, max });
    }
    Ok(())
}

/// The value of an attribute.
///
/// # Errors
/// [`NamespaceError::NoAttribute`], [`NamespaceError::NoInode`], an invalid name, or the store's.
pub fn get(trees: &dyn Trees, tree: TreeId, ino: Ino, name: &[u8]) -> NsResult<Vec<u8>> {
    check_name(name)?;
    inode::load(trees, tree, ino)?;
    let all = entries(trees, tree, &key_of(ino, name))?;
    match all.into_iter().find(|one| one.name == name) {
        Some(one) => Ok(one.data),
        None => Err(NamespaceError::NoAttribute { ino, name: shown(name) }),
    }
}

/// Sets an attribute.
///
/// # Errors
/// [`NamespaceError::AttributeExists`] or [`NamespaceError::NoAttribute`] according to `mode`,
/// [`NamespaceError::ValueTooLong`], [`NamespaceError::NoInode`], an invalid name, or the store's.
pub fn set(
    trees: &mut dyn Trees,
    tree: TreeId,
    ino: Ino,
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
) -> NsResult<()> {
    check_name(name)?;
    let max = trees.max_item() - DirEntry::FIXED_LEN - name.len();
    if value.len() > max.min(usize::from(u16::MAX)) {
        return Err(NamespaceError::ValueTooLong { len: value.len(), max });
    }
    let mut item = inode::load(trees, tree, ino)?;
    let key = key_of(ino, name);
    let mut all = entries(trees, tree, &key)?;
    let is_new = all.is_empty();
    let found = all.iter().position(|one| one.name == name);
    match (found, mode) {
        (Some(_), XattrMode::Create) => {
            return Err(NamespaceError::AttributeExists { ino, name: shown(name) });
        }
        (None, XattrMode::Replace) => {
            return Err(NamespaceError::NoAttribute { ino, name: shown(name) });
        }
        _ => {}
    }
    let entry = DirEntry {
        location: Key::MIN,
        transid: trees.generation(),
        kind: FileType::Xattr,
        name: name.to_vec(),
        data: value.to_vec(),
    };
    match found.and_then(|at| all.get_mut(at)) {
        Some(old) => *old = entry,
        None => all.push(entry),
    }
    let data = DirEntry::all_to_bytes(&all);
    if data.len() > trees.max_item() {
        return Err(NamespaceError::TooManyCollisions { ino, name: shown(name) });
    }
    if is_new {
        trees.insert(tree, key, &data)?;
    } else {
        trees.update(tree, &key, &data)?;
    }
    item.ctime = inode::now(trees);
    Ok(inode::save(trees, tree, ino, &mut item)?)
}

/// Removes an attribute.
///
/// # Errors
/// [`NamespaceError::NoAttribute`], [`NamespaceError::NoInode`], an invalid name, or the store's.
pub fn remove(trees: &mut dyn Trees, tree: TreeId, ino: Ino, name: &[u8]) -> NsResult<()> {
    check_name(name)?;
    let mut item = inode::load(trees, tree, ino)?;
    let key = key_of(ino, name);
    let mut all = entries(trees, tree, &key)?;
    let Some(at) = all.iter().position(|one| one.name == name) else {
        return Err(NamespaceError::NoAttribute { ino, name: shown(name) });
    };
    all.remove(at);
    put_back(trees, tree, &key, all.is_empty(), &DirEntry::all_to_bytes(&all))?;
    item.ctime = inode::now(trees);
    Ok(inode::save(trees, tree, ino, &mut item)?)
}

/// The names of all attributes, in order of their hashes.
///
/// # Errors
/// [`NamespaceError::NoInode`], or the store's.
pub fn list(trees: &dyn Trees, tree: TreeId, ino: Ino) -> NsResult<Vec<Vec<u8>>> {
    inode::load(trees, tree, ino)?;
    let mut out = Vec::new();
    let mut at = Some(Key::new(ino.0, ItemKind::XATTR_ITEM, 0));
    while let Some(key) = at {
        let Some((key, data)) = trees.at_or_after(tree, &key)? else { break };
        if key.objectid != ino.0 || key.kind != ItemKind::XATTR_ITEM {
            break;
        }
        let all = DirEntry::parse_all(&key, &data).map_err(|error| invalid(key, &error))?;
        out.extend(all.into_iter().map(|one| one.name));
        at = key.next();
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
