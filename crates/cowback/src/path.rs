//! From paths in the volume to directories and names.
//!
//! Paths are taken from the volume's root; a leading `/` and `.` are skipped. Symlinks are not followed, and `..` is refused: a path names
//! what it spells.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use cowback_base::Ino;
use cowback_base::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use cowback_block_store::namespace::{FileType, NamespaceError, Target};

use crate::error::{Error, Result};
use crate::inner::Inner;

/// Directories that are remembered by path, and bytes of these paths.
const DIRS_MAX: usize = 512;
const DIR_BYTES_MAX: usize = 256 << 10;
/// Bytes of the longest path that is remembered so; of a longer one, only the way to it is, until another takes its place.
const DIR_PATH_MAX: usize = 4096;

/// Directories that were resolved not long ago.
///
/// Two things are remembered: the directories at some paths, and the whole way to the one that was resolved last. A path that goes along with that way
/// is looked up from where the two part. So a walk through a tree looks up each directory once, however deep it lies.
///
/// Who goes along a path holds [`Still`]: so no directory moves or goes before what he does there is done. Who moves or removes one waits for all
/// of them, keeps all others out, and has what it makes stale forgotten before he lets them in.
#[derive(Debug, Default)]
pub(crate) struct DirCache {
    /// Nobody waits for a gate with this, so who only looks something up waits for no commit.
    moves: RwLock<()>,
    cached: Mutex<Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    dirs: HashMap<Vec<u8>, Ino>,
    dir_bytes: usize,
    /// Out of here while somebody goes on along it.
    way: Way,
}

/// A path with the directory at each of its steps.
#[derive(Debug, Default)]
struct Way {
    path: Vec<u8>,
    /// How many bytes of the path lead to which directory: ascending.
    steps: Vec<(usize, Ino)>,
}

impl Way {
    /// Goes back to where `path` parts from this way.
    fn back_to_common(&mut self, path: &[u8]) {
        let common = common_prefix(&self.path, path);
        let is_border = |end: usize| path.get(end).is_none_or(|byte| *byte == b'/');
        let fits = |&(end, _): &(usize, Ino)| end <= common && is_border(end);
        // Of the steps that end within what is common, only the last may end within a name of `path`.
        let mut steps = self.steps.partition_point(|(end, _)| *end <= common);
        while self.steps[..steps].last().is_some_and(|last| !fits(last)) {
            steps -= 1;
        }
        self.cut(steps);
    }

    fn cut(&mut self, steps: usize) {
        self.steps.truncate(steps);
        self.path.truncate(self.len());
    }

    /// Bytes of the path up to the last step.
    fn len(&self) -> usize {
        self.steps.last().map_or(0, |(end, _)| *end)
    }

    fn last(&self) -> Ino {
        self.steps.last().map_or(Ino::ROOT, |(_, ino)| *ino)
    }

    /// Goes on to all of `path`, of which this way is a part.
    fn go_on<E>(
        &mut self,
        path: &[u8],
        mut step: impl FnMut(Ino, &[u8]) -> std::result::Result<Ino, E>,
    ) -> std::result::Result<(), E> {
        let mut at = self.len();
        for piece in path[at..].split(|byte| *byte == b'/') {
            let end = at + piece.len();
            if !piece.is_empty() && piece != b"." {
                let ino = step(self.last(), piece)?;
                self.path.extend_from_slice(&path[self.path.len()..end]);
                self.steps.push((end, ino));
            }
            at = end + 1;
        }
        Ok(())
    }
}

/// Bytes with which both begin.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    // In pieces, which are compared at the speed of memory.
    const PIECE: usize = 256;
    let pieces = a.chunks(PIECE).zip(b.chunks(PIECE));
    let same = pieces.take_while(|(a, b)| a == b).count() * PIECE;
    let rest = a.iter().zip(b).skip(same).take_while(|(a, b)| a == b).count();
    (same + rest).min(a.len())
}

impl Cached {
    fn forget_dirs(&mut self) {
        self.dirs.clear();
        self.dir_bytes = 0;
    }

