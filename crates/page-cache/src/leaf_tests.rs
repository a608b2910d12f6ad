//! Tests of single leaves: what is stored where, and what is refused.

use super::*;
use crate::frame::Single;

fn block(value: u8) -> Fresh {
    Fresh::Pages(vec![Single::from_slice(&[value; 4096])])
}

/// A leaf with content in the pages of `mask`; page `i` is full of byte `i`.
fn leaf_with(mask: u32) -> LeafState {
    let mut leaf = LeafState::default();
    for bit in each(mask).collect::<Vec<_>>().into_iter().rev() {
        leaf.fill(bit, block(u8::try_from(bit.trailing_zeros()).unwrap()));
    }
    leaf
}

#[test]
fn a_page_can_be_dirty_again_while_its_old_version_is_written() {
    let mut leaf = leaf_with(1);
    assert_eq!(leaf.set_dirty(1), 1);
    assert_eq!(leaf.set_dirty(1), 0, "it was dirty already");
    leaf.lock_pages(1);
    let mut frames = Vec::new();
    leaf.freeze(1, &mut frames);
    assert_eq!(leaf.set_dirty(1), 1, "a frozen page is clean until written to");
    leaf.start_writeback(1);
    leaf.unlock_pages(1);
    assert_eq!(leaf.masks.flags(1), PageFlags::UPTODATE | PageFlags::DIRTY | PageFlags::WRITEBACK);
    leaf.masks.check();
    leaf.end_writeback(1);
    assert_eq!(leaf.masks.flags(1), PageFlags::UPTODATE | PageFlags::DIRTY);
}

#[test]
#[should_panic(expected = "locked again (law O1)")]
fn law_o1_a_page_is_locked_once() {
    let mut leaf = leaf_with(3);
    leaf.lock_pages(1);
    leaf.lock_pages(3);
}

#[test]
#[should_panic(expected = "put under writeback that was not locked")]
fn law_o4_writeback_needs_the_page_lock() {
    leaf_with(1).start_writeback(1);
}

#[test]
#[should_panic(expected = "writeback was started twice")]
fn writeback_starts_once() {
    let mut leaf = leaf_with(1);
    leaf.lock_pages(1);
    leaf.start_writeback(1);
    leaf.start_writeback(1);
}

#[test]
#[should_panic(expected = "writeback ended that had not begun")]
fn writeback_ends_once() {
    leaf_with(1).end_writeback(1);
}

#[test]
#[should_panic(expected = "a clean page was frozen")]
fn only_dirty_pages_are_frozen() {
    let mut leaf = leaf_with(3);
    leaf.set_dirty(1);
    leaf.lock_pages(3);
    leaf.freeze(3, &mut Vec::new());
}

#[test]
#[should_panic(expected = "a page without content was dirtied")]
fn law_o4_no_phantom_dirty_page() {
    leaf_with(1).set_dirty(2);
}

#[test]
#[should_panic(expected = "removed under writeback")]
fn a_page_under_writeback_is_not_removed() {
    let mut leaf = leaf_with(1);
    leaf.lock_pages(1);
    leaf.start_writeback(1);
    leaf.remove(1);
}

#[test]
#[should_panic(expected = "a second ordered extent")]
fn a_page_has_one_ordered_extent() {
    let mut leaf = leaf_with(1);
    leaf.lock_pages(1);
    leaf.set_ordered(1);
    leaf.set_ordered(1);
}
