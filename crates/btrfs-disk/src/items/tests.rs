//! Round trips of every item, and mutations of every valid item.

use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::hash::{extref_hash, name_hash};
use crate::key::{ItemKind, Key};

fn any_uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn any_time() -> impl Strategy<Value = Timespec> {
    (any::<i64>(), any::<u32>()).prop_map(|(sec, nsec)| Timespec { sec, nsec })
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..=255)
}

/// A multiple of 4096 above 0 that many of can be added up.
fn blocks() -> impl Strategy<Value = u64> {
    (1..1u64 << 30).prop_map(|n| n * 4096)
}

prop_compose! {
    fn any_inode()(
        [generation, transid, size, nbytes, block_group, rdev, sequence] in any::<[u64; 7]>(),
        [nlink, uid, gid] in any::<[u32; 3]>(),
        kind in prop::sample::select(vec![0o1u32, 0o2, 0o4, 0o6, 0o10, 0o12, 0o14]),
        permissions in 0..0o10000u32,
        flags in any::<u64>(),
        times in [any_time(), any_time(), any_time(), any_time()],
    ) -> InodeItem {
        let [atime, ctime, mtime, otime] = times;
        let nlink = if kind == 0o4 { nlink % 2 } else { nlink };
        let (mode, flags) = (kind << 12 | permissions, flags & inode::inode_flags::ALL);
        InodeItem {
            generation, transid, size: size >> 1, nbytes, block_group, nlink, uid, gid, mode, rdev, flags,
            sequence, atime, ctime, mtime, otime,
        }
    }
}

prop_compose! {
    fn any_chunk()(
        profile in prop::sample::select(vec![
            (BlockGroupFlags::empty(), 1), (BlockGroupFlags::DUP, 2), (BlockGroupFlags::RAID1, 2),
            (BlockGroupFlags::RAID0, 5), (BlockGroupFlags::RAID10, 4), (BlockGroupFlags::RAID6, 3),
            (BlockGroupFlags::RAID1C3, 3), (BlockGroupFlags::RAID1C4, 4), (BlockGroupFlags::RAID5, 2),
        ]),
        kind in prop::sample::select(vec![
            BlockGroupFlags::DATA, BlockGroupFlags::METADATA, BlockGroupFlags::SYSTEM,
        ]),
        length in blocks(),
        owner in any::<u64>(),
        hints in any::<[u32; 2]>(),
        places in vec((any::<u64>(), any::<u64>(), any_uuid()), 5),
    ) -> ChunkItem {
        let stripes = places.into_iter().take(profile.1);
        ChunkItem {
            length, owner, flags: kind | profile.0, io_align: hints[0], io_width: hints[1],
            sector_size: 4096, sub_stripes: 2,
            stripes: stripes.map(|(devid, offset, dev_uuid)| Stripe { devid, offset, dev_uuid }).collect(),
        }
    }
}

fn any_data_ref() -> impl Strategy<Value = DataRef> {
    (any::<u64>(), any::<u64>(), any::<u64>(), 1..=u32::MAX)
        .prop_map(|(root, ino, block, count)| DataRef { root, ino, offset: block << 12, count })
}

fn data_refs() -> impl Strategy<Value = Vec<InlineRef>> {
    let shared = (blocks(), 1..=u32::MAX)
        .prop_map(|(parent, count)| InlineRef::SharedData { parent, count });
    let owner = any::<u64>().prop_map(|root| InlineRef::Owner { root });
    vec(prop_oneof![any_data_ref().prop_map(InlineRef::Data), shared, owner], 0..6)
}

fn block_refs() -> impl Strategy<Value = Vec<InlineRef>> {
    let tree = any::<u64>().prop_map(|root| InlineRef::TreeBlock { root });
    let shared = blocks().prop_map(|parent| InlineRef::SharedBlock { parent });
    vec(prop_oneof![tree, shared], 0..6)
}

prop_compose! {
    fn any_extent()(
        generation in any::<u64>(),
        more in 0..5u64,
        shape in 0..3u8,
        full_backref in any::<bool>(),
        (data, blocks) in (data_refs(), block_refs()),
    ) -> (Key, ExtentItem) {
        let (kind, owner, mut inline) = match shape {
            0 => (ItemKind::EXTENT_ITEM, ExtentOwner::Data, data),
            1 => (ItemKind::METADATA_ITEM, ExtentOwner::TreeBlock { full_backref, info: None }, blocks),
            _ => {
                let info = Some((Key::new(generation, ItemKind::DIR_ITEM, 7), 3));
                (ItemKind::EXTENT_ITEM, ExtentOwner::TreeBlock { full_backref, info }, blocks)
            }
        };
        inline.truncate(6);
        let counted: u64 = inline.iter().map(|one| u64::from(one.count())).sum();
        let offset = if kind == ItemKind::METADATA_ITEM { 2 } else { 16384 };
        let item = ExtentItem { refs: counted + more + 1, generation, owner, inline };
        (Key::new(1 << 20, kind, offset), item)
    }
}

