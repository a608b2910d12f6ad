//! Preallocated extents against a model of blocks: what is written becomes ordinary, with its checksums, and nothing else does.

use cowback_base::BLOCK_SIZE;
use cowback_extent_io::store::{
    Compression, DiskExtent, ExtentKind, FinishedExtent, OrderedKind, WrittenExtent,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::mock::{FILE, FS, Mock, make};
use super::super::{Pending, csums};
use super::*;

const BLOCKS: u64 = 24;
const B: u64 = BLOCK_SIZE;

/// What a block of the file shows: which address, and whether that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Hole,
    Prealloc(u64),
    Written(u64),
}

#[derive(Debug, Clone)]
enum Op {
    /// Preallocates the holes of a range.
    Allocate(u64, u64),
    /// Writes a range: in place where it is preallocated, else to fresh space.
    Write(u64, u64),
    Punch(u64, u64),
    Commit,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..BLOCKS, 1..12u64).prop_map(|(start, len)| Op::Allocate(start, len)),
        6 => (0..BLOCKS, 1..6u64).prop_map(|(start, len)| Op::Write(start, len)),
        2 => (0..BLOCKS, 1..4u64).prop_map(|(start, len)| Op::Punch(start, len)),
        1 => Just(Op::Commit),
    ]
}

fn finished(ino: Ino, start: u64, len: u64, bytenr: u64, kind: OrderedKind) -> FinishedExtent {
    let extent = DiskExtent { bytenr: Bytenr(bytenr), len: len * B, kind };
    let sums = (0..len * 4).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
    FinishedExtent {
        ino,
        range: ByteRange::at(start * B, len * B),
        written: WrittenExtent { extent, sums },
        compression: Compression::None,
    }
}

fn shown(pending: &Pending, mock: &Mock, ino: Ino, block: u64) -> Shown {
    let map = pending.lookup(mock, FS, ino, block * B + 7).unwrap();
    let inside = block * B - map.range.start;
    match map.kind {
        ExtentKind::Hole => Shown::Hole,
        ExtentKind::Prealloc { disk_bytenr, offset, .. } => {
            Shown::Prealloc(disk_bytenr.0 + offset + inside)
        }
        ExtentKind::Regular { disk_bytenr, offset, .. } => {
            Shown::Written(disk_bytenr.0 + offset + inside)
        }
        ExtentKind::Inline { .. } => panic!("nothing is inline here"),
    }
}

/// The stretches of `blocks` of which `same` is true of the one before and the one behind.
fn stretches(
    model: &[Shown],
    start: u64,
    end: u64,
    same: impl Fn(Shown, Shown) -> bool,
) -> Vec<(u64, u64)> {
    let at = |block: u64| model[usize::try_from(block).unwrap()];
    let mut out: Vec<(u64, u64)> = Vec::new();
    for block in start..end {
        match out.last_mut() {
            Some((_, end)) if *end == block && same(at(block - 1), at(block)) => *end += 1,
            _ => out.push((block, block + 1)),
        }
    }
    out
}

