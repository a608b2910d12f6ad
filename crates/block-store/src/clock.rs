//! Where time stamps come from: the system, or one fixed point for images that must come out the same every time.

use std::time::{SystemTime, UNIX_EPOCH};

/// A source of time stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clock {
    /// The system's time.
    #[default]
    System,
    /// Always this point: seconds and nanoseconds since 1970.
    Fixed {
        /// Seconds since 1970.
        sec: i64,
        /// Nanoseconds.
        nsec: u32,
    },
}

impl Clock {
    /// Now, as (seconds, nanoseconds) since 1970.
    #[must_use]
    pub fn now(&self) -> (i64, u32) {
        match *self {
            Self::Fixed { sec, nsec } => (sec, nsec),
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
            }
        }
    }
}
