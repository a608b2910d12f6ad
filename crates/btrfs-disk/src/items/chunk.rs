//! Chunks: where a stretch of logical addresses lies on the devices.

use bitflags::bitflags;
use uuid::Uuid;

use crate::error::DiskResult;
use crate::wire::{Reader, Writer};

/// The one stripe length there is.
pub const STRIPE_LEN: u64 = 64 * 1024;
const FIXED: usize = 48;
const STRIPE: usize = 32;
/// Chunks are far smaller than this; it catches flipped bits.
const LENGTH_LIMIT: u64 = (u32::MAX as u64) << 16;

bitflags! {
    /// Type and profile of a chunk or block group.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct BlockGroupFlags: u64 {
        /// File data.
        const DATA = 1;
        /// The chunk tree.
        const SYSTEM = 1 << 1;
        /// All other trees.
        const METADATA = 1 << 2;
        /// Striped.
        const RAID0 = 1 << 3;
        /// Two copies on two devices.
        const RAID1 = 1 << 4;
        /// Two copies on one device.
        const DUP = 1 << 5;
        /// Striped and mirrored.
        const RAID10 = 1 << 6;
        /// One parity.
        const RAID5 = 1 << 7;
        /// Two parities.
        const RAID6 = 1 << 8;
        /// Three copies.
        const RAID1C3 = 1 << 9;
        /// Four copies.
        const RAID1C4 = 1 << 10;
    }
}

impl BlockGroupFlags {
    /// Data, metadata or system.
    pub const TYPES: Self = Self::DATA.union(Self::SYSTEM).union(Self::METADATA);
    /// How the bytes are spread; none of these is a single copy.
    pub const PROFILES: Self = Self::all().difference(Self::TYPES);

    /// Reads and checks the flags of a chunk or a block group.
    pub(crate) fn checked(r: &Reader<'_>, at: usize, bits: u64) -> DiskResult<Self> {
        let found = format_args!("{bits:#x}");
        let Some(flags) = Self::from_bits(bits) else {
            return Err(r.error("type", at, found, format_args!("bits of {:#x}", Self::all())));
        };
        let types = flags.intersection(Self::TYPES);
        let known = [Self::DATA, Self::METADATA, Self::SYSTEM, Self::DATA.union(Self::METADATA)];
        if !known.contains(&types) {
            return Err(r.error("type", at, found, "data, metadata, both, or system"));
        }
        if flags.intersection(Self::PROFILES).bits().count_ones() > 1 {
            return Err(r.error("type", at, found, "at most one profile"));
        }
        Ok(flags)
    }

    /// The numbers of stripes that the profile allows, and the sub stripes if it prescribes them.
    const fn stripes(self) -> (u16, u16, Option<u16>) {
        match self.intersection(Self::PROFILES) {
            Self::RAID0 => (1, u16::MAX, None),
            Self::RAID1 | Self::DUP => (2, 2, None),
            Self::RAID10 => (2, u16::MAX, Some(2)),
            Self::RAID5 => (2, u16::MAX, None),
            Self::RAID6 | Self::RAID1C3 => {
                (3, if self.contains(Self::RAID6) { u16::MAX } else { 3 }, None)
            }
            Self::RAID1C4 => (4, 4, None),
            _ => (1, 1, None),
        }
    }
}

/// One copy, or one part, of a chunk on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripe {
    /// The device.
    pub devid: u64,
    /// Physical address on it, in bytes.
    pub offset: u64,
    /// The device's UUID.
    pub dev_uuid: Uuid,
}

/// A chunk. Key: (256, `CHUNK_ITEM`, first logical address).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkItem {
    /// Logical bytes.
    pub length: u64,
    /// Tree that the chunk belongs to: the extent tree.
    pub owner: u64,
    /// Type and profile.
    pub flags: BlockGroupFlags,
    /// Hint.
    pub io_align: u32,
    /// Hint.
    pub io_width: u32,
    /// Bytes of a sector.
    pub sector_size: u32,
    /// Two with RAID10, else without meaning.
    pub sub_stripes: u16,
    /// Where it is; at least one.
    pub stripes: Vec<Stripe>,
}

impl ChunkItem {
    /// Bytes on disk with `stripes` stripes.
    #[must_use]
    pub const fn len_with(stripes: usize) -> usize {
        FIXED + stripes * STRIPE
    }

    /// Reads the chunk that begins at `logical`.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn parse(logical: u64, bytes: &[u8]) -> DiskResult<Self> {
        let mut r = Reader::new("chunk item", bytes);
        let chunk = Self::read(logical, &mut r)?;
        r.done()?;
        Ok(chunk)
    }

    /// Reads a chunk that other bytes may follow.
    pub(crate) fn read(logical: u64, r: &mut Reader<'_>) -> DiskResult<Self> {
        let start = r.at();
        let length = r.u64("length")?;
        let owner = r.u64("owner")?;
        let stripe_len = r.u64("stripe_len")?;
        let flags = BlockGroupFlags::checked(r, r.at(), r.clone().u64("type")?)?;
        r.take("type", 8)?;
        let (io_align, io_width) = (r.u32("io_align")?, r.u32("io_width")?);
        let sector_size = r.u32("sector_size")?;
        let num_stripes = r.u16("num_stripes")?;
        let sub_stripes = r.u16("sub_stripes")?;

        let sector = u64::from(sector_size);
        if sector_size != 4096 {
            return Err(r.error("sector_size", start + 40, sector_size, 4096));
        }
        if !logical.is_multiple_of(sector) {
            return Err(r.error("key offset", start, logical, "a multiple of 4096"));
        }
        if length == 0 || !length.is_multiple_of(sector) || length >= LENGTH_LIMIT {
            return Err(r.error("length", start, length, "a sane multiple of 4096, not 0"));
        }
        if logical.checked_add(length).is_none() {
            return Err(r.error("length", start, length, "an end below 2^64"));
        }
        if stripe_len != STRIPE_LEN {
            return Err(r.error("stripe_len", start + 16, stripe_len, STRIPE_LEN));
        }
        let (least, most, sub) = flags.stripes();
        if num_stripes < least || num_stripes > most {
            let expected = format!("{least} to {most} for {flags:?}");
            return Err(r.error("num_stripes", start + 44, num_stripes, expected));
        }
        if let Some(sub) = sub
            && sub != sub_stripes
        {
            return Err(r.error("sub_stripes", start + 46, sub_stripes, sub));
        }
        let mut stripes = Vec::with_capacity(usize::from(num_stripes).min(64));
        for _ in 0..num_stripes {
            let (devid, offset) = (r.u64("stripe devid")?, r.u64("stripe offset")?);
            stripes.push(Stripe { devid, offset, dev_uuid: r.uuid("stripe dev_uuid")? });
        }
        Ok(Self { length, owner, flags, io_align, io_width, sector_size, sub_stripes, stripes })
    }

    /// The chunk on disk.
    ///
    /// # Panics
    /// With more than 65535 stripes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let stripes = u16::try_from(self.stripes.len()).expect("a chunk has few stripes");
        let mut w = Writer::with_capacity(Self::len_with(self.stripes.len()));
        w.u64(self.length).u64(self.owner).u64(STRIPE_LEN).u64(self.flags.bits());
        w.u32(self.io_align).u32(self.io_width).u32(self.sector_size);
        w.u16(stripes).u16(self.sub_stripes);
        for stripe in &self.stripes {
            w.u64(stripe.devid).u64(stripe.offset).uuid(&stripe.dev_uuid);
        }
        w.0
    }
}
