//! The turnstile: items come in any order, and go through one at a time in the order of their tickets (law R3).
//!
//! A ticket is drawn when an item is queued. Whoever brings the item that is next serves it, and then those that wait behind it; nobody
//! ever waits for another. A ticket that is dropped, because what was to bring its item failed, lets its successors pass: who drops it
//! serves them. An item whose serving panics does not keep the others from theirs (law E2).
//!
//! The serving runs with no lock held, so it may queue further work. What is served by one thread happens before what the next one
//! serves: the hand-over goes through the mutex.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use cowback_base::planted;
use cowback_base::sync::Mutex;

/// See the module's text.
pub struct Turnstile<T> {
    line: Arc<Line<T>>,
}

struct Line<T> {
    state: Mutex<State<T>>,
    serve: Box<dyn Fn(T) + Send + Sync>,
}

struct State<T> {
    /// The next ticket to be drawn.
    drawn: u64,
    /// The ticket whose turn it is.
    turn: u64,
    /// Who came before their turn. `None`: the ticket was dropped.
    arrived: BTreeMap<u64, Option<T>>,
    /// Somebody is serving.
    serving: bool,
}

/// A place in the line.
#[must_use = "a ticket that is dropped lets its successors pass"]
pub struct Ticket<T> {
    line: Arc<Line<T>>,
    number: u64,
    used: bool,
}

impl<T> Turnstile<T> {
    /// A turnstile that has each item served by `serve`.
    pub fn new(serve: impl Fn(T) + Send + Sync + 'static) -> Self {
        let state = State { drawn: 0, turn: 0, arrived: BTreeMap::new(), serving: false };
        Self { line: Arc::new(Line { state: Mutex::new(state), serve: Box::new(serve) }) }
    }

    /// Draws the next ticket.
    pub fn ticket(&self) -> Ticket<T> {
        let mut state = self.line.state.lock();
        let number = state.drawn;
        state.drawn += 1;
        Ticket { line: Arc::clone(&self.line), number, used: false }
    }

    /// Tickets that were drawn and have not been served: what is on its way to its turn.
    pub fn in_line(&self) -> u64 {
        let state = self.line.state.lock();
        state.drawn - state.turn
    }

    /// Items that have arrived and were not served yet.
    pub fn waiting(&self) -> usize {
        self.line.state.lock().arrived.len()
    }
}

impl<T> Ticket<T> {
    /// Brings the item. If it is its turn, serves it and all that have arrived behind it, unless another thread is serving: then that
    /// thread will.
    ///
    /// # Panics
    /// As the serving of one of these items does, after all of them.
    pub fn arrive(mut self, item: T) {
        self.used = true;
        self.line.pass(self.number, Some(item));
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        if !self.used {
            self.line.pass(self.number, None);
        }
    }
}

impl<T> Line<T> {
    fn pass(&self, number: u64, item: Option<T>) {
        {
            let mut state = self.state.lock();
            assert!(number >= state.turn, "ticket {number} comes twice");
            state.arrived.insert(number, item);
            if state.serving && !planted!("two_servers") {
                return;
            }
            state.serving = true;
        }
        let mut panicked = None;
        while let Some(item) = self.next() {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.serve)(item))) {
                panicked = Some(panic);
            }
        }
        // A thread that unwinds already, and drops its ticket on the way, has a panic of its own to report.
        if let Some(panic) = panicked.filter(|_| !std::thread::panicking()) {
            resume_unwind(panic);
        }
    }

    /// The item whose turn it is, or the end of the serving.
    fn next(&self) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            let turn = state.turn;
            match state.arrived.remove(&turn) {
                Some(item) => {
                    state.turn += 1;
                    if item.is_some() {
                        return item;
                    }
                }
                None => {
                    state.serving = false;
                    return None;
                }
            }
        }
    }
}

impl<T> fmt::Debug for Turnstile<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.line.state.lock();
        write!(f, "Turnstile {{ turn: {}, drawn: {} }}", state.turn, state.drawn)
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({})", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A turnstile that writes down what it serves, and panics at 13.
    fn written_down() -> (Turnstile<usize>, Arc<Mutex<Vec<usize>>>) {
        let served = Arc::new(Mutex::new(Vec::new()));
        let turnstile = {
            let served = Arc::clone(&served);
            Turnstile::new(move |item| {
                assert_ne!(item, 13, "while serving");
                served.lock().push(item);
            })
        };
        (turnstile, served)
    }

    #[test]
    fn any_order_of_arrival_is_served_in_ticket_order() {
        // All orders of five arrivals.
        let mut orders = vec![vec![]];
        for number in 0..5 {
            orders = orders
                .into_iter()
                .flat_map(|order: Vec<usize>| {
                    (0..=order.len()).map(move |at| {
                        let mut longer = order.clone();
                        longer.insert(at, number);
                        longer
                    })
                })
                .collect();
        }
        assert_eq!(orders.len(), 120);
        for order in orders {
            let (turnstile, served) = written_down();
            let mut tickets: Vec<_> = (0..5).map(|_| Some(turnstile.ticket())).collect();
            for &number in &order {
                tickets[number].take().unwrap().arrive(number);
            }
            assert_eq!(*served.lock(), [0, 1, 2, 3, 4], "arrivals {order:?}");
            assert_eq!(turnstile.waiting(), 0);
        }
    }

    #[test]
    fn a_dropped_ticket_lets_its_successors_pass() {
        let (turnstile, served) = written_down();
        let [first, second, third, fourth, fifth] = [(); 5].map(|()| turnstile.ticket());
        drop(second);
        third.arrive(3);
        assert!(served.lock().is_empty(), "the first is still to come");
        first.arrive(1);
        assert_eq!(*served.lock(), [1, 3]);
        fifth.arrive(5);
        assert_eq!(turnstile.waiting(), 1);
        drop(fourth);
        assert_eq!(*served.lock(), [1, 3, 5], "nobody comes any more, and nobody is left behind");
    }

    #[test]
    fn a_panic_while_serving_does_not_keep_the_others_from_theirs() {
        let (turnstile, served) = written_down();
        let [first, second, third] = [(); 3].map(|()| turnstile.ticket());
        second.arrive(2);
        let unlucky = catch_unwind(AssertUnwindSafe(|| first.arrive(13)));
        assert!(unlucky.is_err());
        assert_eq!(*served.lock(), [2]);
        third.arrive(3);
        assert_eq!(*served.lock(), [2, 3]);
    }

    #[test]
    fn a_ticket_that_is_dropped_by_a_panic_has_its_successors_served_even_so() {
        let (turnstile, served) = written_down();
        let [first, second, third] = [(); 3].map(|()| turnstile.ticket());
        second.arrive(13);
        third.arrive(3);
        let failed = catch_unwind(AssertUnwindSafe(|| {
            let _first = first;
            panic!("before it could arrive");
        }));
        let message = *failed.unwrap_err().downcast::<&str>().unwrap();
        assert_eq!(message, "before it could arrive");
        assert_eq!(*served.lock(), [3]);
    }
}
