//! What cannot be had from outside: trees in a state that only others leave them in.

use std::sync::Arc;

use cowback_base::{BLOCK_SIZE, ByteRange, Ino};
use cowback_btrfs_disk::hash::data_ref_hash;
use cowback_btrfs_disk::items::{FileExtent, FileExtentData, RootItem};
use cowback_btrfs_disk::{ItemKind, Key};

use super::*;
use crate::device::MemoryDevice;
use crate::namespace::inode::inode_flags;
use crate::namespace::{LinkMode, NewInode, RenameMode, extents, inode};
use crate::reserve::{MOST_NOTED, STEP_EXTENTS};
use crate::trees::Trees;
use cowback_btrfs_disk::TreeId;
use cowback_extent_io::store::{ExtentStore, PreallocMode};

mod bitmaps;
mod last_chunk;
mod stop;

const FILE: NewInode = NewInode { mode: 0o100_644, uid: 0, gid: 0, rdev: 0, flags: 0 };

fn formatted() -> (Arc<MemoryDevice>, Store) {
    let device = Arc::new(MemoryDevice::new(0));
    let options = FormatOptions { total_bytes: 64 << 20, grow: false, ..FormatOptions::default() };
    let store = Store::format(Arc::clone(&device) as _, &options).unwrap();
    (device, store)
}

/// What [`Store::read_dir`] tells by whether a directory stayed as it was between two looks.
#[test]
fn a_directory_has_another_version_after_each_change_of_its_entries() {
    let (_, store) = formatted();
    let make = |dir, name: &[u8]| store.create(dir, name, &FILE).unwrap().0;
    let dir = NewInode { mode: 0o040_755, ..FILE };
    let (elsewhere, _) = store.create(Ino::ROOT, b"elsewhere", &dir).unwrap();
    let file = make(elsewhere, b"file");
    let mut last = None;
    let mut changed = |what: &str| {
        let version = store.look(|trees, tree| inode::version(trees, tree, Ino::ROOT)).unwrap();
        assert!(last.replace(version) != Some(version), "{what}");
    };
    changed("at first");
    make(Ino::ROOT, b"a");
    changed("made");
    store.link(file, Ino::ROOT, b"b").unwrap();
    changed("linked");
    let over = LinkMode { replace: true, ..LinkMode::default() };
    store.link_as(file, (Ino::ROOT, b"a"), over).unwrap();
    changed("linked over another");
    make(Ino::ROOT, b"c");
    changed("made");
    store.rename((Ino::ROOT, b"c"), (Ino::ROOT, b"a"), RenameMode::Replace).unwrap();
    changed("renamed over another");
    make(elsewhere, b"new");
    store.rename((elsewhere, b"new"), (Ino::ROOT, b"a"), RenameMode::Replace).unwrap();
    changed("renamed over another from elsewhere");
    store.rename((Ino::ROOT, b"a"), (elsewhere, b"a"), RenameMode::Replace).unwrap();
    changed("renamed to elsewhere");
    store.unlink(Ino::ROOT, b"b").unwrap();
    changed("removed");
    store.rmdir(Ino::ROOT, b"elsewhere").unwrap_err();
    store.unlink(elsewhere, b"a").unwrap();
    store.unlink(elsewhere, b"file").unwrap();
    store.rmdir(Ino::ROOT, b"elsewhere").unwrap();
    changed("a directory removed");
}

#[test]
fn a_volume_with_a_subvolume_under_deletion_is_not_shrunk_and_goes_on() {
    let (device, store) = formatted();
    {
        let mut state = store.state.write();
        let data = state.get(TreeId::ROOT, &Key::new(5, ItemKind::ROOT_ITEM, 0)).unwrap().unwrap();
        let dead = RootItem { refs: 0, ..RootItem::parse(&data).unwrap() };
        let key = Key::new(300, ItemKind::ROOT_ITEM, 0);
        state.insert(TreeId::ROOT, key, &dead.to_bytes()).unwrap();
    }
    store.commit().unwrap();
    drop(store);
    let store = Store::open(device, &OpenOptions::default()).unwrap();
    let error = store.shrink_to_fit(crate::Fit::Tight).unwrap_err();
    assert!(error.to_string().contains("subvolume 300"), "{error}");
    assert_eq!(store.read_only_reason(), None);
    store.create(Ino::ROOT, b"file", &FILE).unwrap();
    store.commit().unwrap();
}

