//! The pipeline by itself, over a store in memory: write, flush, drop the cache, read back; with every kind of content, pool size and fault.
#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may panic")]

use std::sync::{Arc, mpsc};
use std::time::Duration;

use cowback_async_cow::policy::Policy;
use cowback_async_cow::{AsyncCow, CompressionPolicy, ExtentSize, FilePolicy, WorkerPool};
use cowback_base::sync::Mutex;
use cowback_base::{BLOCK_SIZE, ByteRange, Ino, PageIndex, PageRange};
use cowback_extent_io::memory::{Faults, MemoryStore};
use cowback_extent_io::store::{Compression, ExtentKind};
use cowback_extent_io::{
    ExtentStore, InodeIo, Readahead, WritebackControl, executor::Executor, executor::Inline,
    executor::Job, writepages,
};
use cowback_page_cache::{CacheLimits, PageCache};
use proptest::prelude::*;

const INO: Ino = Ino(257);

struct Rig {
    store: Arc<MemoryStore>,
    cache: Arc<PageCache>,
    inode: Arc<InodeIo>,
    engine: AsyncCow,
}

impl Rig {
    fn new(policy: &str, threads: usize) -> Self {
        Self::with_store(policy, threads, MemoryStore::new(16 * 1024))
    }

    fn with_store(policy: &str, threads: usize, store: MemoryStore) -> Self {
        Self::with_pool(policy, Arc::new(WorkerPool::new(threads).unwrap()), store)
    }

    fn with_pool(policy: &str, pool: Arc<dyn Executor>, store: MemoryStore) -> Self {
        let store = Arc::new(store);
        let cache = PageCache::new(CacheLimits::for_budget(256 << 20));
        let inode =
            InodeIo::new(INO, 0, cache.mapping(INO.0), Arc::clone(&store) as _, Arc::default());
        let compression: CompressionPolicy = policy.parse().unwrap();
        let policy = Policy { file: compression.forced().into(), in_flight_bytes: 0 };
        Self { store, cache, inode, engine: AsyncCow::new(policy, pool) }
    }

    fn flush(&self) -> u64 {
        let errors = self.inode.errors().count();
        let (inode, engine) = (Arc::clone(&self.inode), self.engine.clone());
        must_end("a flush", move || {
            writepages(&inode, &WritebackControl::sync_all(), &engine);
            inode.wait_writeback();
            engine.wait_idle();
        });
        self.inode.errors().count() - errors
    }

    /// Law E4.
    fn assert_at_rest(&self) {
        self.cache.check_at_rest().unwrap();
        assert_eq!(self.store.reserved(), 0, "reserved");
        assert_eq!(self.engine.bytes_in_flight(), 0);
        assert!(self.inode.is_clean());
        self.inode.check_structure();
    }

    fn read_all(&self) -> Vec<u8> {
        let mut bytes = vec![0xAA; usize::try_from(self.inode.size()).unwrap()];
        let n = self.inode.read(0, &mut bytes, &Readahead::default(), &Inline).unwrap();
        assert_eq!(n, bytes.len());
        bytes
    }

    fn drop_cache(&self) {
        self.inode.mapping().drop_clean(PageRange::new(PageIndex(0), PageIndex(u64::MAX)));
        assert_eq!(self.inode.mapping().page_count(), 0, "everything was clean");
    }

    fn expect_on_disk(&self, content: &[u8]) {
        assert_eq!(self.flush(), 0, "no errors");
        self.assert_at_rest();
        assert!(self.read_all() == content, "from the cache");
        self.drop_cache();
        assert!(self.read_all() == content, "from disk");
    }
}

/// Workers that do nothing until they are let go, and then everything at once.
struct Held(Mutex<Option<Vec<Job>>>);

impl Held {
    fn holding() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }

    fn let_go(&self) {
        let jobs = self.0.lock().take().unwrap();
        assert!(!jobs.is_empty(), "there was work to do");
        jobs.into_iter().for_each(|job| job());
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held")
    }
}

impl Executor for Held {
    fn spawn(&self, job: Job) {
        let mut held = self.0.lock();
        match held.as_mut() {
            Some(jobs) => jobs.push(job),
            None => {
                drop(held);
                job();
            }
        }
    }
}

