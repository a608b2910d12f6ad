//! Groups under every interleaving: each version is charged to one group from the moment it is dirty to the end of its IO, whoever the file is
//! given to meanwhile (law E4); and who waits at a limit is let go in the order of coming, and by nobody else's limit.

use std::sync::Arc;

use cowback_base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use cowback_base::sync::thread;
use cowback_extent_io::memory::{Faults, MemoryStore};
use cowback_page_cache::{Budget, CacheLimits, Group, PageCache};

use crate::explore::explore;
use crate::rig::{PAGE, Rig, any_of};

fn limits(hard_pages: usize) -> CacheLimits {
    CacheLimits { budget: 16 << 20, background: 0, hard: (hard_pages * PAGE) as u64 }
}

/// A rig whose file belongs to the first of two groups.
fn rig(policy: &str, hard_pages: usize) -> (Rig, [Group; 2]) {
    let budget = Budget::new(limits(64));
    let groups = ["a", "b"].map(|name| budget.group(name, limits(hard_pages)));
    let store = Arc::new(MemoryStore::new(64));
    let cache = PageCache::in_group(&groups[0]);
    let rig = Rig::with_cache(cache, Arc::clone(&store) as _, store, policy, any_of(&[1, 2]));
    (rig, groups)
}

#[test]
fn a_file_changes_hands_while_it_is_written_queued_and_under_writeback_law_e4() {
    explore("a file changes hands", 1000, || {
        let (rig, groups) = rig(any_of(&["none", "zstd:1"]), 32);
        rig.write(0, 1, 4 * PAGE);
        let fails = any_of(&[false, false, true]);
        if fails {
            rig.store.set_faults(Faults { write: Some(any_of(&[0, 1])), ..Faults::default() });
        }
        thread::scope(|scope| {
            scope.spawn(|| rig.sync());
            scope.spawn(|| {
                for owner in [1, 0, 1] {
                    rig.inode.mapping().set_group(&groups[owner]);
                }
            });
            scope.spawn(|| {
                rig.write(0, 2, PAGE);
                rig.write(3 * PAGE, 2, 2 * PAGE);
            });
            scope.spawn(|| {
                rig.drop_clean();
                rig.cache.budget().reclaim(PAGE as u64);
            });
        });
        rig.store.set_faults(Faults::default());
        rig.sync();
        rig.engine.wait_idle();
        for group in &groups {
            let stats = group.stats();
            assert_eq!((stats.dirty, stats.in_flight), (0, 0), "{stats:?}");
        }
        assert_eq!(groups[0].stats().cached, 0, "all pages went along");
        assert_eq!(groups[1].stats().cached, rig.cache.budget().cached_bytes());
        let mut content = vec![2; 5 * PAGE];
        content[PAGE..3 * PAGE].fill(1);
        rig.close(&content);
    });
}

#[test]
fn only_the_writers_of_the_group_at_its_limit_wait_and_all_of_them_get_on() {
    explore("only the writers of the group at its limit wait", 800, || {
        let (rig, [a, b]) = rig("none", 2);
        let other = rig.another_file(300);
        other.mapping().set_group(&b);
        rig.write(0, 9, 6 * PAGE);
        assert!(rig.inode.mapping().must_wait());
        let (passed, done) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let writers = [0, 1].map(|writer| {
                let (rig, passed) = (&rig, &passed);
                scope.spawn(move || {
                    for page in 0..3 {
                        assert!(rig.inode.mapping().throttle(|| false));
                        passed.fetch_add(1, Ordering::SeqCst);
                        rig.write((2 * page + writer) * PAGE, 1, PAGE);
                    }
                })
            });
            scope.spawn(|| {
                // Nothing is written back as yet, and this one does not mind.
                assert!(other.mapping().throttle(|| panic!("it does not wait")));
                other.write(0, &[2; PAGE]).unwrap();
                assert_eq!(passed.load(Ordering::SeqCst), 0, "the others do wait");
                while !done.load(Ordering::SeqCst) {
                    rig.sync();
                    thread::yield_now();
                }
            });
            for writer in writers {
                writer.join().unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        assert!(a.stats().stalls.count > 0);
        assert_eq!(b.stats().stalls.count, 0);
        other.truncate(0).unwrap();
        rig.close(&[1; 6 * PAGE]);
    });
}

#[test]
fn a_writer_held_up_by_what_another_volume_cannot_write_is_let_go() {
    explore("a writer held up by what another volume cannot write", 800, || {
        let (rig, [a, _]) = rig("none", 2);
        let store = Arc::new(MemoryStore::new(64));
        let sick = PageCache::in_group(&a);
        let sick = Rig::with_cache(sick, Arc::clone(&store) as _, store, "none", 1);
        sick.write(0, 1, 3 * PAGE);
        assert!(rig.inode.mapping().must_wait());
        let faults = Faults { alloc: Some(0), persistent: true, ..Faults::default() };
        sick.store.set_faults(faults);
        thread::scope(|scope| {
            scope.spawn(|| sick.sync());
            scope.spawn(|| {
                assert!(rig.inode.mapping().throttle(|| false));
                rig.write(0, 1, PAGE);
            });
        });
        assert!(sick.inode.mapping().must_wait(), "its own writers have to be told");
        sick.store.set_faults(Faults::default());
        sick.close(&[1; 3 * PAGE]);
        rig.close(&[1; PAGE]);
    });
}
