//! A commit that runs out of metadata space at its last step, on a volume that grows.

use std::sync::Arc;

use cowback_base::{BLOCK_SIZE, ByteRange, Ino};
use cowback_extent_io::store::{ExtentStore, PreallocMode};

use crate::namespace::{NewInode, XattrMode};
use crate::space::Class;
use crate::{BlockDevice, Clock, FormatOptions, MemoryDevice, OpenOptions, Profile, Store};

const FILE: NewInode = NewInode { mode: 0o100_644, uid: 0, gid: 0, rdev: 0, flags: 0 };
const MIB: u64 = 1 << 20;
const CLOCK: Clock = Clock::Fixed { sec: 1, nsec: 0 };

/// Extents of a block each of the file `a` at first; then every other one goes.
const EXTENTS: u64 = 16_000;

/// A volume whose free space tree has some thirty leaves for data, and its files `a`, of single blocks, and `b`, empty.
fn with_holes() -> (Arc<MemoryDevice>, [Ino; 2]) {
    let device = Arc::new(MemoryDevice::new(0));
    let options = FormatOptions { metadata: Profile::Single, clock: CLOCK, ..Default::default() };
    let store = Store::format(Arc::clone(&device) as _, &options).unwrap();
    let files = [b"a", b"b"].map(|name| store.create(Ino::ROOT, name, &FILE).unwrap().0);
    let block = |number: u64| ByteRange::at(number * BLOCK_SIZE, BLOCK_SIZE);
    for number in 0..EXTENTS {
        store.prealloc_extents(files[0], block(number), PreallocMode::Keep).unwrap();
    }
    store.commit().unwrap();
    for number in (0..EXTENTS).step_by(2) {
        store.punch(files[0], block(number)).unwrap();
    }
    // Room for what a trial does.
    let mut name = 0;
    while store.stats().metadata.free < 12 * MIB {
        fill(&store, "room", name, name + 100);
        name += 100;
        store.commit().unwrap();
    }
    store.sync_super_copies().unwrap();
    (device, files)
}

/// Makes files that take a block of metadata each.
fn fill(store: &Store, prefix: &str, from: u64, to: u64) {
    for number in from..to {
        let name = format!("{prefix}{number}");
        let (ino, _) = store.create(Ino::ROOT, name.as_bytes(), &FILE).unwrap();
        store.set_xattr(ino, b"user.x", &[3; 12_000], XattrMode::Any).unwrap();
    }
}

fn copy_of(device: &MemoryDevice) -> Arc<MemoryDevice> {
    let bytes = device.to_vec();
    let copy = MemoryDevice::new(bytes.len() as u64);
    let zeros = vec![0; 1 << 20];
    for (at, piece) in (0..).step_by(1 << 20).zip(bytes.chunks(1 << 20)) {
        if piece != &zeros[..piece.len()] {
            copy.write_at(at, piece).unwrap();
        }
    }
    Arc::new(copy)
}

/// Changes many leaves of the free space tree, makes a chunk for data, and `more` blocks of metadata.
fn change(store: &Store, [a, b]: [Ino; 2], more: u64) {
    for number in (1..EXTENTS).step_by(400) {
        store.punch(a, ByteRange::at(number * BLOCK_SIZE, BLOCK_SIZE)).unwrap();
    }
    let chunk = store.stats().data.free + MIB;
    let whole = ByteRange::new(0, chunk / BLOCK_SIZE * BLOCK_SIZE);
    store.prealloc_extents(b, whole, PreallocMode::Keep).unwrap();
    fill(store, "more", 0, more);
}

/// Takes all free blocks of metadata but the `keep` that come next.
fn drain(store: &Store, keep: usize) {
    let mut state = store.state.write();
    let nodesize = state.forest.nodesize() as u64;
    let total = state.space.pool(Class::Metadata).total;
    let mut taken = Vec::new();
    while state.space.pool(Class::Metadata).free.bytes() > 0 {
        taken.push(state.space.alloc(Class::Metadata, nodesize, nodesize).unwrap());
    }
    for range in taken.into_iter().take(keep) {
        state.space.free_now(range).unwrap();
    }
    assert_eq!(state.space.pool(Class::Metadata).total, total);
}

/// Blocks of metadata that are free.
fn free_blocks(store: &Store) -> usize {
    let state = store.state.read();
    let free = state.space.pool(Class::Metadata).free.bytes();
    usize::try_from(free).unwrap() / state.forest.nodesize()
}

#[test]
fn a_chunk_that_the_last_step_of_a_commit_makes_is_in_the_device_item() {
    let (base, files) = with_holes();
    let open = |device: &Arc<MemoryDevice>| {
        let options = OpenOptions { grow: true, clock: CLOCK, ..OpenOptions::default() };
        Store::open(Arc::clone(device) as _, &options).unwrap()
    };
    let mut made = 0;
    // The items of the leaves of the free space tree are the last that come; somewhere here they split a leaf of the extent tree.
    for more in (0..300).step_by(24) {
        let store = open(&copy_of(&base));
        change(&store, files, more);
        let before = free_blocks(&store);
        store.state.write().settle().unwrap();
        let takes = before - free_blocks(&store);
        drop(store);
        let device = copy_of(&base);
        let store = open(&device);
        change(&store, files, more);
        drain(&store, takes - 1);
        let total = store.stats().metadata.total;
        store.commit().unwrap();
        let (stats, superblock) = (store.stats(), store.superblock());
        made += usize::from(stats.metadata.total > total);
        assert_eq!(superblock.dev_item.total_bytes, stats.total_bytes, "{more}");
        let used = stats.total_bytes - stats.unallocated;
        assert_eq!(superblock.dev_item.bytes_used, used, "{more}");
        store.sync_super_copies().unwrap();
        drop(store);
        super::sound(&device);
        open(&device);
    }
    assert!(made > 0, "a commit made a chunk for metadata");
}
