//! Threads on a volume that is too small for them. What fails for want of space leaves each byte old or new, removing always goes, nothing
//! hangs; and once all is removed, there is room again and nothing is wrong with the volume.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use cowback::device::MemoryDevice;
use cowback::{Error, File, Options, Volume};
use cowback_testkit::random::{Rng, to_usize};

use super::alone::{self, Done, panic_text};
use super::content::{Content, check_bytes};
use super::op::{Bytes, Op, Shape, compression, extent_size};
use super::together::at_once;
use super::watch::Watched;

/// Threads, and files of each.
const THREADS: usize = 4;
const FILES: usize = 3;

const SHAPE: Shape = Shape {
    files: 3,
    offset_max: 3_000_000,
    write_max: 40_000,
    large_every: 3,
    noise: 80,
    commit_every: 40,
    reopens: false,
};

struct Worker<'a> {
    number: usize,
    rng: Rng,
    bytes: &'a Bytes,
    files: Vec<(File, Content)>,
    full: u64,
    watched: Arc<Watched>,
}

fn told(error: Error) -> String {
    error.to_string()
}

impl Worker<'_> {
    fn work(&mut self, volume: &Volume, ops: u64) -> Result<(), String> {
        for number in 0..ops {
            let op = SHAPE.op(&mut self.rng);
            self.watched.op(number, &op);
            let result = self.step(volume, &op);
            result.map_err(|why| format!("thread {}, {number}, {op:?}: {why}", self.number))?;
            std::thread::yield_now();
        }
        self.watched.rest();
        Ok(())
    }

    fn step(&mut self, volume: &Volume, op: &Op) -> Result<(), String> {
        let index = |at: u32| to_usize(u64::from(at));
        let range = |at: u32, len: u32| u64::from(at)..u64::from(at) + u64::from(len);
        let within = |at: u32, len: u32| index(at)..index(at) + index(len);
        let own = |file: u8| usize::from(file) % FILES;
        match *op {
            Op::Write { file, at, len, fill } => {
                let data = self.bytes.get(fill, index(len)).into_owned();
                let wanted = |content: &mut Content| content.write(index(at), &data);
                self.change(own(file), wanted, |file| file.write_at(u64::from(at), &data))
            }
            Op::SetLen { file, len } => {
                let wanted = |content: &mut Content| content.set_len(index(len));
                self.change(own(file), wanted, |file| file.set_len(u64::from(len)))
            }
            Op::Punch { file, at, len } => {
                let wanted = |content: &mut Content| content.punch(within(at, len));
                self.change(own(file), wanted, |file| file.punch_hole(range(at, len)))
            }
            Op::Allocate { file, at, len, keep_size: false } => {
                let wanted = |content: &mut Content| content.allocate(within(at, len));
                self.change(own(file), wanted, |file| file.allocate(range(at, len)))
            }
            Op::Allocate { file, at, len, .. } => {
                self.change(own(file), |_| {}, |file| file.allocate_keep_size(range(at, len)))
            }
            Op::ZeroRange { file, at, len } => {
                let wanted = |content: &mut Content| content.zero(within(at, len));
                self.change(own(file), wanted, |file| file.zero_range(range(at, len)))
            }
            Op::Sync { file } => self.synced(self.files[own(file)].0.sync_data()),
            Op::Commit => self.synced(volume.commit().map(drop)),
            Op::Drop { file } => {
                let name = name(self.number, own(file));
                self.files[own(file)].0 = volume.open_file(name).map_err(told)?;
                Ok(())
            }
            Op::Read { file, at, len } => {
                let (handle, content) = &self.files[own(file)];
                let mut found = vec![0xA5; index(len)];
                let n = handle.read_at(u64::from(at), &mut found).map_err(told)?;
                check_bytes(content.slice(within(at, len)), &found[..n], index(at))
            }
            Op::Writeback { file } => {
                self.files[own(file)].0.start_writeback();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Changes a file, or finds the volume full. Then the file is old or new in each byte, and is emptied to make room.
    fn change(
        &mut self,
        file: usize,
        wanted: impl Fn(&mut Content),
        change: impl Fn(&File) -> Result<(), Error>,
    ) -> Result<(), String> {
        let (handle, content) = &mut self.files[file];
        let mut after = content.clone();
        wanted(&mut after);
        match change(handle) {
            Ok(()) => *content = after,
            Err(error) if error.is_no_space() => {
                self.full += 1;
                Content::between(content, &after, whole(handle)?)?;
                handle.set_len(0).map_err(|error| format!("no way to free space: {error}"))?;
                *content = Content::default();
            }
            Err(error) => return Err(told(error)),
        }
        Ok(())
    }

    /// A commit may find no room, as others fill the volume meanwhile.
    fn synced(&self, result: Result<(), Error>) -> Result<(), String> {
        match result {
            Err(error) if !error.is_no_space() => Err(told(error)),
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<(), String> {
        self.files.iter().try_for_each(|(handle, content)| content.check(&whole(handle)?))
    }
}

fn name(thread: usize, file: usize) -> String {
    format!("t{thread}-{file}")
}

fn whole(file: &File) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0x5A; to_usize(file.len())];
    let n = file.read_at(0, &mut bytes).map_err(told)?;
    if n == bytes.len() { Ok(bytes) } else { Err(format!("only {n} of {} bytes", bytes.len())) }
}

fn options(rng: &mut Rng) -> Options {
    let byte = |rng: &mut Rng| rng.next_u64().to_le_bytes()[0];
    Options {
        threads: *rng.pick(&[1, 2, 8]),
        compression: compression(byte(rng)),
        extent_size: extent_size(byte(rng)),
        cache_bytes: *rng.pick(&[1 << 20, 8 << 20]),
        size: Some(*rng.pick(&[9 << 20, 14 << 20])),
        commit_interval: *rng.pick(&[None, Some(Duration::from_millis(5))]),
        ..Options::default()
    }
}

/// Works on one volume as the seed says, with so many operations of each thread.
///
/// # Errors
/// What is wrong, and the seed. Which thread comes when is not in the seed.
pub fn run_seed(seed: u64, ops: u64, bytes: &Bytes) -> Result<Done, String> {
    match catch_unwind(AssertUnwindSafe(|| run(seed, ops, bytes))) {
        Ok(result) => result,
        Err(panic) => Err(format!("it panics: {}", panic_text(&*panic))),
    }
    .map_err(|why| {
        let options = options(&mut Rng::new(seed).fork(5));
        format!("seed {seed}, a full volume: {why}\n{options:?}")
    })
}

fn run(seed: u64, ops: u64, bytes: &Bytes) -> Result<Done, String> {
    let options = options(&mut Rng::new(seed).fork(5));
    let device = Arc::new(MemoryDevice::new(options.size.unwrap_or(0)));
    let watched = Watched::new(format!("seed {seed}, a full volume"));
    watched.step("making the volume");
    let volume = Volume::create_on(Arc::clone(&device) as _, &options).map_err(told)?;
    let worker = |number| -> Result<_, Error> {
        let mut files = Vec::new();
        for file in 0..FILES {
            let handle = volume.create_file(name(number, file))?;
            handle.set_nocow(seed.is_multiple_of(2) && file == 0)?;
            files.push((handle, Content::default()));
        }
        let rng = Rng::new(seed).fork(200 + number as u64);
        let watched = Watched::new(format!("seed {seed}, full, thread {number}"));
        Ok(Worker { number, rng, bytes, files, full: 0, watched })
    };
    let mut workers: Vec<_> = (0..THREADS).map(worker).collect::<Result<_, _>>().map_err(told)?;
    watched.rest();
    at_once(&mut workers, |worker| worker.work(&volume, ops))?;
    watched.step("emptying the volume");
    let full = workers.iter().map(|worker| worker.full).sum();
    for worker in &mut workers {
        worker.check()?;
        for (number, (handle, _)) in worker.files.drain(..).enumerate() {
            drop(handle);
            volume.remove_file(name(worker.number, number)).map_err(told)?;
        }
    }
    volume.commit().map_err(|error| format!("emptied: {error}"))?;
    // There is room again.
    let fresh = volume.create_file("fresh").map_err(told)?;
    let data = bytes.get(super::op::Fill::Noise(0), 1 << 20);
    fresh.write_at(0, &data).map_err(|error| format!("on an emptied volume: {error}"))?;
    drop(fresh);
    watched.step("closing the volume");
    volume.close().map_err(told)?;
    alone::check(&device)?;
    Ok(Done { ops: ops * THREADS as u64, full, crashes: 0 })
}
