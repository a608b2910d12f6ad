//! Named scenarios of IO errors (laws E1, E2): one of several writes, one of several ordered extents, metadata; and who hears of it, how often.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use cowback::device::MemoryDevice;
use cowback::error::StoreError;
use cowback::{Error, File, Options, Volume};
use cowback_block_store::{OpenOptions, Store};
use cowback_testkit::faulty::{Effect, Fault, FaultDevice, Op};
use cowback_testkit::random::Rng;
use cowback_tests::read_all;

const CHUNK: usize = 512 << 10;
const EXTENT: usize = 128 << 10;

fn volume(compression: &str) -> (Arc<FaultDevice>, Volume) {
    let device = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(64 << 20)), 1));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options(compression)).unwrap();
    (device, volume)
}

fn options(compression: &str) -> Options {
    Options {
        compression: compression.parse().unwrap(),
        threads: 2,
        cache_bytes: 32 << 20,
        commit_interval: None,
        ..Options::default()
    }
}

/// Words and noise in turns of 128 KiB: each is an extent of its own.
fn turns(len: usize) -> Vec<u8> {
    let noise = Rng::new(9).bytes(len);
    let words = b"one extent of several; ".iter().copied().cycle();
    let turns = noise.iter().zip(words).enumerate();
    turns
        .map(|(at, (noise, word))| if (at / EXTENT).is_multiple_of(2) { word } else { *noise })
        .collect()
}

fn io_error(result: Result<(), Error>, op: &str) -> bool {
    matches!(result, Err(Error::Store(StoreError::Io { op: found, .. })) if found == op)
}

/// What is durable is read by a volume of its own.
fn expect_durable(device: &Arc<FaultDevice>, volume: Volume, name: &str, content: &[u8]) {
    drop(volume);
    let volume = Volume::open_on(Arc::clone(device.inner()), &options("none")).unwrap();
    assert!(read_all(&volume, name).unwrap() == content);
    volume.close().unwrap();
}

/// Has a file written back once, without a commit, which would try again what fails.
fn write_back(volume: &Volume, file: &File) {
    file.start_writeback();
    while volume.stats().in_flight_bytes > 0 {
        std::thread::yield_now();
    }
}

/// Told once to each handle that was open when it happened, and to none that was opened later.
fn expect_told_once(handles: &[&File], later: &File) {
    for (number, handle) in handles.iter().enumerate() {
        assert!(io_error(handle.sync_data(), "write"), "handle {number} has not heard of it");
        handle.sync_data().unwrap_or_else(|error| panic!("handle {number}: told twice: {error}"));
    }
    later.sync_data().unwrap();
}

#[test]
fn one_of_several_ordered_extents_of_a_chunk_fails_and_the_others_are_clean() {
    let content = turns(CHUNK);
    let extents = CHUNK / EXTENT;
    for failing in 0..extents as u64 {
        let (device, volume) = volume("zstd:3");
        let first = volume.create_file("f").unwrap();
        let second = volume.open_file("f").unwrap();
        first.write_at(0, &content).unwrap();
        device.arm_from_now(Fault::once(Op::Write, failing, Effect::Eio));
        write_back(&volume, &first);
        assert_eq!(device.fired(), 1);
        assert_eq!(volume.stats().dirty_bytes, EXTENT as u64, "only what failed is dirty");
        let later = volume.open_file("f").unwrap();
        assert!(read_all(&volume, "f").unwrap() == content);
        let before = device.count(Op::Write);
        expect_told_once(&[&first, &second], &later);
        assert!(device.count(Op::Write) > before, "it was tried again");
        assert_eq!(volume.stats().dirty_bytes, 0);
        drop((first, second, later));
        expect_durable(&device, volume, "f", &content);
    }
}

