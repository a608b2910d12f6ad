//! What cowback's tests are made with: devices that record, crash and fail, oracles, corpora and models.
//!
//! | module | what it is |
//! |---|---|
//! | [`recording`] | a device that logs every write, flush and word of the test |
//! | [`overlay`] | a copy-on-write layer over an image |
//! | [`crash`] | every state in which a power cut may leave a recorded device |
//! | [`faulty`] | a device that fails, lies or drops writes on order |
//! | [`gated`] | a device whose writes wait until they are let through |
//! | [`oracle`] | what btrfs-progs and the kernel say of an image |
//! | [`outcome`] | checks that were not possible are said aloud, and are not passed |
//! | [`tree`] | what a directory tree holds, and how two differ |
//! | [`corpus`] | trees with everything awkward, from a seed |
//! | [`model`] | a volume in memory, random operations, and the comparison with a real one |
//! | [`random`] | the one source of randomness |
//!
//! For tests only: nothing of this is part of the product.

pub mod corpus;
pub mod crash;
pub mod faulty;
pub mod gated;
pub mod model;
pub mod oracle;
pub mod outcome;
pub mod overlay;
pub mod random;
pub mod recording;
pub mod tree;

pub use corpus::Corpus;
pub use crash::{CrashImage, CrashState, Plan, explore};
pub use faulty::{Effect, Fault, FaultDevice};
pub use gated::GatedDevice;
pub use oracle::Oracle;
pub use outcome::{Outcome, skipped};
pub use overlay::Overlay;
pub use random::{Rng, announce, seed};
pub use recording::{Recording, RecordingDevice};
pub use tree::{Compare, Tree};

/// Bytes that a device writes all or nothing.
pub const SECTOR: usize = 512;
