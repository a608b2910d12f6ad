//! One thread on one volume: each result is compared with the model, and what a crash leaves with the last commit, byte by byte.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowback::device::MemoryDevice;
use cowback::{CachePolicy, Error, File, FilePolicy, Options, Timespec, Volume};
use cowback_testkit::model::shrink;
use cowback_testkit::random::{Rng, to_usize};

use super::content::{Content, check_bytes};
use super::op::{Bytes, Op, Shape, cache_policy, compression, extent_size, group, policy};
use super::watch::Watched;

/// Most handles of one file.
const HANDLES_MAX: usize = 4;
/// Time that is spent on making a failing list shorter.
const SHRINK: Duration = Duration::from_secs(60);

/// One volume and what is done to it; all of it follows from the seed.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What it follows from.
    pub seed: u64,
    /// How operations are drawn.
    pub shape: Shape,
    /// How the volume is made.
    pub options: Options,
    /// Bytes of the device.
    pub device: u64,
    /// So many files, the first ones, are overwritten in place.
    pub nocow: usize,
}

/// Every few setups the device is so small that it fills up.
const SMALL_EVERY: u64 = 5;

impl Setup {
    /// The setup of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed).fork(1);
        let small = rng.below(SMALL_EVERY) == 0;
        let byte = |rng: &mut Rng| rng.next_u64().to_le_bytes()[0];
        let device = if small { *rng.pick(&[9 << 20, 13 << 20, 24 << 20]) } else { 256 << 20 };
        let shape = if small {
            let noise = *rng.pick(&[60, 90]);
            Shape {
                files: 5,
                offset_max: *rng.pick(&[2_500_000, 4_500_000]),
                write_max: 30_000,
                large_every: *rng.pick(&[4, 8]),
                noise,
                ..SHAPE
            }
        } else {
            let offset_max = *rng.pick(&[20_000, 150_000, 300_000, 1_200_000]);
            let noise = *rng.pick(&[10, 30]);
            Shape { files: *rng.pick(&[1, 2, 4]), offset_max, noise, ..SHAPE }
        };
        let options = Options {
            threads: *rng.pick(&[1, 2, 8]),
            compression: compression(byte(&mut rng)),
            extent_size: extent_size(byte(&mut rng)),
            checksum: *rng.pick(&cowback::options::ChecksumKind::ALL),
            metadata: *rng
                .pick(&[cowback::options::Profile::Single, cowback::options::Profile::Dup]),
            cache_bytes: *rng.pick(&[1 << 20, 2 << 20, 16 << 20]),
            size: small.then_some(device),
            uuid: Some(uuid::Uuid::from_u128(u128::from(seed) << 16 | 0xc0)),
            fixed_time: Some(Timespec { sec: 1_700_000_000, nsec: 5 }),
            commit_interval: None,
            ..Options::default()
        };
        let nocow = *rng.pick(&[0, 0, 1, 2]);
        Self { seed, shape, options, device, nocow }
    }

    /// The first `count` operations of a seed.
    #[must_use]
    pub fn ops(&self, seed: u64, count: usize) -> Vec<Op> {
        let mut rng = Rng::new(seed).fork(2);
        (0..count).map(|_| self.shape.op(&mut rng)).collect()
    }
}

const SHAPE: Shape = Shape {
    files: 4,
    offset_max: 300_000,
    write_max: 9000,
    large_every: 40,
    noise: 20,
    commit_every: 70,
    reopens: true,
};

/// What a run did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Operations.
    pub ops: u64,
    /// Operations that met a full volume.
    pub full: u64,
    /// Crashes.
    pub crashes: u64,
}

struct Runner<'a> {
    bytes: &'a Bytes,
    options: Options,
    watched: Arc<Watched>,
    device: Arc<MemoryDevice>,
    volume: Option<Volume>,
    files: Vec<Vec<File>>,
    model: Vec<Arc<Content>>,
    /// What the last commit holds; `None` if a full volume left it open which state that is.
    committed: Option<Vec<Arc<Content>>>,
    /// What each file that is overwritten in place was like after each change since then.
    since: Vec<Vec<Arc<Content>>>,
    /// Commits of this volume that are accounted for in `committed`.
    commits: u64,
    done: Done,
}

/// Runs operations on a fresh volume. Gives the device as it is after the last close.
///
/// # Errors
/// What differs from the model, and at which operation.
pub fn run(setup: &Setup, ops: &[Op], bytes: &Bytes) -> Result<(Arc<MemoryDevice>, Done), String> {
    let mut runner = Runner::new(setup, bytes).map_err(|why| format!("at the beginning: {why}"))?;
    for (number, op) in ops.iter().enumerate() {
        runner.watched.op(number as u64, op);
        runner.step(op).map_err(|why| format!("operation {number}, {op:?}: {why}"))?;
        runner.done.ops += 1;
    }
    runner.watched.step("the end");
    runner.end().map_err(|why| format!("at the end: {why}"))
}

