//! The namespace over a real store: names and bytes against a model, through commits, crashes and reopening; and the
//! images before `btrfs check`, where that tool exists.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use cowback_base::{BLOCK_SIZE, ByteRange, Ino};
use cowback_extent_io::store::{
    Compression, ExtentKind, ExtentStore, FinishedExtent, InlineExtent,
};
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

use super::{AttrChange, FileType, NewInode, RenameMode, Target, XattrMode};
use crate::MemoryDevice;
use crate::clock::Clock;
use crate::device::BlockDevice;
use crate::format::FormatOptions;
use crate::open::OpenOptions;
use crate::store::Store;

const B: u64 = BLOCK_SIZE;
const FILE: NewInode = NewInode { mode: 0o100_644, uid: 1, gid: 2, rdev: 0, flags: 0 };
const DIR: NewInode = NewInode { mode: 0o040_755, ..FILE };
const CLOCK: Clock = Clock::Fixed { sec: 1_700_000_000, nsec: 9 };

/// A file as one would write it down: what each block is filled with, or the few bytes of an inline extent.
#[derive(Debug, Clone, Default, PartialEq)]
struct Content {
    blocks: BTreeMap<u64, u8>,
    inline: Option<(u8, u64)>,
    size: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    /// (directory, name) -> inode.
    names: BTreeMap<(u64, Vec<u8>), u64>,
    files: BTreeMap<u64, Content>,
    dirs: Vec<u64>,
}

#[derive(Debug, Clone)]
enum Op {
    Make { dir: usize, name: u16, is_dir: bool },
    Link { file: usize, dir: usize, name: u16 },
    Remove { entry: usize },
    Rename { entry: usize, dir: usize, name: u16 },
    Write { file: usize, start: u64, len: u64, byte: u8 },
    Inline { file: usize, byte: u8, len: u64 },
    Truncate { file: usize, size: u64 },
    Xattr { file: usize, name: u8, len: usize },
    Commit,
    Crash,
}

fn any_op() -> impl Strategy<Value = Op> {
    let (any, name) = (0..1000usize, 0..400u16);
    prop_oneof![
        6 => (any.clone(), name.clone(), prop::bool::weighted(0.2))
            .prop_map(|(dir, name, is_dir)| Op::Make { dir, name, is_dir }),
        2 => (any.clone(), any.clone(), name.clone())
            .prop_map(|(file, dir, name)| Op::Link { file, dir, name }),
        3 => any.clone().prop_map(|entry| Op::Remove { entry }),
        3 => (any.clone(), any.clone(), name)
            .prop_map(|(entry, dir, name)| Op::Rename { entry, dir, name }),
        8 => (any.clone(), 0..64u64, 1..40u64, 1..255u8)
            .prop_map(|(file, start, len, byte)| Op::Write { file, start, len, byte }),
        2 => (any.clone(), 1..255u8, 1..2000u64)
            .prop_map(|(file, byte, len)| Op::Inline { file, byte, len }),
        2 => (any.clone(), 0..40u64).prop_map(|(file, size)| Op::Truncate { file, size: size * B }),
        1 => (any, 0..9u8, 0..3000usize).prop_map(|(file, name, len)| Op::Xattr { file, name, len }),
        2 => Just(Op::Commit),
        1 => Just(Op::Crash),
    ]
}

struct World {
    device: Arc<MemoryDevice>,
    store: Store,
    now: Model,
    /// What the last commit holds.
    durable: Model,
}

impl World {
    fn new(grow: bool) -> Self {
        let device = Arc::new(MemoryDevice::new(0));
        let options = FormatOptions {
            total_bytes: if grow { 0 } else { 96 << 20 },
            grow,
            fsid: Some(Uuid::from_u128(0x1234_5678)),
            clock: CLOCK,
            ..FormatOptions::default()
        };
        let store = Store::format(Arc::clone(&device) as Arc<dyn BlockDevice>, &options).unwrap();
        let model = Model { dirs: vec![256], ..Model::default() };
        Self { device, store, now: model.clone(), durable: model }
    }

