//! The encoder and the decoder against each other and against lzokay, in both directions; and the framing by hand.

use super::*;
use crate::tests::{Noise, text};
use proptest::prelude::*;

fn encode_block(block: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::try_new().unwrap();
    let n = encode::encode(&mut encoder.table, block, &mut encoder.segment);
    encoder.segment[..n].to_vec()
}

fn check_block(block: &[u8]) {
    let ours = encode_block(block);
    assert!(ours.len() <= worst_case(block.len()));
    let mut by_lzokay = vec![0; block.len()];
    assert_eq!(lzokay::decompress::decompress(&ours, &mut by_lzokay), Ok(block.len()));
    assert_eq!(by_lzokay, block, "lzokay reads our stream");
    for slack in [0, 1, 40] {
        let mut by_us = vec![0; block.len() + slack];
        assert_eq!(decode::decode(&ours, &mut by_us), Ok(block.len()));
        assert_eq!(&by_us[..block.len()], block, "we read our stream");
    }
    // Of nothing, lzokay makes three bytes that are no stream.
    if block.is_empty() {
        return;
    }
    let theirs = lzokay::compress::compress(block).unwrap();
    let mut by_us = vec![0; block.len()];
    assert_eq!(decode::decode(&theirs, &mut by_us), Ok(block.len()));
    assert_eq!(by_us, block, "we read lzokay's stream");
}

#[test]
fn blocks_of_every_short_length() {
    let text = text(4096);
    let mut noise = vec![0; 4096];
    Noise::new(11).fill(&mut noise);
    for len in (0..400).chain([1000, 2047, 2048, 2049, 4095, 4096]) {
        check_block(&text[..len]);
        check_block(&noise[..len]);
        check_block(&vec![0; len]);
    }
}

#[test]
fn near_and_far_matches_of_many_lengths() {
    let mut noise = Noise::new(12);
    for distance in [1, 2, 7, 8, 15, 16, 255, 2047, 2048, 2049, 3000] {
        for length in [4, 8, 9, 16, 17, 33, 34, 288, 289, 543, 544, 1000] {
            let mut block = vec![0; distance];
            noise.fill(&mut block);
            for i in 0..length {
                block.push(block[i % distance]);
            }
            let tail = block.len();
            block.resize((tail + 20).min(4096), 0);
            noise.fill(&mut block[tail..]);
            check_block(&block);
        }
    }
}

/// Runs of noise of every length between matches: each way of announcing literals.
#[test]
fn literal_runs_of_many_lengths() {
    let mut noise = Noise::new(13);
    for run in (1..30).chain([237, 238, 239, 272, 273, 274, 528, 529, 600]) {
        let mut block = vec![0; run];
        noise.fill(&mut block);
        block.extend([b'x'; 40]);
        let mut more = vec![0; run];
        noise.fill(&mut more);
        block.extend(more);
        block.extend([b'x'; 40]);
        check_block(&block);
    }
}

/// lzokay reaches back up to 48 KiB in one stream, so its encoder yields every kind of match there is.
#[test]
fn all_kinds_of_matches_decode() {
    let mut data = text(60_000);
    let copy = data[..20_000].to_vec();
    data.extend(copy);
    let mut noise = vec![0; 3000];
    Noise::new(14).fill(&mut noise);
    data.extend(&noise);
    data.extend(text(2000));
    data.extend(&noise);
    let stream = lzokay::compress::compress(&data).unwrap();
    let mut out = vec![0; data.len()];
    assert_eq!(decode::decode(&stream, &mut out), Ok(data.len()));
    assert!(out == data);
}

/// Blocks between text and noise: small alphabets, and pieces copied from before.
fn blocks() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| (bytes, 0, 0)),
        prop::collection::vec(0u8..3, 0..40).prop_map(|bytes| (bytes, 0, 0)),
        (1usize..4096, 1usize..300).prop_map(|(back, len)| (Vec::new(), back, len)),
    ];
    prop::collection::vec(piece, 0..120).prop_map(|pieces| {
        let mut block: Vec<u8> = Vec::new();
        for (bytes, back, len) in pieces {
            block.extend(bytes);
            if !block.is_empty() {
                let from = block.len() - back.min(block.len());
                for i in 0..len {
                    block.push(block[from + i]);
                }
            }
        }
        block.truncate(4096);
        block
    })
}

