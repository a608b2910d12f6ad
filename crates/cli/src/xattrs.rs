//! Extended attributes of the host's files.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{
    XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, lgetxattr, llistxattr,
    lremovexattr, lsetxattr,
};
use rustix::io::Errno;

/// Longest list of names, and longest value, that Linux has.
const LONGEST: usize = 64 << 10;

/// What the attributes belong to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// The entry of this name in a directory, not followed if it is a symlink.
    In(BorrowedFd<'a>, &'a [u8]),
}

impl Place<'_> {
    /// There are no such calls relative to a directory: its descriptor's name in /proc stands for it.
    fn path(dir: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        dir.join(std::ffi::OsStr::from_bytes(name))
    }

    fn list(self, names: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => flistxattr(fd, names),
            Self::In(dir, name) => llistxattr(Self::path(dir, name), names),
        }
    }

    fn get(self, attribute: &[u8], value: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => fgetxattr(fd, attribute, value),
            Self::In(dir, name) => lgetxattr(Self::path(dir, name), attribute, value),
        }
    }

    /// Sets an attribute.
    pub(crate) fn set(self, attribute: &[u8], value: &[u8]) -> Result<(), Errno> {
        let flags = XattrFlags::empty();
        match self {
            Self::Open(fd) => fsetxattr(fd.as_fd(), attribute, value, flags),
            Self::In(dir, name) => lsetxattr(Self::path(dir, name), attribute, value, flags),
        }
    }

    /// Removes an attribute.
    pub(crate) fn remove(self, attribute: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => fremovexattr(fd, attribute),
            Self::In(dir, name) => lremovexattr(Self::path(dir, name), attribute),
        }
    }
}

/// Reads attributes, with buffers that are used again and again.
#[derive(Debug)]
pub(crate) struct XattrReader {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl XattrReader {
    pub(crate) fn new() -> Self {
        Self { names: vec![0; LONGEST], value: vec![0; LONGEST] }
    }

    /// Hands each attribute, name and value, or why there is no value, to `take`, in the order of their names. What vanishes meanwhile is passed
    /// over.
    pub(crate) fn each<E: From<io::Error>>(
        &mut self,
        place: Place<'_>,
        mut take: impl FnMut(&[u8], io::Result<&[u8]>) -> Result<(), E>,
    ) -> Result<(), E> {
        let len = match place.list(&mut self.names) {
            Ok(0) | Err(Errno::NOTSUP | Errno::NOENT) => return Ok(()),
            Ok(len) => len,
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let listed = self.names.get(..len).unwrap_or_default();
        let mut names: Vec<&[u8]> =
            listed.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        for name in names {
            match place.get(name, &mut self.value) {
                Ok(len) => take(name, Ok(self.value.get(..len).unwrap_or_default()))?,
                Err(Errno::NODATA | Errno::NOTSUP) => {}
                Err(error) => take(name, Err(error.into()))?,
            }
        }
        Ok(())
    }
}