#[test]
fn one_of_several_writes_fails_wherever_it_is_and_all_of_the_file_is_written_in_the_end() {
    // Eight chunks, and so eight jobs.
    let content = Rng::new(4).bytes(8 * CHUNK);
    for failing in 0..8 {
        for effect in [Effect::Eio, Effect::Short, Effect::Torn] {
            let (device, volume) = volume("zstd:3");
            let file = volume.create_file("f").unwrap();
            file.write_at(0, &content).unwrap();
            device.arm_from_now(Fault::once(Op::Write, failing, effect));
            write_back(&volume, &file);
            let later = volume.open_file("f").unwrap();
            assert_eq!(volume.stats().dirty_bytes, CHUNK as u64, "{failing} {effect:?}");
            expect_told_once(&[&file], &later);
            drop((file, later));
            expect_durable(&device, volume, "f", &content);
        }
    }
}

#[test]
fn an_error_of_one_file_is_told_to_the_handles_of_that_file_alone() {
    let (device, volume) = volume("none");
    let (bad, good) = (volume.create_file("bad").unwrap(), volume.create_file("good").unwrap());
    volume.commit().unwrap();
    bad.write_at(0, &[1; 100_000]).unwrap();
    device.arm_from_now(Fault::once(Op::Write, 0, Effect::Eio));
    write_back(&volume, &bad);
    good.write_at(0, &[2; 100_000]).unwrap();
    good.sync_data().unwrap();
    assert!(io_error(bad.sync_data(), "write"), "though the data is durable by now");
    bad.sync_data().unwrap();
    drop((bad, good));
    expect_durable(&device, volume, "bad", &[1; 100_000]);
}

#[test]
fn an_error_of_metadata_fails_the_sync_of_a_file_that_has_no_other_data() {
    // The content is inline, so no write of data can fail: the kernel's syncfs returned 0 then.
    for op in [Op::Write, Op::Flush] {
        let (device, volume) = volume("zstd:3");
        let file = volume.create_file("small").unwrap();
        file.sync_data().unwrap();
        let content = Rng::new(1).bytes(900);
        file.write_at(0, &content).unwrap();
        device.arm_from_now(Fault::forever(op, 0, Effect::Eio));
        let name = if op == Op::Write { "write" } else { "flush" };
        assert!(io_error(file.sync_data(), name));
        // It is not durable, and every sync says so, until it is.
        let other = volume.open_file("small").unwrap();
        for handle in [&file, &other, &file] {
            let refused = handle.sync_data();
            let told = matches!(&refused, Err(Error::Store(StoreError::ReadOnly { reason }))
                if reason.contains(name));
            assert!(told, "{refused:?}");
        }
        let reason = volume.read_only_reason();
        assert!(reason.as_ref().is_some_and(|why| why.contains(name)), "{reason:?}");
        assert!(io_error(volume.try_resume(), name), "the device is still gone");
        device.disarm();
        volume.try_resume().unwrap();
        assert_eq!(volume.read_only_reason(), None);
        file.sync_data().unwrap();
        other.sync_data().unwrap();
        drop((file, other));
        expect_durable(&device, volume, "small", &content);
    }
}

#[test]
fn a_write_of_metadata_fails_at_each_place_of_a_commit_and_the_volume_goes_on() {
    for place in 0.. {
        let (device, volume) = volume("none");
        let file = volume.create_file("f").unwrap();
        file.write_at(0, &[1; 50_000]).unwrap();
        file.sync_data().unwrap();
        file.write_at(10_000, &[2; 50_000]).unwrap();
        // One write of data comes first.
        device.arm_from_now(Fault::once(Op::Write, 1 + place, Effect::Torn));
        let done = file.sync_data();
        if device.fired() == 0 {
            assert!(place >= 4, "{place}");
            done.unwrap();
            break;
        }
        assert!(io_error(done, "write"), "place {place}");
        assert!(volume.create_file("g").is_err(), "it has stopped");
        volume.try_resume().unwrap();
        volume.create_file("g").unwrap();
        file.sync_data().unwrap();
        drop(file);
        let mut content = vec![1; 10_000];
        content.resize(60_000, 2);
        expect_durable(&device, volume, "f", &content);
    }
}

