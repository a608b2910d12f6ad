//! Attributes of files, directories and other entries.

use cowback_base::Ino;
use cowback_block_store::namespace::inode::split_rdev;
use cowback_block_store::namespace::{FileType, InodeAttr, NamespaceError, Timespec};

use crate::error::Error;
use crate::inner::Inner;

/// What is known about an entry of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// Inode number: entries with the same one are names of the same file.
    pub ino: u64,
    /// What it is.
    pub kind: FileType,
    /// Permission bits, with set-uid, set-gid and sticky.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of the file.
    pub nlink: u32,
    /// Bytes of a file; of a symlink, bytes of its target.
    pub size: u64,
    /// Bytes that its extents hold, uncompressed, preallocated ones included; and what was written behind its end and is still dirty. What was
    /// written to a hole counts when it has reached the disk, and nothing while it is on its way.
    pub allocated: u64,
    /// Major and minor number of a device node.
    pub device: (u32, u32),
    /// Last read.
    pub accessed: Timespec,
    /// Last change of content.
    pub modified: Timespec,
    /// Last change of attributes.
    pub changed: Timespec,
    /// Creation.
    pub created: Timespec,
}

impl Metadata {
    pub(crate) fn of(ino: Ino, attr: &InodeAttr) -> Self {
        Self {
            ino: ino.0,
            kind: attr.kind,
            permissions: attr.mode & 0o7777,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            size: attr.size,
            allocated: attr.nbytes,
            device: split_rdev(attr.rdev),
            accessed: attr.atime,
            modified: attr.mtime,
            changed: attr.ctime,
            created: attr.otime,
        }
    }
}

/// What a new entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewEntry {
    /// A regular, empty file.
    File,
    /// An empty directory.
    Dir,
    /// A symbolic link to these bytes.
    Symlink(Vec<u8>),
    /// A character device with its major number, less than 2^12, and minor number, less than 2^20, as Linux has them.
    CharDevice(u32, u32),
    /// A block device with its major and minor number, within the same bounds.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl NewEntry {
    /// The type bits of `st_mode`.
    pub(crate) fn type_bits(&self) -> u32 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharDevice(..) => 0o020_000,
            Self::Dir => 0o040_000,
            Self::BlockDevice(..) => 0o060_000,
            Self::File => 0o100_000,
            Self::Symlink(_) => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }
}

/// Attributes to set; what is `None` stays as it is. Times have fewer than 10^9 nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permission bits.
    pub permissions: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last read.
    pub accessed: Option<Timespec>,
    /// Last change of content.
    pub modified: Option<Timespec>,
}

impl SetAttributes {
    /// Refuses what no inode can have.
    pub(crate) fn check(&self) -> crate::Result<()> {
        check_time("accessed", self.accessed)?;
        check_time("modified", self.modified)
    }
}

/// Refuses a time that is none.
pub(crate) fn check_time(option: &'static str, time: Option<Timespec>) -> crate::Result<()> {
    match time.filter(|time| time.nsec >= 1_000_000_000) {
        Some(time) => {
            let why = format!("{} nanoseconds are a second or more", time.nsec);
            Err(Error::Option { option, why })
        }
        None => Ok(()),
    }
}

impl Inner {
    /// The attributes of an inode, with what of them is newer in memory.
    pub(crate) fn metadata_of(&self, ino: Ino) -> Result<Metadata, NamespaceError> {
        let in_tree = || Ok(Metadata::of(ino, &self.store.inode(ino)?));
        let Some(node) = self.nodes.get(ino) else { return in_tree() };
        node.attrs.look(|modified| {
            // Before the tree is looked at: a file that still has a name there had its content when the size was taken.
            let size = node.io.size();
            let mut metadata = in_tree()?;
            metadata.size = size;
            metadata.allocated = metadata.allocated.saturating_add(node.io.delalloc_bytes().1);
            if let Some(modified) = modified {
                metadata.modified = modified;
                metadata.changed = metadata.changed.max(modified);
            }
            Ok(metadata)
        })
    }

    /// As [`Inner::metadata_of`], of an inode to which a path led. If it has lost its last name since, its content may be on its way out: then it is
    /// no inode any more.
    pub(crate) fn metadata_of_named(&self, ino: Ino) -> Result<Metadata, NamespaceError> {
        match self.metadata_of(ino)? {
            metadata if metadata.nlink > 0 => Ok(metadata),
            _ => Err(NamespaceError::NoInode { ino }),
        }
    }
}
