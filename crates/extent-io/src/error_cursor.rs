//! Writeback errors, reported once to each open handle (law E1), as Linux's `errseq_t` does, but for one thing: a new handle starts at the current
//! count, and so hears of no error that is older than itself, even if nobody has heard of it yet.
//!
//! The file keeps its latest error and a number that counts errors; a handle keeps the number that it has seen.

use cowback_base::planted;
use cowback_base::sync::Mutex;

use crate::store::StoreError;

/// The writeback errors of one file.
#[derive(Debug, Default)]
pub struct ErrorLog {
    latest: Mutex<(u64, Option<StoreError>)>,
}

/// What one handle has seen of an [`ErrorLog`].
#[derive(Debug, Default)]
pub struct ErrorCursor {
    seen: Mutex<u64>,
}

impl ErrorLog {
    /// Records that some data could not be written.
    pub fn record(&self, error: StoreError) {
        let mut latest = self.latest.lock();
        latest.0 += 1;
        if planted!("error_late") {
            drop(latest);
            latest = self.latest.lock();
        }
        latest.1 = Some(error);
    }

    /// A cursor that will see the errors from now on.
    pub fn cursor(&self) -> ErrorCursor {
        ErrorCursor { seen: Mutex::new(self.latest.lock().0) }
    }

    /// Errors so far.
    pub fn count(&self) -> u64 {
        self.latest.lock().0
    }

    /// The latest error, whoever has seen it.
    pub fn latest(&self) -> Option<StoreError> {
        self.latest.lock().1.clone()
    }

    /// The latest error, if any came since `cursor` last looked. Each is reported once to each cursor.
    pub fn check_and_advance(&self, cursor: &ErrorCursor) -> Option<StoreError> {
        // The cursor's lock is taken first and held, so that two threads that sync one handle do not both report.
        let mut seen = cursor.seen.lock();
        let latest = self.latest.lock();
        if *seen == latest.0 {
            return None;
        }
        *seen = latest.0;
        latest.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(wanted: u64) -> StoreError {
        StoreError::NoSpace { what: "data", wanted, available: 0 }
    }

    #[test]
    fn each_handle_sees_an_error_once_and_only_later_ones() {
        let log = ErrorLog::default();
        let early = log.cursor();
        assert!(log.check_and_advance(&early).is_none());
        log.record(error(1));
        let late = log.cursor();
        assert!(log.check_and_advance(&early).is_some());
        assert!(log.check_and_advance(&early).is_none(), "reported once");
        assert!(log.check_and_advance(&late).is_none(), "it came before this handle");
        log.record(error(2));
        assert!(matches!(
            log.check_and_advance(&late),
            Some(StoreError::NoSpace { wanted: 2, .. })
        ));
        assert!(log.check_and_advance(&early).is_some(), "each handle has its own count");
    }
}
