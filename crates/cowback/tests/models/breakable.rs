//! A device in memory that fails while it is told to.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use cowback::Error;
use cowback::device::{BlockDevice, MemoryDevice};
use cowback::error::StoreError;
use shuttle::rand::{Rng, thread_rng};

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failing {
    Nothing,
    Writes,
    Flushes,
    /// It does not grow any more.
    Growth,
    /// Every other call, by chance; of a write, a part is done.
    Some,
}

pub(crate) fn any_failing() -> Failing {
    use Failing::{Flushes, Growth, Nothing, Some, Writes};
    [Nothing, Writes, Flushes, Growth, Some][thread_rng().gen_range(0..5)]
}

/// Whether an error is of a device that fails, or is full, or of a volume that has stopped because of that.
pub(crate) fn is_failure(error: &Error) -> bool {
    use StoreError::{Io, NoSpace, ReadOnly};
    matches!(error, Error::Store(Io { .. } | NoSpace { .. } | ReadOnly { .. }))
}

#[derive(Debug)]
pub(crate) struct Breakable {
    inner: MemoryDevice,
    failing: AtomicU8,
}

impl Breakable {
    pub(crate) fn new() -> Self {
        Self { inner: MemoryDevice::new(0), failing: AtomicU8::new(Failing::Nothing as u8) }
    }

    pub(crate) fn set(&self, failing: Failing) {
        self.failing.store(failing as u8, Ordering::Relaxed);
    }

    /// Fails, or does not.
    fn fail(&self, kind: Failing) -> io::Result<()> {
        let failing = self.failing.load(Ordering::Relaxed);
        let some = failing == Failing::Some as u8 && thread_rng().r#gen();
        if some || failing == kind as u8 { Err(io::Error::other("broken")) } else { Ok(()) }
    }
}

impl BlockDevice for Breakable {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let failed = self.fail(Failing::Writes);
        let done = if failed.is_ok() { parts } else { &parts[..parts.len() / 2] };
        self.inner.write_vectored_at(offset, done).and(failed)
    }

    fn flush(&self) -> io::Result<()> {
        self.fail(Failing::Flushes).and_then(|()| self.inner.flush())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let full = |_| io::Error::from(io::ErrorKind::StorageFull);
        self.fail(Failing::Growth).map_err(full).and_then(|()| self.inner.set_len(len))
    }
}
