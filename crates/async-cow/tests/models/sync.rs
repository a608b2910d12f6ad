//! Flushes: what was dirty when one began is in the store when it returns, whoever queued it (law R5), and at the same place whoever was
//! fast (law R3).

use std::sync::OnceLock;

use cowback_base::sync::thread;
use cowback_extent_io::{WritebackControl, writepages};

use crate::explore::explore;
use crate::rig::{PAGE, Rig, any_of, assert_same};

#[test]
fn a_sync_returns_when_what_was_dirty_before_it_is_in_the_store() {
    explore("a sync returns when all is in the store", 1000, || {
        let rig = Rig::new(any_of(&["none", "zstd:1"]), any_of(&[1, 2]));
        rig.write(0, 1, 6 * PAGE);
        thread::scope(|scope| {
            // Chunks that somebody else has queued.
            scope.spawn(|| rig.background());
            for (page, version) in [(0, 2), (5, 3)] {
                let rig = &rig;
                scope.spawn(move || {
                    rig.write(page * PAGE, version, PAGE);
                    rig.sync();
                    let stored = rig.stored(&rig.inode, 6 * PAGE);
                    let page = &stored[page * PAGE..(page + 1) * PAGE];
                    assert_same(page, &[version; PAGE], "what was written before the sync");
                    assert_same(&stored[PAGE..5 * PAGE], &[1; 4 * PAGE], "and what had been");
                });
            }
            // One who goes on writing does not keep them.
            scope.spawn(|| {
                rig.write(PAGE, 1, PAGE);
                rig.write(2 * PAGE, 1, PAGE);
            });
        });
        let mut content = vec![1; 6 * PAGE];
        content[..PAGE].fill(2);
        content[5 * PAGE..].fill(3);
        rig.close(&content);
    });
}

#[test]
fn two_files_share_the_line_and_neither_waits_for_ever() {
    explore("two files share the line", 800, || {
        let rig = Rig::new("zstd:1", 1);
        let other = rig.another_file(300);
        rig.write(0, 1, 4 * PAGE);
        other.write(0, &[2; 4 * PAGE]).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| rig.sync());
            scope.spawn(|| {
                writepages(&other, &WritebackControl::sync_all(), &rig.engine);
                other.wait_writeback();
                assert_same(&rig.stored(&other, 4 * PAGE), &[2; 4 * PAGE], "the other file");
            });
            scope.spawn(|| {
                rig.write(PAGE, 3, 2 * PAGE);
                rig.engine.wait_idle();
            });
        });
        assert!(other.is_clean());
        other.truncate(0).unwrap();
        let mut content = vec![1; 4 * PAGE];
        content[PAGE..3 * PAGE].fill(3);
        rig.close(&content);
    });
}

#[test]
fn where_things_are_on_disk_does_not_depend_on_the_schedule() {
    static FIRST: OnceLock<Vec<(u64, u64)>> = OnceLock::new();
    explore("where things are on disk", 800, || {
        let rig = Rig::new("zstd:1", 3);
        let other = rig.another_file(300);
        // Runs of several chunks, of which some compress better than others, and pages beside one another that do not.
        rig.write(0, 1, 5 * PAGE);
        other.write(0, &[2; 3 * PAGE]).unwrap();
        writepages(&rig.inode, &WritebackControl::sync_all(), &rig.engine);
        writepages(&other, &WritebackControl::sync_all(), &rig.engine);
        rig.write(7 * PAGE, 3, 4 * PAGE);
        writepages(&rig.inode, &WritebackControl::sync_all(), &rig.engine);
        rig.inode.wait_writeback();
        other.wait_writeback();
        let allocations = rig.store.allocations();
        assert_eq!(&allocations, FIRST.get_or_init(|| allocations.clone()));
        other.truncate(0).unwrap();
        let mut content = vec![1; 5 * PAGE];
        content.resize(7 * PAGE, 0);
        content.resize(11 * PAGE, 3);
        rig.close(&content);
    });
}
