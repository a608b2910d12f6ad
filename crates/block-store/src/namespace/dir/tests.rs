//! Directories against a model, and each rule by itself.

use std::collections::BTreeMap;

use cowback_btrfs_disk::hash::name_hash;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::mock::{DIR, FILE, FS, Mock, make};
use super::super::rename::{RenameMode, rename};
use super::*;

const ROOT: Ino = Ino::ROOT;

fn names(mock: &Mock, dir: Ino) -> Vec<Vec<u8>> {
    read_dir(mock, FS, dir, 0, usize::MAX).unwrap().into_iter().map(|e| e.name).collect()
}

fn errno(error: NamespaceError) -> &'static str {
    match error {
        NamespaceError::NotFound { .. } => "ENOENT",
        NamespaceError::NoInode { .. } => "ESTALE",
        NamespaceError::Exists { .. } => "EEXIST",
        NamespaceError::NotDir { .. } => "ENOTDIR",
        NamespaceError::IsDir { .. } => "EISDIR",
        NamespaceError::NotEmpty { .. } => "ENOTEMPTY",
        NamespaceError::Loop { .. } => "EINVAL loop",
        NamespaceError::InvalidName { .. } => "EINVAL name",
        NamespaceError::NameTooLong { .. } => "ENAMETOOLONG",
        NamespaceError::TooManyLinks { .. } => "EMLINK",
        NamespaceError::TooManyCollisions { .. } => "EOVERFLOW",
        other => panic!("{other}"),
    }
}

/// A tree of names and what they lead to, as one would write it down.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    /// Directory -> name -> inode.
    dirs: BTreeMap<u64, BTreeMap<Vec<u8>, u64>>,
    /// Files that have names, or had.
    links: BTreeMap<u64, u32>,
}

impl Model {
    fn is_dir(&self, ino: u64) -> bool {
        self.dirs.contains_key(&ino)
    }

    fn below(&self, ino: u64, top: u64) -> bool {
        ino == top
            || self.dirs.get(&top).is_some_and(|names| {
                names.values().any(|child| self.is_dir(*child) && self.below(ino, *child))
            })
    }

    fn drop_name(&mut self, dir: u64, name: &[u8]) {
        let Some(ino) = self.dirs.get_mut(&dir).and_then(|names| names.remove(name)) else {
            return;
        };
        if self.is_dir(ino) {
            self.dirs.remove(&ino);
        } else {
            *self.links.get_mut(&ino).unwrap() -= 1;
        }
    }

