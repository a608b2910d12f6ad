//! A fault at every place of a workload: reads, writes, flushes and growth, that fail, tear, lose or panic, once or from then on; with one
//! writer and several, and pools of 1, 2 and 8 threads (laws E1, E2, E4, D1, D2). Every run has a watchdog.

use cowback_testkit::faulty::{Effect, Op};
use cowback_testkit::random::seed;
use cowback_tests::rough::{Shape, sweep};

const FAULTS: [(Op, Effect); 14] = [
    (Op::Write, Effect::Eio),
    (Op::Write, Effect::Enospc),
    (Op::Write, Effect::Short),
    (Op::Write, Effect::Torn),
    (Op::Write, Effect::Panic),
    (Op::Flush, Effect::Eio),
    (Op::Flush, Effect::DropUnsynced),
    (Op::Flush, Effect::Forget),
    (Op::Flush, Effect::Panic),
    (Op::Read, Effect::Eio),
    (Op::Read, Effect::Panic),
    (Op::SetLen, Effect::Enospc),
    (Op::SetLen, Effect::Eio),
    (Op::SetLen, Effect::Panic),
];

/// Sweeps over all faults with up to `samples` places each.
fn all(shape: Shape, samples: u64, seed: u64) {
    let mut sum = [0; 3];
    for (op, effect) in FAULTS {
        let counts = sweep(shape, op, effect, samples, seed);
        println!("{shape:?} {op:?} {effect:?}: met, resumed, opened again: {counts:?}");
        sum = std::array::from_fn(|at| sum[at] + counts[at]);
    }
    let [met, resumed, _] = sum;
    assert!(met > 10 * samples.min(8) && resumed > 0, "met, resumed, opened again: {sum:?}");
}

/// Places of each fault that every run of the tests looks at.
fn some(threads: usize, writers: usize, grows: bool) {
    all(Shape { threads, writers, grows }, 16, seed("sweep", 3));
}

#[test]
fn one_writer_and_one_worker() {
    some(1, 1, true);
}

#[test]
fn one_writer_and_eight_workers_on_a_device_of_fixed_size() {
    some(8, 1, false);
}

#[test]
fn several_writers_and_two_workers() {
    some(2, 4, true);
}

#[test]
fn several_writers_and_eight_workers_on_a_device_of_fixed_size() {
    some(8, 2, false);
}

/// All places, in all shapes, for as many seeds as `COWBACK_SEEDS` says.
#[test]
#[ignore = "takes minutes for each seed: `cargo xtask faults`"]
fn every_place_of_every_fault() {
    let seeds = std::env::var("COWBACK_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let first = seed("sweep", 1000);
    for seed in first..first + seeds.unwrap_or(1) {
        for threads in [1, 2, 8] {
            for (writers, grows) in [(1, true), (1, false), (4, true), (4, false)] {
                all(Shape { threads, writers, grows }, u64::MAX, seed);
            }
        }
    }
}
