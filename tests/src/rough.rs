//! Work on a volume whose device fails on the way, by one writer or several, and what must hold then and after (laws E1, E2, E4, D1, D2).
//!
//! Each file has one writer, which knows what the file holds, what of that was acknowledged as durable, and which write was refused. What
//! fails is never undone here: the file goes on as it is, and the refused write is made up for when the device is well again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use cowback::device::{BlockDevice, MemoryDevice};
use cowback::error::StoreError;
use cowback::stats::CacheStats;
use cowback::{Error, File, Options, Stats, Volume};
use cowback_testkit::faulty::{Effect, Fault, FaultDevice, Op, PANIC, Times};
use cowback_testkit::overlay::Overlay;
use cowback_testkit::random::Rng;

use crate::read_all;
use crate::work::content;

/// Bytes of the file that is only read: more than the cache holds, and nearly all of the first block group of a device that grows.
const COLD: usize = 15 << 20;
/// Rounds of a writer: each writes, reads, changes names and syncs.
const ROUNDS: usize = 3;

/// How the work is done.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Worker threads of the volume.
    pub threads: usize,
    /// Threads that write. Several have a background thread beside them.
    pub writers: usize,
    /// Whether the device grows with the volume.
    pub grows: bool,
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// How the work is done.
    pub shape: Shape,
    /// What fails.
    pub fault: Fault,
    /// What is written.
    pub seed: u64,
}

/// What came of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// How often the fault struck.
    pub fired: u64,
    /// Operations of the fault's kind.
    pub operations: u64,
    /// Whether the volume had stopped, and went on.
    pub resumed: bool,
    /// Whether it had to be opened again.
    pub reopened: bool,
}

fn options(shape: Shape) -> Options {
    Options {
        cache_bytes: 1 << 20,
        threads: shape.threads,
        size: (!shape.grows).then_some(64 << 20),
        commit_interval: (shape.writers > 1).then_some(Duration::from_secs(3600)),
        ..Options::default()
    }
}

/// A name in a directory of so many long names that changing it reads tree blocks that are not in memory.
fn long_name(name: &str) -> String {
    format!("names/{name}{}", "-".repeat(200))
}

/// A volume with the file that is only read, and a directory with many names; of fixed size, or one that grows.
fn base(grows: bool) -> Arc<MemoryDevice> {
    static BASES: LazyLock<[Arc<MemoryDevice>; 2]> = LazyLock::new(|| {
        [false, true].map(|grows| {
            let device = Arc::new(MemoryDevice::new(if grows { 0 } else { 64 << 20 }));
            let shape = Shape { threads: 1, writers: 1, grows };
            let volume = Volume::create_on(Arc::clone(&device) as _, &options(shape)).unwrap();
            volume.create_file("cold").unwrap().write_at(0, &cold()).unwrap();
            volume.create_dir("names").unwrap();
            for number in 0..600 {
                volume.create_file(long_name(&format!("old{number}"))).unwrap();
            }
            volume.close().unwrap();
            device
        })
    });
    Arc::clone(&BASES[usize::from(grows)])
}

fn cold() -> Vec<u8> {
    Rng::new(77).bytes(COLD)
}

/// Does `work`; a panic on order is a failure.
fn survive<T>(work: impl FnOnce() -> Result<T, Error>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok().and_then(Result::ok)
}

/// Keeps panics on order, and those that follow from them, from being printed: there are thousands.
pub fn hush() {
    static HUSHED: LazyLock<()> = LazyLock::new(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<String>();
            if text.is_none_or(|text| text != PANIC) {
                before(info);
            }
        }));
    });
    LazyLock::force(&HUSHED);
}

/// A file and what is known of it.
struct Tracked {
    name: String,
    file: File,
    /// A second handle, which asks for nothing before the end.
    other: File,
    /// What it holds.
    content: Vec<u8>,
    /// What it may hold on disk: its contents since the last sync that succeeded.
    durable: Vec<Vec<u8>>,
    /// A write that was refused, and may have been done in part.
    owed: Option<(usize, Vec<u8>)>,
}

fn patched(content: &[u8], at: usize, data: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    content.resize(content.len().max(at + data.len()), 0);
    content[at..at + data.len()].copy_from_slice(data);
    content
}

impl Tracked {
    fn new(volume: &Volume, number: usize) -> Self {
        let name = format!("file{number}");
        let file = volume.create_file(&name).unwrap();
        let first = Rng::new(number as u64).bytes(150_000);
        file.write_at(0, &first).unwrap();
        file.sync_data().unwrap();
        let other = volume.open_file(&name).unwrap();
        Self { name, file, other, content: first.clone(), durable: vec![first], owed: None }
    }

