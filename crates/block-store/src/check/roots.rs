//! The root tree: which trees there are, how subvolumes hang together, and what the UUID tree says about them.

use std::collections::{BTreeMap, HashMap, HashSet};

use cowback_btrfs_disk::items::uuid_key::{parse_uuid_item, uuid_key, uuid_of_key};
use cowback_btrfs_disk::items::{DirEntry, RootItem, RootRef};
use cowback_btrfs_disk::superblock::CompatRo;
use cowback_btrfs_disk::{ItemKind, Key, TreeId, objectid};

use super::file_extents::{BareFiles, Use};
use super::media::Media;
use super::problem::{Out, name_of};
use super::walk::{Item, Start};

/// The places of subvolumes in others, by parent and subvolume.
type Links = BTreeMap<(u64, u64), RootRef>;

/// What the root tree says.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// Root items, in order.
    list: Vec<(Key, RootItem)>,
    /// As the parents tell them.
    links: Links,
    /// As the subvolumes do.
    back_links: Links,
    /// Which tree each `default` entry leads to.
    defaults: Vec<(Key, u64)>,
    /// The old free space cache.
    cache: BareFiles,
}

impl Roots {
    /// Takes in an item of the root tree.
    pub(super) fn item(&mut self, item: &Item<'_>, uses: &mut Vec<Use>, out: &mut Out<'_>) {
        let (key, data) = (item.key, item.data);
        match key.kind {
            ItemKind::ROOT_ITEM => {
                self.list.extend(RootItem::parse(data).ok().map(|root| (key, root)));
            }
            ItemKind::ROOT_REF => {
                let item = RootRef::parse(data).ok();
                self.links.extend(item.map(|item| ((key.objectid, key.offset), item)));
            }
            ItemKind::ROOT_BACKREF => {
                let item = RootRef::parse(data).ok();
                self.back_links.extend(item.map(|item| ((key.offset, key.objectid), item)));
            }
            ItemKind::INODE_ITEM | ItemKind::EXTENT_DATA => {
                let used = self.cache.item(TreeId::ROOT, item, out);
                uses.extend(used.map(|used| Use { nodatasum: true, ..used }));
            }
            ItemKind::DIR_ITEM => {
                for entry in DirEntry::parse_all(&key, data).unwrap_or_default() {
                    if entry.location.kind == ItemKind::ROOT_ITEM {
                        self.defaults.push((key, entry.location.objectid));
                    }
                }
            }
            ItemKind::INODE_REF
            | ItemKind::DIR_INDEX
            | ItemKind::XATTR_ITEM
            | ItemKind::ORPHAN_ITEM
            | ItemKind::TEMPORARY_ITEM
            | ItemKind::PERSISTENT_ITEM => {}
            // The header of an old free space cache.
            _ if key.objectid == objectid::FREE_SPACE && key.kind.0 == 0 => {}
            _ => out.item(TreeId::ROOT, &key, "such an item does not belong here"),
        }
    }

    /// Where each tree begins, one that is being deleted too.
    pub(super) fn starts(&self) -> Vec<(Start, &RootItem)> {
        let start = |(key, item): &(Key, RootItem)| Start {
            tree: TreeId(key.objectid),
            bytenr: item.bytenr,
            level: item.level,
            generation: item.generation,
            last_snapshot: item.last_snapshot,
            dropped: (item.refs == 0 && item.drop_progress.objectid != 0)
                .then_some((item.drop_progress, item.drop_level)),
        };
        self.list.iter().map(|root| (start(root), &root.1)).collect()
    }

    fn has(&self, tree: TreeId) -> bool {
        self.list.iter().any(|(key, _)| key.objectid == tree.0)
    }

    /// The subvolumes that are there, but for those that are being deleted.
    fn live(&self) -> HashMap<u64, &RootItem> {
        let mut live = HashMap::new();
        for (key, item) in self.list.iter().filter(|(_, item)| item.refs > 0) {
            live.entry(key.objectid).or_insert(item);
        }
        live
    }

    /// The subvolumes that have their place in `parent`, and where that is.
    pub(super) fn links_of(&self, parent: u64) -> impl Iterator<Item = (u64, &RootRef)> {
        let own = self.links.range((parent, 0)..=(parent, u64::MAX));
        own.map(|((_, child), item)| (*child, item))
    }

