//! What a directory tree holds, read from a mounted or unpacked place, and how two trees differ.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;

use crate::overlay::PAGE;
use crate::random::{hash128, to_usize};

/// Extended attributes that belong to the place rather than to the tree.
const FOREIGN_XATTRS: [&[u8]; 2] = [b"security.selinux", b"btrfs.compression"];

/// What kind of thing an entry is, and what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File {
        /// Bytes.
        len: u64,
        /// What identifies the bytes.
        hash: u128,
        /// The byte ranges that are not holes, half-open.
        data: Vec<(u64, u64)>,
    },
    /// A symbolic link, and where it points.
    Symlink(Vec<u8>),
    /// A fifo.
    Fifo,
    /// A socket.
    Socket,
    /// A character device and its number.
    Char(u64),
    /// A block device and its number.
    Block(u64),
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of content: seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// The first path of the same inode, if there are several.
    pub same_as: Option<Vec<u8>>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// How closely holes are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holes {
    /// Not at all.
    Ignore,
    /// Where the first tree has a hole, the second has one too.
    Kept,
    /// The same holes in both.
    Same,
}

/// What is compared, besides names, kinds and content.
#[derive(Debug, Clone, Copy)]
pub struct Compare {
    /// Permission bits (not of symlinks).
    pub mode: bool,
    /// Owner and group.
    pub owner: bool,
    /// Times of all but directories.
    pub mtime: bool,
    /// Times of directories.
    pub dir_mtime: bool,
    /// Extended attributes of all but directories.
    pub xattrs: bool,
    /// Extended attributes of directories.
    pub dir_xattrs: bool,
    /// Which names are the same inode.
    pub links: bool,
    /// Fifos, sockets and devices; if not, they may be missing in the second tree.
    pub specials: bool,
    /// The root directory's own attributes.
    pub root: bool,
    /// Holes.
    pub holes: Holes,
}

impl Compare {
    /// Everything; holes are kept.
    pub const FULL: Self = Self {
        mode: true,
        owner: true,
        mtime: true,
        dir_mtime: true,
        xattrs: true,
        dir_xattrs: true,
        links: true,
        specials: true,
        root: true,
        holes: Holes::Kept,
    };

    /// What `btrfs restore -xmS` gives back: hard links become copies, special files are left out, and of directories times
    /// and attributes.
    pub const RESTORED: Self = Self {
        dir_mtime: false,
        dir_xattrs: false,
        links: false,
        specials: false,
        root: false,
        holes: Holes::Ignore,
        ..Self::FULL
    };

    /// Names, kinds and content only.
    pub const CONTENT: Self = Self {
        mode: false,
        owner: false,
        mtime: false,
        dir_mtime: false,
        xattrs: false,
        dir_xattrs: false,
        links: false,
        specials: true,
        root: false,
        holes: Holes::Ignore,
    };
}

/// A directory tree: entries by path relative to its root, which is the empty path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// The entries.
    pub entries: BTreeMap<Vec<u8>, Entry>,
}

