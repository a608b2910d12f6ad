//! Free extents, by address and by length (stage 6).
//!
//! Invariants: extents are not empty, do not overlap, and two that touch are one unless a border of a block group lies
//! between them (the caller names the borders); both indexes and the byte count agree.

use std::collections::{BTreeMap, BTreeSet};

use cowback_base::ByteRange;

/// How many extents behind the cursor are looked at before the index by length is asked.
const LOOK_AHEAD: usize = 32;

/// Any extent that is asked for fits at least twice into one of this many bytes.
const LONG: u64 = 1 << 20;

/// A set of free extents.
#[derive(Debug, Default, Clone)]
pub(crate) struct FreeExtents {
    by_start: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
    bytes: u64,
    /// Of these, bytes in extents of [`LONG`] or more.
    long: u64,
}

impl FreeExtents {
    /// Free bytes in all.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of extents.
    pub(crate) fn count(&self) -> u64 {
        self.by_start.len() as u64
    }

    /// Free bytes in extents that are long enough for anything.
    pub(crate) const fn long_bytes(&self) -> u64 {
        self.long
    }

    /// The longest free extent's bytes.
    pub(crate) fn longest(&self) -> u64 {
        self.by_len.last().map_or(0, |(len, _)| *len)
    }

    /// The extents in order.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.by_start.iter().map(|(start, len)| (*start, *len))
    }

    fn put(&mut self, start: u64, len: u64) {
        self.by_start.insert(start, len);
        self.by_len.insert((len, start));
        self.bytes += len;
        self.long += if len >= LONG { len } else { 0 };
    }

    fn take(&mut self, start: u64, len: u64) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
        self.bytes -= len;
        self.long -= if len >= LONG { len } else { 0 };
    }

    /// The extent that holds `at`, or the first one behind it.
    pub(crate) fn at_or_after(&self, at: u64) -> Option<ByteRange> {
        let holder = self.by_start.range(..=at).next_back().filter(|(s, len)| *s + *len > at);
        holder.or_else(|| self.by_start.range(at..).next()).map(|(s, len)| ByteRange::at(*s, *len))
    }

    /// Makes `range` free, within the block group `group`. Says so if part of it was free already; nothing changes then.
    pub(crate) fn insert(&mut self, range: ByteRange, group: ByteRange) -> Result<(), ByteRange> {
        if range.is_empty() {
            return Ok(());
        }
        if let Some((start, len)) = self.by_start.range(..range.end).next_back()
            && start + len > range.start
        {
            return Err(ByteRange::at(*start, *len));
        }
        let (mut start, mut end) = (range.start, range.end);
        let before = self.by_start.range(..range.start).next_back().map(|(s, len)| (*s, *len));
        if let Some((s, len)) = before
            && s + len == range.start
            && s >= group.start
        {
            self.take(s, len);
            start = s;
        }
        if let Some(len) = self.by_start.get(&range.end).copied()
            && range.end < group.end
        {
            self.take(range.end, len);
            end += len;
        }
        self.put(start, end - start);
        Ok(())
    }

    /// Makes `range`, all of which must be free and in one extent, not free. False if it was not.
    pub(crate) fn remove(&mut self, range: ByteRange) -> bool {
        if range.is_empty() {
            return true;
        }
        let holder = self.by_start.range(..=range.start).next_back().map(|(s, len)| (*s, *len));
        let Some((start, len)) = holder.filter(|(s, len)| s + len >= range.end) else {
            return false;
        };
        self.take(start, len);
        if start < range.start {
            self.put(start, range.start - start);
        }
        if range.end < start + len {
            self.put(range.end, start + len - range.end);
        }
        true
    }

    /// Takes everything within `range` out, and gives it.
    pub(crate) fn cut(&mut self, range: ByteRange) -> Vec<ByteRange> {
        let mut taken = Vec::new();
        let mut at = range.start;
        while let Some(hit) = self.at_or_after(at).and_then(|free| free.intersect(range)) {
            self.remove(hit);
            taken.push(hit);
            at = hit.end;
        }
        taken
    }

    /// A free range of at least `least` and at most `want` bytes, next to `cursor` if there is one nearby, else from the
    /// extent that fits best.
    pub(crate) fn find(&self, cursor: u64, want: u64, least: u64) -> Option<ByteRange> {
        let holder = self.by_start.range(..cursor).next_back();
        let rest = holder
            .and_then(|(s, len)| (s + len).checked_sub(cursor))
            .filter(|rest| *rest >= least)
            .map(|rest| (cursor, rest));
        let behind = || {
            let near = self.by_start.range(cursor..).take(LOOK_AHEAD);
            near.map(|(s, len)| (*s, *len)).find(|(_, len)| *len >= least)
        };
        let best = || self.by_len.range((least, 0)..).next().map(|(len, s)| (*s, *len));
        let (start, len) = rest.or_else(behind).or_else(best)?;
        Some(ByteRange::at(start, len.min(want)))
    }
}

#[cfg(test)]
mod tests;
