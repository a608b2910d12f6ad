//! What a caller of the namespace may get wrong, told apart so that each has its errno.

use cowback_base::Ino;
use cowback_extent_io::store::StoreError;

/// Why an operation on names or attributes was refused. Unless it is [`NamespaceError::Store`], nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// No entry of that name.
    #[error("{dir} has no entry {name}")]
    NotFound {
        /// The directory.
        dir: Ino,
        /// The name, escaped.
        name: String,
    },
    /// No such inode, or one without names that takes no new ones.
    #[error("there is no {ino}")]
    NoInode {
        /// The inode.
        ino: Ino,
    },
    /// An entry of that name is there already.
    #[error("{dir} has an entry {name} already")]
    Exists {
        /// The directory.
        dir: Ino,
        /// The name, escaped.
        name: String,
    },
    /// Not a directory.
    #[error("{ino} is not a directory")]
    NotDir {
        /// The inode.
        ino: Ino,
    },
    /// A directory, where none may be.
    #[error("{ino} is a directory")]
    IsDir {
        /// The inode.
        ino: Ino,
    },
    /// A directory with entries.
    #[error("directory {ino} is not empty")]
    NotEmpty {
        /// The directory.
        ino: Ino,
    },
    /// A name that no entry can have.
    #[error("invalid name {name}: {why}")]
    InvalidName {
        /// The name, escaped.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A name, symlink target or attribute name that is too long.
    #[error("{what} of {len} bytes is too long: at most {max}")]
    NameTooLong {
        /// What it was to be.
        what: &'static str,
        /// Its bytes.
        len: usize,
        /// Most bytes.
        max: usize,
    },
    /// No more names for this file.
    #[error("{ino} has too many links")]
    TooManyLinks {
        /// The file.
        ino: Ino,
    },
    /// The directory's item for names of this hash is full.
    #[error("too many names of {ino} collide with {name}")]
    TooManyCollisions {
        /// The directory, or the file whose attribute it is.
        ino: Ino,
        /// The name, escaped.
        name: String,
    },
    /// A directory would become its own ancestor.
    #[error("directory {ino} cannot move into itself")]
    Loop {
        /// The directory.
        ino: Ino,
    },
    /// Not a symbolic link.
    #[error("{ino} is not a symbolic link")]
    NotSymlink {
        /// The inode.
        ino: Ino,
    },
    /// No such extended attribute.
    #[error("{ino} has no attribute {name}")]
    NoAttribute {
        /// The file.
        ino: Ino,
        /// The attribute, escaped.
        name: String,
    },
    /// An attribute of that name is there already.
    #[error("{ino} has an attribute {name} already")]
    AttributeExists {
        /// The file.
        ino: Ino,
        /// The attribute, escaped.
        name: String,
    },
    /// An attribute value that is too long.
    #[error("a value of {len} bytes is too long: at most {max}")]
    ValueTooLong {
        /// Its bytes.
        len: usize,
        /// Most bytes, with this name.
        max: usize,
    },
    /// Not possible on this kind of entry.
    #[error("{ino}: {what}")]
    NotSupported {
        /// The inode, or the subvolume.
        ino: Ino,
        /// What is not possible.
        what: &'static str,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Result of a namespace operation.
pub type NsResult<T> = Result<T, NamespaceError>;

/// A name as errors show it.
pub(crate) fn shown(name: &[u8]) -> String {
    format!("`{}`", name.escape_ascii())
}
