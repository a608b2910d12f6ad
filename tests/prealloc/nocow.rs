//! What the inode of a file says that is overwritten in place, after it was opened again.

use std::sync::Arc;

use cowback::device::MemoryDevice;
use cowback::{Options, Volume};
use cowback_tests::read_all;

fn options() -> Options {
    Options { cache_bytes: 8 << 20, threads: 2, commit_interval: None, ..Options::default() }
}

fn volume() -> (Arc<MemoryDevice>, Volume) {
    let device = Arc::new(MemoryDevice::new(64 << 20));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
    (device, volume)
}

#[test]
fn a_file_that_is_copied_on_write_again_has_checksums_again() {
    for wanted in [false, true] {
        let (device, volume) = volume();
        let file = volume.create_file("file").unwrap();
        file.set_nocow(true).unwrap();
        file.set_nocow(wanted).unwrap();
        drop(file);
        volume.close().unwrap();
        let volume = Volume::open_on(device as _, &options()).unwrap();
        assert_eq!(volume.open_file("file").unwrap().is_nocow(), wanted);
    }
}

#[test]
fn law_d2_what_was_appended_within_a_block_and_synced_is_there_after_a_crash() {
    let (device, volume) = volume();
    let file = volume.create_file("log").unwrap();
    file.set_nocow(true).unwrap();
    file.write_at(0, &[1; 100]).unwrap();
    file.sync_all().unwrap();
    for (at, byte) in [(100, 2), (150, 3)] {
        // It goes where the block is, and the inode says where the file ends.
        file.write_at(at, &[byte; 50]).unwrap();
        file.sync_data().unwrap();
    }
    drop((file, volume));
    let volume = Volume::open_on(device as _, &options()).unwrap();
    let expected = [vec![1; 100], vec![2; 50], vec![3; 50]].concat();
    assert_eq!(read_all(&volume, "log").unwrap(), expected);
}
