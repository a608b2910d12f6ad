//! Law E3: whatever is wrong with an image, there is an error that says what and where, or the right bytes; never a panic, a hang, or wrong bytes.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use cowback::device::{BlockDevice, MemoryDevice};
use cowback::options::Profile;
use cowback::{Error, Options, Volume};
use cowback_codec::{ChecksumKind, digest};
use cowback_testkit::overlay::Overlay;
use cowback_testkit::random::{Rng, seed};
use cowback_tests::work::content;
use cowback_tests::{Snapshot, snapshot};

fn options(metadata: Profile) -> Options {
    Options {
        metadata,
        threads: 1,
        cache_bytes: 4 << 20,
        commit_interval: None,
        ..Options::default()
    }
}

fn reading(metadata: Profile) -> Options {
    Options { read_only: true, ..options(metadata) }
}

/// A small volume with some of everything, and the byte ranges of its device that are not zero.
fn volume(metadata: Profile) -> (Arc<MemoryDevice>, Snapshot, Vec<u64>) {
    let device = Arc::new(MemoryDevice::new(32 << 20));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options(metadata)).unwrap();
    let mut rng = Rng::new(21);
    volume.create_dir("d").unwrap();
    for number in 0..40usize {
        let file = volume.create_file(format!("d/file{number}")).unwrap();
        file.write_at(0, &content(&mut rng, number * 700)).unwrap();
    }
    volume.create_file("large").unwrap().write_at(0, &content(&mut rng, 700_000)).unwrap();
    volume.symlink("d/file3", "link").unwrap();
    volume.set_xattr("large", b"user.note", b"value").unwrap();
    volume.commit().unwrap();
    let seen = snapshot(&volume).unwrap();
    volume.close().unwrap();
    let mut used = Vec::new();
    let mut sector = vec![0; 512];
    for at in (0..device.len().unwrap()).step_by(512) {
        device.read_at(at, &mut sector).unwrap();
        if sector.iter().any(|&byte| byte != 0) {
            used.push(at);
        }
    }
    (device, seen, used)
}

/// Opens and reads everything. An error is as good as the right content.
fn open_and_read(
    device: Arc<Overlay>,
    metadata: Profile,
    right: &Snapshot,
) -> Result<bool, String> {
    let volume = match Volume::open_on(device, &reading(metadata)) {
        Ok(volume) => volume,
        Err(error) => return told(&error),
    };
    match snapshot(&volume) {
        Ok(found) if found == *right => Ok(true),
        Ok(_) => Err("wrong content without an error".to_owned()),
        Err(error) => told(&error),
    }
}

fn told(error: &Error) -> Result<bool, String> {
    let text = error.to_string();
    if text.len() < 10 { Err(format!("this tells nothing: {text}")) } else { Ok(false) }
}

fn damage(rng: &mut Rng, device: &Overlay, used: &[u64]) -> String {
    let len = device.len().unwrap();
    let at = (*rng.pick(used) + rng.below(512)).min(len.saturating_sub(1 << 20));
    match rng.below(10) {
        0..6 => {
            let mut byte = [0];
            device.read_at(at, &mut byte).unwrap();
            byte[0] ^= 1 << rng.below(8);
            device.write_at(at, &byte).unwrap();
            format!("a bit at {at} is flipped")
        }
        6 => {
            let len = rng.index(64).max(1);
            let noise = rng.bytes(len);
            device.write_at(at, &noise).unwrap();
            format!("{len} bytes of noise at {at}")
        }
        7 => {
            let (from, to) = (*rng.pick(used) & !4095, at & !4095);
            let from = from.min(len.saturating_sub(1 << 20)) & !4095;
            let mut block = vec![0; 4096];
            device.read_at(from, &mut block).unwrap();
            device.write_at(to, &block).unwrap();
            format!("the block at {from} stands at {to} as well")
        }
        8 => {
            device.write_at(at & !4095, &[0; 4096]).unwrap();
            format!("the block of {at} is zero")
        }
        _ => {
            device.set_len(at + (1 << 20).min(len - at)).unwrap();
            format!("the image ends at {at}")
        }
    }
}

