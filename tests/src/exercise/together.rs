//! Eight threads on one volume. Each has a file of its own and every eighth stripe of the shared files, so that it knows all of its bytes
//! exactly while the others write next to them, in the same blocks and compressed extents, and sync and commit.
//!
//! After a crash each thread must find its bytes as they were after one of its operations, the same one for all files, and not an earlier one than
//! its last sync (law D2); and all threads must find what they had at one and the same moment (law D1): see [`super::cut`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use cowback::budget::{Budget, Limits};
use cowback::device::MemoryDevice;
use cowback::{CachePolicy, Error, File, Options, Volume};
use cowback_testkit::random::{Rng, to_usize};

use super::alone::{self, Done, panic_text};
use super::content::{Content, check_bytes};
use super::cut::{Clock, Moments, common_cut};
use super::op::{Bytes, Fill, Op, Shape, cache_policy, compression, extent_size, group, policy};
use super::watch::Watched;

/// Threads that work at once, at most.
pub const THREADS: usize = 8;
/// How often a failing volume is run to see how often it fails.
const TRIES: u32 = 10;
/// Time that is spent on making a failing volume smaller.
const SHRINK: Duration = Duration::from_secs(120);
const SHARED: usize = 3;
/// Bytes of a stripe: no multiple of anything.
const STRIPE: usize = 7001;
/// Stripes of a thread in each shared file.
const STRIPES: usize = 8;

const SHAPE: Shape = Shape {
    files: 4,
    offset_max: 200_000,
    write_max: 9000,
    large_every: 100,
    noise: 20,
    commit_every: 60,
    reopens: false,
};

/// A change that a thread made to its own bytes.
#[derive(Debug, Clone)]
enum Change {
    Write {
        at: usize,
        len: usize,
        fill: Fill,
    },
    SetLen(usize),
    Punch {
        at: usize,
        len: usize,
    },
    Allocate {
        at: usize,
        len: usize,
    },
    Zero {
        at: usize,
        len: usize,
    },
    /// In shared file `file`.
    Shared {
        file: usize,
        at: usize,
        len: usize,
        fill: Fill,
    },
}

/// A change that was made, and when.
#[derive(Debug, Clone)]
struct Made {
    change: Change,
    began: u64,
    ended: u64,
}

/// A thread's own bytes.
#[derive(Debug, Clone)]
struct Mine {
    own: Content,
    /// The shared files; only this thread's stripes of them mean anything.
    shared: Vec<Vec<u8>>,
}

impl Mine {
    fn apply(&mut self, change: &Change, bytes: &Bytes) {
        match *change {
            Change::Write { at, len, fill } => self.own.write(at, &bytes.get(fill, len)),
            Change::SetLen(len) => self.own.set_len(len),
            Change::Punch { at, len } => self.own.punch(at..at + len),
            Change::Allocate { at, len } => self.own.allocate(at..at + len),
            Change::Zero { at, len } => self.own.zero(at..at + len),
            Change::Shared { file, at, len, fill } => {
                self.shared[file][at..at + len].copy_from_slice(&bytes.get(fill, len));
            }
        }
    }
}

struct Worker<'a> {
    number: usize,
    rng: Rng,
    bytes: &'a Bytes,
    now: Mine,
    /// As of the last sync or commit of its own, and what was done since.
    synced: Mine,
    since: Vec<Made>,
    /// When the last change began that is in `synced`, and when the last sync did that has returned.
    synced_began: u64,
    sync_began: u64,
    clock: &'a Clock,
    watched: Arc<Watched>,
    /// Its own file, then the shared ones.
    handles: Vec<File>,
    /// Whether it opens its files for each operation and closes them after it, as the others do then: so a file is closed by several at once.
    comes_and_goes: bool,
}

fn told(error: Error) -> String {
    error.to_string()
}

fn own_name(thread: usize) -> String {
    format!("own{thread}")
}

