//! The superblock: the one block at a fixed place, from which everything else is found.
//!
//! It is 4 KiB, at 64 KiB and, where the device reaches that far, again at 64 MiB and 256 GiB; each copy names its own
//! address. [`Superblock::parse`] refuses whatever this project cannot handle faithfully, and says which bits it is.

use bitflags::bitflags;
use cowback_codec::ChecksumKind;
use uuid::Uuid;

use crate::csum;
use crate::error::{DiskError, DiskResult};
use crate::items::{ChunkItem, DevItem};
use crate::key::{ItemKind, Key, objectid};
use crate::node::MAX_LEVEL;
use crate::wire::{Reader, Writer};

/// Bytes of a superblock.
pub const SUPER_LEN: usize = 4096;
/// Device offsets of the copies.
pub const SUPER_OFFSETS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
/// Most bytes of the system chunk array.
pub const SYS_CHUNK_ARRAY_LEN: usize = 2048;
/// Bytes of the label, with its closing zero.
pub const LABEL_LEN: usize = 256;
/// Backup roots in a superblock.
pub const BACKUP_ROOTS: usize = 4;
const MAGIC: [u8; 8] = *b"_BHRfS_M";
const FLAG_WRITTEN: u64 = 1;
const FLAG_RELOC: u64 = 2;
const FLAG_ERROR: u64 = 4;
const FLAG_SEEDING: u64 = 1 << 32;
const SECTOR: u64 = 4096;

bitflags! {
    /// Features that whoever reads or writes a volume must know.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Incompat: u64 {
        /// Back references of today's form.
        const MIXED_BACKREF = 1;
        /// Another subvolume than the top one is mounted.
        const DEFAULT_SUBVOL = 1 << 1;
        /// Data and metadata share block groups.
        const MIXED_GROUPS = 1 << 2;
        /// LZO is in use.
        const COMPRESS_LZO = 1 << 3;
        /// zstd is in use.
        const COMPRESS_ZSTD = 1 << 4;
        /// Tree blocks are larger than a page.
        const BIG_METADATA = 1 << 5;
        /// More hard links than fit into one item.
        const EXTENDED_IREF = 1 << 6;
        /// RAID5 or RAID6.
        const RAID56 = 1 << 7;
        /// Tree blocks have items of kind `METADATA_ITEM`.
        const SKINNY_METADATA = 1 << 8;
        /// Holes have no file extent items.
        const NO_HOLES = 1 << 9;
        /// Tree blocks bear another UUID than the volume.
        const METADATA_UUID = 1 << 10;
        /// Three or four copies.
        const RAID1C34 = 1 << 11;
        /// Zoned devices.
        const ZONED = 1 << 12;
        /// The second form of the extent tree.
        const EXTENT_TREE_V2 = 1 << 13;
        /// The stripe tree.
        const RAID_STRIPE_TREE = 1 << 14;
        /// Simple quotas.
        const SIMPLE_QUOTA = 1 << 16;
    }

    /// Features that whoever writes a volume must know.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct CompatRo: u64 {
        /// There is a free space tree.
        const FREE_SPACE_TREE = 1;
        /// And it is right.
        const FREE_SPACE_TREE_VALID = 1 << 1;
        /// Files may be sealed by fs-verity.
        const VERITY = 1 << 2;
        /// Block groups have a tree of their own.
        const BLOCK_GROUP_TREE = 1 << 3;
    }
}

impl Incompat {
    /// What this project can read and write.
    pub const SUPPORTED: Self = Self::MIXED_BACKREF
        .union(Self::DEFAULT_SUBVOL)
        .union(Self::COMPRESS_LZO)
        .union(Self::COMPRESS_ZSTD)
        .union(Self::BIG_METADATA)
        .union(Self::EXTENDED_IREF)
        .union(Self::SKINNY_METADATA)
        .union(Self::NO_HOLES)
        .union(Self::METADATA_UUID);
}

