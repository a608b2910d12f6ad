//! A device that fails: the store stops with the reason, and what was committed before is there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{FILE, fixed, read, set_size, write};
use cowback_base::{BLOCK_SIZE, ByteRange, Ino};
use cowback_block_store::namespace::NamespaceError;
use cowback_block_store::{BlockDevice, MemoryDevice, OpenOptions, Store};
use cowback_extent_io::store::{ExtentStore, PreallocMode, StoreError};

/// Fails every write or flush once its count of them has run out, and likewise every read.
#[derive(Debug)]
struct Failing {
    memory: MemoryDevice,
    left: AtomicU64,
    reads_left: AtomicU64,
}

impl Failing {
    fn new() -> Arc<Self> {
        let [left, reads_left] = [(); 2].map(|()| AtomicU64::new(u64::MAX));
        Arc::new(Self { memory: MemoryDevice::new(0), left, reads_left })
    }

    fn use_up(count: &AtomicU64) -> io::Result<()> {
        let left = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        left.map(drop).map_err(|_| io::Error::other("the device is gone"))
    }
}

impl BlockDevice for Failing {
    as_memory!(len, set_len);

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        Self::use_up(&self.reads_left)?;
        self.memory.read_at(offset, buf)
    }

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        Self::use_up(&self.left)?;
        self.memory.write_vectored_at(offset, parts)
    }

    fn flush(&self) -> io::Result<()> {
        Self::use_up(&self.left)?;
        self.memory.flush()
    }
}

#[test]
fn a_commit_that_fails_anywhere_leaves_the_one_before_or_is_whole() {
    let old = vec![1; 9000];
    let new = vec![2; 20_000];
    for most in 0.. {
        let device = Failing::new();
        let store = Store::format(Arc::clone(&device) as _, &fixed(32 << 20)).unwrap();
        let (ino, _) = store.create(Ino::ROOT, b"file", &FILE).unwrap();
        write(&store, ino, 0, &old).unwrap();
        set_size(&store, ino, old.len() as u64);
        store.commit().unwrap();
        device.left.store(most, Ordering::Relaxed);
        let done = write(&store, ino, 0, &new).and_then(|()| {
            set_size(&store, ino, new.len() as u64);
            store.create(Ino::ROOT, b"second", &FILE).unwrap();
            store.commit()
        });
        let failed = done.is_err();
        device.left.store(u64::MAX, Ordering::Relaxed);
        if failed && store.read_only_reason().is_some() {
            assert!(store.read_only_reason().unwrap().contains("the device is gone"));
            let refused = store.create(Ino::ROOT, b"third", &FILE);
            assert!(matches!(refused, Err(NamespaceError::Store(StoreError::ReadOnly { .. }))));
            assert!(matches!(store.commit(), Err(StoreError::ReadOnly { .. })));
            // What is in memory can still be read.
            assert!(read(&store, ino) == new);
        }
        drop(store);
        let store = Store::open(device, &OpenOptions::default()).unwrap();
        let there = store.lookup(Ino::ROOT, b"second").is_ok();
        assert!(read(&store, ino) == if there { &new[..] } else { &old[..] }, "after {most}");
        if !failed {
            assert!(there && most >= 5);
            break;
        }
    }
}

#[test]
fn a_failed_data_write_gives_the_extent_back() {
    let device = Failing::new();
    let store = Store::format(Arc::clone(&device) as _, &fixed(32 << 20)).unwrap();
    let (ino, _) = store.create(Ino::ROOT, b"file", &FILE).unwrap();
    write(&store, ino, 0, &[3; 4096]).unwrap();
    let free = store.stats().data.free;
    device.left.store(0, Ordering::Relaxed);
    let error = write(&store, ino, 0, &[4; 8192]).unwrap_err();
    assert!(matches!(error, StoreError::Io { op: "write", .. }), "{error}");
    device.left.store(u64::MAX, Ordering::Relaxed);
    assert_eq!((store.stats().data.free, store.stats().data.promised), (free, 0));
    assert_eq!(store.read_only_reason(), None);
    write(&store, ino, 0, &[5; 8192]).unwrap();
    set_size(&store, ino, 8192);
    store.commit().unwrap();
    assert_eq!(read(&store, ino), [5; 8192]);
}

