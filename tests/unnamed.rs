//! Files that are made without a name: nobody, and no crash, finds half of one (law D1).
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use cowback::device::{BlockDevice, MemoryDevice};
use cowback::{Error, Options, Volume};
use cowback_testkit::crash::{CrashState, Plan, explore};
use cowback_testkit::oracle::{Mode, Oracle};
use cowback_testkit::random::seed;
use cowback_testkit::recording::RecordingDevice;
use cowback_tests::exercise::alone::check;
use cowback_tests::{read_all, snapshot};

fn options() -> Options {
    Options { cache_bytes: 8 << 20, threads: 2, commit_interval: None, ..Options::default() }
}

fn volume() -> (Arc<MemoryDevice>, Volume) {
    let device = Arc::new(MemoryDevice::new(24 << 20));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
    (device, volume)
}

/// A copy of what is on the device now, as after a crash.
fn crashed(device: &MemoryDevice) -> Arc<MemoryDevice> {
    let bytes = device.to_vec();
    let copy = Arc::new(MemoryDevice::new(bytes.len() as u64));
    copy.write_at(0, &bytes).unwrap();
    copy
}

/// Bytes of data space that files hold, or held until the last commit.
fn used(volume: &Volume) -> u64 {
    let data = volume.stats().store.data;
    data.total - data.free
}

/// Has btrfs-progs look at what is on the device.
fn show_oracle(device: &MemoryDevice, what: &str) {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.img");
    std::fs::write(&image, device.to_vec()).unwrap();
    Oracle::available().check(&image, Mode::Original).unwrap().report(what);
}

#[test]
fn a_commit_holds_nothing_of_a_file_that_has_no_name_yet_and_all_of_it_when_it_has_one() {
    let (device, volume) = volume();
    volume.create_file("f").unwrap().write_at(0, b"old").unwrap();
    let file = volume.create_unnamed("").unwrap();
    file.write_at(0, &[7; 300_000]).unwrap();
    file.set_xattr(b"user.colour", b"blue").unwrap();
    volume.commit().unwrap();
    assert_eq!(file.metadata().unwrap().nlink, 0);
    assert_eq!(volume.read_dir("").unwrap().len(), 1);
    show_oracle(&device, "btrfs check with an open file without a name");
    let copy = crashed(&device);
    check(&copy).unwrap();
    let found = Volume::open_on(Arc::clone(&copy) as _, &options()).unwrap();
    assert_eq!(
        (found.read_dir("").unwrap().len(), read_all(&found, "f").unwrap()),
        (1, b"old".to_vec())
    );
    found.close().unwrap();
    let reopened = Volume::open_on(copy, &options()).unwrap();
    assert_eq!(used(&reopened), 0);
    drop(reopened);

    file.write_at(300_000, b"end").unwrap();
    volume.link_file_over(&file, "f").unwrap();
    assert_eq!(file.metadata().unwrap().nlink, 1);
    volume.commit().unwrap();
    show_oracle(&device, "btrfs check when it has got its name");
    check(&device).unwrap();
    drop(file);
    let found = Volume::open_on(crashed(&device), &options()).unwrap();
    assert!(read_all(&found, "f").unwrap() == [&[7; 300_000][..], b"end"].concat());
    assert_eq!(found.get_xattr("f", b"user.colour").unwrap(), b"blue");
    volume.close().unwrap();
}

#[test]
fn a_file_that_gets_no_name_goes_with_its_last_handle() {
    let (device, volume) = volume();
    let file = volume.create_unnamed("").unwrap();
    let other = file.clone();
    file.write_at(0, &[1; 1 << 20]).unwrap();
    volume.commit().unwrap();
    drop(file);
    volume.commit().unwrap();
    assert!(used(&volume) > 0);
    other.write_at(1 << 20, &[2; 1 << 20]).unwrap();
    drop(other);
    volume.commit().unwrap();
    let stats = volume.stats();
    assert_eq!((used(&volume), stats.cached_bytes), (0, 0), "{stats:?}");
    volume.close().unwrap();
    check(&device).unwrap();
}