/// Two places, of files from `first` on, whose references have the same hash: inode, and byte in the file.
fn same_hash(first: Ino) -> [(Ino, u64); 2] {
    let mut seen = std::collections::HashMap::new();
    // Far apart, as those of a few neighbours differ. The first blocks are taken.
    let block = |number: u64| 64 + (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
    for number in 0..1 << 20 {
        let (ino, offset) = (Ino(first.0 + number % 4), block(number) * BLOCK_SIZE);
        let hash = data_ref_hash(TreeId::FS.0, ino.0, offset);
        if let Some(other) = seen.insert(hash, (ino, offset)) {
            return [other, (ino, offset)];
        }
    }
    panic!("a million places, and no two with one hash of 32 bits");
}

/// Has byte `offset` of a file show the block that byte 0 of the file `of` shows.
fn share(store: &Store, of: Ino, (ino, offset): (Ino, u64)) {
    let mut state = store.state.write();
    let tree = state.tree;
    let (_, extent) = extents::item_at(&*state, tree, of, 0).unwrap().unwrap();
    let added = extents::insert(&mut *state, tree, ino, offset, &extent).unwrap();
    let mut item = inode::load(&*state, tree, ino).unwrap();
    (item.nbytes, item.size) = (item.nbytes + added, item.size.max(offset + BLOCK_SIZE));
    inode::save(&mut *state, tree, ino, &mut item).unwrap();
}

fn sound(device: &Arc<MemoryDevice>) {
    let mut problems = Vec::new();
    crate::check::check(&**device, true, &mut |problem| problems.push(problem.to_string()))
        .unwrap();
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn of_references_with_one_hash_the_second_is_found_when_the_first_is_gone() {
    let (device, store) = formatted();
    let flags = inode_flags::NODATACOW | inode_flags::NODATASUM | inode_flags::PREALLOC;
    let files = [b"a", b"b", b"c", b"d"];
    let files = files.map(|name| store.create(Ino::ROOT, name, &NewInode { flags, ..FILE }));
    let first = files[0].as_ref().unwrap().0;
    let block = ByteRange::new(0, BLOCK_SIZE);
    store.prealloc_extents(first, block, PreallocMode::Keep).unwrap();
    // So many that no more have room in the extent's item.
    (1..60).for_each(|block| share(&store, first, (first, block * BLOCK_SIZE)));
    store.commit().unwrap();
    let [a, b] = same_hash(first);
    let drop_it = |(ino, offset)| {
        store.punch(ino, ByteRange::at(offset, BLOCK_SIZE)).unwrap();
        store.commit().unwrap();
        sound(&device);
    };
    for [a, b] in [[a, b], [b, a]] {
        share(&store, first, a);
        store.commit().unwrap();
        share(&store, first, b);
        store.commit().unwrap();
        sound(&device);
        drop_it(a);
        // Its place is free, and it comes again before the other.
        share(&store, first, a);
        store.commit().unwrap();
        sound(&device);
        drop_it(a);
        drop_it(b);
    }
    let shown = |ino| match extents::item_at(&*store.state.read(), TreeId::FS, ino, 0).unwrap() {
        Ok((_, FileExtent { data: FileExtentData::Prealloc(shown), .. })) => shown,
        other => panic!("{other:?}"),
    };
    let key = Key::new(shown(first).bytenr, ItemKind::EXTENT_DATA_REF, 0);
    let keyed = store.state.read().at_or_after(TreeId::EXTENT, &key).unwrap();
    assert_eq!(keyed.map(|(key, _)| key.objectid), Some(shown(first).bytenr), "some are keyed");
}

#[test]
fn a_file_of_very_many_extents_is_removed_over_several_commits() {
    let device = Arc::new(MemoryDevice::new(0));
    let store = Store::format(Arc::clone(&device) as _, &FormatOptions::default()).unwrap();
    let ino = store.create(Ino::ROOT, b"file", &FILE).unwrap().0;
    let extents = MOST_NOTED + 3 * STEP_EXTENTS;
    for block in 0..extents {
        let block = ByteRange::at(block * BLOCK_SIZE, BLOCK_SIZE);
        store.prealloc_extents(ino, block, PreallocMode::Keep).unwrap();
    }
    store.commit().unwrap();
    store.unlink(Ino::ROOT, b"file").unwrap();
    store.evict(ino).unwrap();
    let noted = store.state.read().refs.data.len() as u64;
    assert!(noted <= MOST_NOTED + STEP_EXTENTS, "{noted}");
    assert_eq!(store.orphans().unwrap(), [ino], "it is not all gone");
    store.commit().unwrap();
    assert_eq!(store.orphans().unwrap(), []);
    store.commit().unwrap();
    store.sync_super_copies().unwrap();
    sound(&device);
}
