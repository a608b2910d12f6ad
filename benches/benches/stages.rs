//! Throughput of each stage by itself, and of the whole pipeline.
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowback::{Options, Volume};
use cowback_async_cow::policy::Policy;
use cowback_async_cow::{AsyncCow, WorkerPool};
use cowback_base::{Ino, PageIndex, PageRange};
use cowback_benches::{NullStore, mixed};
use cowback_codec::checksum::{ChecksumKind, block_sums};
use cowback_codec::{Compressor, Decompressor, Outcome, looks_compressible, output_limit};
use cowback_extent_io::pages::process_pages_contig;
use cowback_extent_io::{InodeIo, WritebackControl, writepages};
use cowback_page_cache::{Busy, CacheLimits, PageCache, PageOps};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const MIB: usize = 1 << 20;

/// As the `cowback` program does: a page is freed by another thread than made it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn codecs(c: &mut Criterion) {
    let input = mixed(128 * 1024);
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Bytes(input.len() as u64));
    let mut output = vec![0; input.len()];
    for spec in ["zstd:1", "zstd:3", "zstd:9", "zlib:3", "lzo"] {
        let spec: cowback_codec::CompressionSpec = spec.parse().unwrap();
        let mut compressor = Compressor::new();
        let limit = output_limit(input.len());
        group.bench_function(BenchmarkId::new("compress", spec), |b| {
            b.iter(|| compressor.compress(spec, black_box(&input), &mut output[..limit]).unwrap());
        });
        let Outcome::Compressed(len) =
            compressor.compress(spec, &input, &mut output[..limit]).unwrap()
        else {
            panic!("the data compresses");
        };
        let mut stored = output[..len].to_vec();
        stored.resize(len.next_multiple_of(4096), 0);
        let (mut decompressor, mut back) = (Decompressor::new(), vec![0; input.len()]);
        group.bench_function(BenchmarkId::new("decompress", spec), |b| {
            b.iter(|| decompressor.decompress(spec.algorithm(), &stored, &mut back).unwrap());
        });
    }
    for kind in ChecksumKind::ALL {
        let mut sums = Vec::new();
        group.bench_function(BenchmarkId::new("checksum", kind), |b| {
            b.iter(|| {
                sums.clear();
                block_sums(kind, black_box(&input), &mut sums);
            });
        });
    }
    group.bench_function("heuristic", |b| b.iter(|| looks_compressible(black_box(&input))));
    group.finish();
}

fn cache(c: &mut Criterion) {
    let data = mixed(32 * MIB);
    let cache = PageCache::new(CacheLimits::for_budget(256 << 20));
    let all = PageRange::new(PageIndex(0), PageIndex(u64::MAX));
    let mut group = c.benchmark_group("page-cache");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("write new pages", |b| {
        b.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let mapping = cache.mapping(1);
                let start = Instant::now();
                for (number, part) in (0u64..).zip(data.chunks(128 * 1024)) {
                    mapping.write(number * 128 * 1024, part, PageIndex(0), |_| {});
                }
                took += start.elapsed();
                mapping.invalidate(all, |_| {});
            }
            took
        });
    });
    let mapping = cache.mapping(2);
    mapping.write(0, &data, PageIndex(0), |_| {});
    group.bench_function("overwrite cached pages", |b| {
        b.iter(|| mapping.write(0, black_box(&data), PageIndex(0), |_| {}));
    });
    let mut target = vec![0; data.len()];
    group.bench_function("copying hit", |b| b.iter(|| mapping.read(0, black_box(&mut target))));
    group.bench_function("zero-copy hit", |b| {
        b.iter(|| {
            for page in 0..(data.len() / 4096) as u64 {
                black_box(mapping.frame(PageIndex(page)));
            }
        });
    });
    group.bench_function("process_pages_contig", |b| {
        let pages = PageRange::new(PageIndex(0), PageIndex((data.len() / 4096) as u64));
        b.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                mapping.write(0, &data, PageIndex(0), |_| {});
                let run = mapping.lock_contig(pages, Busy::Wait);
                let frames = run.freeze(|_| {});
                let start = Instant::now();
                process_pages_contig(run, None, PageOps::SET_ORDERED | PageOps::SET_WRITEBACK);
                took += start.elapsed();
                mapping.complete(pages, PageOps::CLEAR_ORDERED | PageOps::END_WRITEBACK);
                drop(frames);
            }
            took
        });
    });
    mapping.invalidate(all, |_| {});
    group.finish();
}

fn delalloc(c: &mut Criterion) {
    let data = mixed(64 * MIB);
    let mut group = c.benchmark_group("delalloc to submitted chunks, null device");
    group.throughput(Throughput::Bytes(data.len() as u64)).sample_size(10);
    for compress in ["none", "zstd:1", "zstd:3"] {
        let cache = PageCache::new(CacheLimits::for_budget(512 << 20));
        let compression: cowback_async_cow::CompressionPolicy = compress.parse().unwrap();
        let policy = Policy { file: compression.into(), in_flight_bytes: 32 << 20 };
        let engine = AsyncCow::new(policy, Arc::new(WorkerPool::new(0).unwrap()));
        group.bench_function(compress, |b| {
            b.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    let store = Arc::new(NullStore::default());
                    let inode =
                        InodeIo::new(Ino(257), 0, cache.mapping(257), store, Arc::default());
                    inode.write(0, &data).unwrap();
                    let start = Instant::now();
                    writepages(&inode, &WritebackControl::sync_all(), &engine);
                    inode.wait_writeback();
                    took += start.elapsed();
                }
                took
            });
        });
    }
    group.finish();
}

/// Writes `data` into a fresh volume and syncs it; gives how long that took.
fn write_image(path: &Path, options: &Options, data: &[u8]) -> Duration {
    drop(std::fs::remove_file(path));
    let volume = Volume::create(path, options).unwrap();
    let start = Instant::now();
    let file = volume.create_file("data").unwrap();
    for (number, part) in (0u64..).zip(data.chunks(MIB)) {
        file.write_at(number << 20, part).unwrap();
    }
    file.sync_all().unwrap();
    let took = start.elapsed();
    drop(file);
    volume.close().unwrap();
    took
}

fn pipeline(c: &mut Criterion) {
    let data = mixed(64 * MIB);
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = dir.path().join("bench.img");
    let mut group = c.benchmark_group("whole pipeline over a file");
    group.throughput(Throughput::Bytes(data.len() as u64)).sample_size(10);
    for compress in ["none", "lzo", "zlib:3", "zstd:1", "zstd:3"] {
        let options = Options { compression: compress.parse().unwrap(), ..Options::default() };
        group.bench_function(BenchmarkId::new("write + sync", compress), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| write_image(&path, &options, &data)).sum());
        });
        let mut buffer = vec![0; MIB];
        group.bench_function(BenchmarkId::new("cold read", compress), |b| {
            write_image(&path, &options, &data);
            b.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    let volume = Volume::open(&path, &options).unwrap();
                    let file = volume.open_file("data").unwrap();
                    let start = Instant::now();
                    let mut at = 0;
                    while at < data.len() as u64 {
                        at += file.read_at(at, &mut buffer).unwrap() as u64;
                    }
                    took += start.elapsed();
                }
                took
            });
        });
    }
    group.finish();
}

criterion_group!(benches, codecs, cache, delalloc, pipeline);
criterion_main!(benches);
