//! Law E3 for the namespace: whatever the items of the trees hold, operations end with a result or an error, never a panic.

use bytes::Bytes;
use cowback_base::{BLOCK_SIZE, ByteRange, Bytenr, Ino};
use cowback_btrfs_disk::items::{CompressionCode, DiskRange, FileExtent, FileExtentData};
use cowback_btrfs_disk::{ItemKind, Key};
use cowback_extent_io::store::{
    Compression, DiskExtent, FinishedExtent, InlineExtent, OrderedKind, WrittenExtent,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::mock::{DIR, FILE, FS, Mock, make};
use super::{
    AttrChange, Pending, RenameMode, XattrMode, csums, dir, extents, inode, orphan, rename,
    symlink, xattr,
};

const B: u64 = BLOCK_SIZE;
const ROOT: Ino = Ino::ROOT;

/// A tree with something of every kind; inodes 257 to 262.
fn sample() -> Mock {
    let mut mock = Mock::new();
    let sub = make(&mut mock, ROOT, b"sub", &DIR);
    let file = make(&mut mock, sub, b"file", &FILE);
    let other = make(&mut mock, sub, b"other", &FILE);
    dir::link(&mut mock, FS, file, ROOT, b"again").unwrap();
    symlink::create(&mut mock, FS, ROOT, b"link", Ino(260), &FILE, b"target").unwrap();
    xattr::set(&mut mock, FS, file, b"user.a", b"value", XattrMode::Any).unwrap();
    for (ino, offset, bytenr) in [(file, 0, 1 << 30), (file, 8 * B, 2 << 30), (other, B, 3 << 30)] {
        let shown = DiskRange { bytenr, disk_len: 4 * B, offset: 0, num_bytes: 4 * B };
        let data = FileExtentData::Regular(shown);
        let compression = CompressionCode::None;
        let extent = FileExtent { generation: 7, ram_bytes: 4 * B, compression, data };
        let held = extents::insert(&mut mock, FS, ino, offset, &extent).unwrap();
        let mut item = inode::load(&mock, FS, ino).unwrap();
        item.nbytes += held;
        inode::save(&mut mock, FS, ino, &mut item).unwrap();
        csums::replace(&mut mock, ByteRange::at(bytenr, 16384), &[5; 16]).unwrap();
    }
    make(&mut mock, ROOT, b"gone", &FILE);
    dir::unlink(&mut mock, FS, ROOT, b"gone").unwrap();
    mock.check();
    mock
}

#[derive(Debug, Clone)]
enum Harm {
    Flip(prop::sample::Index, prop::sample::Index, u8),
    Set(prop::sample::Index, prop::sample::Index, u8),
    Cut(prop::sample::Index, prop::sample::Index),
    Drop(prop::sample::Index),
    Move(prop::sample::Index, u64, u8, u64),
}

fn any_harm() -> impl Strategy<Value = Harm> {
    let at = any::<prop::sample::Index>;
    let objectid = prop::sample::select(vec![0, 1, 255, 256, 257, 258, 259, u64::MAX]);
    let kind = prop::sample::select(vec![1u8, 12, 13, 24, 48, 84, 96, 108, 128]);
    let offset = prop::sample::select(vec![
        0,
        1,
        2,
        256,
        B,
        3 * B,
        u64::MAX,
        u64::MAX - 1,
        u64::MAX - B + 1,
        u64::MAX - 5 * B + 1,
    ]);
    prop_oneof![
        4 => (at(), at(), any::<u8>()).prop_map(|(item, at, bits)| Harm::Flip(item, at, bits)),
        4 => (at(), at(), prop::sample::select(vec![0u8, 0xff, 0x7f, 0x80]))
            .prop_map(|(item, at, byte)| Harm::Set(item, at, byte)),
        1 => (at(), at()).prop_map(|(item, at)| Harm::Cut(item, at)),
        1 => at().prop_map(Harm::Drop),
        3 => (at(), objectid, kind, offset).prop_map(|(item, o, k, f)| Harm::Move(item, o, k, f)),
    ]
}

fn inflict(mock: &mut Mock, harm: &Harm) {
    let pick = |mock: &Mock, at: &prop::sample::Index| {
        let keys: Vec<_> = mock.items.keys().copied().collect();
        *at.get(&keys)
    };
    match harm {
        Harm::Flip(item, at, bits) => {
            let key = pick(mock, item);
            if let Some(data) = mock.items.get_mut(&key).filter(|data| !data.is_empty()) {
                let at = at.index(data.len());
                data[at] ^= bits;
            }
        }
        Harm::Set(item, at, byte) => {
            let key = pick(mock, item);
            if let Some(data) = mock.items.get_mut(&key).filter(|data| !data.is_empty()) {
                let at = at.index(data.len());
                data[at..].iter_mut().take(8).for_each(|to| *to = *byte);
            }
        }
        Harm::Cut(item, at) => {
            let key = pick(mock, item);
            if let Some(data) = mock.items.get_mut(&key).filter(|data| !data.is_empty()) {
                data.truncate(at.index(data.len()));
            }
        }
        Harm::Drop(item) => {
            let key = pick(mock, item);
            mock.items.remove(&key);
        }
        Harm::Move(item, objectid, kind, offset) => {
            let key = pick(mock, item);
            let data = mock.items[&key].clone();
            mock.items.insert((key.0, Key::new(*objectid, ItemKind(*kind), *offset)), data);
        }
    }
}

/// One operation of each sort on each inode; what they say is of no interest here.
fn exercise(mock: &mut Mock) {
    let inodes: Vec<Ino> = (255..263).map(Ino).collect();
    for &ino in &inodes {
        let _ = inode::read(mock, FS, ino);
        let _ = dir::read_dir(mock, FS, ino, 0, 100);
        let _ = dir::parent(mock, FS, ino);
        let _ = dir::names_of(mock, FS, ino);
        let _ = symlink::read(mock, FS, ino);
        let _ = xattr::list(mock, FS, ino);
        let _ = xattr::get(mock, FS, ino, b"user.a");
        let _ = xattr::set(mock, FS, ino, b"user.a", b"new", XattrMode::Any);
        let change = AttrChange { mode: Some(0o600), ..AttrChange::default() };
        let _ = inode::set_attr(mock, FS, ino, &change);
        for name in [&b"sub"[..], b"file", b"other", b"again", b"link", b".."] {
            let _ = dir::lookup(mock, FS, ino, name);
        }
        for offset in [0, B, 9 * B, u64::MAX - B] {
            let _ = extents::lookup(mock, FS, ino, offset);
        }
    }
    if let Ok(new) = inode::next_ino(mock, FS, 0) {
        let _ = dir::create(mock, FS, Ino(257), b"new", new, &FILE);
    }
    let _ = rename(mock, FS, (ROOT, b"sub"), (Ino(257), b"x"), RenameMode::Replace);
    let _ = rename(mock, FS, (Ino(257), b"file"), (ROOT, b"again"), RenameMode::Exchange);
    let _ = rename(mock, FS, (ROOT, b"again"), (Ino(257), b"other"), RenameMode::Replace);
    let _ = dir::link(mock, FS, Ino(258), ROOT, b"third");
    let _ = extents::punch(mock, FS, Ino(258), ByteRange::new(B, 2 * B));
    let _ = extents::truncate(mock, FS, Ino(259), 2 * B + 5);
    complete(mock);
    let _ = dir::unlink(mock, FS, ROOT, b"link");
    let _ = dir::unlink(mock, FS, Ino(257), b"other");
    let _ = dir::rmdir(mock, FS, ROOT, b"sub");
    let _ = orphan::list(mock, FS);
    for &ino in &inodes {
        let _ = orphan::evict(mock, FS, ino, 1000);
    }
    for bytenr in [1 << 30, 2 << 30, 3 << 30] {
        let _ = csums::lookup(mock, ByteRange::at(bytenr, 4 * B));
        let _ = csums::delete(mock, ByteRange::at(bytenr + B, 2 * B));
    }
}

fn complete(mock: &mut Mock) {
    let mut pending = Pending::default();
    let extent = DiskExtent { bytenr: Bytenr(4 << 30), len: 2 * B, kind: OrderedKind::Regular };
    pending.finish(FinishedExtent {
        ino: Ino(258),
        range: ByteRange::at(9 * B, 2 * B),
        written: WrittenExtent { extent, sums: vec![1; 8] },
        compression: Compression::None,
    });
    let data = Bytes::from_static(b"inline");
    let inline = InlineExtent { ram_bytes: 6, compression: Compression::None, data };
    let _ = pending.finish_inline(Ino(259), inline, mock.max_item);
    for ino in [258, 259].map(Ino) {
        for offset in [0, 9 * B, 10 * B, 11 * B] {
            let _ = pending.lookup(mock, FS, ino, offset);
        }
        let _ = pending.apply_inode(mock, FS, ino);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_harm_to_the_items_makes_an_operation_panic(harms in vec(any_harm(), 1..5)) {
        let mut mock = sample();
        for harm in &harms {
            inflict(&mut mock, harm);
        }
        exercise(&mut mock);
    }
}

#[test]
fn without_harm_the_operations_leave_a_sound_tree() {
    let mut mock = sample();
    exercise(&mut mock);
    mock.check();
    assert!(orphan::list(&mock, FS).unwrap().is_empty());
}
