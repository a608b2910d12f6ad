//! Cached reads of 4 KiB at random places, alone and beside a thread that writes to the same file.
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

use cowback::{File, Options, Volume};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const MIB: usize = 1 << 20;
/// Size of the file, all of which is in the cache.
const FILE: usize = 128 * MIB;
const PAGES: u64 = (FILE / 4096) as u64;

/// Pages in no order, cheaply.
struct Places(u64);

impl Places {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % PAGES * 4096
    }
}

fn hits(c: &mut Criterion, name: &str, file: &File) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    let mut places = Places(88_172_645_463_325_252);
    group.bench_function("zero-copy", |b| {
        b.iter(|| black_box(file.read_block(places.next()).unwrap()));
    });
    let mut block = [0; 4096];
    group.bench_function("copying", |b| {
        b.iter(|| file.read_at(places.next(), black_box(&mut block)).unwrap());
    });
    group.finish();
}

fn lookup(c: &mut Criterion) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let options =
        Options { cache_bytes: 4 * FILE as u64, commit_interval: None, ..Options::default() };
    let volume = Volume::create(dir.path().join("bench.img"), &options).unwrap();
    let file = volume.create_file("data").unwrap();
    let data = cowback_benches::mixed(MIB);
    for part in 0..FILE / MIB {
        file.write_at((part * MIB) as u64, &data).unwrap();
    }
    file.sync_all().unwrap();
    hits(c, "random cached reads", &file);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let writer = file.clone();
            let mut places = Places(1);
            while !done.load(Ordering::Relaxed) {
                writer.write_at(places.next(), &data[..4096]).unwrap();
            }
        });
        hits(c, "random cached reads beside a writer", &file);
        done.store(true, Ordering::Relaxed);
    });
    drop(file);
    volume.close().unwrap();
}

criterion_group!(benches, lookup);
criterion_main!(benches);
