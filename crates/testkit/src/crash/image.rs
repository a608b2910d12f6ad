//! An image file that takes on one crash state after another, for tools that want a path.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cowback_block_store::BlockDevice;

use super::CrashState;
use crate::overlay::{Overlay, PAGE};
use crate::random::to_usize;

/// An image file that costs one copy of the base at first, and then only what differs from state to state.
#[derive(Debug)]
pub struct CrashImage {
    file: File,
    path: PathBuf,
    /// Pages in which the file may differ from the base.
    dirty: BTreeSet<u64>,
    loaded: bool,
}

impl CrashImage {
    /// A file at `path`, empty as yet. All states that are loaded into it come from one recording.
    ///
    /// # Errors
    /// The system's own.
    pub fn create(path: &Path) -> io::Result<Self> {
        drop(File::create(path)?);
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, path: path.to_path_buf(), dirty: BTreeSet::new(), loaded: false })
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file hold what `state` does. What others wrote into the file since the last load is not undone.
    ///
    /// # Errors
    /// The system's, or the base's own.
    pub fn load(&mut self, state: &CrashState) -> io::Result<()> {
        self.load_device(&state.device, &state.source.durable)
    }

    fn load_device(&mut self, device: &Overlay, durable: &Overlay) -> io::Result<()> {
        let len = device.len()?;
        if !self.loaded {
            device.write_to(&self.path)?;
            self.loaded = true;
        }
        let before = self.file.metadata()?.len();
        // What is cut off here is not in the file when a longer state comes.
        self.dirty.extend(len / PAGE..before.div_ceil(PAGE));
        self.file.set_len(len)?;
        let pages: BTreeSet<u64> = device.pages()?.union(&durable.pages()?).copied().collect();
        for number in pages.union(&self.dirty) {
            let at = number * PAGE;
            if at < len {
                let bytes = to_usize((len - at).min(PAGE));
                self.file.write_all_at(&device.page(*number)?[..bytes], at)?;
            }
        }
        self.dirty.extend(pages);
        Ok(())
    }
}
