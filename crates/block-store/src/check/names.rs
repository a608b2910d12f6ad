//! Names: each stands three times in a file tree, and all three must say the same.
//!
//! A `DIR_ITEM` and a `DIR_INDEX` in the directory, and an `INODE_REF` or `INODE_EXTREF` at what it leads to; of a
//! subvolume, a `ROOT_REF` in the root tree instead.

use std::collections::{HashMap, HashSet};

use cowback_btrfs_disk::items::FileType;
use cowback_btrfs_disk::{TreeId, objectid};

use super::problem::Out;

/// Where a name was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// A `DIR_ITEM`.
    Item,
    /// A `DIR_INDEX`.
    Index,
    /// What the name leads to.
    Target,
}

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leads {
    /// An inode of the same tree.
    Inode(u64),
    /// A subvolume.
    Root(u64),
}

/// A name in one of the three places.
#[derive(Debug, Clone, Copy)]
struct Name {
    dir: u64,
    start: usize,
    len: u8,
    source: Source,
    leads: Leads,
    /// Its place in the directory; a `DIR_ITEM` does not tell.
    index: u64,
    /// The type that the directory gives it.
    kind: FileType,
}

/// An inode, as far as names are concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    /// Its number.
    pub(super) ino: u64,
    /// Its type.
    pub(super) kind: FileType,
}

/// All names of a file tree.
#[derive(Debug, Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    list: Vec<Name>,
}

/// Who says what about a name.
type Triple<'a> = [Option<&'a Name>; 3];

impl Names {
    /// Notes a name.
    pub(super) fn add(
        &mut self,
        source: Source,
        dir: u64,
        name: &[u8],
        leads: Leads,
        index: u64,
        kind: FileType,
    ) {
        // Items that parse have names of at most 255 bytes.
        let Ok(len) = u8::try_from(name.len()) else { return };
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.list.push(Name { dir, start, len, source, leads, index, kind });
    }

    fn text(&self, name: &Name) -> &[u8] {
        self.bytes.get(name.start..name.start + usize::from(name.len)).unwrap_or_default()
    }

    /// Compares the three places of every name, but for those of `doubtful` inodes. `is_snapshot`: names of subvolumes may
    /// lead nowhere.
    pub(super) fn check(
        &mut self,
        tree: TreeId,
        inodes: &[Named],
        doubtful: &HashSet<u64>,
        is_snapshot: bool,
        out: &mut Out<'_>,
    ) {
        let mut list = std::mem::take(&mut self.list);
        list.sort_unstable_by(|a, b| {
            let name = self.text(a).cmp(self.text(b));
            a.dir.cmp(&b.dir).then(name).then(a.source.cmp(&b.source))
        });
        let in_doubt = |one: &Name| {
            let leads = matches!(one.leads, Leads::Inode(ino) if doubtful.contains(&ino));
            leads || doubtful.contains(&one.dir)
        };
        let same = |a: &Name, b: &Name| a.dir == b.dir && self.text(a) == self.text(b);
        for group in list.chunk_by(same) {
            if !group.iter().any(in_doubt) {
                self.check_one(tree, group, inodes, is_snapshot, out);
            }
        }
        list.retain(|one| !in_doubt(one));
        check_directories(tree, &list, inodes, out);
    }

    fn check_one(
        &self,
        tree: TreeId,
        group: &[Name],
        inodes: &[Named],
        is_snapshot: bool,
        out: &mut Out<'_>,
    ) {
        let Some(first) = group.first() else { return };
        let name = format!("name \"{}\"", self.text(first).escape_ascii());
        let mut found: Triple<'_> = [None; 3];
        for one in group {
            let slot = &mut found[one.source as usize];
            if slot.is_some() {
                let what = format_args!("{name}: it is there twice as {}", place(one));
                out.inode(tree, one.dir, what);
            }
            slot.get_or_insert(one);
        }
        let [item, index, target] = found;
        let any = item.or(index).or(target).unwrap_or(first);
        let excused = is_snapshot && matches!(any.leads, Leads::Root(_));
        let missing = [
            (item.is_none(), "DIR_ITEM"),
            (index.is_none(), "DIR_INDEX"),
            (target.is_none() && !excused, target_kind(any)),
        ];
        for (_, kind) in missing.iter().filter(|(missing, _)| *missing) {
            let what = format_args!("{name}: it has no {kind}, and there is {}", place(any));
            out.inode(tree, any.dir, what);
        }
        if let Some(other) = group.iter().find(|one| one.leads != any.leads) {
            let what = format_args!("{name}: {} but {}", place(any), place(other));
            out.inode(tree, any.dir, what);
        }
        if let (Some(index), Some(target)) = (index, target)
            && index.index != target.index
        {
            let (found, expected) = (target.index, index.index);
            let what = format_args!(
                "{name}: its {} has index {found}, its DIR_INDEX {expected}",
                target_kind(any)
            );
            out.inode(tree, any.dir, what);
        }
        check_type(tree, &name, [item, index, None], inodes, out);
    }
}