    fn rename(
        &mut self,
        (od, on): (u64, &[u8]),
        (nd, nn): (u64, &[u8]),
        mode: RenameMode,
    ) -> Result<(), &'static str> {
        if !self.is_dir(od) || !self.is_dir(nd) {
            return Err("ESTALE");
        }
        let ino = *self.dirs[&od].get(on).ok_or("ENOENT")?;
        let there = self.dirs[&nd].get(nn).copied();
        match (there, mode) {
            (_, RenameMode::ReplaceByFile) if self.is_dir(ino) => return Err("EISDIR"),
            (Some(_), RenameMode::NoReplace) => return Err("EEXIST"),
            (None, RenameMode::Exchange) => return Err("ENOENT"),
            (Some(there), _) if there == ino => return Ok(()),
            (Some(there), RenameMode::Exchange) => {
                if self.is_dir(ino) && self.below(nd, ino)
                    || self.is_dir(there) && self.below(od, there)
                {
                    return Err("EINVAL loop");
                }
                self.dirs.get_mut(&od).unwrap().insert(on.to_vec(), there);
                self.dirs.get_mut(&nd).unwrap().insert(nn.to_vec(), ino);
                return Ok(());
            }
            (Some(there), _) => match (self.is_dir(ino), self.is_dir(there)) {
                (true, true) if !self.dirs[&there].is_empty() => return Err("ENOTEMPTY"),
                (true, false) => return Err("ENOTDIR"),
                (false, true) => return Err("EISDIR"),
                _ => {}
            },
            (None, _) => {}
        }
        if self.is_dir(ino) && self.below(nd, ino) {
            return Err("EINVAL loop");
        }
        self.drop_name(nd, nn);
        self.dirs.get_mut(&od).unwrap().remove(on);
        self.dirs.get_mut(&nd).unwrap().insert(nn.to_vec(), ino);
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Op {
    Create(usize, usize, bool),
    CreateUnnamed(usize),
    Link(usize, usize, usize, LinkMode),
    Unlink(usize, usize),
    Rmdir(usize, usize),
    Rename(usize, usize, usize, usize, RenameMode),
    Evict,
}

fn any_op() -> impl Strategy<Value = Op> {
    let (d, n) = (0..6usize, 0..7usize);
    let mode = prop::sample::select(vec![
        RenameMode::Replace,
        RenameMode::Replace,
        RenameMode::ReplaceByFile,
        RenameMode::NoReplace,
        RenameMode::Exchange,
    ]);
    let link = any::<(bool, bool)>().prop_map(|(first, replace)| LinkMode { first, replace });
    prop_oneof![
        4 => (d.clone(), n.clone(), any::<bool>()).prop_map(|(d, n, dir)| Op::Create(d, n, dir)),
        2 => d.clone().prop_map(Op::CreateUnnamed),
        4 => (0..8usize, d.clone(), n.clone(), link).prop_map(|(f, d, n, m)| Op::Link(f, d, n, m)),
        2 => (d.clone(), n.clone()).prop_map(|(d, n)| Op::Unlink(d, n)),
        2 => (d.clone(), n.clone()).prop_map(|(d, n)| Op::Rmdir(d, n)),
        5 => (d.clone(), n.clone(), d, n, mode).prop_map(|(a, b, c, d, m)| Op::Rename(a, b, c, d, m)),
        1 => Just(Op::Evict),
    ]
}

/// Names of which two and two have one hash.
fn name(n: usize) -> Vec<u8> {
    let (a, b) = colliding();
    match n {
        0 => a,
        1 => b,
        n => format!("name-{n}").into_bytes(),
    }
}

/// Two names with the same hash, made by reversing the checksum over the last four bytes.
fn colliding() -> (Vec<u8>, Vec<u8>) {
    (b"first".to_vec(), forge(b"second", name_hash(b"first")))
}

/// `prefix` and four more bytes that hash to `hash`.
fn forge(prefix: &[u8], hash: u64) -> Vec<u8> {
    // The effect of the last four bytes is linear: solve for them bit by bit.
    let with = |tail: u32| {
        let mut name = prefix.to_vec();
        name.extend_from_slice(&tail.to_le_bytes());
        name_hash(&name)
    };
    let base = with(0);
    let mut rows: Vec<(u64, u32)> = (0..32).map(|bit| (with(1 << bit) ^ base, 1 << bit)).collect();
    let (mut want, mut tail) = (hash ^ base, 0);
    for bit in 0..32 {
        let Some(at) = rows.iter().position(|(effect, _)| effect >> bit & 1 == 1) else { continue };
        let (effect, bits) = rows.swap_remove(at);
        for row in &mut rows {
            if row.0 >> bit & 1 == 1 {
                row.0 ^= effect;
                row.1 ^= bits;
            }
        }
        if want >> bit & 1 == 1 {
            want ^= effect;
            tail ^= bits;
        }
    }
    let mut name = prefix.to_vec();
    name.extend_from_slice(&tail.to_le_bytes());
    assert_eq!(name_hash(&name), hash);
    name
}

struct Run {
    mock: Mock,
    model: Model,
    dirs: Vec<u64>,
    files: Vec<u64>,
}

impl Run {
    fn dir(&self, d: usize) -> u64 {
        self.dirs[d % self.dirs.len()]
    }

