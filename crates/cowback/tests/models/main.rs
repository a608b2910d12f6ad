//! Models of a whole volume, on a device in memory: the code that ships, but for the workers, which are model threads instead of rayon's.
//!
//! ```text
//! RUSTFLAGS='--cfg shuttle' cargo test -p cowback --test models --target-dir target/models -- --nocapture
//! ```
//!
//! The parts of the pipeline have models of their own (`async-cow/tests/models`), which are a hundred times as fast. Here all meet: flusher,
//! writers, truncate, reclaim, reader, sync and commit (laws B1, B2, D1, D2, E4).
#![cfg(shuttle)]
#![expect(clippy::unwrap_used, reason = "a model may panic")]

mod breakable;
mod contents;
#[path = "../../../async-cow/tests/models/explore.rs"]
mod explore;
mod handles;
mod linear;
mod names;
mod volume;
