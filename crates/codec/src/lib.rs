//! Compression and checksum codecs of btrfs, as pure functions on buffers (stage 5 of the pipeline, and its mirror on
//! the read path).
//!
//! There is no IO here, no thread, no lock, and nothing that outlives a call except reusable contexts: a
//! [`Compressor`] and a [`Decompressor`] per worker, made once and never per block.
//!
//! Laws upheld here:
//! * B3: at most 128 KiB into a compressed extent and at most 128 KiB out of it; output that does not fit the
//!   caller's limit is [`Outcome::DoesNotFit`], which is not an error.
//! * B4: a compressor that runs out of memory says so with an error of its own, so that the caller can store the
//!   bytes raw and leave no mark on the file.
//! * E3: hostile bytes yield an error that names what and where; never a panic, a hang or wrong bytes.
//! * R3: what a compressor gives depends on its spec and input alone, not on what its context did before.

pub mod checksum;
mod compress;
mod decompress;
mod error;
mod heuristic;
mod lzo;
mod spec;
mod zstd_frame;

#[cfg(test)]
mod tests;

pub use checksum::{
    ChecksumKind, Digest, block_sums, crc32c, digest, extref_hash, first_mismatch, name_hash,
};
pub use compress::{Compressor, Outcome, output_limit};
pub use decompress::Decompressor;
pub use error::{CompressError, DecompressError, SpecError};
pub use heuristic::{Verdict, heuristic_pays, looks_compressible, looks_compressible_pages};
pub use spec::{Algorithm, CompressionSpec, Level};
