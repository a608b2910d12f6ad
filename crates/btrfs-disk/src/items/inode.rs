//! Inodes: attributes, and the names that lead to them.

use crate::error::DiskResult;
use crate::hash::extref_hash;
use crate::wire::{Reader, Writer};

/// Most bytes of a name.
pub const NAME_MAX: usize = 255;
const MODE_BITS: u32 = 0o177_777;
/// Type bits of a mode.
pub const S_IFMT: u32 = 0o170_000;

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timespec {
    /// Seconds since 1970.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: u32,
}

impl Timespec {
    pub(crate) fn read(r: &mut Reader<'_>) -> DiskResult<Self> {
        Ok(Self { sec: r.i64("seconds")?, nsec: r.u32("nanoseconds")? })
    }

    pub(crate) fn write(self, w: &mut Writer) {
        w.i64(self.sec).u32(self.nsec);
    }
}

/// Bits of [`InodeItem::flags`] that have a meaning here.
pub mod inode_flags {
    /// No checksums.
    pub const NODATASUM: u64 = 1;
    /// Overwritten in place.
    pub const NODATACOW: u64 = 1 << 1;
    /// Not to be changed at all, by the kernel's older name.
    pub const READONLY: u64 = 1 << 2;
    /// Not to be compressed.
    pub const NOCOMPRESS: u64 = 1 << 3;
    /// Has preallocated extents.
    pub const PREALLOC: u64 = 1 << 4;
    /// Every write is synchronous.
    pub const SYNC: u64 = 1 << 5;
    /// Not to be changed.
    pub const IMMUTABLE: u64 = 1 << 6;
    /// Only to be appended to.
    pub const APPEND: u64 = 1 << 7;
    /// Not to be dumped.
    pub const NODUMP: u64 = 1 << 8;
    /// No access times.
    pub const NOATIME: u64 = 1 << 9;
    /// Directory changes are synchronous.
    pub const DIRSYNC: u64 = 1 << 10;
    /// To be compressed.
    pub const COMPRESS: u64 = 1 << 11;
    /// The inode within a root item was initialised.
    pub const ROOT_ITEM_INIT: u64 = 1 << 31;
    /// Sealed by fs-verity.
    pub const RO_VERITY: u64 = 1 << 32;
    /// All of them.
    pub const ALL: u64 = 0xfff | ROOT_ITEM_INIT | RO_VERITY;
}

/// Attributes of a file. Key: (inode, `INODE_ITEM`, 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InodeItem {
    /// Transaction that made it; also NFS' generation.
    pub generation: u64,
    /// Transaction that last changed it.
    pub transid: u64,
    /// Bytes of the file; of a directory, twice the bytes of its names.
    pub size: u64,
    /// Bytes that its extents hold, uncompressed.
    pub nbytes: u64,
    /// Unused.
    pub block_group: u64,
    /// Names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Type and permissions.
    pub mode: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// See [`inode_flags`].
    pub flags: u64,
    /// Counts changes, for NFS.
    pub sequence: u64,
    /// Last read.
    pub atime: Timespec,
    /// Last change of attributes.
    pub ctime: Timespec,
    /// Last change of content.
    pub mtime: Timespec,
    /// Creation.
    pub otime: Timespec,
}

impl InodeItem {
    /// Bytes on disk.
    pub const LEN: usize = 160;

