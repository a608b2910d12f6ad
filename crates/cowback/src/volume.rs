//! A volume: made, opened, committed, closed.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use cowback_async_cow::policy::Policy;
use cowback_async_cow::{AsyncCow, FilePolicy, WorkerPool};
use cowback_base::sync::atomic::{AtomicBool, AtomicU64};
use cowback_base::sync::thread::JoinHandle;
use cowback_base::sync::{Mutex, RwLock};
use cowback_block_store::check::{Problem, Report as CheckReport};
use cowback_block_store::{BlockDevice, FileDevice, Fit, FormatOptions, OpenOptions, Store};
use cowback_codec::ChecksumKind;
use cowback_extent_io::{ErrorLog, Executor, StoreError};
use cowback_page_cache::{Flusher, PageCache};
use uuid::Uuid;

use crate::background::Background;
use crate::budget::Budget;
use crate::commit::CommitGroup;
use crate::error::{Error, Result};
use crate::flusher::FlushByCaller;
use crate::inner::Inner;
use crate::options::Options;
use crate::stats::Stats;

/// Bytes of frozen pages in flight, for each worker and beyond (see `cowback_async_cow::credit`).
const IN_FLIGHT_PER_THREAD: u64 = 4 << 20;
const IN_FLIGHT_BASE: u64 = 16 << 20;
/// And at most, however many workers there are.
const IN_FLIGHT_MAX: u64 = 64 << 20;

/// A btrfs volume in a file, on a block device or in memory, behind a write-back cache.
///
/// All methods take `&self`, and many threads may share a volume. What was written survives a crash once [`Volume::commit`], or a
/// [`File`](crate::File)'s sync, has returned; after a crash the volume is exactly as at some commit. Dropping a volume without
/// [`Volume::close`] is such a crash.
///
/// A commit may come at any moment: a sync is one, the background thread makes them, and a change that finds no space commits and tries again (if
/// that commit fails, its error is the change's). What has to be there together or not at all goes under one name, as by
/// [`Volume::create_unnamed`], or behind a mark of one's own.
///
/// Reads and writes go on while a commit is made. What changes names, attributes, or a file's extents (a truncate, a hole, an allocation) waits until
/// what was dirty when the commit took its cut is on disk.
///
/// An image has one writer or many readers at a time; who comes in between is refused. A loop mount does not know of that: the image must not be
/// mounted meanwhile. Nor does a child that the process forks: a volume's threads are not in it, and it must not use the volume.
#[derive(Debug)]
pub struct Volume {
    pub(crate) inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Volume {
    /// Makes a new, empty volume in the file `path`, which must not exist, or on the block device `path`. When this returns, the empty volume survives a power
    /// cut, under its name.
    ///
    /// # Errors
    /// The file cannot be made; a size too small for a volume; an option that cannot be.
    pub fn create(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let path = path.as_ref();
        options.check_new()?;
        if std::fs::metadata(path).is_ok_and(|at| at.file_type().is_block_device()) {
            let device = FileDevice::open(path, false).map_err(image(path))?;
            return Self::create_on(Arc::new(device), options);
        }
        let device = FileDevice::create_new(path).map_err(image(path))?;
        let named = |volume| FileDevice::sync_name(path).map(|()| volume).map_err(image(path));
        Self::create_on(Arc::new(device), options).and_then(named).inspect_err(|_| {
            // It was made just now, and nobody has anything in it.
            drop(std::fs::remove_file(path));
        })
    }

    /// Makes a new, empty volume on `device`, whatever is there. Without [`Options::size`] it takes the whole device; if that is empty, the
    /// device grows with the volume.
    ///
    /// # Errors
    /// As [`Volume::create`].
    pub fn create_on(device: Arc<dyn BlockDevice>, options: &Options) -> Result<Self> {
        options.check_new()?;
        let len = device.len().map_err(|source| StoreError::Io {
            op: "size",
            at: 0,
            len: 0,
            source: Arc::new(source),
        })?;
        let format = FormatOptions {
            total_bytes: options.size.unwrap_or(len),
            grow: options.size.is_none() && len == 0,
            metadata: options.metadata,
            checksum: options.checksum,
            label: options.label.clone(),
            fsid: options.uuid,
            shrinkable: options.pack_tight,
            clock: options.clock(),
            cached_nodes: options.cached_nodes(),
        };
        Self::start(Store::format(device, &format)?, options, false)
    }

    /// Opens the volume in the file or on the block device `path`.
    ///
    /// # Errors
    /// It is not btrfs, damaged, in need of a log replay, or uses a feature that is not known; what and where is said. It is in use already. An option
    /// that cannot be. It can be read and not be written ([`StoreError::ReadOnly`](crate::error::StoreError::ReadOnly) says why), which
    /// [`Options::read_only`] allows.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let path = path.as_ref();
        let device = FileDevice::open(path, options.read_only).map_err(image(path))?;
        Self::open_on(Arc::new(device), options)
    }