/// Runs the first `count` operations of `seed`.
///
/// # Errors
/// What is wrong, with the seed and a short list of operations that shows it.
pub fn run_seed(seed: u64, count: usize, bytes: &Bytes) -> Result<Done, String> {
    let setup = Setup::of(seed);
    let ops = setup.ops(seed, count);
    let attempt = |ops: &[Op]| match catch_unwind(AssertUnwindSafe(|| run(&setup, ops, bytes))) {
        Ok(result) => result.map(|(_, done)| done),
        Err(panic) => Err(format!("it panics: {}", panic_text(&*panic))),
    };
    attempt(&ops).map_err(|why| {
        let begun = Instant::now();
        let short = shrink(&ops, |ops| begun.elapsed() < SHRINK && attempt(ops).is_err());
        let again = attempt(&short).err().unwrap_or_else(|| "(not every time)".to_owned());
        format!(
            "seed {seed}: {why}\n{setup:?}\n{} operations do so: {again}\n{short:#?}",
            short.len()
        )
    })
}

/// What a panic said.
#[must_use]
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Nothing is wrong with what is on the device.
///
/// # Errors
/// What is.
pub fn check(device: &MemoryDevice) -> Result<(), String> {
    let mut problems = Vec::new();
    let checked = Volume::check_on(device, &mut |problem| problems.push(problem.to_string()));
    checked.map_err(|error| format!("it cannot be checked: {error}"))?;
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

fn told(error: Error) -> String {
    error.to_string()
}

fn name(file: usize) -> String {
    format!("f{file}")
}

impl<'a> Runner<'a> {
    fn new(setup: &Setup, bytes: &'a Bytes) -> Result<Self, String> {
        let watched =
            Watched::new(format!("seed {}, {} workers", setup.seed, setup.options.threads));
        watched.step("making the volume");
        let device = Arc::new(MemoryDevice::new(setup.device));
        let volume = Volume::create_on(Arc::clone(&device) as _, &setup.options).map_err(told)?;
        let count = usize::from(setup.shape.files);
        let create = |file| {
            let handle = volume.create_file(name(file))?;
            if file < setup.nocow {
                handle.set_nocow(true)?;
            }
            Ok(vec![handle])
        };
        let files: Result<_, _> = (0..count).map(create).collect();
        volume.commit().map_err(told)?;
        let empty = Arc::new(Content::default());
        let model = vec![empty; count];
        let mut runner = Self {
            bytes,
            watched,
            options: setup.options.clone(),
            device,
            volume: Some(volume),
            files: files.map_err(told)?,
            committed: Some(model.clone()),
            model,
            since: vec![vec![]; setup.nocow.min(count)],
            commits: 0,
            done: Done::default(),
        };
        runner.commits = runner.commits_now();
        Ok(runner)
    }

    fn volume(&self) -> &Volume {
        self.volume.as_ref().expect("it is open between operations")
    }

    fn commits_now(&self) -> u64 {
        self.volume().stats().commits.count
    }

    fn file(&self, file: usize) -> &File {
        &self.files[file][cowback_testkit::random::to_usize(self.done.ops) % self.files[file].len()]
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        let file = |file: u8| usize::from(file) % self.model.len();
        let at = |at: u32| to_usize(u64::from(at));
        match *op {
            Op::Write { file: f, at: start, len, fill } => {
                let data = self.bytes.get(fill, at(len));
                let mut after = (*self.model[file(f)]).clone();
                after.write(at(start), &data);
                let result = self.file(file(f)).write_at(u64::from(start), &data);
                self.changed(file(f), after, result)
            }
            Op::SetLen { file: f, len } => {
                let mut after = (*self.model[file(f)]).clone();
                after.set_len(at(len));
                let result = self.file(file(f)).set_len(u64::from(len));
                self.changed(file(f), after, result)
            }
            Op::Punch { file: f, at: start, len } => {
                let mut after = (*self.model[file(f)]).clone();
                after.punch(at(start)..at(start) + at(len));
                let range = u64::from(start)..u64::from(start) + u64::from(len);
                let result = self.file(file(f)).punch_hole(range);
                self.changed(file(f), after, result)
            }
            Op::Allocate { .. } | Op::ZeroRange { .. } => self.allocate(op),
            Op::Read { .. } | Op::ReadBlock { .. } | Op::SeekData { .. } | Op::SeekHole { .. } => {
                self.look(op)
            }
            Op::DataRanges { file: f } => {
                let ranges = self.file(file(f)).data_ranges().map_err(told)?;
                self.model[file(f)].check_ranges(&ranges)
            }
            Op::SetPolicy { file: f, codec, extent } => {
                self.set_policy(file(f), policy(codec, extent))
            }
            Op::SetCachePolicy { file: f, policy } => {
                self.file(file(f)).set_cache_policy(cache_policy(policy));
                Ok(())
            }
            Op::SetGroup { file: f, mib } => {
                let group = group(&self.volume().budget(), mib);
                self.file(file(f)).set_group(&group).map_err(told)
            }
            Op::DropClean { file: f } => {
                let handle = self.file(file(f));
                let before = handle.cache_policy();
                handle.set_cache_policy(CachePolicy::Uncached);
                handle.set_cache_policy(before);
                Ok(())
            }
            Op::Clone { file: f } => {
                let more = self.file(file(f)).clone();
                let handles = &mut self.files[usize::from(f) % self.model.len()];
                handles.truncate(HANDLES_MAX - 1);
                handles.push(more);
                Ok(())
            }
            Op::Drop { file: f } => self.drop_handle(file(f)),
            Op::Writeback { file: f } => {
                self.file(file(f)).start_writeback();
                Ok(())
            }
            Op::Sync { file: f } => self.sync(file(f)),
            Op::Commit => {
                let result = self.volume().commit().map(drop);
                self.synced(result)
            }
            Op::Reopen { cache } => self.reopen(cache),
            Op::Crash => self.crash(),
        }
    }

    /// What has no checksums is not to be compressed.
    fn set_policy(&self, file: usize, policy: FilePolicy) -> Result<(), String> {
        let handle = self.file(file);
        match handle.set_policy(policy) {
            Err(Error::Option { option: "compression", .. })
                if handle.is_nocow() && policy.compression.spec().is_some() =>
            {
                Ok(())
            }
            result => result.map_err(told),
        }
    }

    fn allocate(&mut self, op: &Op) -> Result<(), String> {
        let (Op::Allocate { file, at, len, .. } | Op::ZeroRange { file, at, len }) = *op else {
            return Ok(());
        };
        let file = usize::from(file) % self.model.len();
        let range = u64::from(at)..u64::from(at) + u64::from(len);
        let in_model = to_usize(range.start)..to_usize(range.end);
        let mut after = (*self.model[file]).clone();
        let handle = self.file(file);
        let result = match op {
            Op::Allocate { keep_size: true, .. } => handle.allocate_keep_size(range),
            Op::Allocate { .. } => {
                after.allocate(in_model);
                handle.allocate(range)
            }
            _ => {
                after.zero(in_model);
                handle.zero_range(range)
            }
        };
        self.changed(file, after, result)
    }

    fn look(&self, op: &Op) -> Result<(), String> {
        let file = |file: u8| usize::from(file) % self.model.len();
        let index = |at: u32| to_usize(u64::from(at));
        match *op {
            Op::Read { file: f, at, len } => {
                let mut found = vec![0xA5; index(len)];
                let n = self.file(file(f)).read_at(u64::from(at), &mut found).map_err(told)?;
                let wanted = self.model[file(f)].slice(index(at)..index(at) + index(len));
                check_bytes(wanted, &found[..n], index(at))
            }
            Op::ReadBlock { file: f, at } => {
                let found = self.file(file(f)).read_block(u64::from(at)).map_err(told)?;
                let start = index(at) / 4096 * 4096;
                let end = if index(at) < self.model[file(f)].len() { start + 4096 } else { start };
                check_bytes(self.model[file(f)].slice(start..end), &found, start)
            }
            Op::SeekData { file: f, at } => {
                let found = self.file(file(f)).seek_data(u64::from(at)).map_err(told)?;
                self.model[file(f)].check_seek(index(at), true, found)
            }
            Op::SeekHole { file: f, at } => {
                let found = self.file(file(f)).seek_hole(u64::from(at)).map_err(told)?;
                self.model[file(f)].check_seek(index(at), false, found)
            }
            _ => Ok(()),
        }
    }

    /// The file was changed so, or the volume is full.
    fn changed(
        &mut self,
        file: usize,
        after: Content,
        result: Result<(), Error>,
    ) -> Result<(), String> {
        let may_fill_up = self.options.size.is_some();
        let after = Arc::new(after);
        if let Some(since) = self.since.get_mut(file) {
            since.push(Arc::clone(&after));
        }
        match result {
            Ok(()) => {
                self.model[file] = after;
                // A volume without space makes some, by a commit in the middle of the operation.
                if may_fill_up && self.commits_now() != self.commits { self.pin() } else { Ok(()) }
            }
            Err(error) if may_fill_up && error.is_no_space() => {
                self.done.full += 1;
                let found = self.content_of(file)?;
                let found = Content::between(&self.model[file], &after, found)?;
                self.model[file] = Arc::new(found);
                self.pin()?;
                self.make_room()
            }
            Err(error) => Err(told(error)),
        }
    }

    /// Commits, so that it is known again what the last commit holds.
    fn pin(&mut self) -> Result<(), String> {
        if self.commits_now() != self.commits {
            self.committed = None;
        }
        let result = self.volume().commit().map(drop);
        self.synced(result)
    }

    /// The volume was full: it must take back what is removed, and go on.
    fn make_room(&mut self) -> Result<(), String> {
        let file = to_usize(self.done.full) % self.model.len();
        self.file(file).set_len(0).map_err(|error| format!("no way to free space: {error}"))?;
        self.model[file] = Arc::new(Content::default());
        self.volume().commit().map_err(|error| format!("after space was freed: {error}"))?;
        self.synced(Ok(()))
    }

    fn synced(&mut self, result: Result<(), Error>) -> Result<(), String> {
        match result {
            Ok(()) => self.is_committed(),
            Err(error) if self.options.size.is_some() && error.is_no_space() => self.done.full += 1,
            Err(error) => return Err(told(error)),
        }
        self.commits = self.commits_now();
        Ok(())
    }

    /// A sync is a commit, but of a file that was only overwritten in place since the last one: then it says nothing of other files.
    fn sync(&mut self, file: usize) -> Result<(), String> {
        let result = self.file(file).sync_data();
        if result.is_err() || file >= self.since.len() || self.commits_now() != self.commits {
            return self.synced(result);
        }
        if let Some(committed) = &mut self.committed {
            committed[file] = Arc::clone(&self.model[file]);
        }
        self.since[file].clear();
        Ok(())
    }

    fn is_committed(&mut self) {
        self.committed = Some(self.model.clone());
        self.since.iter_mut().for_each(Vec::clear);
    }

    fn drop_handle(&mut self, file: usize) -> Result<(), String> {
        self.files[file].pop();
        if self.files[file].is_empty() {
            let again = self.volume().open_file(name(file)).map_err(told)?;
            self.files[file].push(again);
        }
        Ok(())
    }

    fn content_of(&self, file: usize) -> Result<Vec<u8>, String> {
        let file = self.file(file);
        let mut bytes = vec![0x5A; to_usize(file.len())];
        let n = file.read_at(0, &mut bytes).map_err(told)?;
        if n == bytes.len() { Ok(bytes) } else { Err(format!("only {n} of {} bytes", bytes.len())) }
    }

    fn reopen(&mut self, cache: u8) -> Result<(), String> {
        // The last handles go before the volume or after it.
        let handles = std::mem::take(&mut self.files);
        let late = cache.is_multiple_of(2).then_some(handles);
        let closed = self.volume.take().map_or(Ok(()), Volume::close);
        drop(late);
        match closed {
            Ok(()) => self.is_committed(),
            Err(error) if self.options.size.is_some() && error.is_no_space() => self.done.full += 1,
            Err(error) => return Err(told(error)),
        }
        self.options.cache_bytes = (1 + u64::from(cache % 8)) << 20;
        self.open("after closing and opening")
    }

    fn crash(&mut self) -> Result<(), String> {
        self.done.crashes += 1;
        self.volume = None;
        self.files.clear();
        self.open("after a crash")
    }

    /// Opens what was closed or dropped: it must be the last commit.
    fn open(&mut self, when: &str) -> Result<(), String> {
        check(&self.device).map_err(|why| format!("{when}: {why}"))?;
        let volume = Volume::open_on(Arc::clone(&self.device) as _, &self.options);
        let volume = volume.map_err(|error| format!("{when}: {error}"))?;
        for file in 0..self.model.len() {
            self.files.push(vec![volume.open_file(name(file)).map_err(told)?]);
        }
        self.volume = Some(volume);
        self.commits = self.commits_now();
        for file in 0..self.model.len() {
            let found = self.content_of(file)?;
            self.model[file] = match &self.committed {
                Some(committed) => {
                    let since = self.since.get(file).map_or(&[][..], Vec::as_slice);
                    let left = Content::left_by_crash(&committed[file], since, found);
                    left.map_err(|why| format!("{when}, file {file}: {why}"))?
                }
                None => Arc::new(Content::of_bytes(found)),
            }
        }
        self.is_committed();
        Ok(())
    }

    fn end(mut self) -> Result<(Arc<MemoryDevice>, Done), String> {
        for file in 0..self.model.len() {
            self.model[file].check(&self.content_of(file)?)?;
        }
        self.reopen(0)?;
        self.files.clear();
        let closed = self.volume.take().map_or(Ok(()), Volume::close);
        closed.map_err(told)?; // there is nothing to be committed: it needs no space
        check(&self.device)?;
        Ok((self.device, self.done))
    }
}
