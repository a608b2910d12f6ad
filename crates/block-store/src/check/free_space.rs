//! The free space tree: what the extent tree leaves of each block group, and nothing else.
//!
//! What stands for a copy of the superblock may be told free or not: nobody allocates it.

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::FreeSpaceInfo;
use cowback_btrfs_disk::items::group::parse_free_space_bitmap;
use cowback_btrfs_disk::{ItemKind, Key, TreeId};

use super::chunks::Group;
use super::media::Media;
use super::problem::{Out, name_of};
use super::ranges;
use super::walk::Item;

/// What the free space tree says.
#[derive(Debug, Default)]
pub(super) struct FreeSpace {
    infos: Vec<(Key, FreeSpaceInfo)>,
    /// Free ranges as the items have them, and whether they are of a bitmap.
    free: Vec<(ByteRange, bool)>,
    last: Option<(Key, u64)>,
    /// An item could not be understood.
    pub(super) damaged: bool,
}

impl FreeSpace {
    /// Takes in an item.
    pub(super) fn item(&mut self, item: &Item<'_>, out: &mut Out<'_>) {
        let key = item.key;
        if !item.valid {
            self.damaged = true;
            return;
        }
        let end = key.objectid.saturating_add(key.offset);
        match key.kind {
            ItemKind::FREE_SPACE_INFO => {
                let info = FreeSpaceInfo::parse(item.data).ok();
                self.infos.extend(info.map(|info| (key, info)));
                return;
            }
            ItemKind::FREE_SPACE_EXTENT => {
                if end == key.objectid || !(key.objectid | key.offset).is_multiple_of(4096) {
                    out.item(TreeId::FREE_SPACE, &key, "not a number of whole blocks");
                    self.damaged = true;
                    return;
                }
                self.free.push((ByteRange::new(key.objectid, end), false));
            }
            ItemKind::FREE_SPACE_BITMAP => {
                let free = parse_free_space_bitmap(key.objectid, key.offset, item.data);
                let free = free.unwrap_or_default().into_iter();
                self.free.extend(free.map(|(start, len)| (ByteRange::at(start, len), true)));
            }
            _ => {
                out.item(TreeId::FREE_SPACE, &key, "such an item does not belong here");
                return;
            }
        }
        if let Some((last, last_end)) = self.last
            && last_end > key.objectid
        {
            out.item(TreeId::FREE_SPACE, &key, format_args!("it overlaps the one at {last}"));
        }
        self.last = Some((key, end));
    }

    /// Compares with the block groups and with `allocated`, which is sorted and joined.
    pub(super) fn check<'g>(
        &self,
        media: &Media<'_>,
        groups: impl Iterator<Item = &'g Group>,
        allocated: &[ByteRange],
        out: &mut Out<'_>,
    ) {
        let mut infos = self.infos.iter().peekable();
        let mut at = 0;
        // Older versions of mkfs leave what they said about block groups that they made for a while. Nobody looks at it.
        let stray = |range: ByteRange, out: &mut Out<'_>| {
            let tree = name_of(TreeId::FREE_SPACE);
            out.note(format_args!("{tree}: {range} is free there, and in no block group"));
        };
        let stray_info = |key: &Key, out: &mut Out<'_>| {
            let tree = name_of(TreeId::FREE_SPACE);
            out.note(format_args!("{tree}: {key}: there is no such block group"));
        };
        for group in groups {
            let (start, len) = (group.key.objectid, group.key.offset);
            let bounds = ByteRange::new(start, start.saturating_add(len));
            while let Some((key, _)) = infos.next_if(|(key, _)| key.objectid < start) {
                stray_info(key, out);
            }
            let info = infos.next_if(|(key, _)| key.objectid == start && key.offset == len);
            while let Some((range, _)) = self.free.get(at).filter(|(r, _)| r.start < bounds.start) {
                stray(*range, out);
                at += 1;
            }
            let first = at;
            while let Some((range, _)) = self.free.get(at).filter(|(r, _)| r.start < bounds.end) {
                if range.end > bounds.end {
                    let what = format_args!("{range} is free there, and crosses its end");
                    out.group(TreeId::FREE_SPACE, start, what);
                }
                at += 1;
            }
            let free = self.free.get(first..at).unwrap_or_default();
            match info {
                Some((key, info)) => check_info(key, *info, free, out),
                None => {
                    let key = Key::new(start, ItemKind::FREE_SPACE_INFO, len);
                    out.item(TreeId::FREE_SPACE, &key, "it is missing, and there is such a group");
                }
            }
            let free = free.iter().filter_map(|(range, _)| range.intersect(bounds));
            let free = ranges::join(free.collect());
            compare(media, bounds, &free, ranges::around(allocated, bounds), out);
        }
        for (range, _) in self.free.get(at..).unwrap_or_default() {
            stray(*range, out);
        }
        for (key, _) in infos {
            stray_info(key, out);
        }
    }
}

/// Whether a block group's summary fits what follows it.
fn check_info(key: &Key, info: FreeSpaceInfo, free: &[(ByteRange, bool)], out: &mut Out<'_>) {
    if let Some((range, _)) = free.iter().find(|(_, bitmap)| *bitmap != info.bitmaps) {
        let (found, expected) =
            if info.bitmaps { ("an", "bitmaps") } else { ("a bitmap", "extents") };
        let what = format_args!("{range} is in {found} item, expected {expected}");
        out.item(TreeId::FREE_SPACE, key, what);
    }
    // A range may cross the border of two bitmaps.
    let count = if info.bitmaps {
        ranges::join(free.iter().map(|(range, _)| *range).collect()).len()
    } else {
        free.len()
    };
    if u64::from(info.extent_count) != count as u64 {
        let found = info.extent_count;
        let what = format_args!("extent_count: found {found}, expected {count}");
        out.item(TreeId::FREE_SPACE, key, what);
    }
}

/// Compares what a block group's items say with what its extents leave.
fn compare(
    media: &Media<'_>,
    bounds: ByteRange,
    free: &[ByteRange],
    allocated: &[ByteRange],
    out: &mut Out<'_>,
) {
    let supers = media.super_ranges(bounds.start);
    let expected = ranges::subtract(&ranges::subtract(&[bounds], allocated), &supers);
    let free = ranges::subtract(free, &supers);
    for range in ranges::subtract(&free, &expected) {
        let what = format_args!("{range} is free there, and an extent holds it");
        out.group(TreeId::FREE_SPACE, bounds.start, what);
    }
    for range in ranges::subtract(&expected, &free) {
        let what = format_args!("{range} is not free there, and no extent holds it");
        out.group(TreeId::FREE_SPACE, bounds.start, what);
    }
}