    /// Opens the volume on `device`. That no other volume is open on the same device is the caller's business, but for files and block devices.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub fn open_on(device: Arc<dyn BlockDevice>, options: &Options) -> Result<Self> {
        options.check()?;
        let open = OpenOptions {
            read_only: options.read_only,
            grow: options.size.is_none(),
            clock: options.clock(),
            cached_nodes: options.cached_nodes(),
            ..OpenOptions::default()
        };
        Self::start(Store::open(device, &open)?, options, options.read_only)
    }

    fn start(store: Store, options: &Options, read_only: bool) -> Result<Self> {
        let pool = Arc::new(WorkerPool::new(options.threads).map_err(Error::Threads)?);
        let in_flight = IN_FLIGHT_BASE + IN_FLIGHT_PER_THREAD * pool.threads() as u64;
        let in_flight = in_flight.min(IN_FLIGHT_MAX);
        let file =
            FilePolicy { compression: options.compression, extent_size: options.extent_size };
        let policy = Policy { file, in_flight_bytes: in_flight };
        let executor: Arc<dyn Executor> = Arc::clone(&pool) as _;
        let interval = options.commit_interval.filter(|_| !read_only);
        let inner = Arc::new(Inner {
            store: Arc::new(store),
            cache: PageCache::in_group(&options.home_group()),
            engine: AsyncCow::new(policy, executor),
            pool,
            nodes: Default::default(),
            dirty: Default::default(),
            meta_dirty: Mutex::default(),
            errors: Arc::new(ErrorLog::default()),
            failures_seen: AtomicU64::new(0),
            retry: Default::default(),
            commits: CommitGroup::default(),
            commit_times: Default::default(),
            flush_gate: RwLock::new(()),
            namespace_gate: RwLock::new(()),
            data_gate: RwLock::new(()),
            dirs: Default::default(),
            background: interval.map(|_| Background::new()),
            read_only,
            clock: options.clock(),
            closed: AtomicBool::new(false),
        });
        let flusher: Arc<dyn Flusher> = match &inner.background {
            Some(background) => Arc::new(background.clone()),
            None => Arc::new(FlushByCaller(Arc::downgrade(&inner))),
        };
        inner.cache.set_flusher(Some(flusher));
        if !read_only {
            inner.evict_orphans()?;
        }
        let thread = match (&inner.background, interval) {
            (Some(background), Some(interval)) => {
                Some(background.start(Arc::downgrade(&inner), interval).map_err(Error::Threads)?)
            }
            _ => None,
        };
        Ok(Self { inner, thread })
    }

    /// Makes every write and every change that returned before this call durable, all at once. Returns the generation that holds
    /// them. Many callers share one commit.
    ///
    /// # Errors
    /// Data that could not be written: nothing of this commit is on disk then, the data stays dirty, and the next commit tries again. Metadata or
    /// a superblock that could not be written, or a flush that failed: the volume takes no more changes until [`Volume::try_resume`], and
    /// whoever opens it finds this commit whole, or the one before. [`StoreError::ReadOnly`] on a volume that was opened for reading, though there is nothing to
    /// commit: whoever means to make something durable there is told that nothing is.
    pub fn commit(&self) -> Result<u64> {
        self.inner.check_open()?;
        self.inner.commit()
    }

    /// Why the volume takes no changes, if it takes none: it was opened for reading, or has stopped because of a failure, after which
    /// [`Volume::try_resume`] may help. A volume stops in a commit, which may be one of the background thread: who has nothing to write learns of it here.
    #[must_use]
    pub fn read_only_reason(&self) -> Option<String> {
        self.inner.store.read_only_reason()
    }

    /// The latest error of writing content of files to the device, if there was one since the volume was opened, whoever has been told of it. What
    /// failed is dirty and is tried again, so a later write or commit may have been good. It waits for nothing: whoever writes much
    /// can look after each write, and stop early.
    #[must_use]
    pub fn latest_write_error(&self) -> Option<Error> {
        self.inner.errors.latest().map(Error::Store)
    }

    /// Goes on after the volume has turned read-only because of a failure, if its cause is gone: there is space again, the device is back. The
    /// commit that failed is written once more; what is dirty goes out with the next one. On a volume that takes writes this does nothing,
    /// but that an image that could not grow is tried to be made larger again.
    ///
    /// # Errors
    /// The device's, which may be gone by another time. [`StoreError::ReadOnly`], with the reason, if only opening the volume again
    /// helps, as of the last commit: a change failed half way, or the volume was opened for reading. [`StoreError::Corrupt`] if a flush
    /// failed, and the device has lost data that it had taken before.
    pub fn try_resume(&self) -> Result<()> {
        self.inner.check_open()?;
        self.inner.try_resume()
    }

    /// Commits and closes. Open files turn read-only and must not be used any more.
    ///
    /// The device, or the lock on the image, is let go of with the last of them, as it is when a volume is dropped: while a [`File`](crate::File) of this volume is
    /// still there, opening the image is refused as if the volume were open ([`ResourceBusy`](std::io::ErrorKind::ResourceBusy)).
    ///
    /// # Errors
    /// As [`Volume::commit`]; what was not committed is lost then. [`Error::NotAtRest`] after all was committed: a defect of cowback.
    pub fn close(mut self) -> Result<()> {
        self.stop_background();
        self.inner.shut_down()
    }

    /// Cuts the image to what `fit` says, in whole blocks of 4 KiB: metadata is moved right behind the data. Writers and changes of names wait meanwhile. Returns the bytes
    /// that the image has then.
    ///
    /// # Errors
    /// As [`Volume::commit`]. A device that cannot be resized, a subvolume that is being deleted, or a size of more than 2^62 bytes, as none has: everything is committed then, and the
    /// volume goes on. A size in which the content has no room, or which the device cannot have: everything is committed then, but the volume
    /// takes no more changes until it is opened again.
    pub fn shrink_to_fit(&self, fit: Fit) -> Result<u64> {
        self.inner.check_writable()?;
        self.inner.commit_by(|store| store.shrink_to_fit(fit))
    }

    /// Checks the image or block device `path`, of which nothing may be changed meanwhile: every tree, every reference, and, by reading and
    /// unpacking all data, every checksum. Each problem goes to `found` as it is found.
    ///
    /// # Errors
    /// It cannot be read; it is not btrfs, or uses a feature that is not known. Damage beyond that is no error, but a problem.
    pub fn check(path: impl AsRef<Path>, found: &mut dyn FnMut(Problem)) -> Result<CheckReport> {
        let path = path.as_ref();
        let device = FileDevice::open(path, true).map_err(image(path))?;
        Ok(cowback_block_store::check::check(&device, true, found)?)
    }

    /// The budget of memory that the volume is part of: for groups of its files, and to change its limits.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.inner.cache.budget()
    }

    /// Numbers about the volume and its engine.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::of(&self.inner)
    }

    /// The volume's id.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.inner.store.superblock().fsid
    }

    /// The volume's label.
    #[must_use]
    pub fn label(&self) -> Vec<u8> {
        self.inner.store.superblock().label
    }

    /// The checksum algorithm of data and metadata.
    #[must_use]
    pub fn checksum(&self) -> ChecksumKind {
        self.inner.store.superblock().csum
    }

    /// The features that a reader must know, and those that a writer must: names as the kernel has them, in lower case.
    #[must_use]
    pub fn features(&self) -> Vec<String> {
        let superblock = self.inner.store.superblock();
        let names = [superblock.incompat.names(), superblock.compat_ro.names()].join(" | ");
        names.split(" | ").filter(|name| !name.is_empty()).map(str::to_lowercase).collect()
    }

    fn stop_background(&mut self) {
        if let Some(background) = &self.inner.background {
            background.stop();
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            // It has printed its panic; what it had taken on is dirty still, and the commit that follows takes it on again.
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.stop_background();
        self.inner.refuse_changes();
        // Jobs in flight hold pages and space of this volume: they end first.
        self.inner.engine.wait_idle();
        self.inner.pool.wait_idle();
        // Handles may be open still: the memory is for others.
        self.inner.cache.drop_clean();
    }
}

fn image(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Image { path, source }
}
