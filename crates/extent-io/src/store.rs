//! The store, as the writeback engine sees it (stages 6 to 8 of the pipeline).
//!
//! An extent's space goes through three values, and each hand-over consumes the one before, so that an extent cannot be
//! freed twice, nor be named by metadata before its bytes were written:
//!
//! ```text
//! reserve_data -> alloc_extent ---> DiskExtent -> write_extent -> WrittenExtent -> finish_ordered
//!                 claim_in_place -+     |                              |
//!                                       +------- free_extent ----------+
//! ```
//!
//! What is written in place goes the same way; only where its space comes from differs, and what becomes of it if it is given back
//! ([`OrderedKind`]).
//!
//! The trait lives below the store that implements it, so that the engine runs as well over a store in memory.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cowback_base::{ByteRange, Bytenr, Ino};

/// How the bytes of an extent are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// As they are.
    None,
    /// One zlib stream.
    Zlib,
    /// LZO1X segments in btrfs framing.
    Lzo,
    /// One zstd frame, window of at most 128 KiB.
    Zstd,
}

/// What the space of an extent is before it is written: the kernel's types of ordered extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderedKind {
    /// Fresh: nothing refers to it. Given back, it is free.
    Regular,
    /// A part of an extent that the file has preallocated: until it is recorded as written, it reads as zeros. Given back, it is as before.
    Prealloc,
    /// What the file has there, to be overwritten. There is nothing to give back, and nothing to record.
    Nocow,
}

/// Space on disk that is to be written by whoever holds this, and that nobody may read or free meanwhile: written, or given back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an allocated extent is written or freed, or its space is lost"]
pub struct DiskExtent {
    /// First byte, block aligned.
    pub bytenr: Bytenr,
    /// Bytes, a multiple of the block size.
    pub len: u64,
    /// What it is as yet.
    pub kind: OrderedKind,
}

/// What [`ExtentStore::claim_in_place`] found about the first bytes of a range.
#[derive(Debug, PartialEq, Eq)]
pub struct InPlace {
    /// Of how many bytes, whole blocks, this speaks.
    pub len: u64,
    /// Where they may be written; `None`: they need fresh space.
    pub extent: Option<DiskExtent>,
}

/// What [`ExtentStore::prealloc_extents`] does with bytes that have an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PreallocMode {
    /// They stay.
    Keep,
    /// They go, unless they are preallocated and not written yet: all of the range reads as zeros then.
    Zero,
}

/// An extent whose bytes were handed to the device without error, with their checksums.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a written extent is recorded by finish_ordered or freed, or its space is lost"]
pub struct WrittenExtent {
    /// Where.
    pub extent: DiskExtent,
    /// The checksums of the blocks on disk, one after another; empty for data without checksums.
    pub sums: Vec<u8>,
}

/// A completed ordered extent: what [`ExtentStore::finish_ordered`] records in the running transaction.
#[derive(Debug)]
pub struct FinishedExtent {
    /// The file.
    pub ino: Ino,
    /// The blocks of the file, block aligned; whatever mapped them before is dropped.
    pub range: ByteRange,
    /// The bytes on disk. The extent holds exactly `range`.
    pub written: WrittenExtent,
    /// How they are stored.
    pub compression: Compression,
}

/// The content of a file that is small enough to live in its file tree's leaf.
#[derive(Debug, Clone)]
pub struct InlineExtent {
    /// Bytes of the file, uncompressed: all of it.
    pub ram_bytes: u64,
    /// How `data` is stored.
    pub compression: Compression,
    /// The stored bytes.
    pub data: Bytes,
}

/// What a file's bytes from some offset on are mapped to (an extent map).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentMap {
    /// The bytes of the file that this speaks of, block aligned; an inline extent's and the last hole's may end beyond EOF.
    pub range: ByteRange,
    /// Where they are.
    pub kind: ExtentKind,
}

impl ExtentMap {
    /// The part of this that maps `part`, which lies in its range.
    #[must_use]
    pub fn slice(&self, part: ByteRange) -> Self {
        let mut kind = self.kind.clone();
        if let ExtentKind::Regular { offset, .. } | ExtentKind::Prealloc { offset, .. } = &mut kind
        {
            *offset += part.start - self.range.start;
        }
        Self { range: part, kind }
    }
}