fn step(
    (mock, pending, ino): (&mut Mock, &mut Pending, Ino),
    model: &mut [Shown],
    op: &Op,
    number: u64,
) {
    let fresh = (1 << 30) + number * (1 << 20);
    let index = |block: u64| usize::try_from(block).unwrap();
    match *op {
        Op::Allocate(start, len) => {
            let end = (start + len).min(BLOCKS);
            pending.apply_inode(mock, FS, ino).unwrap();
            let holes =
                stretches(model, start, end, |a, b| (a == Shown::Hole) == (b == Shown::Hole));
            let holes = holes.into_iter().filter(|(start, _)| model[index(*start)] == Shown::Hole);
            let pieces: Vec<(u64, ByteRange)> = holes
                .map(|(start, end)| {
                    (start * B, ByteRange::at(fresh + start * B, (end - start) * B))
                })
                .collect();
            insert(mock, FS, ino, &pieces).unwrap();
            for (offset, place) in pieces {
                for block in 0..place.len() / B {
                    model[index(offset / B + block)] = Shown::Prealloc(place.start + block * B);
                }
            }
        }
        Op::Write(start, len) => {
            let end = (start + len).min(BLOCKS);
            let adjoin = |a, b| match (a, b) {
                (Shown::Prealloc(a), Shown::Prealloc(b)) => a + B == b,
                (Shown::Prealloc(_), _) | (_, Shown::Prealloc(_)) => false,
                _ => true,
            };
            for (start, end) in stretches(model, start, end, adjoin) {
                let (place, kind) = match model[index(start)] {
                    Shown::Prealloc(at) => (at, OrderedKind::Prealloc),
                    _ => (fresh + start * B, OrderedKind::Regular),
                };
                pending.finish(finished(ino, start, end - start, place, kind));
                for block in start..end {
                    model[index(block)] = Shown::Written(place + (block - start) * B);
                }
            }
        }
        Op::Punch(start, len) => {
            let end = (start + len).min(BLOCKS);
            pending.apply_inode(mock, FS, ino).unwrap();
            extents::punch(mock, FS, ino, ByteRange::new(start * B, end * B)).unwrap();
            model[index(start)..index(end)].fill(Shown::Hole);
        }
        Op::Commit => {
            let nbytes = |mock: &Mock| inode::read(mock, FS, ino).unwrap().nbytes;
            let held = pending.nbytes(mock, FS, ino, nbytes(mock)).unwrap();
            pending.apply(mock, FS, usize::MAX).unwrap();
            assert_eq!(nbytes(mock), held, "as was told before");
            mock.check();
            mock.commit();
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_becomes_ordinary_and_nothing_else_does(ops in vec(any_op(), 1..60)) {
        let mut mock = Mock::new();
        let ino = make(&mut mock, Ino::ROOT, b"file", &FILE);
        let mut pending = Pending::default();
        let mut model = vec![Shown::Hole; usize::try_from(BLOCKS).unwrap()];
        for (number, op) in (1u64..).zip(&ops) {
            step((&mut mock, &mut pending, ino), &mut model, op, number);
            for (block, expected) in (0..).zip(&model) {
                let found = shown(&pending, &mock, ino, block);
                prop_assert_eq!(found, *expected, "block {} after {:?}", block, op);
            }
        }
        pending.apply(&mut mock, FS, usize::MAX).unwrap();
        mock.check();
        mock.commit();
        for (block, expected) in (0..).zip(&model) {
            prop_assert_eq!(shown(&pending, &mock, ino, block), *expected, "at the end");
            let sums = |at| csums::lookup(&mock, ByteRange::at(at, B)).unwrap();
            match *expected {
                Shown::Hole => {}
                Shown::Prealloc(at) => prop_assert_eq!(sums(at), None),
                Shown::Written(at) => prop_assert!(sums(at).is_some(), "block {}", block),
            }
        }
    }
}

fn items(mock: &Mock, ino: Ino) -> Vec<(u64, u64, bool)> {
    let items = mock.items.iter().filter(|((tree, key), _)| *tree == FS && is_extent_of(key, ino));
    let parsed = items.map(|((_, key), data)| (key.offset, extents::parse(key, data).unwrap()));
    parsed
        .map(|(offset, extent)| {
            let written = matches!(extent.data, FileExtentData::Regular(_));
            (offset / B, (extent.end(offset) - offset) / B, written)
        })
        .collect()
}

#[test]
fn a_log_that_is_filled_from_its_start_has_two_items() {
    let mut mock = Mock::new();
    let ino = make(&mut mock, Ino::ROOT, b"log", &FILE);
    insert(&mut mock, FS, ino, &[(0, ByteRange::at(1 << 30, 100 * B))]).unwrap();
    for block in 0..50 {
        let range = ByteRange::at(block * B, B);
        mark_written(&mut mock, FS, ino, range, Bytenr((1 << 30) + block * B)).unwrap();
        assert_eq!(items(&mock, ino), [(0, block + 1, true), (block + 1, 99 - block, false)]);
        mock.check();
    }
    // And one that is filled in any order has one in the end.
    for block in (50..100).rev().step_by(2).chain((50..100).step_by(2)) {
        let range = ByteRange::at(block * B, B);
        mark_written(&mut mock, FS, ino, range, Bytenr((1 << 30) + block * B)).unwrap();
        mock.check();
    }
    assert_eq!(items(&mock, ino), [(0, 100, true)]);
}

#[test]
fn what_is_not_preallocated_there_is_not_taken_for_written() {
    let mut mock = Mock::new();
    let ino = make(&mut mock, Ino::ROOT, b"log", &FILE);
    insert(&mut mock, FS, ino, &[(0, ByteRange::at(1 << 30, 4 * B))]).unwrap();
    let wrong = [(0, 1, (1 << 30) + B), (4, 1, (1 << 30) + 4 * B), (3, 2, (1 << 30) + 3 * B)];
    for (start, len, bytenr) in wrong {
        let range = ByteRange::at(start * B, len * B);
        assert!(mark_written(&mut mock, FS, ino, range, Bytenr(bytenr)).is_err());
    }
}

#[test]
fn checksums_that_others_left_behind_go_when_their_place_is_preallocated() {
    let mut mock = Mock::new();
    let ino = make(&mut mock, Ino::ROOT, b"log", &FILE);
    let place = |start: u64, end: u64| ByteRange::new((1 << 30) + start * B, (1 << 30) + end * B);
    let sums = vec![5; 12 * mock.checksum().size()];
    csums::replace(&mut mock, place(0, 12), &sums).unwrap();
    insert(&mut mock, FS, ino, &[(0, place(2, 10))]).unwrap();
    let has_any = |range| csums::has_any(&mock, range).unwrap();
    assert!(!has_any(place(2, 10)), "it could never be written in place");
    assert!(has_any(place(1, 2)) && has_any(place(10, 11)), "those of others stay");
}
