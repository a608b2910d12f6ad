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

/// For devices and others who speak of errors as the standard library does. What an [`Error::Store`] got from the device keeps its kind.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Image { source, .. } | Error::Threads(source) => source.kind(),
            Error::Store(StoreError::Io { source, .. }) => source.kind(),
            Error::Store(StoreError::ReadOnly { .. }) => io::ErrorKind::ReadOnlyFilesystem,
            Error::Store(StoreError::Corrupt { .. }) => io::ErrorKind::InvalidData,
            Error::TooLarge { .. } => io::ErrorKind::FileTooLarge,
            Error::Option { .. } => io::ErrorKind::InvalidInput,
            error if error.is_no_space() => io::ErrorKind::StorageFull,
            error if error.is_not_found() => io::ErrorKind::NotFound,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Of an open file, or of a commit: there is no path to tell.
impl From<NamespaceError> for Error {
    fn from(error: NamespaceError) -> Self {
        Self::at(Path::new(""))(error)
    }
}

impl Error {
    /// Whether the cause is that there is no space left: in the volume, or on the host of an image that grows. Freeing some makes the operation
    /// possible again. (If it was a commit whose metadata the host had no room for, after [`Volume::try_resume`](crate::Volume::try_resume).)
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match self {
            Self::Store(StoreError::Io { source, .. }) => {
                matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge)
            }
            error => error.is_volume_full(),
        }
    }

    /// Whether the volume itself has no space: a commit may make some.
    pub(crate) fn is_volume_full(&self) -> bool {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn want_of_room_is_told_from_other_errors_of_a_device() {
        let of_device = |kind: io::ErrorKind| {
            let source = Arc::new(io::Error::from(kind));
            Error::Store(StoreError::Io { op: "write", at: 4096, len: 512, source })
        };
        for (kind, no_space) in [
            (io::ErrorKind::StorageFull, true),
            (io::ErrorKind::QuotaExceeded, true),
            (io::ErrorKind::BrokenPipe, false),
        ] {
            let error = of_device(kind);
            assert_eq!((error.is_no_space(), error.is_volume_full()), (no_space, false));
            let text = error.to_string();
            let as_io = io::Error::from(error);
            assert_eq!((as_io.kind(), as_io.to_string()), (kind, text));
        }
        let name = Error::at(Path::new("a"))(NamespaceError::NoInode { ino: Ino(7) });
        assert_eq!(io::Error::from(name).kind(), io::ErrorKind::NotFound);
    }
}
