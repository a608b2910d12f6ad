//! Laws E1, E2, E4 for every step of the pipeline: the k-th reservation, allocation of space, compression, write, completion, inline insertion,
//! lookup, read or job fails or panics, once or from then on, for every k; with one file and several, and pools of 1, 2 and 8 threads.
//!
//! Memory for pages, queues and tables is not among the steps: where Rust's allocator has none, the process ends, which is a crash like
//! others. What may be refused memory, and goes on, is compressing (law B4).
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

use cowback_async_cow::compress::{Compress, OwnContext};
use cowback_async_cow::policy::Policy;
use cowback_async_cow::{AsyncCow, CompressionPolicy, WorkerPool};
use cowback_base::sync::Mutex;
use cowback_base::{BLOCK_SIZE, ByteRange, Bytenr, Ino, PageIndex, PageRange};
use cowback_codec::{Algorithm, CompressError, CompressionSpec, Compressor, Outcome};
use cowback_extent_io::executor::Inline;
use cowback_extent_io::fallocate::SizeMode;
use cowback_extent_io::memory::MemoryStore;
use cowback_extent_io::store::{
    DiskExtent, ExtentMap, FinishedExtent, InPlace, InlineExtent, PreallocMode, StoreError,
    StoreResult, WrittenExtent,
};
use cowback_extent_io::{
    Executor, ExtentStore, InodeIo, Job, Readahead, WritebackControl, writepages,
};
use cowback_page_cache::{CacheLimits, PageCache};

/// What can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Reserve,
    Compress,
    Alloc,
    Claim,
    Write,
    Finish,
    Inline,
    Lookup,
    Read,
    Job,
}

impl Step {
    const ALL: [Self; 10] = [
        Self::Reserve,
        Self::Compress,
        Self::Alloc,
        Self::Claim,
        Self::Write,
        Self::Finish,
        Self::Inline,
        Self::Lookup,
        Self::Read,
        Self::Job,
    ];
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    step: Step,
    /// The first that fails, from 0.
    at: u64,
    panics: bool,
    for_ever: bool,
}

const PANIC: &str = "a panic on order";

/// Counts steps, and fails when it is time.
#[derive(Debug, Default)]
struct Faults {
    fault: Mutex<Option<Fault>>,
    met: AtomicU64,
    fired: AtomicU64,
}

impl Faults {
    /// Whether this step fails.
    fn strikes(&self, step: Step) -> bool {
        let Some(fault) = *self.fault.lock() else { return false };
        if fault.step != step {
            return false;
        }
        let number = self.met.fetch_add(1, Ordering::Relaxed);
        let strikes = number == fault.at || fault.for_ever && number > fault.at;
        if strikes {
            self.fired.fetch_add(1, Ordering::Relaxed);
            assert!(!fault.panics, "{PANIC}");
        }
        strikes
    }

    fn check(&self, step: Step, error: impl FnOnce() -> StoreError) -> StoreResult<()> {
        if self.strikes(step) { Err(error()) } else { Ok(()) }
    }
}

fn io(op: &'static str) -> StoreError {
    StoreError::Io { op, at: 0, len: 0, source: Arc::new(std::io::Error::other("on order")) }
}

fn no_space() -> StoreError {
    StoreError::NoSpace { what: "data", wanted: 0, available: 0 }
}

#[derive(Debug)]
struct FaultStore {
    inner: MemoryStore,
    faults: Arc<Faults>,
}

impl ExtentStore for FaultStore {
    fn reserve_data(&self, bytes: u64) -> StoreResult<()> {
        self.faults.check(Step::Reserve, no_space)?;
        self.inner.reserve_data(bytes)
    }

    fn reserve_data_again(&self, bytes: u64) {
        self.inner.reserve_data_again(bytes);
    }

    fn release_data(&self, bytes: u64) {
        self.inner.release_data(bytes);
    }

    fn reserve_in_place(&self, bytes: u64) -> StoreResult<()> {
        self.inner.reserve_in_place(bytes)
    }

    fn reserve_in_place_again(&self, bytes: u64) {
        self.inner.reserve_in_place_again(bytes);
    }

    fn release_in_place(&self, bytes: u64) {
        self.inner.release_in_place(bytes);
    }

    fn claim_in_place(&self, ino: Ino, range: ByteRange) -> StoreResult<InPlace> {
        self.faults.check(Step::Claim, || io("claim"))?;
        self.inner.claim_in_place(ino, range)
    }

    fn prealloc_extents(&self, ino: Ino, range: ByteRange, mode: PreallocMode) -> StoreResult<()> {
        self.inner.prealloc_extents(ino, range, mode)
    }

    fn alloc_extent(&self, want: u64, min: u64) -> StoreResult<DiskExtent> {
        self.faults.check(Step::Alloc, no_space)?;
        self.inner.alloc_extent(want, min)
    }

    fn free_extent(&self, extent: DiskExtent) {
        self.inner.free_extent(extent);
    }