impl CompatRo {
    /// What this project can write.
    pub const SUPPORTED: Self =
        Self::FREE_SPACE_TREE.union(Self::FREE_SPACE_TREE_VALID).union(Self::BLOCK_GROUP_TREE);
}

/// Where a tree's root was at some commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackupTree {
    /// Address of the root node.
    pub bytenr: u64,
    /// Transaction that wrote it.
    pub generation: u64,
    /// Its level.
    pub level: u8,
}

/// The roots of the latest commits, for recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackupRoot {
    /// Root tree.
    pub tree: BackupTree,
    /// Chunk tree.
    pub chunk: BackupTree,
    /// Extent tree; with block group tree, that one.
    pub extent: BackupTree,
    /// Top-level file tree.
    pub fs: BackupTree,
    /// Device tree.
    pub dev: BackupTree,
    /// Checksum tree.
    pub csum: BackupTree,
    /// As in the superblock.
    pub total_bytes: u64,
    /// As in the superblock.
    pub bytes_used: u64,
    /// As in the superblock.
    pub num_devices: u64,
}

/// A superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The volume's UUID, as users see it.
    pub fsid: Uuid,
    /// Device offset of this copy.
    pub bytenr: u64,
    /// Whether an error was recorded.
    pub error: bool,
    /// Last committed transaction.
    pub generation: u64,
    /// Address of the root tree's root node.
    pub root: u64,
    /// Address of the chunk tree's root node.
    pub chunk_root: u64,
    /// Address of the log tree's root node, or 0.
    pub log_root: u64,
    /// Bytes of all devices.
    pub total_bytes: u64,
    /// Bytes of all extents.
    pub bytes_used: u64,
    /// Directory that names the default subvolume.
    pub root_dir_objectid: u64,
    /// Number of devices.
    pub num_devices: u64,
    /// Bytes of a tree block.
    pub nodesize: u32,
    /// Transaction that wrote the chunk tree's root node.
    pub chunk_root_generation: u64,
    /// Features that nobody has to know.
    pub compat: u64,
    /// Features that a writer has to know; bits without a name are kept, and forbid writing.
    pub compat_ro: CompatRo,
    /// Features that a reader has to know.
    pub incompat: Incompat,
    /// The volume's checksum algorithm.
    pub csum: ChecksumKind,
    /// Level of the root tree's root node.
    pub root_level: u8,
    /// Level of the chunk tree's root node.
    pub chunk_root_level: u8,
    /// Level of the log tree's root node.
    pub log_root_level: u8,
    /// The device that this copy is on.
    pub dev_item: DevItem,
    /// The label, without zeros.
    pub label: Vec<u8>,
    /// Generation of the old free space cache: 0 with a free space tree, `u64::MAX` without either.
    pub cache_generation: u64,
    /// Generation up to which the UUID tree is known to be complete.
    pub uuid_tree_generation: u64,
    /// The UUID in tree blocks, if it is another one.
    pub metadata_uuid: Uuid,
    /// The system chunks, by first logical address.
    pub sys_chunks: Vec<(u64, ChunkItem)>,
    /// The latest commits' roots, in a ring.
    pub backup_roots: [BackupRoot; BACKUP_ROOTS],
}

impl Superblock {
    /// The UUID that tree blocks bear.
    #[must_use]
    pub const fn tree_uuid(&self) -> Uuid {
        if self.incompat.contains(Incompat::METADATA_UUID) { self.metadata_uuid } else { self.fsid }
    }

    /// Fails if the volume has features that whoever writes it must know, and this project does not.
    ///
    /// # Errors
    /// Lists the features.
    pub fn check_writable(&self) -> DiskResult<()> {
        let unknown = self.compat_ro.difference(CompatRo::SUPPORTED);
        if unknown.is_empty() {
            return Ok(());
        }
        let found = format_args!("{unknown:?}");
        Err(DiskError::new(
            "superblock",
            "compat_ro_flags",
            180,
            found,
            CompatRo::SUPPORTED.names(),
        ))
    }

