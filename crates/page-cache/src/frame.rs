//! The bytes of a page, and a small stock of unused ones (stage 2).
//!
//! Law B1: bytes that somebody else can see never change. A frame's bytes are changed only through [`Frame::make_mut`],
//! which puts a fresh frame in place of one that is shared. So a clone is a snapshot.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use cowback_base::sync::Mutex;
use cowback_base::sync::atomic::{AtomicUsize, Ordering};
use cowback_base::{BLOCK_SIZE, BLOCK_SIZE_USIZE};

/// What a page is made of: 4 KiB.
type Block = [u8; BLOCK_SIZE_USIZE];

static ZEROS: Block = [0; BLOCK_SIZE_USIZE];

/// The bytes of one page. To clone it is to take a snapshot, without copying.
///
/// The count and the bytes are two allocations: in one they would be 4112 bytes, for which an allocator with size classes takes 5120.
#[derive(Clone)]
#[expect(clippy::redundant_allocation, reason = "one allocation of 4112 bytes would take 5120")]
pub struct Frame(Arc<Box<Block>>);

impl Frame {
    /// A frame of zeros.
    #[must_use]
    pub fn zeroed() -> Self {
        Self::from_slice(&ZEROS)
    }

    /// A frame that holds a copy of `bytes`.
    ///
    /// # Panics
    /// If there are not exactly 4096 of them.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Self {
        let block: Box<[u8]> = Box::from(bytes);
        Self(Arc::new(block.try_into().expect("a frame is made of exactly one block")))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; BLOCK_SIZE_USIZE] {
        &self.0
    }

    /// The bytes, to change them: of a fresh copy if anybody else holds this frame.
    pub fn make_mut(&mut self) -> &mut [u8; BLOCK_SIZE_USIZE] {
        if Arc::get_mut(&mut self.0).is_none() {
            *self = Self::from_slice(self.bytes());
        }
        Arc::get_mut(&mut self.0).expect("the frame was just made, or just found to be unshared")
    }

    /// Whether nobody else holds this frame.
    pub fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.0).is_some()
    }
}

impl From<Frame> for Bytes {
    /// Hands the frame over without copying.
    fn from(frame: Frame) -> Self {
        Self::from_owner(frame)
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:02x?}..)", &self.bytes()[..8])
    }
}

/// Frames that nobody uses, kept so that new pages need not fault fresh memory in. Bounded; outside the cache's budget.
#[derive(Debug)]
pub(crate) struct FramePool {
    frames: Mutex<Vec<Frame>>,
    /// Length of `frames`, readable without the lock.
    len: AtomicUsize,
    /// Most frames to keep.
    max: usize,
}

impl FramePool {
    /// An empty pool, for a cache with so large a budget: it keeps a sixteenth of that, 1 MiB to 64 MiB.
    pub(crate) fn for_budget(bytes: u64) -> Self {
        let frames = (bytes / BLOCK_SIZE / 16).clamp(256, 16384);
        let max = usize::try_from(frames).expect("clamped");
        Self { frames: Mutex::new(Vec::new()), len: AtomicUsize::new(0), max }
    }

    /// A frame with a copy of `block`.
    pub(crate) fn frame_from(&self, block: &[u8]) -> Frame {
        match self.take() {
            Some(mut frame) => {
                frame.make_mut().copy_from_slice(block);
                frame
            }
            None => Frame::from_slice(block),
        }
    }

    /// Frames with copies of `blocks`, in their order.
    pub(crate) fn frames_from(&self, blocks: &[Block]) -> Vec<Option<Frame>> {
        let mut frames = Vec::with_capacity(blocks.len());
        if !blocks.is_empty() && self.len.load(Ordering::Relaxed) > 0 {
            let mut kept = self.frames.lock();
            let left = kept.len().saturating_sub(blocks.len());
            frames.extend(kept.drain(left..).map(Some));
            self.len.store(left, Ordering::Relaxed);
        }
        frames.resize(blocks.len(), None);
        for (frame, block) in frames.iter_mut().zip(blocks) {
            match frame {
                Some(frame) => frame.make_mut().copy_from_slice(block),
                None => *frame = Some(Frame::from_slice(block)),
            }
        }
        frames
    }

    /// Keeps those of `frames` that nobody else holds, as far as there is room.
    pub(crate) fn give(&self, frames: impl IntoIterator<Item = Frame>) {
        let mut frames = frames.into_iter().peekable();
        if frames.peek().is_none() || self.len.load(Ordering::Relaxed) >= self.max {
            return;
        }
        let mut kept = self.frames.lock();
        for mut frame in frames {
            if kept.len() < self.max && frame.is_unique() {
                kept.push(frame);
            }
        }
        self.len.store(kept.len(), Ordering::Relaxed);
    }

    fn take(&self) -> Option<Frame> {
        if self.len.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut kept = self.frames.lock();
        let frame = kept.pop();
        self.len.store(kept.len(), Ordering::Relaxed);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_keeps_its_bytes_when_the_original_changes_law_b1() {
        let mut frame = Frame::from_slice(&[1; 4096]);
        let unshared = frame.bytes().as_ptr();
        frame.make_mut()[0] = 2;
        assert_eq!(frame.bytes().as_ptr(), unshared, "an unshared frame changes in place");
        let snapshot = frame.clone();
        frame.make_mut()[1] = 9;
        assert_eq!(snapshot.bytes()[..3], [2, 1, 1]);
        assert_eq!(frame.bytes()[..3], [2, 9, 1]);
        let bytes = Bytes::from(snapshot.clone());
        assert_eq!(bytes.as_ptr(), snapshot.bytes().as_ptr(), "handed over without a copy");
    }

    #[test]
    fn the_pool_takes_no_frame_that_somebody_still_reads() {
        let pool = FramePool::for_budget(0);
        let reader = Frame::from_slice(&[7; 4096]);
        pool.give(vec![reader.clone(), Frame::zeroed()]);
        assert_eq!(pool.len.load(Ordering::Relaxed), 1);
        assert_eq!(pool.frame_from(&[8; 4096]).bytes()[..], [8; 4096]);
        assert_eq!(reader.bytes()[..], [7; 4096]);
        assert!(pool.take().is_none());
        pool.give((0..1000).map(|_| Frame::zeroed()));
        assert_eq!(pool.len.load(Ordering::Relaxed), 256);
    }

    #[test]
    #[should_panic(expected = "exactly one block")]
    fn a_frame_of_another_size_is_refused() {
        let _ = Frame::from_slice(&[0; 4095]);
    }
}
