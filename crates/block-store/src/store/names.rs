//! Names, attributes and sizes: the namespace's operations, each under the state lock.

use cowback_base::{ByteRange, COMPRESSED_EXTENT_MAX, Ino};
use cowback_btrfs_disk::TreeId;
use cowback_extent_io::store::StoreError;

use super::Store;
use crate::namespace::{
    self, AttrChange, DirEntryInfo, FileType, InodeAttr, LinkMode, NamespaceError, NewInode,
    NsResult, Removed, RenameMode, Target, XattrMode, dir, extents, inode, orphan, symlink, xattr,
};
use crate::reserve::{Load, MOST_NOTED, Purpose, STEP_EXTENTS};
use crate::state::State;
use crate::trees::Trees;

/// Entries of a directory that are read with the lock held once, at the first attempt and at those after that.
const DIR_BATCHES: [usize; 3] = [1 << 10, 1 << 12, 1 << 14];

/// An operation on names that brings `bytes` bytes from the caller.
fn names(bytes: usize) -> impl FnOnce(&State) -> NsResult<Load> {
    move |_| Ok(Load::names(bytes as u64))
}

impl State {
    /// The file tree that is worked on, and the transaction to work in.
    fn work(&mut self) -> (&mut dyn Trees, TreeId) {
        let tree = self.tree;
        (self, tree)
    }

    fn new_ino(&mut self) -> NsResult<Ino> {
        let ino = inode::next_ino(self, self.tree, self.last_ino)?;
        self.last_ino = ino.0;
        Ok(ino)
    }

    /// What dropping `range` of a file takes.
    pub(super) fn dropping(&self, ino: Ino, range: ByteRange) -> NsResult<Load> {
        let (items, bytes) = extents::count(self, self.tree, ino, range)?;
        let waiting = self.pending.extents_of(ino) as u64;
        Ok(Load::removal(items + waiting, bytes.saturating_add(waiting * COMPRESSED_EXTENT_MAX)))
    }
}

impl Store {
    pub(super) fn look<T>(
        &self,
        read: impl FnOnce(&dyn Trees, TreeId) -> NsResult<T>,
    ) -> NsResult<T> {
        let state = self.state.read();
        read(&*state, state.tree)
    }

