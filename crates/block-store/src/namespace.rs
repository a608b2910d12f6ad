//! Files, directories and extents over the trees (stages 8 and 9).
//!
//! Every function works in the running transaction of the [`Trees`] it is given, for one file tree, and takes no lock.
//! An operation looks before it changes: whatever a caller may get wrong is a [`NamespaceError`] with nothing changed;
//! [`NamespaceError::Store`] out of a changing function may leave the transaction half done, and stops the store.
//!
//! * [`inode`]: attributes. [`dir`]: names, and what renames them. [`symlink`], [`xattr`].
//! * [`orphan`]: files without names, and their end.
//! * [`extents`], [`prealloc`]: what maps a file's bytes. [`csums`]: checksums of data. [`pending`]: completions not yet in the trees.

pub mod csums;
pub mod dir;
mod error;
pub mod extents;
pub mod inode;
mod link;
pub mod orphan;
pub mod pending;
pub mod prealloc;
mod rename;
pub mod symlink;
pub mod xattr;

pub use dir::{DirEntryInfo, LinkMode, Removed, Target};
pub use error::{NamespaceError, NsResult};
pub use inode::{AttrChange, InodeAttr, NewInode};
pub use pending::Pending;
pub use rename::{RenameMode, rename};
pub use xattr::XattrMode;

pub use cowback_btrfs_disk::items::{FileType, Timespec};

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod mock;
#[cfg(test)]
mod on_store;

use crate::trees::Trees;
