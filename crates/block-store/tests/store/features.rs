//! Features that a volume gains when it first needs them.

use std::sync::Arc;

use crate::images::mkfs;
use crate::support::{FILE, check, fixed, reopen};
use cowback_base::Ino;
use cowback_block_store::{BlockDevice, MemoryDevice, OpenOptions, Store};
use cowback_btrfs_disk::superblock::{Incompat, SUPER_LEN, Superblock};

const PRIMARY: u64 = 64 << 10;

/// Gives a file so many names in one directory that its references need more than one item.
fn link_often(store: &Store, dir: Ino) {
    let file = store.create(dir, b"file", &FILE).unwrap().0;
    for number in 0..100 {
        store.link(file, dir, format!("{number:0>250}").as_bytes()).unwrap();
    }
}

fn has_extref(store: &Store) -> bool {
    store.superblock().incompat.contains(Incompat::EXTENDED_IREF)
}

#[test]
fn a_volume_without_extended_references_has_the_feature_with_the_first_one() {
    let device = Arc::new(MemoryDevice::new(0));
    drop(Store::format(Arc::clone(&device) as _, &fixed(32 << 20)).unwrap());
    let mut bytes = vec![0; SUPER_LEN];
    device.read_at(PRIMARY, &mut bytes).unwrap();
    let mut superblock = Superblock::parse(&bytes, PRIMARY).unwrap();
    superblock.incompat = superblock.incompat.difference(Incompat::EXTENDED_IREF);
    device.write_at(PRIMARY, &superblock.to_bytes().unwrap()).unwrap();

    let open = || Store::open(Arc::clone(&device) as _, &OpenOptions::default()).unwrap();
    let store = open();
    store.create(Ino::ROOT, b"other", &FILE).unwrap();
    store.commit().unwrap();
    assert!(!has_extref(&store), "not before it is needed");
    link_often(&store, Ino::ROOT);
    store.commit().unwrap();
    drop(store);
    assert!(has_extref(&open()));
}

#[test]
fn what_mkfs_made_without_extended_references_gains_them_and_stays_sound() {
    let dir = tempfile::tempdir().unwrap();
    let (image, content) = (dir.path().join("image"), dir.path().join("content"));
    std::fs::create_dir(&content).unwrap();
    std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    if !mkfs(&image, &content, &["-O", "^extref"]) {
        return;
    }
    let store = reopen(&image);
    assert!(!has_extref(&store));
    link_often(&store, Ino::ROOT);
    store.commit().unwrap();
    store.sync_super_copies().unwrap();
    drop(store);
    assert!(has_extref(&reopen(&image)));
    check(&image);
}
