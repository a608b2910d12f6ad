//! Named scenarios of space that runs out (law B4): only holes of a block are free, just enough for what is compressed, enough for a part
//! only; and a host that is full under an image that grows.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cowback::device::{BlockDevice, MemoryDevice};
use cowback::error::StoreError;
use cowback::options::{ChecksumKind, Profile};
use cowback::{Error, File, Options, Volume};
use cowback_base::sync::Mutex;
use cowback_testkit::random::Rng;
use cowback_tests::read_all;

const BLOCK: u64 = 4096;
const EXTENT: usize = 128 << 10;

fn options(compression: &str) -> Options {
    Options {
        compression: compression.parse().unwrap(),
        threads: 2,
        cache_bytes: 16 << 20,
        commit_interval: None,
        ..Options::default()
    }
}

/// A full volume of fixed size, with a file each of whose blocks is an extent of its own, one behind the other on disk: a comb.
struct Comb {
    device: Arc<MemoryDevice>,
    volume: Volume,
    comb: File,
}

/// Teeth of a comb.
const TEETH: u64 = 256;

impl Comb {
    fn new(compression: &str) -> Self {
        let device = Arc::new(MemoryDevice::new(24 << 20));
        let volume = Volume::create_on(Arc::clone(&device) as _, &options(compression)).unwrap();
        let comb = volume.create_file("comb").unwrap();
        let mut rng = Rng::new(3);
        for tooth in 0..TEETH {
            comb.write_at(2 * tooth * BLOCK, &rng.bytes(4096)).unwrap();
        }
        comb.sync_data().unwrap();
        let places: Vec<u64> = comb.extents().unwrap().iter().map(|e| e.disk.unwrap()).collect();
        assert_eq!(places.len() as u64, TEETH);
        assert!(places.windows(2).all(|two| two[1] == two[0] + BLOCK), "one behind the other");
        // Nothing else is free, to the last block.
        let filler = volume.create_file("filler").unwrap();
        let (mut at, mut len) = (0, 1 << 20);
        while len >= BLOCK {
            match filler.write_at(at, &rng.bytes(usize::try_from(len).unwrap())) {
                Ok(()) => at += len,
                Err(error) => {
                    assert!(error.is_no_space(), "{error}");
                    len /= 2;
                }
            }
        }
        volume.commit().unwrap();
        let data = volume.stats().store.data;
        assert_eq!((data.free, data.pinned, data.promised), (0, 0, 0));
        Self { device, volume, comb }
    }

    /// Frees the teeth for which `goes` holds.
    fn free(&self, goes: impl Fn(u64) -> bool) {
        for tooth in (0..TEETH).filter(|tooth| goes(*tooth)) {
            self.comb.punch_hole(2 * tooth * BLOCK..(2 * tooth + 1) * BLOCK).unwrap();
        }
        self.volume.commit().unwrap();
    }

    fn free_bytes(&self) -> u64 {
        self.volume.stats().store.data.free
    }

    /// Writes `content` to a new file and syncs it. Gives its extents as bytes stored, and codec.
    fn put(&self, name: &str, content: &[u8]) -> Vec<(u64, &'static str)> {
        let file = self.volume.create_file(name).unwrap();
        file.write_at(0, content).unwrap();
        file.sync_data().unwrap();
        file.extents().unwrap().iter().map(|extent| (extent.stored, extent.codec)).collect()
    }

    /// After a power cut, `name` holds `content`.
    fn expect(self, name: &str, content: &[u8]) {
        let Self { device, volume, comb } = self;
        drop((comb, volume));
        let volume = Volume::open_on(device, &options("none")).unwrap();
        assert!(read_all(&volume, name).unwrap() == content);
        volume.close().unwrap();
    }
}

/// 128 KiB that compress to some blocks.
fn compressible() -> Vec<u8> {
    let mut content = Rng::new(8).bytes(EXTENT / 8);
    content.resize(EXTENT, b'x');
    content
}

/// Bytes that it is stored in where there is room.
fn compressed_len() -> u64 {
    let volume = Volume::create_on(Arc::new(MemoryDevice::new(32 << 20)), &options("zstd:3"));
    let volume = volume.unwrap();
    let file = volume.create_file("f").unwrap();
    file.write_at(0, &compressible()).unwrap();
    let extents = file.extents().unwrap();
    assert_eq!((extents.len(), extents[0].codec), (1, "zstd"));
    assert!((3 * BLOCK..EXTENT as u64 / 2).contains(&extents[0].stored), "{extents:?}");
    extents[0].stored
}

