//! What can go wrong, with what and where.

use std::io;
use std::path::{Path, PathBuf};

pub use cowback_base::Ino;
pub use cowback_block_store::namespace::NamespaceError;
pub use cowback_extent_io::StoreError;

/// Why an operation on a volume failed. Nothing of it was done, unless the operation says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image file or device could not be opened or made.
    #[error("{}: {source}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A name in the volume does not allow the operation: it is missing, exists, is a directory, is too long ...
    #[error("{}: {source}", path.display())]
    Name {
        /// The path in the volume. Empty if it is not known: for an operation on an open file, or of a commit.
        path: PathBuf,
        /// What is wrong with it.
        source: NamespaceError,
    },
    /// The store failed: no space, an IO error, damage, or a volume that has turned read-only.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An option that cannot be.
    #[error("option {option}: {why}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A write beyond the largest file that btrfs has.
    #[error("{at} is beyond the largest file size of {max} bytes")]
    TooLarge {
        /// Where the write would have ended, or the size asked for.
        at: u64,
        /// The largest size.
        max: u64,
    },
    /// The threads of the volume could not be started.
    #[error("starting worker threads: {0}")]
    Threads(#[source] io::Error),
    /// The volume was closed with data of open files unwritten, or a gauge was not at rest: a defect of cowback.
    #[error("not at rest after close: {0}")]
    NotAtRest(String),
}

/// Result of an operation on a volume.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the cause is that there is no space left. Freeing some makes the operation possible again.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::NoSpace { .. })
                | Self::Name { source: NamespaceError::Store(StoreError::NoSpace { .. }), .. }
        )
    }

    /// Whether the cause is that a path does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        use NamespaceError::{NoInode, NotFound};
        matches!(self, Self::Name { source: NotFound { .. } | NoInode { .. }, .. })
    }

    /// What went wrong with `path`. It is copied only if something did.
    pub(crate) fn at(path: &Path) -> impl FnOnce(NamespaceError) -> Self {
        move |source| match source {
            NamespaceError::Store(error) => Self::Store(error),
            source => Self::Name { path: path.to_path_buf(), source },
        }
    }
}
