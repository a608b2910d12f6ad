//! How large new block groups are, and where on the device they go.
//!
//! Block groups for data are made by worker threads, those for metadata by who changes names, in an order that nobody knows. So that the
//! image does not depend on it (law R3), the two kinds do not come across each other: on a device of fixed size, data goes to the first holes
//! below a border and metadata to the end of the last behind it; where the device grows, each has its part of every zone.

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::BlockGroupFlags;

use super::{Class, Space};
use crate::chunks::{Chunk, ChunkMap, DEVICE_MAX, RESERVED_START, STRIPE_LEN};

const MIB: u64 = 1 << 20;

/// Bytes of the first zone of a device that grows. Each is twice as large as the one before, up to [`ZONE_MAX`]; the first quarter is for
/// metadata.
const ZONE_FIRST: u64 = 64 * MIB;
/// And of the largest. A quarter of it holds two copies of the largest block group for metadata.
const ZONE_MAX: u64 = 2048 * MIB;

/// The parts for a class of the zones of a device that grows.
fn zones(class: Class) -> impl Iterator<Item = ByteRange> {
    let zones = std::iter::successors(Some(ByteRange::at(RESERVED_START, ZONE_FIRST)), |zone| {
        let len = (zone.len() * 2).min(ZONE_MAX);
        (zone.end < DEVICE_MAX).then(|| ByteRange::at(zone.end, len))
    });
    zones.map(move |zone| {
        let border = zone.start + zone.len() / 4;
        match class {
            Class::Data => ByteRange::new(border, zone.end),
            Class::Metadata | Class::System => ByteRange::new(zone.start, border),
        }
    })
}

/// How block groups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GrowPolicy {
    /// The volume may become larger than it is: its file grows with it.
    pub(crate) grow: bool,
    /// Profile of new metadata and system block groups.
    pub(crate) metadata_dup: bool,
    /// Profile of new data block groups.
    pub(crate) data_dup: bool,
    /// Of a volume that grows and is to be shrunk: metadata goes here or behind, far from the data, so that the data lies
    /// together and the rest can be cut off.
    pub(crate) metadata_at: Option<u64>,
}

impl Space {
    /// Copies that a new block group of `class` keeps.
    pub(crate) const fn copies(&self, class: Class) -> u64 {
        let dup = match class {
            Class::Data => self.policy.data_dup,
            Class::Metadata | Class::System => self.policy.metadata_dup,
        };
        if dup { 2 } else { 1 }
    }

    /// Bytes that a new block group of `class` would like to have.
    pub(super) fn wanted_len(&self, class: Class) -> u64 {
        let (total, now) = (self.total_bytes, self.pool(class).total);
        let wanted = match class {
            Class::System if self.policy.grow => 2 * MIB,
            Class::System => (total / 128).clamp(256 << 10, 8 * MIB),
            Class::Metadata if self.policy.grow => now.clamp(4 * MIB, 256 * MIB),
            Class::Metadata => (total / 32).clamp(MIB, 256 * MIB),
            Class::Data if self.policy.grow => (now / 2).clamp(16 * MIB, 1024 * MIB),
            Class::Data => (total / 10).clamp(MIB, 1024 * MIB),
        };
        wanted.next_multiple_of(STRIPE_LEN)
    }

    /// Where a block group of `class` with room for `least` bytes could go.
    pub(super) fn plan_chunk(&self, class: Class, least: u64) -> Option<Chunk> {
        let least = least.max(STRIPE_LEN).next_multiple_of(STRIPE_LEN);
        let wanted = self.wanted_len(class).max(least);
        let copies = self.copies(class);
        let copies_usize = usize::try_from(copies).ok()?;
        let flags = class.flags()
            | if copies == 2 { BlockGroupFlags::DUP } else { BlockGroupFlags::empty() };
        let plan = if self.policy.grow {
            let stripes = self.disk.with_chunks(|map| {
                let place = |range| map.place(range, wanted, copies_usize);
                match self.policy.metadata_at {
                    None => zones(class).find_map(place),
                    Some(_) if class == Class::Data => place(ByteRange::new(0, DEVICE_MAX)),
                    Some(behind) => place(ByteRange::new(behind, DEVICE_MAX)),
                }
            });
            stripes.map(|stripes| (wanted, stripes))
        } else {
            let own = self.plan_within(class, self.part(class), wanted, least, 0);
            own.or_else(|| {
                // Only a commit comes here, if its needs were underrated: rather than fail, it takes what nobody was promised.
                let all = ByteRange::new(0, self.total_bytes);
                let trees = class != Class::Data;
                trees.then(|| self.plan_within(class, all, wanted, least, self.owed_to_data()))?
            })
        };
        let (len, stripes) = plan?;
        let logical = self.disk.with_chunks(|map| map.next_logical(class == Class::Data, len));
        if !ChunkMap::has_address(logical, len) {
            return None;
        }
        Some(Chunk { logical, len, flags: flags.bits(), stripes })
    }

    /// Bytes and places for a block group of `class` on a device of fixed size: of `wanted` bytes, or of as many as there are, but for `kept`, if
    /// that is at least `least`.
    fn plan_within(
        &self,
        class: Class,
        part: ByteRange,
        wanted: u64,
        least: u64,
        kept: u64,
    ) -> Option<(u64, Vec<u64>)> {
        let copies = self.copies(class);
        let whole = |bytes: u64| bytes / copies / STRIPE_LEN * STRIPE_LEN;
        self.disk.with_chunks(|map| {
            let mut holes: Vec<u64> = map.holes_in(part).iter().map(|hole| hole.len()).collect();
            holes.sort_unstable_by(|a, b| b.cmp(a));
            let most = whole(holes.iter().sum::<u64>().saturating_sub(kept));
            let half = holes.first().map_or(0, |len| whole(*len));
            let second = holes.get(1).copied().filter(|_| copies == 2).unwrap_or(0);
            let len = wanted.min(most).min(half.max(second));
            // A rest that would be too short to be of use goes along.
            let len = if most - len < STRIPE_LEN * 4 && most <= half { most } else { len };
            if len < least {
                return None;
            }
            let copies = usize::try_from(copies).ok()?;
            let stripes = match class {
                Class::Data => map.place(part, len, copies),
                Class::Metadata | Class::System => map.place_last(part, len, copies),
            };
            stripes.map(|stripes| (len, stripes))
        })
    }
}
