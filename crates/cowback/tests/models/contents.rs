//! The content and the length of a file that several threads change and look at, and what of that a crash leaves.

use std::ops::Range;
use std::sync::Arc;

use cowback::device::MemoryDevice;
use cowback::{CachePolicy, File, FilePolicy, SetAttributes, Volume};
use cowback_base::sync::thread;
use shuttle::rand::{Rng, thread_rng};

use crate::explore::explore;
use crate::handles::options;
use crate::linear::{self, Clock, Made, Plain as _, check};

/// Bytes of a half page: what is told apart.
const HALF: usize = 2048;
const PAGES: usize = 3;

/// A call, with places in half pages.
#[derive(Debug, Clone, Copy)]
enum Call {
    /// A part of one page is filled with bytes of one kind.
    Write(usize, usize, u8),
    SetLen(usize),
    /// A part of one page.
    Punch(usize, usize),
    Zero(usize, usize),
    Allocate(usize, usize),
    /// Reads a page while others may change it: what it finds of two changes is not said, but each half page is of one kind.
    Glance(usize),
    Read(usize),
    Len,
    Sync,
    Commit,
    StartWriteback,
    /// Attributes are set, and what is newer in memory with them.
    SetAttributes,
    /// What is clean leaves the cache.
    Uncache,
    /// All that is not durable is gone.
    Crash,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Done,
    /// The byte of which each half page is made.
    Halves(Vec<u8>),
    Len(usize),
}

fn any_call() -> Call {
    let mut rng = thread_rng();
    let page = 2 * rng.gen_range(0..PAGES);
    let (from, to) =
        [(page, page + 2), (page, page + 1), (page + 1, page + 2)][rng.gen_range(0..3)];
    match rng.gen_range(0..18) {
        0..=4 => Call::Write(from, to, rng.gen_range(1..=255)),
        5 | 6 => Call::SetLen(rng.gen_range(0..=2 * PAGES)),
        7 => Call::Punch(from, to),
        8 => Call::Zero(from, to),
        9 => Call::Allocate(from, to),
        10 | 11 => Call::Glance(page),
        12 => Call::Len,
        13 => Call::Sync,
        14 => Call::Commit,
        15 => Call::StartWriteback,
        16 => Call::SetAttributes,
        _ => Call::Uncache,
    }
}

fn bytes(from: usize, to: usize) -> Range<u64> {
    (from * HALF) as u64..(to * HALF) as u64
}

fn make(volume: &Volume, file: &File, call: Call) -> Outcome {
    match call {
        Call::Write(from, to, byte) => {
            file.write_at((from * HALF) as u64, &vec![byte; (to - from) * HALF]).unwrap();
        }
        Call::SetLen(len) => file.set_len((len * HALF) as u64).unwrap(),
        Call::Punch(from, to) => file.punch_hole(bytes(from, to)).unwrap(),
        Call::Zero(from, to) => file.zero_range(bytes(from, to)).unwrap(),
        Call::Allocate(from, to) => file.allocate(bytes(from, to)).unwrap(),
        Call::Glance(from) | Call::Read(from) => {
            let mut page = [0xAA; 2 * HALF];
            let read = file.read_at((from * HALF) as u64, &mut page).unwrap();
            let mut halves = page[..read].chunks(HALF);
            assert!(halves.all(|half| half.len() == HALF && *half == [half[0]; HALF]));
            if matches!(call, Call::Read(_)) {
                return Outcome::Halves(page[..read].iter().step_by(HALF).copied().collect());
            }
        }
        Call::Len => return Outcome::Len(usize::try_from(file.len()).unwrap() / HALF),
        Call::Sync => file.sync_data().unwrap(),
        Call::Commit => drop(volume.commit().unwrap()),
        Call::StartWriteback => file.start_writeback(),
        Call::SetAttributes => {
            let set = SetAttributes { permissions: Some(0o600), ..SetAttributes::default() };
            file.set_attributes(&set).unwrap();
        }
        Call::Uncache => {
            file.set_cache_policy(CachePolicy::Uncached);
            file.set_cache_policy(CachePolicy::Normal);
        }
        Call::Crash => panic!("a volume does not crash by itself"),
    }
    Outcome::Done
}

