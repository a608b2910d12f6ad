//! A store that has stopped goes on when the cause is gone, loses nothing by it, and says why not if it cannot.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::support::{FILE, fixed, read, set_size, write};
use cowback_base::sync::Mutex;
use cowback_base::{ByteRange, Ino};
use cowback_block_store::check::check;
use cowback_block_store::{BlockDevice, Fit, MemoryDevice, OpenOptions, Store};
use cowback_extent_io::store::{
    Compression, ExtentStore, FinishedExtent, PreallocMode, StoreError, StoreResult,
};

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fails {
    /// With an error. A flush leaves what it should have made durable readable, and forgets about it, as Linux' page cache does.
    Error,
    /// As that, and what a flush should have made durable is gone: it reads as before.
    Loses,
    /// By a panic.
    Panics,
}

/// A file in a page cache, on a disk.
#[derive(Debug)]
struct HostFile {
    cache: MemoryDevice,
    disk: MemoryDevice,
    /// Written since the last flush, whatever came of that.
    dirty: Mutex<Vec<(u64, usize)>>,
    /// Writes and flushes that succeed before the first that does not; those that fail then; how.
    left: AtomicU64,
    failures: AtomicU64,
    fails: AtomicU8,
    reads_left: AtomicU64,
}

impl HostFile {
    fn new() -> Arc<Self> {
        let [left, reads_left] = [(); 2].map(|()| AtomicU64::new(u64::MAX));
        let [cache, disk] = [(); 2].map(|()| MemoryDevice::new(0));
        let (failures, fails) = (AtomicU64::new(0), AtomicU8::new(0));
        Arc::new(Self { cache, disk, dirty: Mutex::default(), left, failures, fails, reads_left })
    }

    fn fail(&self, how: Fails, after: u64, times: u64) {
        self.fails.store(how as u8, Ordering::Relaxed);
        self.failures.store(times, Ordering::Relaxed);
        self.left.store(after, Ordering::Relaxed);
    }

    /// Whether the operation fails.
    fn struck(&self) -> Option<Fails> {
        let down = |count: &AtomicU64| {
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
        };
        if down(&self.left) {
            return None;
        }
        if !down(&self.failures) {
            self.left.store(u64::MAX, Ordering::Relaxed);
            return None;
        }
        let how = [Fails::Error, Fails::Loses, Fails::Panics];
        Some(how[usize::from(self.fails.load(Ordering::Relaxed))])
    }

    fn move_dirty(&self, from: &MemoryDevice, to: &MemoryDevice) {
        for (at, len) in std::mem::take(&mut *self.dirty.lock()) {
            let mut bytes = vec![0; len];
            from.read_at(at, &mut bytes).unwrap();
            to.write_at(at, &bytes).unwrap();
        }
    }

    /// The system writes back what it likes: all but what is in `range`.
    fn write_back_all_but(&self, range: std::ops::Range<u64>) {
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let (kept, written) = dirty.into_iter().partition(|(at, _)| range.contains(at));
        *self.dirty.lock() = written;
        self.move_dirty(&self.cache, &self.disk);
        *self.dirty.lock() = kept;
    }

    /// What is there after the power was cut.
    fn after_power_cut(&self) -> Arc<MemoryDevice> {
        let bytes = self.disk.to_vec();
        let device = MemoryDevice::new(bytes.len() as u64);
        device.write_at(0, &bytes).unwrap();
        Arc::new(device)
    }
}

impl BlockDevice for HostFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let left = &self.reads_left;
        let left = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        left.map_err(|_| io::Error::other("a bad sector"))?;
        self.cache.read_at(offset, buf)
    }

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        match self.struck() {
            None => {}
            Some(Fails::Panics) => panic!("the device panics"),
            Some(_) => return Err(io::Error::other("the device is gone")),
        }
        let len = parts.iter().map(|part| part.len()).sum();
        self.cache.write_vectored_at(offset, parts)?;
        self.dirty.lock().push((offset, len));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let struck = self.struck();
        match struck {
            None => {
                self.move_dirty(&self.cache, &self.disk);
                return Ok(());
            }
            Some(Fails::Loses) => self.move_dirty(&self.disk, &self.cache),
            Some(_) => self.dirty.lock().clear(),
        }
        assert!(struck != Some(Fails::Panics), "the device panics");
        Err(io::Error::other("the device is gone"))
    }

    fn len(&self) -> io::Result<u64> {
        self.cache.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)?;
        self.cache.set_len(len)
    }
}

