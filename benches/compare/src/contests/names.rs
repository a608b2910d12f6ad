//! Files made one after another while another file is made durable, again and again: how long each takes.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use cowback_base::sync::atomic::{AtomicBool, Ordering};

use crate::contest::{Contestant, KERNEL, OURS, Outcome, Table, contest};
use crate::contests::{CODEC, Setup, told};
use crate::latency::{self, Latencies};
use crate::random::{BLOCK, block_of};
use crate::{kernel, ours};

/// Between two files.
const PAUSE: Duration = Duration::from_micros(500);

pub(crate) fn names(setup: &Setup) -> Outcome<Table> {
    let time = Duration::try_from_secs_f64(setup.seconds)?;
    let stream = setup.stream.as_slice();
    let ours = || {
        let image = ours::Image::new(&setup.dir, CODEC, setup.threads)?;
        let volume = image.create()?;
        volume.create_dir("files")?;
        let log = volume.create_file("log")?;
        let make = |number| {
            let made = volume.create_file(format!("files/{number}"));
            made.map(drop).map_err(told)
        };
        let mut offset = 0;
        let append = |data: &[u8]| {
            log.write_at(offset, data).map_err(told)?;
            offset += BLOCK;
            log.sync_data().map_err(told)
        };
        let figures = beside(stream, time, make, append)?;
        drop(log);
        volume.close()?;
        Ok(figures)
    };
    let kernel = || {
        let mounted = kernel::Mounted::new(&setup.dir, setup.room(), CODEC, "")?;
        let dir = mounted.path().join("files");
        std::fs::create_dir(&dir)?;
        let mut log = File::create(mounted.path().join("log"))?;
        let make = |number: u64| {
            let made = File::create_new(dir.join(number.to_string()));
            made.map(drop).map_err(told)
        };
        let append = |data: &[u8]| {
            log.write_all(data).map_err(told)?;
            log.sync_data().map_err(told)
        };
        beside(stream, time, make, append)
    };
    let contestants = vec![Contestant::new(OURS, ours), Contestant::new(KERNEL, kernel)];
    Ok(Table {
        contest: "names",
        title: format!(
            "Files made while another thread appends and syncs, for {} s",
            setup.seconds
        ),
        rows: contest(latency::lines("file made beside syncs"), setup.runs, contestants)?,
        notes: vec![format!(
            "One thread makes empty files, with pauses of {} us; the other appends 4 KiB to a file and syncs it, without a pause.",
            PAUSE.as_micros()
        )],
    })
}

/// Calls `make` with one number after another for `time`, while another thread calls `append`.
fn beside(
    stream: &[u8],
    time: Duration,
    make: impl Fn(u64) -> Result<(), String>,
    mut append: impl FnMut(&[u8]) -> Result<(), String> + Send,
) -> Outcome<Vec<f64>> {
    let stop = AtomicBool::new(false);
    let mut latencies = Latencies::new()?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let stop = &stop;
        let blocks = stream.len() as u64 / BLOCK;
        let syncer = scope.spawn(move || -> Result<(), String> {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                append(block_of(stream, number % blocks * BLOCK))?;
            }
            Ok(())
        });
        let mut made = Ok(());
        for number in 0.. {
            if made.is_err() || start.elapsed() >= time {
                break;
            }
            made = latencies.time(|| make(number));
            std::thread::sleep(PAUSE);
        }
        stop.store(true, Ordering::Relaxed);
        syncer.join().map_err(|_| "the one who syncs panicked")??;
        Outcome::Ok(made?)
    })?;
    Ok(latencies.figures(start.elapsed()))
}
