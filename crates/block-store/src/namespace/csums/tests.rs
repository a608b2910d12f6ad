//! Checksums against a map of blocks, for every algorithm.

use std::collections::BTreeMap;

use cowback_btrfs_disk::ChecksumKind;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::mock::Mock;
use super::*;

const B: u64 = BLOCK_SIZE;

fn sum(block: u64, version: u8, size: usize) -> Vec<u8> {
    let mut out = vec![version; size];
    out[0] = block.to_le_bytes()[0];
    out[1] = block.to_le_bytes()[1];
    out
}

proptest! {
    #[test]
    fn checksums_behave_as_a_map(
        kind in prop::sample::select(ChecksumKind::ALL.to_vec()),
        max_item in prop::sample::select(vec![128usize, 400, 3970]),
        ops in vec((0..200u64, 1..60u64, any::<bool>()), 1..40),
    ) {
        let mut mock = Mock::new();
        (mock.checksum, mock.max_item) = (kind, max_item);
        let size = kind.size();
        let mut model: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (version, (start, len, add)) in (0u8..).zip(ops) {
            let range = ByteRange::at(start * B, len * B);
            if add {
                let sums: Vec<u8> = (start..start + len).flat_map(|b| sum(b, version, size)).collect();
                replace(&mut mock, range, &sums).unwrap();
                model.extend((start..start + len).map(|b| (b, sum(b, version, size))));
            } else {
                replace(&mut mock, range, &[]).unwrap();
                model.retain(|block, _| !(start..start + len).contains(block));
            }
            let known: Vec<u8> = model.range(start..start + len).flat_map(|(_, s)| s.clone()).collect();
            match lookup(&mock, range) {
                Ok(None) => prop_assert!(known.is_empty()),
                Ok(Some(sums)) => prop_assert_eq!(sums, known),
                Err(_) => {
                    let blocks = known.len() / size;
                    prop_assert!(blocks > 0 && (blocks as u64) < len, "some are missing");
                }
            }
        }
        for (block, sum) in &model {
            let found = lookup(&mock, ByteRange::at(block * B, B)).unwrap();
            prop_assert_eq!(found.as_ref(), Some(sum));
        }
        let items = mock.items.iter().filter(|((tree, _), _)| *tree == TreeId::CSUM);
        prop_assert!(items.clone().all(|(_, data)| data.len() <= max_item.max(size)));
        prop_assert_eq!(items.map(|(_, data)| data.len() / size).sum::<usize>(), model.len());
    }
}

proptest! {
    /// In whatever order, with gaps, and with some that have none.
    #[test]
    fn what_is_recorded_together_is_as_if_it_had_been_one_by_one(
        lens in vec((1..40u64, 0..3u64, 0..5u8), 1..60),
        order in any::<u64>(),
    ) {
        let size = ChecksumKind::Crc32c.size();
        let mut extents = Vec::new();
        let mut at = 1000;
        for (len, gap, summed) in lens {
            let sums: Vec<u8> = (at..at + len).flat_map(|b| sum(b, 1, size)).collect();
            extents.push((ByteRange::at(at * B, len * B), if summed > 0 { sums } else { vec![] }));
            at += len + gap;
        }
        let mut one_by_one = Mock::new();
        one_by_one.max_item = 400;
        // Stale ones are there before.
        replace(&mut one_by_one, ByteRange::at(1010 * B, 30 * B), &[9; 30 * 4]).unwrap();
        let mut together = one_by_one.clone();
        for (range, sums) in &extents {
            replace(&mut one_by_one, *range, sums).unwrap();
        }
        extents.sort_by_key(|(range, _)| range.start.wrapping_mul(order | 1));
        let mut fresh = Fresh::default();
        extents.iter().for_each(|(range, sums)| fresh.add(*range, sums));
        fresh.record(&mut together).unwrap();
        for block in 1000..at {
            let range = ByteRange::at(block * B, B);
            let [a, b] = [&one_by_one, &together].map(|mock| lookup(mock, range).unwrap());
            prop_assert_eq!(a, b, "block {}", block);
        }
        let items = together.items.iter().filter(|((tree, _), _)| *tree == TreeId::CSUM);
        prop_assert!(items.clone().all(|(_, data)| data.len() <= 400));
    }
}

#[test]
fn extents_side_by_side_share_items() {
    let mut mock = Mock::new();
    for extent in 0..64u64 {
        let range = ByteRange::at((1 << 30) + extent * 4 * B, 4 * B);
        replace(&mut mock, range, &[7; 16]).unwrap();
    }
    let items = mock.items.keys().filter(|(tree, _)| *tree == TreeId::CSUM).count();
    assert_eq!(items, (64usize * 16).div_ceil(item_limit(&mock)));
}

#[test]
fn a_torn_item_is_reported_as_corrupt() {
    let mut mock = Mock::new();
    mock.insert(TreeId::CSUM, key_of(B), &[1; 7]).unwrap();
    assert!(lookup(&mock, ByteRange::at(B, B)).is_err());
    assert!(delete(&mut mock, ByteRange::at(B, B)).is_err());
}
