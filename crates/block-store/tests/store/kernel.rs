//! The same images under the Linux kernel: mounted, read, changed there, and changed again by the store.
//!
//! Needs root and loop devices; is skipped where there are none.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{
    DIR, FILE, check, fixed, new_file, read, reopen, set_size, write, write_inline,
};
use cowback_base::Ino;
use cowback_block_store::namespace::Target;
use cowback_block_store::{FileDevice, OpenOptions, Store};
use cowback_btrfs_disk::TreeId;
use cowback_testkit::skipped;

/// An image, mounted until dropped.
pub(crate) struct Mount {
    pub(crate) at: PathBuf,
    device: String,
    marker: String,
}

impl Mount {
    /// Mounts `image`, or says that this is skipped.
    pub(crate) fn new(image: &Path, options: &str) -> Option<Self> {
        let at = image.with_extension("mnt");
        fs::create_dir_all(&at).unwrap();
        let marker = format!("cowback test {} {:?}", image.display(), std::time::Instant::now());
        if let Ok(mut log) = fs::OpenOptions::new().write(true).open("/dev/kmsg") {
            let _ = log.write_all(marker.as_bytes());
        }
        let out =
            Command::new("mount").args(["-t", "btrfs", "-o", options]).args([image, &at]).output();
        let out = out.unwrap();
        if !out.status.success() {
            let why = String::from_utf8_lossy(&out.stderr).into_owned();
            let may =
                why.contains("permission") || why.contains("superuser") || why.contains("loop");
            assert!(may, "mounting {}: {why}", image.display());
            skipped("a mount by the kernel", &why);
            return None;
        }
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let line = mounts.lines().find(|line| line.contains(at.to_str().unwrap())).unwrap();
        let device = line.split(' ').next().unwrap().trim_start_matches("/dev/").to_owned();
        Some(Self { at, device, marker })
    }

    /// Unmounts; fails if the kernel complained about the volume.
    pub(crate) fn finish(self) {
        let out = Command::new("umount").arg(&self.at).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let log = Command::new("dmesg").output().unwrap().stdout;
        let log = String::from_utf8_lossy(&log).into_owned();
        let since = log.rfind(&self.marker).map_or("", |at| &log[at..]);
        let ours = format!("(device {}", self.device);
        let bad = since.lines().filter(|line| line.contains(&ours)).find(|line| {
            let old =
                line.contains("being deprecated") || line.contains("qgroup data inconsistent");
            !old && ["error", "warning", "critical", "corrupt"]
                .iter()
                .any(|word| line.contains(word))
        });
        assert_eq!(bad, None);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).output();
    }
}

pub(crate) fn data(number: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 13 + number * 7) % 251).unwrap()).collect()
}

pub(crate) fn add(store: &Store, dir: Ino, prefix: &str, count: u64) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for number in 0..count {
        let name = format!("{prefix}{number}");
        let (ino, _) = store.create(dir, name.as_bytes(), &FILE).unwrap();
        let content = data(number, number * 997 % 70_000);
        if (1..2048).contains(&content.len()) {
            write_inline(store, ino, &content);
        } else if !content.is_empty() {
            write(store, ino, 0, &content).unwrap();
        }
        set_size(store, ino, content.len() as u64);
        files.insert(name, content);
    }
    files
}

pub(crate) fn find(store: &Store, path: &str) -> Ino {
    path.split('/').fold(Ino::ROOT, |dir, name| match store.lookup(dir, name.as_bytes()) {
        Ok((Target::Inode(ino), _)) => ino,
        other => panic!("{path}: {other:?}"),
    })
}

pub(crate) fn compare_mounted(mount: &Mount, files: &BTreeMap<String, Vec<u8>>) {
    for (name, content) in files {
        assert!(fs::read(mount.at.join(name)).unwrap() == *content, "{name} differs in the kernel");
    }
    let there = fs::read_dir(&mount.at)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_file());
    assert_eq!(there.count(), files.len());
}

pub(crate) fn compare(store: &Store, files: &BTreeMap<String, Vec<u8>>) {
    for (name, content) in files {
        assert!(read(store, find(store, name)) == *content, "{name} differs in the store");
    }
}

#[test]
fn the_kernel_and_the_store_take_turns_on_one_image() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    Store::format(new_file(&image), &fixed(400 << 20)).unwrap();
    take_turns(&image);
    let kinds: [&[&str]; 3] = [
        &["-R", "^free-space-tree", "-O", "^no-holes"],
        &["-n", "4096", "-m", "single"],
        &["-d", "dup", "--csum", "sha256"],
    ];
    for (number, features) in kinds.into_iter().enumerate() {
        let image = dir.path().join(number.to_string());
        fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
        let made = Command::new("mkfs.btrfs").args(features).arg(&image).output();
        if made.is_ok_and(|made| made.status.success()) {
            println!("{features:?}");
            take_turns(&image);
        } else {
            skipped(&format!("images of mkfs.btrfs {features:?}"), "it does not make them");
        }
    }
}

#[test]
fn quota_figures_are_counted_anew_after_the_store_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    fs::File::create(&image).unwrap().set_len(200 << 20).unwrap();
    let made = Command::new("mkfs.btrfs").args(["-R", "quota"]).arg(&image).output();
    if !made.is_ok_and(|made| made.status.success()) {
        return skipped("images of mkfs.btrfs -R quota", "it does not make them");
    }
    for round in 0..2 {
        let store = reopen(&image);
        add(&store, Ino::ROOT, &format!("r{round}."), 50);
        store.commit().unwrap();
        drop(store);
        check(&image);
        let Some(mount) = Mount::new(&image, "loop") else { return };
        let done = Command::new("btrfs").args(["quota", "rescan", "-w"]).arg(&mount.at).output();
        done.unwrap();
        mount.finish();
        check(&image);
    }
}

