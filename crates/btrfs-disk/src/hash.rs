//! Hashes that stand in keys: of names, of data references, of extended inode references.

pub use cowback_codec::{extref_hash, name_hash};

use cowback_codec::crc32c;

/// The key offset of a data reference, and the order of data references within an extent item (descending).
#[must_use]
pub fn data_ref_hash(root: u64, ino: u64, offset: u64) -> u64 {
    let high = crc32c(!0, &root.to_le_bytes());
    let low = crc32c(crc32c(!0, &ino.to_le_bytes()), &offset.to_le_bytes());
    u64::from(high) << 31 ^ u64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The root tree's entry for the default subvolume bears this key on every btrfs volume.
    #[test]
    fn the_name_default_hashes_as_on_every_volume() {
        assert_eq!(name_hash(b"default"), 2_378_154_706);
    }
}
