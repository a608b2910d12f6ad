//! The store: real btrfs on a file, a block device or memory (stages 6 to 9 of the pipeline).
//!
//! From the bottom: [`device`]s hold bytes; trees (see [`trees`]) hold items on them, copied on write; a transaction
//! collects what changed and a commit makes it durable at once (laws R4, D1).

pub mod check;
pub mod clock;
pub mod device;
pub mod format;
pub mod namespace;
pub mod open;
pub mod store;
pub mod trees;

mod block_space;
mod btree;
mod cache;
mod chunk_items;
mod chunks;
mod commit;
mod disk;
mod error;
mod extent_tree;
mod free;
mod free_space;
pub mod node;
mod refs;
mod reserve;
mod shrink;
mod space;
mod state;
mod unflushed;

pub use clock::Clock;
pub use device::{BlockDevice, FileDevice, MemoryDevice};
pub use disk::CopyStats;
pub use format::{FormatOptions, Profile, label_fault};
pub use open::OpenOptions;
pub use shrink::Fit;
pub use store::{SpaceStats, Store, StoreStats};
pub use trees::Trees;
