//! Files that are made without a name and get one when they are complete.

use std::path::Path;
use std::sync::Arc;

use cowback_block_store::namespace::{LinkMode, NamespaceError, NewInode};

use crate::error::{Error, Result};
use crate::file::File;
use crate::gates::Gates;
use crate::metadata::NewEntry;
use crate::node::Node;
use crate::volume::Volume;

impl Volume {
    /// Makes a file that has no name yet, and opens it, as `O_TMPFILE` does under Linux. [`Volume::link_file`] or [`Volume::link_file_over`] gives it
    /// one, once it is complete: so nobody, nor a crash at any moment, ever finds half of it, though commits may come while it is written.
    ///
    /// It has from the directory `dir` what a file that is made in it has: whether its data is compressed (`chattr +m`), and copied on write
    /// (`chattr +C`). If it has no name when its last handle is dropped, or after a crash, it is gone, with all its space.
    ///
    /// ```
    /// # use cowback::{Options, Volume};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let volume = Volume::create(dir.path().join("data.img"), &Options::default())?;
    /// volume.create_file("config")?.write_at(0, b"old")?;
    ///
    /// let file = volume.create_unnamed("")?;
    /// file.write_at(0, b"new, ")?;
    /// volume.commit()?; // holds the old file only
    /// file.write_at(5, b"and complete")?;
    /// volume.link_file_over(&file, "config")?;
    /// volume.commit()?; // holds the new one, whole
    ///
    /// assert_eq!(volume.open_file("config")?.read_block(0)?, &b"new, and complete"[..]);
    /// # drop(file);
    /// # volume.close()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `dir` does not exist, or is no directory; no space.
    pub fn create_unnamed(&self, dir: impl AsRef<Path>) -> Result<File> {
        let node = self.unnamed_node(dir.as_ref())?;
        Ok(File::new(Arc::clone(&self.inner), node))
    }

    fn unnamed_node(&self, dir: &Path) -> Result<Arc<Node>> {
        let inner = &self.inner;
        let mode = NewEntry::File.type_bits() | 0o644;
        let new = NewInode { mode, uid: 0, gid: 0, rdev: 0, flags: 0 };
        // Made and opened between two commits, and never seen in between.
        inner.change(Gates::Names, || {
            let make = |dir| inner.open_unnamed(inner.store.create_unnamed(dir, &new)?);
            inner.at_path(dir, |ino| make(ino).map_err(Error::at(dir)))
        })
    }

    /// A file as if it had been made at `path`, opened, and removed by somebody else.
    pub(crate) fn removed_node(&self, path: &Path) -> Result<Arc<Node>> {
        let node = match self.unnamed_node(path.parent().unwrap_or(Path::new(""))) {
            // The directory is gone as well, or another has its name.
            Err(Error::Name { .. }) => self.unnamed_node(Path::new(""))?,
            node => node?,
        };
        self.inner.nodes.unlinked(node.io.ino());
        Ok(node)
    }

    /// Gives an open file a name: the first one, if it was made by [`Volume::create_unnamed`], or a further one.
    ///
    /// # Errors
    /// Something of that name exists; the directory does not; the name is too long; no space. The file's last name was removed: it takes no new one.
    /// [`Error::Option`] for a file of another volume.
    pub fn link_file(&self, file: &File, path: impl AsRef<Path>) -> Result<()> {
        self.link_as(file, path.as_ref(), false)
    }

    /// As [`Volume::link_file`], but what has that name already is replaced, at once: whoever looks sees one or the other.
    ///
    /// # Errors
    /// As [`Volume::link_file`], but that only a directory is not replaced.
    pub fn link_file_over(&self, file: &File, path: impl AsRef<Path>) -> Result<()> {
        self.link_as(file, path.as_ref(), true)
    }

    fn link_as(&self, file: &File, path: &Path, replace: bool) -> Result<()> {
        if !Arc::ptr_eq(&self.inner, &file.inner) {
            let why = "it belongs to another volume".to_owned();
            return Err(Error::Option { option: "file", why });
        }
        self.change_and_remove(path, |inner, dir, name| {
            let link = |first| -> std::result::Result<_, NamespaceError> {
                let mode = LinkMode { first, replace };
                inner.store.link_as(file.node.io.ino(), (dir, name), mode)
            };
            inner.nodes.link(&file.node, link)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use cowback_base::Ino;
    use cowback_block_store::MemoryDevice;

    fn volume() -> Volume {
        let options = Options { threads: 1, commit_interval: None, ..Options::default() };
        let device = Arc::new(MemoryDevice::new(24 << 20));
        Volume::create_on(device, &options).unwrap()
    }

    /// What [`Volume::create_file`] gives who was overtaken by a remover, which a model finds (`tests/models/names.rs`).
    #[test]
    fn a_file_that_was_removed_before_it_was_opened_can_be_used_and_goes_with_its_handle() {
        let volume = volume();
        volume.create_dir("dir").unwrap();
        for path in ["f", "dir/f", "gone/too/f"] {
            let node = volume.removed_node(Path::new(path)).unwrap();
            let file = File::new(Arc::clone(&volume.inner), node);
            file.write_at(0, &[1; 10_000]).unwrap();
            volume.commit().unwrap();
            assert!(file.read_block(4096).unwrap() == [1; 4096][..]);
            assert!(volume.link_file(&file, "again").is_err(), "its last name was removed");
        }
        assert_eq!(volume.inner.store.orphans().unwrap(), []);
        volume.close().unwrap();
    }

    #[test]
    fn a_name_that_is_removed_before_it_is_noted_was_the_last() {
        let volume = volume();
        let file = volume.create_unnamed("").unwrap();
        file.write_at(0, &[1; 10_000]).unwrap();
        let mode = LinkMode { first: true, replace: false };
        let linked = volume.inner.nodes.link(&file.node, |first| {
            assert!(first);
            volume.inner.store.link_as(file.node.io.ino(), (Ino::ROOT, b"f"), mode).unwrap();
            volume.remove_file("f") // as another thread may
        });
        linked.unwrap();
        assert!(file.node.is_nameless());
        assert!(volume.link_file(&file, "again").is_err(), "its last name was removed");
        drop(file);
        assert_eq!(volume.inner.store.orphans().unwrap(), []);
        volume.close().unwrap();
    }
}
