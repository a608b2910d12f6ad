//! What others do to images that the store does not do itself: files without checksums, large preallocated extents, older features.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::kernel::{Mount, add, compare, find};
use crate::support::{FILE, check, fixed, new_file, read, reopen, set_size, write};
use cowback_base::Ino;
use cowback_block_store::{FileDevice, OpenOptions, Store};
use cowback_btrfs_disk::TreeId;
use cowback_extent_io::store::ExtentStore;
use cowback_testkit::skipped;

/// Runs a program that should succeed. False if it did not, which is said.
fn run(program: &str, args: &[&str], path: &Path) -> bool {
    let done = Command::new(program).args(args).arg(path).output();
    let good = done.as_ref().is_ok_and(|done| done.status.success());
    if !good {
        skipped(&format!("{program} {args:?}"), &format!("{done:?}"));
    }
    good
}

fn mkfs(image: &Path, features: &[&str]) -> bool {
    fs::File::create(image).unwrap().set_len(400 << 20).unwrap();
    run("mkfs.btrfs", features, image)
}

#[test]
fn files_without_checksums_stay_so() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    drop(Store::format(new_file(&image), &fixed(400 << 20)).unwrap());
    let Some(mount) = Mount::new(&image, "loop") else { return };
    let file = mount.at.join("nocow");
    fs::write(&file, b"").unwrap();
    if !run("chattr", &["+C"], &file) {
        return;
    }
    fs::write(&file, vec![1; 100_000]).unwrap();
    mount.finish();
    let store = reopen(&image);
    let ino = find(&store, "nocow");
    write(&store, ino, 8192, &[2; 16_384]).unwrap();
    store.commit().unwrap();
    let mut expected = vec![1; 100_000];
    expected[8192..24_576].fill(2);
    assert!(read(&store, ino) == expected);
    drop(store);
    check(&image);
    assert!(read(&reopen(&image), ino) == expected);
}

#[test]
fn large_preallocated_extents_are_read_and_cut() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    fs::File::create(&image).unwrap().set_len(8 << 30).unwrap();
    if !run("mkfs.btrfs", &[], &image) {
        return;
    }
    let Some(mount) = Mount::new(&image, "loop") else { return };
    let path = mount.at.join("large");
    if !run("fallocate", &["-l", "1G"], &path) {
        return;
    }
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[3; 70_000], 300 << 20).unwrap();
    file.sync_all().unwrap();
    drop(file);
    mount.finish();
    let store = reopen(&image);
    let ino = find(&store, "large");
    let map = store.lookup_extent(ino, 0).unwrap();
    assert!(map.range.len() > 128 << 20, "{:?}: the kernel makes smaller extents here", map.range);
    write(&store, ino, 301 << 20, &[4; 8192]).unwrap();
    store.truncate(ino, 310 << 20).unwrap();
    store.commit().unwrap();
    check(&image);
    drop(store);
    let store = reopen(&image);
    let content = read(&store, ino);
    let expected = |at: usize| match at {
        at if (300 << 20..(300 << 20) + 70_000).contains(&at) => 3,
        at if (301 << 20..(301 << 20) + 8192).contains(&at) => 4,
        _ => 0,
    };
    assert!(content.iter().enumerate().all(|(at, byte)| *byte == expected(at)));
}

#[test]
fn holes_need_no_items_once_the_store_has_written() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    if !mkfs(&image, &["-O", "^no-holes"]) {
        return;
    }
    let store = reopen(&image);
    let (ino, _) = store.create(Ino::ROOT, b"sparse", &FILE).unwrap();
    write(&store, ino, 40_960, &[1; 4096]).unwrap();
    set_size(&store, ino, 1 << 20);
    store.commit().unwrap();
    drop(store);
    check(&image);
}

#[test]
fn tree_blocks_with_items_of_the_old_form_can_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    if !mkfs(&image, &["-O", "^skinny-metadata"]) {
        return;
    }
    let Some(mount) = Mount::new(&image, "loop") else { return };
    for number in 0..500 {
        fs::write(mount.at.join(format!("kernel{number}")), vec![1; number * 10]).unwrap();
    }
    run("btrfs", &["subvolume", "snapshot", mount.at.to_str().unwrap()], &mount.at.join("snap"));
    mount.finish();
    if !run("btrfstune", &["-x"], &image) {
        return;
    }
    let store = reopen(&image);
    let files = add(&store, Ino::ROOT, "a", 300);
    store.commit().unwrap();
    for number in 0..400 {
        let name = format!("kernel{number}");
        let removed = store.unlink(Ino::ROOT, name.as_bytes()).unwrap();
        store.evict(removed.ino).unwrap();
    }
    store.commit().unwrap();
    compare(&store, &files);
    drop(store);
    check(&image);
}

#[test]
fn a_read_only_snapshot_is_read_and_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    drop(Store::format(new_file(&image), &fixed(400 << 20)).unwrap());
    let Some(mount) = Mount::new(&image, "loop") else { return };
    fs::write(mount.at.join("file"), vec![1; 10_000]).unwrap();
    let at = mount.at.to_str().unwrap();
    assert!(run("btrfs", &["subvolume", "snapshot", "-r", at], &mount.at.join("snap")));
    mount.finish();
    let open = |read_only| {
        let device = Arc::new(FileDevice::open(&image, read_only).unwrap());
        let subvolume = TreeId(256);
        Store::open(device, &OpenOptions { read_only, subvolume, ..OpenOptions::default() })
    };
    let error = open(false).unwrap_err();
    assert!(error.to_string().contains("subvolume 256 is read-only"), "{error}");
    let store = open(true).unwrap();
    assert!(read(&store, find(&store, "file")) == vec![1; 10_000]);
}