/// The files of a thread, its own first.
fn names(thread: usize) -> impl Iterator<Item = String> {
    [own_name(thread)].into_iter().chain((0..SHARED).map(|file| format!("shared{file}")))
}

/// The stripes of a thread that touch `from..end`, cut to it.
fn stripes(thread: usize, from: usize, end: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let stripe = move |number: usize| {
        let start = (number * THREADS + thread) * STRIPE;
        start.max(from)..(start + STRIPE).min(end)
    };
    (0..STRIPES).map(stripe).filter(|range| !range.is_empty())
}

impl<'a> Worker<'a> {
    fn new(number: usize, seed: u64, bytes: &'a Bytes, clock: &'a Clock) -> Self {
        let shared = vec![vec![0; STRIPE * STRIPES * THREADS]; SHARED];
        let now = Mine { own: Content::default(), shared };
        let rng = Rng::new(seed).fork(100 + number as u64);
        Self {
            number,
            rng,
            bytes,
            synced: now.clone(),
            now,
            since: vec![],
            synced_began: 0,
            sync_began: 0,
            clock,
            watched: Watched::new(format!("seed {seed}, thread {number}")),
            handles: vec![],
            comes_and_goes: Rng::new(seed).fork(99).percent(30),
        }
    }

    fn open(&mut self, volume: &Volume) -> Result<(), String> {
        let handles: Result<_, _> = names(self.number).map(|name| volume.open_file(name)).collect();
        self.handles = handles.map_err(told)?;
        Ok(())
    }

    fn work(&mut self, volume: &Volume, ops: u64) -> Result<(), String> {
        for number in 0..ops {
            let op = SHAPE.op(&mut self.rng);
            self.watched.op(number, &op);
            let result = self.in_turn(volume, &op);
            result.map_err(|why| format!("thread {}, {number}, {op:?}: {why}", self.number))?;
            // There are more threads than cores: they take turns, rather than come one after another.
            std::thread::yield_now();
        }
        self.watched.rest();
        Ok(())
    }

    fn in_turn(&mut self, volume: &Volume, op: &Op) -> Result<(), String> {
        if self.handles.is_empty() {
            self.open(volume)?;
        }
        self.step(volume, op)?;
        if self.comes_and_goes {
            self.handles.clear();
        }
        Ok(())
    }

    fn step(&mut self, volume: &Volume, op: &Op) -> Result<(), String> {
        let index = |at: u32| to_usize(u64::from(at));
        let range = |at: u32, len: u32| u64::from(at)..u64::from(at) + u64::from(len);
        let began = self.clock.tick();
        match *op {
            Op::Write { file: 0, at, len, fill } => {
                self.handles[0]
                    .write_at(u64::from(at), &self.bytes.get(fill, index(len)))
                    .map_err(told)?;
                self.note(began, Change::Write { at: index(at), len: index(len), fill });
            }
            Op::Write { file, at, len, fill } => {
                self.write_shared(began, file, (index(at), index(len)), fill)?;
            }
            Op::SetLen { file: 0, len } => {
                self.handles[0].set_len(u64::from(len)).map_err(told)?;
                self.note(began, Change::SetLen(index(len)));
            }
            Op::Punch { file: 0, at, len } => {
                self.handles[0].punch_hole(range(at, len)).map_err(told)?;
                self.note(began, Change::Punch { at: index(at), len: index(len) });
            }
            Op::Allocate { file: 0, at, len, keep_size: false } => {
                self.handles[0].allocate(range(at, len)).map_err(told)?;
                self.note(began, Change::Allocate { at: index(at), len: index(len) });
            }
            Op::Allocate { file, at, len, .. } => {
                let file = usize::from(file);
                self.handles[file].allocate_keep_size(range(at, len)).map_err(told)?;
            }
            Op::ZeroRange { file: 0, at, len } => {
                self.handles[0].zero_range(range(at, len)).map_err(told)?;
                self.note(began, Change::Zero { at: index(at), len: index(len) });
            }
            Op::SetLen { file, len: at }
            | Op::Punch { file, at, .. }
            | Op::ZeroRange { file, at, .. } => {
                self.punch_shared(began, file, index(at))?;
            }
            Op::Sync { file } => {
                self.handles[usize::from(file)].sync_data().map_err(told)?;
                self.is_synced(began);
            }
            Op::Commit => {
                volume.commit().map_err(told)?;
                self.is_synced(began);
            }
            Op::Clone { file } => {
                let more = self.handles[usize::from(file)].clone();
                self.handles[usize::from(file)] = more;
            }
            Op::Drop { file } => {
                let name = names(self.number).nth(usize::from(file)).unwrap_or_default();
                let again = volume.open_file(name).map_err(told)?;
                self.handles[usize::from(file)] = again;
            }
            Op::SetGroup { file, mib } => {
                let group = group(&volume.budget(), mib);
                self.handles[usize::from(file)].set_group(&group).map_err(told)?;
            }
            _ => self.look(op)?,
        }
        Ok(())
    }

