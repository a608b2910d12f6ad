//! Delayed allocation, ordered extents, writepages and reads over a page cache (stages 3 and 8 of the pipeline).
//!
//! | module | what it is |
//! |---|---|
//! | [`inode`] | one file: mapping, states, what is in flight, size, errors |
//! | [`write`](mod@write) | buffered writes and truncation: reserve, copy, dirty |
//! | [`fallocate`] | preallocation, ranges of zeros, and flags of empty files |
//! | [`state`] | the extent state tree: delalloc and locked bytes |
//! | [`reservation`] | promised space as a value |
//! | [`pages`] | `process_pages_contig`, and the locks of a run as a value |
//! | [`delalloc`] | `find_lock_delalloc_range`, and the frozen run that the rest of the pipeline resolves |
//! | [`writepages`](mod@writepages) | from dirty tags to runs |
//! | [`ordered`] | extents in flight, completed exactly once |
//! | [`extent_map`], [`read`], [`readahead`] | where bytes are, and how they come back |
//! | [`policy`], [`backoff`] | how a file is to be stored, and how eagerly its data is compressed |
//! | [`error_cursor`] | writeback errors, once to each handle |
//! | [`store`], [`executor`] | what this crate asks of the world |
//! | [`memory`] | a store in memory, for models and tests |

pub mod backoff;
pub mod delalloc;
pub mod error_cursor;
pub mod executor;
pub mod extent_map;
pub mod fallocate;
mod in_flight;
pub mod inode;
mod last_block;
pub mod memory;
pub mod ordered;
pub mod pages;
pub mod policy;
pub mod read;
pub mod readahead;
pub mod reservation;
pub mod state;
pub mod store;
pub mod write;
pub mod writepages;

pub use delalloc::{DelallocRun, find_lock_delalloc_range};
pub use error_cursor::{ErrorCursor, ErrorLog};
pub use executor::{Executor, Job};
pub use inode::InodeIo;
pub use ordered::{OrderedWrite, Payload};
pub use policy::{CompressionPolicy, DataFlags, ExtentSize, FilePolicy};
pub use readahead::Readahead;
pub use store::{ExtentStore, StoreError, StoreResult};
pub use writepages::{DelallocSink, SyncMode, WritebackControl, writepages};
