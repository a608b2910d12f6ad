//! Extents against a model in which every block of the file knows which byte of the disk it shows.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::mock::{FILE, FS, Mock, make};
use super::*;

const BLOCKS: usize = 24;
const B: u64 = BLOCK_SIZE;

/// Which block of which extent (uncompressed) a block of the file shows.
type Model = Vec<Option<(u64, u64)>>;

#[derive(Debug, Clone)]
enum Op {
    Insert { start: usize, len: usize, skip: u64, packed: bool },
    Punch(usize, usize),
    Truncate(usize),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..BLOCKS, 1..8usize, 0..3u64, any::<bool>())
            .prop_map(|(start, len, skip, packed)| Op::Insert { start, len, skip, packed }),
        3 => (0..BLOCKS, 1..8usize).prop_map(|(start, len)| Op::Punch(start, len)),
        1 => (0..BLOCKS).prop_map(Op::Truncate),
    ]
}

fn step(mock: &mut Mock, ino: Ino, model: &mut Model, op: &Op, number: u64) {
    let bytes = |start: usize, len: usize| ByteRange::at(start as u64 * B, len as u64 * B);
    match *op {
        Op::Insert { start, len, skip, packed } => {
            let len = len.min(BLOCKS - start);
            let (bytenr, ram) = ((1 << 30) + number * (1 << 20), (skip + len as u64 + 1) * B);
            let (compression, disk_len) =
                if packed { (CompressionCode::Zstd, B) } else { (CompressionCode::None, ram) };
            let num_bytes = len as u64 * B;
            let shown = DiskRange { bytenr, disk_len, offset: skip * B, num_bytes };
            let data = FileExtentData::Regular(shown);
            let extent = FileExtent { generation: 7, ram_bytes: ram, compression, data };
            punch(mock, FS, ino, bytes(start, len)).unwrap();
            let held = insert(mock, FS, ino, start as u64 * B, &extent).unwrap();
            let mut item = inode::load(mock, FS, ino).unwrap();
            item.nbytes += held;
            inode::save(mock, FS, ino, &mut item).unwrap();
            for block in 0..len {
                model[start + block] = Some((bytenr, (skip + block as u64) * B));
            }
        }
        Op::Punch(start, len) => {
            let len = len.min(BLOCKS - start);
            punch(mock, FS, ino, bytes(start, len)).unwrap();
            model[start..start + len].fill(None);
        }
        Op::Truncate(size) => {
            truncate(mock, FS, ino, size as u64 * B + 1).unwrap();
            model[(size + 1).min(BLOCKS)..].fill(None);
        }
    }
}

