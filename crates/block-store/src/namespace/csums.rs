//! Checksums of data, one per block on disk, in items that cover consecutive blocks.
//!
//! Items stay well below a leaf (`item_limit`), so that a change moves little.

use cowback_base::{BLOCK_SIZE, ByteRange};
use cowback_btrfs_disk::{ItemKind, Key, TreeId, objectid};
use cowback_extent_io::store::StoreResult;

use super::Trees;
use crate::error::corrupt;

const fn key_of(bytenr: u64) -> Key {
    Key::new(objectid::EXTENT_CSUM, ItemKind::EXTENT_CSUM, bytenr)
}

const fn is_csum(key: &Key) -> bool {
    key.objectid == objectid::EXTENT_CSUM && key.kind.0 == ItemKind::EXTENT_CSUM.0
}

/// Most bytes of an item that is written here.
fn item_limit(trees: &dyn Trees) -> usize {
    let size = trees.checksum().size();
    (trees.max_item() / 4 / size).max(1) * size
}

/// A stretch of blocks and their checksums.
struct Run {
    key: Key,
    range: ByteRange,
    sums: Vec<u8>,
}

impl Run {
    fn parse(key: Key, sums: Vec<u8>, size: usize) -> StoreResult<Self> {
        let blocks = (sums.len() / size) as u64;
        let whole = !sums.is_empty() && sums.len().is_multiple_of(size);
        let end = blocks.checked_mul(BLOCK_SIZE).and_then(|len| key.offset.checked_add(len));
        match end {
            Some(end) if whole && key.offset.is_multiple_of(BLOCK_SIZE) => {
                Ok(Self { key, range: ByteRange::new(key.offset, end), sums })
            }
            _ => Err(corrupt("csum item", key, "it does not hold whole checksums of whole blocks")),
        }
    }

    /// The checksums of `part`, which lies in the run.
    fn sums_of(&self, part: ByteRange, size: usize) -> StoreResult<&[u8]> {
        let at = |byte: u64| usize::try_from((byte - self.range.start) / BLOCK_SIZE * size as u64);
        match (at(part.start), at(part.end)) {
            (Ok(start), Ok(end)) => self.sums.get(start..end),
            _ => None,
        }
        .ok_or_else(|| corrupt("csum item", self.key, "it is shorter than its range"))
    }
}

/// The runs that overlap `range`, in order.
fn runs(trees: &dyn Trees, range: ByteRange) -> StoreResult<Vec<Run>> {
    let size = trees.checksum().size();
    let mut out = Vec::new();
    if range.is_empty() {
        return Ok(out);
    }
    if let Some((key, sums)) = trees.at_or_before(TreeId::CSUM, &key_of(range.start))?
        && is_csum(&key)
    {
        let run = Run::parse(key, sums, size)?;
        if run.range.end > range.start {
            out.push(run);
        }
    }
    let mut at = out.last().map_or(range.start, |run| run.range.end);
    while at < range.end {
        let Some((key, sums)) = trees.at_or_after(TreeId::CSUM, &key_of(at))? else { break };
        if !is_csum(&key) || key.offset >= range.end {
            break;
        }
        let run = Run::parse(key, sums, size)?;
        at = run.range.end;
        out.push(run);
    }
    Ok(out)
}

/// Whether a checksum of some block of `range` is recorded.
///
/// # Errors
/// The store's.
pub fn has_any(trees: &dyn Trees, range: ByteRange) -> StoreResult<bool> {
    Ok(!runs(trees, range)?.is_empty())
}

/// Checksums of data that got its place, to be recorded together: an item holds those of many neighbours, and is written once.
#[derive(Debug, Default)]
pub struct Fresh(Vec<(ByteRange, Vec<u8>)>);

impl Fresh {
    /// As [`replace`] will record them.
    pub fn add(&mut self, range: ByteRange, sums: &[u8]) {
        match self.0.last_mut() {
            Some((before, all))
                if before.end == range.start && all.is_empty() == sums.is_empty() =>
            {
                before.end = range.end;
                all.extend_from_slice(sums);
            }
            _ => self.0.push((range, sums.to_vec())),
        }
    }

    /// Records them.
    ///
    /// # Errors
    /// The store's.
    pub fn record(mut self, trees: &mut dyn Trees) -> StoreResult<()> {
        self.0.sort_unstable_by_key(|(range, _)| range.start);
        let mut joined = Self::default();
        for (range, sums) in self.0 {
            joined.add(range, &sums);
        }
        joined.0.iter().try_for_each(|(range, sums)| replace(trees, *range, sums))
    }
}

/// Records `sums` as the checksums of the blocks of `range`; data without checksums has none. The range was free before: what is recorded of it
/// is of no data that is there, as some kernels left behind, and goes.
///
/// # Errors
/// The store's.
pub fn replace(trees: &mut dyn Trees, range: ByteRange, sums: &[u8]) -> StoreResult<()> {
    let size = trees.checksum().size();
    assert!(sums.is_empty() || (sums.len() / size) as u64 * BLOCK_SIZE == range.len());
    delete(trees, range)?;
    if sums.is_empty() {
        return Ok(());
    }
    let limit = item_limit(trees);
    let (mut at, mut rest) = (range.start, sums);
    if let Some((key, mut data)) = trees.at_or_before(TreeId::CSUM, &key_of(at))?
        && is_csum(&key)
        && Run::parse(key, data.clone(), size)?.range.end == at
        && data.len() < limit
    {
        let (head, tail) = rest.split_at(rest.len().min(limit - data.len()));
        data.extend_from_slice(head);
        trees.update(TreeId::CSUM, &key, &data)?;
        at += (head.len() / size) as u64 * BLOCK_SIZE;
        rest = tail;
    }
    for piece in rest.chunks(limit) {
        trees.insert(TreeId::CSUM, key_of(at), piece)?;
        at += (piece.len() / size) as u64 * BLOCK_SIZE;
    }
    Ok(())
}

/// Removes the checksums of the blocks of `range`: their last reference went.
///
/// # Errors
/// The store's.
pub fn delete(trees: &mut dyn Trees, range: ByteRange) -> StoreResult<()> {
    let size = trees.checksum().size();
    for run in runs(trees, range)? {
        let left = ByteRange::new(run.range.start, range.start.max(run.range.start));
        let right = ByteRange::new(range.end.min(run.range.end), run.range.end);
        if left.is_empty() {
            trees.remove(TreeId::CSUM, &run.key)?;
        } else {
            trees.update(TreeId::CSUM, &run.key, run.sums_of(left, size)?)?;
        }
        if !right.is_empty() {
            trees.insert(TreeId::CSUM, key_of(right.start), run.sums_of(right, size)?)?;
        }
    }
    Ok(())
}

/// The checksums of the blocks of `range`, or `None` if the data has none.
///
/// # Errors
/// The store's; corrupt if some are there and some are not.
pub fn lookup(trees: &dyn Trees, range: ByteRange) -> StoreResult<Option<Vec<u8>>> {
    let size = trees.checksum().size();
    let mut out = Vec::new();
    let mut at = range.start;
    for run in runs(trees, range)? {
        if run.range.start > at {
            break;
        }
        let part = ByteRange::new(at, run.range.end.min(range.end));
        out.extend_from_slice(run.sums_of(part, size)?);
        at = part.end;
    }
    if at == range.end {
        return Ok(Some(out));
    }
    if at == range.start && runs(trees, range)?.is_empty() {
        return Ok(None);
    }
    let why = format!("of {range}, the checksums from {at} on are missing");
    Err(corrupt("csum item", key_of(at), why))
}

#[cfg(test)]
mod tests;
