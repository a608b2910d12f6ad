//! The bytes of pages (stage 2): those of one page by themselves, or those of a leaf's 32 pages in one piece.
//!
//! Law B1: bytes that somebody else can see never change. Bytes are changed only where nobody else holds the allocation that
//! they are in ([`Single::make_mut`], [`Slab::get_mut`]); else the page gets a fresh one first. So a clone is a snapshot.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use cowback_base::{BLOCK_SIZE_USIZE, PageIndex, PageRange};

use crate::bits::{LEAF_PAGES, first_of_leaf, leaf_of};

/// What a page is made of: 4 KiB.
pub(crate) type Block = [u8; BLOCK_SIZE_USIZE];

/// Blocks of a slab.
pub(crate) const SLAB_BLOCKS: usize = 32;
const _: () = assert!(SLAB_BLOCKS as u64 == LEAF_PAGES);

static ZEROS: Block = [0; BLOCK_SIZE_USIZE];

/// The bytes of one page, by themselves.
///
/// The count and the bytes are two allocations: in one they would be 4112 bytes, for which an allocator with size classes takes 5120.
#[derive(Clone)]
#[expect(clippy::redundant_allocation, reason = "one allocation of 4112 bytes would take 5120")]
pub(crate) struct Single(Arc<Box<Block>>);

impl fmt::Debug for Single {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Single({:02x?}..)", &self.bytes()[..8])
    }
}

impl Single {
    pub(crate) fn zeroed() -> Self {
        Self::from_slice(&ZEROS)
    }

    /// A copy of `bytes`.
    ///
    /// # Panics
    /// If there are not exactly 4096 of them.
    pub(crate) fn from_slice(bytes: &[u8]) -> Self {
        let block: Box<[u8]> = Box::from(bytes);
        Self(Arc::new(block.try_into().expect("a frame is made of exactly one block")))
    }

    pub(crate) fn bytes(&self) -> &Block {
        &self.0
    }

    /// The bytes, to change them: of a fresh copy if anybody else holds them.
    pub(crate) fn make_mut(&mut self) -> &mut Block {
        if Arc::get_mut(&mut self.0).is_none() {
            *self = Self::from_slice(self.bytes());
        }
        Arc::get_mut(&mut self.0).expect("the frame was just made, or just found to be unshared")
    }

    /// Whether nobody else holds them.
    pub(crate) fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.0).is_some()
    }
}

/// The bytes of all pages of a leaf, in one piece (128 KiB): one count of references, one allocation, and nothing to put together
/// before they are compressed or written.
#[derive(Clone)]
pub(crate) struct Slab(Arc<Box<[Block]>>);

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slab({:02x?}..)", &self.blocks()[0][..8])
    }
}

impl Slab {
    /// A copy of the blocks of a leaf.
    ///
    /// # Panics
    /// If there are not exactly 32 of them.
    pub(crate) fn from_blocks(blocks: &[Block]) -> Self {
        assert_eq!(blocks.len(), SLAB_BLOCKS, "a slab is made of exactly one leaf");
        Self(Arc::new(Box::from(blocks)))
    }

    pub(crate) fn zeroed() -> Self {
        Self(Arc::new(vec![ZEROS; SLAB_BLOCKS].into_boxed_slice()))
    }

    pub(crate) fn blocks(&self) -> &[Block] {
        &self.0
    }

    /// The block of number `at`.
    pub(crate) fn block(&self, at: u8) -> &Block {
        &self.0[usize::from(at)]
    }

    /// The bytes, to change them, unless anybody else holds some of them.
    pub(crate) fn get_mut(&mut self) -> Option<&mut [Block]> {
        Arc::get_mut(&mut self.0).map(|blocks| &mut blocks[..])
    }

    /// Whether nobody else holds any of them.
    pub(crate) fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.0).is_some()
    }

    /// A snapshot of the block of number `at`.
    pub(crate) fn frame(&self, at: u8) -> Frame {
        Frame(Bits::Of(self.clone(), at))
    }
}

/// Memory for the content of all pages of a leaf, which is not in a file yet.
pub struct LeafMemory(pub(crate) Slab);

impl LeafMemory {
    /// The bytes, 128 KiB. At first they are of no interest.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.get_mut().expect("nobody else holds it yet").as_flattened_mut()
    }

    /// The first border between two leaves that lies within `pages`.
    #[must_use]
    pub fn border_in(pages: PageRange) -> Option<PageIndex> {
        let border = first_of_leaf(leaf_of(pages.start) + 1);
        (border < pages.end).then_some(border)
    }
}

