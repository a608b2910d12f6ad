//! The scenario matrix of the kernel's writeback path, as tests of a whole volume: one module a row. `docs/testing.md` has the table, with the
//! rows whose tests are elsewhere.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod bench;
mod chunking;
mod inline;
mod mixed;
mod moments;
mod reads;
