//! Images that were tampered with, checksums and all: whatever is found in them, nothing panics and nothing hangs (law E3).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cowback_base::Ino;
use cowback_block_store::namespace::{Target, XattrMode};
use cowback_block_store::{BlockDevice, MemoryDevice, OpenOptions, Profile, Store};
use cowback_btrfs_disk::ChecksumKind;
use cowback_codec::digest;
use cowback_extent_io::store::{ExtentKind, ExtentStore};

use crate::support::{DIR, FILE, fixed, set_size, write, write_inline};

/// A small source of numbers that is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// A volume with a bit of everything, and where its tree blocks and superblocks are.
fn image() -> (Vec<u8>, Vec<usize>) {
    let device = Arc::new(MemoryDevice::new(0));
    let mut options = fixed(16 << 20);
    options.metadata = Profile::Single;
    let store = Store::format(Arc::clone(&device) as _, &options).unwrap();
    for number in 0..150_u64 {
        let dir = if number % 30 == 0 {
            store.create(Ino::ROOT, format!("dir{number}").as_bytes(), &DIR).unwrap().0
        } else {
            Ino::ROOT
        };
        let (ino, _) = store.create(dir, format!("file{number}").as_bytes(), &FILE).unwrap();
        if number % 3 == 0 {
            write(&store, ino, 0, &vec![7; usize::try_from(number).unwrap() * 100 + 1]).unwrap();
            set_size(&store, ino, number * 100 + 1);
        } else {
            write_inline(&store, ino, b"inline");
            set_size(&store, ino, 6);
        }
        if number % 10 == 0 {
            store.set_xattr(ino, b"user.a", b"value", XattrMode::Any).unwrap();
            store.link(ino, Ino::ROOT, format!("link{number}").as_bytes()).unwrap();
        }
        if number % 40 == 0 {
            store.commit().unwrap();
        }
    }
    store.commit().unwrap();
    let bytes = device.to_vec();
    let fsid = *store.superblock().fsid.as_bytes();
    let is_block = |at: &usize| bytes[at + 32..at + 48] == fsid;
    let blocks = (0..bytes.len() / 4096).map(|block| block * 4096).filter(is_block).collect();
    (bytes, blocks)
}

/// Changes a few bytes of a block or two, and makes the checksums right again.
fn tamper(random: &mut Random, device: &MemoryDevice, bytes: &[u8], blocks: &[usize]) {
    for _ in 0..1 + random.below(2) {
        let at = blocks[random.below(blocks.len())];
        let is_super = bytes[at + 64..at + 72] == *b"_BHRfS_M";
        let len = if is_super { 4096 } else { 16384 };
        let mut block = vec![0; len];
        device.read_at(at as u64, &mut block).unwrap();
        for _ in 0..1 + random.below(3) {
            // Most of what means something stands in front.
            let span = if random.below(2) == 0 { 400.min(len) } else { len };
            let place = 32 + random.below(span - 40);
            match random.below(4) {
                0 => block[place] ^= 1 << random.below(8),
                1 => block[place] = u8::try_from(random.below(256)).unwrap(),
                2 => block[place..place + 8].copy_from_slice(&random.next().to_le_bytes()),
                _ => block[place..place + 8].fill(if random.below(2) == 0 { 0 } else { 0xff }),
            }
        }
        let sum = digest(ChecksumKind::Crc32c, &block[32..]);
        block[..4].copy_from_slice(&sum.as_bytes()[..4]);
        device.write_at(at as u64, &block).unwrap();
    }
}

/// Looks at everything, and changes a bit of it. Any error will do.
fn use_it(device: Arc<MemoryDevice>) {
    let Ok(store) = Store::open(device, &OpenOptions::default()) else { return };
    let mut dirs = vec![Ino::ROOT];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in store.read_dir(dir).unwrap_or_default() {
            let Target::Inode(ino) = entry.target else { continue };
            if dirs.len() + files.len() < 1000 {
                files.push((dir, entry.name, ino));
                if ino.0 > dir.0 {
                    dirs.push(ino);
                }
            }
        }
    }
    for (_, _, ino) in &files {
        let _ = store.inode(*ino);
        let _ = store.list_xattrs(*ino);
        if let Ok(map) = store.lookup_extent(*ino, 0)
            && let ExtentKind::Regular { disk_bytenr, .. } = map.kind
        {
            let mut block = vec![0; 4096];
            let _ = store.read_extent(*ino, disk_bytenr, &mut block);
        }
    }
    for (number, (dir, name, ino)) in files.iter().enumerate() {
        if number % 3 == 0 {
            if let Ok(removed) = store.unlink(*dir, name)
                && removed.nlink == 0
            {
                let _ = store.evict(removed.ino);
            }
        } else if number % 7 == 0 {
            let _ = store.truncate(*ino, 0);
        }
    }
    if let Ok((ino, _)) = store.create(Ino::ROOT, b"fresh", &FILE) {
        let _ = write(&store, ino, 0, &[1; 10_000]);
    }
    let _ = store.commit();
    let _ = store.create(Ino::ROOT, b"fresh2", &FILE);
    let _ = store.commit();
}

#[test]
fn tampered_volumes_neither_panic_nor_hang() {
    let rounds: u64 = std::env::var("COWBACK_ROUNDS").map_or(400, |rounds| rounds.parse().unwrap());
    let seed: u64 = std::env::var("COWBACK_SEED").map_or(1, |seed| seed.parse().unwrap());
    let (bytes, blocks) = image();
    assert!(blocks.len() > 10);
    for round in seed..seed + rounds {
        let mut random = Random(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let device = Arc::new(MemoryDevice::new(bytes.len() as u64));
        device.write_at(0, &bytes).unwrap();
        tamper(&mut random, &device, &bytes, &blocks);
        let outcome = catch_unwind(AssertUnwindSafe(|| use_it(device)));
        assert!(outcome.is_ok(), "COWBACK_SEED={round} COWBACK_ROUNDS=1");
    }
}
