//! Tests of groups: that each page and each version in flight is charged to one group at every moment, that memory and dirty limits
//! hold for the group that exceeds them, and for nobody else.

use std::collections::HashMap;

use cowback_base::sync::thread;
use cowback_base::{PageIndex, PageRange};
use proptest::prelude::*;

use super::*;
use crate::leaf::Leaf;
use crate::level::DirtyLimit;
use crate::{Busy, Frame, LockedPages, Mapping, PageCache, PageOps};

const WRITEBACK: PageOps = PageOps::SET_ORDERED.union(PageOps::SET_WRITEBACK);
const WRITTEN: PageOps = PageOps::CLEAR_ORDERED.union(PageOps::END_WRITEBACK);
const MIB: u64 = 1 << 20;

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(PageIndex(start), PageIndex(end))
}

fn limits(budget: u64, background: u64, hard: u64) -> CacheLimits {
    let [budget, background, hard] = [budget, background, hard].map(|pages| pages * 4096);
    CacheLimits { budget, background, hard }
}

fn fill(file: &Mapping, range: PageRange) {
    for page in file.lock_absent(range) {
        page.fill(Frame::zeroed());
    }
}

fn dirty(file: &Mapping, range: PageRange) {
    for index in range.iter() {
        file.write(index.offset(), &[1; 4096], PageIndex(0), |_| {});
    }
}

/// Pages cached, dirty and in flight.
fn has(group: &Group) -> (u64, u64, u64) {
    let stats = group.stats();
    (stats.cached / 4096, stats.dirty / 4096, stats.in_flight / 4096)
}

/// Pages that are taken for writeback, all that are dirty in `range`.
fn freeze(file: &Mapping, range: PageRange) -> (LockedPages, Charge) {
    let run = file.lock_contig(range, Busy::Wait);
    assert_eq!(run.range(), range);
    let (_, charge) = run.freeze(|_| {});
    (run, charge)
}

#[test]
fn a_file_that_changes_hands_takes_what_is_cached_and_dirty_along_but_not_what_is_in_flight() {
    let budget = Budget::new(CacheLimits::default());
    let (first, second) =
        (budget.group("first", limits(64, 16, 32)), budget.group("second", limits(64, 16, 32)));
    let file = PageCache::in_group(&first).mapping(1);
    fill(&file, pages(0, 4)); // clean
    dirty(&file, pages(4, 16));
    let (queued, queued_charge) = freeze(&file, pages(8, 12));
    let (run, written_charge) = freeze(&file, pages(12, 16));
    run.release(WRITEBACK, None);
    assert_eq!((has(&first), has(&second)), ((16, 4, 8), (0, 0, 0)));

    file.set_group(&second);
    assert!(file.belongs_to(&second) && file.group() == second);
    assert_eq!((has(&first), has(&second)), ((0, 0, 8), (16, 4, 0)));
    assert_eq!((queued_charge.group(), written_charge.group()), (first.clone(), first.clone()));

    // A newer version of what is under writeback is the new owner's; the old one is given back to whom it was taken from.
    dirty(&file, pages(12, 13));
    assert_eq!((has(&first), has(&second)), ((0, 0, 8), (16, 5, 0)));
    file.complete(pages(12, 16), WRITTEN);
    written_charge.written();
    assert_eq!((has(&first), has(&second)), ((0, 0, 4), (16, 5, 0)));
    // What fails is dirty again, and the present owner's.
    file.redirty(queued.range(), |_| {});
    queued.unlock();
    drop(queued_charge);
    assert_eq!((has(&first), has(&second)), ((0, 0, 0), (16, 9, 0)));
    assert_eq!((first.stats().written, second.stats().written), (4 * 4096, 0));
    file.truncate(PageIndex(0), |_| {});
    assert_eq!(has(&second), (0, 0, 0));
    assert_eq!((budget.cached_bytes(), budget.unwritten_bytes()), (0, 0));
}

#[test]
fn a_file_that_changes_hands_with_no_page_but_one_to_come_is_reclaimed_by_its_new_group() {
    let budget = Budget::new(CacheLimits::default());
    let groups = ["first", "second"].map(|name| budget.group(name, limits(64, 16, 32)));
    let file = PageCache::in_group(&groups[0]).mapping(1);
    fill(&file, pages(0, 1));
    let to_come: Vec<_> = file.lock_absent(pages(1, 3)).into_iter().collect();
    file.drop_clean(pages(0, 1));
    assert_eq!(has(&groups[0]), (0, 0, 0));
    file.set_group(&groups[1]);
    assert!(to_come.into_iter().all(|page| page.fill(Frame::zeroed())));
    assert_eq!(has(&groups[1]), (2, 0, 0));
    groups[1].set_limits(limits(1, 16, 32));
    assert!(has(&groups[1]).0 <= 1, "it is not found");
}

