//! What a store that has stopped knows of its memory.

use cowback_extent_io::store::StoreError;

use super::super::stop::Memory;
use super::*;
use crate::namespace::{RenameMode, Target};

/// The volume as who opens it after a crash finds it.
fn as_on_disk(device: &MemoryDevice) -> Store {
    let bytes = device.to_vec();
    let copy = MemoryDevice::new(bytes.len() as u64);
    copy.write_at(0, &bytes).unwrap();
    Store::open(Arc::new(copy), &OpenOptions::default()).unwrap()
}

#[test]
fn memory_that_is_in_part_does_not_become_whole_by_what_fails_later() {
    let later = [Memory::Whole, Memory::InPart];
    for (first, then) in
        [Memory::Whole, Memory::InPart].into_iter().flat_map(|a| later.map(|b| (a, b)))
    {
        let (_, store) = formatted();
        let error = StoreError::Internal { what: "a test" };
        store.stop("the first thing", &error, first);
        store.stop("another thing", &error, then);
        let reason = store.read_only_reason().unwrap();
        assert!(reason.starts_with("the first thing failed"), "{reason}");
        let whole = (first, then) == (Memory::Whole, Memory::Whole);
        assert_eq!(store.try_resume().is_ok(), whole, "{first:?}, then {then:?}");
        assert_eq!(store.read_only_reason().is_none(), whole);
        assert_eq!(store.commit().is_ok(), whole);
    }
}

#[test]
fn a_transaction_that_has_ended_and_is_not_written_stops_the_store_until_it_is() {
    let (device, store) = formatted();
    store.create(Ino::ROOT, b"in it", &FILE).unwrap();
    let captured = store.capture().unwrap();
    store.create(Ino::ROOT, b"behind it", &FILE).unwrap();
    drop(captured);
    let error = store.create(Ino::ROOT, b"refused", &FILE).unwrap_err();
    assert!(error.to_string().contains("a commit failed"), "{error}");
    assert!(store.commit().is_err());
    let on_disk = |name: &[u8]| as_on_disk(&device).lookup(Ino::ROOT, name).is_ok();
    assert!(!on_disk(b"in it"));
    store.try_resume().unwrap();
    assert!(on_disk(b"in it") && !on_disk(b"behind it"), "the transaction, and no more");
    store.commit().unwrap();
    assert!(on_disk(b"behind it"));
}

#[test]
fn what_is_done_while_a_transaction_is_written_is_in_the_next_one() {
    let (device, store) = formatted();
    let (ino, _) = store.create(Ino::ROOT, b"file", &FILE).unwrap();
    let block = |number| ByteRange::at(number * BLOCK_SIZE, BLOCK_SIZE);
    for number in 0..200 {
        store.prealloc_extents(ino, block(2 * number), PreallocMode::Keep).unwrap();
    }
    store.commit().unwrap();
    for number in 0..100 {
        store.punch(ino, block(2 * number)).unwrap();
    }
    let captured = store.capture().unwrap();
    let (pinned, free) = (store.stats().data.pinned, store.stats().data.free);
    assert!(pinned >= 100 * BLOCK_SIZE, "{pinned}");
    for number in 100..150 {
        store.punch(ino, block(2 * number)).unwrap();
    }
    store.rename((Ino::ROOT, b"file"), (Ino::ROOT, b"moved"), RenameMode::Replace).unwrap();
    assert_eq!(store.stats().data.free, free, "nothing is free again before it is durable");
    captured.write().unwrap();
    assert_eq!(store.stats().data.free, free + pinned);
    let copy = as_on_disk(&device);
    let (Target::Inode(found), _) = copy.lookup(Ino::ROOT, b"file").unwrap() else { panic!() };
    assert_eq!((found, copy.inode(ino).unwrap().nbytes), (ino, 100 * BLOCK_SIZE));
    store.commit().unwrap();
    let copy = as_on_disk(&device);
    assert!(copy.lookup(Ino::ROOT, b"moved").is_ok());
    assert_eq!(copy.inode(ino).unwrap().nbytes, 50 * BLOCK_SIZE);
}
