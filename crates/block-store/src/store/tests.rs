//! What cannot be had from outside: trees in a state that only others leave them in.

use std::sync::Arc;

use cowback_base::Ino;
use cowback_btrfs_disk::items::RootItem;
use cowback_btrfs_disk::{ItemKind, Key};

use super::*;
use crate::device::MemoryDevice;
use crate::namespace::NewInode;
use crate::trees::Trees;
use cowback_btrfs_disk::TreeId;

const FILE: NewInode = NewInode { mode: 0o100_644, uid: 0, gid: 0, rdev: 0, flags: 0 };

fn formatted() -> (Arc<MemoryDevice>, Store) {
    let device = Arc::new(MemoryDevice::new(0));
    let options = FormatOptions { total_bytes: 64 << 20, grow: false, ..FormatOptions::default() };
    let store = Store::format(Arc::clone(&device) as _, &options).unwrap();
    (device, store)
}

#[test]
fn a_volume_with_a_subvolume_under_deletion_is_not_shrunk_and_goes_on() {
    let (device, store) = formatted();
    {
        let mut state = store.state.write();
        let data = state.get(TreeId::ROOT, &Key::new(5, ItemKind::ROOT_ITEM, 0)).unwrap().unwrap();
        let dead = RootItem { refs: 0, ..RootItem::parse(&data).unwrap() };
        let key = Key::new(300, ItemKind::ROOT_ITEM, 0);
        state.insert(TreeId::ROOT, key, &dead.to_bytes()).unwrap();
    }
    store.commit().unwrap();
    drop(store);
    let store = Store::open(device, &OpenOptions::default()).unwrap();
    let error = store.shrink_to_fit(crate::Fit::Tight).unwrap_err();
    assert!(error.to_string().contains("subvolume 300"), "{error}");
    assert_eq!(store.read_only_reason(), None);
    store.create(Ino::ROOT, b"file", &FILE).unwrap();
    store.commit().unwrap();
}
