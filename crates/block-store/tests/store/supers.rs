//! Which copy of the superblock counts, and where copies are written.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{FILE, fixed};
use cowback_base::Ino;
use cowback_block_store::check::check;
use cowback_block_store::{BlockDevice, MemoryDevice, OpenOptions, Store};
use cowback_btrfs_disk::ChecksumKind;
use cowback_btrfs_disk::superblock::{Incompat, SUPER_LEN, Superblock};
use cowback_codec::digest;

const PRIMARY: u64 = 64 << 10;
const OWN_COPY: u64 = 128 << 10;

fn superblock(device: &MemoryDevice, at: u64) -> Superblock {
    let mut bytes = vec![0; SUPER_LEN];
    device.read_at(at, &mut bytes).unwrap();
    Superblock::parse(&bytes, at).unwrap()
}

fn put(device: &MemoryDevice, at: u64, superblock: &Superblock) {
    let copy = Superblock { bytenr: at, ..superblock.clone() };
    device.write_at(at, &copy.to_bytes().unwrap()).unwrap();
}

fn open(device: &Arc<MemoryDevice>) -> Result<Store, String> {
    let opened = Store::open(Arc::clone(device) as _, &OpenOptions::default());
    opened.map_err(|error| error.to_string())
}

/// A volume with two commits behind it.
fn volume(size: u64) -> Arc<MemoryDevice> {
    let device = Arc::new(MemoryDevice::new(0));
    let store = Store::format(Arc::clone(&device) as _, &fixed(size)).unwrap();
    store.create(Ino::ROOT, b"first", &FILE).unwrap();
    store.commit().unwrap();
    store.create(Ino::ROOT, b"second", &FILE).unwrap();
    store.commit().unwrap();
    device
}

fn with_unknown_feature(mut superblock: Superblock) -> Superblock {
    superblock.incompat = Incompat::from_bits_retain(superblock.incompat.bits() | 1 << 40);
    superblock
}

#[test]
fn a_good_copy_does_not_stand_in_for_a_superblock_that_is_refused() {
    let device = volume(16 << 20);
    put(&device, PRIMARY, &with_unknown_feature(superblock(&device, PRIMARY)));
    let before = device.to_vec();
    let error = open(&device).unwrap_err();
    assert!(error.contains("unsupported features"), "{error}");
    assert!(device.to_vec() == before);
}

#[test]
fn the_newest_copy_counts_even_if_it_is_refused() {
    // The first copy is torn; Linux, or whoever set the feature, does not know of the second.
    let device = volume(80 << 20);
    put(&device, 64 << 20, &with_unknown_feature(superblock(&device, PRIMARY)));
    device.write_at(PRIMARY + 512, &[0xee; 512]).unwrap();
    assert!(superblock(&device, OWN_COPY).generation > 0);
    let error = open(&device).unwrap_err();
    assert!(error.contains("unsupported features"), "{error}");
}

/// Puts `value` over a field of the first superblock, and seals it again.
fn set_field(device: &MemoryDevice, at: usize, value: u64) {
    let mut bytes = vec![0; SUPER_LEN];
    device.read_at(PRIMARY, &mut bytes).unwrap();
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    let sum = digest(ChecksumKind::Crc32c, &bytes[32..]);
    bytes[..4].copy_from_slice(&sum.as_bytes()[..4]);
    device.write_at(PRIMARY, &bytes).unwrap();
}

#[test]
fn what_is_not_supported_is_not_called_corrupt() {
    let (flags, log_root, num_devices, incompat) = (56, 96, 136, 188);
    for (at, value, word, refused_by_check) in [
        (flags, 1 | 1 << 32, "SEEDING: a seed device", true),
        (num_devices, 2, "spans 2 devices", true),
        (incompat, 1 << 2, "MIXED_GROUPS", true),
        (incompat, 1 << 16, "unsupported features", true),
        (log_root, 1 << 20, "there is a log tree", false),
    ] {
        let device = volume(16 << 20);
        set_field(&device, at, value);
        let before = device.to_vec();
        let mut errors = vec![open(&device).unwrap_err()];
        if refused_by_check {
            errors.push(check(&*device, false, &mut |_| {}).unwrap_err().to_string());
        }
        for error in errors {
            assert!(error.starts_with("unsupported: superblock at 65536: "), "{error}");
            assert!(error.contains(word), "{error}");
        }
        assert!(device.to_vec() == before);
    }
}

