//! Credits: who waits for memory gets it when it comes back.

use cowback_async_cow::credit::Credits;

use crate::explore::{Bound, explore, spawn};

#[test]
fn who_waits_for_credit_gets_it() {
    explore("who waits for credit gets it", Bound::None, || {
        let credits = Credits::new(2);
        let held = credits.take(2);
        let taker = {
            let credits = std::sync::Arc::clone(&credits);
            spawn(move || drop(credits.take(1)))
        };
        drop(held);
        credits.wait_none_taken();
        taker.join().unwrap();
        assert_eq!(credits.taken(), 0);
    });
}

#[test]
fn credit_that_comes_back_in_parts_reaches_all_who_wait() {
    explore("credit that comes back in parts", Bound::None, || {
        let credits = Credits::new(2);
        let mut held = credits.take(2);
        let takers = [1, 2].map(|bytes| {
            let credits = std::sync::Arc::clone(&credits);
            spawn(move || drop(credits.take(bytes)))
        });
        drop(held.split(1));
        drop(held);
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        assert_eq!(credits.taken(), 0);
    });
}