    fn look(&self, op: &Op) -> Result<(), String> {
        let index = |at: u32| to_usize(u64::from(at));
        let handle = |file: u8| &self.handles[usize::from(file)];
        match *op {
            Op::Read { file, at, len } => self.read(usize::from(file), index(at), index(len))?,
            Op::ReadBlock { file, at } => self.read(usize::from(file), index(at) & !4095, 4096)?,
            Op::SeekData { file: 0, at } => {
                let found = handle(0).seek_data(u64::from(at)).map_err(told)?;
                self.now.own.check_seek(index(at), true, found)?;
            }
            Op::SeekHole { file: 0, at } => {
                let found = handle(0).seek_hole(u64::from(at)).map_err(told)?;
                self.now.own.check_seek(index(at), false, found)?;
            }
            Op::DataRanges { file: 0 } => {
                self.now.own.check_ranges(&handle(0).data_ranges().map_err(told)?)?;
            }
            Op::SeekData { file, at } => {
                let found = handle(file).seek_data(u64::from(at)).map_err(told)?;
                let end = found.map_or(usize::MAX, to_usize);
                self.all_zero(usize::from(file) - 1, index(at), end)?;
            }
            Op::SetPolicy { file, codec, extent } => {
                handle(file).set_policy(policy(codec, extent)).map_err(told)?;
            }
            Op::SetCachePolicy { file, policy } => {
                handle(file).set_cache_policy(cache_policy(policy))
            }
            Op::DropClean { file } => {
                handle(file).set_cache_policy(CachePolicy::Uncached);
                handle(file).set_cache_policy(CachePolicy::Normal);
            }
            Op::Writeback { file } => handle(file).start_writeback(),
            _ => {}
        }
        Ok(())
    }

    fn note(&mut self, began: u64, change: Change) {
        self.now.apply(&change, self.bytes);
        self.since.push(Made { change, began, ended: self.clock.tick() });
    }

    /// A sync that began then has returned.
    fn is_synced(&mut self, began: u64) {
        for made in std::mem::take(&mut self.since) {
            self.synced.apply(&made.change, self.bytes);
            self.synced_began = made.began;
        }
        self.sync_began = began;
    }

    /// Bytes of one of its stripes, from two numbers.
    fn place(&self, at: usize, len: usize) -> (usize, usize) {
        let within = at % STRIPE;
        let stripe = (at / STRIPE) % STRIPES;
        ((stripe * THREADS + self.number) * STRIPE + within, len.min(STRIPE - within))
    }

    fn write_shared(
        &mut self,
        began: u64,
        file: u8,
        (at, len): (usize, usize),
        fill: Fill,
    ) -> Result<(), String> {
        let (at, len) = self.place(at, len);
        let data = self.bytes.get(fill, len);
        self.handles[usize::from(file)].write_at(at as u64, &data).map_err(told)?;
        self.note(began, Change::Shared { file: usize::from(file) - 1, at, len, fill });
        Ok(())
    }