    fn write_extent(
        &self,
        extent: DiskExtent,
        data: &[&[u8]],
    ) -> Result<WrittenExtent, (DiskExtent, StoreError)> {
        if self.faults.strikes(Step::Write) {
            return Err((extent, io("write")));
        }
        self.inner.write_extent(extent, data)
    }

    fn finish_ordered(&self, finished: FinishedExtent) -> StoreResult<()> {
        if self.faults.strikes(Step::Finish) {
            self.inner.free_extent(finished.written.extent);
            return Err(io("finish"));
        }
        self.inner.finish_ordered(finished)
    }

    fn insert_inline(&self, ino: Ino, inline: InlineExtent) -> StoreResult<()> {
        self.faults.check(Step::Inline, no_space)?;
        self.inner.insert_inline(ino, inline)
    }

    fn truncate_extents(&self, ino: Ino, size: u64) -> StoreResult<()> {
        self.inner.truncate_extents(ino, size)
    }

    fn punch_extents(&self, ino: Ino, range: ByteRange) -> StoreResult<()> {
        self.inner.punch_extents(ino, range)
    }

    fn lookup_extent(&self, ino: Ino, offset: u64) -> StoreResult<ExtentMap> {
        self.faults.check(Step::Lookup, || io("lookup"))?;
        self.inner.lookup_extent(ino, offset)
    }

    fn read_extent(&self, ino: Ino, bytenr: Bytenr, target: &mut [u8]) -> StoreResult<()> {
        self.faults.check(Step::Read, || io("read"))?;
        self.inner.read_extent(ino, bytenr, target)
    }
}

/// A compressor that is refused memory.
#[derive(Debug)]
struct FaultCompress(Arc<Faults>);

impl Compress for FaultCompress {
    fn compress(
        &self,
        context: &mut Compressor,
        spec: CompressionSpec,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<Outcome, CompressError> {
        if self.0.strikes(Step::Compress) {
            return Err(CompressError::OutOfMemory { algorithm: Algorithm::Zstd });
        }
        OwnContext.compress(context, spec, input, output)
    }
}

/// A pool whose workers panic before they have begun a job.
#[derive(Debug)]
struct FaultPool {
    inner: WorkerPool,
    faults: Arc<Faults>,
}

impl Executor for FaultPool {
    fn spawn(&self, job: Job) {
        let faults = Arc::clone(&self.faults);
        self.inner.spawn(Box::new(move || {
            let job = job;
            assert!(!faults.strikes(Step::Job), "{PANIC}");
            job();
        }));
    }
}

struct Rig {
    store: Arc<FaultStore>,
    cache: Arc<PageCache>,
    files: Vec<(Arc<InodeIo>, Vec<u8>)>,
    engine: AsyncCow,
    pool: Arc<FaultPool>,
}

/// Text and noise in turns of 128 KiB.
fn mixed(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let noise = std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        state.to_le_bytes()[7]
    });
    let text = b"copy on write, writeback of delayed allocation; ".iter().copied().cycle();
    let mixed = noise.zip(text).enumerate();
    mixed
        .map(|(i, (noise, text))| if i / 131_072 % 2 == 0 { text } else { noise })
        .take(len)
        .collect()
}

impl Rig {
    fn new(threads: usize, files: usize) -> Self {
        let faults = Arc::new(Faults::default());
        let inner = MemoryStore::new(1536);
        let store = Arc::new(FaultStore { inner, faults: Arc::clone(&faults) });
        let cache = PageCache::new(CacheLimits::for_budget(64 << 20));
        // The first one is small enough to go inline.
        let files = (0..files).map(|number| {
            let ino = Ino(257 + number as u64);
            let mapping = cache.mapping(ino.0);
            let io = InodeIo::new(ino, 0, mapping, Arc::clone(&store) as _, Arc::default());
            let len = if number == 0 { 1500 } else { 420_000 + number * 5000 };
            if number == 1 {
                // A part of this one has its space.
                io.allocate(ByteRange::new(50_000, 250_000), SizeMode::Keep).unwrap();
            }
            (io, mixed(len, number as u64))
        });
        let files = files.collect();
        let compression: CompressionPolicy = "zstd:1".parse().unwrap();
        let policy = Policy { file: compression.forced().into(), in_flight_bytes: 0 };
        let inner = WorkerPool::new(threads).unwrap();
        let pool = Arc::new(FaultPool { inner, faults: Arc::clone(&faults) });
        let compress = Arc::new(FaultCompress(faults));
        let engine = AsyncCow::with_compressor(policy, Arc::clone(&pool) as _, compress);
        Self { store, cache, files, engine, pool }
    }

