//! No space: told when space is allocated, and not when it is written to.

use std::sync::Arc;

use cowback::device::{BlockDevice, MemoryDevice};
use cowback::options::CompressionPolicy;
use cowback::{File, Options, Volume};
use cowback_testkit::random::Rng;
use cowback_tests::read_all;

fn options(threads: usize) -> Options {
    Options {
        cache_bytes: 4 << 20,
        threads,
        compression: CompressionPolicy::None,
        commit_interval: None,
        ..Options::default()
    }
}

fn volume(threads: usize) -> (Arc<MemoryDevice>, Volume) {
    let device = Arc::new(MemoryDevice::new(64 << 20));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options(threads)).unwrap();
    (device, volume)
}

/// Writes noise until there is no space for one more block.
fn fill(volume: &Volume) {
    let file = volume.create_file("filler").unwrap();
    let noise = Rng::new(3).bytes(1 << 20);
    let (mut at, mut step) = (0, noise.len());
    while step >= 4096 {
        match file.write_at(at, &noise[..step]) {
            Ok(()) => at += step as u64,
            Err(error) => {
                assert!(error.is_no_space(), "{error}");
                step /= 2;
            }
        }
    }
    // What is dirty would need space at its writeback.
    volume.commit().unwrap();
}

fn is_full(volume: &Volume) -> bool {
    let file = volume.create_file("one more").unwrap();
    let full = matches!(file.write_at(0, &[1; 8192]), Err(error) if error.is_no_space());
    drop(file);
    volume.remove_file("one more").unwrap();
    full
}

fn record(file: &File, model: &mut Vec<u8>, at: usize, data: &[u8]) {
    file.write_at(at as u64, data).unwrap();
    model.resize(model.len().max(at + data.len()), 0);
    model[at..at + data.len()].copy_from_slice(data);
}

#[test]
fn what_was_allocated_can_be_written_on_a_full_volume() {
    for threads in [1, 2, 8] {
        for nocow in [false, true] {
            let (device, volume) = volume(threads);
            let file = volume.create_file("log").unwrap();
            file.set_nocow(nocow).unwrap();
            file.allocate_keep_size(0..8 << 20).unwrap();
            fill(&volume);
            assert!(is_full(&volume));
            let (mut model, mut rng) = (Vec::new(), Rng::new(5));
            while model.len() + 100_000 < 8 << 20 {
                let at = model.len().next_multiple_of(4096);
                let blocks = 1 + rng.index(20);
                let data = rng.bytes(4096 * blocks);
                record(&file, &mut model, at, &data);
                if rng.percent(5) {
                    file.sync_data().unwrap();
                }
            }
            if nocow {
                // Again and again, as what is there is overwritten.
                for _ in 0..200 {
                    let len = 1 + rng.index(50_000);
                    let data = rng.bytes(len);
                    record(&file, &mut model, rng.index(7 << 20), &data);
                }
            }
            file.sync_all().unwrap();
            assert!(is_full(&volume));
            assert!(file.extents().unwrap().iter().all(|extent| extent.codec == "none"));
            drop((file, volume)); // as if killed
            let volume = Volume::open_on(device, &options(threads)).unwrap();
            assert!(read_all(&volume, "log").unwrap() == model, "{threads} threads, {nocow}");
            volume.remove_file("filler").unwrap();
            volume.close().unwrap();
        }
    }
}

#[test]
fn an_allocation_that_does_not_fit_is_refused_and_changes_nothing() {
    let (_, volume) = volume(2);
    let file = volume.create_file("f").unwrap();
    file.write_at(0, &[7; 10_000]).unwrap();
    file.sync_data().unwrap();
    let (before, extents) = (file.metadata().unwrap().allocated, file.extents().unwrap());
    for refused in [file.allocate(0..1 << 40), file.zero_range(0..1 << 40)] {
        assert!(refused.unwrap_err().is_no_space());
    }
    assert_eq!((file.len(), file.metadata().unwrap().allocated), (10_000, before));
    assert_eq!(file.extents().unwrap(), extents);
    assert!(read_all(&volume, "f").unwrap() == vec![7; 10_000]);
    file.allocate(0..1 << 20).unwrap();
    assert_eq!(file.len(), 1 << 20);
    drop(file);
    volume.close().unwrap();
}

#[test]
fn space_behind_the_end_goes_when_the_length_is_set() {
    let (_, volume) = volume(2);
    let file = volume.create_file("f").unwrap();
    file.write_at(0, &[7; 5000]).unwrap();
    file.allocate_keep_size(0..1 << 20).unwrap();
    file.sync_data().unwrap();
    assert_eq!((file.len(), file.metadata().unwrap().allocated), (5000, 1 << 20));
    assert_eq!(file.seek_hole(0).unwrap(), Some(5000));
    assert_eq!(file.seek_data(5000).unwrap(), None);
    file.set_len(5000).unwrap();
    file.sync_data().unwrap();
    assert_eq!((file.len(), file.metadata().unwrap().allocated), (5000, 8192));
    assert!(read_all(&volume, "f").unwrap() == vec![7; 5000]);
    drop(file);
    volume.close().unwrap();
}

