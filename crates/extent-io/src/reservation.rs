//! Promised data space as a value (law O4, the reservation's half).
//!
//! A reservation is made before any page is locked (R1). It is spent by the delalloc bits of the pages that a write dirties, taken
//! back from them by the run that writes these pages, and ends when an extent has the space, or when the bytes are gone.

use std::sync::Arc;

use crate::store::{ExtentStore, StoreResult};

/// What is promised with a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Data space, and room for the metadata that will name it.
    Space,
    /// Room for metadata: the bytes have their space already, and will be written in place (the kernel's `EXTENT_NORESERVE`).
    InPlace,
}

/// Bytes that a store has promised. What is left when it is dropped is released.
#[derive(Debug)]
pub struct DataReservation {
    store: Arc<dyn ExtentStore>,
    promise: Promise,
    bytes: u64,
}

impl DataReservation {
    /// Has the store promise `bytes`.
    ///
    /// # Errors
    /// Those of [`ExtentStore::reserve_data`] and [`ExtentStore::reserve_in_place`].
    pub fn new(store: &Arc<dyn ExtentStore>, promise: Promise, bytes: u64) -> StoreResult<Self> {
        match promise {
            Promise::Space => store.reserve_data(bytes)?,
            Promise::InPlace => store.reserve_in_place(bytes)?,
        }
        Ok(Self::from_delalloc(store, promise, bytes))
    }

    /// The promise for bytes whose extent could not be used.
    pub(crate) fn again(store: &Arc<dyn ExtentStore>, promise: Promise, bytes: u64) -> Self {
        match promise {
            Promise::Space => store.reserve_data_again(bytes),
            Promise::InPlace => store.reserve_in_place_again(bytes),
        }
        Self::from_delalloc(store, promise, bytes)
    }

    /// Takes over what `bytes` of delalloc held.
    pub(crate) fn from_delalloc(
        store: &Arc<dyn ExtentStore>,
        promise: Promise,
        bytes: u64,
    ) -> Self {
        Self { store: Arc::clone(store), promise, bytes }
    }

    /// What is promised.
    pub(crate) fn promise(&self) -> Promise {
        self.promise
    }

    /// Turns into a promise of data space, if it is not one: what was to be written in place cannot be.
    ///
    /// # Errors
    /// Those of [`ExtentStore::reserve_data`]; it is as before then.
    pub(crate) fn want_space(&mut self) -> StoreResult<()> {
        if self.promise == Promise::InPlace {
            *self = Self::new(&self.store, Promise::Space, self.bytes)?;
        }
        Ok(())
    }

    /// Hands `bytes` over to delalloc bits that are being set.
    ///
    /// # Panics
    /// If there are fewer left.
    pub(crate) fn give_to_delalloc(&mut self, bytes: u64) {
        assert!(
            bytes <= self.bytes,
            "{bytes} bytes of delalloc from a reservation of {}",
            self.bytes
        );
        self.bytes -= bytes;
    }

    /// The bytes have an extent now, or became inline.
    pub(crate) fn spend(mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            match self.promise {
                Promise::Space => self.store.spend_data(bytes),
                Promise::InPlace => self.store.spend_in_place(bytes),
            }
        }
    }

    /// Cuts `bytes` off into a reservation of their own.
    ///
    /// # Panics
    /// If there are fewer left.
    pub(crate) fn split(&mut self, bytes: u64) -> Self {
        self.give_to_delalloc(bytes);
        Self::from_delalloc(&self.store, self.promise, bytes)
    }
}

impl Drop for DataReservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            match self.promise {
                Promise::Space => self.store.release_data(self.bytes),
                Promise::InPlace => self.store.release_in_place(self.bytes),
            }
        }
    }
}