    fn punch_shared(&mut self, began: u64, file: u8, at: usize) -> Result<(), String> {
        let (at, len) = self.place(at, STRIPE);
        self.handles[usize::from(file)].punch_hole(at as u64..(at + len) as u64).map_err(told)?;
        let file = usize::from(file) - 1;
        self.note(began, Change::Shared { file, at, len, fill: Fill::Zeros });
        Ok(())
    }

    fn read(&self, file: usize, at: usize, len: usize) -> Result<(), String> {
        let mut found = vec![0xA5; len];
        let n = self.handles[file].read_at(at as u64, &mut found).map_err(told)?;
        if file == 0 {
            return check_bytes(self.now.own.slice(at..at + len), &found[..n], at);
        }
        found[n..].fill(0); // beyond the end, which others move
        for part in stripes(self.number, at, at + len) {
            let wanted = &self.now.shared[file - 1][part.clone()];
            check_bytes(wanted, &found[part.start - at..part.end - at], part.start)?;
        }
        Ok(())
    }

    /// What is said to be a hole has none of its bytes.
    fn all_zero(&self, file: usize, from: usize, end: usize) -> Result<(), String> {
        for part in stripes(self.number, from, end) {
            if self.now.shared[file][part.clone()].iter().any(|byte| *byte != 0) {
                return Err(format!("a hole in {from}..{end} hides data of {part:?}"));
            }
        }
        Ok(())
    }

    /// Its bytes as they are found now.
    fn found(&self) -> Result<Vec<Vec<u8>>, String> {
        let read = |file: &File| {
            let mut bytes = vec![0x5A; to_usize(file.len())];
            let n = file.read_at(0, &mut bytes).map_err(told)?;
            if n == bytes.len() { Ok(bytes) } else { Err(format!("only {n} bytes")) }
        };
        self.handles.iter().map(read).collect()
    }

    fn compare(&self, state: &Mine, found: &[Vec<u8>]) -> Result<(), String> {
        state.own.check(&found[0]).map_err(|why| format!("own file: {why}"))?;
        for (file, (wanted, found)) in state.shared.iter().zip(&found[1..]).enumerate() {
            for part in stripes(self.number, 0, usize::MAX) {
                let there = &found[part.start.min(found.len())..part.end.min(found.len())];
                let (in_file, beyond) = wanted[part.clone()].split_at(there.len());
                let beyond_is_zero = beyond.iter().all(|byte| *byte == 0);
                check_bytes(in_file, there, part.start)
                    .map_err(|why| format!("shared{file}: {why}"))?;
                if !beyond_is_zero {
                    return Err(format!("shared{file} ends before {part:?}"));
                }
            }
        }
        Ok(())
    }

    /// Everything is there.
    fn check(&mut self, when: &str) -> Result<(), String> {
        let checked = self.found().and_then(|found| self.compare(&self.now, &found));
        checked.map_err(|why| format!("thread {}, {when}: {why}", self.number))
    }

    /// What a crash left is what was there after one of the operations since the last sync: it goes on from that one. If it may have been one
    /// of several, which differ in what is a hole and what is zeros, either is right from then on. Gives the moments at which the cut may have been.
    fn fall_back(&mut self) -> Result<Vec<Moments>, String> {
        let found = self.found()?;
        let since = std::mem::take(&mut self.since);
        let mut state = self.synced.clone();
        let mut left: Option<Mine> = None;
        let mut why_not = String::new();
        let mut moments = Vec::new();
        for (number, made) in std::iter::once(None).chain(since.iter().map(Some)).enumerate() {
            if let Some(made) = made {
                state.apply(&made.change, self.bytes);
            }
            let from = made.map_or(self.synced_began, |made| made.began);
            let to = since.get(number).map_or(u64::MAX, |next| next.ended);
            match (self.compare(&state, &found), &mut left) {
                (Err(why), _) => why_not = why,
                (Ok(()), None) => {
                    moments.push(Moments { from, to });
                    left = Some(state.clone());
                }
                (Ok(()), Some(left)) => {
                    moments.push(Moments { from, to });
                    left.own = Content::between(&left.own, &state.own, found[0].clone())?;
                }
            }
        }
        let Some(left) = left else {
            let (number, count) = (self.number, since.len());
            return Err(format!(
                "thread {number}: a crash left none of the {count} states since its sync: {why_not}"
            ));
        };
        self.synced = left.clone();
        self.now = left;
        self.synced_began = 0;
        Ok(moments)
    }
}