impl Tree {
    /// Reads the tree at `root`, content and all.
    ///
    /// # Errors
    /// The system's own, with the path.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        let mut inodes: HashMap<(u64, u64), Vec<Vec<u8>>> = HashMap::new();
        let mut todo = vec![(Vec::new(), root.to_path_buf())];
        while let Some((name, path)) = todo.pop() {
            let with_path = |error| annotate(error, &path);
            let meta = fs::symlink_metadata(&path).map_err(with_path)?;
            let entry = read_entry(&path, &meta).map_err(with_path)?;
            if entry.kind == Kind::Dir {
                for child in fs::read_dir(&path).map_err(with_path)? {
                    let child = child.map_err(with_path)?;
                    todo.push((join(&name, child.file_name().as_bytes()), child.path()));
                }
            } else if meta.nlink() > 1 {
                inodes.entry((meta.dev(), meta.ino())).or_default().push(name.clone());
            }
            entries.insert(name, entry);
        }
        for names in inodes.into_values().filter(|names| names.len() > 1) {
            let first = names.iter().min().cloned();
            for name in names {
                entries.get_mut(&name).expect("it was inserted above").same_as = first.clone();
            }
        }
        Ok(Self { entries })
    }

    /// Bytes of all files, each inode once.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let first = |(name, entry): &(&Vec<u8>, &Entry)| {
            entry.same_as.as_ref().is_none_or(|same| same == *name)
        };
        let len = |(_, entry): (&Vec<u8>, &Entry)| match entry.kind {
            Kind::File { len, .. } => len,
            _ => 0,
        };
        self.entries.iter().filter(first).map(len).sum()
    }

    /// What `other` lacks, has too much or has otherwise, one line each; empty if they are equal.
    #[must_use]
    pub fn diff(&self, other: &Self, how: Compare) -> Vec<String> {
        let mut lines = vec![];
        let special = |entry: &Entry| {
            matches!(entry.kind, Kind::Fifo | Kind::Socket | Kind::Char(_) | Kind::Block(_))
        };
        for (name, entry) in &self.entries {
            match other.entries.get(name) {
                Some(other) => diff_entry(name, entry, other, how, &mut lines),
                None if !how.specials && special(entry) => {}
                None => lines.push(format!("{}: missing", show(name))),
            }
        }
        let surplus = other.entries.keys().filter(|name| !self.entries.contains_key(*name));
        lines.extend(surplus.map(|name| format!("{}: unexpected", show(name))));
        lines
    }

    /// As [`Tree::diff`], as a result whose error shows the first few lines.
    ///
    /// # Errors
    /// How the trees differ.
    pub fn require_equal(&self, other: &Self, how: Compare) -> Result<(), String> {
        let lines = self.diff(other, how);
        if lines.is_empty() {
            return Ok(());
        }
        let mut text = format!("{} differences", lines.len());
        for line in lines.iter().take(10) {
            let _ = write!(text, "\n  {line}");
        }
        Err(text)
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn show(name: &[u8]) -> String {
    if name.is_empty() { "(root)".into() } else { name.escape_ascii().to_string() }
}

fn annotate(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn diff_entry(name: &[u8], a: &Entry, b: &Entry, how: Compare, lines: &mut Vec<String>) {
    let before = lines.len();
    let mut differ = |compared: bool, what: &str, a: String, b: String| {
        if compared && a != b {
            lines.push(format!("{}: {what} is {b}, expected {a}", show(name)));
        }
    };
    let symlink = matches!(a.kind, Kind::Symlink(_));
    let dir = a.kind == Kind::Dir;
    let times = if dir { how.dir_mtime } else { how.mtime };
    let attributes = if dir { how.dir_xattrs } else { how.xattrs };
    let own = how.root || !name.is_empty();
    differ(own && how.mode && !symlink, "mode", format!("{:o}", a.mode), format!("{:o}", b.mode));
    let owner = |entry: &Entry| format!("{}:{}", entry.uid, entry.gid);
    differ(own && how.owner, "owner", owner(a), owner(b));
    let time = |entry: &Entry| format!("{}.{:09}", entry.mtime.0, entry.mtime.1);
    differ(own && times, "mtime", time(a), time(b));
    let links = |entry: &Entry| entry.same_as.as_deref().map_or_else(|| "alone".into(), show);
    differ(how.links, "same inode as", links(a), links(b));
    let xattrs = |entry: &Entry| {
        let one = |(name, value): (&Vec<u8>, &Vec<u8>)| {
            format!("{}={} bytes {:x}", show(name), value.len(), hash128(0, value))
        };
        entry.xattrs.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    differ(own && attributes, "xattrs", xattrs(a), xattrs(b));
    match (&a.kind, &b.kind) {
        (
            Kind::File { len, hash, data },
            Kind::File { len: other_len, hash: other_hash, data: other_data },
        ) => {
            differ(true, "length", len.to_string(), other_len.to_string());
            differ(len == other_len, "content", format!("{hash:x}"), format!("{other_hash:x}"));
            let kept = match how.holes {
                Holes::Ignore => true,
                Holes::Kept => within(other_data, data),
                Holes::Same => data == other_data,
            };
            differ(!kept, "data", format!("{data:?}"), format!("{other_data:?}"));
        }
        (a, b) => differ(a != b, "kind", format!("{a:?}"), format!("{b:?}")),
    }
    lines.truncate(before + 20);
}

/// Whether each of `inner`'s ranges lies within one of `outer`'s. Both are ascending and have no ranges that touch.
fn within(inner: &[(u64, u64)], outer: &[(u64, u64)]) -> bool {
    inner.iter().all(|(start, end)| outer.iter().any(|(from, to)| from <= start && end <= to))
}

fn read_entry(path: &Path, meta: &Metadata) -> io::Result<Entry> {
    let kind = meta.file_type();
    let kind = if kind.is_dir() {
        Kind::Dir
    } else if kind.is_file() {
        let (hash, data) = read_file(path, meta.len())?;
        Kind::File { len: meta.len(), hash, data }
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(path)?.into_os_string().into_vec())
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_socket() {
        Kind::Socket
    } else if kind.is_char_device() {
        Kind::Char(meta.rdev())
    } else {
        Kind::Block(meta.rdev())
    };
    Ok(Entry {
        kind,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        same_as: None,
        xattrs: read_xattrs(path)?,
    })
}

/// Hash and data ranges of a file. Pages of zeros do not count for the hash, so holes need not be read.
fn read_file(path: &Path, len: u64) -> io::Result<(u128, Vec<(u64, u64)>)> {
    let file = File::open(path)?;
    let mut hash = hash128(0, &len.to_le_bytes());
    let mut ranges: Vec<(u64, u64)> = vec![];
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let start = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(start))?.min(len);
        match ranges.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => ranges.push((start, end)),
        }
        let mut page = start / PAGE * PAGE;
        while page < end {
            let bytes = to_usize((end.next_multiple_of(PAGE).min(len) - page).min(1 << 20));
            file.read_exact_at(&mut buf[..bytes], page)?;
            for (number, data) in buf[..bytes].chunks(to_usize(PAGE)).enumerate() {
                if data.iter().any(|byte| *byte != 0) {
                    hash ^= hash128(1 + page / PAGE + number as u64, data);
                }
            }
            page += bytes as u64;
        }
        // The rest of a page whose start was read is not read again.
        at = end.next_multiple_of(PAGE);
    }
    Ok((hash, ranges))
}

