//! The image that is checked, with a progress bar that shows how much of it was read.
//!
//! How much there is to read is known only at the end, as what is compressed is read twice: once for its checksums, and once to be unpacked.

use std::io;
use std::path::Path;

use cowback::device::{BlockDevice, FileDevice};
use cowback_base::sync::Mutex;

use crate::failure::Failure;
use crate::progress::Progress;

#[derive(Debug)]
pub(super) struct Watched {
    device: FileDevice,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    bytes: u64,
    progress: Progress,
}

impl Watched {
    pub(super) fn open(image: &Path, mut progress: Progress) -> io::Result<Self> {
        let device = FileDevice::open(image, true)?;
        progress.begin_endless();
        Ok(Self { device, seen: Mutex::new(Seen { bytes: 0, progress }) })
    }

    /// Prints a line above the bar.
    pub(super) fn warn(&self, failure: &Failure) {
        self.seen.lock().progress.warn(failure);
    }

    /// Lets go of the image.
    pub(super) fn close(self) -> Progress {
        self.seen.into_inner().progress
    }
}

impl BlockDevice for Watched {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.device.read_at(offset, buf)?;
        let seen = &mut *self.seen.lock();
        seen.bytes += buf.len() as u64;
        seen.progress.show(seen.bytes, || "checking: read".to_owned());
        Ok(())
    }

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        self.device.write_vectored_at(offset, parts)
    }

    fn flush(&self) -> io::Result<()> {
        self.device.flush()
    }

    fn len(&self) -> io::Result<u64> {
        self.device.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.device.set_len(len)
    }
}
