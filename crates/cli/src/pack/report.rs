//! What `pack` says at its end.

use std::time::Duration;

use cowback::Stats;
use serde::Serialize;

use crate::output::peak_rss;
use crate::progress::{amount, dirs_of};
use crate::size::{Size, ratio};

/// What was packed.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    /// Inodes that are no directories.
    pub(super) files: u64,
    /// Directories, with the root.
    pub(super) dirs: u64,
    /// Further names of files.
    pub(super) links: u64,
    /// Bytes of file content that were read: holes are not.
    pub(super) bytes: u64,
    /// Entries that were left out.
    pub(super) left_out: u64,
    /// Extended attributes that were, of entries that were not.
    pub(super) attributes_left_out: u64,
}

/// `attributes` in words.
fn attributes_of(attributes: u64) -> String {
    let s = if attributes == 1 { "" } else { "s" };
    format!("{attributes} attribute{s}")
}

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    files: u64,
    dirs: u64,
    hard_links: u64,
    left_out: u64,
    attributes_left_out: u64,
    bytes_in: u64,
    bytes_stored: u64,
    ratio: f64,
    compressed_extents: u64,
    raw_extents: u64,
    inline_extents: u64,
    image_bytes: u64,
    threads: usize,
    seconds: f64,
    mib_per_s: f64,
    peak_rss_bytes: u64,
}

/// Bytes of data on disk, as far as they were handed to it.
pub(crate) fn stored(stats: &Stats) -> u64 {
    let written = &stats.written;
    let kinds = [written.zlib, written.lzo, written.zstd, written.raw, written.inline];
    kinds.iter().map(|kind| kind.stored_bytes).sum()
}

impl Report {
    pub(super) fn new(counts: Counts, stats: &Stats, image_bytes: u64, time: Duration) -> Self {
        let written = &stats.written;
        let bytes_stored = stored(stats);
        let seconds = time.as_secs_f64();
        Self {
            files: counts.files,
            dirs: counts.dirs,
            hard_links: counts.links,
            left_out: counts.left_out,
            attributes_left_out: counts.attributes_left_out,
            bytes_in: counts.bytes,
            bytes_stored,
            ratio: ratio(counts.bytes, bytes_stored),
            compressed_extents: written.zlib.extents + written.lzo.extents + written.zstd.extents,
            raw_extents: written.raw.extents,
            inline_extents: written.inline.extents,
            image_bytes,
            threads: stats.threads,
            seconds,
            mib_per_s: counts.bytes as f64 / f64::from(1 << 20) / seconds.max(1e-9),
            peak_rss_bytes: peak_rss(),
        }
    }

    /// One line.
    pub(super) fn summary(&self) -> String {
        let mut left_out = match self.left_out {
            0 => String::new(),
            left => format!("; {left} left out"),
        };
        if self.attributes_left_out > 0 {
            left_out += &format!("; {} left out", attributes_of(self.attributes_left_out));
        }
        format!(
            "{}, {}: {} stored, ratio {:.2}, in {:.2} s, {:.0} MiB/s{left_out}",
            amount(self.files, self.bytes_in),
            dirs_of(self.dirs),
            Size(self.bytes_stored),
            self.ratio,
            self.seconds,
            self.mib_per_s,
        )
    }
}
