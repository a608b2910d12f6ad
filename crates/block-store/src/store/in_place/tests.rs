//! Who else sees an extent, made by hand: there is no operation that would give an extent one more reference.

use super::*;
use crate::device::MemoryDevice;
use crate::format::FormatOptions;
use crate::namespace::NewInode;
use std::sync::Arc;

const B: u64 = BLOCK_SIZE;
const NOCOW: u64 = inode_flags::NODATACOW | inode_flags::NODATASUM;

fn store() -> Store {
    let options = FormatOptions { total_bytes: 64 << 20, grow: false, ..FormatOptions::default() };
    Store::format(Arc::new(MemoryDevice::new(0)), &options).unwrap()
}

fn file(store: &Store, name: &str) -> Ino {
    let new = NewInode { mode: 0o100_644, uid: 0, gid: 0, rdev: 0, flags: NOCOW };
    store.create(Ino::ROOT, name.as_bytes(), &new).unwrap().0
}

fn blocks(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start * B, end * B)
}

/// Whether the first block of `range` may be overwritten.
fn may(store: &Store, ino: Ino, range: ByteRange) -> bool {
    store.state.read().in_place(ino, range).unwrap().extent.is_some()
}

/// Has `other` show at `to` what `ino` shows at `from`, up to the end of the item.
fn share(store: &Store, ino: Ino, from: u64, other: Ino, to: u64) {
    let mut state = store.state.write();
    let tree = state.tree;
    let (key, mut extent) = extents::item_at(&*state, tree, ino, from * B).unwrap().unwrap();
    if let FileExtentData::Regular(shown) | FileExtentData::Prealloc(shown) = &mut extent.data {
        let skip = from * B - key.offset;
        shown.offset += skip;
        shown.num_bytes -= skip;
    }
    let added = extents::insert(&mut *state, tree, other, to * B, &extent).unwrap();
    let mut item = inode::load(&*state, tree, other).unwrap();
    item.nbytes += added;
    inode::save(&mut *state, tree, other, &mut item).unwrap();
}

/// Makes `range` of the file written, as a write in place does.
fn write(store: &Store, ino: Ino, range: ByteRange) {
    let mut state = store.state.write();
    let tree = state.tree;
    let found = state.in_place(ino, range).unwrap().extent.unwrap();
    prealloc::mark_written(&mut *state, tree, ino, range, found.bytenr).unwrap();
}

#[test]
fn an_extent_that_another_file_shows_is_not_overwritten() {
    let store = store();
    let (ino, other) = (file(&store, "a"), file(&store, "b"));
    store.prealloc(ino, blocks(0, 8), PreallocMode::Keep).unwrap();
    write(&store, ino, blocks(4, 8));
    share(&store, ino, 6, other, 0);
    for committed in [false, true] {
        // The whole extent is shared, whichever part of it the other one shows.
        for range in [blocks(0, 4), blocks(4, 8)] {
            assert!(!may(&store, ino, range), "{range}, committed: {committed}");
        }
        assert!(!may(&store, other, blocks(0, 2)), "committed: {committed}");
        store.commit().unwrap();
    }
    store.punch(other, blocks(0, 8)).unwrap();
    // After a crash the other one would show it still: until the commit is durable.
    assert!(!may(&store, ino, blocks(0, 4)) && !may(&store, ino, blocks(4, 8)));
    while store.state.write().step_ahead().unwrap() {
        assert!(!may(&store, ino, blocks(0, 4)) && !may(&store, ino, blocks(4, 8)));
    }
    let captured = store.capture().unwrap();
    assert!(!may(&store, ino, blocks(0, 4)) && !may(&store, ino, blocks(4, 8)));
    captured.write().unwrap();
    assert!(may(&store, ino, blocks(0, 4)) && may(&store, ino, blocks(4, 8)), "its own again");
}

#[test]
fn an_extent_that_the_same_file_shows_elsewhere_is_not_overwritten() {
    let store = store();
    let ino = file(&store, "a");
    store.prealloc(ino, blocks(0, 4), PreallocMode::Keep).unwrap();
    store.commit().unwrap();
    assert!(may(&store, ino, blocks(0, 4)));
    share(&store, ino, 0, ino, 10);
    for _ in 0..2 {
        assert!(!may(&store, ino, blocks(0, 4)) && !may(&store, ino, blocks(10, 14)));
        store.commit().unwrap();
    }
}

#[test]
fn what_is_as_old_as_a_snapshot_is_not_overwritten_and_what_is_newer_is() {
    let store = store();
    let ino = file(&store, "a");
    store.prealloc(ino, blocks(0, 4), PreallocMode::Keep).unwrap();
    store.commit().unwrap();
    assert!(may(&store, ino, blocks(0, 4)));
    {
        let mut state = store.state.write();
        let (tree, generation) = (state.tree, state.superblock.generation);
        state.forest.roots.get_mut(&tree).unwrap().last_snapshot = generation;
    }
    assert!(!may(&store, ino, blocks(0, 4)));
    store.prealloc(ino, blocks(8, 12), PreallocMode::Keep).unwrap();
    assert!(may(&store, ino, blocks(8, 12)));
}

#[test]
fn what_has_checksums_or_is_to_have_some_is_not_overwritten() {
    let store = store();
    let ino = file(&store, "a");
    store.prealloc(ino, blocks(0, 4), PreallocMode::Keep).unwrap();
    write(&store, ino, blocks(0, 2));
    assert!(may(&store, ino, blocks(0, 2)) && may(&store, ino, blocks(2, 4)));
    let place = store.state.read().in_place(ino, blocks(1, 2)).unwrap().extent.unwrap();
    let size = store.disk.checksum.size();
    let range = ByteRange::at(place.bytenr.0, place.len);
    csums::replace(&mut *store.state.write(), range, &vec![7; size]).unwrap();
    assert!(!may(&store, ino, blocks(0, 2)) && may(&store, ino, blocks(0, 1)));
    // Overwritten in place, but with checksums: an older kernel's mistake.
    let flags = crate::namespace::AttrChange {
        flags: Some(inode_flags::NODATACOW),
        ..crate::namespace::AttrChange::default()
    };
    store.set_attr(ino, &flags).unwrap();
    assert!(!may(&store, ino, blocks(0, 1)) && may(&store, ino, blocks(2, 4)));
}
