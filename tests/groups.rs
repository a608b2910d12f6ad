//! Groups and shared budgets, as who embeds the library sees them: each pays for its own, and only who runs ahead of the disk is slowed down.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use cowback::budget::{Budget, Group, Limits};
use cowback::device::{BlockDevice, MemoryDevice};
use cowback::options::CompressionPolicy;
use cowback::{Error, File, Options, Volume};
use cowback_base::sync::{Condvar, Mutex};
use cowback_testkit::faulty::{Effect, Fault, FaultDevice, Op};
use cowback_testkit::random::{Rng, seed};
use cowback_tests::read_all;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A volume on `device` whose files belong to `group`.
fn volume_on(device: Arc<dyn BlockDevice>, group: &Group, threads: usize, thread: bool) -> Volume {
    let options = Options {
        group: Some(group.clone()),
        threads,
        compression: CompressionPolicy::None,
        commit_interval: thread.then_some(Duration::from_secs(3600)),
        ..Options::default()
    };
    Volume::create_on(device, &options).unwrap()
}

fn memory() -> Arc<dyn BlockDevice> {
    Arc::new(MemoryDevice::new(512 << 20))
}

/// Runs `work`, which must end.
fn must_end(what: &str, work: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        work();
        let _ = done.send(()); // nobody waits any more if it took too long
    });
    match ended.recv_timeout(Duration::from_secs(120)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: it hangs"),
        _ => thread.join().unwrap(),
    }
}

/// Writes `len` bytes from `from` on, in steps of `step`.
fn fill(file: &File, from: u64, len: u64, step: u64) {
    let data = Rng::new(from).bytes(usize::try_from(step).unwrap());
    for at in (from..from + len).step_by(data.len()) {
        file.write_at(at, &data).unwrap();
    }
}

/// Nothing of the group is dirty or on its way.
fn at_rest(group: &Group) -> bool {
    let stats = group.stats();
    (stats.dirty, stats.in_flight) == (0, 0)
}

/// A disk that writes nothing while it is stuck.
#[derive(Debug)]
struct StuckDevice {
    inner: MemoryDevice,
    stuck: Mutex<bool>,
    changed: Condvar,
}

impl StuckDevice {
    fn new() -> Arc<Self> {
        let inner = MemoryDevice::new(256 << 20);
        Arc::new(Self { inner, stuck: Mutex::new(false), changed: Condvar::new() })
    }

    fn set_stuck(&self, stuck: bool) {
        *self.stuck.lock() = stuck;
        self.changed.notify_all();
    }
}

impl BlockDevice for StuckDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.inner.read_at(offset, buf)
    }
    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> std::io::Result<()> {
        let mut stuck = self.stuck.lock();
        while *stuck {
            self.changed.wait(&mut stuck);
        }
        drop(stuck);
        self.inner.write_vectored_at(offset, parts)
    }
    fn flush(&self) -> std::io::Result<()> {
        self.inner.flush()
    }
    fn len(&self) -> std::io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.inner.set_len(len)
    }
}

#[test]
fn only_the_offender_waits_when_the_flusher_is_blocked() {
    for threads in [1, 2, 8] {
        for has_thread in [true, false] {
            must_end("a blocked flusher", move || {
                let budget = Budget::new(Limits::for_budget(64 * MIB));
                let [greedy, modest] = ["greedy", "modest"]
                    .map(|name| budget.group(name, Limits::for_budget(4 * MIB)));
                let device = StuckDevice::new();
                let volume = volume_on(Arc::clone(&device) as _, &greedy, threads, has_thread);
                let files = ["a", "b"].map(|name| volume.create_file(name).unwrap());
                files[1].set_group(&modest).unwrap();
                device.set_stuck(true);
                let through = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        fill(&files[0], 0, 16 * MIB, 64 * KIB);
                        through.store(true, Ordering::SeqCst);
                    });
                    let unwritten = |group: &Group| group.stats().dirty + group.stats().in_flight;
                    while unwritten(&greedy) < 2 * MIB {
                        std::thread::yield_now();
                    }
                    // The disk does nothing, and this one gets along.
                    fill(&files[1], 0, 3 * MIB / 2, 4 * KIB);
                    assert!(!through.load(Ordering::SeqCst), "the offender is not held up");
                    // No more than the limit and a write; a version may be seen twice on its way.
                    while unwritten(&greedy) > 2 * MIB + 64 * KIB {
                        std::thread::yield_now();
                    }
                    device.set_stuck(false);
                });
                let (greedy, modest) = (greedy.stats(), modest.stats());
                // Held up at the limit; or still on the way there, when the disk went on.
                assert!(greedy.stalls.count + greedy.pauses.count > 0, "{greedy:?}");
                assert!(greedy.stalls.longest <= greedy.stalls.total);
                assert_eq!(modest.stalls.count, 0, "{modest:?}");
                let all = volume.stats();
                assert_eq!(all.cache.stalls, greedy.stalls);
                assert_eq!(
                    all.groups.iter().map(|group| &group.name[..]).collect::<Vec<_>>(),
                    ["greedy", "modest"]
                );
                drop(files);
                volume.close().unwrap();
                assert_eq!((budget.cached_bytes(), budget.unwritten_bytes()), (0, 0));
            });
        }
    }
}

