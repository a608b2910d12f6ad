//! A log: 4 KiB at the end of a file, made durable, again and again.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use crate::contest::{Contestant, KERNEL, OURS, Outcome, Table, contest};
use crate::contests::{CODEC, Setup};
use crate::latency::{self, Latencies};
use crate::random::{BLOCK, block_of};
use crate::{kernel, ours};

/// Appends in a run.
const APPENDS: u64 = 1000;

pub(crate) fn append(setup: &Setup) -> Outcome<Table> {
    let ours = || {
        let image = ours::Image::new(&setup.dir, CODEC, setup.threads)?;
        let volume = image.create()?;
        let file = volume.create_file("log")?;
        let figures = appends(&setup.stream, |offset, data| {
            file.write_at(offset, data)?;
            Ok(file.sync_data()?)
        })?;
        drop(file);
        volume.close()?;
        Ok(figures)
    };
    let kernel = || {
        let mounted = kernel::Mounted::new(&setup.dir, setup.room(), CODEC, "")?;
        let mut file = File::create(mounted.path().join("log"))?;
        appends(&setup.stream, |_, data| {
            file.write_all(data)?;
            Ok(file.sync_data()?)
        })
    };
    let contestants = vec![Contestant::new(OURS, ours), Contestant::new(KERNEL, kernel)];
    Ok(Table {
        contest: "append",
        title: format!("{APPENDS} times 4 KiB appended and synced, one thread"),
        rows: contest(latency::lines("4 KiB append + sync"), setup.runs, contestants)?,
        notes: vec![
            "`File::sync_data` is a commit; the kernel's `fdatasync` writes its log tree. On tmpfs a flush costs nothing, which a disk would charge both."
                .to_owned(),
        ],
    })
}

fn appends(stream: &[u8], mut append: impl FnMut(u64, &[u8]) -> Outcome<()>) -> Outcome<Vec<f64>> {
    let mut latencies = Latencies::new()?;
    let start = Instant::now();
    for number in 0..APPENDS {
        let offset = number * BLOCK;
        let data = block_of(stream, offset % (stream.len() as u64 / BLOCK * BLOCK));
        latencies.time(|| append(offset, data))?;
    }
    Ok(latencies.figures(start.elapsed()))
}
