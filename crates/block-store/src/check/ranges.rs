//! Sorted lists of ranges of addresses: joined, and taken away from one another.

use cowback_base::ByteRange;

/// Sorts `ranges`, and joins those that touch or overlap.
pub(super) fn join(mut ranges: Vec<ByteRange>) -> Vec<ByteRange> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut out: Vec<ByteRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        push(&mut out, range);
    }
    out
}

/// Appends a range that begins at or behind the start of the last one, and joins the two if they touch.
pub(super) fn push(ranges: &mut Vec<ByteRange>, range: ByteRange) {
    match ranges.last_mut() {
        Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
        _ => ranges.push(range),
    }
}

/// What of `from` is not in `without`; both are sorted and joined.
pub(super) fn subtract(from: &[ByteRange], without: &[ByteRange]) -> Vec<ByteRange> {
    let mut out = Vec::new();
    let mut first = 0;
    for range in from {
        while without.get(first).is_some_and(|hole| hole.end <= range.start) {
            first += 1;
        }
        let mut at = range.start;
        for hole in without.iter().skip(first).take_while(|hole| hole.start < range.end) {
            if at < hole.start {
                out.push(ByteRange::new(at, hole.start));
            }
            at = at.max(hole.end);
        }
        if at < range.end {
            out.push(ByteRange::new(at, range.end));
        }
    }
    out
}

/// The part of sorted and joined `ranges` that may touch `range`.
pub(super) fn around(ranges: &[ByteRange], range: ByteRange) -> &[ByteRange] {
    let first = ranges.partition_point(|one| one.end <= range.start);
    let end = ranges.partition_point(|one| one.start < range.end);
    ranges.get(first..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ranges: &[(u64, u64)]) -> Vec<ByteRange> {
        ranges.iter().map(|(start, end)| ByteRange::new(*start, *end)).collect()
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let joined = join(list(&[(8, 9), (0, 2), (2, 4), (3, 5), (7, 7)]));
        assert_eq!(joined, list(&[(0, 5), (8, 9)]));
    }

    #[test]
    fn what_is_taken_away_is_gone_and_the_rest_stays() {
        let from = list(&[(0, 10), (20, 30), (40, 50)]);
        let left = subtract(&from, &list(&[(0, 2), (4, 6), (8, 25), (45, 60)]));
        assert_eq!(left, list(&[(2, 4), (6, 8), (25, 30), (40, 45)]));
        assert_eq!(subtract(&from, &[]), from);
        assert_eq!(subtract(&from, &from), []);
    }

    #[test]
    fn what_only_touches_a_range_is_not_around_it() {
        let ranges = list(&[(0, 10), (20, 30)]);
        assert_eq!(around(&ranges, ByteRange::new(10, 21)), list(&[(20, 30)]));
        assert_eq!(around(&ranges, ByteRange::new(10, 20)), []);
        assert_eq!(around(&ranges, ByteRange::new(9, 21)), ranges);
    }
}
