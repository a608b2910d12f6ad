//! Writes, truncates, syncs and reads at each moment of a writeback, hit exactly: the jobs of the pipeline wait until the test runs them, in the
//! order that it wants. No schedule is left to chance.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, mpsc};
use std::time::Duration;

use cowback_async_cow::policy::Policy;
use cowback_async_cow::{AsyncCow, CompressionPolicy};
use cowback_base::sync::Mutex;
use cowback_base::{Ino, PageIndex, PageRange, block_align_up};
use cowback_extent_io::executor::Inline;
use cowback_extent_io::memory::{Faults, MemoryStore};
use cowback_extent_io::store::ExtentKind;
use cowback_extent_io::{Executor, InodeIo, Job, Readahead, WritebackControl, writepages};
use cowback_page_cache::{CacheLimits, PageCache, PageFlags};

const PAGE: usize = 4096;
/// Two chunks.
const LEN: usize = 1 << 20;

/// Jobs that nobody runs but the test.
#[derive(Default)]
struct Hand(Mutex<Vec<Job>>);

impl std::fmt::Debug for Hand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hand with {} jobs", self.0.lock().len())
    }
}

impl Executor for Hand {
    fn spawn(&self, job: Job) {
        self.0.lock().push(job);
    }
}

impl Hand {
    /// Runs the job at place `at` of those that wait.
    fn run(&self, at: usize) {
        let job = self.0.lock().remove(at);
        job();
    }

    /// Runs all jobs, those too that come from them.
    fn run_all(&self) {
        while !self.0.lock().is_empty() {
            self.run(0);
        }
    }
}

/// Where a writeback of two chunks stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// It has not begun.
    Dirty,
    /// Phase one has not run: the chunks are queued.
    Queued,
    /// The second chunk is compressed, and waits for the first to take its turn.
    BetweenPhases,
    /// Both have their ordered extents, and nothing is written.
    Ordered,
    /// The first chunk is written and in the metadata, the second is not.
    HalfWritten,
}

const MOMENTS: [Moment; 5] =
    [Moment::Dirty, Moment::Queued, Moment::BetweenPhases, Moment::Ordered, Moment::HalfWritten];

struct Rig {
    store: Arc<MemoryStore>,
    cache: Arc<PageCache>,
    inode: Arc<InodeIo>,
    hand: Arc<Hand>,
    engine: AsyncCow,
}

