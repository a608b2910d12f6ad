//! Models: the very code that ships, with every lock and atomic of it under a scheduler that explores interleavings.
//!
//! ```text
//! RUSTFLAGS='--cfg shuttle' cargo test -p cowback-async-cow --test models --target-dir target/models -- --nocapture
//! ```
//!
//! prints how many schedules each model went through; [`explore`] tells what sets their number and what replays a failure. The
//! models must also be able to fail. The defect that the kernel had, two async chunks that believe that they own the locked page of
//! their run, cannot be written down with this project's tokens (law O1), and is planted with a forged one
//! (`ForgedToken` in the page cache's `token.rs`). So
//!
//! ```text
//! COWBACK_CANARY=locked_page RUSTFLAGS='--cfg shuttle --cfg canaries' cargo test -p cowback-async-cow --test models --target-dir target/models
//! ```
//!
//! fails: `writeback::a_chunk_that_comes_late_touches_no_page_of_another` is that defect's own model; those of everything at once, of
//! errors and of the page lock see it as well. `cargo xtask models` does both.
//!
//! | module | what it models | laws |
//! |---|---|---|
//! | [`page_lock`] | locking, cutting, freezing and giving back pages of two leaves | O1, O2, O3 |
//! | [`turnstile`], [`credits`] | the line, and the bound on what is in it | R3 |
//! | [`writeback`] | a file under writers, readers, truncates, reclaim and flushes | O1, B1, B2, E4 |
//! | [`sync`] | what a flush promises, and that the schedule does not show on disk | R3, R5 |
//! | [`in_place`] | preallocated files and such as are overwritten in place, on a full disk too | O4, R1, E4 |
//! | [`errors`] | a store that fails under it all | E1, E2, O4 |
//! | [`groups`] | charges, and who waits for whom | E4 |
#![cfg(shuttle)]
#![expect(clippy::unwrap_used, reason = "a model may panic")]

mod credits;
mod errors;
mod explore;
mod groups;
mod in_place;
mod page_lock;
mod rig;
mod sync;
mod turnstile;
mod writeback;
