//! Volumes with some of everything.

use std::sync::Arc;

use cowback_base::{BLOCK_SIZE, ByteRange, Ino, block_align_up};
use cowback_block_store::namespace::{AttrChange, FileType, NewInode, XattrMode};
use cowback_block_store::{BlockDevice, Clock, FormatOptions, MemoryDevice, Profile, Store};
use cowback_btrfs_disk::ChecksumKind;
use cowback_codec::{Algorithm, CompressionSpec, Compressor, Outcome, output_limit};
use cowback_extent_io::store::{Compression, ExtentStore, FinishedExtent, InlineExtent};
use uuid::Uuid;

pub(crate) const FILE: NewInode = NewInode { mode: 0o100_644, uid: 0, gid: 0, rdev: 0, flags: 0 };
pub(crate) const DIR: NewInode = NewInode { mode: 0o040_755, ..FILE };

/// Bytes of the volumes.
pub(crate) const SIZE: u64 = 80 << 20;

/// A new volume in memory.
pub(crate) fn format(metadata: Profile, checksum: ChecksumKind) -> (Arc<MemoryDevice>, Store) {
    let device = Arc::new(MemoryDevice::new(0));
    let options = FormatOptions {
        total_bytes: SIZE,
        grow: false,
        metadata,
        checksum,
        fsid: Some(Uuid::from_u128(0xc0b_acc0_ffee)),
        clock: Clock::Fixed { sec: 1_700_000_000, nsec: 7 },
        ..FormatOptions::default()
    };
    let store = Store::format(Arc::clone(&device) as Arc<dyn BlockDevice>, &options).unwrap();
    (device, store)
}

/// Text of `len` bytes that can be compressed.
pub(crate) fn text(number: u64, len: u64) -> Vec<u8> {
    let word = |at: u64| (at / 5 * (number + 3) % 23) * 7 % 26;
    (0..len).map(|at| b'a' + u8::try_from(word(at)).unwrap()).collect()
}

/// The algorithm of a way to store.
fn algorithm(compression: Compression) -> Option<Algorithm> {
    match compression {
        Compression::None => None,
        Compression::Zlib => Some(Algorithm::Zlib),
        Compression::Lzo => Some(Algorithm::Lzo),
        Compression::Zstd => Some(Algorithm::Zstd),
    }
}

/// `data` compressed, if that saves a block.
pub(crate) fn pack(compression: Compression, data: &[u8], limit: usize) -> Option<Vec<u8>> {
    let spec = CompressionSpec::default_of(algorithm(compression)?);
    let mut packed = vec![0; limit];
    match Compressor::new().compress(spec, data, &mut packed).unwrap() {
        Outcome::Compressed(len) => {
            packed.truncate(len);
            Some(packed)
        }
        Outcome::DoesNotFit => None,
    }
}

/// Stores `packed`, padded, as what `len` bytes of the file at `offset` unpack from.
pub(crate) fn write_packed(
    store: &Store,
    ino: Ino,
    (offset, len): (u64, u64),
    compression: Compression,
    mut packed: Vec<u8>,
) {
    packed.resize(usize::try_from(block_align_up(packed.len() as u64)).unwrap(), 0);
    let stored = packed.len() as u64;
    store.reserve_data(stored).unwrap();
    let extent = store.alloc_extent(stored, stored).unwrap();
    let written = store.write_extent(extent, &[&packed]).unwrap();
    store.spend_data(stored);
    let range = ByteRange::at(offset, block_align_up(len));
    store.finish_ordered(FinishedExtent { ino, range, written, compression }).unwrap();
}

/// Writes `data` at block-aligned `offset`, in extents of at most 128 KiB, compressed where that pays.
pub(crate) fn write(store: &Store, ino: Ino, offset: u64, data: &[u8], compression: Compression) {
    for (piece, at) in data.chunks(128 * 1024).zip((offset..).step_by(128 * 1024)) {
        let len = piece.len() as u64;
        match pack(compression, piece, output_limit(piece.len())) {
            Some(packed) => write_packed(store, ino, (at, len), compression, packed),
            None => write_packed(store, ino, (at, len), Compression::None, piece.to_vec()),
        }
    }
}

/// Sets a file's size.
pub(crate) fn set_size(store: &Store, ino: Ino, size: u64) {
    store.set_attr(ino, &AttrChange { size: Some(size), ..AttrChange::default() }).unwrap();
}

