//! How a model is run: under uniformly random schedules, then under PCT's, which look for bugs that need few preemptions in many steps.
//!
//! | variable | meaning |
//! |---|---|
//! | `COWBACK_MODEL_SCHEDULES` | schedules of each model with each scheduler, instead of the model's own number |
//! | `SHUTTLE_RANDOM_SEED` | the seed to begin with: that of a failure replays it |

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

/// Preemptions that a PCT schedule has, and one.
const PCT_DEPTH: usize = 3;

/// A thread that takes so many steps spins without getting anywhere.
const STEPS_MAX: usize = 300_000;

/// Runs `model` under `schedules` schedules of each kind.
pub(crate) fn explore(name: &'static str, schedules: usize, model: fn()) {
    let from_env = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let schedules = from_env("COWBACK_MODEL_SCHEDULES")
        .map_or(schedules, |count| usize::try_from(count).unwrap());
    // The schedulers look at the variable themselves: this is for the report.
    let seed =
        from_env("SHUTTLE_RANDOM_SEED").unwrap_or_else(|| RandomState::new().hash_one(0_u64));
    run(Report::new(name, "random", seed), RandomScheduler::new_from_seed(seed, schedules), model);
    let pct = PctScheduler::new_from_seed(seed, PCT_DEPTH, schedules);
    run(Report::new(name, "pct", seed), pct, model);
}

fn run(report: Report, scheduler: impl Scheduler + 'static, model: fn()) {
    let mut config = Config::new();
    config.stack_size = 256 * 1024; // the compressors are not modest
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true; // atomics are taken as sequentially consistent
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    let begun = Arc::clone(&report.begun);
    Runner::new(scheduler, config).run(move || {
        begun.fetch_add(1, Ordering::Relaxed);
        model();
    });
}

/// Says, when dropped, how it went.
struct Report {
    name: &'static str,
    scheduler: &'static str,
    seed: u64,
    begun: Arc<AtomicUsize>,
    since: Instant,
}

impl Report {
    fn new(name: &'static str, scheduler: &'static str, seed: u64) -> Self {
        Self { name, scheduler, seed, begun: Arc::default(), since: Instant::now() }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let Self { name, scheduler, seed, begun, since } = self;
        let (begun, seconds) = (begun.load(Ordering::Relaxed), since.elapsed().as_secs_f64());
        if std::thread::panicking() {
            eprintln!("model {name} failed in {scheduler} schedule {begun} of seed {seed}");
        } else {
            #[expect(clippy::cast_precision_loss, reason = "a rate, to be looked at")]
            let rate = begun as f64 / seconds;
            eprintln!("model {name}: {begun} {scheduler} schedules, {rate:.0} a second");
        }
    }
}