/// Runs `work`, which must end.
fn must_end(what: &str, work: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        work();
        let _ = done.send(()); // nobody listens any more if it took too long
    });
    let waited = ended.recv_timeout(Duration::from_secs(30));
    assert_ne!(waited, Err(mpsc::RecvTimeoutError::Timeout), "{what} hangs");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(len)
    .collect()
}

fn text(len: usize) -> Vec<u8> {
    let words = b"copy on write writeback of delayed allocation; ordered extents and chunks. ";
    words
        .iter()
        .copied()
        .cycle()
        .take(len)
        .enumerate()
        .map(|(i, b)| b ^ ((i / 4096) % 7) as u8)
        .collect()
}

/// Text and noise in turns of `step` bytes.
fn mixed(len: usize, step: usize) -> Vec<u8> {
    let (text, noise) = (text(len), noise(len, 7));
    (0..len).map(|i| if (i / step).is_multiple_of(2) { text[i] } else { noise[i] }).collect()
}

#[test]
fn every_awkward_length_comes_back_with_every_codec_and_pool() {
    let lengths = [
        1usize, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 131_071, 131_072, 131_073, 524_287,
        524_288, 524_289, 1_200_000, 9_000_000,
    ];
    for (policy, threads) in [("zstd:3", 2), ("zstd:-5", 1), ("zlib:3", 8), ("lzo", 2), ("none", 2)]
    {
        let lengths = if policy == "zstd:3" { &lengths[..] } else { &lengths[6..14] };
        for &len in lengths {
            for content in [text(len), noise(len, len as u64), mixed(len, 131_072), vec![0; len]] {
                let rig = Rig::new(policy, threads);
                rig.inode.write(0, &content).unwrap();
                rig.expect_on_disk(&content);
            }
        }
    }
}

#[test]
fn each_128_kib_is_decided_by_itself() {
    // The kernel gives up on a chunk at the first piece that does not compress; bug 2 lived in that code.
    let rig = Rig::new("zstd:3", 2);
    let content = mixed(1 << 20, 131_072);
    rig.inode.write(0, &content).unwrap();
    rig.expect_on_disk(&content);
    for piece in 0..8u64 {
        let expected = if piece % 2 == 0 { Compression::Zstd } else { Compression::None };
        assert_eq!(rig.store.compression_at(INO, piece * 131_072), Some(expected), "piece {piece}");
    }
}

#[test]
fn what_others_left_behind_the_end_of_a_file_is_not_seen() {
    for policy in ["none", "zstd"] {
        let rig = Rig::new(policy, 1);
        let content = vec![7; 3 * 4096];
        rig.inode.write(0, &content).unwrap();
        rig.expect_on_disk(&content);
        // As a driver may leave it that cuts a file without writing its last block anew.
        let (size, store) = (4096 + 100, Arc::clone(&rig.store) as _);
        let mapping = rig.cache.mapping(INO.0 + 1);
        let inode = InodeIo::new(INO, size, mapping, store, Arc::default());
        let frame = inode.read_frame(PageIndex(1)).unwrap();
        assert!(frame.bytes()[..] == [vec![7; 100], vec![0; 3996]].concat(), "{policy}");
        inode.mapping().drop_clean(PageRange::new(PageIndex(0), PageIndex(3)));
        inode.truncate(3 * 4096).unwrap();
        let mut bytes = vec![0xAA; 3 * 4096];
        inode.read(0, &mut bytes, &Readahead::default(), &Inline).unwrap();
        let size = usize::try_from(size).unwrap();
        assert!(
            bytes[..size] == content[..size] && bytes[size..8192].iter().all(|b| *b == 0),
            "{policy}"
        );
        inode.discard();
    }
}

#[test]
fn a_small_file_is_inline_and_grows_out_of_it() {
    let rig = Rig::new("zstd:3", 2);
    rig.inode.write(0, &noise(2048, 3)).unwrap();
    rig.expect_on_disk(&noise(2048, 3));
    assert!(matches!(rig.store.maps(INO)[0].kind, ExtentKind::Inline { .. }));
    rig.inode.write(2048, b"x").unwrap();
    let mut content = noise(2048, 3);
    content.push(b'x');
    rig.expect_on_disk(&content);
    assert!(
        matches!(rig.store.maps(INO)[0].kind, ExtentKind::Regular { .. }),
        "2049 random bytes are too many"
    );
}

