//! The content and the length of a file that several threads change and look at, and what of that a crash leaves.

use std::ops::Range;
use std::sync::Arc;

use cowback::{CachePolicy, File, FilePolicy, SetAttributes, Volume};
use shuttle::rand::{Rng, thread_rng};

use crate::breakable::{Breakable, Failing, any_failing, is_failure};
use crate::explore::explore;
use crate::handles::options;
use crate::linear::{self, Clock, Durable, Made, Plain as _, check, side_by_side};

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
    /// From here on the device may fail: what does is told.
    Break(Failing),
    Resume,
    /// It has been resumed on a device that is well again.
    Mend,
    /// All that is not durable is gone.
    Crash,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Done,
    Failed,
    /// The byte of which each half page is made.
    Halves(Vec<u8>),
    Len(usize),
}

/// Draws a call. If the device `may_fail`, that is among them.
fn any_call(may_fail: bool) -> Call {
    let mut rng = thread_rng();
    let page = 2 * rng.gen_range(0..PAGES);
    let (from, to) =
        [(page, page + 2), (page, page + 1), (page + 1, page + 2)][rng.gen_range(0..3)];
    match rng.gen_range(0..if may_fail { 20 } else { 18 }) {
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
        17 => Call::Uncache,
        18 => Call::Resume,
        _ => Call::Break(any_failing()),
    }
}

fn bytes(from: usize, to: usize) -> Range<u64> {
    (from * HALF) as u64..(to * HALF) as u64
}

/// What the calls are made on.
struct On {
    device: Arc<Breakable>,
    volume: Volume,
    file: File,
}

fn make(On { device, volume, file }: &On, call: Call) -> Outcome {
    let result = match call {
        Call::Write(from, to, byte) => {
            file.write_at((from * HALF) as u64, &vec![byte; (to - from) * HALF])
        }
        Call::SetLen(len) => file.set_len((len * HALF) as u64),
        Call::Punch(from, to) => file.punch_hole(bytes(from, to)),
        Call::Zero(from, to) => file.zero_range(bytes(from, to)),
        Call::Allocate(from, to) => file.allocate(bytes(from, to)),
        Call::Glance(from) | Call::Read(from) => {
            let mut page = [0xAA; 2 * HALF];
            let read = file.read_at((from * HALF) as u64, &mut page).unwrap();
            let mut halves = page[..read].chunks(HALF);
            assert!(halves.all(|half| half.len() == HALF && *half == [half[0]; HALF]));
            if matches!(call, Call::Read(_)) {
                return Outcome::Halves(page[..read].iter().step_by(HALF).copied().collect());
            }
            Ok(())
        }
        Call::Len => return Outcome::Len(usize::try_from(file.len()).unwrap() / HALF),
        Call::Sync => file.sync_data(),
        Call::Commit => volume.commit().map(drop),
        Call::SetAttributes => {
            let set = SetAttributes { permissions: Some(0o600), ..SetAttributes::default() };
            file.set_attributes(&set)
        }
        Call::StartWriteback => {
            file.start_writeback();
            Ok(())
        }
        Call::Uncache => {
            file.set_cache_policy(CachePolicy::Uncached);
            file.set_cache_policy(CachePolicy::Normal);
            Ok(())
        }
        Call::Break(failing) => {
            device.set(failing);
            Ok(())
        }
        Call::Resume => volume.try_resume(),
        Call::Mend | Call::Crash => panic!("a volume does not do that by itself"),
    };
    match result {
        Ok(()) => Outcome::Done,
        Err(error) if is_failure(&error) => Outcome::Failed,
        Err(error) => panic!("{call:?}: {error}"),
    }
}

/// The file as it would be, were the calls made one after another: the byte of which each half page is made.
#[derive(Debug, Clone)]
struct Plain {
    halves: Durable<Vec<u8>>,
    /// The device could fail: the next sync may tell of that, once, though it makes all durable (law E1).
    owes_error: bool,
}

impl Plain {
    fn new(may_fail: bool) -> Self {
        Self { halves: Durable::new(vec![], may_fail), owes_error: false }
    }

    /// Fills what there is of a part.
    fn fill(&mut self, from: usize, to: usize, byte: u8) {
        let to = to.min(self.halves.now.len());
        self.halves.now[from.min(to)..to].fill(byte);
    }

    fn grow(&mut self, to: usize) {
        self.halves.now.resize(self.halves.now.len().max(to), 0);
    }