#[test]
fn a_file_changes_hands_while_two_owners_write_and_at_rest_nothing_is_charged() {
    for threads in [1, 2, 8] {
        must_end("two owners", move || {
            let budget = Budget::new(Limits::for_budget(16 * MIB));
            let groups = ["a", "b"].map(|name| budget.group(name, Limits::for_budget(2 * MIB)));
            let volume = volume_on(memory(), &budget.root(), threads, true);
            let files = ["x", "y"].map(|name| volume.create_file(name).unwrap());
            std::thread::scope(|scope| {
                for (writer, group) in groups.iter().enumerate() {
                    let (files, volume) = (&files, &volume);
                    scope.spawn(move || {
                        let mut rng = Rng::new(seed("owners", writer as u64));
                        for round in 0..300 {
                            let file = &files[rng.index(2)];
                            file.set_group(group).unwrap();
                            let at = rng.index(4 << 20) as u64;
                            let len = rng.index(100_000);
                            file.write_at(at, &rng.bytes(len)).unwrap();
                            match round % 50 {
                                0 => drop(volume.commit().unwrap()),
                                17 => file.start_writeback(),
                                33 => file.set_len(at).unwrap(),
                                _ => {}
                            }
                        }
                    });
                }
            });
            volume.commit().unwrap();
            assert!(groups.iter().all(at_rest) && at_rest(&budget.root()), "{groups:?}");
            let written: u64 = groups.iter().map(|group| group.stats().written).sum();
            assert!(written >= MIB, "{written} bytes were written for them");
            assert_eq!(budget.root().stats().written, 0, "the files were theirs");
            let cached = groups.iter().map(|group| group.stats().cached).sum::<u64>();
            assert_eq!(
                (cached, volume.stats().cached_bytes),
                (budget.cached_bytes(), budget.cached_bytes())
            );
            drop(files);
            volume.close().unwrap();
            assert_eq!((budget.cached_bytes(), budget.unwritten_bytes()), (0, 0));
        });
    }
}

#[test]
fn a_scan_by_one_tenant_costs_another_no_page() {
    for threads in [1, 2, 8] {
        let budget = Budget::new(Limits::for_budget(32 * MIB));
        let [scans, works] =
            ["scans", "works"].map(|name| budget.group(name, Limits::for_budget(6 * MIB)));
        let volume = volume_on(memory(), &scans, threads, false);
        let (cold, warm) =
            (volume.create_file("cold").unwrap(), volume.create_file("warm").unwrap());
        warm.set_group(&works).unwrap();
        fill(&warm, 0, 5 * MIB, MIB);
        fill(&cold, 0, 48 * MIB, MIB);
        volume.commit().unwrap();
        let mut target = vec![0; 64 << 10];
        let mut read = |file: &File, len: u64| {
            for at in (0..len).step_by(64 << 10) {
                assert_eq!(file.read_at(at, &mut target).unwrap(), 64 << 10);
            }
        };
        read(&cold, 48 * MIB);
        let (before, cached) = (volume.stats().cache, scans.stats().cached);
        assert!(
            before.misses > 0 && cached <= 6 * MIB * 17 / 16 + 4 * MIB,
            "{cached} bytes cached"
        );
        assert_eq!((works.stats().cached, works.stats().reclaimed), (5 * MIB, 0));
        // All of it is there, though it was written once and never used since.
        read(&warm, 5 * MIB);
        let after = volume.stats().cache;
        assert_eq!(after.misses, before.misses);
        assert_eq!(after.hits - before.hits, 5 * MIB / 4096);
        drop((cold, warm));
        volume.close().unwrap();
    }
}

#[test]
fn a_writer_at_the_limit_of_a_shared_budget_has_the_others_write_back() {
    for thread in [true, false] {
        must_end("a shared budget", move || {
            let budget = Budget::new(Limits::for_budget(16 * MIB)); // 4 MiB, and 8 MiB
            let [idle, busy] = [(), ()].map(|()| volume_on(memory(), &budget.root(), 2, thread));
            let (of_idle, of_busy) =
                (idle.create_file("f").unwrap(), busy.create_file("f").unwrap());
            fill(&of_idle, 0, 4 * MIB - 256 * KIB, 64 * KIB);
            assert_eq!(idle.stats().dirty_bytes, 4 * MIB - 256 * KIB);
            for round in 0..32 {
                fill(&of_busy, round * MIB, MIB, 256 * KIB);
                let all = budget.unwritten_bytes(); // of which a leaf may be seen twice on its way, for each volume
                assert!(all <= 8 * MIB + 512 * KIB, "{all} bytes");
            }
            // Written back by its own thread, or by the writer of the other volume.
            let left = || idle.stats().dirty_bytes;
            while thread && left() >= 2 * MIB {
                std::thread::yield_now();
            }
            assert!(left() < 2 * MIB, "{} bytes", left());
            drop((of_idle, of_busy));
            idle.close().unwrap();
            assert_eq!(
                budget.cached_bytes(),
                busy.stats().cached_bytes,
                "what was its is given back"
            );
            busy.close().unwrap();
            assert_eq!((budget.cached_bytes(), budget.unwritten_bytes()), (0, 0));
        });
    }
}