    /// Writes all files at once, each by a thread of its own, flushes them, and reads them back. What fails is passed over.
    fn work(&self) {
        std::thread::scope(|scope| {
            for (io, content) in &self.files {
                scope.spawn(|| {
                    for (number, part) in content.chunks(100_000).enumerate() {
                        let at = number as u64 * 100_000;
                        // Refused space is asked for again, a few times.
                        if !(0..3).any(|_| survive(|| io.write(at, part)).is_some()) {
                            break;
                        }
                    }
                    survive(|| {
                        writepages(io, &WritebackControl::sync_all(), &self.engine);
                        Ok(())
                    });
                    io.wait_writeback();
                    io.mapping().drop_clean(PageRange::new(PageIndex(0), PageIndex(u64::MAX)));
                    let mut bytes = vec![0; content.len()];
                    if let Some(len) =
                        survive(|| io.read(0, &mut bytes, &Readahead::default(), &Inline))
                    {
                        assert!(bytes[..len] == content[..len], "wrong bytes");
                    }
                });
            }
        });
        self.engine.wait_idle();
        self.pool.inner.wait_idle();
    }
}

/// Does `work`; a panic on order is a failure.
fn survive<T>(work: impl FnOnce() -> StoreResult<T>) -> Option<T> {
    static HUSHED: LazyLock<()> = LazyLock::new(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<String>().is_none_or(|text| text != PANIC) {
                before(info);
            }
        }));
    });
    LazyLock::force(&HUSHED);
    catch_unwind(AssertUnwindSafe(work)).ok().and_then(Result::ok)
}

/// Does the work with a fault, and checks everything. Tells how often the fault fired, and how often its step was met.
fn meet(threads: usize, files: usize, fault: Fault) -> (u64, u64) {
    let what = format!("{threads} threads, {files} files, {fault:?}");
    let rig = Rig::new(threads, files);
    let cursors: Vec<_> = rig.files.iter().map(|(io, _)| io.errors().cursor()).collect();
    *rig.store.faults.fault.lock() = Some(fault);
    rig.work();
    let faults = &rig.store.faults;
    let (fired, met) = (faults.fired.load(Ordering::Relaxed), faults.met.load(Ordering::Relaxed));
    *faults.fault.lock() = None;
    let stats = rig.cache.stats();
    assert_eq!((stats.writeback, stats.locked, stats.frozen), (0, 0, 0), "{what}");
    assert_eq!(rig.store.inner.reserved(), stats.dirty * BLOCK_SIZE, "O4: {what}");
    assert_eq!(rig.engine.bytes_in_flight(), 0, "{what}");
    assert_eq!(rig.engine.queued_chunks(), 0, "{what}");
    if matches!(fault.step, Step::Compress | Step::Inline) && !fault.panics {
        assert_eq!(stats.dirty, 0, "B4: it goes another way: {what}");
        assert!(rig.files.iter().all(|(io, _)| io.errors().count() == 0), "{what}");
    }
    for ((io, content), cursor) in rig.files.iter().zip(&cursors) {
        let failed = io.errors().count() > 0;
        assert_eq!(io.errors().check_and_advance(cursor).is_some(), failed, "reported: {what}");
        assert!(io.errors().check_and_advance(cursor).is_none(), "once: {what}");
        let written = usize::try_from(io.size()).unwrap();
        assert!(written == content.len() || fired > 0, "{what}");
        // What was refused is made up for; then all goes to disk.
        io.write(written as u64, &content[written..]).unwrap();
        writepages(io, &WritebackControl::sync_all(), &rig.engine);
        io.wait_writeback();
        assert!(io.errors().check_and_advance(cursor).is_none(), "{what}");
        for from in ["the cache", "disk"] {
            let mut bytes = vec![0; content.len()];
            let len = io.read(0, &mut bytes, &Readahead::default(), &Inline).unwrap();
            assert!(len == content.len() && bytes == *content, "from {from}: {what}");
            io.mapping().drop_clean(PageRange::new(PageIndex(0), PageIndex(u64::MAX)));
            assert_eq!(io.mapping().page_count(), 0, "{what}");
        }
    }
    rig.engine.wait_idle();
    rig.cache.check_at_rest().unwrap();
    assert_eq!(rig.store.inner.reserved(), 0, "{what}");
    (fired, met)
}

/// As [`meet`], which must end within a minute.
fn meet_in_time(threads: usize, files: usize, fault: Fault) -> (u64, u64) {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let result = meet(threads, files, fault);
        let _ = done.send(()); // nobody waits any more if it took too long
        result
    });
    match ended.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs: {threads} threads, {fault:?}"),
        _ => thread.join().unwrap(),
    }
}

fn sweep(threads: usize, files: usize) {
    for step in Step::ALL {
        let mut fired = 0;
        for panics in [false, true] {
            for for_ever in [false, true] {
                for at in 0.. {
                    let fault = Fault { step, at, panics, for_ever };
                    let (here, met) = meet_in_time(threads, files, fault);
                    fired += here;
                    if at >= met {
                        break;
                    }
                }
            }
        }
        println!("{threads} threads, {files} files, {step:?}: {fired} failed");
        assert!(fired > 0, "{step:?} is part of the work");
    }
}

#[test]
fn one_small_file_and_one_large_with_one_worker() {
    sweep(1, 2);
}

#[test]
fn several_files_with_two_workers() {
    sweep(2, 4);
}

#[test]
fn several_files_with_eight_workers() {
    sweep(8, 4);
}
