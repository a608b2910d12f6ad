//! Images that the kernel's balance has been over: its tree blocks may be shared whatever their age, and say so in their headers.

use std::path::Path;
use std::process::Command;

use crate::kernel::{Mount, add, compare, compare_mounted, find, stir};
use crate::support::{check, fixed, new_file, reopen, set_size, write};
use cowback_base::Ino;
use cowback_block_store::Store;

/// Has the kernel move everything that `image` holds. False if it cannot be asked.
fn balance(image: &Path) -> bool {
    let Some(mount) = Mount::new(image, "loop") else { return false };
    let mut command = Command::new("btrfs");
    let done =
        command.args(["balance", "start", "--full-balance"]).arg(&mount.at).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
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
