//! What files say of their extents, and the checksums of these.

use super::*;

const FILE_EXTENTS: &[Case] = &[
    (
        "overlap",
        |s| {
            let is_long = |range: &DiskRange| range.num_bytes > 8192;
            let (key, mut more) = extent(s, |_, extent| match &extent.data {
                FileExtentData::Regular(range) => is_long(range),
                _ => false,
            });
            if let FileExtentData::Regular(range) = &mut more.data {
                range.num_bytes = 4096;
            }
            s.insert(FS, Key { offset: key.offset + 4096, ..key }, more.to_bytes());
        },
        "it overlaps the one before",
    ),
    (
        "no such extent",
        |s| {
            let (key, mut extent, mut range) = regular(s);
            range.bytenr += 4096;
            extent.data = FileExtentData::Regular(range);
            set_extent(s, &key, &extent);
        },
        "there is no extent (",
    ),
    (
        "another length",
        |s| {
            let (key, mut extent, mut range) = regular(s);
            range.disk_len += 4096;
            extent.data = FileExtentData::Regular(range);
            set_extent(s, &key, &extent);
        },
        "its extent is (",
    ),
    (
        "part of the extent that is not there",
        |s| {
            let (key, mut extent, mut range) = regular(s);
            range.offset = extent.ram_bytes;
            extent.data = FileExtentData::Regular(range);
            set_extent(s, &key, &extent);
        },
        "offset + num_bytes",
    ),
    (
        "more inline bytes than the file has",
        |s| {
            let (key, _) = extent(s, |_, extent| {
                let raw = extent.compression.code() == 0 && extent.ram_bytes > 100;
                raw && matches!(extent.data, FileExtentData::Inline(_))
            });
            edit_inode(s, key.objectid, |i| i.size -= 1);
        },
        "an inline extent of",
    ),
    (
        "an inline extent in the middle",
        |s| {
            let is_inline =
                |_: &Key, extent: &FileExtent| matches!(extent.data, FileExtentData::Inline(_));
            let (key, _) = extent(s, is_inline);
            s.rename(FS, &key, Key { offset: 4096, ..key });
        },
        "0 for an inline extent",
    ),
    (
        "no target",
        |s| drop(s.remove(FS, &Key::new(file(s, "symlink"), ItemKind::EXTENT_DATA, 0))),
        "a symlink of 8 bytes: found 0 of them",
    ),
    (
        "extents of a pipe",
        |s| {
            let (key, extent, _) = regular(s);
            let data = extent.to_bytes();
            s.remove(FS, &key);
            s.insert(FS, Key::new(file(s, "fifo"), ItemKind::EXTENT_DATA, 0), data);
        },
        "Fifo, and it has file extents",
    ),
    (
        "another codec",
        |s| {
            let (key, mut extent) = extent(s, |_, extent| extent.compression.code() == 3);
            extent.compression = cowback_btrfs_disk::items::CompressionCode::Zlib;
            set_extent(s, &key, &extent);
        },
        "it cannot be unpacked",
    ),
    (
        "users that disagree",
        |s| {
            let large = lookup(s, 256, "large");
            let (key, mut extent) = extent(s, |key, extent| {
                let shown = match &extent.data {
                    FileExtentData::Regular(range) => range.offset,
                    _ => 0,
                };
                key.objectid == large && shown > 0 && extent.compression.code() == 3
            });
            extent.ram_bytes -= 4096;
            if let FileExtentData::Regular(range) = &mut extent.data {
                range.num_bytes = 4096;
                range.offset = 0;
            }
            set_extent(s, &key, &extent);
        },
        " bytes here, Zstd of",
    ),
];

#[test]
fn file_extents() {
    all_are_found(FILE_EXTENTS);
}

const CHECKSUMS: &[Case] = &[
    (
        "the last of an item",
        |s| {
            let (key, mut sums) = s.find(TreeId::CSUM, |_, sums| sums.len() > 4);
            sums.truncate(sums.len() - 4);
            s.set(TreeId::CSUM, &key, sums);
        },
        "the checksums of 4096 bytes are missing, of inode",
    ),
    (
        "of what no extent holds",
        |s| {
            let at = free_range(s, true).objectid + 8192;
            let key = Key::new(objectid::EXTENT_CSUM, ItemKind::EXTENT_CSUM, at);
            s.insert(TreeId::CSUM, key, vec![0; 8]);
        },
        "checksums of 8192 bytes that no extent holds",
    ),
    (
        "another value",
        |s| {
            let key = first(s, TreeId::CSUM, ItemKind::EXTENT_CSUM);
            let mut sums = s.get(TreeId::CSUM, &key);
            sums[1] ^= 1;
            s.set(TreeId::CSUM, &key, sums);
        },
        "its checksum is wrong, of inode",
    ),
    (
        "of a file without checksums",
        |s| {
            let (key, _, _) = regular(s);
            edit_inode(s, key.objectid, |i| i.flags |= 1);
        },
        "a checksum of data without any",
    ),
];

#[test]
fn checksums() {
    all_are_found(CHECKSUMS);
}
