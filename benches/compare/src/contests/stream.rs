//! Bulk: a stream into one file and back.

use crate::contest::{Contestant, KERNEL, LIMIT, Line, OURS, Outcome, Row, Table, contest};
use crate::contests::{CODEC, Setup, rate};
use crate::{kernel, ours, raw};

pub(crate) const THREADS: &str = "threads";

/// Writing a stream into one file and syncing it, with each codec.
pub(crate) fn write(setup: &Setup) -> Outcome<Table> {
    let mut rows = Vec::new();
    for compress in &setup.compress {
        let work = format!("stream write + sync, {compress}");
        rows.extend(write_with(setup, work, compress, setup.threads, "")?);
    }
    Ok(Table {
        contest: "stream",
        title: format!("Stream of {} MiB of mixed files, and sync", setup.bytes() >> 20),
        rows,
        notes: Vec::new(),
    })
}

/// The same by the number of threads.
pub(crate) fn threads(setup: &Setup) -> Outcome<Table> {
    let all = std::thread::available_parallelism()?.get();
    let mut counts = vec![1, 2, all];
    counts.dedup();
    counts.retain(|&threads| threads <= all);
    let mut rows = Vec::new();
    for compress in &setup.compress {
        for &threads in &counts {
            let plural = if threads == 1 { "" } else { "s" };
            let work = format!("{compress}, {threads} thread{plural}");
            let options = format!(",thread_pool={threads}");
            rows.extend(write_with(setup, work, compress, threads, &options)?);
        }
    }
    let note = "The kernel's workers are limited by `thread_pool`; what else it does runs wherever it likes.";
    Ok(Table {
        contest: THREADS,
        title: "Stream write + sync, by threads".to_owned(),
        rows,
        notes: vec![note.to_owned()],
    })
}

fn write_with(
    setup: &Setup,
    work: String,
    compress: &str,
    threads: usize,
    mount_options: &str,
) -> Outcome<Vec<Row>> {
    let (dir, stream, bytes) = (&setup.dir, setup.stream.as_slice(), setup.bytes());
    let mut contestants = vec![
        Contestant::new(OURS, || {
            let took = ours::Image::new(dir, compress, threads)?.write(stream)?;
            Ok(vec![rate(bytes, took)])
        }),
        Contestant::new(KERNEL, || {
            let mounted = kernel::Mounted::new(dir, setup.room(), compress, mount_options)?;
            Ok(vec![rate(bytes, mounted.write(stream)?)])
        }),
    ];
    if compress != "none" {
        let limit = || Ok(vec![rate(bytes, raw::compress(stream, compress, threads)?)]);
        contestants.push(Contestant::new(LIMIT, limit));
    }
    contest(vec![Line::higher(work, "MiB/s")], setup.runs, contestants)
}

/// Reading such a file, with nothing of it in memory.
pub(crate) fn read(setup: &Setup) -> Outcome<Table> {
    let mut rows = read_with(setup, CODEC)?;
    rows.extend(read_with(setup, "none")?);
    Ok(Table {
        contest: "read",
        title: format!("Cold sequential read of {} MiB", setup.bytes() >> 20),
        rows,
        notes: Vec::new(),
    })
}

fn read_with(setup: &Setup, compress: &str) -> Outcome<Vec<Row>> {
    let (stream, bytes) = (setup.stream.as_slice(), setup.bytes());
    let image = ours::Image::new(&setup.dir, compress, setup.threads)?;
    image.write(stream)?;
    image.verify(stream)?;
    let mounted = kernel::Mounted::new(&setup.dir, setup.room(), compress, "")?;
    mounted.write(stream)?;
    let (mut buffer, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut contestants = vec![
        Contestant::new(OURS, || Ok(vec![rate(bytes, image.read_cold(&mut buffer, bytes)?)])),
        Contestant::new(KERNEL, || Ok(vec![rate(bytes, mounted.read_cold(&mut other, bytes)?)])),
    ];
    if compress != "none" {
        let packed = raw::Packed::new(stream, compress, setup.threads)?;
        let limit = move || Ok(vec![rate(bytes, packed.decompress()?)]);
        contestants.push(Contestant::new(LIMIT, limit));
    }
    let line = Line::higher(format!("cold sequential read, {compress}"), "MiB/s");
    contest(vec![line], setup.runs, contestants)
}
