//! Tests of the directory: against a plain ordered map, and its shape.

use std::collections::BTreeMap;
use std::sync::Weak;

use proptest::prelude::*;

use super::*;

fn leaf(number: u64) -> Leaf {
    Leaf::new(number, Weak::new())
}

/// Numbers near zero, near each other, and anywhere.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..40_u64,
        250..260_u64,
        (0..6_u32, 0..3_u64).prop_map(|(shift, by)| (1 << (shift * 11)) + by),
        0..(1_u64 << 59)
    ]
}

proptest! {
    #[test]
    fn a_directory_does_what_an_ordered_map_does(
        ops in prop::collection::vec((number(), 0..3_u8), 1..80),
        bounds in (number(), number()),
    ) {
        let directory = Directory::default();
        let mut model: BTreeMap<u64, Arc<Leaf>> = BTreeMap::new();
        for (number, op) in ops {
            if op == 0 {
                prop_assert_eq!(directory.remove_if_empty(number), model.remove(&number).is_some());
            } else {
                let found = directory.get_or_insert(number, || leaf(number));
                let known = model.entry(number).or_insert_with(|| Arc::clone(&found));
                prop_assert!(Arc::ptr_eq(known, &found), "{} was made twice", number);
            }
            let all: Vec<u64> = directory.range(0, u64::MAX).iter().map(|leaf| leaf.number).collect();
            prop_assert_eq!(&all, &model.keys().copied().collect::<Vec<_>>());
            for (number, leaf) in &model {
                prop_assert!(directory.with(*number, |found| Arc::ptr_eq(found, leaf)).unwrap());
                prop_assert_eq!(directory.get(number ^ 0x155).is_some(), model.contains_key(&(number ^ 0x155)));
            }
        }
        let (first, last) = (bounds.0.min(bounds.1), bounds.0.max(bounds.1));
        let found: Vec<u64> = directory.range(first, last).iter().map(|leaf| leaf.number).collect();
        prop_assert_eq!(found, model.range(first..=last).map(|(number, _)| *number).collect::<Vec<_>>());
        // However it came about, the tree has no node that it can do without.
        let least = Directory::default();
        for number in model.keys() {
            least.get_or_insert(*number, || leaf(*number));
        }
        let (got, least) = (directory.tree.load(), least.tree.load());
        prop_assert!(got.root.nodes() <= least.root.nodes() + (got.height - least.height) as usize);
    }
}

#[test]
fn one_leaf_needs_no_node_wherever_it_is() {
    for number in [0, 1, 77, 1 << 40, (1 << 59) - 1] {
        let directory = Directory::default();
        directory.get_or_insert(number, || leaf(number));
        assert_eq!(directory.tree.load().root.nodes(), 0);
        assert!(directory.get(number + 1).is_none() && directory.get(number & 15 ^ 1).is_none());
    }
}

#[test]
fn a_leaf_in_use_stays() {
    let directory = Directory::default();
    let leaf = directory.get_or_insert(3, || leaf(3));
    leaf.state.lock().lock_pages(1);
    assert!(!directory.remove_if_empty(3));
    leaf.state.lock().unlock_pages(1);
    leaf.state.lock().waiters = 1;
    assert!(!directory.remove_if_empty(3), "somebody waits for it");
    leaf.state.lock().waiters = 0;
    assert!(directory.remove_if_empty(3) && !directory.remove_if_empty(3));
    assert!(leaf.state.lock().dead);
}
