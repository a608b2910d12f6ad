//! A device that writes down, in order, all that happens to it: the input of the crash enumerator.
//!
//! A write is durable only after a flush that began after the write returned (law R4 builds on that). So each operation
//! is logged with the moment at which it began and at which it returned, and a write that a flush overlapped stays open.
//! Lock order: the log's lock is a leaf; it is never held during IO.

use std::io;
use std::sync::Arc;

use cowback_base::sync::Mutex;
use cowback_block_store::BlockDevice;

use crate::overlay::Overlay;

/// The moment of an event in a recording: events are numbered in the order in which they happened.
pub type Moment = u64;

/// What was done to the device.
#[derive(Debug, Clone)]
pub enum Change {
    /// Bytes were written.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Arc<[u8]>,
    },
    /// The device was made longer or shorter.
    SetLen {
        /// Its new length in bytes.
        len: u64,
    },
    /// A range is no longer needed.
    Discard {
        /// Where.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// One change, and when.
#[derive(Debug, Clone)]
pub struct Logged {
    /// What was done.
    pub change: Change,
    /// When it began.
    pub began: Moment,
    /// When it returned; `None` if it had not returned yet.
    pub returned: Option<Moment>,
    /// It was refused and has changed nothing.
    pub failed: bool,
}

/// One flush that succeeded.
#[derive(Debug, Clone, Copy)]
pub struct Flush {
    /// When it began: what had returned by then is durable,
    pub began: Moment,
    /// once the flush has returned.
    pub returned: Moment,
}

/// A word of the test in the log, such as "commit 3 returned".
#[derive(Debug, Clone)]
pub struct Mark {
    /// When.
    pub at: Moment,
    /// The word.
    pub label: String,
}

/// All that happened to a device since it was made.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The content before.
    pub base: Arc<dyn BlockDevice>,
    /// Changes, in the order in which they began.
    pub changes: Vec<Logged>,
    /// Flushes, in the order in which they returned.
    pub flushes: Vec<Flush>,
    /// Words of the test.
    pub marks: Vec<Mark>,
    /// The moment after the last event.
    pub end: Moment,
}

/// A device over an image that does not change, which logs every change and serves reads from the current content.
#[derive(Debug)]
pub struct RecordingDevice {
    live: Overlay,
    log: Mutex<Recording>,
}

impl RecordingDevice {
    /// A device whose content at first is `base`'s.
    ///
    /// # Errors
    /// The base's own.
    pub fn over(base: Arc<dyn BlockDevice>) -> io::Result<Self> {
        let live = Overlay::over(Arc::clone(&base))?;
        let log = Recording { base, changes: vec![], flushes: vec![], marks: vec![], end: 0 };
        Ok(Self { live, log: Mutex::new(log) })
    }

    /// A device in memory of `len` zeros.
    #[must_use]
    pub fn zeros(len: u64) -> Self {
        let base = Arc::new(cowback_block_store::MemoryDevice::new(len));
        Self::over(base).expect("a device in memory tells its length")
    }

    /// Puts a word into the log. What it tells holds for every crash after this moment.
    pub fn mark(&self, label: impl Into<String>) {
        let mut log = self.log.lock();
        let at = log.tick();
        log.marks.push(Mark { at, label: label.into() });
    }

    /// All that happened so far. Cheap: the bytes are shared.
    #[must_use]
    pub fn recording(&self) -> Recording {
        self.log.lock().clone()
    }

    /// The current content as an overlay, to go on from.
    #[must_use]
    pub fn content(&self) -> Overlay {
        self.live.fork()
    }

    fn logged(&self, change: Change, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let index = {
            let mut log = self.log.lock();
            let began = log.tick();
            log.changes.push(Logged { change, began, returned: None, failed: false });
            log.changes.len() - 1
        };
        let result = act();
        let mut log = self.log.lock();
        let returned = log.tick();
        log.changes[index].returned = Some(returned);
        log.changes[index].failed = result.is_err();
        result
    }
}

impl Recording {
    fn tick(&mut self) -> Moment {
        self.end += 1;
        self.end - 1
    }

    /// Bytes of all writes.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        let bytes = |logged: &Logged| match &logged.change {
            Change::Write { data, .. } => data.len() as u64,
            Change::SetLen { .. } | Change::Discard { .. } => 0,
        };
        self.changes.iter().map(bytes).sum()
    }
}

impl BlockDevice for RecordingDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.live.read_at(offset, buf)
    }

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let data = Arc::from(parts.concat());
        let change = Change::Write { offset, data };
        self.logged(change, || self.live.write_vectored_at(offset, parts))
    }

    fn flush(&self) -> io::Result<()> {
        let began = self.log.lock().tick();
        self.live.flush()?;
        let mut log = self.log.lock();
        let returned = log.tick();
        log.flushes.push(Flush { began, returned });
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.live.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.logged(Change::SetLen { len }, || self.live.set_len(len))
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.logged(Change::Discard { offset, len }, || self.live.discard(offset, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_in_order_and_serves_the_current_content() {
        let device = RecordingDevice::zeros(16_384);
        device.write_vectored_at(0, &[b"ab", b"cd"]).unwrap();
        device.flush().unwrap();
        device.mark("one");
        device.set_len(20_000).unwrap();
        device.write_at(19_000, &[7; 1000]).unwrap();
        let mut got = [0; 4];
        device.read_at(0, &mut got).unwrap();
        assert_eq!(&got, b"abcd");
        let log = device.recording();
        let moments: Vec<_> = log.changes.iter().map(|c| (c.began, c.returned)).collect();
        assert_eq!(moments, [(0, Some(1)), (5, Some(6)), (7, Some(8))]);
        assert_eq!((log.flushes[0].began, log.flushes[0].returned), (2, 3));
        assert_eq!((log.marks[0].at, log.marks[0].label.as_str()), (4, "one"));
        assert_eq!((log.end, log.bytes_written()), (9, 1004));
        assert_eq!(log.base.len().unwrap(), 16_384, "the base is as it was");
    }

    #[test]
    fn a_failed_write_is_known_as_such() {
        let device = RecordingDevice::zeros(4096);
        assert!(device.write_at(4000, &[1; 100]).is_err());
        device.write_at(3996, &[1; 100]).unwrap();
        let failed: Vec<_> = device.recording().changes.iter().map(|c| c.failed).collect();
        assert_eq!(failed, [true, false]);
    }

    #[test]
    fn many_threads_write_at_once() {
        let device = RecordingDevice::zeros(1 << 20);
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let device = &device;
                scope.spawn(move || {
                    for n in 0..50 {
                        let at = (u64::from(thread) * 50 + n) * 4096;
                        device.write_at(at, &[thread + 1; 4096]).unwrap();
                        if n % 10 == 9 {
                            device.flush().unwrap();
                        }
                    }
                });
            }
        });
        let log = device.recording();
        assert_eq!((log.changes.len(), log.flushes.len()), (200, 20));
        assert!(log.changes.windows(2).all(|pair| pair[0].began < pair[1].began));
        assert!(log.flushes.windows(2).all(|pair| pair[0].returned < pair[1].returned));
        assert_eq!(log.end, 2 * 220);
    }
}
