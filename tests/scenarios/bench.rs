//! What the scenarios stand on: a volume over a device with a gate, and what is expected of a file at the end of each.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use cowback::device::MemoryDevice;
use cowback::options::CompressionPolicy;
use cowback::{File, Options, Volume};
use cowback_testkit::GatedDevice;
use cowback_testkit::corpus::Content;

/// Pools of these sizes.
pub(crate) const POOLS: [usize; 3] = [1, 2, 8];

pub(crate) const BLOCK: usize = 4096;
pub(crate) const KIB: usize = 1024;

/// Options of a volume that does nothing by itself.
pub(crate) fn options(compression: &str, threads: usize) -> Options {
    let compression: CompressionPolicy = compression.parse().unwrap();
    Options { compression, threads, commit_interval: None, ..Options::default() }
}

/// A volume, and the device under it.
pub(crate) struct Bench {
    pub(crate) device: Arc<GatedDevice>,
    pub(crate) volume: Volume,
    options: Options,
}

impl Bench {
    pub(crate) fn new(compression: &str, threads: usize) -> Self {
        Self::with(options(compression, threads))
    }

    pub(crate) fn with(options: Options) -> Self {
        let device = Arc::new(GatedDevice::new(Arc::new(MemoryDevice::new(512 << 20))));
        let volume = Volume::create_on(Arc::clone(&device) as _, &options).unwrap();
        Self { device, volume, options }
    }

    /// Shuts the gate, and has the one or all of the workers stand before it with a write of another file.
    pub(crate) fn occupy(&self, workers: usize) -> Vec<File> {
        self.device.shut();
        let files = (0..workers).map(|number| {
            let file = self.volume.create_file(format!("occupier {number}")).unwrap();
            file.write_at(0, &noise(2 * BLOCK, 7)).unwrap();
            file.start_writeback();
            file
        });
        let files = files.collect();
        self.device.wait_for(workers as u64);
        files
    }

    /// Opens the volume anew as it is on disk.
    pub(crate) fn killed(self) -> Volume {
        drop(self.volume);
        Volume::open_on(self.device, &self.options).unwrap()
    }

    /// Commits, and opens the volume anew, with nothing in its cache; the file `name` is `content` then.
    pub(crate) fn settle(self, name: &str, content: &[u8]) {
        let options = self.options.clone();
        let device = Arc::clone(&self.device);
        assert!(same(&self.volume, name, content), "{name} from the cache");
        // Checks that every gauge is at rest (law E4).
        self.volume.close().unwrap();
        let volume = Volume::open_on(device, &options).unwrap();
        assert!(same(&volume, name, content), "{name} from disk");
    }
}

fn same(volume: &Volume, name: &str, content: &[u8]) -> bool {
    cowback_tests::read_all(volume, name).unwrap() == content
}

/// Bytes that do not compress.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    Content::Noise(seed).bytes(0, len)
}

/// Bytes that do.
pub(crate) fn text(len: usize, seed: u64) -> Vec<u8> {
    Content::Text(seed).bytes(0, len)
}

/// Runs `work`, which must end.
pub(crate) fn must_end(what: &str, work: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        work();
        let _ = done.send(()); // nobody listens any more if it took too long
    });
    let waited = ended.recv_timeout(Duration::from_secs(120));
    assert_ne!(waited, Err(mpsc::RecvTimeoutError::Timeout), "{what}: it hangs");
    thread.join().unwrap();
}
