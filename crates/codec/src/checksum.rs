//! The four checksums of btrfs, and the two hashes of names in its keys.
//!
//! A data checksum covers one stored block of 4 KiB, padding included (stage 7).

use std::fmt;
use std::str::FromStr;

use blake2::Blake2b256;
use cowback_base::BLOCK_SIZE_USIZE;
use crc_fast::CrcAlgorithm;
use sha2::{Digest as _, Sha256};
use twox_hash::XxHash64;

/// A checksum that a volume may be made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ChecksumKind {
    /// CRC-32C, 4 bytes.
    #[default]
    Crc32c,
    /// xxHash64 with seed 0, 8 bytes.
    Xxhash64,
    /// SHA-256, 32 bytes.
    Sha256,
    /// BLAKE2b without a key, for a digest of 32 bytes.
    Blake2b,
}

/// A name that is none of the four.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown checksum `{0}`: expected crc32c, xxhash, sha256 or blake2")]
pub struct UnknownChecksum(String);

impl ChecksumKind {
    /// All of them, in the order of their numbers on disk.
    pub const ALL: [Self; 4] = [Self::Crc32c, Self::Xxhash64, Self::Sha256, Self::Blake2b];

    /// Bytes of one checksum.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Xxhash64 => 8,
            Self::Sha256 | Self::Blake2b => 32,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "crc32c",
            Self::Xxhash64 => "xxhash",
            Self::Sha256 => "sha256",
            Self::Blake2b => "blake2",
        }
    }

    /// Its number in the superblock.
    #[must_use]
    pub const fn to_disk(self) -> u16 {
        match self {
            Self::Crc32c => 0,
            Self::Xxhash64 => 1,
            Self::Sha256 => 2,
            Self::Blake2b => 3,
        }
    }

    /// The checksum of a number in a superblock, if there is one.
    #[must_use]
    pub const fn from_disk(number: u16) -> Option<Self> {
        match number {
            0 => Some(Self::Crc32c),
            1 => Some(Self::Xxhash64),
            2 => Some(Self::Sha256),
            3 => Some(Self::Blake2b),
            _ => None,
        }
    }
}

impl fmt::Display for ChecksumKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ChecksumKind {
    type Err = UnknownChecksum;

    fn from_str(text: &str) -> Result<Self, UnknownChecksum> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| UnknownChecksum(text.to_owned()))
    }
}

/// A checksum as it is stored: 4, 8 or 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    bytes: [u8; 32],
    kind: ChecksumKind,
}

impl Digest {
    fn of(kind: ChecksumKind, bytes: &[u8]) -> Self {
        let mut padded = [0; 32];
        padded[..bytes.len()].copy_from_slice(bytes);
        Self { bytes: padded, kind }
    }

    /// The bytes as they are stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.kind.size()]
    }

    /// The bytes with zeros behind them, as in the 32-byte field of a superblock or a node.
    #[must_use]
    pub const fn padded(&self) -> [u8; 32] {
        self.bytes
    }

    /// What it is a checksum by.
    #[must_use]
    pub const fn kind(&self) -> ChecksumKind {
        self.kind
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind)?;
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The checksum of `data`.
#[must_use]
pub fn digest(kind: ChecksumKind, data: &[u8]) -> Digest {
    match kind {
        ChecksumKind::Crc32c => Digest::of(kind, &crc_fast::crc32_iscsi(data).to_le_bytes()),
        ChecksumKind::Xxhash64 => Digest::of(kind, &XxHash64::oneshot(0, data).to_le_bytes()),
        ChecksumKind::Sha256 => Digest::of(kind, &Sha256::digest(data)),
        ChecksumKind::Blake2b => Digest::of(kind, &Blake2b256::digest(data)),
    }
}

/// Appends the checksum of each block of `data` to `out`.
///
/// # Panics
/// If `data` is not a whole number of blocks.
pub fn block_sums(kind: ChecksumKind, data: &[u8], out: &mut Vec<u8>) {
    let (blocks, rest) = data.as_chunks::<BLOCK_SIZE_USIZE>();
    assert!(rest.is_empty(), "{} bytes are not a whole number of blocks", data.len());
    out.reserve(blocks.len() * kind.size());
    for block in blocks {
        out.extend_from_slice(digest(kind, block).as_bytes());
    }
}

/// The index of the first block of `data` whose checksum is not the one in `sums`, or that has none there.
///
/// # Panics
/// If `data` is not a whole number of blocks.
#[must_use]
pub fn first_mismatch(kind: ChecksumKind, data: &[u8], sums: &[u8]) -> Option<usize> {
    let (blocks, rest) = data.as_chunks::<BLOCK_SIZE_USIZE>();
    assert!(rest.is_empty(), "{} bytes are not a whole number of blocks", data.len());
    let mut expected = sums.chunks_exact(kind.size());
    blocks.iter().position(|block| expected.next() != Some(digest(kind, block).as_bytes()))
}

/// The bare CRC-32C register: continues from `seed` over `data`, and inverts nothing.
///
/// `!crc32c(!0, data)` is the checksum that everyone else calls CRC-32C.
#[must_use]
pub fn crc32c(seed: u32, data: &[u8]) -> u32 {
    let mut state = crc_fast::Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, seed.into());
    state.update(data);
    u32::try_from(state.get_state()).expect("the register of a CRC-32 has 32 bits")
}

/// The offset of a `DIR_ITEM` or `XATTR_ITEM` key: the hash of the name.
#[must_use]
pub fn name_hash(name: &[u8]) -> u64 {
    crc32c(!1, name).into()
}

/// The offset of an `INODE_EXTREF` key: the hash of the name, seeded with the low half of the parent's number.
#[must_use]
pub fn extref_hash(parent: u64, name: &[u8]) -> u64 {
    let bytes = parent.to_le_bytes();
    crc32c(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), name).into()
}

#[cfg(test)]
mod tests;
