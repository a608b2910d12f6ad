//! A device that fails (laws E1, E4, D1): every k-th write, flush and read, once or from then on; and a volume that is full.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use cowback::device::MemoryDevice;
use cowback::error::StoreError;
use cowback::{Error, Options, Volume};
use cowback_testkit::faulty::{Effect, Fault, FaultDevice, Op, sweep};
use cowback_testkit::random::{Rng, seed};
use cowback_tests::model::Model;
use cowback_tests::work::{Shape, content, step};
use cowback_tests::{read_all, snapshot};

fn options() -> Options {
    Options { cache_bytes: 8 << 20, threads: 2, commit_interval: None, ..Options::default() }
}

/// Writes, commits, meets `fault`, and comes back on a device that is well again. Tells how often the fault fired.
fn meet(seed: u64, fault: Fault) -> u64 {
    let memory = Arc::new(MemoryDevice::new(64 << 20));
    let device = Arc::new(FaultDevice::new(Arc::clone(&memory) as _, seed));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
    let mut model = Model::default();
    let mut rng = Rng::new(seed);
    let mut allowed = vec![model.snapshot()];
    device.arm_from_now(fault);
    for _ in 0..4 {
        for _ in 0..6 {
            step(&mut rng, Shape::SMALL, &volume, &mut model);
        }
        let result = volume.commit();
        if result.is_ok() {
            allowed.clear();
        }
        // A commit that failed may be on disk or not, when it was the flush at its end that failed.
        allowed.push(model.snapshot());
        let stats = volume.stats();
        assert_eq!(stats.in_flight_bytes, 0, "{fault:?}");
        assert_eq!(
            (stats.cache.writeback, stats.cache.locked, stats.cache.frozen),
            (0, 0, 0),
            "{fault:?}"
        );
        assert_eq!(stats.store.data.promised, stats.dirty_bytes, "O4: {fault:?}");
        if result.is_err() {
            assert_eq!(snapshot(&volume).unwrap(), model.snapshot(), "still readable: {fault:?}");
            if volume.create_file("/probe").is_err() {
                break; // it has turned read-only, with its reason
            }
            volume.remove_file("/probe").unwrap();
        }
    }
    let fired = device.fired();
    drop(volume);
    device.disarm();
    let volume = Volume::open_on(memory, &options()).unwrap();
    let found = snapshot(&volume).unwrap();
    assert!(allowed.contains(&found), "{fault:?}: acknowledged data is intact");
    volume.close().unwrap();
    fired
}

#[test]
fn every_failing_write_and_flush_leaves_what_was_acknowledged() {
    let seed = seed("faults", 5);
    let mut met = 0;
    for effect in [Effect::Eio, Effect::Torn, Effect::Enospc] {
        met += sweep(Op::Write, effect, 1, |fault| meet(seed, fault));
    }
    for effect in [Effect::Eio, Effect::DropUnsynced] {
        met += sweep(Op::Flush, effect, 1, |fault| meet(seed, fault));
    }
    println!("{met} runs met their fault");
    assert!(met > 100, "only {met} runs met their fault");
}

#[test]
fn a_read_that_fails_is_an_io_error_and_a_later_one_works() {
    let device = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(64 << 20)), 1));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
    let data = content(&mut Rng::new(4), 1_000_000);
    volume.create_file("f").unwrap().write_at(0, &data).unwrap();
    volume.close().unwrap();
    let volume = Volume::open_on(Arc::clone(&device) as _, &options()).unwrap();
    let file = volume.open_file("f").unwrap();
    let mut buffer = vec![0; data.len()];
    device.arm_from_now(Fault::forever(Op::Read, 0, Effect::Eio));
    let error = file.read_at(0, &mut buffer).unwrap_err();
    // Of a block of a tree, that goes for each of its copies.
    let could_not_read = |error: &StoreError| matches!(error, StoreError::Io { op: "read", .. });
    let told = match &error {
        Error::Store(StoreError::NoGoodCopy { copies, .. }) => {
            copies.iter().all(|(_, error)| could_not_read(error))
        }
        Error::Store(error) => could_not_read(error),
        _ => false,
    };
    assert!(told, "{error}");
    device.disarm();
    assert_eq!(file.read_at(0, &mut buffer).unwrap(), data.len());
    assert!(buffer == data);
    drop(file);
    volume.close().unwrap();
}

#[test]
fn a_full_volume_says_so_keeps_its_content_and_goes_on_when_space_is_freed() {
    let memory = Arc::new(MemoryDevice::new(48 << 20));
    let volume = Volume::create_on(Arc::clone(&memory) as _, &options()).unwrap();
    let mut rng = Rng::new(11);
    let keep = rng.bytes(3_000_000);
    volume.create_file("keep").unwrap().write_at(0, &keep).unwrap();
    volume.commit().unwrap();
    let filler = volume.create_file("filler").unwrap();
    let mut at = 0;
    let error = loop {
        let data = rng.bytes(1 << 20);
        match filler.write_at(at, &data) {
            Ok(()) => at += data.len() as u64,
            Err(error) => break error,
        }
        assert!(at < 48 << 20, "a volume of 48 MiB holds no more");
    };
    assert!(error.is_no_space(), "{error}");
    assert!(at > 16 << 20, "only {at} bytes fit");
    assert!(read_all(&volume, "keep").unwrap() == keep, "old content is intact");
    volume.commit().unwrap();
    drop(filler);
    for round in 0..3 {
        volume.remove_file("filler").unwrap();
        volume.commit().unwrap();
        let again = volume.create_file("filler").unwrap();
        again
            .write_at(0, &rng.bytes(12 << 20))
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        again.sync_data().unwrap();
    }
    volume.close().unwrap();
    let volume = Volume::open_on(memory, &options()).unwrap();
    assert!(read_all(&volume, "keep").unwrap() == keep);
    volume.close().unwrap();
}

#[test]
fn data_that_cannot_be_written_is_never_told_of_as_a_hole() {
    let device = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(64 << 20)), 1));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
    let file = volume.create_file("f").unwrap();
    file.write_at(0, &content(&mut Rng::new(2), 300_000)).unwrap();
    device.arm_from_now(Fault::forever(Op::Write, 0, Effect::Eio));
    assert!(matches!(file.data_ranges(), Err(Error::Store(StoreError::Io { .. }))));
    assert!(file.seek_hole(0).is_err() && file.seek_data(0).is_err() && file.extents().is_err());
    device.disarm();
    let ranges = file.data_ranges().unwrap();
    assert!(matches!(&ranges[..], [all] if *all == (0..300_000)), "{ranges:?}");
    assert_eq!(file.seek_hole(0).unwrap(), Some(300_000));
    drop(file.sync_data()); // tells of the failure, once
    file.sync_data().unwrap();
    drop(file);
    volume.close().unwrap();
}