    fn reopen(&mut self) {
        let options = OpenOptions { grow: true, clock: CLOCK, ..OpenOptions::default() };
        self.store =
            Store::open(Arc::clone(&self.device) as Arc<dyn BlockDevice>, &options).unwrap();
        // What a crash left without names is ended by the next open.
        for ino in self.store.orphans().unwrap() {
            self.store.evict(ino).unwrap();
        }
    }

    fn file(&self, pick: usize) -> Option<u64> {
        let at = pick.checked_rem(self.now.files.len())?;
        self.now.files.keys().nth(at).copied()
    }

    fn dir(&self, pick: usize) -> u64 {
        self.now.dirs[pick % self.now.dirs.len()]
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Make { dir, name, is_dir } => self.make(self.dir(dir), name_of(name), is_dir),
            Op::Link { file, dir, name } => {
                let (Some(ino), place) = (self.file(file), (self.dir(dir), name_of(name))) else {
                    return;
                };
                let done = self.store.link(Ino(ino), Ino(place.0), &place.1).is_ok();
                assert_eq!(done, !self.now.names.contains_key(&place));
                self.now.names.entry(place).or_insert(ino);
            }
            Op::Remove { entry } => self.remove(entry),
            Op::Rename { entry, dir, name } => self.rename(entry, self.dir(dir), name_of(name)),
            Op::Write { file, start, len, byte } => {
                if let Some(ino) = self.file(file) {
                    self.write(ino, start, len, byte);
                }
            }
            Op::Inline { file, byte, len } => {
                let Some(ino) = self.file(file) else { return };
                let data = Bytes::from(vec![byte; usize::try_from(len).unwrap()]);
                let inline = InlineExtent { ram_bytes: len, compression: Compression::None, data };
                self.store.insert_inline(Ino(ino), inline).unwrap();
                self.set_size(ino, len);
                let content = self.now.files.get_mut(&ino).unwrap();
                content.blocks.clear();
                content.inline = Some((byte, len));
            }
            Op::Truncate { file, size } => {
                let Some(ino) = self.file(file) else { return };
                self.store.truncate(Ino(ino), size).unwrap();
                let content = self.now.files.get_mut(&ino).unwrap();
                content.size = size;
                content.blocks.retain(|block, _| block * B < size);
                if size == 0 {
                    content.inline = None;
                }
            }
            Op::Xattr { file, name, len } => {
                let Some(ino) = self.file(file) else { return };
                let (name, value) = (format!("user.{name}").into_bytes(), vec![b'v'; len]);
                self.store.set_xattr(Ino(ino), &name, &value, XattrMode::Any).unwrap();
                self.now.files.get_mut(&ino).unwrap().xattrs.insert(name, value);
            }
            Op::Commit => {
                self.store.commit().unwrap();
                self.durable = self.now.clone();
            }
            Op::Crash => {
                self.reopen();
                self.now = self.durable.clone();
                self.compare();
            }
        }
    }

    fn make(&mut self, dir: u64, name: Vec<u8>, is_dir: bool) {
        let made = self.store.create(Ino(dir), &name, if is_dir { &DIR } else { &FILE });
        assert_eq!(made.is_ok(), !self.now.names.contains_key(&(dir, name.clone())));
        let Ok((ino, _)) = made else { return };
        self.now.names.insert((dir, name), ino.0);
        if is_dir {
            self.now.dirs.push(ino.0);
        } else {
            self.now.files.insert(ino.0, Content::default());
        }
    }

    fn remove(&mut self, entry: usize) {
        let Some(at) = entry.checked_rem(self.now.names.len()) else { return };
        let ((dir, name), ino) =
            self.now.names.iter().nth(at).map(|(k, v)| (k.clone(), *v)).unwrap();
        let removed = if self.now.dirs.contains(&ino) {
            let empty = !self.now.names.keys().any(|(parent, _)| *parent == ino);
            let removed = self.store.rmdir(Ino(dir), &name);
            assert_eq!(removed.is_ok(), empty);
            removed
        } else {
            self.store.unlink(Ino(dir), &name)
        };
        let Ok(removed) = removed else { return };
        self.now.names.remove(&(dir, name));
        self.ended(removed.ino.0, removed.nlink);
    }

    fn ended(&mut self, ino: u64, nlink: u32) {
        assert_eq!(nlink as usize, self.now.names.values().filter(|to| **to == ino).count());
        if nlink == 0 {
            self.store.evict(Ino(ino)).unwrap();
            self.now.files.remove(&ino);
            self.now.dirs.retain(|dir| *dir != ino);
        }
    }

    fn rename(&mut self, entry: usize, dir: u64, name: Vec<u8>) {
        let Some(at) = entry.checked_rem(self.now.names.len()) else { return };
        let (old, ino) = self.now.names.iter().nth(at).map(|(k, v)| (k.clone(), *v)).unwrap();
        let new = (dir, name);
        let (from, to) = ((Ino(old.0), &old.1[..]), (Ino(new.0), &new.1[..]));
        let Ok(lost) = self.store.rename(from, to, RenameMode::Replace) else { return };
        if self.now.names.get(&new) == Some(&ino) {
            return;
        }
        self.now.names.remove(&old);
        self.now.names.insert(new, ino);
        if let Some(lost) = lost {
            self.ended(lost.ino.0, lost.nlink);
        }
    }

    fn set_size(&mut self, ino: u64, size: u64) {
        let change = AttrChange { size: Some(size), ..AttrChange::default() };
        self.store.set_attr(Ino(ino), &change).unwrap();
        self.now.files.get_mut(&ino).unwrap().size = size;
    }

    /// Writes as the engine does: reserves, allocates in pieces, writes, records.
    fn write(&mut self, ino: u64, start: u64, len: u64, byte: u8) {
        if self.now.files[&ino].inline.is_some() && start > 0 {
            // The engine writes the first block anew before a small file grows beyond it.
            self.write(ino, 0, 1, byte);
        }
        self.store.reserve_data(len * B).unwrap();
        let (mut at, end) = (start * B, (start + len) * B);
        while at < end {
            let extent = self.store.alloc_extent(end - at, B).unwrap();
            self.store.spend_data(extent.len);
            let range = ByteRange::at(at, extent.len);
            at = range.end;
            let data = vec![byte; usize::try_from(extent.len).unwrap()];
            let written = self.store.write_extent(extent, &[&data]).unwrap();
            let compression = Compression::None;
            let finished = FinishedExtent { ino: Ino(ino), range, written, compression };
            self.store.finish_ordered(finished).unwrap();
        }
        let size = self.now.files[&ino].size.max(end);
        self.set_size(ino, size);
        let content = self.now.files.get_mut(&ino).unwrap();
        content.blocks.extend((start..start + len).map(|block| (block, byte)));
        if start == 0 {
            content.inline = None;
        }
    }

    fn compare(&self) {
        for ((dir, name), ino) in &self.now.names {
            let (target, kind) = self.store.lookup(Ino(*dir), name).unwrap();
            assert_eq!(target, Target::Inode(Ino(*ino)));
            assert_eq!(kind == FileType::Dir, self.now.dirs.contains(ino));
        }
        for dir in &self.now.dirs {
            let expected = self.now.names.keys().filter(|(parent, _)| parent == dir).count();
            assert_eq!(self.store.read_dir(Ino(*dir)).unwrap().len(), expected);
        }
        for (ino, content) in &self.now.files {
            self.compare_file(Ino(*ino), content);
        }
    }

    fn compare_file(&self, ino: Ino, content: &Content) {
        let attr = self.store.inode(ino).unwrap();
        assert_eq!(attr.size, content.size);
        for (name, value) in &content.xattrs {
            assert_eq!(&self.store.get_xattr(ino, name).unwrap(), value);
        }
        assert_eq!(self.store.list_xattrs(ino).unwrap().len(), content.xattrs.len());
        let mut at = 0;
        while at < 120 * B {
            let map = self.store.lookup_extent(ino, at).unwrap();
            let part = ByteRange::new(at, map.range.end.min(120 * B));
            match map.kind {
                ExtentKind::Hole => {
                    for block in part.start / B..part.end / B {
                        assert_eq!(content.blocks.get(&block), None, "{ino:?} block {block}");
                    }
                    assert!(at > 0 || content.inline.is_none());
                }
                ExtentKind::Inline { ram_bytes, data, .. } => {
                    assert_eq!(content.inline, Some((data[0], ram_bytes)));
                }
                ExtentKind::Regular { disk_bytenr, offset, .. } => {
                    let from = disk_bytenr.plus(offset + (part.start - map.range.start));
                    let mut data = vec![0; usize::try_from(part.len()).unwrap()];
                    self.store.read_extent(ino, from, &mut data).unwrap();
                    for (block, bytes) in (part.start / B..).zip(data.chunks(4096)) {
                        let byte = content.blocks[&block];
                        assert!(bytes.iter().all(|b| *b == byte), "{ino:?} block {block}");
                    }
                }
                ExtentKind::Prealloc { .. } => panic!("nothing is preallocated here"),
            }
            at = map.range.end;
        }
    }

    /// What the tool of the field says of the image of the last commit.
    fn check_image(&self) {
        let found = Command::new("btrfs").arg("--version").output();
        if found.is_err() {
            return cowback_testkit::skipped(
                "btrfs check of the store's images",
                "btrfs-progs is not installed",
            );
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), self.device.to_vec()).unwrap();
        for mode in [["--check-data-csum", "--readonly"], ["--mode=lowmem", "--readonly"]] {
            let out =
                Command::new("btrfs").arg("check").args(mode).arg(file.path()).output().unwrap();
            let (text, errors) =
                (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            assert!(out.status.success(), "{mode:?}\n{text}\n{errors}");
            assert!(text.contains("no error found"), "{mode:?}\n{text}\n{errors}");
        }
    }
}

