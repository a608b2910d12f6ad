//! From paths in the volume to directories and names.
//!
//! Paths are taken from the volume's root; a leading `/` and `.` are skipped. Symlinks are not followed, and `..` is refused: a path names
//! what it spells.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use cowback_base::Ino;
use cowback_base::sync::Mutex;
use cowback_block_store::namespace::{FileType, NamespaceError, Target};

use crate::error::{Error, Result};
use crate::inner::Inner;

/// Directories that are remembered by path.
const DIRS_MAX: usize = 512;

/// Directories that were resolved not long ago.
///
/// What was looked up before a directory moved and would be remembered after it is refused, by the generation.
#[derive(Debug, Default)]
pub(crate) struct DirCache {
    cached: Mutex<Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    dirs: HashMap<PathBuf, Ino>,
    generation: u64,
}

impl DirCache {
    /// The directory at `path`: the remembered one, or what `lookup` finds.
    fn get_or_lookup<E>(
        &self,
        path: &Path,
        lookup: impl FnOnce() -> std::result::Result<Ino, E>,
    ) -> std::result::Result<Ino, E> {
        let generation = {
            let cached = self.cached.lock();
            if let Some(ino) = cached.dirs.get(path) {
                return Ok(*ino);
            }
            cached.generation
        };
        let ino = lookup()?;
        let mut cached = self.cached.lock();
        if cached.generation == generation {
            if cached.dirs.len() >= DIRS_MAX {
                cached.dirs.clear();
            }
            cached.dirs.insert(path.to_path_buf(), ino);
        }
        Ok(ino)
    }

    /// Some directory was removed or renamed. Called before the change can be seen to be over.
    pub(crate) fn forget(&self) {
        let mut cached = self.cached.lock();
        cached.generation += 1;
        cached.dirs.clear();
    }
}

impl Inner {
    /// The inode that `path` names.
    pub(crate) fn resolve(&self, path: &Path) -> Result<Ino> {
        match self.parent_and_name(path)? {
            None => Ok(Ino::ROOT),
            Some((dir, name)) => Ok(self.lookup(dir, name).map_err(Error::at(path))?.0),
        }
    }

    /// What `op` makes of the inode that `path` names. If that goes before it is done, as another has been given its name, it is the other's turn:
    /// who replaces a file leaves no moment at which there is none.
    pub(crate) fn at_path<T>(&self, path: &Path, op: impl Fn(Ino) -> Result<T>) -> Result<T> {
        let mut ino = self.resolve(path)?;
        loop {
            let result = op(ino);
            let gone = |error: &NamespaceError| matches!(error, NamespaceError::NoInode { ino: which } if *which == ino);
            if !matches!(&result, Err(Error::Name { source, .. }) if gone(source)) {
                return result;
            }
            let now = self.resolve(path)?;
            if now == ino {
                return result; // the name of nothing
            }
            ino = now;
        }
    }

    /// The directory that holds what `path` names, and its name there. `None` for the root.
    pub(crate) fn parent_and_name<'a>(&self, path: &'a Path) -> Result<Option<(Ino, &'a [u8])>> {
        let Some(name) = last_name(path)? else { return Ok(None) };
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok(Some((self.resolve_dir(parent)?, name)))
    }

    /// As [`Inner::parent_and_name`], for an entry that is to be made, or one that is not the root.
    pub(crate) fn entry<'a>(&self, path: &'a Path) -> Result<(Ino, &'a [u8])> {
        self.parent_and_name(path)?.ok_or_else(|| {
            Error::at(path)(NamespaceError::Exists { dir: Ino::ROOT, name: "/".to_owned() })
        })
    }

    /// Refuses to remove or move the root directory.
    pub(crate) fn check_not_root(path: &Path) -> Result<()> {
        if last_name(path)?.is_some() {
            return Ok(());
        }
        let what = "the root directory cannot be removed or moved";
        Err(Error::at(path)(NamespaceError::NotSupported { ino: Ino::ROOT, what }))
    }

    fn resolve_dir(&self, path: &Path) -> Result<Ino> {
        self.dirs.get_or_lookup(path, || {
            let mut ino = Ino::ROOT;
            for component in path.components() {
                if let Some(name) = name_of(component).map_err(Error::at(path))? {
                    let (found, kind) = self.lookup(ino, name).map_err(Error::at(path))?;
                    if kind != FileType::Dir {
                        // Not to be remembered: nobody tells when it goes.
                        return Err(Error::at(path)(NamespaceError::NotDir { ino: found }));
                    }
                    ino = found;
                }
            }
            Ok(ino)
        })
    }

    fn lookup(
        &self,
        dir: Ino,
        name: &[u8],
    ) -> std::result::Result<(Ino, FileType), NamespaceError> {
        match self.store.lookup(dir, name)? {
            (Target::Inode(ino), kind) => Ok((ino, kind)),
            (Target::Subvolume(_), _) => {
                Err(NamespaceError::NotSupported { ino: dir, what: "a subvolume is not entered" })
            }
        }
    }
}

/// The last component of `path` that is a name.
fn last_name(path: &Path) -> Result<Option<&[u8]>> {
    match path.components().next_back() {
        None => Ok(None),
        Some(component) => name_of(component).map_err(Error::at(path)),
    }
}

fn name_of(component: Component<'_>) -> std::result::Result<Option<&[u8]>, NamespaceError> {
    match component {
        Component::Normal(name) => Ok(Some(name.as_bytes())),
        Component::RootDir | Component::CurDir => Ok(None),
        Component::ParentDir | Component::Prefix(_) => Err(NamespaceError::InvalidName {
            name: "`..`".to_owned(),
            why: "`..` is not resolved in a volume",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_looked_up_before_it_moved_is_not_remembered_after() {
        let cache = DirCache::default();
        let path = Path::new("a/b");
        let look = |ino, meanwhile: &dyn Fn()| {
            cache.get_or_lookup(path, || {
                meanwhile();
                Ok::<_, ()>(Ino(ino))
            })
        };
        assert_eq!(look(300, &|| cache.forget()), Ok(Ino(300)));
        assert_eq!(look(301, &|| {}), Ok(Ino(301)), "the first was not remembered");
        assert_eq!(look(302, &|| {}), Ok(Ino(301)), "the second was");
    }
}
