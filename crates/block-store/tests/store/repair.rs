//! Two copies of metadata (law E3): a bad one is read from the other, and repaired; unreadable and wrong are told apart.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::support::{DIR, FILE, fixed, read, set_size, write};
use cowback_base::Ino;
use cowback_base::sync::Mutex;
use cowback_block_store::check::check;
use cowback_block_store::namespace::NamespaceError;
use cowback_block_store::{BlockDevice, MemoryDevice, OpenOptions, Store};
use cowback_extent_io::store::StoreError;

const NODE: usize = 16 << 10;

/// A device with places that cannot be read until they are written, as disks have them; and that may refuse writes.
#[derive(Debug)]
struct Worn {
    memory: MemoryDevice,
    bad: Mutex<Vec<u64>>,
    refuses: AtomicBool,
    writes: AtomicU64,
}

impl Worn {
    fn new(image: &[u8], bad: &[u64]) -> Arc<Self> {
        let memory = MemoryDevice::new(image.len() as u64);
        memory.write_at(0, image).unwrap();
        let bad = Mutex::new(bad.to_vec());
        Arc::new(Self { memory, bad, refuses: AtomicBool::new(false), writes: AtomicU64::new(0) })
    }
}

impl BlockDevice for Worn {
    as_memory!(flush, len, set_len);

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let range = offset..offset + buf.len() as u64;
        if self.bad.lock().iter().any(|at| range.contains(at)) {
            return Err(io::Error::other("a bad sector"));
        }
        self.memory.read_at(offset, buf)
    }

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        if self.refuses.load(Ordering::Relaxed) && offset >= 1 << 20 {
            return Err(io::Error::other("no more spare sectors"));
        }
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let range = offset..offset + len as u64;
        self.bad.lock().retain(|at| !range.contains(at));
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.memory.write_vectored_at(offset, parts)
    }
}

/// A volume with a file, and the two places of the newest block of the file tree and of the root tree, with their logical addresses.
struct Image {
    bytes: Vec<u8>,
    ino: Ino,
    content: Vec<u8>,
    root: (u64, Vec<u64>),
    leaf: (u64, Vec<u64>),
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn image() -> Image {
    let device = Arc::new(MemoryDevice::new(0));
    let store = Store::format(Arc::clone(&device) as _, &fixed(32 << 20)).unwrap();
    let (ino, _) = store.create(Ino::ROOT, b"file", &FILE).unwrap();
    let content = vec![6; 40_960];
    write(&store, ino, 0, &content).unwrap();
    set_size(&store, ino, 40_960);
    store.commit().unwrap();
    store.sync_super_copies().unwrap();
    let superblock = store.superblock();
    drop(store);
    let bytes = device.to_vec();
    let mut blocks: BTreeMap<(u64, u64, u64), Vec<u64>> = BTreeMap::new();
    for at in (0..bytes.len()).step_by(4096) {
        let ours = bytes[at + 32..at + 48] == superblock.fsid.into_bytes();
        if ours && bytes[at + 64..at + 72] != *b"_BHRfS_M" {
            let (logical, generation, owner) =
                (number(&bytes, at + 48), number(&bytes, at + 80), number(&bytes, at + 88));
            blocks.entry((owner, generation, logical)).or_default().push(at as u64);
        }
    }
    let newest = |owner: u64| {
        let mut of = blocks.iter().filter(|((of, ..), _)| *of == owner);
        let ((_, _, logical), places) = of.next_back().unwrap();
        assert_eq!(places.len(), 2, "two copies");
        // On a device of fixed size, the copy that is read first lies behind the other.
        (*logical, places.iter().rev().copied().collect())
    };
    let (root, leaf) = (newest(1), newest(5));
    assert_eq!(root.0, superblock.root);
    Image { bytes, ino, content, root, leaf }
}

fn same(device: &Worn, places: &[u64]) -> bool {
    let block = |at: u64| {
        let mut block = vec![0; NODE];
        device.memory.read_at(at, &mut block).unwrap();
        block
    };
    block(places[0]) == block(places[1])
}

fn open(device: &Arc<Worn>, read_only: bool) -> Result<Store, StoreError> {
    let options = OpenOptions { read_only, ..OpenOptions::default() };
    Store::open(Arc::clone(device) as _, &options)
}

/// The bytes that are damaged, one after another: all of the header and of the first items, and one in each part of the rest. Of the 32 bytes
/// for the checksum, crc32c takes four, and nobody looks at the others.
fn regions() -> impl Iterator<Item = usize> {
    (0..4).chain(32..160).chain((160..NODE).step_by(509)).chain([NODE - 1])
}

#[test]
fn a_wrong_copy_is_written_anew_wherever_it_was_damaged() {
    let image = image();
    for (_, places) in [&image.root, &image.leaf] {
        let device = Worn::new(&image.bytes, &[]);
        for at in regions() {
            let place = usize::try_from(places[0]).unwrap() + at;
            device.memory.write_at(place as u64, &[!image.bytes[place]]).unwrap();
            let store = open(&device, false).unwrap();
            assert!(read(&store, image.ino) == image.content);
            let copies = store.stats().copies;
            assert_eq!((copies.wrong, copies.unreadable, copies.repaired), (1, 0, 1), "byte {at}");
            assert!(same(&device, places), "byte {at}");
        }
        assert!(device.memory.to_vec() == image.bytes, "and nothing else was written");
    }
}

#[test]
fn a_copy_that_cannot_be_read_is_written_anew_and_counted_apart() {
    let image = image();
    let device = Worn::new(&image.bytes, &[image.root.1[0] + 5000, image.leaf.1[0]]);
    let store = open(&device, false).unwrap();
    assert!(read(&store, image.ino) == image.content);
    let copies = store.stats().copies;
    assert_eq!((copies.wrong, copies.unreadable, copies.repaired), (0, 2, 2));
    assert!(device.bad.lock().is_empty());
    assert!(device.memory.to_vec() == image.bytes);
}

#[test]
fn a_volume_that_is_opened_for_reading_is_left_as_it_is() {
    let image = image();
    let device = Worn::new(&image.bytes, &[image.root.1[0]]);
    device.memory.write_at(image.leaf.1[0] + 200, &[0xff; 8]).unwrap();
    let before = device.memory.to_vec();
    let store = open(&device, true).unwrap();
    assert!(read(&store, image.ino) == image.content);
    let copies = store.stats().copies;
    assert_eq!((copies.wrong, copies.unreadable, copies.repaired), (1, 1, 0));
    assert_eq!(device.writes.load(Ordering::Relaxed), 0);
    assert!(device.memory.to_vec() == before);
}

#[test]
fn a_repair_that_fails_is_no_error_of_the_read() {
    let image = image();
    let device = Worn::new(&image.bytes, &[image.leaf.1[0]]);
    device.refuses.store(true, Ordering::Relaxed);
    let store = open(&device, false).unwrap();
    assert!(read(&store, image.ino) == image.content);
    assert_eq!((store.stats().copies.unreadable, store.stats().copies.repaired), (1, 0));
    assert_eq!(store.read_only_reason(), None);
    device.refuses.store(false, Ordering::Relaxed);
    store.create(Ino::ROOT, b"second", &FILE).unwrap();
    store.commit().unwrap();
}

#[test]
fn two_bad_copies_are_named_with_what_is_wrong_with_each() {
    let image = image();
    let (logical, places) = &image.root;
    let device = Worn::new(&image.bytes, &[places[0] + 100]);
    device.memory.write_at(places[1] + 200, &[0xff; 8]).unwrap();
    let before = device.memory.to_vec();
    let error = open(&device, false).unwrap_err();
    let text = error.to_string();
    let StoreError::NoGoodCopy { at, copies, .. } = error else { panic!("{text}") };
    assert_eq!(at, *logical);
    assert!(matches!(&copies[0], (at, StoreError::Io { op: "read", .. }) if *at == places[0]));
    assert!(matches!(&copies[1], (at, StoreError::Corrupt { .. }) if *at == places[1]));
    for part in [&logical.to_string(), "a bad sector", "csum", &places[1].to_string()] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(device.memory.to_vec() == before, "what is not known to be good is not written");
}

/// A device of which each thread reads every second tree block wrongly: so one copy of each block that is not in memory.
#[derive(Debug)]
struct Lying {
    memory: MemoryDevice,
    lies: AtomicBool,
}

thread_local! {
    static LIED: Cell<bool> = const { Cell::new(false) };
}

impl BlockDevice for Lying {
    as_memory!(write_vectored_at, flush, len, set_len);

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.memory.read_at(offset, buf)?;
        if buf.len() == NODE && self.lies.load(Ordering::Relaxed) {
            let lies = !LIED.get();
            LIED.set(lies);
            buf[300] ^= u8::from(lies);
        }
        Ok(())
    }
}

