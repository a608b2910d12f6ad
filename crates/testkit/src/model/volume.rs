//! The model itself: inodes in a map, directories as maps of names, files as vectors of bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{EntryKind, OpError, OpResult, Stat, Target};
use crate::random::to_usize;

/// Most bytes of a name.
const NAME_MAX: usize = 255;

const ROOT: u64 = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    Dir(BTreeMap<Vec<u8>, u64>),
    File(Arc<Vec<u8>>),
    Symlink(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inode {
    body: Body,
    mode: u32,
    uid: u32,
    gid: u32,
    links: u32,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A volume in memory. A clone is a snapshot, and cheap: the bytes of files are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
}

/// The directory of an entry, its name in there, and what it names.
struct Place<'a> {
    dir: u64,
    name: &'a [u8],
    inode: Option<u64>,
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

impl Model {
    /// An empty volume.
    #[must_use]
    pub fn new() -> Self {
        let root = Inode::new(Body::Dir(BTreeMap::new()), 0o755);
        Self { inodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1 }
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let len = |inode: &Inode| match &inode.body {
            Body::File(bytes) => bytes.len() as u64,
            Body::Dir(_) | Body::Symlink(_) => 0,
        };
        self.inodes.values().map(len).sum()
    }

    /// Paths of all entries but the root, directories before what is in them.
    #[must_use]
    pub fn paths(&self) -> Vec<Vec<u8>> {
        let mut paths = vec![];
        let mut todo = vec![(vec![], ROOT)];
        while let Some((path, number)) = todo.pop() {
            if let Body::Dir(names) = &self.inodes[&number].body {
                for (name, child) in names {
                    let dir: &[u8] = &path;
                    let below =
                        if dir.is_empty() { name.clone() } else { [dir, b"/", name].concat() };
                    todo.push((below, *child));
                }
            }
            if number != ROOT {
                paths.push(path);
            }
        }
        paths
    }

    /// Groups of paths that are the same inode, each group and the list of them sorted.
    #[must_use]
    pub fn link_groups(&mut self) -> Vec<Vec<Vec<u8>>> {
        let mut groups: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
        for path in self.paths() {
            let number = self.find(&path).expect("it was just listed");
            groups.entry(number).or_default().push(path);
        }
        let mut groups: Vec<_> = groups.into_values().filter(|paths| paths.len() > 1).collect();
        groups.iter_mut().for_each(|paths| paths.sort_unstable());
        groups.sort_unstable();
        groups
    }

    fn place<'a>(&self, path: &'a [u8]) -> OpResult<Option<Place<'a>>> {
        let mut place: Option<Place<'a>> = None;
        if path.is_empty() {
            return Ok(None);
        }
        for name in path.split(|byte| *byte == b'/') {
            let dir = match &place {
                None => ROOT,
                Some(place) => place.inode.ok_or(OpError::NotFound)?,
            };
            let Body::Dir(names) = &self.inodes[&dir].body else { return Err(OpError::NotDir) };
            if name.len() > NAME_MAX {
                return Err(OpError::NameTooLong);
            }
            place = Some(Place { dir, name, inode: names.get(name).copied() });
        }
        Ok(place)
    }

    fn find(&self, path: &[u8]) -> OpResult<u64> {
        match self.place(path)? {
            None => Ok(ROOT),
            Some(place) => place.inode.ok_or(OpError::NotFound),
        }
    }

    /// A place at which there is nothing yet.
    fn vacant<'a>(&self, path: &'a [u8]) -> OpResult<Place<'a>> {
        match self.place(path)? {
            Some(place) if place.inode.is_none() => Ok(place),
            _ => Err(OpError::Exists),
        }
    }

    fn inode(&mut self, number: u64) -> &mut Inode {
        self.inodes.get_mut(&number).expect("names refer to inodes that exist")
    }

    fn names(&mut self, dir: u64) -> &mut BTreeMap<Vec<u8>, u64> {
        match &mut self.inode(dir).body {
            Body::Dir(names) => names,
            Body::File(_) | Body::Symlink(_) => unreachable!("a place lies in a directory"),
        }
    }

    fn add(&mut self, path: &[u8], inode: Inode) -> OpResult<()> {
        let Place { dir, name, .. } = self.vacant(path)?;
        let number = self.next;
        self.next += 1;
        self.inodes.insert(number, inode);
        self.names(dir).insert(name.to_vec(), number);
        Ok(())
    }

    fn drop_name(&mut self, dir: u64, name: &[u8]) {
        let number = self.names(dir).remove(name).expect("the name was found");
        let inode = self.inode(number);
        inode.links -= 1;
        if inode.links == 0 {
            self.inodes.remove(&number);
        }
    }

    fn file(&mut self, path: &[u8]) -> OpResult<&mut Vec<u8>> {
        let number = self.find(path)?;
        match &mut self.inode(number).body {
            Body::File(bytes) => Ok(Arc::make_mut(bytes)),
            Body::Dir(_) => Err(OpError::IsDir),
            Body::Symlink(_) => Err(OpError::Invalid),
        }
    }

    fn is_within(&self, number: u64, dir: u64) -> bool {
        let Body::Dir(names) = &self.inodes[&dir].body else { return false };
        names.values().any(|child| *child == number || self.is_within(number, *child))
    }
}

