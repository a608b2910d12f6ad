//! Images that the kernel's balance has been over: its tree blocks may be shared whatever their age, and say so in their headers.

use std::path::Path;
use std::process::Command;

use crate::kernel::{Mount, add, compare, compare_mounted, find, stir};
use crate::support::{check, fixed, new_file, reopen, set_size, write};
use cowback_base::Ino;
use cowback_block_store::Store;

fn btrfs(args: &[&str], more: &[&Path]) {
    let done = Command::new("btrfs").args(args).args(more).output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Has the kernel move everything that `image` holds. False if it cannot be asked.
fn balance(image: &Path) -> bool {
    let Some(mount) = Mount::new(image, "loop") else { return false };
    btrfs(&["balance", "start", "--full-balance"], &[&mount.at]);
    mount.finish();
    check(image);
    true
}

#[test]
fn what_a_balance_moved_can_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let store = Store::format(new_file(&image), &fixed(600 << 20)).unwrap();
    let mut files = add(&store, Ino::ROOT, "a", 900);
    store.commit().unwrap();
    drop(store);
    for round in 0..3 {
        if !balance(&image) {
            return;
        }
        let store = reopen(&image);
        compare(&store, &files);
        // A little in one transaction, then a lot in another.
        let name = files.keys().nth(200).unwrap().clone();
        let ino = find(&store, &name);
        store.truncate(ino, 0).unwrap();
        write(&store, ino, 0, &[7; 12_288]).unwrap();
        set_size(&store, ino, 12_288);
        files.insert(name, vec![7; 12_288]);
        store.commit().unwrap();
        check(&image);
        stir(&store, &mut files, round);
        drop(store);
        check(&image);
    }
    let mount = Mount::new(&image, "loop").unwrap();
    compare_mounted(&mount, &files);
    mount.finish();
}

/// An image with files and, if the kernel can be asked, a snapshot of them.
fn with_snapshot(image: &Path) -> Option<Mount> {
    let store = Store::format(new_file(image), &fixed(600 << 20)).unwrap();
    add(&store, Ino::ROOT, "a", 900);
    store.commit().unwrap();
    drop(store);
    let mount = Mount::new(image, "loop,compress=zstd")?;
    for number in 0..40 {
        std::fs::write(mount.at.join(format!("text{number}")), b"text ".repeat(100_000)).unwrap();
    }
    btrfs(&["subvolume", "snapshot"], &[&mount.at, &mount.at.join("snapshot")]);
    Some(mount)
}

#[test]
fn blocks_that_a_balance_moved_may_be_shared_though_they_are_newer_than_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let Some(mount) = with_snapshot(&image) else { return };
    btrfs(&["balance", "start", "-m"], &[&mount.at]);
    mount.finish();
    check(&image);
}

#[test]
fn what_a_crash_leaves_of_a_balance_is_no_damage() {
    // On a btrfs of its own, where a copy of the image is all of it at one moment.
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("host");
    drop(Store::format(new_file(&host), &fixed(3 << 30)).unwrap());
    let Some(host) = Mount::new(&host, "loop") else { return };
    let image = host.at.join("image");
    let crashed = |moment: u32| host.at.join(format!("crashed{moment}"));
    let mount = with_snapshot(&image).unwrap();
    let mut moments = 0;
    while moments < 24 {
        let mut balance = Command::new("btrfs")
            .args(["balance", "start", "--full-balance"])
            .arg(&mount.at)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while moments < 40 && balance.try_wait().unwrap().is_none() {
            let mut copy = Command::new("cp");
            let copied = copy.arg("--reflink=always").arg(&image).arg(crashed(moments)).status();
            assert!(copied.unwrap().success());
            moments += 1;
        }
        assert!(balance.wait().unwrap().success());
    }
    (0..moments).for_each(|moment| check(&crashed(moment)));
    println!("{moments} moments of a balance");
    mount.finish();
    host.finish();
}
