//! Round trips, hostile mutations and each rule of tree blocks.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::key::ItemKind;

const CSUM: ChecksumKind = ChecksumKind::Crc32c;

fn header(level: u8) -> Header {
    Header {
        fsid: Uuid::from_u128(7),
        bytenr: 1 << 20,
        reloc: false,
        chunk_tree_uuid: Uuid::from_u128(9),
        generation: 12,
        owner: TreeId::FS,
        level,
    }
}

fn expect() -> BlockExpect {
    BlockExpect { bytenr: 1 << 20, fsid: Uuid::from_u128(7), ..Default::default() }
}

fn key(n: u64) -> Key {
    Key::new(n, ItemKind::INODE_ITEM, 0)
}

/// Changes bytes of a valid block and puts the checksum right again.
fn mutated(mut block: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut block);
    csum::seal(CSUM, &mut block);
    block
}

fn refused(block: &[u8], expect: &BlockExpect) -> DiskError {
    parse_block(block, expect, CSUM).expect_err("a bad block is refused")
}

fn any_key() -> impl Strategy<Value = Key> {
    (any::<u64>(), any::<u8>(), any::<u64>())
        .prop_map(|(objectid, kind, offset)| Key::new(objectid, ItemKind(kind), offset))
}

proptest! {
    #[test]
    fn a_leaf_comes_back_as_it_was_written(items in btree_map(any_key(), vec(any::<u8>(), 0..200), 1..18)) {
        let block = write_leaf(&header(0), 4096, CSUM, items.iter().map(|(k, d)| (*k, &d[..])));
        let block = block.expect("they fit");
        let ParsedBlock::Leaf(leaf) = parse_block(&block, &expect(), CSUM).unwrap() else {
            panic!("a leaf");
        };
        prop_assert_eq!(leaf.header(), &header(0));
        let back: Vec<_> = leaf.items().collect();
        let there: Vec<_> = items.iter().map(|(k, d)| (*k, &d[..])).collect();
        prop_assert_eq!(back, there);
    }

    #[test]
    fn a_node_comes_back_as_it_was_written(
        ptrs in btree_map(any_key(), (1..u64::MAX >> 12, 0..=12u64), 1..=121),
        level in 1..MAX_LEVEL,
    ) {
        let ptrs: Vec<_> = ptrs
            .into_iter()
            .map(|(key, (block, generation))| NodePtr { key, bytenr: block << 12, generation })
            .collect();
        let block = write_node(&header(level), 4096, CSUM, &ptrs).unwrap();
        let ParsedBlock::Node(node) = parse_block(&block, &expect(), CSUM).unwrap() else {
            panic!("a node");
        };
        prop_assert_eq!(node, ParsedNode { header: header(level), ptrs });
    }

    /// E3: whatever bytes a block has, parsing ends, and what is accepted can be read through.
    #[test]
    fn no_change_of_bytes_makes_parsing_panic(
        level in 0..2u8,
        flips in vec((0..600usize, any::<u8>()), 1..6),
    ) {
        let block = if level == 0 {
            write_leaf(&header(0), 1024, CSUM, [(key(1), &[1; 40][..]), (key(2), &[]), (key(3), &[2; 9])])
        } else {
            let ptr = |n| NodePtr { key: key(n), bytenr: n << 14, generation: n };
            write_node(&header(1), 1024, CSUM, &[ptr(1), ptr(2), ptr(9)])
        };
        let block = mutated(block.unwrap(), |block| {
            for (at, byte) in flips {
                block[at] ^= byte;
            }
        });
        if let Ok(ParsedBlock::Leaf(leaf)) = parse_block(&block, &expect(), CSUM) {
            prop_assert!(leaf.items().map(|(_, data)| data.len()).sum::<usize>() < 1024);
        }
    }

    #[test]
    fn random_bytes_are_no_block(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(parse_block(&bytes, &BlockExpect::default(), CSUM).is_err());
        let sealed = mutated(bytes, |_| {});
        prop_assert!(parse_block(&sealed, &expect(), CSUM).is_err());
    }
}

