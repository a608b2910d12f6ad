//! Extent maps of a file: a small cache of where its bytes are on disk.
//!
//! A map is found in the trees and remembered for the reads that follow. It is forgotten when the mapping of any of its bytes
//! changes; a map that was looked up before such a change and would be inserted after it is refused (by the generation).

use std::collections::BTreeMap;

use cowback_base::ByteRange;
use cowback_base::sync::Mutex;

use crate::store::{ExtentMap, StoreResult};

/// Maps kept for one file. Beyond it all are forgotten: reads that jump about gain nothing from them.
const MAPS_MAX: usize = 256;

/// The remembered extent maps of one file.
#[derive(Debug, Default)]
pub struct ExtentMaps {
    cached: Mutex<Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    maps: BTreeMap<u64, ExtentMap>,
    generation: u64,
}

impl ExtentMaps {
    /// The map that holds byte `offset`: the remembered one, or what `lookup` finds.
    ///
    /// # Errors
    /// Those of `lookup`.
    pub fn get_or_lookup(
        &self,
        offset: u64,
        lookup: impl FnOnce() -> StoreResult<ExtentMap>,
    ) -> StoreResult<ExtentMap> {
        let generation = {
            let cached = self.cached.lock();
            if let Some((_, map)) = cached.maps.range(..=offset).next_back()
                && map.range.contains(offset)
            {
                return Ok(map.clone());
            }
            cached.generation
        };
        let map = lookup()?;
        let mut cached = self.cached.lock();
        if cached.generation == generation {
            if cached.maps.len() >= MAPS_MAX {
                cached.maps.clear();
            }
            cached.maps.insert(map.range.start, map.clone());
        }
        Ok(map)
    }

    /// Forgets what maps a byte of `range`.
    pub fn drop_range(&self, range: ByteRange) {
        let mut cached = self.cached.lock();
        cached.generation += 1;
        cached.maps.retain(|_, map| map.range.intersect(range).is_none());
    }

    /// Forgets what maps a byte at or after `offset`.
    pub fn drop_from(&self, offset: u64) {
        self.drop_range(ByteRange::new(offset, u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ExtentKind;

    fn hole(start: u64, end: u64) -> ExtentMap {
        ExtentMap { range: ByteRange::new(start, end), kind: ExtentKind::Hole }
    }

    #[test]
    fn a_map_is_looked_up_once_until_its_range_changes() {
        let maps = ExtentMaps::default();
        let get = |offset, found| maps.get_or_lookup(offset, || Ok(found)).unwrap();
        assert_eq!(get(100, hole(0, 4096)), hole(0, 4096));
        assert_eq!(get(4095, hole(9, 9)), hole(0, 4096), "remembered");
        maps.drop_range(ByteRange::new(4096, 8192));
        assert_eq!(get(0, hole(9, 9)), hole(0, 4096), "an adjacent change leaves it");
        maps.drop_range(ByteRange::new(4095, 8192));
        assert_eq!(get(0, hole(0, 8192)), hole(0, 8192));
    }

    #[test]
    fn a_map_that_was_looked_up_before_a_change_is_not_remembered_after_it() {
        let maps = ExtentMaps::default();
        let stale = maps.get_or_lookup(0, || {
            maps.drop_range(ByteRange::new(0, 1));
            Ok(hole(0, 4096))
        });
        assert_eq!(stale.unwrap(), hole(0, 4096));
        assert_eq!(maps.get_or_lookup(0, || Ok(hole(0, 8192))).unwrap(), hole(0, 8192));
    }
}