#[test]
fn what_writers_do_while_a_volume_has_stopped_goes_out_when_it_goes_on() {
    let (device, volume) = volume("none");
    let file = volume.create_file("f").unwrap();
    file.write_at(0, &[1; 50_000]).unwrap();
    device.arm_from_now(Fault::forever(Op::Flush, 0, Effect::Forget));
    assert!(file.sync_data().is_err());
    let refused = file.write_at(0, &[2; 10]);
    assert!(matches!(refused, Err(Error::Store(StoreError::ReadOnly { .. }))), "{refused:?}");
    assert!(read_all(&volume, "f").unwrap() == [1; 50_000]);
    device.disarm();
    volume.try_resume().unwrap();
    file.write_at(0, &[2; 10]).unwrap();
    file.sync_data().unwrap();
    drop(file);
    device.cut_power().unwrap();
    let mut content = vec![2; 10];
    content.resize(50_000, 1);
    expect_durable(&device, volume, "f", &content);
}

/// A file without a name whose last handle is dropped while the volume takes no changes.
#[test]
fn what_could_not_be_thrown_away_while_a_volume_had_stopped_goes_when_it_goes_on() {
    let (device, volume) = volume("none");
    let file = volume.create_file("f").unwrap();
    file.write_at(0, &[1; 1 << 20]).unwrap();
    volume.remove_file("f").unwrap();
    volume.commit().unwrap();
    volume.create_dir("dir").unwrap();
    device.arm_from_now(Fault::forever(Op::Flush, 0, Effect::Forget));
    assert!(volume.commit().is_err());
    drop(file);
    device.disarm();
    volume.try_resume().unwrap();
    // The first commit after that goes on with it, and the next one has it.
    for name in ["one", "another"] {
        volume.create_dir(name).unwrap();
        volume.commit().unwrap();
    }
    drop(volume);
    device.cut_power().unwrap();
    let store = Store::open(device, &OpenOptions::default()).unwrap();
    assert_eq!(store.orphans().unwrap(), []);
}

#[test]
fn a_device_that_panics_in_a_commit_leaves_no_commit_that_names_what_was_not_written() {
    for (op, least) in [(Op::Write, 4), (Op::Flush, 2)] {
        for place in 0.. {
            cowback_tests::rough::hush();
            let (device, volume) = volume("none");
            let file = volume.create_file("f").unwrap();
            file.sync_data().unwrap();
            file.write_at(0, &[3; 50_000]).unwrap();
            volume.create_file("g").unwrap();
            device.arm_from_now(Fault::once(op, place, Effect::Panic));
            let committed =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| volume.commit().is_ok()));
            let fired = device.fired() > 0;
            device.disarm();
            let stopped = volume.create_file("h").is_err();
            assert_eq!(stopped, fired && committed.is_err(), "{op:?} {place}");
            if let Ok(done) = committed {
                assert!(done || place == 0, "{op:?} {place}: the data's write, in a worker");
            } else {
                let error = volume.commit().unwrap_err();
                assert!(error.to_string().contains("a panic on the way"), "{error}");
            }
            // A power cut now leaves what was there before.
            let now = Volume::open_on(
                Arc::new(cowback_testkit::Overlay::over(Arc::clone(device.inner())).unwrap()),
                &Options { read_only: true, ..options("none") },
            );
            let now = now.unwrap();
            let content = read_all(&now, "f").unwrap();
            assert!(content.is_empty() || content == [3; 50_000], "{op:?} {place}");
            drop(now);
            volume.try_resume().unwrap();
            drop(file.sync_data()); // tells of the failed write, if it was one
            file.sync_data().unwrap();
            drop(file);
            expect_durable(&device, volume, "f", &[3; 50_000]);
            if !fired {
                assert!(place >= least, "{op:?}: only {place} places");
                break;
            }
        }
    }
}