#[test]
fn a_superblock_that_went_astray_is_no_reason_to_refuse() {
    let device = volume(16 << 20);
    let mut bytes = vec![0; SUPER_LEN];
    device.read_at(OWN_COPY, &mut bytes).unwrap();
    device.write_at(PRIMARY, &bytes).unwrap();
    open(&device).unwrap().lookup(Ino::ROOT, b"first").unwrap();
}

/// As [`volume`] leaves it when it is closed, with a first superblock that is `ahead` commits ahead of the copy behind it, as Linux leaves it,
/// and damaged at `at`.
fn went_on(ahead: u64, at: u64) -> Arc<MemoryDevice> {
    let device = volume(16 << 20);
    let first = superblock(&device, PRIMARY);
    put(&device, OWN_COPY, &first);
    put(&device, PRIMARY, &Superblock { generation: first.generation + ahead, ..first });
    device.write_at(PRIMARY + at, &[0xee; 16]).unwrap();
    device
}

#[test]
fn what_others_committed_is_not_undone_because_the_first_superblock_is_damaged() {
    let device = went_on(2, 600);
    let before = device.to_vec();
    let error = open(&device).unwrap_err();
    assert!(error.contains("the first superblock is damaged"), "{error}");
    assert!(device.to_vec() == before, "nothing is written");

    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let store = Store::open(Arc::clone(&device) as _, &options).unwrap();
    store.lookup(Ino::ROOT, b"second").unwrap();
    let reason = store.read_only_reason().unwrap();
    assert!(reason.contains("the first superblock is damaged"), "{reason}");

    let mut told = Vec::new();
    cowback_block_store::check::check(&*device, false, &mut |one| told.push(one.to_string()))
        .unwrap();
    assert!(told.iter().any(|one| one.contains("has changed the volume since")), "{told:?}");
}

#[test]
fn where_a_damaged_superblock_does_not_tell_that_it_is_newer_the_copy_counts() {
    const FSID: u64 = 32;
    // One ahead: that is what a torn write leaves. Or nobody can know whose it is.
    for device in [went_on(1, 600), went_on(2, FSID)] {
        open(&device).unwrap().lookup(Ino::ROOT, b"second").unwrap();
    }
}

/// Tears the next write of the first superblock, once it is armed, and fails from then on.
#[derive(Debug)]
struct Tearing {
    memory: MemoryDevice,
    armed: AtomicBool,
}

impl BlockDevice for Tearing {
    as_memory!(read_at, flush, len, set_len);

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        if offset == PRIMARY && self.armed.load(Ordering::Relaxed) {
            self.memory.write_at(offset, &parts[0][..512])?;
            return Err(io::Error::other("the power went"));
        }
        self.memory.write_vectored_at(offset, parts)
    }
}

#[test]
fn a_superblock_that_is_torn_while_shrinking_has_a_copy_that_opens() {
    for size in [0, 32 << 20] {
        let memory = MemoryDevice::new(0);
        let device = Arc::new(Tearing { memory, armed: AtomicBool::new(false) });
        let store = Store::format(Arc::clone(&device) as _, &fixed(size)).unwrap();
        store.create(Ino::ROOT, b"first", &FILE).unwrap();
        store.commit().unwrap();
        device.armed.store(true, Ordering::Relaxed);
        store.shrink_to_fit(cowback_block_store::Fit::Slack(0)).unwrap_err();
        drop(store);
        device.armed.store(false, Ordering::Relaxed);
        let store = Store::open(device, &OpenOptions::default()).unwrap();
        store.lookup(Ino::ROOT, b"first").unwrap();
        store.create(Ino::ROOT, b"second", &FILE).unwrap();
        store.commit().unwrap();
    }
}