proptest! {
    #[test]
    fn any_block_goes_through_both_ways(block in blocks()) {
        check_block(&block);
    }
}

fn frame(input: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 2 * input.len() + 64];
    let n = Encoder::try_new().unwrap().compress(input, &mut out).unwrap();
    out.truncate(n);
    out
}

/// Walks the frame as a reader would who knows nothing but the format, with lzokay for the segments.
fn read_by_hand(stream: &[u8], blocks: usize) -> Vec<u8> {
    assert_eq!(read_le32(stream, 0), Some(stream.len()));
    let mut out = Vec::new();
    let mut at = 4;
    for _ in 0..blocks {
        while at / 4096 != (at + 3) / 4096 {
            assert_eq!(stream[at], 0, "zeros before a length that would cross a block");
            at += 1;
        }
        let n = read_le32(stream, at).unwrap();
        let mut block = vec![0; 4096];
        let got = lzokay::decompress::decompress(&stream[at + 4..at + 4 + n], &mut block).unwrap();
        out.extend_from_slice(&block[..got]);
        at += 4 + n;
    }
    assert_eq!(at, stream.len());
    out
}

/// Notes how many bytes of its block were left before each length field of `stream`.
fn note_room(stream: &[u8], blocks: usize, seen: &mut [bool; 4]) {
    let mut at = 4;
    for _ in 0..blocks {
        if let Some(case) = seen.get_mut(4095 - at % 4096) {
            *case = true;
        }
        at = field_at(at);
        at += 4 + read_le32(stream, at).unwrap();
    }
}

/// A block of zeros and noise becomes one byte longer with each byte of noise, so that the length field of the next
/// falls on each of the last four bytes of a block.
#[test]
fn lengths_never_cross_a_block() {
    let mut noise = Noise::new(15);
    let mut seen = [false; 4];
    for len in 3900..=4096 {
        let mut input = text(2 * 4096);
        input[..4096 - len].fill(0);
        noise.fill(&mut input[4096 - len..4096]);
        let stream = frame(&input);
        assert!(read_by_hand(&stream, 2) == input);
        note_room(&stream, 2, &mut seen);
    }
    assert_eq!(seen, [true; 4]);
    for _ in 0..200 {
        let mut input = text(8 * 4096);
        let from = noise.below(4000);
        let len = noise.below(4096);
        noise.fill(&mut input[from..from + len]);
        assert!(read_by_hand(&frame(&input), 8) == input);
    }
}

#[test]
fn one_block_is_one_segment() {
    for len in [0, 1, 100, 2048, 4095, 4096] {
        let stream = frame(&text(len));
        assert_eq!(read_le32(&stream, 4), Some(stream.len() - 8));
        assert!(read_by_hand(&stream, 1) == text(len));
    }
}

/// What does not fit is refused at every limit below the length, and the limit is never passed.
#[test]
fn the_limit_is_kept() {
    let input = text(3 * 4096);
    let whole = frame(&input);
    let mut encoder = Encoder::try_new().unwrap();
    for limit in 0..whole.len() {
        let mut out = vec![0; limit];
        assert_eq!(encoder.compress(&input, &mut out), None, "{limit}");
    }
    let mut out = vec![0; whole.len()];
    assert_eq!(encoder.compress(&input, &mut out), Some(whole.len()));
    assert_eq!(out, whole);
}

fn stored(stream: &[u8]) -> Vec<u8> {
    let mut stored = stream.to_vec();
    stored.resize(stream.len().next_multiple_of(4096), 0);
    stored
}

