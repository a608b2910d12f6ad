//! What a store that has stopped knows of its memory.

use super::super::stop::Memory;
use super::*;

#[test]
fn memory_that_is_in_part_does_not_become_whole_by_what_fails_later() {
    let later = [Memory::Whole, Memory::InPart];
    for (first, then) in
        [Memory::Whole, Memory::InPart].into_iter().flat_map(|a| later.map(|b| (a, b)))
    {
        let (_, store) = formatted();
        let error = StoreError::Internal { what: "a test" };
        store.stop("the first thing", &error, first);
        store.stop("another thing", &error, then);
        let reason = store.read_only_reason().unwrap();
        assert!(reason.starts_with("the first thing failed"), "{reason}");
        let whole = (first, then) == (Memory::Whole, Memory::Whole);
        assert_eq!(store.try_resume().is_ok(), whole, "{first:?}, then {then:?}");
        assert_eq!(store.read_only_reason().is_none(), whole);
        assert_eq!(store.commit().is_ok(), whole);
    }
}
