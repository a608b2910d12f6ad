//! What [`Volume::check`] finds, and checks of what is no file.

use cowback_block_store::BlockDevice;

use crate::error::Result;
use crate::volume::Volume;

pub use cowback_block_store::check::{ItemKind, Key, Place, Problem, Report, Subject, TreeId};

impl Volume {
    /// As [`Volume::check`], of what is on `device`. A device that counts what is read from it tells how far the check is: it reads everything that
    /// is in use, and what is compressed twice.
    ///
    /// # Errors
    /// As [`Volume::check`].
    pub fn check_on(device: &dyn BlockDevice, found: &mut dyn FnMut(Problem)) -> Result<Report> {
        Ok(cowback_block_store::check::check(device, true, found)?)
    }
}
