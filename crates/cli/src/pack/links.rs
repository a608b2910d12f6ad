//! Which files of the source have an inode in the volume already: hard links.
//!
//! Only files with several names are remembered, in a few bytes each, and forgotten when all their names were seen.

use std::collections::HashMap;

use crate::target::FileId;

/// Files with several names, by their place in the source.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Devices of the source, so that an entry needs not hold one whole.
    devices: Vec<u64>,
    files: HashMap<(u64, u32), Seen>,
}

#[derive(Debug)]
struct Seen {
    ino: u64,
    /// Names that were not seen yet.
    left: u32,
}

impl Links {
    fn key(&mut self, (dev, ino): FileId) -> (u64, u32) {
        let index = self.devices.iter().position(|known| *known == dev).unwrap_or_else(|| {
            self.devices.push(dev);
            self.devices.len() - 1
        });
        (ino, u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The inode in the volume of a file that was seen by another name.
    pub(super) fn find(&mut self, file: FileId) -> Option<u64> {
        let key = self.key(file);
        self.files.get(&key).map(|seen| seen.ino)
    }

    /// One more name of a file that [`Links::find`] found is in the volume.
    pub(super) fn named(&mut self, file: FileId) {
        let key = self.key(file);
        if let Some(seen) = self.files.get_mut(&key) {
            seen.left = seen.left.saturating_sub(1);
            if seen.left == 0 {
                self.files.remove(&key);
            }
        }
    }

    /// Remembers a file with `names` names, one of which is in the volume, as `ino`. If others are there of another inode, which takes no more, those that
    /// follow are of this one.
    pub(super) fn remember(&mut self, file: FileId, names: u32, ino: u64) {
        if names > 1 {
            let key = self.key(file);
            self.files.entry(key).or_insert(Seen { ino, left: names }).ino = ino;
            self.named(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_remembered_until_its_last_name() {
        let mut links = Links::default();
        links.remember((1, 10), 3, 257);
        links.remember((2, 10), 2, 258);
        links.remember((3, 10), 1, 259);
        assert_eq!(links.find((1, 10)), Some(257));
        assert_eq!(links.find((2, 10)), Some(258));
        assert_eq!(links.find((3, 10)), None);
        links.named((1, 10));
        assert_eq!(links.find((1, 10)), Some(257));
        links.named((1, 10));
        assert_eq!(links.find((1, 10)), None);
        assert_eq!(links.find((2, 10)), Some(258));
    }

    #[test]
    fn a_file_that_goes_on_as_another_inode_is_remembered_until_its_last_name() {
        let mut links = Links::default();
        links.remember((1, 10), 4, 257);
        links.named((1, 10));
        links.remember((1, 10), 4, 258);
        assert_eq!(links.find((1, 10)), Some(258));
        links.named((1, 10));
        assert_eq!(links.find((1, 10)), None);
    }
}
