//! What the models run on: one file over a store in memory, and an executor of model threads.

use std::sync::Arc;

use cowback_async_cow::policy::Policy;
use cowback_async_cow::{AsyncCow, CompressionPolicy};
use cowback_base::sync::thread::JoinHandle;
use cowback_base::sync::{Condvar, Mutex, thread};
use cowback_base::{BLOCK_SIZE, Ino, PageIndex, PageRange};
use cowback_extent_io::executor::Inline;
use cowback_extent_io::memory::MemoryStore;
use cowback_extent_io::{
    Executor, ExtentStore, InodeIo, Job, Readahead, WritebackControl, writepages,
};
use cowback_page_cache::{CacheLimits, PageCache};
use shuttle::rand::{Rng, thread_rng};

/// Bytes of a page, as what a slice is measured in.
pub(crate) const PAGE: usize = 4096;

/// Blocks of the disk.
pub(crate) const DISK_BLOCKS: u64 = 64;

/// One of `choices`, which the scheduler draws.
pub(crate) fn any_of<T: Copy>(choices: &[T]) -> T {
    choices[thread_rng().gen_range(0..choices.len())]
}

/// Model threads that run jobs, whichever of those that wait: a pool promises no order.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    queue: Mutex<Queue>,
    wake: Condvar,
    idle: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    /// Jobs that wait or are being done.
    unfinished: usize,
    closed: bool,
}

impl Workers {
    fn start(self: &Arc<Self>, threads: usize) -> Vec<JoinHandle<()>> {
        let worker = |_| {
            let workers = Arc::clone(self);
            thread::spawn(move || workers.work())
        };
        (0..threads).map(worker).collect()
    }

    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            if !queue.jobs.is_empty() {
                let next = thread_rng().gen_range(0..queue.jobs.len());
                let job = queue.jobs.swap_remove(next);
                drop(queue);
                job();
                queue = self.queue.lock();
                queue.unfinished -= 1;
                if queue.unfinished == 0 {
                    self.idle.notify_all();
                }
            } else if queue.closed {
                return;
            } else {
                self.wake.wait(&mut queue);
            }
        }
    }

    /// Waits until there is nothing to do: readahead, which nobody else waits for, included.
    fn wait_idle(&self) {
        let mut queue = self.queue.lock();
        while queue.unfinished > 0 {
            self.idle.wait(&mut queue);
        }
    }

    fn close(&self) {
        self.queue.lock().closed = true;
        self.wake.notify_all();
    }
}

impl Executor for Workers {
    fn spawn(&self, job: Job) {
        let mut queue = self.queue.lock();
        queue.jobs.push(job);
        queue.unfinished += 1;
        drop(queue);
        self.wake.notify_one();
    }
}

/// The pipeline over one file.
pub(crate) struct Rig {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) cache: Arc<PageCache>,
    pub(crate) inode: Arc<InodeIo>,
    pub(crate) engine: AsyncCow,
    workers: Arc<Workers>,
    threads: Vec<JoinHandle<()>>,
}

impl Rig {
    /// A rig with `threads` workers that compresses as `policy` says, whatever the data.
    pub(crate) fn new(policy: &str, threads: usize) -> Self {
        let store = Arc::new(MemoryStore::new(DISK_BLOCKS));
        Self::over(Arc::clone(&store) as _, store, policy, threads)
    }

    /// A rig whose file is on `shown`, a store that works on `store`.
    pub(crate) fn over(
        shown: Arc<dyn ExtentStore>,
        store: Arc<MemoryStore>,
        policy: &str,
        threads: usize,
    ) -> Self {
        let cache = PageCache::new(CacheLimits::for_budget(16 << 20));
        Self::with_cache(cache, shown, store, policy, threads)
    }

    /// A rig with a cache of its own limits.
    pub(crate) fn with_cache(
        cache: Arc<PageCache>,
        shown: Arc<dyn ExtentStore>,
        store: Arc<MemoryStore>,
        policy: &str,
        threads: usize,
    ) -> Self {
        let inode = InodeIo::new(Ino(257), 0, cache.mapping(257), shown, Arc::default());
        let compression: CompressionPolicy = policy.parse().unwrap();
        let policy = Policy { file: compression.forced().into(), in_flight_bytes: 0 };
        let workers = Arc::new(Workers::default());
        let threads = workers.start(threads);
        let engine = AsyncCow::new(policy, Arc::clone(&workers) as _);
        Self { store, cache, inode, engine, workers, threads }
    }

