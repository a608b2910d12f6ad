//! Each verdict at its bounds.

use super::*;
use crate::tests::Noise;

/// A sample in which value `n` occurs `counts[n]` times, shuffled so that its halves differ.
fn sample(counts: &[usize]) -> Vec<u8> {
    let mut bytes: Vec<u8> = counts
        .iter()
        .zip(0u8..=255)
        .flat_map(|(&count, value)| std::iter::repeat_n(value, count))
        .collect();
    let mut noise = Noise::new(1);
    for i in (1..bytes.len()).rev() {
        bytes.swap(i, noise.below(i + 1));
    }
    bytes
}

/// 128 KiB whose sample is `sample`, with bytes in between that must not matter.
fn spread(sample: &[u8]) -> Vec<u8> {
    let mut data = vec![0; sample.len() / PIECE * INTERVAL];
    Noise::new(2).fill(&mut data);
    for (place, piece) in data.chunks_mut(INTERVAL).zip(sample.chunks(PIECE)) {
        place[..piece.len()].copy_from_slice(piece);
    }
    data
}

#[test]
fn sixty_four_values_are_no_longer_a_small_set() {
    for (values, verdict) in
        [(63, Verdict::SmallByteSet), (64, Verdict::SmallCoreSet), (65, Verdict::SmallCoreSet)]
    {
        let mut counts = vec![8192 / values; values];
        counts[0] += 8192 % values;
        let sample = sample(&counts);
        assert_eq!(judge(&sample), verdict, "{values}");
        assert_eq!(looks_compressible(&spread(&sample)), verdict, "{values}");
    }
}

/// Counts such that exactly `core` values make up more than 90 % of about 8 KiB, all alike, and the rest are rare.
fn core_counts(core: usize) -> Vec<usize> {
    let frequent = 8192 * 95 / 100 / core;
    let mut counts = vec![frequent; core];
    let mut rest = 256 - core;
    // The last value of the core must be needed: 90 % lies between core - 1 and core of them.
    let total = (frequent * core * 100).div_ceil(90) - frequent * 100 / 180;
    let mut left = total - frequent * core;
    while rest > 0 {
        counts.push(left / rest);
        left -= left / rest;
        rest -= 1;
    }
    counts
}

#[test]
fn the_core_set_decides_at_64_and_at_200() {
    for (core, expected) in [(64, 1), (65, 0), (199, 0), (200, 2)] {
        let counts = core_counts(core);
        let mut sorted = [0; 256];
        for (slot, &count) in sorted.iter_mut().zip(&counts) {
            *slot = u32::try_from(count).unwrap();
        }
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(core_set(&sorted), core);
        let verdict = judge(&sample(&counts));
        match expected {
            1 => assert_eq!(verdict, Verdict::SmallCoreSet, "{core}"),
            2 => assert_eq!(verdict, Verdict::Noise, "{core}"),
            _ => assert!(
                !matches!(verdict, Verdict::SmallCoreSet | Verdict::Noise),
                "{core}: {verdict:?}"
            ),
        }
    }
}

/// `core_set` over 100 bytes: 90 of them are not more than 90 %, 91 are.
#[test]
fn exactly_ninety_percent_does_not_cover() {
    let mut counts = [0; 256];
    counts[0] = 90;
    counts[1] = 10;
    assert_eq!(core_set(&counts), 2);
    counts[0] = 91;
    counts[1] = 9;
    assert_eq!(core_set(&counts), 1);
}

/// Finds counts over `values` equal values and one heavy one with the wanted entropy, and judges them.
fn at_percent(percent: u64) -> Verdict {
    for values in 66..199usize {
        for heavy in (0..5000).step_by(16) {
            let mut counts = vec![(8192 - heavy) / values; values];
            counts[0] = 8192 - counts[1] * (values - 1);
            let mut sorted = [0; 256];
            for (slot, &count) in sorted.iter_mut().zip(&counts) {
                *slot = u32::try_from(count).unwrap();
            }
            let core = core_set(&sorted);
            if core > CORE_SET_LOW && core < CORE_SET_HIGH && entropy_percent(&sorted) == percent {
                return judge(&sample(&counts));
            }
        }
    }
    panic!("no distribution has an entropy of {percent} %");
}

#[test]
fn entropy_decides_at_65_and_at_80() {
    // Entropy moves in steps of 1/32: 65 % is 21/32, then come 68 %, 78 %, 81 %.
    assert_eq!(at_percent(65), Verdict::LowEntropy);
    assert_eq!(at_percent(68), Verdict::MarginalEntropy);
    assert_eq!(at_percent(78), Verdict::MarginalEntropy);
    assert_eq!(at_percent(81), Verdict::HighEntropy);
}

#[test]
fn entropy_of_known_distributions() {
    let mut counts = [0; 256];
    counts[0] = 8192;
    assert_eq!(entropy_percent(&counts), 0);
    assert_eq!(entropy_percent(&[32; 256]), 100);
    let mut half = [0; 256];
    half[..16].fill(512);
    assert_eq!(entropy_percent(&half), 50);
}

#[test]
fn a_repeated_half_wins_over_noise() {
    let mut half = vec![0; 64 * 1024];
    Noise::new(3).fill(&mut half);
    let data = [half.as_slice(), &half].concat();
    assert_eq!(looks_compressible(&data), Verdict::RepeatedPattern);
    assert_eq!(looks_compressible(&vec![0; 4096]), Verdict::RepeatedPattern);
}

#[test]
fn noise_and_text() {
    let mut noise = vec![0; EXTENT_MAX];
    Noise::new(4).fill(&mut noise);
    let verdict = looks_compressible(&noise);
    assert_eq!(verdict, Verdict::Noise);
    assert!(!verdict.worth_trying());
    let text = crate::tests::text(EXTENT_MAX);
    assert_eq!(looks_compressible(&text), Verdict::SmallByteSet);
}

#[test]
fn pages_and_one_piece_agree_and_only_128_kib_count() {
    let mut data = crate::tests::text(EXTENT_MAX);
    data.extend(std::iter::repeat_n(0u8, EXTENT_MAX));
    Noise::new(5).fill(&mut data[EXTENT_MAX..]);
    let whole = looks_compressible(&data);
    assert_eq!(whole, Verdict::SmallByteSet, "noise behind 128 KiB does not count");
    assert_eq!(looks_compressible_pages(data.chunks(4096)), whole);
    Noise::new(6).fill(&mut data);
    assert_eq!(looks_compressible_pages(data.chunks(4096)), looks_compressible(&data));
}

#[test]
fn short_data_is_worth_a_try() {
    for len in 0..=16 {
        assert_eq!(looks_compressible(&vec![7; len]), Verdict::TooShortToTell);
    }
    assert_ne!(looks_compressible(&[7; 17]), Verdict::TooShortToTell);
    assert!(Verdict::TooShortToTell.worth_trying());
}

#[test]
fn it_pays_where_the_compressor_is_slow() {
    for (text, pays) in [
        ("zlib:1", true),
        ("zlib:9", true),
        ("lzo", false),
        ("zstd:-15", false),
        ("zstd", false),
        ("zstd:11", false),
        ("zstd:12", true),
        ("zstd:15", true),
    ] {
        assert_eq!(heuristic_pays(text.parse().unwrap()), pays, "{text}");
    }
}