/// Where the bytes of an [`ExtentMap`] are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtentKind {
    /// Nowhere: they read as zeros.
    Hole,
    /// Allocated and not written: they read as zeros.
    Prealloc {
        /// First byte of the whole extent on disk.
        disk_bytenr: Bytenr,
        /// Bytes of the whole extent on disk.
        disk_len: u64,
        /// Where in the extent the map's range begins.
        offset: u64,
    },
    /// In the file tree itself, `ram_bytes` of them, stored as `data`.
    Inline {
        /// Bytes when unpacked.
        ram_bytes: u64,
        /// How they are stored.
        compression: Compression,
        /// The stored bytes.
        data: Bytes,
    },
    /// In an extent on disk.
    Regular {
        /// First byte of the whole extent on disk.
        disk_bytenr: Bytenr,
        /// Bytes of the whole extent on disk.
        disk_len: u64,
        /// Bytes that the whole extent unpacks to.
        ram_bytes: u64,
        /// Where in the unpacked extent the map's range begins.
        offset: u64,
        /// How it is stored.
        compression: Compression,
    },
}

/// What went wrong in the store, with what and where. Cheap to clone, as one error is reported to many.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No room.
    #[error("no space left: {what} needs {wanted} bytes, {available} are available")]
    NoSpace {
        /// For what.
        what: &'static str,
        /// Bytes asked for.
        wanted: u64,
        /// Bytes to be had.
        available: u64,
    },
    /// The device failed.
    #[error("{op} of {len} bytes at {at}: {source}")]
    Io {
        /// What it was to do, in a word: `read`, `write`, `flush`, `size` (to tell how many bytes it has), `grow`, `shrink`.
        op: &'static str,
        /// Device offset in bytes.
        at: u64,
        /// Bytes.
        len: u64,
        /// The device's own word.
        source: Arc<io::Error>,
    },
    /// What is on disk cannot be right.
    #[error("corrupt: {what} at {at}: {why}")]
    Corrupt {
        /// Which structure.
        what: String,
        /// Logical disk address in bytes, or the item's key.
        at: String,
        /// What was found, and what was expected.
        why: String,
    },
    /// What is on disk is of a kind that this store does not know, or does not handle. Nothing is known to be damaged.
    #[error("unsupported: {what} at {at}: {why}")]
    Unsupported {
        /// Which structure.
        what: &'static str,
        /// Where it is, as in [`StoreError::Corrupt`].
        at: u64,
        /// What was found, and what is supported.
        why: String,
    },
    /// There are several copies, and none is good: each is damaged, or could not be read.
    #[error("no copy of the {what} at {at} is good: {}", told(copies))]
    NoGoodCopy {
        /// Of what.
        what: &'static str,
        /// Its logical disk address in bytes.
        at: u64,
        /// The copies: where on the device, and what is wrong there. [`StoreError::Io`] is a copy that could not be read.
        copies: Arc<[(u64, StoreError)]>,
    },
    /// A defect of cowback itself.
    #[error("internal error: {what}")]
    Internal {
        /// What happened.
        what: &'static str,
    },
    /// The volume takes no more writes.
    #[error("the volume is read-only: {reason}")]
    ReadOnly {
        /// Since when and why.
        reason: String,
    },
}

fn told(copies: &[(u64, StoreError)]) -> String {
    let told = copies.iter().map(|(at, error)| format!("[{at} on the device] {error}"));
    told.collect::<Vec<_>>().join("; ")
}

/// Result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// A store of extents under files. All methods may be called from any thread.
///
/// Lock order (R1): a caller may hold page locks and extent ranges; the store takes none of them and never calls back.
pub trait ExtentStore: Send + Sync + fmt::Debug {
    /// Promises `bytes` (a multiple of the block size) of data space, and room for the metadata that will name it.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::ReadOnly`].
    fn reserve_data(&self, bytes: u64) -> StoreResult<()>;

    /// As [`ExtentStore::reserve_data`], for bytes whose extent could not be used: they were promised before, and stay so.
    fn reserve_data_again(&self, bytes: u64);

    /// Takes back a promise, because the bytes are gone, or were promised already.
    fn release_data(&self, bytes: u64);