    /// Checks what the root tree alone tells; `whole` says that all of it was read.
    pub(super) fn check(&self, media: &Media<'_>, whole: bool, out: &mut Out<'_>) {
        for (key, item) in &self.list {
            check_root(key, item, out);
        }
        if !whole {
            return;
        }
        let flags = media.sb.compat_ro;
        let required = [
            (TreeId::EXTENT, true),
            (TreeId::DEV, true),
            (TreeId::FS, true),
            (TreeId::CSUM, true),
            (TreeId::DATA_RELOC, true),
            (TreeId::FREE_SPACE, flags.contains(CompatRo::FREE_SPACE_TREE)),
            (TreeId::BLOCK_GROUP, flags.contains(CompatRo::BLOCK_GROUP_TREE)),
        ];
        for (tree, wanted) in required {
            if wanted && !self.has(tree) {
                let key = Key::new(tree.0, ItemKind::ROOT_ITEM, 0);
                let what = format_args!("the volume has no {}", name_of(tree));
                out.item(TreeId::ROOT, &key, what);
            }
        }
        let live = self.live();
        for (key, tree) in &self.defaults {
            if !live.contains_key(tree) {
                let what = format_args!(
                    "it leads to the {}, which does not exist",
                    name_of(TreeId(*tree))
                );
                out.item(TreeId::ROOT, key, what);
            }
        }
        self.check_links(&live, out);
    }

    /// Whether both items of each subvolume's place are there and agree, and each subvolume has one.
    fn check_links(&self, live: &HashMap<u64, &RootItem>, out: &mut Out<'_>) {
        let (down, up) = (&self.links, &self.back_links);
        for ((parent, child), item) in down {
            let key = Key::new(*parent, ItemKind::ROOT_REF, *child);
            match up.get(&(*parent, *child)) {
                Some(other) if other == item => {}
                Some(other) => {
                    let what = format_args!("found {item:?}, and its ROOT_BACKREF {other:?}");
                    out.item(TreeId::ROOT, &key, what);
                }
                None => out.item(TreeId::ROOT, &key, "it has no ROOT_BACKREF"),
            }
            if !live.contains_key(child) || !live.contains_key(parent) {
                out.item(TreeId::ROOT, &key, "one of both subvolumes does not exist");
            }
        }
        for (parent, child) in up.keys().filter(|at| !down.contains_key(at)) {
            let key = Key::new(*child, ItemKind::ROOT_BACKREF, *parent);
            out.item(TreeId::ROOT, &key, "it has no ROOT_REF");
        }
        let placed: HashSet<u64> = up.keys().map(|(_, child)| *child).collect();
        for (key, item) in &self.list {
            let id = key.objectid;
            let is_subvolume = (objectid::FIRST_FREE..=objectid::LAST_FREE).contains(&id);
            if is_subvolume && item.refs > 0 && !placed.contains(&id) {
                out.item(TreeId::ROOT, key, "the subvolume has no place: no ROOT_BACKREF");
            }
        }
    }

    /// Compares the UUID tree with the subvolumes; `whole` says that it is there and all of it was read.
    pub(super) fn check_uuids<'u>(
        &self,
        media: &Media<'_>,
        uuids: &'u [UuidItem],
        whole: bool,
        out: &mut Out<'_>,
    ) {
        let live = self.live();
        for (key, ids) in uuids {
            let uuid = uuid_of_key(key);
            for id in ids {
                let own = live.get(id).map(|item| {
                    if key.kind == ItemKind::UUID_KEY_SUBVOL {
                        item.v2.uuid
                    } else {
                        item.v2.received_uuid
                    }
                });
                match own {
                    Some(own) if own == uuid => {}
                    Some(own) => {
                        let what = format_args!("subvolume {id} has the UUID {own}, not {uuid}");
                        out.item(TreeId::UUID, key, what);
                    }
                    None => {
                        let what = format_args!("there is no subvolume {id}");
                        out.item(TreeId::UUID, key, what);
                    }
                }
            }
        }
        if media.sb.uuid_tree_generation != media.sb.generation || !whole {
            // The kernel completes it when it mounts the volume.
            return;
        }
        let names = |(key, ids): &'u UuidItem| ids.iter().map(|id| (*key, *id));
        let named: HashSet<(Key, u64)> = uuids.iter().flat_map(names).collect();
        for (key, item) in &self.list {
            let tree = TreeId(key.objectid);
            if !tree.is_file_tree() || tree == TreeId::DATA_RELOC || item.refs == 0 {
                continue;
            }
            let wanted = [
                (item.v2.uuid, ItemKind::UUID_KEY_SUBVOL),
                (item.v2.received_uuid, ItemKind::UUID_KEY_RECEIVED_SUBVOL),
            ];
            for (uuid, kind) in wanted.into_iter().filter(|(uuid, _)| !uuid.is_nil()) {
                let place = uuid_key(&uuid, kind);
                if !named.contains(&(place, tree.0)) {
                    let what = format_args!("it does not name the {}", name_of(tree));
                    out.item(TreeId::UUID, &place, what);
                }
            }
        }
    }
}