    /// Something was renamed, and may be a directory.
    fn forget_all(&mut self) {
        self.forget_dirs();
        self.way = Way::default();
    }

    /// The directory `ino` was removed.
    fn forget(&mut self, ino: Ino) {
        self.forget_dirs();
        // Backwards, as what is removed is near the end: a directory is removed after all that is in it.
        if let Some(at) = self.way.steps.iter().rposition(|(_, step)| *step == ino) {
            self.way.cut(at);
        }
    }

    fn remember(&mut self, path: &[u8], ino: Ino) {
        if path.len() > DIR_PATH_MAX {
            return;
        }
        if self.dirs.len() >= DIRS_MAX || self.dir_bytes + path.len() > DIR_BYTES_MAX {
            self.dirs.clear();
            self.dir_bytes = 0;
        }
        if self.dirs.insert(path.to_vec(), ino).is_none() {
            self.dir_bytes += path.len();
        }
    }
}

impl DirCache {
    /// Keeps directories where they are.
    pub(crate) fn still(&self) -> Still<'_> {
        Still { cache: self, held: Held::Still(self.moves.read()) }
    }

    /// Keeps everybody else out of all directories: one is about to be moved or removed.
    pub(crate) fn moving(&self) -> Still<'_> {
        Still { cache: self, held: Held::Moving(self.moves.write(), None) }
    }
}

/// As long as there is one, no directory moves or goes, but by who holds it.
pub(crate) struct Still<'a> {
    cache: &'a DirCache,
    held: Held<'a>,
}

#[expect(dead_code, reason = "the guards are held")]
enum Held<'a> {
    Still(RwLockReadGuard<'a, ()>),
    /// With the directory that was removed, if that is all that was done.
    Moving(RwLockWriteGuard<'a, ()>, Option<Ino>),
}

impl Still<'_> {
    /// All that was done was to remove this directory.
    pub(crate) fn only_removed(&mut self, ino: Ino) {
        if let Held::Moving(_, removed) = &mut self.held {
            *removed = Some(ino);
        }
    }

    /// The directory at `path`, from what is remembered and by `step` from a directory to one in it.
    fn resolve<E>(
        &self,
        path: &[u8],
        step: impl FnMut(Ino, &[u8]) -> std::result::Result<Ino, E>,
    ) -> std::result::Result<Ino, E> {
        let mut way = {
            let mut cached = self.cache.cached.lock();
            if path.len() <= DIR_PATH_MAX
                && let Some(ino) = cached.dirs.get(path)
            {
                return Ok(*ino);
            }
            std::mem::take(&mut cached.way)
        };
        way.back_to_common(path);
        let result = way.go_on(path, step);
        let ino = way.last();
        let mut cached = self.cache.cached.lock();
        cached.way = way;
        if result.is_ok() {
            cached.remember(path, ino);
        }
        result.map(|()| ino)
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        match self.held {
            Held::Still(_) => {}
            Held::Moving(_, Some(removed)) => self.cache.cached.lock().forget(removed),
            // Something was moved, or perhaps half of it.
            Held::Moving(_, None) => self.cache.cached.lock().forget_all(),
        }
    }
}

impl Inner {
    /// The inode that `path` names.
    pub(crate) fn resolve(&self, path: &Path) -> Result<Ino> {
        let Some(name) = last_name(path)? else { return Ok(Ino::ROOT) };
        let still = self.dirs.still();
        let dir = self.resolve_dir(&still, parent(path))?;
        Ok(self.lookup(dir, name).map_err(Error::at(path))?.0)
    }

    /// Runs `op` on the inode that `path` names. If that vanishes meanwhile because another was put in its place, runs `op` on the other one: who
    /// replaces a file or a directory leaves no moment at which there is none.
    pub(crate) fn at_path<T>(&self, path: &Path, op: impl Fn(Ino) -> Result<T>) -> Result<T> {
        let mut found = self.resolve(path)?;
        loop {
            let result = op(found);
            let gone = |error: &NamespaceError| matches!(error, NamespaceError::NoInode { .. });
            if !matches!(&result, Err(Error::Name { source, .. }) if gone(source)) {
                return result;
            }
            let now = self.resolve(path)?;
            if now == found {
                return result; // the name of nothing
            }
            found = now;
        }
    }

