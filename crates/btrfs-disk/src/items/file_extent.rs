//! File extents: where a part of a file is.

use cowback_base::{BLOCK_SIZE, COMPRESSED_EXTENT_MAX};

use crate::error::DiskResult;
use crate::key::Key;
use crate::wire::{Reader, Writer};

const INLINE: u8 = 0;
const REGULAR: u8 = 1;
const PREALLOC: u8 = 2;

/// How the bytes of a file extent are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompressionCode {
    /// As they are.
    None,
    /// zlib.
    Zlib,
    /// LZO.
    Lzo,
    /// zstd.
    Zstd,
}

impl CompressionCode {
    const ALL: [Self; 4] = [Self::None, Self::Zlib, Self::Lzo, Self::Zstd];

    /// The code on disk.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Zlib => 1,
            Self::Lzo => 2,
            Self::Zstd => 3,
        }
    }
}

/// An extent on disk, and the part of it that a file extent shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRange {
    /// Logical address of the whole extent; 0 for an explicit hole.
    pub bytenr: u64,
    /// Bytes of the whole extent on disk.
    pub disk_len: u64,
    /// Where the shown part begins, in the uncompressed extent.
    pub offset: u64,
    /// Bytes of the file that are shown.
    pub num_bytes: u64,
}

/// Where the bytes of a file extent are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileExtentData {
    /// In the item.
    Inline(Vec<u8>),
    /// On disk.
    Regular(DiskRange),
    /// On disk, and not written yet: zeros.
    Prealloc(DiskRange),
}

/// A file extent. Key: (inode, `EXTENT_DATA`, position in the file).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileExtent {
    /// Transaction that made it.
    pub generation: u64,
    /// Bytes that the whole extent unpacks to; of an inline extent, the file's bytes.
    pub ram_bytes: u64,
    /// How the bytes are stored.
    pub compression: CompressionCode,
    /// Where the bytes are.
    pub data: FileExtentData,
}

impl FileExtent {
    /// Bytes on disk of one that is not inline.
    pub const LEN: usize = 53;
    /// Bytes on disk before the data of one that is inline.
    pub const INLINE_START: usize = 21;

    /// Reads the file extent at `key`.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse(key: &Key, bytes: &[u8]) -> DiskResult<Self> {
        let mut r = Reader::new("file extent", bytes);
        let generation = r.u64("generation")?;
        let ram_bytes = r.u64("ram_bytes")?;
        let code = r.u8("compression")?;
        let encryption = r.u8("encryption")?;
        let other_encoding = r.u16("other_encoding")?;
        let kind = r.u8("type")?;
        let Some(&compression) = CompressionCode::ALL.get(usize::from(code)) else {
            return Err(r.error("compression", 16, code, "0 to 3"));
        };
        if encryption != 0 || other_encoding != 0 {
            return Err(r.error("encryption", 17, encryption, 0));
        }
        if !key.offset.is_multiple_of(BLOCK_SIZE) {
            return Err(r.error("key offset", 0, key.offset, "a multiple of 4096"));
        }
        let data = match kind {
            INLINE => {
                let data = r.take("inline data", r.left())?;
                check_inline(&r, key, ram_bytes, compression, data)?;
                FileExtentData::Inline(data.to_vec())
            }
            REGULAR | PREALLOC => {
                let range = DiskRange {
                    bytenr: r.u64("disk_bytenr")?,
                    disk_len: r.u64("disk_num_bytes")?,
                    offset: r.u64("offset")?,
                    num_bytes: r.u64("num_bytes")?,
                };
                r.done()?;
                check_range(&r, key, ram_bytes, compression, &range)?;
                match kind {
                    REGULAR => FileExtentData::Regular(range),
                    _ if compression == CompressionCode::None && range.bytenr != 0 => {
                        FileExtentData::Prealloc(range)
                    }
                    _ => return Err(r.error("type", 20, kind, "an uncompressed extent on disk")),
                }
            }
            other => return Err(r.error("type", 20, other, "0 to 2")),
        };
        Ok(Self { generation, ram_bytes, compression, data })
    }

    /// The item on disk.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(Self::LEN);
        w.u64(self.generation).u64(self.ram_bytes).u8(self.compression.code()).u8(0).u16(0);
        let (kind, range) = match &self.data {
            FileExtentData::Inline(data) => {
                w.u8(INLINE).bytes(data);
                return w.0;
            }
            FileExtentData::Regular(range) => (REGULAR, range),
            FileExtentData::Prealloc(range) => (PREALLOC, range),
        };
        w.u8(kind).u64(range.bytenr).u64(range.disk_len).u64(range.offset).u64(range.num_bytes);
        w.0
    }

    /// Where the item at `offset` ends in the file: on a block boundary, also for an inline extent.
    #[must_use]
    pub const fn end(&self, offset: u64) -> u64 {
        match &self.data {
            FileExtentData::Inline(_) => offset
                .saturating_add(self.ram_bytes.div_ceil(BLOCK_SIZE).saturating_mul(BLOCK_SIZE)),
            FileExtentData::Regular(range) | FileExtentData::Prealloc(range) => {
                offset.saturating_add(range.num_bytes)
            }
        }
    }
}