    /// UUID and generation of a copy, unchecked: of one that [`Superblock::parse`] refuses, to tell which volume's it is and how new. Zeros
    /// if `bytes` are too short.
    #[must_use]
    pub fn peek(bytes: &[u8]) -> (Uuid, u64) {
        let field = |at: usize, len: usize| bytes.get(at..at + len);
        let fsid = field(32, 16).and_then(|field| Uuid::from_slice(field).ok());
        let generation = field(72, 8).and_then(|field| field.try_into().ok());
        (fsid.unwrap_or_default(), generation.map_or(0, u64::from_le_bytes))
    }

    /// Whether `bytes` look like a superblock of the volume `fsid`, whole or torn.
    #[must_use]
    pub fn is_of(bytes: &[u8], fsid: Uuid) -> bool {
        bytes.get(64..72) == Some(&MAGIC) && Self::peek(bytes).0 == fsid
    }

    /// Reads and checks the copy that stood at device offset `bytenr`.
    ///
    /// # Errors
    /// Names the first field that is wrong, or lists the features that are not supported.
    pub fn parse(bytes: &[u8], bytenr: u64) -> DiskResult<Self> {
        let mut r = Reader::new("superblock", bytes);
        if bytes.len() != SUPER_LEN {
            return Err(r.error("length", 0, bytes.len(), SUPER_LEN));
        }
        let found_magic: [u8; 8] = {
            let mut at = r.clone();
            at.take("head", 64)?;
            at.array("magic")?
        };
        if found_magic != MAGIC {
            let found = found_magic.escape_ascii();
            return Err(r.error("magic", 64, found, MAGIC.escape_ascii()));
        }
        let kind = csum_kind(&r)?;
        csum::verify("superblock", kind, bytes)?;
        let mut raw = RawHead::read(&mut r)?;
        raw.sb.csum = kind;
        raw.sb.dev_item = DevItem::read(&mut r)?;
        raw.sb.label = read_label(&mut r)?;
        raw.sb.cache_generation = r.u64("cache_generation")?;
        raw.sb.uuid_tree_generation = r.u64("uuid_tree_generation")?;
        raw.sb.metadata_uuid = r.uuid("metadata_uuid")?;
        r.take("reserved", 8 + 27 * 8)?;
        let array = r.take("sys_chunk_array", SYS_CHUNK_ARRAY_LEN)?;
        raw.sb.sys_chunks = read_sys_chunks(array, raw.sys_chunk_array_size)?;
        for slot in &mut raw.sb.backup_roots {
            *slot = BackupRoot::read(&mut r)?;
        }
        raw.sb.check(bytenr)?;
        Ok(raw.sb)
    }

    fn check(&self, bytenr: u64) -> DiskResult<()> {
        let error = |field, at: usize, found: String, expected: String| {
            Err(DiskError::new("superblock", field, at, found, expected))
        };
        if self.bytenr != bytenr {
            return error("bytenr", 48, self.bytenr.to_string(), bytenr.to_string());
        }
        let unsupported = self.incompat.difference(Incompat::SUPPORTED);
        if !unsupported.is_empty() {
            let found = format!("unsupported features {}", unsupported.names());
            return error("incompat_flags", 188, found, Incompat::SUPPORTED.names());
        }
        let nodesize = u64::from(self.nodesize);
        if !nodesize.is_power_of_two() || !(SECTOR..=65536).contains(&nodesize) {
            return error(
                "nodesize",
                148,
                nodesize.to_string(),
                "a power of 2, 4096 to 65536".into(),
            );
        }
        let roots = [
            ("root", 80, self.root),
            ("chunk_root", 88, self.chunk_root),
            ("log_root", 96, self.log_root),
        ];
        for (field, at, root) in roots {
            if !root.is_multiple_of(SECTOR) || (root == 0 && field != "log_root") {
                return error(field, at, root.to_string(), "a multiple of 4096, not 0".into());
            }
        }
        let levels = [
            ("root_level", 198, self.root_level),
            ("chunk_root_level", 199, self.chunk_root_level),
            ("log_root_level", 200, self.log_root_level),
        ];
        for (field, at, level) in levels {
            if level >= MAX_LEVEL {
                return error(field, at, level.to_string(), format!("below {MAX_LEVEL}"));
            }
        }
        // No volume has seen that many transactions, and there must be a next one.
        let counts = 1..1 << 63;
        if !counts.contains(&self.generation) || self.chunk_root_generation > self.generation {
            let found = format!("{} (chunk root {})", self.generation, self.chunk_root_generation);
            let expected = "above 0, below 2^63, not below the chunk root's";
            return error("generation", 72, found, expected.into());
        }
        if self.cache_generation > self.generation && self.cache_generation != u64::MAX {
            let expected = format!("at most {}, or 2^64-1", self.generation);
            return error("cache_generation", 555, self.cache_generation.to_string(), expected);
        }
        self.check_sizes()
    }

