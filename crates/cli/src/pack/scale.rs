//! When to commit on the way: what changes the trees is in memory until the next commit, so that many changes ask for one.
//!
//! It is weighed by what is copied alone, so that commits come where the source says (law R3).

use cowback::{File, Result, Volume};

/// Bytes of metadata, roughly, after which to commit.
const COMMIT_WEIGHT: u64 = 24 << 20;
/// What an entry adds to them besides its name; what an extent does, its checksums aside; and these, for each 4 KiB.
const ENTRY_WEIGHT: u64 = 600;
const EXTENT_WEIGHT: u64 = 650;
const BLOCK_WEIGHT: u64 = 6;
/// Content in one piece has an extent for each of these.
const EXTENT: u64 = 128 << 10;
/// A file of so many bytes has none: its content lies in the tree.
const INLINE_MAX: u64 = 2048;

/// What has been changed in a volume since the last commit.
#[derive(Debug)]
pub(crate) struct Scale<'a> {
    volume: &'a Volume,
    /// Bytes of metadata, roughly.
    weight: u64,
}

impl<'a> Scale<'a> {
    pub(crate) fn new(volume: &'a Volume) -> Self {
        Self { volume, weight: 0 }
    }

    /// Writes to a file of the volume, and commits if it is time. Once any content could not be written, nothing more is taken: it would be read in
    /// vain.
    pub(crate) fn write(&mut self, target: &File, at: u64, bytes: &[u8]) -> Result<()> {
        target.write_at(at, bytes)?;
        self.volume.latest_write_error().map_or(Ok(()), Err)?;
        let len = bytes.len() as u64;
        let weight = match at + len {
            ..=INLINE_MAX => len,
            _ => (len / EXTENT + 1) * EXTENT_WEIGHT + len / 4096 * BLOCK_WEIGHT,
        };
        self.add(weight)
    }

    /// An entry with a name of so many bytes was made.
    pub(crate) fn entry(&mut self, name_len: usize) -> Result<()> {
        self.add(ENTRY_WEIGHT + 3 * name_len as u64)
    }

    /// So many bytes went into the trees. Commits if it is time.
    pub(crate) fn add(&mut self, weight: u64) -> Result<()> {
        self.weight += weight;
        if self.weight >= COMMIT_WEIGHT {
            self.volume.commit()?;
            self.weight = 0;
        }
        Ok(())
    }
}