/// Makes a change, after a commit if what others have freed is needed for it. It may be used up again by then, but not for ever.
fn with_room<T>(store: &Store, change: impl Fn() -> Result<T, NamespaceError>) -> T {
    for _ in 0..100 {
        match change() {
            Err(NamespaceError::Store(StoreError::NoSpace { .. })) => drop(store.commit().unwrap()),
            result => return result.unwrap(),
        }
    }
    panic!("commits make no room");
}

#[test]
fn repairs_never_overwrite_what_took_the_place_of_a_block() {
    let device = Arc::new(Lying { memory: MemoryDevice::new(0), lies: AtomicBool::new(false) });
    drop(Store::format(Arc::clone(&device) as _, &fixed(48 << 20)).unwrap());
    // So few blocks are kept in memory that most are read again and again, while others change, free and reuse them.
    let options = OpenOptions { cached_nodes: 64, ..OpenOptions::default() };
    let store = Store::open(Arc::clone(&device) as _, &options).unwrap();
    let dirs: Vec<Ino> =
        (0..3u8).map(|number| store.create(Ino::ROOT, &[b'a' + number], &DIR).unwrap().0).collect();
    device.lies.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        for dir in dirs {
            let store = &store;
            scope.spawn(move || {
                for number in 0..1500u32 {
                    let name = format!("{}-{number}", "n".repeat(150));
                    with_room(store, || store.create(dir, name.as_bytes(), &FILE));
                    if number % 50 == 0 {
                        store.commit().unwrap();
                    }
                    let name = format!("{}-{}", "n".repeat(150), number * 7919 % 1500);
                    match store.lookup(dir, name.as_bytes()) {
                        Ok(_) | Err(NamespaceError::NotFound { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    if number >= 700 {
                        let name = format!("{}-{}", "n".repeat(150), number - 700);
                        let removed = with_room(store, || store.unlink(dir, name.as_bytes()));
                        store.evict(removed.ino).unwrap();
                    }
                }
            });
        }
    });
    store.commit().unwrap();
    device.lies.store(false, Ordering::Relaxed);
    let copies = store.stats().copies;
    println!("{copies:?}");
    // How many depends on what the threads left in memory for one another.
    assert!(copies.wrong > 0, "{copies:?}");
    let mut problems = Vec::new();
    check(&*device, true, &mut |problem| problems.push(problem)).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
}
