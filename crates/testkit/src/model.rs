//! A plain in-memory model of a volume, and random operations to compare a real one with it (laws D1, E4).
//!
//! The model is small enough to be seen to be right. Whatever is tested implements [`Target`]; [`run`] applies the same
//! operations to both and compares every result, and after each commit or reopening the whole tree. Any list of
//! operations is valid, so that a failing one can be made shorter by leaving operations out ([`shrink`]).

mod ops;
mod run;
mod volume;

pub use ops::{Generator, Op, Sizes};
pub use run::{Mismatch, Options, compare, run, shrink, which_snapshot};
pub use volume::Model;

use std::fmt;

/// Why an operation is refused: what POSIX tells apart, as far as a test can rely on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpError {
    /// `ENOENT`.
    NotFound,
    /// `EEXIST`.
    Exists,
    /// `ENOTDIR`.
    NotDir,
    /// `EISDIR`.
    IsDir,
    /// `ENOTEMPTY`.
    NotEmpty,
    /// `EINVAL`.
    Invalid,
    /// `ENAMETOOLONG`.
    NameTooLong,
    /// `ENODATA`.
    NoAttribute,
    /// `EPERM`.
    NotPermitted,
    /// `EMLINK`.
    TooManyLinks,
    /// `ENOSPC`: never expected by the model; the run goes on as if the operation had not been tried.
    NoSpace,
    /// Any other: always a mismatch.
    Other(String),
}

/// Result of an operation on a target.
pub type OpResult<T> = Result<T, OpError>;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
}

/// What `stat` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of a file, or of a symlink's target; 0 for directories.
    pub len: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of a file or symlink; 1 for directories.
    pub links: u32,
}

/// What is compared with the model: paths are relative to the root (which is the empty path), and no operation follows
/// a symlink, be it the last part of a path or not.
pub trait Target {
    /// Makes an empty file.
    ///
    /// # Errors
    /// `NotFound`, `NotDir` by the path; `Exists`, `NameTooLong`.
    fn create(&mut self, path: &[u8], mode: u32) -> OpResult<()>;
    /// Makes an empty directory.
    ///
    /// # Errors
    /// As [`Target::create`].
    fn mkdir(&mut self, path: &[u8], mode: u32) -> OpResult<()>;
    /// Makes a symlink at `path`.
    ///
    /// # Errors
    /// As [`Target::create`].
    fn symlink(&mut self, to: &[u8], path: &[u8]) -> OpResult<()>;
    /// Gives the file or symlink `old` another name.
    ///
    /// # Errors
    /// As [`Target::create`]; `NotPermitted` for a directory.
    fn link(&mut self, old: &[u8], new: &[u8]) -> OpResult<()>;
    /// Renames, replacing what is there as POSIX says.
    ///
    /// # Errors
    /// As [`Target::create`]; `IsDir`, `NotDir`, `NotEmpty` by what is replaced; `Invalid` into itself.
    fn rename(&mut self, from: &[u8], to: &[u8]) -> OpResult<()>;
    /// Removes a name of a file or symlink.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `IsDir`.
    fn unlink(&mut self, path: &[u8]) -> OpResult<()>;
    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `NotEmpty`; `Invalid` for the root.
    fn rmdir(&mut self, path: &[u8]) -> OpResult<()>;
    /// Writes all of `data`, beyond the end if need be.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `IsDir`; `Invalid` for a symlink.
    fn write(&mut self, path: &[u8], offset: u64, data: &[u8]) -> OpResult<()>;
    /// Reads at most `len` bytes, fewer at the end of the file.
    ///
    /// # Errors
    /// As [`Target::write`].
    fn read(&mut self, path: &[u8], offset: u64, len: usize) -> OpResult<Vec<u8>>;
    /// Sets the length of a file.
    ///
    /// # Errors
    /// As [`Target::write`].
    fn truncate(&mut self, path: &[u8], len: u64) -> OpResult<()>;
    /// Where a symlink points.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`; `Invalid` for what is no symlink.
    fn read_link(&mut self, path: &[u8]) -> OpResult<Vec<u8>>;
    /// What is known of an entry.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`.
    fn stat(&mut self, path: &[u8]) -> OpResult<Stat>;
    /// Sets permission bits and owners.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`.
    fn set_attributes(&mut self, path: &[u8], mode: u32, uid: u32, gid: u32) -> OpResult<()>;
    /// The names in a directory, in any order.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`.
    fn list(&mut self, path: &[u8]) -> OpResult<Vec<Vec<u8>>>;
    /// Sets an extended attribute, replacing it if it is there.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`.
    fn set_xattr(&mut self, path: &[u8], name: &[u8], value: &[u8]) -> OpResult<()>;
    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `NoAttribute`.
    fn remove_xattr(&mut self, path: &[u8], name: &[u8]) -> OpResult<()>;
    /// All extended attributes, in any order.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`.
    fn xattrs(&mut self, path: &[u8]) -> OpResult<Vec<(Vec<u8>, Vec<u8>)>>;
    /// Makes what was done to one file durable.
    ///
    /// # Errors
    /// As [`Target::write`].
    fn sync_file(&mut self, path: &[u8]) -> OpResult<()>;
    /// Makes all that was done durable.
    ///
    /// # Errors
    /// None that is expected.
    fn commit(&mut self) -> OpResult<()>;
    /// Closes and opens again, having committed.
    ///
    /// # Errors
    /// None that is expected.
    fn reopen(&mut self) -> OpResult<()>;
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for OpError {}

#[cfg(test)]
mod tests;