fn target_kind(name: &Name) -> &'static str {
    match name.leads {
        Leads::Inode(_) => "INODE_REF",
        Leads::Root(_) => "ROOT_REF",
    }
}

/// A name's place, in words.
fn place(name: &Name) -> String {
    let kind = match name.source {
        Source::Item => "DIR_ITEM",
        Source::Index => "DIR_INDEX",
        Source::Target => target_kind(name),
    };
    match (name.leads, name.source) {
        (Leads::Inode(ino), Source::Target) => format!("an {kind} of inode {ino}"),
        (Leads::Inode(ino), _) => format!("a {kind} to inode {ino}"),
        (Leads::Root(root), _) => format!("a {kind} to subvolume {root}"),
    }
}

fn inode_of(inodes: &[Named], ino: u64) -> Option<&Named> {
    let at = inodes.binary_search_by_key(&ino, |inode| inode.ino).ok()?;
    inodes.get(at)
}

/// Whether what a name leads to exists, and is of the type that the directory says.
fn check_type(tree: TreeId, name: &str, found: Triple<'_>, inodes: &[Named], out: &mut Out<'_>) {
    for one in found.into_iter().flatten() {
        let expected = match one.leads {
            Leads::Root(_) => FileType::Dir,
            Leads::Inode(ino) => match inode_of(inodes, ino) {
                Some(inode) => inode.kind,
                None => {
                    let what =
                        format_args!("{name}: it leads to inode {ino}, which does not exist");
                    out.inode(tree, one.dir, what);
                    return;
                }
            },
        };
        if one.kind != expected {
            let found = one.kind;
            let what = format_args!("{name}: type: found {found:?}, expected {expected:?}");
            out.inode(tree, one.dir, what);
            return;
        }
    }
}

/// Whether every directory that names speak of exists, and all of them hang under the root.
fn check_directories(tree: TreeId, list: &[Name], inodes: &[Named], out: &mut Out<'_>) {
    for group in list.chunk_by(|a, b| a.dir == b.dir) {
        let Some(first) = group.first() else { continue };
        match inode_of(inodes, first.dir) {
            Some(dir) if dir.kind == FileType::Dir => {}
            Some(_) => out.inode(tree, first.dir, "it has entries, and is no directory"),
            None => out.inode(tree, first.dir, "it has entries, and does not exist"),
        }
    }
    let is_dir = |ino| inode_of(inodes, ino).is_some_and(|inode| inode.kind == FileType::Dir);
    let mut parents: HashMap<u64, u64> = HashMap::new();
    for name in list.iter().filter(|name| name.source == Source::Target) {
        let Leads::Inode(ino) = name.leads else { continue };
        if is_dir(ino) && parents.insert(ino, name.dir).is_some() {
            out.inode(tree, ino, "a directory, and it has several names");
        }
    }
    let mut reached: HashSet<u64> = HashSet::from([objectid::FIRST_FREE]);
    for start in inodes.iter().filter(|inode| inode.kind == FileType::Dir) {
        let mut way = Vec::new();
        let mut on_way = HashSet::new();
        let mut at = start.ino;
        let end = loop {
            if reached.contains(&at) {
                break true;
            }
            if !on_way.insert(at) {
                break false;
            }
            way.push(at);
            match parents.get(&at) {
                Some(parent) => at = *parent,
                // It has no name: that was told, or it is an orphan.
                None => break true,
            }
        };
        if !end {
            out.inode(tree, start.ino, "it cannot be reached: its parents form a circle");
        }
        reached.extend(way);
    }
}