#[test]
#[should_panic(expected = "another budget")]
fn a_file_cannot_be_given_to_a_group_of_another_budget() {
    let other = Budget::new(CacheLimits::default()).root();
    PageCache::new(CacheLimits::default()).mapping(1).set_group(&other);
}

#[test]
fn a_tenant_that_streams_takes_its_own_pages_and_none_that_are_within_another_s_limit() {
    // Whether the limits add up to less than the budget or to more, and with or without files in the root group.
    for (tenant, budget, unlimited, kept) in [
        (256, 1024, false, 256),
        (512, 800, false, 300),
        (512, 1024, true, 300),
        (700, 1024, true, 700), // more than the streaming group ever has
        (700, 1024, false, 700),
    ] {
        let budget = Budget::new(limits(budget, 64, 128));
        let [a, b] = ["a", "b"].map(|name| budget.group(name, limits(tenant, 64, 128)));
        let cache = PageCache::in_group(&a);
        let (stream, own) = (cache.mapping(1), cache.mapping(2));
        if unlimited {
            stream.set_group(&budget.root());
        }
        own.set_group(&b);
        fill(&own, pages(0, kept)); // and never looked at again
        for at in (0..8192).step_by(32) {
            fill(&stream, pages(at, at + 32));
            assert_eq!(has(&b).0, kept, "at page {at}");
            let cached = has(&stream.group()).0;
            assert!(unlimited || cached <= tenant + tenant / 16, "{cached} pages at page {at}");
            let all = budget.cached_bytes() / 4096;
            assert!(all <= budget.0.level.limits.pages() * 17 / 16, "{all} pages in all");
        }
        assert!(stream.group().stats().reclaimed >= 7000 * 4096);
        assert_eq!(b.stats().reclaimed, 0);
    }
}

#[test]
fn a_group_that_has_more_than_its_own_gives_before_one_that_has_not() {
    let budget = Budget::new(limits(1000, 500, 500));
    let small = budget.group("small", limits(200, 100, 100));
    let cache = PageCache::in_group(&budget.root());
    let (large, other) = (cache.mapping(1), cache.mapping(2));
    fill(&large, pages(0, 1000));
    other.set_group(&small);
    fill(&other, pages(0, 200));
    assert_eq!((has(&small).0, small.stats().reclaimed), (200, 0));
    assert!(has(&budget.root()).0 <= 800);
}

#[test]
fn memory_is_given_back_on_demand_and_when_a_limit_is_lowered() {
    let budget = Budget::new(limits(4096, 1024, 2048));
    let tenant = budget.group("tenant", limits(1000, 100, 200));
    let cache = PageCache::in_group(&tenant);
    let (file, rest) = (cache.mapping(1), cache.mapping(2));
    rest.set_group(&budget.root());
    fill(&file, pages(0, 800));
    fill(&rest, pages(0, 3000));
    dirty(&rest, pages(0, 10));
    assert_eq!(budget.reclaim(0), 0);
    let freed = budget.reclaim(MIB);
    assert!((MIB..MIB + 64 * 4096).contains(&freed), "{freed}");
    assert_eq!(has(&tenant).0, 800, "it is within its limit");
    tenant.set_limits(limits(300, 100, 200));
    assert!(has(&tenant).0 <= 300);
    let freed = tenant.reclaim(40 * 4096);
    assert!(freed >= 40 * 4096 && has(&tenant).0 <= 260, "{freed}");
    budget.set_limits(limits(500, 100, 200));
    assert!(budget.cached_bytes() <= 500 * 4096, "{budget:?}");
    assert!(has(&tenant).0 > 0, "the root group has more than its own");
    budget.set_limits(limits(1, 1, 1));
    assert_eq!(budget.cached_bytes(), 10 * 4096, "what is dirty stays");
    rest.truncate(PageIndex(0), |_| {});
    // More is allowed again, and remembered by the policy.
    budget.set_limits(limits(4096, 1024, 2048));
    fill(&rest, pages(0, 3000));
    assert_eq!(has(&budget.root()).0, 3000);
}

