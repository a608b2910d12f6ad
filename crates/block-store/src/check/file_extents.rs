//! File extent items: what a file says about its bytes, and which extents it uses for them.

use cowback_base::ByteRange;
use cowback_btrfs_disk::items::{
    CompressionCode, DiskRange, FileExtent, FileExtentData, InodeItem,
};
use cowback_btrfs_disk::{ItemKind, Key, TreeId};

use super::problem::Out;
use super::walk::Item;

/// What a file extent item uses of a data extent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use {
    /// The extent.
    pub(super) bytenr: u64,
    /// Bytes that the item gives the extent.
    pub(super) disk_len: u64,
    /// Where in the unpacked extent the shown part begins.
    pub(super) offset: u64,
    /// Bytes that are shown.
    pub(super) num_bytes: u64,
    /// Bytes that the extent unpacks to.
    pub(super) ram_bytes: u64,
    /// Bytes from the start of the unpacked extent to the last one that lies within the file.
    pub(super) need: u64,
    /// How it is stored.
    pub(super) compression: CompressionCode,
    /// It is not written yet.
    pub(super) prealloc: bool,
    /// The file is one without checksums.
    pub(super) nodatasum: bool,
    /// The leaf that holds the item.
    pub(super) leaf: u64,
    /// The tree that the leaf was made for.
    pub(super) owner: TreeId,
    /// The tree in which the item was met.
    pub(super) tree: TreeId,
    /// The file.
    pub(super) ino: u64,
    /// Position in the file.
    pub(super) file_offset: u64,
}

impl Use {
    /// Whether the shown part has no checksums: it is not written yet, or the file has none.
    pub(super) const fn is_bare(&self) -> bool {
        self.nodatasum || self.prealloc
    }

    /// Whether a balance moves the data, and was interrupted: its own trees show it as plain bytes whatever they are, and where they go to there
    /// may be no checksums yet.
    pub(super) fn is_moving(&self) -> bool {
        [TreeId::TREE_RELOC, TreeId::DATA_RELOC].contains(&self.tree)
    }

    /// What the item needs on disk: the part that it shows, and of a compressed extent all, as any of it takes all of it to unpack.
    pub(super) const fn on_disk(&self) -> ByteRange {
        let (offset, len) = match self.compression {
            CompressionCode::None => (self.offset, self.num_bytes),
            _ => (0, self.disk_len),
        };
        let start = self.bytenr.saturating_add(offset);
        ByteRange { start, end: start.saturating_add(len) }
    }
}

/// The content of one file, as its items tell it one after another.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Items.
    pub(super) items: u64,
    /// Bytes that the extents hold, as an inode counts them.
    pub(super) bytes: u64,
    /// Where the last one ended.
    end: u64,
    /// The first byte that nothing maps.
    pub(super) gap: Option<u64>,
    /// The inline extent's bytes.
    pub(super) inline: Option<u64>,
    /// Whether that is compressed.
    pub(super) inline_packed: bool,
}

impl Content {
    /// Takes in a file extent item that obeys its own rules. Tells of overlaps; gives what it uses.
    pub(super) fn item(
        &mut self,
        tree: TreeId,
        item: &Item<'_>,
        inode: Option<&InodeItem>,
        out: &mut Out<'_>,
    ) -> Option<Use> {
        let key = &item.key;
        let extent = FileExtent::parse(key, item.data).ok()?;
        self.items += 1;
        if self.items > 1 && self.end > key.offset {
            let what = format_args!("it overlaps the one before, which ends at {}", self.end);
            out.item(tree, key, what);
        }
        if self.end < key.offset {
            self.gap.get_or_insert(self.end);
        }
        self.end = self.end.max(extent.end(key.offset));
        let (shown, prealloc) = match &extent.data {
            FileExtentData::Inline(_) => {
                self.inline = Some(extent.ram_bytes);
                self.inline_packed = extent.compression != CompressionCode::None;
                self.bytes = self.bytes.saturating_add(extent.ram_bytes);
                return None;
            }
            FileExtentData::Regular(shown) => (*shown, false),
            FileExtentData::Prealloc(shown) => (*shown, true),
        };
        if shown.bytenr == 0 {
            return None;
        }
        self.bytes = self.bytes.saturating_add(shown.num_bytes);
        Some(use_of(tree, item, &extent, &shown, inode, prealloc))
    }

    /// Where the last extent ends.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }
}

/// Files of which nothing but what they use matters.
#[derive(Debug, Default)]
pub(super) struct BareFiles {
    inode: Option<(u64, InodeItem)>,
    ino: u64,
    content: Content,
}

impl BareFiles {
    /// Takes in an item; gives what it uses.
    pub(super) fn item(&mut self, tree: TreeId, item: &Item<'_>, out: &mut Out<'_>) -> Option<Use> {
        let ino = item.key.objectid;
        if self.ino != ino {
            (self.ino, self.content) = (ino, Content::default());
        }
        match item.key.kind {
            ItemKind::INODE_ITEM => {
                self.inode = InodeItem::parse(item.data).ok().map(|inode| (ino, inode));
                None
            }
            ItemKind::EXTENT_DATA if item.first => {
                let inode = self.inode.filter(|(of, _)| *of == ino).map(|(_, inode)| inode);
                self.content.item(tree, item, inode.as_ref(), out)
            }
            _ => None,
        }
    }
}

fn use_of(
    tree: TreeId,
    item: &Item<'_>,
    extent: &FileExtent,
    shown: &DiskRange,
    inode: Option<&InodeItem>,
    prealloc: bool,
) -> Use {
    use cowback_btrfs_disk::items::inode::inode_flags::NODATASUM;
    let size = inode.map_or(u64::MAX, |inode| inode.size);
    let within = size.saturating_sub(item.key.offset).min(shown.num_bytes);
    Use {
        bytenr: shown.bytenr,
        disk_len: shown.disk_len,
        offset: shown.offset,
        num_bytes: shown.num_bytes,
        ram_bytes: extent.ram_bytes,
        need: if within == 0 { 0 } else { shown.offset.saturating_add(within) },
        compression: extent.compression,
        prealloc,
        nodatasum: inode.is_some_and(|inode| inode.flags & NODATASUM != 0),
        leaf: item.leaf,
        owner: item.owner,
        tree,
        ino: item.key.objectid,
        file_offset: item.key.offset,
    }
}

/// Tells where users of one compressed extent disagree about it. `uses` are sorted by extent.
pub(super) fn check_agreement(uses: &[Use], out: &mut Out<'_>) {
    let all = uses.iter().filter(|one| !one.is_moving());
    for (first, second) in all.clone().zip(all.skip(1)) {
        if first.bytenr != second.bytenr {
            continue;
        }
        let packed = [first, second].iter().any(|one| one.compression != CompressionCode::None);
        let same = first.compression == second.compression && first.ram_bytes == second.ram_bytes;
        if packed && !same {
            let key = |one: &Use| Key::new(one.ino, ItemKind::EXTENT_DATA, one.file_offset);
            let what = format_args!(
                "extent {}: {:?} of {} bytes here, {:?} of {} bytes at {}",
                second.bytenr,
                second.compression,
                second.ram_bytes,
                first.compression,
                first.ram_bytes,
                key(first)
            );
            out.item(second.tree, &key(second), what);
        }
    }
}