#[test]
fn a_block_that_is_not_the_expected_one_is_refused() {
    let block = write_leaf(&header(0), 4096, CSUM, [(key(1), &b"abc"[..])]).unwrap();
    let right = BlockExpect {
        level: Some(0),
        generation: Some(12),
        owner: Some(5),
        first_key: Some(key(1)),
        ..expect()
    };
    parse_block(&block, &right, CSUM).unwrap();
    let wrong = |expect: BlockExpect| refused(&block, &expect).field;
    assert_eq!(wrong(BlockExpect { bytenr: 4096, ..right.clone() }), "bytenr");
    assert_eq!(wrong(BlockExpect { fsid: Uuid::nil(), ..right.clone() }), "fsid");
    assert_eq!(wrong(BlockExpect { level: Some(1), ..right.clone() }), "level");
    assert_eq!(wrong(BlockExpect { generation: Some(11), ..right.clone() }), "generation");
    assert_eq!(wrong(BlockExpect { owner: Some(1), ..right.clone() }), "owner");
    assert_eq!(wrong(BlockExpect { first_key: Some(key(2)), ..right.clone() }), "first key");
    let mut torn = block.clone();
    torn[4095] ^= 1;
    assert_eq!(refused(&torn, &right).field, "csum");
}

#[test]
fn a_leaf_whose_items_are_not_packed_is_refused() {
    let items = [(key(1), &[1u8; 40][..]), (key(2), &[2u8; 9])];
    let block = write_leaf(&header(0), 1024, CSUM, items).unwrap();
    let field = |at: usize, value: u32| {
        let bad = mutated(block.clone(), |block| {
            block[at..at + 4].copy_from_slice(&value.to_le_bytes());
        });
        refused(&bad, &expect()).field
    };
    let item = HEADER_LEN + Key::LEN;
    assert_eq!(field(96, 1000), "nritems");
    assert_eq!(field(96, 0), "nritems", "the tree of files is never empty");
    assert_eq!(field(item, 1024 - 101 - 41), "item end");
    assert_eq!(field(item + 4, 41), "item end");
    assert_eq!(field(item + ITEM_LEN + 4, u32::MAX), "item end");
    assert_eq!(field(HEADER_LEN, 2), "item key", "equal keys");
    // Two items of which the second's data reaches into the item headers.
    let bad = mutated(block, |block| {
        let (offset, len) = (0u32, 1024 - 101 - 40u32);
        block[item + ITEM_LEN..][..4].copy_from_slice(&offset.to_le_bytes());
        block[item + ITEM_LEN + 4..][..4].copy_from_slice(&len.to_le_bytes());
    });
    assert_eq!(refused(&bad, &expect()).field, "item data");
}

#[test]
fn what_does_not_fit_or_ascend_is_not_written() {
    let full = vec![0u8; 1024 - HEADER_LEN - ITEM_LEN];
    let one = write_leaf(&header(0), 1024, CSUM, [(key(1), &full[..])]).unwrap();
    parse_block(&one, &expect(), CSUM).unwrap();
    let too_long = vec![0u8; full.len() + 1];
    assert!(write_leaf(&header(0), 1024, CSUM, [(key(1), &too_long[..])]).is_err());
    assert!(write_leaf(&header(0), 1024, CSUM, [(key(1), &full[..]), (key(2), &[])]).is_err());
    assert!(write_leaf(&header(0), 1024, CSUM, [(key(2), &[][..]), (key(1), &[])]).is_err());
    assert!(write_leaf(&header(1), 1024, CSUM, []).is_err());
    assert!(write_node(&header(1), 1024, CSUM, &[]).is_err());
    let ptr = NodePtr { key: key(1), bytenr: 4096, generation: 1 };
    assert!(write_node(&header(0), 1024, CSUM, &[ptr]).is_err());
    assert!(write_node(&header(1), 1024, CSUM, &[ptr, ptr]).is_err());
}

#[test]
fn a_node_pointer_out_of_place_is_refused() {
    let ptr = NodePtr { key: key(1), bytenr: 4096, generation: 12 };
    let field = |ptr: NodePtr| {
        let block = write_node(&header(1), 1024, CSUM, &[ptr]).unwrap();
        refused(&block, &expect()).field
    };
    assert_eq!(field(NodePtr { bytenr: 0, ..ptr }), "pointer bytenr");
    assert_eq!(field(NodePtr { bytenr: 4097, ..ptr }), "pointer bytenr");
    assert_eq!(field(NodePtr { generation: 13, ..ptr }), "pointer generation");
}

#[test]
fn an_empty_leaf_is_fine_where_the_tree_may_be_empty() {
    let head = Header { owner: TreeId::CSUM, ..header(0) };
    let block = write_leaf(&head, 4096, CSUM, []).unwrap();
    parse_block(&block, &expect(), CSUM).unwrap();
}
