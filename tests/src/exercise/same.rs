//! Law R3 under random operations: the image that they leave is the same, byte for byte, whatever the number of threads.

use std::sync::Arc;

use cowback::device::{BlockDevice, MemoryDevice};
use cowback_testkit::random::{Rng, to_usize};

use super::alone::{self, Done, Setup};
use super::op::{Bytes, Op};
use super::place::{first_difference, what_lies_at};

/// The numbers of threads whose images are compared.
pub const THREADS: [usize; 4] = [1, 2, 3, 8];

/// The setup of a seed: as [`Setup::of`], on a small device of fixed size for one seed and on one that grows for the next. A small cache makes
/// writeback begin often.
#[must_use]
pub fn setup(seed: u64) -> Setup {
    let mut rng = Rng::new(seed).fork(4);
    let mut setup = Setup::of(seed);
    setup.options.cache_bytes = *rng.pick(&[1 << 20, 1 << 20, 2 << 20]);
    setup.shape.large_every = *rng.pick(&[4, 10, 40]);
    setup.shape.commit_every = *rng.pick(&[15, 40]);
    setup.device = 0;
    setup.options.size = seed.is_multiple_of(2).then(|| {
        setup.shape.offset_max = *rng.pick(&[300_000, 1_200_000, 4_500_000]);
        setup.shape.noise = *rng.pick(&[20, 90]);
        *rng.pick(&[9 << 20, 12 << 20, 18 << 20])
    });
    setup
}

/// The first `count` operations of a seed. How far what was under way has come when a volume is dropped is nobody's promise: it is closed instead.
fn ops(setup: &Setup, seed: u64, count: usize) -> Vec<Op> {
    let closed = |op| if op == Op::Crash { Op::Reopen { cache: 1 } } else { op };
    setup.ops(seed, count).into_iter().map(closed).collect()
}

/// Runs the first `count` operations of `seed` with each number of threads, and compares the images. Gives what was done in all.
///
/// # Errors
/// What is wrong, and the seed. For images that differ: where, and what lies there.
pub fn run_seed(seed: u64, count: usize, bytes: &Bytes) -> Result<Done, String> {
    let setup = setup(seed);
    let ops = ops(&setup, seed, count);
    let mut first: Option<Arc<MemoryDevice>> = None;
    let mut all = Done::default();
    for threads in THREADS {
        let mut setup = setup.clone();
        setup.options.threads = threads;
        let device = alone::run(&setup, &ops, bytes);
        let (device, done) =
            device.map_err(|why| format!("seed {seed}, {threads} threads: {why}\n{setup:?}"))?;
        all.ops += done.ops;
        all.full += done.full;
        match &first {
            None => first = Some(device),
            Some(one) => same_image(one, &device).map_err(|why| {
                format!("seed {seed}, images of 1 and {threads} threads (R3): {why}\n{setup:?}")
            })?,
        }
    }
    Ok(all)
}

/// Whether two devices hold the same bytes.
///
/// # Errors
/// The lengths, or the first place where they differ, and what lies there.
pub fn same_image(one: &MemoryDevice, other: &MemoryDevice) -> Result<(), String> {
    let len = |device: &MemoryDevice| device.len().map_err(|error| error.to_string());
    let (end, other_end) = (len(one)?, len(other)?);
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < end.min(other_end) {
        let part = to_usize((end.min(other_end) - at).min(1 << 20));
        one.read_at(at, &mut a[..part]).map_err(|error| error.to_string())?;
        other.read_at(at, &mut b[..part]).map_err(|error| error.to_string())?;
        if a[..part] != b[..part] {
            let first = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(0);
            let place = at + first as u64;
            return Err(format!(
                "they differ from byte {place} on: {}, and {}; {}",
                what_lies_at(one, place),
                what_lies_at(other, place),
                first_difference(one, other, place)
            ));
        }
        at += part as u64;
    }
    if end == other_end { Ok(()) } else { Err(format!("{end} and {other_end} bytes")) }
}