#[test]
fn only_the_writers_of_the_group_that_is_at_its_hard_limit_wait() {
    let budget = Budget::new(limits(1024, 400, 512));
    let [a, b] = ["a", "b"].map(|name| budget.group(name, limits(200, 16, 32)));
    let cache = PageCache::in_group(&a);
    let (of_a, of_b) = (cache.mapping(1), cache.mapping(2));
    of_b.set_group(&b);
    dirty(&of_a, pages(0, 15));
    assert!(!of_a.over_background());
    dirty(&of_a, pages(15, 31));
    assert!(of_a.over_background() && !of_b.over_background());
    // Of the root group, of the two, of the budget.
    let over = cache.dirty_limits().iter().map(DirtyLimit::is_over).collect::<Vec<_>>();
    assert_eq!(over, [true, false, false]);
    assert!(!of_a.must_wait() && !of_a.pause_for(MIB).is_zero());
    dirty(&of_a, pages(31, 32));
    assert!(of_a.must_wait());
    assert!(!of_b.must_wait() && of_b.pause_for(MIB).is_zero());
    assert!(of_b.throttle(|| panic!("it does not wait")));
    assert!(!of_a.throttle(|| true), "it gave up");
    assert_eq!((a.stats().stalls.count, b.stats().stalls.count), (1, 0));
    // The file's new owner is below its limit.
    of_a.set_group(&budget.root());
    assert!(of_a.throttle(|| panic!("it does not wait")));
    of_a.truncate(PageIndex(0), |_| {});
}

#[test]
fn at_the_budget_s_hard_limit_a_group_with_little_to_write_goes_on_and_one_with_more_waits() {
    let budget = Budget::new(limits(1024, 64, 128));
    let tenant = budget.group("tenant", CacheLimits::UNLIMITED);
    let cache = PageCache::in_group(&budget.root());
    let (greedy, modest) = (cache.mapping(1), cache.mapping(2));
    modest.set_group(&tenant);
    dirty(&greedy, pages(0, 128));
    // Half of the limit is set aside, for two groups.
    for page in 0..32 {
        assert!(!modest.must_wait() && modest.throttle(|| panic!("page {page} waits")));
        dirty(&modest, pages(page, page + 1));
    }
    assert!(modest.must_wait() && greedy.must_wait());
    assert!(!modest.throttle(|| true) && !greedy.throttle(|| true));
    modest.truncate(PageIndex(31), |_| {});
    assert!(!modest.must_wait());
    // The last group alone has all of it.
    drop(tenant);
    modest.set_group(&budget.root());
    assert!(modest.must_wait());
    greedy.truncate(PageIndex(40), |_| {});
    assert!(!modest.must_wait() && !greedy.must_wait());
}

#[test]
fn what_one_volume_cannot_write_holds_up_its_own_writers_only() {
    let budget = Budget::new(limits(1024, 64, 128));
    let tenant = budget.group("tenant", limits(512, 16, 32));
    let (sick, well) = (PageCache::in_group(&tenant), PageCache::in_group(&tenant));
    let (on_sick, on_well) = (sick.mapping(1), well.mapping(1));
    dirty(&on_sick, pages(0, 32));
    assert!(on_sick.must_wait() && on_well.must_wait(), "the group is at its limit");
    sick.note_failure();
    assert!(on_sick.must_wait() && !on_well.must_wait());
    assert!(on_well.throttle(|| panic!("it does not wait")));
    // Something of it could be written after all.
    let (run, charge) = freeze(&on_sick, pages(0, 1));
    run.release(WRITEBACK, None);
    on_sick.complete(pages(0, 1), WRITTEN);
    charge.written();
    dirty(&on_sick, pages(0, 1));
    assert!(on_well.must_wait());
    sick.end_writeback();
    assert!(!on_well.must_wait());
    // The budget's limit is looked at alike.
    tenant.set_limits(CacheLimits::UNLIMITED);
    dirty(&on_sick, pages(32, 128));
    assert!(on_sick.must_wait() && !on_well.must_wait());
    dirty(&on_well, pages(0, 128));
    assert!(on_well.must_wait(), "what is its own counts");
    drop((on_sick, on_well));
    assert_eq!((budget.unwritten_bytes(), budget.cached_bytes()), (0, 0), "all charges came back");
}