#[test]
fn what_others_put_where_the_own_copy_would_be_stays() {
    let device = volume(16 << 20);
    device.write_at(OWN_COPY, &[0xb0; SUPER_LEN]).unwrap();
    let store = open(&device).unwrap();
    store.create(Ino::ROOT, b"third", &FILE).unwrap();
    store.commit().unwrap();
    store.create(Ino::ROOT, b"fourth", &FILE).unwrap();
    store.commit().unwrap();
    store.sync_super_copies().unwrap();
    let mut there = vec![0; SUPER_LEN];
    device.read_at(OWN_COPY, &mut there).unwrap();
    assert!(there == vec![0xb0; SUPER_LEN]);
    // What is empty, or its own but torn, is written again.
    for torn in [false, true] {
        device.write_at(OWN_COPY, &vec![0; SUPER_LEN]).unwrap();
        if torn {
            put(&device, OWN_COPY, &superblock(&device, PRIMARY));
            device.write_at(OWN_COPY + 512, &[1; 512]).unwrap();
        }
        let store = open(&device).unwrap();
        store.sync_super_copies().unwrap();
        assert_eq!(superblock(&device, OWN_COPY).generation, store.generation());
    }
}

#[test]
fn an_own_copy_that_was_torn_when_it_was_first_written_is_kept_again() {
    let device = volume(16 << 20);
    let own = Superblock { bytenr: OWN_COPY, ..superblock(&device, PRIMARY) }.to_bytes().unwrap();
    for there in 0..256_u32 {
        // The sectors that reached the device, over nothing, when the power went.
        let mut torn = vec![0; SUPER_LEN];
        for sector in (0..8).filter(|sector| there >> sector & 1 == 1).map(|sector| sector * 512) {
            torn[sector..sector + 512].copy_from_slice(&own[sector..sector + 512]);
        }
        device.write_at(OWN_COPY, &torn).unwrap();
        let store = open(&device).unwrap();
        store.sync_super_copies().unwrap();
        assert_eq!(superblock(&device, OWN_COPY).generation, store.generation(), "{there:#b}");
        // With as little as a byte of somebody else's behind it, or in it, it is left alone.
        for at in [600, SUPER_LEN - 1] {
            if there & 1 == 0 {
                let mut others = torn.clone();
                others[at] ^= 1;
                device.write_at(OWN_COPY, &others).unwrap();
                open(&device).unwrap().sync_super_copies().unwrap();
                let mut found = vec![0; SUPER_LEN];
                device.read_at(OWN_COPY, &mut found).unwrap();
                assert!(found == others, "{there:#b}, {at}");
            }
        }
    }
}

#[test]
fn a_volume_that_was_made_anew_is_not_taken_for_the_old_one() {
    let device = volume(80 << 20);
    let store = open(&device).unwrap();
    for number in 0..5_u8 {
        store.create(Ino::ROOT, &[b'a' + number], &FILE).unwrap();
        store.commit().unwrap();
    }
    store.sync_super_copies().unwrap();
    drop(store);
    let old = superblock(&device, 64 << 20);
    let store = Store::format(Arc::clone(&device) as _, &fixed(32 << 20)).unwrap();
    store.create(Ino::ROOT, b"new", &FILE).unwrap();
    store.commit().unwrap();
    drop(store);
    assert!(old.generation > superblock(&device, PRIMARY).generation);
    let mut copy = vec![1; SUPER_LEN];
    device.read_at(64 << 20, &mut copy).unwrap();
    assert!(copy.iter().all(|byte| *byte == 0), "a copy of the old volume is left");
    open(&device).unwrap().lookup(Ino::ROOT, b"new").unwrap();
    // And a left-over beyond the volume's end does not count, however it came there.
    put(&device, 64 << 20, &old);
    open(&device).unwrap().lookup(Ino::ROOT, b"new").unwrap();
}