fn volume(device: &Arc<HostFile>, size: u64) -> (Store, Ino) {
    let store = Store::format(Arc::clone(device) as _, &fixed(size)).unwrap();
    let (ino, _) = store.create(Ino::ROOT, b"file", &FILE).unwrap();
    write(&store, ino, 0, &[1; 9000]).unwrap();
    set_size(&store, ino, 9000);
    store.commit().unwrap();
    (store, ino)
}

static NEW: [u8; 20_000] = [2; 20_000];

/// Work of one transaction, a part of which is superseded before its end, and its commit. Tells if it succeeds.
fn work(store: &Store, ino: Ino) -> bool {
    let work = || -> StoreResult<u64> {
        store.check_space();
        write(store, ino, 0, &[9; 4096])?;
        write(store, ino, 0, &NEW)?;
        if store.read_only_reason().is_none() && store.lookup(Ino::ROOT, b"second").is_err() {
            set_size(store, ino, NEW.len() as u64);
            store.create(Ino::ROOT, b"second", &FILE).unwrap();
        }
        store.commit()
    };
    catch_unwind(AssertUnwindSafe(work)).is_ok_and(|done| done.is_ok())
}

trait CheckSpace {
    /// No space is lost or had twice.
    fn check_space(&self);
}

impl CheckSpace for Store {
    fn check_space(&self) {
        let stats = self.stats();
        assert!(stats.data.free + stats.data.pinned <= stats.data.total, "{stats:?}");
    }
}

fn expect(device: Arc<MemoryDevice>, ino: Ino, content: &[u8], what: &str) {
    let mut problems = Vec::new();
    check(&*device, true, &mut |problem| problems.push(problem)).unwrap();
    assert!(problems.is_empty(), "{what}: {problems:?}");
    let store = Store::open(device, &OpenOptions::default()).unwrap();
    assert!(read(&store, ino) == content, "{what}: content");
}

#[test]
fn a_commit_that_failed_anywhere_is_brought_to_an_end() {
    for size in [0, 32 << 20] {
        for fails in [Fails::Error, Fails::Panics] {
            let mut resumed = 0;
            for after in 0.. {
                let what = format!("{fails:?} after {after}, size {size}");
                let device = HostFile::new();
                let (store, ino) = volume(&device, size);
                device.fail(fails, after, 1);
                if work(&store, ino) {
                    assert!(after >= 8, "{what}");
                    break;
                }
                if let Some(reason) = store.read_only_reason() {
                    assert!(matches!(store.commit(), Err(StoreError::ReadOnly { .. })), "{what}");
                    let expected = if fails == Fails::Error { "is gone" } else { "a panic" };
                    assert!(reason.contains(expected), "{what}: {reason}");
                    assert!(read(&store, ino) == NEW, "{what}");
                    store.try_resume().unwrap_or_else(|error| panic!("{what}: {error}"));
                    resumed += 1;
                    // The commit that had failed is durable now, without another.
                    expect(device.after_power_cut(), ino, &NEW, &what);
                }
                assert!(work(&store, ino), "{what}: it goes on");
                expect(device.after_power_cut(), ino, &NEW, &what);
            }
            assert!(resumed >= 5, "{fails:?}: resumed {resumed} times");
        }
    }
}

