//! How much the pages of a leaf are used (stage 2): what the policy of [`crate::reclaim`] knows of single pages.
//!
//! A count of uses per page, up to three, as two bit masks; whether the page has to wait for the leaf's next turn; and
//! whether it was read in and nobody has used it yet. That first use is the one for which it was read in: it does not count, or else
//! whatever a scan reads ahead of itself would look as if it had been used again.

/// The uses of a leaf's pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Heat {
    /// Read in, and not used yet.
    fresh: u32,
    /// Came when the leaf stood in the small queue already, in front of others that had come before them.
    late: u32,
    /// The count of uses, low bit and high bit.
    low: u32,
    high: u32,
}

impl Heat {
    /// Pages with a count of uses that is not zero.
    pub(crate) fn used(&self) -> u32 {
        self.low | self.high
    }

    /// The pages were read in.
    pub(crate) fn read_in(&mut self, mask: u32) {
        self.fresh |= mask;
    }

    /// The pages came late to the small queue.
    pub(crate) fn come_late(&mut self, mask: u32) {
        self.late |= mask;
    }

    /// It is the leaf's turn in the small queue. Gives the pages that came late: their turn is the next.
    pub(crate) fn take_late(&mut self) -> u32 {
        std::mem::take(&mut self.late)
    }

    /// The pages are used.
    pub(crate) fn touch(&mut self, mask: u32) {
        let again = mask & !self.fresh;
        self.fresh &= !mask;
        let more = again & !(self.low & self.high);
        self.high ^= self.low & more;
        self.low ^= more;
    }

    /// The pages were looked at: each of their counts that is not zero is one less.
    pub(crate) fn cool(&mut self, mask: u32) {
        let less = mask & self.used();
        self.high ^= !self.low & less;
        self.low ^= less;
    }

    /// The counts of the pages begin anew.
    pub(crate) fn reset(&mut self, mask: u32) {
        self.low &= !mask;
        self.high &= !mask;
    }

    /// The pages are gone.
    pub(crate) fn forget(&mut self, mask: u32) {
        self.fresh &= !mask;
        self.late &= !mask;
        self.reset(mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(heat: &Heat, bit: u32) -> u32 {
        u32::from(heat.low & bit != 0) + 2 * u32::from(heat.high & bit != 0)
    }

    #[test]
    fn a_count_goes_up_to_three_and_down_to_zero_and_each_page_has_its_own() {
        let mut heat = Heat::default();
        for uses in [1, 2, 3, 3, 3] {
            heat.touch(2);
            assert_eq!((count(&heat, 2), count(&heat, 1)), (uses, 0));
        }
        heat.touch(1);
        for (left, other) in [(2, 0), (1, 0), (0, 0), (0, 0)] {
            heat.cool(3);
            assert_eq!((count(&heat, 2), count(&heat, 1)), (left, other));
        }
        assert_eq!(heat, Heat::default());
    }

    #[test]
    fn the_use_for_which_a_page_was_read_in_does_not_count() {
        let mut heat = Heat::default();
        heat.read_in(3);
        heat.touch(1);
        assert_eq!(heat.used(), 0);
        heat.touch(3);
        assert_eq!(heat.used(), 1);
        heat.reset(3);
        assert_eq!(heat.used(), 0);
        heat.touch(2);
        assert_eq!(heat.used(), 2, "the first use came before");
        heat.forget(3);
        assert_eq!(heat, Heat::default());
    }
}