fn options(rng: &mut Rng) -> Options {
    let byte = |rng: &mut Rng| rng.next_u64().to_le_bytes()[0];
    Options {
        threads: *rng.pick(&[1, 2, 8]),
        compression: compression(byte(rng)),
        extent_size: extent_size(byte(rng)),
        cache_bytes: *rng.pick(&[1 << 20, 4 << 20, 32 << 20]),
        commit_interval: *rng.pick(&[None, Some(Duration::from_millis(5))]),
        group: rng.percent(30).then(|| shared_budget().group("volume", Limits::UNLIMITED)),
        ..Options::default()
    }
}

/// One that several volumes share, for as long as the process lasts.
fn shared_budget() -> &'static Budget {
    static BUDGET: OnceLock<Budget> = OnceLock::new();
    BUDGET.get_or_init(|| Budget::new(Limits::for_budget(4 << 20)))
}

/// How much is done on a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Threads that work at once, at most [`THREADS`].
    pub threads: usize,
    /// Rounds, with a close or a crash after each.
    pub rounds: u64,
    /// Operations of each thread in a round.
    pub ops: u64,
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} threads, {} rounds of {} operations each",
            self.threads, self.rounds, self.ops
        )
    }
}

impl Size {
    /// A little less of everything, each by itself.
    fn smaller(self) -> impl Iterator<Item = Self> {
        let threads = (self.threads > 1).then_some(Self { threads: self.threads / 2, ..self });
        let one_less = (self.threads > 2).then_some(Self { threads: self.threads - 1, ..self });
        let rounds = (self.rounds > 1).then_some(Self { rounds: self.rounds - 1, ..self });
        let half = (self.ops > 1).then_some(Self { ops: self.ops / 2, ..self });
        let ops = (self.ops > 3).then_some(Self { ops: self.ops - self.ops / 4, ..self });
        [threads, rounds, half, one_less, ops].into_iter().flatten()
    }
}

/// Works on one volume as the seed and `size` say.
///
/// # Errors
/// What is wrong, the seed, and the smallest size found that fails, with how often it does: which thread comes when is not in the seed.
pub fn run_seed(seed: u64, size: Size, bytes: &Bytes) -> Result<Done, String> {
    let attempt = |size| match catch_unwind(AssertUnwindSafe(|| run(seed, size, bytes))) {
        Ok(result) => result,
        Err(panic) => Err(format!("it panics: {}", panic_text(&*panic))),
    };
    attempt(size).map_err(|why| {
        let (small, times, small_why) = make_smaller(size, attempt);
        let options = options(&mut Rng::new(seed).fork(3));
        format!(
            "seed {seed}, {size}: {why}\n{options:?}\nthe smallest that fails: {small}, {times} times of {TRIES}: {small_why}"
        )
    })
}

/// The smallest size that was seen to fail, how often of [`TRIES`] it does, and why.
fn make_smaller<T>(
    size: Size,
    attempt: impl Fn(Size) -> Result<T, String>,
) -> (Size, usize, String) {
    let begun = Instant::now();
    let failures = |size: Size| -> Vec<String> {
        let in_time = |_: &u32| begun.elapsed() < SHRINK;
        (0..TRIES).take_while(in_time).filter_map(|_| attempt(size).err()).collect()
    };
    let told = |failures: &[String]| failures.first().cloned();
    let first = failures(size);
    let mut best = (size, first.len(), told(&first).unwrap_or_else(|| "not again".to_owned()));
    while let Some(less) = best.0.smaller().find_map(|less| {
        let failures = failures(less);
        told(&failures).map(|why| (less, failures.len(), why))
    }) {
        best = less;
    }
    best
}

