//! Damage at random: whatever byte of a live block changes, in whichever copy, is found; whatever bytes come with a right
//! checksum, nothing panics, and what the other checker finds is found.

use std::sync::Arc;

use cowback_block_store::{BlockDevice, Profile};
use cowback_btrfs_disk::ChecksumKind;
use cowback_btrfs_disk::node::HEADER_LEN;
use cowback_btrfs_disk::superblock::{SUPER_LEN, SUPER_OFFSETS};
use cowback_btrfs_disk::{ItemKind, TreeId};
use cowback_codec::digest;

use crate::patched::Patched;
use crate::surgeon::Surgeon;
use crate::{btrfs_check, build, have, problems};

/// Numbers that look random, the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// A block that something refers to: where it is on the device, its bytes, and how many at its start and behind its checksum
/// mean nothing.
#[derive(Debug, Clone)]
struct Live {
    at: u64,
    len: usize,
    what: String,
    /// Within the checksum field, what the checksum does not fill.
    idle: std::ops::Range<usize>,
}

/// All copies of all live blocks.
fn live_blocks(surgeon: &Surgeon) -> Vec<Live> {
    let mut live = Vec::new();
    let idle = surgeon.sb.csum.size()..32;
    for offset in SUPER_OFFSETS.into_iter().filter(|offset| *offset < surgeon.sb.total_bytes) {
        let what = format!("superblock at {offset}");
        live.push(Live { at: offset, len: SUPER_LEN, what, idle: idle.clone() });
    }
    for tree in surgeon.trees() {
        for block in surgeon.blocks(tree) {
            for at in surgeon.copies(block) {
                let what = format!("block {block} of {tree:?}, device offset {at}");
                live.push(Live { at, len: surgeon.nodesize(), what, idle: idle.clone() });
            }
        }
    }
    for (key, data) in surgeon.items(TreeId::EXTENT) {
        // Its flags say that it is data.
        if key.kind == ItemKind::EXTENT_ITEM && data[16] == 1 {
            for at in surgeon.copies(key.objectid) {
                let len = usize::try_from(key.offset).unwrap();
                live.push(Live { at, len, what: format!("data {key}"), idle: 0..0 });
            }
        }
    }
    live
}

/// Changes some of a block; false if it came out as it was.
fn damage(device: &Patched, live: &[Live], random: &mut Random) -> Option<String> {
    let target = &live[random.below(live.len())];
    let before = device.get(target.at, target.len);
    let mut after = before.clone();
    let how = match random.below(5) {
        0 | 1 => {
            let at = random.below(target.len);
            after[at] ^= random.byte() | 1;
            format!("byte {at}")
        }
        2 => {
            let at = random.below(target.len);
            let end = target.len.min(at + 1 + random.below(600));
            after[at..end].fill_with(|| random.byte());
            format!("bytes {at} to {end}")
        }
        3 => {
            after.fill(0);
            "zeros".to_owned()
        }
        _ => {
            let other = &live[random.below(live.len())];
            let len = target.len.min(other.len);
            after[..len].copy_from_slice(&device.get(other.at, len));
            format!("the content of {}", other.what)
        }
    };
    // What no checksum covers and nobody reads.
    after[target.idle.clone()].copy_from_slice(&before[target.idle.clone()]);
    if before == after {
        return None;
    }
    device.write_at(target.at, &after).unwrap();
    Some(format!("{how} in {}", target.what))
}

fn every_change_is_found(metadata: Profile, checksum: ChecksumKind, seeds: std::ops::Range<u64>) {
    let bytes = build::volume(metadata, checksum, 60);
    let live = live_blocks(&Surgeon::new(Patched::new(&bytes)));
    let dir = tempfile::tempdir().unwrap();
    let other = have("btrfs");
    for seed in seeds {
        let device = Patched::new(&bytes);
        let Some(done) = damage(&device, &live, &mut Random(seed)) else { continue };
        let first_super = done.ends_with("superblock at 65536");
        if metadata == Profile::Single && first_super {
            // Without its first superblock a volume is still found by the second.
            assert!(live.iter().any(|live| live.what == "superblock at 67108864"));
        }
        let mut lines = Vec::new();
        let report = cowback_block_store::check::check(&device, true, &mut |problem| {
            lines.push(problem.to_string());
        });
        assert!(!report.is_ok_and(|report| report.is_clean()), "seed {seed}: {done}");
        if other && seed % 16 == 0 {
            let path = dir.path().join("image");
            device.save(&path);
            let (good, text) = btrfs_check(&path);
            assert!(good || !lines.is_empty(), "seed {seed}: {done}: {text}");
        }
    }
}

#[test]
fn every_change_of_a_live_block_is_found() {
    every_change_is_found(Profile::Dup, ChecksumKind::Crc32c, 0..250);
}

#[test]
fn every_change_of_a_live_block_is_found_without_a_second_copy() {
    every_change_is_found(Profile::Single, ChecksumKind::Xxhash64, 1000..1250);
}

/// Changes a few bytes of a tree block behind its checksum's back.
fn forge(surgeon: &Surgeon, random: &mut Random) -> String {
    let trees = surgeon.trees();
    let tree = trees[random.below(trees.len())];
    let blocks = surgeon.blocks(tree);
    let block = blocks[random.below(blocks.len())];
    let copies = surgeon.copies(block);
    let mut bytes = surgeon.device.get(copies[0], surgeon.nodesize());
    let used: Vec<usize> = (32..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let mut done = format!("block {block} of {tree:?}:");
    for _ in 0..1 + random.below(2) {
        // Where there is something; of that, headers and keys are the most telling.
        let at = match random.below(4) {
            0 => 48 + random.below(HEADER_LEN - 48),
            1 => HEADER_LEN + random.below(300),
            _ => used[random.below(used.len())],
        };
        let new = match random.below(3) {
            0 => bytes[at] ^ (1 << random.below(8)),
            1 => bytes[at].wrapping_add(1),
            _ => random.byte(),
        };
        done += &format!(" {at}: {:#x} becomes {new:#x}", bytes[at]);
        bytes[at] = new;
    }
    let sum = digest(surgeon.sb.csum, &bytes[32..]).padded();
    bytes[..32].copy_from_slice(&sum);
    for at in copies {
        surgeon.device.write_at(at, &bytes).unwrap();
    }
    done
}

/// The seeds of forged volumes: as many as `COWBACK_FORGED` says, or a few.
fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("COWBACK_FORGED").ok().and_then(|count| count.parse().ok());
    0..count.unwrap_or(300)
}

#[test]
fn forged_blocks_never_panic_and_are_found_where_the_other_checker_finds_them() {
    let bytes: Vec<Arc<Vec<u8>>> = [Profile::Dup, Profile::Single]
        .map(|metadata| build::volume(metadata, ChecksumKind::Crc32c, 40))
        .into();
    let dir = tempfile::tempdir().unwrap();
    let other = have("btrfs");
    let every = if std::env::var("COWBACK_FORGED").is_ok() { 1 } else { 8 };
    let mut missed = Vec::new();
    for seed in seeds() {
        let surgeon = Surgeon::new(Patched::new(&bytes[usize::from(seed % 2 == 1)]));
        let done = forge(&surgeon, &mut Random(seed));
        let (lines, _) = problems(&surgeon.device);
        if lines.is_empty() && other && seed % every == 0 {
            let path = dir.path().join("image");
            surgeon.device.save(&path);
            let (good, text) = btrfs_check(&path);
            if !good {
                missed.push(format!("seed {seed}: {done}: {text}"));
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
