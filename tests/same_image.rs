//! Law R3: what random operations leave on the device is the same, byte for byte, for any number of worker threads; on devices that grow, and on
//! small ones of fixed size, which fill up.

use cowback_testkit::random::seed;
use cowback_tests::exercise::op::Bytes;
use cowback_tests::exercise::same::run_seed;

/// Seeds, each with 1, 2, 3 and 8 threads.
const SEEDS: u64 = 300;
/// Operations of each.
const OPS: usize = 200;

#[test]
fn the_image_is_the_same_for_any_number_of_threads() {
    let seed = seed("same_image", 1);
    let bytes = Bytes::default();
    std::thread::scope(|scope| {
        for half in 0..2 {
            let bytes = &bytes;
            scope.spawn(move || {
                for volume in (half..SEEDS).step_by(2) {
                    if let Err(why) = run_seed(seed + volume, OPS, bytes) {
                        panic!("{why}");
                    }
                }
            });
        }
    });
}
