//! Sizes that the whole pipeline agrees on, and newtypes for what is easily confused.

use std::fmt;

/// Bytes in a block, a page and a sector: the unit of caching, allocation and checksums.
pub const BLOCK_SIZE: u64 = 4096;

/// [`BLOCK_SIZE`] as a `usize`, for slices and arrays.
pub const BLOCK_SIZE_USIZE: usize = 4096;

/// Bytes of one unit of parallel compression, an async chunk (512 KiB, as the kernel's `SZ_512K`).
pub const CHUNK_MAX: u64 = 512 * 1024;

/// Most bytes that one compressed extent holds, before and after compression (`BTRFS_MAX_COMPRESSED`).
pub const COMPRESSED_EXTENT_MAX: u64 = 128 * 1024;

/// Most stored bytes of an inline extent (the kernel's default `max_inline`).
pub const INLINE_MAX: u64 = 2048;

/// Rounds `bytes` down to a multiple of [`BLOCK_SIZE`].
#[must_use]
pub const fn block_align_down(bytes: u64) -> u64 {
    bytes & !(BLOCK_SIZE - 1)
}

/// Rounds `bytes` up to a multiple of [`BLOCK_SIZE`].
///
/// # Panics
/// If the result does not fit in a `u64`.
#[must_use]
pub const fn block_align_up(bytes: u64) -> u64 {
    match bytes.checked_add(BLOCK_SIZE - 1) {
        Some(sum) => block_align_down(sum),
        None => panic!("block_align_up overflows"),
    }
}

/// Number of a page within a file: byte offset divided by [`BLOCK_SIZE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PageIndex(pub u64);

impl PageIndex {
    /// The page that holds byte `offset` of a file.
    #[must_use]
    pub const fn containing(offset: u64) -> Self {
        Self(offset / BLOCK_SIZE)
    }

    /// Byte offset in the file at which this page begins.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 * BLOCK_SIZE
    }

    /// The page after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Debug for PageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}", self.0)
    }
}

/// Logical disk address in bytes (btrfs' `bytenr`): what trees and extents are addressed by, before the chunk map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytenr(pub u64);

impl Bytenr {
    /// The address `bytes` further on.
    ///
    /// # Panics
    /// If the sum does not fit in a `u64`.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        match self.0.checked_add(bytes) {
            Some(sum) => Self(sum),
            None => panic!("disk address overflows"),
        }
    }
}

impl fmt::Debug for Bytenr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytenr {}", self.0)
    }
}

impl fmt::Display for Bytenr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Inode number: btrfs' objectid of a file, directory or other entry of the file tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory of the file tree (`BTRFS_FIRST_FREE_OBJECTID`).
    pub const ROOT: Self = Self(256);
}

impl fmt::Debug for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ino {}", self.0)
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
