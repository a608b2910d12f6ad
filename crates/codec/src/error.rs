//! Errors of the codecs.
//!
//! Law E3: an error about stored bytes names what is wrong and at which offset.

use crate::spec::Algorithm;

/// Why a compressor gave up, other than for want of compressibility. Never a verdict on the data (law B4).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// No memory for the context.
    #[error("out of memory for a {algorithm} compressor")]
    OutOfMemory {
        /// Whose context it was.
        algorithm: Algorithm,
    },
    /// More input than a compressed extent may hold.
    #[error("{len} bytes are more than the 131072 that a compressed extent may hold")]
    InputTooLong {
        /// Bytes given.
        len: usize,
    },
    /// The library beneath reports a fault of its own.
    #[error("{algorithm} compressor failed: {what}")]
    Library {
        /// Which compressor.
        algorithm: Algorithm,
        /// What the library says.
        what: &'static str,
    },
}

/// Why stored bytes could not be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecompressError {
    /// The stored bytes are not a valid stream.
    #[error("corrupt {algorithm} stream at byte {offset}: {what}")]
    Corrupt {
        /// The format that was expected.
        algorithm: Algorithm,
        /// What is wrong.
        what: &'static str,
        /// Offset in the stored bytes at which it was noticed.
        offset: usize,
    },
    /// No memory for the context.
    #[error("out of memory for a {algorithm} decompressor")]
    OutOfMemory {
        /// Whose context it was.
        algorithm: Algorithm,
    },
}

/// Why a text is not a compression spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The part before the colon is no algorithm.
    #[error("unknown compression algorithm `{0}`: expected zlib, lzo or zstd")]
    UnknownAlgorithm(String),
    /// The part after the colon is no whole number.
    #[error(
        "compression level `{text}` of {algorithm} is not a whole number: \
         expected {min} to {max}"
    )]
    NotANumber {
        /// The algorithm named.
        algorithm: Algorithm,
        /// What was given as the level.
        text: String,
        /// Lowest level of the algorithm.
        min: i8,
        /// Highest level of the algorithm.
        max: i8,
    },
    /// The level is a number, but not one of this algorithm's.
    #[error("compression level {level} of {algorithm} is out of range: expected {min} to {max}")]
    LevelOutOfRange {
        /// The algorithm named.
        algorithm: Algorithm,
        /// The level given.
        level: i64,
        /// Lowest level of the algorithm.
        min: i8,
        /// Highest level of the algorithm.
        max: i8,
    },
    /// The algorithm takes no level.
    #[error("{algorithm} takes no compression level, but `{text}` was given")]
    NoLevels {
        /// The algorithm named.
        algorithm: Algorithm,
        /// What was given as the level.
        text: String,
    },
}