/// What is dirty has its space: to write it again, or to cut the file within it, takes no more.
#[test]
fn on_a_full_volume_what_is_dirty_can_be_written_again_and_cut() {
    let full = Comb::new("none");
    full.free(|tooth| tooth < 2);
    let file = full.volume.create_file("f").unwrap();
    file.write_at(0, &[1; 100]).unwrap();
    full.volume.commit().unwrap(); // into the inode, until it grows
    file.write_at(2 * BLOCK, &[2; 10]).unwrap();
    let data = || full.volume.stats().store.data;
    assert_eq!((data().free, data().promised), (2 * BLOCK, 2 * BLOCK));
    file.write_at(50, &[3; 100]).unwrap();
    file.punch_hole(20..30).unwrap();
    file.set_len(60).unwrap();
    assert_eq!((data().free, data().promised), (2 * BLOCK, BLOCK), "no commit was needed");
    full.volume.commit().unwrap();
    drop(file);
    let content = [[1; 20].as_slice(), &[0; 10], &[1; 20], &[3; 10]].concat();
    full.expect("f", &content);
}

#[test]
fn in_holes_of_a_block_what_compresses_goes_raw_block_by_block() {
    let comb = Comb::new("zstd:3");
    comb.free(|tooth| tooth % 2 == 0);
    assert_eq!(comb.free_bytes(), TEETH / 2 * BLOCK);
    let content = compressible();
    let extents = comb.put("f", &content);
    assert_eq!(extents, vec![(BLOCK, "none"); EXTENT / 4096]);
    assert!(comb.volume.stats().written.fallbacks > 0);
    comb.expect("f", &content);
}

#[test]
fn a_hole_that_is_just_long_enough_takes_the_compressed_extent() {
    let need = compressed_len() / BLOCK;
    for (len, compressed) in [(need, true), (need - 1, false)] {
        let comb = Comb::new("zstd:3");
        // The hole, and single blocks, so that there is room for the data as it is.
        comb.free(|tooth| tooth < len || tooth > len && (tooth - len) % 2 == 0);
        let content = compressible();
        let extents = comb.put("f", &content);
        if compressed {
            assert_eq!(extents, [(need * BLOCK, "zstd")]);
        } else {
            let raw: u64 = extents.iter().map(|(stored, _)| stored).sum();
            assert_eq!(raw, EXTENT as u64);
            assert!(extents.iter().all(|(_, codec)| *codec == "none"), "{extents:?}");
            assert!(extents.contains(&(len * BLOCK, "none")), "the hole is used: {extents:?}");
        }
        comb.expect("f", &content);
    }
}

#[test]
fn data_is_refused_if_there_is_room_for_it_only_compressed() {
    // Whether it compresses is known only after it was taken, and nothing that was taken may be lost.
    let need = compressed_len() / BLOCK;
    let comb = Comb::new("zstd:3");
    comb.free(|tooth| tooth < need);
    let file = comb.volume.create_file("f").unwrap();
    let error = file.write_at(0, &compressible()).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_eq!((file.len(), comb.volume.stats().dirty_bytes), (0, 0));
    // Just as much as there is, is taken.
    let content = Rng::new(2).bytes(usize::try_from(need * BLOCK).unwrap());
    file.write_at(0, &content).unwrap();
    file.sync_data().unwrap();
    assert_eq!(comb.free_bytes(), 0);
    drop(file);
    comb.expect("f", &content);
}

/// Law B2: an inline extent is as long as its file, whatever was tried meanwhile.
#[test]
fn a_small_file_that_could_not_grow_is_stored_as_long_as_it_is() {
    let full = Comb::new("none");
    full.free(|tooth| tooth == 0);
    let small = full.volume.create_file("small").unwrap();
    small.write_at(0, b"12345").unwrap();
    full.volume.commit().unwrap();
    full.comb.write_at(0, &[1; 4096]).unwrap();
    full.volume.commit().unwrap();
    for grow in [&|| small.set_len(200), &|| small.write_at(100, b"678")] as [&dyn Fn() -> _; 2] {
        let error: Error = grow().unwrap_err();
        assert!(error.is_no_space(), "{error}");
        full.free(|tooth| tooth == 0);
        small.write_at(0, b"x").unwrap();
        full.volume.commit().unwrap();
        full.comb.write_at(0, &[1; 4096]).unwrap();
        full.volume.commit().unwrap();
    }
    let mut problems = Vec::new();
    Volume::check_on(&*full.device, &mut |problem| problems.push(problem)).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    let volume = Volume::open_on(Arc::clone(&full.device) as _, &options("none")).unwrap();
    assert_eq!(read_all(&volume, "small").unwrap(), b"x2345");
}

