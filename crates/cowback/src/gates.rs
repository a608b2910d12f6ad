//! How a change passes the gates at which a commit takes its cut, and what it does where there is no space.

use crate::error::Result;
use crate::inner::Inner;

/// What a change holds while it runs, shared with others: see [`crate::inner`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gates {
    /// It changes trees, which a commit may be capturing.
    Names,
    /// It changes what is in the cache.
    Data,
    /// It does both.
    NamesAndData,
}

impl Inner {
    /// Runs a change of a volume that takes changes. If there is no space, space is made once, and it is tried again.
    pub(crate) fn change<T>(&self, gates: Gates, op: impl Fn() -> Result<T>) -> Result<T> {
        self.check_writable()?;
        match self.within(gates, &op) {
            Err(error) if error.is_volume_full() => {
                self.make_space()?;
                self.within(gates, &op)
            }
            result => result,
        }
    }

    fn within<T>(&self, gates: Gates, op: impl Fn() -> Result<T>) -> Result<T> {
        let _names = (gates != Gates::Data).then(|| self.namespace_gate.read());
        let _data = (gates != Gates::Names).then(|| self.data_gate.read());
        // Whoever waited here for the last commit of a volume that is being closed comes too late to be in it.
        self.check_open()?;
        op()
    }

    /// Writes everything back and commits, so that promised space that was not needed, and space that was freed, can be had. First, a device that
    /// could not grow before is asked whether it can now.
    fn make_space(&self) -> Result<()> {
        self.store.ask_to_grow()?;
        self.commit().map(drop)
    }
}
