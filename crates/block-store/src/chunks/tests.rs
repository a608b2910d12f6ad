//! Placing and mapping chunks.

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
