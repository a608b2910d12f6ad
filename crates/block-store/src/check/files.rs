//! File trees: inodes, names, content, item by item in one pass, and what only the whole tree tells at its end.

use std::collections::HashSet;

use cowback_btrfs_disk::items::{
    DirEntry, FileExtent, FileExtentData, FileType, InodeExtref, InodeItem, InodeRef, RootRef,
};
use cowback_btrfs_disk::superblock::Incompat;
use cowback_btrfs_disk::{ItemKind, Key, TreeId, objectid};

use super::data::Unpacker;
use super::file_extents::{Content, Use};
use super::media::Media;
use super::names::{Leads, Named, Names, Source};
use super::problem::Out;
use super::walk::Item;

/// The inode whose items are being shown.
#[derive(Debug, Default)]
struct Current {
    ino: u64,
    inode: Option<InodeItem>,
    /// An item of its own could not be understood.
    damaged: bool,
    links: u64,
    /// Bytes of names in a directory, both places counted.
    entry_bytes: u64,
    entries: u64,
    content: Content,
}

/// A file tree, as it is walked over.
pub(super) struct FileTree<'a> {
    tree: TreeId,
    no_holes: bool,
    uses: &'a mut Vec<Use>,
    unpacker: Option<&'a mut Unpacker>,
    current: Option<Current>,
    inodes: Vec<Named>,
    names: Names,
    orphans: HashSet<u64>,
    /// Inodes that have no names.
    unlinked: Vec<u64>,
    /// Inodes of which an item that tells of names could not be understood.
    doubtful: HashSet<u64>,
}

impl<'a> FileTree<'a> {
    /// Nothing of `tree` was seen yet. What its files use is added to `uses`.
    pub(super) fn new(
        media: &Media<'_>,
        tree: TreeId,
        uses: &'a mut Vec<Use>,
        unpacker: Option<&'a mut Unpacker>,
    ) -> Self {
        Self {
            tree,
            no_holes: media.sb.incompat.contains(Incompat::NO_HOLES),
            uses,
            unpacker,
            current: None,
            inodes: Vec::new(),
            names: Names::default(),
            orphans: HashSet::new(),
            unlinked: Vec::new(),
            doubtful: HashSet::new(),
        }
    }

    /// Takes in an item.
    pub(super) fn item(&mut self, item: &Item<'_>, out: &mut Out<'_>) {
        let key = item.key;
        if item.gap
            && let Some(current) = &mut self.current
        {
            current.damaged = true;
        }
        if self.current.as_ref().is_none_or(|current| current.ino != key.objectid) {
            self.finish_inode(out);
            let (ino, damaged) = (key.objectid, item.gap);
            self.current = Some(Current { ino, damaged, ..Current::default() });
        }
        if !item.valid {
            self.doubt(&key);
        }
        if !(objectid::FIRST_FREE..=objectid::LAST_FREE).contains(&key.objectid) {
            self.special(item, out);
        } else if item.valid {
            self.inode_item(item, out);
        }
    }

    /// An item could not be understood: nothing is concluded from what it may have said.
    fn doubt(&mut self, key: &Key) {
        if let Some(current) = &mut self.current {
            current.damaged = true;
        }
        let names = [
            ItemKind::INODE_ITEM,
            ItemKind::INODE_REF,
            ItemKind::INODE_EXTREF,
            ItemKind::DIR_ITEM,
            ItemKind::DIR_INDEX,
        ];
        if names.contains(&key.kind) {
            self.doubtful.insert(key.objectid);
        }
    }

    /// An item that belongs to no file.
    fn special(&mut self, item: &Item<'_>, out: &mut Out<'_>) {
        match (item.key.objectid, item.key.kind) {
            (objectid::ORPHAN, ItemKind::ORPHAN_ITEM) => {
                self.orphans.insert(item.key.offset);
            }
            // The inode cache of older kernels.
            (FREE_INO, _) => {
                if item.key.kind == ItemKind::EXTENT_DATA && item.valid {
                    self.extent(item, out);
                }
            }
            _ => out.item(self.tree, &item.key, "such an item does not belong here"),
        }
    }

