//! Shrinking, where chunks lie in unusual order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{FILE, check, fixed, new_file, read, reopen, set_size, write, write_inline};
use cowback_base::{ByteRange, Ino};
use cowback_block_store::{BlockDevice, Fit, MemoryDevice, OpenOptions, Store};
use cowback_extent_io::store::{ExtentStore, PreallocMode, StoreError};
use cowback_testkit::skipped;

const MIB: u64 = 1 << 20;

#[test]
fn free_space_is_right_where_a_metadata_chunk_follows_the_last_data_chunk() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (data, inline)) in
        [(3_u32, 5000_u32), (300, 4000), (3, 9000)].into_iter().enumerate()
    {
        let path = dir.path().join(format!("{number}.img"));
        let mut options = fixed(0);
        options.shrinkable = number != 1;
        let store = Store::format(new_file(&path), &options).unwrap();
        for file in 0..data + inline {
            let name = format!("f{file}");
            let (ino, _) = store.create(Ino::ROOT, name.as_bytes(), &FILE).unwrap();
            let len = if file < data { 100_000 } else { 1900 };
            let content = vec![u8::try_from(file % 251).unwrap(); len];
            if file < data {
                write(&store, ino, 0, &content).unwrap();
            } else {
                write_inline(&store, ino, &content);
            }
            set_size(&store, ino, len as u64);
        }
        store.commit().unwrap();
        assert!(store.stats().metadata.total > 4 * MIB, "one metadata chunk only");
        check(&path);
        store.shrink_to_fit(Fit::Slack(0)).unwrap();
        check(&path);
        drop(store);
        let store = reopen(&path);
        store.create(Ino::ROOT, b"late", &FILE).unwrap();
        store.commit().unwrap();
        check(&path);
    }
}

/// A device with a largest size; one that has the size it has if it `is_fixed`.
#[derive(Debug)]
struct Limited {
    memory: MemoryDevice,
    most: AtomicU64,
    is_fixed: bool,
    /// Bytes of the volume that the first superblock told of when it was last written.
    told: AtomicU64,
}

impl Limited {
    fn new(size: u64, most: u64, is_fixed: bool) -> Arc<Self> {
        let (memory, most) = (MemoryDevice::new(size), AtomicU64::new(most));
        Arc::new(Self { memory, most, is_fixed, told: AtomicU64::new(0) })
    }
}

impl BlockDevice for Limited {
    as_memory!(read_at, flush, len);

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        if offset == 64 << 10 {
            let told = u64::from_le_bytes(parts[0][112..120].try_into().unwrap());
            assert!(told <= self.memory.len()?, "{told} bytes of {}", self.memory.len()?);
            self.told.store(told, Ordering::Relaxed);
        }
        self.memory.write_vectored_at(offset, parts)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.most.load(Ordering::Relaxed) || self.is_fixed && len != self.memory.len()? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.memory.set_len(len)
    }

    fn can_resize(&self) -> bool {
        !self.is_fixed
    }
}

#[test]
fn a_volume_never_says_that_it_is_larger_than_its_device() {
    for (size, slack) in [(40 * MIB, 100 * MIB), (0, 200 * MIB), (0, 0)] {
        let device = Limited::new(0, u64::MAX, false);
        let store = Store::format(Arc::clone(&device) as _, &fixed(size)).unwrap();
        store.create(Ino::ROOT, b"file", &FILE).unwrap();
        let total = store.shrink_to_fit(Fit::Slack(slack)).unwrap();
        assert!(size == 0 || total <= size, "{total}");
        assert_eq!((device.len().unwrap(), device.told.load(Ordering::Relaxed)), (total, total));
    }
}

#[test]
fn a_device_of_a_fixed_size_is_full_when_it_is_full_and_is_not_shrunk() {
    for is_fixed in [true, false] {
        // Opened as if it could grow, as a volume on a block device is by default.
        let device = Limited::new(32 * MIB, 32 * MIB, is_fixed);
        drop(Store::format(Arc::clone(&device) as _, &fixed(32 * MIB)).unwrap());
        let options = OpenOptions { grow: true, ..OpenOptions::default() };
        let store = Store::open(Arc::clone(&device) as _, &options).unwrap();
        let mut written = 0;
        let error = loop {
            let (ino, _) = store.create(Ino::ROOT, format!("{written}").as_bytes(), &FILE).unwrap();
            if let Err(error) = write(&store, ino, 0, &[1; 65_536]) {
                break error;
            }
            set_size(&store, ino, 65_536);
            written += 65_536;
            assert!(written < 64 * MIB);
        };
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
        assert!(written > 8 * MIB, "{written}");
        store.commit().unwrap();
        assert_eq!((store.read_only_reason(), device.len().unwrap()), (None, 32 * MIB));
        if is_fixed {
            assert!(store.shrink_to_fit(Fit::Tight).is_err());
            assert_eq!(store.read_only_reason(), None);
            store.create(Ino::ROOT, b"goes on", &FILE).unwrap();
            store.commit().unwrap();
        }
    }
}

