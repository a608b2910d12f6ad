//! The program, run as users run it.

#![expect(clippy::unwrap_used, reason = "a test may stop where it cannot go on")]

mod commands;
mod common;
mod counts;
mod hostile;
mod interrupted;
mod kept;
mod messages;
mod owners;
mod progress;
mod tight;
