//! Completions against a model: what is looked up before, and what is in the trees after they were applied.

use bytes::Bytes;
use cowback_extent_io::store::{DiskExtent, WrittenExtent};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::mock::{FILE, FS, Mock, make};
use super::*;

/// Blocks of the modelled file.
const BLOCKS: u64 = 20;
const B: u64 = BLOCK_SIZE;

/// What a block of the file shows: a block of an extent (uncompressed), or the inline extent of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Hole,
    Block(u64, u64),
    Inline(u8),
}

fn finished(ino: Ino, start: u64, len: u64, bytenr: u64, packed: bool) -> FinishedExtent {
    let disk_len = if packed { B } else { len * B };
    let sums = vec![9; usize::try_from(disk_len / B * 4).unwrap()];
    FinishedExtent {
        ino,
        range: ByteRange::at(start * B, len * B),
        written: WrittenExtent {
            extent: DiskExtent {
                bytenr: Bytenr(bytenr),
                len: disk_len,
                kind: OrderedKind::Regular,
            },
            sums,
        },
        compression: if packed { Compression::Lzo } else { Compression::None },
    }
}

fn inline(number: u8) -> InlineExtent {
    let data = Bytes::from(vec![number; 10]);
    InlineExtent { ram_bytes: 10, compression: Compression::None, data }
}

fn shown(pending: &Pending, mock: &Mock, ino: Ino, block: u64) -> Shown {
    let map = pending.lookup(mock, FS, ino, block * B + 7).unwrap();
    assert!(map.range.contains(block * B + 7));
    match map.kind {
        ExtentKind::Hole => Shown::Hole,
        ExtentKind::Inline { data, .. } => Shown::Inline(data[0]),
        ExtentKind::Regular { disk_bytenr, offset, .. } => {
            Shown::Block(disk_bytenr.0, offset + (block * B - map.range.start))
        }
        ExtentKind::Prealloc { .. } => panic!("nothing is preallocated here"),
    }
}

#[derive(Debug, Clone)]
enum Op {
    Finish(u64, u64, bool),
    Inline(u8),
    Apply,
    Part(usize),
    Commit,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..BLOCKS, 1..6u64, any::<bool>()).prop_map(|(s, l, p)| Op::Finish(s, l, p)),
        1 => any::<u8>().prop_map(Op::Inline),
        1 => Just(Op::Apply),
        2 => (1..5usize).prop_map(Op::Part),
        1 => Just(Op::Commit),
    ]
}

/// The bytes that an inode will hold, by what is said before its completions are in the trees.
fn held(pending: &Pending, mock: &Mock, ino: Ino) -> u64 {
    let nbytes = inode::read(mock, FS, ino).unwrap().nbytes;
    pending.nbytes(mock, FS, ino, nbytes).unwrap()
}