#[test]
fn a_file_with_content_is_not_made_one_that_is_overwritten_in_place() {
    let (_, volume) = volume(2);
    let file = volume.create_file("f").unwrap();
    file.write_at(0, b"content").unwrap();
    let refused = file.set_nocow(true).unwrap_err().to_string();
    assert!(refused.contains("nocow") && refused.contains("7 bytes"), "{refused}");
    assert!(!file.is_nocow());
    file.set_len(0).unwrap();
    file.set_nocow(true).unwrap();
    assert!(file.is_nocow());
    let compressed = cowback::FilePolicy::from("zstd".parse::<CompressionPolicy>().unwrap());
    assert!(file.set_policy(compressed).is_err());
    file.set_nocow(false).unwrap();
    file.set_policy(compressed).unwrap();
    drop(file);
    volume.close().unwrap();
}

#[test]
fn what_no_device_could_hold_is_refused_by_a_volume_that_grows() {
    let device = Arc::new(MemoryDevice::new(0));
    let volume = Volume::create_on(Arc::clone(&device) as _, &Options::default()).unwrap();
    let file = volume.create_file("file").unwrap();
    let before = device.len().unwrap();
    let error = file.allocate(0..1 << 50).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_eq!((file.len(), device.len().unwrap()), (0, before));
    file.allocate(0..1 << 40).unwrap();
    assert_eq!(file.len(), 1 << 40);
    drop(file);
    volume.close().unwrap();
}

#[test]
fn behind_a_block_that_is_not_full_there_is_what_was_allocated_too() {
    for threads in [1, 2, 8] {
        let (device, volume) = volume(threads);
        let names = ["written", "longer", "allocated"];
        let files = names.map(|name| {
            let file = volume.create_file(name).unwrap();
            file.allocate_keep_size(0..1 << 20).unwrap();
            file.write_at(0, &[1; 100]).unwrap();
            file.sync_all().unwrap();
            file
        });
        fill(&volume);
        assert!(is_full(&volume));
        files[0].write_at(8192, &[2; 5000]).unwrap();
        files[1].set_len(20_000).unwrap();
        files[2].allocate(0..1 << 20).unwrap();
        volume.commit().unwrap();
        drop(files);
        drop(volume);
        let volume = Volume::open_on(device as _, &options(threads)).unwrap();
        let with = |len: usize, more: &[u8]| {
            let mut content = vec![1; 100];
            content.resize(8192, 0);
            content.extend(more);
            content.resize(len, 0);
            content
        };
        assert!(read_all(&volume, "written").unwrap() == with(13_192, &[2; 5000]));
        assert!(read_all(&volume, "longer").unwrap() == with(20_000, &[]));
        assert!(read_all(&volume, "allocated").unwrap() == with(1 << 20, &[]));
        volume.close().unwrap();
    }
}

#[test]
fn a_file_is_cut_within_a_block_on_a_full_volume_and_what_was_cut_off_is_not_seen_again() {
    const CUT: u64 = 1_000_001;
    for (cached, nocow) in [(true, false), (false, false), (true, true)] {
        let (device, volume) = volume(2);
        let file = volume.create_file("f").unwrap();
        file.set_nocow(nocow).unwrap();
        let mut content = Rng::new(7).bytes(20 << 20);
        file.write_at(0, &content).unwrap();
        file.sync_all().unwrap();
        fill(&volume);
        assert!(is_full(&volume));
        if !cached {
            file.set_cache_policy(cowback::CachePolicy::Uncached);
            assert_eq!(file.read_at(0, &mut content).unwrap(), content.len());
        }
        file.set_len(CUT).unwrap();
        volume.commit().unwrap();
        drop(file);
        drop(volume);
        let volume = Volume::open_on(Arc::clone(&device) as _, &options(2)).unwrap();
        content.truncate(usize::try_from(CUT).unwrap());
        assert!(read_all(&volume, "f").unwrap() == content);
        let file = volume.open_file("f").unwrap();
        file.set_len(CUT + 1000).unwrap();
        content.resize(content.len() + 1000, 0);
        assert!(read_all(&volume, "f").unwrap() == content, "what was cut off is back");
        drop(file);
        volume.close().unwrap();
        let volume = Volume::open_on(device as _, &options(2)).unwrap();
        assert!(read_all(&volume, "f").unwrap() == content);
        volume.close().unwrap();
    }
}
