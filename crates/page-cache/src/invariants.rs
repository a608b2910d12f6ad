//! Whole-structure checks, for tests (feature `invariants`): what is kept twice is the same in both places.

use cowback_base::{PageIndex, PageRange};

use crate::bits::{bit_of, runs};
use crate::flags::Tag;
use crate::guard::LeafGuard;
use crate::mapping::Mapping;

impl Mapping {
    /// Checks every leaf: its tags are in the index exactly if a page has them, each version under writeback has its ordered extent (law O4),
    /// and `is_delalloc`, which is asked under the leaf's mutex, holds for exactly the dirty pages. Then, that gauges are what was counted.
    ///
    /// Nobody writes to the file or cuts it meanwhile, and none of its writeback ends.
    ///
    /// # Panics
    /// If something is not so.
    pub fn check_structure(&self, is_delalloc: impl Fn(PageRange) -> bool) {
        let (mut dirty, mut writeback) = (0, 0);
        let all = PageRange::new(PageIndex(0), PageIndex(u64::MAX));
        for number in self.leaves_in(all) {
            self.on_leaf(number, |leaf| {
                leaf.check();
                self.check_tags(leaf);
                let masks = leaf.masks;
                assert_eq!(masks.writeback, masks.ordered, "writeback without ordered extent (O4)");
                for page in runs(number, u32::MAX).flat_map(|leaf| leaf.iter()) {
                    let is_dirty = masks.dirty & bit_of(page) != 0;
                    let known = is_delalloc(PageRange::one(page));
                    assert_eq!(
                        is_dirty,
                        known,
                        "dirty and delalloc: {page:?} of {} (O4)",
                        self.owner()
                    );
                }
                dirty += u64::from(masks.dirty.count_ones());
                writeback += u64::from(masks.writeback.count_ones());
            });
        }
        assert_eq!(dirty, self.dirty_count(), "dirty pages (E4)");
        assert_eq!(writeback, self.writeback_count(), "pages under writeback (E4)");
    }

    fn check_tags(&self, leaf: &LeafGuard<'_>) {
        for tag in [Tag::Dirty, Tag::Writeback, Tag::ToWrite] {
            let tagged = leaf.masks.tagged(tag) != 0;
            assert_eq!(tagged, self.is_leaf_tagged(tag, leaf.number), "{tag:?} of {}", leaf.number);
        }
    }
}
