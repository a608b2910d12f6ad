//! What inodes tell right after a change: their times, the space they take, and that names that went leave nothing behind.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use cowback::device::MemoryDevice;
use cowback::{NewEntry, Options, Volume};

fn volume() -> Volume {
    let options =
        Options { cache_bytes: 8 << 20, threads: 2, commit_interval: None, ..Options::default() };
    Volume::create_on(Arc::new(MemoryDevice::new(64 << 20)), &options).unwrap()
}

/// Has the clock go on, so that what happens from now on has another time.
fn later() {
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn a_directory_in_which_a_name_was_replaced_from_another_one_has_changed() {
    let volume = volume();
    volume.create_dir("from").unwrap();
    volume.create_dir("to").unwrap();
    volume.create_file("from/file").unwrap();
    volume.create_file("to/old").unwrap();
    let before = volume.metadata("to").unwrap();
    later();
    volume.rename("from/file", "to/old").unwrap();
    let after = volume.metadata("to").unwrap();
    assert!(after.modified > before.modified && after.changed > before.changed);
}

#[test]
fn a_file_that_loses_one_of_its_names_has_changed() {
    let volume = volume();
    volume.create_file("one").unwrap();
    volume.hard_link("one", "other").unwrap();
    let before = volume.metadata("other").unwrap();
    later();
    volume.remove_file("one").unwrap();
    let after = volume.metadata("other").unwrap();
    assert!(after.changed > before.changed && after.modified == before.modified);
}

#[test]
fn a_file_that_loses_an_attribute_has_changed() {
    let volume = volume();
    volume.create_file("file").unwrap();
    volume.set_xattr("file", b"user.note", b"1").unwrap();
    let before = volume.metadata("file").unwrap();
    later();
    volume.remove_xattr("file", b"user.note").unwrap();
    assert!(volume.metadata("file").unwrap().changed > before.changed);
}

#[test]
fn what_a_file_takes_counts_what_is_not_on_disk_yet() {
    let volume = volume();
    let file = volume.create_file("file").unwrap();
    file.write_at(0, &[1; 100_000]).unwrap();
    assert_eq!(file.metadata().unwrap().allocated, 25 * 4096);
    // Its place is known, and the trees are yet to be told; again, and in part.
    for at in [0, 0, 50_000] {
        file.write_at(at, &[2; 40_000]).unwrap();
        assert!(file.extents().unwrap().iter().all(|extent| extent.disk.is_some()));
        assert_eq!(file.metadata().unwrap().allocated, 25 * 4096);
    }
    file.sync_all().unwrap();
    file.write_at(60_000, &[3; 90_000]).unwrap();
    assert_eq!(file.extents().unwrap().last().unwrap().range.end, 150_000);
    assert_eq!(file.metadata().unwrap().allocated, 37 * 4096);
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().allocated, 37 * 4096);
    let small = volume.create_file("small").unwrap();
    small.write_at(0, b"inline").unwrap();
    assert_eq!(small.extents().unwrap()[0].disk, None);
    assert_eq!(small.metadata().unwrap().allocated, 6);
    file.set_len(100_000).unwrap();
    file.punch_hole(4096..100_000).unwrap();
    volume.commit().unwrap();
    assert_eq!(
        file.data_ranges().unwrap(),
        std::slice::from_ref(&(0..4096)),
        "the last block is all of what it has"
    );
}

#[test]
fn a_device_number_that_no_device_has_is_refused() {
    let volume = volume();
    for (major, minor) in [(1 << 12, 0), (0, 1 << 20), (u32::MAX, u32::MAX)] {
        for entry in [NewEntry::CharDevice(major, minor), NewEntry::BlockDevice(major, minor)] {
            let error = volume.create_entry("node", &entry, 0o600).unwrap_err();
            assert!(error.to_string().contains(&format!("{major}:{minor}")), "{error}");
        }
    }
    let last = ((1 << 12) - 1, (1 << 20) - 1);
    volume.create_entry("node", &NewEntry::CharDevice(last.0, last.1), 0o600).unwrap();
    assert_eq!(volume.metadata("node").unwrap().device, last);
    volume.close().unwrap();
}

#[test]
fn a_directory_can_be_made_anew_where_one_was_removed() {
    let volume = volume();
    for _ in 0..2 {
        volume.create_dir("dir").unwrap();
        volume.create_file("dir/file").unwrap();
        volume.remove_file("dir/file").unwrap();
        volume.remove_dir("dir").unwrap();
    }
    volume.create_dir("old").unwrap();
    volume.create_file("old/file").unwrap();
    volume.rename("old", "new").unwrap();
    assert!(!volume.exists("old/file").unwrap() && volume.exists("new/file").unwrap());
    volume.close().unwrap();
}