#[test]
fn what_one_volume_cannot_write_makes_no_other_flush_early_or_pause() {
    let budget = Budget::new(limits(1024, 64, 128));
    let tenant = budget.group("tenant", limits(512, 16, 32));
    let caches = [PageCache::in_group(&tenant), PageCache::in_group(&tenant)];
    let [on_sick, on_well] = [&caches[0], &caches[1]].map(|cache| cache.mapping(1));
    for of_budget in [false, true] {
        let held_up = |file: &Mapping| {
            let over = file.over_background();
            // As its flusher sees it, however that was started.
            assert_eq!(over, file.cache.dirty_limits().iter().any(DirtyLimit::is_over));
            (over, !file.pause_for(1 << 20).is_zero())
        };
        if of_budget {
            tenant.set_limits(CacheLimits::UNLIMITED);
        }
        dirty(&on_sick, if of_budget { pages(0, 120) } else { pages(0, 31) });
        assert_eq!(held_up(&on_well).0, !of_budget, "{of_budget}"); // the second time it is known to fail
        caches[0].note_failure();
        assert_eq!(held_up(&on_well), (false, false), "{of_budget}");
        assert_eq!(held_up(&on_sick), (true, true), "{of_budget}");
    }
    dirty(&on_well, pages(0, 110));
    assert!(on_well.over_background(), "what is its own counts");
    assert!(!on_well.pause_for(1 << 20).is_zero());
}

#[test]
fn writers_of_a_group_at_its_limit_go_on_as_there_is_room_and_those_of_another_do_not_wait() {
    let budget = Budget::new(limits(1024, 400, 512));
    let [a, b] = ["a", "b"].map(|name| budget.group(name, limits(200, 8, 8)));
    let cache = PageCache::in_group(&a);
    let (of_a, of_b) = (cache.mapping(1), cache.mapping(2));
    of_b.set_group(&b);
    dirty(&of_a, pages(0, 8));
    thread::scope(|scope| {
        let writers = [0, 1, 2, 3, 4].map(|writer| {
            let of_a = &of_a;
            scope.spawn(move || {
                assert!(of_a.throttle(|| false));
                dirty(of_a, pages(100 + writer, 101 + writer));
            })
        });
        while a.0.level.throttle.in_line() < 5 {
            thread::yield_now();
        }
        // The disk does nothing at all, and the other group's writer does not mind.
        for page in 0..7 {
            assert!(of_b.throttle(|| panic!("it does not wait")));
            dirty(&of_b, pages(page, page + 1));
        }
        assert!(writers.iter().all(|writer| !writer.is_finished()));
        of_a.invalidate(pages(0, 5), |_| {}); // room for all
    });
    assert_eq!((a.stats().stalls.count, b.stats().stalls.count), (5, 0));
    assert_eq!(has(&a).1, 8);
}

#[test]
fn groups_come_and_go_while_a_writer_waits() {
    let budget = Budget::new(limits(1024, 64, 128));
    let cache = PageCache::in_group(&budget.root());
    let file = cache.mapping(1);
    dirty(&file, pages(0, 128));
    let (ended, told) = std::sync::mpsc::channel();
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let gave_up = !file.throttle(|| stop.load(std::sync::atomic::Ordering::SeqCst));
            ended.send(gave_up).unwrap();
        });
        // Each that goes has the writer look; it must not be the one who lets go of the last reference, under the lock of its line.
        for _ in 0..20_000 {
            drop(budget.group("passing", limits(64, 16, 32)));
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        cache.wake_throttled();
        let told = told.recv_timeout(std::time::Duration::from_secs(60));
        if told.is_err() {
            std::process::abort(); // the scope would wait for ever
        }
        assert!(told.unwrap());
    });
}

// ---- against a naive account ----

#[derive(Debug, Clone)]
enum Op {
    Fill {
        file: usize,
        start: u64,
        len: u64,
    },
    Dirty {
        file: usize,
        start: u64,
        len: u64,
    },
    Freeze {
        file: usize,
        start: u64,
        len: u64,
    },
    /// Resolves a run in flight: half of it is written, the other half fails.
    Resolve {
        nth: usize,
    },
    Give {
        file: usize,
        group: usize,
    },
    Use {
        file: usize,
        start: u64,
    },
    Truncate {
        file: usize,
        start: u64,
    },
    Reclaim {
        pages: u64,
    },
    Limit {
        group: usize,
        pages: u64,
    },
    /// The file is forgotten, with what is dirty of it.
    Forget {
        file: usize,
    },
}

const FILE_PAGES: u64 = 100;

