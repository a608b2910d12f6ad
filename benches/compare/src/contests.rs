//! What is compared, one file each. A contest makes its contestants from a [`Setup`] and gives a table.

pub(crate) mod append;
pub(crate) mod memory;
pub(crate) mod names;
pub(crate) mod overwrite;
pub(crate) mod pack;
pub(crate) mod random_read;
pub(crate) mod redb;
pub(crate) mod stream;

use std::path::PathBuf;
use std::time::Duration;

/// The codec where a contest is not about codecs: cowback's default, and what most use with the kernel.
pub(crate) const CODEC: &str = "zstd:3";

/// What all contests have in common.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) tree: PathBuf,
    /// The beginning of the tree's content.
    pub(crate) stream: Vec<u8>,
    /// Where images lie: a directory of this run alone.
    pub(crate) dir: PathBuf,
    pub(crate) program: PathBuf,
    pub(crate) compress: Vec<String>,
    pub(crate) runs: usize,
    pub(crate) threads: usize,
    pub(crate) seconds: f64,
}

impl Setup {
    pub(crate) fn bytes(&self) -> u64 {
        self.stream.len() as u64
    }

    /// Bytes of a kernel's file system that takes the stream and some work on it.
    pub(crate) fn room(&self) -> u64 {
        room_for(self.bytes())
    }

    /// A cache that keeps all of a file of the stream, clean or dirty: writers wait at half of a budget.
    pub(crate) fn ample_cache(&self) -> u64 {
        4 * self.bytes() + (64 << 20)
    }
}

pub(crate) fn room_for(bytes: u64) -> u64 {
    bytes * 2 + (1 << 30)
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// An error in words, which threads can hand on.
pub(crate) fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// MiB a second.
pub(crate) fn rate(bytes: u64, time: Duration) -> f64 {
    mib(bytes) / time.as_secs_f64()
}
