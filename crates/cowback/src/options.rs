//! How a volume is made and how it behaves: [`Options`], and the types of their values.

use std::time::Duration;

use cowback_block_store::format::MIN_VOLUME;
use cowback_block_store::namespace::Timespec;
use cowback_block_store::{Clock, label_fault};
use uuid::Uuid;

use crate::budget::{Budget, Group, Limits};
use crate::error::{Error, Result};
use crate::metadata::check_time;

pub use cowback_async_cow::{CompressionPolicy, ExtentSize, PolicyError};
pub use cowback_block_store::{Fit, Profile};
pub use cowback_codec::{Algorithm, ChecksumKind, CompressionSpec, Level, SpecError};

/// Options of [`Volume::create`](crate::Volume::create) and [`Volume::open`](crate::Volume::open).
///
/// The default is what most want: zstd at level 3, a thread for each core, 256 MiB of cache, duplicated metadata, a commit every 30
/// seconds.
///
/// ```
/// let options = cowback::Options {
///     compression: "zstd:1".parse()?,
///     cache_bytes: 64 << 20,
///     ..cowback::Options::default()
/// };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    /// How data is compressed on its way out.
    pub compression: CompressionPolicy,
    /// Most bytes of a file in one compressed extent. See [`File::set_policy`](crate::File::set_policy) for single files.
    pub extent_size: ExtentSize,
    /// Worker threads for compression, IO and decompression, [`Options::THREADS_MAX`] at most. Zero: one for each core. Several times as many as cores
    /// do harm: those who look for work in vain look at all the others.
    pub threads: usize,
    /// Bytes of file content kept in memory, 1 MiB at least. A quarter of it may be dirty before writeback starts, half before writers wait; from three
    /// eighths on they are slowed down, by at most 4 milliseconds for each MiB.
    ///
    /// Tree blocks have a cache of their own, a sixteenth as large, but at least 8 MiB and at most 1 GiB (if they have 16 KiB; it counts blocks). It is the volume's alone and comes on top, also with a
    /// [`group`](Options::group): no budget counts it.
    pub cache_bytes: u64,
    /// The group that the volume's files belong to unless [`File::set_group`](crate::File::set_group) says otherwise, and with it the budget of
    /// memory that the volume shares with others. `None`: a budget of its own, of `cache_bytes`.
    pub group: Option<Group>,
    /// Bytes of the new volume, 8 MiB at least, in whole blocks of 4 KiB. `None`: an image grows with its content; a device is taken as a whole. When opening, the number is ignored:
    /// `None` lets the volume grow with its content where its image can, `Some` does not.
    pub size: Option<u64>,
    /// Copies of metadata in the new volume. Ignored when opening.
    pub metadata: Profile,
    /// Checksum algorithm of the new volume. Ignored when opening.
    pub checksum: ChecksumKind,
    /// Label of the new volume, at most 255 bytes, none of them NUL. Ignored when opening.
    pub label: String,
    /// File system id of the new volume; all other ids follow from it. `None`: a random one. Ignored when opening.
    pub uuid: Option<Uuid>,
    /// The time that everything gets instead of the clock's, so that the same calls make the same image. Fewer than 10^9 nanoseconds.
    pub fixed_time: Option<Timespec>,
    /// How often a background thread commits. A commit writes back all that is dirty, so that no dirty data gets much older than this: there
    /// is no other expiry. A millisecond at least. `None`: there is no such thread, and commits are those of [`Volume::commit`](crate::Volume::commit),
    /// of syncs, and of changes that find no space; then the image depends on nothing but the sequence of calls, and writeback is started by the
    /// writer that crosses the limit.
    pub commit_interval: Option<Duration>,
    /// Whether the volume is opened for reading only. Ignored when creating.
    pub read_only: bool,
    /// Whether metadata is placed behind all data while the image is built, so that
    /// [`Volume::shrink_to_fit`](crate::Volume::shrink_to_fit) has only metadata to move. Ignored when opening.
    pub pack_tight: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            compression: CompressionPolicy::default(),
            extent_size: ExtentSize::default(),
            threads: 0,
            cache_bytes: 256 << 20,
            group: None,
            size: None,
            metadata: Profile::Dup,
            checksum: ChecksumKind::Crc32c,
            label: String::new(),
            uuid: None,
            fixed_time: None,
            commit_interval: Some(Duration::from_secs(30)),
            read_only: false,
            pack_tight: false,
        }
    }
}

/// Bytes of a tree block, as volumes are made.
const NODE_BYTES: u64 = 16 << 10;
/// The most bytes that a volume may be asked to have.
const SIZE_MAX: u64 = 1 << 62;
/// Least time between two commits that the background thread makes of itself: with less it would do nothing else.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

impl Options {
    /// The most [`Options::threads`] that there may be.
    pub const THREADS_MAX: usize = 1024;
    /// The least [`Options::cache_bytes`] that there may be.
    pub const CACHE_BYTES_MIN: u64 = 1 << 20;

    /// Refuses what cannot be, before anything is made.
    pub(crate) fn check(&self) -> Result<()> {
        if self.cache_bytes < Self::CACHE_BYTES_MIN {
            let least = Self::CACHE_BYTES_MIN >> 20;
            let why = format!("{} bytes are fewer than {least} MiB", self.cache_bytes);
            return Err(Error::Option { option: "cache_bytes", why });
        }
        if let Some(interval) = self.commit_interval.filter(|interval| *interval < INTERVAL_MIN) {
            let why = format!("{interval:?} is less than a millisecond; `None` is for never");
            return Err(Error::Option { option: "commit_interval", why });
        }
        if self.threads > Self::THREADS_MAX {
            let why = format!("{} are more than {}", self.threads, Self::THREADS_MAX);
            return Err(Error::Option { option: "threads", why });
        }
        check_time("fixed_time", self.fixed_time)
    }

    /// As [`Options::check`], for a new volume.
    pub(crate) fn check_new(&self) -> Result<()> {
        self.check()?;
        if let Some(why) = label_fault(&self.label) {
            return Err(Error::Option { option: "label", why: why.to_owned() });
        }
        if let Some(bytes) = self.size.filter(|bytes| *bytes < MIN_VOLUME) {
            let least = MIN_VOLUME >> 20;
            let why =
                format!("{bytes} bytes are fewer than {least} MiB, the least that a volume has");
            return Err(Error::Option { option: "size", why });
        }
        if let Some(bytes) = self.size.filter(|bytes| *bytes > SIZE_MAX) {
            let why = format!("{bytes} bytes are more than 2^62, the most that a device has");
            return Err(Error::Option { option: "size", why });
        }
        Ok(())
    }

    /// The group that the volume's files belong to at first.
    pub(crate) fn home_group(&self) -> Group {
        let own = || Budget::new(Limits::for_budget(self.cache_bytes)).root();
        self.group.clone().unwrap_or_else(own)
    }

    /// Clean tree blocks that are kept in memory: a sixteenth of what is kept of files, and enough for a few paths through the trees.
    pub(crate) fn cached_nodes(&self) -> usize {
        let nodes = self.cache_bytes / 16 / NODE_BYTES;
        usize::try_from(nodes.clamp(512, 1 << 16)).unwrap_or(512)
    }

    pub(crate) fn clock(&self) -> Clock {
        self.fixed_time
            .map_or(Clock::System, |time| Clock::Fixed { sec: time.sec, nsec: time.nsec })
    }
}
