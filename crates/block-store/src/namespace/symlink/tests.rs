//! Symbolic links and their limits.

use super::super::mock::{FILE, FS, Mock, make};
use super::*;

#[test]
fn a_target_comes_back_and_counts_as_size() {
    let mut mock = Mock::new();
    let attr = create(&mut mock, FS, Ino::ROOT, b"link", Ino(257), &FILE, b"../to/here").unwrap();
    assert_eq!((attr.kind, attr.size, attr.nbytes), (FileType::Symlink, 10, 10));
    assert_eq!(read(&mock, FS, Ino(257)).unwrap(), b"../to/here");
    mock.check();
}

#[test]
fn targets_end_where_a_leaf_ends() {
    let mut mock = Mock::new();
    let mut make = |ino, len| {
        let (name, target) = (format!("l{ino}"), vec![b'x'; len]);
        create(&mut mock, FS, Ino::ROOT, name.as_bytes(), Ino(ino), &FILE, &target)
    };
    let max = 4096 - 101 - 25 - 21;
    make(257, max).unwrap();
    assert!(
        matches!(make(258, max + 1), Err(NamespaceError::NameTooLong { max: m, .. }) if m == max)
    );
    assert!(matches!(make(258, 0), Err(NamespaceError::InvalidName { .. })));
    mock.max_item = 16384 - 101 - 25;
    let target = vec![b'y'; 4096];
    let refused = create(&mut mock, FS, Ino::ROOT, b"l", Ino(258), &FILE, &target);
    assert!(matches!(refused, Err(NamespaceError::NameTooLong { max: TARGET_MAX, .. })));
    create(&mut mock, FS, Ino::ROOT, b"l", Ino(258), &FILE, &target[1..]).unwrap();
    mock.check();
}

#[test]
fn only_symbolic_links_have_a_target() {
    let mut mock = Mock::new();
    let ino = make(&mut mock, Ino::ROOT, b"file", &FILE);
    assert!(matches!(read(&mock, FS, ino), Err(NamespaceError::NotSymlink { .. })));
}

/// mkfs writes a zero behind the target that its size does not count.
#[test]
fn a_closing_zero_does_not_belong_to_the_target() {
    let mut mock = Mock::new();
    create(&mut mock, FS, Ino::ROOT, b"link", Ino(257), &FILE, b"here").unwrap();
    let key = Key::new(257, ItemKind::EXTENT_DATA, 0);
    let mut extent = FileExtent::parse(&key, &mock.items[&(FS, key)]).unwrap();
    extent.data = FileExtentData::Inline(b"here\0".to_vec());
    extent.ram_bytes = 5;
    mock.update(FS, &key, &extent.to_bytes()).unwrap();
    assert_eq!(read(&mock, FS, Ino(257)).unwrap(), b"here");
}
