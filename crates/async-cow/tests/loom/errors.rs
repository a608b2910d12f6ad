//! The error cursor (law E1): each handle is told of an error once, whoever asks for it, and of none that it has no part in.

use std::sync::Arc;

use cowback_base::sync::atomic::{AtomicU64, Ordering};
use cowback_extent_io::{ErrorLog, StoreError};

use crate::explore::{Bound, explore, spawn};

#[test]
fn two_who_ask_for_one_handle_are_told_once_between_them() {
    explore("two who ask for one handle", Bound::None, || {
        let log = Arc::new(ErrorLog::default());
        let cursor = Arc::new(log.cursor());
        let told = Arc::new(AtomicU64::new(0));
        let ask = {
            let (log, cursor, told) = (Arc::clone(&log), Arc::clone(&cursor), Arc::clone(&told));
            move || {
                let error = log.check_and_advance(&cursor);
                told.fetch_add(u64::from(error.is_some()), Ordering::Relaxed);
            }
        };
        let asking = spawn(ask.clone());
        let failing = {
            let log = Arc::clone(&log);
            spawn(move || log.record(StoreError::Internal { what: "a write failed" }))
        };
        ask();
        asking.join().unwrap();
        failing.join().unwrap();
        ask();
        assert_eq!(told.load(Ordering::Relaxed), 1);
    });
}