    fn inode_item(&mut self, item: &Item<'_>, out: &mut Out<'_>) {
        let (tree, key, data) = (self.tree, item.key, item.data);
        let Some(current) = &mut self.current else { return };
        let ino = key.objectid;
        match key.kind {
            ItemKind::INODE_ITEM => {
                current.inode = InodeItem::parse(data).ok();
                if key.offset != 0 {
                    out.item(tree, &key, "key offset: expected 0");
                }
            }
            ItemKind::INODE_REF => {
                for one in InodeRef::parse_all(data).unwrap_or_default() {
                    current.links += 1;
                    if ino == objectid::FIRST_FREE {
                        check_root_name(tree, &key, &one, out);
                        continue;
                    }
                    let leads = Leads::Inode(ino);
                    let (source, kind) = (Source::Target, FileType::Unknown);
                    self.names.add(source, key.offset, &one.name, leads, one.index, kind);
                }
            }
            ItemKind::INODE_EXTREF => {
                for one in InodeExtref::parse_all(data).unwrap_or_default() {
                    current.links += 1;
                    if one.hash() != key.offset {
                        let what = format_args!("key offset: expected {}, its hash", one.hash());
                        out.item(tree, &key, what);
                    }
                    let leads = Leads::Inode(ino);
                    let (source, kind) = (Source::Target, FileType::Unknown);
                    self.names.add(source, one.parent, &one.name, leads, one.index, kind);
                }
            }
            ItemKind::DIR_ITEM | ItemKind::DIR_INDEX => self.entries(&key, data, out),
            ItemKind::XATTR_ITEM => check_xattrs(tree, &key, data, out),
            ItemKind::VERITY_DESC | ItemKind::VERITY_MERKLE => {}
            ItemKind::EXTENT_DATA => self.extent(item, out),
            _ => out.item(tree, &key, "such an item does not belong here"),
        }
    }

    fn entries(&mut self, key: &Key, data: &[u8], out: &mut Out<'_>) {
        let Some(current) = &mut self.current else { return };
        let source = if key.kind == ItemKind::DIR_ITEM { Source::Item } else { Source::Index };
        if source == Source::Index && key.offset < 2 {
            out.item(self.tree, key, "key offset: expected 2 or more");
        }
        for one in DirEntry::parse_all(key, data).unwrap_or_default() {
            current.entries += 1;
            current.entry_bytes += one.name.len() as u64;
            let leads = if one.location.kind == ItemKind::ROOT_ITEM {
                Leads::Root(one.location.objectid)
            } else {
                Leads::Inode(one.location.objectid)
            };
            self.names.add(source, key.objectid, &one.name, leads, key.offset, one.kind);
        }
    }

    fn extent(&mut self, item: &Item<'_>, out: &mut Out<'_>) {
        let Some(current) = &mut self.current else { return };
        let inode = current.inode.as_ref();
        let used = current.content.item(self.tree, item, inode, out);
        if !item.first {
            return;
        }
        if let Some(used) = used {
            self.uses.push(used);
        } else if let Some(unpacker) = self.unpacker.as_deref_mut()
            && let Ok(extent) = FileExtent::parse(&item.key, item.data)
            && let FileExtentData::Inline(bytes) = &extent.data
        {
            let size = inode.map_or(u64::MAX, |inode| inode.size);
            unpacker.inline(self.tree, &item.key, &extent, bytes, size, out);
        }
    }

    /// All items of the current inode were shown.
    fn finish_inode(&mut self, out: &mut Out<'_>) {
        let Some(current) = self.current.take() else { return };
        let (tree, ino) = (self.tree, current.ino);
        if !(objectid::FIRST_FREE..=objectid::LAST_FREE).contains(&ino) {
            return;
        }
        let Some(inode) = &current.inode else {
            if !current.damaged {
                let key = Key::new(ino, ItemKind::INODE_ITEM, 0);
                out.item(tree, &key, "it is missing, and other items of the inode are there");
            }
            return;
        };
        let kind = FileType::of_mode(inode.mode);
        self.inodes.push(Named { ino, kind });
        // What has no name any more, and the root of the tree that is for relocation, nobody sees.
        if inode.nlink > 0 && tree != TreeId::DATA_RELOC {
            match kind {
                FileType::Dir => out.report.directories += 1,
                _ => out.report.files += 1,
            }
        }
        if current.links == 0 && inode.nlink == 0 {
            self.unlinked.push(ino);
        }
        // What could not be read may be what is missing.
        if current.damaged {
            return;
        }
        if u64::from(inode.nlink) != current.links {
            let (found, expected) = (inode.nlink, current.links);
            let what = format_args!("nlink: found {found}, expected {expected}, its names");
            out.inode(tree, ino, what);
        }
        match kind {
            FileType::Dir => check_directory(tree, &current, inode, out),
            FileType::Regular | FileType::Symlink => {
                check_file(tree, &current, inode, self.no_holes, out);
            }
            _ => {
                if current.content.items > 0 {
                    out.inode(tree, ino, format_args!("{kind:?}, and it has file extents"));
                }
            }
        }
        if kind != FileType::Dir && current.entries > 0 {
            out.inode(tree, ino, format_args!("{kind:?}, and it has entries of a directory"));
        }
    }