    fn step(&mut self, op: Op) {
        let result: Result<(), &str> = match op {
            Op::Create(d, n, is_dir) => self.create(self.dir(d), &name(n), is_dir),
            Op::CreateUnnamed(d) => self.create_unnamed(self.dir(d)),
            Op::Link(f, d, n, mode) => self.link(f, self.dir(d), &name(n), mode),
            Op::Unlink(d, n) => self.remove(self.dir(d), &name(n), false),
            Op::Rmdir(d, n) => self.remove(self.dir(d), &name(n), true),
            Op::Rename(od, on, nd, nn, mode) => {
                let (old, new) = ((self.dir(od), name(on)), (self.dir(nd), name(nn)));
                let expected = self.model.rename((old.0, &old.1), (new.0, &new.1), mode);
                let (old, new) = ((Ino(old.0), &old.1[..]), (Ino(new.0), &new.1[..]));
                let result = rename(&mut self.mock, FS, old, new, mode).map(drop).map_err(errno);
                assert_eq!(result, expected);
                Ok(())
            }
            Op::Evict => {
                for ino in orphan::list(&self.mock, FS).unwrap() {
                    orphan::evict(&mut self.mock, FS, ino, 1000).unwrap();
                    assert!(inode::find(&self.mock, FS, ino).unwrap().is_none());
                }
                self.dirs.retain(|ino| self.model.is_dir(*ino));
                self.files.retain(|ino| self.model.links[ino] > 0);
                Ok(())
            }
        };
        result.unwrap();
        self.compare();
    }

    fn create(&mut self, dir: u64, name: &[u8], is_dir: bool) -> Result<(), &'static str> {
        let expected = match self.model.dirs.get(&dir) {
            None => Err("ESTALE"),
            Some(names) if names.contains_key(name) => Err("EEXIST"),
            Some(_) => Ok(()),
        };
        let ino = self.next_ino();
        let new = if is_dir { DIR } else { FILE };
        let result = create(&mut self.mock, FS, Ino(dir), name, ino, &new).map(drop);
        assert_eq!(result.map_err(errno), expected);
        if expected.is_ok() {
            self.model.dirs.get_mut(&dir).unwrap().insert(name.to_vec(), ino.0);
            if is_dir {
                self.model.dirs.insert(ino.0, BTreeMap::new());
                self.dirs.push(ino.0);
            } else {
                self.model.links.insert(ino.0, 1);
                self.files.push(ino.0);
            }
        }
        Ok(())
    }

    fn next_ino(&self) -> Ino {
        let last = self.dirs.iter().chain(&self.files).max().copied().unwrap();
        inode::next_ino(&self.mock, FS, last).unwrap()
    }