#[test]
fn damaged_images_give_an_error_or_the_right_content() {
    let seed = seed("corrupt", 13);
    let mut right = 0;
    for (profile, rounds) in [(Profile::Single, 6000), (Profile::Dup, 6000)] {
        let (device, seen, used) = volume(profile);
        for round in 0..rounds {
            let mut rng = Rng::new(seed).fork(round);
            let damaged = Arc::new(Overlay::over(Arc::clone(&device) as _).unwrap());
            let mut what = Vec::new();
            for _ in 0..1 + rng.below(3) {
                what.push(damage(&mut rng, &damaged, &used));
            }
            match open_and_read(damaged, profile, &seen) {
                Ok(unharmed) => right += u64::from(unharmed),
                Err(why) => panic!("seed {seed}, {profile:?}, round {round}: {what:?}: {why}"),
            }
        }
    }
    println!("12000 damaged images, {right} of them still readable in full");
    assert!(right > 0, "the second copy of metadata is worth something");
}

#[test]
fn what_is_no_btrfs_is_told_apart() {
    let cases: [(&str, Vec<u8>); 3] =
        [("empty", Vec::new()), ("short", vec![7; 5000]), ("noise", Rng::new(3).bytes(1 << 20))];
    for (what, bytes) in cases {
        let device = Arc::new(MemoryDevice::new(bytes.len() as u64));
        if !bytes.is_empty() {
            device.write_at(0, &bytes).unwrap();
        }
        let error = Volume::open_on(device, &options(Profile::Dup)).unwrap_err();
        println!("{what}: {error}");
        assert!(matches!(error, Error::Store(_)), "{what}: {error}");
    }
}

/// Gives the last entry of the root directory the last index that there is, in every version of its leaf that the image has.
fn with_last_index(image: &mut [u8], last: u64) {
    let key = |index: u64| [&256u64.to_le_bytes()[..], &[0x60], &index.to_le_bytes()].concat();
    let old = key(last);
    let mut changed = 0;
    for block in image.chunks_exact_mut(16 << 10) {
        // Behind the header of 101 bytes, items of 25 begin with their keys.
        let items = block[96..100].try_into().map(u32::from_le_bytes).unwrap() as usize;
        for at in (0..items.min(600)).map(|item| 101 + item * 25) {
            if block[100] == 0 && block[at..at + 17] == old {
                block[at..at + 17].copy_from_slice(&key(u64::MAX));
                let sum = digest(ChecksumKind::Crc32c, &block[32..]);
                block[..4].copy_from_slice(&sum.as_bytes()[..4]);
                changed += 1;
            }
        }
    }
    assert!(changed > 0);
}

#[test]
fn reading_a_directory_ends_at_the_last_index_that_there_is() {
    let device = Arc::new(MemoryDevice::new(32 << 20));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options(Profile::Single)).unwrap();
    for name in ["a", "b", "c"] {
        volume.create_dir(name).unwrap();
    }
    volume.close().unwrap();
    let mut image = device.to_vec();
    with_last_index(&mut image, 4); // the first entry of a directory has index 2
    device.write_at(0, &image).unwrap();
    let volume = Volume::open_on(device, &options(Profile::Single)).unwrap();
    let names: Vec<_> = volume.read_dir("").unwrap().into_iter().map(|at| at.name).collect();
    assert_eq!(names, [b"a", b"b", b"c"]);
    let error = volume.create_dir("d").unwrap_err();
    assert!(error.to_string().contains("index"), "{error}");
}

#[test]
fn after_a_clean_close_every_copy_of_the_superblock_is_of_the_last_commit() {
    let device = Arc::new(MemoryDevice::new(256 << 20));
    let options = Options { commit_interval: None, ..Options::default() };
    let volume = Volume::create_on(Arc::clone(&device) as _, &options).unwrap();
    for number in 0..6 {
        volume.create_file(format!("{number}")).unwrap();
        volume.commit().unwrap();
    }
    volume.close().unwrap();
    let at = |from: u64, len: usize| {
        let mut bytes = vec![0; len];
        device.read_at(from, &mut bytes).unwrap();
        bytes
    };
    let generation = at((64 << 10) + 0x48, 8);
    for copy in [128 << 10, 64 << 20] {
        assert_eq!(at(copy + 0x48, 8), generation, "the copy at {copy}");
    }
    // The four backup roots are of four commits, each with its generation behind the root's address.
    let roots = at((64 << 10) + 0xb2b, 4 * 168);
    let mut generations: Vec<_> = roots.chunks(168).map(|root| root[8..16].to_vec()).collect();
    generations.sort();
    generations.dedup();
    assert_eq!(generations.len(), 4);
}
