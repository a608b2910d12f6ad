//! On-disk structures of btrfs: parse, validate, serialise. No IO.
//!
//! Serves stages 8 and 9 of the pipeline and every open of a volume. Law E3: whatever bytes come in, parsing ends with a
//! value that obeys the format's rules or with a [`DiskError`] that names structure, field, offset, found and expected;
//! it never panics. What a structure's `to_bytes` gives, its `parse` takes back unchanged.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod csum;
pub mod error;
pub mod hash;
pub mod items;
pub mod key;
pub mod node;
pub mod superblock;
mod wire;

pub use cowback_codec::ChecksumKind;
pub use error::{DiskError, DiskResult};
pub use key::{ItemKind, Key, TreeId, objectid};

#[cfg(test)]
mod golden;
