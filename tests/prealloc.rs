//! Space that is allocated before it is written, and files that are overwritten in place: against a plain model, across crashes, with
//! full devices, and with Linux on the same image.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod prealloc {
    mod crash;
    mod faults;
    mod full;
    mod inline;
    mod kernel;
    mod nocow;
    mod random;
    mod threads;
}