fn run(seed: u64, size: Size, bytes: &Bytes) -> Result<Done, String> {
    let mut rng = Rng::new(seed).fork(3);
    let (options, clock) = (options(&mut rng), Clock::default());
    let watched = Watched::new(format!("seed {seed}, the volume"));
    watched.step("making the volume");
    let device = Arc::new(MemoryDevice::new(256 << 20));
    let mut volume = Volume::create_on(Arc::clone(&device) as _, &options).map_err(told)?;
    for name in (1..size.threads).map(own_name).chain(names(0)) {
        volume.create_file(name).map_err(told)?;
    }
    volume.commit().map_err(told)?;
    let worker = |number| Worker::new(number, seed, bytes, &clock);
    let mut workers: Vec<_> = (0..size.threads).map(worker).collect();
    let mut done = Done::default();
    for round in 0..size.rounds {
        watched.rest();
        at_once(&mut workers, |worker| {
            worker.open(&volume).and_then(|()| worker.work(&volume, size.ops))
        })?;
        done.ops += size.ops * size.threads as u64;
        let crash = rng.percent(50);
        watched.step("comparing");
        for worker in &mut workers {
            if worker.handles.is_empty() {
                worker.open(&volume)?;
            }
            worker.check("before the end of a round")?;
            worker.handles.clear();
        }
        watched.step(if crash { "dropping the volume" } else { "closing the volume" });
        if crash {
            drop(volume);
        } else {
            volume.close().map_err(told)?;
        }
        watched.step("opening the volume, and comparing");
        alone::check(&device)?;
        volume = Volume::open_on(Arc::clone(&device) as _, &options).map_err(told)?;
        workers.iter_mut().try_for_each(|worker| worker.open(&volume))?;
        if crash {
            done.crashes += 1;
            one_commit(&mut workers)?;
        } else {
            let now = clock.tick();
            for worker in &mut workers {
                worker.is_synced(now);
                worker.check(&format!("after closing in round {round}"))?;
            }
        }
    }
    workers.clear();
    watched.step("closing the volume");
    volume.close().map_err(told)?;
    alone::check(&device)?;
    Ok(done)
}

/// What a crash left is one commit: each thread finds a state of its own, and there was a moment at which all of these were.
fn one_commit(workers: &mut [Worker<'_>]) -> Result<(), String> {
    let least = workers.iter().map(|worker| worker.sync_began).max().unwrap_or(0);
    let moments: Result<Vec<_>, _> = workers.iter_mut().map(Worker::fall_back).collect();
    let moments = moments?;
    if common_cut(&moments, least).is_none() {
        return Err(format!(
            "a crash left no commit (law D1): a sync that had returned began at {least}, and the threads are as they were at {moments:?}"
        ));
    }
    Ok(())
}

/// Has all workers work, each in a thread of its own, from the same moment on. Gives the first failure.
pub(super) fn at_once<W: Send>(
    workers: &mut [W],
    work: impl Fn(&mut W) -> Result<(), String> + Sync,
) -> Result<(), String> {
    let together = Barrier::new(workers.len());
    std::thread::scope(|scope| {
        let start = |worker| {
            let (worker, together, work): (&mut W, _, _) = (worker, &together, &work);
            scope.spawn(move || {
                together.wait();
                work(worker)
            })
        };
        let threads: Vec<_> = workers.iter_mut().map(start).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<(), String>>| {
            thread
                .join()
                .unwrap_or_else(|panic| Err(format!("a thread panics: {}", panic_text(&*panic))))
        };
        let results: Vec<_> = threads.into_iter().map(join).collect();
        results.into_iter().collect()
    })
}
