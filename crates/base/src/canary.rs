//! Canaries: defects planted in the code that ships, which its tests have to find; a test that finds none is worth nothing.
//!
//! [`planted!`](crate::planted) is where a defect is. It is `false` for the compiler, and so nothing is left of the defect, unless the build has
//! `--cfg canaries`; then the one that the environment variable `COWBACK_CANARY` names is there. One build serves for all of them,
//! and for none. `cargo xtask canaries` plants them in turn and reports who found each.

/// Whether the defect of this name is planted: never, but in a build with `--cfg canaries` whose `COWBACK_CANARY` names it.
#[cfg(not(canaries))]
#[macro_export]
macro_rules! planted {
    ($name:literal) => {
        false
    };
}

/// Whether the defect of this name is planted: never, but in a build with `--cfg canaries` whose `COWBACK_CANARY` names it.
#[cfg(canaries)]
#[macro_export]
macro_rules! planted {
    ($name:literal) => {
        $crate::canary::is_planted($name)
    };
}

/// Whether `COWBACK_CANARY` names this defect.
#[cfg(canaries)]
#[must_use]
pub fn is_planted(name: &str) -> bool {
    // Not a lock of the facade: an explorer of interleavings has nothing to look for here.
    static PLANTED: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("COWBACK_CANARY").ok());
    PLANTED.as_deref() == Some(name)
}
