//! Devices that fail under writes in place: nothing that was acknowledged is lost, and what was overwritten and did not get there is written again.

use std::sync::Arc;

use cowback::device::MemoryDevice;
use cowback::{File, Options, Volume};
use cowback_testkit::faulty::{Effect, Fault, FaultDevice, Op};
use cowback_tests::read_all;

const LEN: usize = 100_000;

fn options() -> Options {
    Options { cache_bytes: 8 << 20, threads: 2, commit_interval: None, ..Options::default() }
}

/// A log that is overwritten in place, all of it written and durable.
fn log() -> (Arc<FaultDevice>, Volume, File) {
    let device = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(64 << 20)), 1));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
    let file = volume.create_file("log").unwrap();
    file.set_nocow(true).unwrap();
    file.write_at(0, &[1; LEN]).unwrap();
    file.sync_data().unwrap();
    (device, volume, file)
}

/// Cuts the power, and compares what is left.
fn expect_durable(device: &Arc<FaultDevice>, volume: Volume, file: File, content: &[u8]) {
    drop((file, volume));
    device.cut_power().unwrap();
    let volume = Volume::open_on(Arc::clone(device) as _, &options()).unwrap();
    assert!(read_all(&volume, "log").unwrap() == content);
    volume.close().unwrap();
}

#[test]
fn law_e1_a_write_in_place_that_fails_stays_dirty_and_is_tried_again() {
    for effect in [Effect::Eio, Effect::Short, Effect::Torn] {
        let (device, volume, file) = log();
        let other = file.clone();
        file.write_at(4096, &[2; 20_000]).unwrap();
        device.arm_from_now(Fault::once(Op::Write, 0, effect));
        // A commit is tried at once; that the write failed before is told even so.
        assert!(file.sync_data().is_err(), "{effect:?}");
        let mut content = vec![1; LEN];
        content[4096..24_096].fill(2);
        assert!(read_all(&volume, "log").unwrap() == content);
        assert!(other.sync_data().is_err(), "each handle hears of it");
        file.sync_data().unwrap();
        other.sync_data().unwrap();
        assert_eq!(volume.stats().written.in_place.extents, 2, "twice to the same place");
        drop(other);
        expect_durable(&device, volume, file, &content);
    }
}

#[test]
fn law_e1_what_a_failed_flush_covered_is_written_again_before_the_volume_goes_on() {
    for effect in [Effect::Eio, Effect::Forget] {
        let (device, volume, file) = log();
        let generation = volume.stats().store.generation;
        file.write_at(0, &[2; 50_000]).unwrap();
        file.start_writeback();
        file.write_at(8192, &[3; 8192]).unwrap();
        device.arm_from_now(Fault::once(Op::Flush, 0, effect));
        assert!(file.sync_data().is_err());
        assert!(file.write_at(0, b"x").is_err(), "it takes no more writes");
        volume.try_resume().unwrap();
        file.sync_data().unwrap();
        assert_eq!(volume.stats().store.generation, generation, "no commit was needed");
        let mut content = vec![1; LEN];
        content[..50_000].fill(2);
        content[8192..16_384].fill(3);
        expect_durable(&device, volume, file, &content);
    }
}

#[test]
fn a_device_that_has_lost_what_a_failed_flush_covered_is_not_gone_on_with() {
    let (device, volume, file) = log();
    file.write_at(0, &[2; 50_000]).unwrap();
    device.arm_from_now(Fault::once(Op::Flush, 0, Effect::DropUnsynced));
    assert!(file.sync_data().is_err());
    let refused = volume.try_resume().unwrap_err().to_string();
    assert!(refused.contains("the device has lost it"), "{refused}");
    expect_durable(&device, volume, file, &[1; LEN]);
}
