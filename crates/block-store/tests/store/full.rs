//! Volumes that are full: what they refuse leaves what was let begin whole, and what frees space still works.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::support::{FILE, fixed, read, set_size, write};
use cowback_base::{ByteRange, Ino};
use cowback_block_store::check::check;
use cowback_block_store::namespace::{AttrChange, NamespaceError, NsResult};
use cowback_block_store::{MemoryDevice, Profile, Store};
use cowback_extent_io::store::{Compression, ExtentStore, InlineExtent, StoreError};

const MIB: u64 = 1 << 20;

fn no_space(error: &NamespaceError) -> bool {
    matches!(error, NamespaceError::Store(StoreError::NoSpace { .. }))
}

/// Runs `op`; if there is no room, commits and runs it once more, as a volume does. False if there is no room even then.
fn retry<T>(store: &Store, op: impl Fn() -> NsResult<T>) -> Option<T> {
    for _ in 0..2 {
        match op() {
            Ok(done) => return Some(done),
            Err(error) if no_space(&error) => drop(store.commit().unwrap()),
            Err(error) => panic!("{error}"),
        }
    }
    None
}

fn remove(store: &Store, name: &str) {
    let removed = retry(store, || store.unlink(Ino::ROOT, name.as_bytes()));
    store.evict(removed.unwrap_or_else(|| panic!("{name} cannot be removed")).ino).unwrap();
}

fn sound(device: &Arc<MemoryDevice>) {
    let mut problems = Vec::new();
    check(&**device, true, &mut |problem| problems.push(problem.to_string())).unwrap();
    assert!(problems.is_empty(), "{problems:#?}");
}

fn volume(size: u64, metadata: Profile) -> (Arc<MemoryDevice>, Store) {
    let device = Arc::new(MemoryDevice::new(0));
    let mut options = fixed(size);
    options.metadata = metadata;
    let store = Store::format(Arc::clone(&device) as _, &options).unwrap();
    (device, store)
}

fn inline(store: &Store, ino: Ino, len: usize) -> Result<(), StoreError> {
    let data = vec![7; len].into();
    let inline = InlineExtent { ram_bytes: len as u64, compression: Compression::None, data };
    store.reserve_data(4096)?;
    let inserted = store.insert_inline(ino, inline);
    if inserted.is_ok() {
        store.spend_data(4096)
    } else {
        store.release_data(4096)
    }
    inserted
}

#[test]
fn a_volume_that_takes_no_more_names_can_be_made_emptier() {
    for (size, metadata) in [(8, Profile::Dup), (16, Profile::Single), (48, Profile::Dup)] {
        let (device, store) = volume(size * MIB, metadata);
        let (large, _) = store.create(Ino::ROOT, b"large", &FILE).unwrap();
        write(&store, large, 0, &vec![1; 600_000]).unwrap();
        set_size(&store, large, 600_000);
        let dir = crate::support::DIR;
        store.create(Ino::ROOT, b"dir", &dir).unwrap();
        let name = |number: u32| format!("{number:0200}");
        let mut count = 0;
        while retry(&store, || store.create(Ino::ROOT, name(count).as_bytes(), &FILE)).is_some() {
            count += 1;
        }
        assert!(count > 100, "{count} names in {size} MiB");
        retry(&store, || store.truncate(large, 8192)).unwrap();
        retry(&store, || store.punch(large, ByteRange::new(0, 4096))).unwrap();
        let removed = retry(&store, || store.rmdir(Ino::ROOT, b"dir")).unwrap();
        store.evict(removed.ino).unwrap();
        for number in 0..count {
            remove(&store, &name(number));
        }
        store.commit().unwrap();
        store.commit().unwrap();
        assert_eq!((store.read_only_reason(), store.orphans().unwrap()), (None, Vec::new()));
        sound(&device);
        // The room is there again.
        let mut again = 0;
        while retry(&store, || store.create(Ino::ROOT, name(again).as_bytes(), &FILE)).is_some() {
            again += 1;
        }
        assert!(again * 10 >= count * 9, "{again} of {count}");
    }
}

#[test]
fn inline_content_that_waits_is_counted() {
    let (device, store) = volume(48 * MIB, Profile::Dup);
    let mut made = 0;
    let refused = (0..100_000).any(|number: u32| {
        let name = format!("f{number}");
        let file = match store.create(Ino::ROOT, name.as_bytes(), &FILE) {
            Ok((ino, _)) => ino,
            Err(error) if no_space(&error) => return true,
            Err(error) => panic!("{error}"),
        };
        made += 1;
        match inline(&store, file, 2000) {
            Ok(()) => {
                let size = AttrChange { size: Some(2000), ..AttrChange::default() };
                store.set_attr_at_commit(file, &size).unwrap();
                false
            }
            Err(StoreError::NoSpace { .. }) => true,
            Err(error) => panic!("{error}"),
        }
    });
    assert!(refused && made > 200, "{made}");
    store.commit().unwrap();
    assert_eq!(store.read_only_reason(), None);
    sound(&device);
}

