//! Directory entries and extended attributes, which share one form.

use super::inode::NAME_MAX;
use crate::error::DiskResult;
use crate::hash::name_hash;
use crate::key::{ItemKind, Key, TreeId, objectid};
use crate::wire::{Reader, Writer};

/// Type of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileType {
    /// Not known.
    Unknown,
    /// Regular file.
    Regular,
    /// Directory or subvolume.
    Dir,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Symbolic link.
    Symlink,
    /// No entry at all, but an extended attribute.
    Xattr,
}

impl FileType {
    const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Regular,
        Self::Dir,
        Self::CharDevice,
        Self::BlockDevice,
        Self::Fifo,
        Self::Socket,
        Self::Symlink,
        Self::Xattr,
    ];

    /// The type on disk.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Regular => 1,
            Self::Dir => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
            Self::Xattr => 8,
        }
    }

    /// The type that the type bits of a mode stand for.
    #[must_use]
    pub const fn of_mode(mode: u32) -> Self {
        match mode & super::inode::S_IFMT {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Dir,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o120_000 => Self::Symlink,
            _ => Self::Unknown,
        }
    }
}

/// A directory entry or an extended attribute. `DIR_ITEM`s and `XATTR_ITEM`s hold all entries of one hash one after
/// another; a `DIR_INDEX` holds exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Key of the inode item or root item; all zeros for an attribute.
    pub location: Key,
    /// Transaction that made it.
    pub transid: u64,
    /// Type of what it leads to.
    pub kind: FileType,
    /// The name.
    pub name: Vec<u8>,
    /// Value of an attribute, else empty.
    pub data: Vec<u8>,
}

impl DirEntry {
    /// Bytes on disk without name and data.
    pub const FIXED_LEN: usize = 30;

    /// Bytes on disk.
    #[must_use]
    pub const fn disk_len(&self) -> usize {
        Self::FIXED_LEN + self.name.len() + self.data.len()
    }

    /// Reads all entries of the item at `key`; there is at least one.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse_all(key: &Key, bytes: &[u8]) -> DiskResult<Vec<Self>> {
        let mut r = Reader::new("dir item", bytes);
        let mut out = Vec::new();
        while r.left() > 0 || out.is_empty() {
            out.push(Self::read(key, &mut r)?);
        }
        if key.kind == ItemKind::DIR_INDEX && out.len() > 1 {
            return Err(r.error("length", 0, format_args!("{} entries", out.len()), "1 entry"));
        }
        Ok(out)
    }

    fn read(key: &Key, r: &mut Reader<'_>) -> DiskResult<Self> {
        let start = r.at();
        let location = r.key("location")?;
        let transid = r.u64("transid")?;
        let (data_len, name_len) = (r.u16("data_len")?, r.u16("name_len")?);
        let code = r.u8("type")?;
        let xattr = key.kind == ItemKind::XATTR_ITEM;
        let kind = FileType::ALL.get(usize::from(code)).copied();
        let Some(kind) = kind.filter(|kind| xattr == (*kind == FileType::Xattr)) else {
            return Err(r.error("type", start + 29, code, if xattr { "8" } else { "0 to 7" }));
        };
        if name_len == 0 || usize::from(name_len) > NAME_MAX {
            return Err(r.error("name_len", start + 27, name_len, "1 to 255"));
        }
        if !xattr && data_len != 0 {
            return Err(r.error("data_len", start + 25, data_len, 0));
        }
        check_location(r, start, &location, xattr)?;
        let name = r.take("name", usize::from(name_len))?.to_vec();
        let data = r.take("data", usize::from(data_len))?.to_vec();
        let hashed = matches!(key.kind, ItemKind::DIR_ITEM | ItemKind::XATTR_ITEM);
        if hashed && key.offset != name_hash(&name) {
            return Err(r.error("key offset", start, key.offset, name_hash(&name)));
        }
        Ok(Self { location, transid, kind, name, data })
    }

    /// The item on disk.
    ///
    /// # Panics
    /// If a name or value is longer than 65535 bytes.
    #[must_use]
    pub fn all_to_bytes(all: &[Self]) -> Vec<u8> {
        let len = |bytes: &[u8]| u16::try_from(bytes.len()).expect("names and values are short");
        let mut w = Writer::default();
        for one in all {
            w.key(&one.location).u64(one.transid).u16(len(&one.data)).u16(len(&one.name));
            w.u8(one.kind.code()).bytes(&one.name).bytes(&one.data);
        }
        w.0
    }
}

fn check_location(r: &Reader<'_>, at: usize, location: &Key, xattr: bool) -> DiskResult<()> {
    let inodes = objectid::FIRST_FREE..=objectid::LAST_FREE;
    let is_inode = location.kind == ItemKind::INODE_ITEM
        && location.offset == 0
        && (inodes.contains(&location.objectid) || location.objectid == objectid::ROOT_TREE_DIR);
    let is_root = location.kind == ItemKind::ROOT_ITEM && TreeId(location.objectid).is_file_tree();
    let expected = if xattr { "zeros" } else { "an inode or a subvolume" };
    if if xattr { *location == Key::MIN } else { is_inode || is_root } {
        return Ok(());
    }
    Err(r.error("location", at, location, expected))
}