    fn attempt(&mut self, call: Call) -> Outcome {
        match call {
            Call::Write(from, to, byte) => {
                self.grow(to);
                self.fill(from, to, byte);
            }
            Call::SetLen(len) => self.halves.now.resize(len, 0),
            Call::Punch(from, to) => self.fill(from, to, 0),
            Call::Zero(from, to) => {
                self.grow(to);
                self.fill(from, to, 0);
            }
            Call::Allocate(_, to) => self.grow(to),
            Call::Read(from) => {
                return Outcome::Halves(
                    self.halves.now.iter().skip(from).take(2).copied().collect(),
                );
            }
            Call::Len => return Outcome::Len(self.halves.now.len()),
            Call::Sync | Call::Commit => self.halves.commit(),
            Call::Glance(_)
            | Call::StartWriteback
            | Call::SetAttributes
            | Call::Uncache
            | Call::Break(_)
            | Call::Resume => {}
            Call::Crash => unreachable!("it is no change"),
            Call::Mend => self.owes_error = std::mem::take(&mut self.halves.may_fail),
        }
        Outcome::Done
    }
}

impl linear::Plain for Plain {
    type Call = Call;
    type Outcome = Outcome;

    fn ways(&self, call: Call) -> Vec<(Self, Outcome)> {
        if matches!(call, Call::Crash) {
            let crashed = |halves| (Self { halves, ..self.clone() }, Outcome::Done);
            return self.halves.crashes().map(crashed).collect();
        }
        let mut usual = self.clone();
        let outcome = usual.attempt(call);
        usual.halves.called();
        let mut ways = vec![(usual.clone(), outcome)];
        if matches!(call, Call::Sync) && self.owes_error {
            ways.push((Self { owes_error: false, ..usual }, Outcome::Failed));
        }
        if self.halves.may_fail {
            ways.push((self.clone(), Outcome::Failed));
        }
        ways
    }
}

/// All that there is, as calls that look at it.
fn look(on: &On, clock: &Clock) -> Vec<Made<Plain>> {
    let calls = [Call::Len].into_iter().chain((0..PAGES).map(|page| Call::Read(2 * page)));
    calls.map(|call| clock.timed(call, |call| make(on, call))).collect()
}

/// `load`: how many threads, and how many calls of each.
fn content_changes(load: (usize, usize)) {
    let device = Arc::new(Breakable::new());
    let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
    let file = volume.create_file("f").unwrap();
    let compression = ["none", "zstd:1"][thread_rng().gen_range(0..2)];
    let policy: cowback::options::CompressionPolicy = compression.parse().unwrap();
    file.set_policy(FilePolicy::from(policy.forced())).unwrap();
    let on = On { device: Arc::clone(&device), volume, file };
    let may_fail = thread_rng().r#gen();
    let (clock, mut plain) = (Clock::default(), Plain::new(may_fail));
    let any = || any_call(false);
    for call in [any(), any(), any(), Call::Commit, any()] {
        assert_eq!(make(&on, call), plain.make(call), "{call:?}");
    }
    if may_fail {
        device.set(any_failing());
    }
    let mut made = side_by_side(load, || clock.timed(any_call(may_fail), |call| make(&on, call)));
    // Once the cause is gone, it goes on, and nothing that was acknowledged is lost.
    device.set(Failing::Nothing);
    on.volume.try_resume().unwrap();
    let mut after = vec![clock.timed(Call::Mend, |_| Outcome::Done)];
    after.extend(look(&on, &clock));
    for _ in 0..thread_rng().gen_range(0..3) {
        after.push(clock.timed(any_call(false), |call| make(&on, call)));
    }
    if thread_rng().r#gen() {
        after.push(clock.timed(Call::Commit, |call| make(&on, call)));
    }
    drop(on);
    after.push(clock.timed(Call::Crash, |_| Outcome::Done));
    let volume = Volume::open_on(Arc::clone(&device) as _, &options()).unwrap();
    let file = volume.open_file("f").unwrap();
    let on = On { device, volume, file };
    after.extend(look(&on, &clock));
    drop(on.file);
    on.volume.close().unwrap(); // at rest (law E4)
    made.push(after);
    check(&plain, &made);
}

#[test]
fn content_that_two_threads_change_is_as_if_one_had() {
    explore("content of two threads", 600, || content_changes((2, 3)));
}

#[test]
fn content_that_three_threads_change_is_as_if_one_had() {
    explore("content of three threads", 600, || content_changes((3, 2)));
}