#[test]
fn a_full_volume_overwrites_what_it_holds_once_some_space_is_there() {
    let comb = Comb::new("none");
    // Copy on write: not even a block can be overwritten in place.
    let before = comb.comb.metadata().unwrap().modified;
    let error = comb.comb.write_at(0, &[1; 4096]).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_eq!(comb.comb.metadata().unwrap().modified, before, "nothing was written");
    comb.free(|tooth| tooth == TEETH - 1);
    for round in 0..5u8 {
        comb.comb.write_at(0, &[round; 4096]).unwrap();
        comb.comb.sync_data().unwrap();
        assert_eq!(comb.free_bytes(), BLOCK, "the old block is free after the commit");
    }
    let mut content = read_all(&comb.volume, "comb").unwrap();
    content[..4096].fill(4);
    comb.expect("comb", &content);
}

/// A file on a host with room for so many blocks; places that were never written take none.
#[derive(Debug)]
struct OnFullHost {
    memory: MemoryDevice,
    blocks: Mutex<BTreeSet<u64>>,
    room: AtomicUsize,
    /// Longest that the file may become, in MiB.
    longest: AtomicUsize,
}

impl OnFullHost {
    fn new() -> Arc<Self> {
        let [room, longest] = [(); 2].map(|()| AtomicUsize::new(usize::MAX));
        Arc::new(Self { memory: MemoryDevice::new(0), blocks: Mutex::default(), room, longest })
    }

    /// Leaves room for `blocks` more.
    fn leave(&self, blocks: usize) {
        self.room.store(self.blocks.lock().len().saturating_add(blocks), Ordering::Relaxed);
    }
}

fn full() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

impl BlockDevice for OnFullHost {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.memory.read_at(offset, buf)
    }

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let mut blocks = self.blocks.lock();
        let written = offset / BLOCK..(offset + len).div_ceil(BLOCK);
        let new = written.clone().filter(|block| !blocks.contains(block)).count();
        if blocks.len() + new > self.room.load(Ordering::Relaxed) {
            return Err(full());
        }
        blocks.extend(written);
        self.memory.write_vectored_at(offset, parts)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len >> 20 > self.longest.load(Ordering::Relaxed) as u64 {
            return Err(full());
        }
        self.memory.set_len(len)
    }
}

fn reopened(device: Arc<OnFullHost>, name: &str) -> Vec<u8> {
    let volume = Volume::open_on(device, &options("none")).unwrap();
    let content = read_all(&volume, name).unwrap();
    volume.close().unwrap();
    content
}

#[test]
fn a_host_that_is_full_under_a_growing_image_stops_nothing_that_cannot_go_on() {
    let content = Rng::new(6).bytes(3 << 20);
    let (mut stopped, mut went_on) = (0, 0);
    // From room for nothing, over room for some of the data, to room for all of it and not for all metadata.
    for room in (0..800).step_by(16).chain(760..800) {
        let device = OnFullHost::new();
        let volume = Volume::create_on(Arc::clone(&device) as _, &options("none")).unwrap();
        let file = volume.create_file("f").unwrap();
        file.write_at(0, &content[..1 << 20]).unwrap();
        file.sync_data().unwrap();
        device.leave(room);
        file.write_at(1 << 20, &content[1 << 20..]).unwrap();
        let told = file.sync_data();
        if told.is_ok() {
            assert!(room > 512, "{room} blocks were enough");
            continue;
        }
        assert!(read_all(&volume, "f").unwrap() == content, "{room}: still readable");
        if volume.create_file("probe").is_err() {
            stopped += 1;
            let error = volume.try_resume().unwrap_err();
            let full = matches!(&error, Error::Store(StoreError::Io { source, .. })
                if source.kind() == io::ErrorKind::StorageFull);
            assert!(full, "{room}: the host is still full: {error}");
            device.leave(usize::MAX);
            volume.try_resume().unwrap();
        } else {
            went_on += 1;
            device.leave(usize::MAX);
        }
        drop(file.sync_data()); // tells of what had failed
        file.sync_data().unwrap();
        drop((file, volume));
        assert!(reopened(device, "f") == content, "{room}");
    }
    println!("{stopped} stopped, {went_on} went on by themselves");
    assert!(stopped > 0 && went_on > 0);
}

