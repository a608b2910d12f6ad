//! A device with a gate before its writes: so a test finds its volume with writes under way for as long as it likes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cowback_base::sync::{Condvar, Mutex};
use cowback_block_store::BlockDevice;

/// What waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A device whose writes wait while its gate is shut.
#[derive(Debug)]
pub struct GatedDevice {
    inner: Arc<dyn BlockDevice>,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    shut: bool,
    /// Writes that stand before it.
    waiting: u64,
}

impl GatedDevice {
    /// A device over `inner`, with an open gate.
    pub fn new(inner: Arc<dyn BlockDevice>) -> Self {
        Self { inner, gate: Mutex::default(), changed: Condvar::new() }
    }

    /// Shuts the gate: writes that come from now on wait.
    pub fn shut(&self) {
        self.gate.lock().shut = true;
    }

    /// Opens the gate.
    pub fn open(&self) {
        self.gate.lock().shut = false;
        self.changed.notify_all();
    }

    /// Waits until `writes` writes stand before the gate.
    ///
    /// # Panics
    /// If that takes a minute.
    pub fn wait_for(&self, writes: u64) {
        let mut gate = self.gate.lock();
        while gate.waiting < writes {
            let waited = self.changed.wait_for(&mut gate, PATIENCE);
            assert!(!waited.timed_out(), "{} writes came, not {writes}", gate.waiting);
        }
    }

    fn pass(&self) {
        let mut gate = self.gate.lock();
        gate.waiting += 1;
        self.changed.notify_all();
        while gate.shut {
            self.changed.wait(&mut gate);
        }
        gate.waiting -= 1;
    }
}

impl BlockDevice for GatedDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        self.pass();
        self.inner.write_vectored_at(offset, parts)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn can_resize(&self) -> bool {
        self.inner.can_resize()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.discard(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowback_block_store::MemoryDevice;

    #[test]
    fn a_write_waits_until_the_gate_is_open() {
        let device = Arc::new(GatedDevice::new(Arc::new(MemoryDevice::new(8192))));
        device.shut();
        let writer = {
            let device = Arc::clone(&device);
            std::thread::spawn(move || device.write_at(0, &[7; 512]).unwrap())
        };
        device.wait_for(1);
        let mut bytes = [1; 512];
        device.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 512]);
        device.open();
        writer.join().unwrap();
        device.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 512]);
    }
}
