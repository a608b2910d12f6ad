//! Block devices: where the bytes go (stage 7 of the pipeline, and the commit of stage 9).
//!
//! A device is a flat array of bytes with positioned reads and writes, and a flush. A write is durable only after a flush
//! that began after the write returned (law R4 is built on nothing else). Devices take no locks of the store's, and all
//! methods may be called from any thread at once; ranges that are written at the same time never overlap.

use std::fmt;
use std::io;

mod file;
mod memory;

pub use file::FileDevice;
pub use memory::MemoryDevice;

/// A flat array of bytes that survives, once flushed.
///
/// What the store promises a device, and what it relies on:
///
/// * All methods may be called from any thread, and many at once; a write may come while a flush is under way.
/// * Ranges that are written at the same time never overlap. A read that meets a write of the same range may give either, sector by sector.
/// * Offsets and lengths of what is read and written are multiples of 4 KiB. Buffers, and the single parts of a write, are not aligned.
/// * A write is durable once a flush that began after it had returned has returned without an error, and nothing else makes it so. Until then any
///   subset of its sectors of 512 bytes may be there after a crash, in any order with those of other writes; a sector is old or new, and what no write
///   touches does not change.
/// * Who calls may hold locks of the store. So no method calls back into the volume, nor waits in rayon (`join`, `scope`, `install`, a parallel
///   iterator) on the thread that called it, which would run other jobs of the volume meanwhile: work goes to threads of the device's own.
/// * A new length is durable like a write.
/// * What was written is read back at once, flushed or not.
pub trait BlockDevice: Send + Sync + fmt::Debug {
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// The device's own; [`io::ErrorKind::UnexpectedEof`] if it ends before `buf` is full.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `parts`, one after another, from `offset`.
    ///
    /// # Errors
    /// The device's own. Any part of the range may have been written then.
    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()>;

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// As [`BlockDevice::write_vectored_at`].
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_vectored_at(offset, &[data])
    }

    /// Makes every write that returned before this call began durable.
    ///
    /// # Errors
    /// The device's own. Nothing is known about the writes since the last good flush then.
    fn flush(&self) -> io::Result<()>;

    /// Bytes that the device holds.
    ///
    /// # Errors
    /// The device's own.
    fn len(&self) -> io::Result<u64>;

    /// Whether the device holds no byte.
    ///
    /// # Errors
    /// The device's own.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Makes the device `len` bytes long; new bytes read as zeros.
    ///
    /// # Errors
    /// The device's own; [`io::ErrorKind::Unsupported`] if its size is fixed and another one.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Whether [`BlockDevice::set_len`] can make the device of another size.
    fn can_resize(&self) -> bool {
        true
    }

    /// Tells that the content of a range is no longer needed. It may read as anything afterwards.
    ///
    /// # Errors
    /// The device's own.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