    /// Reads and checks an inode item.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse(bytes: &[u8]) -> DiskResult<Self> {
        let mut r = Reader::new("inode item", bytes);
        let item = Self::read(&mut r)?;
        r.done()?;
        if i64::try_from(item.size).is_err() {
            return Err(r.error("size", 16, item.size, "at most 2^63-1"));
        }
        if item.mode & !MODE_BITS != 0 {
            return Err(r.error("mode", 52, format_args!("{:#o}", item.mode), "known bits"));
        }
        let known = [0o010_000, 0o020_000, 0o040_000, 0o060_000, 0o100_000, 0o120_000, 0o140_000];
        if !known.contains(&(item.mode & S_IFMT)) {
            return Err(r.error("mode", 52, format_args!("{:#o}", item.mode), "a file type"));
        }
        if item.mode & S_IFMT == 0o040_000 && item.nlink > 1 {
            return Err(r.error("nlink", 40, item.nlink, "at most 1 for a directory"));
        }
        if item.flags & !inode_flags::ALL != 0 {
            let found = format_args!("{:#x}", item.flags);
            return Err(r.error("flags", 64, found, format_args!("{:#x}", inode_flags::ALL)));
        }
        Ok(item)
    }

    /// Reads an inode item, unchecked, that other bytes may follow: the one in a root item.
    pub(crate) fn read(r: &mut Reader<'_>) -> DiskResult<Self> {
        let mut item = Self {
            generation: r.u64("generation")?,
            transid: r.u64("transid")?,
            size: r.u64("size")?,
            nbytes: r.u64("nbytes")?,
            block_group: r.u64("block_group")?,
            nlink: r.u32("nlink")?,
            uid: r.u32("uid")?,
            gid: r.u32("gid")?,
            mode: r.u32("mode")?,
            rdev: r.u64("rdev")?,
            flags: r.u64("flags")?,
            sequence: r.u64("sequence")?,
            ..Self::default()
        };
        r.take("reserved", 32)?;
        item.atime = Timespec::read(r)?;
        item.ctime = Timespec::read(r)?;
        item.mtime = Timespec::read(r)?;
        item.otime = Timespec::read(r)?;
        Ok(item)
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.generation).u64(self.transid).u64(self.size).u64(self.nbytes);
        w.u64(self.block_group).u32(self.nlink).u32(self.uid).u32(self.gid).u32(self.mode);
        w.u64(self.rdev).u64(self.flags).u64(self.sequence).bytes(&[0; 32]);
        for time in [self.atime, self.ctime, self.mtime, self.otime] {
            time.write(w);
        }
    }

    /// The item on disk.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        self.write(&mut w);
        w.0
    }
}

fn read_name(r: &mut Reader<'_>) -> DiskResult<Vec<u8>> {
    let at = r.at();
    let len = r.u16("name_len")?;
    if len == 0 || usize::from(len) > NAME_MAX {
        return Err(r.error("name_len", at, len, "1 to 255"));
    }
    Ok(r.take("name", usize::from(len))?.to_vec())
}

fn write_name(w: &mut Writer, name: &[u8]) {
    w.u16(u16::try_from(name.len()).expect("names have at most 255 bytes")).bytes(name);
}

/// A name of an inode. The item at (inode, `INODE_REF`, directory) holds all names in that directory, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InodeRef {
    /// Index of the entry in the directory.
    pub index: u64,
    /// The name.
    pub name: Vec<u8>,
}

impl InodeRef {
    /// Reads all names of an item; there is at least one.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse_all(bytes: &[u8]) -> DiskResult<Vec<Self>> {
        let mut r = Reader::new("inode ref", bytes);
        let mut out = Vec::new();
        while r.left() > 0 || out.is_empty() {
            out.push(Self { index: r.u64("index")?, name: read_name(&mut r)? });
        }
        Ok(out)
    }

    /// Bytes on disk.
    #[must_use]
    pub const fn disk_len(&self) -> usize {
        10 + self.name.len()
    }

    /// The item on disk.
    ///
    /// # Panics
    /// If a name is longer than 65535 bytes.
    #[must_use]
    pub fn all_to_bytes(all: &[Self]) -> Vec<u8> {
        let mut w = Writer::default();
        for one in all {
            w.u64(one.index);
            write_name(&mut w, &one.name);
        }
        w.0
    }
}

/// A name of an inode when its [`InodeRef`] item is full. The item at (inode, `INODE_EXTREF`, hash) holds all names of one hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InodeExtref {
    /// The directory.
    pub parent: u64,
    /// Index of the entry in the directory.
    pub index: u64,
    /// The name.
    pub name: Vec<u8>,
}

impl InodeExtref {
    /// Key offset of the item.
    #[must_use]
    pub fn hash(&self) -> u64 {
        extref_hash(self.parent, &self.name)
    }

    /// Reads all names of an item; there is at least one.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse_all(bytes: &[u8]) -> DiskResult<Vec<Self>> {
        let mut r = Reader::new("inode extref", bytes);
        let mut out = Vec::new();
        while r.left() > 0 || out.is_empty() {
            let (parent, index) = (r.u64("parent")?, r.u64("index")?);
            out.push(Self { parent, index, name: read_name(&mut r)? });
        }
        Ok(out)
    }

    /// The item on disk.
    ///
    /// # Panics
    /// If a name is longer than 65535 bytes.
    #[must_use]
    pub fn all_to_bytes(all: &[Self]) -> Vec<u8> {
        let mut w = Writer::default();
        for one in all {
            w.u64(one.parent).u64(one.index);
            write_name(&mut w, &one.name);
        }
        w.0
    }
}
