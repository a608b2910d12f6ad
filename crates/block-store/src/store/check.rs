//! Checking the volume of an open store.

use cowback_extent_io::store::StoreResult;

use super::Store;
use crate::check::{Problem, Report, check};

impl Store {
    /// Checks the last commit as it is on the device, see [`check`]; what the running transaction holds is not looked at.
    /// Commits wait meanwhile.
    ///
    /// # Errors
    /// As [`check`].
    pub fn check(&self, verify_data: bool, sink: &mut dyn FnMut(Problem)) -> StoreResult<Report> {
        let _no_commit = self.commit_lock.lock();
        check(&*self.disk.device, verify_data, sink)
    }
}