    /// A promise was kept: the bytes have an extent now, or became inline. A store need not tell that from a promise that is taken back.
    fn spend_data(&self, bytes: u64) {
        self.release_data(bytes);
    }

    /// Promises room for the metadata of `bytes` bytes that will be written in place: they need no data space.
    ///
    /// # Errors
    /// As [`ExtentStore::reserve_data`].
    fn reserve_in_place(&self, bytes: u64) -> StoreResult<()>;

    /// As [`ExtentStore::reserve_in_place`], for bytes that were to be written in place, and could not.
    fn reserve_in_place_again(&self, bytes: u64);

    /// Takes back what [`ExtentStore::reserve_in_place`] promised.
    fn release_in_place(&self, bytes: u64);

    /// As [`ExtentStore::spend_data`], for what was promised to be written in place: it is on its way.
    fn spend_in_place(&self, bytes: u64) {
        self.release_in_place(bytes);
    }

    /// Allocates one contiguous extent of at least `min` and at most `want` bytes, as near after the previous one as can be.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] if no free extent of `min` bytes exists.
    fn alloc_extent(&self, want: u64, min: u64) -> StoreResult<DiskExtent>;

    /// Finds out whether the first blocks of `range` of the file may be written where they are, and claims them if so: they are
    /// preallocated, or the file is one whose data is not copied on write; and nothing but this file refers to their extent, no snapshot
    /// either; and no checksum speaks of them.
    ///
    /// The caller sees to it that the mapping of `range` does not change as long as it has the extent: it holds the pages, or keeps
    /// writeback and changes of extents out.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Corrupt`], [`StoreError::ReadOnly`].
    fn claim_in_place(&self, ino: Ino, range: ByteRange) -> StoreResult<InPlace>;

    /// Gives an extent back that was not written, or whose bytes are of no use, as its [`OrderedKind`] says.
    fn free_extent(&self, extent: DiskExtent);

    /// Writes `data`, whose parts add up to the extent's length, and computes the checksums of its blocks.
    ///
    /// # Errors
    /// The extent comes back with the device's error.
    fn write_extent(
        &self,
        extent: DiskExtent,
        data: &[&[u8]],
    ) -> Result<WrittenExtent, (DiskExtent, StoreError)>;

    /// Records that `finished.range` of the file is now where it was written, in the running transaction.
    ///
    /// # Errors
    /// The extent has been given back, as by [`ExtentStore::free_extent`]; the file is as before.
    fn finish_ordered(&self, finished: FinishedExtent) -> StoreResult<()>;

    /// Makes `inline` the whole content of the file in the running transaction.
    ///
    /// # Errors
    /// The file is as before; the caller goes on with an ordinary extent.
    fn insert_inline(&self, ino: Ino, inline: InlineExtent) -> StoreResult<()>;

    /// Drops what the file maps at or after `size`, rounded up to a block: the file was truncated to `size`.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Corrupt`].
    fn truncate_extents(&self, ino: Ino, size: u64) -> StoreResult<()>;

    /// Drops what the file maps in `range`, whole blocks: they are a hole from then on.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Io`], [`StoreError::Corrupt`]; the file is as before.
    fn punch_extents(&self, ino: Ino, range: ByteRange) -> StoreResult<()>;

    /// Gives every block of `range` of the file, whole blocks, space that is allocated and not written, as `mode` says. That space is there when
    /// this returns: a write to it cannot fail for want of data space. The file's size stays.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Io`], [`StoreError::Corrupt`]; the file is as before.
    fn prealloc_extents(&self, ino: Ino, range: ByteRange, mode: PreallocMode) -> StoreResult<()>;

    /// The extent map that holds byte `offset` of the file. A hole is reported up to the next extent, or to `u64::MAX`
    /// rounded down to a block if there is none.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Corrupt`].
    fn lookup_extent(&self, ino: Ino, offset: u64) -> StoreResult<ExtentMap>;

    /// Fills `target`, whole blocks, with what is at `bytenr`, which is mapped by file `ino`, and verifies the checksums.
    ///
    /// # Errors
    /// [`StoreError::Io`] if they could not be read, [`StoreError::Corrupt`] if they are not what was written, or if there are no checksums
    /// and the file is not one without.
    fn read_extent(&self, ino: Ino, bytenr: Bytenr, target: &mut [u8]) -> StoreResult<()>;
}