fn op() -> impl Strategy<Value = Op> {
    let span = || (0..6_usize, 0..FILE_PAGES, 1..40_u64);
    prop_oneof![
        span().prop_map(|(file, start, len)| Op::Fill { file, start, len }),
        span().prop_map(|(file, start, len)| Op::Dirty { file, start, len }),
        span().prop_map(|(file, start, len)| Op::Dirty { file, start, len }),
        span().prop_map(|(file, start, len)| Op::Freeze { file, start, len }),
        (0..4_usize).prop_map(|nth| Op::Resolve { nth }),
        (0..6_usize, 0..3_usize).prop_map(|(file, group)| Op::Give { file, group }),
        (0..6_usize, 0..FILE_PAGES).prop_map(|(file, start)| Op::Use { file, start }),
        (0..6_usize, 0..FILE_PAGES).prop_map(|(file, start)| Op::Truncate { file, start }),
        (1..200_u64).prop_map(|pages| Op::Reclaim { pages }),
        (0..3_usize, 20..400_u64).prop_map(|(group, pages)| Op::Limit { group, pages }),
        (0..6_usize).prop_map(|file| Op::Forget { file }),
    ]
}

/// Two volumes with three files each in a budget of three groups.
struct Account {
    budget: Budget,
    groups: Vec<Group>,
    caches: Vec<Arc<PageCache>>,
    files: Vec<Arc<Mapping>>,
    in_flight: Vec<(Arc<Mapping>, LockedPages, Charge, Group)>,
}

impl Account {
    fn new() -> Self {
        let budget = Budget::new(limits(350, 80, 150));
        let groups = vec![
            budget.root(),
            budget.group("a", limits(150, 40, 80)),
            budget.group("b", limits(250, 40, 80)),
        ];
        let caches = vec![PageCache::in_group(&groups[0]), PageCache::in_group(&groups[1])];
        let files = (0..6).map(|file| caches[file % 2].mapping(file as u64)).collect();
        Self { budget, groups, caches, files, in_flight: Vec::new() }
    }

    fn run(&mut self, op: &Op) {
        let span = |start: u64, len: u64| pages(start, (start + len).min(FILE_PAGES));
        match *op {
            Op::Fill { file, start, len } => fill(&self.files[file], span(start, len)),
            Op::Dirty { file, start, len } => dirty(&self.files[file], span(start, len)),
            Op::Freeze { file, start, len } => {
                let file = Arc::clone(&self.files[file]);
                let run = file.lock_contig(span(start, len), Busy::Stop);
                let (_, charge) = run.freeze(|_| {});
                self.in_flight.push((Arc::clone(&file), run, charge, file.group()));
            }
            Op::Resolve { nth } => {
                if nth < self.in_flight.len() {
                    let (file, run, charge, group) = self.in_flight.swap_remove(nth);
                    resolve(&file, run, charge, &group);
                }
            }
            Op::Give { file, group } => self.files[file].set_group(&self.groups[group]),
            Op::Use { file, start } => drop(self.files[file].frames(span(start, 30))),
            Op::Truncate { file, start } => {
                let busy = self.in_flight.iter().any(|(of, ..)| Arc::ptr_eq(of, &self.files[file]));
                if !busy {
                    self.files[file].truncate(PageIndex(start), |_| {});
                }
            }
            Op::Reclaim { pages } => drop(self.budget.reclaim(pages * 4096)),
            Op::Limit { group, pages } => {
                if group > 0 {
                    self.groups[group].set_limits(CacheLimits::for_budget(pages * 4096));
                }
            }
            Op::Forget { file } => {
                let new = self.caches[file % 2].mapping(file as u64);
                self.files[file] = new;
            }
        }
    }

