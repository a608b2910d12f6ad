//! The exerciser, in the manner of fsx: random operations on a volume, each compared with a plain model.
//!
//! | module | what it is |
//! |---|---|
//! | [`op`] | the operations, and how they are drawn |
//! | [`content`] | the model of a file |
//! | [`alone`] | one thread, every byte and every commit compared; what fails is made short |
//! | [`same`] | the same operations with several numbers of worker threads, and the images compared |
//! | [`place`] | what lies at an address, for what it reports |
//! | [`together`] | eight threads on shared files |
//! | [`full`] | several threads on a volume that is too small for them |
//! | [`cut`] | whether what they find after a crash is one commit |
//! | [`watch`] | ends what hangs, and says what it was |
//! | [`campaign`] | many of both, as many operations as one likes |

pub mod alone;
pub mod campaign;
pub mod content;
pub mod cut;
pub mod full;
pub mod op;
pub mod place;
pub mod same;
pub mod together;
pub mod watch;
