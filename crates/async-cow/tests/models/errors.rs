//! A store that fails, with a writer at work: what did not reach the disk stays dirty and readable, is reported once to each handle, and
//! is tried again (law E1); the others of its chunk come through (law E2).

use std::sync::Arc;

use cowback_base::sync::thread;
use cowback_extent_io::memory::{Faults, MemoryStore};
use cowback_page_cache::{CacheLimits, PageCache};

use crate::explore::explore;
use crate::rig::{PAGE, Rig, any_of, assert_same};

fn some_faults() -> Faults {
    let mut faults = Faults { persistent: any_of(&[false, true]), ..Faults::default() };
    let kth = Some(any_of(&[0, 1, 2, 3]));
    match any_of(&[0, 1, 2]) {
        0 => faults.alloc = kth,
        1 => faults.write = kth,
        _ => faults.finish = kth,
    }
    faults
}

#[test]
fn what_failed_stays_dirty_is_reported_once_and_is_tried_again() {
    explore("what failed stays dirty, is reported, is tried again", 1200, || {
        let rig = Rig::new(any_of(&["none", "zstd:1"]), 2);
        let handles = [rig.inode.errors().cursor(), rig.inode.errors().cursor()];
        rig.write(0, 1, 5 * PAGE);
        rig.store.set_faults(some_faults());
        let before = rig.inode.errors().count();
        thread::scope(|scope| {
            scope.spawn(|| {
                for version in 2..4 {
                    rig.write(0, version, PAGE);
                    rig.write(2 * PAGE + 7, version, PAGE);
                }
            });
            scope.spawn(|| {
                rig.sync();
                rig.background();
            });
            scope.spawn(|| {
                assert_same(&rig.read(PAGE, PAGE), &[1; PAGE], "readable");
                rig.inode.truncate(4 * PAGE as u64).unwrap();
            });
        });
        rig.inode.wait_writeback();
        rig.engine.wait_idle();
        rig.assert_settled();
        let failed = rig.inode.errors().count() > before;
        for handle in &handles {
            assert_eq!(rig.inode.errors().check_and_advance(handle).is_some(), failed);
            assert!(rig.inode.errors().check_and_advance(handle).is_none(), "once");
        }
        rig.store.set_faults(Faults::default());
        let mut content = vec![1; 4 * PAGE];
        content[..PAGE].fill(3);
        content[2 * PAGE + 7..3 * PAGE + 7].fill(3);
        rig.close(&content);
    });
}

#[test]
fn a_writer_below_the_limit_is_let_through_though_nothing_can_be_written() {
    explore("a writer below the limit is let through", 800, || {
        let limits = CacheLimits { budget: 16 << 20, background: 0, hard: 2 * PAGE as u64 };
        let store = Arc::new(MemoryStore::new(64));
        let cache = PageCache::new(limits);
        let rig = Rig::with_cache(cache, Arc::clone(&store) as _, store, "none", 1);
        rig.write(0, 1, PAGE);
        let faults = Faults { alloc: Some(0), persistent: true, ..Faults::default() };
        rig.store.set_faults(faults);
        thread::scope(|scope| {
            // The one version goes from dirty to frozen and back, and is never two.
            scope.spawn(|| rig.sync());
            scope.spawn(|| rig.inode.mapping().throttle(|| false));
        });
        rig.store.set_faults(Faults::default());
        rig.close(&[1; PAGE]);
    });
}

#[test]
fn a_commit_that_sees_no_new_error_holds_all_that_was_written() {
    explore("a commit that sees no new error holds all", 1500, || {
        let rig = Rig::new(any_of(&["none", "zstd:1"]), any_of(&[1, 2]));
        rig.write(0, 1, 4 * PAGE);
        let faults = Faults { persistent: false, ..some_faults() };
        rig.store.set_faults(faults);
        thread::scope(|scope| {
            // Somebody's writeback fails, before, while or after the commit looks.
            scope.spawn(|| rig.background());
            scope.spawn(|| {
                let failures = rig.inode.errors().count();
                rig.sync();
                rig.engine.wait_idle();
                if rig.inode.errors().count() == failures {
                    let stored = rig.stored(&rig.inode, 4 * PAGE);
                    assert_same(&stored, &[1; 4 * PAGE], "no error, so all of it");
                }
            });
        });
        rig.store.set_faults(Faults::default());
        rig.close(&[1; 4 * PAGE]);
    });
}
