//! Software that nobody here wrote judges what cowback writes: `btrfs check` in both modes, and the Linux kernel, which also writes to it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use cowback::options::{ChecksumKind, CompressionPolicy, Profile};
use cowback::{Options, Volume};
use cowback_testkit::oracle::{Access, Mode, Oracle};
use cowback_testkit::outcome::skipped;
use cowback_testkit::random::Rng;
use cowback_tests::read_all;
use cowback_tests::work::content;

/// The sizes at which something changes: inline, block, extent, chunk.
const SIZES: [usize; 22] = [
    0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 8191, 8192, 131_071, 131_072, 131_073, 262_144,
    524_287, 524_288, 524_289, 655_361, 1_048_576, 1_048_577, 2_000_000, 5_000_001,
];

/// The contents at one size: words, noise, and both in turns.
fn contents(size: usize) -> Vec<Vec<u8>> {
    (0..5).map(|kind| content(&mut Rng::new(size as u64 * 31 + kind), size)).collect()
}

fn build(image: &Path, options: &Options) -> Vec<(String, Vec<u8>)> {
    let volume = Volume::create(image, options).unwrap();
    let mut files = Vec::new();
    volume.create_dir("sizes").unwrap();
    for size in SIZES {
        for (number, content) in contents(size).into_iter().enumerate() {
            let path = format!("sizes/{size}-{number}");
            volume.create_file(&path).unwrap().write_at(0, &content).unwrap();
            files.push((path, content));
        }
        volume.commit().unwrap();
    }
    // Written over in places, over several commits; and a hole.
    let mut rng = Rng::new(8);
    let mut worn = content(&mut rng, 3_000_000);
    let file = volume.create_file("worn").unwrap();
    file.write_at(0, &worn).unwrap();
    for _ in 0..12 {
        let (at, len) = (rng.index(2_800_000), 1 + rng.index(200_000));
        let patch = content(&mut rng, len);
        worn[at..at + len].copy_from_slice(&patch);
        file.write_at(at as u64, &patch).unwrap();
        file.sync_data().unwrap();
    }
    file.set_len(2_345_678).unwrap();
    worn.truncate(2_345_678);
    files.push(("worn".to_owned(), worn));
    let sparse = volume.create_file("sparse").unwrap();
    sparse.write_at(200 << 20, b"after a hole of 200 MiB").unwrap();
    drop((file, sparse));
    volume.close().unwrap();
    files
}

fn judge(image: &Path, files: &[(String, Vec<u8>)]) {
    let oracle = Oracle::available();
    for mode in [Mode::Original, Mode::Lowmem] {
        oracle.check(image, mode).unwrap().report("btrfs check");
    }
    match oracle.mount(image, Access::ReadWrite).unwrap() {
        Err(why) => skipped("the kernel's mount", &why),
        Ok(mount) => {
            for (path, content) in files {
                assert!(std::fs::read(mount.path().join(path)).unwrap() == *content, "{path}");
            }
            mount.scrub().unwrap();
            std::fs::write(mount.path().join("kernel"), vec![b'k'; 300_000]).unwrap();
            std::fs::remove_file(mount.path().join("sizes/4096-0")).unwrap();
            std::fs::rename(mount.path().join("worn"), mount.path().join("sizes/worn")).unwrap();
            mount.unmount().unwrap();
            oracle.check(image, Mode::Original).unwrap().report("btrfs check after the kernel");
            read_what_the_kernel_wrote(image, files);
            oracle.check(image, Mode::Lowmem).unwrap().report("btrfs check after both");
        }
    }
}

/// The kernel's changes are found, and further ones go on top.
fn read_what_the_kernel_wrote(image: &Path, files: &[(String, Vec<u8>)]) {
    let volume = Volume::open(image, &Options::default()).unwrap();
    assert!(read_all(&volume, "kernel").unwrap() == vec![b'k'; 300_000]);
    assert!(!volume.exists("sizes/4096-0").unwrap());
    for (path, content) in files {
        let path = if path == "worn" { "sizes/worn" } else { path };
        if path != "sizes/4096-0" {
            assert!(read_all(&volume, path).unwrap() == *content, "{path} after the kernel");
        }
    }
    volume.create_file("back again").unwrap().write_at(0, &[1; 100_000]).unwrap();
    volume.remove_file("kernel").unwrap();
    volume.close().unwrap();
}

fn with(compress: &str, force: bool) -> Options {
    let policy: CompressionPolicy = compress.parse().unwrap();
    Options {
        compression: if force { policy.forced() } else { policy },
        size: Some(1 << 30), // room for the kernel's own writes
        commit_interval: None,
        ..Options::default()
    }
}

fn build_and_judge(options: &Options) {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("oracle.img");
    let files = build(&image, options);
    judge(&image, &files);
}

#[test]
fn zstd_images_are_btrfs() {
    build_and_judge(&with("zstd:3", false));
    build_and_judge(&with("zstd:-15", true));
    build_and_judge(&with("zstd:15", true));
}

#[test]
fn zlib_lzo_and_uncompressed_images_are_btrfs() {
    for compress in ["zlib:9", "lzo", "none"] {
        build_and_judge(&with(compress, true));
    }
}

#[test]
fn every_checksum_and_profile_is_btrfs() {
    for checksum in ChecksumKind::ALL {
        for metadata in [Profile::Dup, Profile::Single] {
            let label = format!("cowback {checksum}");
            build_and_judge(&Options { checksum, metadata, label, ..with("zstd:3", false) });
        }
    }
}
