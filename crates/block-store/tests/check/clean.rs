//! Healthy volumes: nothing is found, whoever wrote them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cowback_base::Ino;
use cowback_block_store::{BlockDevice, FileDevice, MemoryDevice, Profile, Store};
use cowback_btrfs_disk::ChecksumKind;
use cowback_extent_io::store::Compression;
use cowback_testkit::skipped;

use crate::build::{self, file, text};
use crate::patched::Patched;
use crate::{btrfs_check, have, problems};

#[test]
fn nothing_is_found_in_what_the_store_writes() {
    let dir = tempfile::tempdir().unwrap();
    for metadata in [Profile::Dup, Profile::Single] {
        for checksum in ChecksumKind::ALL {
            let bytes = build::volume(metadata, checksum, 120);
            let device = Patched::new(&bytes);
            let (lines, report) = problems(&device);
            assert!(lines.is_empty() && report.is_clean(), "{metadata:?} {checksum}: {lines:#?}");
            assert!(report.notes.is_empty(), "{:?}", report.notes);
            assert!(report.data_bytes > 0 && report.verified_bytes == report.data_bytes);
            assert!(report.unpacked_extents > 40, "{report:?}");
            assert_eq!(report.directories, 5, "{report:?}"); // one of them is the root
            if have("btrfs") {
                let path = dir.path().join("image");
                device.save(&path);
                let (good, text) = btrfs_check(&path);
                assert!(good, "{text}");
            }
        }
    }
}

#[test]
fn a_check_of_an_open_store_sees_the_last_commit() {
    let (_, store) = build::format(Profile::Dup, ChecksumKind::Crc32c);
    build::populate(&store, 30);
    let files = |store: &Store| {
        let report = store.check(true, &mut |problem| panic!("{problem}")).unwrap();
        (report.generation, report.files)
    };
    let before = files(&store);
    assert_eq!(before.0, store.generation());
    // What is not committed is not looked at, and harms nothing.
    for number in 0..40 {
        let name = format!("new{number}");
        file(&store, Ino::ROOT, &name, &text(number, 9000), Compression::Zlib);
    }
    store.truncate(store_file(&store), 0).unwrap();
    assert_eq!(files(&store), before);
    store.commit().unwrap();
    assert_eq!(files(&store), (before.0 + 1, before.1 + 40));
}

