//! Corpora are what they say, and arrive on the host as they are.

use std::collections::HashSet;

use super::*;
use crate::tree::{self, Tree};

#[test]
fn content_does_not_depend_on_how_it_is_cut() {
    let kinds = [
        Content::Zeros,
        Content::Text(1),
        Content::Noise(1),
        Content::Alternating { seed: 1, period: 100 },
    ];
    for content in kinds {
        let whole = content.bytes(0, 1000);
        for cut in [1, 7, 8, 63, 64, 65, 100, 999] {
            let parts = [content.bytes(0, cut), content.bytes(cut as u64, 1000 - cut)].concat();
            assert_eq!(parts, whole, "{content:?} cut at {cut}");
        }
    }
    assert_ne!(Content::Noise(1).bytes(0, 64), Content::Noise(2).bytes(0, 64));
    assert_ne!(Content::Text(1).bytes(0, 64), Content::Text(2).bytes(0, 64));
}

#[test]
fn names_collide_in_their_hash() {
    for (prefix, pairs) in [(&b""[..], 3), (b"user.", 1)] {
        let found = colliding_names(prefix, pairs);
        assert_eq!(found.len(), pairs);
        for (a, b) in found {
            assert_ne!(a, b);
            assert_eq!(crc32c(!1, &a), crc32c(!1, &b));
        }
    }
    assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283, "the check value of CRC-32C");
}

#[test]
fn entries_are_unique_and_follow_their_directories() {
    for corpus in [Corpus::standard(1, true), Corpus::mixed(1, 3 << 20)] {
        let mut seen: HashSet<&[u8]> = HashSet::new();
        for entry in &corpus.entries {
            let name = entry.path.escape_ascii();
            if let Some(cut) = entry.path.iter().rposition(|byte| *byte == b'/') {
                assert!(seen.contains(&entry.path[..cut]), "{name} comes before its directory");
            }
            assert!(seen.insert(&entry.path), "{name} comes twice");
        }
    }
    assert_eq!(Corpus::standard(3, true), Corpus::standard(3, true));
    assert_ne!(Corpus::standard(3, true), Corpus::standard(4, true));
    assert_eq!(Corpus::mixed(1, 3 << 20).bytes(), 3 << 20);
}

#[test]
fn the_host_holds_the_standard_corpus() {
    let dir = tempfile::tempdir().unwrap();
    let root = rustix::process::geteuid().is_root();
    let corpus = Corpus::standard(1, root);
    let lacking = corpus.write_to(dir.path()).unwrap();
    lacking.iter().for_each(|line| crate::announce(&format!("the host lacks {line}")));
    let tree = Tree::read(dir.path()).unwrap();
    for entry in &corpus.entries {
        let Some(got) = tree.entries.get(&entry.path) else {
            assert!(matches!(entry.kind, Kind::Char(..) | Kind::Block(..)), "{entry:?} is missing");
            continue;
        };
        match (&entry.kind, &got.kind) {
            (Kind::File(spec), tree::Kind::File { len, .. }) => {
                assert_eq!(spec.len, *len);
            }
            (Kind::HardLink(_), _) => assert!(got.same_as.is_some()),
            (Kind::Symlink(to), tree::Kind::Symlink(got)) => assert_eq!(to, got),
            (kind, got) => assert!(
                matches!(
                    (kind, got),
                    (Kind::Dir, tree::Kind::Dir)
                        | (Kind::Fifo, tree::Kind::Fifo)
                        | (Kind::Socket, tree::Kind::Socket)
                        | (Kind::Char(..), tree::Kind::Char(_))
                        | (Kind::Block(..), tree::Kind::Block(_))
                ),
                "{kind:?} became {got:?}"
            ),
        }
    }
    let sparse = &tree.entries[&b"sizes/sparse-empty"[..]].kind;
    assert!(matches!(sparse, tree::Kind::File { len: SPARSE, data, .. } if data.is_empty()));
}