/// The file as it would be, were the calls made one after another: the byte of which each half page is made.
#[derive(Debug, Clone, Default)]
struct Plain {
    now: Vec<u8>,
    durable: Vec<u8>,
}

impl Plain {
    /// Fills what there is of a part.
    fn fill(&mut self, from: usize, to: usize, byte: u8) {
        let to = to.min(self.now.len());
        self.now[from.min(to)..to].fill(byte);
    }

    fn grow(&mut self, to: usize) {
        self.now.resize(self.now.len().max(to), 0);
    }
}

impl linear::Plain for Plain {
    type Call = Call;
    type Outcome = Outcome;

    fn make(&mut self, call: Call) -> Outcome {
        match call {
            Call::Write(from, to, byte) => {
                self.grow(to);
                self.fill(from, to, byte);
            }
            Call::SetLen(len) => self.now.resize(len, 0),
            Call::Punch(from, to) => self.fill(from, to, 0),
            Call::Zero(from, to) => {
                self.grow(to);
                self.fill(from, to, 0);
            }
            Call::Allocate(_, to) => self.grow(to),
            Call::Read(from) => {
                return Outcome::Halves(self.now.iter().skip(from).take(2).copied().collect());
            }
            Call::Len => return Outcome::Len(self.now.len()),
            Call::Sync | Call::Commit => self.durable.clone_from(&self.now),
            Call::Glance(_) | Call::StartWriteback | Call::SetAttributes | Call::Uncache => {}
            Call::Crash => self.now.clone_from(&self.durable),
        }
        Outcome::Done
    }
}

/// All that there is, as calls that look at it.
fn look(volume: &Volume, file: &File, clock: &Clock) -> Vec<Made<Plain>> {
    let calls = [Call::Len].into_iter().chain((0..PAGES).map(|page| Call::Read(2 * page)));
    calls.map(|call| clock.timed(call, |call| make(volume, file, call))).collect()
}

/// Each thread makes `calls` calls.
fn content_changes(threads: usize, calls: usize) {
    let device = Arc::new(MemoryDevice::new(0));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
    let file = volume.create_file("f").unwrap();
    let compression = ["none", "zstd:1"][thread_rng().gen_range(0..2)];
    let policy: cowback::options::CompressionPolicy = compression.parse().unwrap();
    file.set_policy(FilePolicy::from(policy.forced())).unwrap();
    let (clock, mut plain) = (Clock::default(), Plain::default());
    for call in [any_call(), any_call(), any_call(), Call::Commit, any_call()] {
        assert_eq!(make(&volume, &file, call), plain.make(call), "{call:?}");
    }
    let one = || clock.timed(any_call(), |call| make(&volume, &file, call));
    let run = || (0..calls).map(|_| one()).collect::<Vec<_>>();
    let mut made: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut after = look(&volume, &file, &clock);
    if thread_rng().r#gen() {
        after.push(clock.timed(Call::Sync, |call| make(&volume, &file, call)));
    }
    drop((file, volume));
    after.push(clock.timed(Call::Crash, |_| Outcome::Done));
    let volume = Volume::open_on(device, &options()).unwrap();
    let file = volume.open_file("f").unwrap();
    after.extend(look(&volume, &file, &clock));
    made.push(after);
    check(&plain, &made);
}

#[test]
fn content_that_two_threads_change_is_as_if_one_had() {
    explore("content of two threads", 600, || content_changes(2, 3));
}

#[test]
fn content_that_three_threads_change_is_as_if_one_had() {
    explore("content of three threads", 600, || content_changes(3, 2));
}