/// Makes a file of `data`.
pub(crate) fn file(
    store: &Store,
    dir: Ino,
    name: &str,
    data: &[u8],
    compression: Compression,
) -> Ino {
    let (ino, _) = store.create(dir, name.as_bytes(), &FILE).unwrap();
    if data.len() <= 2048 && !data.is_empty() {
        let packed = pack(compression, data, data.len() - 1);
        let compression = if packed.is_some() { compression } else { Compression::None };
        let stored = packed.unwrap_or_else(|| data.to_vec()).into();
        let inline = InlineExtent { ram_bytes: data.len() as u64, compression, data: stored };
        store.insert_inline(ino, inline).unwrap();
    } else {
        write(store, ino, 0, data, compression);
    }
    set_size(store, ino, data.len() as u64);
    ino
}

/// Fills a volume over several commits, with `files` files in one directory.
pub(crate) fn populate(store: &Store, files: u64) {
    let ways = [Compression::None, Compression::Zlib, Compression::Lzo, Compression::Zstd];
    let way = |number: u64| ways[usize::try_from(number).unwrap() % ways.len()];
    let (dir, _) = store.create(Ino::ROOT, b"dir", &DIR).unwrap();
    let (deep, _) = store.create(dir, b"deep", &DIR).unwrap();
    for number in 0..files {
        let data = text(number, number * number * 37 % 30_000);
        let ino = file(store, dir, &format!("file{number}"), &data, way(number));
        if number % 7 == 0 {
            store.set_xattr(ino, b"user.number", &text(number, 40), XattrMode::Any).unwrap();
        }
        if number % 50 == 49 {
            store.commit().unwrap();
        }
    }
    let large = file(store, Ino::ROOT, "large", &text(1, 600_000), Compression::Zstd);
    let raw = file(store, Ino::ROOT, "raw", &text(2, 400_000), Compression::None);
    store.commit().unwrap();
    // Overwritten in the middle: several items of one extent.
    for (ino, step) in [(large, 13), (raw, 9)] {
        for number in 1..8 {
            let at = number * step * BLOCK_SIZE;
            write(store, ino, at, &text(number, 2 * BLOCK_SIZE), way(number));
        }
    }
    store.truncate(raw, 300_001).unwrap();
    store.punch(large, ByteRange::at(40 * BLOCK_SIZE, 8 * BLOCK_SIZE)).unwrap();
    // So many names that they do not fit into one item.
    for number in 0..100_u64 {
        let name = format!("{number}{}", "n".repeat(240));
        store.link(raw, deep, name.as_bytes()).unwrap();
    }
    store.symlink(dir, b"symlink", &FILE, b"../large").unwrap();
    store.create(dir, b"device", &NewInode { mode: 0o020_600, rdev: 0x103, ..FILE }).unwrap();
    store.create(dir, b"fifo", &NewInode { mode: 0o010_600, ..FILE }).unwrap();
    let (outer, _) = store.create(dir, b"outer", &DIR).unwrap();
    store.create(outer, b"inner", &DIR).unwrap();
    let (sparse, _) = store.create(dir, b"sparse", &FILE).unwrap();
    write(store, sparse, 5 << 20, &text(3, 5000), Compression::Zlib);
    set_size(store, sparse, 9 << 20);
    let gone = file(store, dir, "orphan", &text(4, 9000), Compression::Lzo);
    store.unlink(dir, b"orphan").unwrap();
    assert!(store.orphans().unwrap().contains(&gone));
    for number in (0..files).step_by(9) {
        let removed = store.unlink(dir, format!("file{number}").as_bytes()).unwrap();
        if removed.nlink == 0 {
            store.evict(removed.ino).unwrap();
        }
    }
    assert_eq!(store.lookup(Ino::ROOT, b"large").unwrap().1, FileType::Regular);
    store.commit().unwrap();
}

/// A volume with some of everything, as bytes.
pub(crate) fn volume(metadata: Profile, checksum: ChecksumKind, files: u64) -> Arc<Vec<u8>> {
    let (device, store) = format(metadata, checksum);
    populate(&store, files);
    store.sync_super_copies().unwrap();
    drop(store);
    Arc::new(device.to_vec())
}
