//! Credits: never more are out than there are, and who waits for them gets them.

use cowback_async_cow::credit::Credits;
use cowback_base::sync::thread;

use crate::explore::explore;
use crate::rig::any_of;

const CAPACITY: u64 = 10;

#[test]
fn credits_stay_within_their_capacity_and_come_back() {
    explore("credits stay within their capacity and come back", 3000, || {
        let credits = Credits::new(CAPACITY);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..2 {
                        let mut credit = credits.take(any_of(&[1, 6, CAPACITY]));
                        assert!(credits.taken() <= CAPACITY, "more is out than there is");
                        credit.shrink_to(1);
                        let one = credit.split(1);
                        drop(credit);
                        assert!(credits.taken() >= 1);
                        drop(one);
                    }
                });
            }
            scope.spawn(|| credits.wait_none_taken());
        });
        credits.wait_none_taken();
        assert_eq!(credits.taken(), 0);
    });
}