/// Law R4: the commit that is found may be in the system's memory only. What it freed must not be written to before it is durable.
#[test]
fn a_commit_that_was_found_and_not_flushed_is_made_durable_before_what_it_freed_is_used() {
    let mut found_new = 0;
    for after in 0.. {
        let device = HostFile::new();
        let (store, ino) = volume(&device, 32 << 20);
        device.fail(Fails::Error, after, 1);
        if work(&store, ino) {
            break;
        }
        drop(store);
        let what = format!("failed after {after}");
        let store = Store::open(Arc::clone(&device) as _, &OpenOptions::default()).unwrap();
        let new = store.lookup(Ino::ROOT, b"second").is_ok();
        found_new += u64::from(new);
        // A commit of nothing says that what was found is durable.
        store.commit().unwrap();
        expect(device.after_power_cut(), ino, if new { &NEW } else { &[1; 9000] }, &what);
        let (more, _) = store.create(Ino::ROOT, b"more", &FILE).unwrap();
        write(&store, more, 0, &[3; 100_000]).unwrap();
        device.write_back_all_but(0..1 << 20);
        expect(device.after_power_cut(), ino, if new { &NEW } else { &[1; 9000] }, &what);
    }
    assert!(found_new >= 1);
}

#[test]
fn a_store_whose_device_is_still_gone_stays_stopped_and_may_be_asked_again() {
    for after in 2..8 {
        let device = HostFile::new();
        let (store, ino) = volume(&device, 32 << 20);
        device.fail(Fails::Error, after, u64::MAX);
        assert!(!work(&store, ino));
        let Some(reason) = store.read_only_reason() else { continue };
        for _ in 0..3 {
            let error = store.try_resume().unwrap_err();
            assert!(matches!(error, StoreError::Io { .. }), "{error}");
            assert_eq!(store.read_only_reason().as_ref(), Some(&reason));
        }
        device.fail(Fails::Error, u64::MAX, 0);
        store.try_resume().unwrap();
        store.try_resume().unwrap();
        assert!(work(&store, ino));
        expect(device.after_power_cut(), ino, &NEW, "after a while");
    }
}

#[test]
fn going_on_may_fail_as_well_anywhere_and_is_tried_again() {
    let mut failed_again = 0;
    for first in 2..9 {
        for fails in [Fails::Error, Fails::Panics] {
            for second in 0.. {
                let what = format!("first {first}, then {fails:?} after {second}");
                let device = HostFile::new();
                let (store, ino) = volume(&device, 32 << 20);
                device.fail(Fails::Error, first, 1);
                if work(&store, ino) || store.read_only_reason().is_none() {
                    break;
                }
                device.fail(fails, second, 1);
                let resumed = catch_unwind(AssertUnwindSafe(|| store.try_resume()));
                if resumed.is_ok_and(|done| done.is_ok()) {
                    break;
                }
                failed_again += 1;
                // A crash now leaves one of the two commits.
                let crashed = device.after_power_cut();
                let now = Store::open(Arc::clone(&crashed) as _, &OpenOptions::default()).unwrap();
                let new = now.lookup(Ino::ROOT, b"second").is_ok();
                drop(now);
                expect(crashed, ino, if new { &NEW } else { &[1; 9000] }, &what);
                store.try_resume().unwrap_or_else(|error| panic!("{what}: {error}"));
                expect(device.after_power_cut(), ino, &NEW, &what);
                assert!(work(&store, ino), "{what}");
            }
        }
    }
    assert!(failed_again > 30, "{failed_again}");
}

#[test]
fn what_a_failed_flush_lost_is_missed_and_what_is_in_memory_is_not() {
    let (mut refused, mut resumed) = (0, 0);
    for after in 0..12 {
        for data in [true, false] {
            let device = HostFile::new();
            let (store, ino) = volume(&device, 32 << 20);
            device.fail(Fails::Loses, after, 1);
            let done = if data {
                work(&store, ino)
            } else {
                store.create(Ino::ROOT, b"second", &FILE).unwrap();
                store.commit().is_ok()
            };
            if done || store.read_only_reason().is_none() {
                continue;
            }
            match store.try_resume() {
                Ok(()) => {
                    resumed += 1;
                    store.create(Ino::ROOT, b"third", &FILE).unwrap();
                    store.commit().unwrap();
                    let content = if data { &NEW[..] } else { &[1; 9000] };
                    expect(device.after_power_cut(), ino, content, "resumed");
                }
                Err(error) => {
                    refused += 1;
                    assert!(matches!(&error, StoreError::Corrupt { .. }), "{error}");
                    assert!(error.to_string().contains("the device has lost it"), "{error}");
                    assert!(data, "tree blocks are in memory");
                    store.try_resume().unwrap_err();
                    assert!(store.create(Ino::ROOT, b"third", &FILE).is_err());
                    let old = Store::open(device.after_power_cut(), &OpenOptions::default());
                    assert!(read(&old.unwrap(), ino) == [1; 9000], "the commit before is whole");
                }
            }
        }
    }
    assert!(refused >= 1 && resumed >= 6, "{refused} refused, {resumed} resumed");
}