fn name_of(name: u16) -> Vec<u8> {
    format!("{name:0>width$}", width = 3 + usize::from(name) % 90).into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// D1: after a crash, names and bytes are exactly as at the last commit; before one, as the model says.
    #[test]
    fn a_store_keeps_what_was_committed(ops in vec(any_op(), 1..80)) {
        let mut world = World::new(false);
        for op in &ops {
            world.step(op);
        }
        world.compare();
        world.store.commit().unwrap();
        world.compare();
        world.reopen();
        world.compare();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn the_tool_of_the_field_finds_no_fault(ops in vec(any_op(), 200..400), grow in any::<bool>()) {
        let mut world = World::new(grow);
        for op in &ops {
            world.step(op);
        }
        world.store.commit().unwrap();
        world.check_image();
        world.reopen();
        world.compare();
        world.store.commit().unwrap();
        world.check_image();
    }

    /// R3: the same calls make the same image, bit for bit.
    #[test]
    fn the_same_calls_make_the_same_image(ops in vec(any_op(), 1..100)) {
        let image = || {
            let mut world = World::new(true);
            ops.iter().for_each(|op| world.step(op));
            world.store.commit().unwrap();
            world.device.to_vec()
        };
        prop_assert!(image() == image());
    }
}

#[test]
fn a_directory_of_many_files_is_sound() {
    let mut world = World::new(true);
    for n in 0..3000u32 {
        let name = format!("file number {n}").into_bytes();
        world.make(256, name, false);
        if n % 3 == 0 {
            let ino = *world.now.files.keys().next_back().unwrap();
            world.write(ino, 0, 1 + u64::from(n % 5), 7);
        }
        if n % 1000 == 999 {
            world.step(&Op::Commit);
            world.check_image();
        }
    }
    for n in 0..2500 {
        world.remove(n * 7);
    }
    world.step(&Op::Commit);
    world.check_image();
    world.reopen();
    world.compare();
}

#[test]
fn a_file_of_many_links_is_sound() {
    let mut world = World::new(true);
    world.make(256, b"file".to_vec(), false);
    let file = *world.now.files.keys().next().unwrap();
    for n in 0..600 {
        let name = format!("{n:0>60}").into_bytes();
        world.store.link(Ino(file), Ino::ROOT, &name).unwrap();
        world.now.names.insert((256, name), file);
    }
    world.step(&Op::Commit);
    world.check_image();
    for n in 0..550 {
        world.remove(n * 13);
    }
    world.step(&Op::Commit);
    world.check_image();
    world.compare();
}
