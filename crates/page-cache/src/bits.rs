//! Arithmetic between page numbers and the bits of a leaf's masks (stage 2).

use cowback_base::{PageIndex, PageRange};

/// Pages that one leaf covers: as many as its masks have bits.
pub(crate) const LEAF_PAGES: u64 = 32;

/// The number of the leaf that covers a page.
pub(crate) const fn leaf_of(index: PageIndex) -> u64 {
    index.0 / LEAF_PAGES
}

/// The first page of a leaf.
pub(crate) const fn first_of_leaf(number: u64) -> PageIndex {
    PageIndex(number.saturating_mul(LEAF_PAGES))
}

/// A page's bit in the masks of its leaf.
pub(crate) const fn bit_of(index: PageIndex) -> u32 {
    1 << (index.0 % LEAF_PAGES)
}

/// The page of the lowest bit of `mask` in leaf `leaf`.
pub(crate) fn page_at(leaf: u64, mask: u32) -> PageIndex {
    PageIndex(leaf * LEAF_PAGES + u64::from(mask.trailing_zeros()))
}

/// The lowest set bit, or zero.
pub(crate) const fn lowest(mask: u32) -> u32 {
    mask & mask.wrapping_neg()
}

/// The bits of those pages of leaf `leaf` that lie in `range`.
pub(crate) fn mask_in(leaf: u64, range: PageRange) -> u32 {
    let base = leaf.saturating_mul(LEAF_PAGES);
    let low = range.start.0.saturating_sub(base);
    let high = range.end.0.saturating_sub(base).min(LEAF_PAGES);
    if low >= high {
        return 0;
    }
    (u32::MAX << (low & 31)) & (u32::MAX >> (LEAF_PAGES - high))
}

/// The leaves that `range` touches, each with the bits of the range in it, ascending.
pub(crate) fn pieces(range: PageRange) -> impl Iterator<Item = (u64, u32)> {
    let last = if range.is_empty() { 0 } else { leaf_of(PageIndex(range.end.0 - 1)) + 1 };
    (leaf_of(range.start)..last).map(move |leaf| (leaf, mask_in(leaf, range)))
}

/// The runs of set bits of `mask`, as pages of leaf `leaf`, ascending.
pub(crate) fn runs(leaf: u64, mut mask: u32) -> impl Iterator<Item = PageRange> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let skip = mask.trailing_zeros();
        let len = (mask >> skip).trailing_ones();
        mask &= !span(skip, len);
        let start = leaf * LEAF_PAGES + u64::from(skip);
        Some(PageRange::new(PageIndex(start), PageIndex(start + u64::from(len))))
    })
}

/// The bits of a mask one by one, ascending.
pub(crate) fn each(mut mask: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = lowest(mask);
        mask &= !bit;
        (bit != 0).then_some(bit)
    })
}

/// `len` bits (one to 32) from bit `skip` on.
const fn span(skip: u32, len: u32) -> u32 {
    (u32::MAX >> (32 - len)) << skip
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_pieces_and_runs_agree_with_counting_pages_one_by_one() {
        for start in 0..70 {
            for end in start..100 {
                let range = PageRange::new(PageIndex(start), PageIndex(end));
                let mut seen = Vec::new();
                for (leaf, mask) in pieces(range) {
                    assert_ne!(mask, 0, "{range:?}");
                    seen.extend(each(mask).map(|bit| page_at(leaf, bit).0));
                    assert_eq!(runs(leaf, mask).count(), 1, "a range is one run per leaf");
                }
                assert_eq!(seen, (start..end).collect::<Vec<_>>(), "{range:?}");
            }
        }
        let found: Vec<_> = runs(1, 0x8000_0035).collect();
        let pages = |a, b| PageRange::new(PageIndex(a), PageIndex(b));
        assert_eq!(found, [pages(32, 33), pages(34, 35), pages(36, 38), pages(63, 64)]);
        assert_eq!(runs(0, u32::MAX).collect::<Vec<_>>(), [pages(0, 32)]);
    }

    #[test]
    fn a_range_without_end_covers_leaves_to_the_last_bit() {
        let all = PageRange::new(PageIndex(3), PageIndex(u64::MAX));
        assert_eq!(mask_in(0, all), !7);
        assert_eq!(mask_in(9, all), u32::MAX);
    }
}
