//! Placing and mapping chunks.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn chunk(logical: u64, len: u64, stripes: &[u64]) -> Chunk {
    Chunk { logical, len, flags: 1, stripes: stripes.to_vec() }
}

#[test]
fn stripes_fill_holes_first_and_never_overlap() {
    let mut map = ChunkMap::default();
    let total = ByteRange::new(0, 64 << 20);
    for round in 0..5 {
        let stripes = map.place(total, 4 << 20, 2).unwrap();
        map.insert(chunk(map.next_logical(true, 4 << 20), 4 << 20, &stripes)).unwrap();
        assert_eq!(map.device_used(), (round + 1) * (8 << 20));
    }
    assert_eq!(map.device_end(), RESERVED_START + (40 << 20));
    let third = map.iter().nth(2).unwrap().clone();
    map.remove(third.logical).unwrap();
    assert_eq!(map.place(total, 8 << 20, 1), Some(vec![third.stripes[0]]));
    assert_eq!(map.place(total, 24 << 20, 1), None);
}

proptest! {
    /// In units of a quarter of the alignment, as others may have stripes anywhere.
    #[test]
    fn holes_are_what_no_stripe_has_in_whole_units(
        stripes in vec((64..400_u64, 1..40_u64), 0..12),
        start in 0..420_u64,
        len in 0..420_u64,
    ) {
        const QUARTER: u64 = STRIPE_LEN / 4;
        let mut map = ChunkMap::default();
        for (number, (at, len)) in (0..).zip(stripes) {
            // What overlaps is refused.
            drop(map.insert(chunk(number << 30, len * QUARTER, &[at * QUARTER])));
        }
        let range = ByteRange::at(start * QUARTER, len * QUARTER);
        let free = |at: u64| {
            let unit = ByteRange::at(at, STRIPE_LEN);
            at >= RESERVED_START && unit.start >= range.start && unit.end <= range.end && !map.occupies(unit)
        };
        let mut expected: Vec<ByteRange> = Vec::new();
        for at in (0..900 * QUARTER).step_by(usize::try_from(STRIPE_LEN).unwrap()).filter(|at| free(*at)) {
            match expected.last_mut() {
                Some(last) if last.end == at => last.end += STRIPE_LEN,
                _ => expected.push(ByteRange::at(at, STRIPE_LEN)),
            }
        }
        prop_assert_eq!(map.holes_in(range), expected);
    }
}

#[test]
fn an_address_maps_to_every_copy() {
    let mut map = ChunkMap::default();
    map.insert(chunk(10 << 20, 1 << 20, &[2 << 20, 7 << 20])).unwrap();
    assert_eq!(map.map((10 << 20) + 5, 10), Some(vec![(2 << 20) + 5, (7 << 20) + 5]));
    assert_eq!(map.map((11 << 20) - 5, 10), None);
    assert_eq!(map.map(11 << 20, 1), None);
    assert_eq!(map.map(0, 1), None);
}

#[test]
fn overlaps_are_refused_and_change_nothing() {
    let mut map = ChunkMap::default();
    map.insert(chunk(10 << 20, 1 << 20, &[2 << 20])).unwrap();
    assert!(map.insert(chunk((11 << 20) - 1, 1 << 20, &[20 << 20])).is_err());
    assert!(map.insert(chunk(9 << 20, 2 << 20, &[20 << 20])).is_err());
    assert!(map.insert(chunk(20 << 20, 1 << 20, &[(3 << 20) - 1])).is_err());
    assert!(map.insert(chunk(20 << 20, 1 << 20, &[8 << 20, (8 << 20) + 4096])).is_err());
    assert!(map.insert(chunk((1 << 63) - 4096, 1 << 20, &[8 << 20])).is_err());
    assert!(map.insert(chunk(20 << 20, 1 << 20, &[(1 << 63) - 4096])).is_err());
    assert!(map.insert(chunk(u64::MAX - 5, 1 << 20, &[8 << 20])).is_err());
    assert_eq!(map.iter().count(), 1);
    assert_eq!(map.device_used(), 1 << 20);
}

#[test]
fn copies_of_the_superblock_are_found_in_logical_addresses() {
    let one = chunk(512 << 20, 128 << 20, &[1 << 20]);
    assert_eq!(one.super_ranges(), vec![ByteRange::at((512 + 63) << 20, SUPER_STRIPE)]);
    let none = chunk(512 << 20, 1 << 20, &[1 << 20]);
    assert!(none.super_ranges().is_empty());
}

#[test]
fn data_and_other_chunks_have_logical_addresses_of_their_own() {
    let mut map = ChunkMap::default();
    for (is_data, expected) in [
        (false, LOGICAL_BORDER),
        (true, RESERVED_START),
        (true, RESERVED_START + (1 << 20)),
        (false, LOGICAL_BORDER + (1 << 20)),
    ] {
        let logical = map.next_logical(is_data, 1 << 20);
        assert_eq!(logical, expected);
        let stripe = map.place(ByteRange::new(0, 64 << 20), 1 << 20, 1).unwrap();
        map.insert(chunk(logical, 1 << 20, &stripe)).unwrap();
    }
    // Where there are no addresses left below, those behind everything serve.
    assert_eq!(map.next_logical(true, LOGICAL_BORDER), LOGICAL_BORDER + (2 << 20));
}