    fn check_sizes(&self) -> DiskResult<()> {
        let error = |field, at: usize, found: u64, expected: String| {
            Err(DiskError::new("superblock", field, at, found, expected))
        };
        if self.num_devices == 0 {
            return error("num_devices", 136, 0, "1 or more".into());
        }
        if self.bytes_used > self.total_bytes || self.bytes_used < 6 * u64::from(self.nodesize) {
            let expected = format!("six tree blocks or more, at most {}", self.total_bytes);
            return error("bytes_used", 120, self.bytes_used, expected);
        }
        if self.dev_item.total_bytes > self.total_bytes {
            let expected = format!("at most {}", self.total_bytes);
            return error("dev_item total_bytes", 209, self.dev_item.total_bytes, expected);
        }
        if self.dev_item.fsid != self.tree_uuid() {
            let (found, expected) = (self.dev_item.fsid, self.tree_uuid());
            return Err(DiskError::new("superblock", "dev_item fsid", 283, found, expected));
        }
        Ok(())
    }

    /// The superblock on disk, with its checksum.
    ///
    /// # Errors
    /// If the label or the system chunks do not fit.
    pub fn to_bytes(&self) -> DiskResult<Vec<u8>> {
        let mut array = Writer::default();
        for (logical, chunk) in &self.sys_chunks {
            let key = Key::new(objectid::FIRST_CHUNK_TREE, ItemKind::CHUNK_ITEM, *logical);
            array.key(&key).bytes(&chunk.to_bytes());
        }
        let array_size = u32::try_from(array.0.len()).ok();
        let Some(array_size) = array_size.filter(|size| *size as usize <= SYS_CHUNK_ARRAY_LEN)
        else {
            let (found, most) = (array.0.len(), SYS_CHUNK_ARRAY_LEN);
            return Err(DiskError::new("superblock", "sys_chunk_array", 811, found, most));
        };
        if self.label.len() >= LABEL_LEN || self.label.contains(&0) {
            let expected = "at most 255 bytes, none of them 0";
            return Err(DiskError::new("superblock", "label", 299, self.label.len(), expected));
        }
        let sector = 4096;
        let mut w = Writer::with_capacity(SUPER_LEN);
        w.pad_to(csum::CSUM_FIELD).uuid(&self.fsid).u64(self.bytenr);
        w.u64(FLAG_WRITTEN | if self.error { FLAG_ERROR } else { 0 }).bytes(&MAGIC);
        w.u64(self.generation).u64(self.root).u64(self.chunk_root).u64(self.log_root).u64(0);
        w.u64(self.total_bytes).u64(self.bytes_used).u64(self.root_dir_objectid);
        w.u64(self.num_devices).u32(sector).u32(self.nodesize).u32(self.nodesize).u32(sector);
        w.u32(array_size).u64(self.chunk_root_generation).u64(self.compat);
        w.u64(self.compat_ro.bits()).u64(self.incompat.bits()).u16(self.csum.to_disk());
        w.u8(self.root_level).u8(self.chunk_root_level).u8(self.log_root_level);
        w.bytes(&self.dev_item.to_bytes());
        let label_end = w.0.len() + LABEL_LEN;
        w.bytes(&self.label).pad_to(label_end);
        w.u64(self.cache_generation).u64(self.uuid_tree_generation).uuid(&self.metadata_uuid);
        let array_end = w.0.len() + 8 + 27 * 8 + SYS_CHUNK_ARRAY_LEN;
        w.pad_to(array_end - SYS_CHUNK_ARRAY_LEN).bytes(&array.0).pad_to(array_end);
        for slot in &self.backup_roots {
            slot.write(&mut w);
        }
        w.pad_to(SUPER_LEN);
        csum::seal(self.csum, &mut w.0);
        Ok(w.0)
    }
}

