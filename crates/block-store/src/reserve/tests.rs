//! Figures against the layout of tree blocks.

use super::*;
use cowback_btrfs_disk::items::group::BITMAP_LEN;

/// Bytes of a tree block's header, and of one pointer in an inner block.
const BLOCK_HEADER: u64 = 101;
const POINTER: u64 = 33;

#[test]
fn what_a_tree_block_has_room_for_is_not_taken_for_more_or_less_with_any_size() {
    for nodesize in [4096, 8192, 16_384, 32_768, 65_536] {
        let room = nodesize - BLOCK_HEADER;
        let most = room / POINTER;
        assert!(most <= in_block(CHILDREN, nodesize), "{nodesize}");
        assert!(room / FILE_EXTENT <= in_block(CHILDREN, nodesize), "{nodesize}");
        assert!(most / 4 >= in_block(FEWEST_CHILDREN, nodesize), "{nodesize}");
        // A leaf that was split is half full.
        assert!(room / 2 / BLOCK >= in_block(FEWEST_BLOCKS, nodesize), "{nodesize}");
        assert!(room / 2 / HEADER >= in_block(FEWEST_GAPS, nodesize), "{nodesize}");
        let bitmap = HEADER + BITMAP_LEN as u64;
        assert!(room / 2 / bitmap >= in_block(FEWEST_BITMAPS, nodesize), "{nodesize}");
    }
}