fn store_file(store: &Store) -> Ino {
    match store.lookup(Ino::ROOT, b"raw").unwrap().0 {
        cowback_block_store::namespace::Target::Inode(ino) => ino,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_volume_that_has_just_grown_around_the_second_superblock_is_whole() {
    let device = Arc::new(MemoryDevice::new(0));
    let options = cowback_block_store::FormatOptions::default();
    let store = Store::format(Arc::clone(&device) as Arc<dyn BlockDevice>, &options).unwrap();
    let mut number = 0;
    let mut grown = false;
    while !grown {
        let before = device.len().unwrap();
        let data = text(number, 8 << 20);
        file(&store, Ino::ROOT, &format!("f{number}"), &data, Compression::None);
        store.commit().unwrap();
        store.check(false, &mut |problem| panic!("{problem} at {number}")).unwrap();
        grown = before < 64 << 20 && device.len().unwrap() >= 65 << 20;
        number += 1;
    }
    let mut copy = vec![0; 4096];
    device.read_at(64 << 20, &mut copy).unwrap();
    assert!(copy.iter().all(|byte| *byte == 0), "the case that this test is about");
}

/// A folder with some of everything.
fn folder(at: &Path) -> PathBuf {
    let root = at.join("folder");
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    for number in 0..300_u64 {
        let data = text(number, number * number * 11 % 50_000);
        fs::write(root.join(format!("a/b/file{number}")), data).unwrap();
    }
    fs::hard_link(root.join("a/b/file7"), root.join("a/link")).unwrap();
    std::os::unix::fs::symlink("b/file7", root.join("a/symlink")).unwrap();
    root
}

#[test]
fn nothing_is_found_in_what_mkfs_writes() {
    if !have("mkfs.btrfs") || !have("btrfs") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = folder(dir.path());
    let variants: [&[&str]; 8] = [
        &[],
        &["-m", "single"],
        &["--csum", "xxhash"],
        &["--csum", "blake2"],
        &["-O", "^no-holes"],
        &["-O", "^skinny-metadata"],
        &["-n", "4096"],
        &["-n", "65536"],
    ];
    for (number, options) in variants.iter().enumerate() {
        let image = dir.path().join(format!("{number}.img"));
        fs::File::create(&image).unwrap().set_len(200 << 20).unwrap();
        let made = Command::new("mkfs.btrfs")
            .args(["-q", "--rootdir"])
            .arg(&root)
            .args(*options)
            .arg(&image)
            .output()
            .unwrap();
        if !made.status.success() {
            skipped(&format!("images of mkfs.btrfs {options:?}"), "it does not make them");
            continue;
        }
        let (lines, report) = problems(&FileDevice::open(&image, true).unwrap());
        assert!(lines.is_empty(), "{options:?}: {lines:#?}");
        assert!(report.files > 300 && report.verified_bytes == report.data_bytes);
        let (good, text) = btrfs_check(&image);
        assert!(good, "{text}");
    }
}

/// What the kernel is told to do with a mounted volume: snapshots, clones, preallocation, files without checksums.
const WORK: &str = r#"
set -e
cd "$1"
cp -r "$2" tree
head -c 3000000 /dev/urandom > random
btrfs -q subvolume snapshot . snap1
rm -r tree/a/b/file1*
dd if=/dev/urandom of=random bs=4k count=20 seek=50 conv=notrunc status=none
btrfs -q subvolume create sub
cp -r tree/a sub/
btrfs -q subvolume snapshot -r sub sub.ro
btrfs -q subvolume snapshot . snap2
fallocate -l 3M prealloc
dd if=/dev/zero of=prealloc bs=4k count=10 seek=20 conv=notrunc status=none
touch nocow; chattr +C nocow; head -c 300000 /dev/urandom > nocow
cp --reflink=always random clone
mkdir links
for i in $(seq 1 400); do ln clone links/a_long_name_so_that_one_item_is_not_enough_$i; done
for i in $(seq 1 1500); do echo $i > links/f$i; done
sync
for i in $(seq 1 2 1500); do rm links/f$i; done
truncate -s 10M sparse
printf abc | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
btrfs -q subvolume snapshot snap1 links/s
echo foo > links/s/foo
rm links/s/tree/a/b/file20*
btrfs -q subvolume delete snap2
sync
"#;

#[test]
fn nothing_is_found_in_what_the_kernel_writes() {
    if !have("mkfs.btrfs") || !have("btrfs") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = folder(dir.path());
    let variants: [&[&str]; 3] = [&[], &["-m", "single", "--csum", "xxhash"], &["-O", "^no-holes"]];
    for (number, options) in variants.iter().enumerate() {
        let image = dir.path().join(format!("{number}.img"));
        fs::File::create(&image).unwrap().set_len(500 << 20).unwrap();
        let made = Command::new("mkfs.btrfs").arg("-q").args(*options).arg(&image).output();
        assert!(made.unwrap().status.success());
        let at = dir.path().join(format!("{number}.mnt"));
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "btrfs", "-o", "loop,compress=zstd"])
            .args([&image, &at])
            .output();
        if !mounted.is_ok_and(|out| out.status.success()) {
            return skipped("what the kernel changes in an image", "it cannot be mounted");
        }
        let worked =
            Command::new("sh").args(["-c", WORK, "sh"]).args([&at, &root]).output().unwrap();
        let unmounted = Command::new("umount").arg(&at).output().unwrap();
        assert!(unmounted.status.success(), "{}", String::from_utf8_lossy(&unmounted.stderr));
        assert!(worked.status.success(), "{}", String::from_utf8_lossy(&worked.stderr));
        let (lines, report) = problems(&FileDevice::open(&image, true).unwrap());
        assert!(lines.is_empty(), "{options:?}: {lines:#?}");
        assert!(report.trees > 10 && report.unpacked_extents > 30, "{report:?}");
    }
}
