//! Whether calls of several threads are linearizable: what each gives is as if all had been made one after another, each at some moment between its
//! beginning and its end. A commit is such a call too, and a crash: it leaves what there was at the moment of the last commit (laws D1, D2). A call that
//! fails has changed nothing; of a commit that fails nobody knows whether it is durable.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

use cowback_base::sync::thread;

/// What the calls are made on, as it would be, were they made one after another.
pub(crate) trait Plain: Clone + Debug {
    type Call: Copy + Debug;
    type Outcome: PartialEq + Debug;

    /// What a call may give, and what is there then: first, as it is if nothing fails.
    fn ways(&self, call: Self::Call) -> Vec<(Self, Self::Outcome)>;

    /// Makes a call that does not fail.
    fn make(&mut self, call: Self::Call) -> Self::Outcome {
        let (then, outcome) = self.ways(call).swap_remove(0);
        *self = then;
        outcome
    }
}

/// What is there, and what a crash may leave of it.
#[derive(Debug, Clone)]
pub(crate) struct Durable<S> {
    pub(crate) now: S,
    /// What was committed, and if something may fail, what came after it. (Of a commit that failed nobody knows whether it is durable, and one is made
    /// if space is sought.)
    found: Vec<S>,
    /// The device may: then each call may.
    pub(crate) may_fail: bool,
}

impl<S: Clone> Durable<S> {
    pub(crate) fn new(now: S, may_fail: bool) -> Self {
        Self { found: vec![now.clone()], now, may_fail }
    }

    pub(crate) fn commit(&mut self) {
        self.found = vec![self.now.clone()];
    }

    /// After each call.
    pub(crate) fn called(&mut self) {
        if self.may_fail {
            self.found.push(self.now.clone());
        }
    }

    /// What there is after a crash, in each way that there is.
    pub(crate) fn crashes(&self) -> impl Iterator<Item = Self> {
        self.found.iter().map(|found| Self::new(found.clone(), self.may_fail))
    }
}

/// A call that was made, from one tick to another.
#[derive(Debug)]
pub(crate) struct Made<P: Plain> {
    call: P::Call,
    began: u64,
    ended: u64,
    outcome: P::Outcome,
}

/// Ticks at the beginning and the end of each call.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// Has `run` make a call.
    pub(crate) fn timed<P: Plain>(
        &self,
        call: P::Call,
        run: impl FnOnce(P::Call) -> P::Outcome,
    ) -> Made<P> {
        let began = self.tick();
        let outcome = run(call);
        Made { call, began, ended: self.tick(), outcome }
    }
}

/// Has so many threads make so many calls each, side by side. `one` draws a call, and makes it.
pub(crate) fn side_by_side<P: Plain>(
    (threads, calls): (usize, usize),
    one: impl Fn() -> Made<P> + Sync,
) -> Vec<Vec<Made<P>>>
where
    Made<P>: Send,
{
    thread::scope(|scope| {
        let run = || (0..calls).map(|_| one()).collect();
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Fails unless there is an order of the calls that gives, from `plain` on, what they gave. `made` holds those of each thread, in its own order.
pub(crate) fn check<P: Plain>(plain: &P, made: &[Vec<Made<P>>]) {
    if !in_some_order(plain, made, &vec![0; made.len()]) {
        let lines: String = made.iter().flatten().map(|made| format!("\n{made:?}")).collect();
        panic!("no order of these calls gives that, from {plain:?}:{lines}");
    }
}

/// `at` of each thread's calls were put in order already.
fn in_some_order<P: Plain>(plain: &P, made: &[Vec<Made<P>>], at: &[usize]) -> bool {
    let next = || made.iter().zip(at).filter_map(|(calls, at)| calls.get(*at));
    let Some(first_end) = next().map(|made| made.ended).min() else { return true };
    (0..made.len()).any(|thread| {
        let Some(next) = made[thread].get(at[thread]) else { return false };
        let mut at = at.to_vec();
        at[thread] += 1;
        let ways = plain.ways(next.call).into_iter();
        next.began < first_end
            && ways
                .filter(|(_, outcome)| *outcome == next.outcome)
                .any(|(then, _)| in_some_order(&then, made, &at))
    })
}

impl Plain for u64 {
    type Call = Option<u64>;
    type Outcome = u64;

    /// Sets it, or looks at it.
    fn ways(&self, call: Option<u64>) -> Vec<(Self, u64)> {
        let now = call.unwrap_or(*self);
        vec![(now, now)]
    }
}

#[test]
fn an_order_is_found_if_there_is_one_and_not_against_time() {
    let made = |call, began, ended, outcome| Made::<u64> { call, began, ended, outcome };
    let fits = |made: &[Vec<Made<u64>>]| in_some_order(&0, made, &vec![0; made.len()]);
    let set = || vec![made(Some(1), 1, 4, 1)];
    assert!(fits(&[set(), vec![made(None, 0, 2, 0), made(None, 3, 5, 1)]]), "in between");
    assert!(!fits(&[set(), vec![made(None, 0, 2, 1), made(None, 3, 5, 0)]]), "and back");
    assert!(!fits(&[set(), vec![made(None, 5, 6, 0)]]), "over already");
    assert!(!fits(&[set(), vec![made(None, 0, 9, 2)]]), "never");
}
