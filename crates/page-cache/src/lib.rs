//! The page cache (stage 2 of the pipeline): files' pages in memory, their flags, and what follows from them.
//!
//! ```text
//! Budget -- memory and dirty limits, for several volumes
//!   |- Group (one per tenant) -- its limits and gauges, its queues of reclaim, its line of waiting writers
//!   `- PageCache (one per volume) -- gauges, who writes back
//!        `- Mapping (one per file) -- the group it belongs to, directory of leaves, tag index
//!             `- Leaf (32 pages) -- one mutex over bit masks, one bit per page, and the pages' frames
//!                  `- Frame -- 4 KiB of bytes behind a reference count
//! ```
//!
//! A page's bytes never change while anybody else holds its [`Frame`]: a writer that finds the frame shared puts a copy
//! in its place (law B1). So writers do not wait for compression or IO, and a page can be *dirty* (its new version) while
//! it is *frozen* or *under writeback* (an older version, on its way to the disk). The page lock does not exclude
//! writers either; it decides who reads a page in, who takes it into a writeback run, and who removes it.
//!
//! Who holds a page lock holds a token, [`LockedPage`] or [`LockedPages`], that can be moved but not copied (law O1).
//!
//! A look-up takes no lock but that of the leaf it ends at, for as long as it takes to clone a reference: bytes are copied
//! before the mutex is taken, or after, unless it is a part of one page that is written.
//!
//! Lock order: a directory's `changing` (never held while waiting) > leaf mutex > what callbacks take (extent states) > a mapping's
//! `charging` > tag index, reclaim's queues and ghost, frame pool > throttle > the lists of shares > the lists of groups and caches.

mod bits;
mod budget;
mod cache;
mod content;
mod directory;
mod dirty;
mod flags;
mod frame;
mod gauge;
mod ghost;
mod group;
mod guard;
mod heat;
#[cfg(feature = "invariants")]
mod invariants;
mod leaf;
mod level;
mod limits;
mod lookups;
mod mapping;
mod owner;
mod pace;
mod pool;
mod reclaim;
mod rw;
mod tags;
mod token;
mod truncate;

#[cfg(test)]
mod cost_tests;
#[cfg(test)]
mod wake_tests;

pub use budget::Budget;
pub use cache::{CacheStats, Flusher, PageCache};
pub use dirty::WaitStats;
pub use flags::{PageFlags, PageOps, Tag};
pub use frame::{Frame, LeafMemory};
pub use group::{Charge, Group, GroupStats};
pub use level::DirtyLimit;
pub use limits::CacheLimits;
pub use mapping::{Busy, CachePolicy, Mapping};
pub use pace::PAUSE_MAX;
pub use rw::WriteOutcome;
pub use token::{LockedPage, LockedPages};