#[test]
fn a_name_is_given_as_to_any_file_or_refused_with_nothing_changed() {
    let (device, volume) = volume();
    volume.create_dir("dir").unwrap();
    volume.create_file("taken").unwrap().write_at(0, b"taken").unwrap();
    let file = volume.create_unnamed("dir").unwrap();
    file.write_at(0, b"content").unwrap();
    assert!(volume.create_unnamed("taken").is_err() && volume.create_unnamed("nowhere").is_err());
    assert!(volume.link_file(&file, "taken").unwrap_err().to_string().contains("already"));
    assert!(volume.link_file_over(&file, "dir").unwrap_err().to_string().contains("a directory"));
    assert!(volume.link_file(&file, "nowhere/f").unwrap_err().is_not_found());
    assert!(volume.hard_link_inode(file.ino(), "f").is_err(), "it is nobody else's to name");
    let (_, other) = self::volume();
    assert!(matches!(other.link_file(&file, "f"), Err(Error::Option { option: "file", .. })));
    assert_eq!((volume.read_dir("").unwrap().len(), volume.read_dir("dir").unwrap().len()), (2, 0));

    volume.link_file(&file, "dir/one").unwrap();
    volume.link_file(&file, "two").unwrap();
    volume.link_file_over(&file, "two").unwrap();
    let replaced = volume.open_file("taken").unwrap();
    volume.link_file_over(&file, "taken").unwrap();
    assert_eq!(replaced.read_block(0).unwrap(), &b"taken"[..]);
    assert_eq!(volume.metadata("taken").unwrap().nlink, 3);
    for name in ["dir/one", "two", "taken"] {
        volume.remove_file(name).unwrap();
    }
    assert!(volume.link_file(&file, "again").is_err(), "its last name was removed");
    drop((file, replaced));
    volume.close().unwrap();
    check(&device).unwrap();
}

#[test]
fn a_first_name_that_is_removed_at_once_is_the_last() {
    let (device, volume) = volume();
    let (mut named, mut refused) = (0, 0);
    for round in 0..1000_u64 {
        let file = volume.create_unnamed("").unwrap();
        file.write_at(0, &round.to_le_bytes()).unwrap();
        let name_and_remove = || {
            let name = || {
                let named = volume.link_file(&file, "f").is_ok();
                drop(volume.remove_file("f")); // whoever gave it, if it is there
                named
            };
            (0..4).map(|_| name()).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let threads = [scope.spawn(name_and_remove), scope.spawn(name_and_remove)];
            for done in threads.map(|thread| thread.join().unwrap()) {
                named += done.iter().filter(|done| **done).count();
                refused += done.iter().filter(|done| !**done).count();
            }
        });
        // It has its content, whatever became of its names.
        assert_eq!(file.read_block(0).unwrap(), &round.to_le_bytes()[..]);
        drop(file);
        if round % 500 == 0 {
            volume.commit().unwrap();
        }
    }
    assert!(named >= 1000 && refused > 1000, "{named} named, {refused} refused");
    volume.commit().unwrap();
    let stats = volume.stats();
    assert_eq!((stats.cached_bytes, stats.cache.leaves), (0, 0), "{stats:?}");
    assert_eq!(volume.read_dir("").unwrap(), []);
    volume.close().unwrap();
    check(&device).unwrap();
}

/// Content of which the volume can promise less than it has: commits come while it is written.
const LARGE: usize = 40 << 20;

fn versions() -> [Vec<u8>; 2] {
    [b"old".to_vec(), b"new content ".repeat(LARGE / 12)]
}

/// A file is replaced by a large one on a small volume, and the power is cut at any moment.
#[test]
fn a_crash_at_any_moment_leaves_the_old_file_or_the_new_one_whole() {
    let seed = seed("unnamed_crash", 1);
    let device = Arc::new(RecordingDevice::zeros(24 << 20));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
    let [old, new] = versions();
    volume.create_file("f").unwrap().write_at(0, &old).unwrap();
    let begun = volume.commit().unwrap();
    device.mark("version 0");
    let file = volume.create_unnamed("").unwrap();
    for (at, part) in new.chunks(1 << 20).enumerate() {
        file.write_at((at as u64) << 20, part).unwrap();
    }
    volume.link_file_over(&file, "f").unwrap();
    let ended = volume.commit().unwrap();
    device.mark("version 1");
    drop(file);
    drop(volume);
    assert!(ended > begun + 1, "no commit came while it was written");
    let report = explore(device.recording(), &Plan::quick(seed), 2, look);
    println!("{} states", report.unwrap_or_else(|failure| panic!("{failure}")).states);
}

#[test]
fn what_a_file_replaces_that_had_no_name_gives_its_space_back() {
    let (_device, volume) = volume();
    volume
        .create_file("f")
        .unwrap()
        .write_at(0, &cowback_testkit::random::Rng::new(1).bytes(1 << 20))
        .unwrap();
    volume.commit().unwrap();
    assert_eq!(used(&volume), 1 << 20);
    let file = volume.create_unnamed("").unwrap();
    file.write_at(0, b"small").unwrap();
    volume.link_file_over(&file, "f").unwrap();
    volume.commit().unwrap();
    assert_eq!(used(&volume), 0);
}

fn look(state: &CrashState) -> Result<(), String> {
    let Some(promised) = state.last_mark("version ") else { return Ok(()) };
    let volume = Volume::open_on(state.device(), &options()).map_err(|e| e.to_string())?;
    let found = snapshot(&volume).map_err(|e| e.to_string())?;
    let content = read_all(&volume, "f").map_err(|e| e.to_string())?;
    let version = versions().iter().position(|version| *version == content);
    if found.len() != 1 || version.is_none() || promised == "1" && version != Some(1) {
        return Err(format!("it has {found:?}, version {version:?}, and {promised} was promised"));
    }
    volume.close().map_err(|e| e.to_string())
}
