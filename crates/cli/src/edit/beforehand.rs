//! What can be told before the first change: a command that names several things, one of which it cannot do, should do none of them.
//!
//! On a full image that does not come by itself: to make space, what was done so far may be committed in the middle of a command.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use cowback::{FileType, Volume};

use crate::failure::{About, Failure, Outcome, in_volume, shown};
use crate::tour::{Step, Tour};

/// Looks at what is to be removed, or made.
#[derive(Debug)]
pub(super) struct Beforehand<'a> {
    volume: &'a Volume,
    image: &'a Path,
    /// What was named before.
    named: HashSet<PathBuf>,
}

impl<'a> Beforehand<'a> {
    pub(super) fn new(volume: &'a Volume, image: &'a Path) -> Self {
        Self { volume, image, named: HashSet::new() }
    }

    /// Whether `path` can be removed, after what was asked about before.
    pub(super) fn remove(&mut self, path: &Path, recursive: bool) -> Outcome<()> {
        let metadata = self.volume.metadata(path).about(self.image)?;
        let plain = without_dots(path);
        let is_root = plain.as_os_str().is_empty();
        if is_root && !recursive {
            // It says why, and changes nothing.
            return self.volume.remove_file(path).about(self.image);
        }
        if !is_root && plain.ancestors().any(|above| self.named.contains(above)) {
            return Err(self.refuse(path, "it is removed already, as an earlier path says"));
        }
        if metadata.kind == FileType::Dir {
            if !recursive {
                return Err(self.refuse(path, "is a directory"));
            }
            self.look_below(path)?;
        }
        self.named.insert(plain);
        Ok(())
    }

    /// Goes through all directories below `path`, of which one may be a subvolume, or none at all.
    fn look_below(&self, path: &Path) -> Outcome<()> {
        let mut tour = Tour::new(self.volume, path);
        let mut result = tour.enter();
        loop {
            result.map_err(|why| self.refuse(tour.path(), &why))?;
            result = match tour.next() {
                None => return Ok(()),
                Some(Step::Entry(entry)) if entry.kind == FileType::Dir => tour.enter(),
                Some(Step::Entry(_) | Step::Leave) => Ok(()),
                Some(Step::Bad(why)) => Err(why),
            };
        }
    }

    /// Whether `path` can be made, after what was asked about before: where it is to be there is nothing yet, and a directory above.
    pub(super) fn make_dir(&mut self, path: &Path) -> Outcome<()> {
        let plain = without_dots(path);
        if self.kind_of(&plain)?.is_some() {
            return Err(self.refuse(path, "something of that name exists"));
        }
        if let Some(above) = plain.parent()
            && !self.named.contains(above)
            && self.volume.metadata(above).about(self.image)?.kind != FileType::Dir
        {
            return Err(self.refuse(above, "not a directory"));
        }
        self.named.insert(plain);
        Ok(())
    }

    /// As [`Beforehand::make_dir`], with the directories above: what is there already has to be a directory.
    pub(super) fn make_dirs(&mut self, path: &Path) -> Outcome<()> {
        let plain = without_dots(path);
        let mut way = PathBuf::new();
        for component in plain.components() {
            way.push(component);
            match self.kind_of(&way)? {
                Some(FileType::Dir) => {}
                Some(_) => return Err(self.refuse(&way, "something of that name exists")),
                None => drop(self.named.insert(way.clone())),
            }
        }
        Ok(())
    }

    /// What is at `path`, or will be.
    fn kind_of(&self, path: &Path) -> Outcome<Option<FileType>> {
        if self.named.contains(path) {
            return Ok(Some(FileType::Dir));
        }
        match self.volume.metadata(path) {
            Ok(metadata) => Ok(Some(metadata.kind)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error).about(self.image),
        }
    }

    fn refuse(&self, path: &Path, why: &str) -> Failure {
        Failure::new(format!("{}: {}", shown(self.image), in_volume(path)), why)
    }
}

/// `path` from the root, as `metadata` reads it: two that name one thing are equal.
fn without_dots(path: &Path) -> PathBuf {
    let left_out = |one: &Component<'_>| matches!(one, Component::RootDir | Component::CurDir);
    path.components().filter(|one| !left_out(one)).collect()
}