/// An item of the UUID tree: its key, and the subvolumes that it names.
pub(super) type UuidItem = (Key, Vec<u64>);

/// Takes in an item of the UUID tree.
pub(super) fn uuid_item(item: &Item<'_>, out: &mut Out<'_>) -> Option<UuidItem> {
    let kinds = [ItemKind::UUID_KEY_SUBVOL, ItemKind::UUID_KEY_RECEIVED_SUBVOL];
    if !kinds.contains(&item.key.kind) {
        out.item(TreeId::UUID, &item.key, "such an item does not belong here");
        return None;
    }
    Some((item.key, parse_uuid_item(item.data).ok()?))
}

fn check_root(key: &Key, item: &RootItem, out: &mut Out<'_>) {
    let tree = TreeId(key.objectid);
    let tell = |out: &mut Out<'_>, what: String| out.item(TreeId::ROOT, key, what);
    if item.bytenr == 0 {
        tell(out, "bytenr: found 0".to_owned());
    }
    if tree.is_file_tree() && item.refs > 0 && item.root_dirid != objectid::FIRST_FREE {
        tell(out, format!("root_dirid: found {}, expected 256", item.root_dirid));
    }
    // Of these trees mkfs sets no count.
    if !tree.is_file_tree() && item.refs > 1 {
        tell(out, format!("refs: found {}, expected at most 1", item.refs));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::{FormatOptions, MemoryDevice, Store};

    /// So many that to look through all of them for each of them would not end.
    const MANY: u64 = 100_000;

    fn root(id: u64, uuid: u128) -> (Key, RootItem) {
        let blank = RootItem::parse(&[0; RootItem::LEN]).unwrap();
        let mut item = RootItem { refs: 1, root_dirid: 256, bytenr: 4096, ..blank };
        item.v2.uuid = Uuid::from_u128(uuid);
        (Key::new(id, ItemKind::ROOT_ITEM, 0), item)
    }

    #[test]
    fn a_great_many_subvolumes_are_compared_in_one_pass_over_each_list() {
        let device = Arc::new(MemoryDevice::new(0));
        let options = FormatOptions { total_bytes: 64 << 20, ..FormatOptions::default() };
        drop(Store::format(Arc::clone(&device) as _, &options).unwrap());
        let sb = crate::open::read_superblock(&*device).unwrap().superblock;
        let media = Media { device: &*device, len: 64 << 20, sb, chunks: BTreeMap::new() };

        let place = RootRef { dirid: 256, sequence: 2, name: b"name".to_vec() };
        let mut roots = Roots::default();
        let mut uuids = Vec::new();
        roots.list.push(root(TreeId::FS.0, 1));
        for id in 256..256 + MANY {
            let (key, item) = root(id, u128::from(id));
            let named = uuid_key(&item.v2.uuid, ItemKind::UUID_KEY_SUBVOL);
            // The last one is not there, and told of once for each place that names it.
            if id < 255 + MANY {
                roots.list.push((key, item));
            }
            roots.links.insert((5, id), place.clone());
            roots.back_links.insert((5, id), place.clone());
            roots.defaults.push((key, id));
            uuids.push((named, vec![id]));
        }
        uuids.push((uuid_key(&Uuid::from_u128(1), ItemKind::UUID_KEY_SUBVOL), vec![5]));

        let mut lines = Vec::new();
        let mut sink = |problem: super::super::Problem| lines.push(problem.to_string());
        let mut out = Out::new(&mut sink);
        roots.check(&media, true, &mut out);
        roots.check_uuids(&media, &uuids, true, &mut out);
        lines.retain(|line| !line.contains("the volume has no"));
        let last = 255 + MANY;
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(lines[0].contains(&format!("subvolume {last}, which does not exist")));
        assert!(lines[1].contains("one of both subvolumes does not exist"));
        assert!(lines[2].contains(&format!("there is no subvolume {last}")));
        assert_eq!(roots.links_of(5).count() as u64, MANY);
        assert_eq!((roots.links_of(4).count(), roots.links_of(6).count()), (0, 0));
    }
}
