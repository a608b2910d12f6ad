//! Row "inline": small files that lie in the file tree, and how they leave it.

use crate::bench::{BLOCK, Bench, POOLS, noise, text};

#[test]
fn files_of_every_size_up_to_a_block_are_inline_as_far_as_they_may_be() {
    // As stored: at most 2048 bytes, and less than a block when unpacked.
    let sizes = [0, 1, 2047, 2048, 2049, BLOCK - 1, BLOCK];
    for threads in POOLS {
        for (compression, inline_up_to) in [("none", 2048), ("zstd:3", BLOCK - 1)] {
            for size in sizes {
                let bench = Bench::new(compression, threads);
                let content = text(size, 1);
                let file = bench.volume.create_file("f").unwrap();
                file.write_at(0, &content).unwrap();
                let inline: Vec<_> =
                    file.extents().unwrap().iter().map(|extent| extent.disk.is_none()).collect();
                let expected = if size == 0 { vec![] } else { vec![size <= inline_up_to] };
                assert_eq!(inline, expected, "{compression} {size}");
                drop(file);
                bench.settle("f", &content);
            }
        }
    }
}

#[test]
fn noise_of_more_than_2048_bytes_is_not_inline_though_it_is_tried() {
    for size in [2048, 2049] {
        let bench = Bench::new("zstd:3", 1);
        let content = noise(size, 1);
        let file = bench.volume.create_file("f").unwrap();
        file.write_at(0, &content).unwrap();
        assert_eq!(file.extents().unwrap()[0].disk.is_none(), size == 2048);
        drop(file);
        bench.settle("f", &content);
    }
}

#[test]
fn a_file_grows_out_of_its_inline_extent_in_every_way() {
    // Within the block, by a write behind it, by a truncate, and by a write far behind.
    type Grow = fn(&cowback::File, &mut Vec<u8>);
    let ways: [Grow; 4] = [
        |file, content| {
            file.write_at(1000, &[3; 2000]).unwrap();
            content.resize(3000, 3);
        },
        |file, content| {
            file.write_at(1000, &[3; 9000]).unwrap();
            content.resize(10_000, 3);
        },
        |file, content| {
            file.set_len(20_000).unwrap();
            content.resize(20_000, 0);
        },
        |file, content| {
            file.write_at(50_000, &[4; 10]).unwrap();
            content.resize(50_000, 0);
            content.resize(50_010, 4);
        },
    ];
    for grow in ways {
        for synced in [false, true] {
            let bench = Bench::new("none", 2);
            let mut content = vec![1; 1000];
            let file = bench.volume.create_file("f").unwrap();
            file.write_at(0, &content).unwrap();
            if synced {
                file.sync_data().unwrap();
                assert!(file.extents().unwrap()[0].disk.is_none());
            }
            grow(&file, &mut content);
            assert!(file.extents().unwrap().iter().all(|extent| extent.disk.is_some()));
            drop(file);
            bench.settle("f", &content);
        }
    }
}

#[test]
fn a_second_write_while_the_inline_extent_is_under_way_is_kept() {
    let bench = Bench::new("none", 1);
    let file = bench.volume.create_file("f").unwrap();
    file.write_at(0, &[1; 1000]).unwrap();
    // The one worker is busy, so the small file stays where it is: frozen, and not yet inline.
    let occupiers = bench.occupy(1);
    file.start_writeback();
    assert_eq!(bench.volume.stats().queued_chunks, 1);
    file.write_at(500, &[2; 1000]).unwrap();
    bench.device.open();
    drop((occupiers, file));
    let mut content = vec![1; 500];
    content.resize(1500, 2);
    bench.settle("f", &content);
}

#[test]
fn what_is_read_of_an_inline_file_is_its_last_version() {
    for threads in POOLS {
        let bench = Bench::new("zstd:3", threads);
        let file = bench.volume.create_file("f").unwrap();
        file.set_cache_policy(cowback::CachePolicy::Uncached);
        let mut found = [0; 100];
        for byte in [1, 2, 3] {
            file.write_at(0, &[byte; 100]).unwrap();
            bench.volume.commit().unwrap();
            for _ in 0..2 {
                assert_eq!(file.read_at(0, &mut found).unwrap(), 100);
                assert_eq!(found, [byte; 100], "not what was cached or known before");
            }
        }
    }
}