    fn write(&mut self, rng: &mut Rng) {
        if self.owed.is_some() {
            return;
        }
        let at = rng.index(self.content.len() + 5000);
        let len = 1 + rng.index(180_000);
        let data = content(rng, len);
        if survive(|| self.file.write_at(at as u64, &data)).is_some() {
            self.content = patched(&self.content, at, &data);
            self.durable.push(self.content.clone());
        } else {
            self.owed = Some((at, data));
        }
    }

    fn sync(&mut self) -> bool {
        let synced = survive(|| self.file.sync_data()).is_some();
        if synced {
            self.durable = vec![self.content.clone()];
        }
        synced
    }

    /// Whether `found` is `content`, or that with the refused write done in part.
    fn is(&self, found: &[u8], content: &[u8]) -> bool {
        let Some((at, data)) = &self.owed else { return found == content };
        let (old, new) = (content.len(), content.len().max(at + data.len()));
        if found.len() != old && found.len() != new {
            return false;
        }
        found.iter().enumerate().all(|(index, byte)| {
            let before = content.get(index).copied().unwrap_or(0);
            let after = index.checked_sub(*at).and_then(|within| data.get(within));
            *byte == before || after == Some(byte)
        })
    }

    fn check_readable(&self, volume: &Volume, fault: Fault, what: &str) {
        let found = match read_all(volume, &self.name) {
            Ok(found) => found,
            // The device has lost what had been written, and is not in the cache any more; it may even be shorter again.
            Err(Error::Store(StoreError::Corrupt { .. } | StoreError::Io { .. }))
                if fault.effect == Effect::DropUnsynced =>
            {
                return;
            }
            Err(error) => panic!("{what}: {error}"),
        };
        assert!(self.is(&found, &self.content), "{what}: {} reads as something else", self.name);
    }

    fn check_durable(&self, volume: &Volume, what: &str) {
        let found = read_all(volume, &self.name).unwrap_or_else(|error| panic!("{what}: {error}"));
        let known = self.durable.iter().any(|content| self.is(&found, content));
        assert!(known, "{what}: {} is at none of the {} states", self.name, self.durable.len());
    }
}

/// What one writer does.
fn write_through(volume: &Volume, files: &mut [Tracked], rng: &mut Rng, what: &str) {
    let cold = cold();
    for round in 0..ROUNDS {
        for file in &mut *files {
            file.write(rng);
            let at = rng.index(COLD - 70_000);
            let mut read = vec![0; 1 + rng.index(70_000)];
            let done = survive(|| {
                let cold = volume.open_file("cold")?;
                cold.read_at(at as u64, &mut read)
            });
            if done.is_some() {
                assert!(read == cold[at..at + read.len()], "{what}: wrong bytes");
            }
            let name = |with| long_name(&format!("{}{with}{round}", file.name));
            let names = [name('-'), name('=')];
            survive(|| volume.create_file(&names[0]).map(drop));
            survive(|| volume.rename(&names[0], &names[1]));
            file.write(rng);
            if round != 1 {
                file.sync();
            } else {
                survive(|| volume.remove_file(&names[1]));
            }
        }
    }
}

