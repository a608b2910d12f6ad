//! Free extents against a bitmap.
#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use super::*;
use proptest::prelude::*;

const BLOCKS: u64 = 256;
const GROUP: u64 = 64;

fn group(at: u64) -> ByteRange {
    ByteRange::at(at / GROUP * GROUP, GROUP)
}

/// The runs of free blocks, cut at borders of groups.
fn runs(model: &[bool]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (at, _) in (0..BLOCKS).zip(model).filter(|(_, free)| **free) {
        match runs.last_mut() {
            Some((start, len)) if *start + *len == at && at % GROUP != 0 => *len += 1,
            _ => runs.push((at, 1)),
        }
    }
    runs
}

#[derive(Debug, Clone)]
enum Op {
    Insert(u64, u64),
    Remove(u64, u64),
    Find(u64, u64, u64),
    Cut(u64, u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..BLOCKS, 1..20_u64).prop_map(|(at, len)| Op::Insert(at, len)),
        2 => (0..BLOCKS, 1..10_u64).prop_map(|(at, len)| Op::Remove(at, len)),
        4 => (0..BLOCKS, 1..20_u64, 1..20_u64).prop_map(|(c, a, b)| Op::Find(c, a.max(b), a.min(b))),
        1 => (0..BLOCKS, 1..40_u64).prop_map(|(at, len)| Op::Cut(at, len)),
    ]
}

proptest! {
    #[test]
    fn agrees_with_a_bitmap(ops in prop::collection::vec(op(), 1..200)) {
        let mut free = FreeExtents::default();
        let mut model = vec![false; BLOCKS as usize];
        for op in ops {
            match op {
                Op::Insert(at, len) => {
                    let range = ByteRange::new(at, (at + len).min(group(at).end));
                    let blocks = &mut model[range.start as usize..range.end as usize];
                    let any = blocks.iter().any(|free| *free);
                    prop_assert_eq!(free.insert(range, group(at)).is_err(), any);
                    if !any {
                        blocks.fill(true);
                    }
                }
                Op::Remove(at, len) => {
                    let range = ByteRange::new(at, (at + len).min(BLOCKS));
                    let all = runs(&model).iter().any(|(s, l)| *s <= range.start && range.end <= s + l);
                    prop_assert_eq!(free.remove(range), all);
                    if all {
                        model[range.start as usize..range.end as usize].fill(false);
                    }
                }
                Op::Find(cursor, want, least) => {
                    let found = free.find(cursor, want, least);
                    let exists = runs(&model).iter().any(|(_, len)| *len >= least);
                    prop_assert_eq!(found.is_some(), exists);
                    if let Some(range) = found {
                        prop_assert!(range.len() >= least && range.len() <= want);
                        prop_assert!(free.remove(range));
                        let blocks = &mut model[range.start as usize..range.end as usize];
                        prop_assert!(blocks.iter().all(|free| *free));
                        blocks.fill(false);
                    }
                }
                Op::Cut(at, len) => {
                    let range = ByteRange::new(at, (at + len).min(BLOCKS));
                    let cut: u64 = free.cut(range).iter().map(|part| part.len()).sum();
                    let blocks = &mut model[range.start as usize..range.end as usize];
                    prop_assert_eq!(cut, blocks.iter().filter(|free| **free).count() as u64);
                    blocks.fill(false);
                }
            }
            prop_assert_eq!(free.iter().collect::<Vec<_>>(), runs(&model));
            prop_assert_eq!(free.bytes(), model.iter().filter(|free| **free).count() as u64);
            prop_assert_eq!(free.longest(), runs(&model).iter().map(|(_, len)| *len).max().unwrap_or(0));
        }
    }
}

#[test]
fn the_search_goes_on_behind_the_cursor_before_it_goes_back() {
    let all = ByteRange::new(0, 1000);
    let mut free = FreeExtents::default();
    free.insert(ByteRange::at(0, 10), all).unwrap();
    free.insert(ByteRange::at(100, 50), all).unwrap();
    free.insert(ByteRange::at(500, 100), all).unwrap();
    assert_eq!(free.find(120, 20, 20), Some(ByteRange::at(120, 20)));
    assert_eq!(free.find(120, 40, 40), Some(ByteRange::at(500, 40)));
    assert_eq!(free.find(120, 99, 5), Some(ByteRange::at(120, 30)));
    assert_eq!(free.find(700, 10, 10), Some(ByteRange::at(0, 10)));
}
