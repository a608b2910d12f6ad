//! Handles of one file that are closed at once.

use std::sync::Arc;

use cowback::device::MemoryDevice;
use cowback::options::{CompressionPolicy, Profile};
use cowback::{Options, SetAttributes, Timespec, Volume};
use cowback_base::sync::thread;
use shuttle::rand::{Rng, thread_rng};

use crate::explore::explore;

const PAGE: u64 = 4096;

fn options() -> Options {
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
