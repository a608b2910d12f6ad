//! What went which way, counted.

use cowback_base::sync::atomic::{AtomicU64, Ordering};
use cowback_extent_io::store::Compression;

/// Counters of one engine.
#[derive(Debug, Default)]
pub struct Counters {
    zlib: Kind,
    lzo: Kind,
    zstd: Kind,
    raw: Kind,
    inline: Kind,
    in_place: Kind,
    fallbacks: AtomicU64,
    spared: AtomicU64,
}

#[derive(Debug, Default)]
struct Kind {
    extents: AtomicU64,
    ram_bytes: AtomicU64,
    stored_bytes: AtomicU64,
}

impl Kind {
    fn add(&self, ram: u64, stored: u64) {
        self.extents.fetch_add(1, Ordering::Relaxed);
        self.ram_bytes.fetch_add(ram, Ordering::Relaxed);
        self.stored_bytes.fetch_add(stored, Ordering::Relaxed);
    }

    fn snapshot(&self) -> KindCount {
        KindCount {
            extents: self.extents.load(Ordering::Relaxed),
            ram_bytes: self.ram_bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Extents of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KindCount {
    /// How many.
    pub extents: u64,
    /// Bytes in the file.
    pub ram_bytes: u64,
    /// Bytes on disk.
    pub stored_bytes: u64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CounterSnapshot {
    /// Extents compressed with zlib.
    pub zlib: KindCount,
    /// Extents compressed with LZO.
    pub lzo: KindCount,
    /// Extents compressed with zstd.
    pub zstd: KindCount,
    /// Extents stored as they are.
    pub raw: KindCount,
    /// Inline extents.
    pub inline: KindCount,
    /// Stretches that were written in place: to preallocated space, or over what was there.
    pub in_place: KindCount,
    /// Compressed extents that found no contiguous space and went raw.
    pub fallbacks: u64,
    /// Pieces that were stored as they are without a try, as the file's data had not compressed before.
    pub spared: u64,
}

impl Counters {
    pub(crate) fn compressed(&self, kind: Compression, ram: u64, stored: u64) {
        match kind {
            Compression::None => self.raw.add(ram, stored),
            Compression::Zlib => self.zlib.add(ram, stored),
            Compression::Lzo => self.lzo.add(ram, stored),
            Compression::Zstd => self.zstd.add(ram, stored),
        }
    }

    pub(crate) fn raw(&self, bytes: u64) {
        self.raw.add(bytes, bytes);
    }

    pub(crate) fn inline(&self, ram: u64, stored: u64) {
        self.inline.add(ram, stored);
    }

    pub(crate) fn in_place(&self, bytes: u64) {
        self.in_place.add(bytes, bytes);
    }

    pub(crate) fn fell_back(&self) {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn spared(&self) {
        self.spared.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> CounterSnapshot {
        CounterSnapshot {
            zlib: self.zlib.snapshot(),
            lzo: self.lzo.snapshot(),
            zstd: self.zstd.snapshot(),
            raw: self.raw.snapshot(),
            inline: self.inline.snapshot(),
            in_place: self.in_place.snapshot(),
            fallbacks: self.fallbacks.load(Ordering::Relaxed),
            spared: self.spared.load(Ordering::Relaxed),
        }
    }
}