#[test]
fn where_there_is_room_for_a_first_part_only_the_rest_stays_dirty_and_follows() {
    for policy in ["none", "zstd:3"] {
        let device = OnFullHost::new();
        let volume = Volume::create_on(Arc::clone(&device) as _, &options(policy)).unwrap();
        let mut rng = Rng::new(12);
        let part = 20 * BLOCK;
        let gap = volume.create_file("gap").unwrap();
        gap.write_at(0, &rng.bytes(usize::try_from(part).unwrap())).unwrap();
        gap.sync_data().unwrap();
        drop(gap);
        // The device gets no longer: it is filled, and then a part is given back.
        device
            .longest
            .store(usize::try_from(device.len().unwrap() >> 20).unwrap(), Ordering::Relaxed);
        let filler = volume.create_file("filler").unwrap();
        let (mut at, mut len) = (0, 1 << 20);
        while len >= BLOCK {
            let data = rng.bytes(usize::try_from(len).unwrap());
            if filler.write_at(at, &data).and_then(|()| filler.sync_data()).is_ok() {
                at += len;
            } else {
                filler.set_len(at).unwrap();
                len /= 2;
            }
        }
        drop(filler);
        volume.remove_file("gap").unwrap();
        volume.commit().unwrap();
        volume.commit().unwrap();
        assert_eq!(volume.stats().store.data.free, part);
        // What a volume that grows takes is not measured by what is free.
        volume.try_resume().unwrap();
        let file = volume.create_file("f").unwrap();
        let other = volume.open_file("f").unwrap();
        let content = rng.bytes(EXTENT);
        file.write_at(0, &content).unwrap();
        file.start_writeback();
        while volume.stats().in_flight_bytes > 0 {
            std::thread::yield_now();
        }
        let stats = volume.stats();
        assert_eq!(stats.dirty_bytes, EXTENT as u64 - part, "{policy}");
        assert_eq!((stats.store.data.free, stats.store.data.promised), (0, stats.dirty_bytes));
        assert!(read_all(&volume, "f").unwrap() == content, "{policy}: all of it is readable");
        assert!(file.sync_data().unwrap_err().is_no_space());
        device.longest.store(usize::MAX, Ordering::Relaxed);
        volume.try_resume().unwrap();
        drop(file.sync_data()); // tells of the second try
        file.sync_data().unwrap();
        assert!(other.sync_data().unwrap_err().is_no_space());
        other.sync_data().unwrap();
        drop((file, other, volume));
        assert!(reopened(device, "f") == content, "{policy}");
    }
}

#[test]
fn an_image_that_could_not_grow_is_tried_to_be_made_larger_again() {
    grows_again(|volume| volume.try_resume().unwrap());
    // Whoever finds no space has it tried, too.
    grows_again(|_| {});
}

fn grows_again(resume: impl Fn(&Volume)) {
    let device = OnFullHost::new();
    let volume = Volume::create_on(Arc::clone(&device) as _, &options("none")).unwrap();
    let file = volume.create_file("f").unwrap();
    file.write_at(0, &[1; 4096]).unwrap();
    file.sync_data().unwrap();
    device.longest.store(usize::try_from(device.len().unwrap() >> 20).unwrap(), Ordering::Relaxed);
    let mut rng = Rng::new(5);
    let mut at = 0;
    let error = loop {
        let data = rng.bytes(1 << 20);
        // What a growing volume has taken may turn out to have no room: it stays in memory, and the sync says so.
        match file.write_at(at, &data).and_then(|()| file.sync_data()) {
            Ok(()) => at += data.len() as u64,
            Err(error) => break error,
        }
        assert!(at < 1 << 30);
    };
    assert!(error.is_no_space(), "{error}");
    assert!(file.write_at(at, &rng.bytes(1 << 20)).is_err(), "it is full now");
    device.longest.store(usize::MAX, Ordering::Relaxed);
    resume(&volume);
    let content = rng.bytes(30 << 20);
    file.write_at(0, &content).unwrap();
    drop(file.sync_data()); // tells of what had failed
    file.sync_data().unwrap();
    let mut all = content;
    let len = usize::try_from(file.len()).unwrap();
    all.truncate(len);
    drop((file, volume));
    assert!(reopened(device, "f")[..all.len()] == all);
}

