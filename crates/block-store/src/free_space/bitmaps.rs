//! Free space that the kernel records as bitmaps, a bit for each block, where that is shorter than an item for each free extent.
//!
//! They are changed as they are, and stay bitmaps: to write a block group of a gibibyte as extents may take hundreds of tree blocks, which a
//! commit on a full volume has not. Nothing here makes an item, or one longer.

use cowback_base::{BLOCK_SIZE, ByteRange};
use cowback_btrfs_disk::items::group::parse_free_space_bitmap;
use cowback_btrfs_disk::{ItemKind, Key, TreeId};
use cowback_extent_io::store::StoreResult;

use crate::error::{corrupt, invalid};
use crate::state::State;
use crate::trees::Trees;

/// The byte of a bitmap in which block number `block` has its bit, and that bit.
fn bit_of(block: u64) -> (usize, u8) {
    let byte = usize::try_from(block / 8).expect("a bitmap is short");
    (byte, 1 << (block % 8))
}

impl State {
    /// Records all of `run`, none of which is recorded so yet, as free, or as not free. Gives by how many there are more free extents.
    pub(super) fn change_bitmaps(
        &mut self,
        run: ByteRange,
        group: ByteRange,
        free: bool,
    ) -> StoreResult<i64> {
        let before = run.start > group.start && self.is_free(run.start - BLOCK_SIZE, group)?;
        let behind = run.end < group.end && self.is_free(run.end, group)?;
        let mut at = run.start;
        while at < run.end {
            let (key, mut bits) = self.bitmap_at(at, group)?;
            let end = run.end.min(key.objectid + key.offset);
            for block in (at - key.objectid) / BLOCK_SIZE..(end - key.objectid) / BLOCK_SIZE {
                let (byte, bit) = bit_of(block);
                if (bits[byte] & bit != 0) == free {
                    let is = if free { "freed is" } else { "allocated is not" };
                    let why =
                        format_args!("an extent that was {is} free at block {block} of {key}");
                    return Err(corrupt("free space tree", run, why));
                }
                bits[byte] ^= bit;
            }
            self.update(TreeId::FREE_SPACE, &key, &bits)?;
            at = end;
        }
        let touched = i64::from(before) + i64::from(behind);
        Ok(if free { 1 - touched } else { touched - 1 })
    }

    fn is_free(&self, at: u64, group: ByteRange) -> StoreResult<bool> {
        let (key, bits) = self.bitmap_at(at, group)?;
        let (byte, bit) = bit_of((at - key.objectid) / BLOCK_SIZE);
        Ok(bits[byte] & bit != 0)
    }

    /// The bitmap that speaks of the block at `at`, which is as long as its key says.
    fn bitmap_at(&self, at: u64, group: ByteRange) -> StoreResult<(Key, Vec<u8>)> {
        let key = Key::new(at, ItemKind::FREE_SPACE_BITMAP, u64::MAX);
        let found = self.at_or_before(TreeId::FREE_SPACE, &key)?.filter(|(key, _)| {
            key.kind == ItemKind::FREE_SPACE_BITMAP && key.objectid >= group.start
        });
        let missing = || corrupt("free space tree", at, "no bitmap speaks of it");
        let (key, data) = found.ok_or_else(missing)?;
        parse_free_space_bitmap(key.objectid, key.offset, &data)
            .map_err(|error| invalid(key, &error))?;
        if at < key.objectid + key.offset { Ok((key, data)) } else { Err(missing()) }
    }

    /// Cuts the bitmaps of the block group `group` at `end`. Gives the number of free extents before.
    pub(crate) fn trim_bitmaps(&mut self, group: ByteRange, end: u64) -> StoreResult<i64> {
        let (mut count, mut last) = (0, None);
        let mut at = Key::new(group.start, ItemKind::FREE_SPACE_BITMAP, 0);
        while let Some((key, mut data)) = self.at_or_after(TreeId::FREE_SPACE, &at)? {
            if key.objectid >= group.end {
                break;
            }
            let Some(next) = key.next() else { break };
            at = next;
            if key.kind != ItemKind::FREE_SPACE_BITMAP {
                continue;
            }
            let extents = parse_free_space_bitmap(key.objectid, key.offset, &data)
                .map_err(|error| invalid(key, &error))?;
            for (start, len) in extents.into_iter().filter(|(start, _)| *start < end) {
                count += i64::from(last != Some(start));
                last = Some(start + len);
            }
            if key.objectid + key.offset <= end {
                continue;
            }
            self.remove(TreeId::FREE_SPACE, &key)?;
            if key.objectid < end {
                let kept = Key { offset: end - key.objectid, ..key };
                data.truncate(bit_of((kept.offset / BLOCK_SIZE).next_multiple_of(8)).0);
                self.insert(TreeId::FREE_SPACE, kept, &data)?;
            }
        }
        Ok(count)
    }
}
