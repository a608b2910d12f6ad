//! Round trips, hostile bytes and each rule of superblocks.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::items::{BlockGroupFlags, Stripe};

fn sample() -> Superblock {
    let uuid = Uuid::from_u128(0x1234);
    let chunk = ChunkItem {
        length: 8 << 20,
        owner: 2,
        flags: BlockGroupFlags::SYSTEM | BlockGroupFlags::DUP,
        io_align: 65536,
        io_width: 65536,
        sector_size: 4096,
        sub_stripes: 1,
        stripes: [22 << 20, 30 << 20]
            .map(|offset| Stripe { devid: 1, offset, dev_uuid: Uuid::from_u128(3) })
            .to_vec(),
    };
    let dev_item = DevItem {
        devid: 1,
        total_bytes: 1 << 30,
        bytes_used: 1 << 27,
        sector_size: 4096,
        fsid: uuid,
        ..DevItem::default()
    };
    let mut backup_roots = [BackupRoot::default(); BACKUP_ROOTS];
    backup_roots[1].csum = BackupTree { bytenr: 5 << 20, generation: 6, level: 2 };
    backup_roots[3].num_devices = 1;
    Superblock {
        fsid: uuid,
        bytenr: SUPER_OFFSETS[0],
        error: false,
        generation: 7,
        root: 30 << 20,
        chunk_root: 22 << 20,
        log_root: 0,
        total_bytes: 1 << 30,
        bytes_used: 147_456,
        root_dir_objectid: 6,
        num_devices: 1,
        nodesize: 16384,
        chunk_root_generation: 5,
        compat: 0,
        compat_ro: CompatRo::SUPPORTED,
        incompat: Incompat::MIXED_BACKREF | Incompat::NO_HOLES,
        csum: ChecksumKind::Crc32c,
        root_level: 1,
        chunk_root_level: 0,
        log_root_level: 0,
        dev_item,
        label: b"backup".to_vec(),
        cache_generation: 0,
        uuid_tree_generation: 7,
        metadata_uuid: Uuid::nil(),
        sys_chunks: vec![(22 << 20, chunk)],
        backup_roots,
    }
}

fn refused(change: impl FnOnce(&mut Superblock)) -> DiskError {
    let mut sb = sample();
    change(&mut sb);
    let bytes = sb.to_bytes().unwrap();
    Superblock::parse(&bytes, SUPER_OFFSETS[0]).expect_err("a bad superblock is refused")
}

#[test]
fn a_superblock_comes_back_as_it_was_written_with_every_checksum() {
    for csum in ChecksumKind::ALL {
        let sb = Superblock { csum, ..sample() };
        let bytes = sb.to_bytes().unwrap();
        assert_eq!(bytes.len(), SUPER_LEN);
        assert_eq!(Superblock::parse(&bytes, SUPER_OFFSETS[0]), Ok(sb));
    }
}

#[test]
fn features_that_are_not_supported_are_listed_by_name() {
    let error = refused(|sb| sb.incompat |= Incompat::ZONED | Incompat::from_bits_retain(1 << 40));
    assert_eq!(error.field, "incompat_flags");
    assert_eq!(error.found, "unsupported features ZONED | 0x10000000000");
    let mut sb = sample();
    sb.check_writable().unwrap();
    sb.compat_ro = CompatRo::from_bits_retain(sb.compat_ro.bits() | 1 << 9);
    let read_back = Superblock::parse(&sb.to_bytes().unwrap(), SUPER_OFFSETS[0]).unwrap();
    assert!(read_back.check_writable().unwrap_err().to_string().contains("0x200"));
}

#[test]
fn each_field_that_cannot_be_is_named() {
    let field = |change: fn(&mut Superblock)| refused(change).field;
    assert_eq!(field(|sb| sb.bytenr = SUPER_OFFSETS[1]), "bytenr");
    assert_eq!(field(|sb| sb.nodesize = 12288), "nodesize");
    assert_eq!(field(|sb| sb.nodesize = 2048), "nodesize");
    assert_eq!(field(|sb| sb.root = 4097), "root");
    assert_eq!(field(|sb| sb.chunk_root = 0), "chunk_root");
    assert_eq!(field(|sb| sb.root_level = 8), "root_level");
    assert_eq!(field(|sb| sb.chunk_root_generation = 8), "generation");
    assert_eq!(field(|sb| sb.generation = 1 << 63), "generation");
    assert_eq!(field(|sb| sb.generation = u64::MAX), "generation");
    assert_eq!(field(|sb| sb.cache_generation = 8), "cache_generation");
    assert_eq!(field(|sb| sb.num_devices = 0), "num_devices");
    assert_eq!(field(|sb| sb.bytes_used = 1), "bytes_used");
    assert_eq!(field(|sb| sb.dev_item.fsid = Uuid::nil()), "dev_item fsid");
    assert_eq!(field(|sb| sb.dev_item.bytes_used = 1 << 40), "bytes_used");
    assert_eq!(field(|sb| sb.sys_chunks.clear()), "sys_chunk_array_size");
    assert_eq!(field(|sb| sb.sys_chunks[0].1.flags = BlockGroupFlags::DATA), "num_stripes");
    assert_eq!(field(|sb| sb.sys_chunks[0].0 = 1), "key offset");
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let bytes = sample().to_bytes().unwrap();
    for at in 0..SUPER_LEN {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        // Behind a short digest, the checksum field has no meaning.
        let counts = !(4..csum::CSUM_FIELD).contains(&at);
        assert_eq!(Superblock::parse(&bad, SUPER_OFFSETS[0]).is_err(), counts, "byte {at}");
    }
}

#[test]
fn what_does_not_fit_is_not_written() {
    let long = Superblock { label: vec![b'x'; 256], ..sample() };
    assert_eq!(long.to_bytes().unwrap_err().field, "label");
    let mut many = sample();
    many.sys_chunks = vec![many.sys_chunks[0].clone(); 17];
    assert_eq!(many.to_bytes().unwrap_err().field, "sys_chunk_array");
}

proptest! {
    /// E3: with the checksum made right again, no change of bytes makes parsing panic, and what is accepted is sound.
    #[test]
    fn no_change_of_bytes_makes_parsing_panic(flips in vec((32..SUPER_LEN, any::<u8>()), 1..5)) {
        let mut bytes = sample().to_bytes().unwrap();
        for (at, byte) in flips {
            bytes[at] ^= byte;
        }
        csum::seal(ChecksumKind::Crc32c, &mut bytes);
        if let Ok(sb) = Superblock::parse(&bytes, SUPER_OFFSETS[0]) {
            let again = sb.to_bytes().unwrap();
            prop_assert_eq!(Superblock::parse(&again, SUPER_OFFSETS[0]), Ok(sb));
        }
    }
}
