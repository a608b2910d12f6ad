//! The turnstile (law R3): one is served at a time, in the order of tickets, by whoever comes, and what one serving did is seen by the next.

use std::sync::Arc;

use cowback_async_cow::turnstile::Turnstile;
use cowback_base::sync::atomic::{AtomicU64, Ordering};

use crate::explore::{Bound, both, explore};

/// A turnstile that writes down, in decimal digits, whom it serves. The write is ordered by nothing but the turnstile.
fn written_down() -> (Turnstile<u64>, Arc<AtomicU64>) {
    let served = Arc::new(AtomicU64::new(0));
    let notes = Arc::clone(&served);
    let turnstile = Turnstile::new(move |item| {
        let before = notes.load(Ordering::Relaxed);
        notes.store(before * 10 + item, Ordering::Relaxed);
    });
    (turnstile, served)
}

#[test]
fn whoever_comes_first_all_are_served_in_ticket_order() {
    explore("whoever comes first, all are served", Bound::None, || {
        let (turnstile, served) = written_down();
        let [first, second, third] = [(); 3].map(|()| turnstile.ticket());
        both(
            move || {
                second.arrive(2);
            },
            move || {
                third.arrive(3);
                first.arrive(1);
            },
        );
        assert_eq!(turnstile.waiting(), 0, "somebody is left behind");
        assert_eq!(served.load(Ordering::Relaxed), 123);
    });
}

#[test]
fn a_ticket_that_is_dropped_holds_nobody_up() {
    explore("a ticket that is dropped holds nobody up", Bound::None, || {
        let (turnstile, served) = written_down();
        let [first, second, third] = [(); 3].map(|()| turnstile.ticket());
        both(
            move || drop(first),
            move || {
                third.arrive(3);
                second.arrive(2);
            },
        );
        assert_eq!(turnstile.in_line(), 0, "somebody is left behind");
        assert_eq!(served.load(Ordering::Relaxed), 23);
    });
}
