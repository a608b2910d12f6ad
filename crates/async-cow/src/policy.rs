//! How an engine behaves.

pub use cowback_extent_io::policy::{CompressionPolicy, ExtentSize, FilePolicy, PolicyError};

/// How an [`crate::AsyncCow`] behaves.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How the data of files is stored that have no policy of their own.
    pub file: FilePolicy,
    /// Bytes of frozen pages that may be on their way at once. At least one run (8 MiB) is.
    pub in_flight_bytes: u64,
}
