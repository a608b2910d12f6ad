//! Known vectors: published ones, ones by other implementations, and keys out of file systems that mkfs.btrfs made.

use super::*;
use proptest::prelude::*;

fn hex(kind: ChecksumKind, data: &[u8]) -> String {
    digest(kind, data).as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn crc32c_vectors() {
    let kind = ChecksumKind::Crc32c;
    assert_eq!(digest(kind, b"123456789").as_bytes(), 0xe306_9283u32.to_le_bytes());
    // RFC 3720, B.4.
    assert_eq!(digest(kind, &[0; 32]).as_bytes(), 0x8a91_36aau32.to_le_bytes());
    assert_eq!(digest(kind, &[0xff; 32]).as_bytes(), 0x62a8_ab43u32.to_le_bytes());
    assert_eq!(digest(kind, b"").as_bytes(), [0; 4]);
    // The well-known checksum of a block of zeros.
    assert_eq!(digest(kind, &[0; 4096]).as_bytes(), 0x98f9_4189u32.to_le_bytes());
}

#[test]
fn xxhash64_vectors() {
    let kind = ChecksumKind::Xxhash64;
    assert_eq!(digest(kind, b"").as_bytes(), 0xef46_db37_51d8_e999u64.to_le_bytes());
    assert_eq!(digest(kind, b"a").as_bytes(), 0xd24e_c4f1_a98c_6e5bu64.to_le_bytes());
    assert_eq!(digest(kind, b"abc").as_bytes(), 0x44bc_2cf5_ad77_0999u64.to_le_bytes());
}

#[test]
fn sha256_vectors() {
    let kind = ChecksumKind::Sha256;
    assert_eq!(
        hex(kind, b"abc"),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(
        hex(kind, &[0; 4096]),
        "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7"
    );
}

#[test]
fn blake2b_vectors() {
    let kind = ChecksumKind::Blake2b;
    assert_eq!(hex(kind, b""), "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
    assert_eq!(
        hex(kind, b"abc"),
        "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"
    );
    assert_eq!(
        hex(kind, &[0; 4096]),
        "686ede9288c391e7e05026e56f2f91bfd879987a040ea98445dabc76f55b8e5f"
    );
}

/// Keys of `DIR_ITEM`s in a volume that mkfs.btrfs made of a directory.
#[test]
fn name_hash_agrees_with_mkfs() {
    for (name, offset) in [
        ("dir", 481_053_471),
        ("hello", 1_570_712_351),
        ("\u{fc}n\u{ef}", 1_903_261_957),
        ("a-rather-long-name-for-a-file-in-a-directory.tar.gz", 3_254_869_450),
        ("a", 3_427_024_844),
        ("hardlink", 3_660_566_308),
        ("file.txt", 3_956_591_618),
    ] {
        assert_eq!(name_hash(name.as_bytes()), offset, "{name}");
    }
}

/// The key of an `INODE_EXTREF` in a volume that mkfs.btrfs made of a file with 150 links of long names.
#[test]
fn extref_hash_agrees_with_mkfs() {
    let name = [[b'n'; 200].as_slice(), b"145"].concat();
    assert_eq!(extref_hash(256, &name), 30_243_574);
    assert_eq!(extref_hash(256 | 7 << 32, &name), 30_243_574, "only the low half seeds");
    assert_ne!(extref_hash(257, &name), 30_243_574);
}

/// The register, one bit at a time.
fn slow_crc32c(seed: u32, data: &[u8]) -> u32 {
    data.iter().fold(seed, |state, &byte| {
        (0..8).fold(state ^ u32::from(byte), |state, _| {
            if state & 1 == 1 { state >> 1 ^ 0x82f6_3b78 } else { state >> 1 }
        })
    })
}

proptest! {
    #[test]
    fn crc32c_agrees_with_the_definition(seed: u32, data in prop::collection::vec(any::<u8>(), 0..700)) {
        prop_assert_eq!(crc32c(seed, &data), slow_crc32c(seed, &data));
        let sum = (!slow_crc32c(!0, &data)).to_le_bytes();
        let got = digest(ChecksumKind::Crc32c, &data);
        prop_assert_eq!(got.as_bytes(), sum.as_slice());
    }
}

#[test]
fn block_sums_are_the_digests_of_the_blocks() {
    let data: Vec<u8> = (0u32..3 * 4096).map(|n| (n % 251).to_le_bytes()[0]).collect();
    for kind in ChecksumKind::ALL {
        let mut sums = vec![0xaa];
        block_sums(kind, &data, &mut sums);
        assert_eq!(sums.len(), 1 + 3 * kind.size());
        let sums = &sums[1..];
        for (block, sum) in data.chunks(4096).zip(sums.chunks(kind.size())) {
            assert_eq!(digest(kind, block).as_ref(), sum);
        }
        assert_eq!(first_mismatch(kind, &data, sums), None);
        for block in 0..3 {
            let mut bad = data.clone();
            bad[block * 4096 + 4095] ^= 1;
            assert_eq!(first_mismatch(kind, &bad, sums), Some(block));
        }
        assert_eq!(first_mismatch(kind, &data, &sums[..2 * kind.size()]), Some(2));
    }
    let mut none = Vec::new();
    block_sums(ChecksumKind::Sha256, &[], &mut none);
    assert!(none.is_empty());
}

#[test]
#[should_panic(expected = "not a whole number of blocks")]
fn block_sums_refuse_a_part_of_a_block() {
    block_sums(ChecksumKind::Crc32c, &[0; 4097], &mut Vec::new());
}

#[test]
fn names_numbers_and_sizes() {
    for (kind, name, size, number) in [
        (ChecksumKind::Crc32c, "crc32c", 4, 0),
        (ChecksumKind::Xxhash64, "xxhash", 8, 1),
        (ChecksumKind::Sha256, "sha256", 32, 2),
        (ChecksumKind::Blake2b, "blake2", 32, 3),
    ] {
        assert_eq!(kind.to_string(), name);
        assert_eq!(name.parse::<ChecksumKind>(), Ok(kind));
        assert_eq!(kind.size(), size);
        assert_eq!(kind.to_disk(), number);
        assert_eq!(ChecksumKind::from_disk(number), Some(kind));
        let sum = digest(kind, b"x");
        assert_eq!(sum.kind(), kind);
        assert_eq!(sum.as_bytes().len(), size);
        assert_eq!(&sum.padded()[..size], sum.as_bytes());
        assert!(sum.padded()[size..].iter().all(|&byte| byte == 0));
    }
    assert_eq!(ChecksumKind::from_disk(4), None);
    assert_eq!(
        "md5".parse::<ChecksumKind>().unwrap_err().to_string(),
        "unknown checksum `md5`: expected crc32c, xxhash, sha256 or blake2"
    );
    assert_eq!(digest(ChecksumKind::Crc32c, b"123456789").to_string(), "crc32c:839206e3");
}
