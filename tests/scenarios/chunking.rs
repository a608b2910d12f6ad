//! Row "chunking": lengths around those of a block, a chunk, a run and the largest extent.

use crate::bench::{BLOCK, Bench, KIB, POOLS, noise, text};

const CHUNK: usize = 512 * KIB;

#[test]
fn files_of_a_block_and_around_a_chunk_come_back_with_every_pool() {
    for threads in POOLS {
        for compression in ["none", "zstd:1", "lzo"] {
            for len in [BLOCK, CHUNK - BLOCK, CHUNK, CHUNK + BLOCK, 2 * CHUNK, 2 * CHUNK + 1] {
                let bench = Bench::new(compression, threads);
                let content = text(len, 1);
                let file = bench.volume.create_file("f").unwrap();
                file.write_at(0, &content).unwrap();
                let extents = file.extents().unwrap();
                let covered: u64 = extents.iter().map(|e| e.range.end - e.range.start).sum();
                assert_eq!(covered, len as u64, "{compression} {len}");
                let most = if compression == "none" { 8 << 20 } else { 128 << 10 };
                assert!(extents.iter().all(|e| e.unpacked <= most), "{compression} {len} (law B3)");
                drop(file);
                bench.settle("f", &content);
            }
        }
    }
}

#[test]
fn a_file_of_128_mib_and_a_block_is_cut_the_same_way_with_every_pool() {
    const LEN: u64 = (128 << 20) + BLOCK as u64;
    let part = text(1 << 20, 2);
    let mut first = None;
    for threads in POOLS {
        let mut options = crate::bench::options("zstd:1", threads);
        options.cache_bytes = 32 << 20;
        let bench = Bench::with(options);
        let file = bench.volume.create_file("f").unwrap();
        for at in (0..128).map(|mib| mib << 20) {
            file.write_at(at, &part).unwrap();
        }
        file.write_at(128 << 20, &part[..BLOCK]).unwrap();
        let extents = file.extents().unwrap();
        assert_eq!(extents.len(), 1025, "1024 of 128 KiB, and one of a block");
        assert_eq!(extents.last().unwrap().range, LEN - BLOCK as u64..LEN);
        let places: Vec<_> = extents.iter().map(|e| (e.range.start, e.disk, e.stored)).collect();
        assert_eq!(places, *first.get_or_insert_with(|| places.clone()), "law R3");
        let mut bytes = vec![0; part.len()];
        for at in (0..129u64).map(|mib| mib << 20) {
            let n = file.read_at(at, &mut bytes).unwrap();
            assert!(n == bytes.len() || at == 128 << 20, "{n} bytes at {at}");
            assert!(bytes[..n] == part[..n], "at {at}");
        }
        drop(file);
        bench.volume.close().unwrap();
    }
}

#[test]
fn one_run_that_is_longer_than_any_may_be_is_stored_in_order() {
    // Above the largest run (8 MiB): it is cut, and the parts follow one another on disk.
    let bench = Bench::new("none", 2);
    let content = noise((8 << 20) + BLOCK, 3);
    let file = bench.volume.create_file("f").unwrap();
    file.write_at(0, &content).unwrap();
    let extents = file.extents().unwrap();
    let ends: Vec<_> = extents.iter().map(|extent| extent.range.end).collect();
    assert_eq!(ends, [8 << 20, (8 << 20) + BLOCK as u64]);
    drop(file);
    bench.settle("f", &content);
}