#[test]
fn files_that_only_grow_on_a_volume_full_of_names_do_not_keep_it_from_committing() {
    let device = Arc::new(MemoryDevice::new(64 << 20));
    let options = Options { metadata: Profile::Single, size: Some(64 << 20), ..options("none") };
    let volume = Volume::create_on(Arc::clone(&device) as _, &options).unwrap();
    volume.create_file("ballast").unwrap().write_at(0, &[1; 1 << 20]).unwrap();
    let name = |number: usize| format!("{number:0100}");
    let mut count = 0;
    for _ in 0..2 {
        while match volume.create_file(name(count)) {
            Ok(_) => true,
            Err(error) => !error.is_no_space() && panic!("{error}"),
        } {
            count += 1;
        }
        volume.commit().unwrap();
    }
    let mut grown = Vec::new();
    for number in (0..count).step_by(50) {
        let file = volume.open_file(name(number)).unwrap();
        let before = file.len();
        match file.set_len(1 << 20) {
            Ok(()) => grown.push(number),
            Err(error) => assert!(error.is_no_space() && file.len() == before, "{error}"),
        }
    }
    volume.commit().unwrap();
    assert!(grown.len() > 100, "{} of {count}", grown.len());
    println!("{} of {count} files grew", grown.len());
    volume.remove_file("ballast").unwrap();
    for number in 0..count / 20 {
        volume.remove_file(name(20 * number + 1)).unwrap();
    }
    volume.commit().unwrap();
    let file = volume.create_file("one more").unwrap();
    file.write_at(0, &[7; 100_000]).unwrap();
    drop(file);
    volume.close().unwrap();
    let volume = Volume::open_on(device, &options).unwrap();
    for number in grown {
        assert_eq!(volume.metadata(name(number)).unwrap().size, 1 << 20, "{number}");
    }
    assert!(read_all(&volume, "one more").unwrap() == [7; 100_000]);
    volume.close().unwrap();
}

#[test]
fn a_write_that_is_refused_leaves_nothing_that_no_commit_writes() {
    let device = Arc::new(MemoryDevice::new(32 << 20));
    let options = Options { size: Some(32 << 20), ..options("none") };
    let volume = Volume::create_on(device as _, &options).unwrap();
    let file = volume.create_file("small").unwrap();
    file.write_at(0, &[1; 100]).unwrap();
    let ballast = volume.create_file("ballast").unwrap();
    let noise = Rng::new(2).bytes(1 << 20);
    let mut at = 0;
    for step in [1 << 20, 64 << 10, 4096] {
        while ballast.write_at(at, &noise[..step]).is_ok() {
            at += step as u64;
        }
    }
    volume.commit().unwrap();
    ballast.set_len(at - (64 << 10)).unwrap();
    volume.commit().unwrap();
    // The block at the end is written anew, as the file grows beyond it, and then there is no room for the rest.
    let error = file.write_at(8192, &noise).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    volume.commit().unwrap();
    assert_eq!((file.len(), file.dirty_bytes()), (100, 0));
    drop((file, ballast));
    volume.close().unwrap();
}

#[test]
fn a_file_of_very_many_extents_is_cut_on_a_volume_that_has_no_room_to_do_so_at_once() {
    const EXTENTS: u64 = 300;
    for cut in [0, 3 * BLOCK + 100] {
        let device = Arc::new(MemoryDevice::new(14 << 20));
        let options = Options {
            metadata: Profile::Single,
            checksum: ChecksumKind::Sha256,
            size: Some(14 << 20),
            ..options("none")
        };
        let volume = Volume::create_on(Arc::clone(&device) as _, &options).unwrap();
        // Far apart on disk, so that each has a place of its own in the trees.
        let (mut rng, file) = (Rng::new(9), volume.create_file("pieces").unwrap());
        let other = volume.create_file("between").unwrap();
        for piece in 0..EXTENTS {
            for file in [&file, &other] {
                file.write_at(2 * piece * BLOCK, &rng.bytes(4096)).unwrap();
                file.start_writeback();
            }
        }
        volume.commit().unwrap();
        let mut count = 0;
        for _ in 0..2 {
            while match volume.create_file(format!("{count:0100}")) {
                Ok(_) => true,
                Err(error) => !error.is_no_space() && panic!("{error}"),
            } {
                count += 1;
            }
            drop(volume.commit());
        }
        let commits = volume.stats().commits.count;
        file.set_len(cut).unwrap();
        assert!(volume.stats().commits.count > commits + 1, "at once, or in one try more");
        assert_eq!(file.len(), cut);
        let left = usize::try_from(cut).unwrap();
        file.sync_all().unwrap();
        drop((file, other, volume)); // without a close
        let volume = Volume::open_on(Arc::clone(&device) as _, &options).unwrap();
        assert_eq!(read_all(&volume, "pieces").unwrap().len(), left);
        volume.remove_file(format!("{:0100}", 0)).unwrap();
        volume.close().unwrap();
        Volume::check_on(&*device, &mut |problem| panic!("{problem}")).unwrap();
    }
}
