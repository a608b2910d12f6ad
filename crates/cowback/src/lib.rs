//! Copy-on-write writeback as a library: an embeddable volume that is real btrfs on disk.
//!
//! Writes go into a page cache at memory speed. Dirty ranges are collected (delayed allocation), cut into 512 KiB chunks, compressed in
//! parallel, written to fresh space, and committed atomically. What is written mounts in the Linux kernel and passes `btrfs check`.
//!
//! ```
//! use cowback::{Options, Volume};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let image = dir.path().join("data.img");
//!
//! let volume = Volume::create(&image, &Options::default())?;
//! volume.create_dir("logs")?;
//! let file = volume.create_file("logs/today")?;
//! file.write_at(0, b"written to memory, ")?;
//! file.write_at(19, b"compressed later")?;
//! file.sync_data()?; // survives a power cut from here on
//! drop((file, volume)); // as if killed
//!
//! let volume = Volume::open(&image, &Options::default())?;
//! let file = volume.open_file("logs/today")?;
//! let mut text = vec![0; 35];
//! assert_eq!(file.read_at(0, &mut text)?, 35);
//! assert_eq!(text, b"written to memory, compressed later");
//! drop(file);
//! volume.close()?;
//! # Ok(())
//! # }
//! ```

mod attrs;
mod background;
pub mod budget;
pub mod check;
mod commit;
mod commit_times;
pub mod error;
mod fallocate;
mod file;
mod flusher;
mod gates;
mod inner;
mod metadata;
mod names;
mod node;
pub mod options;
mod pace;
mod path;
mod retry;
pub mod stats;
mod trace;
mod unnamed;
mod volume;

pub use cowback_async_cow::FilePolicy;
pub use cowback_block_store::namespace::{FileType, Timespec};
pub use cowback_page_cache::CachePolicy;

pub use error::{Error, Result};
pub use file::{Extent, File};
pub use metadata::{Metadata, NewEntry, SetAttributes};
pub use names::DirEntry;
pub use options::Options;
pub use stats::Stats;
pub use volume::Volume;

/// What a volume can be on, other than the file or device of a path: see [`Volume::create_on`].
pub mod device {
    pub use cowback_block_store::{BlockDevice, FileDevice, MemoryDevice};
}

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
