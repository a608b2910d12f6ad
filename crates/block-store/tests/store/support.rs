//! What the tests of images share: writing and reading files through the store, and the external checker.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cowback_base::{BLOCK_SIZE, ByteRange, Ino, block_align_up};
use cowback_block_store::namespace::{AttrChange, NewInode};
use cowback_block_store::{BlockDevice, Clock, FileDevice, FormatOptions, OpenOptions, Store};
use cowback_extent_io::store::{
    Compression, ExtentKind, ExtentStore, FinishedExtent, InlineExtent, StoreResult,
};
use cowback_testkit::skipped;
use uuid::Uuid;

/// A regular file.
pub(crate) const FILE: NewInode = NewInode { mode: 0o100_644, uid: 0, gid: 0, rdev: 0, flags: 0 };
/// A directory.
pub(crate) const DIR: NewInode = NewInode { mode: 0o040_755, uid: 0, gid: 0, rdev: 0, flags: 0 };

/// For devices that lie before a `memory`: what they do just as that.
macro_rules! as_memory {
    (@ read_at) => {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
            self.memory.read_at(offset, buf)
        }
    };
    (@ write_vectored_at) => {
        fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> std::io::Result<()> {
            self.memory.write_vectored_at(offset, parts)
        }
    };
    (@ flush) => {
        fn flush(&self) -> std::io::Result<()> {
            self.memory.flush()
        }
    };
    (@ len) => {
        fn len(&self) -> std::io::Result<u64> {
            self.memory.len()
        }
    };
    (@ set_len) => {
        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.memory.set_len(len)
        }
    };
    ($($method:ident),*) => {
        $(as_memory!(@ $method);)*
    };
}

/// Options that give the same image every time.
pub(crate) fn fixed(total_bytes: u64) -> FormatOptions {
    FormatOptions {
        total_bytes,
        grow: total_bytes == 0,
        fsid: Some(Uuid::from_u128(0xc0b_acc0_ffee)),
        clock: Clock::Fixed { sec: 1_700_000_000, nsec: 7 },
        label: "test".to_owned(),
        ..FormatOptions::default()
    }
}

/// A new image file as a device.
pub(crate) fn new_file(path: &Path) -> Arc<dyn BlockDevice> {
    Arc::new(FileDevice::create_new(path).unwrap())
}

/// An existing image, opened for writing.
pub(crate) fn reopen(path: &Path) -> Store {
    let device = Arc::new(FileDevice::open(path, false).unwrap());
    Store::open(device, &OpenOptions::default()).unwrap()
}

/// Writes `data`, which is padded to a block, at block-aligned `offset`, in extents as the allocator gives them.
pub(crate) fn write(store: &Store, ino: Ino, offset: u64, data: &[u8]) -> StoreResult<()> {
    let mut padded = data.to_vec();
    padded.resize(usize::try_from(block_align_up(data.len() as u64)).unwrap(), 0);
    let len = padded.len() as u64;
    store.reserve_data(len)?;
    let mut at = 0;
    while at < len {
        let extent = match store.alloc_extent(len - at, BLOCK_SIZE) {
            Ok(extent) => extent,
            Err(error) => {
                store.release_data(len - at);
                return Err(error);
            }
        };
        let got = extent.len;
        let bytes = &padded[usize::try_from(at).unwrap()..usize::try_from(at + got).unwrap()];
        let written = match store.write_extent(extent, &[bytes]) {
            Ok(written) => written,
            Err((extent, error)) => {
                store.free_extent(extent);
                store.release_data(len - at);
                return Err(error);
            }
        };
        store.spend_data(got);
        let range = ByteRange::at(offset + at, got);
        let compression = Compression::None;
        store.finish_ordered(FinishedExtent { ino, range, written, compression })?;
        at += got;
    }
    Ok(())
}

/// Makes `data` the inline content of a file.
pub(crate) fn write_inline(store: &Store, ino: Ino, data: &[u8]) {
    let ram_bytes = data.len() as u64;
    let data = data.to_vec().into();
    let inline = InlineExtent { ram_bytes, compression: Compression::None, data };
    store.insert_inline(ino, inline).unwrap();
}

/// Sets a file's size. If there is no room, commits and tries again, as a volume does.
pub(crate) fn set_size(store: &Store, ino: Ino, size: u64) {
    let change = AttrChange { size: Some(size), ..AttrChange::default() };
    if store.set_attr(ino, &change).is_err() {
        store.commit().unwrap();
        store.set_attr(ino, &change).unwrap();
    }
}

/// Reads a whole file of uncompressed extents.
pub(crate) fn read(store: &Store, ino: Ino) -> Vec<u8> {
    let size = store.inode(ino).unwrap().size;
    let mut out = Vec::new();
    while (out.len() as u64) < size {
        let at = out.len() as u64;
        let map = store.lookup_extent(ino, at).unwrap();
        assert!(map.range.contains(at), "{:?} at {at}", map.range);
        let len = usize::try_from(map.range.end.min(size) - at).unwrap();
        match map.kind {
            ExtentKind::Hole | ExtentKind::Prealloc { .. } => out.resize(out.len() + len, 0),
            ExtentKind::Inline { data, .. } => {
                out.extend_from_slice(&data[..len.min(data.len())]);
                out.resize(usize::try_from(at).unwrap() + len, 0);
            }
            ExtentKind::Regular { disk_bytenr, offset, compression, .. } => {
                assert_eq!(compression, Compression::None);
                let from = disk_bytenr.plus(offset + (at - map.range.start));
                let mut bytes = vec![0; len.next_multiple_of(4096)];
                store.read_extent(ino, from, &mut bytes).unwrap();
                out.extend_from_slice(&bytes[..len]);
            }
        }
    }
    out
}

/// Whether a program can be run.
pub(crate) fn have(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success())
}

/// Runs `btrfs check` in both modes over an image, if there is one.
pub(crate) fn check(image: &Path) {
    if !have("btrfs") {
        return skipped("btrfs check", "btrfs-progs is not installed");
    }
    for mode in ["--mode=original", "--mode=lowmem"] {
        let out = Command::new("btrfs")
            .args(["check", "--readonly", "--check-data-csum", mode])
            .arg(image)
            .output()
            .unwrap();
        let text = [out.stdout, out.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(out.status.success(), "{mode} of {}:\n{text}", image.display());
        assert!(!text.contains("ERROR") && !text.contains("WARNING"), "{mode}:\n{text}");
    }
    // Of what is sound cowback's own check says nothing either. An image that is open for writing is not shown to it.
    let Ok(device) = FileDevice::open(image, true) else { return };
    let mut told = Vec::new();
    cowback_block_store::check::check(&device, true, &mut |one| told.push(one.to_string()))
        .unwrap();
    assert_eq!(told, [""; 0], "{}", image.display());
}
