//! All algorithms together: round trips, limits, partial reads, hostile bytes.

use super::*;
use crate::compress::EXTENT_MAX;
use crate::zstd_frame::{FrameHeader, WINDOW_MAX};
use proptest::prelude::*;

/// A small generator of noise (splitmix64), so that each failure can be repeated from its seed.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Words in an order that repeats little: compresses to about a third.
pub(crate) fn text(len: usize) -> Vec<u8> {
    const WORDS: [&str; 24] = [
        "page",
        "extent",
        "delalloc",
        "writeback",
        "the",
        "of",
        "a",
        "block",
        "is",
        "ordered",
        "chunk",
        "locked",
        "range",
        "and",
        "commit",
        "dirty",
        "tree",
        "node",
        "to",
        "in",
        "checksum",
        "flush",
        "segment",
        "\n",
    ];
    let mut noise = Noise::new(42);
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        bytes.extend_from_slice(WORDS[noise.below(WORDS.len())].as_bytes());
        bytes.push(b' ');
    }
    bytes.truncate(len);
    bytes
}

fn spec(text: &str) -> CompressionSpec {
    text.parse().unwrap()
}

/// The quick ones of each algorithm, and one or two of the thorough.
fn specs() -> Vec<CompressionSpec> {
    ["zlib:1", "zlib:3", "zlib:9", "lzo", "zstd:-15", "zstd:-1", "zstd:1", "zstd:3", "zstd:7"]
        .map(spec)
        .to_vec()
}

/// What lies on disk for the first `n` bytes of `out`: padded to blocks.
fn stored(out: &[u8], n: usize) -> Vec<u8> {
    let mut stored = out[..n].to_vec();
    stored.resize(n.next_multiple_of(4096), 0);
    stored
}

fn compressed(with: &mut Compressor, spec: CompressionSpec, input: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0xee; input.len() + input.len() / 16 + 1024];
    match with.compress(spec, input, &mut out).unwrap() {
        Outcome::Compressed(n) => {
            assert!(n <= EXTENT_MAX, "law B3");
            Some(stored(&out, n))
        }
        Outcome::DoesNotFit => None,
    }
}

fn round_trip(
    with: &mut Compressor,
    back: &mut Decompressor,
    spec: CompressionSpec,
    input: &[u8],
    wanted: usize,
) -> bool {
    let Some(stream) = compressed(with, spec, input) else { return false };
    let algorithm = spec.algorithm();
    if algorithm == Algorithm::Zstd {
        let header = FrameHeader::parse(&stream).unwrap();
        assert!(header.window <= WINDOW_MAX, "{spec} window {}", header.window);
        assert_eq!(header.content_size, Some(input.len() as u64));
        let frame = zstd_safe::find_frame_compressed_size(&stream).unwrap();
        assert!(stream[frame..].iter().all(|&byte| byte == 0), "exactly one frame");
        assert!(stream.len() - frame < 4096);
        assert_eq!(stream[4] & 4, 0, "no checksum");
    }
    let mut out = vec![0xdd; input.len()];
    back.decompress(algorithm, &stream, &mut out).unwrap();
    assert!(out == input, "{spec} {}", input.len());
    // Behind the end of the stream there are zeros, as in the last block of a file.
    let mut longer = vec![0xdd; input.len() + 5000];
    back.decompress(algorithm, &stream, &mut longer).unwrap();
    assert!(longer[..input.len()] == *input && longer[input.len()..].iter().all(|&byte| byte == 0));
    // A beginning alone.
    let wanted = wanted.min(input.len());
    let mut prefix = vec![0xdd; wanted];
    back.decompress(algorithm, &stream, &mut prefix).unwrap();
    assert!(prefix == input[..wanted], "{spec} {wanted} of {}", input.len());
    true
}

#[test]
fn sizes_and_contents_go_through() {
    let (mut with, mut back) = (Compressor::new(), Decompressor::new());
    let text = text(EXTENT_MAX);
    let mut noise = vec![0; EXTENT_MAX];
    Noise::new(21).fill(&mut noise);
    let zeros = vec![0; EXTENT_MAX];
    for len in [0, 1, 5, 100, 4095, 4096, 4097, 8192, 65536, 131_071, EXTENT_MAX] {
        for spec in specs() {
            let fits = |wanted| (wanted, len);
            for wanted in [1, 4096, len / 2, len.saturating_sub(1)].map(fits) {
                assert!(round_trip(&mut with, &mut back, spec, &text[..len], wanted.0));
            }
            assert!(round_trip(&mut with, &mut back, spec, &zeros[..len], 4097));
            round_trip(&mut with, &mut back, spec, &noise[..len], 4097);
        }
    }
}

