//! The kernel's btrfs on a loop device.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A fresh btrfs, mounted. Unmounted and removed when dropped.
#[derive(Debug)]
pub(crate) struct Mounted {
    image: PathBuf,
    at: tempfile::TempDir,
    options: String,
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{command:?}: {said}")))
}

/// Has the kernel forget every clean page and everything that it knows of files.
pub(crate) fn drop_caches() -> io::Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "3")
}

impl Mounted {
    /// A file system of `bytes` in an image under `dir`, which compresses everything with `compress`. `more` are mount options, each
    /// behind a comma.
    pub(crate) fn new(dir: &Path, bytes: u64, compress: &str, more: &str) -> io::Result<Self> {
        let image = dir.join("kernel.img");
        File::create(&image)?.set_len(bytes)?;
        run(Command::new("mkfs.btrfs").args(["-q", "-f"]).arg(&image))?;
        let options = match compress {
            "none" => format!("loop{more}"),
            compress => format!("loop,compress-force={compress}{more}"),
        };
        let mounted = Self { image, at: tempfile::tempdir()?, options };
        mounted.mount()?;
        Ok(mounted)
    }

    fn mount(&self) -> io::Result<()> {
        let mut command = Command::new("mount");
        run(command.args(["-t", "btrfs", "-o", &self.options]).arg(&self.image).arg(self.at.path()))
    }

    fn umount(&self) -> io::Result<()> {
        run(Command::new("umount").arg(self.at.path()))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.at.path()
    }

    /// Where [`Mounted::write`] writes.
    pub(crate) fn stream(&self) -> PathBuf {
        self.at.path().join("stream")
    }

    /// Bytes in use, metadata included, after a sync.
    pub(crate) fn used(&self) -> io::Result<u64> {
        run(Command::new("sync").arg("-f").arg(self.at.path()))?;
        let is = rustix::fs::statvfs(self.at.path())?;
        Ok((is.f_blocks - is.f_bfree) * is.f_frsize)
    }

    /// Writes `stream` into a file, 1 MiB at a time, and syncs it.
    pub(crate) fn write(&self, stream: &[u8]) -> io::Result<Duration> {
        let start = Instant::now();
        let mut file = File::create(self.stream())?;
        for part in stream.chunks(1 << 20) {
            file.write_all(part)?;
        }
        file.sync_all()?;
        Ok(start.elapsed())
    }

    /// Reads the `len` bytes of the file back, with nothing of it in memory.
    pub(crate) fn read_cold(&self, buffer: &mut [u8], len: u64) -> io::Result<Duration> {
        self.umount()?;
        self.mount()?;
        drop_caches()?;
        let start = Instant::now();
        let mut file = File::open(self.stream())?;
        let mut at = 0;
        loop {
            match file.read(buffer)? {
                0 => break,
                n => at += n as u64,
            }
        }
        let took = start.elapsed();
        if at == len { Ok(took) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Best effort: a failed unmount leaves the image to whoever looks why.
        if self.umount().is_ok() {
            drop(std::fs::remove_file(&self.image));
        }
    }
}
