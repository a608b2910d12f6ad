//! Random work, the same for every number of threads, down to the bytes of the image.

use std::path::Path;

use cowback::{Options, Timespec, Volume};
use cowback_testkit::oracle::{Access, Mode, Oracle};
use cowback_testkit::outcome::skipped;
use cowback_testkit::random::{Rng, seed};
use cowback_tests::files::Files;
use cowback_tests::snapshot;

fn options(threads: usize) -> Options {
    Options {
        cache_bytes: 2 << 20,
        threads,
        size: Some(256 << 20),
        compression: "zstd:1".parse().unwrap(),
        commit_interval: None,
        uuid: Some(uuid::Uuid::from_u128(7)),
        fixed_time: Some(Timespec { sec: 1_700_000_000, nsec: 0 }),
        ..Options::default()
    }
}

/// Does `steps` operations, with commits and reopening in between; and, if no file is overwritten in place, with kills, which leave exactly what was
/// committed. Gives what is in the volume at the end.
fn work(image: &Path, seed: u64, nocow: bool, threads: usize, steps: u64) -> Files {
    let mut rng = Rng::new(seed);
    let mut volume = Volume::create(image, &options(threads)).unwrap();
    let mut files = Files::default();
    files.make(&volume, "", nocow);
    volume.commit().unwrap();
    let mut committed = files.clone();
    let (mut in_place, mut packed) = (0, 0);
    let mut count = |volume: &Volume| {
        let written = volume.stats().written;
        in_place += written.in_place.extents;
        packed += written.zstd.extents;
    };
    for _ in 0..steps {
        match rng.below(60) {
            0 => {
                volume.commit().unwrap();
                committed = files.clone();
            }
            1 if nocow => volume.open_file("log").unwrap().sync_data().unwrap(),
            1 => {
                count(&volume);
                drop(volume); // as if killed
                files = committed.clone();
                volume = Volume::open(image, &options(threads)).unwrap();
                assert_eq!(snapshot(&volume).unwrap(), files.snapshot(), "after a kill");
            }
            2 => {
                count(&volume);
                volume.close().unwrap();
                committed = files.clone();
                volume = Volume::open(image, &options(threads)).unwrap();
                let is_nocow = nocow && volume.open_file("wal").unwrap().is_nocow();
                assert_eq!(is_nocow, nocow, "it is stored");
            }
            _ => files.step(&mut rng, &volume),
        }
    }
    assert_eq!(snapshot(&volume).unwrap(), files.snapshot());
    volume.commit().unwrap();
    count(&volume);
    assert!(in_place > 10 && packed > 10, "{in_place} in place, {packed} compressed");
    volume.close().unwrap();
    files
}

fn judge(image: &Path, files: &Files) {
    Volume::check(image, &mut |problem| panic!("{problem}")).unwrap();
    let oracle = Oracle::available();
    for mode in [Mode::Original, Mode::Lowmem] {
        oracle.check(image, mode).unwrap().report("btrfs check");
    }
    match oracle.mount(image, Access::ReadOnly).unwrap() {
        Err(why) => skipped("the kernel's mount", &why),
        Ok(mount) => {
            for (name, content) in files.iter() {
                assert!(std::fs::read(mount.path().join(name)).unwrap() == *content, "{name}");
            }
            mount.unmount().unwrap();
        }
    }
}

#[test]
fn law_r3_random_work_ends_in_the_same_image_for_any_number_of_threads() {
    let seed = seed("prealloc_random", 1);
    let dir = tempfile::tempdir().unwrap();
    for round in 0..8 {
        let image = |threads: usize| dir.path().join(format!("{round}-{threads}.img"));
        for threads in [1, 2, 8] {
            let files = work(&image(threads), seed + round, round % 2 == 0, threads, 400);
            if threads == 1 || round == 0 {
                judge(&image(threads), &files);
            }
        }
        let first = std::fs::read(image(1)).unwrap();
        for threads in [2, 8] {
            let same = std::fs::read(image(threads)).unwrap() == first;
            assert!(same, "seed {}: {threads} threads make another image", seed + round);
            std::fs::remove_file(image(threads)).unwrap();
        }
        std::fs::remove_file(image(1)).unwrap();
    }
}
