//! A first walk that only counts, for the progress bar.

use std::collections::HashSet;
use std::path::Path;

use cowback::{FileType, Metadata, Volume};

use crate::progress::{Progress, counting};
use crate::tour::{Step, Tour};

/// What was counted.
#[derive(Debug, Default)]
struct Count {
    files: u64,
    bytes: u64,
    /// Files with several names that were seen.
    linked: HashSet<u64>,
}

/// Counts the bytes that will be unpacked from `path`, of which `top` tells. What cannot be read counts nothing: the walk that unpacks will
/// name it.
pub(super) fn count(volume: &Volume, path: &Path, top: &Metadata, progress: &mut Progress) -> u64 {
    let mut count = Count::default();
    if top.kind != FileType::Dir {
        count.file(top);
        return count.bytes;
    }
    let mut tour = Tour::new(volume, path);
    if tour.enter().is_err() {
        return 0;
    }
    while let Some(step) = tour.next() {
        let Step::Entry(entry) = step else { continue };
        if entry.ino == 0 {
            continue; // another subvolume
        }
        if entry.kind == FileType::Dir {
            let _ = tour.enter(); // what is in it then counts nothing
        } else if let Ok(metadata) = volume.metadata(tour.path()) {
            count.file(&metadata);
            progress.show(count.bytes, || counting(count.files));
        }
    }
    count.bytes
}

impl Count {
    fn file(&mut self, metadata: &Metadata) {
        if metadata.nlink > 1 && !self.linked.insert(metadata.ino) {
            return;
        }
        self.files += 1;
        if metadata.kind == FileType::Regular {
            self.regular(metadata.size, metadata.allocated);
        }
    }

    /// Sizes are the image's word: their sum ends at `u64::MAX`.
    fn regular(&mut self, size: u64, allocated: u64) {
        // Holes are not written.
        self.bytes = self.bytes.saturating_add(size.min(allocated));
    }
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn sizes_are_added_up_as_far_as_numbers_go() {
        let mut count = Count::default();
        count.regular(10, 4);
        count.regular(5, 7);
        assert_eq!(count.bytes, 9);
        count.regular(u64::MAX - 1, u64::MAX);
        count.regular(u64::MAX, u64::MAX);
        assert_eq!(count.bytes, u64::MAX);
    }
}
