//! The turnstile: whoever comes when, all are served in the order of their tickets, one at a time, and nobody is left behind (law R3).

use std::sync::Arc;

use cowback_async_cow::turnstile::Turnstile;
use cowback_base::sync::atomic::{AtomicBool, Ordering};
use cowback_base::sync::{Mutex, thread};
use shuttle::rand::{Rng, thread_rng};

use crate::explore::explore;

const TICKETS: usize = 6;
const THREADS: usize = 3;

#[derive(Default)]
struct Served {
    busy: AtomicBool,
    order: Mutex<Vec<usize>>,
}

impl Served {
    fn serve(&self, item: usize) {
        assert!(!self.busy.swap(true, Ordering::SeqCst), "two are served at once");
        self.order.lock().push(item);
        self.busy.store(false, Ordering::SeqCst);
    }
}

#[test]
fn all_are_served_in_the_order_of_their_tickets() {
    explore("all are served in the order of their tickets", 3000, || {
        let served = Arc::new(Served::default());
        let turnstile = {
            let served = Arc::clone(&served);
            Turnstile::new(move |item| served.serve(item))
        };
        let mut hands: Vec<Vec<_>> = (0..THREADS).map(|_| Vec::new()).collect();
        let mut expected = Vec::new();
        for number in 0..TICKETS {
            let comes = thread_rng().gen_range(0..4) > 0;
            if comes {
                expected.push(number);
            }
            let hand = thread_rng().gen_range(0..THREADS);
            let at = thread_rng().gen_range(0..=hands[hand].len());
            hands[hand].insert(at, (turnstile.ticket(), number, comes));
        }
        thread::scope(|scope| {
            for hand in hands {
                scope.spawn(move || {
                    for (ticket, item, comes) in hand {
                        if comes {
                            ticket.arrive(item);
                        } else {
                            drop(ticket);
                        }
                    }
                });
            }
        });
        assert_eq!(turnstile.waiting(), 0, "somebody is left behind");
        assert_eq!(*served.order.lock(), expected);
    });
}