    /// Another file of this rig.
    pub(crate) fn another_file(&self, number: u64) -> Arc<InodeIo> {
        let store = Arc::clone(self.inode.store());
        InodeIo::new(Ino(number), 0, self.cache.mapping(number), store, Arc::default())
    }

    /// Writes `len` bytes of `value` at `offset`.
    pub(crate) fn write(&self, offset: usize, value: u8, len: usize) {
        self.inode.write(offset as u64, &vec![value; len]).unwrap();
    }

    /// Has all that is dirty now written, and waits for it.
    pub(crate) fn sync(&self) {
        writepages(&self.inode, &WritebackControl::sync_all(), &self.engine);
        self.inode.wait_writeback();
    }

    /// Has what can be had without waiting written.
    pub(crate) fn background(&self) {
        writepages(&self.inode, &WritebackControl::background(1000), &self.engine);
    }

    /// Drops what is clean from the cache.
    pub(crate) fn drop_clean(&self) {
        self.inode.mapping().drop_clean(PageRange::new(PageIndex(0), PageIndex(u64::MAX)));
    }

    /// At most `len` bytes of the file, from `offset` on.
    pub(crate) fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        read(&self.inode, offset, len, &*self.workers)
    }

    /// The bytes of `inode` that are on disk, as if the cache had never been.
    pub(crate) fn stored(&self, inode: &InodeIo, len: usize) -> Vec<u8> {
        let cache = PageCache::new(CacheLimits::for_budget(16 << 20));
        let store = Arc::clone(&self.store) as _;
        let mapping = cache.mapping(inode.ino().0);
        let fresh = InodeIo::new(inode.ino(), len as u64, mapping, store, Arc::default());
        read(&fresh, 0, len, &Inline)
    }

    /// Law O4: what is dirty, and only that, is delalloc and has a reservation. Nothing is under way.
    pub(crate) fn assert_settled(&self) {
        self.workers.wait_idle();
        let stats = self.cache.stats();
        assert_eq!((stats.locked, stats.frozen, stats.writeback), (0, 0, 0), "{stats:?}");
        assert_eq!(self.engine.bytes_in_flight(), 0);
        self.inode.check_structure();
        assert_eq!(self.store.reserved(), stats.dirty * BLOCK_SIZE, "reserved (law O4)");
        assert_eq!(self.inode.delalloc_bytes().0, self.inode.mapping().dirty_count() * BLOCK_SIZE);
    }

    /// The end of every model: writes all back, and checks that nothing is left (law E4), and that the file is `content`.
    pub(crate) fn close(self, content: &[u8]) {
        self.sync();
        self.engine.wait_idle();
        self.assert_settled();
        self.cache.check_at_rest().unwrap();
        assert!(self.inode.is_clean());
        let end = cowback_base::block_align_up(self.inode.size());
        let beyond = self.store.maps(self.inode.ino()).into_iter().find(|map| map.range.end > end);
        assert!(beyond.is_none(), "an extent beyond the end of the file (law B2): {beyond:?}");
        assert_same(&self.read(0, content.len() + 1), content, "from the cache");
        assert_same(&self.stored(&self.inode, content.len()), content, "from disk");
        self.inode.truncate(0).unwrap();
        assert_eq!(self.store.free_bytes(), DISK_BLOCKS * BLOCK_SIZE, "all space came back");
        self.workers.close();
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn read(inode: &Arc<InodeIo>, offset: usize, len: usize, executor: &dyn Executor) -> Vec<u8> {
    let mut bytes = vec![0xAA; len];
    let got = inode.read(offset as u64, &mut bytes, &Readahead::default(), executor).unwrap();
    bytes.truncate(got);
    bytes
}

/// Compares bytes, and says where they begin to differ.
pub(crate) fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "length {what}");
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    if let Some(at) = differs {
        panic!("{what}: byte {at} is {}, not {}", found[at], expected[at]);
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue of {} jobs", self.jobs.len())
    }
}
