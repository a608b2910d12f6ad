//! [redb](https://docs.rs/redb) on a file of a cowback volume.
//!
//! A database that takes its storage through a trait needs no more than [`CowbackBackend`] to gain compression, checksums and a bounded
//! write-back cache. `examples/redb.rs` shows it at work; `tests/kill.rs` kills it at work, `tests/power_cut.rs` cuts its power, and
//! [`workload`] is the work.

mod backend;
pub mod workload;

pub use backend::CowbackBackend;