fn read_xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 65_536];
    let len = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(len) => len,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut xattrs = BTreeMap::new();
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if !FOREIGN_XATTRS.contains(&name) {
            let mut value = vec![0; 65_536];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..])?;
            value.truncate(len);
            xattrs.insert(name.to_vec(), value);
        }
    }
    Ok(xattrs)
}

/// A path from bytes.
#[must_use]
pub fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/file"), b"content").unwrap();
        fs::hard_link(at("d/file"), at("d/link")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("symlink")).unwrap();
        let sparse = File::create(at("sparse")).unwrap();
        sparse.write_all_at(b"x", 1 << 20).unwrap();
        sparse.set_len(3 << 20).unwrap();
        dir
    }

    #[test]
    fn a_tree_equals_its_copy_and_holes_do_not_count_for_content() {
        let dir = sample();
        let tree = Tree::read(dir.path()).unwrap();
        assert_eq!(tree.entries.len(), 6);
        assert_eq!(tree.entries[&b"d/link"[..]].same_as.as_deref(), Some(&b"d/file"[..]));
        assert_eq!(tree.bytes(), 7 + (3 << 20));
        assert!(tree.diff(&tree, Compare::FULL).is_empty());
        let dense = fs::read(dir.path().join("sparse")).unwrap();
        fs::write(dir.path().join("sparse"), dense).unwrap();
        let other = Tree::read(dir.path()).unwrap();
        let how = Compare { mtime: false, ..Compare::FULL };
        assert!(tree.diff(&other, Compare { holes: Holes::Ignore, ..how }).is_empty());
        assert_eq!(tree.diff(&other, how).len(), 1, "{:?}", tree.diff(&other, how));
    }

    #[test]
    fn every_difference_is_named() {
        let dir = sample();
        let tree = Tree::read(dir.path()).unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("d/file"), b"CONTENT").unwrap();
        fs::set_permissions(at("d/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::remove_file(at("symlink")).unwrap();
        std::os::unix::fs::symlink("elsewhere", at("symlink")).unwrap();
        fs::remove_file(at("d/link")).unwrap();
        fs::write(at("new"), b"").unwrap();
        let lines = tree.diff(&Tree::read(dir.path()).unwrap(), Compare::FULL).join("\n");
        for wanted in [
            "d/file: mode is 4751",
            "d/file: content",
            "d/file: mtime",
            "d/file: same inode as is alone, expected d/file",
            "d/link: missing",
            "symlink: kind is Symlink",
            "new: unexpected",
            "d: mtime",
        ] {
            assert!(lines.contains(wanted), "{wanted} is not in\n{lines}");
        }
        assert!(tree.require_equal(&Tree::default(), Compare::FULL).is_err());
    }
}
