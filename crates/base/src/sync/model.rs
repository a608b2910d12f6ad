//! The primitives of shuttle or loom, the explorers of interleavings, behind parking_lot's calling convention.
//!
//! Nothing is poisoned, as nothing is with parking_lot: what unwinds from a failed assertion takes locks on its way, and
//! the first failure is the one to be reported.
//!
//! A timed wait cannot be modelled by time, and the explorers' own never ends by itself. Here it returns once others had
//! their chance to run, notified or not, and says that the time was up: at random with shuttle, always with loom, which
//! draws nothing at random. Code that is right only because a wait lasts, or only because it ends by a notification, is
//! wrong, and fails here.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError, TryLockError, TryLockResult};
use std::time::{Duration, Instant};

#[cfg(loom)]
use loom as explorer;
#[cfg(shuttle)]
use shuttle as explorer;

#[cfg(shuttle)]
pub use explorer::sync::atomic;
pub use explorer::sync::{RwLockReadGuard, RwLockWriteGuard};
pub use explorer::thread;

/// A mutex whose `lock` returns the guard.
#[derive(Default)]
pub struct Mutex<T>(explorer::sync::Mutex<T>);

/// Access to what a [`Mutex`] protects, until dropped.
pub struct MutexGuard<'a, T> {
    mutex: &'a explorer::sync::Mutex<T>,
    /// `None` only within a wait.
    inner: Option<explorer::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// A mutex around `value`.
    pub fn new(value: T) -> Self {
        Self(explorer::sync::Mutex::new(value))
    }

    /// Waits for the lock and takes it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard::of(&self.0)
    }

    /// Takes the lock if nobody holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let inner = unpoisoned(self.0.try_lock())?;
        Some(MutexGuard { mutex: &self.0, inner: Some(inner) })
    }

    /// The value, without locking.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value itself.
    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

impl<'a, T> MutexGuard<'a, T> {
    fn of(mutex: &'a explorer::sync::Mutex<T>) -> Self {
        let inner = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        Self { mutex, inner: Some(inner) }
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("only absent within a wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("only absent within a wait")
    }
}

/// A condition variable that waits on `&mut guard`.
#[derive(Debug, Default)]
pub struct Condvar(explorer::sync::Condvar);

/// What a timed wait ended by.
#[derive(Debug, Clone, Copy)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the time was up.
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    /// A condition variable.
    pub fn new() -> Self {
        Self(explorer::sync::Condvar::new())
    }

    /// Releases the lock, waits for a notification, takes the lock again.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let inner = guard.inner.take().expect("only absent within a wait");
        guard.inner = Some(self.0.wait(inner).unwrap_or_else(PoisonError::into_inner));
    }

    /// Releases the lock, lets others run, takes the lock again. See the module's text.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) -> WaitTimeoutResult {
        drop(guard.inner.take());
        thread::yield_now();
        guard.inner = MutexGuard::of(guard.mutex).inner;
        WaitTimeoutResult(is_time_up())
    }

    /// As [`Condvar::wait_for`].
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _: Instant) -> WaitTimeoutResult {
        self.wait_for(guard, Duration::ZERO)
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes every waiter.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A readers-writer lock whose `read` and `write` return the guard.
#[derive(Default)]
pub struct RwLock<T>(explorer::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// A lock around `value`.
    pub fn new(value: T) -> Self {
        Self(explorer::sync::RwLock::new(value))
    }

    /// Waits until no writer holds the lock, and takes it for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock for reading if no writer holds it.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        unpoisoned(self.0.try_read())
    }

    /// Waits until nobody holds the lock, and takes it for writing.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock for writing if nobody holds it.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        unpoisoned(self.0.try_write())
    }

    /// The value, without locking.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value itself.
    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
    }
}

/// A value behind an [`Arc`] that is replaced as a whole. Here a lock makes the moments of loading and storing scheduling
/// points; it is held for an instant only, so that a reader waits for nobody here either.
pub struct ArcSwap<T>(Mutex<Arc<T>>);

/// What an [`ArcSwap`] held when it was asked.
#[derive(Debug)]
pub struct Loaded<T>(Arc<T>);

impl<T> ArcSwap<T> {
    /// Holds `value` at first.
    pub fn new(value: Arc<T>) -> Self {
        Self(Mutex::new(value))
    }

    /// What it holds now.
    pub fn load(&self) -> Loaded<T> {
        Loaded(Arc::clone(&self.0.lock()))
    }

    /// Replaces what it holds. Who loaded before keeps what it got.
    pub fn store(&self, value: Arc<T>) {
        let old = std::mem::replace(&mut *self.0.lock(), value);
        drop(old);
    }
}

impl<T: Default> Default for ArcSwap<T> {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl<T> fmt::Debug for ArcSwap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArcSwap")
    }
}

impl<T> Deref for Loaded<T> {
    type Target = Arc<T>;
    fn deref(&self) -> &Arc<T> {
        &self.0
    }
}

#[cfg(shuttle)]
fn is_time_up() -> bool {
    shuttle::rand::Rng::r#gen(&mut shuttle::rand::thread_rng())
}

#[cfg(loom)]
fn is_time_up() -> bool {
    true
}

fn unpoisoned<G>(tried: TryLockResult<G>) -> Option<G> {
    match tried {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
