//! An image file or a block device, with positioned IO through the page cache of the system (stage 7).
//!
//! A file grows and shrinks; a block device has the size it has.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::BlockDevice;

/// Most slices that one vectored write hands to the system (`IOV_MAX` on Linux).
const MOST_PARTS: usize = 1024;

/// How often a file is opened anew because another one has its name; on a file system whose files have no lasting numbers that is no reason.
const REPLACED_MAX: usize = 16;

/// An image file or a block device.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    path: PathBuf,
    is_block_device: bool,
    is_claimed: bool,
}

impl FileDevice {
    /// Opens an existing file or block device, for many readers or one writer at a time. A block device that is to be written must not be
    /// mounted.
    ///
    /// # Errors
    /// The system's own; [`io::ErrorKind::ResourceBusy`] if somebody else has it open in a way that excludes this one;
    /// [`io::ErrorKind::InvalidInput`] if it is something else, as a pipe, on which opening might wait for ever.
    pub fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        for _ in 0..REPLACED_MAX {
            let device = Self::open_once(path, read_only)?;
            if device.is_at(path)? {
                return Ok(device);
            }
        }
        Self::open_once(path, read_only)
    }

    fn open_once(path: &Path, read_only: bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(!read_only);
        let kind = path.metadata()?.file_type();
        if !kind.is_file() && !kind.is_dir() && !kind.is_block_device() {
            let why = "neither a file nor a block device";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        if !read_only && kind.is_block_device() {
            // For block devices Linux gives this flag, without O_CREAT, the meaning of a claim that mounts respect.
            options.custom_flags(i32::try_from(OFlags::EXCL.bits()).unwrap_or(0));
        }
        let file = options.open(path)?;
        Self::claimed(file, path, read_only)
    }

    /// Whether `path` still leads here: another file may have been given the name after this one was opened, and before it was locked.
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        Ok(id(self.file.metadata()?) == id(path.metadata()?))
    }

    /// Creates a file that did not exist, of no bytes, for this writer alone.
    ///
    /// # Errors
    /// The system's own; [`io::ErrorKind::AlreadyExists`] if there is something at `path`.
    pub fn create_new(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Self::claimed(file, path, false)
    }

    /// Makes the name of the file `path` durable, as the file itself is once it was flushed: after a power cut it is still there. Where the system does
    /// not let one do so, as the directory may not be read or cannot be synced, nothing is done.
    ///
    /// # Errors
    /// The system's own.
    pub fn sync_name(path: &Path) -> io::Result<()> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        match File::open(parent).and_then(|parent| parent.sync_all()) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::Unsupported
                ) =>
            {
                Ok(())
            }
            synced => synced,
        }
    }

    fn claimed(file: File, path: &Path, read_only: bool) -> io::Result<Self> {
        let is_claimed = claim(&file, read_only)?;
        let mut device = Self::from_file(file, path)?;
        device.is_claimed = is_claimed;
        Ok(device)
    }

    /// Wraps a file that is open already; `path` is for messages only.
    ///
    /// # Errors
    /// The system's own.
    pub fn from_file(file: File, path: &Path) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        if kind.is_dir() {
            return Err(Errno::ISDIR.into()); // it can be opened for reading
        }
        let is_block_device = kind.is_block_device();
        Ok(Self { file, path: path.to_path_buf(), is_block_device, is_claimed: false })
    }

    /// Where the device was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for FileDevice {
    /// Gives up the claim by name. Closing alone would not: a process that another thread has just forked holds the same open file, and so
    /// the lock, until it has begun its own program.
    fn drop(&mut self) {
        if self.is_claimed {
            // Closing is what is left if this fails.
            let _ = flock(&self.file, FlockOperation::Unlock);
        }
    }
}

/// Locks the file for this open file alone, or with others that read. False if the system has no locks here.
fn claim(file: &File, read_only: bool) -> io::Result<bool> {
    let how = if read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    match flock(file, how) {
        Err(Errno::WOULDBLOCK) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "it is in use: one may write, or many may read, at a time",
        )),
        // Some network file systems have no such locks.
        Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) => Ok(false),
        done => Ok(done.map(|()| true)?),
    }
}

impl BlockDevice for FileDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        if let [one] = parts {
            return self.file.write_all_at(one, offset);
        }
        let mut at = offset;
        for batch in parts.chunks(MOST_PARTS) {
            let mut slices: Vec<IoSlice<'_>> = batch
                .iter()
                .filter(|part| !part.is_empty())
                .map(|part| IoSlice::new(part))
                .collect();
            let mut rest = slices.as_mut_slice();
            while !rest.is_empty() {
                match rustix::io::pwritev(&self.file, rest, at) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        at += written as u64;
                        IoSlice::advance_slices(&mut rest, written);
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        if self.is_block_device {
            return (&self.file).seek(SeekFrom::End(0));
        }
        self.file.metadata().map(|metadata| metadata.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.is_block_device {
            let now = self.len()?;
            if now == len {
                return Ok(());
            }
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("a block device of {now} bytes cannot be made {len} bytes long"),
            ));
        }
        self.file.set_len(len)
    }

    fn can_resize(&self) -> bool {
        !self.is_block_device
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, offset, len) {
            // A hint only: where the system cannot, the bytes stay.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FileDevice;

    #[test]
    fn a_file_that_lost_its_name_to_another_is_not_the_one_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        drop(FileDevice::create_new(&path).unwrap());
        let opened = FileDevice::open(&path, false).unwrap();
        assert!(opened.is_at(&path).unwrap());
        std::fs::write(dir.path().join("other"), b"other").unwrap();
        std::fs::rename(dir.path().join("other"), &path).unwrap();
        assert!(!opened.is_at(&path).unwrap());
        assert!(FileDevice::open(&path, false).unwrap().is_at(&path).unwrap());
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        for read_only in [true, false] {
            let error = FileDevice::open(&path, read_only).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_device_that_is_dropped_is_free_though_a_forked_process_still_holds_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let device = FileDevice::create_new(&path).unwrap();
        assert!(FileDevice::open(&path, true).is_err(), "a writer excludes readers");

        // What a fork makes: another descriptor of the same open file.
        let _held_by_a_child = device.file.try_clone().unwrap();
        drop(device);
        FileDevice::open(&path, false).unwrap();
    }
}