impl Rig {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::new(4096));
        let cache = PageCache::new(CacheLimits::for_budget(64 << 20));
        let shown = Arc::clone(&store) as _;
        let inode = InodeIo::new(Ino(257), 0, cache.mapping(257), shown, Arc::default());
        let compression: CompressionPolicy = "zstd:1".parse().unwrap();
        let policy = Policy { file: compression.forced().into(), in_flight_bytes: 64 << 20 };
        let hand = Arc::new(Hand::default());
        let engine = AsyncCow::new(policy, Arc::clone(&hand) as _);
        Self { store, cache, inode, hand, engine }
    }

    /// A file of two chunks whose writeback stands at `moment`.
    fn at(moment: Moment) -> (Self, Vec<u8>) {
        let rig = Self::new();
        let content = text(LEN, 1);
        rig.inode.write(0, &content).unwrap();
        if moment != Moment::Dirty {
            writepages(&rig.inode, &WritebackControl::sync_all(), &rig.engine);
            assert_eq!(rig.engine.queued_chunks(), 2);
        }
        if matches!(moment, Moment::BetweenPhases | Moment::Ordered | Moment::HalfWritten) {
            rig.hand.run(1);
            assert_eq!(rig.engine.queued_chunks(), 2, "the second waits for the first");
        }
        if matches!(moment, Moment::Ordered | Moment::HalfWritten) {
            rig.hand.run(0);
            assert_eq!(rig.engine.queued_chunks(), 0);
        }
        if moment == Moment::HalfWritten {
            rig.hand.run(0);
        }
        let flags =
            [0, LEN - PAGE].map(|at| rig.inode.mapping().flags(PageIndex::containing(at as u64)));
        let expected = match moment {
            Moment::Dirty => [PageFlags::DIRTY; 2],
            Moment::Queued | Moment::BetweenPhases => [PageFlags::FROZEN | PageFlags::LOCKED; 2],
            Moment::Ordered => [PageFlags::ORDERED | PageFlags::WRITEBACK; 2],
            Moment::HalfWritten => [PageFlags::empty(), PageFlags::ORDERED | PageFlags::WRITEBACK],
        };
        let expected = expected.map(|flags| flags | PageFlags::UPTODATE);
        assert_eq!(flags.map(|flags| flags - PageFlags::REFERENCED), expected, "{moment:?}");
        (rig, content)
    }

    /// Writes back what is dirty now, and all that is under way.
    fn flush(&self) {
        self.hand.run_all();
        writepages(&self.inode, &WritebackControl::sync_all(), &self.engine);
        self.hand.run_all();
        self.inode.wait_writeback();
    }

    /// The content from the cache.
    fn cached(&self) -> Vec<u8> {
        read(&self.inode)
    }

    /// The content on disk, as if the cache had never been.
    fn stored(&self) -> Vec<u8> {
        let cache = PageCache::new(CacheLimits::for_budget(64 << 20));
        let store = Arc::clone(&self.store) as _;
        let (ino, size) = (self.inode.ino(), self.inode.size());
        read(&InodeIo::new(ino, size, cache.mapping(ino.0), store, Arc::default()))
    }

    /// Everything is written, and nothing is left (laws E4 and B2).
    fn settle(&self, content: &[u8]) {
        self.flush();
        self.cache.check_at_rest().unwrap();
        assert_eq!((self.store.reserved(), self.engine.bytes_in_flight()), (0, 0));
        assert!(self.inode.is_clean());
        self.inode.check_structure();
        assert!(self.cached() == content, "from the cache");
        assert!(self.stored() == content, "from disk");
        let end = block_align_up(self.inode.size());
        assert!(self.store.maps(self.inode.ino()).iter().all(|map| map.range.end <= end));
    }
}

fn read(inode: &Arc<InodeIo>) -> Vec<u8> {
    let mut bytes = vec![0xAA; usize::try_from(inode.size()).unwrap()];
    let n = inode.read(0, &mut bytes, &Readahead::default(), &Inline).unwrap();
    assert_eq!(n, bytes.len());
    bytes
}

fn text(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| b"abcdefgh"[(at / 7 * seed + at) % 8]).collect()
}

/// Runs `work`, which must end by itself: it has nobody to wait for.
fn must_end(work: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        work();
        let _ = done.send(()); // nobody listens any more if it took too long
    });
    let waited = ended.recv_timeout(Duration::from_secs(60));
    assert_ne!(waited, Err(mpsc::RecvTimeoutError::Timeout), "it waits for the writeback");
    thread.join().unwrap();
}

/// Runs `work` in a thread, sees that it waits, runs the jobs, and sees that it ends.
fn must_wait_for_jobs(rig: &Rig, work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(work);
    std::thread::sleep(Duration::from_millis(10));
    assert!(!thread.is_finished(), "it did not wait for what is under way");
    let begun = std::time::Instant::now();
    while !thread.is_finished() {
        rig.hand.run_all();
        assert!(begun.elapsed() < Duration::from_secs(60), "it waits for ever");
        std::thread::yield_now();
    }
    thread.join().unwrap();
}

#[test]
fn a_page_that_is_rewritten_at_any_moment_of_its_writeback_is_stored_in_both_versions() {
    for moment in MOMENTS {
        let (rig, old) = Rig::at(moment);
        let mut new = old.clone();
        // A whole page, a part of another, and one in the other chunk.
        let rewritten = [(3 * PAGE, PAGE), (5 * PAGE + 70, 100), (LEN - PAGE, PAGE)];
        for (at, len) in rewritten {
            new[at..at + len].fill(9);
        }
        let (inode, bytes) = (Arc::clone(&rig.inode), new.clone());
        must_end(move || {
            for (at, len) in rewritten {
                inode.write(at as u64, &bytes[at..at + len]).unwrap();
            }
        });
        assert!(rig.cached() == new, "{moment:?}: readers see the newest");
        rig.hand.run_all();
        if moment != Moment::Dirty {
            assert!(rig.stored() == old, "{moment:?}: what was frozen is what is written (law B1)");
        }
        rig.settle(&new);
    }
}