#[test]
fn a_write_beyond_the_end_leaves_zeros_and_no_inline_extent_behind() {
    let rig = Rig::new("zstd:3", 2);
    rig.inode.write(0, b"head").unwrap();
    rig.expect_on_disk(b"head");
    rig.inode.write(100_000, b"tail").unwrap();
    let mut content = b"head".to_vec();
    content.resize(100_000, 0);
    content.extend_from_slice(b"tail");
    rig.expect_on_disk(&content);
    assert!(rig.store.maps(INO).iter().all(|map| matches!(map.kind, ExtentKind::Regular { .. })));
}

#[test]
fn compressed_space_in_one_block_holes_falls_back_to_raw_blocks() {
    // Law B4, bug 20: no contiguous extent is to be had, but single blocks are.
    let store = MemoryStore::new(2048);
    store.fragment(|block| block % 2 == 1);
    let rig = Rig::with_store("zstd:3", 2, store);
    let content = mixed(200_000, 65_536);
    rig.inode.write(0, &content).unwrap();
    rig.expect_on_disk(&content);
    let zstd = rig.engine.counters().zstd;
    assert_eq!(zstd.stored_bytes, zstd.extents * BLOCK_SIZE, "only what fits in a block");
    assert!(rig.engine.counters().fallbacks > 0);
}

#[test]
fn the_allocations_are_the_same_for_any_number_of_threads() {
    // Law R3.
    let run = |threads| {
        let rig = Rig::new("zstd:3", threads);
        for round in 0..6u64 {
            let content = mixed(3_000_000, 131_072 + 4096 * usize::try_from(round).unwrap());
            rig.inode.write(round * 2_500_000, &content).unwrap();
            writepages(&rig.inode, &WritebackControl::sync_all(), &rig.engine);
        }
        assert_eq!(rig.flush(), 0);
        rig.store.allocations()
    };
    let one = run(1);
    assert!(one.len() > 50);
    for threads in [2, 3, 8] {
        assert_eq!(run(threads), one, "with {threads} threads");
    }
}

#[test]
fn a_failed_write_stays_dirty_and_readable_and_is_tried_again() {
    // Laws E1 and E2: for every k, the k-th allocation, write or completion fails, once or from then on.
    let content = mixed(1_500_000, 131_072);
    for persistent in [false, true] {
        for kind in 0..3 {
            for k in 0..16u64 {
                let rig = Rig::new("zstd:3", 2);
                let handle = rig.inode.errors().cursor();
                rig.inode.write(0, &content).unwrap();
                let mut faults = Faults { persistent, ..Faults::default() };
                *[&mut faults.alloc, &mut faults.write, &mut faults.finish][kind] = Some(k);
                rig.store.set_faults(faults);
                let failed = rig.flush();
                rig.store.set_faults(Faults::default());
                let what = format!("kind {kind}, k {k}, persistent {persistent}");
                let stats = rig.cache.stats();
                assert_eq!((stats.writeback, stats.locked, stats.frozen), (0, 0, 0), "{what}");
                assert_eq!(rig.store.reserved(), stats.dirty * BLOCK_SIZE, "O4: {what}");
                assert_eq!(stats.dirty > 0, failed > 0, "what failed is dirty: {what}");
                let reported = rig.inode.errors().check_and_advance(&handle);
                assert_eq!(reported.is_some(), failed > 0, "reported: {what}");
                assert!(rig.inode.errors().check_and_advance(&handle).is_none(), "once: {what}");
                assert!(rig.read_all() == content, "readable: {what}");
                rig.expect_on_disk(&content);
            }
        }
    }
}

#[test]
fn space_is_refused_when_it_is_used_up_and_nothing_is_lost() {
    let rig = Rig::with_store("none", 2, MemoryStore::new(256));
    let content = noise(200 * 4096, 5);
    rig.inode.write(0, &content).unwrap();
    rig.expect_on_disk(&content);
    rig.inode.write(content.len() as u64, &noise(57 * 4096, 6)).unwrap_err();
    rig.expect_on_disk(&content);
}

