//! Volumes with what others leave behind, and what is right though it looks wrong: they are written to all the same, and what is written is right.

use std::sync::Arc;

use cowback_base::{BLOCK_SIZE, ByteRange, Bytenr, Ino};
use cowback_block_store::namespace::NewInode;
use cowback_block_store::namespace::inode::inode_flags::{NODATACOW, NODATASUM};
use cowback_block_store::{OpenOptions, Profile, Store};
use cowback_btrfs_disk::{ChecksumKind, ItemKind, Key, TreeId, objectid};
use cowback_extent_io::store::{Compression, ExtentKind, ExtentStore, PreallocMode};

use crate::build::{self, FILE, file, set_size, text};
use crate::patched::Patched;
use crate::problems;
use crate::surgeon::Surgeon;

const B: u64 = BLOCK_SIZE;
const NOCOW: NewInode = NewInode { flags: NODATACOW | NODATASUM, ..FILE };

fn open(device: &Patched) -> Store {
    Store::open(Arc::new(device.clone()), &OpenOptions::default()).unwrap()
}

/// Where byte `offset` of a file is on disk.
fn place(store: &Store, ino: Ino, offset: u64) -> u64 {
    match store.lookup_extent(ino, offset).unwrap().kind {
        ExtentKind::Regular { disk_bytenr, .. } | ExtentKind::Prealloc { disk_bytenr, .. } => {
            disk_bytenr.0
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn checksums_of_free_space_are_in_nobodys_way() {
    let (memory, store) = build::format(Profile::Dup, ChecksumKind::Crc32c);
    let first = file(&store, Ino::ROOT, "first", &text(1, 4 * B), Compression::None);
    store.commit().unwrap();
    let free = place(&store, first, 0) + 4 * B;
    drop(store);
    let device = Patched::new(&Arc::new(memory.to_vec()));
    let surgeon = Surgeon::new(device.clone());
    let key = Key::new(objectid::EXTENT_CSUM, ItemKind::EXTENT_CSUM, free + 4 * B);
    surgeon.insert(TreeId::CSUM, key, vec![7; 4 * 36]);
    let (lines, _) = problems(&device);
    assert!(lines.iter().any(|line| line.contains("no extent holds")), "{lines:?}");

    let store = open(&device);
    let summed = file(&store, Ino::ROOT, "summed", &text(2, 16 * B), Compression::None);
    let (bare, _) = store.create(Ino::ROOT, b"bare", &NOCOW).unwrap();
    build::write(&store, bare, 0, &text(3, 16 * B), Compression::None);
    let (later, _) = store.create(Ino::ROOT, b"later", &FILE).unwrap();
    store.prealloc_extents(later, ByteRange::new(0, 16 * B), PreallocMode::Keep).unwrap();
    for (ino, at) in [(summed, 0), (bare, 16), (later, 32)] {
        set_size(&store, ino, 16 * B);
        assert_eq!(place(&store, ino, 0), free + at * B);
    }
    store.commit().unwrap();
    let claimed = store.claim_in_place(later, ByteRange::new(0, 16 * B)).unwrap();
    store.free_extent(claimed.extent.expect("no checksum speaks of it"));
    drop(store);
    let (lines, _) = problems(&device);
    assert!(lines.is_empty(), "{lines:#?}");
    let store = open(&device);
    for (ino, number) in [(summed, 2), (bare, 3)] {
        let mut data = vec![0; 16 * 4096];
        store.read_extent(ino, Bytenr(place(&store, ino, 0)), &mut data).unwrap();
        assert!(data == text(number, 16 * B), "{ino}");
    }
}

#[test]
fn checksums_under_a_file_that_has_none_are_not_asked() {
    let (memory, store) = build::format(Profile::Dup, ChecksumKind::Crc32c);
    let (bare, _) = store.create(Ino::ROOT, b"bare", &NOCOW).unwrap();
    build::write(&store, bare, 0, &text(3, 16 * B), Compression::None);
    set_size(&store, bare, 16 * B);
    store.commit().unwrap();
    let at = place(&store, bare, 0);
    drop(store);
    for (from, blocks) in [(at, 16), (at + 4 * B, 3)] {
        let device = Patched::new(&Arc::new(memory.to_vec()));
        let key = Key::new(objectid::EXTENT_CSUM, ItemKind::EXTENT_CSUM, from);
        Surgeon::new(device.clone()).insert(TreeId::CSUM, key, vec![7; 4 * blocks]);
        let mut data = vec![0; 16 * 4096];
        open(&device).read_extent(bare, Bytenr(at), &mut data).unwrap();
        assert!(data == text(3, 16 * B));
    }
}