proptest! {
    #[test]
    fn completions_show_at_once_and_stay_when_they_are_applied(ops in vec(any_op(), 1..40)) {
        let mut mock = Mock::new();
        let ino = make(&mut mock, Ino::ROOT, b"file", &FILE);
        let mut pending = Pending::default();
        let mut model = vec![Shown::Hole; 20];
        let mut made = Vec::new();
        for (number, op) in (1u64..).zip(ops) {
            let held = held(&pending, &mock, ino);
            match op {
                Op::Finish(start, len, packed) => {
                    let (len, bytenr) = (len.min(BLOCKS - start), (1 << 30) + number * (1 << 20));
                    let one = finished(ino, start, len, bytenr, packed);
                    made.push((bytenr, one.written.extent.len));
                    pending.finish(one);
                    for block in 0..len {
                        model[usize::try_from(start + block).unwrap()] = Shown::Block(bytenr, block * B);
                    }
                    prop_assert!(pending.sums(Bytenr(bytenr), B).is_some());
                }
                Op::Inline(number) => {
                    pending.finish_inline(ino, inline(number), mock.max_item).unwrap();
                    model.fill(Shown::Hole);
                    model[0] = Shown::Inline(number);
                }
                Op::Apply => {
                    pending.apply_inode(&mut mock, FS, ino).unwrap();
                    prop_assert_eq!(inode::read(&mock, FS, ino).unwrap().nbytes, held);
                    mock.check();
                }
                Op::Part(most) => {
                    let before = pending.extents();
                    pending.apply(&mut mock, FS, most).unwrap();
                    prop_assert_eq!(pending.extents(), before.saturating_sub(most));
                    mock.check();
                }
                Op::Commit => {
                    pending.apply(&mut mock, FS, usize::MAX).unwrap();
                    prop_assert!(pending.is_empty());
                    prop_assert_eq!(inode::read(&mock, FS, ino).unwrap().nbytes, held);
                    mock.check();
                    mock.commit();
                }
            }
            for (block, expected) in (0..).zip(&model) {
                prop_assert_eq!(shown(&pending, &mock, ino, block), *expected, "block {}", block);
            }
        }
        pending.apply(&mut mock, FS, usize::MAX).unwrap();
        mock.check();
        mock.commit();
        // Each extent is referred to and has its checksums, or was given back, or was dropped later; nothing is lost.
        for (bytenr, len) in made {
            let referred = mock.refs.keys().any(|key| (key.0, key.1) == (bytenr, len));
            let visible = model.iter().any(|s| matches!(s, Shown::Block(at, _) if *at == bytenr));
            prop_assert_eq!(referred, visible);
            let sums = csums::lookup(&mock, ByteRange::at(bytenr, len)).unwrap();
            prop_assert_eq!(sums.is_some(), visible);
            prop_assert!(!(mock.freed.contains(&(bytenr, len)) && visible));
        }
    }

    /// R3: the trees do not depend on the order in which extents of different places complete.
    #[test]
    fn the_order_of_completion_does_not_show(order in Just((0..12u64).collect::<Vec<_>>()).prop_shuffle()) {
        let run = |order: &[u64]| {
            let mut mock = Mock::new();
            let a = make(&mut mock, Ino::ROOT, b"a", &FILE);
            let b = make(&mut mock, Ino::ROOT, b"b", &FILE);
            let mut pending = Pending::default();
            for n in order {
                let ino = if n % 2 == 0 { a } else { b };
                pending.finish(finished(ino, n * 2, 2, (1 << 30) + n * 2 * B, false));
            }
            pending.apply(&mut mock, FS, usize::MAX).unwrap();
            mock.check();
            mock.items
        };
        prop_assert_eq!(run(&order), run(&(0..12).collect::<Vec<_>>()));
    }
}

#[test]
fn what_was_superseded_is_given_back_when_the_rest_is_applied_and_not_before() {
    let mut mock = Mock::new();
    let ino = make(&mut mock, Ino::ROOT, b"file", &FILE);
    let mut pending = Pending::default();
    pending.finish(finished(ino, 0, 4, 1 << 30, false));
    pending.finish(finished(ino, 0, 4, 2 << 30, false));
    assert_eq!(pending.extents(), 2);
    assert!(mock.freed.is_empty());
    pending.apply(&mut mock, FS, usize::MAX).unwrap();
    assert_eq!(mock.freed, [(1 << 30, 4 * B)]);
    mock.check();
}

#[test]
fn completions_of_a_file_that_ended_give_their_space_back() {
    let mut mock = Mock::new();
    let mut pending = Pending::default();
    pending.finish(finished(Ino(300), 0, 2, 1 << 30, false));
    pending.apply(&mut mock, FS, usize::MAX).unwrap();
    pending.finish(finished(Ino(301), 0, 2, 2 << 30, false));
    pending.discard(&mut mock, Ino(301));
    assert_eq!(mock.freed, [(1 << 30, 2 * B), (2 << 30, 2 * B)]);
    assert!(pending.is_empty() && pending.sums(Bytenr(2 << 30), B).is_none());
}

#[test]
fn checksums_of_a_part_of_an_extent_are_that_part() {
    let mut pending = Pending::default();
    let mut one = finished(Ino(257), 0, 3, 1 << 30, false);
    one.written.sums = (0..12).collect();
    pending.finish(one);
    assert_eq!(pending.sums(Bytenr((1 << 30) + B), B), Some(&[4, 5, 6, 7][..]));
    assert_eq!(pending.sums(Bytenr(1 << 30), 3 * B).unwrap().len(), 12);
    assert_eq!(pending.sums(Bytenr((1 << 30) + B), 3 * B), None);
    assert_eq!(pending.sums(Bytenr((1 << 30) - B), B), None);
}

#[test]
fn what_does_not_fit_inline_is_refused_and_changes_nothing() {
    let mut pending = Pending::default();
    let big = InlineExtent { data: Bytes::from(vec![1; 500]), ..inline(1) };
    assert!(pending.finish_inline(Ino(257), big, 500).is_err());
    let none = InlineExtent { ram_bytes: 0, ..inline(1) };
    assert!(pending.finish_inline(Ino(257), none, 500).is_err());
    assert!(pending.is_empty());
}