prop_compose! {
    fn any_file_extent()(
        generation in any::<u64>(),
        shape in 0..4u8,
        inline in vec(any::<u8>(), 1..=2048),
        bytenr in blocks(),
        (start, len, after) in (0..10u64, 1..10u64, 0..10u64),
        code in prop::sample::select(vec![CompressionCode::Zlib, CompressionCode::Lzo, CompressionCode::Zstd]),
    ) -> (Key, FileExtent) {
        let ram_bytes = (start + len + after) * 4096;
        let range = DiskRange { bytenr, disk_len: ram_bytes, offset: start * 4096, num_bytes: len * 4096 };
        let (offset, ram_bytes, compression, data) = match shape {
            0 => (0, inline.len() as u64, CompressionCode::None, FileExtentData::Inline(inline)),
            1 => (0, 4000, code, FileExtentData::Inline(inline)),
            2 => (8192, ram_bytes, CompressionCode::None, FileExtentData::Prealloc(range)),
            _ => {
                let range = DiskRange { disk_len: 4096, ..range };
                (4096, ram_bytes, code, FileExtentData::Regular(range))
            }
        };
        let key = Key::new(257, ItemKind::EXTENT_DATA, offset);
        (key, FileExtent { generation, ram_bytes, compression, data })
    }
}

fn any_entries() -> impl Strategy<Value = (Key, Vec<DirEntry>)> {
    (any_name(), 256..u64::MAX - 256, any::<u64>(), vec(any::<u8>(), 0..50), any::<bool>())
        .prop_map(|(name, ino, transid, value, xattr)| {
            let (kind, location, data) = if xattr {
                (ItemKind::XATTR_ITEM, Key::MIN, value)
            } else {
                (ItemKind::DIR_ITEM, Key::new(ino, ItemKind::INODE_ITEM, 0), Vec::new())
            };
            let file = if xattr { FileType::Xattr } else { FileType::Regular };
            let key = Key::new(256, kind, name_hash(&name));
            let entry = DirEntry { location, transid, kind: file, name, data };
            (key, vec![entry.clone(), entry])
        })
}

prop_compose! {
    fn any_root()(
        inode in any_inode(),
        n in any::<[u64; 10]>(),
        refs in any::<u32>(),
        bytenr in blocks(),
        (read_only, dead, level) in (any::<bool>(), any::<bool>(), 0..8u8),
        uuids in [any_uuid(), any_uuid(), any_uuid()],
        times in [any_time(), any_time(), any_time(), any_time()],
    ) -> RootItem {
        let [uuid, parent_uuid, received_uuid] = uuids;
        let [ctime, otime, stime, rtime] = times;
        let v2 = root::RootItemV2 {
            generation: n[0], uuid, parent_uuid, received_uuid, ctransid: n[1], otransid: n[2],
            stransid: n[3], rtransid: n[4], ctime, otime, stime, rtime,
        };
        RootItem {
            inode, generation: n[5], root_dirid: n[6], bytenr, byte_limit: n[7], bytes_used: n[8],
            last_snapshot: n[9], read_only, dead, refs, drop_progress: Key::MIN, drop_level: level,
            level, v2,
        }
    }
}

