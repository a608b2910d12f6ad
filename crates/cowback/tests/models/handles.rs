//! Handles of one file that are closed at once, and names that lead to another one at once.

use std::sync::Arc;

use cowback::device::MemoryDevice;
use cowback::options::{CompressionPolicy, Profile};
use cowback::{Options, SetAttributes, Timespec, Volume};
use cowback_base::sync::thread;
use shuttle::rand::{Rng, thread_rng};

use crate::explore::explore;

const PAGE: u64 = 4096;

pub(crate) fn options() -> Options {
    Options {
        compression: CompressionPolicy::None,
        threads: 1,
        cache_bytes: 1 << 20,
        metadata: Profile::Single,
        commit_interval: None,
        ..Options::default()
    }
}

/// Each puts the size that it sees into the inode item: no older one may come to lie over a newer one.
#[test]
fn handles_that_are_closed_at_once_leave_the_newest_size() {
    explore("handles closed at once", 600, || {
        let device = Arc::new(MemoryDevice::new(0));
        let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
        let file = volume.create_file("f").unwrap();
        volume.commit().unwrap();
        let changes_time = thread_rng().r#gen();
        thread::scope(|scope| {
            for nth in 0..2 {
                let handle = file.clone();
                scope.spawn(move || {
                    handle.write_at(nth * PAGE, &[1; PAGE as usize]).unwrap();
                    if changes_time {
                        let modified = Some(Timespec { sec: 7, nsec: 0 });
                        let set = SetAttributes { modified, ..SetAttributes::default() };
                        handle.set_attributes(&set).unwrap();
                    }
                });
            }
        });
        volume.commit().unwrap();
        assert_eq!(file.len(), 2 * PAGE);
        drop((file, volume));
        let volume = Volume::open_on(device, &options()).unwrap();
        let size = volume.metadata("f").unwrap().size;
        assert_eq!(size, 2 * PAGE, "what was committed is cut off");
    });
}

/// A name that is moved over another leads to the old file or to the new one, each with all that was written to it: never to the old one while
/// its content is thrown away.
#[test]
fn the_size_of_a_file_that_is_replaced_is_that_of_the_old_one_or_of_the_new_one() {
    explore("a file replaced under who asks for its size", 600, || {
        let device = Arc::new(MemoryDevice::new(0));
        let volume = Volume::create_on(device, &options()).unwrap();
        let write = |name: &str, pages: usize| {
            volume.create_file(name).unwrap().write_at(0, &vec![1; pages * PAGE as usize]).unwrap();
        };
        write("config", 1);
        write("new", 2);
        let sizes = thread::scope(|scope| {
            scope.spawn(|| volume.rename("new", "config").unwrap());
            let ask = || volume.metadata("config").unwrap().size / PAGE;
            [ask(), ask()]
        });
        assert!([[1, 1], [1, 2], [2, 2]].contains(&sizes), "{sizes:?}");
    });
}

#[test]
fn attributes_that_are_set_together_are_seen_together() {
    explore("attributes set under who looks", 600, || {
        let device = Arc::new(MemoryDevice::new(0));
        let volume = Volume::create_on(device, &options()).unwrap();
        let file = volume.create_file("f").unwrap();
        file.write_at(0, &[1]).unwrap();
        let before = file.metadata().unwrap();
        let modified = Some(Timespec { sec: 7, nsec: 0 });
        let permissions = Some(0o600);
        let set = SetAttributes { permissions, modified, ..SetAttributes::default() };
        thread::scope(|scope| {
            scope.spawn(|| file.set_attributes(&set).unwrap());
            scope.spawn(|| volume.commit().unwrap());
            scope.spawn(|| {
                let seen = file.metadata().unwrap();
                let old =
                    [seen.permissions == before.permissions, seen.modified == before.modified];
                assert_eq!(old[0], old[1], "half of a change");
            });
        });
    });
}
