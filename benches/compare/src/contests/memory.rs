//! Memory beside the cache budget, each figure from a fresh process.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use cowback::{Options, Volume};

use crate::contest::{Contestant, Line, OURS, Outcome, Row, Table, contest};
use crate::contests::pack::{Output, pack_command};
use crate::contests::{CODEC, Setup, mib};
use crate::{ours, process};

/// Cache budgets, in MiB.
const BUDGETS: [u64; 2] = [64, 256];

/// Bytes of a file whose extents and checksums are in another leaf than those of the bytes before.
const STEP: u64 = 4 << 20;

pub(crate) fn memory(setup: &Setup) -> Outcome<Table> {
    let source = Output::new(setup, "stream");
    std::fs::write(&source.0, &setup.stream)?;
    let mut rows = Vec::new();
    for budget in BUDGETS {
        rows.extend(stream(setup, &source.0, budget << 20)?);
        rows.extend(pack(setup, budget << 20)?);
    }
    rows.extend(bookkeeping(setup)?);
    Ok(Table {
        contest: "memory",
        title: "Memory beside the cache budget".to_owned(),
        rows,
        notes: vec![
            "Peak resident memory of the process less the budget: the program, its threads' stacks, codec contexts, buffers, metadata and what the \
             allocator holds. Negative if the cache never filled."
                .to_owned(),
            "Bookkeeping: growth of resident memory while clean pages fill the cache, for each page, less its 4096 bytes."
                .to_owned(),
        ],
    })
}

fn alone<'a>(
    work: String,
    unit: &'static str,
    setup: &Setup,
    turn: impl FnMut() -> Outcome<Vec<f64>> + 'a,
) -> Outcome<Vec<Row>> {
    contest(vec![Line::lower(work, unit)], setup.runs, vec![Contestant::new(OURS, turn)])
}

fn beside(peak: u64, budget: u64) -> f64 {
    mib(peak) - mib(budget)
}

fn stream(setup: &Setup, source: &Path, budget: u64) -> Outcome<Vec<Row>> {
    let (of, cache) = (setup.bytes() >> 20, budget >> 20);
    let work = format!("streaming write of {of} MiB, {CODEC}, budget {cache} MiB: peak beside it");
    alone(work, "MiB", setup, || {
        let image = ours::Image::new(&setup.dir, CODEC, setup.threads)?;
        let mut args: Vec<OsString> = vec![image.path().into(), source.into()];
        args.extend([budget.to_string().into(), setup.threads.to_string().into()]);
        Ok(vec![beside(process::child("stream", args)?, budget)])
    })
}

fn pack(setup: &Setup, budget: u64) -> Outcome<Vec<Row>> {
    let cache = budget >> 20;
    let work = format!("`pack` of the tree, budget {cache} MiB: peak beside it");
    alone(work, "MiB", setup, || {
        let image = Output::new(setup, "pack.img");
        let command = pack_command(setup, &image.0, &[&format!("--cache={cache}M")]);
        Ok(vec![beside(process::run(command)?.peak_bytes, budget)])
    })
}

fn bookkeeping(setup: &Setup) -> Outcome<Vec<Row>> {
    let image = ours::Image::new(&setup.dir, CODEC, setup.threads)?;
    image.write(&setup.stream)?;
    alone("bookkeeping of a clean cached page".to_owned(), "bytes", setup, || {
        let mut args: Vec<OsString> = vec![image.path().into()];
        args.extend([setup.ample_cache().to_string().into(), setup.threads.to_string().into()]);
        Ok(vec![process::child("cached", args)?])
    })
}

fn with_cache(cache: u64, threads: usize) -> Outcome<Options> {
    Ok(Options { cache_bytes: cache, ..ours::options(CODEC, threads)? })
}

/// In a child: writes the file `source` into a fresh image through a small buffer. Gives the peak of resident bytes.
pub(crate) fn write_stream(
    image: &Path,
    source: &Path,
    cache: u64,
    threads: usize,
) -> Outcome<u64> {
    let mut source = File::open(source)?;
    let volume = Volume::create(image, &with_cache(cache, threads)?)?;
    let file = volume.create_file("stream")?;
    let (mut buffer, mut at) = (vec![0; 1 << 20], 0);
    loop {
        match source.read(&mut buffer)? {
            0 => break,
            n => {
                file.write_at(at, &buffer[..n])?;
                at += n as u64;
            }
        }
    }
    file.sync_all()?;
    drop(file);
    volume.close()?;
    process::peak()
}

/// In a child: fills the cache with the file of `image`. Gives by how many bytes resident memory grew for each page, less its content.
///
/// A block here and there comes first, and then an eighth of the file: so the tree blocks that tell where the file's extents are, and their
/// checksums, are in memory before, which belong to the file and not to its pages; and all buffers are warm.
pub(crate) fn fill_cache(image: &Path, cache: u64, threads: usize) -> Outcome<f64> {
    let volume = Volume::open(image, &with_cache(cache, threads)?)?;
    let file = volume.open_file("stream")?;
    let mut buffer = vec![0; 1 << 20];
    // From the end, as nothing is read ahead then.
    for step in (0..file.len() / STEP).rev() {
        file.read_at(step * STEP, &mut buffer[..4096])?;
    }
    let mut at = 0;
    let mut read_to = |end: u64| -> Outcome<(f64, f64)> {
        while at < end {
            at += file.read_at(at, &mut buffer)? as u64;
        }
        Ok((process::resident()? as f64, volume.stats().cached_bytes as f64))
    };
    let (resident, cached) = read_to(file.len() / 8)?;
    let (resident_after, cached_after) = read_to(file.len())?;
    let pages = (cached_after - cached) / 4096.0;
    if cached_after < file.len() as f64 {
        return Err("the cache did not keep the file".into());
    }
    if cached > file.len() as f64 / 4.0 {
        return Err("the cache is warm before the figure is taken".into());
    }
    Ok((resident_after - resident) / pages - 4096.0)
}