    /// The directory that holds what `path` names, and its name there: of an entry that is to be made, or one that is not the root.
    pub(crate) fn entry<'a>(&self, still: &Still<'_>, path: &'a Path) -> Result<(Ino, &'a [u8])> {
        let Some(name) = last_name(path)? else {
            let root = NamespaceError::Exists { dir: Ino::ROOT, name: "/".to_owned() };
            return Err(Error::at(path)(root));
        };
        Ok((self.resolve_dir(still, parent(path))?, name))
    }

    /// Whether `path` names the root directory.
    pub(crate) fn is_root(path: &Path) -> Result<bool> {
        last_name(path).map(|name| name.is_none())
    }

    /// Refuses to remove or move the root directory.
    pub(crate) fn check_not_root(path: &Path) -> Result<()> {
        if !Self::is_root(path)? {
            return Ok(());
        }
        let what = "the root directory cannot be removed or moved";
        Err(Error::at(path)(NamespaceError::NotSupported { ino: Ino::ROOT, what }))
    }

    fn resolve_dir(&self, still: &Still<'_>, path: &Path) -> Result<Ino> {
        still.resolve(path.as_os_str().as_bytes(), |dir, name| {
            if name == b".." {
                return Err(Error::at(path)(dot_dot()));
            }
            let (found, kind) = self.lookup(dir, name).map_err(Error::at(path))?;
            if kind != FileType::Dir {
                // Not to be remembered: nobody tells when it goes.
                return Err(Error::at(path)(NamespaceError::NotDir { ino: found }));
            }
            Ok(found)
        })
    }

    pub(crate) fn lookup(
        &self,
        dir: Ino,
        name: &[u8],
    ) -> std::result::Result<(Ino, FileType), NamespaceError> {
        match self.store.lookup(dir, name)? {
            (Target::Inode(ino), kind) => Ok((ino, kind)),
            (Target::Subvolume(_), _) => {
                Err(NamespaceError::NotSupported { ino: dir, what: "a subvolume is not entered" })
            }
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// The last component of `path` that is a name.
fn last_name(path: &Path) -> Result<Option<&[u8]>> {
    match path.components().next_back() {
        None => Ok(None),
        Some(component) => name_of(component).map_err(Error::at(path)),
    }
}

fn name_of(component: Component<'_>) -> std::result::Result<Option<&[u8]>, NamespaceError> {
    match component {
        Component::Normal(name) => Ok(Some(name.as_bytes())),
        Component::RootDir | Component::CurDir => Ok(None),
        Component::ParentDir | Component::Prefix(_) => Err(dot_dot()),
    }
}

fn dot_dot() -> NamespaceError {
    let why = "`..` is not resolved in a volume";
    NamespaceError::InvalidName { name: "`..`".to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_or_removed_is_not_remembered() {
        let cache = DirCache::default();
        let look = |ino| cache.still().resolve(b"a/b", |_, _| Ok::<_, ()>(Ino(ino))).unwrap().0;
        assert_eq!([look(300), look(301)], [300, 300]);
        drop(cache.moving());
        assert_eq!([look(302), look(303)], [302, 302]);
        removed(&cache, Ino(302));
        assert_eq!([look(304), look(305)], [304, 304]);
        let moving = cache.moving();
        assert_eq!(moving.resolve(b"a/b", |_, _| Err(())), Ok(Ino(304)), "not yet moved");
    }

    fn removed(cache: &DirCache, ino: Ino) {
        cache.moving().only_removed(ino);
    }

    /// A tree in which there is every directory, and each look-up is counted.
    struct Tree {
        cache: DirCache,
        looked_up: usize,
    }

    impl Tree {
        fn new() -> Self {
            Self { cache: DirCache::default(), looked_up: 0 }
        }

        fn get(&mut self, path: &[u8]) -> Ino {
            let found = self.cache.still().resolve(path, |dir, name| {
                self.looked_up += 1;
                Ok::<_, ()>(inside(dir, name))
            });
            found.unwrap()
        }
    }

    /// The directory that a name leads to: another for each way.
    fn inside(dir: Ino, name: &[u8]) -> Ino {
        let mixed = name.iter().fold(dir.0, |sum, byte| sum.wrapping_mul(257) + u64::from(*byte));
        Ino(mixed.wrapping_mul(3) | 1 << 63)
    }

    fn straight(path: &[u8]) -> Ino {
        let names =
            path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
        names.fold(Ino::ROOT, inside)
    }

    #[test]
    fn each_directory_of_a_deep_tree_is_looked_up_once_on_the_way_down_and_back() {
        const LEVELS: usize = 3000;
        let mut tree = Tree::new();
        let mut path = Vec::new();
        let mut ends = Vec::new();
        for level in 0..LEVELS {
            ends.push(path.len());
            path.extend_from_slice(if level == 0 { b"" } else { b"/" });
            path.extend_from_slice(&[b'a' + u8::try_from(level % 26).unwrap(); 200]);
            tree.get(&path);
            tree.get(&path); // for each of its entries
        }
        assert_eq!(tree.looked_up, LEVELS);
        assert_eq!(tree.get(&path), straight(&path));
        // Back up, with another directory to look into at each level.
        for end in ends.into_iter().rev() {
            path.truncate(end);
            let mut beside = path.clone();
            beside.extend_from_slice(if end == 0 { b"z" } else { b"/z" });
            tree.get(&beside);
            tree.get(&path);
        }
        assert_eq!(tree.looked_up, 2 * LEVELS);
        let cached = tree.cache.cached.lock();
        assert!(cached.dir_bytes <= DIR_BYTES_MAX);
        assert_eq!(cached.dir_bytes, cached.dirs.keys().map(Vec::len).sum::<usize>());
    }

    #[test]
    fn a_deep_tree_is_removed_from_below_with_one_look_up_for_each_directory() {
        const LEVELS: usize = 1000;
        let mut tree = Tree::new();
        let path = vec![b"name".as_slice(); LEVELS].join(&b'/');
        tree.get(&path);
        for level in (1..LEVELS).rev() {
            let dir = &path[..5 * level - 1];
            let gone = inside(straight(dir), b"name");
            assert_eq!(tree.get(dir), straight(dir));
            removed(&tree.cache, gone);
        }
        assert_eq!(tree.looked_up, LEVELS);
    }

    #[test]
    fn a_way_is_left_where_another_path_parts_from_it() {
        let mut tree = Tree::new();
        // Each is resolved after each other.
        let paths: [&[u8]; 12] = [
            b"", b"/", b"a", b"ab", b"/a", b"a/b", b"a//b", b"./a/b", b"a/b/", b"a/b/c", b"ab/c",
            b"a/bb/c",
        ];
        for (first, second) in paths.iter().flat_map(|a| paths.iter().map(move |b| (a, b))) {
            for path in [first, second] {
                tree.cache.cached.lock().dirs.clear();
                let (first, second) = (first.escape_ascii(), second.escape_ascii());
                assert_eq!(tree.get(path), straight(path), "{first} and {second}");
            }
        }
    }

    #[test]
    fn what_hangs_below_a_directory_that_moved_is_looked_up_anew() {
        let mut tree = Tree::new();
        tree.get(b"a/b/c/d");
        removed(&tree.cache, straight(b"a/b"));
        let before = tree.looked_up;
        tree.get(b"a/b/c/d");
        assert_eq!(tree.looked_up, before + 3, "`a` is where it was");
        drop(tree.cache.moving());
        tree.get(b"a/b/c/d");
        assert_eq!(tree.looked_up, before + 7);
    }
}