#[test]
fn writers_do_not_wait_for_writeback_and_the_last_write_wins() {
    // Law B1: the same pages are written again and again while they are on their way to disk, and none of it gets there.
    for policy in ["zstd:3", "none"] {
        must_end("a writer", move || {
            let held = Arc::new(Held::holding());
            let rig = Rig::with_pool(policy, Arc::clone(&held) as _, MemoryStore::new(16 * 1024));
            let mut content = mixed(2_000_000, 131_072);
            rig.inode.write(0, &content).unwrap();
            writepages(&rig.inode, &WritebackControl::sync_all(), &rig.engine);
            assert_eq!(rig.inode.delalloc_bytes().0, 0, "all of it is on its way");
            for round in 0..30 {
                let at = round * 61_803 % 1_900_000;
                let patch = noise(50_000, round as u64);
                content[at..at + patch.len()].copy_from_slice(&patch);
                rig.inode.write(at as u64, &patch).unwrap();
            }
            held.let_go();
            rig.expect_on_disk(&content);
        });
    }
    // And while some of it does.
    for threads in [1, 2, 8] {
        let rig = Rig::new("zstd:3", threads);
        let mut content = mixed(2_000_000, 131_072);
        rig.inode.write(0, &content).unwrap();
        for round in 0..30usize {
            writepages(&rig.inode, &WritebackControl::background(300), &rig.engine);
            let at = round * 61_803 % 1_900_000;
            let patch = noise(50_000, round as u64);
            content[at..at + patch.len()].copy_from_slice(&patch);
            rig.inode.write(at as u64, &patch).unwrap();
        }
        rig.expect_on_disk(&content);
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write { at: u64, len: usize, noisy: bool },
    Truncate(u64),
    Punch { at: u64, len: u64 },
    Background,
    Sync,
    DropClean,
    Read { at: u64, len: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let offset = prop_oneof![0..20_000u64, 100_000..400_000u64, (0..100u64).prop_map(|b| b * 4096)];
    prop_oneof![
        4 => (offset.clone(), 1..150_000usize, any::<bool>())
            .prop_map(|(at, len, noisy)| Op::Write { at, len, noisy }),
        2 => offset.clone().prop_map(Op::Truncate),
        2 => (offset.clone(), prop_oneof![1..300u64, 4000..5000u64, 1..200_000u64])
            .prop_map(|(at, len)| Op::Punch { at, len }),
        2 => Just(Op::Background),
        1 => Just(Op::Sync),
        2 => Just(Op::DropClean),
        2 => (offset, 1..100_000usize).prop_map(|(at, len)| Op::Read { at, len }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn a_file_is_what_a_vector_of_bytes_is(
        ops in prop::collection::vec(op(), 1..40),
        threads in 1..4usize,
    ) {
        let rig = Rig::new("zstd:1", threads);
        let mut model: Vec<u8> = Vec::new();
        for (number, op) in ops.into_iter().enumerate() {
            match op {
                Op::Write { at, len, noisy } => {
                    let data = if noisy { noise(len, number as u64 + 1) } else { text(len) };
                    rig.inode.write(at, &data).unwrap();
                    let start = usize::try_from(at).unwrap();
                    model.resize(model.len().max(start + len), 0);
                    model[start..start + len].copy_from_slice(&data);
                }
                Op::Truncate(size) => {
                    rig.inode.truncate(size).unwrap();
                    model.resize(usize::try_from(size).unwrap(), 0);
                }
                Op::Punch { at, len } => {
                    rig.inode.punch(ByteRange::at(at, len)).unwrap();
                    let start = usize::try_from(at).unwrap().min(model.len());
                    let end = (start + usize::try_from(len).unwrap()).min(model.len());
                    model[start..end].fill(0);
                }
                Op::Background => {
                    writepages(&rig.inode, &WritebackControl::background(64), &rig.engine);
                }
                Op::Sync => prop_assert_eq!(rig.flush(), 0),
                Op::DropClean => {
                    rig.inode.mapping().drop_clean(PageRange::new(PageIndex(0), PageIndex(u64::MAX)));
                }
                Op::Read { at, len } => {
                    let mut bytes = vec![0x55; len];
                    let n = rig.inode.read(at, &mut bytes, &Readahead::default(), &Inline).unwrap();
                    let start = usize::try_from(at).unwrap().min(model.len());
                    let end = (start + len).min(model.len());
                    prop_assert!(bytes[..n] == model[start..end], "read of {} at {}", len, at);
                }
            }
            prop_assert_eq!(rig.inode.size(), model.len() as u64);
        }
        rig.expect_on_disk(&model);
        rig.inode.truncate(0).unwrap();
        rig.assert_at_rest();
        prop_assert_eq!(rig.store.free_bytes(), 16 * 1024 * BLOCK_SIZE, "all space came back");
        let _: &dyn ExtentStore = &*rig.store;
    }
}

#[test]
fn a_page_that_was_queued_when_the_flush_came_by_is_written_in_its_newer_version() {
    // It is locked, and neither dirty nor under writeback; once its lock is had, the older version is under writeback.
    for round in 0..40u64 {
        let rig = Rig::new("zstd:3", 2);
        let old = mixed(600_000, 131_072);
        rig.inode.write(0, &old).unwrap();
        writepages(&rig.inode, &WritebackControl::sync_all(), &rig.engine);
        let new = noise(600_000, round);
        rig.inode.write(0, &new).unwrap();
        rig.expect_on_disk(&new);
    }
}

#[test]
fn a_truncate_that_fails_leaves_the_file_as_it_was() {
    let rig = Rig::new("zstd:1", 2);
    let content = mixed(700_000, 4096);
    rig.inode.write(0, &content).unwrap();
    assert_eq!(rig.flush(), 0);
    for size in [0, 1, 4096, 5000, 131_072, 400_001, 699_999] {
        for in_cache in [true, false] {
            if !in_cache {
                assert_eq!(rig.flush(), 0);
                rig.drop_cache();
            }
            rig.store.set_faults(Faults { truncate: Some(0), ..Faults::default() });
            rig.inode.truncate(size).unwrap_err();
            assert_eq!(rig.inode.size(), content.len() as u64, "truncate to {size}");
            assert!(rig.read_all() == content, "truncate to {size}, in cache: {in_cache}");
        }
    }
    rig.expect_on_disk(&content);
    // What is cut off is gone for good: growing shows zeros.
    rig.inode.truncate(100_001).unwrap();
    rig.inode.truncate(600_000).unwrap();
    let mut cut = content;
    cut.truncate(100_001);
    cut.resize(600_000, 0);
    rig.expect_on_disk(&cut);
}

#[test]
fn a_read_whose_extents_cannot_be_found_lets_go_of_all_its_pages() {
    let rig = Rig::new("none", 1);
    let content = noise(12 * 4096, 3);
    rig.inode.write(0, &content).unwrap();
    assert_eq!(rig.flush(), 0);
    // What is absent lies in several runs: each has its own lookup.
    for failing in 0..4 {
        let all = PageRange::new(PageIndex(0), PageIndex(12));
        rig.inode.mapping().drop_clean(all);
        for page in [2, 5, 6] {
            rig.inode.read_frame(PageIndex(page)).unwrap();
        }
        rig.store.set_faults(Faults { lookup: Some(failing), ..Faults::default() });
        let mut bytes = vec![0; content.len()];
        let read = rig.inode.read(0, &mut bytes, &Readahead::default(), &Inline);
        assert!(read.is_err() || bytes == content, "lookup {failing}");
        assert_eq!(rig.cache.stats().locked, 0, "lookup {failing}");
        rig.store.set_faults(Faults::default());
        assert!(rig.read_all() == content);
    }
    rig.assert_at_rest();
}

#[test]
fn a_read_beyond_every_offset_is_empty() {
    let rig = Rig::new("none", 1);
    rig.inode.write(0, &[1; 5000]).unwrap();
    let mut bytes = [0; 100];
    for offset in [5000, u64::MAX - 50, u64::MAX] {
        assert_eq!(rig.inode.read(offset, &mut bytes, &Readahead::default(), &Inline).unwrap(), 0);
    }
}

/// Bytes of the file in each extent, and how it is stored.
fn extents(rig: &Rig) -> Vec<(u64, Compression)> {
    let kind = |map: &cowback_extent_io::store::ExtentMap| match map.kind {
        ExtentKind::Regular { compression, .. } => compression,
        _ => Compression::None,
    };
    rig.store.maps(INO).iter().map(|map| (map.range.len(), kind(map))).collect()
}

#[test]
fn a_file_is_stored_as_its_own_policy_says_and_others_as_the_engines_does() {
    for threads in [1, 2, 8] {
        let rig = Rig::new("zstd:1", threads);
        let content = text(1 << 20);
        for kib in [16, 32, 64, 128] {
            let policy = FilePolicy {
                compression: "lzo".parse().unwrap(),
                extent_size: ExtentSize::of_bytes(kib << 10).unwrap(),
            };
            rig.inode.set_policy(Some(policy));
            rig.inode.write(0, &content).unwrap();
            rig.expect_on_disk(&content);
            let expected = vec![(kib << 10, Compression::Lzo); (1 << 20) / (kib << 10) as usize];
            assert_eq!(extents(&rig), expected);
        }
        rig.inode.set_policy(Some(CompressionPolicy::None.into()));
        rig.inode.write(0, &content).unwrap();
        rig.expect_on_disk(&content);
        assert!(extents(&rig).iter().all(|(_, kind)| *kind == Compression::None));
        rig.inode.set_policy(None);
        rig.inode.write(0, &content).unwrap();
        rig.expect_on_disk(&content);
        assert_eq!(extents(&rig), vec![(128 << 10, Compression::Zstd); 8]);
    }
}

#[test]
fn noise_is_spared_after_a_while_unless_compression_is_forced() {
    let content = [noise(4 << 20, 5), text(4 << 20)].concat();
    for force in [false, true] {
        let rig = Rig::new("zstd:1", 2);
        let policy: CompressionPolicy = "zstd:1".parse().unwrap();
        let policy = if force { policy.forced() } else { policy };
        rig.inode.set_policy(Some(policy.into()));
        // Noise, commit after commit.
        for _ in 0..3 {
            rig.inode.write(0, &content[..4 << 20]).unwrap();
            assert_eq!(rig.flush(), 0);
            rig.inode.backoff().weigh();
        }
        // Text: at first only every eighth piece is tried, then all of them.
        let mut compressed = Vec::new();
        for _ in 0..2 {
            rig.inode.write(0, &content[4 << 20..]).unwrap();
            assert_eq!(rig.flush(), 0);
            rig.inode.backoff().weigh();
            let stored = extents(&rig);
            compressed.push(stored.iter().filter(|(_, kind)| *kind != Compression::None).count());
        }
        assert_eq!(compressed, if force { [32, 32] } else { [4, 32] });
        rig.expect_on_disk(&content[4 << 20..]);
    }
}

#[test]
fn waiting_for_a_file_waits_for_all_of_it_though_some_of_it_failed() {
    for threads in [1, 2, 8] {
        let rig = Rig::new("zstd:3", threads);
        for round in 0..20 {
            rig.inode.write(0, &mixed(6 << 20, 128 << 10)).unwrap();
            rig.store.set_faults(Faults { write: Some(round % 3), ..Faults::default() });
            writepages(&rig.inode, &WritebackControl::sync_all(), &rig.engine);
            rig.inode.wait_writeback();
            let stats = rig.cache.stats();
            assert_eq!((stats.writeback, stats.frozen), (0, 0), "{threads} threads, round {round}");
            rig.store.set_faults(Faults::default());
            assert_eq!(rig.flush(), 0);
        }
    }
}

#[test]
fn a_punched_range_reads_as_zeros_takes_no_space_and_fails_as_a_whole() {
    let rig = Rig::new("none", 2);
    let mut content = noise(40 * 4096 + 100, 9);
    rig.inode.write(0, &content).unwrap();
    assert_eq!(rig.flush(), 0);
    let used = |rig: &Rig| rig.store.maps(INO).iter().map(|map| map.range.len()).sum::<u64>();
    for (start, end) in
        [(4096, 8192), (10, 20), (5000, 20_000), (30_000, 41_000), (150_000, 1 << 40)]
    {
        let range = ByteRange::new(start, end);
        rig.store.set_faults(Faults { truncate: Some(0), ..Faults::default() });
        let whole_blocks = start.next_multiple_of(4096) < end.min(41 * 4096) / 4096 * 4096;
        assert_eq!(rig.inode.punch(range).is_err(), whole_blocks, "{range}");
        rig.store.set_faults(Faults::default());
        rig.inode.punch(range).unwrap();
        let end = usize::try_from(end).unwrap().min(content.len());
        content[usize::try_from(start).unwrap()..end].fill(0);
        rig.expect_on_disk(&content);
    }
    assert_eq!(rig.inode.size(), content.len() as u64);
    // Blocks 1, 2 to 3, 8 to 9, and 37 to the end.
    assert_eq!(used(&rig), (41 - 1 - 2 - 2 - 4) * 4096);
    rig.inode.punch(ByteRange::new(0, u64::MAX)).unwrap();
    assert_eq!(used(&rig), 0);
    rig.expect_on_disk(&vec![0; content.len()]);
}

#[test]
fn an_extent_is_unpacked_once_for_all_who_read_it_if_there_is_room() {
    let rig = Rig::new("zstd:1", 1);
    let content = text(300_000);
    rig.inode.write(0, &content).unwrap();
    assert_eq!(rig.flush(), 0);
    rig.drop_cache();
    let before = rig.store.reads();
    // Here and there in three extents, the last of which ends within a block.
    for page in [3, 40, 73, 0, 31, 32, 63, 64, 70] {
        let frame = rig.inode.read_frame(PageIndex(page)).unwrap();
        let at = usize::try_from(page * BLOCK_SIZE).unwrap();
        let end = content.len().min(at + 4096);
        assert!(frame.bytes()[..end - at] == content[at..end], "page {page}");
        assert!(frame.bytes()[end - at..].iter().all(|byte| *byte == 0), "page {page}");
    }
    assert_eq!(rig.store.reads() - before, 3);
    assert_eq!(rig.inode.mapping().page_count(), 74);
    // A newer version of one page, and one page on its way: nobody fills these.
    rig.inode.write(5 * BLOCK_SIZE, &[9; 4096]).unwrap();
    rig.inode.mapping().drop_clean(PageRange::new(PageIndex(0), PageIndex(32)));
    let held = rig.inode.mapping().lock_page(PageIndex(7));
    rig.inode.read_frame(PageIndex(1)).unwrap();
    assert_eq!(rig.inode.read_frame(PageIndex(5)).unwrap().bytes()[..], [9; 4096]);
    assert!(rig.inode.mapping().frame(PageIndex(7)).is_none());
    held.unlock();
    assert_eq!(rig.store.reads() - before, 4);
    assert_eq!(rig.flush(), 0);
    rig.assert_at_rest();
}

#[test]
fn a_page_that_is_read_for_a_write_stays_until_it_is_written_however_full_the_cache_is() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let store = Arc::new(MemoryStore::new(1024));
        let limits = CacheLimits { budget: 64 << 10, background: 1 << 30, hard: 1 << 30 };
        let cache = PageCache::new(limits);
        let inode =
            InodeIo::new(INO, 0, cache.mapping(INO.0), Arc::clone(&store) as _, Arc::default());
        let policy = Policy { file: CompressionPolicy::None.into(), in_flight_bytes: 0 };
        let engine = AsyncCow::new(policy, Arc::new(WorkerPool::new(1).unwrap()));
        inode.write(0, &noise(100 * 4096, 3)).unwrap();
        writepages(&inode, &WritebackControl::sync_all(), &engine);
        engine.wait_idle();
        // The cache is full of what cannot go.
        inode.write(0, &[1; 40 * 4096]).unwrap();
        inode.mapping().drop_clean(PageRange::new(PageIndex(40), PageIndex(100)));
        inode.write(60 * 4096 + 5, &[2; 3 * 4096]).unwrap();
        let mut found = vec![0; 3 * 4096 + 10];
        inode.read(60 * 4096, &mut found, &Readahead::default(), &Inline).unwrap();
        let mut expected = noise(100 * 4096, 3);
        expected[60 * 4096 + 5..63 * 4096 + 5].fill(2);
        assert!(found == expected[60 * 4096..63 * 4096 + 10]);
        writepages(&inode, &WritebackControl::sync_all(), &engine);
        engine.wait_idle();
        cache.check_at_rest().unwrap();
        let _ = done.send(());
    });
    let ended = ended.recv_timeout(std::time::Duration::from_secs(60));
    assert!(ended.is_ok(), "it goes round in circles, or has failed");
}