#[test]
fn totals_and_lengths_are_checked() {
    let input = text(2 * 4096);
    let good = stored(&frame(&input));
    let mut decoder = Decoder::try_new().unwrap();
    let mut out = vec![0; input.len()];
    assert_eq!(decoder.decompress(&good, &mut out), Ok(input.len()));
    let mut expect = |offset: usize, value: u32, words: &str, at: usize| {
        let mut bad = good.clone();
        bad[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        assert_eq!(decoder.decompress(&bad, &mut out), Err((words, at)), "{offset} {value}");
    };
    let disagrees = "the total length disagrees with the extent's";
    expect(0, 0, disagrees, 0);
    expect(0, 3, disagrees, 0);
    expect(0, u32::try_from(good.len()).unwrap() + 1, disagrees, 0);
    expect(0, 131_073, "the total length is more than 128 KiB", 0);
    expect(0, u32::MAX, "the total length is more than 128 KiB", 0);
    expect(4, 4420, "a segment is longer than any 4 KiB block can become", 4);
    expect(4, u32::MAX, "a segment is longer than any 4 KiB block can become", 4);
    expect(4, 4419, "a segment reaches beyond the total length", 4);
    expect(4, 0, "the stream is cut short", 8);
}

#[test]
fn an_inline_extent_is_one_segment_of_the_whole() {
    let input = text(2000);
    let good = frame(&input);
    let mut decoder = Decoder::try_new().unwrap();
    let mut out = vec![0; 2000];
    assert_eq!(decoder.decompress(&good, &mut out), Ok(2000));
    assert_eq!(out, input);
    let mut longer = good.clone();
    longer.push(0);
    assert!(decoder.decompress(&longer, &mut out).is_err(), "the total is not the length");
    let mut two = good.clone();
    two.extend_from_slice(&good[4..]);
    two[..4].copy_from_slice(&le32(good.len() * 2 - 4));
    assert_eq!(
        decoder.decompress(&two, &mut out),
        Err(("an inline extent is not exactly one segment", 4))
    );
    for len in 0..good.len() {
        assert!(decoder.decompress(&good[..len], &mut out).is_err(), "{len}");
    }
}

/// Streams made by hand that break each rule of the decoder.
#[test]
fn malformed_streams_are_named() {
    let long = [[0].as_slice(), &[0; 20], &[1], &[7; 400]].concat();
    for (stream, words) in [
        (&[][..], "the stream is cut short"),
        (&[0x11], "the stream is cut short"),
        (&[0x11, 0], "the stream is cut short"),
        (&[0x12, 0, 0], "the stream is cut short"),
        (&[0x11, 0, 0, 0], "the stream goes on behind its end mark"),
        (&[21, 1, 2, 3, 4, 0x12, 0, 0], "the end mark is malformed"),
        (&[16, 1, 4, 0], "a match begins before the start of the block"),
        (&[18, 9, 0x44, 0, 0x11, 0, 0], "a match begins before the start of the block"),
        (&[18, 9, 0x20, 0, 0, 0, 0], "the stream is cut short"),
        (&[22, 1, 2, 3], "the stream is cut short"),
        (&[255], "the stream is cut short"),
        (&long, "the stream is cut short"),
        (&[18, 9, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], TOO_MUCH),
    ] {
        let mut out = [0; 4096];
        let (what, offset) = decode::decode(stream, &mut out).unwrap_err();
        assert_eq!(what, words, "{stream:?}");
        assert!(offset <= stream.len());
    }
}

const TOO_MUCH: &str = "a segment holds more than one block";

#[test]
fn noise_is_given_up_early() {
    let mut noise = vec![0; EXTENT_MAX];
    Noise::new(16).fill(&mut noise);
    let mut out = vec![0; EXTENT_MAX];
    assert_eq!(Encoder::try_new().unwrap().compress(&noise, &mut out), None);
    // Three blocks are where the growth is looked at, and no output beyond them was touched.
    assert!(out[4 * 4096..].iter().all(|&byte| byte == 0));
}
