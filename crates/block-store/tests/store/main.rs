//! The store, from outside.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[macro_use]
mod support;

mod balanced;
mod faults;
mod features;
mod foreign;
mod full;
mod hostile;
mod images;
mod in_place;
mod kernel;
mod repair;
mod resume;
mod shrunk;
mod supers;
mod threads;
