//! How a file's data is to be stored (asked in stages 4 and 5): a policy for each file, or the engine's for all.

use std::fmt;
use std::str::FromStr;

use cowback_base::COMPRESSED_EXTENT_MAX;
use cowback_codec::CompressionSpec;

/// Whether and how data is compressed on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionPolicy {
    /// Not at all.
    None,
    /// With this codec, unless a sample of the data says that it is not worth trying (asked only where a try costs more).
    Heuristic(CompressionSpec),
    /// With this codec, always tried. Stored compressed only if that saves a block, even so.
    Force(CompressionSpec),
}

/// Before the codec, in text, if it is always tried.
const FORCE: &str = "force:";

/// A compression that was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

impl CompressionPolicy {
    /// The codec, if there is one.
    #[must_use]
    pub fn spec(self) -> Option<CompressionSpec> {
        match self {
            Self::None => None,
            Self::Heuristic(spec) | Self::Force(spec) => Some(spec),
        }
    }

    /// This policy, with every extent tried.
    #[must_use]
    pub fn forced(self) -> Self {
        self.spec().map_or(Self::None, Self::Force)
    }
}

impl Default for CompressionPolicy {
    /// zstd at level 3, as the kernel's `compress=zstd`.
    fn default() -> Self {
        Self::Heuristic(CompressionSpec::default_of(cowback_codec::Algorithm::Zstd))
    }
}

impl FromStr for CompressionPolicy {
    type Err = PolicyError;

    /// `none`, or what [`CompressionSpec`] understands: `zstd`, `zstd:-5`, `zlib:9`, `lzo`; with `force:` before it, every extent is tried.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        if text == "none" {
            return Ok(Self::None);
        }
        if let Some(spec) = text.strip_prefix(FORCE) {
            return spec
                .parse()
                .map(Self::Force)
                .map_err(|error: cowback_codec::SpecError| PolicyError(error.to_string()));
        }
        text.parse()
            .map(Self::Heuristic)
            .map_err(|error: cowback_codec::SpecError| PolicyError(error.to_string()))
    }
}

/// As it is parsed.
impl fmt::Display for CompressionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Heuristic(spec) => fmt::Display::fmt(spec, f),
            Self::Force(spec) => write!(f, "{FORCE}{spec}"),
        }
    }
}

/// Most bytes of a file that one compressed extent holds: 16, 32, 64 or 128 KiB.
///
/// A read of any part of such an extent unpacks it from its beginning. Larger extents compress better; smaller ones suit random reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtentSize(u32);

impl ExtentSize {
    /// All of them, in KiB.
    const KIB: [u32; 4] = [16, 32, 64, 128];

    /// The extent size of `bytes`, if that is one of the four.
    #[must_use]
    pub fn of_bytes(bytes: u64) -> Option<Self> {
        Self::KIB.into_iter().map(|kib| Self(kib << 10)).find(|size| size.bytes() == bytes)
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }
}

impl Default for ExtentSize {
    /// 128 KiB, as the kernel's.
    fn default() -> Self {
        Self::of_bytes(COMPRESSED_EXTENT_MAX).unwrap_or(Self(16 << 10))
    }
}

/// How the data of one file is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FilePolicy {
    /// Whether and how it is compressed.
    pub compression: CompressionPolicy,
    /// Most bytes of the file in a compressed extent.
    pub extent_size: ExtentSize,
}

impl From<CompressionPolicy> for FilePolicy {
    fn from(compression: CompressionPolicy) -> Self {
        Self { compression, ..Self::default() }
    }
}

/// What a file's inode says of where its data goes. It is stored with the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DataFlags {
    /// Data is overwritten in place where that is possible (`chattr +C`). Without checksums only, as nothing would tell a torn write from damage.
    pub nodatacow: bool,
    /// Data has no checksums, and is therefore not compressed.
    pub nodatasum: bool,
    /// Space was preallocated at some time.
    pub prealloc: bool,
}

impl DataFlags {
    /// Whether data may be written in place: it is worth asking the store. Content of such a file is never inline, as a preallocation,
    /// or what is overwritten, must not go when the file is short.
    #[must_use]
    pub const fn may_write_in_place(self) -> bool {
        self.nodatacow || self.prealloc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_prints_as_it_is_parsed() {
        for text in ["none", "zstd:3", "zstd:-15", "zlib:9", "lzo", "force:zstd:3", "force:lzo"] {
            let policy: CompressionPolicy = text.parse().unwrap();
            assert_eq!(policy.to_string(), text);
            assert_eq!(policy.to_string().parse(), Ok(policy));
            assert_eq!(policy.forced().to_string().parse(), Ok(policy.forced()), "{text}");
        }
        assert_ne!("force:zstd".parse::<CompressionPolicy>(), "zstd".parse());
        for wrong in ["force", "force:", "force:none", "force:force:lzo", "zstd:force"] {
            assert!(wrong.parse::<CompressionPolicy>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn extent_sizes_are_the_four() {
        assert_eq!(ExtentSize::default().bytes(), 131_072);
        assert_eq!(ExtentSize::of_bytes(16_384).map(ExtentSize::bytes), Some(16_384));
        for wrong in [0, 4096, 8192, 16_385, 98_304, 262_144] {
            assert_eq!(ExtentSize::of_bytes(wrong), None);
        }
    }
}