#[test]
fn an_allocation_for_which_the_device_cannot_grow_takes_nothing_from_others() {
    let device = Limited::new(0, u64::MAX, false);
    let store = Store::format(Arc::clone(&device) as _, &fixed(0)).unwrap();
    let (ino, _) = store.create(Ino::ROOT, b"file", &FILE).unwrap();
    write(&store, ino, 0, &[1; 15 << 20]).unwrap();
    set_size(&store, ino, 18 * MIB);
    store.commit().unwrap();
    device.most.store(device.len().unwrap(), Ordering::Relaxed);
    store.reserve_data(2 * MIB).unwrap();
    let behind = ByteRange::new(64 * MIB, 1 << 30);
    let refused = store.prealloc_extents(ino, behind, PreallocMode::Keep).unwrap_err();
    assert!(matches!(refused, StoreError::NoSpace { .. }), "{refused}");
    let stats = store.stats();
    assert_eq!((stats.data.promised, stats.total_bytes), (2 * MIB, device.len().unwrap()));
    // There is room for what was promised, and for more than that.
    write(&store, ino, 15 * MIB, &[2; 1 << 20]).unwrap();
    store.release_data(2 * MIB);
    write(&store, ino, 16 * MIB, &[3; 2 << 20]).unwrap();
    // And for trees, in what no block group has yet.
    assert!(store.stats().unallocated >= device.len().unwrap() / 32, "{:?}", store.stats());
    store.commit().unwrap();
    let sink = &mut |problem| panic!("{problem}");
    cowback_block_store::check::check(&*device, true, sink).unwrap();
    let content = read(&store, ino);
    for (byte, range) in [(1, 0..15 << 20), (2, 15 << 20..16 << 20), (3, 16 << 20..18 << 20)] {
        assert!(content[range].iter().all(|found| *found == byte), "{byte}");
    }
}

#[test]
fn a_chunk_that_was_made_and_never_used_does_not_keep_a_volume_from_shrinking() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let store = Store::format(new_file(&path), &fixed(64 * MIB)).unwrap();
    store.reserve_data(4 * MIB).unwrap();
    store.free_extent(store.alloc_extent(4 * MIB, 4 * MIB).unwrap());
    store.release_data(4 * MIB);
    store.shrink_to_fit(Fit::Slack(0)).unwrap();
    check(&path);
}

#[test]
fn free_space_is_right_where_another_chunk_follows_the_data_as_mkfs_lays_them_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::File::create(&path).unwrap().set_len(300 * MIB).unwrap();
    let made = std::process::Command::new("mkfs.btrfs").arg(&path).output();
    if !made.is_ok_and(|made| made.status.success()) {
        return skipped("images of mkfs.btrfs", "it does not make them");
    }
    let store = reopen(&path);
    let (ino, _) = store.create(Ino::ROOT, b"file", &FILE).unwrap();
    write(&store, ino, 0, &[5; 300_000]).unwrap();
    set_size(&store, ino, 300_000);
    store.shrink_to_fit(Fit::Slack(0)).unwrap();
    check(&path);
    drop(store);
    assert!(read(&reopen(&path), ino) == [5; 300_000]);
}

#[test]
fn a_volume_that_is_shrunk_again_and_again_stays_sound() {
    let device = Arc::new(MemoryDevice::new(0));
    let store = Store::format(Arc::clone(&device) as _, &fixed(0)).unwrap();
    let (ino, _) = store.create(Ino::ROOT, b"file", &FILE).unwrap();
    write(&store, ino, 0, &[1; 9000]).unwrap();
    set_size(&store, ino, 9000);
    for round in 0..4_u8 {
        store.create(Ino::ROOT, &[b'a' + round], &FILE).unwrap();
        store.commit().unwrap();
        // Block groups come and go in one transaction, and in the end there are as many bytes in them as before.
        store.shrink_to_fit(Fit::Slack(0)).unwrap();
        let mut problems = Vec::new();
        let sink = &mut |problem| problems.push(problem);
        cowback_block_store::check::check(&*device, true, sink).unwrap();
        assert!(problems.is_empty(), "round {round}: {problems:?}");
    }
}

#[test]
fn a_size_that_no_device_has_is_refused_and_changes_nothing() {
    for size in [0, 16 * MIB] {
        let device = Arc::new(MemoryDevice::new(0));
        let store = Store::format(Arc::clone(&device) as _, &fixed(size)).unwrap();
        let (ino, _) = store.create(Ino::ROOT, b"file", &FILE).unwrap();
        write(&store, ino, 0, &[5; 300_000]).unwrap();
        set_size(&store, ino, 300_000);
        store.commit().unwrap();
        let before = device.to_vec();
        for less in [0, 1, 4096, 1 << 26, 1 << 40, (1 << 63) - 1] {
            let asked = u64::MAX - less;
            for fit in [Fit::Slack(asked), Fit::Size(asked)] {
                let error = store.shrink_to_fit(fit).unwrap_err().to_string();
                assert!(error.contains(&asked.to_string()), "{error}");
                assert_eq!((store.read_only_reason(), device.to_vec() == before), (None, true));
            }
        }
        drop(store);
        let store = Store::open(Arc::clone(&device) as _, &OpenOptions::default()).unwrap();
        assert!(read(&store, ino) == [5; 300_000]);
        let sink = &mut |problem| panic!("{problem}");
        cowback_block_store::check::check(&*device, true, sink).unwrap();
    }
}
