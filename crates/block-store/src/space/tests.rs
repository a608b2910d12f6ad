//! Space against a naive model: a list of who owns each block.

use std::collections::BTreeMap;
use std::sync::Arc;

use cowback_btrfs_disk::ChecksumKind;
use cowback_extent_io::store::StoreError;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::device::MemoryDevice;

fn space(total: u64, policy: GrowPolicy) -> Space {
    let device = Arc::new(MemoryDevice::new(total));
    let disk = Disk::new(device, Uuid::nil(), Uuid::nil(), 16384, ChecksumKind::Crc32c);
    let mut space = Space::new(Arc::new(disk), total, policy);
    if !space.policy.grow {
        space.count(0);
    }
    space
}

fn policy(grow: bool) -> GrowPolicy {
    GrowPolicy { grow, metadata_dup: true, data_dup: false, metadata_at: None }
}

#[test]
fn inline_content_that_came_since_a_transaction_ended_counts_until_the_next_one_has() {
    let mut space = space(64 << 20, policy(false));
    space.set_inline_aside(4000);
    assert!(space.take_inline(600));
    assert_eq!(space.promises().inline, 1000);
    space.begin_promises();
    assert!(space.take_inline(300));
    for _ in 0..2 {
        space.set_inline_aside(8000);
        assert_eq!(space.promises().inline, 2000 + 300);
    }
    assert!(!space.take_inline(2001) && space.take_inline(2000));
    space.begin_promises();
    space.set_inline_aside(0);
    assert_eq!(space.promises().inline, 0);
}

#[derive(Debug, Clone)]
enum Op {
    Alloc(Class, u64, u64),
    FreeNow(usize),
    Pin(usize),
    Commit,
    Durable,
}

fn op() -> impl Strategy<Value = Op> {
    let class = prop_oneof![3 => Just(Class::Data), 1 => Just(Class::Metadata)];
    prop_oneof![
        6 => (class, 1..300_u64, 1..300_u64).prop_map(|(c, a, b)| Op::Alloc(c, a.max(b), a.min(b))),
        2 => any::<usize>().prop_map(Op::FreeNow),
        3 => any::<usize>().prop_map(Op::Pin),
        1 => Just(Op::Commit),
        1 => Just(Op::Durable),
    ]
}

proptest! {
    #[test]
    fn no_byte_has_two_owners_and_none_is_lost(
        total in 8..40_u64,
        grow in any::<bool>(),
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut space = space(total << 20, policy(grow));
        let mut live: BTreeMap<u64, u64> = BTreeMap::new();
        let mut pinned: Vec<ByteRange> = Vec::new();
        let mut committing: Vec<ByteRange> = Vec::new();
        for op in ops {
            match op {
                Op::Alloc(class, want, least) => match space.alloc(class, want * 4096, least * 4096) {
                    Ok(range) => {
                        prop_assert!(range.len() >= least * 4096 && range.len() <= want * 4096);
                        let group = space.group_around(range).unwrap();
                        prop_assert_eq!(group.class, class);
                        for stripe in space.super_ranges(group.start) {
                            prop_assert!(stripe.intersect(range).is_none());
                        }
                        let held = live.iter().map(|(s, len)| ByteRange::at(*s, *len));
                        for other in held.chain(pinned.iter().copied()).chain(committing.iter().copied()) {
                            prop_assert!(other.intersect(range).is_none(), "{other} {range}");
                        }
                        live.insert(range.start, range.len());
                    }
                    Err(_) => {
                        prop_assert!(!grow);
                        prop_assert!(space.pool(class).free.longest() < least * 4096);
                    }
                },
                Op::FreeNow(pick) | Op::Pin(pick) if !live.is_empty() => {
                    let (start, len) = live.iter().nth(pick % live.len()).map(|(s, l)| (*s, *l)).unwrap();
                    live.remove(&start);
                    let range = ByteRange::at(start, len);
                    if matches!(op, Op::Pin(_)) {
                        space.pin(range).unwrap();
                        pinned.push(range);
                    } else {
                        space.free_now(range).unwrap();
                        prop_assert!(space.free_now(range).is_err());
                    }
                }
                Op::Commit if committing.is_empty() => {
                    committing = space.take_pinned();
                    prop_assert_eq!(&committing, &pinned);
                    pinned.clear();
                }
                Op::Durable => space.unpin(std::mem::take(&mut committing)).unwrap(),
                _ => {}
            }
            for class in Class::ALL {
                let of = |range: &ByteRange| space.group_of(range.start).unwrap().class == class;
                let pins: u64 = pinned.iter().chain(&committing).filter(|r| of(r)).map(|r| r.len()).sum();
                let held = live.iter().map(|(s, len)| ByteRange::at(*s, *len));
                let held: u64 = held.filter(of).map(|r| r.len()).sum();
                let supers = space.groups().filter(|group| group.class == class);
                let supers: u64 = supers.flat_map(|g| space.super_ranges(g.start)).map(|r| r.len()).sum();
                let pool = space.pool(class);
                prop_assert_eq!(pool.pinned, pins);
                prop_assert_eq!(pool.total, pool.free.bytes() + pins + held + supers);
            }
            let end = space.disk.with_chunks(crate::chunks::ChunkMap::device_end);
            prop_assert!(end <= space.total_bytes);
        }
    }
}