    /// Counts anew, page by page, and compares.
    fn check(&self) {
        let mut alive = self.files.clone();
        for (file, ..) in &self.in_flight {
            if !alive.iter().any(|other| Arc::ptr_eq(other, file)) {
                alive.push(Arc::clone(file));
            }
        }
        let mut total = (0, 0, 0);
        for group in &self.groups {
            let (mut cached, mut dirty, mut main) = (0, 0, 0);
            let mut standing: HashMap<*const Leaf, (u32, u32)> = group.0.reclaim.standing();
            for file in alive.iter().filter(|file| file.belongs_to(group)) {
                for leaf in file.every_leaf() {
                    let state = leaf.state.lock();
                    cached += u64::from(state.masks.uptodate.count_ones());
                    dirty += u64::from(state.masks.dirty.count_ones());
                    main += u64::from(state.masks.main.count_ones());
                    let stands = standing.remove(&Arc::as_ptr(&leaf)).unwrap_or_default();
                    let flags = (u32::from(state.queued.small), u32::from(state.queued.main));
                    assert_eq!(stands, flags, "a leaf stands where its file's owner looks");
                    let idle = state.masks.reclaimable();
                    assert!(state.queued.small || idle & !state.masks.main == 0, "lost");
                    assert!(state.queued.main || idle & state.masks.main == 0, "lost");
                }
            }
            assert!(standing.is_empty(), "a leaf stands in a queue of {}", group.name());
            let of_group = |entry: &&(_, _, Charge, Group)| entry.3 == *group;
            let in_flight = self.in_flight.iter().filter(of_group).map(|(_, _, c, _)| c.pages());
            let expected = (cached, dirty, in_flight.sum());
            assert_eq!(has(group), expected, "of {}", group.name());
            assert_eq!(group.0.level.counts.main.get(), main);
            total = (total.0 + cached, total.1 + dirty, total.2 + expected.2);
        }
        let counts = &self.budget.0.level.counts;
        let all = (counts.pages.get(), counts.dirty.get(), counts.in_flight.get());
        assert_eq!(all, total, "in all");
        let stats: Vec<_> = self.caches.iter().map(|cache| cache.stats()).collect();
        assert_eq!(stats.iter().map(|stats| stats.pages).sum::<u64>(), total.0);
        assert_eq!(stats.iter().map(|stats| stats.dirty).sum::<u64>(), total.1);
    }
}

fn resolve(file: &Mapping, run: LockedPages, mut charge: Charge, group: &Group) {
    assert_eq!(
        charge.group(),
        *group,
        "the charge names who owned the pages when they were frozen"
    );
    let half = PageIndex(run.range().start.0.midpoint(run.range().end.0));
    let failed = charge.split(run.range().end.0 - half.0);
    let pages = run.range();
    run.release(WRITEBACK, None);
    file.redirty(PageRange::new(half, pages.end), |_| {});
    file.complete(pages, WRITTEN);
    charge.written();
    drop(failed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_page_and_every_version_in_flight_is_charged_to_one_group_at_every_moment_law_e4(
        ops in proptest::collection::vec(op(), 1..80)
    ) {
        let mut account = Account::new();
        for op in &ops {
            account.run(op);
            account.check();
        }
        let Account { budget, groups, caches, files, in_flight } = account;
        for (file, run, charge, group) in in_flight {
            resolve(&file, run, charge, &group);
        }
        drop((files, caches));
        prop_assert_eq!((budget.cached_bytes(), budget.unwritten_bytes()), (0, 0));
        prop_assert!(groups.iter().all(|group| has(group) == (0, 0, 0)));
    }
}

/// Works on `file` as writers, readers and flushers do.
fn storm(file: &Mapping, mut random: u64) {
    for _ in 0..1500 {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let draw = |n: u64| (random >> 33) % n;
        let at = draw(FILE_PAGES);
        match draw(7) {
            0 | 1 => dirty(file, pages(at, at + 1 + draw(8))),
            2 => fill(file, pages(at, at + 1 + draw(8))),
            3 | 4 => {
                let run = file.lock_contig(pages(at, at + 20), Busy::Wait);
                let range = run.range();
                file.wait_writeback(range);
                let (_, charge) = run.freeze(|_| {});
                run.release(WRITEBACK, None);
                file.complete(range, WRITTEN);
                charge.written();
            }
            5 => drop(file.frames(pages(at, at + 20))),
            _ => drop(file.cache().reclaim(draw(40))),
        }
    }
}

#[test]
fn a_file_changes_hands_while_it_is_written_and_flushed_and_nothing_is_charged_twice() {
    let account = Account::new();
    thread::scope(|scope| {
        for (seed, file) in (1..).zip(account.files.iter().chain(&account.files)) {
            scope.spawn(move || storm(file, seed));
        }
        for file in &account.files {
            let groups = &account.groups;
            scope.spawn(move || {
                for round in 0..600 {
                    file.set_group(&groups[round % 3]);
                    thread::yield_now();
                }
            });
        }
    });
    account.check();
    let Account { budget, groups, files, caches, .. } = account;
    for file in &files {
        file.truncate(PageIndex(0), |_| {});
    }
    assert!(groups.iter().all(|group| has(group) == (0, 0, 0)), "{groups:?}");
    caches.iter().for_each(|cache| cache.check_at_rest().unwrap());
    assert_eq!((budget.cached_bytes(), budget.unwritten_bytes()), (0, 0));
}
