//! What happens when the program is told to stop: a half-made image is removed first.
//!
//! Lock order: the one lock here is held while the image is renamed or removed, so that a signal finds it half-made or complete, never between.

use std::io;
use std::sync::Arc;

use cowback_base::sync::{Mutex, thread};
use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGXCPU, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// What ends the program unless it is asked to ignore it, and leaves it time to clean up.
const FATAL: [i32; 6] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU, SIGXFSZ];

/// Something to do if the program is stopped, or fails.
pub(crate) type Cleanup = Box<dyn FnOnce() + Send>;

/// What is to be cleaned up, as long as it is.
#[derive(Clone, Default)]
pub(crate) struct Pending {
    cleanup: Arc<Mutex<Option<Cleanup>>>,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

impl Pending {
    /// Has `cleanup` done when the program is stopped by a signal, or on [`Pending::give_up`].
    pub(crate) fn new(cleanup: Cleanup) -> io::Result<Self> {
        let pending = Self { cleanup: Arc::new(Mutex::new(Some(cleanup))) };
        let mut signals = Signals::new(FATAL.into_iter().filter(|signal| !is_ignored(*signal)))?;
        let seen = pending.clone();
        thread::Builder::new().name("cowback-signals".to_owned()).spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // Held to the end: nobody completes what was just removed.
                let mut cleanup = seen.cleanup.lock();
                if let Some(cleanup) = cleanup.take() {
                    cleanup();
                }
                die_of(signal);
            }
        })?;
        Ok(pending)
    }

    /// Has another `cleanup` done, unless the program is being stopped already.
    pub(crate) fn replace(&self, cleanup: Cleanup) {
        let mut pending = self.cleanup.lock();
        if pending.is_some() {
            *pending = Some(cleanup);
        }
    }

    /// Does what completes the work; if that succeeds there is nothing to clean up any more.
    pub(crate) fn complete<E>(&self, complete: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut cleanup = self.cleanup.lock();
        complete()?;
        *cleanup = None;
        Ok(())
    }

    /// Cleans up, unless that was done or is needless.
    pub(crate) fn give_up(&self) {
        let cleanup = self.cleanup.lock().take();
        if let Some(cleanup) = cleanup {
            cleanup();
        }
    }
}

/// Whether whoever started the program has it ignore `signal`, as `nohup` does.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Ends the program as `signal` would have.
fn die_of(signal: i32) {
    if emulate_default_handler(signal).is_err() {
        std::process::exit(1);
    }
}

/// Ends the program as one that writes to a closed pipe ends: without a word.
pub(crate) fn die_of_broken_pipe() {
    die_of(SIGPIPE);
}
