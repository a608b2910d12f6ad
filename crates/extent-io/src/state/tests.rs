//! The interval map against one set of bits per byte.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const BYTES: u64 = 64;

/// The obvious model: the bits of each byte.
#[derive(Debug, Default)]
struct Naive(Vec<StateBits>);

impl Naive {
    fn change(&mut self, range: ByteRange, f: impl Fn(StateBits) -> StateBits) {
        for at in range.start..range.end {
            let slot = &mut self.0[usize::try_from(at).unwrap()];
            *slot = f(*slot);
        }
    }
}

fn bits() -> impl Strategy<Value = StateBits> {
    (1u8..8).prop_map(StateBits)
}

proptest! {
    #[test]
    fn the_tree_says_what_a_table_of_bytes_says(
        ops in prop::collection::vec((any::<bool>(), 0..BYTES, 0..BYTES, bits()), 1..60),
    ) {
        let mut tree = StateTree::default();
        let mut naive = Naive(vec![StateBits::NONE; usize::try_from(BYTES).unwrap()]);
        for (set, a, b, bits) in ops {
            let range = ByteRange::new(a.min(b), a.max(b));
            if set {
                tree.set(range, bits);
                naive.change(range, |old| old.with(bits));
            } else {
                tree.clear(range, bits);
                naive.change(range, |old| old.without(bits));
            }
            let mut delalloc = 0;
            for (at, &expected) in (0u64..).zip(&naive.0) {
                let (found, end) = tree.at(at);
                prop_assert_eq!(found, expected, "at byte {}", at);
                let run = (at..BYTES).find(|&i| naive.0[usize::try_from(i).unwrap()] != expected);
                prop_assert_eq!(end.filter(|&end| end < BYTES), run, "end of the run at {}", at);
                delalloc += u64::from(expected.has(StateBits::DELALLOC));
            }
            prop_assert_eq!(tree.delalloc_bytes(), delalloc);
            let merged = tree.intervals.iter().zip(tree.intervals.iter().skip(1));
            for ((_, &(end, left)), (&start, &(_, right))) in merged {
                prop_assert!(end < start || left != right, "unmerged neighbours at {}", start);
            }
        }
    }
}

#[test]
fn a_delalloc_run_ends_at_the_first_gap_and_at_the_limit() {
    let states = ExtentStates::default();
    let pages =
        |start, end| PageRange::new(cowback_base::PageIndex(start), cowback_base::PageIndex(end));
    states.set_delalloc(pages(2, 5), false, Promise::Space);
    states.set_delalloc(pages(5, 7), true, Promise::Space);
    states.set_delalloc(pages(8, 9), false, Promise::Space);
    assert_eq!(
        states.delalloc_run(pages(2, 100)),
        (pages(2, 7), Promise::Space),
        "mixed new and old bytes are one run"
    );
    assert_eq!(states.delalloc_run(pages(3, 4)).0, pages(3, 4));
    assert!(states.delalloc_run(pages(7, 100)).0.is_empty());
    assert_eq!(states.delalloc_bytes(), (6 * 4096, 2 * 4096));
}

#[test]
fn a_delalloc_run_ends_where_another_promise_is_held() {
    let states = ExtentStates::default();
    let pages =
        |start, end| PageRange::new(cowback_base::PageIndex(start), cowback_base::PageIndex(end));
    states.set_delalloc(pages(0, 3), false, Promise::Space);
    states.set_delalloc(pages(3, 5), true, Promise::InPlace);
    states.set_delalloc(pages(5, 6), false, Promise::InPlace);
    states.set_delalloc(pages(6, 8), false, Promise::Space);
    assert_eq!(states.delalloc_run(pages(1, 100)), (pages(1, 3), Promise::Space));
    assert_eq!(states.delalloc_run(pages(3, 100)), (pages(3, 6), Promise::InPlace));
    assert_eq!(states.delalloc_run(pages(6, 7)), (pages(6, 7), Promise::Space));
    assert_eq!(states.clear_delalloc(pages(2, 7)), 3 * 4096, "three of these hold no data space");
    assert_eq!(states.delalloc_run(pages(7, 100)), (pages(7, 8), Promise::Space));
}

#[test]
#[should_panic(expected = "phantom dirty page")]
fn clearing_delalloc_that_was_never_set_is_a_phantom_dirty_page() {
    let states = ExtentStates::default();
    states.clear_delalloc(PageRange::one(cowback_base::PageIndex(3)));
}

#[test]
fn who_waits_for_a_range_gets_it_when_it_is_free() {
    let states = Arc::new(ExtentStates::default());
    let (at_the_lock, waits) = mpsc::channel();
    let (got, done) = mpsc::channel();
    let held = states.lock_range(ByteRange::new(0, 8192));
    for range in [ByteRange::new(0, 4096), ByteRange::new(4096, 12_288)] {
        let (states, at_the_lock, got) = (Arc::clone(&states), at_the_lock.clone(), got.clone());
        std::thread::spawn(move || {
            at_the_lock.send(()).unwrap();
            drop(states.lock_range(range));
            got.send(()).unwrap();
        });
    }
    // What does not overlap is not held up.
    drop(states.lock_range(ByteRange::new(8192, 12_288)));
    (0..2).for_each(|_| waits.recv().unwrap());
    std::thread::sleep(Duration::from_millis(20));
    assert!(done.try_recv().is_err(), "it is held");
    drop(held);
    for _ in 0..2 {
        // Longer than any schedule could hold it up.
        assert_eq!(done.recv_timeout(Duration::from_secs(60)), Ok(()), "nobody was woken");
    }
}
