//! The one place from which locks, atomics and threads come.
//!
//! In a normal build these are parking_lot's locks and the standard library's atomics. With `--cfg shuttle` or `--cfg loom`
//! they are those of an explorer of interleavings, so that a model run explores the very code that ships: shuttle whole paths, by
//! chance, and with sequentially consistent atomics; loom small protocols, completely or up to a number of preemptions, and with the
//! memory orders as they are written. The calling convention is parking_lot's in all: `lock()` returns the guard, a condition variable
//! waits on `&mut guard`. `ArcSwap` is what many read and few replace as a whole: a reader waits for nobody.

#[cfg(all(loom, shuttle))]
compile_error!("a build is for one explorer of interleavings at a time");

#[cfg(not(any(loom, shuttle)))]
mod real {

    pub use arc_swap::ArcSwap;
    pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
    pub use std::sync::atomic;
    pub use std::thread;
}

#[cfg(not(any(loom, shuttle)))]
pub use real::{
    ArcSwap, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic, thread,
};

/// Lets go of a lock in favour of who waits for it, if somebody does: for one who is about to take it again. Letting go as usual favours whoever is
/// running.
pub fn give_way<T>(guard: RwLockWriteGuard<'_, T>) {
    #[cfg(not(any(loom, shuttle)))]
    RwLockWriteGuard::unlock_fair(guard);
    #[cfg(any(loom, shuttle))]
    drop(guard);
}

#[cfg(loom)]
pub mod atomic;
#[cfg(any(loom, shuttle))]
mod model;

#[cfg(shuttle)]
pub use model::atomic;
#[cfg(any(loom, shuttle))]
pub use model::{
    ArcSwap, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, thread,
};
