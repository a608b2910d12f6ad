//! The trees as the namespace sees them (stages 8 and 9): items by key, in the running transaction.
//!
//! What changes a tree here becomes durable with the next commit, all of it or nothing (law D1). Items are copied out, so
//! that no borrow outlives a change. There is no lock in this interface: whoever holds `&mut dyn Trees` holds the store's
//! state lock for writing, whoever holds `&dyn Trees` at least for reading.
//!
//! An error of a changing method in the middle of an operation stops the store (it turns read-only with that reason), as
//! the running transaction is half done then. So an operation looks before it changes: what a caller may get wrong
//! (a name that exists, a directory that is not empty) is found out by `get` and `at_or_after` first. Room for what an
//! operation changes is made sure of before the operation begins, and is no concern of the namespace.

use cowback_base::ByteRange;
use cowback_btrfs_disk::{ChecksumKind, Key, TreeId};
use cowback_extent_io::store::StoreResult;

/// Trees of items, and references to data extents, in the running transaction.
pub trait Trees {
    /// The data of the item at `key`.
    ///
    /// # Errors
    /// A tree block cannot be read, or is corrupt.
    fn get(&self, tree: TreeId, key: &Key) -> StoreResult<Option<Vec<u8>>>;

    /// The first item at `key` or behind it.
    ///
    /// # Errors
    /// As [`Trees::get`].
    fn at_or_after(&self, tree: TreeId, key: &Key) -> StoreResult<Option<(Key, Vec<u8>)>>;

    /// The last item at `key` or before it.
    ///
    /// # Errors
    /// As [`Trees::get`].
    fn at_or_before(&self, tree: TreeId, key: &Key) -> StoreResult<Option<(Key, Vec<u8>)>>;

    /// Puts a new item in.
    ///
    /// # Errors
    /// As [`Trees::get`]; there is an item at `key` already; `data` is longer than [`Trees::max_item`].
    fn insert(&mut self, tree: TreeId, key: Key, data: &[u8]) -> StoreResult<()>;

    /// Replaces the data of an item; its length may change.
    ///
    /// # Errors
    /// As [`Trees::get`]; there is no item at `key`; `data` is longer than [`Trees::max_item`].
    fn update(&mut self, tree: TreeId, key: &Key, data: &[u8]) -> StoreResult<()>;

    /// Takes an item out and gives its data.
    ///
    /// # Errors
    /// As [`Trees::get`]; there is no item at `key`.
    fn remove(&mut self, tree: TreeId, key: &Key) -> StoreResult<Vec<u8>>;

    /// One more file extent item of inode `ino` in tree `root` refers to the data extent of `len` bytes at `bytenr`.
    /// `offset` is the item's position in the file minus its offset into the extent (which may wrap below zero).
    fn add_data_ref(&mut self, bytenr: u64, len: u64, root: TreeId, ino: u64, offset: u64);

    /// One less; arguments as for [`Trees::add_data_ref`]. With the last reference the extent's checksums go, and its
    /// space is free once that is durable (law R4).
    fn drop_data_ref(&mut self, bytenr: u64, len: u64, root: TreeId, ino: u64, offset: u64);

    /// Gives back the space of a data extent that was allocated, and that no item ever referred to. It is free once the running transaction
    /// is durable: if it were at once, who is given it would depend on which thread was faster (law R3).
    fn free_data_extent(&mut self, bytenr: u64, len: u64);

    /// No item will ever tell that the data at `range`, in space that is some file's, was written: it needs not become durable.
    fn forget_data(&mut self, range: ByteRange);

    /// The running transaction: what new items carry as their generation.
    fn generation(&self) -> u64;

    /// Bytes of the longest item that fits into a leaf.
    fn max_item(&self) -> usize;

    /// The volume's checksum algorithm.
    fn checksum(&self) -> ChecksumKind;

    /// Now, as (seconds, nanoseconds) since 1970: what new time stamps carry.
    fn now(&self) -> (i64, u32);
}