fn compare(mock: &Mock, ino: Ino, model: &Model) {
    mock.check();
    for (block, expected) in model.iter().enumerate() {
        for offset in [block as u64 * B, block as u64 * B + 4095] {
            let map = lookup(mock, FS, ino, offset).unwrap();
            assert!(map.range.contains(offset));
            let found = match map.kind {
                ExtentKind::Hole => None,
                ExtentKind::Regular { disk_bytenr, offset: skip, .. } => {
                    Some((disk_bytenr.0, skip + (block as u64 * B - map.range.start)))
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(found, *expected, "block {block}");
            let neighbours = [map.range.start.checked_sub(1), Some(map.range.end)];
            if map.kind == ExtentKind::Hole {
                for at in neighbours.into_iter().flatten().filter(|at| *at < BLOCKS as u64 * B) {
                    assert!(model[(at / B) as usize].is_some(), "a hole is reported as a whole");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn extents_behave_as_the_model(ops in vec(any_op(), 1..40)) {
        let mut mock = Mock::new();
        let ino = make(&mut mock, Ino::ROOT, b"file", &FILE);
        let mut model: Model = vec![None; BLOCKS];
        for (number, op) in ops.iter().enumerate() {
            step(&mut mock, ino, &mut model, op, number as u64);
            compare(&mock, ino, &model);
        }
        // What is no longer shown by any block is no longer referred to.
        mock.commit();
        let shown: std::collections::BTreeSet<u64> = model.iter().flatten().map(|(at, _)| *at).collect();
        let referred: std::collections::BTreeSet<u64> = mock.refs.keys().map(|key| key.0).collect();
        prop_assert_eq!(referred, shown);
    }
}

fn file_with(mock: &mut Mock, offset: u64, extent: &FileExtent) -> Ino {
    let ino = make(mock, Ino::ROOT, b"file", &FILE);
    let held = insert(mock, FS, ino, offset, extent).unwrap();
    let mut item = inode::load(mock, FS, ino).unwrap();
    item.nbytes = held;
    inode::save(mock, FS, ino, &mut item).unwrap();
    mock.check();
    ino
}

fn inline(ram_bytes: u64, compression: CompressionCode) -> FileExtent {
    let data = FileExtentData::Inline(vec![b'i'; 100]);
    FileExtent { generation: 7, ram_bytes, compression, data }
}

#[test]
fn an_inline_extent_goes_with_the_first_block() {
    let mut mock = Mock::new();
    let ino = file_with(&mut mock, 0, &inline(100, CompressionCode::None));
    let map = lookup(&mock, FS, ino, 5000).unwrap();
    assert_eq!(map, ExtentMap { range: ByteRange::new(B, HOLE_END), kind: ExtentKind::Hole });
    punch(&mut mock, FS, ino, ByteRange::new(B, 10 * B)).unwrap();
    assert!(matches!(
        lookup(&mock, FS, ino, 0).unwrap().kind,
        ExtentKind::Inline { ram_bytes: 100, .. }
    ));
    punch(&mut mock, FS, ino, ByteRange::new(0, B)).unwrap();
    assert_eq!(lookup(&mock, FS, ino, 0).unwrap().kind, ExtentKind::Hole);
    mock.check();
}

#[test]
fn truncating_cuts_an_inline_extent_unless_it_is_compressed() {
    for (code, left) in [(CompressionCode::None, 40), (CompressionCode::Zlib, 300)] {
        let mut mock = Mock::new();
        let ram_bytes = if code == CompressionCode::None { 100 } else { 300 };
        let ino = file_with(&mut mock, 0, &inline(ram_bytes, code));
        truncate(&mut mock, FS, ino, 40).unwrap();
        mock.check();
        assert_eq!(inode::read(&mock, FS, ino).unwrap().nbytes, left);
        truncate(&mut mock, FS, ino, 0).unwrap();
        mock.check();
        assert_eq!(inode::read(&mock, FS, ino).unwrap().nbytes, 0);
    }
}

#[test]
fn a_split_counts_one_more_reference_of_the_same_kind() {
    let mut mock = Mock::new();
    let shown = DiskRange { bytenr: 1 << 30, disk_len: 8 * B, offset: 2 * B, num_bytes: 5 * B };
    let extent = FileExtent {
        generation: 3,
        ram_bytes: 8 * B,
        compression: CompressionCode::None,
        data: FileExtentData::Regular(shown),
    };
    // The position is below the offset, so what the reference is counted under wraps.
    let ino = file_with(&mut mock, B, &extent);
    let key = (1 << 30, 8 * B, FS, ino.0, B.wrapping_sub(2 * B));
    assert_eq!(mock.refs[&key], 1);
    punch(&mut mock, FS, ino, ByteRange::new(3 * B, 4 * B)).unwrap();
    assert_eq!(mock.refs[&key], 2);
    let right = FileExtent::parse(&key_of(ino, 4 * B), &mock.items[&(FS, key_of(ino, 4 * B))]);
    let expected = DiskRange { offset: 5 * B, num_bytes: 2 * B, ..shown };
    assert_eq!(right.unwrap(), FileExtent { data: FileExtentData::Regular(expected), ..extent });
    punch(&mut mock, FS, ino, ByteRange::new(0, u64::MAX)).unwrap();
    assert_eq!(mock.refs[&key], 0);
    mock.check();
}

#[test]
fn preallocated_extents_are_cut_like_others_and_read_as_such() {
    let mut mock = Mock::new();
    let shown = DiskRange { bytenr: 1 << 30, disk_len: 4 * B, offset: 0, num_bytes: 4 * B };
    let data = FileExtentData::Prealloc(shown);
    let extent =
        FileExtent { generation: 7, ram_bytes: 4 * B, compression: CompressionCode::None, data };
    let ino = file_with(&mut mock, 0, &extent);
    punch(&mut mock, FS, ino, ByteRange::new(B, 2 * B)).unwrap();
    mock.check();
    let kinds: Vec<_> =
        (0..4).map(|block| lookup(&mock, FS, ino, block * B).unwrap().kind).collect();
    let prealloc =
        |offset| ExtentKind::Prealloc { disk_bytenr: Bytenr(1 << 30), disk_len: 4 * B, offset };
    let (hole, right) = (ExtentKind::Hole, prealloc(2 * B));
    assert_eq!(kinds, [prealloc(0), hole, right.clone(), right]);
}

#[test]
fn explicit_holes_of_older_volumes_are_holes() {
    let mut mock = Mock::new();
    let shown = DiskRange { bytenr: 0, disk_len: 0, offset: 0, num_bytes: 4 * B };
    let extent = FileExtent {
        generation: 7,
        ram_bytes: 4 * B,
        compression: CompressionCode::None,
        data: FileExtentData::Regular(shown),
    };
    let ino = make(&mut mock, Ino::ROOT, b"file", &FILE);
    assert_eq!(insert(&mut mock, FS, ino, 0, &extent).unwrap(), 0);
    assert_eq!(lookup(&mock, FS, ino, B).unwrap().kind, ExtentKind::Hole);
    punch(&mut mock, FS, ino, ByteRange::new(B, 2 * B)).unwrap();
    assert_eq!(lookup(&mock, FS, ino, 2 * B).unwrap().range, ByteRange::new(2 * B, 4 * B));
    assert!(mock.refs.is_empty());
    punch(&mut mock, FS, ino, ByteRange::new(0, u64::MAX)).unwrap();
    assert_eq!(inode::read(&mock, FS, ino).unwrap().nbytes, 0);
}

#[test]
fn an_inode_that_holds_less_than_was_dropped_is_reported_as_corrupt() {
    let mut mock = Mock::new();
    let ino = file_with(&mut mock, 0, &inline(100, CompressionCode::None));
    let mut item = inode::load(&mock, FS, ino).unwrap();
    item.nbytes = 1;
    inode::save(&mut mock, FS, ino, &mut item).unwrap();
    let error = punch(&mut mock, FS, ino, ByteRange::new(0, B)).unwrap_err();
    assert!(error.to_string().contains("holds 1 bytes"), "{error}");
}
