//! The way through a directory tree of a volume, step by step.
//!
//! What a hostile image can do is bounded here: a directory is entered once, so that one that is its own ancestor, or has many names, leads nowhere; and a name
//! that could mean another place (with a slash, or `.` or `..`) is never handed on.

use std::collections::HashSet;
use std::path::{Component, Path};
use std::vec;

use cowback::{DirEntry, Volume};

use crate::failure::Explain;
use crate::walk::Trail;

/// A walk through a volume.
#[derive(Debug)]
pub(crate) struct Tour<'v> {
    volume: &'v Volume,
    trail: Trail,
    levels: Vec<Level>,
    entered: HashSet<u64>,
    /// What the trail is cut to before the next step.
    back_to: usize,
}

#[derive(Debug)]
struct Level {
    entries: vec::IntoIter<DirEntry>,
    trail_len: usize,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Step {
    /// An entry of the directory; [`Tour::path`] is its path.
    Entry(DirEntry),
    /// The directory that [`Tour::path`] names is done.
    Leave,
    /// An entry that cannot be one; [`Tour::path`] is the directory's path.
    Bad(String),
}

impl<'v> Tour<'v> {
    /// A walk that begins at `root`: it has to be entered.
    pub(crate) fn new(volume: &'v Volume, root: &Path) -> Self {
        Self::sharing(volume, root, HashSet::new())
    }

    /// As [`Tour::new`], when walks before it entered the directories `entered`.
    pub(crate) fn sharing(volume: &'v Volume, root: &Path, entered: HashSet<u64>) -> Self {
        use std::os::unix::ffi::OsStrExt as _;
        let mut trail = Trail::default();
        for component in root.components() {
            if component != Component::RootDir && component != Component::CurDir {
                trail.push(component.as_os_str().as_bytes());
            }
        }
        let back_to = trail.path().as_os_str().len();
        Self { volume, trail, levels: Vec::new(), entered, back_to }
    }

    /// The directories that were entered.
    pub(crate) fn end(self) -> HashSet<u64> {
        self.entered
    }

    /// Where the walk is.
    pub(crate) fn path(&self) -> &Path {
        self.trail.path()
    }

    /// Goes on with the entries of the directory where the walk is, in the order of their names.
    pub(crate) fn enter(&mut self) -> Result<(), String> {
        let ino = self.volume.metadata(self.path()).map_err(|error| own(&error))?.ino;
        if !self.entered.insert(ino) {
            return Err(format!("corrupt: directory {ino} has more than one place"));
        }
        let mut entries = self.volume.read_dir(self.path()).map_err(|error| own(&error))?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.levels.push(Level { entries: entries.into_iter(), trail_len: self.back_to });
        self.back_to = self.trail.path().as_os_str().len();
        Ok(())
    }

    /// The next step, or the end.
    pub(crate) fn next(&mut self) -> Option<Step> {
        self.trail.cut(self.back_to);
        let level = self.levels.last_mut()?;
        let Some(entry) = level.entries.next() else {
            self.back_to = level.trail_len;
            self.levels.pop();
            return Some(Step::Leave);
        };
        if let Err(why) = check_name(&entry.name) {
            return Some(Step::Bad(why));
        }
        self.trail.push(&entry.name);
        Some(Step::Entry(entry))
    }
}

fn check_name(name: &[u8]) -> Result<(), String> {
    let other_place = matches!(name, b"" | b"." | b"..");
    if other_place || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(format!("corrupt: an entry has the name `{}`", name.escape_ascii()));
    }
    Ok(())
}

/// What is wrong, without the path that [`Tour::path`] tells already.
pub(crate) fn own(error: &cowback::Error) -> String {
    match error {
        cowback::Error::Name { source, .. } => crate::failure::name_error(source),
        other => other.explain(),
    }
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_that_mean_other_places_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in [&b"..."[..], b".a", b"\xff\n", b"a..", b" "] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }
}
