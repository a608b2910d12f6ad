//! The UUID tree: from a UUID to the subvolumes that bear it.

use uuid::Uuid;

use crate::error::DiskResult;
use crate::key::{ItemKind, Key};
use crate::wire::{Reader, Writer};

/// Key of the item for `uuid`; `kind` is `UUID_KEY_SUBVOL` or `UUID_KEY_RECEIVED_SUBVOL`.
#[must_use]
pub fn uuid_key(uuid: &Uuid, kind: ItemKind) -> Key {
    let (high, low) = uuid.as_u64_pair();
    Key::new(high.swap_bytes(), kind, low.swap_bytes())
}

/// The UUID of which this is the key.
#[must_use]
pub const fn uuid_of_key(key: &Key) -> Uuid {
    Uuid::from_u64_pair(key.objectid.swap_bytes(), key.offset.swap_bytes())
}

/// Reads the subvolumes of an item; there is at least one.
///
/// # Errors
/// If the item's length is no multiple of 8, or 0.
pub fn parse_uuid_item(bytes: &[u8]) -> DiskResult<Vec<u64>> {
    let mut r = Reader::new("uuid item", bytes);
    let mut out = Vec::new();
    while r.left() > 0 || out.is_empty() {
        out.push(r.u64("subvolume")?);
    }
    Ok(out)
}

/// The item on disk.
#[must_use]
pub fn uuid_item(subvolumes: &[u64]) -> Vec<u8> {
    let mut w = Writer::default();
    for id in subvolumes {
        w.u64(*id);
    }
    w.0
}
