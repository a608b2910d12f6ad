//! 4 KiB reads at random from a file that is in memory, by one thread.

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use crate::contest::{Contestant, KERNEL, Line, OURS, Outcome, Table, contest};
use crate::contests::{CODEC, Setup};
use crate::random::{BLOCK, Random};
use crate::{kernel, ours};

/// Reads in a run.
const READS: u32 = 500_000;

pub(crate) fn random_read(setup: &Setup) -> Outcome<Table> {
    let bytes = setup.bytes();
    let image = ours::Image::new(&setup.dir, CODEC, setup.threads)?.with_cache(setup.ample_cache());
    let volume = image.create()?;
    let file = ours::cached(&volume, &setup.stream)?;
    let mounted = kernel::Mounted::new(&setup.dir, setup.room(), CODEC, "")?;
    mounted.write(&setup.stream)?;
    let theirs = cached(&mounted)?;

    let mut buffer = [0; 4096];
    let ours = || {
        let shared = reads_a_second(bytes, |offset| {
            let block = file.read_block(offset)?;
            black_box(block.first());
            Ok(block.len())
        })?;
        let copied = reads_a_second(bytes, |offset| Ok(file.read_at(offset, &mut buffer)?))?;
        Ok(vec![shared, copied])
    };
    let mut other = [0; 4096];
    let mut pread = || reads_a_second(bytes, |offset| Ok(theirs.read_at(&mut other, offset)?));
    let kernel = || Ok(vec![pread()?, pread()?]);

    let lines = vec![
        Line::higher("4 KiB cached random reads, zero copy (`File::read_block`)", "reads/s"),
        Line::higher("4 KiB cached random reads, copying (`File::read_at`)", "reads/s"),
    ];
    let contestants = vec![Contestant::new(OURS, ours), Contestant::new(KERNEL, kernel)];
    let rows = contest(lines, setup.runs, contestants)?;
    drop(file);
    volume.close()?;
    Ok(Table {
        contest: "random-read",
        title: format!("Random reads of a cached file of {} MiB, one thread", bytes >> 20),
        rows,
        notes: vec![
            "The kernel: `pread` of a file in its page cache, in both lines. The zero-copy read touches one byte of each block."
                .to_owned(),
        ],
    })
}

/// The kernel's file, all of it in its page cache.
fn cached(mounted: &kernel::Mounted) -> Outcome<File> {
    let mut buffer = vec![0; 1 << 20];
    let mut file = File::open(mounted.stream())?;
    while file.read(&mut buffer)? > 0 {}
    Ok(file)
}

fn reads_a_second(bytes: u64, mut read: impl FnMut(u64) -> Outcome<usize>) -> Outcome<f64> {
    let mut random = Random::new(1);
    let start = Instant::now();
    for _ in 0..READS {
        let n = read(random.block(bytes))?;
        if n as u64 != BLOCK {
            return Err(format!("read {n} bytes").into());
        }
    }
    Ok(f64::from(READS) / start.elapsed().as_secs_f64())
}
