//! Who waits at a hard limit goes on when the reason for it is gone, whatever that was.

use std::time::Duration;

use cowback_base::PageIndex;
use cowback_base::sync::atomic::{AtomicBool, Ordering};
use cowback_base::sync::thread;

use crate::{Budget, CacheLimits, Mapping, PageCache};

fn limits(budget: u64, background: u64, hard: u64) -> CacheLimits {
    let [budget, background, hard] = [budget, background, hard].map(|pages| pages * 4096);
    CacheLimits { budget, background, hard }
}

fn dirty(file: &Mapping, pages: u64) {
    for page in 0..pages {
        file.write(page * 4096, &[1; 4096], PageIndex(0), |_| {});
    }
}

/// Writers that wait, in the common line or in a group's.
fn in_line(budget: &Budget) -> usize {
    let groups = budget.0.groups();
    budget.0.level.throttle.in_line()
        + groups.iter().map(|group| group.level.throttle.in_line()).sum::<usize>()
}

/// Has a writer of `file` wait until `then` was done, after which it goes on.
fn goes_on(file: &Mapping, then: impl FnOnce()) {
    assert!(file.must_wait());
    let budget = file.cache().budget();
    let stop = AtomicBool::new(false);
    let (told, tell) = std::sync::mpsc::channel();
    let went_on = thread::scope(|scope| {
        scope.spawn(|| told.send(file.throttle(|| stop.load(Ordering::SeqCst))).unwrap());
        while in_line(&budget) == 0 {
            thread::yield_now();
        }
        then();
        // A minute is for ever: it was told, or never will be.
        let went_on = tell.recv_timeout(Duration::from_secs(60));
        stop.store(true, Ordering::SeqCst);
        file.cache().wake_throttled();
        went_on
    });
    assert_eq!(went_on, Ok(true));
}

#[test]
fn when_the_limits_of_its_group_are_raised() {
    let budget = Budget::new(limits(1024, 400, 512));
    let group = budget.group("a", limits(200, 8, 8));
    let file = PageCache::in_group(&group).mapping(1);
    dirty(&file, 8);
    goes_on(&file, || group.set_limits(limits(200, 64, 128)));
}

#[test]
fn when_the_limits_of_the_budget_are_raised() {
    let budget = Budget::new(limits(1024, 8, 16));
    let file = PageCache::in_group(&budget.root()).mapping(1);
    dirty(&file, 16);
    goes_on(&file, || budget.set_limits(limits(1024, 64, 128)));
}

#[test]
fn when_another_group_goes_and_each_may_call_more_its_own() {
    let budget = Budget::new(limits(1024, 64, 128));
    let other = budget.group("other", CacheLimits::UNLIMITED);
    let cache = PageCache::in_group(&budget.root());
    let (file, rest) = (cache.mapping(1), cache.mapping(2));
    let group = budget.group("its own", CacheLimits::UNLIMITED);
    file.set_group(&group);
    dirty(&rest, 128);
    dirty(&file, 25); // of half of 128 pages, for three groups
    goes_on(&file, || drop(other));
}

#[test]
fn when_another_volume_whose_data_filled_the_budget_writes_nothing_any_more() {
    let budget = Budget::new(limits(1024, 64, 128));
    let [sick, well] = [0; 2].map(|_| PageCache::in_group(&budget.root()));
    let (of_sick, of_well) = (sick.mapping(1), well.mapping(1));
    dirty(&of_sick, 70);
    dirty(&of_well, 70);
    goes_on(&of_well, || sick.end_writeback());
}