#[test]
fn a_bad_copy_is_read_from_the_other_and_two_bad_copies_are_named() {
    let device = Arc::new(MemoryDevice::new(0));
    let store = Store::format(Arc::clone(&device) as _, &fixed(64 << 20)).unwrap();
    let (ino, _) = store.create(Ino::ROOT, b"file", &FILE).unwrap();
    write(&store, ino, 0, &[6; 40_960]).unwrap();
    set_size(&store, ino, 40_960);
    store.commit().unwrap();
    drop(store);
    let image = device.to_vec();
    let root = {
        let opened = Store::open(Arc::clone(&device) as _, &OpenOptions::default()).unwrap();
        opened.superblock().root
    };
    // Every place where the block of the root tree stands: header and address are unmistakable.
    let copies: Vec<u64> = (0..image.len() as u64 / 4096)
        .map(|block| block * 4096)
        .filter(|at| {
            let at = usize::try_from(*at).unwrap();
            image[at + 48..at + 56] == root.to_le_bytes() && image[at + 64..at + 72] != *b"_BHRfS_M"
        })
        .collect();
    assert_eq!(copies.len(), 2);
    device.write_at(copies[0] + 200, &[0xff; 8]).unwrap();
    let reading = OpenOptions { read_only: true, ..OpenOptions::default() };
    let store = Store::open(Arc::clone(&device) as _, &reading).unwrap();
    assert_eq!(read(&store, ino), [6; 40_960]);
    drop(store);
    device.write_at(copies[1] + 200, &[0xff; 8]).unwrap();
    let error = Store::open(Arc::clone(&device) as _, &OpenOptions::default()).unwrap_err();
    assert!(matches!(&error, StoreError::NoGoodCopy { at, .. } if *at == root), "{error}");
}

#[test]
fn a_tree_that_cannot_be_read_for_a_while_loses_no_completed_write() {
    let device = Failing::new();
    let store = Store::format(Arc::clone(&device) as _, &fixed(64 << 20)).unwrap();
    let (ino, _) = store.create(Ino::ROOT, b"file", &FILE).unwrap();
    // So many extents that the inode and the end of the file are in leaves of their own.
    for number in 0..1500_u64 {
        write(&store, ino, number * 8192, &[1; 4096]).unwrap();
    }
    set_size(&store, ino, 1500 * 8192);
    store.commit().unwrap();
    let mut old = read(&store, ino);
    drop(store);
    let size = 1000 * 8192;
    old.truncate(size);
    old[4096..8192].fill(2);
    let mut outlived = 0;
    for reads in 0.. {
        let store = Store::open(Arc::clone(&device) as _, &OpenOptions::default()).unwrap();
        write(&store, ino, 4096, &[2; 4096]).unwrap();
        device.reads_left.store(reads, Ordering::Relaxed);
        let done = store.truncate(ino, size as u64);
        device.reads_left.store(u64::MAX, Ordering::Relaxed);
        if store.read_only_reason().is_some() {
            continue;
        }
        if done.is_err() {
            outlived += 1;
            store.truncate(ino, size as u64).unwrap();
        }
        store.commit().unwrap();
        assert!(read(&store, ino) == old, "after {reads} reads");
        if done.is_ok() {
            break;
        }
        // As before, for the next round.
        for number in 1000..1500_u64 {
            write(&store, ino, number * 8192, &[1; 4096]).unwrap();
        }
        set_size(&store, ino, 1500 * 8192);
        store.punch(ino, cowback_base::ByteRange::new(4096, 8192)).unwrap();
        store.commit().unwrap();
    }
    assert!(outlived >= 3, "{outlived}");
}

#[test]
fn a_commit_that_could_read_nothing_changes_nothing_and_the_next_one_has_it_all() {
    let device = Failing::new();
    let store = Store::format(Arc::clone(&device) as _, &fixed(256 << 20)).unwrap();
    let (ino, _) = store.create(Ino::ROOT, b"file", &FILE).unwrap();
    // So many that they are in several leaves.
    for number in 0..2000 {
        let block = ByteRange::at(2 * number * BLOCK_SIZE, BLOCK_SIZE);
        store.prealloc_extents(ino, block, PreallocMode::Keep).unwrap();
    }
    set_size(&store, ino, 4000 * BLOCK_SIZE);
    store.commit().unwrap();
    drop(store);
    let store = Store::open(Arc::clone(&device) as _, &OpenOptions::default()).unwrap();
    store.inode(ino).unwrap();
    // The second one supersedes the first, whose space is to be given back.
    for byte in [1, 2] {
        write(&store, ino, 3001 * BLOCK_SIZE, &[byte; 4096]).unwrap();
    }
    let before = store.stats();
    device.reads_left.store(0, Ordering::Relaxed);
    for _ in 0..2 {
        let error = store.commit().unwrap_err();
        assert!(error.to_string().contains("the device is gone"), "{error}");
        assert_eq!(store.read_only_reason(), None);
        let after = store.stats();
        assert_eq!((after.data, after.pending_extents), (before.data, before.pending_extents));
    }
    device.reads_left.store(u64::MAX, Ordering::Relaxed);
    store.commit().unwrap();
    store.commit().unwrap();
    drop(store);
    let store = Store::open(device, &OpenOptions::default()).unwrap();
    assert_eq!(read(&store, ino)[3001 * 4096..3002 * 4096], [2; 4096]);
}