#[test]
fn a_truncate_at_any_moment_of_a_writeback_cuts_exactly_what_it_says() {
    // To nothing, within a block, at the border of the chunks, and within the second.
    for to in [0, 5000, 512 << 10, LEN - 5000] {
        for moment in MOMENTS {
            let (rig, mut content) = Rig::at(moment);
            let inode = Arc::clone(&rig.inode);
            let truncate = move || inode.truncate(to as u64).unwrap();
            if moment == Moment::Dirty {
                must_end(truncate);
            } else {
                must_wait_for_jobs(&rig, truncate);
            }
            content.truncate(to);
            rig.settle(&content);
            // What was cut off does not come back when the file grows.
            rig.inode.truncate(LEN as u64).unwrap();
            content.resize(LEN, 0);
            rig.settle(&content);
        }
    }
}

#[test]
fn a_truncate_that_extends_waits_for_no_writeback() {
    for moment in MOMENTS {
        let (rig, mut content) = Rig::at(moment);
        let inode = Arc::clone(&rig.inode);
        must_end(move || inode.truncate(2 * LEN as u64 + 100).unwrap());
        content.resize(2 * LEN + 100, 0);
        rig.settle(&content);
    }
}

#[test]
fn a_hole_that_is_punched_at_any_moment_of_a_writeback_stays_one() {
    for moment in MOMENTS {
        let (rig, mut content) = Rig::at(moment);
        let range = 3 * PAGE + 10..LEN - 2 * PAGE;
        content[range.clone()].fill(0);
        let inode = Arc::clone(&rig.inode);
        let bytes = cowback_base::ByteRange::new(range.start as u64, range.end as u64);
        let punch = move || inode.punch(bytes).unwrap();
        if moment == Moment::Dirty {
            must_end(punch);
        } else {
            must_wait_for_jobs(&rig, punch);
        }
        rig.settle(&content);
    }
}

#[test]
fn a_sync_at_any_moment_waits_until_all_is_in_the_metadata() {
    for moment in MOMENTS.into_iter().skip(1) {
        let (rig, content) = Rig::at(moment);
        let inode = Arc::clone(&rig.inode);
        must_wait_for_jobs(&rig, move || {
            inode.wait_writeback();
            assert!(inode.is_clean());
        });
        assert!(rig.stored() == content, "{moment:?} (law R5)");
        rig.settle(&content);
    }
}

/// Has another thread wait for the file's writeback, which is about to when this returns. Who listens hears when it is done.
fn waiting(rig: &Rig) -> mpsc::Receiver<()> {
    let inode = Arc::clone(&rig.inode);
    let (say, hear) = mpsc::channel();
    std::thread::spawn(move || {
        say.send(()).unwrap();
        inode.wait_writeback();
        let _ = say.send(()); // nobody listens any more if it took too long
    });
    hear.recv().unwrap();
    hear
}

#[test]
fn a_sync_is_not_kept_busy_by_what_is_sent_after_it() {
    for moment in MOMENTS.into_iter().skip(1) {
        let (rig, mut content) = Rig::at(moment);
        let waiter = waiting(&rig);
        let mut rounds = 0..1000;
        loop {
            // Another page is on its way before those that were are done, so at no moment is there none.
            let older = rig.hand.0.lock().len();
            rig.inode.write(content.len() as u64, &[1; PAGE]).unwrap();
            content.extend([1; PAGE]);
            writepages(&rig.inode, &WritebackControl::sync_all(), &rig.engine);
            (0..older).for_each(|_| rig.hand.run(0));
            while rig.hand.0.lock().len() > 1 {
                rig.hand.run(1);
            }
            assert!(!rig.inode.is_clean());
            if waiter.recv_timeout(Duration::from_millis(10)).is_ok() {
                break;
            }
            assert_ne!(rounds.next(), None, "{moment:?}: what comes later is waited for (law R5)");
        }
        rig.settle(&content);
    }
}

