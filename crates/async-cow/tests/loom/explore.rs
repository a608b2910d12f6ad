//! How a model is run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cowback_base::sync::thread::{Builder, JoinHandle};

/// The longest path of one interleaving, in points at which another thread could go on.
const BRANCHES_MAX: usize = 20_000;

/// Bytes of a model thread's stack: pages are made on it.
const STACK: usize = 256 << 10;

/// How far a model is explored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// Every interleaving.
    None,
    /// Those in which at most so many threads are interrupted where they could go on.
    Preemptions(usize),
}

/// Runs `model` in every interleaving within `bound`. `LOOM_MAX_PREEMPTIONS` sets another one.
pub(crate) fn explore(name: &str, bound: Bound, model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = BRANCHES_MAX;
    if let (None, Bound::Preemptions(most)) = (builder.preemption_bound, bound) {
        builder.preemption_bound = Some(most);
    }
    let which = builder.preemption_bound.map_or_else(
        || "which are all".to_owned(),
        |most| format!("all with at most {most} preemptions"),
    );
    let (count, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let counted = Arc::clone(&count);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        spawn(model).join().unwrap();
    });
    let (count, seconds) = (count.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
    eprintln!("model {name}: {count} interleavings, {which}, {seconds:.1} s");
}

/// Starts a thread of a model. There may be five, that of the model itself and loom's own included.
pub(crate) fn spawn(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    Builder::new().stack_size(STACK).spawn(work).unwrap()
}

/// Runs `first` and `second` at once.
pub(crate) fn both(first: impl FnOnce() + Send + 'static, second: impl FnOnce() + 'static) {
    let first = spawn(first);
    second();
    first.join().unwrap();
}