/// The fields up to the device item, and the length that goes into no field.
struct RawHead {
    sb: Superblock,
    sys_chunk_array_size: u32,
}

impl RawHead {
    fn read(r: &mut Reader<'_>) -> DiskResult<Self> {
        r.take("csum", csum::CSUM_FIELD)?;
        let (fsid, bytenr, flags) = (r.uuid("fsid")?, r.u64("bytenr")?, r.u64("flags")?);
        if flags & !(FLAG_WRITTEN | FLAG_RELOC | FLAG_ERROR) != 0 {
            let expected = "WRITTEN (0x1), RELOC (0x2), ERROR (0x4)";
            let seeding = if flags & FLAG_SEEDING == 0 { "" } else { " (SEEDING: a seed device)" };
            return Err(r.error("flags", 56, format_args!("{flags:#x}{seeding}"), expected));
        }
        r.take("magic", 8)?;
        let (generation, root) = (r.u64("generation")?, r.u64("root")?);
        let (chunk_root, log_root) = (r.u64("chunk_root")?, r.u64("log_root")?);
        r.take("log_root_transid", 8)?;
        let (total_bytes, bytes_used) = (r.u64("total_bytes")?, r.u64("bytes_used")?);
        let root_dir_objectid = r.u64("root_dir_objectid")?;
        let num_devices = r.u64("num_devices")?;
        let (sectorsize, nodesize) = (r.u32("sectorsize")?, r.u32("nodesize")?);
        let (leafsize, stripesize) = (r.u32("leafsize")?, r.u32("stripesize")?);
        for (field, at, found, expected) in [
            ("sectorsize", 144, sectorsize, 4096),
            ("leafsize", 152, leafsize, nodesize),
            ("stripesize", 156, stripesize, sectorsize),
        ] {
            if found != expected {
                return Err(r.error(field, at, found, expected));
            }
        }
        let sys_chunk_array_size = r.u32("sys_chunk_array_size")?;
        let chunk_root_generation = r.u64("chunk_root_generation")?;
        let (compat, compat_ro) = (r.u64("compat_flags")?, r.u64("compat_ro_flags")?);
        let incompat = r.u64("incompat_flags")?;
        r.take("csum_type", 2)?;
        let (root_level, chunk_root_level) = (r.u8("root_level")?, r.u8("chunk_root_level")?);
        let sb = Superblock {
            fsid,
            bytenr,
            error: flags & FLAG_ERROR != 0,
            generation,
            root,
            chunk_root,
            log_root,
            total_bytes,
            bytes_used,
            root_dir_objectid,
            num_devices,
            nodesize,
            chunk_root_generation,
            compat,
            compat_ro: CompatRo::from_bits_retain(compat_ro),
            incompat: Incompat::from_bits_retain(incompat),
            csum: ChecksumKind::Crc32c,
            root_level,
            chunk_root_level,
            log_root_level: r.u8("log_root_level")?,
            dev_item: DevItem::default(),
            label: Vec::new(),
            cache_generation: 0,
            uuid_tree_generation: 0,
            metadata_uuid: Uuid::nil(),
            sys_chunks: Vec::new(),
            backup_roots: Default::default(),
        };
        Ok(Self { sb, sys_chunk_array_size })
    }
}