#[test]
fn a_commit_can_set_the_attributes_of_everything_that_was_let_in() {
    let (device, store) = volume(24 * MIB, Profile::Dup);
    let mut files = Vec::new();
    let mut refused = false;
    while !refused {
        let number = files.len();
        match store.create(Ino::ROOT, format!("{number:0100}").as_bytes(), &FILE) {
            Ok((ino, _)) => match store.reserve_data(4096) {
                Ok(()) => {
                    store.release_data(4096);
                    refused = write(&store, ino, 0, &[1; 4096]).is_err();
                    files.push(ino);
                }
                Err(_) => refused = true,
            },
            Err(error) => {
                assert!(no_space(&error), "{error}");
                refused = true;
            }
        }
        if number % 40 == 39 {
            store.commit().unwrap();
        }
    }
    for ino in &files {
        let size = AttrChange { size: Some(4096), ..AttrChange::default() };
        store.set_attr_at_commit(*ino, &size).unwrap();
    }
    store.commit().unwrap();
    assert_eq!(store.read_only_reason(), None);
    sound(&device);
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }
}

/// One random volume, filled until it refuses, again and again; emptied in the end.
fn fill_and_empty(seed: u64) {
    let mut rng = Rng(seed);
    let size = (8 + rng.below(25)) * MIB;
    let metadata = if rng.below(2) == 0 { Profile::Dup } else { Profile::Single };
    let (device, store) = volume(size, metadata);
    let free = store.stats().data.free;
    let mut files: BTreeMap<String, (Ino, u64)> = BTreeMap::new();
    let (mut next, mut refusals) = (0, 0);
    let name_len = 1 + rng.below(200);
    let kinds = 1 + rng.below(4);
    for _ in 0..2500 {
        let kind = rng.below(10 + kinds);
        let any = rng.below(files.len().max(1) as u64);
        let some = files.iter().nth(usize::try_from(any).unwrap());
        let some = some.map(|(name, (ino, size))| (name.clone(), *ino, *size));
        let done = match (kind, some) {
            (0..=2, _) | (_, None) => {
                let width = usize::try_from(name_len).unwrap();
                let name = format!("{:0width$}", next);
                next += 1;
                let made = store.create(Ino::ROOT, name.as_bytes(), &FILE);
                made.map(|(ino, _)| {
                    files.insert(name, (ino, 0));
                })
            }
            (3..=4, Some((name, ino, 0))) => {
                let len = usize::try_from(1 + rng.below(2047)).unwrap();
                let done = inline(&store, ino, len).map_err(NamespaceError::from);
                if done.is_ok() {
                    files.insert(name, (ino, 1));
                }
                done
            }
            (5, Some((name, ino, size))) if rng.below(20) == 0 => {
                let size = rng.below(size / 4096 + 1) * 4096;
                let done = store.truncate(ino, size).map(drop);
                if done.is_ok() {
                    files.insert(name, (ino, size));
                }
                done
            }
            (6, Some((name, ino, _))) if rng.below(60) == 0 => {
                files.remove(&name);
                let removed = retry(&store, || store.unlink(Ino::ROOT, name.as_bytes()));
                assert!(removed.is_some(), "{name} cannot be removed");
                store.evict(ino).unwrap();
                Ok(())
            }
            (7, _) if rng.below(30) == 0 => store.commit().map(drop).map_err(NamespaceError::from),
            (_, Some((name, ino, size))) => {
                // Pieces here and there, most of a block, some of a whole extent.
                let blocks = if rng.below(8) == 0 { 1 + rng.below(32) } else { 1 };
                let at = rng.below(400) * 4096;
                let data = vec![3; usize::try_from(blocks * 4096).unwrap()];
                let done = write(&store, ino, at, &data).map_err(NamespaceError::from);
                let end = size.max(at + blocks * 4096);
                files.insert(name, (ino, end));
                done
            }
        };
        if let Err(error) = done {
            assert!(no_space(&error), "{error}");
            refusals += 1;
            for (ino, size) in files.values() {
                let change = AttrChange { size: Some(*size), ..AttrChange::default() };
                store.set_attr_at_commit(*ino, &change).unwrap();
            }
            store.commit().unwrap();
        }
        if refusals > 12 {
            break;
        }
    }
    for name in files.keys() {
        remove(&store, name);
    }
    empty_again(&device, &store, free);
}

/// All files were removed: the space is there again, and can be used.
fn empty_again(device: &Arc<MemoryDevice>, store: &Store, free: u64) {
    store.commit().unwrap();
    store.commit().unwrap();
    assert_eq!((store.read_only_reason(), store.orphans().unwrap()), (None, Vec::new()));
    let stats = store.stats();
    assert!(stats.data.free >= free && stats.data.free == stats.data.total, "{stats:?}");
    let promised = (stats.data.promised, stats.data.pinned, stats.metadata.pinned);
    assert_eq!(promised, (0, 0, 0));
    sound(device);
    let (ino, _) = store.create(Ino::ROOT, b"last", &FILE).unwrap();
    write(store, ino, 0, &[9; 8192]).unwrap();
    set_size(store, ino, 8192);
    store.commit().unwrap();
    assert!(read(store, ino) == [9; 8192]);
}

#[test]
fn full_volumes_commit_what_they_let_in_and_come_back_when_emptied() {
    let seed = std::env::var("COWBACK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let rounds = std::env::var("COWBACK_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    for seed in seed..seed + rounds {
        println!("full: seed {seed}");
        fill_and_empty(seed);
    }
}
