//! Spans and events for `tracing`, behind the feature of that name; nothing without it.

use std::time::Duration;

use crate::error::Error;

/// A span that ends when it is dropped.
pub(crate) struct Span {
    #[cfg(feature = "tracing")]
    _entered: tracing::span::EnteredSpan,
}

/// A commit, with all that it waits for.
pub(crate) fn commit() -> Span {
    Span {
        #[cfg(feature = "tracing")]
        _entered: tracing::debug_span!(target: "cowback", "commit").entered(),
    }
}

/// Writeback of dirty files, until `target` bytes are left.
pub(crate) fn flush(target: u64) -> Span {
    #[cfg(not(feature = "tracing"))]
    let _ = target;
    Span {
        #[cfg(feature = "tracing")]
        _entered: tracing::debug_span!(target: "cowback", "flush", target).entered(),
    }
}

/// A writer that waits at the hard limit.
pub(crate) fn stall() -> Span {
    Span {
        #[cfg(feature = "tracing")]
        _entered: tracing::debug_span!(target: "cowback", "stall").entered(),
    }
}

/// A commit is over.
pub(crate) fn committed(took: Duration, failed: Option<&Error>) {
    #[cfg(feature = "tracing")]
    match failed {
        None => tracing::debug!(target: "cowback", ?took, "committed"),
        Some(error) => tracing::error!(target: "cowback", ?took, %error, "the commit failed"),
    }
    #[cfg(not(feature = "tracing"))]
    let _ = (took, failed);
}