proptest! {
    #[test]
    fn inodes_and_their_names(
        inode in any_inode(),
        refs in vec((any::<u64>(), any::<u64>(), any_name()), 1..4),
    ) {
        prop_assert_eq!(InodeItem::parse(&inode.to_bytes()), Ok(inode));
        prop_assert_eq!(inode.to_bytes().len(), InodeItem::LEN);
        let plain: Vec<_> =
            refs.iter().map(|(index, _, name)| InodeRef { index: *index, name: name.clone() }).collect();
        prop_assert_eq!(InodeRef::parse_all(&InodeRef::all_to_bytes(&plain)), Ok(plain));
        let ext: Vec<_> = refs
            .into_iter()
            .map(|(index, parent, name)| InodeExtref { parent, index, name })
            .collect();
        prop_assert_eq!(ext[0].hash(), extref_hash(ext[0].parent, &ext[0].name));
        prop_assert_eq!(InodeExtref::parse_all(&InodeExtref::all_to_bytes(&ext)), Ok(ext));
    }

    #[test]
    fn chunks((chunk, block) in (any_chunk(), 0..1u64 << 40)) {
        let bytes = chunk.to_bytes();
        prop_assert_eq!(bytes.len(), ChunkItem::len_with(chunk.stripes.len()));
        prop_assert_eq!(ChunkItem::parse(block * 4096, &bytes), Ok(chunk));
    }

    #[test]
    fn devices(n in any::<[u64; 5]>(), m in any::<[u32; 4]>(), b in any::<[u8; 2]>(), uuid in any_uuid(), len in blocks()) {
        let (bytes_used, total_bytes) = (n[1].min(n[0]), n[1].max(n[0]));
        let item = DevItem {
            devid: n[2], total_bytes, bytes_used, io_align: m[0], io_width: m[1],
            sector_size: m[2], kind: n[3], generation: n[4], start_offset: 1, dev_group: m[3],
            seek_speed: b[0], bandwidth: b[1], uuid, fsid: Uuid::from_u128(1),
        };
        prop_assert_eq!(item.to_bytes().len(), DevItem::LEN);
        prop_assert_eq!(DevItem::parse(&item.to_bytes()), Ok(item));
        let extent = DevExtent {
            chunk_tree: n[0], chunk_objectid: n[1], chunk_offset: n[2], length: len, chunk_tree_uuid: uuid,
        };
        prop_assert_eq!(extent.to_bytes().len(), DevExtent::LEN);
        prop_assert_eq!(DevExtent::parse(&extent.to_bytes()), Ok(extent));
        let stats = DevStats {
            write_errors: n[0], read_errors: n[1], flush_errors: n[2], corruption_errors: n[3],
            generation_errors: n[4],
        };
        prop_assert_eq!(DevStats::parse(&stats.to_bytes()), Ok(stats));
    }

    #[test]
    fn extents_and_their_references((key, mut item) in any_extent(), data in any_data_ref()) {
        prop_assert_eq!(ExtentItem::parse(&key, &item.to_bytes()), Ok(item.clone()));
        item.sort_inline();
        let order: Vec<_> =
            item.inline.iter().map(|one| (one.kind(), std::cmp::Reverse(one.sequence()))).collect();
        prop_assert!(order.is_sorted());
        prop_assert_eq!(DataRef::parse(&data.to_bytes()), Ok(data));
        let lens: usize = item.inline.iter().map(InlineRef::len).sum();
        let info = if matches!(item.owner, ExtentOwner::TreeBlock { info: Some(_), .. }) { 18 } else { 0 };
        prop_assert_eq!(item.to_bytes().len(), ExtentItem::FIXED_LEN + info + lens);
    }

    #[test]
    fn file_extents((key, item) in any_file_extent()) {
        prop_assert_eq!(FileExtent::parse(&key, &item.to_bytes()), Ok(item));
    }

    #[test]
    fn directory_entries((key, entries) in any_entries()) {
        let bytes = DirEntry::all_to_bytes(&entries);
        prop_assert_eq!(bytes.len(), entries.iter().map(DirEntry::disk_len).sum::<usize>());
        prop_assert_eq!(DirEntry::parse_all(&key, &bytes), Ok(entries));
    }

    #[test]
    fn roots(root in any_root(), dirid in any::<u64>(), sequence in any::<u64>(), name in any_name()) {
        let bytes = root.to_bytes();
        prop_assert_eq!(bytes.len(), RootItem::LEN);
        let legacy = RootItem::parse(&bytes[..RootItem::LEGACY_LEN]).unwrap();
        prop_assert_eq!((legacy.bytenr, legacy.v2), (root.bytenr, root::RootItemV2::default()));
        prop_assert_eq!(RootItem::parse(&bytes), Ok(root));
        let link = RootRef { dirid, sequence, name };
        prop_assert_eq!(RootRef::parse(&link.to_bytes()), Ok(link));
    }

    #[test]
    fn block_groups(used in any::<u64>(), length in any::<u64>(), count in any::<u32>(), bitmaps in any::<bool>()) {
        let (used, length) = (used.min(length), used.max(length).max(1));
        let item = BlockGroupItem { used, flags: BlockGroupFlags::METADATA | BlockGroupFlags::DUP };
        prop_assert_eq!(BlockGroupItem::parse(length, &item.to_bytes()), Ok(item));
        let info = FreeSpaceInfo { extent_count: count, bitmaps };
        prop_assert_eq!(FreeSpaceInfo::parse(&info.to_bytes()), Ok(info));
    }

    #[test]
    fn free_space_bitmaps(start in 0..1u64 << 20, len in 1..=2048u64, cuts in prop::collection::btree_set(0..2048u64, 0..40)) {
        let (start, length) = (start * 4096, len * 4096);
        let cuts: Vec<u64> = cuts.into_iter().filter(|cut| *cut < len).collect();
        let free: Vec<(u64, u64)> = cuts
            .chunks_exact(2)
            .map(|cut| (start + cut[0] * 4096, (cut[1] - cut[0]) * 4096))
            .collect();
        // Stretches that touch are one.
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (at, len) in &free {
            match merged.last_mut() {
                Some(last) if last.0 + last.1 == *at => last.1 += len,
                _ => merged.push((*at, *len)),
            }
        }
        let bitmap = group::free_space_bitmap(start, length, &free);
        prop_assert_eq!(group::parse_free_space_bitmap(start, length, &bitmap), Ok(merged));
    }

    #[test]
    fn uuid_items(uuid in any_uuid(), ids in vec(any::<u64>(), 1..5)) {
        let key = uuid_key::uuid_key(&uuid, ItemKind::UUID_KEY_SUBVOL);
        prop_assert_eq!(uuid_key::uuid_of_key(&key), uuid);
        prop_assert_eq!(uuid_key::parse_uuid_item(&uuid_key::uuid_item(&ids)), Ok(ids));
    }

    /// E3: bytes changed, cut off or added to any item never make parsing panic.
    #[test]
    fn no_change_of_bytes_makes_parsing_panic(
        inode in any_inode(),
        chunk in any_chunk(),
        (extent_key, extent) in any_extent(),
        (file_key, file) in any_file_extent(),
        (dir_key, entries) in any_entries(),
        root in any_root(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        grow in 0..3usize,
    ) {
        let mutate = |mut bytes: Vec<u8>| {
            for (at, byte) in &flips {
                let at = at.index(bytes.len());
                bytes[at] ^= byte;
            }
            match grow {
                0 => {}
                1 => bytes.truncate(cut.index(bytes.len())),
                _ => bytes.extend_from_slice(&[0xff; 7]),
            }
            bytes
        };
        let _ = InodeItem::parse(&mutate(inode.to_bytes()));
        let refs = InodeRef::all_to_bytes(&[InodeRef { index: 2, name: b"name".to_vec() }]);
        let _ = InodeRef::parse_all(&mutate(refs));
        let refs = [InodeExtref { parent: 256, index: 2, name: b"name".to_vec() }];
        let _ = InodeExtref::parse_all(&mutate(InodeExtref::all_to_bytes(&refs)));
        let _ = ChunkItem::parse(4096, &mutate(chunk.to_bytes()));
        let _ = ExtentItem::parse(&extent_key, &mutate(extent.to_bytes()));
        let _ = FileExtent::parse(&file_key, &mutate(file.to_bytes())).map(|f| f.end(file_key.offset));
        let _ = DirEntry::parse_all(&dir_key, &mutate(DirEntry::all_to_bytes(&entries)));
        let _ = RootItem::parse(&mutate(root.to_bytes()));
        let link = RootRef { dirid: 1, sequence: 2, name: b"name".to_vec() };
        let _ = RootRef::parse(&mutate(link.to_bytes()));
        let _ = DevItem::parse(&mutate(DevItem::default().to_bytes()));
        let _ = group::parse_free_space_bitmap(0, 32768, &mutate(vec![0xf0]));
    }
}

#[test]
fn file_extents_obey_the_format() {
    let key = Key::new(257, ItemKind::EXTENT_DATA, 4096);
    let range = DiskRange { bytenr: 1 << 20, disk_len: 8192, offset: 4096, num_bytes: 4096 };
    let good = FileExtent {
        generation: 1,
        ram_bytes: 8192,
        compression: CompressionCode::None,
        data: FileExtentData::Regular(range),
    };
    FileExtent::parse(&key, &good.to_bytes()).unwrap();
    let field =
        |key: Key, item: &FileExtent| FileExtent::parse(&key, &item.to_bytes()).unwrap_err().field;
    let with = |change: fn(&mut DiskRange)| {
        let mut range = range;
        change(&mut range);
        field(key, &FileExtent { data: FileExtentData::Regular(range), ..good.clone() })
    };
    assert_eq!(field(Key { offset: 1, ..key }, &good), "key offset");
    assert_eq!(field(key, &FileExtent { ram_bytes: 4097, ..good.clone() }), "ram_bytes");
    assert_eq!(with(|r| r.bytenr += 1), "disk_bytenr");
    assert_eq!(with(|r| r.disk_len = 4095), "disk_num_bytes");
    assert_eq!(with(|r| r.disk_len = 0), "disk_num_bytes");
    assert_eq!(with(|r| r.num_bytes = 0), "num_bytes");
    assert_eq!(with(|r| r.num_bytes = 8192), "offset + num_bytes");
    assert_eq!(with(|r| r.num_bytes = u64::MAX << 12), "num_bytes");
    let packed =
        FileExtent { compression: CompressionCode::Zstd, ram_bytes: 1 << 18, ..good.clone() };
    assert_eq!(field(key, &packed), "ram_bytes");
    let inline =
        FileExtent { data: FileExtentData::Inline(vec![1; 8]), ram_bytes: 8, ..good.clone() };
    assert_eq!(field(key, &inline), "key offset");
    let key = Key { offset: 0, ..key };
    assert_eq!(field(key, &FileExtent { ram_bytes: 9, ..inline }), "ram_bytes");
    let packed = FileExtent {
        compression: CompressionCode::Lzo,
        data: FileExtentData::Prealloc(range),
        ..good
    };
    assert_eq!(field(key, &packed), "type");
}

#[test]
fn a_directory_item_under_the_wrong_hash_is_refused() {
    let entry = DirEntry {
        location: Key::new(257, ItemKind::INODE_ITEM, 0),
        transid: 1,
        kind: FileType::Regular,
        name: b"name".to_vec(),
        data: Vec::new(),
    };
    let key = Key::new(256, ItemKind::DIR_ITEM, name_hash(b"name"));
    let field = |key: Key, entry: DirEntry| {
        DirEntry::parse_all(&key, &DirEntry::all_to_bytes(&[entry])).map_err(|error| error.field)
    };
    assert_eq!(field(key, entry.clone()), Ok(vec![entry.clone()]));
    assert_eq!(field(Key { offset: 1, ..key }, entry.clone()), Err("key offset"));
    assert_eq!(field(key, DirEntry { name: Vec::new(), ..entry.clone() }), Err("name_len"));
    assert_eq!(field(key, DirEntry { kind: FileType::Xattr, ..entry.clone() }), Err("type"));
    assert_eq!(field(key, DirEntry { data: vec![1], ..entry.clone() }), Err("data_len"));
    let away = Key::new(2, ItemKind::INODE_ITEM, 0);
    assert_eq!(field(key, DirEntry { location: away, ..entry }), Err("location"));
}

#[test]
fn a_file_is_not_larger_than_an_offset_can_say() {
    let mut item = InodeItem { mode: 0o100_644, size: i64::MAX as u64, ..InodeItem::default() };
    assert_eq!(InodeItem::parse(&item.to_bytes()).unwrap(), item);
    item.size += 1;
    assert_eq!(InodeItem::parse(&item.to_bytes()).unwrap_err().field, "size");
}

#[test]
fn an_extent_may_be_longer_than_linux_writes_them_unless_it_is_compressed() {
    let len = 256 << 20;
    let shown = DiskRange { bytenr: 1 << 20, disk_len: len, offset: 0, num_bytes: len };
    let key = Key::new(257, ItemKind::EXTENT_DATA, 0);
    for data in [FileExtentData::Regular(shown), FileExtentData::Prealloc(shown)] {
        let compression = CompressionCode::None;
        let mut extent = FileExtent { generation: 1, ram_bytes: len, compression, data };
        assert_eq!(FileExtent::parse(&key, &extent.to_bytes()).unwrap(), extent);
        extent.compression = CompressionCode::Zstd;
        assert!(FileExtent::parse(&key, &extent.to_bytes()).is_err());
    }
}

#[test]
fn free_space_is_of_whole_blocks() {
    assert!(group::parse_free_space_bitmap(4096, 32768, &[0xf0]).is_ok());
    assert!(group::parse_free_space_bitmap(4096 + 512, 32768, &[0xf0]).is_err());
    assert!(group::check_free_extent(4096, 8192).is_ok());
    for (start, len) in [(512, 4096), (4096, 512), (4096, 0), (u64::MAX - 4095, 4096)] {
        assert!(group::check_free_extent(start, len).is_err(), "{start} {len}");
    }
}