    fn create_unnamed(&mut self, dir: u64) -> Result<(), &'static str> {
        let ino = self.next_ino();
        let result = create_unnamed(&mut self.mock, FS, Ino(dir), ino, &FILE).map(drop);
        let expected = if self.model.is_dir(dir) { Ok(()) } else { Err("ESTALE") };
        assert_eq!(result.map_err(errno), expected);
        if expected.is_ok() {
            self.model.links.insert(ino.0, 0);
            self.files.push(ino.0);
        }
        Ok(())
    }

    fn link(
        &mut self,
        f: usize,
        dir: u64,
        name: &[u8],
        mode: LinkMode,
    ) -> Result<(), &'static str> {
        let Some(&file) = self.files.get(f) else { return Ok(()) };
        let there = self.model.dirs.get(&dir).map(|names| names.get(name).copied());
        let expected = match there {
            _ if self.model.links[&file] == 0 && !mode.first => Err("ESTALE"),
            None => Err("ESTALE"),
            Some(Some(_)) if !mode.replace => Err("EEXIST"),
            Some(Some(there)) if self.model.is_dir(there) => Err("EISDIR"),
            Some(there) => Ok(there),
        };
        let result = link_as(&mut self.mock, FS, Ino(file), (Ino(dir), name), mode);
        let lost = |removed: Removed| removed.ino.0;
        assert_eq!(
            result.map(|removed| removed.map(lost)).map_err(errno),
            expected.map(|there| there.filter(|there| *there != file))
        );
        if expected.is_ok_and(|there| there != Some(file)) {
            self.model.drop_name(dir, name);
            *self.model.links.get_mut(&file).unwrap() += 1;
            self.model.dirs.get_mut(&dir).unwrap().insert(name.to_vec(), file);
        }
        Ok(())
    }

    fn remove(&mut self, dir: u64, name: &[u8], as_dir: bool) -> Result<(), &'static str> {
        let target = self.model.dirs.get(&dir).map(|names| names.get(name).copied());
        let expected = match target {
            None => Err("ESTALE"),
            Some(None) => Err("ENOENT"),
            Some(Some(ino)) => match (as_dir, self.model.dirs.get(&ino)) {
                (true, None) => Err("ENOTDIR"),
                (true, Some(names)) if !names.is_empty() => Err("ENOTEMPTY"),
                (false, Some(_)) => Err("EISDIR"),
                _ => Ok(()),
            },
        };
        let remove = if as_dir { rmdir } else { unlink };
        let result = remove(&mut self.mock, FS, Ino(dir), name).map(drop);
        assert_eq!(result.map_err(errno), expected);
        if expected.is_ok() {
            self.model.drop_name(dir, name);
        }
        Ok(())
    }

    fn compare(&self) {
        self.mock.check();
        for (dir, expected) in &self.model.dirs {
            let found: BTreeMap<Vec<u8>, u64> = read_dir(&self.mock, FS, Ino(*dir), 0, usize::MAX)
                .unwrap()
                .into_iter()
                .map(|entry| match entry.target {
                    Target::Inode(ino) => (entry.name, ino.0),
                    Target::Subvolume(_) => panic!("no subvolumes here"),
                })
                .collect();
            assert_eq!(&found, expected);
            for (name, child) in expected {
                let (target, kind) = lookup(&self.mock, FS, Ino(*dir), name).unwrap();
                assert_eq!(target, Target::Inode(Ino(*child)));
                assert_eq!(kind == FileType::Dir, self.model.is_dir(*child));
                if kind == FileType::Dir {
                    assert_eq!(parent(&self.mock, FS, Ino(*child)).unwrap(), Ino(*dir));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// D1 rests on it: any sequence of operations leaves names, references, sizes and links in agreement, and as a plain
    /// model says.
    #[test]
    fn directories_behave_as_the_model(ops in vec(any_op(), 1..60)) {
        let mut model = Model::default();
        model.dirs.insert(256, BTreeMap::new());
        let mut run = Run { mock: Mock::new(), model, dirs: vec![256], files: Vec::new() };
        for op in ops {
            run.step(op);
        }
    }
}

#[test]
fn a_directory_is_read_in_pieces_and_in_order_of_creation() {
    let mut mock = Mock::new();
    for n in 0..10 {
        make(&mut mock, ROOT, format!("f{n}").as_bytes(), &FILE);
    }
    unlink(&mut mock, FS, ROOT, b"f3").unwrap();
    let mut seen = Vec::new();
    let mut from = 0;
    loop {
        let part = read_dir(&mock, FS, ROOT, from, 4).unwrap();
        let Some(last) = part.last() else { break };
        from = last.index + 1;
        seen.extend(part.into_iter().map(|entry| entry.name));
    }
    let expected: Vec<_> =
        (0..10).filter(|n| *n != 3).map(|n| format!("f{n}").into_bytes()).collect();
    assert_eq!(seen, expected);
}

#[test]
fn names_of_one_hash_share_an_item_and_do_not_disturb_each_other() {
    let mut mock = Mock::new();
    let (a, b) = colliding();
    let (ino_a, ino_b) = (make(&mut mock, ROOT, &a, &FILE), make(&mut mock, ROOT, &b, &FILE));
    assert_eq!(collisions(&mock, FS, ROOT, &a), 2);
    assert_eq!(lookup(&mock, FS, ROOT, &a).unwrap().0, Target::Inode(ino_a));
    unlink(&mut mock, FS, ROOT, &a).unwrap();
    assert_eq!(lookup(&mock, FS, ROOT, &b).unwrap().0, Target::Inode(ino_b));
    mock.check();
}

#[test]
fn an_item_of_colliding_names_has_an_end() {
    let mut mock = Mock::new();
    let mut count = 0;
    let error = loop {
        let name = forge(format!("{count:0>200}").as_bytes(), name_hash(b"hot"));
        let ino = inode::next_ino(&mock, FS, 0).unwrap();
        match create(&mut mock, FS, ROOT, &name, ino, &FILE) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(errno(error), "EOVERFLOW");
    assert_eq!(count, (4096 - 126) / (30 + 204));
    // Neither can a name move there, and it stays where it is; but one can take another's place.
    let hot = |n: &str| forge(format!("{n:0>200}").as_bytes(), name_hash(b"hot"));
    make(&mut mock, ROOT, b"cold", &FILE);
    let before = mock.items.clone();
    let moved = rename(&mut mock, FS, (ROOT, b"cold"), (ROOT, &hot("x")), RenameMode::Replace);
    assert_eq!(errno(moved.unwrap_err()), "EOVERFLOW");
    assert!(mock.items == before);
    rename(&mut mock, FS, (ROOT, b"cold"), (ROOT, &hot("0")), RenameMode::Replace).unwrap();
    mock.check();
}

#[test]
fn many_links_in_one_directory_overflow_into_extended_references() {
    let mut mock = Mock::new();
    let ino = make(&mut mock, ROOT, b"file", &FILE);
    let name = |n: u32| format!("{n:0>100}").into_bytes();
    for n in 0..80 {
        link(&mut mock, FS, ino, ROOT, &name(n)).unwrap();
    }
    let extrefs = mock.items.keys().filter(|(_, key)| key.kind == ItemKind::INODE_EXTREF).count();
    assert!(extrefs > 30, "{extrefs}");
    let mut known = names_of(&mock, FS, ino).unwrap();
    known.sort();
    let mut expected: Vec<_> = names(&mock, ROOT).into_iter().map(|name| (ROOT, name)).collect();
    expected.sort();
    assert_eq!(known, expected);
    mock.check();
    // A name from either kind of reference can move and go, and free room is used again.
    rename(&mut mock, FS, (ROOT, &name(79)), (ROOT, b"last"), RenameMode::Replace).unwrap();
    unlink(&mut mock, FS, ROOT, &name(0)).unwrap();
    mock.check();
    for n in 1..79 {
        unlink(&mut mock, FS, ROOT, &name(n)).unwrap();
    }
    mock.check();
    assert_eq!(names(&mock, ROOT), [b"file".to_vec(), b"last".to_vec()]);
    assert_eq!(inode::read(&mock, FS, ino).unwrap().nlink, 2);
}

#[test]
fn a_file_has_no_more_links_than_the_format_counts() {
    let mut mock = Mock::new();
    let ino = make(&mut mock, ROOT, b"file", &FILE);
    let mut item = inode::load(&mock, FS, ino).unwrap();
    item.nlink = LINK_MAX;
    inode::save(&mut mock, FS, ino, &mut item).unwrap();
    assert_eq!(errno(link(&mut mock, FS, ino, ROOT, b"more").unwrap_err()), "EMLINK");
}

#[test]
fn names_that_no_entry_can_have_are_refused() {
    let mut mock = Mock::new();
    let mut refused =
        |name: &[u8]| errno(create(&mut mock, FS, ROOT, name, Ino(300), &FILE).unwrap_err());
    assert_eq!(refused(b""), "EINVAL name");
    assert_eq!(refused(b"."), "EINVAL name");
    assert_eq!(refused(b".."), "EINVAL name");
    assert_eq!(refused(b"a/b"), "EINVAL name");
    assert_eq!(refused(b"a\0"), "EINVAL name");
    assert_eq!(refused(&[b'x'; 256]), "ENAMETOOLONG");
    make(&mut mock, ROOT, &[b'x'; 255], &FILE);
    mock.check();
}

#[test]
fn dots_lead_up_and_stay() {
    let mut mock = Mock::new();
    let sub = make(&mut mock, ROOT, b"sub", &DIR);
    assert_eq!(lookup(&mock, FS, sub, b".").unwrap().0, Target::Inode(sub));
    assert_eq!(lookup(&mock, FS, sub, b"..").unwrap().0, Target::Inode(ROOT));
    assert_eq!(lookup(&mock, FS, ROOT, b"..").unwrap().0, Target::Inode(ROOT));
    let file = make(&mut mock, sub, b"file", &FILE);
    assert_eq!(errno(lookup(&mock, FS, file, b".").unwrap_err()), "ENOTDIR");
}

#[test]
fn changes_show_in_the_times_of_file_and_directory() {
    let mut mock = Mock::new();
    let file = make(&mut mock, ROOT, b"file", &FILE);
    mock.clock = 2000;
    rename(&mut mock, FS, (ROOT, b"file"), (ROOT, b"moved"), RenameMode::Replace).unwrap();
    let at = |mock: &Mock, ino| {
        let attr = inode::read(mock, FS, ino).unwrap();
        (attr.mtime.sec, attr.ctime.sec, attr.otime.sec)
    };
    assert_eq!(at(&mock, ROOT), (2000, 2000, 1000));
    assert_eq!(at(&mock, file), (1000, 2000, 1000));
}

#[test]
fn an_entry_whose_inode_is_missing_is_reported_as_corrupt() {
    let mut mock = Mock::new();
    let ino = make(&mut mock, ROOT, b"file", &FILE);
    mock.items.remove(&(FS, inode::key(ino)));
    let error = unlink(&mut mock, FS, ROOT, b"file").unwrap_err();
    assert!(error.to_string().contains("leads to no inode"), "{error}");
}

/// E3: what a hostile image says of directories ends in an error.
#[test]
fn directories_that_contain_each_other_are_reported_as_corrupt() {
    let mut mock = Mock::new();
    let a = make(&mut mock, ROOT, b"a", &DIR);
    let b = make(&mut mock, a, b"b", &DIR);
    let c = make(&mut mock, ROOT, b"c", &DIR);
    // `a` now claims to be in `b`, which is in `a`.
    let reference = mock.items.remove(&(FS, Key::new(a.0, ItemKind::INODE_REF, ROOT.0))).unwrap();
    mock.insert(FS, Key::new(a.0, ItemKind::INODE_REF, b.0), &reference).unwrap();
    let moved = rename(&mut mock, FS, (ROOT, b"c"), (b, b"c"), RenameMode::Replace);
    assert!(moved.unwrap_err().to_string().contains("own ancestor"));
    assert_eq!(lookup(&mock, FS, ROOT, b"c").unwrap().0, Target::Inode(c));
}

#[test]
fn counts_at_their_limits_do_not_overflow() {
    let mut mock = Mock::new();
    let mut item = inode::load(&mock, FS, ROOT).unwrap();
    item.sequence = u64::MAX;
    inode::save(&mut mock, FS, ROOT, &mut item).unwrap();
    item.size = i64::MAX.unsigned_abs();
    inode::save(&mut mock, FS, ROOT, &mut item).unwrap();
    let error = create(&mut mock, FS, ROOT, b"file", Ino(300), &FILE).unwrap_err();
    assert!(error.to_string().contains("no room above"), "{error}");
}
