//! Roots of trees, and how subvolumes hang together.

use uuid::Uuid;

use super::inode::{InodeItem, Timespec};
use crate::error::DiskResult;
use crate::key::Key;
use crate::node::MAX_LEVEL;
use crate::wire::{Reader, Writer};

const FLAG_RDONLY: u64 = 1;
const FLAG_DEAD: u64 = 1 << 48;

/// Root of a tree. Key: (tree, `ROOT_ITEM`, 0 or the transaction of a snapshot).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootItem {
    /// Attributes that only the top directory of a file tree's older form used.
    pub inode: InodeItem,
    /// Transaction that wrote the root node.
    pub generation: u64,
    /// Top directory of a file tree, else 0.
    pub root_dirid: u64,
    /// Address of the root node.
    pub bytenr: u64,
    /// Unused.
    pub byte_limit: u64,
    /// Bytes of the tree's blocks.
    pub bytes_used: u64,
    /// Transaction of the last snapshot.
    pub last_snapshot: u64,
    /// Whether the subvolume is read-only.
    pub read_only: bool,
    /// Whether the subvolume is being deleted.
    pub dead: bool,
    /// 1, or 0 when it is to be deleted.
    pub refs: u32,
    /// How far a deletion has come.
    pub drop_progress: Key,
    /// Level of [`RootItem::drop_progress`].
    pub drop_level: u8,
    /// Level of the root node.
    pub level: u8,
    /// What later versions of the format added.
    pub v2: RootItemV2,
}

/// The part of a root item that the oldest volumes lack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootItemV2 {
    /// [`RootItem::generation`] again: if it differs, this part is out of date.
    pub generation: u64,
    /// The subvolume's UUID.
    pub uuid: Uuid,
    /// UUID of what it is a snapshot of.
    pub parent_uuid: Uuid,
    /// UUID of what was sent.
    pub received_uuid: Uuid,
    /// Transaction of the last change.
    pub ctransid: u64,
    /// Transaction of the creation.
    pub otransid: u64,
    /// Transaction of the send.
    pub stransid: u64,
    /// Transaction of the receive.
    pub rtransid: u64,
    /// Time of the last change.
    pub ctime: Timespec,
    /// Time of the creation.
    pub otime: Timespec,
    /// Time of the send.
    pub stime: Timespec,
    /// Time of the receive.
    pub rtime: Timespec,
}

impl RootItem {
    /// Bytes on disk.
    pub const LEN: usize = 439;
    /// Bytes on disk on the oldest volumes.
    pub const LEGACY_LEN: usize = 239;

    /// Reads a root item. One in the oldest form gets an empty second part.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse(bytes: &[u8]) -> DiskResult<Self> {
        let mut r = Reader::new("root item", bytes);
        if bytes.len() != Self::LEN && bytes.len() != Self::LEGACY_LEN {
            return Err(r.error("length", 0, bytes.len(), "439 or 239 bytes"));
        }
        let inode = InodeItem::read(&mut r)?;
        let generation = r.u64("generation")?;
        let root_dirid = r.u64("root_dirid")?;
        let bytenr_at = r.at();
        let (bytenr, byte_limit) = (r.u64("bytenr")?, r.u64("byte_limit")?);
        let (bytes_used, last_snapshot) = (r.u64("bytes_used")?, r.u64("last_snapshot")?);
        let flags_at = r.at();
        let flags = r.u64("flags")?;
        let (refs, drop_progress) = (r.u32("refs")?, r.key("drop_progress")?);
        let level_at = r.at();
        let (drop_level, level) = (r.u8("drop_level")?, r.u8("level")?);
        let v2 = if r.left() == 0 { RootItemV2::default() } else { RootItemV2::read(&mut r)? };
        r.done()?;
        if !bytenr.is_multiple_of(4096) {
            return Err(r.error("bytenr", bytenr_at, bytenr, "a multiple of 4096"));
        }
        if level >= MAX_LEVEL || drop_level >= MAX_LEVEL {
            return Err(r.error("level", level_at, level.max(drop_level), "below 8"));
        }
        if flags & !(FLAG_RDONLY | FLAG_DEAD) != 0 {
            let expected = "read-only (0x1), dead (2^48)";
            return Err(r.error("flags", flags_at, format_args!("{flags:#x}"), expected));
        }
        let (read_only, dead) = (flags & FLAG_RDONLY != 0, flags & FLAG_DEAD != 0);
        Ok(Self {
            inode,
            generation,
            root_dirid,
            bytenr,
            byte_limit,
            bytes_used,
            last_snapshot,
            read_only,
            dead,
            refs,
            drop_progress,
            drop_level,
            level,
            v2,
        })
    }

    /// The item on disk, in today's form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        self.inode.write(&mut w);
        let read_only = if self.read_only { FLAG_RDONLY } else { 0 };
        let dead = if self.dead { FLAG_DEAD } else { 0 };
        w.u64(self.generation).u64(self.root_dirid).u64(self.bytenr).u64(self.byte_limit);
        w.u64(self.bytes_used).u64(self.last_snapshot).u64(read_only | dead);
        w.u32(self.refs).key(&self.drop_progress).u8(self.drop_level).u8(self.level);
        self.v2.write(&mut w);
        w.0
    }
}

impl RootItemV2 {
    fn read(r: &mut Reader<'_>) -> DiskResult<Self> {
        let part = Self {
            generation: r.u64("generation_v2")?,
            uuid: r.uuid("uuid")?,
            parent_uuid: r.uuid("parent_uuid")?,
            received_uuid: r.uuid("received_uuid")?,
            ctransid: r.u64("ctransid")?,
            otransid: r.u64("otransid")?,
            stransid: r.u64("stransid")?,
            rtransid: r.u64("rtransid")?,
            ctime: Timespec::read(r)?,
            otime: Timespec::read(r)?,
            stime: Timespec::read(r)?,
            rtime: Timespec::read(r)?,
        };
        r.take("reserved", 64)?;
        Ok(part)
    }

    fn write(&self, w: &mut Writer) {
        w.u64(self.generation).uuid(&self.uuid).uuid(&self.parent_uuid).uuid(&self.received_uuid);
        w.u64(self.ctransid).u64(self.otransid).u64(self.stransid).u64(self.rtransid);
        for time in [self.ctime, self.otime, self.stime, self.rtime] {
            time.write(w);
        }
        w.bytes(&[0; 64]);
    }
}

/// A subvolume's place in its parent, or the other way round: both items look alike.
/// Keys: (parent, `ROOT_REF`, child) and (child, `ROOT_BACKREF`, parent).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootRef {
    /// Directory in the parent.
    pub dirid: u64,
    /// Index of the entry in that directory.
    pub sequence: u64,
    /// Name of the entry.
    pub name: Vec<u8>,
}

impl RootRef {
    /// Reads the item.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse(bytes: &[u8]) -> DiskResult<Self> {
        let mut r = Reader::new("root ref", bytes);
        let (dirid, sequence) = (r.u64("dirid")?, r.u64("sequence")?);
        let len = r.u16("name_len")?;
        if len == 0 || len > 255 {
            return Err(r.error("name_len", 16, len, "1 to 255"));
        }
        let name = r.take("name", usize::from(len))?.to_vec();
        r.done()?;
        Ok(Self { dirid, sequence, name })
    }

    /// The item on disk.
    ///
    /// # Panics
    /// If the name is longer than 65535 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let len = u16::try_from(self.name.len()).expect("names have at most 255 bytes");
        let mut w = Writer::default();
        w.u64(self.dirid).u64(self.sequence).u16(len).bytes(&self.name);
        w.0
    }
}
