//! As many operations as one likes: volumes of one thread and of eight, on every core, each from a seed of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cowback_base::sync::Mutex;

use super::op::Bytes;
use super::together::{self, Size, THREADS};
use super::{alone, full, same};

/// Operations of one volume with one thread.
pub const ALONE: usize = 2000;
/// What is done on a volume of many threads.
pub const TOGETHER: Size = Size { threads: THREADS, rounds: 6, ops: 40 };
/// Operations of each thread on a volume that is too small.
pub const FULL_OPS: u64 = 300;
/// Operations of which the images are compared.
const SAME: usize = 400;

/// What is done with a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One thread.
    Alone,
    /// Eight threads on shared files.
    Together,
    /// One thread, and the images compared that several numbers of workers leave.
    Same,
    /// Several threads on a volume that is too small.
    Full,
}

impl Kind {
    /// Of a seed: one in eight has many threads; of sixteen, images are compared for one, and one has a volume that is too small.
    #[must_use]
    pub const fn of(seed: u64) -> Self {
        match seed % 16 {
            0 | 8 => Self::Together,
            4 => Self::Same,
            12 => Self::Full,
            _ => Self::Alone,
        }
    }
}

/// What was done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The first seed.
    pub seed: u64,
    /// Seeds, of each kind.
    pub alone: u64,
    /// Of eight threads.
    pub together: u64,
    /// Of which images were compared.
    pub same: u64,
    /// Too small.
    pub small: u64,
    /// Operations.
    pub ops: u64,
    /// Operations that met a full volume.
    pub full: u64,
    /// Crashes.
    pub crashes: u64,
    /// Bytes of memory that the process takes now; zero where that cannot be known.
    pub resident: u64,
    /// Time since the beginning.
    pub time: Duration,
}

impl Progress {
    /// Seeds.
    #[must_use]
    pub const fn volumes(&self) -> u64 {
        self.alone + self.together + self.same + self.small
    }

    fn add(&mut self, kind: Kind, done: alone::Done) {
        match kind {
            Kind::Alone => self.alone += 1,
            Kind::Together => self.together += 1,
            Kind::Same => self.same += 1,
            Kind::Full => self.small += 1,
        }
        self.ops += done.ops;
        self.full += done.full;
        self.crashes += done.crashes;
    }

    /// What was done, as a row of a table in `docs/testing.md`: operations, seeds, volumes of each kind, crashes, full volumes, time.
    #[must_use]
    pub fn row(&self) -> String {
        let Self { seed, alone, together, same, small, ops, full, crashes, time, .. } = *self;
        let last = seed + self.volumes().saturating_sub(1);
        let images = same * same::THREADS.len() as u64;
        let (hours, minutes) = (time.as_secs() / 3600, time.as_secs() / 60 % 60);
        format!(
            "| {} | {seed} to {last} | {alone} | {together} | {small} | {images} | {} | {} | {hours} h {minutes} min |",
            grouped(ops),
            grouped(crashes),
            grouped(full)
        )
    }

    /// The head of that table.
    pub const HEAD: &str = "\
| operations | seeds | volumes of one thread | of eight | too small | images compared | crashes | met a full volume | time |
|---|---|---|---|---|---|---|---|---|";
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ops, full, crashes, time, resident, .. } = *self;
        let (volumes, seconds) = (self.volumes(), time.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a rate to look at")]
        let rate = ops as f64 / seconds.max(0.001);
        write!(
            f,
            "{seconds:.0} s: {} operations on {volumes} volumes ({rate:.0}/s); {crashes} crashes, full {full} times; {} MiB of memory",
            grouped(ops),
            resident >> 20
        )
    }
}

/// Bytes of memory that this process takes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// Does at least `ops` operations, with the seeds from `seed` on, several volumes at a time. Calls `report` after each volume.
///
/// # Errors
/// The first failure: seed, what is wrong, and something short that shows it.
pub fn campaign(ops: u64, seed: u64, report: impl Fn(Progress) + Sync) -> Result<Progress, String> {
    let (begun, bytes) = (Instant::now(), Bytes::default());
    let sum = Mutex::new(Progress { seed, ..Progress::default() });
    let failure = Mutex::new(None);
    let (next, stop) = (AtomicU64::new(seed), AtomicBool::new(false));
    let progress = || {
        let sum = *sum.lock();
        Progress { time: begun.elapsed(), resident: resident(), ..sum }
    };
    let worker = || {
        while !stop.load(Ordering::Relaxed) && progress().ops < ops {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            match one_seed(seed, &bytes) {
                Ok(done) => {
                    let mut sum = sum.lock();
                    sum.add(Kind::of(seed), done);
                }
                Err(why) => {
                    stop.store(true, Ordering::Relaxed);
                    let mut failure = failure.lock();
                    failure.get_or_insert(why); // the first one counts
                }
            }
            report(progress());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(worker);
        }
    });
    match failure.into_inner() {
        None => Ok(progress()),
        Some(why) => Err(why),
    }
}

/// What the seed says, on one volume.
///
/// # Errors
/// As [`campaign`].
pub fn one_seed(seed: u64, bytes: &Bytes) -> Result<alone::Done, String> {
    match Kind::of(seed) {
        Kind::Together => together::run_seed(seed, TOGETHER, bytes),
        Kind::Same => same::run_seed(seed, SAME, bytes),
        Kind::Full => full::run_seed(seed, FULL_OPS, bytes),
        Kind::Alone => alone::run_seed(seed, ALONE, bytes),
    }
}
