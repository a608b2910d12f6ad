//! Models of the small protocols: the very code that ships, with every lock and atomic of it loom's.
//!
//! ```text
//! RUSTFLAGS='--cfg loom' cargo test -p cowback-async-cow --test loom --target-dir target/loom -- --nocapture
//! ```
//!
//! prints through how many interleavings each model went. Where shuttle draws schedules of whole paths (`tests/models`), loom goes through all
//! of a few calls, or through all that have at most so many preemptions, and takes atomics with the orders that are written: a load may give an
//! old value unless something forbids it. `cargo xtask models` runs both, and `cargo xtask canaries` shows for each model here that it finds an
//! order that is too weak, or a wake-up that is left out.
//!
//! | module | what it models | defects that it must find |
//! |---|---|---|
//! | [`page`] | a page's lock, writeback and content, and who waits for them; a leaf that dies while it is looked up | `wake_lost`, `dead_leaf` |
//! | [`throttle`] | who lowers a gauge sees who waits for that, without a lock | `look_unordered`, `notify_unlocked` |
//! | [`turnstile`] | one is served at a time, and what it did is seen by the next | `two_servers` |
//! | [`credits`] | who waits for memory gets it | `credit_unheard` |
//! | [`errors`] | each handle is told of an error once, and of the right one | `error_late` |
//! | [`writeback`] | between frozen and stored, a file never looks clean; a write that extends it is not cut off | `queued_gap`, `bound_late` |
//!
//! What loom cannot see: `ArcSwap`, under which a file's leaves hang, is a mutex here (its own hazard pointers are tested where they are
//! made); `std::sync::Arc`, which tells whether a frame is shared; and time.
#![cfg(loom)]
#![expect(clippy::unwrap_used, reason = "a model may panic")]

mod credits;
mod errors;
mod explore;
mod page;
mod throttle;
mod turnstile;
mod writeback;