#[test]
fn files_one_after_another_lie_one_after_another() {
    let mut space = space(1 << 30, policy(false));
    let mut at = None;
    for blocks in [1_u64, 32, 7, 32, 1] {
        let range = space.alloc(Class::Data, blocks * 4096, blocks * 4096).unwrap();
        assert!(at.is_none_or(|at| at == range.start));
        at = Some(range.end);
    }
}

#[test]
fn promises_are_kept_to_the_last_byte() {
    let mut space = space(32 << 20, policy(false));
    let mut promised = 0;
    while space.promise(1 << 20).is_ok() {
        promised += 1 << 20;
    }
    assert!(promised > 20 << 20, "{promised}");
    let error = space.promise(1 << 20).unwrap_err();
    assert!(matches!(error, cowback_extent_io::store::StoreError::NoSpace { .. }));
    let mut got = 0;
    while got < promised {
        got += space.alloc(Class::Data, promised - got, 4096).unwrap().len();
    }
    // And there is metadata to name it.
    assert!(space.alloc(Class::Metadata, 16384, 16384).is_ok());
}

/// Free space in pieces: some of what was allocated is given back.
fn fragmented(total: u64, data_dup: bool, groups: &[(bool, u64)]) -> Space {
    let mut space = space(total, GrowPolicy { data_dup, ..policy(false) });
    for (is_data, blocks) in groups {
        let (class, len) =
            if *is_data { (Class::Data, *blocks * 4096) } else { (Class::Metadata, 16384) };
        let taken: Vec<_> = (0..8).map_while(|_| space.alloc(class, len, len).ok()).collect();
        taken.into_iter().step_by(2).for_each(|range| space.free_now(range).unwrap());
    }
    space.count(0);
    space
}

/// Allocates all that is left for each class, data and trees in turns as `turns` says. Gives what each got.
fn exhaust(space: &mut Space, turns: u64, least: u64) -> (Vec<ByteRange>, Vec<ByteRange>) {
    let (promised, trees) = (space.promises().data.bytes, space.metadata_left());
    let (mut data, mut nodes) = (Vec::new(), Vec::new());
    let sum = |ranges: &[ByteRange]| ranges.iter().map(|range| range.len()).sum::<u64>();
    for turn in 0.. {
        let (for_data, for_trees) = (promised - sum(&data), trees - sum(&nodes));
        if for_data == 0 && for_trees == 0 {
            break;
        }
        if (turns >> (turn % 64)) & 1 == 0 && for_data > 0 || for_trees == 0 {
            data.push(space.alloc(Class::Data, for_data.min(least), 4096).unwrap());
        } else {
            nodes.push(space.alloc(Class::Metadata, 16384, 16384).unwrap());
        }
    }
    (data, nodes)
}

proptest! {
    /// Law R3, and that what was promised can be had: data and trees get what they were promised to the last byte, and at the same places in whatever
    /// order their allocations come.
    #[test]
    fn data_and_trees_do_not_come_across_each_other(
        total in 8..200_u64,
        data_dup in any::<bool>(),
        groups in prop::collection::vec((any::<bool>(), 1..300_u64), 0..12),
        least in 1..300_u64,
        (one, other) in any::<(u64, u64)>(),
    ) {
        let mut got = Vec::new();
        for turns in [one, other] {
            let mut space = fragmented(total << 20, data_dup, &groups);
            while space.promise(STRIPE).is_ok() {}
            while space.promise(4096).is_ok() {}
            prop_assert_eq!(space.fresh.len(), space.groups().count(), "a promise makes no block group");
            let groups = space.groups().count() as u64;
            got.push(exhaust(&mut space, turns, least * 4096));
            prop_assert!(space.groups().count() as u64 <= space.promises().groups, "{groups}");
            prop_assert!(space.alloc(Class::Data, 4096, 4096).is_err());
        }
        prop_assert_eq!(&got[0], &got[1]);
    }
}

