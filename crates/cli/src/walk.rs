//! The way through a directory tree of the host, as a stack of open directories.
//!
//! Everything is reached from the directory that holds it, by a name without a slash, and no symlink is followed: so neither a path that
//! is too long, nor a directory that is replaced on the way, leads elsewhere. Invariants: the top of the stack is always open; at most
//! [`MOST_OPEN`] descriptors are, however deep the tree is.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;

use crate::target::FileId;

/// Descriptors that a stack keeps open. A directory further up is opened again, by `..`, when the way leads back to it.
const MOST_OPEN: usize = 128;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Open directories, each in the one before.
#[derive(Debug)]
pub(crate) struct DirStack {
    levels: Vec<(FileId, Option<OwnedFd>)>,
}

impl DirStack {
    pub(crate) fn new(root: OwnedFd) -> io::Result<Self> {
        let id = file_id(&fstat(&root)?);
        Ok(Self { levels: vec![(id, Some(root))] })
    }

    /// The directory at the end of the way.
    pub(crate) fn top(&self) -> BorrowedFd<'_> {
        let (_, top) = self.levels.last().expect("the root is never popped");
        top.as_ref().expect("the top is open").as_fd()
    }

    /// Directories on the way, without the root.
    pub(crate) fn depth(&self) -> usize {
        self.levels.len() - 1
    }

    /// Goes on into a directory of the top.
    pub(crate) fn push(&mut self, dir: OwnedFd, id: FileId) {
        self.levels.push((id, Some(dir)));
        if let Some(far) = self.levels.len().checked_sub(MOST_OPEN + 1)
            && far > 0
        {
            self.levels[far].1 = None;
        }
    }

    /// Goes back by one, and returns the directory that was left.
    pub(crate) fn pop(&mut self) -> io::Result<OwnedFd> {
        let (_, left) = self.levels.pop().expect("one pop for each push");
        let left = left.expect("the top is open");
        let (id, parent) = self.levels.last_mut().expect("the root is never popped");
        if parent.is_none() {
            let found = openat(&left, "..", DIRECTORY, Mode::empty())?;
            if file_id(&fstat(&found)?) != *id {
                return Err(io::Error::other("the directory was moved meanwhile"));
            }
            *parent = Some(found);
        }
        Ok(left)
    }
}

/// Opens a directory in `parent`, without leaving a trace of the reading if the user may.
pub(crate) fn open_dir(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    open_quietly(parent, name, DIRECTORY)
}

/// Opens a file in `parent`, without leaving a trace of the reading if the user may, and without waiting for anybody if it is a pipe.
pub(crate) fn open_file(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open_quietly(parent, name, flags)
}

fn open_quietly(parent: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    match openat(parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(parent, name, flags, Mode::empty()),
        result => result,
    }
}

pub(crate) fn file_id(stat: &Stat) -> FileId {
    (stat.st_dev, stat.st_ino)
}

/// A path that grows and shrinks by a name at a time.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    bytes: Vec<u8>,
}

impl Trail {
    pub(crate) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.bytes))
    }

    /// Adds a name; the length to go back to is returned.
    pub(crate) fn push(&mut self, name: &[u8]) -> usize {
        let before = self.bytes.len();
        if before > 0 {
            self.bytes.push(b'/');
        }
        self.bytes.extend_from_slice(name);
        before
    }

    pub(crate) fn cut(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// This path below `root`.
    pub(crate) fn below(&self, root: &Path) -> PathBuf {
        if self.bytes.is_empty() { root.to_path_buf() } else { root.join(self.path()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, mkdirat};

    #[test]
    fn a_deep_way_leads_back_with_few_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let root = openat(CWD, dir.path(), DIRECTORY, Mode::empty()).unwrap();
        let mut stack = DirStack::new(root).unwrap();
        let mut ids = vec![file_id(&fstat(stack.top()).unwrap())];
        for _ in 0..3 * MOST_OPEN {
            mkdirat(stack.top(), "d", Mode::RWXU).unwrap();
            let next = open_dir(stack.top(), b"d").unwrap();
            let id = file_id(&fstat(&next).unwrap());
            ids.push(id);
            stack.push(next, id);
            let open = stack.levels.iter().filter(|(_, dir)| dir.is_some()).count();
            assert!(open <= MOST_OPEN + 1, "{open}");
        }
        while stack.depth() > 0 {
            assert_eq!(file_id(&fstat(stack.top()).unwrap()), ids.pop().unwrap());
            stack.pop().unwrap();
        }
    }

    #[test]
    fn a_trail_grows_and_shrinks() {
        let mut trail = Trail::default();
        assert_eq!(trail.below(Path::new("/r")), Path::new("/r"));
        trail.push(b"a");
        let len = trail.push(b"b\xff");
        assert_eq!(trail.path().as_os_str().as_bytes(), b"a/b\xff");
        trail.cut(len);
        assert_eq!(trail.below(Path::new("/r")), Path::new("/r/a"));
    }
}