/// Law E4, with nobody at work: nothing is locked, on its way, or promised to nobody.
///
/// What is being read ahead, or written by the background thread, ends in a moment; what was leaked stays. One look is not enough to see that
/// all has ended: the thread may be between two runs.
fn check_at_rest(volume: &Volume, what: &str) {
    const LOOKS: u32 = 5;
    let at_rest = |stats: &Stats| {
        let CacheStats { locked, writeback, frozen, .. } = stats.cache;
        (locked, writeback, frozen) == (0, 0, 0)
            && (stats.in_flight_bytes, stats.queued_chunks) == (0, 0)
            && stats.store.data.promised == stats.dirty_bytes // O4
    };
    let moment = Instant::now() + Duration::from_secs(20);
    let mut quiet = 0;
    while quiet < LOOKS {
        let stats = volume.stats();
        quiet = if at_rest(&stats) { quiet + 1 } else { 0 };
        assert!(quiet > 0 || Instant::now() < moment, "{what}: not at rest: {stats:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a volume may have to be opened again after such a fault: a change may have been done in part.
fn may_end_in_part(fault: Fault) -> bool {
    matches!(fault.op, Op::Read | Op::SetLen)
}

/// The device is well again: everything is brought to disk, and each handle is told once of what had failed.
fn finish(files: &mut [Tracked], what: &str) {
    for tracked in &mut *files {
        if let Some((at, data)) = tracked.owed.take() {
            let done = tracked.file.write_at(at as u64, &data);
            done.unwrap_or_else(|error| panic!("{what}: {error}"));
            tracked.content = patched(&tracked.content, at, &data);
        }
    }
    for tracked in &mut *files {
        let told = tracked.file.sync_data().is_err();
        let again = tracked.file.sync_data();
        again.unwrap_or_else(|error| panic!("{what}: told twice: {error}"));
        let other = tracked.other.sync_data().is_err();
        assert!(other || !told, "{what}: the other handle has not heard of it");
        tracked.other.sync_data().unwrap_or_else(|error| panic!("{what}: told twice: {error}"));
        tracked.durable = vec![tracked.content.clone()];
    }
}

/// Does the work with the fault, and checks everything.
///
/// # Panics
/// If anything is not as it should be.
pub fn run(case: Case) -> Outcome {
    hush();
    let Case { shape, fault, seed } = case;
    let what = format!("{case:?}");
    let overlay = Arc::new(Overlay::over(base(shape.grows)).unwrap());
    let device = Arc::new(FaultDevice::new(Arc::clone(&overlay) as _, seed));
    let volume = Volume::open_on(Arc::clone(&device) as _, &options(shape)).unwrap();
    let mut files: Vec<Tracked> = (0..4).map(|number| Tracked::new(&volume, number)).collect();
    let before = device.count(fault.op);
    device.arm_from_now(fault);
    let share = files.len() / shape.writers;
    std::thread::scope(|scope| {
        for (number, files) in files.chunks_mut(share).enumerate() {
            let (volume, what) = (&volume, &what);
            let mut rng = Rng::new(seed).fork(number as u64);
            scope.spawn(move || write_through(volume, files, &mut rng, what));
        }
    });
    let mut outcome = Outcome {
        fired: device.fired(),
        operations: device.count(fault.op) - before,
        ..Outcome::default()
    };
    // Whatever is on its way ends, and the volume is as the fault has left it.
    let stopped = survive(|| volume.commit()).is_none() && volume.create_file("probe").is_err();
    device.disarm();
    if !stopped {
        let _ = volume.commit(); // tells of what had failed
    }
    check_at_rest(&volume, &what);
    files.iter().for_each(|file| file.check_readable(&volume, fault, &what));
    match volume.try_resume() {
        Ok(()) => {
            outcome.resumed = stopped;
            finish(&mut files, &what);
            check_at_rest(&volume, &what);
        }
        Err(Error::Store(StoreError::ReadOnly { reason })) => {
            assert!(reason.contains("opened again") && reason.len() > 50, "{what}: {reason}");
            let panicked = fault.effect == Effect::Panic;
            assert!(may_end_in_part(fault) || panicked, "{what}: it could have resumed: {reason}");
            outcome.reopened = true;
        }
        Err(error) => {
            let lost = fault.effect == Effect::DropUnsynced && error.to_string().contains("lost");
            assert!(lost, "{what}: it could have resumed: {error}");
            outcome.reopened = true;
        }
    }
    drop(volume);
    device.cut_power().unwrap();
    check_on_disk(&overlay, shape, &files, &what);
    outcome
}

/// After a power cut: everything that was acknowledged is there, the image is sound, and it can be worked on.
fn check_on_disk(overlay: &Arc<Overlay>, shape: Shape, files: &[Tracked], what: &str) {
    let mut problems = Vec::new();
    let report = cowback_block_store::check::check(&**overlay, false, &mut |problem| {
        problems.push(problem);
    });
    report.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(problems.is_empty(), "{what}: {problems:?}");
    let volume = Volume::open_on(Arc::clone(overlay) as Arc<dyn BlockDevice>, &options(shape));
    let volume = volume.unwrap_or_else(|error| panic!("{what}: {error}"));
    files.iter().for_each(|file| file.check_durable(&volume, what));
    volume.create_file("again").unwrap().write_at(0, b"again").unwrap();
    volume.close().unwrap_or_else(|error| panic!("{what}: {error}"));
}

/// Runs `case` for faults at up to `samples` places of the work, spread over all of it, once and from then on. Gives how many met their fault,
/// went on after they had stopped, and had to be opened again.
pub fn sweep(shape: Shape, op: Op, effect: Effect, samples: u64, seed: u64) -> [u64; 3] {
    let probe = Case { shape, fault: Fault::once(op, u64::MAX >> 1, effect), seed };
    let total = crate::must_end(&format!("{probe:?}"), move || run(probe)).operations;
    let mut counts = [0; 3];
    let step = (total / samples.max(1)).max(1);
    for times in [Times::Count(1), Times::Forever] {
        let mut at = Rng::new(seed).below(step);
        while at < total {
            let case = Case { shape, fault: Fault { op, at, effect, times }, seed };
            let outcome = crate::must_end(&format!("{case:?}"), move || run(case));
            counts[0] += u64::from(outcome.fired > 0);
            counts[1] += u64::from(outcome.resumed);
            counts[2] += u64::from(outcome.reopened);
            at += step;
        }
    }
    counts
}
