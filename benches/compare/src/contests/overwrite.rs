//! 4 KiB overwrites at random in a file that is in memory, while it is written back: how long each takes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use cowback_base::sync::atomic::{AtomicBool, Ordering};

use crate::contest::{Contestant, KERNEL, OURS, Outcome, Table, contest};
use crate::contests::{CODEC, Setup, told};
use crate::latency::{self, Latencies};
use crate::random::{Random, block_of};
use crate::{kernel, ours};

/// Threads that write.
const WRITERS: u64 = 2;
/// Between two commits.
const PAUSE: Duration = Duration::from_millis(100);

/// What a thread may fail with.
type Sent<T> = Result<T, String>;

pub(crate) fn overwrite(setup: &Setup) -> Outcome<Table> {
    let time = Duration::try_from_secs_f64(setup.seconds)?;
    let stream = setup.stream.as_slice();
    let ours = || {
        let image = ours::Image::new(&setup.dir, CODEC, setup.threads)?;
        let image = image.with_cache(setup.ample_cache());
        let volume = image.create()?;
        let file = ours::cached(&volume, stream)?;
        let write = |offset, data: &[u8]| file.write_at(offset, data).map_err(told);
        let commit = || volume.commit().map(drop).map_err(told);
        let figures = hammer(stream, time, &write, &commit)?;
        drop(file);
        volume.close()?;
        Ok(figures)
    };
    let kernel = || {
        let mounted = kernel::Mounted::new(&setup.dir, setup.room(), CODEC, "")?;
        mounted.write(stream)?;
        let file = File::options().read(true).write(true).open(mounted.stream())?;
        let write = |offset, data: &[u8]| file.write_all_at(data, offset).map_err(told);
        let commit = || rustix::fs::syncfs(&file).map_err(told);
        let figures = hammer(stream, time, &write, &commit)?;
        drop(file);
        Ok(figures)
    };
    let work = format!("4 KiB random overwrite, {WRITERS} threads");
    let contestants = vec![Contestant::new(OURS, ours), Contestant::new(KERNEL, kernel)];
    Ok(Table {
        contest: "overwrite",
        title: format!(
            "Random overwrites of a cached file of {} MiB during writeback, for {} s",
            stream.len() >> 20,
            setup.seconds
        ),
        rows: contest(latency::lines(&work), setup.runs, contestants)?,
        notes: vec![format!(
            "A third thread commits, with pauses of {} ms: `Volume::commit`, and for the kernel `syncfs`. The writers write as fast as they can.",
            PAUSE.as_millis()
        )],
    })
}

/// Overwrites random blocks for `time` from [`WRITERS`] threads, with a third that commits.
fn hammer(
    stream: &[u8],
    time: Duration,
    write: &(dyn Fn(u64, &[u8]) -> Sent<()> + Sync),
    commit: &(dyn Fn() -> Sent<()> + Sync),
) -> Outcome<Vec<f64>> {
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let (stop, bytes) = (&stop, stream.len() as u64);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || -> Sent<Latencies> {
                    let mut random = Random::new(writer);
                    let mut latencies = Latencies::new().map_err(told)?;
                    while !stop.load(Ordering::Relaxed) {
                        let (to, from) = (random.block(bytes), random.block(bytes));
                        let data = block_of(stream, from);
                        latencies.time(|| write(to, data))?;
                    }
                    Ok(latencies)
                })
            })
            .collect();
        let flusher = scope.spawn(move || -> Sent<()> {
            while !stop.load(Ordering::Relaxed) {
                commit()?;
                std::thread::sleep(PAUSE);
            }
            Ok(())
        });
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let mut all = Latencies::new()?;
        for writer in writers {
            all.add(&writer.join().map_err(|_| "a writer panicked")??)?;
        }
        // The time that counts ends with the last write, not with the last commit.
        let took = start.elapsed();
        flusher.join().map_err(|_| "the flusher panicked")??;
        Outcome::Ok(all.figures(took))
    })?;
    Ok(latencies)
}