fn take_turns(image: &Path) {
    let store = reopen(image);
    let mut files = add(&store, Ino::ROOT, "a", 300);
    store.commit().unwrap();
    drop(store);
    check(image);
    for round in 0..3_u64 {
        let Some(mount) = Mount::new(image, "loop") else { return };
        compare_mounted(&mount, &files);
        for number in 0..200 {
            let name = format!("kernel{round}.{number}");
            let content = data(number + round, number * 1013 % 90_000);
            fs::write(mount.at.join(&name), &content).unwrap();
            files.insert(name, content);
        }
        let gone: Vec<String> = files.keys().step_by(5).cloned().collect();
        for name in gone {
            fs::remove_file(mount.at.join(&name)).unwrap();
            files.remove(&name);
        }
        mount.finish();
        check(image);
        let store = reopen(image);
        compare(&store, &files);
        files.extend(add(&store, Ino::ROOT, &format!("b{round}."), 150));
        let gone: Vec<String> = files.keys().step_by(4).cloned().collect();
        for name in gone {
            let removed = store.unlink(Ino::ROOT, name.as_bytes()).unwrap();
            store.evict(removed.ino).unwrap();
            files.remove(&name);
        }
        store.create(Ino::ROOT, format!("dir{round}").as_bytes(), &DIR).unwrap();
        store.commit().unwrap();
        compare(&store, &files);
        drop(store);
        check(image);
    }
}

/// Opens the subvolume `tree` of an image.
pub(crate) fn open_subvolume(image: &Path, tree: u64) -> Store {
    let device = std::sync::Arc::new(FileDevice::open(image, false).unwrap());
    let options = OpenOptions { subvolume: TreeId(tree), ..OpenOptions::default() };
    Store::open(device, &options).unwrap()
}

/// Removes some files, overwrites others, and adds some.
pub(crate) fn stir(store: &Store, files: &mut BTreeMap<String, Vec<u8>>, round: u64) {
    let names: Vec<String> = files.keys().cloned().collect();
    for (number, name) in names.into_iter().enumerate().skip(usize::try_from(round).unwrap()) {
        let ino = find(store, &name);
        if number % 7 == 0 {
            let removed = store.unlink(Ino::ROOT, name.as_bytes()).unwrap();
            store.evict(removed.ino).unwrap();
            files.remove(&name);
        } else if number % 5 == 0 {
            let content = data(round + number as u64, 20_000);
            store.truncate(ino, 0).unwrap();
            write(store, ino, 0, &content).unwrap();
            set_size(store, ino, 20_000);
            files.insert(name, content);
        }
    }
    files.extend(add(store, Ino::ROOT, &format!("stir{round}."), 80));
    store.commit().unwrap();
    compare(store, files);
}

#[test]
fn snapshots_and_clones_keep_what_they_share() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let store = Store::format(new_file(&image), &fixed(600 << 20)).unwrap();
    let mut files = add(&store, Ino::ROOT, "a", 1200);
    store.commit().unwrap();
    drop(store);
    let mut snapshots: Vec<(String, BTreeMap<String, Vec<u8>>)> = Vec::new();
    for round in 0..3_u64 {
        let Some(mount) = Mount::new(&image, "loop") else { return };
        compare_mounted(&mount, &files);
        for (name, content) in &snapshots {
            for (file, content) in content {
                assert!(
                    fs::read(mount.at.join(name).join(file)).unwrap() == *content,
                    "{name}/{file}"
                );
            }
        }
        let clone = format!("clone{round}");
        let source = files.keys().last().unwrap().clone();
        let cloned = Command::new("cp")
            .arg("--reflink=always")
            .args([mount.at.join(&source), mount.at.join(&clone)])
            .status();
        assert!(cloned.unwrap().success());
        files.insert(clone, files[&source].clone());
        let name = format!("snapshot{round}");
        let made = Command::new("btrfs")
            .args(["subvolume", "snapshot"])
            .args([&mount.at, &mount.at.join(&name)])
            .output();
        assert!(made.unwrap().status.success());
        snapshots.push((name, files.clone()));
        mount.finish();
        check(&image);
        // The top level changes, in two transactions.
        let store = reopen(&image);
        compare(&store, &files);
        stir(&store, &mut files, round * 2);
        check(&image);
        stir(&store, &mut files, round * 2 + 1);
        drop(store);
        check(&image);
        // And so does the latest snapshot.
        let store = open_subvolume(&image, 256 + round);
        let (_, content) = snapshots.last_mut().unwrap();
        compare(&store, content);
        stir(&store, content, 10 + round);
        drop(store);
        check(&image);
    }
}

#[test]
fn a_shrunk_volume_mounts_and_takes_writes() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let mut options = fixed(0);
    options.shrinkable = true;
    let store = Store::format(new_file(&image), &options).unwrap();
    let mut files = add(&store, Ino::ROOT, "f", 1500);
    store.shrink_to_fit(cowback_block_store::Fit::Slack(24 << 20)).unwrap();
    drop(store);
    check(&image);
    let Some(mount) = Mount::new(&image, "loop") else { return };
    compare_mounted(&mount, &files);
    fs::write(mount.at.join("more"), data(1, 100_000)).unwrap();
    files.insert("more".to_owned(), data(1, 100_000));
    mount.finish();
    check(&image);
    compare(&reopen(&image), &files);
}
