//! Names: what a volume does with paths.

use std::path::Path;
use std::sync::Arc;

use cowback_base::Ino;
use cowback_block_store::namespace::inode::make_rdev;
use cowback_block_store::namespace::{
    FileType, NamespaceError, NewInode, Removed, RenameMode, Target, XattrMode,
};

use crate::error::{Error, Result};
use crate::file::File;
use crate::gates::Gates;
use crate::inner::Inner;
use crate::metadata::{Metadata, NewEntry, SetAttributes};
use crate::path::{DirCache, Still};
use crate::volume::Volume;

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirEntry {
    /// Its name: any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// Its inode number; zero for a subvolume.
    pub ino: u64,
    /// What it is.
    pub kind: FileType,
}

/// Paths are taken from the volume's root, with or without a leading `/`. Symlinks in them are not followed, `..` is refused. Names may be any
/// bytes that Linux allows. Changes are durable with the next commit, and until then visible to all.
///
/// No directory moves between the look at a path and a change of names there: several threads' changes of names are as if made one after another. What
/// is asked about an entry, listed, or set of its attributes, is that of the inode to which the path led when it was looked up, as if that had
/// been opened.
///
/// Beyond the errors that each method names, any fails if the trees cannot be read, and a change if there is no space for it, or the volume takes
/// none: it was opened for reading, was closed, or has stopped.
impl Volume {
    /// Makes a file and opens it.
    ///
    /// # Errors
    /// Something of that name exists; the directory does not; the name is too long; no space.
    pub fn create_file(&self, path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref();
        let ino = self.make(path, &NewEntry::File, 0o644)?;
        let node = match self.inner.open_node(ino) {
            // Somebody else has removed it in between.
            Err(NamespaceError::NoInode { .. }) => self.removed_node(path)?,
            node => node.map_err(Error::at(path))?,
        };
        Ok(File::new(Arc::clone(&self.inner), node))
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// It does not exist, or is something else.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref();
        self.inner.check_open()?;
        self.inner.at_path(path, |ino| {
            let node = match self.inner.store.inode(ino).map_err(Error::at(path))?.kind {
                FileType::Regular => self.inner.open_node(ino),
                FileType::Dir => Err(NamespaceError::IsDir { ino }),
                _ => {
                    let what = "only a regular file can be opened";
                    Err(NamespaceError::NotSupported { ino, what })
                }
            };
            Ok(File::new(Arc::clone(&self.inner), node.map_err(Error::at(path))?))
        })
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Volume::create_file`].
    pub fn create_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        self.make(path.as_ref(), &NewEntry::Dir, 0o755).map(drop)
    }

    /// Makes a symbolic link at `path` that leads to `target`, whatever that is.
    ///
    /// # Errors
    /// As [`Volume::create_file`]; a target that is empty or longer than 4095 bytes.
    pub fn symlink(&self, target: impl AsRef<[u8]>, path: impl AsRef<Path>) -> Result<()> {
        let entry = NewEntry::Symlink(target.as_ref().to_vec());
        self.make(path.as_ref(), &entry, 0o777).map(drop)
    }

    /// Makes an entry of any kind, with these permission bits. Returns its inode number.
    ///
    /// # Errors
    /// As [`Volume::create_file`].
    pub fn create_entry(
        &self,
        path: impl AsRef<Path>,
        entry: &NewEntry,
        permissions: u32,
    ) -> Result<u64> {
        self.make(path.as_ref(), entry, permissions).map(|ino| ino.0)
    }

    fn make(&self, path: &Path, entry: &NewEntry, permissions: u32) -> Result<Ino> {
        let rdev = match *entry {
            NewEntry::CharDevice(major, minor) | NewEntry::BlockDevice(major, minor) => {
                if major >= 1 << 12 || minor >= 1 << 20 {
                    let why = format!("no device has the number {major}:{minor}");
                    return Err(Error::Option { option: "entry", why });
                }
                make_rdev(major, minor)
            }
            _ => 0,
        };
        let mode = entry.type_bits() | (permissions & 0o7777);
        let new = NewInode { mode, uid: 0, gid: 0, rdev, flags: 0 };
        self.change(path, |inner, dir, name| match entry {
            NewEntry::Symlink(target) => inner.store.symlink(dir, name, &new, target),
            _ => inner.store.create(dir, name, &new),
        })
        .map(|(ino, _)| ino)
    }

    /// Gives the file at `existing` a further name.
    ///
    /// # Errors
    /// It does not exist or is a directory; `path` exists.
    pub fn hard_link(&self, existing: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
        let (existing, path) = (existing.as_ref(), path.as_ref());
        if Inner::is_root(existing)? {
            return Err(Error::at(existing)(NamespaceError::IsDir { ino: Ino::ROOT }));
        }
        let inner = &*self.inner;
        let link = |old, new| {
            inner.store.link_entry(old, new).map_err(|error| match error {
                NamespaceError::NotFound { .. }
                | NamespaceError::IsDir { .. }
                | NamespaceError::NotSupported { .. }
                | NamespaceError::TooManyLinks { .. } => Error::at(existing)(error),
                // About its new name, not about what there is.
                other => Error::at(path)(other),
            })
        };
        inner.change_names(DirCache::still, |still| {
            let old = inner.entry(still, existing)?;
            inner.lookup(old.0, old.1).map_err(Error::at(existing))?;
            link(old, inner.entry(still, path)?).map(|done| (done, None))
        })
    }

    /// As [`Volume::hard_link`], with the file's inode number, as [`Volume::create_entry`] and [`Metadata::ino`] tell it.
    ///
    /// # Errors
    /// As [`Volume::hard_link`].
    pub fn hard_link_inode(&self, ino: u64, path: impl AsRef<Path>) -> Result<()> {
        self.change(path.as_ref(), |inner, dir, name| {
            inner.store.link(Ino(ino), dir, name).map(drop)
        })
    }

    /// Removes a name that is not a directory's. With the last name, and the last open handle, the file goes.
    ///
    /// # Errors
    /// It does not exist, or is a directory, such as the root.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        Inner::check_not_root(path.as_ref())?;
        self.change_and_remove(path.as_ref(), |inner, dir, name| {
            inner.store.unlink(dir, name).map(Some)
        })
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// It does not exist, is not a directory, is not empty, or is the root.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        Inner::check_not_root(path)?;
        let inner = &*self.inner;
        inner.change_names(DirCache::moving, |moving| {
            let (dir, name) = inner.entry(moving, path)?;
            let removed = inner.store.rmdir(dir, name).map_err(Error::at(path))?;
            moving.only_removed(removed.ino);
            Ok(((), Some(removed)))
        })
    }

    /// Moves what is at `from` to `to`. What was at `to` is replaced, at once: whoever looks sees one or the other. If both are names of one file,
    /// nothing is done, as POSIX has it: both stay.
    ///
    /// # Errors
    /// `from` or the directory of `to` does not exist, or `from` is the root; the new name is too long; `to` is a directory that is not empty, or of another sort; a directory would move into itself.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        Inner::check_not_root(from.as_ref())?;
        let (from, to) = (from.as_ref(), to.as_ref());
        let inner = &*self.inner;
        let rename = |still: &Still<'_>, mode| {
            let (new, old) = (inner.entry(still, to)?, inner.entry(still, from)?);
            let replaced = inner.store.rename(old, new, mode);
            replaced.map(|replaced| ((), replaced)).map_err(Error::at(from))
        };
        // A directory must be told of before it is moved, a file need not.
        match inner.change_names(DirCache::still, |still| rename(still, RenameMode::ReplaceByFile))
        {
            Err(Error::Name { source: NamespaceError::IsDir { .. }, .. }) => {
                inner.change_names(DirCache::moving, |moving| rename(moving, RenameMode::Replace))
            }
            done => done,
        }
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// It does not exist, or is no symbolic link.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let path = path.as_ref();
        self.inner.at_path(path, |ino| self.inner.store.read_link(ino).map_err(Error::at(path)))
    }

    /// What is known about an entry. A symlink is not followed.
    ///
    /// # Errors
    /// It does not exist.
    pub fn metadata(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        let path = path.as_ref();
        self.inner.at_path(path, |ino| self.inner.metadata_of_named(ino).map_err(Error::at(path)))
    }

    /// Whether there is such an entry.
    ///
    /// # Errors
    /// It cannot be looked up.
    pub fn exists(&self, path: impl AsRef<Path>) -> Result<bool> {
        match self.inner.resolve(path.as_ref()) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets attributes of an entry. A symlink is not followed.
    ///
    /// # Errors
    /// It does not exist; [`Error::Option`] for a time that is none.
    pub fn set_attributes(&self, path: impl AsRef<Path>, set: &SetAttributes) -> Result<()> {
        set.check()?;
        self.on_inode(path.as_ref(), |inner, ino| {
            inner.set_attributes(ino, inner.nodes.get(ino).as_ref(), set)
        })
    }

    /// The entries of a directory, as they are at one moment, in the order in which they were made. If there are more than a thousand and others change
    /// them meanwhile, all changes of the volume wait in the end until they are read.
    ///
    /// # Errors
    /// It does not exist, or is no directory.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>> {
        let path = path.as_ref();
        let read = |dir| self.inner.store.read_dir(dir).map_err(Error::at(path));
        let entries = self.inner.at_path(path, read)?.into_iter();
        Ok(entries
            .map(|entry| DirEntry {
                ino: match entry.target {
                    Target::Inode(ino) => ino.0,
                    Target::Subvolume(_) => 0,
                },
                name: entry.name,
                kind: entry.kind,
            })
            .collect())
    }

    /// The names of an entry's extended attributes.
    ///
    /// # Errors
    /// It does not exist.
    pub fn list_xattrs(&self, path: impl AsRef<Path>) -> Result<Vec<Vec<u8>>> {
        let path = path.as_ref();
        self.inner.at_path(path, |ino| self.inner.store.list_xattrs(ino).map_err(Error::at(path)))
    }

    /// The value of an extended attribute, such as `user.comment`.
    ///
    /// # Errors
    /// There is no such entry or attribute.
    pub fn get_xattr(&self, path: impl AsRef<Path>, name: &[u8]) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let get = |ino| self.inner.store.get_xattr(ino, name).map_err(Error::at(path));
        self.inner.at_path(path, get)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// There is no such entry; a name or value that is too long.
    pub fn set_xattr(&self, path: impl AsRef<Path>, name: &[u8], value: &[u8]) -> Result<()> {
        self.on_inode(path.as_ref(), |inner, ino| {
            inner.store.set_xattr(ino, name, value, XattrMode::Any)
        })
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// There is no such entry or attribute.
    pub fn remove_xattr(&self, path: impl AsRef<Path>, name: &[u8]) -> Result<()> {
        self.on_inode(path.as_ref(), |inner, ino| inner.store.remove_xattr(ino, name))
    }

    /// Runs a change of the entry that `path` names.
    pub(crate) fn change<T>(
        &self,
        path: &Path,
        op: impl Fn(&Inner, Ino, &[u8]) -> std::result::Result<T, NamespaceError>,
    ) -> Result<T> {
        let inner = &*self.inner;
        inner.change_names(DirCache::still, |still| {
            let (dir, name) = inner.entry(still, path)?;
            op(inner, dir, name).map(|done| (done, None)).map_err(Error::at(path))
        })
    }

    /// As [`Volume::change`], for one by which something may lose its name.
    pub(crate) fn change_and_remove(
        &self,
        path: &Path,
        op: impl Fn(&Inner, Ino, &[u8]) -> std::result::Result<Option<Removed>, NamespaceError>,
    ) -> Result<()> {
        let inner = &*self.inner;
        inner.change_names(DirCache::still, |still| {
            let (dir, name) = inner.entry(still, path)?;
            op(inner, dir, name).map(|removed| ((), removed)).map_err(Error::at(path))
        })
    }

    /// As [`Volume::change`], for a change of the inode that `path` names.
    fn on_inode<T>(
        &self,
        path: &Path,
        op: impl Fn(&Inner, Ino) -> std::result::Result<T, NamespaceError>,
    ) -> Result<T> {
        let inner = &*self.inner;
        let once = || inner.at_path(path, |ino| op(inner, ino).map_err(Error::at(path)));
        inner.change(Gates::Names, once)
    }
}

impl Inner {
    /// Runs a change of names, which gives what has lost one by it, with directories held as `hold` does.
    fn change_names<'a, T>(
        &'a self,
        hold: impl Fn(&'a DirCache) -> Still<'a>,
        op: impl Fn(&mut Still<'a>) -> Result<(T, Option<Removed>)>,
    ) -> Result<T> {
        self.change(Gates::Names, || {
            let (done, removed) = op(&mut hold(&self.dirs))?;
            if let Some(removed) = removed.filter(|removed| removed.nlink == 0) {
                self.last_name_gone(removed.ino);
            }
            Ok(done)
        })
    }

    /// The last name of `ino` was removed: it goes now, or with its last handle. The namespace gate is held.
    pub(crate) fn last_name_gone(&self, ino: Ino) {
        match self.nodes.unlinked(ino) {
            (_, true) => {}
            (Some(node), false) => self.throw_away(&node),
            (None, false) => self.evict(ino),
        }
    }
}
