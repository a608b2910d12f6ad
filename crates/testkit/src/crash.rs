//! The crash enumerator: every state in which a power cut may leave a recorded device (the evidence for laws R4 and D1).
//!
//! Between two flushes lies an epoch. A crash within it leaves everything that earlier flushes made durable, and of the
//! epoch's own changes any subset, each write whole, absent, or torn at 512 bytes. The end of an epoch allows each state
//! that any earlier moment of it allows, and by then the most has been promised; so states are taken there only.
//!
//! An epoch whose changes touch few sectors is enumerated exhaustively; others by chosen and random subsets (see
//! [`Plan`]). States that are equal in content and in what was promised are visited once.

mod epoch;
mod image;
mod pick;

pub use epoch::Epoch;
pub use image::CrashImage;
pub use pick::{Pick, Tear};

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cowback_base::sync::Mutex;

use crate::overlay::Overlay;
use crate::random::Rng;
use crate::recording::Recording;

/// How many states are made of each epoch, and which.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of all random picks.
    pub seed: u64,
    /// An epoch that changes at most this many sectors is enumerated sector by sector: 2 to that power states.
    pub sector_bits: u32,
    /// Else, one of at most this many changes is enumerated change by change, each whole or absent.
    pub change_bits: u32,
    /// Else, so many of each of: all but one change, only one change, the first few changes.
    pub singles: usize,
    /// So many changes are torn alone, each in three ways, with the others all there and all absent.
    pub torn: usize,
    /// So many random subsets, and as many with random tears.
    pub random: usize,
    /// Only epochs from this one on.
    pub first_epoch: usize,
}

impl Plan {
    /// A few hundred states of each epoch.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            sector_bits: 9,
            change_bits: 7,
            singles: 24,
            torn: 8,
            random: 24,
            first_epoch: 0,
        }
    }

    /// A few dozen states of each epoch, for long recordings and debug builds.
    #[must_use]
    pub const fn quick(seed: u64) -> Self {
        Self {
            seed,
            sector_bits: 5,
            change_bits: 4,
            singles: 6,
            torn: 2,
            random: 6,
            first_epoch: 0,
        }
    }
}

/// One state in which a crash may leave the device.
#[derive(Debug)]
pub struct CrashState {
    /// Its place in the enumeration.
    pub number: u64,
    /// The epoch in which the crash happens.
    pub epoch: usize,
    /// What was promised by then: the marks up to the crash.
    pub marks: Arc<[String]>,
    /// Which changes are there.
    pub pick: Pick,
    device: Arc<Overlay>,
    source: Arc<Epoch>,
}

impl CrashState {
    /// The device after the crash. It may be written to: nothing else sees that.
    #[must_use]
    pub fn device(&self) -> Arc<Overlay> {
        Arc::clone(&self.device)
    }

    /// A copy of the device, so that one state can be used more than once.
    #[must_use]
    pub fn fork(&self) -> Arc<Overlay> {
        Arc::new(self.device.fork())
    }

    /// The last mark that begins with `prefix`, without it.
    #[must_use]
    pub fn last_mark(&self, prefix: &str) -> Option<&str> {
        self.marks.iter().rev().find_map(|mark| mark.strip_prefix(prefix))
    }

    /// The epoch that the state was made of.
    #[must_use]
    pub fn source(&self) -> &Epoch {
        &self.source
    }
}

impl fmt::Display for CrashState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state {} in epoch {}: {:?}; ", self.number, self.epoch, self.pick)?;
        self.source.describe(&self.pick, f)?;
        match self.marks.last() {
            Some(mark) => write!(f, "; last mark {mark:?}"),
            None => write!(f, "; no mark yet"),
        }
    }
}

/// What an exploration has covered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Epochs with states of their own.
    pub epochs: usize,
    /// Epochs of which every possible state was visited.
    pub exhaustive: usize,
    /// States that were visited, no two of them equal.
    pub states: u64,
    /// States that were left out because an equal one had been visited.
    pub repeated: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epochs, exhaustive, states, repeated } = self;
        write!(f, "{states} distinct crash states of {epochs} epochs ")?;
        write!(f, "({exhaustive} of them exhaustive), {repeated} repeated")
    }
}

/// The first state (by number) that a check refused.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The number of the state.
    pub number: u64,
    /// The seed of the plan.
    pub seed: u64,
    /// Which changes were there.
    pub state: String,
    /// What the check found wrong.
    pub why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (seed {}): {}", self.state, self.seed, self.why)
    }
}

impl std::error::Error for Failure {}

