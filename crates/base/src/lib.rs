//! Units, ranges and the one synchronisation facade of cowback.
//!
//! Every crate of the workspace speaks in these types: a [`Bytenr`] is never mistaken for a file offset, a
//! [`PageIndex`] never for a byte count, and every range is half-open. Every lock and atomic goes through [`sync`],
//! so that a model checker can take all of them over at once.
#![deny(clippy::indexing_slicing)]

pub mod canary;
pub mod range;
pub mod sync;
pub mod units;

pub use range::{ByteRange, PageRange};
pub use units::{
    BLOCK_SIZE, BLOCK_SIZE_USIZE, Bytenr, CHUNK_MAX, COMPRESSED_EXTENT_MAX, INLINE_MAX, Ino,
    PageIndex, block_align_down, block_align_up,
};
