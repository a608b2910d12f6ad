//! Random operations on a volume against a plain model, with commits, reopening, and crashes between; and law R3: the image is the same for any
//! number of threads.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use cowback::device::MemoryDevice;
use cowback::options::CompressionPolicy;
use cowback::{Options, Timespec, Volume};
use cowback_testkit::random::{Rng, hash128, seed};
use cowback_tests::model::Model;
use cowback_tests::snapshot;
use cowback_tests::work::{Shape, step};

const DEVICE: u64 = 256 << 20;

fn options(threads: usize, compress: &str) -> Options {
    Options {
        threads,
        compression: compress.parse::<CompressionPolicy>().unwrap(),
        cache_bytes: 4 << 20,
        uuid: Some(uuid::Uuid::from_u128(0x0c0f_fee0)),
        fixed_time: Some(Timespec { sec: 1_700_000_000, nsec: 5 }),
        commit_interval: None,
        ..Options::default()
    }
}

/// Runs `steps` operations. Returns the device as the last close left it.
fn run(seed: u64, steps: u64, options: &Options) -> Arc<MemoryDevice> {
    let mut rng = Rng::new(seed);
    let device = Arc::new(MemoryDevice::new(DEVICE));
    let mut volume = Volume::create_on(Arc::clone(&device) as _, options).unwrap();
    let (mut model, mut committed) = (Model::default(), Model::default());
    for _ in 0..steps {
        match rng.below(200) {
            0..3 => {
                volume.commit().unwrap();
                committed = model.clone();
            }
            3 => {
                volume.close().unwrap();
                committed = model.clone();
                volume = Volume::open_on(Arc::clone(&device) as _, options).unwrap();
                assert_eq!(snapshot(&volume).unwrap(), model.snapshot(), "after close and open");
            }
            4 => {
                drop(volume); // as if killed
                model = committed.clone();
                volume = Volume::open_on(Arc::clone(&device) as _, options).unwrap();
                assert_eq!(snapshot(&volume).unwrap(), model.snapshot(), "after a kill");
            }
            _ => {
                let shape = if rng.percent(15) { Shape::LARGE } else { Shape::SMALL };
                step(&mut rng, shape, &volume, &mut model);
            }
        }
    }
    assert_eq!(snapshot(&volume).unwrap(), model.snapshot(), "at the end");
    volume.close().unwrap();
    device
}

fn image_hash(device: &MemoryDevice) -> u128 {
    use cowback::device::BlockDevice;
    let mut hash = 0;
    let mut part = vec![0; 1 << 20];
    for at in (0..DEVICE).step_by(part.len()) {
        device.read_at(at, &mut part).unwrap();
        hash = hash128(at, &part).wrapping_add(hash << 1);
    }
    hash
}

#[test]
fn a_volume_is_what_the_model_is() {
    let seed = seed("model", 7);
    for (round, compress) in (0u64..).zip(["zstd:3", "none", "lzo", "zlib:1", "zstd:-5", "zstd:3"])
    {
        let threads = [1, 2, 8][usize::try_from(round % 3).unwrap()];
        run(seed + round, 700, &options(threads, compress));
    }
}

#[test]
fn the_image_is_the_same_for_any_number_of_threads() {
    let seed = seed("same_image", 77);
    for round in 0..4 {
        let one = image_hash(&run(seed + round, 250, &options(1, "zstd:3")));
        for threads in [2, 8] {
            let other = image_hash(&run(seed + round, 250, &options(threads, "zstd:3")));
            assert_eq!(other, one, "seed {} with {threads} threads (R3)", seed + round);
        }
    }
}