fn check_inline(
    r: &Reader<'_>,
    key: &Key,
    ram_bytes: u64,
    compression: CompressionCode,
    data: &[u8],
) -> DiskResult<()> {
    if key.offset != 0 {
        return Err(r.error("key offset", 0, key.offset, "0 for an inline extent"));
    }
    if ram_bytes == 0 || ram_bytes > BLOCK_SIZE {
        return Err(r.error("ram_bytes", 8, ram_bytes, "1 to 4096 for an inline extent"));
    }
    if compression == CompressionCode::None && data.len() as u64 != ram_bytes {
        return Err(r.error("ram_bytes", 8, ram_bytes, data.len()));
    }
    Ok(())
}

fn check_range(
    r: &Reader<'_>,
    key: &Key,
    ram_bytes: u64,
    compression: CompressionCode,
    range: &DiskRange,
) -> DiskResult<()> {
    let fields = [
        ("ram_bytes", 8, ram_bytes),
        ("disk_bytenr", 21, range.bytenr),
        ("disk_num_bytes", 29, range.disk_len),
        ("offset", 37, range.offset),
        ("num_bytes", 45, range.num_bytes),
    ];
    for (field, at, value) in fields {
        if !value.is_multiple_of(BLOCK_SIZE) {
            return Err(r.error(field, at, value, "a multiple of 4096"));
        }
    }
    if range.num_bytes == 0 || key.offset.checked_add(range.num_bytes).is_none() {
        return Err(r.error("num_bytes", 45, range.num_bytes, "above 0, with an end below 2^64"));
    }
    if range.bytenr == 0 {
        // An explicit hole, as volumes without NO_HOLES have them.
        return match range.disk_len {
            0 => Ok(()),
            len => Err(r.error("disk_num_bytes", 29, len, "0 for a hole")),
        };
    }
    if range.bytenr.checked_add(range.disk_len).is_none() {
        return Err(r.error("disk_num_bytes", 29, range.disk_len, "an end below 2^64"));
    }
    // Linux writes extents of up to 128 MiB, and preallocates larger ones: what is not compressed is as long as its block group lets it be.
    let limit = match compression {
        CompressionCode::None => i64::MAX.unsigned_abs(),
        _ => COMPRESSED_EXTENT_MAX,
    };
    if range.disk_len == 0 || range.disk_len > limit {
        return Err(r.error("disk_num_bytes", 29, range.disk_len, format_args!("1 to {limit}")));
    }
    if ram_bytes > limit {
        return Err(r.error("ram_bytes", 8, ram_bytes, format_args!("at most {limit}")));
    }
    let whole = if compression == CompressionCode::None { range.disk_len } else { ram_bytes };
    match range.offset.checked_add(range.num_bytes) {
        Some(end) if end <= whole => Ok(()),
        _ => {
            let found = format_args!("{} + {}", range.offset, range.num_bytes);
            Err(r.error("offset + num_bytes", 37, found, format_args!("at most {whole}")))
        }
    }
}
