//! Tests of what holds a leaf's content: against a plain model, for how much memory is held, and who may see a change.

use proptest::prelude::*;

use super::*;

fn byte(at: usize) -> u8 {
    u8::try_from(at).unwrap()
}

fn single(value: u8) -> Single {
    Single::from_slice(&[value; 4096])
}

fn slab() -> Slab {
    let mut slab = Slab::zeroed();
    for (at, block) in slab.get_mut().unwrap().iter_mut().enumerate() {
        block.fill(byte(at));
    }
    slab
}

fn whole() -> Content {
    let mut content = Content::default();
    content.add(u32::MAX, Fresh::Leaf(slab()));
    content
}

fn values(content: &Content) -> Vec<u8> {
    each(content.there()).map(|bit| content.bytes(bit).unwrap()[0]).collect()
}

#[test]
fn single_pages_are_found_after_inserts_and_removals_in_any_order() {
    let mut content = Content::default();
    for at in [7, 5, 4, 2, 1] {
        content.add(1 << at, Fresh::Pages(vec![single(at)]));
    }
    let removed = content.remove(0b0001_0100).singles;
    assert_eq!(removed.iter().map(|page| page.bytes()[0]).collect::<Vec<_>>(), [2, 4]);
    content.add(1 << 31, Fresh::Pages(vec![single(31)]));
    content.add(1, Fresh::Pages(vec![single(0)]));
    assert_eq!(values(&content), [0, 1, 5, 7, 31]);
    assert_eq!(content.remove(u32::MAX).singles.len(), 5);
    assert_eq!(content.there(), 0);
}

#[test]
fn law_b1_a_page_of_a_slab_changes_in_place_only_while_nobody_holds_any_of_it() {
    let mut content = whole();
    let place = content.bytes(4).unwrap().as_ptr();
    content.bytes_mut(4).unwrap()[0] = 40;
    assert_eq!(content.bytes(4).unwrap().as_ptr(), place, "nobody holds a page: in place");
    let (page, other) = (content.frame(4).unwrap(), content.frame(8).unwrap());
    content.bytes_mut(4).unwrap()[0] = 41;
    assert_eq!(page.bytes()[0], 40);
    assert_eq!(content.bytes(4).unwrap()[0], 41);
    assert_eq!(other.bytes().as_ptr(), content.bytes(8).unwrap().as_ptr(), "the others stay");
    drop((page, other));
    content.bytes_mut(8).unwrap()[0] = 80;
    assert_eq!(content.held(), 33 * 4096);
}

#[test]
fn a_slab_is_given_up_when_an_eighth_of_it_is_unused() {
    let mut content = whole();
    assert!(content.remove(0b1111).slab.is_none());
    assert_eq!(content.held(), 32 * 4096);
    assert!(content.remove(1 << 9).slab.is_some());
    assert_eq!(content.held(), 27 * 4096);
    assert_eq!(values(&content), [4, 5, 6, 7, 8].into_iter().chain(10..32).collect::<Vec<_>>());

    let mut content = whole();
    let kept = content.frame(2).unwrap();
    let pages = (0..5).map(|at| single(100 + at)).collect();
    assert!(content.replace(0x1f, Fresh::Pages(pages)).slab.is_some(), "five pages left at once");
    assert_eq!(kept.bytes()[0], 1);
    assert_eq!(values(&content)[..6], [100, 101, 102, 103, 104, 5]);
}

#[test]
fn what_is_read_for_a_leaf_goes_in_besides_what_was_written_meanwhile() {
    for (written, held) in [(0b1, 33), (0xff, 32)] {
        let mut content = Content::default();
        content.add(written, Fresh::Pages(each(written).map(|_| single(99)).collect()));
        content.add(!written, Fresh::Leaf(slab()));
        assert_eq!(content.held(), held * 4096);
        let expected = |at: usize| if written & 1 << at != 0 { 99 } else { byte(at) };
        assert_eq!(values(&content), (0..32).map(expected).collect::<Vec<_>>());
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// A whole leaf, or single pages, in place of what is there.
    Replace(u32, bool),
    /// The same, to the pages that are absent.
    Add(u32, bool),
    Remove(u32),
    Write(u32),
    /// Somebody holds a snapshot from now on, or lets all go.
    Hold(u32),
    LetGo,
}

fn masks() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        Just(u32::MAX),
        (0..32_u32).prop_map(|at| 1 << at),
        (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(a, b, c)| a | b | c),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        (masks(), any::<bool>()).prop_map(|(mask, leaf)| Op::Replace(mask, leaf)),
        (masks(), any::<bool>()).prop_map(|(mask, leaf)| Op::Add(mask, leaf)),
        masks().prop_map(Op::Remove),
        masks().prop_map(Op::Write),
        masks().prop_map(Op::Hold),
        Just(Op::LetGo),
    ]
}

proptest! {
    #[test]
    fn it_holds_what_a_plain_array_does_and_little_more_memory(ops in prop::collection::vec(ops(), 1..60)) {
        let mut content = Content::default();
        let mut model = [None::<u8>; 32];
        let mut held: Vec<(u8, Frame)> = Vec::new();
        for (now, op) in (100..).zip(ops) {
            let fresh = |mask: u32, leaf| match leaf {
                true => {
                    let mut slab = Slab::zeroed();
                    slab.get_mut().unwrap().as_flattened_mut().fill(now);
                    Fresh::Leaf(slab)
                }
                false => Fresh::Pages(each(mask).map(|_| single(now)).collect()),
            };
            let mut set = |mask, to| each(mask).for_each(|bit| model[usize::from(number(bit))] = to);
            match op {
                Op::Replace(mask, leaf) => {
                    content.replace(mask, fresh(mask, leaf && mask == u32::MAX));
                    set(mask, Some(now));
                }
                Op::Add(mask, leaf) => {
                    let absent = mask & !content.there();
                    content.add(absent, fresh(absent, leaf));
                    set(absent, Some(now));
                }
                Op::Remove(mask) => {
                    content.remove(mask);
                    set(mask, None);
                }
                Op::Write(mask) => {
                    let there = mask & content.there();
                    for bit in each(there) {
                        content.bytes_mut(bit).unwrap().fill(now);
                    }
                    set(there, Some(now));
                }
                Op::Hold(mask) => held.extend(each(mask & content.there()).map(|bit| {
                    (content.bytes(bit).unwrap()[0], content.frame(bit).unwrap())
                })),
                Op::LetGo => held.clear(),
            }
            for (at, value) in model.iter().enumerate() {
                let bytes = content.bytes(1 << at).map(|bytes| (bytes[0], bytes[4095]));
                prop_assert_eq!(bytes, value.map(|value| (value, value)), "page {}", at);
            }
            prop_assert!(held.iter().all(|(value, frame)| frame.bytes() == &[*value; 4096]));
            let pages = content.there().count_ones() as usize;
            prop_assert!(content.held() * 7 <= pages * 4096 * 8);
        }
    }
}
