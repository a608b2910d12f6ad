//! What may be written in place, as the store sees it: before and after a commit, in parts of extents, and after a volume was shrunk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

use crate::support::{FILE, check, fixed, new_file, read, reopen, set_size, write};
use cowback_base::{BLOCK_SIZE, ByteRange, Bytenr, Ino};
use cowback_block_store::namespace::NewInode;
use cowback_block_store::namespace::inode::inode_flags::{NODATACOW, NODATASUM};
use cowback_block_store::{BlockDevice, Fit, MemoryDevice, Store};
use cowback_extent_io::store::{
    Compression, ExtentStore, FinishedExtent, InPlace, OrderedKind, PreallocMode, StoreError,
};
use cowback_testkit::faulty::{Effect, Fault, FaultDevice, Op};

const B: u64 = BLOCK_SIZE;
const NOCOW: NewInode = NewInode { flags: NODATACOW | NODATASUM, ..FILE };

fn store() -> Store {
    Store::format(Arc::new(MemoryDevice::new(0)), &fixed(64 << 20)).unwrap()
}

fn blocks(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start * B, end * B)
}

/// What may be done with each stretch of a range: blocks, where, and how.
fn stretches(store: &Store, ino: Ino, range: ByteRange) -> Vec<(u64, Option<OrderedKind>)> {
    let mut out = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let rest = ByteRange::new(at, range.end);
        let InPlace { len, extent } = store.claim_in_place(ino, rest).unwrap();
        out.push((len / B, extent.as_ref().map(|extent| extent.kind)));
        if let Some(extent) = extent {
            assert_eq!(extent.len, len);
            store.free_extent(extent);
        }
        at += len;
    }
    out
}

/// Writes `range` full of `byte` where it is, and gives the address.
fn overwrite(store: &Store, ino: Ino, range: ByteRange, byte: u8) -> Bytenr {
    let InPlace { len, extent } = store.claim_in_place(ino, range).unwrap();
    assert_eq!(len, range.len(), "all of it in one piece");
    let extent = extent.unwrap();
    let bytenr = extent.bytenr;
    let data = vec![byte; usize::try_from(len).unwrap()];
    let mut written = store.write_extent(extent, &[&data]).unwrap();
    if store.inode(ino).unwrap().flags & NODATASUM != 0 {
        written.sums.clear();
    }
    let compression = Compression::None;
    store.finish_ordered(FinishedExtent { ino, range, written, compression }).unwrap();
    bytenr
}

#[test]
fn what_is_preallocated_is_written_in_place_once() {
    let store = store();
    let (ino, _) = store.create(Ino::ROOT, b"f", &FILE).unwrap();
    set_size(&store, ino, 20 * B);
    store.prealloc_extents(ino, blocks(2, 10), PreallocMode::Keep).unwrap();
    let (prealloc, cow) = (Some(OrderedKind::Prealloc), None);
    for committed in [false, true] {
        if committed {
            store.commit().unwrap();
        }
        assert_eq!(
            stretches(&store, ino, blocks(0, 12)),
            [(2, cow), (8, prealloc), (2, cow)],
            "committed: {committed}"
        );
    }
    overwrite(&store, ino, blocks(4, 6), 7);
    let expected = [(2, cow), (2, prealloc), (2, cow), (4, prealloc), (2, cow)];
    for _ in 0..2 {
        assert_eq!(stretches(&store, ino, blocks(0, 12)), expected);
        store.commit().unwrap();
    }
    // What is left of it may be written even so.
    store.punch(ino, blocks(7, 8)).unwrap();
    let expected = [(2, prealloc), (2, cow), (1, prealloc), (1, cow), (2, prealloc)];
    for _ in 0..2 {
        assert_eq!(stretches(&store, ino, blocks(2, 10)), expected);
        store.commit().unwrap();
    }
    overwrite(&store, ino, blocks(8, 10), 9);
    let mut content = vec![0; 20 * 4096];
    content[4 * 4096..6 * 4096].fill(7);
    content[8 * 4096..10 * 4096].fill(9);
    assert!(read(&store, ino) == content);
    store.commit().unwrap();
    assert!(read(&store, ino) == content);
}

