//! Devices: the device item, what of it is in use, and its error counters.

use uuid::Uuid;

use crate::error::DiskResult;
use crate::wire::{Reader, Writer};

/// A device. Key: (1, `DEV_ITEM`, devid) in the chunk tree; a copy is in the superblock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DevItem {
    /// Number of the device within the volume.
    pub devid: u64,
    /// Bytes of the device that the volume may use.
    pub total_bytes: u64,
    /// Bytes that dev extents occupy.
    pub bytes_used: u64,
    /// Hint.
    pub io_align: u32,
    /// Hint.
    pub io_width: u32,
    /// Bytes of a sector.
    pub sector_size: u32,
    /// Unused.
    pub kind: u64,
    /// Unused.
    pub generation: u64,
    /// Unused.
    pub start_offset: u64,
    /// Unused.
    pub dev_group: u32,
    /// Unused.
    pub seek_speed: u8,
    /// Unused.
    pub bandwidth: u8,
    /// The device's UUID.
    pub uuid: Uuid,
    /// The volume's metadata UUID.
    pub fsid: Uuid,
}

impl DevItem {
    /// Bytes on disk.
    pub const LEN: usize = 98;

    /// Reads a device item.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse(bytes: &[u8]) -> DiskResult<Self> {
        let mut r = Reader::new("device item", bytes);
        let item = Self::read(&mut r)?;
        r.done()?;
        Ok(item)
    }

    /// Reads a device item that other bytes may follow.
    pub(crate) fn read(r: &mut Reader<'_>) -> DiskResult<Self> {
        let start = r.at();
        let item = Self {
            devid: r.u64("devid")?,
            total_bytes: r.u64("total_bytes")?,
            bytes_used: r.u64("bytes_used")?,
            io_align: r.u32("io_align")?,
            io_width: r.u32("io_width")?,
            sector_size: r.u32("sector_size")?,
            kind: r.u64("type")?,
            generation: r.u64("generation")?,
            start_offset: r.u64("start_offset")?,
            dev_group: r.u32("dev_group")?,
            seek_speed: r.u8("seek_speed")?,
            bandwidth: r.u8("bandwidth")?,
            uuid: r.uuid("uuid")?,
            fsid: r.uuid("fsid")?,
        };
        if item.bytes_used > item.total_bytes {
            let expected = format!("at most {}, the device's size", item.total_bytes);
            return Err(r.error("bytes_used", start + 16, item.bytes_used, expected));
        }
        Ok(item)
    }

    /// The item on disk.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        w.u64(self.devid).u64(self.total_bytes).u64(self.bytes_used);
        w.u32(self.io_align).u32(self.io_width).u32(self.sector_size);
        w.u64(self.kind).u64(self.generation).u64(self.start_offset);
        w.u32(self.dev_group).u8(self.seek_speed).u8(self.bandwidth);
        w.uuid(&self.uuid).uuid(&self.fsid);
        w.0
    }
}

/// A stretch of a device that a chunk occupies. Key: (devid, `DEV_EXTENT`, physical address).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevExtent {
    /// Tree of the chunk: the chunk tree.
    pub chunk_tree: u64,
    /// Objectid of the chunk's key: 256.
    pub chunk_objectid: u64,
    /// The chunk's first logical address.
    pub chunk_offset: u64,
    /// Physical bytes.
    pub length: u64,
    /// UUID of the chunk tree.
    pub chunk_tree_uuid: Uuid,
}

impl DevExtent {
    /// Bytes on disk.
    pub const LEN: usize = 48;

    /// Reads a dev extent.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse(bytes: &[u8]) -> DiskResult<Self> {
        let mut r = Reader::new("device extent", bytes);
        let item = Self {
            chunk_tree: r.u64("chunk_tree")?,
            chunk_objectid: r.u64("chunk_objectid")?,
            chunk_offset: r.u64("chunk_offset")?,
            length: r.u64("length")?,
            chunk_tree_uuid: r.uuid("chunk_tree_uuid")?,
        };
        r.done()?;
        if item.length == 0 || !item.length.is_multiple_of(4096) {
            return Err(r.error("length", 24, item.length, "a multiple of 4096, not 0"));
        }
        Ok(item)
    }

    /// The item on disk.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        w.u64(self.chunk_tree).u64(self.chunk_objectid).u64(self.chunk_offset);
        w.u64(self.length).uuid(&self.chunk_tree_uuid);
        w.0
    }
}

/// Error counters of a device. Key: (0, `PERSISTENT_ITEM`, devid) in the device tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DevStats {
    /// Failed writes.
    pub write_errors: u64,
    /// Failed reads.
    pub read_errors: u64,
    /// Failed flushes.
    pub flush_errors: u64,
    /// Wrong checksums.
    pub corruption_errors: u64,
    /// Tree blocks of another generation than expected.
    pub generation_errors: u64,
}

impl DevStats {
    /// Bytes on disk.
    pub const LEN: usize = 40;

    /// Reads the counters; a longer item of a later format is understood as far as it goes.
    ///
    /// # Errors
    /// If the item is too short.
    pub fn parse(bytes: &[u8]) -> DiskResult<Self> {
        let mut r = Reader::new("device stats", bytes);
        Ok(Self {
            write_errors: r.u64("write errors")?,
            read_errors: r.u64("read errors")?,
            flush_errors: r.u64("flush errors")?,
            corruption_errors: r.u64("corruption errors")?,
            generation_errors: r.u64("generation errors")?,
        })
    }

    /// The item on disk.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        w.u64(self.write_errors).u64(self.read_errors).u64(self.flush_errors);
        w.u64(self.corruption_errors).u64(self.generation_errors);
        w.0
    }
}
