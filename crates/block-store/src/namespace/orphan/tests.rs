//! What an evicted inode leaves behind: nothing.

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::{CompressionCode, DiskRange, FileExtent, FileExtentData};

use super::super::mock::{DIR, FILE, FS, Mock, make};
use super::super::{XattrMode, csums, dir, xattr};
use super::*;

#[test]
fn an_evicted_file_leaves_no_items_no_references_and_no_checksums() {
    let mut mock = Mock::new();
    let before = mock.items.clone();
    let file = make(&mut mock, Ino::ROOT, b"file", &FILE);
    xattr::set(&mut mock, FS, file, b"user.a", b"1", XattrMode::Any).unwrap();
    let shown = DiskRange { bytenr: 1 << 20, disk_len: 8192, offset: 0, num_bytes: 8192 };
    let extent = FileExtent {
        generation: 7,
        ram_bytes: 8192,
        compression: CompressionCode::None,
        data: FileExtentData::Regular(shown),
    };
    extents::insert(&mut mock, FS, file, 4096, &extent).unwrap();
    csums::replace(&mut mock, ByteRange::at(1 << 20, 8192), &[1; 8]).unwrap();
    assert!(evict(&mut mock, FS, file, 1000).is_err(), "it has a name");
    dir::unlink(&mut mock, FS, Ino::ROOT, b"file").unwrap();
    assert_eq!(list(&mock, FS).unwrap(), [file]);
    evict(&mut mock, FS, file, 1000).unwrap();
    assert_eq!(mock.commit(), [(1 << 20, 8192)]);
    assert_eq!(list(&mock, FS).unwrap(), []);
    let keys = |items: &std::collections::BTreeMap<_, _>| items.keys().copied().collect::<Vec<_>>();
    assert_eq!(keys(&mock.items), keys(&before));
    assert!(mock.refs.is_empty());
}

#[test]
fn removed_directories_are_orphans_that_take_no_new_names() {
    let mut mock = Mock::new();
    let sub = make(&mut mock, Ino::ROOT, b"sub", &DIR);
    dir::rmdir(&mut mock, FS, Ino::ROOT, b"sub").unwrap();
    let refused = dir::create(&mut mock, FS, sub, b"file", Ino(300), &FILE);
    assert!(matches!(refused, Err(NamespaceError::NoInode { .. })));
    mock.check();
    evict(&mut mock, FS, sub, 1000).unwrap();
    evict(&mut mock, FS, sub, 1000).unwrap();
    mock.check();
}

#[test]
fn a_mark_on_a_file_with_names_is_only_taken_off() {
    let mut mock = Mock::new();
    let file = make(&mut mock, Ino::ROOT, b"file", &FILE);
    add(&mut mock, FS, file).unwrap();
    evict(&mut mock, FS, file, 1000).unwrap();
    mock.check();
    assert!(inode::read(&mock, FS, file).is_ok());
}