fn csum_kind(r: &Reader<'_>) -> DiskResult<ChecksumKind> {
    let mut r = r.clone();
    r.take("head", 196)?;
    let code = r.u16("csum_type")?;
    ChecksumKind::from_disk(code).ok_or_else(|| r.error("csum_type", 196, code, "0 to 3"))
}

fn read_label(r: &mut Reader<'_>) -> DiskResult<Vec<u8>> {
    let at = r.at();
    let field = r.take("label", LABEL_LEN)?;
    match field.iter().position(|byte| *byte == 0) {
        Some(end) => Ok(field.get(..end).unwrap_or_default().to_vec()),
        None => Err(r.error("label", at, "256 bytes without a zero", "a closing zero")),
    }
}

fn read_sys_chunks(array: &[u8], size: u32) -> DiskResult<Vec<(u64, ChunkItem)>> {
    let used = array.get(..size as usize).filter(|used| !used.is_empty());
    let Some(used) = used else {
        let expected = format!("1 to {SYS_CHUNK_ARRAY_LEN}");
        return Err(DiskError::new("superblock", "sys_chunk_array_size", 160, size, expected));
    };
    let mut r = Reader::new("sys_chunk_array", used);
    let mut out = Vec::new();
    while r.left() > 0 {
        let at = r.at();
        let key = r.key("key")?;
        if key.kind != ItemKind::CHUNK_ITEM || key.objectid != objectid::FIRST_CHUNK_TREE {
            return Err(r.error("key", at, key, "(256 CHUNK_ITEM ..)"));
        }
        let chunk = ChunkItem::read(key.offset, &mut r)?;
        if !chunk.flags.contains(crate::items::BlockGroupFlags::SYSTEM) {
            return Err(r.error("chunk type", at, format_args!("{:?}", chunk.flags), "SYSTEM"));
        }
        out.push((key.offset, chunk));
    }
    Ok(out)
}

impl BackupRoot {
    fn read(r: &mut Reader<'_>) -> DiskResult<Self> {
        let mut slot = Self::default();
        for tree in slot.trees_mut() {
            (tree.bytenr, tree.generation) = (r.u64("backup root")?, r.u64("backup generation")?);
        }
        slot.total_bytes = r.u64("backup total_bytes")?;
        slot.bytes_used = r.u64("backup bytes_used")?;
        slot.num_devices = r.u64("backup num_devices")?;
        r.take("backup unused", 32)?;
        for tree in slot.trees_mut() {
            tree.level = r.u8("backup level")?;
        }
        r.take("backup unused", 10)?;
        Ok(slot)
    }

    fn write(mut self, w: &mut Writer) {
        let (total, used, devices) = (self.total_bytes, self.bytes_used, self.num_devices);
        for tree in self.trees_mut() {
            w.u64(tree.bytenr).u64(tree.generation);
        }
        w.u64(total).u64(used).u64(devices).bytes(&[0; 32]);
        for tree in self.trees_mut() {
            w.u8(tree.level);
        }
        w.bytes(&[0; 10]);
    }

    const fn trees_mut(&mut self) -> [&mut BackupTree; 6] {
        let Self { tree, chunk, extent, fs, dev, csum, .. } = self;
        [tree, chunk, extent, fs, dev, csum]
    }
}

macro_rules! names {
    ($flags:ty) => {
        impl $flags {
            /// The names of the bits that are set, bits without a name as a number.
            #[must_use]
            pub fn names(self) -> String {
                let mut names: Vec<String> =
                    self.iter_names().map(|(name, _)| name.to_owned()).collect();
                let rest = self.bits() & !Self::all().bits();
                if rest != 0 {
                    names.push(format!("{rest:#x}"));
                }
                names.join(" | ")
            }
        }
    };
}

names!(Incompat);
names!(CompatRo);

#[cfg(test)]
mod tests;