#[test]
fn a_volume_that_cannot_write_or_has_ended_keeps_no_other_from_writing() {
    for thread in [true, false] {
        must_end("a volume that fails", move || {
            let budget = Budget::new(Limits::for_budget(8 * MIB));
            let device = Arc::new(FaultDevice::new(memory(), 1));
            let sick = volume_on(Arc::clone(&device) as _, &budget.root(), 2, thread);
            let well = volume_on(memory(), &budget.root(), 2, thread);
            let (of_sick, of_well) =
                (sick.create_file("f").unwrap(), well.create_file("f").unwrap());
            device.arm_from_now(Fault::forever(Op::Write, 0, Effect::Eio));
            let part = Rng::new(5).bytes(256 << 10);
            let error = (0..).find_map(|at| of_sick.write_at(at * 256 * KIB, &part).err());
            assert!(matches!(error, Some(Error::Store(_))), "{error:?}");
            assert!(budget.unwritten_bytes() >= 4 * MIB, "the budget is at its hard limit");
            fill(&of_well, 0, 16 * MIB, 256 * KIB);
            // Dropped, as if killed, with its file still open.
            drop(sick);
            fill(&of_well, 16 * MIB, 16 * MIB, 256 * KIB);
            assert!(budget.unwritten_bytes() >= 4 * MIB, "what is lost is still in memory");
            drop(of_sick);
            well.commit().unwrap();
            assert_eq!(budget.unwritten_bytes(), 0, "and is gone with the last handle");
            assert_eq!(budget.cached_bytes(), well.stats().cached_bytes);
            fill(&of_well, 0, 16 * MIB, 256 * KIB);
            drop(of_well);
            assert_eq!(read_all(&well, "f").unwrap().len(), 32 << 20);
            well.close().unwrap();
            assert_eq!(budget.cached_bytes(), 0);
        });
    }
}

#[test]
fn a_closed_volume_gives_its_memory_back_though_its_files_are_still_open() {
    let budget = Budget::new(Limits::for_budget(16 * MIB));
    let tenant = budget.group("tenant", Limits::for_budget(8 * MIB));
    let volume = volume_on(memory(), &tenant, 1, true);
    let file = volume.create_file("f").unwrap();
    fill(&file, 0, MIB, 64 * KIB);
    assert_eq!(file.group(), tenant);
    assert_eq!((tenant.stats().cached, tenant.stats().dirty), (MIB, MIB));
    volume.close().unwrap();
    assert_eq!((tenant.stats().cached, budget.cached_bytes()), (0, 0));
    let other = volume_on(memory(), &budget.root(), 1, false);
    let mine = other.create_file("g").unwrap();
    let elsewhere = Budget::new(Limits::for_budget(MIB)).root();
    let refused = mine.set_group(&elsewhere).unwrap_err();
    assert!(matches!(refused, Error::Option { option: "group", .. }), "{refused}");
    assert_eq!(mine.group(), budget.root());
}

#[test]
fn a_group_with_hardly_any_memory_gets_on_with_it() {
    for thread in [true, false] {
        must_end("a small group", move || {
            let budget = Budget::new(Limits::for_budget(64 * MIB));
            let tiny = budget.group("tiny", Limits::for_budget(64 * KIB));
            let volume = volume_on(memory(), &tiny, 2, thread);
            let file = volume.create_file("f").unwrap();
            let content = Rng::new(9).bytes(4 << 20);
            for (at, part) in (0..).step_by(100_000).zip(content.chunks(100_000)) {
                file.write_at(at, part).unwrap();
            }
            volume.commit().unwrap();
            assert!(tiny.stats().stalls.count > 0, "it waited for the disk");
            assert!(read_all(&volume, "f").unwrap() == content);
            let cached = tiny.stats().cached;
            assert!(cached <= 512 * KIB, "{cached} bytes cached"); // what one read has in its hands
            drop(file);
            volume.close().unwrap();
            assert_eq!(budget.cached_bytes(), 0);
        });
    }
}

#[test]
fn writers_are_slowed_down_before_they_have_to_wait() {
    let budget = Budget::new(Limits::for_budget(16 * MIB)); // paced from 6 MiB on, stopped at 8
    let device = StuckDevice::new();
    let volume = volume_on(Arc::clone(&device) as _, &budget.root(), 1, true);
    let file = volume.create_file("f").unwrap();
    device.set_stuck(true);
    fill(&file, 0, 5 * MIB, 64 * KIB);
    let pauses = || volume.stats().cache.pauses;
    assert_eq!(pauses().count, 0, "not half-way");
    fill(&file, 5 * MIB, 2 * MIB, 64 * KIB);
    let seen = pauses();
    assert!((8..=32).contains(&seen.count), "{seen:?}");
    assert_eq!(volume.stats().cache.stalls.count, 0);
    assert_eq!(budget.root().stats().pauses, seen);
    device.set_stuck(false);
    drop(file);
    volume.close().unwrap();
}