impl fmt::Debug for LeafMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeafMemory(..)")
    }
}

/// The bytes of one page. To clone it is to take a snapshot, without copying.
#[derive(Clone)]
pub struct Frame(Bits);

#[derive(Clone)]
enum Bits {
    Single(Single),
    /// Of a slab, the block of that number.
    Of(Slab, u8),
}

impl Frame {
    /// A frame of zeros.
    #[must_use]
    pub fn zeroed() -> Self {
        Single::zeroed().into()
    }

    /// A frame that holds a copy of `bytes`.
    ///
    /// # Panics
    /// If there are not exactly 4096 of them.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Self {
        Single::from_slice(bytes).into()
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; BLOCK_SIZE_USIZE] {
        match &self.0 {
            Bits::Single(single) => single.bytes(),
            Bits::Of(slab, at) => slab.block(*at),
        }
    }

    /// The bytes of `frames`, in as few pieces as they are in memory.
    pub fn pieces(frames: &[Self]) -> impl Iterator<Item = &[u8]> {
        frames.chunk_by(Self::is_followed_by).map(|piece| match &piece[0].0 {
            Bits::Single(single) => &single.bytes()[..],
            Bits::Of(slab, at) => slab.blocks()[usize::from(*at)..][..piece.len()].as_flattened(),
        })
    }

    fn is_followed_by(&self, next: &Self) -> bool {
        match (&self.0, &next.0) {
            (Bits::Of(slab, at), Bits::Of(other, next)) => {
                at + 1 == *next && Arc::ptr_eq(&slab.0, &other.0)
            }
            _ => false,
        }
    }

    /// The frame by itself: a copy if it is part of something larger.
    pub(crate) fn into_single(self) -> Single {
        match self.0 {
            Bits::Single(single) => single,
            Bits::Of(slab, at) => Single::from_slice(slab.block(at)),
        }
    }
}

impl From<Single> for Frame {
    fn from(single: Single) -> Self {
        Self(Bits::Single(single))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_keeps_its_bytes_when_the_original_changes_law_b1() {
        let mut single = Single::from_slice(&[1; 4096]);
        let unshared = single.bytes().as_ptr();
        single.make_mut()[0] = 2;
        assert_eq!(single.bytes().as_ptr(), unshared, "an unshared frame changes in place");
        let snapshot = Frame::from(single.clone());
        single.make_mut()[1] = 9;
        assert_eq!(snapshot.bytes()[..3], [2, 1, 1]);
        assert_eq!(single.bytes()[..3], [2, 9, 1]);
        let bytes = Bytes::from(snapshot.clone());
        assert_eq!(bytes.as_ptr(), snapshot.bytes().as_ptr(), "handed over without a copy");
    }

    #[test]
    fn law_b1_a_slab_does_not_change_while_anybody_holds_a_page_of_it() {
        let mut slab = Slab::zeroed();
        slab.get_mut().unwrap()[3][0] = 3;
        let page = slab.frame(3);
        assert!(slab.get_mut().is_none());
        assert_eq!(page.bytes()[0], 3);
        drop(page);
        assert!(slab.get_mut().is_some());
    }

    #[test]
    fn frames_that_lie_one_behind_the_other_are_one_piece() {
        let blocks: Vec<Block> = (0..32).map(|at| [at; BLOCK_SIZE_USIZE]).collect();
        let (slab, other) = (Slab::from_blocks(&blocks), Slab::from_blocks(&blocks));
        let single = Frame::from_slice(&[77; 4096]);
        let frames = [
            slab.frame(30),
            slab.frame(31),
            other.frame(0),
            other.frame(2),
            other.frame(3),
            slab.frame(4),
            single.clone(),
            single,
        ];
        let pieces: Vec<_> = Frame::pieces(&frames).map(<[u8]>::len).collect();
        assert_eq!(pieces, [2, 1, 2, 1, 1, 1].map(|blocks| blocks * 4096));
        let bytes: Vec<u8> = Frame::pieces(&frames).flatten().copied().collect();
        let one_by_one: Vec<u8> = frames.iter().flat_map(Frame::bytes).copied().collect();
        assert_eq!(bytes, one_by_one);
        assert_eq!(Frame::pieces(&[]).count(), 0);
    }

    #[test]
    #[should_panic(expected = "exactly one block")]
    fn a_frame_of_another_size_is_refused() {
        let _ = Frame::from_slice(&[0; 4095]);
    }
}
