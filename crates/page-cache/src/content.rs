//! The content of a leaf's pages (stage 2): in one slab, page by page, or some so and some so.
//!
//! What comes for a whole leaf at once, by a long write or from an extent that is read, stays in one piece. A page that is written to while somebody
//! holds a snapshot of the slab leaves it, and so does a page that is dropped. A slab is kept as long as at least [`IN_SLAB_MIN`] of its pages
//! are used, so what it takes beyond the pages that are counted is an eighth of it at most; then those that are left are copied out of it,
//! which happens to a page once. Single pages are stored densely, in page order, so that a file of one page does not pay for 32.

use crate::bits::each;
use crate::frame::{Block, Frame, Single, Slab};

/// Pages of a slab that are used at least.
const IN_SLAB_MIN: u32 = 28;

/// Content that goes into a leaf, made before it is locked.
#[derive(Debug)]
pub(crate) enum Fresh {
    /// That of all its pages.
    Leaf(Slab),
    /// That of some, in page order.
    Pages(Vec<Single>),
}

/// Memory that a leaf does not need any more. Others may hold it.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    pub(crate) slab: Option<Slab>,
    pub(crate) singles: Vec<Single>,
}

impl From<Fresh> for Removed {
    fn from(unused: Fresh) -> Self {
        match unused {
            Fresh::Leaf(slab) => Self { slab: Some(slab), singles: Vec::new() },
            Fresh::Pages(singles) => Self { slab: None, singles },
        }
    }
}

/// The content of those pages of a leaf that have some.
#[derive(Debug, Default)]
pub(crate) struct Content {
    slab: Option<Slab>,
    /// The single pages' bytes, in page order.
    singles: Vec<Single>,
    /// The pages whose content is in the slab.
    in_slab: u32,
    /// The pages whose content is in `singles`.
    single: u32,
}

impl Content {
    /// The pages that have content.
    pub(crate) fn there(&self) -> u32 {
        self.in_slab | self.single
    }

    /// A snapshot of the page of `bit`.
    pub(crate) fn frame(&self, bit: u32) -> Option<Frame> {
        if self.in_slab & bit != 0 {
            return self.slab.as_ref().map(|slab| slab.frame(number(bit)));
        }
        (self.single & bit != 0).then(|| self.singles[self.rank(bit)].clone().into())
    }

    /// The bytes of the page of `bit`.
    pub(crate) fn bytes(&self, bit: u32) -> Option<&Block> {
        if self.in_slab & bit != 0 {
            return self.slab.as_ref().map(|slab| slab.block(number(bit)));
        }
        (self.single & bit != 0).then(|| self.singles[self.rank(bit)].bytes())
    }

    /// The bytes of the page of `bit`, to change them: of a fresh copy if anybody else holds them (law B1).
    pub(crate) fn bytes_mut(&mut self, bit: u32) -> Option<&mut Block> {
        if self.in_slab & bit != 0 {
            if self.slab.as_mut().is_some_and(Slab::is_unique) {
                let blocks = self.slab.as_mut().and_then(Slab::get_mut);
                return blocks.map(|blocks| &mut blocks[usize::from(number(bit))]);
            }
            let copy = self.frame(bit).map(Frame::into_single);
            drop(self.leave_slab(bit));
            self.insert(bit, copy.expect("the page is in the slab"));
        }
        let rank = self.rank(bit);
        (self.single & bit != 0).then(|| self.singles[rank].make_mut())
    }

    /// Gives the pages of `mask`, which have no content, theirs. Of a slab, only these are used.
    pub(crate) fn add(&mut self, mask: u32, fresh: Fresh) {
        assert_eq!(self.there() & mask, 0, "a page got content twice");
        match fresh {
            Fresh::Leaf(slab) if self.slab.is_none() && mask.count_ones() >= IN_SLAB_MIN => {
                self.slab = Some(slab);
                self.in_slab = mask;
            }
            Fresh::Leaf(slab) => self.copy_out(mask, &slab),
            Fresh::Pages(pages) => {
                self.reserve(mask.count_ones());
                each(mask).zip(pages).for_each(|(bit, page)| self.insert(bit, page));
            }
        }
    }

    /// Gives the pages of `mask` other content, or their first. Gives what is not needed any more.
    pub(crate) fn replace(&mut self, mask: u32, fresh: Fresh) -> Removed {
        match fresh {
            Fresh::Pages(mut pages) if mask & !self.single == 0 => {
                for (bit, page) in each(mask).zip(&mut pages) {
                    let rank = self.rank(bit);
                    std::mem::swap(&mut self.singles[rank], page);
                }
                Removed { slab: None, singles: pages }
            }
            fresh => {
                let removed = self.remove(mask);
                self.add(mask, fresh);
                removed
            }
        }
    }

    /// Takes the content of the pages of `mask` away, as far as they have any.
    pub(crate) fn remove(&mut self, mask: u32) -> Removed {
        if self.there() & !mask == 0 {
            let Self { slab, singles, .. } = std::mem::take(self);
            return Removed { slab, singles };
        }
        let slab = self.leave_slab(mask & self.in_slab);
        let gone = mask & self.single;
        if gone == 0 {
            return Removed { slab, singles: Vec::new() };
        }
        let mut bits = each(self.single);
        let is_gone = |_: &mut Single| bits.next().is_some_and(|bit| bit & gone != 0);
        let singles = self.singles.extract_if(.., is_gone).collect();
        self.single &= !gone;
        self.singles.shrink_to(self.singles.len().next_power_of_two());
        Removed { slab, singles }
    }

    /// The pages of `gone` have their content elsewhere, or none, from now on. Gives the slab if it is not worth keeping without them.
    fn leave_slab(&mut self, gone: u32) -> Option<Slab> {
        self.in_slab &= !gone;
        if self.in_slab.count_ones() >= IN_SLAB_MIN {
            return None;
        }
        let slab = self.slab.take()?;
        let left = std::mem::take(&mut self.in_slab);
        self.copy_out(left, &slab);
        Some(slab)
    }

    /// Gives the pages of `mask`, which have no content, that of their places in `slab`, each by itself.
    fn copy_out(&mut self, mask: u32, slab: &Slab) {
        self.reserve(mask.count_ones());
        for bit in each(mask) {
            self.insert(bit, Single::from_slice(slab.block(number(bit))));
        }
    }

    fn insert(&mut self, bit: u32, page: Single) {
        let rank = self.rank(bit);
        if self.singles.len() == self.singles.capacity() {
            // The first page alone, then room for a few: most files are of one page, or of many.
            self.singles.reserve_exact(if self.singles.is_empty() { 1 } else { 8 });
        }
        self.singles.insert(rank, page);
        self.single |= bit;
    }

    /// Makes room for so many more pages, without slack if they are the first.
    fn reserve(&mut self, more: u32) {
        if more > 1 && self.singles.is_empty() {
            self.singles.reserve_exact(more as usize);
        }
    }

    /// Where in `singles` the page of `bit` is, or belongs.
    fn rank(&self, bit: u32) -> usize {
        (self.single & (bit - 1)).count_ones() as usize
    }

    /// Single pages that there is room for.
    #[cfg(test)]
    pub(crate) fn slots(&self) -> usize {
        self.singles.capacity()
    }

    /// Bytes that are held: a slab's, and those of the single pages.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        let slab = self.slab.as_ref().map_or(0, |slab| slab.blocks().len());
        (slab + self.singles.len()) * size_of::<Block>()
    }
}

/// The number of the page of `bit` in its leaf.
fn number(bit: u32) -> u8 {
    u8::try_from(bit.trailing_zeros()).expect("at most 32")
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
