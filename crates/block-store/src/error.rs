//! Short ways to the errors of [`StoreError`], each with what and where (law E3).

use std::fmt::Display;
use std::io;
use std::sync::Arc;

use cowback_base::ByteRange;
use cowback_btrfs_disk::DiskError;
use cowback_extent_io::store::StoreError;

/// `what` at `at` cannot be right.
pub(crate) fn corrupt(what: impl Display, at: impl Display, why: impl Display) -> StoreError {
    StoreError::Corrupt { what: what.to_string(), at: at.to_string(), why: why.to_string() }
}

/// `what` at `at` may be right, and is of a kind that is not supported.
pub(crate) fn unsupported(what: &'static str, at: u64, why: impl Display) -> StoreError {
    StoreError::Unsupported { what, at, why: why.to_string() }
}

/// A structure at `at` did not parse, or could not be laid out.
pub(crate) fn invalid(at: impl Display, error: &DiskError) -> StoreError {
    let DiskError { structure, field, offset, found, expected } = error;
    corrupt(
        structure,
        at,
        format_args!("{field} at byte {offset}: found {found}, expected {expected}"),
    )
}

/// The device failed.
pub(crate) fn io(op: &'static str, at: u64, len: u64, source: io::Error) -> StoreError {
    StoreError::Io { op, at, len, source: Arc::new(source) }
}

/// The range of `len` bytes at `start`, which came from disk.
pub(crate) fn range_at(what: &'static str, start: u64, len: u64) -> Result<ByteRange, StoreError> {
    match start.checked_add(len) {
        Some(end) => Ok(ByteRange::new(start, end)),
        None => Err(corrupt(what, start, format_args!("{len} bytes end beyond 2^64"))),
    }
}

/// No room for `what`.
pub(crate) fn no_space(what: &'static str, wanted: u64, available: u64) -> StoreError {
    StoreError::NoSpace { what, wanted, available }
}
