//! What leaves hold: every kind of item that a volume of today has, parsed with the rules that the kernel applies when it
//! reads a leaf, and serialised.
//!
//! Parsing is strict (law E3): lengths are exact, unknown codes are refused, what must be aligned is.

pub mod chunk;
pub mod dev;
pub mod dir;
pub mod extent;
pub mod file_extent;
pub mod group;
pub mod inode;
pub mod root;
pub mod uuid_key;

mod check;

pub use check::{LeafRules, check_item, check_leaf};
pub use chunk::{BlockGroupFlags, ChunkItem, Stripe};
pub use dev::{DevExtent, DevItem, DevStats};
pub use dir::{DirEntry, FileType};
pub use extent::{DataRef, ExtentItem, ExtentOwner, InlineRef};
pub use file_extent::{CompressionCode, DiskRange, FileExtent, FileExtentData};
pub use group::{BlockGroupItem, FreeSpaceInfo};
pub use inode::{InodeExtref, InodeItem, InodeRef, Timespec};
pub use root::{RootItem, RootRef};

#[cfg(test)]
mod tests;
