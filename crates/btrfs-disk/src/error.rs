//! The one error of this crate: which structure, which field, where, what was found, what was expected (law E3).

use std::fmt;

/// Bytes that cannot be what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{structure}: {field} at byte {offset}: found {found}, expected {expected}")]
pub struct DiskError {
    /// The structure, such as `leaf` or `inode item`.
    pub structure: &'static str,
    /// The field of the structure.
    pub field: &'static str,
    /// Byte offset of the field within the structure.
    pub offset: u64,
    /// What is there.
    pub found: String,
    /// What may be there.
    pub expected: String,
}

/// Result of parsing or serialising.
pub type DiskResult<T> = Result<T, DiskError>;

impl DiskError {
    /// An error about `field` of `structure`, `offset` bytes into it.
    pub fn new(
        structure: &'static str,
        field: &'static str,
        offset: usize,
        found: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        Self {
            structure,
            field,
            offset: offset as u64,
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }
}
