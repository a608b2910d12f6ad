//! cowback, through its public interface.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cowback::options::CompressionPolicy;
use cowback::{File, Options, Volume};

use crate::contest::Outcome;
use crate::kernel::drop_caches;

/// An image that is removed when dropped.
#[derive(Debug)]
pub(crate) struct Image {
    path: PathBuf,
    options: Options,
}

/// Options that try every extent, as the kernel's `compress-force`.
pub(crate) fn options(compress: &str, threads: usize) -> Outcome<Options> {
    let compression: CompressionPolicy = compress.parse()?;
    Ok(Options { compression: compression.forced(), threads, ..Options::default() })
}

impl Image {
    /// The name of an image that is not there yet, under `dir`.
    pub(crate) fn new(dir: &Path, compress: &str, threads: usize) -> Outcome<Self> {
        let path = dir.join("cowback.img");
        drop(std::fs::remove_file(&path));
        Ok(Self { path, options: options(compress, threads)? })
    }

    /// The same with another cache.
    pub(crate) fn with_cache(mut self, bytes: u64) -> Self {
        self.options.cache_bytes = bytes;
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn create(&self) -> Outcome<Volume> {
        Ok(Volume::create(&self.path, &self.options)?)
    }

    /// Writes `stream` into a file of a fresh volume, 1 MiB at a time, and syncs it.
    pub(crate) fn write(&self, stream: &[u8]) -> Outcome<Duration> {
        let volume = self.create()?;
        let start = Instant::now();
        let file = write(&volume, stream)?;
        let took = start.elapsed();
        drop(file);
        volume.close()?;
        Ok(took)
    }

    /// Reads the `len` bytes of the file back, with nothing of it in memory.
    pub(crate) fn read_cold(&self, buffer: &mut [u8], len: u64) -> Outcome<Duration> {
        let volume = Volume::open(&self.path, &self.options)?;
        drop_caches()?;
        let start = Instant::now();
        let file = volume.open_file("stream")?;
        let mut at = 0;
        loop {
            match file.read_at(at, buffer)? {
                0 => break,
                n => at += n as u64,
            }
        }
        let took = start.elapsed();
        if at == len { Ok(took) } else { Err(format!("read {at} of {len} bytes").into()) }
    }

    /// Compares the file with what it should be.
    pub(crate) fn verify(&self, stream: &[u8]) -> Outcome<()> {
        let volume = Volume::open(&self.path, &self.options)?;
        let file = volume.open_file("stream")?;
        let mut buffer = vec![0; 1 << 20];
        for (number, part) in (0u64..).zip(stream.chunks(1 << 20)) {
            let n = file.read_at(number << 20, &mut buffer)?;
            if &buffer[..n] != part {
                return Err(format!("wrong bytes after {number} MiB").into());
            }
        }
        Ok(())
    }
}

/// Writes `stream` into the file `stream`, 1 MiB at a time, and syncs it.
pub(crate) fn write(volume: &Volume, stream: &[u8]) -> Outcome<File> {
    let file = volume.create_file("stream")?;
    for (number, part) in (0u64..).zip(stream.chunks(1 << 20)) {
        file.write_at(number << 20, part)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// A file that holds `stream`, all of it in memory and clean.
pub(crate) fn cached(volume: &Volume, stream: &[u8]) -> Outcome<File> {
    let file = write(volume, stream)?;
    let stats = volume.stats();
    if stats.cached_bytes < stream.len() as u64 || stats.dirty_bytes > 0 {
        return Err(format!("the file is not cached and clean: {stats:?}").into());
    }
    Ok(file)
}

impl Drop for Image {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}
