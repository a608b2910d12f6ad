//! Writes in place: what is preallocated is written once, and what is overwritten is the file's own, whoever else changes the file meanwhile; and
//! neither needs data space.

use cowback_base::sync::thread;
use cowback_base::{BLOCK_SIZE, ByteRange};
use cowback_extent_io::DataFlags;
use cowback_extent_io::fallocate::SizeMode;

use crate::explore::explore;
use crate::rig::{DISK_BLOCKS, PAGE, Rig, any_of};

fn blocks(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start * BLOCK_SIZE, end * BLOCK_SIZE)
}

#[test]
fn a_preallocated_file_is_written_while_it_changes() {
    explore("a preallocated file is written while it changes", 1000, || {
        let rig = Rig::new(any_of(&["none", "zstd:1"]), 2);
        rig.inode.allocate(blocks(0, 5), SizeMode::Grow).unwrap();
        rig.write(0, 1, 2 * PAGE);
        thread::scope(|scope| {
            scope.spawn(|| rig.sync());
            scope.spawn(|| {
                rig.write(0, 2, PAGE);
                rig.write(PAGE + 50, 3, 100);
                rig.write(4 * PAGE, 4, PAGE);
            });
            scope.spawn(|| {
                rig.inode.punch(blocks(2, 3)).unwrap();
                rig.inode.allocate(blocks(2, 4), SizeMode::Keep).unwrap();
                rig.inode.zero_range(blocks(3, 4), SizeMode::Keep).unwrap();
                rig.background();
            });
        });
        let mut content = [vec![2; PAGE], vec![1; PAGE], vec![0; 2 * PAGE], vec![4; PAGE]].concat();
        content[PAGE + 50..PAGE + 150].fill(3);
        rig.close(&content);
    });
}

#[test]
fn what_has_its_space_can_be_written_on_a_full_disk_whoever_writes_it_back_meanwhile() {
    explore("what has its space can be written on a full disk", 1000, || {
        let rig = Rig::new("none", 2);
        rig.store.set_nodatacow(rig.inode.ino());
        rig.inode.set_data_flags(DataFlags { nodatacow: true, ..DataFlags::default() });
        rig.inode.allocate(blocks(0, DISK_BLOCKS), SizeMode::Grow).unwrap();
        rig.write(0, 1, 2 * PAGE);
        thread::scope(|scope| {
            scope.spawn(|| rig.sync());
            scope.spawn(|| rig.background());
            scope.spawn(|| {
                for version in 2..4 {
                    rig.write(0, version, PAGE);
                    rig.write(PAGE + 50, version, 2 * PAGE);
                }
            });
        });
        assert_eq!(rig.inode.errors().count(), 0);
        let len = usize::try_from(DISK_BLOCKS).unwrap() * PAGE;
        let mut content = [vec![3; PAGE], vec![1; PAGE], vec![0; len - 2 * PAGE]].concat();
        content[PAGE + 50..3 * PAGE + 50].fill(3);
        rig.close(&content);
    });
}

/// On a file that is copied on write otherwise, space is there for the first write; one that fails for want of space leaves what there was.
#[test]
fn the_first_write_to_what_was_preallocated_does_not_fail() {
    explore("the first write to what was preallocated does not fail", 1000, || {
        let rig = Rig::new("none", 2);
        rig.inode.allocate(blocks(0, DISK_BLOCKS), SizeMode::Grow).unwrap();
        rig.write(0, 1, PAGE);
        let second = thread::scope(|scope| {
            scope.spawn(|| rig.sync());
            scope.spawn(|| rig.write(2 * PAGE, 2, 2 * PAGE));
            let second = scope.spawn(|| rig.inode.write(0, &[3; 100]).is_ok());
            second.join().unwrap()
        });
        let mut content = vec![0; usize::try_from(DISK_BLOCKS).unwrap() * PAGE];
        content[..PAGE].fill(1);
        content[2 * PAGE..4 * PAGE].fill(2);
        if second {
            content[..100].fill(3);
        }
        assert_eq!(rig.inode.errors().count(), 0, "what was taken is written");
        rig.close(&content);
    });
}