#[test]
fn a_sync_waits_for_what_was_sent_before_it_though_later_writes_are_done_first() {
    let (rig, mut content) = Rig::at(Moment::Ordered);
    let waiter = waiting(&rig);
    rig.inode.write(LEN as u64, &[1; PAGE]).unwrap();
    content.extend([1; PAGE]);
    writepages(&rig.inode, &WritebackControl::sync_all(), &rig.engine);
    for older in [2, 2, 1] {
        let early = waiter.recv_timeout(Duration::from_millis(20));
        assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout), "an older write is not done");
        rig.hand.run(older);
    }
    assert!(!rig.inode.is_clean());
    rig.hand.run_all();
    waiter.recv_timeout(Duration::from_secs(60)).unwrap();
    rig.settle(&content);
}

#[test]
fn a_reader_at_any_moment_gets_the_newest_and_waits_for_no_writeback() {
    for moment in MOMENTS {
        let (rig, content) = Rig::at(moment);
        let (inode, expected) = (Arc::clone(&rig.inode), content.clone());
        must_end(move || assert!(read(&inode) == expected));
        rig.settle(&content);
    }
}

#[test]
fn what_is_evicted_as_soon_as_its_writeback_has_ended_is_read_from_the_disk() {
    let (rig, content) = Rig::at(Moment::HalfWritten);
    let all = PageRange::new(PageIndex(0), PageIndex(u64::MAX));
    let dropped = rig.inode.mapping().drop_clean(all);
    assert_eq!(dropped, 128, "the first chunk, and nothing of the second");
    assert!(rig.cached() == content, "the one from disk, the other from the cache");
    rig.settle(&content);
}

#[test]
fn chunks_that_are_compressed_in_any_order_lie_in_file_order() {
    let content = text(2 * LEN, 3);
    let mut orders = vec![vec![]];
    for chunk in 0..4 {
        let put = |order: &Vec<usize>, at| {
            let mut longer = order.clone();
            longer.insert(at, chunk);
            longer
        };
        orders = orders.iter().flat_map(|o| (0..=o.len()).map(move |at| put(o, at))).collect();
    }
    assert_eq!(orders.len(), 24);
    let mut first = None;
    for order in orders {
        let rig = Rig::new();
        rig.inode.write(0, &content).unwrap();
        writepages(&rig.inode, &WritebackControl::sync_all(), &rig.engine);
        let chunks: Vec<Job> = std::mem::take(&mut *rig.hand.0.lock());
        let mut chunks: Vec<_> = chunks.into_iter().map(Some).collect();
        for at in &order {
            chunks[*at].take().unwrap()();
        }
        rig.settle(&content);
        let places = rig.store.allocations();
        assert_eq!(places, *first.get_or_insert_with(|| places.clone()), "{order:?} (law R3)");
    }
}

#[test]
fn a_small_file_that_is_written_again_while_its_inline_extent_is_under_way_keeps_both_writes() {
    // It stays inline; it grows out of it within its block, and beyond.
    for more in [100, 2500, 9000] {
        let rig = Rig::new();
        rig.inode.write(0, &[1; 1000]).unwrap();
        writepages(&rig.inode, &WritebackControl::sync_all(), &rig.engine);
        let inode = Arc::clone(&rig.inode);
        must_end(move || inode.write(1000, &vec![2; more]).unwrap());
        let mut content = vec![1; 1000];
        content.resize(1000 + more, 2);
        rig.settle(&content);
    }
}

#[test]
fn an_inline_extent_that_is_refused_goes_the_ordinary_way() {
    let rig = Rig::new();
    rig.inode.write(0, &[1; 1000]).unwrap();
    rig.store.set_faults(Faults { inline: Some(0), ..Faults::default() });
    rig.settle(&[1; 1000]);
    assert_eq!(rig.inode.errors().count(), 0, "nobody has to hear of it");
    let maps = rig.store.maps(rig.inode.ino());
    assert!(matches!(maps[0].kind, ExtentKind::Regular { .. }), "{maps:?}");
}

#[test]
#[should_panic(expected = "dirty and delalloc")]
fn a_page_that_was_dirtied_behind_the_engines_back_is_found() {
    let rig = Rig::new();
    rig.inode.mapping().write(0, &[1; PAGE], PageIndex(0), |_| {});
    rig.inode.check_structure();
}
