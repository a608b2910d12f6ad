//! Extended attributes against a map, and their limits.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::mock::{FILE, FS, Mock, make};
use super::*;

proptest! {
    #[test]
    fn attributes_behave_as_a_map(
        ops in vec((0..6usize, 0..4u8, vec(any::<u8>(), 0..40)), 1..40),
    ) {
        let mut mock = Mock::new();
        let ino = make(&mut mock, Ino::ROOT, b"file", &FILE);
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (n, what, value) in ops {
            let name = format!("user.{n}").into_bytes();
            let there = model.contains_key(&name);
            let mode = match what {
                0 => XattrMode::Any,
                1 => XattrMode::Create,
                _ => XattrMode::Replace,
            };
            if what == 3 {
                prop_assert_eq!(remove(&mut mock, FS, ino, &name).is_ok(), there);
                model.remove(&name);
            } else {
                let fine = match mode {
                    XattrMode::Any => true,
                    XattrMode::Create => !there,
                    XattrMode::Replace => there,
                };
                prop_assert_eq!(set(&mut mock, FS, ino, &name, &value, mode).is_ok(), fine);
                if fine {
                    model.insert(name, value);
                }
            }
            mock.check();
            let mut names = list(&mock, FS, ino).unwrap();
            names.sort();
            prop_assert_eq!(names, model.keys().cloned().collect::<Vec<_>>());
            for (name, value) in &model {
                prop_assert_eq!(&get(&mock, FS, ino, name).unwrap(), value);
            }
        }
    }
}

#[test]
fn a_value_may_fill_a_leaf_and_no_more() {
    let mut mock = Mock::new();
    let ino = make(&mut mock, Ino::ROOT, b"file", &FILE);
    let room = mock.max_item - 30 - 6;
    set(&mut mock, FS, ino, b"user.a", &vec![1; room], XattrMode::Any).unwrap();
    let refused = set(&mut mock, FS, ino, b"user.a", &vec![1; room + 1], XattrMode::Any);
    assert!(matches!(refused, Err(NamespaceError::ValueTooLong { .. })));
    assert_eq!(get(&mock, FS, ino, b"user.a").unwrap().len(), room);
    mock.check();
}

#[test]
fn what_is_not_there_is_not_found() {
    let mut mock = Mock::new();
    let ino = make(&mut mock, Ino::ROOT, b"file", &FILE);
    assert!(matches!(get(&mock, FS, ino, b"user.a"), Err(NamespaceError::NoAttribute { .. })));
    assert!(matches!(get(&mock, FS, Ino(999), b"user.a"), Err(NamespaceError::NoInode { .. })));
    assert!(matches!(get(&mock, FS, ino, b""), Err(NamespaceError::InvalidName { .. })));
    assert!(matches!(get(&mock, FS, ino, &[b'a'; 256]), Err(NamespaceError::NameTooLong { .. })));
}