#[test]
fn every_level_of_every_algorithm() {
    let (mut with, mut back) = (Compressor::new(), Decompressor::new());
    let text = text(EXTENT_MAX);
    for algorithm in Algorithm::ALL {
        for level in algorithm.levels().into_iter().flatten() {
            if algorithm == Algorithm::Zlib || level != 0 {
                let spec = CompressionSpec::with_level(algorithm, level.into()).unwrap();
                assert!(round_trip(&mut with, &mut back, spec, &text, 5000), "{spec}");
                assert!(round_trip(&mut with, &mut back, spec, &text[..3000], 2000), "{spec}");
            }
        }
    }
}

fn contents() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![0usize..300, 0..=EXTENT_MAX, (0usize..=32).prop_map(|n| n * 4096)];
    (len, any::<u64>(), 0u8..4, any::<prop::sample::Index>()).prop_map(
        |(len, seed, kind, index)| {
            let mut data = match kind {
                0 => vec![0; len],
                _ => text(len),
            };
            let cut = index.index(len + 1);
            match kind {
                1 => Noise::new(seed).fill(&mut data),
                2 => Noise::new(seed).fill(&mut data[..cut]),
                3 => Noise::new(seed).fill(&mut data[cut..]),
                _ => {}
            }
            data
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn anything_goes_through(data in contents(), wanted in 0..=EXTENT_MAX) {
        let (mut with, mut back) = (Compressor::new(), Decompressor::new());
        for spec in specs() {
            round_trip(&mut with, &mut back, spec, &data, wanted);
        }
    }
}

/// Law R3: a context that has seen anything, a failure included, gives the very bytes of a fresh one.
#[test]
fn a_used_context_gives_the_same_bytes_as_a_fresh_one() {
    let mut used = Compressor::new();
    let mut noise = Noise::new(31);
    let all = ["zlib:1", "zlib:6", "lzo", "zstd:-5", "zstd:1", "zstd:3", "zstd:5", "zstd:6"];
    let all = all.into_iter().chain(["zstd:8", "zstd:9", "zstd:11", "zstd:13", "zstd:15"]);
    let all: Vec<_> = all.map(spec).collect();
    for round in 0..80 {
        let spec = all[noise.below(all.len())];
        let mut data = text(noise.below(EXTENT_MAX + 1));
        let cut = noise.below(data.len() + 1);
        noise.fill(&mut data[cut..]);
        if round % 3 == 0 {
            let mut small = vec![0; noise.below(data.len() / 8 + 1)];
            used.compress(spec, &data, &mut small).unwrap();
        }
        let fresh = compressed(&mut Compressor::new(), spec, &data);
        assert!(compressed(&mut used, spec, &data) == fresh, "{spec}, round {round}");
    }
}

/// A stream that was abandoned for want of room leaves nothing behind that spoils the next (law R3).
#[test]
fn after_an_abandoned_stream_the_next_is_sound() {
    let mut with = Compressor::new();
    let mut back = Decompressor::new();
    let data = text(50_000);
    let mut noise = vec![0; EXTENT_MAX];
    Noise::new(61).fill(&mut noise);
    for spec in specs() {
        for room in [1, 100, 4096, 60_000, 126_000] {
            let got = with.compress(spec, &noise, &mut vec![0; room]).unwrap();
            assert_eq!(got, Outcome::DoesNotFit, "{spec} {room}");
            assert!(round_trip(&mut with, &mut back, spec, &data, 9), "{spec} {room}");
        }
    }
}

/// Law B3: what would not save a block is refused, at the very byte.
#[test]
fn the_limit_decides() {
    let mut with = Compressor::new();
    let data = text(40_000);
    let mut noise = vec![0; EXTENT_MAX];
    Noise::new(41).fill(&mut noise);
    for spec in specs() {
        let mut out = vec![0; 40_000];
        let Outcome::Compressed(n) = with.compress(spec, &data, &mut out).unwrap() else {
            panic!("{spec}: text fits");
        };
        for limit in [0, 1, n / 2, n - 1] {
            let got = with.compress(spec, &data, &mut vec![0; limit]).unwrap();
            assert_eq!(got, Outcome::DoesNotFit, "{spec} {limit} of {n}");
        }
        // zstd may ask for a few bytes more than it uses in the end.
        let slack = if spec.algorithm() == Algorithm::Zstd { 512 } else { 0 };
        let got = with.compress(spec, &data, &mut vec![0; n + slack]).unwrap();
        assert_eq!(got, Outcome::Compressed(n), "{spec}");
        let limit = output_limit(noise.len());
        let got = with.compress(spec, &noise, &mut vec![0; limit]).unwrap();
        assert_eq!(got, Outcome::DoesNotFit, "{spec}");
    }
    for (len, limit) in
        [(0, 0), (1, 0), (4096, 0), (4097, 4096), (8192, 4096), (EXTENT_MAX, EXTENT_MAX - 4096)]
    {
        assert_eq!(output_limit(len), limit, "{len}");
    }
}

#[test]
fn too_much_input_is_refused() {
    let got = Compressor::new().compress(spec("lzo"), &vec![0; EXTENT_MAX + 1], &mut [0; 4096]);
    assert_eq!(got, Err(CompressError::InputTooLong { len: EXTENT_MAX + 1 }));
}

#[test]
fn contexts_can_move_to_another_thread() {
    fn is_send<T: Send + 'static>() {}
    is_send::<Compressor>();
    is_send::<Decompressor>();
}

/// Law E3: streams with bytes changed, cut off, or put in, ten thousand of each algorithm and more.
#[test]
fn hostile_streams_never_panic() {
    let mut noise = Noise::new(0xc0b);
    let mut with = Compressor::new();
    let mut back = Decompressor::new();
    let mut data = text(3 * 4096);
    noise.fill(&mut data[5000..6000]);
    for spec in ["zlib:3", "lzo", "zstd:3", "zstd:9"].map(spec) {
        let algorithm = spec.algorithm();
        let good = compressed(&mut with, spec, &data).unwrap();
        let inline = {
            let mut out = vec![0; 4096];
            let Outcome::Compressed(n) = with.compress(spec, &data[..2000], &mut out).unwrap()
            else {
                panic!("{spec}: text fits");
            };
            out.truncate(n);
            out
        };
        let mut refused = 0;
        for round in 0..12_000 {
            let mut bad = if round % 4 == 0 { inline.clone() } else { good.clone() };
            for _ in 0..=noise.below(4) {
                // The first bytes hold the headers: hit them as often as all the rest.
                let reach = if noise.below(2) == 0 { 24 } else { bad.len() };
                let at = noise.below(reach.min(bad.len()));
                bad[at] = noise.next().to_le_bytes()[0];
            }
            match noise.below(8) {
                0 => bad.truncate(noise.below(bad.len())),
                1 => bad.insert(noise.below(bad.len()), 0),
                2 => bad[noise.below(24)] = [0, 0xff, 0x20, 0x80][noise.below(4)],
                _ => {}
            }
            let mut out = vec![0; [3 * 4096, 2000, 4096, 5000, 20_000][noise.below(5)]];
            if let Err(error) = back.decompress(algorithm, &bad, &mut out) {
                refused += 1;
                let DecompressError::Corrupt { algorithm: named, what, offset } = error else {
                    panic!("{error}");
                };
                assert_eq!(named, algorithm);
                assert!(!what.is_empty() && offset <= bad.len(), "{what} at {offset}");
            }
        }
        assert!(refused > 1000, "{spec}: {refused} refused, so the mutations reach the decoder");
        // And the context is as good as before.
        let mut out = vec![0; data.len()];
        back.decompress(algorithm, &good, &mut out).unwrap();
        assert!(out == data);
    }
}

/// Bytes that were never a stream.
#[test]
fn noise_is_no_stream() {
    let mut noise = Noise::new(51);
    let mut back = Decompressor::new();
    let mut out = vec![0; 8192];
    for round in 0..3000 {
        let mut bad = vec![0; noise.below(600)];
        noise.fill(&mut bad);
        for algorithm in Algorithm::ALL {
            assert!(back.decompress(algorithm, &bad, &mut out).is_err(), "{algorithm} {round}");
        }
    }
    for algorithm in Algorithm::ALL {
        assert!(back.decompress(algorithm, &[], &mut out).is_err());
        assert!(back.decompress(algorithm, &[0; 4096], &mut out).is_err());
        assert_eq!(back.decompress(algorithm, &[], &mut []), Ok(()));
    }
}

#[test]
fn a_cut_stream_is_an_error_when_all_is_wanted() {
    let data = text(20_000);
    let mut back = Decompressor::new();
    let mut out = vec![0; data.len()];
    for spec in ["zlib", "zstd"].map(spec) {
        let good = compressed(&mut Compressor::new(), spec, &data).unwrap();
        let error = back.decompress(spec.algorithm(), &good[..3000], &mut out).unwrap_err();
        assert!(error.to_string().starts_with("corrupt "), "{error}");
    }
}

/// A frame with the wanted window, written without a size in its header.
fn frame_with_window(log: u32, data: &[u8]) -> Vec<u8> {
    let mut context = zstd_safe::CCtx::create();
    context.set_parameter(zstd_safe::CParameter::WindowLog(log)).unwrap();
    context.set_parameter(zstd_safe::CParameter::ContentSizeFlag(false)).unwrap();
    let mut out = vec![0; 2 * data.len() + 1024];
    let mut sink = zstd_safe::OutBuffer::around(out.as_mut_slice());
    context.compress_stream(&mut sink, &mut zstd_safe::InBuffer::around(data)).unwrap();
    assert_eq!(context.end_stream(&mut sink).unwrap(), 0);
    let n = sink.pos();
    stored(&out, n)
}

#[test]
fn zstd_windows_beyond_128_kib_are_refused() {
    let data = text(EXTENT_MAX);
    let mut back = Decompressor::new();
    let mut out = vec![0; EXTENT_MAX];
    for log in [10, 14, 17] {
        let frame = frame_with_window(log, &data);
        let header = FrameHeader::parse(&frame).unwrap();
        assert_eq!(header, FrameHeader { window: 1 << log, content_size: None });
        back.decompress(Algorithm::Zstd, &frame, &mut out).unwrap();
        assert!(out == data, "frames without a size are read too");
        let mut longer = vec![1; EXTENT_MAX + 9];
        back.decompress(Algorithm::Zstd, &frame, &mut longer).unwrap();
        assert!(longer[..EXTENT_MAX] == data && longer[EXTENT_MAX..] == [0; 9]);
    }
    for log in [18, 20, 27] {
        let error =
            back.decompress(Algorithm::Zstd, &frame_with_window(log, &data), &mut out).unwrap_err();
        assert_eq!(
            error.to_string(),
            "corrupt zstd stream at byte 4: the frame wants a window larger than 128 KiB"
        );
    }
    // A single segment has its content for a window.
    let mut big = vec![0; 300_000];
    let n = zstd_safe::compress(big.as_mut_slice(), &vec![7; 200_000], 3).unwrap();
    let error = back.decompress(Algorithm::Zstd, &stored(&big, n), &mut out).unwrap_err();
    assert!(error.to_string().contains("larger than 128 KiB"), "{error}");
}

/// The kernel reads the first frame only; so do we.
#[test]
fn a_second_zstd_frame_is_not_read() {
    let first = frame_with_window(12, b"first");
    let n = zstd_safe::find_frame_compressed_size(&first).unwrap();
    let two = [&first[..n], &first[..n]].concat();
    let mut out = vec![9; 10];
    Decompressor::new().decompress(Algorithm::Zstd, &two, &mut out).unwrap();
    assert_eq!(out, b"first\0\0\0\0\0");
}

#[test]
fn a_wrong_adler_is_noticed() {
    let data = text(9000);
    let mut out = vec![0; 9000];
    let Outcome::Compressed(n) = Compressor::new().compress(spec("zlib"), &data, &mut out).unwrap()
    else {
        panic!("text fits");
    };
    out[n - 1] ^= 1;
    let mut back = vec![0; 9000];
    let error =
        Decompressor::new().decompress(Algorithm::Zlib, &stored(&out, n), &mut back).unwrap_err();
    assert!(error.to_string().contains("Adler-32"), "{error}");
}