#[test]
fn an_operation_that_was_done_in_part_is_a_reason_to_open_the_volume_again() {
    let device = HostFile::new();
    let (store, ino) = volume(&device, 64 << 20);
    // So many extents that the inode and the end of the file are in leaves of their own.
    for number in 0..1500_u64 {
        write(&store, ino, number * 8192, &[1; 4096]).unwrap();
    }
    set_size(&store, ino, 1500 * 8192);
    store.commit().unwrap();
    drop(store);
    let mut refused = 0;
    for reads in 0.. {
        let store = Store::open(Arc::clone(&device) as _, &OpenOptions::default()).unwrap();
        store.truncate(ino, 1000 * 8192).unwrap();
        device.reads_left.store(reads, Ordering::Relaxed);
        let done = store.commit();
        device.reads_left.store(u64::MAX, Ordering::Relaxed);
        if let Some(reason) = store.read_only_reason() {
            assert!(reason.contains("a commit failed"), "{reason}");
            let error = store.try_resume().unwrap_err().to_string();
            assert!(error.contains(&reason) && error.contains("opened again"), "{error}");
            assert_eq!(store.read_only_reason(), Some(reason));
            refused += 1;
        }
        if done.is_ok() {
            break;
        }
    }
    assert!(refused > 0);
    let reading = OpenOptions { read_only: true, ..OpenOptions::default() };
    let store = Store::open(device, &reading).unwrap();
    let error = store.try_resume().unwrap_err();
    assert!(error.to_string().contains("opened read-only"), "{error}");
}

#[test]
fn a_commit_that_cannot_read_before_its_first_change_stops_nothing() {
    let device = HostFile::new();
    let (store, ino) = volume(&device, 32 << 20);
    drop(store);
    // No tree block is in memory but those that opening reads.
    let store = Store::open(Arc::clone(&device) as _, &OpenOptions::default()).unwrap();
    write(&store, ino, 0, &NEW[..8192]).unwrap();
    device.reads_left.store(0, Ordering::Relaxed);
    let error = store.commit().unwrap_err();
    assert!(matches!(error, StoreError::Io { .. } | StoreError::NoGoodCopy { .. }), "{error}");
    assert_eq!(store.read_only_reason(), None);
    device.reads_left.store(u64::MAX, Ordering::Relaxed);
    store.commit().unwrap();
    let mut content = NEW[..8192].to_vec();
    content.resize(9000, 1);
    expect(device.after_power_cut(), ino, &content, "the second commit");
}

#[test]
fn shrinking_that_failed_anywhere_leaves_a_volume_that_goes_on_or_says_why_not() {
    for size in [0, 32 << 20] {
        let (mut resumed, mut refused) = (0, 0);
        for fails in [Fails::Error, Fails::Loses, Fails::Panics] {
            for after in 0.. {
                let what = format!("{fails:?} after {after}, size {size}");
                let device = HostFile::new();
                let (store, ino) = volume(&device, size);
                set_size(&store, ino, 8999);
                device.fail(fails, after, 1);
                let shrink = || store.shrink_to_fit(Fit::Slack(0));
                if catch_unwind(AssertUnwindSafe(shrink)).is_ok_and(|done| done.is_ok()) {
                    break;
                }
                if store.read_only_reason().is_some() {
                    match store.try_resume() {
                        Ok(()) => resumed += 1,
                        Err(StoreError::ReadOnly { .. }) => refused += 1,
                        Err(error) => panic!("{what}: {error}"),
                    }
                }
                if store.read_only_reason().is_none() {
                    store.create(Ino::ROOT, b"second", &FILE).unwrap();
                    store.commit().unwrap_or_else(|error| panic!("{what}: {error}"));
                    // A volume of fixed size may be too small by now to be moved once more.
                    let again = store.shrink_to_fit(Fit::Slack(0));
                    let full = matches!(again, Err(StoreError::NoSpace { .. }));
                    assert!(again.is_ok() || full && size > 0, "{what}: {again:?}");
                }
                drop(store);
                let device = device.after_power_cut();
                let reached = Store::open(Arc::clone(&device) as _, &OpenOptions::default());
                let size = reached.unwrap().inode(ino).unwrap().size;
                assert!([8999, 9000].contains(&size), "{what}: {size}");
                expect(device, ino, &[1; 9000][..usize::try_from(size).unwrap()], &what);
            }
        }
        println!("size {size}: {resumed} resumed, {refused} refused");
        assert!(resumed > 10);
    }
}