#[test]
fn a_nocow_file_is_overwritten_at_the_same_place_whether_or_not_it_was_committed() {
    let store = store();
    let (ino, _) = store.create(Ino::ROOT, b"f", &NOCOW).unwrap();
    let (other, _) = store.create(Ino::ROOT, b"g", &FILE).unwrap();
    for ino in [ino, other] {
        set_size(&store, ino, 8 * B);
        store.prealloc_extents(ino, blocks(0, 8), PreallocMode::Keep).unwrap();
    }
    let first = overwrite(&store, ino, blocks(0, 8), 1);
    for round in 2..6 {
        assert_eq!(overwrite(&store, ino, blocks(1, 3), round), first.plus(B));
        assert_eq!(overwrite(&store, ino, blocks(5, 6), round), first.plus(5 * B));
        let mut content = vec![1; 8 * 4096];
        content[4096..3 * 4096].fill(round);
        content[5 * 4096..6 * 4096].fill(round);
        assert!(read(&store, ino) == content, "round {round}");
        store.commit().unwrap();
        assert!(store.sync_in_place(ino, 8 * B).unwrap(), "nothing but data changed");
    }
    let claimed = store.claim_in_place(ino, blocks(0, 8)).unwrap();
    // Given back, it is the file's still.
    store.free_extent(claimed.extent.unwrap());
    assert_eq!(stretches(&store, ino, blocks(0, 8)), [(8, Some(OrderedKind::Nocow))]);
    assert_eq!(stretches(&store, other, blocks(0, 8)), [(8, Some(OrderedKind::Prealloc))]);
}

#[test]
fn a_sync_in_place_is_one_only_if_nothing_else_changed() {
    let store = store();
    let (ino, _) = store.create(Ino::ROOT, b"f", &NOCOW).unwrap();
    set_size(&store, ino, 8 * B);
    store.prealloc_extents(ino, blocks(0, 8), PreallocMode::Keep).unwrap();
    let synced = |size| store.sync_in_place(ino, size).unwrap();
    assert!(!synced(8 * B), "it is new");
    store.commit().unwrap();
    assert!(synced(8 * B));
    overwrite(&store, ino, blocks(0, 1), 1);
    assert!(!synced(8 * B), "the trees say that it is not written");
    store.commit().unwrap();
    overwrite(&store, ino, blocks(0, 1), 2);
    assert!(synced(8 * B));
    assert!(!synced(9 * B), "it is longer in memory");
    store.punch(ino, blocks(4, 5)).unwrap();
    assert!(!synced(8 * B), "a hole");
    store.commit().unwrap();
    assert!(synced(8 * B));
}

/// A device whose next flush, once armed, goes on only when it is told to, and fails; the others succeed, as those of Linux do.
#[derive(Debug)]
struct FailsOneFlush {
    memory: MemoryDevice,
    armed: AtomicBool,
    begun: Barrier,
    goes_on: Barrier,
}

impl BlockDevice for FailsOneFlush {
    as_memory!(read_at, write_vectored_at, len, set_len);

    fn flush(&self) -> std::io::Result<()> {
        if !self.armed.swap(false, Ordering::Relaxed) {
            return self.memory.flush();
        }
        self.begun.wait();
        self.goes_on.wait();
        Err(std::io::Error::other("the cache could not be written"))
    }
}

#[test]
fn law_e1_a_sync_beside_one_whose_flush_fails_does_not_succeed() {
    let device = Arc::new(FailsOneFlush {
        memory: MemoryDevice::new(0),
        armed: AtomicBool::new(false),
        begun: Barrier::new(2),
        goes_on: Barrier::new(2),
    });
    let store = Store::format(Arc::clone(&device) as _, &fixed(64 << 20)).unwrap();
    let inos = [b"f", b"g"].map(|name| store.create(Ino::ROOT, name, &NOCOW).unwrap().0);
    for ino in inos {
        set_size(&store, ino, 8 * B);
        store.prealloc_extents(ino, blocks(0, 8), PreallocMode::Keep).unwrap();
        overwrite(&store, ino, blocks(0, 8), 1);
    }
    store.commit().unwrap();
    for ino in inos {
        overwrite(&store, ino, blocks(2, 4), 2);
    }
    device.armed.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let [first, second] = inos;
        let store = &store;
        let first = scope.spawn(move || store.sync_in_place(first, 8 * B));
        device.begun.wait();
        let second = scope.spawn(move || store.sync_in_place(second, 8 * B));
        // Time for it to do what it must not: a flush of its own, which succeeds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        device.goes_on.wait();
        first.join().unwrap().unwrap_err();
        second.join().unwrap().unwrap_err();
    });
    store.try_resume().unwrap();
    for ino in inos {
        assert!(store.sync_in_place(ino, 8 * B).unwrap());
    }
}

