//! Half-open ranges of bytes and of pages, with the arithmetic that the pipeline needs, checked in one place.
//!
//! The kernel's ranges are inclusive, and a good part of its writeback bugs were off by one there; no inclusive range
//! exists in this project.

use std::fmt;

use crate::units::{BLOCK_SIZE, PageIndex, block_align_down, block_align_up};

/// Bytes `[start, end)` of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// The range `[start, end)`.
    ///
    /// # Panics
    /// If `end < start`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        assert!(start <= end, "a range ends before it begins");
        Self { start, end }
    }

    /// The range of `len` bytes from `start`.
    ///
    /// # Panics
    /// If the end does not fit in a `u64`.
    #[must_use]
    pub const fn at(start: u64, len: u64) -> Self {
        match start.checked_add(len) {
            Some(end) => Self { start, end },
            None => panic!("a range overflows"),
        }
    }

    /// Bytes in the range.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether the range holds no byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether `offset` lies in the range.
    #[must_use]
    pub const fn contains(self, offset: u64) -> bool {
        self.start <= offset && offset < self.end
    }

    /// The bytes that both ranges hold, if any.
    #[must_use]
    pub fn intersect(self, other: Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }

    /// The smallest block-aligned range that holds this one.
    #[must_use]
    pub const fn align_out(self) -> Self {
        Self { start: block_align_down(self.start), end: block_align_up(self.end) }
    }

    /// Whether both ends lie on block boundaries.
    #[must_use]
    pub const fn is_aligned(self) -> bool {
        self.start.is_multiple_of(BLOCK_SIZE) && self.end.is_multiple_of(BLOCK_SIZE)
    }

    /// The pages that this range touches.
    #[must_use]
    pub const fn pages(self) -> PageRange {
        if self.is_empty() {
            return PageRange {
                start: PageIndex(self.start / BLOCK_SIZE),
                end: PageIndex(self.start / BLOCK_SIZE),
            };
        }
        PageRange {
            start: PageIndex(self.start / BLOCK_SIZE),
            end: PageIndex((self.end - 1) / BLOCK_SIZE + 1),
        }
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Pages `[start, end)` of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PageRange {
    /// First page.
    pub start: PageIndex,
    /// One past the last page.
    pub end: PageIndex,
}

impl PageRange {
    /// The range `[start, end)`.
    ///
    /// # Panics
    /// If `end < start`.
    #[must_use]
    pub const fn new(start: PageIndex, end: PageIndex) -> Self {
        assert!(start.0 <= end.0, "a page range ends before it begins");
        Self { start, end }
    }

    /// The one page `index`.
    #[must_use]
    pub const fn one(index: PageIndex) -> Self {
        Self { start: index, end: index.next() }
    }

    /// Pages in the range.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether the range holds no page.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start.0 == self.end.0
    }

    /// Whether `index` lies in the range.
    #[must_use]
    pub const fn contains(self, index: PageIndex) -> bool {
        self.start.0 <= index.0 && index.0 < self.end.0
    }

    /// The pages that both ranges hold, if any.
    #[must_use]
    pub fn intersect(self, other: Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }

    /// The bytes of these pages.
    #[must_use]
    pub const fn bytes(self) -> ByteRange {
        ByteRange { start: self.start.offset(), end: self.end.offset() }
    }

    /// The pages, in ascending order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = PageIndex> + Clone {
        (self.start.0..self.end.0).map(PageIndex)
    }

    /// This range in pieces of at most `pages` pages, cut from its start.
    ///
    /// # Panics
    /// If `pages` is zero.
    pub fn pieces(self, pages: u64) -> impl Iterator<Item = Self> {
        assert!(pages > 0, "pieces of no pages");
        let mut at = self.start.0;
        std::iter::from_fn(move || {
            (at < self.end.0).then(|| {
                let end = self.end.0.min(at.saturating_add(pages));
                let piece = Self { start: PageIndex(at), end: PageIndex(end) };
                at = end;
                piece
            })
        })
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pages [{}, {})", self.start.0, self.end.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_range_touches_the_pages_of_its_first_and_last_byte() {
        let pages = |start, end| {
            let range = ByteRange::new(start, end).pages();
            (range.start.0, range.end.0)
        };
        assert_eq!(pages(0, 0), (0, 0));
        assert_eq!(pages(0, 1), (0, 1));
        assert_eq!(pages(0, 4096), (0, 1));
        assert_eq!(pages(0, 4097), (0, 2));
        assert_eq!(pages(4095, 4097), (0, 2));
        assert_eq!(pages(4096, 8192), (1, 2));
        assert_eq!(pages(5000, 5000), (1, 1));
    }

    #[test]
    fn pieces_cover_the_range_once_and_in_order() {
        for (len, step) in [(0, 1), (1, 1), (7, 3), (9, 3), (2, 9)] {
            let range = PageRange::new(PageIndex(5), PageIndex(5 + len));
            let mut at = range.start;
            for piece in range.pieces(step) {
                assert_eq!(piece.start, at);
                assert!(piece.count() > 0 && piece.count() <= step);
                at = piece.end;
            }
            assert_eq!(at, range.end);
        }
    }

    #[test]
    fn ranges_that_only_touch_do_not_intersect() {
        let (a, b) = (ByteRange::new(0, 10), ByteRange::new(10, 20));
        assert_eq!(a.intersect(b), None);
        assert_eq!(a.intersect(ByteRange::new(9, 30)), Some(ByteRange::new(9, 10)));
    }

    #[test]
    #[should_panic(expected = "ends before it begins")]
    fn an_inverted_range_is_refused() {
        let _ = ByteRange::new(2, 1);
    }
}
