//! What a few bytes of an image claim may be longer than any device: it is told in a few words, and nobody goes through it.

use super::*;

/// Far behind everything that there is.
const FAR: u64 = 1 << 50;
/// More than anybody can read.
const HUGE: u64 = 1 << 46;
/// More problems than it takes.
const MANY: usize = 60;
/// Items that show the same.
const ITEMS: u64 = 20;

/// Has a file show `len` bytes at `bytenr`.
fn claim(s: &Surgeon, bytenr: u64, len: u64) {
    let (key, mut extent, _) = regular(s);
    extent.compression = cowback_btrfs_disk::items::CompressionCode::None;
    extent.ram_bytes = len;
    let range = DiskRange { bytenr, disk_len: len, offset: 0, num_bytes: len };
    extent.data = FileExtentData::Regular(range);
    set_extent(s, &key, &extent);
}

/// What the checker says, as long as it says little.
fn few_problems(edit: impl FnOnce(&Surgeon)) -> Vec<String> {
    let bytes = build::volume(Profile::Single, ChecksumKind::Crc32c, 10);
    let surgeon = Surgeon::new(Patched::new(&bytes));
    edit(&surgeon);
    let mut lines = Vec::new();
    check(&surgeon.device, true, &mut |problem| {
        lines.push(problem.to_string());
        assert!(lines.len() < MANY, "{lines:#?}");
    })
    .unwrap();
    lines
}

fn count(lines: &[String], what: &str) -> usize {
    lines.iter().filter(|line| line.contains(what)).count()
}

#[test]
fn an_extent_that_no_chunk_holds_is_told_once_however_long_it_is() {
    let lines = few_problems(|s| claim(s, FAR, 1 << 62));
    let told = format!("address {FAR}: no chunk holds the {} bytes from here", 1u64 << 62);
    assert_eq!(count(&lines, &told), 1, "{lines:#?}");
    assert_eq!(count(&lines, "are missing"), 1, "{lines:#?}");
}

#[test]
fn an_extent_in_a_chunk_that_is_longer_than_the_device_is_told_once() {
    let lines = few_problems(|s| {
        let is_data = |chunk: &&ChunkItem| chunk.flags.bits() & 1 == 1;
        let mut chunk = s.chunks.values().find(is_data).unwrap().clone();
        chunk.length = HUGE;
        chunk.stripes[0].offset = build::SIZE - (3 << 20);
        let key = Key::new(objectid::FIRST_CHUNK_TREE, ItemKind::CHUNK_ITEM, FAR);
        s.insert(TreeId::CHUNK, key, chunk.to_bytes());
        claim(s, FAR, HUGE + 4096);
    });
    let [ends, behind] = [
        format!("the device ends before the {} bytes from here", HUGE - (3 << 20)),
        format!("address {}: no chunk holds the 4096 bytes from here", FAR + HUGE),
    ];
    assert_eq!((count(&lines, &ends), count(&lines, &behind)), (1, 1), "{lines:#?}");
}

#[test]
fn checksums_that_are_missing_are_told_once_however_many_items_show_the_data() {
    // Each of these items shows all of the disk, and so all that lacks checksums.
    let lines = few_problems(|s| {
        let (_, mut extent, _) = regular(s);
        extent.compression = cowback_btrfs_disk::items::CompressionCode::None;
        extent.ram_bytes = HUGE;
        let (ino, at) = (lookup(s, 256, "raw"), 1 << 40);
        for number in 0..ITEMS {
            let range = DiskRange {
                bytenr: FAR,
                disk_len: HUGE,
                offset: 0,
                num_bytes: 4096 * (number + 1),
            };
            extent.data = FileExtentData::Regular(range);
            let key = Key::new(ino, ItemKind::EXTENT_DATA, at + number * HUGE);
            s.insert(FS, key, extent.to_bytes());
        }
    });
    assert_eq!(count(&lines, "are missing"), 1, "{lines:#?}");
}