/// A flush that failed, and a bad sector under data that was superseded before any commit.
#[test]
fn data_that_nobody_needs_does_not_keep_a_volume_from_going_on() {
    // Entered into the trees before it is superseded, or not.
    for (ahead, overwritten) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut resumed = 0;
        for after in 0.. {
            let device = HostFile::new();
            let (store, ino) = volume(&device, 32 << 20);
            write(&store, ino, 0, &[9; 4096]).unwrap();
            let dead = device.dirty.lock().last().unwrap().0;
            while ahead && store.step_ahead().unwrap() {}
            if overwritten {
                write(&store, ino, 0, &NEW).unwrap();
                set_size(&store, ino, NEW.len() as u64);
            } else {
                store.truncate(ino, 0).unwrap();
            }
            device.write_back_all_but(dead..dead + 1);
            device.fail(Fails::Loses, after, 1);
            if store.commit().is_ok() {
                break;
            }
            let reason = store.read_only_reason().unwrap();
            if reason.contains("flush") {
                store.try_resume().unwrap_or_else(|error| panic!("after {after}: {error}"));
                resumed += 1;
            }
        }
        assert!(resumed > 0);
    }
}

/// How data that was written into preallocated space comes to be needed by nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dead {
    Overwritten,
    Removed,
    /// The store stops before it hears of it: who had it written has it still.
    NotFinished,
}

#[test]
fn data_in_preallocated_space_that_nobody_needs_does_not_either() {
    for dead in [Dead::Overwritten, Dead::Removed, Dead::NotFinished] {
        let mut resumed = 0;
        for after in 0.. {
            let device = HostFile::new();
            let (store, ino) = volume(&device, 32 << 20);
            let (other, _) = store.create(Ino::ROOT, b"other", &FILE).unwrap();
            let range = ByteRange::new(0, 4096);
            store.prealloc_extents(other, range, PreallocMode::Keep).unwrap();
            set_size(&store, other, 4096);
            store.commit().unwrap();
            write(&store, ino, 0, &NEW).unwrap();
            let extent = store.claim_in_place(other, range).unwrap().extent.unwrap();
            let at = extent.bytenr;
            let written = store.write_extent(extent, &[&[9; 4096]]).unwrap();
            let place = device.dirty.lock().last().unwrap().0;
            let compression = Compression::None;
            let finished = FinishedExtent { ino: other, range, written, compression };
            let mut not_finished = None;
            if dead == Dead::NotFinished {
                not_finished = Some(finished);
            } else {
                store.finish_ordered(finished).unwrap();
            }
            match dead {
                Dead::Overwritten => write(&store, other, 0, &[8; 4096]).unwrap(),
                Dead::Removed => {
                    store.unlink(Ino::ROOT, b"other").unwrap();
                    store.evict(other).unwrap();
                }
                Dead::NotFinished => {}
            }
            device.write_back_all_but(place..place + 1);
            device.fail(Fails::Loses, after, 1);
            if store.commit().is_ok() {
                break;
            }
            let what = format!("{dead:?} at {at:?}, after {after}");
            if let Some(finished) = not_finished {
                store.finish_ordered(finished).unwrap_err();
            }
            if store.read_only_reason().unwrap().contains("flush") {
                store.try_resume().unwrap_or_else(|error| panic!("{what}: {error}"));
                resumed += 1;
            }
        }
        assert!(resumed > 0, "{dead:?}");
    }
}