    /// The whole tree was shown, or as much of it as could be read (`whole` says). `links` are
    /// the subvolumes that have their place in it.
    pub(super) fn finish<'l>(
        mut self,
        whole: bool,
        links: impl Iterator<Item = (u64, &'l RootRef)>,
        is_snapshot: bool,
        out: &mut Out<'_>,
    ) {
        if let Some(current) = &mut self.current {
            current.damaged |= !whole;
        }
        self.finish_inode(out);
        if !whole {
            let tree = super::problem::name_of(self.tree);
            out.unchecked(format_args!("names and links of the {tree}: it is damaged"));
            return;
        }
        for ino in &self.unlinked {
            if !self.orphans.contains(ino) {
                out.inode(self.tree, *ino, "it has no name, and no ORPHAN_ITEM");
            }
        }
        let root = objectid::FIRST_FREE;
        let there = self.inodes.iter().any(|inode| inode.ino == root);
        if !there && !self.doubtful.contains(&root) {
            let key = Key::new(objectid::FIRST_FREE, ItemKind::INODE_ITEM, 0);
            out.item(self.tree, &key, "the root directory is missing");
        }
        for (child, item) in links {
            let leads = Leads::Root(child);
            let (dir, index) = (item.dirid, item.sequence);
            let kind = FileType::Unknown;
            self.names.add(Source::Target, dir, &item.name, leads, index, kind);
        }
        self.names.check(self.tree, &self.inodes, &self.doubtful, is_snapshot, out);
    }
}

/// Objectid of the inode cache that older kernels kept in file trees.
const FREE_INO: u64 = 12u64.wrapping_neg();

fn check_root_name(tree: TreeId, key: &Key, name: &InodeRef, out: &mut Out<'_>) {
    if key.offset != objectid::FIRST_FREE || name.name != b".." || name.index != 0 {
        let (text, index) = (name.name.escape_ascii(), name.index);
        let what = format_args!("found \"{text}\" with index {index}, expected \"..\" with 0");
        out.item(tree, key, what);
    }
}

fn check_xattrs(tree: TreeId, key: &Key, data: &[u8], out: &mut Out<'_>) {
    let all = DirEntry::parse_all(key, data).unwrap_or_default();
    let mut names: Vec<&[u8]> = all.iter().map(|one| one.name.as_slice()).collect();
    names.sort_unstable();
    if let Some([name, _]) = names.windows(2).find(|pair| matches!(pair, [a, b] if a == b)) {
        let what = format_args!("attribute \"{}\" is there twice", name.escape_ascii());
        out.item(tree, key, what);
    }
}

fn check_directory(tree: TreeId, current: &Current, inode: &InodeItem, out: &mut Out<'_>) {
    if inode.size != current.entry_bytes {
        let (found, expected) = (inode.size, current.entry_bytes);
        let what =
            format_args!("size: found {found}, expected {expected}, twice the bytes of its names");
        out.inode(tree, current.ino, what);
    }
    if current.content.items > 0 {
        out.inode(tree, current.ino, "a directory, and it has file extents");
    }
}

fn check_file(
    tree: TreeId,
    current: &Current,
    inode: &InodeItem,
    no_holes: bool,
    out: &mut Out<'_>,
) {
    let (ino, content) = (current.ino, &current.content);
    if inode.nbytes != content.bytes {
        let (found, expected) = (inode.nbytes, content.bytes);
        let what = format_args!("nbytes: found {found}, expected {expected}, its extents' bytes");
        out.inode(tree, ino, what);
    }
    if FileType::of_mode(inode.mode) == FileType::Symlink {
        // mkfs stores a closing zero.
        let (size, inline) = (inode.size, content.inline.unwrap_or(0));
        let whole = (size..=size.saturating_add(1)).contains(&inline) && content.items == 1;
        if size == 0 || !whole {
            let what = format_args!(
                "a symlink of {size} bytes: found {inline} of them in {} extents, expected all in \
                 one inline extent",
                content.items
            );
            out.inode(tree, ino, what);
        }
        return;
    }
    if let Some(inline) = content.inline
        && inline > inode.size
        && !content.inline_packed
    {
        let what = format_args!("an inline extent of {inline} bytes in a file of {}", inode.size);
        out.inode(tree, ino, what);
    }
    let end = inode.size.checked_next_multiple_of(4096).unwrap_or(u64::MAX);
    let gap = content.gap.unwrap_or_else(|| content.end());
    if !no_holes && inode.nlink > 0 && gap < end && content.inline.is_none() {
        let what = format_args!("nothing maps its bytes from {gap} on, not even a hole");
        out.inode(tree, ino, what);
    }
}