const STRIPE: u64 = 1 << 16;

#[test]
fn what_was_saved_is_had_after_the_next_commit_and_what_was_given_up_at_once() {
    let mut space = space(32 << 20, policy(false));
    let mut promised = 0;
    while space.promise(1 << 20).is_ok() {
        promised += 1 << 20;
    }
    assert_eq!(space.groups().count(), 0, "a promise makes no block group");
    // It compresses to a quarter: nobody knows when.
    for _ in 0..promised >> 20 {
        space.alloc(Class::Data, 1 << 18, 1 << 18).unwrap();
        space.keep(1 << 20);
        assert!(space.promise(1 << 20).is_err());
    }
    space.begin_promises();
    space.count(0);
    assert!((0..(promised * 7 / 10) >> 20).all(|_| space.promise(1 << 20).is_ok()));
    while space.promise(1 << 20).is_ok() {}
    space.give_up(1 << 20);
    assert!(space.promise(1 << 20).is_ok());
    assert!(space.promise(1 << 20).is_err());
}

#[test]
fn trees_that_need_more_get_it_at_the_next_commit_and_data_the_rest() {
    let mut space = space(64 << 20, policy(false));
    let before = space.metadata_left();
    while space.alloc(Class::Metadata, 16384, 16384).is_ok() {
        if space.metadata_left() < 16384 {
            break;
        }
    }
    space.count(8 << 20);
    assert!(before < 8 << 20 && space.metadata_left() >= 8 << 20, "{before}");
    // And none of it if all of the rest was promised to data.
    while space.promise(1 << 16).is_ok() {}
    space.count(32 << 20);
    assert!(space.metadata_left() <= 9 << 20, "{}", space.metadata_left());
    let (data, nodes) = exhaust(&mut space, 0x5555, 1 << 20);
    assert!(data.len() > 10 && nodes.len() > 10, "{data:?} {nodes:?}");
}

#[test]
fn behind_the_last_address_there_is_no_room() {
    let mut space = space(32 << 20, policy(false));
    let flags = BlockGroupFlags::METADATA | BlockGroupFlags::DUP;
    let (logical, len) = ((1 << 63) - (1 << 20), 1 << 20);
    let stripes = vec![1 << 20, 2 << 20];
    space.disk.add_chunk(Chunk { logical, len, flags: flags.bits(), stripes }).unwrap();
    space.add_group(logical, len, flags, len).unwrap();
    let error = space.alloc(Class::Metadata, 16384, 16384).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    assert!(space.alloc(Class::Data, 16384, 16384).is_ok(), "below there are addresses");
}

#[test]
fn data_is_neither_where_trees_are_nor_over_a_superblock() {
    let mut space = space(128 << 20, policy(false));
    let (data, trees) = (BlockGroupFlags::DATA, BlockGroupFlags::METADATA);
    for (logical, stripe, flags) in [(1 << 30, 60 << 20, data), (2 << 30, 80 << 20, trees)] {
        let len = 8 << 20;
        let chunk = Chunk { logical, len, flags: flags.bits(), stripes: vec![stripe] };
        space.disk.add_chunk(chunk).unwrap();
        space.add_group(logical, len, flags, 0).unwrap();
    }
    let copy = (1 << 30) + (4 << 20);
    let told = |start, end| space.data_group(ByteRange::new(start, end)).map_err(|e| e.to_string());
    assert!(told(1 << 30, copy).is_ok() && told(copy + 65536, copy + 69632).is_ok());
    assert!(told(1 << 30, copy + 4096).unwrap_err().contains("a copy of the superblock is there"));
    assert!(told(2 << 30, (2 << 30) + 4096).unwrap_err().contains("a block group for trees"));
    assert!(told(copy + (4 << 20) - 4096, copy + (4 << 20) + 4096).is_err());
}