/// The states of a recording, one after another, without repetition.
#[derive(Debug)]
pub struct States {
    recording: Recording,
    plan: Plan,
    next_epoch: usize,
    boundaries: Vec<epoch::Boundary>,
    durable: Overlay,
    durable_hash: u128,
    applied: Vec<bool>,
    current: Option<Arc<Epoch>>,
    picks: VecDeque<Pick>,
    seen: HashSet<(u128, u64, usize)>,
    report: Report,
}

impl States {
    /// The states of `recording` that `plan` asks for.
    ///
    /// # Errors
    /// The base's own.
    pub fn new(recording: Recording, plan: Plan) -> io::Result<Self> {
        let durable = Overlay::over(Arc::clone(&recording.base))?;
        let boundaries = epoch::boundaries(&recording);
        let applied = vec![false; recording.changes.len()];
        Ok(Self {
            recording,
            plan,
            next_epoch: 0,
            boundaries,
            durable,
            durable_hash: 0,
            applied,
            current: None,
            picks: VecDeque::new(),
            seen: HashSet::new(),
            report: Report::default(),
        })
    }

    /// What was covered so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.report
    }

    /// The next state, or `None` after the last.
    ///
    /// # Errors
    /// The base's own.
    pub fn next_state(&mut self) -> io::Result<Option<CrashState>> {
        loop {
            while let (Some(pick), Some(epoch)) = (self.picks.pop_front(), self.current.clone()) {
                let (device, hash) = epoch.build(&pick)?;
                let len = cowback_block_store::BlockDevice::len(&device)?;
                if !self.seen.insert((hash, len, epoch.marks.len())) {
                    self.report.repeated += 1;
                    continue;
                }
                let number = self.report.states;
                self.report.states += 1;
                return Ok(Some(CrashState {
                    number,
                    epoch: epoch.number,
                    marks: Arc::clone(&epoch.marks),
                    pick,
                    device: Arc::new(device),
                    source: epoch,
                }));
            }
            if !self.enter_epoch()? {
                return Ok(None);
            }
        }
    }

    /// Makes the next epoch the current one; false after the last.
    fn enter_epoch(&mut self) -> io::Result<bool> {
        let number = self.next_epoch;
        let Some(boundary) = self.boundaries.get(number).copied() else { return Ok(false) };
        self.next_epoch += 1;
        let newly = epoch::durable_before(&self.recording, boundary, &mut self.applied);
        self.durable_hash ^= epoch::apply(&self.durable, &newly)?;
        if number < self.plan.first_epoch {
            return Ok(true);
        }
        let durable = Arc::new(self.durable.fork());
        let parts = epoch::Parts { number, boundary, durable, durable_hash: self.durable_hash };
        let epoch = Epoch::new(&self.recording, parts, &self.applied)?;
        let mut rng = Rng::new(self.plan.seed).fork(number as u64);
        let (picks, exhaustive) = pick::picks(&epoch, &self.plan, &mut rng);
        self.report.epochs += 1;
        self.report.exhaustive += usize::from(exhaustive);
        self.picks = picks.into();
        self.current = Some(Arc::new(epoch));
        Ok(true)
    }
}

/// Runs `check` on each state, on `threads` threads. A panic of the check is a failure like any other.
///
/// # Errors
/// The refused state of the lowest number among those that were visited before the exploration stopped.
///
/// # Panics
/// If the base cannot be read.
pub fn explore(
    recording: Recording,
    plan: &Plan,
    threads: usize,
    check: impl Fn(&CrashState) -> Result<(), String> + Sync,
) -> Result<Report, Failure> {
    let states = States::new(recording, plan.clone()).expect("the base can be read");
    let states = Mutex::new((states, None::<Failure>));
    let worker = || {
        loop {
            let state = {
                let mut guard = states.lock();
                if guard.1.is_some() {
                    return;
                }
                guard.0.next_state().expect("the base can be read")
            };
            let Some(state) = state else { return };
            let result = catch_unwind(AssertUnwindSafe(|| check(&state)));
            let why = match result {
                Ok(Ok(())) => continue,
                Ok(Err(why)) => why,
                Err(panic) => format!("panic: {}", panic_text(&*panic)),
            };
            let failure =
                Failure { number: state.number, seed: plan.seed, state: state.to_string(), why };
            let mut guard = states.lock();
            if guard.1.as_ref().is_none_or(|first| failure.number < first.number) {
                guard.1 = Some(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            scope.spawn(worker);
        }
        worker();
    });
    let (states, failure) = states.into_inner();
    failure.map_or_else(|| Ok(states.report()), Err)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests;