impl Inode {
    fn new(body: Body, mode: u32) -> Self {
        Self { body, mode, uid: 0, gid: 0, links: 1, xattrs: BTreeMap::new() }
    }

    fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }
}

impl Target for Model {
    fn create(&mut self, path: &[u8], mode: u32) -> OpResult<()> {
        self.add(path, Inode::new(Body::File(Arc::default()), mode))
    }

    fn mkdir(&mut self, path: &[u8], mode: u32) -> OpResult<()> {
        self.add(path, Inode::new(Body::Dir(BTreeMap::new()), mode))
    }

    fn symlink(&mut self, to: &[u8], path: &[u8]) -> OpResult<()> {
        self.add(path, Inode::new(Body::Symlink(to.to_vec()), 0o777))
    }

    fn link(&mut self, old: &[u8], new: &[u8]) -> OpResult<()> {
        let number = self.find(old)?;
        let Place { dir, name, .. } = self.vacant(new)?;
        if self.inode(number).is_dir() {
            return Err(OpError::NotPermitted);
        }
        self.names(dir).insert(name.to_vec(), number);
        self.inode(number).links += 1;
        Ok(())
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> OpResult<()> {
        let from = self.place(from)?.ok_or(OpError::Invalid)?;
        let to = self.place(to)?.ok_or(OpError::Invalid)?;
        let number = from.inode.ok_or(OpError::NotFound)?;
        let is_dir = self.inode(number).is_dir();
        if is_dir && (to.dir == number || self.is_within(to.dir, number)) {
            return Err(OpError::Invalid);
        }
        if let Some(old) = to.inode {
            if old == number {
                return Ok(());
            }
            match (&self.inodes[&old].body, is_dir) {
                (Body::Dir(names), true) if names.is_empty() => {}
                // A directory above the source is never empty, and no file can replace it.
                (Body::Dir(_), true) => return Err(OpError::NotEmpty),
                (Body::Dir(_), false) => return Err(OpError::IsDir),
                (_, true) => return Err(OpError::NotDir),
                (_, false) => {}
            }
            self.drop_name(to.dir, to.name);
        }
        self.names(from.dir).remove(from.name);
        self.names(to.dir).insert(to.name.to_vec(), number);
        Ok(())
    }

    fn unlink(&mut self, path: &[u8]) -> OpResult<()> {
        let place = self.place(path)?.ok_or(OpError::IsDir)?;
        let number = place.inode.ok_or(OpError::NotFound)?;
        if self.inode(number).is_dir() {
            return Err(OpError::IsDir);
        }
        self.drop_name(place.dir, place.name);
        Ok(())
    }

    fn rmdir(&mut self, path: &[u8]) -> OpResult<()> {
        let place = self.place(path)?.ok_or(OpError::Invalid)?;
        let number = place.inode.ok_or(OpError::NotFound)?;
        match &self.inode(number).body {
            Body::Dir(names) if names.is_empty() => {}
            Body::Dir(_) => return Err(OpError::NotEmpty),
            Body::File(_) | Body::Symlink(_) => return Err(OpError::NotDir),
        }
        self.drop_name(place.dir, place.name);
        Ok(())
    }

    fn write(&mut self, path: &[u8], offset: u64, data: &[u8]) -> OpResult<()> {
        let bytes = self.file(path)?;
        let start = to_usize(offset);
        if !data.is_empty() {
            bytes.resize(bytes.len().max(start + data.len()), 0);
            bytes[start..start + data.len()].copy_from_slice(data);
        }
        Ok(())
    }

    fn read(&mut self, path: &[u8], offset: u64, len: usize) -> OpResult<Vec<u8>> {
        let number = self.find(path)?;
        let bytes = match &self.inodes[&number].body {
            Body::File(bytes) => bytes,
            Body::Dir(_) => return Err(OpError::IsDir),
            Body::Symlink(_) => return Err(OpError::Invalid),
        };
        let start = to_usize(offset).min(bytes.len());
        Ok(bytes[start..bytes.len().min(start + len)].to_vec())
    }

    fn truncate(&mut self, path: &[u8], len: u64) -> OpResult<()> {
        self.file(path)?.resize(to_usize(len), 0);
        Ok(())
    }

    fn read_link(&mut self, path: &[u8]) -> OpResult<Vec<u8>> {
        let number = self.find(path)?;
        match &self.inode(number).body {
            Body::Symlink(to) => Ok(to.clone()),
            Body::Dir(_) | Body::File(_) => Err(OpError::Invalid),
        }
    }

    fn stat(&mut self, path: &[u8]) -> OpResult<Stat> {
        let number = self.find(path)?;
        let inode = self.inode(number);
        let (kind, len) = match &inode.body {
            Body::Dir(_) => (EntryKind::Dir, 0),
            Body::File(bytes) => (EntryKind::File, bytes.len() as u64),
            Body::Symlink(to) => (EntryKind::Symlink, to.len() as u64),
        };
        let Inode { mode, uid, gid, links, .. } = *inode;
        Ok(Stat { kind, len, mode, uid, gid, links })
    }

    fn set_attributes(&mut self, path: &[u8], mode: u32, uid: u32, gid: u32) -> OpResult<()> {
        let number = self.find(path)?;
        let inode = self.inode(number);
        if !matches!(inode.body, Body::Symlink(_)) {
            inode.mode = mode;
        }
        (inode.uid, inode.gid) = (uid, gid);
        Ok(())
    }

    fn list(&mut self, path: &[u8]) -> OpResult<Vec<Vec<u8>>> {
        let number = self.find(path)?;
        match &self.inode(number).body {
            Body::Dir(names) => Ok(names.keys().cloned().collect()),
            Body::File(_) | Body::Symlink(_) => Err(OpError::NotDir),
        }
    }

    fn set_xattr(&mut self, path: &[u8], name: &[u8], value: &[u8]) -> OpResult<()> {
        let number = self.find(path)?;
        self.inode(number).xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    fn remove_xattr(&mut self, path: &[u8], name: &[u8]) -> OpResult<()> {
        let number = self.find(path)?;
        self.inode(number).xattrs.remove(name).map(drop).ok_or(OpError::NoAttribute)
    }

    fn xattrs(&mut self, path: &[u8]) -> OpResult<Vec<(Vec<u8>, Vec<u8>)>> {
        let number = self.find(path)?;
        let all = &self.inode(number).xattrs;
        Ok(all.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    fn sync_file(&mut self, path: &[u8]) -> OpResult<()> {
        let number = self.find(path)?;
        match &self.inode(number).body {
            Body::File(_) => Ok(()),
            Body::Dir(_) => Err(OpError::IsDir),
            Body::Symlink(_) => Err(OpError::Invalid),
        }
    }

    fn commit(&mut self) -> OpResult<()> {
        Ok(())
    }

    fn reopen(&mut self) -> OpResult<()> {
        Ok(())
    }
}