    /// The entry `name` of `dir`: what it leads to.
    ///
    /// # Errors
    /// The namespace's.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> NsResult<(Target, FileType)> {
        self.look(|trees, tree| dir::lookup(trees, tree, dir, name))
    }

    /// The parent of a directory; the root's is itself.
    ///
    /// # Errors
    /// The namespace's.
    pub fn parent(&self, dir: Ino) -> NsResult<Ino> {
        self.look(|trees, tree| dir::parent(trees, tree, dir))
    }

    /// The entries of `dir`, as they are at one moment, in order of their indexes.
    ///
    /// # Errors
    /// The namespace's.
    pub fn read_dir(&self, dir: Ino) -> NsResult<Vec<DirEntryInfo>> {
        // A large one in batches, so that others go on meanwhile, but only if it stays as it is: a name can come to lie before what was read.
        for batch in DIR_BATCHES {
            if let Some(entries) = self.read_dir_in_batches(dir, batch)? {
                return Ok(entries);
            }
        }
        self.look(|trees, tree| dir::read_dir(trees, tree, dir, 0, usize::MAX))
    }

    /// None if the directory changed between two batches.
    fn read_dir_in_batches(&self, dir: Ino, most: usize) -> NsResult<Option<Vec<DirEntryInfo>>> {
        let (mut entries, mut first) = (Vec::new(), None);
        let mut from = Some(0);
        while let Some(index) = from {
            let (batch, version) = self.look(|trees, tree| {
                let version = inode::version(trees, tree, dir)?;
                Ok((dir::read_dir(trees, tree, dir, index, most)?, version))
            })?;
            if *first.get_or_insert(version) != version {
                return Ok(None);
            }
            let last = batch.last().filter(|_| batch.len() == most);
            from = last.and_then(|last| last.index.checked_add(1));
            entries.extend(batch);
        }
        Ok(Some(entries))
    }

    /// A file's attributes. The bytes that it holds count what has been written and that the next commit will tell the trees.
    ///
    /// # Errors
    /// The namespace's.
    pub fn inode(&self, ino: Ino) -> NsResult<InodeAttr> {
        let state = self.state.read();
        let mut attr = inode::read(&*state, state.tree, ino)?;
        attr.nbytes = state.pending.nbytes(&*state, state.tree, ino, attr.nbytes)?;
        Ok(attr)
    }

    /// Makes a file, a directory, or another entry that `new` says. Gives its number and attributes.
    ///
    /// # Errors
    /// The namespace's.
    pub fn create(&self, dir: Ino, name: &[u8], new: &NewInode) -> NsResult<(Ino, InodeAttr)> {
        self.change("making a file", Purpose::Add, names(0), |state| {
            let ino = state.new_ino()?;
            let (trees, tree) = state.work();
            Ok((ino, dir::create(trees, tree, dir, name, ino, new)?))
        })
    }

    /// Makes a file without a name, an orphan until [`Store::link_as`], with what a file of `dir` has from it. Gives its number and attributes.
    ///
    /// # Errors
    /// The namespace's.
    pub fn create_unnamed(&self, dir: Ino, new: &NewInode) -> NsResult<(Ino, InodeAttr)> {
        self.change("making a file", Purpose::Add, names(0), |state| {
            let ino = state.new_ino()?;
            let (trees, tree) = state.work();
            Ok((ino, dir::create_unnamed(trees, tree, dir, ino, new)?))
        })
    }

    /// Makes a symbolic link. Gives its number and attributes.
    ///
    /// # Errors
    /// The namespace's.
    pub fn symlink(
        &self,
        dir: Ino,
        name: &[u8],
        new: &NewInode,
        target: &[u8],
    ) -> NsResult<(Ino, InodeAttr)> {
        self.change("making a symlink", Purpose::Add, names(target.len()), |state| {
            let ino = state.new_ino()?;
            let (trees, tree) = state.work();
            Ok((ino, symlink::create(trees, tree, dir, name, ino, new, target)?))
        })
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// The namespace's.
    pub fn read_link(&self, ino: Ino) -> NsResult<Vec<u8>> {
        self.look(|trees, tree| symlink::read(trees, tree, ino))
    }

    /// Gives a file one more name.
    ///
    /// # Errors
    /// The namespace's.
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> NsResult<InodeAttr> {
        self.change("making a link", Purpose::Add, names(0), |state| {
            let (trees, tree) = state.work();
            dir::link(trees, tree, ino, dir, name)
        })
    }

    /// Gives what has the name `existing` one more name, `new`: all at once. Names are given with their directories.
    ///
    /// # Errors
    /// The namespace's.
    pub fn link_entry(&self, existing: (Ino, &[u8]), new: (Ino, &[u8])) -> NsResult<()> {
        self.change("making a link", Purpose::Add, names(0), |state| {
            let (trees, tree) = state.work();
            let ino = match dir::lookup(trees, tree, existing.0, existing.1)? {
                (Target::Inode(ino), _) => ino,
                (Target::Subvolume(_), _) => {
                    let what = "a subvolume has one name";
                    return Err(NamespaceError::NotSupported { ino: existing.0, what });
                }
            };
            dir::link_as(trees, tree, ino, new, LinkMode::default()).map(drop)
        })
    }

    /// Gives a file a name, the first one too, or that of something else, as `mode` says: all at once. Gives what lost the name to it.
    ///
    /// # Errors
    /// The namespace's.
    pub fn link_as(
        &self,
        ino: Ino,
        place: (Ino, &[u8]),
        mode: LinkMode,
    ) -> NsResult<Option<Removed>> {
        let twice = |_: &State| Ok(Load::names(0).and(Load::names(0)));
        self.change("making a link", Purpose::Add, twice, |state| {
            let (trees, tree) = state.work();
            dir::link_as(trees, tree, ino, place, mode)
        })
    }

    /// Takes a name from a file; with the last one it becomes an orphan, until [`Store::evict`].
    ///
    /// # Errors
    /// The namespace's.
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> NsResult<Removed> {
        self.change("removing a name", Purpose::Remove, names(0), |state| {
            let (trees, tree) = state.work();
            dir::unlink(trees, tree, dir, name)
        })
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// The namespace's.
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> NsResult<Removed> {
        self.change("removing a directory", Purpose::Remove, names(0), |state| {
            let (trees, tree) = state.work();
            dir::rmdir(trees, tree, dir, name)
        })
    }

    /// Moves an entry. Gives what the new name led to before, if that went.
    ///
    /// # Errors
    /// The namespace's.
    pub fn rename(
        &self,
        old: (Ino, &[u8]),
        new: (Ino, &[u8]),
        mode: RenameMode,
    ) -> NsResult<Option<Removed>> {
        let twice = |_: &State| Ok(Load::names(0).and(Load::names(0)));
        self.change("renaming", Purpose::Add, twice, |state| {
            let (trees, tree) = state.work();
            namespace::rename(trees, tree, old, new, mode)
        })
    }

    /// Changes a file's attributes.
    ///
    /// # Errors
    /// The namespace's.
    pub fn set_attr(&self, ino: Ino, change: &AttrChange) -> NsResult<InodeAttr> {
        self.change("changing attributes", Purpose::Add, names(0), |state| {
            let (trees, tree) = state.work();
            inode::set_attr(trees, tree, ino, change)
        })
    }

    /// As [`Store::set_attr`], ahead of a change of a file's size or extents in memory: what of that comes to its inode before or at the next
    /// commit takes no more space then. As it brings nothing that stays, and may be there to make room, it may use what removing things may use.
    ///
    /// # Errors
    /// The namespace's.
    pub fn set_attr_ahead(&self, ino: Ino, change: &AttrChange) -> NsResult<InodeAttr> {
        let load = |_: &State| Ok(Load::attributes());
        self.change("changing attributes", Purpose::Remove, load, |state| {
            let (trees, tree) = state.work();
            inode::set_attr(trees, tree, ino, change)
        })
    }

    /// As [`Store::set_attr`], for what a commit brings along: sizes and times that are newer in memory. It may use space that other
    /// changes have to leave free, as what it belongs to was let begin: by a promise of data, or by [`Store::set_attr_ahead`].
    ///
    /// # Errors
    /// The namespace's.
    pub fn set_attr_at_commit(&self, ino: Ino, change: &AttrChange) -> NsResult<InodeAttr> {
        let load = |_: &State| Ok(Load::attributes());
        self.change("changing attributes", Purpose::Commit, load, |state| {
            let (trees, tree) = state.work();
            inode::set_attr(trees, tree, ino, change)
        })
    }

    /// Makes a file `size` bytes long: extents beyond go, with what completed and waits.
    ///
    /// # Errors
    /// The namespace's.
    pub fn truncate(&self, ino: Ino, size: u64) -> NsResult<InodeAttr> {
        let behind = ByteRange::new(size, u64::MAX);
        let load = |state: &State| state.dropping(ino, behind);
        self.change("truncating", Purpose::Remove, load, |state| {
            state.apply_pending_of(ino)?;
            let (trees, tree) = state.work();
            extents::truncate(trees, tree, ino, size)?;
            inode::set_attr(
                trees,
                tree,
                ino,
                &AttrChange { size: Some(size), ..AttrChange::default() },
            )
        })
    }

    /// Drops what a file maps at or behind `size`.
    pub(super) fn drop_extents_behind(&self, ino: Ino, size: u64) -> NsResult<()> {
        let behind = ByteRange::new(size, u64::MAX);
        let load = |state: &State| state.dropping(ino, behind);
        self.change("truncating", Purpose::Remove, load, |state| {
            state.apply_pending_of(ino)?;
            let (trees, tree) = state.work();
            extents::truncate(trees, tree, ino, size)
        })
    }

    /// Makes the blocks of `range`, which is block aligned, a hole.
    ///
    /// # Errors
    /// The namespace's.
    pub fn punch(&self, ino: Ino, range: ByteRange) -> NsResult<()> {
        let load = |state: &State| state.dropping(ino, range);
        self.change("punching a hole", Purpose::Remove, load, |state| {
            state.apply_pending_of(ino)?;
            let (trees, tree) = state.work();
            extents::punch(trees, tree, ino, range)
        })
    }

    /// Removes a file that has no names. It is gone for good then: if there is no room to drop all its extents in this transaction, or they are
    /// a great many, the commits that follow go on with it.
    ///
    /// # Errors
    /// The namespace's.
    pub fn evict(&self, ino: Ino) -> NsResult<()> {
        let mut most = STEP_EXTENTS;
        loop {
            let load = |state: &State| {
                orphan::check_evictable(state, state.tree, ino)?;
                Ok(Load::removal(most, most * COMPRESSED_EXTENT_MAX))
            };
            let step = self.change("removing a file", Purpose::Remove, load, |state| {
                let (trees, tree) = state.work();
                let done = orphan::evict(trees, tree, ino, most)?;
                state.discard_pending_of(ino);
                Ok(done)
            });
            let noted = || self.state.read().refs.data.len() as u64;
            match step {
                Ok(true) => return Ok(()),
                Ok(false) if noted() < MOST_NOTED => {}
                Err(NamespaceError::Store(StoreError::NoSpace { .. })) if most > 1 => most /= 8,
                Err(error) if !matches!(error, NamespaceError::Store(_)) => return Err(error),
                // There is no room for more, or the store has stopped, and may be resumed, or the device fails for a while.
                later => {
                    self.state.write().leftover.insert(ino);
                    return match later {
                        Ok(_) | Err(NamespaceError::Store(StoreError::NoSpace { .. })) => Ok(()),
                        Err(error) => Err(error),
                    };
                }
            }
        }
    }

    /// Goes on with removing files that the last transaction could not take. False if nothing came of it.
    pub(super) fn go_on_removing(&self) -> bool {
        let leftover = std::mem::take(&mut self.state.write().leftover);
        let before = self.state.read().changes;
        for ino in leftover {
            // What fails is tried again after the next commit, or when the volume is opened again.
            let _ = self.evict(ino);
        }
        self.state.read().changes != before
    }

    /// The files without names that are still there.
    ///
    /// # Errors
    /// The store's.
    pub fn orphans(&self) -> NsResult<Vec<Ino>> {
        self.look(|trees, tree| Ok(orphan::list(trees, tree)?))
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// The namespace's.
    pub fn get_xattr(&self, ino: Ino, name: &[u8]) -> NsResult<Vec<u8>> {
        self.look(|trees, tree| xattr::get(trees, tree, ino, name))
    }

    /// The names of a file's extended attributes.
    ///
    /// # Errors
    /// The namespace's.
    pub fn list_xattrs(&self, ino: Ino) -> NsResult<Vec<Vec<u8>>> {
        self.look(|trees, tree| xattr::list(trees, tree, ino))
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// The namespace's.
    pub fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> NsResult<()> {
        self.change(
            "setting an attribute",
            Purpose::Add,
            names(name.len() + value.len()),
            |state| {
                let (trees, tree) = state.work();
                xattr::set(trees, tree, ino, name, value, mode)
            },
        )
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// The namespace's.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> NsResult<()> {
        self.change("removing an attribute", Purpose::Remove, names(0), |state| {
            let (trees, tree) = state.work();
            xattr::remove(trees, tree, ino, name)
        })
    }
}
