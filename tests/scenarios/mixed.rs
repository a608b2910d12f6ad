//! Row "mixed content": each 128 KiB is decided by itself, whatever is beside it. The boundary sets of the heuristic are tested where it is
//! (`codec::heuristic`).

use cowback::Extent;
use cowback::options::CompressionPolicy;
use cowback_testkit::corpus::Content;

use crate::bench::{Bench, KIB, POOLS, noise, options, text};

/// Codecs by 128 KiB: `true` is compressed.
fn compressed(extents: &[Extent], pieces: u64) -> Vec<bool> {
    let piece = |number: u64| {
        let at = number * (128 << 10);
        extents.iter().find(|extent| extent.range.contains(&at)).unwrap().codec == "zstd"
    };
    (0..pieces).map(piece).collect()
}

fn check(content: &[u8], expected: &[bool]) {
    for threads in POOLS {
        let bench = Bench::new("zstd:1", threads);
        let file = bench.volume.create_file("f").unwrap();
        file.write_at(0, content).unwrap();
        assert_eq!(compressed(&file.extents().unwrap(), expected.len() as u64), expected);
        drop(file);
        bench.settle("f", content);
    }
}

#[test]
fn text_and_noise_that_alternate_every_128_kib_are_told_apart() {
    let content = Content::Alternating { seed: 5, period: 128 << 10 }.bytes(0, 1024 * KIB);
    let first = compresses(&content[..128 * KIB]);
    check(&content, &[first, !first, first, !first, first, !first, first, !first]);
}

#[test]
fn text_and_noise_that_alternate_every_512_kib_are_told_apart() {
    let content = Content::Alternating { seed: 5, period: 512 << 10 }.bytes(0, 1024 * KIB);
    let first = compresses(&content[..512 * KIB]);
    check(&content, &[first, first, first, first, !first, !first, !first, !first]);
}

/// Whether it is the text: few different bytes.
fn compresses(part: &[u8]) -> bool {
    let mut seen = [false; 256];
    part.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    seen.iter().filter(|seen| **seen).count() < 128
}

#[test]
fn a_good_beginning_is_compressed_and_the_bad_rest_of_its_chunk_is_raw() {
    let content = [text(128 * KIB, 1), noise(384 * KIB, 2)].concat();
    check(&content, &[true, false, false, false]);
    let content = [noise(384 * KIB, 2), text(128 * KIB, 1)].concat();
    check(&content, &[false, false, false, true]);
}

#[test]
fn zeros_that_were_written_are_data_and_nearly_nothing() {
    let content = vec![0; 1024 * KIB];
    check(&content, &[true; 8]);
    let bench = Bench::new("zstd:1", 1);
    let file = bench.volume.create_file("f").unwrap();
    file.write_at(0, &content).unwrap();
    let extents = file.extents().unwrap();
    assert!(extents.iter().all(|extent| extent.stored == 4096), "a block for each 128 KiB");
    let whole = 0..1024 << 10;
    assert_eq!(file.data_ranges().unwrap(), std::slice::from_ref(&whole), "no hole");
}

#[test]
fn noise_is_raw_even_if_compression_is_forced() {
    let content = noise(1024 * KIB, 9);
    for threads in POOLS {
        let mut options = options("zstd:1", threads);
        options.compression = "zstd:1".parse::<CompressionPolicy>().unwrap().forced();
        let bench = Bench::with(options);
        let file = bench.volume.create_file("f").unwrap();
        file.write_at(0, &content).unwrap();
        assert!(file.extents().unwrap().iter().all(|extent| extent.codec == "none"), "law B3");
        drop(file);
        bench.settle("f", &content);
    }
}