#[test]
fn zeroing_replaces_what_was_written_and_keeps_what_was_not() {
    let store = store();
    let (ino, _) = store.create(Ino::ROOT, b"f", &FILE).unwrap();
    set_size(&store, ino, 8 * B);
    write(&store, ino, 0, &[7; 3 * 4096]).unwrap();
    store.prealloc_extents(ino, blocks(4, 6), PreallocMode::Keep).unwrap();
    let before = store.claim_in_place(ino, blocks(4, 6)).unwrap();
    store.prealloc_extents(ino, blocks(1, 8), PreallocMode::Zero).unwrap();
    let after = store.claim_in_place(ino, blocks(4, 6)).unwrap();
    assert_eq!(before.extent.as_ref().unwrap().bytenr, after.extent.as_ref().unwrap().bytenr);
    for found in [before, after] {
        store.free_extent(found.extent.unwrap());
    }
    let content = [vec![7; 4096], vec![0; 7 * 4096]].concat();
    assert!(read(&store, ino) == content);
    assert_eq!(store.inode(ino).unwrap().nbytes, 8 * B);
    store.commit().unwrap();
    assert!(read(&store, ino) == content);
    let wanted = store.prealloc_extents(ino, blocks(0, 1 << 20), PreallocMode::Keep).unwrap_err();
    assert!(matches!(wanted, StoreError::NoSpace { .. }), "{wanted}");
    assert_eq!(store.inode(ino).unwrap().nbytes, 8 * B);
}

#[test]
fn a_shrunk_volume_keeps_what_is_preallocated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shrunk.img");
    let options = cowback_block_store::FormatOptions { shrinkable: true, ..fixed(0) };
    let store = Store::format(new_file(&path), &options).unwrap();
    let (ino, _) = store.create(Ino::ROOT, b"f", &FILE).unwrap();
    write(&store, ino, 0, &[7; 100_000]).unwrap();
    set_size(&store, ino, 3 << 20);
    let last = ByteRange::new(1 << 20, 3 << 20);
    store.prealloc_extents(ino, last, PreallocMode::Keep).unwrap();
    overwrite(&store, ino, ByteRange::new(1 << 20, 2 << 20), 9);
    store.commit().unwrap();
    check(&path);
    let left = store.shrink_to_fit(Fit::Slack(0)).unwrap();
    check(&path);
    assert!(left > 3 << 20, "{left}: the last mebibyte was never written, and is there");
    drop(store);
    let store = reopen(&path);
    let rest = ByteRange::new(2 << 20, 3 << 20);
    assert_eq!(stretches(&store, ino, rest), [(256, Some(OrderedKind::Prealloc))]);
    overwrite(&store, ino, rest, 11);
    store.commit().unwrap();
    check(&path);
    let mut content = vec![0; 3 << 20];
    content[..100_000].fill(7);
    content[1 << 20..2 << 20].fill(9);
    content[2 << 20..].fill(11);
    assert!(read(&store, ino) == content);
}

#[test]
fn an_overwrite_that_failed_is_not_what_a_failed_flush_has_lost() {
    let memory = Arc::new(MemoryDevice::new(0));
    let device = Arc::new(FaultDevice::new(memory, 7));
    let store = Store::format(Arc::clone(&device) as _, &fixed(64 << 20)).unwrap();
    let (ino, _) = store.create(Ino::ROOT, b"f", &NOCOW).unwrap();
    set_size(&store, ino, 8 * B);
    store.prealloc_extents(ino, blocks(0, 8), PreallocMode::Keep).unwrap();
    overwrite(&store, ino, blocks(0, 8), 1);
    store.commit().unwrap();
    overwrite(&store, ino, blocks(0, 8), 2);
    // Half of it is there, which is neither what was written before nor now. Who wrote it keeps it, and was told.
    device.arm_from_now(Fault::once(Op::Write, 0, Effect::Short));
    let extent = store.claim_in_place(ino, blocks(2, 6)).unwrap().extent.unwrap();
    assert!(store.write_extent(extent, &[&[3; 4 * 4096]]).is_err());
    device.arm_from_now(Fault::once(Op::Flush, 0, Effect::Eio));
    assert!(store.sync_in_place(ino, 8 * B).is_err());
    device.disarm();
    store.try_resume().unwrap();
    overwrite(&store, ino, blocks(2, 6), 3);
    assert!(store.sync_in_place(ino, 8 * B).unwrap());
    let content = read(&store, ino);
    let expected = [2, 2, 3, 3, 3, 3, 2, 2].map(|byte| [byte; 4096]).concat();
    assert!(content == expected);
    store.check(true, &mut |problem| panic!("{problem}")).unwrap();
}
