//! Checksums as they stand in headers and superblocks: 32 bytes, the digest first, zeros after it.

use cowback_codec::{ChecksumKind, digest};

use crate::error::{DiskError, DiskResult};

/// Bytes of the checksum field of headers and superblocks.
pub(crate) const CSUM_FIELD: usize = 32;

/// The checksum field for a block: over everything after the field itself.
fn field(kind: ChecksumKind, block: &[u8]) -> [u8; CSUM_FIELD] {
    digest(kind, block.get(CSUM_FIELD..).unwrap_or_default()).padded()
}

/// Fails unless the checksum field of `block` is right.
pub(crate) fn verify(structure: &'static str, kind: ChecksumKind, block: &[u8]) -> DiskResult<()> {
    let expected = field(kind, block);
    // Only the digest counts: what stands behind it in the field has no meaning.
    let size = kind.size();
    let (found, expected) = (block.get(..size), expected.get(..size));
    if found == expected {
        return Ok(());
    }
    let [found, expected] = [found, expected].map(|sum| hex(sum.unwrap_or_default()));
    Err(DiskError::new(structure, "csum", 0, found, expected))
}

/// Puts the checksum into `block`.
pub(crate) fn seal(kind: ChecksumKind, block: &mut [u8]) {
    let sum = field(kind, block);
    for (to, from) in block.iter_mut().zip(sum) {
        *to = from;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
